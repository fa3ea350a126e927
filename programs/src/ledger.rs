//! `ledger`: the lab's own object in wire mode. It recognises each offered packet at the device under test and notes
//! how far it came.
//!
//! The injector writes an [`Order`] for the n-th packet of a side before it sends it; veth keeps the order, so the
//! n-th packet that the side's XDP program sees should be that packet. It is compared with the order's length and
//! [`print`](fn@print) all the same: what a neighbour's own stack sends in between (IPv6 noise, ARP) is counted as
//! foreign and does not shift the count. The packet's slot travels in the XDP metadata to tc ingress, and from there in
//! `skb->mark`, which clones and forwarding keep until the packet crosses into the next namespace.

use crate::pod;

/// Entries of `FATES`: packets that may be under way before the runner collects them. A power of two.
pub const SLOTS: usize = 65_536;
/// Sides of the device under test: 0 faces the client, 1 the server.
pub const SIDES: usize = 2;
/// Entries of `ORDERS` per side, a power of two; the injector has fewer packets than that outstanding.
pub const ORDERS_PER_SIDE: usize = 1024;
/// Frames up to this length are in one piece in front of an XDP program, so their length can be compared.
pub const LINEAR_BYTES: usize = 2048;
/// Largest part of a frame that the recorder keeps.
pub const RECORD_BYTES: usize = 4096;

/// High half of the lab's marks for one device under test; the low half is the packet's slot.
///
/// Derived from the inode number of the device's network namespace, so that labs running at the same time do not read
/// each other's marks where a buffer's namespace is not known.
#[inline(always)]
#[must_use]
pub const fn tag(netns: u32) -> u32 {
    let tag = netns & 0xffff;
    if tag == 0 { 0xffff } else { tag }
}

/// `skb->mark` of the packet in `slot`; see [`tag`].
#[inline(always)]
#[must_use]
pub const fn mark(tag: u32, slot: u32) -> u32 {
    (tag << 16) | (slot & 0xffff)
}

/// Bytes at the start of a frame that [`print`](fn@print) covers, in whole words of 8: addresses, ports and, over TCP,
/// the first half of the sequence number.
pub const PRINT_BYTES: usize = 40;

/// Adds one word of a frame to a fingerprint that tells packets of one capture apart. Not cryptographic.
#[inline(always)]
#[must_use]
pub const fn print_word(print: u64, word: u64) -> u64 {
    // FxHash's step: one multiplication spreads each word over the rest.
    (print.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95)
}

/// The fingerprint of a frame: of its whole 8-byte words among the first [`PRINT_BYTES`], in host byte order.
#[must_use]
pub fn print(frame: &[u8]) -> u64 {
    let head = &frame[..frame.len().min(PRINT_BYTES)];
    head.chunks_exact(8).fold(0, |print, chunk| {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        print_word(print, u64::from_ne_bytes(word))
    })
}

/// Value of `PLACE`: the device under test. In a map, so that a loaded object serves one network after the other.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Index of its interface towards the client.
    pub client: u32,
    /// Index of its interface towards the server; 0 if there is none.
    pub server: u32,
    /// Always 0.
    pub reserved: u32,
}

/// What the injector announces for one packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// The capture's time, ns since the UNIX epoch.
    pub time_ns: u64,
    /// [`print`](fn@print) of the frame as it is sent.
    pub print: u64,
    /// Slot in `FATES`.
    pub slot: u32,
    /// Bytes of the frame as it is sent; compared in the low 16 bits.
    pub len: u32,
}

/// How far one packet came. Each stage has a byte of its own, so that a plain store by any CPU cannot lose another's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// XDP at the device under test saw the packet (0 or 1).
    pub seen_xdp: u8,
    /// How XDP ended it, as far as the kernel shows: 1 + `XDP_ABORTED`, `XDP_DROP` or `XDP_REDIRECT`; 0 otherwise.
    pub xdp_verdict: u8,
    /// It reached tc ingress, before any other tc program: XDP let it pass.
    pub seen_tc: u8,
    /// How many of the tc ingress programs let it go on to the next.
    pub tc_passed: u8,
    /// It reached tc egress, before any other tc program there: [`LEFT_CLIENT`], [`LEFT_SERVER`] or both.
    pub seen_egress: u8,
    /// How many of the tc egress programs let it go on to the next.
    pub egress_passed: u8,
    /// It passed every tc egress program and left: [`LEFT_CLIENT`], [`LEFT_SERVER`] or both.
    pub left: u8,
    /// The kernel dropped it (or one of its clones): `kfree_skb`.
    pub dropped: u8,
    /// The kernel finished with it (or a clone) without complaint: `consume_skb`.
    pub consumed: u8,
    /// A tc program changed `skb->mark`, by which the packet would have been followed.
    pub remarked: u8,
    /// Always 0.
    pub reserved: [u8; 2],
    /// The kernel's drop reason (`enum skb_drop_reason` of the running kernel) of the first drop, 0 where it has none.
    pub reason: u32,
    /// Kernel address of the code that dropped it first.
    pub location: u64,
}

/// Towards the client (side 0).
pub const LEFT_CLIENT: u8 = 1 << 0;
/// Towards the server (side 1).
pub const LEFT_SERVER: u8 = 1 << 1;

/// Value of `COUNTERS`, one entry per side.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Announced packets that XDP at the device under test saw on this side.
    pub xdp: u64,
    /// Packets it saw that were not the announced ones.
    pub foreign: u64,
    /// Packets that arrived at the far end of this side.
    pub arrived: u64,
    /// Their bytes, Ethernet header included.
    pub arrived_bytes: u64,
    /// Frames that the far end could not hand to the recorder because its ring was full.
    pub unrecorded: u64,
    /// Packets without room for a stamp in front of them. They cannot be followed beyond XDP.
    pub unstamped: u64,
    /// CPUs on which XDP at the device under test ran, bit n for CPU n modulo 64.
    pub cpus: u64,
    /// Slot of the packet that XDP is busy with, or was last.
    pub slot: u32,
    /// Always 0; keeps one side to one cache line.
    pub reserved: u32,
}

/// Where the running kernel keeps what the tracing programs read: byte offsets, resolved from its BTF in userspace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `sk_buff.mark`.
    pub mark: u32,
    /// `sk_buff.dev`.
    pub dev: u32,
    /// `sk_buff.head`.
    pub head: u32,
    /// `sk_buff.end`, an offset from `head`.
    pub end: u32,
    /// `sk_buff.mac_header`, an offset from `head`.
    pub mac_header: u32,
    /// `skb_shared_info.meta_len`.
    pub meta_len: u32,
    /// `net_device.ifindex`.
    pub ifindex: u32,
    /// `net_device.nd_net.net`.
    pub net: u32,
    /// `net.ns.inum`.
    pub inum: u32,
    /// Whether tracepoint `kfree_skb` has a reason (its third argument; Linux 5.17).
    pub has_reason: u32,
}

/// A frame at the far end, in front of its bytes in the `ARRIVED` ring. The entry's length is one of a few classes; the
/// bytes beyond `captured` are meaningless.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Kernel time, ns since boot (`bpf_ktime_get_ns`).
    pub time_ns: u64,
    /// Bytes of the frame.
    pub len: u32,
    /// Bytes of it that follow.
    pub captured: u32,
    /// 0: at the client; 1: at the server.
    pub side: u32,
    /// Always 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Place>() == 16);
const _: () = assert!(size_of::<Order>() == 24);
const _: () = assert!(size_of::<Fate>() == 24);
const _: () = assert!(size_of::<Counters>() == 64);
const _: () = assert!(size_of::<Arrival>() == 24);
const _: () = assert!(PRINT_BYTES.is_multiple_of(8) && SLOTS == 1 << 16);
pod!(Place, Order, Fate, Counters, Offsets, Arrival);
