//! Live replay: one end of each recorded conversation is the kernel itself.
//!
//! The device under test has the addresses of one end. That end's sockets are real; a responder reads from them and writes
//! what the recorded end wrote, when it had read what that had read. The other end is played from the capture: its packets
//! go out as they were recorded, in their order and with their gaps, with their own sequence numbers. What they say of the
//! live end is rewritten to its numbers: acknowledgements, SACK blocks, echoed timestamps. A packet that acknowledges what
//! the live end has not sent yet waits for it, up to a deadline.
//!
//! So faults stay faults: a retransmission, a segment out of order, a closed window or a missing answer reaches the kernel
//! as it was recorded, and what the kernel makes of it is its own.
//!
//! What the live server's application says can also be left to a real one: see [`Forward`].
//!
//! - `script`: conversations out of frames, what each end did, and what cannot be played. Pure.
//! - `packet`: headers read and rewritten. Pure.
//! - `peer`: the played end of one TCP connection. Pure.
//! - `follow`: how the played end goes along with an application that answers otherwise. Pure.
//! - `responder`: the sockets of the live end.
//! - `forward`, `relay`: real applications behind them.
//! - `play`: all of it, in one loop over one `epoll`.
//! - `counters`: the kernel's own.

mod counters;
mod end;
mod follow;
mod forward;
mod outcome;
mod packet;
mod peer;
mod play;
mod relay;
mod responder;
mod script;

use std::time::Duration;

use serde::Deserialize;

use crate::topology::TopologyError;
use crate::wire::Speed;

pub use forward::{Forward, ForwardError};
pub use play::play;
pub use script::{Addresses, Script};

/// Which end of the recorded conversations the device under test is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Dut {
    /// The end that was asked: recorded clients are played.
    #[default]
    Server,
    /// The end that began: recorded servers are played.
    Client,
}

impl Dut {
    /// In lower case.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// How a capture is played live.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LiveOptions {
    /// Which end the kernel is.
    pub dut: Dut,
    /// Pace: as captured (`1x`) if left out, `10x`; or `top`, as fast as answers come.
    pub speed: Speed,
    /// How long a packet waits for what it acknowledges, s. A conversation in which nothing happens for twice as long is
    /// given up.
    pub deadline_s: f64,
    /// Applications that answer in the place of recorded servers, where the kernel is the server.
    pub forward: Vec<Forward>,
}

impl Default for LiveOptions {
    fn default() -> Self {
        Self { dut: Dut::Server, speed: Speed::Scaled(1.0), deadline_s: 3.0, forward: Vec::new() }
    }
}

impl LiveOptions {
    /// Checks what types do not.
    ///
    /// # Errors
    /// A sentence.
    pub fn validate(&self) -> Result<(), String> {
        if !(0.001..=3600.0).contains(&self.deadline_s) {
            return Err(format!("a deadline of {} s is out of range: 0.001 to 3600 s", self.deadline_s));
        }
        if let Some(forward) = self.forward.first().filter(|_| self.dut == Dut::Client) {
            return Err(format!(
                "{forward} answers as a server, and here the recorded servers are played: dut = server"
            ));
        }
        let twice =
            |forward: &&Forward| self.forward.iter().filter(|other| other.recorded == forward.recorded).count() > 1;
        if let Some(forward) = self.forward.iter().find(twice) {
            return Err(format!("{forward} is not the only application for the same conversations"));
        }
        match self.speed {
            Speed::Rate(rate) => Err(format!("conversations have no rate ({rate}): `1x`, `10x`, ... or `top`")),
            _ => Ok(()),
        }
    }

    /// How much faster than recorded; nothing for as fast as answers come.
    fn factor(&self) -> Option<f64> {
        match self.speed {
            Speed::Scaled(factor) => Some(factor),
            Speed::Top | Speed::Rate(_) => None,
        }
    }

    fn patience_ns(&self) -> u64 {
        u64::try_from(Duration::from_secs_f64(self.deadline_s).as_nanos()).unwrap_or(u64::MAX / 4)
    }
}

/// Why a capture could not be played live at all. What concerns one conversation is part of the outcome instead.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The topology has no place for it.
    #[error("cannot play live on topology {topology}: {problem}")]
    Topology {
        /// The topology.
        topology: String,
        /// What it lacks.
        problem: String,
    },
    /// The capture has no conversation that could be played.
    #[error("cannot play {packets} packets live: none of them is part of a TCP or UDP conversation")]
    Nothing {
        /// How many packets there are.
        packets: usize,
    },
    /// There is no such place for an application to be at.
    #[error("cannot forward to {to}: {host} is neither a host of topology {topology} nor a name that is known")]
    Forward {
        /// The application, as it was written.
        to: String,
        /// The topology.
        topology: String,
        /// The host that it is said to be on.
        host: String,
        /// Why the name could not be looked up.
        #[source]
        source: std::io::Error,
    },
    /// The network could not be asked or changed.
    #[error(transparent)]
    Network(#[from] TopologyError),
    /// A system call failed.
    #[error("cannot {operation}")]
    System {
        /// What was attempted, on what.
        operation: String,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
}

impl LiveError {
    fn system(operation: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let operation = operation.into();
        move |source| Self::System { operation, source }
    }
}
