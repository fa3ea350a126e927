//! Testing eBPF objects from a normal `#[test]` or `#[rstest]`.
//!
//! ```toml
//! [dev-dependencies]
//! bpflab = { git = "...", default-features = false, features = ["libbpf"] }
//! ```
//!
//! - An object is a [`Subject`] (any ELF file, loaded by libbpf or aya), an [`aya::Ebpf`] that the test has loaded itself, or
//!   a [`NamedEbpf`]: the same with a name and the types of its ELF file. What can be done with all of them is in
//!   [`EbpfObject`].
//! - [`EbpfObject::run_packet`] runs one program over one [`Packet`] and tells verdict, packet and map changes: a unit
//!   test.
//! - A [`Lab`] has programs attached, in lockstep or between hosts with real links, and takes frames, captures or what
//!   real sockets send. An [`Outcome`] accounts for every packet and prints as a canonical text for a snapshot.
//! - [`Table`] and [`Events`] read maps and rings by their types, into [`serde_json::Value`] or types of the test's own;
//!   [`EbpfObject::aya_map`] gives aya's typed maps for any object.
//! - [`eventually`] and [`Events::wait_for`] wait for a condition with a deadline.
//! - [`require!`](crate::require) ends a test where the kernel lacks what it needs, in a way that
//!   `bpflab matrix --test-binary` counts as unsupported.
//!
//! Frames are bytes, as [etherparse](https://docs.rs/etherparse)'s `PacketBuilder` writes them. Tests need root (a cargo
//! runner such as `sudo -E` gives it), may run in parallel in one process or many, and leave nothing behind. On another
//! kernel they run unchanged: `bpflab exec --kernel 6.1 -- target/debug/deps/TEST`, or
//! `bpflab matrix --test-binary target/debug/deps/TEST` for all kernels.
//!
//! # Features
//!
//! | feature | | without it |
//! |---|---|---|
//! | `cli` (default) | the command `bpflab`, its displays and guests | `default-features = false` |
//! | `libbpf` (default) | C objects are loaded by libbpf; takes libelf and zlib with headers | aya loads all objects |
//! | `filter` (default) | filter expressions for captures; takes libpcap with headers | [`crate::capture::Options::filter`] is refused |
//!
//! Building takes the nightly toolchain with `rust-src` and `bpf-linker` in any case, for the lab's own programs.
//!
//! # A unit test by single packets
//!
//! ```no_run
#![doc = include_str!("../../tests/library/single_packets.rs")]
//! ```
//!
//! # A capture on the wire
//!
//! ```no_run
#![doc = include_str!("../../tests/library/capture_on_the_wire.rs")]
//! ```
//!
//! # Both modes, and real sockets
//!
//! ```no_run
#![doc = include_str!("../../tests/library/modes_and_sockets.rs")]
//! ```

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

use std::path::{Path, PathBuf};

/// The object file of a C source: the same name with `.o`, beside it, compiled by clang with types and lines if it is
/// missing or older. Where the source is not at hand, as in a guest, the object alone will do.
///
/// # Errors
/// [`LabError::Subject`] with what the compiler says.
pub fn compile(source: impl AsRef<Path>) -> Result<PathBuf, LabError> {
    let object = source.as_ref().with_extension("o");
    crate::subject::source::bring_up_to_date(&object)?;
    Ok(object)
}
