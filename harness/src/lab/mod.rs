//! Testing eBPF objects from a normal `#[test]`.

mod changes;
mod error;
mod lockstep;
mod object;
mod outcome;
mod packet;
mod require;
mod setup;
mod sockets;
mod table;
#[cfg(test)]
mod tests;
mod verdict;
mod wait;

pub use changes::MapChange;
pub use error::LabError;
pub use object::{EbpfObject, NamedEbpf};
pub use outcome::{Outcome, Received};
pub use packet::{Packet, PacketRun};
pub use require::{TestEnd, missing, unsupported};
pub use setup::Lab;
pub use table::{Events, Table};
pub use verdict::Verdict;
pub use wait::{Condition, eventually};

pub use crate::capture::Side;
pub use crate::hook::{Hook, HookKind};
pub use crate::subject::{Subject, SubjectOptions};
pub use crate::topology::presets;
