//! Traffic to test against: attacks, loads and transactions of applications, made from a seed.
//!
//! [`catalogue`] lists what there is. A [`Spec`] names an entry with its parameters, rate, shape, sources and targets; it is
//! what a scenario declares under `[[traffic.synth]]` and what `bpflab synth` is told. [`frames`] turns it into a stream of
//! frames, lazily, into a buffer that is used again; [`merge`] puts several streams, and captures, into one by time, and
//! [`frames_of`] those of several declarations.
//!
//! The same declaration gives the same bytes on every machine: random numbers, logarithms and rounding are the module's
//! own. Client ports are given as a kernel does: no two living conversations of a declaration have the same ends and port.
//! Floods are what an attacker sends; scans, brute force and transactions are whole conversations, both sides with
//! sequence numbers and options as stacks send them, unless one side alone is asked for.
//!
//! ```
//! use bpflab::synth::{self, Spec};
//!
//! # fn main() -> Result<(), synth::SynthError> {
//! let flood = Spec { rate: Some(10_000.0), count: Some(3), ..Spec::new("syn-flood") };
//! let times: Vec<u64> = synth::frames(&flood)?.map(|frame| frame.time_ns - synth::START_NS).collect();
//! assert_eq!(times, [0, 100_000, 200_000]);
//! # Ok(())
//! # }
//! ```

mod catalogue;
mod conversation;
mod entry;
mod error;
mod file;
mod hosts;
mod merge;
mod packet;
mod param;
mod place;
mod pool;
mod ports;
mod rng;
mod script;
mod shape;
mod spec;
mod spoil;
mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use catalogue::{Entry, Family, Ip, catalogue};
pub use error::SynthError;
pub use file::{WriteError, Written, write};
pub use merge::{FrameSource, Merge, frames_of, merge};
pub use param::{Kind, Parameter, Value};
pub use place::{Hosts, Place};
pub use shape::{Shape, ShapeError};
pub use spec::{Checksums, IpVersions, Macs, Spec};
pub use stream::Synth;

/// Time of the beginning of all traffic: 2026-01-01 00:00:00 UTC, ns since the UNIX epoch.
pub const START_NS: u64 = 1_767_225_600_000_000_000;

/// Most bytes of a frame: what Ethernet takes without its check sequence, with two VLAN tags.
pub const LONGEST_FRAME: usize = 1_522;

/// The frames of a declaration, between the default hosts ([`Hosts::default`]).
///
/// # Errors
/// An unknown entry or parameter, a value out of range, parts that do not fit together.
pub fn frames(spec: &Spec) -> Result<Synth, SynthError> {
    spec.frames()
}
