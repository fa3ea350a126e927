//! How addresses, endpoints and protocols are written, the same in every part of an observation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bpflab_programs::packet::{
    BAD_NAMES, ENCAP_GRE, ENCAP_MPLS, ENCAP_VXLAN, FAMILY_ARP, FAMILY_IPV4, FAMILY_IPV6, NO_VLAN,
};

/// An endpoint: `10.0.0.1:80`, `[fd00::1]:80`, an address alone where it has no port, or a MAC address
/// (`02:00:00:00:00:01`, which never has one).
///
/// `family` is one of `FAMILY_*`, `address` is stored as in [`bpflab_programs::packet::Packet::src`].
#[must_use]
pub fn endpoint(family: u8, address: &[u8; 16], port: Option<u16>) -> String {
    match (ip(family, address), port) {
        (Some(ip), Some(port)) => std::net::SocketAddr::new(ip, port).to_string(),
        (Some(ip), None) => ip.to_string(),
        (None, _) => mac(address),
    }
}

/// The IP address in `address`, if the family has one.
#[must_use]
pub fn ip(family: u8, address: &[u8; 16]) -> Option<IpAddr> {
    match family {
        FAMILY_IPV4 | FAMILY_ARP => {
            let [a, b, c, d, ..] = *address;
            Some(Ipv4Addr::new(a, b, c, d).into())
        }
        FAMILY_IPV6 => Some(Ipv6Addr::from(*address).into()),
        _ => None,
    }
}

/// The MAC address in the first 6 bytes.
fn mac(address: &[u8; 16]) -> String {
    let octets: Vec<String> = address[..6].iter().map(|octet| format!("{octet:02x}")).collect();
    octets.join(":")
}

/// Whether the endpoints of this protocol have ports.
#[must_use]
pub fn has_ports(family: u8, proto: u8) -> bool {
    matches!(family, FAMILY_IPV4 | FAMILY_IPV6) && matches!(proto, 6 | 17 | 132)
}

/// A protocol's name: `tcp`, `udp`, `icmp`, `icmpv6`, `arp`, `gre`, `sctp`, `igmp`, `esp`, `ah`, `mpls`, `llc` (IEEE
/// 802.3 with a length field), else `ip-N` by IP protocol number or `eth-0xNNNN` by ethertype.
///
/// `ethertype` counts only where `family` is neither IP nor ARP.
#[must_use]
pub fn proto_name(family: u8, proto: u8, ethertype: u16) -> String {
    let name = match (family, proto, ethertype) {
        (FAMILY_ARP, ..) => "arp",
        (FAMILY_IPV4, 1, _) => "icmp",
        (FAMILY_IPV6, 58, _) => "icmpv6",
        (FAMILY_IPV4 | FAMILY_IPV6, 2, _) => "igmp",
        (FAMILY_IPV4 | FAMILY_IPV6, 6, _) => "tcp",
        (FAMILY_IPV4 | FAMILY_IPV6, 17, _) => "udp",
        (FAMILY_IPV4 | FAMILY_IPV6, 47, _) => "gre",
        (FAMILY_IPV4 | FAMILY_IPV6, 50, _) => "esp",
        (FAMILY_IPV4 | FAMILY_IPV6, 51, _) => "ah",
        (FAMILY_IPV4 | FAMILY_IPV6, 132, _) => "sctp",
        (FAMILY_IPV4 | FAMILY_IPV6, number, _) => return format!("ip-{number}"),
        (_, _, 0) => "llc",
        (_, _, 0x8847 | 0x8848) => "mpls",
        (_, _, other) => return format!("eth-0x{other:04x}"),
    };
    name.to_owned()
}

/// The name of a tunnel (`ENCAP_*`): `gre`, `vxlan`, `mpls`.
#[must_use]
pub fn encapsulation(encap: u8) -> Option<&'static str> {
    match encap {
        ENCAP_GRE => Some("gre"),
        ENCAP_VXLAN => Some("vxlan"),
        ENCAP_MPLS => Some("mpls"),
        _ => None,
    }
}

/// The VLAN identifiers of a packet or flow, outermost first.
#[must_use]
pub fn vlans(outer: u16, inner: u16) -> Vec<u16> {
    [outer, inner].into_iter().filter(|vlan| *vlan != NO_VLAN).collect()
}

/// The names of the `BAD_*` bits that are set.
pub fn malformations(bits: u32) -> impl Iterator<Item = &'static str> {
    BAD_NAMES.iter().enumerate().filter(move |(bit, _)| bits & (1 << bit) != 0).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpflab_programs::packet::FAMILY_OTHER;

    fn address(start: &[u8]) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..start.len()].copy_from_slice(start);
        bytes
    }

    #[test]
    fn endpoints_are_written_as_users_write_them() {
        let v4 = address(&[10, 0, 0, 1]);
        assert_eq!(endpoint(FAMILY_IPV4, &v4, Some(80)), "10.0.0.1:80");
        assert_eq!(endpoint(FAMILY_ARP, &v4, None), "10.0.0.1");
        let mut v6 = address(&[0xfd]);
        v6[15] = 1;
        assert_eq!(endpoint(FAMILY_IPV6, &v6, Some(80)), "[fd00::1]:80");
        assert_eq!(endpoint(FAMILY_IPV6, &v6, None), "fd00::1");
        assert_eq!(endpoint(FAMILY_OTHER, &address(&[2, 0, 0, 0, 0, 0xab]), None), "02:00:00:00:00:ab");
    }

    #[test]
    fn protocols_have_names_or_numbers() {
        assert_eq!(proto_name(FAMILY_IPV4, 6, 0x0800), "tcp");
        assert_eq!(proto_name(FAMILY_IPV4, 58, 0x0800), "ip-58", "ICMPv6 exists over IPv6 only");
        assert_eq!(proto_name(FAMILY_IPV6, 1, 0x86dd), "ip-1", "and ICMP over IPv4 only");
        assert_eq!(proto_name(FAMILY_ARP, 0, 0x0806), "arp");
        assert_eq!(proto_name(FAMILY_OTHER, 0, 0x88cc), "eth-0x88cc");
        assert_eq!(proto_name(FAMILY_OTHER, 0, 0), "llc");
    }

    #[test]
    fn malformations_are_named_by_bit() {
        assert_eq!(malformations(0b1000_0001).collect::<Vec<_>>(), ["truncated", "bad_ip_version"]);
        assert_eq!(malformations(0).count(), 0);
    }
}
