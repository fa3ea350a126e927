//! What of a frame tells it from others, and places events on it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use crate::flow_name;

/// What is needed of a frame.
#[derive(Debug, Default)]
pub(super) struct Packet {
    /// `tcp a > b`.
    pub(super) flow: String,
    /// Where that says less than other names of the flow do: `arp a > b`.
    pub(super) ends: Option<String>,
    /// Where the payload of the transport is in the frame.
    pub(super) payload: Range<usize>,
    /// Where it is TCP.
    pub(super) tcp: Option<Segment>,
    /// The ICMP or ICMPv6 message: its name, type and code, and where the packet that an error quotes begins.
    pub(super) icmp: Option<Icmp>,
    /// What makes it this packet wherever it passes: the same behind a router, which changes addresses of the link and
    /// the hop count.
    pub(super) identity: u64,
    /// What makes it this packet even if a program changed its addresses and ports; none for frames without IP.
    pub(super) core: Option<u64>,
}

/// A TCP header's numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) window: u16,
    pub(super) syn: bool,
    pub(super) ack: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
}

/// An ICMP message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Icmp {
    pub(super) proto: &'static str,
    pub(super) kind: u8,
    pub(super) code: u8,
}

impl Packet {
    /// Reads a frame from its Ethernet header on; of one that is not sound only the flow's name is known.
    pub(super) fn of(frame: &[u8]) -> Self {
        let mut read = Self { flow: flow_name::of(frame), ..Self::default() };
        let mut identity = DefaultHasher::new();
        read.flow.hash(&mut identity);
        let Ok(sliced) = SlicedPacket::from_ethernet(frame) else {
            frame.hash(&mut identity);
            // What is cut or says so of itself may still have the addresses and ports.
            let is_ip = matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
            read.ends = frame.get(14..).filter(|_| is_ip).and_then(quoted_flow);
            read.identity = identity.finish();
            return read;
        };
        match &sliced.net {
            Some(NetSlice::Ipv4(ip)) => ip.header().identification().hash(&mut identity),
            Some(NetSlice::Arp(arp)) => {
                let address = |bytes: &[u8]| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?));
                let ends = (address(arp.sender_protocol_addr()), address(arp.target_protocol_addr()));
                if let (Some(from), Some(to)) = ends {
                    read.ends = Some(format!("arp {from} > {to}"));
                }
            }
            _ => {}
        }
        let mut core = DefaultHasher::new();
        let mut has_core = true;
        match &sliced.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                let segment = Segment {
                    sequence: tcp.sequence_number(),
                    acknowledgement: tcp.acknowledgment_number(),
                    window: tcp.window_size(),
                    syn: tcp.syn(),
                    ack: tcp.ack(),
                    fin: tcp.fin(),
                    rst: tcp.rst(),
                };
                read.payload = within(frame, tcp.payload());
                let flags = [segment.syn, segment.ack, segment.fin, segment.rst];
                (6_u8, segment.sequence, segment.acknowledgement, flags, tcp.payload()).hash(&mut core);
                tcp.slice().hash(&mut identity);
                read.tcp = Some(segment);
            }
            Some(TransportSlice::Udp(udp)) => {
                read.payload = within(frame, udp.payload());
                (17_u8, udp.payload()).hash(&mut core);
                udp.slice().hash(&mut identity);
            }
            other => {
                let ip = sliced.net.as_ref().and_then(|net| net.ip_payload_ref());
                has_core = ip.is_some();
                let bytes = ip.map_or(frame, |ip| ip.payload);
                if ip.is_some_and(|ip| ip.fragmented) {
                    read.ends = sliced.net.as_ref().and_then(fragment);
                }
                bytes.hash(&mut core);
                bytes.hash(&mut identity);
                read.icmp = match other {
                    Some(TransportSlice::Icmpv4(icmp)) => {
                        read.payload = within(frame, icmp.payload());
                        Some(Icmp { proto: "icmp", kind: icmp.type_u8(), code: icmp.code_u8() })
                    }
                    Some(TransportSlice::Icmpv6(icmp)) => {
                        read.payload = within(frame, icmp.payload());
                        Some(Icmp { proto: "icmpv6", kind: icmp.type_u8(), code: icmp.code_u8() })
                    }
                    _ => None,
                };
            }
        }
        read.identity = identity.finish();
        read.core = has_core.then(|| core.finish());
        read
    }
}

/// The flow of a fragment, if it tells its own: all of ICMP do, of others those that have the ports.
fn fragment(net: &NetSlice<'_>) -> Option<String> {
    let ip = net.ip_payload_ref()?;
    let (from, to, is_first): (IpAddr, IpAddr, bool) = match net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into(), header.fragments_offset().value() == 0)
        }
        // Where the fragment belongs stands in an extension header; the first is the only one with ports.
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into(), false),
        NetSlice::Arp(_) => return None,
    };
    let has_ports = matches!(ip.ip_number.0, 6 | 17);
    if has_ports && !is_first { None } else { named(ip.ip_number.0, from, to, ip.payload) }
}

/// Where `part` of `frame` begins and ends.
fn within(frame: &[u8], part: &[u8]) -> Range<usize> {
    let start = (part.as_ptr() as usize).wrapping_sub(frame.as_ptr() as usize).min(frame.len());
    start..(start + part.len()).min(frame.len())
}

/// The addresses of the packet that an ICMP error quotes, as [`crate::flow_name::of`] names flows. The quote may be cut
/// behind the first 8 bytes of the transport's header (RFC 792), which hold the ports.
pub(super) fn quoted_flow(quote: &[u8]) -> Option<String> {
    let (from, to, protocol, rest): (IpAddr, IpAddr, u8, &[u8]) = match quote.first()? >> 4 {
        4 => {
            let header = quote.get(..20)?;
            let address = |at: usize| Some(Ipv4Addr::from(*header.get(at..)?.first_chunk::<4>()?));
            let length = usize::from(header[0] & 0x0f) * 4;
            (address(12)?.into(), address(16)?.into(), header[9], quote.get(length.max(20)..)?)
        }
        6 => {
            let header = quote.get(..40)?;
            let address = |at: usize| Some(Ipv6Addr::from(*header.get(at..)?.first_chunk::<16>()?));
            (address(8)?.into(), address(24)?.into(), header[6], quote.get(40..)?)
        }
        _ => return None,
    };
    named(protocol, from, to, rest)
}

/// The name of a flow, with the ports from the beginning of the transport's header.
fn named(protocol: u8, from: IpAddr, to: IpAddr, rest: &[u8]) -> Option<String> {
    let port = |at: usize| Some(u16::from_be_bytes(*rest.get(at..)?.first_chunk::<2>()?));
    Some(match protocol {
        6 | 17 => {
            let name = if protocol == 6 { "tcp" } else { "udp" };
            format!("{name} {} > {}", SocketAddr::new(from, port(0)?), SocketAddr::new(to, port(2)?))
        }
        1 => format!("icmp {from} > {to}"),
        58 => format!("icmpv6 {from} > {to}"),
        other => format!("ip-{other} {from} > {to}"),
    })
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn udp(to: [u8; 4], ttl: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], to, ttl).udp(1000, 53);
        builder.write(&mut frame, payload).unwrap();
        frame
    }

    #[test]
    fn a_router_changes_neither_identity_nor_core_and_a_translator_not_the_core() {
        let sent = Packet::of(&udp([10, 0, 0, 2], 64, b"question"));
        let routed = Packet::of(&udp([10, 0, 0, 2], 63, b"question"));
        let translated = Packet::of(&udp([10, 0, 0, 9], 64, b"question"));
        assert_eq!((sent.identity, sent.core), (routed.identity, routed.core));
        assert_ne!(sent.identity, translated.identity);
        assert_eq!(sent.core, translated.core);
        let frame = udp([10, 0, 0, 2], 64, b"question");
        assert_eq!(&frame[sent.payload], b"question");
    }

    #[test]
    fn the_flow_that_an_icmp_error_quotes_is_named_as_elsewhere() {
        let frame = udp([10, 0, 0, 2], 64, b"question");
        // Of the transport's header only 8 bytes.
        assert_eq!(quoted_flow(&frame[14..14 + 28]), Some(flow_name::of(&frame)));
        for len in 0..28 {
            let _ = quoted_flow(&frame[14..14 + len]);
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic() {
        let frame = udp([10, 0, 0, 2], 64, b"question");
        for len in 0..frame.len() {
            let packet = Packet::of(&frame[..len]);
            assert!(packet.payload.end <= len);
        }
    }
}
