//! `protocols`: the bytes of DNS, HTTP/1.x and TLS messages, handed to userspace in order.
//!
//! The program decides which packets may belong to such a message and copies their payload into a ring; the messages
//! themselves are read in userspace. Recognition is shared by both sides, so that they cannot disagree.

use crate::packet::FlowKey;
use crate::pod;

/// Bytes of `EVENTS`; a power of two and a multiple of the page size. The reader may ask for another size at load.
pub const RING_BYTES: usize = 8 << 20;
/// Entries of `STREAMS`; a connection beyond them is counted in `LOST`.
pub const MAX_STREAMS: usize = 65_536;
/// Entries of `STARTS`, a power of two.
pub const START_SLOTS: usize = 16_384;
/// Ports that `DNS_PORTS` can hold.
pub const MAX_DNS_PORTS: usize = 8;

/// Payload bytes in one event; a longer segment (a frame before segmentation, up to 64 kB) is handed over in parts.
pub const CHUNK: usize = 4096 - size_of::<Event>();
/// Parts of one segment: more than `MAX_CHUNKS * CHUNK` (68 136) bytes of one packet are cut, and the last event says so.
pub const MAX_CHUNKS: usize = 17;
/// Bytes of a connection's direction that are handed over while it is not known whether they belong to a message,
/// and bytes of a TLS connection's direction that are handed over at all.
pub const UNDECIDED_BYTES: u32 = 64 * 1024;

/// Index in `LOST`: events that did not fit into `EVENTS`.
pub const LOST_EVENTS: u32 = 0;
/// Index in `LOST`: connections that did not fit into `STREAMS`.
pub const LOST_STREAMS: u32 = 1;
/// Entries of `LOST` (per-CPU counters).
pub const LOST: usize = 2;

/// [`Event::protocol`], [`Stream::protocol`]: not yet known.
pub const UNDECIDED: u8 = 0;
/// DNS (RFC 1035), recognised by port.
pub const DNS: u8 = 1;
/// HTTP/1.x (RFC 9112), recognised by its first line.
pub const HTTP: u8 = 2;
/// TLS (RFC 8446), recognised by a record that holds a hello.
pub const TLS: u8 = 3;
/// [`Stream::protocol`] only: nothing more of this connection is wanted.
pub const ENDED: u8 = 4;

/// [`Event::notes`]: [`Event::start`] is known from the SYN.
pub const NOTE_START: u8 = 1 << 0;
/// [`Event::notes`]: the connection is none of these protocols; what was handed over of it is to be forgotten.
pub const NOTE_FORGET: u8 = 1 << 1;
/// [`Event::notes`]: the program hands over nothing more of this connection ([`UNDECIDED_BYTES`] are spent, or TLS
/// application data has begun).
pub const NOTE_ENDED: u8 = 1 << 2;

/// Header of one record of `EVENTS`; `captured_len` payload bytes follow it, and then unused space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The flow, see [`FlowKey`].
    pub key: FlowKey,
    /// Time of the packet, ns of the object's clock.
    pub time_ns: u64,
    /// TCP sequence number of the first payload byte (one more than the header's for a SYN); 0 for UDP.
    pub seq: u32,
    /// TCP acknowledgement number; meaningful with the flag ACK.
    pub ack: u32,
    /// Payload bytes on the wire, from `seq` on.
    pub payload_len: u32,
    /// Payload bytes that follow this header: fewer than `payload_len` where the packet was cut.
    pub captured_len: u32,
    /// Sequence number of this direction's first payload byte, by its SYN; meaningful with [`NOTE_START`].
    pub start: u32,
    /// Events of this connection that did not fit into the ring so far.
    pub lost: u32,
    /// `packet::A_TO_B` or `packet::B_TO_A`.
    pub direction: u8,
    /// TCP flags; a segment in parts has SYN on its first part, FIN and RST on its last.
    pub tcp_flags: u8,
    /// `UNDECIDED`, `DNS`, `HTTP` or `TLS`: why the program handed this over.
    pub protocol: u8,
    /// Bitmask of `NOTE_*`.
    pub notes: u8,
    /// Always 0.
    pub reserved: u32,
}

/// Value of `STREAMS`, keyed by [`FlowKey`]: a TCP connection whose bytes are handed over.
///
/// Index 0 of an array is the direction a to b, 1 is b to a.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// Sequence number of the first payload byte, where the bit in `known` is set.
    pub start: [u32; 2],
    /// Sequence number after the last byte that came in order.
    pub next: [u32; 2],
    /// Payload bytes handed over.
    pub handed: [u32; 2],
    /// Events that did not fit into the ring.
    pub lost: u32,
    /// `UNDECIDED`, `DNS`, `HTTP`, `TLS` or `ENDED`.
    pub protocol: u8,
    /// Bit per direction: `start` is known.
    pub known: u8,
    /// Bit per direction: a FIN was seen.
    pub fins: u8,
    /// Always 0.
    pub reserved: u8,
}

/// Value of `STARTS`: a TCP handshake seen lately.
///
/// The array is indexed by a hash of the flow, and a newer handshake takes the place of an older one. All that is lost
/// then is the ability to sort the first segments of a connection that come out of order, and a short cut.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// The part of the flow's hash that is not the index.
    pub tag: u32,
    /// Bit per direction: `start` is known; shifted left by two: the first segment has come.
    pub known: u32,
    /// Sequence number of the first payload byte per direction.
    pub start: [u32; 2],
    /// 0: the connection is not in `STREAMS`, and need not be looked up there.
    pub followed: u32,
    /// Always 0.
    pub reserved: u32,
}

/// What the first bytes of a payload are.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognised {
    /// Neither.
    Nothing = 0,
    /// Fewer than [`DECISIVE`], and the first of them may be the beginning of one.
    Short = 1,
    /// A known method and a space, or `HTTP/1.`.
    Http = 2,
    /// A TLS handshake record that begins with a ClientHello or a ServerHello.
    Tls = 3,
}

/// Bytes that [`recognise`] needs to tell one from the other.
pub const DECISIVE: u32 = 11;

/// Bytes that [`recognise`] looks at.
pub const PREFIX: usize = 16;

/// Methods of up to seven letters with their space, and the beginning of a status line, padded with zeros to 8 bytes:
/// RFC 9110 section 9.3, RFC 5789, and the shorter ones of WebDAV (RFC 4918, RFC 3253, RFC 5323).
const FIRST_WORDS: [&[u8; 8]; 18] = [
    b"GET \0\0\0\0",
    b"POST \0\0\0",
    b"HTTP/1.\0",
    b"HEAD \0\0\0",
    b"PUT \0\0\0\0",
    b"DELETE \0",
    b"OPTIONS ",
    b"CONNECT ",
    b"PATCH \0\0",
    b"TRACE \0\0",
    b"COPY \0\0\0",
    b"MOVE \0\0\0",
    b"LOCK \0\0\0",
    b"UNLOCK \0",
    b"MKCOL \0\0",
    b"REPORT \0",
    b"SEARCH \0",
    b"PURGE \0\0",
];

/// The letters with which the first words begin, bit 0 for `A`.
const FIRST_LETTERS: u32 = {
    let (mut letters, mut index) = (0, 0);
    while index < FIRST_WORDS.len() {
        letters |= 1 << (FIRST_WORDS[index][0] - b'A');
        index += 1;
    }
    letters
};

/// Says what a payload of `len` bytes is that begins with `prefix` (zeros after `len`).
///
/// HTTP: the first word is one of the methods above, `PROPFIND` or `PROPPATCH`, followed by a space, or the payload
/// begins with `HTTP/1.` (RFC 9112 sections 3 and 4). TLS: a record of type 22 and version 3.0 to 3.4 of at most 2^14
/// bytes (RFC 8446 section 5.1) whose first message is of type 1 or 2, shorter than 64 kB and of legacy version 3.0 to
/// 3.3 (section 4.1); where the record is too short to hold these fields, its type alone.
#[inline(always)]
#[must_use]
pub fn recognise(prefix: &[u8; PREFIX], len: u32) -> Recognised {
    let [first, second, third, ..] = *prefix;
    let letter = first.wrapping_sub(b'A');
    if first == 0x16 {
        if second != 3 && len > 1 || third > 4 {
            return Recognised::Nothing;
        }
        return if len < DECISIVE { Recognised::Short } else { hello(prefix) };
    }
    if letter > b'Z' - b'A' || FIRST_LETTERS >> letter & 1 == 0 {
        return Recognised::Nothing;
    }
    if len < DECISIVE {
        return Recognised::Short;
    }
    first_word(prefix)
}

/// The HTTP half of [`recognise`].
#[inline(always)]
fn first_word(prefix: &[u8; PREFIX]) -> Recognised {
    let [a, b, c, d, e, f, g, h, ninth, tenth, ..] = *prefix;
    let word = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let mut index = 0;
    while index < FIRST_WORDS.len() {
        let pattern = u64::from_be_bytes(*FIRST_WORDS[index]);
        let mask = u64::MAX << (pattern.trailing_zeros() & 0x38);
        if word & mask == pattern {
            return Recognised::Http;
        }
        index += 1;
    }
    let propfind = word == u64::from_be_bytes(*b"PROPFIND") && ninth == b' ';
    let proppatch = word == u64::from_be_bytes(*b"PROPPATC") && ninth == b'H' && tenth == b' ';
    if propfind || proppatch { Recognised::Http } else { Recognised::Nothing }
}

/// The TLS half of [`recognise`], for a record of type 22 and version 3.x.
#[inline(always)]
fn hello(prefix: &[u8; PREFIX]) -> Recognised {
    let [_, _, _, high, low, kind, length_high, _, _, legacy_major, legacy_minor, ..] = *prefix;
    let record_len = u16::from_be_bytes([high, low]);
    if record_len == 0 || record_len > 1 << 14 || (kind != 1 && kind != 2) {
        return Recognised::Nothing;
    }
    if record_len >= 6 && (length_high != 0 || legacy_major != 3 || legacy_minor > 3) {
        return Recognised::Nothing;
    }
    Recognised::Tls
}

/// Whether a payload begins like a TLS record of application data (RFC 8446 section 5.2): type 23, version 3.x, at
/// most 2^14 + 256 bytes (TLS 1.2: 2^14 + 2048).
#[inline(always)]
#[must_use]
pub fn is_application_data(prefix: &[u8; PREFIX], len: u32) -> bool {
    let [kind, major, minor, high, low, ..] = *prefix;
    let record_len = u16::from_be_bytes([high, low]);
    len >= 5 && kind == 23 && major == 3 && minor <= 4 && record_len > 0 && record_len <= (1 << 14) + 2048
}

/// Whether the 12 bytes of a DNS header can be one (RFC 1035 section 4.1.1): the opcode is assigned (0 to 6), the
/// reserved bit is 0 and there are at most 32 questions. `header` holds the ID, the flags and QDCOUNT first.
#[inline(always)]
#[must_use]
pub fn is_dns_header(header: &[u8; PREFIX], len: u32) -> bool {
    let [_, _, flags_high, flags_low, question_high, question_low, ..] = *header;
    len >= 12 && (flags_high >> 3) & 0xf <= 6 && flags_low & 0x40 == 0 && question_high == 0 && question_low <= 32
}

const _: () = assert!(size_of::<Event>() == 88);
const _: () = assert!(size_of::<Stream>() == 32);
const _: () = assert!(size_of::<Start>() == 24);
const _: () = assert!(CHUNK * MAX_CHUNKS >= 65_535);
pod!(Event, Stream, Start);
