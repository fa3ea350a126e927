//! What tests ask of a frame.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// What is wrong with a frame: it does not parse, or a checksum is not what etherparse computes.
pub(super) fn faults(frame: &[u8]) -> Vec<String> {
    let parsed = match SlicedPacket::from_ethernet(frame) {
        Ok(parsed) => parsed,
        Err(error) => return vec![format!("does not parse: {error}")],
    };
    let mut faults = Vec::new();
    let mut compare = |what: &str, found: u16, right: u16| {
        if found != right {
            faults.push(format!("{what} checksum {found:04x} instead of {right:04x}"));
        }
    };
    let fragmented = parsed.net.as_ref().and_then(|net| net.ip_payload_ref()).is_some_and(|payload| payload.fragmented);
    match (&parsed.net, &parsed.transport) {
        (Some(NetSlice::Ipv4(ip)), transport) => {
            let header = ip.header().to_header();
            compare("IPv4", header.header_checksum, header.calc_header_checksum());
            match transport {
                Some(TransportSlice::Tcp(tcp)) => {
                    compare("TCP", tcp.checksum(), tcp.calc_checksum_ipv4(header.source, header.destination).unwrap());
                }
                Some(TransportSlice::Udp(udp)) => {
                    let right =
                        udp.to_header().calc_checksum_ipv4_raw(header.source, header.destination, udp.payload());
                    compare("UDP", udp.checksum(), right.unwrap());
                }
                Some(TransportSlice::Icmpv4(icmp)) => {
                    compare("ICMP", icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
                }
                _ => assert!(fragmented, "{parsed:?}"),
            }
        }
        (Some(NetSlice::Ipv6(ip)), transport) => {
            let (source, destination) = (ip.header().source(), ip.header().destination());
            match transport {
                Some(TransportSlice::Tcp(tcp)) => {
                    compare("TCP", tcp.checksum(), tcp.calc_checksum_ipv6(source, destination).unwrap());
                }
                Some(TransportSlice::Udp(udp)) => {
                    let right = udp.to_header().calc_checksum_ipv6_raw(source, destination, udp.payload());
                    compare("UDP", udp.checksum(), right.unwrap());
                }
                Some(TransportSlice::Icmpv6(icmp)) => {
                    let right = icmp.icmp_type().calc_checksum(source, destination, icmp.payload());
                    compare("ICMPv6", icmp.checksum(), right.unwrap());
                }
                _ => assert!(fragmented, "{parsed:?}"),
            }
        }
        _ => {}
    }
    faults
}

/// Fails if anything is wrong with a frame.
pub(super) fn assert_sound(frame: &[u8]) {
    let faults = faults(frame);
    assert!(faults.is_empty(), "{faults:?} in {frame:02x?}");
}
