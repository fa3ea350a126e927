//! TCP and UDP packets in Ethernet frames: read, and rewritten in place. And the ICMP errors that answer datagrams which
//! nobody took.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use crate::checksum::{self, sum};

/// TCP flags (RFC 9293 section 3.1).
pub(super) mod flag {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
    pub const URG: u8 = 32;
    pub const ECE: u8 = 64;
    pub const CWR: u8 = 128;
}

const ETHERNET: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// TCP options (RFC 9293 section 3.2, RFC 7323, RFC 2018).
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_WINDOW_SCALE: u8 = 3;
const OPTION_SACK_PERMITTED: u8 = 4;
const OPTION_SACK: u8 = 5;
const OPTION_TIMESTAMPS: u8 = 8;

/// What holds for a connection only if both SYNs have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Offer {
    /// RFC 7323 section 2.
    WindowScale,
    /// RFC 2018 section 2.
    Sack,
    /// RFC 7323 section 3.
    Timestamps,
    /// RFC 3168 section 6.1.1.
    Ecn,
}

impl Offer {
    pub(super) const ALL: [Self; 4] = [Self::WindowScale, Self::Sack, Self::Timestamps, Self::Ecn];

    /// Its option; two flags are none.
    const fn kind(self) -> Option<u8> {
        match self {
            Self::WindowScale => Some(OPTION_WINDOW_SCALE),
            Self::Sack => Some(OPTION_SACK_PERMITTED),
            Self::Timestamps => Some(OPTION_TIMESTAMPS),
            Self::Ecn => None,
        }
    }

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::WindowScale => "window scaling",
            Self::Sack => "SACK",
            Self::Timestamps => "timestamps",
            Self::Ecn => "ECN",
        }
    }
}

/// Why a packet is no part of a conversation that can be played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Neither TCP nor UDP over IP.
    Other,
    /// A fragment: its conversation has packets larger than the link.
    Fragment,
    /// Its headers contradict each other or are not all there.
    Malformed,
    /// The capture does not have all of it: a TCP or UDP packet between these ends, or another.
    Cut(Option<(bool, SocketAddr, SocketAddr)>),
}

/// A packet whose headers are sound, in a frame without VLAN tags and padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) frame: Vec<u8>,
    pub(super) tcp: bool,
    /// The ICMP error that answers a datagram to a port that nobody listens at. The ends are those of an answer.
    pub(super) refuses: bool,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    transport: usize,
    payload: usize,
}

/// Whether one sequence number is before another: they wrap (RFC 9293 section 3.4).
pub(super) fn is_before(one: u32, other: u32) -> bool {
    one.wrapping_sub(other).cast_signed() < 0
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |four| u32::from_be_bytes(*four))
}

impl Packet {
    /// Reads a frame.
    pub(super) fn read(data: &[u8]) -> Result<Self, Unfit> {
        let (mut at, mut ethertype) = (ETHERNET, be16(data, 12).ok_or(Unfit::Malformed)?);
        while matches!(ethertype, 0x8100 | 0x88a8) && at < ETHERNET + 8 {
            ethertype = be16(data, at + 2).ok_or(Unfit::Malformed)?;
            at += 4;
        }
        let ip = data.get(at..).ok_or(Unfit::Malformed)?;
        let (header, len, protocol, from, to) = match ethertype {
            0x0800 => ipv4(ip)?,
            0x86dd => ipv6(ip)?,
            _ => return Err(Unfit::Other),
        };
        let (tcp, least) = match protocol {
            TCP => (true, 20),
            UDP => (false, 8),
            ICMP | ICMPV6 => return refusal(data, ethertype, ip, header, len).ok_or(Unfit::Other),
            _ => return Err(Unfit::Other),
        };
        if len < header + least {
            return Err(Unfit::Malformed);
        }
        if ip.len() < len {
            let ends = be16(ip, header).zip(be16(ip, header + 2));
            let ends = ends.map(|(source, target)| (tcp, SocketAddr::new(from, source), SocketAddr::new(to, target)));
            return Err(Unfit::Cut(ends));
        }
        let frame = untagged(data, ethertype, &ip[..len]);
        let transport = ETHERNET + header;
        let own = if tcp { usize::from(frame[transport + 12] >> 4) * 4 } else { 8 };
        if own < least || transport + own > frame.len() {
            return Err(Unfit::Malformed);
        }
        let port = |at: usize| u16::from_be_bytes([frame[transport + at], frame[transport + at + 1]]);
        let (from, to) = (SocketAddr::new(from, port(0)), SocketAddr::new(to, port(2)));
        Ok(Self { tcp, refuses: false, from, to, transport, payload: transport + own, frame })
    }

    pub(super) fn payload(&self) -> &[u8] {
        &self.frame[self.payload..]
    }

    pub(super) fn flags(&self) -> u8 {
        self.frame[self.transport + 13]
    }

    pub(super) fn seq(&self) -> u32 {
        be32(&self.frame, self.transport + 4)
    }

    pub(super) fn ack(&self) -> u32 {
        be32(&self.frame, self.transport + 8)
    }

    pub(super) fn window(&self) -> u16 {
        be16(&self.frame, self.transport + 14).unwrap_or_default()
    }

    /// Sequence numbers that it takes: payload, and one each for SYN and FIN.
    #[allow(clippy::cast_possible_truncation, reason = "a packet has less than 2^16 bytes")]
    pub(super) fn span(&self) -> u32 {
        let controls = u32::from(self.flags() & flag::SYN != 0) + u32::from(self.flags() & flag::FIN != 0);
        self.payload().len() as u32 + controls
    }

    /// Kind and place of each TCP option with a value.
    fn options(&self) -> impl Iterator<Item = (u8, Range<usize>)> {
        let (mut at, end) = (self.transport + 20, self.payload);
        std::iter::from_fn(move || {
            while at < end {
                let kind = self.frame[at];
                match kind {
                    OPTION_END => return None,
                    OPTION_NOP => at += 1,
                    _ => {
                        let len = usize::from(*self.frame.get(at + 1)?);
                        if len < 2 || at + len > end {
                            return None;
                        }
                        at += len;
                        return Some((kind, at - len + 2..at));
                    }
                }
            }
            None
        })
    }

    /// How many bytes of its payload are before the end of urgent data, if that ends within it (RFC 9293 section 3.8.5; the
    /// pointer is read as Linux and others write it: behind the last urgent byte, RFC 6093 section 3.1).
    pub(super) fn urgent(&self) -> Option<u16> {
        let end = be16(&self.frame, self.transport + 18).filter(|_| self.flags() & flag::URG != 0)?;
        (1..=self.payload().len()).contains(&usize::from(end)).then_some(end)
    }

    /// What a SYN offers, or agrees to, that the other end must answer in kind.
    pub(super) fn offers(&self) -> Vec<Offer> {
        let of = |kind| Offer::ALL.into_iter().find(|offer| offer.kind() == Some(kind));
        let mut offers: Vec<Offer> = self.options().filter_map(|(kind, _)| of(kind)).collect();
        if self.flags() & flag::ECE != 0 {
            offers.push(Offer::Ecn);
        }
        offers
    }

    /// Takes an offer out of a SYN.
    pub(super) fn withdraw(&mut self, offer: Offer) {
        match offer.kind() {
            None => self.frame[self.transport + 13] &= !(flag::ECE | flag::CWR),
            Some(kind) => self.blank(kind),
        }
    }

    /// Takes SACK blocks out: what they speak of is not what was sent.
    pub(super) fn forget_blocks(&mut self) {
        self.blank(OPTION_SACK);
    }

    fn blank(&mut self, kind: u8) {
        let places: Vec<Range<usize>> =
            self.options().filter(|(found, _)| *found == kind).map(|(_, place)| place.start - 2..place.end).collect();
        for place in places {
            self.frame[place].fill(OPTION_NOP);
        }
    }

    /// Left and right edges of its SACK blocks (RFC 2018 section 3).
    pub(super) fn blocks(&self) -> Vec<[u32; 2]> {
        let place = self.options().find(|(kind, _)| *kind == OPTION_SACK).map_or(0..0, |(_, place)| place);
        self.frame[place].chunks_exact(8).map(|block| [be32(block, 0), be32(block, 4)]).collect()
    }

    /// By how many bits windows are shifted (RFC 7323 section 2.2), if a SYN says so.
    pub(super) fn window_scale(&self) -> Option<u8> {
        let (_, place) = self.options().find(|(kind, place)| *kind == OPTION_WINDOW_SCALE && place.len() == 1)?;
        Some(self.frame[place.start].min(14))
    }

    /// Its timestamp (RFC 7323 section 3.2).
    pub(super) fn timestamp(&self) -> Option<u32> {
        let (_, place) = self.options().find(|(kind, place)| *kind == OPTION_TIMESTAMPS && place.len() == 8)?;
        Some(be32(&self.frame, place.start))
    }

    /// Sets the acknowledgement, echoes `timestamp`, and moves SACK edges by `shift`. The checksum follows in
    /// [`Packet::finish`].
    pub(super) fn acknowledge(&mut self, ack: u32, timestamp: Option<u32>, shift: u32) {
        let at = self.transport + 8;
        self.frame[at..at + 4].copy_from_slice(&ack.to_be_bytes());
        let options: Vec<(u8, Range<usize>)> = self.options().collect();
        for (kind, place) in options {
            match (kind, timestamp) {
                (OPTION_TIMESTAMPS, Some(timestamp)) if place.len() == 8 && be32(&self.frame, place.start + 4) != 0 => {
                    self.frame[place.start + 4..place.end].copy_from_slice(&timestamp.to_be_bytes());
                }
                (OPTION_SACK, _) => {
                    for edge in place.step_by(4) {
                        let moved = be32(&self.frame, edge).wrapping_add(shift);
                        if let Some(room) = self.frame.get_mut(edge..edge + 4) {
                            room.copy_from_slice(&moved.to_be_bytes());
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// A bare acknowledgement out of this packet: without payload and options, with this sequence number.
    pub(super) fn bare(&self, seq: u32, ack: u32, window: u16) -> Self {
        let mut frame = self.frame[..self.transport + 20].to_vec();
        let at = self.transport;
        frame[at + 4..at + 8].copy_from_slice(&seq.to_be_bytes());
        frame[at + 8..at + 12].copy_from_slice(&ack.to_be_bytes());
        frame[at + 12] = 5 << 4;
        frame[at + 13] = flag::ACK;
        frame[at + 14..at + 16].copy_from_slice(&window.to_be_bytes());
        frame[at + 18..at + 20].fill(0);
        Self { payload: frame.len(), frame, ..self.clone() }.with_length()
    }

    /// A segment with a part of this one's payload: the end of the direction stays with the last part.
    pub(super) fn part(&self, part: Range<usize>) -> Self {
        let payload = self.payload();
        let (start, is_last) = (part.start, part.end >= payload.len());
        let seq = self.seq().wrapping_add(u32::try_from(part.start).unwrap_or_default());
        let mut frame = self.frame[..self.payload].to_vec();
        frame.extend_from_slice(&payload[part]);
        let at = self.transport;
        frame[at + 4..at + 8].copy_from_slice(&seq.to_be_bytes());
        if !is_last {
            frame[at + 13] &= !(flag::FIN | flag::PSH);
        }
        // The pointer counts from the segment's first byte.
        let urgent = be16(&self.frame, at + 18).unwrap_or_default();
        match urgent.checked_sub(u16::try_from(start).unwrap_or(u16::MAX)) {
            Some(rest) if rest > 0 => frame[at + 18..at + 20].copy_from_slice(&rest.to_be_bytes()),
            _ => {
                frame[at + 13] &= !flag::URG;
                frame[at + 18..at + 20].fill(0);
            }
        }
        let packet = Self { frame, ..self.clone() };
        packet.with_length()
    }

    /// The length in the IP header set to that of the frame, which is no longer than the one that it comes from.
    fn with_length(mut self) -> Self {
        let len = self.frame.len() - ETHERNET;
        let (place, len) = if self.from.is_ipv4() { (ETHERNET + 2, len) } else { (ETHERNET + 4, len - 40) };
        self.frame[place..place + 2].copy_from_slice(&u16::try_from(len).unwrap_or_default().to_be_bytes());
        self
    }

    /// Gives the frame hardware addresses, and makes its checksums right.
    pub(super) fn finish(&mut self, to: [u8; 6], from: [u8; 6]) {
        self.frame[..6].copy_from_slice(&to);
        self.frame[6..12].copy_from_slice(&from);
        if self.from.is_ipv4() {
            self.frame[ETHERNET + 10..ETHERNET + 12].fill(0);
            let checksum = checksum::of(sum(&self.frame[ETHERNET..self.transport]));
            self.frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum.to_be_bytes());
        }
        let (field, protocol) = match (self.tcp, self.refuses) {
            (true, _) => (self.transport + 16, TCP),
            (false, false) => (self.transport + 6, UDP),
            (false, true) => (self.transport + 2, ICMPV6),
        };
        self.frame[field..field + 2].fill(0);
        let addresses = if self.from.is_ipv4() { ETHERNET + 12..ETHERNET + 20 } else { ETHERNET + 8..ETHERNET + 40 };
        let covered = &self.frame[self.transport..];
        let pseudo = sum(&self.frame[addresses]) + u64::from(protocol) + covered.len() as u64;
        // ICMP's covers the message alone (RFC 792), ICMPv6's the addresses as well (RFC 4443 section 2.3).
        let pseudo = if self.refuses && self.from.is_ipv4() { 0 } else { pseudo };
        let total = pseudo + sum(covered);
        let checksum = if protocol == UDP { checksum::of_udp(total) } else { checksum::of(total) };
        self.frame[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// A frame without VLAN tags and padding.
fn untagged(data: &[u8], ethertype: u16, packet: &[u8]) -> Vec<u8> {
    [&data[..12], &ethertype.to_be_bytes(), packet].concat()
}

/// The error "port unreachable" (RFC 792; RFC 4443 section 3.1) of the host that a datagram was meant for, which it quotes.
fn refusal(data: &[u8], ethertype: u16, ip: &[u8], header: usize, len: usize) -> Option<Packet> {
    /// Of the error, before its quote.
    const OWN: usize = 8;
    let read = if ethertype == 0x0800 { ipv4 } else { ipv6 };
    let says = if ethertype == 0x0800 { [3, 3] } else { [1, 4] };
    let packet = ip.get(..len)?;
    let (_, _, _, by, whom) = read(packet).ok()?;
    let quote = packet.get(header + OWN..).filter(|_| packet[header..].starts_with(&says))?;
    let (quoted, _, protocol, from, to) = read(quote).ok()?;
    if protocol != UDP || (by, whom) != (to, from) {
        return None;
    }
    let [from, to] = [SocketAddr::new(from, be16(quote, quoted)?), SocketAddr::new(to, be16(quote, quoted + 2)?)];
    let frame = untagged(data, ethertype, packet);
    let payload = frame.len();
    Some(Packet { tcp: false, refuses: true, from: to, to: from, transport: ETHERNET + header, payload, frame })
}

type Network = (usize, usize, u8, IpAddr, IpAddr);

/// Length of the header and of the packet, protocol, source and destination.
fn ipv4(ip: &[u8]) -> Result<Network, Unfit> {
    let header = usize::from(*ip.first().ok_or(Unfit::Malformed)? & 15) * 4;
    let len = usize::from(be16(ip, 2).ok_or(Unfit::Malformed)?);
    if ip.len() < 20 || ip[0] >> 4 != 4 || header < 20 || len < header {
        return Err(Unfit::Malformed);
    }
    // More fragments, or not the first one.
    if be16(ip, 6).unwrap_or_default() & 0x3fff != 0 {
        return Err(Unfit::Fragment);
    }
    let address = |at| IpAddr::V4(Ipv4Addr::from_bits(be32(ip, at)));
    Ok((header, len, ip[9], address(12), address(16)))
}

/// As [`ipv4`]. Extension headers are not looked through: TCP and UDP hardly ever have them.
fn ipv6(ip: &[u8]) -> Result<Network, Unfit> {
    if ip.len() < 40 || ip[0] >> 4 != 6 {
        return Err(Unfit::Malformed);
    }
    let address = |at: usize| ip[at..].first_chunk::<16>().map(|bytes| IpAddr::V6(Ipv6Addr::from(*bytes)));
    let (Some(from), Some(to)) = (address(8), address(24)) else { return Err(Unfit::Malformed) };
    if ip[6] == 44 {
        return Err(Unfit::Fragment);
    }
    Ok((40, 40 + usize::from(be16(ip, 4).unwrap_or_default()), ip[6], from, to))
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};

    use super::*;

    fn segment(payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1000, 80, 77, 512)
            .ack(5)
            .options(&[
                TcpOptionElement::Noop,
                TcpOptionElement::Noop,
                TcpOptionElement::Timestamp(100, 200),
                TcpOptionElement::Noop,
                TcpOptionElement::Noop,
                TcpOptionElement::SelectiveAcknowledgement((1000, 2000), [None; 3]),
            ])
            .unwrap();
        let mut out = Vec::new();
        builder.write(&mut out, payload).unwrap();
        out
    }

    #[test]
    fn what_a_packet_says_of_the_other_end_is_rewritten_and_nothing_else() {
        let mut packet = Packet::read(&segment(b"hello")).unwrap();
        assert_eq!((packet.seq(), packet.ack(), packet.window(), packet.span()), (77, 5, 512, 5));
        assert_eq!(packet.timestamp(), Some(100));
        packet.acknowledge(9005, Some(4711), 9000);
        packet.finish([6; 6], [4; 6]);
        let read = SlicedPacket::from_ethernet(&packet.frame).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = &read.transport else { panic!("{read:?}") };
        assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number(), tcp.payload()), (77, 9005, &b"hello"[..]));
        let options: Vec<_> =
            tcp.options_iterator().flatten().filter(|option| *option != TcpOptionElement::Noop).collect();
        let sack = TcpOptionElement::SelectiveAcknowledgement((10_000, 11_000), [None; 3]);
        assert_eq!(options, [TcpOptionElement::Timestamp(100, 4711), sack]);
        assert_eq!(tcp.to_header().calc_checksum_ipv4_raw([10, 0, 0, 1], [10, 0, 0, 2], b"hello"), Ok(tcp.checksum()));
        assert_eq!(&packet.frame[..12], [6, 6, 6, 6, 6, 6, 4, 4, 4, 4, 4, 4]);
    }

    #[test]
    fn parts_of_a_segment_follow_each_other() {
        let mut whole = segment(b"hello");
        whole[47] |= flag::FIN;
        let packet = Packet::read(&whole).unwrap();
        for (part, seq, flags) in [(0..2, 77, flag::ACK), (2..5, 79, flag::ACK | flag::FIN)] {
            let mut one = packet.part(part.clone());
            one.finish([6; 6], [4; 6]);
            assert_eq!(Packet::read(&one.frame).unwrap(), one);
            assert_eq!((one.seq(), one.flags(), one.payload()), (seq, flags, &b"hello"[part]));
            assert_eq!(one.timestamp(), Some(100));
        }
    }

    #[test]
    fn a_bare_acknowledgement_has_right_lengths() {
        let mut bare = Packet::read(&segment(b"hello")).unwrap().bare(80, 90, 7);
        bare.finish([6; 6], [4; 6]);
        assert_eq!(Packet::read(&bare.frame).unwrap(), bare);
        assert_eq!((bare.seq(), bare.ack(), bare.window(), bare.flags(), bare.span()), (80, 90, 7, flag::ACK, 0));
        assert!(etherparse::SlicedPacket::from_ethernet(&bare.frame).unwrap().transport.is_some());
    }

    #[test]
    fn an_error_for_a_datagram_is_an_answer_to_it() {
        let (client, server) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let mut datagram = Vec::new();
        let [from, to] = [[2; 6], [4; 6]];
        PacketBuilder::ethernet2(from, to).ipv4(client, server, 64).udp(1000, 53).write(&mut datagram, b"?").unwrap();
        let error = |by, code| {
            let kind = etherparse::Icmpv4Type::DestinationUnreachable(code);
            let mut error = Vec::new();
            let builder = PacketBuilder::ethernet2(from, to).ipv4(by, client, 64).icmpv4(kind);
            builder.write(&mut error, &datagram[ETHERNET..]).unwrap();
            error
        };
        let sound = error(server, etherparse::icmpv4::DestUnreachableHeader::Port);
        let mut packet = Packet::read(&sound).unwrap();
        let ends = ("10.0.0.2:53".parse().unwrap(), "10.0.0.1:1000".parse().unwrap());
        assert_eq!((packet.from, packet.to, packet.tcp, packet.refuses), (ends.0, ends.1, false, true));
        packet.frame[ETHERNET + 20 + 2] ^= 1;
        packet.finish([4; 6], [2; 6]);
        assert_eq!(packet.frame, sound, "its checksum is right again");
        // From a router on the way, or for another reason.
        for other in [
            error([10, 0, 0, 9], etherparse::icmpv4::DestUnreachableHeader::Port),
            error(server, etherparse::icmpv4::DestUnreachableHeader::Host),
        ] {
            assert_eq!(Packet::read(&other), Err(Unfit::Other));
        }
        for len in 0..sound.len() {
            assert!(Packet::read(&sound[..len]).is_err(), "{len} bytes");
        }
        for at in 0..sound.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = sound.clone();
                bytes[at] = byte;
                if let Ok(mut packet) = Packet::read(&bytes) {
                    packet.finish([0; 6], [0; 6]);
                }
            }
        }
    }

    #[test]
    fn tags_and_padding_go_and_what_cannot_be_played_is_told_apart() {
        let plain = segment(b"hello");
        let mut tagged = plain[..12].to_vec();
        tagged.extend([0x81, 0, 0, 7]);
        tagged.extend(&plain[12..]);
        tagged.extend([0; 9]);
        assert_eq!(Packet::read(&tagged).unwrap(), Packet::read(&plain).unwrap());
        let ends = ("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        assert_eq!(Packet::read(&plain[..plain.len() - 1]), Err(Unfit::Cut(Some((true, ends.0, ends.1)))));
        let mut fragment = plain.clone();
        fragment[20] = 0x20;
        assert_eq!(Packet::read(&fragment), Err(Unfit::Fragment));
        let mut other = plain.clone();
        other[23] = 1;
        assert_eq!(Packet::read(&other), Err(Unfit::Other));
        for len in 0..54 {
            assert!(Packet::read(&plain[..len]).is_err());
        }
        // Every byte changed to every extreme: never a panic.
        for at in 0..plain.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = plain.clone();
                bytes[at] = byte;
                if let Ok(mut packet) = Packet::read(&bytes) {
                    packet.acknowledge(1, Some(2), 3);
                    packet.finish([0; 6], [0; 6]);
                }
            }
        }
    }
}
