//! The packet parser that all objects share: from an Ethernet frame to a [`Packet`], by direct packet access.
//!
//! Two things keep it cheap for the verifier. Offsets that differ from path to path (one VLAN tag or two, any number
//! of IPv6 extension headers) go through [`Frame::forget`], so that paths that meet again look alike and are walked
//! once. And packet bytes are loaded by inline assembly, one instruction each: a Rust read of a misaligned integer is
//! compiled for BPF to one load per byte.

#![allow(clippy::not_unsafe_ptr_arg_deref, reason = "the pointer is the running program's own context")]

use core::arch::asm;

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::bpf_skb_pull_data,
};

use crate::packet::{
    ACK, BAD_DATA_OFFSET, BAD_IHL, BAD_IPV4_CHECKSUM, BAD_TCP_FLAGS, BAD_TOTAL_LENGTH, BAD_TRUNCATED, BAD_UDP_LENGTH,
    BAD_VERSION, ENCAP_GRE, ENCAP_MPLS, ENCAP_VXLAN, FAMILY_ARP, FAMILY_IPV4, FAMILY_IPV6, FIN, FRAGMENT_FIRST,
    FRAGMENT_LATER, FRAGMENT_NONE, NO_VLAN, PSH, Packet, RST, SYN, TOO_DEEP, URG,
};

const ETH_LEN: usize = 14;
const VLAN_LEN: usize = 4;
/// Values below are the length field of an IEEE 802.3 frame, not an ethertype (IEEE 802.3 clause 3.2.6).
const ETHERTYPE_MIN: u16 = 0x0600;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const MPLS_UNICAST: u16 = 0x8847;
const MPLS_MULTICAST: u16 = 0x8848;

const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const GRE: u8 = 47;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const DESTINATION: u8 = 60;
const SCTP: u8 = 132;
const VXLAN_PORT: u16 = 4789;

/// IPv6 extension headers followed before `TOO_DEEP`.
const MAX_EXTENSIONS: usize = 8;
/// MPLS labels followed before `TOO_DEEP`.
const MAX_LABELS: usize = 4;
/// Bytes that a tc program makes linear. Headers beyond them are `TOO_DEEP` if the rest of the frame is in fragments.
const PULL: u32 = 256;

/// Loads one integer at a constant offset from a packet pointer, in the packet's byte order.
///
/// The caller has compared `pointer + offset + size` with the end of the packet; the verifier holds it to that.
macro_rules! load {
    ($pointer:expr, $offset:literal, $bpf:literal, $ty:ty) => {{
        let value: u64;
        // SAFETY: the bounds are checked by the caller and proven by the verifier, or the program does not load; the
        // kernel allows misaligned loads from packets on every architecture with efficient unaligned access.
        unsafe {
            asm!(
                concat!("{value} = *(", $bpf, " *)({pointer} + ", $offset, ")"),
                value = lateout(reg) value,
                pointer = in(reg) $pointer,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        value as $ty
    }};
}

/// A byte at `offset` from a checked pointer.
macro_rules! byte {
    ($pointer:expr, $offset:literal) => {
        load!($pointer, $offset, "u8", u8)
    };
}

/// A big-endian 16-bit field at `offset` from a checked pointer.
macro_rules! be16 {
    ($pointer:expr, $offset:literal) => {
        u16::from_be(load!($pointer, $offset, "u16", u16))
    };
}

/// A big-endian 32-bit field at `offset` from a checked pointer.
macro_rules! be32 {
    ($pointer:expr, $offset:literal) => {
        u32::from_be(load!($pointer, $offset, "u32", u32))
    };
}

/// Hides a value from the optimiser, so that the instructions that the verifier sees are the ones written here: it
/// knows which sums of packet pointers and offsets it accepts, LLVM does not.
#[inline(always)]
fn opaque(mut value: usize) -> usize {
    // SAFETY: a move. An empty block would do, but two line records for one instruction are an error to the kernel.
    unsafe {
        asm!("{value} = {value}", value = inout(reg) value, options(pure, nomem, nostack, preserves_flags));
    }
    value
}

/// The bytes of a frame that a program can read, and its length.
struct Frame {
    data: usize,
    end: usize,
    /// Length of the whole frame as it stands in memory, of which a tc program may see only the first part.
    len: usize,
}

impl Frame {
    /// A pointer to `SIZE` readable bytes at `offset`, which is below 32 KiB; notes what is wrong if there are none.
    #[inline(always)]
    fn header<const SIZE: usize>(&self, packet: &mut Packet, offset: usize) -> Option<usize> {
        let pointer = opaque(self.data + offset);
        if pointer + SIZE > self.end {
            packet.malformed |= if offset + SIZE > self.len { BAD_TRUNCATED } else { TOO_DEEP };
            return None;
        }
        Some(pointer)
    }

    /// The same offset, of which the verifier knows no more than that it is below 32 KiB.
    #[inline(always)]
    fn forget(&self, offset: usize) -> usize {
        let mut offset = self.unknown(offset as u64);
        // SAFETY: arithmetic only; in assembly, or the optimiser would leave out what it knows to be without effect.
        unsafe {
            asm!("{0} &= 0x7fff", inout(reg) offset, options(pure, nomem, nostack, preserves_flags));
        }
        offset as usize
    }

    /// The same value, of which the verifier knows nothing.
    #[inline(always)]
    fn unknown(&self, mut value: u64) -> u64 {
        // SAFETY: arithmetic only. The verifier does not see that the two operations with its unknown `len` cancel.
        unsafe {
            asm!(
                "{value} ^= {len}",
                "{value} ^= {len}",
                value = inout(reg) value,
                len = in(reg) self.len,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        value
    }

    /// A packet of which only the length is known.
    ///
    /// To the verifier any field may already be anything. A field that is 0 on one path and unknown on another would
    /// keep the paths apart where they meet: before 6.8 a stack slot that holds a number and one that holds a constant
    /// are never alike.
    #[inline(always)]
    fn nothing(&self, frame_len: u32) -> Packet {
        let zero = self.unknown(0);
        let vlan = NO_VLAN | zero as u16;
        let address = address(zero, zero);
        Packet {
            src: address,
            dst: address,
            frame_len,
            malformed: zero as u32,
            seq: zero as u32,
            ack: zero as u32,
            payload_len: zero as u32,
            fragment_id: zero as u32,
            l4_offset: zero as u16,
            payload_offset: zero as u16,
            ethertype: zero as u16,
            vlan,
            inner_vlan: vlan,
            src_port: zero as u16,
            dst_port: zero as u16,
            window: zero as u16,
            family: zero as u8,
            proto: zero as u8,
            fragment: zero as u8,
            encap: zero as u8,
            tcp_flags: zero as u8,
            tcp_header_len: zero as u8,
            ttl: zero as u8,
            reserved: zero as u8,
        }
    }

    /// Lets the verifier forget which way each field of `packet` got its value. The program goes on with one state, not
    /// with one per path through the parser: for `flows` 10 thousand steps instead of 200 thousand.
    #[inline(always)]
    fn settle(&self, packet: &mut Packet) {
        macro_rules! settle {
            ($($field:ident: $ty:ty),+ $(,)?) => {
                $(packet.$field = self.unknown(u64::from(packet.$field)) as $ty;)+
            };
        }
        settle!(frame_len: u32, malformed: u32, seq: u32, ack: u32, payload_len: u32, fragment_id: u32);
        settle!(l4_offset: u16, payload_offset: u16, ethertype: u16, vlan: u16, inner_vlan: u16);
        settle!(src_port: u16, dst_port: u16, window: u16);
        settle!(family: u8, proto: u8, fragment: u8, encap: u8, tcp_flags: u8, tcp_header_len: u8, ttl: u8);
        packet.src = self.settled_address(packet.src);
        packet.dst = self.settled_address(packet.dst);
    }

    #[inline(always)]
    fn settled_address(&self, bytes: [u8; 16]) -> [u8; 16] {
        // SAFETY: the same 16 bytes, any value of which is valid.
        let [low, high] = unsafe { core::mem::transmute::<[u8; 16], [u64; 2]>(bytes) };
        address(self.unknown(low), self.unknown(high))
    }
}

/// Parses the frame of an XDP program into `packet`.
#[inline(always)]
pub fn parse_xdp(ctx: *const xdp_md, packet: &mut Packet) {
    // SAFETY: the context of the running program.
    let (data, end) = unsafe { ((*ctx).data as usize, (*ctx).data_end as usize) };
    let len = opaque(end - data);
    let frame = Frame { data, end, len };
    *packet = frame.nothing(len as u32);
    ethernet(&frame, packet, 0);
    frame.settle(packet);
}

/// Parses the frame of a tc program into `packet`, after making its first bytes linear if they are not.
///
/// Pointers into the packet that the caller took before are invalid afterwards.
#[inline(always)]
pub fn parse_skb(ctx: *const __sk_buff, packet: &mut Packet) {
    // SAFETY: the context of the running program.
    let len = unsafe { (*ctx).len };
    let wanted = if len < PULL { len } else { PULL };
    // SAFETY: as above.
    let (data, end) = unsafe { (opaque((*ctx).data as usize), opaque((*ctx).data_end as usize)) };
    if (opaque(end - data) as u32) < wanted {
        // SAFETY: the context of the running program. Where it fails, the packet is parsed as far as it is linear.
        unsafe { bpf_skb_pull_data(ctx.cast_mut(), wanted) };
    }
    // SAFETY: as above; read again, since the call may have moved the packet.
    let (data, end) = unsafe { (opaque((*ctx).data as usize), opaque((*ctx).data_end as usize)) };
    let frame = Frame { data, end, len: opaque(len as usize) };
    *packet = frame.nothing(len);
    let mut tags = 0;
    // SAFETY: as above.
    let (present, tci) = unsafe { ((*ctx).vlan_present, (*ctx).vlan_tci) };
    if present != 0 {
        packet.frame_len += VLAN_LEN as u32;
        packet.vlan = tci as u16 & 0x0fff;
        tags = 1;
    }
    // Unknown, or LLVM would compile all that follows twice.
    ethernet(&frame, packet, frame.unknown(tags) as u32);
    frame.settle(packet);
}

/// The link layer; `tags` VLAN tags have already been taken off the frame.
#[inline(always)]
fn ethernet(frame: &Frame, packet: &mut Packet, tags: u32) {
    let Some(pointer) = frame.header::<ETH_LEN>(packet, 0) else { return };
    let mut ethertype = be16!(pointer, 12);
    let mut offset = ETH_LEN;
    if is_vlan(ethertype) && tags < 2 {
        let Some(tag) = frame.header::<VLAN_LEN>(packet, offset) else { return link(packet, pointer, ethertype) };
        if tags == 0 {
            packet.vlan = be16!(tag, 0) & 0x0fff;
        } else {
            packet.inner_vlan = be16!(tag, 0) & 0x0fff;
        }
        ethertype = be16!(tag, 2);
        offset += VLAN_LEN;
        if is_vlan(ethertype) && tags == 0 {
            let Some(tag) = frame.header::<VLAN_LEN>(packet, offset) else { return link(packet, pointer, ethertype) };
            packet.inner_vlan = be16!(tag, 0) & 0x0fff;
            ethertype = be16!(tag, 2);
            offset += VLAN_LEN;
        }
    }
    let offset = frame.forget(offset);
    match ethertype {
        IPV4 => {
            packet.ethertype = ethertype;
            if let Some(next) = ipv4(frame, packet, offset) {
                transport(frame, packet, &next);
            }
        }
        IPV6 => {
            packet.ethertype = ethertype;
            if let Some(next) = ipv6(frame, packet, offset) {
                transport(frame, packet, &next);
            }
        }
        ARP => arp(frame, packet, offset),
        MPLS_UNICAST | MPLS_MULTICAST => mpls(frame, packet, offset),
        _ if is_vlan(ethertype) => packet.malformed |= TOO_DEEP,
        _ => {}
    }
    if packet.family == 0 {
        // Nothing above the link layer could be read: the MAC addresses stand for the endpoints.
        if let Some(pointer) = frame.header::<ETH_LEN>(packet, 0) {
            link(packet, pointer, ethertype);
        }
    }
}

#[inline(always)]
fn is_vlan(ethertype: u16) -> bool {
    // IEEE 802.1Q, 802.1ad, and the tag in use before 802.1ad.
    matches!(ethertype, 0x8100 | 0x88a8 | 0x9100)
}

/// The MAC addresses as endpoints.
#[inline(always)]
fn link(packet: &mut Packet, pointer: usize, ethertype: u16) {
    packet.dst = address(load!(pointer, 0, "u32", u64) | load!(pointer, 4, "u16", u64) << 32, 0);
    packet.src = address(load!(pointer, 6, "u32", u64) | load!(pointer, 10, "u16", u64) << 32, 0);
    packet.ethertype = if ethertype < ETHERTYPE_MIN { 0 } else { ethertype };
}

/// Sixteen bytes as they stand in the packet.
#[inline(always)]
fn address(low: u64, high: u64) -> [u8; 16] {
    // Both halves were loaded in memory order; this turns them back into bytes.
    let words = [low.to_ne_bytes(), high.to_ne_bytes()];
    // SAFETY: the same 16 bytes, any value of which is valid.
    unsafe { core::mem::transmute::<[[u8; 8]; 2], [u8; 16]>(words) }
}

/// ARP for IPv4 over Ethernet (RFC 826); other address types are left to the link layer.
#[inline(always)]
fn arp(frame: &Frame, packet: &mut Packet, offset: usize) {
    let Some(pointer) = frame.header::<8>(packet, offset) else { return };
    // Hardware type 1, protocol type IPv4, address lengths 6 and 4.
    if be32!(pointer, 0) != 0x0001_0800 || be16!(pointer, 4) != 0x0604 {
        return;
    }
    let operation = be16!(pointer, 6);
    let Some(pointer) = frame.header::<28>(packet, offset) else { return };
    packet.family = FAMILY_ARP;
    packet.ethertype = ARP;
    packet.src_port = operation;
    packet.src = address(load!(pointer, 14, "u32", u64), 0);
    packet.dst = address(load!(pointer, 24, "u32", u64), 0);
}

/// MPLS (RFC 3032 section 2.1): recognised, and the stack checked to its bottom; what it carries is not parsed.
#[inline(always)]
fn mpls(frame: &Frame, packet: &mut Packet, mut offset: usize) {
    packet.encap = ENCAP_MPLS;
    for _ in 0..MAX_LABELS {
        let Some(pointer) = frame.header::<4>(packet, offset) else { return };
        if byte!(pointer, 2) & 1 != 0 {
            return;
        }
        offset = frame.forget(offset + 4);
    }
    packet.malformed |= TOO_DEEP;
}

/// Where the transport header starts, and how many bytes the IP length field gives it and its payload.
struct Next {
    offset: usize,
    len: usize,
}

/// The IPv4 header (RFC 791 section 3.1).
#[inline(always)]
fn ipv4(frame: &Frame, packet: &mut Packet, offset: usize) -> Option<Next> {
    let pointer = frame.header::<20>(packet, offset)?;
    let first = byte!(pointer, 0);
    if first >> 4 != 4 {
        packet.malformed |= BAD_VERSION;
        return None;
    }
    packet.family = FAMILY_IPV4;
    packet.src = address(load!(pointer, 12, "u32", u64), 0);
    packet.dst = address(load!(pointer, 16, "u32", u64), 0);
    packet.ttl = byte!(pointer, 8);
    packet.proto = byte!(pointer, 9);
    let header_len = usize::from(first & 0x0f) * 4;
    if header_len < 20 {
        packet.malformed |= BAD_IHL;
        return None;
    }
    let mut sum = load!(pointer, 0, "u32", u64)
        + load!(pointer, 4, "u32", u64)
        + load!(pointer, 8, "u32", u64)
        + load!(pointer, 12, "u32", u64)
        + load!(pointer, 16, "u32", u64);
    let total = usize::from(be16!(pointer, 2));
    let fragment = be16!(pointer, 6);
    let id = be16!(pointer, 4);
    if header_len > 20 {
        sum += ipv4_options(frame, packet, offset + 20, offset + header_len)?;
    }
    // One's complement: folding 32-bit words gives the same sum as adding 16-bit words (RFC 1071 section 2).
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    if sum != 0xffff {
        packet.malformed |= BAD_IPV4_CHECKSUM;
    }
    if total < header_len {
        packet.malformed |= BAD_TOTAL_LENGTH;
        return None;
    }
    if offset + total > frame.len {
        packet.malformed |= BAD_TOTAL_LENGTH;
    }
    packet.fragment = fragment_kind(fragment & 0x1fff != 0, fragment & 0x2000 != 0);
    if packet.fragment != FRAGMENT_NONE {
        packet.fragment_id = u32::from(id);
    }
    Some(Next { offset: frame.forget(offset + header_len), len: total - header_len })
}

/// The sum of the option words from `offset` to `end`.
#[inline(always)]
fn ipv4_options(frame: &Frame, packet: &mut Packet, mut offset: usize, end: usize) -> Option<u64> {
    let mut sum = 0;
    for _ in 0..10 {
        if offset >= end {
            break;
        }
        let pointer = frame.header::<4>(packet, frame.forget(offset))?;
        sum += load!(pointer, 0, "u32", u64);
        offset += 4;
    }
    Some(sum)
}

#[inline(always)]
fn fragment_kind(has_offset: bool, more: bool) -> u8 {
    if has_offset {
        FRAGMENT_LATER
    } else if more {
        FRAGMENT_FIRST
    } else {
        FRAGMENT_NONE
    }
}

/// The IPv6 header and its extension headers (RFC 8200 sections 3 and 4).
#[inline(always)]
fn ipv6(frame: &Frame, packet: &mut Packet, offset: usize) -> Option<Next> {
    let pointer = frame.header::<40>(packet, offset)?;
    if byte!(pointer, 0) >> 4 != 6 {
        packet.malformed |= BAD_VERSION;
        return None;
    }
    packet.family = FAMILY_IPV6;
    packet.src = address(load!(pointer, 8, "u64", u64), load!(pointer, 16, "u64", u64));
    packet.dst = address(load!(pointer, 24, "u64", u64), load!(pointer, 32, "u64", u64));
    packet.ttl = byte!(pointer, 7);
    packet.proto = byte!(pointer, 6);
    let ip_end = offset + 40 + usize::from(be16!(pointer, 4));
    if ip_end > frame.len {
        packet.malformed |= BAD_TOTAL_LENGTH;
    }
    let mut offset = frame.forget(offset + 40);
    for _ in 0..=MAX_EXTENSIONS {
        if !matches!(packet.proto, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION | AUTHENTICATION) {
            return Some(Next { offset, len: ip_end - offset });
        }
        let after = extension(frame, packet, offset, ip_end)?;
        offset = frame.forget(after);
        if packet.fragment == FRAGMENT_LATER {
            return Some(Next { offset, len: ip_end - offset });
        }
    }
    packet.malformed |= TOO_DEEP;
    None
}

/// One extension header: notes its successor and returns its end.
#[inline(always)]
fn extension(frame: &Frame, packet: &mut Packet, offset: usize, ip_end: usize) -> Option<usize> {
    let pointer = frame.header::<8>(packet, offset)?;
    let words = usize::from(byte!(pointer, 1));
    let len = match packet.proto {
        FRAGMENT => {
            // RFC 8200 section 4.5: 13 bits of offset, 2 reserved, 1 bit "more".
            let field = be16!(pointer, 2);
            let kind = fragment_kind(field & 0xfff8 != 0, field & 1 != 0);
            // The header of a packet in one piece (RFC 6946) takes nothing back that another one said.
            if kind != FRAGMENT_NONE {
                packet.fragment = kind;
                packet.fragment_id = be32!(pointer, 4);
            }
            8
        }
        // RFC 4302 section 2.2 counts 4-byte words minus 2, the others 8-byte words minus 1.
        AUTHENTICATION => (words + 2) * 4,
        _ => (words + 1) * 8,
    };
    if offset + len > frame.len {
        packet.malformed |= BAD_TRUNCATED;
        return None;
    }
    if offset + len > ip_end {
        packet.malformed |= BAD_TOTAL_LENGTH;
        return None;
    }
    packet.proto = byte!(pointer, 0);
    Some(offset + len)
}

/// The transport header, or what else the IP packet carries.
#[inline(always)]
fn transport(frame: &Frame, packet: &mut Packet, next: &Next) {
    if packet.fragment == FRAGMENT_LATER {
        return payload(packet, next, 0);
    }
    match packet.proto {
        TCP => tcp(frame, packet, next),
        UDP => udp(frame, packet, next),
        SCTP => {
            // RFC 9260 section 3.1.
            if let Some(pointer) = transport_header::<12>(frame, packet, next) {
                ports(packet, pointer);
                payload(packet, next, 12);
            }
        }
        ICMP if packet.family == FAMILY_IPV4 => icmp(frame, packet, next),
        ICMPV6 if packet.family == FAMILY_IPV6 => icmp(frame, packet, next),
        GRE => {
            // RFC 2784 section 2.1.
            if transport_header::<4>(frame, packet, next).is_some() {
                packet.encap = ENCAP_GRE;
                payload(packet, next, 0);
            }
        }
        _ => {
            packet.l4_offset = next.offset as u16;
            payload(packet, next, 0);
        }
    }
}

/// A pointer to the transport header, if both the frame and the IP length have room for its fixed part.
#[inline(always)]
fn transport_header<const SIZE: usize>(frame: &Frame, packet: &mut Packet, next: &Next) -> Option<usize> {
    let pointer = frame.header::<SIZE>(packet, next.offset)?;
    if next.len < SIZE {
        packet.malformed |= BAD_TOTAL_LENGTH;
        return None;
    }
    packet.l4_offset = next.offset as u16;
    Some(pointer)
}

#[inline(always)]
fn ports(packet: &mut Packet, pointer: usize) {
    packet.src_port = be16!(pointer, 0);
    packet.dst_port = be16!(pointer, 2);
}

#[inline(always)]
fn payload(packet: &mut Packet, next: &Next, header_len: usize) {
    packet.payload_offset = (next.offset + header_len) as u16;
    packet.payload_len = (next.len - header_len) as u32;
}

/// TCP (RFC 9293 section 3.1).
#[inline(always)]
fn tcp(frame: &Frame, packet: &mut Packet, next: &Next) {
    let Some(pointer) = transport_header::<20>(frame, packet, next) else { return };
    ports(packet, pointer);
    packet.seq = be32!(pointer, 4);
    packet.ack = be32!(pointer, 8);
    packet.window = be16!(pointer, 14);
    let flags = byte!(pointer, 13);
    packet.tcp_flags = flags;
    let header_len = usize::from(byte!(pointer, 12) >> 4) * 4;
    packet.tcp_header_len = header_len as u8;
    let none = flags & (FIN | SYN | RST | PSH | ACK | URG) == 0;
    let syn_and_end = flags & SYN != 0 && flags & (FIN | RST) != 0;
    let bad_fin = flags & FIN != 0 && (flags & RST != 0 || flags & ACK == 0);
    if none || syn_and_end || bad_fin {
        packet.malformed |= BAD_TCP_FLAGS;
    }
    if header_len < 20 || header_len > next.len {
        packet.malformed |= BAD_DATA_OFFSET;
    } else if next.offset + header_len > frame.len {
        packet.malformed |= BAD_TRUNCATED;
    } else {
        payload(packet, next, header_len);
    }
}

/// UDP (RFC 768).
#[inline(always)]
fn udp(frame: &Frame, packet: &mut Packet, next: &Next) {
    let Some(pointer) = transport_header::<8>(frame, packet, next) else { return };
    ports(packet, pointer);
    if packet.dst_port == VXLAN_PORT {
        packet.encap = ENCAP_VXLAN;
    }
    payload(packet, next, 8);
    let len = usize::from(be16!(pointer, 4));
    // The length counts the whole datagram, of which a first fragment holds only the beginning.
    if len < 8 || (len > next.len && packet.fragment == FRAGMENT_NONE) {
        packet.malformed |= BAD_UDP_LENGTH;
    } else if packet.fragment == FRAGMENT_NONE {
        packet.payload_len = (len - 8) as u32;
    }
}

/// ICMP (RFC 792) and ICMPv6 (RFC 4443): 8 bytes, as the kernel demands of both (`icmp_rcv`, `icmpv6_rcv`).
#[inline(always)]
fn icmp(frame: &Frame, packet: &mut Packet, next: &Next) {
    let Some(pointer) = transport_header::<8>(frame, packet, next) else { return };
    packet.src_port = u16::from(byte!(pointer, 0));
    packet.dst_port = u16::from(byte!(pointer, 1));
    payload(packet, next, 8);
}
