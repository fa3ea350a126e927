//! `tcp_state`: TCP connections as an observer on the path sees them.
//!
//! The observer sees every segment of both directions once, somewhere between the two hosts. It cannot know what was
//! lost after it, nor what a host thinks; each field below says what it concludes from what it saw. Sequence and
//! acknowledgement numbers are compared modulo 2^32 (RFC 9293 section 3.4). A number that lies 2^30 or more away from
//! the expected one cannot belong to any window (RFC 7323 section 2.3) and is left out of the account.
//!
//! # Rules
//! - *New data* starts at the highest sequence number seen so far (`next`); SYN and FIN take one number each.
//! - A segment beyond `next` opens a *hole*: the missing numbers were lost or overtaken before the observer.
//! - A segment below `next` that lies wholly in a hole is *out of order* if it comes within one round trip of the
//!   hole's appearance (the handshake's; [`DEFAULT_RTT_NS`] where none was seen: nobody can have noticed the loss
//!   earlier) and its TSval, where RFC 7323 timestamps are used, is not newer than that of the segment that opened the
//!   hole. Every other segment below `next` is a *retransmission*, repeated SYN and FIN included.
//! - Not retransmissions: *keep-alives* (RFC 1122 section 4.2.3.6: no data or one byte already acknowledged, at
//!   `next - 1`) and *zero-window probes* (RFC 9293 section 3.8.6.1: one byte while the other side's window is 0). The
//!   byte of a probe counts as sent once it is acknowledged.
//! - A *duplicate acknowledgement* meets all five conditions of RFC 5681 section 2: data outstanding, no data in the
//!   segment, neither SYN nor FIN (nor RST), the acknowledgement number equals the greatest so far, the window equals
//!   that of the last acknowledgement. Keep-alives do not count.
//! - A *zero window* is announced by any segment with window 0 but SYN, FIN and RST. A *window update* has no data,
//!   the same acknowledgement number as before, and another window that is not 0.
//! - A *round trip* is measured from a segment with new data (or FIN) to the acknowledgement of exactly its last
//!   number; up to [`TIMED`] segments are under measurement at a time, the others are not measured. Karn's rule
//!   (RFC 6298 section 3): an acknowledgement measures nothing if it covers data that was sent more than once or that
//!   filled a hole. Where timestamps are used the echoed TSecr decides instead (RFC 7323 section 4, as RFC 3522
//!   does): an echo newer than the segment's TSval means that a later transmission was answered.
//! - A *handshake* is timed from the last SYN before the first SYN-ACK, and from the last SYN-ACK to the
//!   acknowledgement that completes it: repeated segments do not count as latency.
//! - A RST ends a connection only if the peer could take it (RFC 9293 section 3.10.7): it acknowledges the SYN, or its
//!   sequence number is not below what the peer has acknowledged. After the connection has closed it changes nothing.
//! - A SYN starts a *new connection* between the same ports if its number differs from the previous SYN's and the
//!   old connection is closed, reset, unanswered or was joined midstream, or its number is higher than all seen
//!   (RFC 9293 section 3.6.1). Otherwise it is an old duplicate, and only counted in [`Totals`].

use crate::packet::FlowKey;
use crate::pod;

/// Entries of `CONNECTIONS`; a connection beyond them is counted in `LOST`.
pub const MAX_CONNECTIONS: usize = 65_536;
/// Bytes of `EVENTS`.
pub const EVENT_BYTES: usize = 1 << 20;
/// Entries of `NETNS`.
pub const MAX_HOSTS: usize = 256;
/// Holes remembered per direction; if there are more the oldest is forgotten.
pub const HOLES: usize = 4;
/// Segments per direction whose round trip is being measured.
pub const TIMED: usize = 8;
/// Round trip assumed where no handshake was seen: 3 ms.
pub const DEFAULT_RTT_NS: u64 = 3_000_000;

/// Index in `LOST`: connections that found `CONNECTIONS` full (counted per segment).
pub const LOST_CONNECTIONS: u32 = 0;
/// Index in `LOST`: events that found `EVENTS` full.
pub const LOST_EVENTS: u32 = 1;
/// Index in `LOST`: holes forgotten for lack of room; a segment that fills one counts as a retransmission.
pub const LOST_HOLES: u32 = 2;
/// Entries of `LOST`.
pub const LOST_KINDS: usize = 3;

/// First word of an event that is a [`Connection`].
pub const KIND_CONNECTION: u32 = 1;
/// First word of an event that is a [`Transition`].
pub const KIND_TRANSITION: u32 = 2;

/// A SYN was seen, no answer.
pub const SYN_SENT: u8 = 1;
/// A SYN-ACK (or, in a simultaneous open, the other SYN) was seen; the handshake is not complete.
pub const SYN_RECEIVED: u8 = 2;
/// Both SYNs are acknowledged.
pub const ESTABLISHED: u8 = 3;
/// One side has sent FIN.
pub const FIN_WAIT: u8 = 4;
/// Both sides have sent FIN, not both are acknowledged.
pub const CLOSING: u8 = 5;
/// Both FINs are acknowledged.
pub const CLOSED: u8 = 6;
/// Ended by RST.
pub const RESET: u8 = 7;
/// No SYN was seen, and nothing yet that ends the connection.
pub const MIDSTREAM: u8 = 8;

/// [`Connection::reset_by`]: nobody.
pub const NOBODY: u8 = 0xff;

/// [`Half::flags`]: `isn` and `next` are known.
pub const HAS_SEQ: u16 = 1 << 0;
/// [`Half::flags`]: its SYN was seen, so `isn` is its number.
pub const HAS_SYN: u16 = 1 << 1;
/// [`Half::flags`]: `acked` is known.
pub const HAS_ACK: u16 = 1 << 2;
/// [`Half::flags`]: `window` is known, from a segment without SYN (whose window is never scaled, RFC 7323 section 2.2).
pub const HAS_WINDOW: u16 = 1 << 3;
/// [`Half::flags`]: its FIN was seen.
pub const HAS_FIN: u16 = 1 << 4;
/// [`Half::flags`]: the other side acknowledged its FIN.
pub const FIN_ACKED: u16 = 1 << 5;
/// [`Half::flags`]: a zero-window probe with one byte is under way.
pub const PROBING: u16 = 1 << 6;
/// [`Half::flags`]: some data was sent more than once, or late; `karn` is valid.
pub const HAS_KARN: u16 = 1 << 7;
/// [`Half::flags`]: its segments carry RFC 7323 timestamps (all of them, once negotiated: section 3.2).
pub const HAS_TS: u16 = 1 << 8;

/// Numbers that were skipped; free if `start == end`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hole {
    /// When a segment beyond it was seen.
    pub at_ns: u64,
    /// First missing sequence number.
    pub start: u32,
    /// The number after the last missing one.
    pub end: u32,
    /// TSval of the segment that opened the hole.
    pub tsval: u32,
    /// 1 if that segment had timestamps.
    pub has_ts: u32,
}

/// A segment whose acknowledgement is awaited; free if `at_ns` is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timed {
    /// When it was seen.
    pub at_ns: u64,
    /// The number after its last byte.
    pub end: u32,
    /// Its TSval, if it had one.
    pub tsval: u32,
}

/// What one endpoint sent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Half {
    /// Number of its SYN, or of the first segment seen.
    pub isn: u32,
    /// The number after the highest seen.
    pub next: u32,
    /// The highest acknowledgement number that it sent.
    pub acked: u32,
    /// The number after its FIN.
    pub fin_end: u32,
    /// Valid with [`HAS_KARN`]: an acknowledgement measures no round trip unless everything below this number had been
    /// acknowledged before.
    pub karn: u32,
    /// Window of the last segment that moved no acknowledgement back, not scaled.
    pub window: u16,
    /// `HAS_*`, `FIN_ACKED`, `PROBING`.
    pub flags: u16,
    /// Payload bytes, each counted once however often it was sent.
    pub payload: u64,
    /// Shortest round trip from the observer to the other side and back, ns.
    pub rtt_min_ns: u64,
    /// Longest.
    pub rtt_max_ns: u64,
    /// Sum of all.
    pub rtt_sum_ns: u64,
    /// Number of round trips measured.
    pub rtt_samples: u32,
    /// Segments whose numbers had been seen, or that came too late to be merely out of order.
    pub retransmissions: u32,
    /// Segments that filled a hole.
    pub out_of_order: u32,
    /// Duplicate acknowledgements that it sent.
    pub duplicate_acks: u32,
    /// Segments that announced a window of 0.
    pub zero_windows: u32,
    /// Window updates.
    pub window_updates: u32,
    /// What is missing below `next`.
    pub holes: [Hole; HOLES],
    /// What is being measured.
    pub timed: [Timed; TIMED],
}

/// How far a connection has come, and when.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// `SYN_SENT` to `MIDSTREAM`.
    pub state: u8,
    /// Who is the client: 0 if endpoint a of the key, 1 if b. Whoever sent the first SYN or got the first SYN-ACK;
    /// where neither was seen, whoever sent the first segment.
    pub client: u8,
    /// Who sent the RST that ended it, as `client`; [`NOBODY`] if none did.
    pub reset_by: u8,
    /// Always 0.
    pub reserved: u8,
    /// SYNs of the client before the first SYN-ACK, beyond the first.
    pub syn_retries: u32,
    /// Time of the first segment, ns of the object's clock.
    pub first_ns: u64,
    /// Time of the last.
    pub last_ns: u64,
    /// Time of the client's last SYN before the first SYN-ACK, 0 if none was seen.
    pub syn_ns: u64,
    /// Time of the first SYN-ACK that answers it, 0 if none.
    pub syn_ack_ns: u64,
    /// Time of the last SYN-ACK before the handshake was complete.
    pub last_syn_ack_ns: u64,
    /// Time of the client's acknowledgement of it, 0 if none.
    pub ack_ns: u64,
}

impl Progress {
    /// The handshake's round trip without the time of repeated segments, ns; nothing if it was not seen whole.
    #[inline(always)]
    #[must_use]
    pub fn handshake_rtt_ns(&self) -> Option<u64> {
        if self.syn_ns == 0 || self.syn_ack_ns == 0 || self.ack_ns == 0 {
            return None;
        }
        Some(self.syn_ack_ns.saturating_sub(self.syn_ns) + self.ack_ns.saturating_sub(self.last_syn_ack_ns))
    }
}

/// One connection: the part of the value of `CONNECTIONS` that userspace reads, and an event when its ports are used
/// again.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// [`KIND_CONNECTION`].
    pub kind: u32,
    /// Always 0.
    pub reserved: u32,
    /// The endpoints.
    pub key: FlowKey,
    /// How far it has come.
    pub progress: Progress,
    /// What a and b sent.
    pub halves: [Half; 2],
}

/// The kernel's lock in a map value, found by this very name in the map's BTF.
#[allow(non_camel_case_types, reason = "the kernel looks for this name")]
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct bpf_spin_lock {
    /// The kernel's.
    pub val: u32,
}

/// Value of `CONNECTIONS`, keyed by [`FlowKey`]: the two directions may be handled by two CPUs at the same time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Held while `connection` changes.
    pub lock: bpf_spin_lock,
    /// Always 0.
    pub reserved: u32,
    /// The connection.
    pub connection: Connection,
}

/// Value of `TOTALS` (per-CPU): segments by flag, whatever else is concluded from them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// With SYN, without ACK.
    pub syn: u64,
    /// With SYN and ACK.
    pub syn_ack: u64,
    /// With RST.
    pub rst: u64,
    /// With FIN.
    pub fin: u64,
}

/// Event: a kernel socket changed its state (tracepoint `sock:inet_sock_set_state`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transition {
    /// [`KIND_TRANSITION`].
    pub kind: u32,
    /// Inode number of the socket's network namespace.
    pub netns: u32,
    /// `BPF_TCP_*` of `include/uapi/linux/bpf.h`, the state before.
    pub old: u16,
    /// The state after.
    pub new: u16,
    /// Local port.
    pub local_port: u16,
    /// Remote port.
    pub remote_port: u16,
    /// Local address: IPv4 in the first 4 bytes, or IPv6.
    pub local: [u8; 16],
    /// Remote address.
    pub remote: [u8; 16],
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// Always 0.
    pub reserved: u16,
}

/// Offsets in bytes of the members of `struct sock` and `struct net` that `sock_state` reads: the global `SOCK`, set
/// at load from the running kernel's BTF.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SockOffsets {
    /// `sock.__sk_common.skc_net`.
    pub net: u32,
    /// `net.ns.inum`.
    pub inum: u32,
    /// `sock.__sk_common.skc_family`.
    pub family: u32,
    /// `sock.__sk_common.skc_num`: the local port in host byte order, 0 once the socket has given it back.
    pub num: u32,
    /// `inet_sock.inet_sport`: the local port in network byte order, 0 before the socket is bound.
    pub sport: u32,
    /// `sock.__sk_common.skc_dport`: the remote port in network byte order.
    pub dport: u32,
    /// `sock.__sk_common.skc_rcv_saddr`.
    pub rcv_saddr: u32,
    /// `sock.__sk_common.skc_daddr`.
    pub daddr: u32,
    /// `sock.__sk_common.skc_v6_rcv_saddr`, 0 on a kernel without IPv6.
    pub v6_rcv_saddr: u32,
    /// `sock.__sk_common.skc_v6_daddr`, 0 on a kernel without IPv6.
    pub v6_daddr: u32,
    /// `sock.sk_protocol`.
    pub protocol: u32,
}

const _: () = assert!(size_of::<Hole>() == 24);
const _: () = assert!(size_of::<Timed>() == 16);
const _: () = assert!(size_of::<Half>() == 304);
const _: () = assert!(size_of::<Progress>() == 56);
const _: () = assert!(size_of::<Connection>() == 720);
const _: () = assert!(size_of::<Entry>() == 728);
const _: () = assert!(size_of::<Transition>() == 52);
const _: () = assert!(size_of::<SockOffsets>() == 44);
pod!(Hole, Timed, Half, Progress, Connection, Entry, Totals, Transition, SockOffsets);
