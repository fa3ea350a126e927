//! `latency`: how long a packet takes from one stage of the kernel's receive path to the next, up to the application's
//! read; and how full the sockets' receive queues get.
//!
//! A packet is followed by the address of its buffer from the driver's hand-over to the socket. From there a TCP
//! segment is followed by its sequence number, since the socket may merge its buffer with another's; a datagram by
//! its buffer or by its place in the queue.

use crate::packet::FlowKey;
use crate::pod;

/// The driver hands the packet to the stack (after XDP, before GRO).
pub const STAGE_DRIVER: u8 = 0;
/// The stack looks for the packet's protocol (`__netif_receive_skb_core`).
pub const STAGE_RECEIVE: u8 = 1;
/// The IP layer has it.
pub const STAGE_IP: u8 = 2;
/// TCP or UDP has it.
pub const STAGE_TRANSPORT: u8 = 3;
/// It is on the socket's receive queue, and in order.
pub const STAGE_QUEUED: u8 = 4;
/// The application has read it, to its last byte.
pub const STAGE_READ: u8 = 5;
/// Not a stage: the time from a packet's first stage to its read.
pub const STAGE_TOTAL: u8 = 6;
/// Stages, `STAGE_TOTAL` not counted.
pub const STAGES: usize = 6;

/// Neither a UDP datagram nor a TCP segment with ports: ICMP, ARP, later fragments, ...
pub const KIND_OTHER: u8 = 0;
/// A UDP datagram.
pub const KIND_UDP: u8 = 1;
/// A TCP segment with payload.
pub const KIND_TCP: u8 = 2;
/// A TCP segment without payload; no application reads it.
pub const KIND_TCP_CONTROL: u8 = 3;

/// Entries of `PACKETS`: packets between the driver and a socket. The oldest give way.
pub const MAX_PACKETS: usize = 16_384;
/// Entries of `QUEUED`: packets on sockets' queues.
pub const MAX_QUEUED: usize = 32_768;
/// Entries of `SOCKETS`: sockets with packets under way. The oldest give way.
pub const MAX_SOCKETS: usize = 8192;
/// Entries of `QUEUES`: local endpoints.
pub const MAX_QUEUES: usize = 4096;
/// Entries of `TOTALS`: hosts times kinds times pairs of stages.
pub const MAX_TOTALS: usize = 1024;
/// Entries of `FLOWS` unless set at load: flows times pairs of stages.
pub const MAX_FLOWS: usize = 8192;
/// Network namespaces watched at once.
pub const MAX_NETNS: usize = 256;
/// Size of the ring, bytes: 65536 events.
pub const EVENT_BYTES: usize = 1 << 23;
/// Buckets of a histogram: bucket 0 counts times under 1 ns, bucket `n` those from `2^(n-1)` to under `2^n` ns, the last
/// one also all above (275 s and more).
pub const BUCKETS: usize = 40;

/// Byte offsets of the kernel's fields, of the running kernel's BTF; all below 4096.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// `sk_buff.head`, start of the buffer.
    pub skb_head: u32,
    /// `sk_buff.data`, start of what the present layer sees.
    pub skb_data: u32,
    /// `sk_buff.tail`, end of the linear part, counted from `head`.
    pub skb_tail: u32,
    /// `sk_buff.len`.
    pub skb_len: u32,
    /// `sk_buff.dev`.
    pub skb_dev: u32,
    /// `sk_buff.protocol`.
    pub skb_protocol: u32,
    /// `sk_buff.vlan_tci`.
    pub skb_vlan_tci: u32,
    /// 32-bit word that holds `sk_buff.vlan_present` (before 6.3) or `sk_buff.vlan_all`.
    pub skb_vlan_present: u32,
    /// Bits of that word of which one is set if there is a VLAN tag beside the packet.
    pub vlan_present_mask: u32,
    /// `net_device.nd_net.net`.
    pub dev_net: u32,
    /// `net.ns.inum`.
    pub net_inum: u32,
    /// `sock.__sk_common.skc_net.net`.
    pub sock_net: u32,
    /// `sock.__sk_common.skc_family`.
    pub sock_family: u32,
    /// `sock.__sk_common.skc_num`, host byte order.
    pub sock_num: u32,
    /// `sock.__sk_common.skc_dport`, network byte order.
    pub sock_dport: u32,
    /// `sock.__sk_common.skc_rcv_saddr`.
    pub sock_saddr: u32,
    /// `sock.__sk_common.skc_v6_rcv_saddr`.
    pub sock_saddr6: u32,
    /// `sock.sk_protocol`.
    pub sock_protocol: u32,
    /// `sock.sk_backlog.rmem_alloc` (`sk_rmem_alloc`).
    pub sock_rmem: u32,
    /// `sock.sk_rcvbuf`.
    pub sock_rcvbuf: u32,
    /// `sock.sk_receive_queue.prev`, the newest buffer of the queue.
    pub sock_newest: u32,
    /// `tcp_sock.rcv_nxt`: what is before has arrived in order.
    pub tcp_rcv_nxt: u32,
    /// `tcp_sock.copied_seq`: what is before has been read.
    pub tcp_copied_seq: u32,
    /// `sk_buff.mac_header`, counted from `head`.
    pub skb_mac_header: u32,
}

/// Key of `TOTALS` (whose flow and direction are 0) and `FLOWS`: one step of packets' way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepKey {
    /// The flow.
    pub flow: FlowKey,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// `KIND_*`.
    pub kind: u8,
    /// `STAGE_*` that the time counts from; equal to `stage` for a packet's first stage, whose time is 0.
    pub from: u8,
    /// `STAGE_*` that was reached.
    pub stage: u8,
    /// `A_TO_B` or `B_TO_A`.
    pub direction: u8,
}

/// Value of `TOTALS` (per CPU) and `FLOWS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Packets.
    pub count: u64,
    /// Sum of their times, ns.
    pub sum_ns: u64,
    /// Longest time, ns.
    pub max_ns: u64,
    /// Packets by the binary logarithm of their time, see [`BUCKETS`].
    pub buckets: [u64; BUCKETS],
}

/// An event in the ring: one packet has made one step that has a duration.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The step.
    pub step: StepKey,
    /// How long it took, ns.
    pub ns: u64,
}

/// A packet under way: value of `PACKETS` (keyed by the address of its `sk_buff`) and of `QUEUED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Journey {
    /// Its flow.
    pub flow: FlowKey,
    /// Kernel time of its first stage, ns since boot.
    pub first_ns: u64,
    /// Kernel time of its latest stage.
    pub last_ns: u64,
    /// Address of the socket whose queue it is on, else 0.
    pub socket: u64,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// TCP sequence number behind its payload.
    pub end_seq: u32,
    /// Bytes of TCP or UDP payload.
    pub payload: u32,
    /// `KIND_*`.
    pub kind: u8,
    /// Its latest stage.
    pub stage: u8,
    /// Bit `n` is set if it has reached stage `n`.
    pub reached: u8,
    /// `A_TO_B` or `B_TO_A`.
    pub direction: u8,
}

/// Key of `QUEUED`: an `sk_buff` and [`BY_BUFFER`], or a socket and the packet's number on it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueuedKey {
    /// Address of the `sk_buff` or `sock`.
    pub owner: u64,
    /// Number of the packet.
    pub number: u64,
}

/// Number of a packet that is known by its buffer's address alone.
pub const BY_BUFFER: u64 = u64::MAX;

/// Key of `QUEUES`: what receive queues are reported by. The connections that a TCP server has accepted share one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueKey {
    /// Local address, stored as in [`crate::packet::Packet::src`]; 0 if the socket is bound to none.
    pub address: [u8; 16],
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Local port.
    pub port: u16,
    /// `FAMILY_*`.
    pub family: u8,
    /// IP protocol.
    pub proto: u8,
}

/// Value of `QUEUES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Packets that were put on the queue.
    pub queued: u64,
    /// Packets that were read from it.
    pub read: u64,
    /// Packets that a full queue refused.
    pub refused: u64,
    /// Most payload that waited on one socket, bytes.
    pub max_payload: u64,
    /// Most memory that one socket's queue took (`sk_rmem_alloc`), bytes.
    pub max_memory: u64,
    /// `sk_rcvbuf` at that moment, bytes.
    pub limit: u64,
}

/// Value of `SOCKETS`, keyed by the address of the `sock`: packets number `head..tail` are on it, `mid..tail` of them not
/// in order yet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Socket {
    /// What it is reported by.
    pub queue: QueueKey,
    /// Its address once more: the key is a typed pointer to the verifier, this is a number.
    pub address: u64,
    /// Bytes of unread UDP payload.
    pub payload: u64,
    /// Number of the oldest unread packet.
    pub head: u64,
    /// Number of the oldest packet that is not queued in order.
    pub mid: u64,
    /// Number of the next packet.
    pub tail: u64,
    /// Remote port of a connected socket.
    pub remote_port: u64,
}

/// Index of `CONTROL`: datagrams are queued when the socket says that it has data, rather than by a probe of their own.
pub const CONTROL_QUEUED_BY_READY: u32 = 0;
/// Index of `CONTROL`: a read tells the socket and not the buffer, so datagrams are known by their place in the queue.
pub const CONTROL_READ_BY_SOCKET: u32 = 1;
/// Entries of `CONTROL`.
pub const CONTROLS: usize = 2;

/// Places in the kernel that programs are attached to; index of `HITS`, which counts the packets seen at each.
pub mod point {
    /// A driver's hand-over.
    pub const DRIVER: u32 = 0;
    /// `netif_receive_skb`.
    pub const RECEIVE: u32 = 1;
    /// IPv4.
    pub const IP4: u32 = 2;
    /// IPv6.
    pub const IP6: u32 = 3;
    /// TCP over IPv4.
    pub const TCP4: u32 = 4;
    /// TCP over IPv6.
    pub const TCP6: u32 = 5;
    /// UDP over IPv4.
    pub const UDP4: u32 = 6;
    /// UDP over IPv6.
    pub const UDP6: u32 = 7;
    /// A segment meets the socket of an established connection.
    pub const SEGMENT: u32 = 8;
    /// A segment meets a socket in another state.
    pub const SEGMENT_STATE: u32 = 9;
    /// A socket tells its owner that there is data.
    pub const READY: u32 = 10;
    /// A datagram is put on the queue.
    pub const UDP_QUEUED: u32 = 11;
    /// A datagram is read.
    pub const UDP_READ: u32 = 12;
    /// TCP payload is read.
    pub const TCP_READ: u32 = 13;
    /// How many there are.
    pub const COUNT: usize = 14;
}

/// Index of `LOST`: steps for which `FLOWS` or `TOTALS` had no room.
pub const LOST_STEPS: u32 = 0;
/// Index of `LOST`: times that are in the histograms and not among the exact ones, for lack of room in the ring.
pub const LOST_EVENTS: u32 = 1;
/// Index of `LOST`: packets whose way could not be followed further for lack of room in `QUEUED`.
pub const LOST_QUEUED: u32 = 2;
/// Index of `LOST`: packets of sockets for which `SOCKETS` or `QUEUES` had no room.
pub const LOST_SOCKETS: u32 = 3;
/// Index of `LOST`: datagrams that came to a queue and could not be found there: a reader was quicker, or they are copies
/// for one of several receivers.
pub const LOST_UNFOLLOWED: u32 = 4;
/// Index of `LOST`: segments to which others were appended on their way to the socket; those are not seen queued or read.
pub const LOST_MERGED: u32 = 5;
/// Entries of `LOST`.
pub const LOST_KINDS: usize = 6;

const _: () = assert!(size_of::<Layout>() == 24 * 4);
const _: () = assert!(size_of::<StepKey>() == 56);
const _: () = assert!(size_of::<Histogram>() == 24 + 8 * BUCKETS);
const _: () = assert!(size_of::<Event>() == 64);
const _: () = assert!(size_of::<Journey>() == 88);
const _: () = assert!(size_of::<QueueKey>() == 24);
const _: () = assert!(size_of::<Socket>() == 72);
pod!(Layout, StepKey, Histogram, Event, Journey, QueuedKey, QueueKey, Queue, Socket);
