//! Whether a network is what its description promised.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::build::Network;
use super::error::TopologyError;
use super::host::Host;
use super::impaired;
use super::netlink::{LinkState, Ready};
use super::plan::{Interface, Kind};

/// One property that is not as promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// The host.
    pub host: String,
    /// The interface; empty for the host itself.
    pub interface: String,
    /// The property.
    pub property: &'static str,
    /// What was promised.
    pub expected: String,
    /// What is.
    pub found: String,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, interface, property, expected, found } = self;
        let place = if interface.is_empty() { host.clone() } else { format!("{host} {interface}") };
        write!(f, "{place}: {property} is {found}, not {expected}")
    }
}

/// Reads back what a network's description promised: interfaces up with their hardware address, MTU, addresses and
/// offloads, bridge ports forwarding, IPv6 only where wanted, no group to report, kernel parameters.
///
/// # Errors
/// Where something cannot be read; a missing interface is a deviation, not an error.
pub fn verify(network: &Network) -> Result<Vec<Deviation>, TopologyError> {
    let mut all = Vec::new();
    for (index, host) in network.hosts().iter().enumerate() {
        let mut links = host.links()?;
        for link in &mut links {
            // The list may have an old state, see `Netlink::wait_ready`.
            *link = host.link(&link.name)?;
        }
        for interface in network.interfaces_of(index) {
            let mut check = Check { host, interface, all: &mut all };
            match links.iter().find(|link| link.name == interface.name) {
                Some(link) => check.interface(link, &links, network.topology().arp)?,
                None => check.is("presence", &"there", &"missing"),
            }
        }
        if !network.topology().arp {
            let joined = host.groups()?;
            let unwanted: Vec<_> = joined.into_iter().filter(|(_, group)| !is_silent(*group)).collect();
            if !unwanted.is_empty() {
                all.push(Deviation {
                    host: host.name().to_owned(),
                    interface: String::new(),
                    property: "IPv6 groups joined",
                    expected: "none that are reported".to_owned(),
                    found: format!("{unwanted:?}"),
                });
            }
        }
        for (name, value) in &network.topology().hosts[index].sysctls {
            // The kernel may separate several numbers with tabs.
            let words = |text: &str| text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
            let (expected, found) = (words(value), words(&host.sysctl(name)?));
            if expected != found {
                let interface = String::new();
                let expected = format!("{name} = {expected}");
                all.push(Deviation { host: host.name().to_owned(), interface, property: "sysctl", expected, found });
            }
        }
    }
    Ok(all)
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Whether being in a group is never reported: all nodes, and groups of interface scope (RFC 3810 section 6).
fn is_silent(group: Ipv6Addr) -> bool {
    let scope = group.octets()[1] & 0xf;
    scope < 2 || group == Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)
}

struct Check<'a> {
    host: &'a Host,
    interface: &'a Interface,
    all: &'a mut Vec<Deviation>,
}

impl Check<'_> {
    fn is<T: fmt::Debug + PartialEq>(&mut self, property: &'static str, expected: &T, found: &T) {
        if expected != found {
            self.all.push(Deviation {
                host: self.host.name().to_owned(),
                interface: self.interface.name.clone(),
                property,
                expected: format!("{expected:?}"),
                found: format!("{found:?}"),
            });
        }
    }

    fn interface(&mut self, link: &LinkState, links: &[LinkState], arp: bool) -> Result<(), TopologyError> {
        let interface = self.interface;
        match interface.ready() {
            Some(Ready::Operational) => self.is("operational", &true, &link.is_up),
            Some(Ready::Carrier) => self.is("carrier", &true, &link.has_carrier),
            None => {}
        }
        self.is("MTU", &interface.mtu, &link.mtu);
        self.is("hardware address", &interface.mac, &link.mac);
        self.is("ARP", &arp, &link.arp);
        let mut found = self.host.addresses(&interface.name)?;
        // With ARP the kernel adds a link-local address of its own.
        found.retain(|prefix| !(arp && is_link_local(prefix.address)) || interface.addresses.contains(prefix));
        self.is("addresses", &interface.addresses.iter().collect(), &found.iter().collect::<BTreeSet<_>>());
        let found = self.host.offloads(&interface.name)?;
        self.is("offloads", &interface.offloads.iter().copied().collect::<BTreeSet<_>>(), &found);
        self.ipv6()?;
        if let Some(impair) = &interface.impair {
            for (property, expected, found) in impaired::differences(self.host, &interface.name, impair)? {
                let (host, interface) = (self.host.name().to_owned(), interface.name.clone());
                self.all.push(Deviation { host, interface, property, expected, found });
            }
        }
        if let Kind::Bridge { ports, learning } = &interface.kind {
            for port in links.iter().filter(|other| ports.contains(&other.name)) {
                self.is("bridge of a port", &Some(link.index), &port.bridge);
                self.is("forwarding of a port", &Some(true), &port.forwarding);
                self.is("learning from a port", &Some(*learning), &port.learning);
            }
        }
        Ok(())
    }

    fn ipv6(&mut self) -> Result<(), TopologyError> {
        let name = format!("net/ipv6/conf/{}/disable_ipv6", self.interface.name);
        match self.host.sysctl(&name) {
            Ok(disabled) => self.is("IPv6", &self.interface.ipv6, &(disabled == "0")),
            // A kernel without IPv6, or an MTU too small for it.
            Err(error) if error.is_missing() => self.is("IPv6", &self.interface.ipv6, &false),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
