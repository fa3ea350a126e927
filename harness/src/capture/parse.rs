//! Where the headers of a frame are: just enough for checksums, segmentation and sides.

use std::net::IpAddr;

use super::link::{ETHERNET_HEADER, ETHERTYPE_IPV4, ETHERTYPE_IPV6};

/// VLAN tags looked through. More than two are not used in practice.
const MAX_TAGS: u8 = 8;
/// IPv6 extension headers looked through.
const MAX_EXTENSIONS: u8 = 8;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// The headers of a frame, as offsets into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// VLAN tags (802.1Q, 802.1ad).
    pub tags: u8,
    /// The IP packet, if there is one whose fixed header is in the frame.
    pub ip: Option<Ip>,
}

/// An IP packet in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ip {
    pub v6: bool,
    /// Offset of the IP header.
    pub start: usize,
    /// End of the packet by its own length field; may lie beyond the frame.
    pub end: usize,
    /// The length field is 0, as left by segmentation offload: `end` is the frame's.
    pub no_length: bool,
    /// A fragment of a larger packet.
    pub fragment: bool,
    /// A source route: the pseudo-header's destination is not the one in the header.
    pub routed: bool,
    /// A hop-by-hop header of 8 bytes with a jumbo payload option (RFC 2675) starts right behind the IPv6 header.
    pub jumbo: bool,
    /// Protocol of what follows all IP headers.
    pub protocol: u8,
    /// Offset of what follows, if the headers are in order and all in the frame.
    pub transport: Option<usize>,
}

fn be16(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

impl View {
    pub(super) fn of(data: &[u8]) -> Self {
        let mut tags = 0;
        let mut at = ETHERNET_HEADER;
        let mut ethertype = be16(data, 12);
        while tags < MAX_TAGS && matches!(ethertype, Some(0x8100 | 0x88a8 | 0x9100)) {
            ethertype = be16(data, at + 2);
            at += 4;
            tags += 1;
        }
        let ip = match ethertype {
            Some(ETHERTYPE_IPV4) => ipv4(data, at),
            Some(ETHERTYPE_IPV6) => ipv6(data, at),
            _ => None,
        };
        Self { tags, ip }
    }
}

impl Ip {
    /// Whether all of the packet is in the frame.
    pub(super) fn is_complete(&self, data: &[u8]) -> bool {
        self.end <= data.len()
    }

    /// The protocol and offset of a transport header that starts in this very packet.
    pub(super) fn unfragmented(&self) -> Option<(u8, usize)> {
        if self.fragment { None } else { Some(self.protocol).zip(self.transport) }
    }

    /// The bytes of source and destination address, side by side.
    pub(super) fn address_bytes<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        let range = if self.v6 { self.start + 8..self.start + 40 } else { self.start + 12..self.start + 20 };
        data.get(range).unwrap_or_default()
    }

    /// Source and destination address.
    pub(super) fn addresses(&self, data: &[u8]) -> Option<(IpAddr, IpAddr)> {
        let bytes = self.address_bytes(data);
        if self.v6 {
            let (source, destination) = bytes.split_first_chunk::<16>()?;
            Some((IpAddr::from(*source), IpAddr::from(*destination.first_chunk::<16>()?)))
        } else {
            let (source, destination) = bytes.split_first_chunk::<4>()?;
            Some((IpAddr::from(*source), IpAddr::from(*destination.first_chunk::<4>()?)))
        }
    }
}

fn ipv4(data: &[u8], start: usize) -> Option<Ip> {
    let header = data.get(start..start + 20)?;
    if header[0] >> 4 != 4 {
        return None;
    }
    let len = usize::from(header[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let no_length = total == 0;
    let end = if no_length { data.len() } else { start + total };
    let usable = len >= 20 && start + len <= data.len().min(end);
    let options = data.get(start + 20..start + len).unwrap_or_default();
    Some(Ip {
        v6: false,
        start,
        end,
        no_length,
        // More fragments, or an offset (RFC 791 section 3.1).
        fragment: u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0,
        routed: has_source_route(options),
        jumbo: false,
        protocol: header[9],
        transport: usable.then_some(start + len),
    })
}

/// Whether IPv4 options hold a loose or strict source route (RFC 791 section 3.1).
fn has_source_route(mut options: &[u8]) -> bool {
    loop {
        options = match options {
            [] | [0, ..] => return false,
            [1, rest @ ..] => rest,
            [131 | 137, ..] => return true,
            [_, len, ..] => match options.get(usize::from(*len).max(2)..) {
                Some(rest) => rest,
                None => return false,
            },
            [_] => return false,
        };
    }
}

fn ipv6(data: &[u8], start: usize) -> Option<Ip> {
    let header = data.get(start..start + 40)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    // 59 is "no next header": then there is indeed no payload (RFC 8200 section 4.7).
    let no_length = payload == 0 && header[6] != 59 && data.len() > start + 40;
    let end = if no_length { data.len() } else { start + 40 + payload };
    let mut ip = Ip {
        v6: true,
        start,
        end,
        no_length,
        fragment: false,
        routed: false,
        jumbo: false,
        protocol: header[6],
        transport: None,
    };
    let mut at = start + 40;
    let limit = data.len().min(end);
    for _ in 0..MAX_EXTENSIONS {
        let Some(extension) = data.get(at..limit).filter(|bytes| bytes.len() >= 8) else { break };
        let len = match ip.protocol {
            // Hop-by-hop, routing, destination options: units of 8 bytes beyond the first.
            0 | 43 | 60 => (usize::from(extension[1]) + 1) * 8,
            44 => 8,
            // Authentication: units of 4 bytes, minus 2 (RFC 4302 section 2.2).
            51 => (usize::from(extension[1]) + 2) * 4,
            _ => break,
        };
        match ip.protocol {
            // Option 194 of length 4, alone in its header.
            0 if at == start + 40 => ip.jumbo = extension[1..4] == [0, 0xc2, 4],
            43 => ip.routed |= extension[3] != 0,
            // Offset and the M flag; neither is an "atomic" fragment, which is whole (RFC 6946).
            44 => ip.fragment |= u16::from_be_bytes([extension[2], extension[3]]) & 0xfff9 != 0,
            _ => {}
        }
        ip.protocol = extension[0];
        at += len;
        if ip.fragment {
            break;
        }
    }
    let known = !matches!(ip.protocol, 0 | 43 | 44 | 51 | 60) && at <= limit;
    ip.transport = known.then_some(at);
    Some(ip)
}
