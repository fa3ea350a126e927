//! The three topologies that most captures need.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::address::Prefix;
use super::spec::{BridgeSpec, DEFAULT_MTU, EndSpec, HostSpec, LinkSpec, Role, RouteSpec, Topology};

/// Name of the client's host in every preset.
pub const CLIENT: &str = "client";
/// Name of the host under test in every preset.
pub const DUT: &str = "dut";
/// Name of the server's host in [`bridge`] and [`router`].
pub const SERVER: &str = "server";

/// What [`named`] knows.
pub const NAMES: [&str; 3] = ["bridge", "router", "host"];

/// Most captured addresses of one address family that [`router_for`] gives a route each on the larger side; beyond it
/// that side has the default route instead.
pub const MAX_HOST_ROUTES: usize = 256;

const fn v4(third: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 71, third, last)
}

const fn v6(third: u16, last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd71, third, 0, 0, 0, 0, 0, last)
}

/// Addresses of host number `last` on subnet number `subnet`: `10.71.subnet.last/24` and `fd71:subnet::last/64`.
fn pair(subnet: u8, last: u8) -> [Prefix; 2] {
    [Prefix::new(v4(subnet, last), 24), Prefix::new(v6(subnet.into(), last.into()), 64)]
}

/// The preset of that name.
#[must_use]
pub fn named(name: &str) -> Option<Topology> {
    match name {
        "bridge" => Some(bridge()),
        "router" => Some(router()),
        "host" => Some(host(&[])),
        _ => None,
    }
}

/// `client eth0 - eth0 dut eth1 - eth0 server`, with `br0` over both interfaces of the dut: any frame that enters one
/// leaves by the other, whatever its addresses. Client and server share `10.71.0.0/24` and `fd71::/64` (`.1`, `.2`).
/// Only a pause frame (to 01:80:c2:00:00:01) and frames from a group address or to an interface's own are kept back:
/// the kernel's bridge does not forward those.
#[must_use]
pub fn bridge() -> Topology {
    let bridge =
        BridgeSpec { name: "br0".to_owned(), ports: vec!["eth0".to_owned(), "eth1".to_owned()], ..<_>::default() };
    let dut = HostSpec { bridges: vec![bridge], ..host_spec(DUT, Role::Dut) };
    Topology {
        name: "bridge".to_owned(),
        arp: false,
        hosts: vec![host_spec(CLIENT, Role::Client), dut, host_spec(SERVER, Role::Server)],
        links: vec![
            link(EndSpec::new(CLIENT, "eth0", &pair(0, 1)), EndSpec::new(DUT, "eth0", &[]).with_xdp()),
            link(EndSpec::new(DUT, "eth1", &[]).with_xdp(), EndSpec::new(SERVER, "eth0", &pair(0, 2))),
        ],
    }
}

/// `client eth0 - eth0 dut eth1 - eth0 server`, where the dut routes between `10.71.1.0/24`, `fd71:1::/64` (client
/// `.1`, dut `.2`) and `10.71.2.0/24`, `fd71:2::/64` (dut `.1`, server `.2`). No reverse path filter, no redirects.
#[must_use]
pub fn router() -> Topology {
    let mut dut = host_spec(DUT, Role::Dut);
    dut.sysctls = [("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let mut client = host_spec(CLIENT, Role::Client);
    client.routes = default_routes(v4(1, 2).into(), v6(1, 2).into());
    let mut server = host_spec(SERVER, Role::Server);
    server.routes = default_routes(v4(2, 1).into(), v6(2, 1).into());
    Topology {
        name: "router".to_owned(),
        arp: false,
        hosts: vec![client, dut, server],
        links: vec![
            link(EndSpec::new(CLIENT, "eth0", &pair(1, 1)), EndSpec::new(DUT, "eth0", &pair(1, 2)).with_xdp()),
            link(EndSpec::new(DUT, "eth1", &pair(2, 1)).with_xdp(), EndSpec::new(SERVER, "eth0", &pair(2, 2))),
        ],
    }
}

/// [`router`] with routes at the dut to a capture's addresses: to each of the smaller set by a route of its own, to
/// the larger set as well, or by the default route if that set has more than [`MAX_HOST_ROUTES`] addresses. IPv4 and
/// IPv6 are counted apart. An address on both sides is taken for a client's; addresses that no router forwards
/// (group, loopback, link-local, unspecified, reserved) and the topology's own have no route.
#[must_use]
pub fn router_for(client_addresses: &[IpAddr], server_addresses: &[IpAddr]) -> Topology {
    let mut topology = router();
    let own: Vec<Prefix> =
        topology.links.iter().flat_map(|link| &link.ends).flat_map(|end| end.addresses.clone()).collect();
    let routable = |address: &&IpAddr| is_routable(**address) && !own.iter().any(|prefix| prefix.contains(**address));
    let client: BTreeSet<IpAddr> = client_addresses.iter().filter(routable).copied().collect();
    let server: BTreeSet<IpAddr> =
        server_addresses.iter().filter(routable).filter(|address| !client.contains(address)).copied().collect();
    let mut routes = Vec::new();
    for is_v4 in [true, false] {
        let gateways: [IpAddr; 2] =
            if is_v4 { [v4(1, 1).into(), v4(2, 2).into()] } else { [v6(1, 1).into(), v6(2, 2).into()] };
        let sides = [&client, &server]
            .map(|side| side.iter().copied().filter(|address| address.is_ipv4() == is_v4).collect::<Vec<_>>());
        let larger = usize::from(sides[1].len() >= sides[0].len());
        for (side, (addresses, gateway)) in sides.iter().zip(gateways).enumerate() {
            if side == larger && addresses.len() > MAX_HOST_ROUTES {
                routes.push(RouteSpec::via(if is_v4 { Prefix::ALL_V4 } else { Prefix::ALL_V6 }, gateway));
            } else {
                routes.extend(addresses.iter().map(|address| RouteSpec::via(Prefix::host(*address), gateway)));
            }
        }
    }
    if let Some(dut) = topology.host_mut(DUT) {
        dut.routes = routes;
    }
    topology
}

/// `client eth0 - eth0 dut`, where the dut is an end host that has `addresses` beside its own (`10.71.1.2/24`,
/// `fd71:1::2/64`) and answers everything through the client (`10.71.1.1`, `fd71:1::1`), which routes `addresses` to it.
#[must_use]
pub fn host(addresses: &[IpAddr]) -> Topology {
    let own = pair(1, 2);
    let taken = [pair(1, 1), own].concat().into_iter().map(|prefix| prefix.address).collect::<Vec<_>>();
    let extra: BTreeSet<IpAddr> =
        (addresses.iter().copied()).filter(|address| is_routable(*address) && !taken.contains(address)).collect();
    let mut dut_end = EndSpec::new(DUT, "eth0", &own).with_xdp();
    dut_end.addresses.extend(extra.iter().copied().map(Prefix::host));
    let mut dut = host_spec(DUT, Role::Dut);
    dut.routes = default_routes(v4(1, 1).into(), v6(1, 1).into());
    let mut client = host_spec(CLIENT, Role::Client);
    client.routes = (extra.into_iter())
        .map(|address| {
            RouteSpec::via(Prefix::host(address), if address.is_ipv4() { v4(1, 2).into() } else { v6(1, 2).into() })
        })
        .collect();
    Topology {
        name: "host".to_owned(),
        arp: false,
        hosts: vec![client, dut],
        links: vec![link(EndSpec::new(CLIENT, "eth0", &pair(1, 1)), dut_end)],
    }
}

fn host_spec(name: &str, role: Role) -> HostSpec {
    HostSpec { name: name.to_owned(), role, ..HostSpec::default() }
}

const fn link(one: EndSpec, two: EndSpec) -> LinkSpec {
    LinkSpec { ends: [one, two], mtu: DEFAULT_MTU }
}

fn default_routes(v4: IpAddr, v6: IpAddr) -> Vec<RouteSpec> {
    vec![RouteSpec::via(Prefix::ALL_V4, v4), RouteSpec::via(Prefix::ALL_V6, v6)]
}

/// Whether a router would forward to this address (RFC 6890, the special-purpose address registries).
#[must_use]
pub fn is_routable(address: IpAddr) -> bool {
    let special = match address {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            first == 0 || first >= 240 || address.is_loopback() || address.is_link_local()
        }
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unicast_link_local() || address.to_ipv4_mapped().is_some()
        }
    };
    !special && !address.is_multicast() && !address.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(topology: &Topology) -> Vec<String> {
        let via = |route: &RouteSpec| route.via.map_or_else(String::new, |via| via.to_string());
        topology.host(DUT).unwrap().routes.iter().map(|route| format!("{} {}", route.to, via(route))).collect()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn captured_addresses_have_a_route_to_their_side() {
        let client = ["192.0.2.1", "10.71.1.1", "127.0.0.1", "2001:db8::1", "fe80::1", "0.0.0.0"].map(address);
        let server =
            ["198.51.100.1", "192.0.2.1", "224.0.0.251", "ff02::fb", "255.255.255.255", "240.0.0.1"].map(address);
        let topology = router_for(&client, &server);
        topology.validate().unwrap();
        let expected = ["192.0.2.1/32 10.71.1.1", "198.51.100.1/32 10.71.2.2", "2001:db8::1/128 fd71:1::1"];
        assert_eq!(routes(&topology), expected);
    }

    #[test]
    fn the_larger_side_has_the_default_route() {
        let many: Vec<IpAddr> =
            (0..=MAX_HOST_ROUTES).map(|n| Ipv4Addr::from_bits(0xc633_6400 + n as u32).into()).collect();
        let few = [address("192.0.2.1")];
        assert_eq!(routes(&router_for(&few, &many)), ["192.0.2.1/32 10.71.1.1", "0.0.0.0/0 10.71.2.2"]);
        assert_eq!(routes(&router_for(&many, &few)), ["0.0.0.0/0 10.71.1.1", "192.0.2.1/32 10.71.2.2"]);
    }

    #[test]
    fn an_end_host_has_what_it_is_given() {
        let topology = host(&["203.0.113.7", "2001:db8::7", "10.71.1.1", "127.0.0.1"].map(address));
        topology.validate().unwrap();
        let addresses: Vec<_> = topology.end(DUT, "eth0").unwrap().addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.71.1.2/24", "fd71:1::2/64", "203.0.113.7/32", "2001:db8::7/128"]);
        assert_eq!(topology.host(CLIENT).unwrap().routes.len(), 2);
    }
}
