//! `sockets`: what the kernel says of its own TCP sockets, to be held against what an observer on the path saw.

use crate::pod;

/// Entries of `SOCKETS`, unless set at load.
pub const MAX_SOCKETS: usize = 16_384;
/// Entries of `NETNS`: network namespaces watched at once.
pub const MAX_NETNS: usize = 256;

/// Byte offsets of the kernel's fields, of the running kernel's BTF; all but that of `struct net` are below 4096.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// `sock.__sk_common.skc_net.net`.
    pub net: u32,
    /// `net.ns.inum`.
    pub net_inum: u32,
    /// `sock.__sk_common.skc_family`.
    pub family: u32,
    /// `sock.__sk_common.skc_state`.
    pub state: u32,
    /// `inet_sock.inet_sport`: the local port in network byte order; unlike `skc_num` it outlives the connection.
    pub sport: u32,
    /// `sock.__sk_common.skc_dport`: the remote port in network byte order.
    pub dport: u32,
    /// `sock.__sk_common.skc_rcv_saddr`.
    pub saddr: u32,
    /// `sock.__sk_common.skc_daddr`.
    pub daddr: u32,
    /// `sock.__sk_common.skc_v6_rcv_saddr`, 0 on a kernel without IPv6.
    pub saddr6: u32,
    /// `sock.__sk_common.skc_v6_daddr`, 0 on a kernel without IPv6.
    pub daddr6: u32,
    /// `sock.sk_protocol`.
    pub protocol: u32,
    /// `sk_buff.sk`.
    pub skb_sk: u32,
    /// `tcp_sock.srtt_us`.
    pub srtt_us: u32,
    /// `tcp_sock.snd_cwnd`.
    pub snd_cwnd: u32,
    /// `tcp_sock.rcv_wnd`.
    pub rcv_wnd: u32,
    /// `tcp_sock.total_retrans`.
    pub total_retrans: u32,
    /// The byte that holds `tcp_sock.rx_opt.rcv_wscale`, 4 bits.
    pub rcv_wscale: u32,
    /// By how many bits those are shifted.
    pub rcv_wscale_shift: u32,
}

/// Key of `SOCKETS`: a connection at one of its ends.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketKey {
    /// Local address: IPv4 in the first 4 bytes, or IPv6.
    pub local: [u8; 16],
    /// Remote address.
    pub remote: [u8; 16],
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Local port.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// Always 0.
    pub reserved: u16,
}

/// Value of `SOCKETS`: what was read when the socket last did something that a tracepoint tells of.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Socket {
    /// Kernel time of the first event, ns since boot.
    pub first_ns: u64,
    /// Of the last.
    pub last_ns: u64,
    /// Smoothed round-trip time, eighths of a microsecond (`srtt_us`: "smoothed round trip time << 3 in usecs",
    /// include/linux/tcp.h; RFC 6298 section 2); 0 while there is none.
    pub srtt_us8: u32,
    /// Congestion window, segments.
    pub cwnd: u32,
    /// The largest seen.
    pub cwnd_max: u32,
    /// Receive window as of the last segment that the socket sent after the handshake, bytes.
    pub rcv_wnd: u32,
    /// Segments that were sent again since the connection began (`total_retrans`, as in `TCP_INFO`).
    pub total_retrans: u32,
    /// Calls of the tracepoint `tcp_retransmit_skb`.
    pub retransmit_events: u32,
    /// RSTs that the socket took in and that ended it.
    pub resets_received: u32,
    /// RSTs that it sent in answer to a segment.
    pub resets_sent: u32,
    /// `BPF_TCP_*` of `include/uapi/linux/bpf.h`.
    pub state: u8,
    /// Shift of the windows that it announces (RFC 7323 section 2).
    pub rcv_wscale: u8,
    /// 1 if `rcv_wnd` is known.
    pub has_window: u8,
    /// Always 0.
    pub reserved: u8,
    /// Always 0.
    pub reserved2: u32,
}

/// Entries of `LOST`: events of sockets for which `SOCKETS` had no room.
pub const LOST_KINDS: usize = 1;

const _: () = assert!(size_of::<Layout>() == 18 * 4);
const _: () = assert!(size_of::<SocketKey>() == 44);
const _: () = assert!(size_of::<Socket>() == 56);
pod!(Layout, SocketKey, Socket);
