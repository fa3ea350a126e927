//! The hosts of a topology, as traffic names them.

use std::collections::BTreeMap;

use super::place::Hosts;
use crate::topology::{Prefix, Role, Topology};

impl From<&Topology> for Hosts {
    /// Traffic goes from the first client to the first server that has an address, else to the device under test.
    fn from(topology: &Topology) -> Self {
        let mut addresses: BTreeMap<String, Vec<Prefix>> = BTreeMap::new();
        for host in &topology.hosts {
            let ends = topology.links.iter().flat_map(|link| &link.ends).filter(|end| end.host == host.name);
            let own = addresses.entry(host.name.clone()).or_default();
            own.extend(ends.flat_map(|end| &end.addresses));
            own.extend(host.bridges.iter().flat_map(|bridge| &bridge.addresses));
            own.extend(host.vlans.iter().flat_map(|vlan| &vlan.addresses));
        }
        let first = |role: Role| {
            let hosts = topology.hosts.iter().filter(|host| host.role == role).map(|host| &host.name);
            hosts.clone().find(|name| addresses.get(*name).is_some_and(|own| !own.is_empty())).cloned()
        };
        let client = first(Role::Client).unwrap_or_else(|| "client".to_owned());
        let server = first(Role::Server).or_else(|| first(Role::Dut)).unwrap_or_else(|| "server".to_owned());
        Self { addresses, client, server }
    }
}
