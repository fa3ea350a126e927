//! What a topology amounts to, interface by interface: computed addresses, who is whose neighbour.

use std::collections::{BTreeMap, BTreeSet};

use super::address::{Mac, Prefix};
use super::ethtool::Offload;
use super::impair::Impairment;
use super::netlink::Ready;
use super::spec::{BridgeSpec, HostSpec, NeighbourSpec, RouteKind, Topology, VlanSpec};

/// One interface of a host, as it will be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Index of the host in the topology.
    pub(crate) host: usize,
    pub(crate) name: String,
    pub(crate) mac: Mac,
    pub(crate) mtu: u32,
    pub(crate) addresses: Vec<Prefix>,
    pub(crate) offloads: Vec<Offload>,
    /// Room of its queue, bytes.
    pub(crate) queue: Option<u32>,
    /// What befalls packets on the way out.
    pub(crate) impair: Option<Impairment>,
    /// Whether anything here needs IPv6; it is disabled otherwise, since enabling it joins groups and says so.
    pub(crate) ipv6: bool,
    pub(crate) kind: Kind,
}

impl Interface {
    /// When it is ready; never for a bridge without ports, which has no carrier.
    pub(crate) fn ready(&self) -> Option<Ready> {
        match &self.kind {
            Kind::Bridge { ports, .. } if ports.is_empty() => None,
            Kind::Bridge { .. } if self.addresses.is_empty() => Some(Ready::Carrier),
            _ => Some(Ready::Operational),
        }
    }
}

/// What an interface is made as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// End 0 or 1 of a link.
    Veth { link: usize, end: usize },
    /// A bridge over interfaces of the host.
    Bridge { ports: Vec<String>, learning: bool },
    /// A VLAN interface on another one of the host.
    Vlan(VlanSpec),
}

/// Every interface of a topology, hosts in order, and within a host links, bridges and VLANs in order.
/// Unknown names are left out: `validate` names them.
pub(crate) fn interfaces(topology: &Topology) -> Vec<Interface> {
    let mut all = Vec::new();
    for (index, host) in topology.hosts.iter().enumerate() {
        let first = all.len();
        for (link, spec) in topology.links.iter().enumerate() {
            for (end, side) in spec.ends.iter().enumerate().filter(|(_, side)| side.host == host.name) {
                all.push(Interface {
                    host: index,
                    name: side.interface.clone(),
                    mac: side.mac.unwrap_or_else(|| derived_mac(index, all.len() - first)),
                    mtu: spec.mtu,
                    addresses: side.addresses.clone(),
                    offloads: side.offloads.clone(),
                    queue: side.queue_bytes,
                    impair: side.impair.clone(),
                    ipv6: wants_ipv6(host, &side.interface, &side.addresses),
                    kind: Kind::Veth { link, end },
                });
            }
        }
        for bridge in &host.bridges {
            let mac = bridge.mac.unwrap_or_else(|| derived_mac(index, all.len() - first));
            all.push(bridge_interface(index, host, bridge, mac, &all[first..]));
        }
        for vlan in &host.vlans {
            let Some(parent) = all[first..].iter().find(|interface| interface.name == vlan.parent) else { continue };
            all.push(Interface {
                host: index,
                name: vlan.name.clone(),
                mac: parent.mac,
                mtu: parent.mtu,
                addresses: vlan.addresses.clone(),
                offloads: parent.offloads.clone(),
                queue: None,
                impair: None,
                ipv6: wants_ipv6(host, &vlan.name, &vlan.addresses),
                kind: Kind::Vlan(vlan.clone()),
            });
        }
    }
    all
}

fn bridge_interface(index: usize, host: &HostSpec, bridge: &BridgeSpec, mac: Mac, siblings: &[Interface]) -> Interface {
    // The kernel gives a bridge the smallest MTU of its ports (net/bridge/br_if.c, br_mtu_auto_adjust).
    let ports = siblings.iter().filter(|interface| bridge.ports.contains(&interface.name));
    Interface {
        host: index,
        name: bridge.name.clone(),
        mac,
        mtu: ports.map(|port| port.mtu).min().unwrap_or(super::spec::DEFAULT_MTU),
        addresses: bridge.addresses.clone(),
        offloads: Vec::new(),
        queue: None,
        impair: None,
        ipv6: wants_ipv6(host, &bridge.name, &bridge.addresses),
        kind: Kind::Bridge { ports: bridge.ports.clone(), learning: bridge.learning },
    }
}

fn wants_ipv6(host: &HostSpec, interface: &str, addresses: &[Prefix]) -> bool {
    addresses.iter().any(|prefix| prefix.address.is_ipv6())
        || host.neighbours.iter().any(|neighbour| neighbour.interface == interface && neighbour.address.is_ipv6())
        || (host.routes.iter()).any(|route| route.interface.as_deref() == Some(interface) && route.to.address.is_ipv6())
}

/// A locally administered address (`02:...`, IEEE 802-2014 section 8.2.2) that says where it is from: "bpf", the host's
/// position and the interface's.
fn derived_mac(host: usize, interface: usize) -> Mac {
    let byte = |index: usize| u8::try_from(index).unwrap_or(u8::MAX);
    Mac([0x02, b'b', b'p', b'f', byte(host), byte(interface)])
}

/// Which interfaces hear each other's frames: for each interface the number of its segment.
pub(crate) fn segments(topology: &Topology, interfaces: &[Interface]) -> Vec<usize> {
    let mut segment: Vec<usize> = (0..interfaces.len()).collect();
    let mut links: BTreeMap<usize, usize> = BTreeMap::new();
    for (index, interface) in interfaces.iter().enumerate() {
        match &interface.kind {
            Kind::Veth { link, .. } => match links.get(link) {
                Some(&other) => join(&mut segment, index, other),
                None => _ = links.insert(*link, index),
            },
            Kind::Bridge { ports, .. } => {
                for port in ports.iter().filter_map(|port| position(interfaces, interface.host, port)) {
                    join(&mut segment, index, port);
                }
            }
            Kind::Vlan(_) => {}
        }
    }
    // Two VLAN interfaces hear each other if their parents do and their tags are equal. One round settles one level of
    // stacking, so as many rounds as there are VLAN interfaces settle all.
    let tags: Vec<(usize, usize, &VlanSpec)> = (interfaces.iter().enumerate())
        .filter_map(|(index, interface)| match &interface.kind {
            Kind::Vlan(vlan) => Some((index, position(interfaces, interface.host, &vlan.parent)?, vlan)),
            _ => None,
        })
        .collect();
    for _ in 0..topology.hosts.iter().map(|host| host.vlans.len()).sum() {
        for &(one, one_parent, one_tag) in &tags {
            for &(two, two_parent, two_tag) in &tags {
                let same_tag = one_tag.id == two_tag.id && one_tag.protocol == two_tag.protocol;
                if same_tag && segment[one_parent] == segment[two_parent] {
                    join(&mut segment, one, two);
                }
            }
        }
    }
    segment
}

/// Position of a host's interface in the list.
pub(crate) fn position(interfaces: &[Interface], host: usize, name: &str) -> Option<usize> {
    interfaces.iter().position(|interface| interface.host == host && interface.name == name)
}

fn join(segment: &mut [usize], one: usize, two: usize) {
    let (from, to) = (segment[one], segment[two]);
    for number in segment.iter_mut().filter(|number| **number == from) {
        *number = to;
    }
}

/// The networks that an interface is on: of its addresses, and of the routes that lead out of it without a next hop.
pub(crate) fn on_link(host: &HostSpec, interface: &Interface) -> Vec<Prefix> {
    let routes = host.routes.iter().filter(|route| {
        route.kind == RouteKind::Unicast
            && route.via.is_none()
            && route.interface.as_deref() == Some(interface.name.as_str())
    });
    interface.addresses.iter().copied().chain(routes.map(|route| route.to)).collect()
}

/// The permanent neighbours of a host: those its description gives, then the addresses of every interface of the same
/// segment on a network that the host is on. With ARP they are left to the protocol.
pub(crate) fn neighbours(topology: &Topology, interfaces: &[Interface], host: usize) -> Vec<NeighbourSpec> {
    let spec = &topology.hosts[host];
    let mut all = spec.neighbours.clone();
    if topology.arp {
        return all;
    }
    let mut known: BTreeSet<_> = all.iter().map(|known| (known.interface.clone(), known.address)).collect();
    let segment = segments(topology, interfaces);
    for (mine, interface) in interfaces.iter().enumerate().filter(|(_, interface)| interface.host == host) {
        let networks = on_link(spec, interface);
        let others = (0..interfaces.len()).filter(|&other| other != mine && segment[other] == segment[mine]);
        for other in others.map(|other| &interfaces[other]).filter(|other| other.host != host) {
            for address in other.addresses.iter().map(|prefix| prefix.address) {
                let reached = networks.iter().any(|network| network.contains(address));
                if reached && known.insert((interface.name.clone(), address)) {
                    all.push(NeighbourSpec { interface: interface.name.clone(), address, mac: other.mac });
                }
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::presets;

    fn neighbours_of(topology: &Topology, host: usize) -> Vec<String> {
        (neighbours(topology, &interfaces(topology), host).iter())
            .map(|neighbour| format!("{} {} {}", neighbour.interface, neighbour.address, neighbour.mac))
            .collect()
    }

    #[test]
    fn neighbours_are_those_of_the_segment() {
        // Host 2's only interface, through the bridge of host 1.
        assert_eq!(
            neighbours_of(&presets::bridge(), 0),
            ["eth0 10.71.0.2 02:62:70:66:02:00", "eth0 fd71::2 02:62:70:66:02:00",]
        );
        assert_eq!(neighbours_of(&presets::bridge(), 1), [""; 0]);
        // The two interfaces of host 1, each with its own side.
        assert_eq!(
            neighbours_of(&presets::router(), 1),
            [
                "eth0 10.71.1.1 02:62:70:66:00:00",
                "eth0 fd71:1::1 02:62:70:66:00:00",
                "eth1 10.71.2.2 02:62:70:66:02:00",
                "eth1 fd71:2::2 02:62:70:66:02:00",
            ]
        );
        assert_eq!(neighbours_of(&Topology { arp: true, ..presets::router() }, 1), [""; 0]);
    }

    #[test]
    fn equal_tags_on_one_segment_make_a_segment() {
        let mut topology = presets::bridge();
        let vlan = |name: &str, parent: &str, id, address: &str| VlanSpec {
            name: name.to_owned(),
            parent: parent.to_owned(),
            id,
            addresses: vec![address.parse().unwrap()],
            ..VlanSpec::default()
        };
        // Two tags deep on both sides of the bridge, and a third interface whose outer tag differs.
        topology.hosts[0].vlans = vec![vlan("o", "eth0", 7, "10.7.0.1/24"), vlan("i", "o", 8, "10.8.0.1/24")];
        topology.hosts[2].vlans = vec![
            vlan("o", "eth0", 7, "10.7.0.2/24"),
            vlan("i", "o", 8, "10.8.0.2/24"),
            vlan("other", "eth0", 9, "10.9.0.2/24"),
            vlan("other-i", "other", 8, "10.8.0.3/24"),
        ];
        topology.validate().unwrap();
        assert_eq!(
            neighbours_of(&topology, 0)[2..],
            ["o 10.7.0.2 02:62:70:66:02:00".to_owned(), "i 10.8.0.2 02:62:70:66:02:00".to_owned(),]
        );
    }
}
