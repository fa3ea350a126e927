//! Which flows a frame belongs to, for selecting by them: its own, those of packets in tunnels, those that an ICMP error
//! is about.

use std::net::{IpAddr, SocketAddr};

use super::link::{BRIDGED, IPV4, IPV6, MAX_DEPTH};
use super::transport::{TCP, UDP};

/// A packet's protocol and ends. Ports are 0 where there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// IP protocol number.
    pub protocol: u8,
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// For a fragment, the identification of its datagram.
    pub fragment: Option<u32>,
    /// Whether ports stand in this packet: in a later fragment they do not.
    pub has_ports: bool,
}

impl Tuple {
    /// The same for both directions of a flow.
    #[must_use]
    pub fn undirected(self) -> (u8, SocketAddr, SocketAddr) {
        (self.protocol, self.source.min(self.destination), self.source.max(self.destination))
    }
}

/// The tuples of an Ethernet frame, outermost first.
#[must_use]
pub fn tuples(data: &[u8]) -> Vec<Tuple> {
    let mut found = Vec::new();
    ethernet(data, 0, &mut found);
    found
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    data.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

fn ethernet(data: &[u8], depth: u8, found: &mut Vec<Tuple>) {
    if let Some(ethertype) = u16_at(data, 12) {
        network(ethertype, &data[14..], depth + 1, found);
    }
}

fn network(ethertype: u16, data: &[u8], depth: u8, found: &mut Vec<Tuple>) {
    if depth > 2 * MAX_DEPTH {
        return;
    }
    match ethertype {
        IPV4 => ipv4(data, depth, found),
        IPV6 => ipv6(data, depth, found),
        0x8100 | 0x88a8 | 0x9100 => {
            if let (Some(inner), Some(rest)) = (u16_at(data, 2), data.get(4..)) {
                network(inner, rest, depth + 1, found);
            }
        }
        0x8847 | 0x8848 => {
            let labels = data.chunks_exact(4).position(|label| label[2] & 1 != 0);
            let rest = labels.and_then(|labels| data.get(4 * labels + 4..)).unwrap_or_default();
            match rest.first().map(|first| first >> 4) {
                Some(4) => ipv4(rest, depth + 1, found),
                Some(6) => ipv6(rest, depth + 1, found),
                _ => {}
            }
        }
        0x8864 => match u16_at(data, 6) {
            Some(0x0021) => ipv4(data.get(8..).unwrap_or_default(), depth + 1, found),
            Some(0x0057) => ipv6(data.get(8..).unwrap_or_default(), depth + 1, found),
            _ => {}
        },
        BRIDGED => ethernet(data, depth + 1, found),
        _ => {}
    }
}

fn ipv4(data: &[u8], depth: u8, found: &mut Vec<Tuple>) {
    let Some(header) = data.first_chunk::<20>() else { return };
    let len = usize::from(header[0] & 15) * 4;
    let Some(rest) = data.get(len.max(20)..) else { return };
    let address = |at: usize| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    let id = u32::from(u16::from_be_bytes([header[4], header[5]]));
    let place = (fragment != 0).then_some((id, fragment & 0x1fff == 0));
    transport(header[9], (address(12), address(16)), place, rest, depth, found);
}

fn ipv6(data: &[u8], depth: u8, found: &mut Vec<Tuple>) {
    let Some(header) = data.first_chunk::<40>() else { return };
    let address = |range: std::ops::Range<usize>| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&header[range]);
        IpAddr::from(bytes)
    };
    let (mut protocol, mut rest, mut place) = (header[6], &data[40..], None);
    for _ in 0..16 {
        let (Some(next), Some(units)) = (rest.first(), rest.get(1)) else { break };
        let len = match protocol {
            0 | 43 | 60 => 8 + 8 * usize::from(*units),
            51 => 8 + 4 * usize::from(*units),
            44 => {
                let Some(bytes) = rest.first_chunk::<8>() else { break };
                let offset = u16::from_be_bytes([bytes[2], bytes[3]]);
                if offset & 0xfff9 != 0 {
                    place = Some((u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]), offset >> 3 == 0));
                }
                8
            }
            _ => break,
        };
        let Some(after) = rest.get(len..) else { break };
        (protocol, rest) = (*next, after);
        if place.is_some_and(|(_, first)| !first) {
            break;
        }
    }
    transport(protocol, (address(8..24), address(24..40)), place, rest, depth, found);
}

/// `place` is a fragment's identification, and whether it is the first.
fn transport(
    protocol: u8,
    (source, destination): (IpAddr, IpAddr),
    place: Option<(u32, bool)>,
    data: &[u8],
    depth: u8,
    found: &mut Vec<Tuple>,
) {
    let begins = place.is_none_or(|(_, first)| first);
    let ports = if begins && matches!(protocol, TCP | UDP | 132) { u16_at(data, 0).zip(u16_at(data, 2)) } else { None };
    let (from, to) = ports.unwrap_or_default();
    found.push(Tuple {
        protocol,
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
        fragment: place.map(|(id, _)| id),
        has_ports: ports.is_some(),
    });
    if depth > 2 * MAX_DEPTH || !begins {
        return;
    }
    let behind = |len: usize| data.get(len..).unwrap_or_default();
    match (protocol, data.first()) {
        (4, _) => ipv4(data, depth + 1, found),
        (41, _) => ipv6(data, depth + 1, found),
        (47, Some(_)) => {
            let (Some(flags), Some(kind)) = (u16_at(data, 0), u16_at(data, 2)) else { return };
            let words = [0x8000, 0x2000, 0x1000].iter().filter(|flag| flags & *flag != 0).count();
            network(kind, behind(4 + 4 * words), depth + 1, found);
        }
        (UDP, _) if matches!(to, 4789 | 8472) => ethernet(behind(16), depth + 1, found),
        (1, Some(3 | 4 | 5 | 11 | 12)) => ipv4(behind(8), depth + 2 * MAX_DEPTH, found),
        (58, Some(1..=4)) => ipv6(behind(8), depth + 2 * MAX_DEPTH, found),
        _ => {}
    }
}
