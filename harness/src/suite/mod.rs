//! The suite: six analysis programs, each an object of its own with a reader that turns its maps and events into its
//! part of an [`Observation`].

pub mod cost;
pub mod drops;
pub mod flows;
pub mod format;
pub mod latency;
pub mod protocols;
pub mod sockets;
pub mod tcp_state;

use crate::object::{Object, ObjectError};
use crate::observation::{self, Observation};
use crate::topology::{Network, Role, TopologyError};
use crate::wire::{Attachments, WireError};

/// The suite's objects that analyse traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Family {
    /// Per-flow accounting and malformed packets.
    Flows,
    /// TCP connections.
    TcpState,
    /// Kernel drops by reason, place and class, and the ICMP errors sent for them.
    Drops,
    /// DNS, HTTP and TLS.
    Protocols,
    /// What the kernel says of its own TCP sockets, held against `tcp_state`.
    Sockets,
    /// How long packets take through the kernel's receive path, to the application's read.
    Latency,
}

impl Family {
    /// Those that run where none is named. `latency` times each packet at several places, and speaks of this machine
    /// rather than of the capture; `sockets` speaks of sockets, of which a replay has none.
    pub const DEFAULT: [Self; 4] = [Self::Flows, Self::TcpState, Self::Drops, Self::Protocols];
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP, native, on the interfaces of the device under test.
    Xdp,
    /// tc ingress of the same interfaces.
    TcIngress,
    /// tc egress of the same interfaces.
    TcEgress,
    /// A BTF-typed raw tracepoint of that name; only where packets meet the kernel's stack (wire mode).
    Tracepoint(&'static str),
}

/// A host of the topology as the kernel's programs see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedHost {
    /// Its name in the topology.
    pub name: String,
    /// Inode number of its network namespace (`stat /proc/self/ns/net`).
    pub netns: u32,
    /// Index of an interface of the host whose drops are no drops of packets, or 0: that of a bridge without addresses,
    /// which hands a copy of each group frame to a stack that has no use for it.
    pub silent: u32,
}

/// One object of the suite with its reader.
pub trait Analyzer: Send {
    /// The object, for loading and attaching.
    fn object(&self) -> &Object;
    /// As [`Analyzer::object`].
    fn object_mut(&mut self) -> &mut Object;
    /// Its programs and their hooks, in the order they run.
    fn programs(&self) -> &'static [(&'static str, Hook)];
    /// Tells the object which network namespaces to look at. Without effect on objects that see only packets.
    ///
    /// # Errors
    /// A map that cannot be written.
    fn watch(&mut self, hosts: &[WatchedHost]) -> Result<(), ObjectError> {
        let _ = hosts;
        Ok(())
    }
    /// Makes everything as it was after loading, for another run: maps, rings and what was read of them. Programs stay
    /// loaded; none may be attached.
    ///
    /// # Errors
    /// A map that cannot be emptied; then the object cannot be used any more.
    fn reset(&mut self) -> Result<(), ObjectError>;
    /// Takes in the events that are ready; called every few packets and once at the end, and cheap if there are none.
    ///
    /// # Errors
    /// A map that cannot be read.
    fn drain(&mut self) -> Result<(), ObjectError> {
        Ok(())
    }
    /// Reads the maps and adds this object's part to `observation`, losses included. `start_ns` is the time of the
    /// first packet by the object's clock; relative times count from it.
    ///
    /// # Errors
    /// A map that cannot be read.
    fn finish(&mut self, start_ns: u64, observation: &mut Observation) -> Result<(), ObjectError>;
}

/// Lets every analyzer take in its events.
///
/// # Errors
/// The first one's.
pub fn drain(analyzers: &mut [Box<dyn Analyzer>]) -> Result<(), ObjectError> {
    analyzers.iter_mut().try_for_each(|analyzer| analyzer.drain())
}

/// Attaches the programs of `analyzers` to the device under test, in their order, and tells them its hosts.
///
/// # Errors
/// A program that cannot be loaded or attached.
pub fn attach(
    analyzers: &mut [Box<dyn Analyzer>],
    attachments: &mut Attachments,
    network: &Network,
) -> Result<(), WireError> {
    let hosts = watched(network)?;
    for analyzer in analyzers {
        analyzer.watch(&hosts)?;
        for &(program, hook) in analyzer.programs() {
            let object = analyzer.object_mut();
            match hook {
                Hook::Xdp => attachments.xdp(object, program)?,
                Hook::TcIngress => attachments.tc_ingress(object, program)?,
                Hook::TcEgress => attachments.tc_egress(object, program)?,
                Hook::Tracepoint(target) => attachments.tracepoint(object, program, target)?,
            }
        }
    }
    Ok(())
}

/// The hosts whose kernels are observed: not the far ends, where frames end by the lab's own doing.
fn watched(network: &Network) -> Result<Vec<WatchedHost>, TopologyError> {
    let mut hosts = Vec::new();
    for host in network.hosts().iter().filter(|host| !matches!(host.role(), Role::Client | Role::Server)) {
        let spec = network.topology().host(host.name());
        let bridge = spec.and_then(|spec| spec.bridges.iter().find(|bridge| bridge.addresses.is_empty()));
        let silent = bridge.map_or(Ok(0), |bridge| host.ifindex(&bridge.name))?;
        hosts.push(WatchedHost { name: host.name().to_owned(), netns: host.netns_inode(), silent });
    }
    Ok(hosts)
}

/// Orders drops for the reader: most packets first, then by text.
pub fn sort_drops(drops: &mut [observation::Drop]) {
    fn text(drop: &observation::Drop) -> [&str; 4] {
        [&drop.by, &drop.reason, &drop.place, &drop.flow]
    }
    drops.sort_by(|one, other| other.packets.cmp(&one.packets).then_with(|| text(one).cmp(&text(other))));
}
