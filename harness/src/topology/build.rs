//! From a description to a network that carries packets, and back.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::address::Prefix;
use super::error::TopologyError;
use super::ethtool;
use super::host::{Context, Host, Pending, Starting, kernel};
use super::impaired;
use super::local;
use super::namespace::{self, Owner};
use super::netlink::VethEnd;
use super::plan::{self, Interface, Kind};
use super::reap;
use super::spec::{HostSpec, NeighbourSpec, Role, RouteKind, Topology};
use super::sysctl;
use crate::kernel::nft;

/// Longest wait for interfaces and addresses to be usable. The kernel needs a millisecond; an emulated one on
/// a busy machine a thousand times that.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// A running network. It ends with [`Network::close`], or with its value.
#[derive(Debug)]
pub struct Network {
    topology: Topology,
    interfaces: Vec<Interface>,
    hosts: Vec<Host>,
    sockets: Vec<UdpSocket>,
}

impl Network {
    /// Builds a topology: on return all its interfaces are up and packets pass. Of a failure nothing is left.
    ///
    /// # Errors
    /// [`TopologyError::Invalid`] before anything is touched; [`TopologyError::Kernel`] with the operation that failed.
    pub fn build(topology: &Topology) -> Result<Self, TopologyError> {
        topology.validate()?;
        reap::once();
        let mut network = Self {
            topology: topology.clone(),
            interfaces: plan::interfaces(topology),
            hosts: Vec::new(),
            sockets: Vec::new(),
        };
        // From here on dropping `network` undoes what was done.
        network.make_hosts()?;
        network.make_links()?;
        network.each_host(|network, index| network.interface_setup(index))?;
        network.each_host(|network, index| network.wait_ready(index))?;
        network.each_host(|network, index| network.addressing(index))?;
        network.open_sockets()?;
        Ok(network)
    }

    /// What was built.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The hosts, in the order of the topology.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Reads what the sockets of the description hold until they are empty, and says how many datagrams each had.
    #[must_use]
    pub fn read_sockets(&self) -> Vec<(SocketAddr, u64)> {
        self.sockets.iter().filter_map(|socket| Some((socket.local_addr().ok()?, local::read_out(socket)))).collect()
    }

    /// The host of that name.
    ///
    /// # Errors
    /// [`TopologyError::NoHost`].
    pub fn host(&self, name: &str) -> Result<&Host, TopologyError> {
        self.hosts.iter().find(|host| host.name() == name).ok_or_else(|| TopologyError::NoHost(name.to_owned()))
    }

    /// The first host of that role.
    #[must_use]
    pub fn with_role(&self, role: Role) -> Option<&Host> {
        self.hosts.iter().find(|host| host.role() == role)
    }

    /// Takes the network down: ends each host's thread and removes its namespace, the last host first.
    ///
    /// What is in a namespace goes with it: the kernel unregisters the interfaces of all namespaces that end together
    /// in one go, in the background. Removing the links here first would take four times as long as all the rest, since
    /// each removal waits for every processor to have forgotten the interface. A namespace lives on, without a name,
    /// while somebody holds it: a socket made in it, a thread of [`Host::spawn`], a child process.
    ///
    /// # Errors
    /// [`TopologyError::Close`] with every part that could not be removed; all others were.
    pub fn close(mut self) -> Result<(), TopologyError> {
        let mut failures = self.take_down();
        let Some(first) = failures.first_mut() else { return Ok(()) };
        let source = match first {
            TopologyError::Kernel { source, .. } => io::Error::new(source.kind(), source.to_string()),
            _ => io::ErrorKind::Other.into(),
        };
        Err(TopologyError::Close { failures, source })
    }

    fn take_down(&mut self) -> Vec<TopologyError> {
        // A namespace lives on while a socket of it does.
        self.sockets.clear();
        let mut failures = Vec::new();
        while let Some(host) = self.hosts.pop() {
            failures.extend(host.close().err());
        }
        failures
    }

    pub(crate) fn interfaces_of(&self, host: usize) -> impl Iterator<Item = &Interface> {
        self.interfaces.iter().filter(move |interface| interface.host == host)
    }

    fn make_hosts(&mut self) -> Result<(), TopologyError> {
        let owner = Owner::this().map_err(|source| kernel("of this process", None, "read /proc", source))?;
        let number = namespace::next_network();
        // All threads at once: most of a namespace's cost is waiting in the kernel.
        let starting: Vec<_> = (self.topology.hosts.iter())
            .map(|host| Starting::new(&host.name, host.role, namespace::name(owner, number, &host.name)))
            .collect();
        let mut failed = None;
        for host in starting {
            match host.and_then(Starting::wait) {
                Ok(host) => self.hosts.push(host),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn make_links(&self) -> Result<(), TopologyError> {
        for (index, link) in self.topology.links.iter().enumerate() {
            let end = |wanted: usize| {
                let of_end = |interface: &&Interface| interface.kind == Kind::Veth { link: index, end: wanted };
                let interface = self.interfaces.iter().find(of_end).expect("both ends' hosts exist: validated");
                let host = &self.hosts[interface.host];
                let namespace = host.namespace_ref().fd().and_then(|fd| fd.try_clone_to_owned());
                let failed = |source| host.error(Some(&interface.name), "refer to its network namespace", source);
                Ok::<_, TopologyError>((host, interface.name.clone(), interface.mac, namespace.map_err(failed)?))
            };
            let ((host, one, one_mac, one_fd), (_, two, two_mac, two_fd)) = (end(0)?, end(1)?);
            let (mtu, arp, name) = (link.mtu, self.topology.arp, one.clone());
            let made = host.with(move |context| {
                use std::os::fd::AsFd as _;
                let one = VethEnd { name: &one, mac: one_mac, namespace: one_fd.as_fd() };
                let two = VethEnd { name: &two, mac: two_mac, namespace: two_fd.as_fd() };
                context.netlink.create_veth([one, two], mtu, arp)
            });
            let what = format!("make the link to host {}", link.ends[1].host);
            made.map_err(|source| host.error(Some(&name), what, source))?;
        }
        Ok(())
    }

    /// Starts a step on every host, then waits for all of them, so that no host's failure leaves another at work.
    fn each_host(
        &self,
        step: impl Fn(&Self, usize) -> Pending<Result<(), TopologyError>>,
    ) -> Result<(), TopologyError> {
        let pending: Vec<_> = (0..self.hosts.len()).map(|index| step(self, index)).collect();
        let results: Vec<_> = pending.into_iter().map(Pending::wait).collect();
        results.into_iter().collect()
    }

    fn interface_setup(&self, index: usize) -> Pending<Result<(), TopologyError>> {
        let spec = self.topology.hosts[index].clone();
        let interfaces: Vec<Interface> = self.interfaces_of(index).cloned().collect();
        let arp = self.topology.arp;
        self.hosts[index].start_with(move |context| {
            make_upper(context, &spec, &interfaces, arp)?;
            for interface in &interfaces {
                silence(context, &spec.name, interface, arp)?;
            }
            let failed = |(name, source)| kernel(&spec.name, None, format!("set {name}"), source);
            sysctl::set_all(&spec.sysctls).map_err(failed)?;
            for (name, bytes) in interfaces.iter().filter_map(|one| Some((&one.name, one.queue?))) {
                let queue = context.netlink.link(name).and_then(|link| context.netlink.set_queue(link.index, bytes));
                queue.map_err(|source| kernel(&spec.name, Some(name), "give it a queue", source))?;
            }
            for (name, impair) in interfaces.iter().filter_map(|one| Some((&one.name, one.impair.as_ref()?))) {
                impaired::impair(context, &spec.name, name, impair)?;
            }
            for name in std::iter::once("lo").chain(interfaces.iter().map(|interface| interface.name.as_str())) {
                let up = context.netlink.link(name).and_then(|link| context.netlink.set_up(link.index));
                up.map_err(|source| kernel(&spec.name, Some(name), "set it up", source))?;
            }
            Ok(())
        })
    }

    fn wait_ready(&self, index: usize) -> Pending<Result<(), TopologyError>> {
        let host = self.hosts[index].name().to_owned();
        let wanted: Vec<_> = (self.interfaces_of(index))
            .filter_map(|interface| Some((interface.name.clone(), interface.ready()?)))
            .collect();
        self.hosts[index].start_with(move |context| {
            let ready = context.netlink.wait_ready(&wanted, READY_LIMIT);
            ready.map_err(|source| kernel(&host, None, "bring its interfaces up", source))
        })
    }

    fn open_sockets(&mut self) -> Result<(), TopologyError> {
        for (host, spec) in self.hosts.iter().zip(&self.topology.hosts) {
            for socket in &spec.sockets {
                let (opened, at) = (socket.clone(), SocketAddr::new(socket.address, socket.port));
                let opened = host.run(move || opened.open());
                self.sockets.push(opened.map_err(|source| host.error(None, format!("open socket {at}"), source))?);
            }
        }
        Ok(())
    }

    fn addressing(&self, index: usize) -> Pending<Result<(), TopologyError>> {
        let spec = self.topology.hosts[index].clone();
        let interfaces: Vec<Interface> = self.interfaces_of(index).cloned().collect();
        let neighbours = plan::neighbours(&self.topology, &self.interfaces, index);
        self.hosts[index].start_with(move |context| {
            for interface in &interfaces {
                add_addresses(context, &spec.name, &interface.name, &interface.addresses)?;
            }
            let addresses = interfaces.iter().flat_map(|interface| &interface.addresses);
            let ipv6 = addresses.filter_map(|prefix| match prefix.address {
                IpAddr::V6(address) => Some(address),
                IpAddr::V4(_) => None,
            });
            let ready = context.netlink.wait_local(&ipv6.collect(), READY_LIMIT);
            ready.map_err(|source| kernel(&spec.name, None, "wait for its addresses", source))?;
            add_neighbours(context, &spec.name, &neighbours)?;
            add_routes(context, &spec)?;
            if let Some(rules) = &spec.nftables {
                nft::load_rules(rules).map_err(|source| kernel(&spec.name, None, "load its nftables rules", source))?;
            }
            Ok(())
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        _ = self.take_down();
    }
}

/// Makes bridges and VLAN interfaces over the links' ends.
fn make_upper(context: &Context, spec: &HostSpec, interfaces: &[Interface], arp: bool) -> Result<(), TopologyError> {
    let netlink = &context.netlink;
    let failed = |interface: &str, what: &str, source| kernel(&spec.name, Some(interface), what, source);
    for interface in interfaces {
        let name = &interface.name;
        match &interface.kind {
            Kind::Veth { .. } => {}
            Kind::Bridge { .. } => {
                netlink
                    .create_bridge(name, interface.mac, arp)
                    .map_err(|source| failed(name, "make a bridge", source))?;
            }
            Kind::Vlan(vlan) => {
                let made = netlink.link(&vlan.parent).and_then(|parent| netlink.create_vlan(vlan, parent.index, arp));
                made.map_err(|source| failed(name, "make a VLAN interface", source))?;
            }
        }
    }
    // A port may be a VLAN interface: all of them exist by now.
    for interface in interfaces {
        let Kind::Bridge { ports, learning } = &interface.kind else { continue };
        for port in ports {
            let added = netlink
                .link(port)
                .and_then(|link| netlink.add_port(link.index, netlink.link(&interface.name)?.index, *learning));
            added.map_err(|source| failed(port, "make it a bridge's port", source))?;
        }
    }
    Ok(())
}

/// Offloads off, IPv6 only where it is wanted.
fn silence(context: &Context, host: &str, interface: &Interface, arp: bool) -> Result<(), TopologyError> {
    let name = interface.name.as_str();
    let failed = |what: &str, source| kernel(host, Some(name), what, source);
    ethtool::set_all(&context.socket, name, &interface.offloads).map_err(|source| failed("set offloads", source))?;
    let set = |parameter: &str, value| sysctl::set(&format!("net/ipv6/conf/{name}/{parameter}"), value);
    if interface.ipv6 && arp {
        // A router asks for its neighbours from its link-local address (net/ipv6/ndisc.c, `ndisc_solicit`).
        set("addr_gen_mode", "0").map_err(|source| failed("have a link-local address", source))?;
    }
    if interface.ipv6 {
        set("disable_ipv6", "0").map_err(|source| failed("enable IPv6", source))?;
    }
    Ok(())
}

fn add_addresses(context: &Context, host: &str, interface: &str, addresses: &[Prefix]) -> Result<(), TopologyError> {
    if addresses.is_empty() {
        return Ok(());
    }
    let link = context.netlink.link(interface);
    let link = link.map_err(|source| kernel(host, Some(interface), "look at it", source))?;
    for &address in addresses {
        let added = context.netlink.add_address(link.index, address);
        added.map_err(|source| kernel(host, Some(interface), format!("add address {address}"), source))?;
    }
    Ok(())
}

fn add_neighbours(context: &Context, host: &str, neighbours: &[NeighbourSpec]) -> Result<(), TopologyError> {
    for neighbour in neighbours {
        let link = context.netlink.link(&neighbour.interface);
        let added = link.and_then(|link| context.netlink.add_neighbour(link.index, neighbour));
        let what = || format!("add neighbour {} at {}", neighbour.address, neighbour.mac);
        added.map_err(|source| kernel(host, Some(&neighbour.interface), what(), source))?;
    }
    Ok(())
}

fn add_routes(context: &Context, spec: &HostSpec) -> Result<(), TopologyError> {
    for route in &spec.routes {
        // IPv4 wants an interface for what is delivered here; the one that says nothing of where it comes from is this.
        let loopback = (route.kind == RouteKind::Local).then_some("lo");
        let interface = route.interface.as_deref().or(loopback);
        let interface = interface.map(|name| context.netlink.link(name)).transpose();
        let added = interface
            .and_then(|link| context.netlink.add_route(route.to, route.via, link.map(|link| link.index), route.kind));
        let via = route.via.map_or_else(String::new, |via| format!(" via {via}"));
        let what = || format!("add route to {}{via}", route.to);
        added.map_err(|source| kernel(&spec.name, route.interface.as_deref(), what(), source))?;
    }
    Ok(())
}
