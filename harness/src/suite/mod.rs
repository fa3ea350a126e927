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

use std::os::fd::OwnedFd;

use crate::coverage::ProgramCoverage;
use crate::hook::Hook as UserHook;
use crate::object::{Object, ObjectError};
use crate::observation::{self, Observation};
use crate::topology::{Host, Network, Role, TopologyError};
use crate::wire::{Attachments, WireError};

/// The suite's objects that analyse traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[cfg_attr(feature = "cli", value(rename_all = "snake_case"))]
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

/// Where a program of a run is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    /// The program's name.
    pub program: String,
    /// Where packets or the kernel meet it.
    pub hook: UserHook,
}

impl Attach {
    fn of(&(program, hook): &(&'static str, Hook)) -> Self {
        let hook = match hook {
            Hook::Xdp => UserHook::xdp(),
            Hook::TcIngress => UserHook::tc_ingress(),
            Hook::TcEgress => UserHook::tc_egress(),
            Hook::Tracepoint(target) => UserHook::btf_tracepoint(target),
        };
        Self { program: program.to_owned(), hook }
    }
}

/// A program in the kernel.
#[derive(Debug)]
pub struct Loaded {
    /// Its descriptor.
    pub fd: OwnedFd,
    /// Its kind, as [`crate::object::section::Kind::name`].
    pub kind: &'static str,
    /// What it was loaded to be attached as, `BPF_*` of `enum bpf_attach_type`.
    pub attach: u32,
}

/// An object whose programs can be loaded by name, whoever wrote it.
pub trait Programs {
    /// The object's name.
    fn object_name(&self) -> &str;
    /// Loads a program, unless it is loaded; `target` names the tracepoint or function of one that is loaded for one.
    ///
    /// # Errors
    /// What the verifier refuses; a program that the object does not have.
    fn load(&mut self, program: &str, target: Option<&str>) -> Result<Loaded, ObjectError>;
}

/// Whatever takes part in a run: programs that see packets or the kernel at work, and a reader of what they saw. The
/// suite's objects are [`Analyzer`]s; objects under test are [`crate::subject::Subject`]s behind a reader for any map.
pub trait Observer: Send {
    /// The programs and where they are attached, in the order they run.
    fn attaches(&self) -> Vec<Attach>;
    /// For loading them.
    fn programs(&mut self) -> &mut dyn Programs;
    /// Sets the virtual time, ns since the UNIX epoch.
    fn set_clock(&self, time_ns: u64);
    /// Whether programs may change packets, so that the next one must see what the one before left.
    fn changes_packets(&self) -> bool {
        false
    }
    /// Whether it makes sense of conversations only by both their directions. Where the device under test is one end, its
    /// programs at ingress then see the other direction where that arrives.
    fn needs_answers(&self) -> bool {
        false
    }
    /// What each program reached, or why that is not known; nothing where it is not counted.
    fn coverage(&self) -> Vec<Result<ProgramCoverage, String>> {
        Vec::new()
    }
    /// Takes note of what a program did to a packet in lockstep mode: its verdict by name, the packet's number and bytes
    /// before, and its bytes after. Called only where [`Observer::changes_packets`].
    fn packet(&mut self, program: &str, verdict: &'static str, before: (u64, &[u8]), after: &[u8]) {
        let _ = (program, verdict, before, after);
    }
    /// The events that [`Observer::drain`] has taken in since the last call, and what programs have printed, as texts; of
    /// objects that make sense of their events themselves there are none.
    fn news(&mut self) -> Vec<String> {
        Vec::new()
    }
    /// See [`Analyzer::watch`].
    ///
    /// # Errors
    /// A map that cannot be written.
    fn watch(&mut self, hosts: &[WatchedHost]) -> Result<(), ObjectError>;
    /// See [`Analyzer::reset`].
    ///
    /// # Errors
    /// A map that cannot be emptied.
    fn reset(&mut self) -> Result<(), ObjectError>;
    /// See [`Analyzer::drain`].
    ///
    /// # Errors
    /// A map that cannot be read.
    fn drain(&mut self) -> Result<(), ObjectError>;
    /// See [`Analyzer::finish`].
    ///
    /// # Errors
    /// A map that cannot be read.
    fn finish(&mut self, start_ns: u64, observation: &mut Observation) -> Result<(), ObjectError>;
}

impl<A: Analyzer> Observer for A {
    fn attaches(&self) -> Vec<Attach> {
        Analyzer::programs(self).iter().map(Attach::of).collect()
    }

    fn programs(&mut self) -> &mut dyn Programs {
        self.object_mut()
    }

    fn needs_answers(&self) -> bool {
        true
    }

    fn set_clock(&self, time_ns: u64) {
        self.object().set_clock(time_ns);
    }

    fn watch(&mut self, hosts: &[WatchedHost]) -> Result<(), ObjectError> {
        Analyzer::watch(self, hosts)
    }

    fn reset(&mut self) -> Result<(), ObjectError> {
        Analyzer::reset(self)
    }

    fn drain(&mut self) -> Result<(), ObjectError> {
        Analyzer::drain(self)
    }

    fn finish(&mut self, start_ns: u64, observation: &mut Observation) -> Result<(), ObjectError> {
        Analyzer::finish(self, start_ns, observation)
    }
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
    /// Names and numbers of its interfaces.
    pub interfaces: Vec<(String, u32)>,
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

/// Lets every observer take in its events.
///
/// # Errors
/// The first one's.
pub fn drain(observers: &mut [Box<dyn Observer>]) -> Result<(), ObjectError> {
    observers.iter_mut().try_for_each(|observer| observer.drain())
}

/// The hosts whose kernels are observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch<'a> {
    /// All but those with the roles of client and server: frames end there by the lab's own doing.
    BetweenFarEnds,
    /// All but the one of this name, which the lab plays itself; nothing where every host is real.
    AllBut(Option<&'a str>),
}

impl Watch<'_> {
    fn includes(self, host: &Host) -> bool {
        match self {
            Self::BetweenFarEnds => !matches!(host.role(), Role::Client | Role::Server),
            Self::AllBut(played) => played != Some(host.name()),
        }
    }
}

/// Attaches the programs of `observers` in their order, and tells them the hosts that they watch.
///
/// # Errors
/// A program that cannot be loaded or attached.
pub fn attach(
    observers: &mut [Box<dyn Observer>],
    watch: Watch<'_>,
    attachments: &mut Attachments,
    network: &Network,
) -> Result<(), WireError> {
    let hosts = watched(network, watch)?;
    let is_live = matches!(watch, Watch::AllBut(_)) && attachments.at_the_end();
    for observer in observers {
        observer.watch(&hosts)?;
        for attach in observer.attaches() {
            attachments.attach(observer.programs(), &attach.program, &attach.hook, network)?;
            // In a replay the device under test is sent both directions.
            if is_live && observer.needs_answers() {
                attachments.attach_for_answers(observer.programs(), &attach.program, &attach.hook)?;
            }
        }
    }
    Ok(())
}

fn watched(network: &Network, watch: Watch<'_>) -> Result<Vec<WatchedHost>, TopologyError> {
    let mut hosts = Vec::new();
    for host in network.hosts().iter().filter(|host| watch.includes(host)) {
        let spec = network.topology().host(host.name());
        let bridge = spec.and_then(|spec| spec.bridges.iter().find(|bridge| bridge.addresses.is_empty()));
        let silent = bridge.map_or(Ok(0), |bridge| host.ifindex(&bridge.name))?;
        let interfaces = network.topology().interfaces(host.name());
        let interfaces: Result<Vec<_>, TopologyError> =
            interfaces.into_iter().map(|name| Ok((name.to_owned(), host.ifindex(name)?))).collect();
        hosts.push(WatchedHost {
            name: host.name().to_owned(),
            netns: host.netns_inode(),
            silent,
            interfaces: interfaces?,
        });
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
