//! `drops`: packets that the kernel gave up on, by reason, place and flow, and the ICMP errors sent for them.

use crate::pod;

/// Entries of `DROPS`, unless set at load; a drop that would need another one is counted in `LOST`.
pub const MAX_DROPS: usize = 16_384;
/// Entries of `ANSWERS`.
pub const MAX_ANSWERS: usize = 16_384;
/// Entries of `NETNS`: network namespaces watched at once.
pub const MAX_NETNS: usize = 256;

/// Byte offsets of the kernel's fields, of the running kernel's BTF.
///
/// Those of `struct sk_buff` and `struct sock` are below 4096: see the object for why.
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
    /// `sk_buff.sk`.
    pub skb_sk: u32,
    /// `sk_buff._skb_refdst`.
    pub skb_dst: u32,
    /// `sk_buff.mac_header`, counted from `head`.
    pub skb_mac_header: u32,
    /// `sk_buff.network_header`, counted from `head`.
    pub skb_network_header: u32,
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
    /// `net_device.ifindex`.
    pub dev_ifindex: u32,
    /// `sock.__sk_common.skc_net.net`.
    pub sock_net: u32,
    /// `dst_entry.dev`.
    pub dst_dev: u32,
    /// `net.ns.inum`.
    pub net_inum: u32,
}

/// Key of `DROPS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DropKey {
    /// Kernel address of the code that gave the packet up.
    pub location: u64,
    /// Number of the running kernel's `enum skb_drop_reason`, 0 on a kernel that gives none.
    pub reason: u32,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Source address, stored as in [`crate::packet::Packet::src`].
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
    /// Source port; 0 where the protocol has none or the packet is a later fragment.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Ethertype after VLAN tags, 0 if the kernel had not set one yet.
    pub ethertype: u16,
    /// Outer VLAN identifier or `NO_VLAN`.
    pub vlan: u16,
    /// `FAMILY_*` of [`crate::packet`].
    pub family: u8,
    /// IP protocol, after IPv6 extension headers.
    pub proto: u8,
    /// `CAUSE_*`: what was seen of the cause beside reason and place.
    pub cause: u8,
    /// Always 0.
    pub reserved: [u8; 5],
}

/// Value of `DROPS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCount {
    /// Packets.
    pub packets: u64,
    /// Bytes from the first header that the kernel knew of: Ethernet header, else network header.
    pub bytes: u64,
    /// Kernel time of the first, ns since boot.
    pub first_ns: u64,
    /// Kernel time of the last.
    pub last_ns: u64,
}

/// [`DropKey::cause`]: the buffer of the receiving socket had no room. Seen on kernels that give no reasons.
pub const CAUSE_SOCKET_BUFFER: u8 = 1;

/// Key of `ANSWERS`, whose values count: an ICMP error that was sent, by what it says and the flow of the packet that it
/// quotes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AnswerKey {
    /// Source address of the quoted packet, stored as in [`crate::packet::Packet::src`].
    pub src: [u8; 16],
    /// Its destination address.
    pub dst: [u8; 16],
    /// Its source port; 0 where its protocol has none or it is a later fragment.
    pub src_port: u16,
    /// Its destination port.
    pub dst_port: u16,
    /// `FAMILY_IPV4` or `FAMILY_IPV6` of [`crate::packet`].
    pub family: u8,
    /// Its IP protocol, after IPv6 extension headers.
    pub proto: u8,
    /// Type of the error: of ICMP (RFC 792) or ICMPv6 (RFC 4443), by `family`.
    pub kind: u8,
    /// Its code.
    pub code: u8,
}

/// Index of `LOST`: drops for which `DROPS` had no room.
pub const LOST_FULL: u32 = 0;
/// Index of `LOST`: dropped IP packets whose namespace could not be told, ours or another's.
pub const LOST_UNATTRIBUTED: u32 = 1;
/// Index of `LOST`: ICMP errors for which `ANSWERS` had no room.
pub const LOST_ANSWERS: u32 = 2;
/// Entries of `LOST`.
pub const LOST_KINDS: usize = 3;

const _: () = assert!(size_of::<Layout>() == 18 * 4);
const _: () = assert!(size_of::<DropKey>() == 64);
const _: () = assert!(size_of::<DropCount>() == 32);
const _: () = assert!(size_of::<AnswerKey>() == 40);
pod!(Layout, DropKey, DropCount, AnswerKey);
