//! A packet's flow in one line, for the tables that name packets the programs have ended.

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// `tcp 10.0.0.1:80 > 10.0.0.2:4000`, `arp`, `eth-0x88cc`, or `malformed` where not even the network header is sound.
#[must_use]
pub fn of(frame: &[u8]) -> String {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
        return frame
            .get(12..14)
            .map_or_else(|| "malformed".to_owned(), |kind| format!("malformed eth-0x{:02x}{:02x}", kind[0], kind[1]));
    };
    let addresses: Option<(IpAddr, IpAddr)> = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => Some((ip.header().source_addr().into(), ip.header().destination_addr().into())),
        Some(NetSlice::Ipv6(ip)) => Some((ip.header().source_addr().into(), ip.header().destination_addr().into())),
        Some(NetSlice::Arp(_)) => return "arp".to_owned(),
        None => None,
    };
    let Some((source, destination)) = addresses else {
        return packet
            .ether_payload()
            .map_or_else(|| "ethernet".to_owned(), |payload| format!("eth-0x{:04x}", payload.ether_type.0));
    };
    let ports = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => Some(("tcp", tcp.source_port(), tcp.destination_port())),
        Some(TransportSlice::Udp(udp)) => Some(("udp", udp.source_port(), udp.destination_port())),
        _ => None,
    };
    match (ports, &packet.transport) {
        (Some((name, from, to)), _) => {
            format!(
                "{name} {} > {}",
                std::net::SocketAddr::new(source, from),
                std::net::SocketAddr::new(destination, to)
            )
        }
        (None, Some(TransportSlice::Icmpv4(_))) => format!("icmp {source} > {destination}"),
        (None, Some(TransportSlice::Icmpv6(_))) => format!("icmpv6 {source} > {destination}"),
        _ => {
            let number = packet.net.as_ref().and_then(|net| net.ip_payload_ref()).map_or(0, |ip| ip.ip_number.0);
            format!("ip-{number} {source} > {destination}")
        }
    }
}
