//! What is wrong with a topology, found without touching the machine.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::address::Prefix;
use super::plan::{self, Interface, Kind};
use super::spec::{EndSpec, HostSpec, LinkSpec, RouteKind, RouteSpec, Topology};
use super::sysctl;

/// Largest MTU of a virtual Ethernet interface whose peer runs a native XDP program without fragments: a frame, the
/// XDP headroom (256 bytes) and `skb_shared_info` (320) share one 4096-byte page with the 14-byte Ethernet header
/// (drivers/net/veth.c, `veth_xdp_set`; include/linux/skbuff.h, `SKB_WITH_OVERHEAD`).
pub const XDP_MAX_MTU: u32 = 4096 - 256 - 320 - 14;
/// Smallest and largest MTU of a virtual Ethernet interface (`ETH_MIN_MTU`, `ETH_MAX_MTU`).
pub const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65535;
/// Smallest MTU with which the kernel speaks IPv6 (RFC 8200 section 5).
pub const IPV6_MIN_MTU: u32 = 1280;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: a host, an interface, a route.
    pub place: String,
    /// What.
    pub problem: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

/// Everything that is wrong with a topology.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid topology: {}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct InvalidTopology {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl Topology {
    /// Checks the whole description.
    ///
    /// # Errors
    /// Every problem found, each with its place.
    pub fn validate(&self) -> Result<(), InvalidTopology> {
        let mut check = Check { topology: self, interfaces: plan::interfaces(self), problems: Vec::new() };
        check.hosts();
        check.links();
        check.interfaces();
        check.addresses();
        for (index, host) in self.hosts.iter().enumerate() {
            check.bridges(index, host);
            check.vlans(index, host);
            check.routes(index, host);
            check.neighbours(index, host);
            check.sysctls(host);
            check.local(index, host);
        }
        if check.problems.is_empty() { Ok(()) } else { Err(InvalidTopology { problems: check.problems }) }
    }
}

struct Check<'a> {
    topology: &'a Topology,
    interfaces: Vec<Interface>,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn say(&mut self, place: impl fmt::Display, problem: impl fmt::Display) {
        self.problems.push(Problem { place: place.to_string(), problem: problem.to_string() });
    }

    fn has(&self, host: usize, interface: &str) -> bool {
        plan::position(&self.interfaces, host, interface).is_some()
    }

    fn hosts(&mut self) {
        if self.topology.hosts.is_empty() {
            self.say("topology", "has no host");
        }
        if self.topology.hosts.len() > 255 {
            self.say("topology", "has more than 255 hosts");
        }
        let mut seen = BTreeSet::new();
        for host in &self.topology.hosts {
            let place = format!("host '{}'", host.name);
            let letters = host.name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
            if host.name.is_empty() || host.name.len() > 32 || !letters {
                self.say(&place, "a name is 1 to 32 lower-case letters, digits and dashes");
            }
            if !seen.insert(&host.name) {
                self.say(&place, "two hosts have this name");
            }
        }
    }

    fn links(&mut self) {
        for (index, link) in self.topology.links.iter().enumerate() {
            for end in &link.ends {
                if self.topology.host(&end.host).is_none() {
                    self.say(format!("link {index}"), format!("there is no host '{}'", end.host));
                }
            }
            self.mtu(index, link);
            for end in &link.ends {
                self.impairment(end);
            }
        }
    }

    fn impairment(&mut self, end: &EndSpec) {
        let Some(impair) = &end.impair else { return };
        let place = format!("host '{}', interface '{}', impair", end.host, end.interface);
        for problem in impair.problems() {
            self.say(&place, problem);
        }
        if end.queue_bytes.is_some() {
            self.say(&place, "the interface has `queue-bytes` as well, and one queue: give `limit-packets` instead");
        }
    }

    fn mtu(&mut self, index: usize, link: &LinkSpec) {
        let [one, two] = &link.ends;
        let place = format!("link {index} ({} {} - {} {})", one.host, one.interface, two.host, two.interface);
        if !MTU_RANGE.contains(&link.mtu) {
            self.say(&place, format!("MTU {} is not in {} to {}", link.mtu, MTU_RANGE.start(), MTU_RANGE.end()));
        }
        if link.mtu > XDP_MAX_MTU && link.ends.iter().any(|end| end.xdp) {
            self.say(
                &place,
                format!("MTU {} is more than {XDP_MAX_MTU}, the most a native XDP program takes", link.mtu),
            );
        }
        if link.mtu < IPV6_MIN_MTU && link.ends.iter().any(|end| end.addresses.iter().any(|a| a.address.is_ipv6())) {
            self.say(&place, format!("MTU {} is less than {IPV6_MIN_MTU}, the least for IPv6", link.mtu));
        }
    }

    fn interfaces(&mut self) {
        let mut names = BTreeSet::new();
        let mut macs = BTreeSet::new();
        for interface in self.interfaces.clone() {
            let place = self.place(&interface);
            if !is_interface_name(&interface.name) {
                self.say(&place, "a name is 1 to 15 printable ASCII bytes without space, '/', ':' or '%', and not 'lo', 'all' or 'default'");
            }
            if !names.insert((interface.host, interface.name.clone())) {
                self.say(&place, "two interfaces of the host have this name");
            }
            if !interface.mac.is_unicast() {
                self.say(&place, format!("hardware address {} is a group address or zero", interface.mac));
            }
            // A VLAN interface has its parent's.
            if !matches!(interface.kind, Kind::Vlan(_)) && !macs.insert(interface.mac) {
                self.say(&place, format!("hardware address {} is another interface's too", interface.mac));
            }
        }
    }

    fn addresses(&mut self) {
        let segments = plan::segments(self.topology, &self.interfaces);
        let mut in_segment = BTreeSet::new();
        let mut in_host = BTreeSet::new();
        for (interface, segment) in self.interfaces.clone().iter().zip(segments) {
            let place = self.place(interface);
            for &prefix in &interface.addresses {
                if !prefix.is_host_address() {
                    self.say(&place, format!("{prefix} is a network, broadcast or group address, not a host's"));
                }
                if !in_segment.insert((segment, prefix.address)) || !in_host.insert((interface.host, prefix.address)) {
                    self.say(&place, format!("{} is given twice", prefix.address));
                }
            }
        }
    }

    fn bridges(&mut self, index: usize, host: &HostSpec) {
        let mut taken = BTreeSet::new();
        for bridge in &host.bridges {
            let place = format!("host '{}', bridge '{}'", host.name, bridge.name);
            for port in &bridge.ports {
                let made_before = self.interfaces.iter().any(|interface| {
                    interface.host == index && interface.name == *port && !matches!(interface.kind, Kind::Bridge { .. })
                });
                if !made_before {
                    self.say(&place, format!("there is no interface '{port}' to be its port"));
                }
                if !taken.insert(port) {
                    self.say(&place, format!("'{port}' is a port already"));
                }
                let addressed = plan::position(&self.interfaces, index, port).map(|at| &self.interfaces[at].addresses);
                if addressed.is_some_and(|addresses| !addresses.is_empty()) {
                    self.say(&place, format!("its port '{port}' has addresses, which belong on the bridge"));
                }
            }
        }
    }

    fn vlans(&mut self, index: usize, host: &HostSpec) {
        let mut seen = BTreeSet::new();
        for vlan in &host.vlans {
            let place = format!("host '{}', VLAN interface '{}'", host.name, vlan.name);
            if !(1..=4094).contains(&vlan.id) {
                self.say(&place, format!("identifier {} is not in 1 to 4094", vlan.id));
            }
            // One whose parent is not there, or comes later, is not in the list.
            if !self.has(index, &vlan.name) {
                self.say(&place, format!("there is no interface '{}' before it to be its parent", vlan.parent));
            }
            if !seen.insert((&vlan.parent, vlan.protocol, vlan.id)) {
                self.say(&place, format!("identifier {} on '{}' is another's already", vlan.id, vlan.parent));
            }
        }
    }

    fn routes(&mut self, index: usize, host: &HostSpec) {
        let networks: Vec<Prefix> = (self.interfaces.iter())
            .filter(|interface| interface.host == index)
            .flat_map(|interface| plan::on_link(host, interface))
            .collect();
        for route in &host.routes {
            let place = format!("host '{}', route to {}", host.name, route.to);
            for problem in route_problems(route, &networks) {
                self.say(&place, problem);
            }
            if let Some(interface) = route.interface.as_ref().filter(|interface| !self.has(index, interface)) {
                self.say(&place, format!("there is no interface '{interface}'"));
            }
        }
    }

    fn neighbours(&mut self, index: usize, host: &HostSpec) {
        for neighbour in &host.neighbours {
            let place = format!("host '{}', neighbour {}", host.name, neighbour.address);
            if !self.has(index, &neighbour.interface) {
                self.say(&place, format!("there is no interface '{}'", neighbour.interface));
            }
            if neighbour.address.is_multicast() || neighbour.address.is_unspecified() {
                self.say(&place, "is not a host's address");
            }
        }
    }

    fn sysctls(&mut self, host: &HostSpec) {
        for name in host.sysctls.keys().filter(|name| sysctl::path(name).is_none()) {
            let place = format!("host '{}', sysctl '{name}'", host.name);
            self.say(place, "is not one of a network namespace: those begin with 'net.'");
        }
    }

    fn local(&mut self, index: usize, host: &HostSpec) {
        if host.nftables.as_ref().is_some_and(|rules| rules.trim().is_empty()) {
            self.say(format!("host '{}', nftables", host.name), "has no rule");
        }
        let mut seen = BTreeSet::new();
        for socket in &host.sockets {
            let place = format!("host '{}', socket {}", host.name, SocketAddr::new(socket.address, socket.port));
            let interfaces = self.interfaces.iter().filter(|interface| interface.host == index);
            if !interfaces.flat_map(|interface| &interface.addresses).any(|own| own.address == socket.address) {
                self.say(&place, "is at no address of the host");
            }
            if socket.port == 0 {
                self.say(&place, "port 0 is any port");
            }
            if !seen.insert((socket.address, socket.port)) {
                self.say(&place, "is given twice");
            }
        }
    }

    fn place(&self, interface: &Interface) -> String {
        format!("host '{}', interface '{}'", self.topology.hosts[interface.host].name, interface.name)
    }
}

fn route_problems(route: &RouteSpec, networks: &[Prefix]) -> Vec<String> {
    let mut problems = Vec::new();
    if route.to != route.to.network() {
        problems.push(format!("has host bits set; the network is {}", route.to.network()));
    }
    if let Some(via) = route.via {
        problems.extend(gateway_problem(route, via, networks));
    }
    let leads_out = matches!(route.kind, RouteKind::Unicast | RouteKind::Local);
    if route.kind == RouteKind::Unicast && route.via.is_none() && route.interface.is_none() {
        problems.push("needs a next hop or an interface".to_owned());
    }
    if (route.kind == RouteKind::Local && route.via.is_some())
        || (!leads_out && (route.via.is_some() || route.interface.is_some()))
    {
        problems.push("of this kind has no next hop, and only a local one has an interface".to_owned());
    }
    problems
}

fn gateway_problem(route: &RouteSpec, via: IpAddr, networks: &[Prefix]) -> Option<String> {
    if via.is_ipv4() != route.to.address.is_ipv4() {
        Some(format!("its next hop {via} is of the other address family"))
    } else if networks.iter().any(|network| network.contains(via)) {
        None
    } else {
        Some(format!("its next hop {via} is in no network of the host"))
    }
}

/// `dev_valid_name` of net/core/dev.c, less what would be confused with something else under `/proc/sys/net`.
fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_graphic() && !matches!(c, b'/' | b':' | b'%'))
        && !matches!(name, "." | ".." | "lo" | "all" | "default")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{BridgeSpec, EndSpec, Mac, NeighbourSpec, SocketSpec, VlanSpec, presets};

    /// What is wrong with the router preset after a change.
    fn problems(change: impl FnOnce(&mut Topology)) -> Vec<String> {
        let mut topology = presets::router();
        change(&mut topology);
        topology
            .validate()
            .map_or_else(|invalid| invalid.problems, |()| Vec::new())
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn presets_are_valid() {
        for name in presets::NAMES {
            presets::named(name).unwrap().validate().unwrap();
        }
        assert_eq!(presets::named("ring"), None);
    }

    #[test]
    fn names_are_unique_and_fit_the_kernel() {
        let found = problems(|topology| topology.hosts[1].name = "client".to_owned());
        assert!(found.contains(&"host 'client': two hosts have this name".to_owned()), "{found:?}");
        assert!(found.contains(&"link 0: there is no host 'dut'".to_owned()), "{found:?}");
        let found = problems(|topology| topology.links[0].ends[0].interface = "an-interface-of-16".to_owned());
        assert!(found[0].starts_with("host 'client', interface 'an-interface-of-16': a name is 1 to 15"), "{found:?}");
        let found = problems(|topology| topology.links[1].ends[0].interface = "eth0".to_owned());
        assert_eq!(found, ["host 'dut', interface 'eth0': two interfaces of the host have this name"]);
        let found = problems(|topology| topology.hosts[0].name = "The Client".to_owned());
        assert_eq!(found[0], "host 'The Client': a name is 1 to 32 lower-case letters, digits and dashes");
    }

    #[test]
    fn hardware_addresses_are_unicast_and_unique() {
        let mac = |text: &str| Some(text.parse::<Mac>().unwrap());
        let found = problems(|topology| topology.links[0].ends[0].mac = mac("01:00:5e:00:00:01"));
        assert_eq!(
            found,
            ["host 'client', interface 'eth0': hardware address 01:00:5e:00:00:01 is a group address or zero"]
        );
        let found = problems(|topology| {
            topology.links[0].ends[0].mac = mac("02:00:00:00:00:01");
            topology.links[1].ends[1].mac = mac("02:00:00:00:00:01");
        });
        assert_eq!(
            found,
            ["host 'server', interface 'eth0': hardware address 02:00:00:00:00:01 is another interface's too"]
        );
    }

    #[test]
    fn an_mtu_fits_the_link_its_program_and_its_addresses() {
        let mtu = |mtu| problems(|topology| topology.links[0].mtu = mtu);
        let link = "link 0 (client eth0 - dut eth0)";
        assert_eq!(mtu(67)[0], format!("{link}: MTU 67 is not in 68 to 65535"));
        assert_eq!(mtu(1279), [format!("{link}: MTU 1279 is less than 1280, the least for IPv6")]);
        assert_eq!(mtu(1280), [""; 0]);
        assert_eq!(mtu(3506), [""; 0]);
        assert_eq!(mtu(3507), [format!("{link}: MTU 3507 is more than 3506, the most a native XDP program takes")]);
        assert_eq!(mtu(65536).len(), 2);
    }

    #[test]
    fn addresses_are_hosts_and_unique_in_a_segment() {
        let found = problems(|topology| topology.links[0].ends[0].addresses[0] = "10.71.1.255/24".parse().unwrap());
        assert_eq!(
            found,
            ["host 'client', interface 'eth0': 10.71.1.255/24 is a network, broadcast or group address, not a host's"]
        );
        let found = problems(|topology| topology.links[0].ends[0].addresses[0] = "10.71.1.2/24".parse().unwrap());
        assert_eq!(found, ["host 'dut', interface 'eth0': 10.71.1.2 is given twice"]);
    }

    #[test]
    fn routes_lead_somewhere() {
        let route = |route: RouteSpec| problems(move |topology| topology.hosts[1].routes.push(route));
        let via = |to: &str, via: &str| RouteSpec::via(to.parse().unwrap(), via.parse().unwrap());
        assert_eq!(route(via("192.0.2.0/24", "10.71.2.2")), [""; 0]);
        let found = route(via("192.0.2.0/24", "10.71.3.2"));
        assert_eq!(found, ["host 'dut', route to 192.0.2.0/24: its next hop 10.71.3.2 is in no network of the host"]);
        let found = route(via("192.0.2.1/24", "10.71.2.2"));
        assert_eq!(found, ["host 'dut', route to 192.0.2.1/24: has host bits set; the network is 192.0.2.0/24"]);
        let found = route(via("192.0.2.0/24", "fd71:2::2"));
        assert_eq!(found, ["host 'dut', route to 192.0.2.0/24: its next hop fd71:2::2 is of the other address family"]);
        let nowhere = RouteSpec { via: None, ..via("192.0.2.0/24", "10.71.2.2") };
        assert_eq!(route(nowhere.clone()), ["host 'dut', route to 192.0.2.0/24: needs a next hop or an interface"]);
        let found = route(RouteSpec { interface: Some("eth7".to_owned()), ..nowhere.clone() });
        assert_eq!(found, ["host 'dut', route to 192.0.2.0/24: there is no interface 'eth7'"]);
        assert_eq!(route(RouteSpec { kind: RouteKind::Blackhole, ..nowhere }), [""; 0]);
        assert_eq!(route(RouteSpec { kind: RouteKind::Blackhole, ..via("192.0.2.0/24", "10.71.2.2") }).len(), 1);
    }

    #[test]
    fn bridges_vlans_neighbours_and_parameters_refer_to_what_is_there() {
        let found = problems(|topology| {
            let ports = ["eth0", "eth9"].map(str::to_owned).to_vec();
            topology.hosts[1].bridges.push(BridgeSpec { name: "br0".to_owned(), ports, ..BridgeSpec::default() });
        });
        assert_eq!(
            found,
            [
                "host 'dut', bridge 'br0': its port 'eth0' has addresses, which belong on the bridge",
                "host 'dut', bridge 'br0': there is no interface 'eth9' to be its port",
            ]
        );
        let vlan =
            |name: &str, parent: &str, id| VlanSpec { name: name.into(), parent: parent.into(), id, ..<_>::default() };
        let found = problems(|topology| {
            topology.hosts[1].vlans = vec![vlan("v1", "eth0", 4095), vlan("v2", "eth9", 2), vlan("v3", "eth0", 4095)];
        });
        assert_eq!(
            found,
            [
                "host 'dut', VLAN interface 'v1': identifier 4095 is not in 1 to 4094",
                "host 'dut', VLAN interface 'v2': there is no interface 'eth9' before it to be its parent",
                "host 'dut', VLAN interface 'v3': identifier 4095 is not in 1 to 4094",
                "host 'dut', VLAN interface 'v3': identifier 4095 on 'eth0' is another's already",
            ]
        );
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let neighbour = NeighbourSpec { interface: "eth5".to_owned(), address: "10.71.1.9".parse().unwrap(), mac };
        let found = problems(|topology| topology.hosts[0].neighbours.push(neighbour));
        assert_eq!(found, ["host 'client', neighbour 10.71.1.9: there is no interface 'eth5'"]);
        let found =
            problems(|topology| _ = topology.hosts[0].sysctls.insert("kernel.panic".to_owned(), "1".to_owned()));
        assert_eq!(
            found,
            ["host 'client', sysctl 'kernel.panic': is not one of a network namespace: those begin with 'net.'"]
        );
    }

    #[test]
    fn rules_and_sockets_are_checked() {
        let socket = |address: &str, port| SocketSpec { address: address.parse().unwrap(), port, receive_buffer: None };
        let found = problems(|topology| {
            topology.hosts[1].nftables = Some(" \n".to_owned());
            topology.hosts[1].sockets = vec![socket("10.71.1.9", 5), socket("10.71.1.2", 0), socket("10.71.1.2", 0)];
        });
        assert_eq!(
            found,
            [
                "host 'dut', nftables: has no rule",
                "host 'dut', socket 10.71.1.9:5: is at no address of the host",
                "host 'dut', socket 10.71.1.2:0: port 0 is any port",
                "host 'dut', socket 10.71.1.2:0: port 0 is any port",
                "host 'dut', socket 10.71.1.2:0: is given twice",
            ]
        );
        let sound = problems(|topology| topology.hosts[1].sockets = vec![socket("10.71.1.2", 5)]);
        assert!(sound.is_empty(), "{sound:?}");
    }

    #[test]
    fn an_impairment_makes_sense_and_has_the_queue_for_itself() {
        let found = problems(|topology| {
            let end = topology.end_mut("dut", "eth1").unwrap();
            end.impair = Some(toml::from_str("reorder = { percent = 5 }\nlimit-packets = 10").unwrap());
            end.queue_bytes = Some(1000);
        });
        assert_eq!(
            found,
            [
                "host 'dut', interface 'eth1', impair: reordering needs a delay that the others have",
                "host 'dut', interface 'eth1', impair: the interface has `queue-bytes` as well, and one queue: give `limit-packets` instead",
            ]
        );
    }

    #[test]
    fn an_empty_topology_says_so() {
        assert_eq!(Topology::default().validate().unwrap_err().to_string(), "invalid topology: topology: has no host");
        let lonely = Topology {
            links: vec![LinkSpec { ends: [EndSpec::default(), EndSpec::default()], mtu: 1500 }],
            ..presets::host(&[])
        };
        assert_eq!(lonely.validate().unwrap_err().problems.len(), 4);
    }
}
