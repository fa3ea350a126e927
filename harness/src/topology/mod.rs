//! Topologies: hosts, links, addresses and routes as data, and the network namespaces that they become.
//!
//! A [`Topology`] is a description, read from a scenario or taken from [`presets`]; [`Topology::validate`] says what is
//! wrong with it. [`Network::build`] makes it real: one network namespace per host, with a thread in each, virtual
//! Ethernet between them. A built network is silent: interfaces do not resolve, solicit, join or announce anything
//! unless the topology says `arp = true`, and offloads are off, so that every packet is one that was sent on purpose
//! and looks as it would on a wire. [`verify`] reads back everything that was promised.
//!
//! Nothing outside the network's own namespaces is touched but their names under `/run/netns`, which say whose they
//! are; what a killed run leaves is found and removed by [`reap`].

mod address;
mod build;
pub mod choice;
mod distribution;
mod error;
mod ethtool;
mod host;
pub mod impair;
mod impaired;
mod local;
mod namespace;
mod netem;
mod netlink;
mod plan;
pub mod presets;
pub mod reap;
mod spec;
mod sysctl;
mod validate;
mod verify;

pub use address::{AddressError, Mac, Prefix};
pub use build::Network;
pub use choice::{ChoiceError, Preset, TopologyChoice};
pub use error::TopologyError;
pub use ethtool::Offload;
pub use host::Host;
pub use impair::Impairment;
pub use impaired::QueueCounters;
pub use local::SocketSpec;
pub use netlink::{LinkCounters, LinkState};
pub use spec::{
    BridgeSpec, DEFAULT_MTU, EndSpec, HostSpec, LinkSpec, NeighbourSpec, Role, RouteKind, RouteSpec, Topology,
    VlanProtocol, VlanSpec,
};
pub use validate::{IPV6_MIN_MTU, InvalidTopology, MTU_RANGE, Problem, XDP_MAX_MTU};
pub use verify::{Deviation, verify};
