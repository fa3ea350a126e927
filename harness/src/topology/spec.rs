//! A topology as data: what a scenario's author writes. Nothing here touches the machine.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::address::{Mac, Prefix};
use super::ethtool::Offload;
use super::impair::Impairment;
use super::local::SocketSpec;

/// Hosts and the links between them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Topology {
    /// What reports call it.
    #[serde(default)]
    pub name: String,
    /// Whether addresses are resolved by ARP and neighbour discovery, and groups joined by MLD, as on a real network.
    /// By default neighbours are permanent entries computed from this description and the interfaces say nothing by
    /// themselves, so that every packet seen is one that was sent on purpose.
    #[serde(default)]
    pub arp: bool,
    /// Each a network namespace.
    pub hosts: Vec<HostSpec>,
    /// Each a pair of virtual Ethernet interfaces.
    #[serde(default)]
    pub links: Vec<LinkSpec>,
}

/// What a host is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Sends what the capture's initiators sent.
    Client,
    /// The device under test: the programs run here.
    Dut,
    /// Sends what the capture's responders sent.
    Server,
    /// Anything else.
    #[default]
    Other,
}

/// One host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HostSpec {
    /// Unique in the topology: lower-case letters, digits and dashes.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub role: Role,
    /// Kernel parameters of the host's network namespace, `net.ipv4.ip_forward` or with slashes where an interface's
    /// name has a dot: `net/ipv4/conf/eth0.7/rp_filter`. They are set after the interfaces exist and before they are up.
    #[serde(default, deserialize_with = "values", skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Bridges over the host's interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bridges: Vec<BridgeSpec>,
    /// VLAN interfaces, in the order in which they are made: a parent before its children.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<VlanSpec>,
    /// Routes beside those which the addresses imply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteSpec>,
    /// Permanent neighbours beside those which are computed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbours: Vec<NeighbourSpec>,
    /// Rules of the packet filter, in the language of nft(8), which loads them; a scenario that has some requires
    /// `nftables`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nftables: Option<String>,
    /// UDP sockets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<SocketSpec>,
}

/// A pair of virtual Ethernet interfaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LinkSpec {
    /// The two interfaces.
    pub ends: [EndSpec; 2],
    /// Largest network-layer packet in bytes, without the Ethernet header.
    #[serde(default = "default_mtu")]
    pub mtu: u32,
}

/// One end of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EndSpec {
    /// The host it is in.
    pub host: String,
    /// Its name there, at most 15 bytes.
    pub interface: String,
    /// Its hardware address; computed from the position in this description where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Prefix>,
    /// Whether a native XDP program will be attached: limits the MTU.
    #[serde(default)]
    pub xdp: bool,
    /// Offloads that stay on; all others are turned off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offloads: Vec<Offload>,
    /// Room of the queue on the way out, bytes with Ethernet headers (the queueing discipline `bfifo`). A link's other
    /// end always takes what comes, so that the queue is empty but for the packet that enters it: what is larger than
    /// this is dropped, and nothing else. Without it there is no queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_bytes: Option<u32>,
    /// What befalls packets on the way out: loss, delay and the like. Of a link's two ends each impairs one direction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impair: Option<Impairment>,
}

/// A transparent bridge: no spanning tree, no multicast snooping, and every reserved group address that the kernel
/// lets pass is forwarded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BridgeSpec {
    /// Its name in the host.
    pub name: String,
    /// Interfaces of the same host.
    pub ports: Vec<String>,
    /// Whether the bridge learns where a source address is. By default it does not and floods, so that a capture's
    /// frame that enters one port leaves by all others, whichever side its addresses were seen on before.
    #[serde(default)]
    pub learning: bool,
    /// Its hardware address; computed where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Prefix>,
}

/// The protocol of a VLAN tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum VlanProtocol {
    /// Customer tag, Ethertype 0x8100.
    #[default]
    #[serde(rename = "802.1q", alias = "802.1Q")]
    Customer,
    /// Service tag, Ethertype 0x88a8.
    #[serde(rename = "802.1ad", alias = "802.1AD")]
    Service,
}

/// A VLAN interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct VlanSpec {
    /// Its name in the host.
    pub name: String,
    /// The interface whose tagged frames it sees; another VLAN interface for stacked tags.
    pub parent: String,
    /// VLAN identifier, 1 to 4094.
    pub id: u16,
    /// The tag's protocol.
    #[serde(default)]
    pub protocol: VlanProtocol,
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Prefix>,
}

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteKind {
    /// Sends it on.
    #[default]
    Unicast,
    /// Delivers it to this host, whichever of the prefix's addresses it bears.
    Local,
    /// Drops it silently.
    Blackhole,
    /// Drops it with ICMP "host unreachable".
    Unreachable,
    /// Drops it with ICMP "administratively prohibited".
    Prohibit,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RouteSpec {
    /// Destination network; `0.0.0.0/0` and `::/0` are the default routes.
    pub to: Prefix,
    /// Next hop, an address of a network that the host is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// Interface; needed where there is no next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// What the route does.
    #[serde(default)]
    pub kind: RouteKind,
}

/// A permanent neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NeighbourSpec {
    /// The interface by which it is reached.
    pub interface: String,
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: Mac,
}

/// What MTU a link has where none is given.
pub const DEFAULT_MTU: u32 = 1500;

const fn default_mtu() -> u32 {
    DEFAULT_MTU
}

impl Topology {
    /// The same topology with another MTU on every link.
    #[must_use]
    pub fn with_mtu(mut self, mtu: u32) -> Self {
        for link in &mut self.links {
            link.mtu = mtu;
        }
        self
    }

    /// The host of that name.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&HostSpec> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// The host of that name, to change.
    pub fn host_mut(&mut self, name: &str) -> Option<&mut HostSpec> {
        self.hosts.iter_mut().find(|host| host.name == name)
    }

    /// The interfaces at the ends of a host's links.
    #[must_use]
    pub fn interfaces(&self, host: &str) -> Vec<&str> {
        let ends = self.links.iter().flat_map(|link| &link.ends);
        ends.filter(|end| end.host == host).map(|end| end.interface.as_str()).collect()
    }

    /// The end of a link in a host, by the interface's name.
    #[must_use]
    pub fn end(&self, host: &str, interface: &str) -> Option<&EndSpec> {
        self.links.iter().flat_map(|link| &link.ends).find(|end| end.host == host && end.interface == interface)
    }

    /// The end of a link in a host, to change.
    pub fn end_mut(&mut self, host: &str, interface: &str) -> Option<&mut EndSpec> {
        self.links.iter_mut().flat_map(|link| &mut link.ends).find(|end| end.host == host && end.interface == interface)
    }
}

impl EndSpec {
    /// An end with addresses.
    #[must_use]
    pub fn new(host: &str, interface: &str, addresses: &[Prefix]) -> Self {
        Self {
            host: host.to_owned(),
            interface: interface.to_owned(),
            addresses: addresses.to_vec(),
            ..Self::default()
        }
    }

    /// The same end, made ready for a native XDP program.
    #[must_use]
    pub fn with_xdp(mut self) -> Self {
        self.xdp = true;
        self
    }
}

impl RouteSpec {
    /// A route to a network through a next hop.
    #[must_use]
    pub const fn via(to: Prefix, via: IpAddr) -> Self {
        Self { to, via: Some(via), interface: None, kind: RouteKind::Unicast }
    }
}

/// Values of kernel parameters are text, and most are numbers: an author may write either.
fn values<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Value {
        Number(i64),
        Text(String),
    }
    let values = BTreeMap::<String, Value>::deserialize(from)?;
    let text = |value| match value {
        Value::Number(number) => number.to_string(),
        Value::Text(text) => text,
    };
    Ok(values.into_iter().map(|(name, value)| (name, text(value))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        name = "edge"
        [[hosts]]
        name = "client"
        role = "client"
        routes = [{ to = "0.0.0.0/0", via = "192.0.2.2" }, { to = "198.51.100.0/24", kind = "blackhole" }]
        vlans = [{ name = "eth0.7", parent = "eth0", id = 7, protocol = "802.1ad", addresses = ["10.7.0.1/24"] }]
        [[hosts]]
        name = "dut"
        role = "dut"
        sysctls = { "net.ipv4.ip_forward" = 1, "net.ipv4.tcp_congestion_control" = "reno" }
        bridges = [{ name = "br0", ports = ["eth0"], addresses = ["192.0.2.2/24"] }]
        neighbours = [{ interface = "br0", address = "192.0.2.9", mac = "02:00:00:00:00:09" }]
        [[links]]
        mtu = 3000
        ends = [
            { host = "client", interface = "eth0", addresses = ["192.0.2.1/24", "2001:db8::1/64"] },
            { host = "dut", interface = "eth0", mac = "02:00:00:00:00:01", xdp = true, offloads = ["gro"] },
        ]
    "#;

    #[test]
    fn a_topology_is_read_from_text() {
        let topology: Topology = toml::from_str(TEXT).unwrap();
        topology.validate().unwrap();
        let [client, dut] = topology.hosts.as_slice() else { panic!("{:?}", topology.hosts) };
        assert_eq!((client.role, dut.role), (Role::Client, Role::Dut));
        assert_eq!(client.routes[1].kind, RouteKind::Blackhole);
        assert_eq!(client.vlans[0].protocol, VlanProtocol::Service);
        assert_eq!(dut.sysctls["net.ipv4.ip_forward"], "1");
        assert!(!dut.bridges[0].learning);
        let end = topology.end("dut", "eth0").unwrap();
        assert_eq!((end.xdp, end.offloads.as_slice(), topology.links[0].mtu), (true, &[Offload::Gro][..], 3000));
        assert_eq!(topology.with_mtu(1400).links[0].mtu, 1400);
    }

    #[test]
    fn a_topology_written_is_the_same_read() {
        for topology in [toml::from_str(TEXT).unwrap(), super::super::presets::router()] {
            let text = toml::to_string(&topology).unwrap();
            assert_eq!(toml::from_str::<Topology>(&text).unwrap(), topology, "{text}");
        }
    }

    #[test]
    fn unknown_keys_and_wrong_values_are_named() {
        for (from, to, expected) in [
            ("mtu = 3000", "mtuu = 3000", "unknown field `mtuu`"),
            ("xdp = true", "xpd = true", "unknown field `xpd`"),
            ("role = \"dut\"", "role = \"duct\"", "unknown variant `duct`"),
            ("192.0.2.1/24", "192.0.2.1/33", "'192.0.2.1/33' is not an address with a prefix length"),
            ("02:00:00:00:00:01", "02:00:00", "'02:00:00' is not a hardware address"),
        ] {
            let error = toml::from_str::<Topology>(&TEXT.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
