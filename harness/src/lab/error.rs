//! What can go wrong in a test, said so that the test's output needs no second look.

use std::fmt;
use std::time::Duration;

use crate::capture::CaptureError;
use crate::hook::Hook;
use crate::kernel::probe::Unmet;
use crate::lockstep::LockstepError;
use crate::object::ObjectError;
use crate::rows::RowsError;
use crate::subject::SubjectError;
use crate::topology::TopologyError;
use crate::wire::WireError;

/// Why a test could not do what it asked for.
///
/// `Debug` is the message with its causes, because that is what the test harness prints of a test that ends with `?`.
#[derive(thiserror::Error)]
pub enum LabError {
    /// This machine lacks something: rights, or a feature of the kernel.
    #[error("this machine cannot run the test: {}", unmet(.0))]
    Unmet(Vec<Unmet>),
    /// A text is no requirement.
    #[error("cannot require {text:?}: {reason}")]
    Requirement {
        /// The text.
        text: String,
        /// Why it is none.
        reason: String,
    },
    /// An object or a program of it.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// An object under test.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// A map or ring could not be opened, read or written.
    #[error("cannot use map {map} of object {object}")]
    Map {
        /// The object.
        object: String,
        /// The map.
        map: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An entry of a map is not of the Rust type that was asked for, or a value is not one that rows can hold.
    #[error("cannot take {what} of map {map} for a {expected}")]
    Type {
        /// The map.
        map: String,
        /// `key 7`, `value {"packets":1}`, ...
        what: String,
        /// The Rust type.
        expected: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The programs could not be played in lockstep.
    #[error(transparent)]
    Lockstep(#[from] LockstepError),
    /// The programs could not be attached, or packets not be sent.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The hosts could not be made or used.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The capture could not be read.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// A hook that packets do not meet in lockstep.
    #[error(
        "cannot attach program {program} to {hook} in lockstep, where packets meet XDP and tc programs alone: use a \
         wire lab"
    )]
    NotInLockstep {
        /// The program.
        program: String,
        /// The hook.
        hook: Hook,
    },
    /// There are hosts in a wire lab alone.
    #[error("there is no host {0} in lockstep: use a wire lab")]
    NoHosts(String),
    /// A program of a kind that does not run over single packets.
    #[error(
        "cannot run program {program} of object {object} over a packet: it is of kind {kind}, and the kernel runs xdp, \
         tc, cgroup_skb, socket_filter and flow_dissector programs"
    )]
    NoPacketProgram {
        /// The object.
        object: String,
        /// The program.
        program: String,
        /// Its kind.
        kind: &'static str,
    },
    /// A packet that the kernel does not run a program over.
    #[error("cannot run program {program} over a packet of {len} bytes: {reason}")]
    Packet {
        /// The program.
        program: String,
        /// Bytes of the packet.
        len: usize,
        /// Why.
        reason: String,
        /// The kernel's error, if it was asked.
        #[source]
        source: Option<std::io::Error>,
    },
    /// A socket could not be made or connected.
    #[error("cannot {operation} on host {host}")]
    Socket {
        /// What was tried, with the address.
        operation: String,
        /// The host.
        host: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A condition did not come true in time.
    #[error("waited {waited:?} in vain; last seen: {seen}")]
    InVain {
        /// How long.
        waited: Duration,
        /// What the condition said last.
        seen: String,
    },
}

impl fmt::Debug for LabError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&crate::error::chain(self))
    }
}

impl LabError {
    pub(super) fn map(object: &str, map: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Map { object: object.to_owned(), map: map.to_owned(), source: source.into() }
    }

    pub(super) fn rows(object: &str, map: &str) -> impl FnOnce(RowsError) -> Self {
        move |source| Self::map(object, map, source)
    }
}

/// Without root nothing else can be told: what is known to be missing is the reason for the rest.
pub(super) fn unmet(unmet: &[Unmet]) -> String {
    let any_certain = unmet.iter().any(|one| one.certain);
    let told = unmet.iter().filter(|one| one.certain || !any_certain);
    told.map(Unmet::to_string).collect::<Vec<_>>().join("; ")
}
