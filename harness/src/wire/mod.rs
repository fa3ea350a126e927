//! Wire mode: frames across real veth links, in one global order, every one accounted for.
//!
//! A frame is sent from a packet socket at the client's or the server's interface and crosses a veth link. At the device
//! under test the lab's own XDP program recognises it, stamps it with its time in the capture, and passes it to the
//! programs under test and to the kernel's stack. What leaves is counted at the far ends, where it is swallowed, so that
//! nothing but the device under test ever answers.
//!
//! - `place`: the interfaces involved.
//! - `attach`: programs under test, their order and undoing.
//! - `ledger`: the lab's own object, for one replay; `kit`: the object, loaded for many.
//! - `impaired`: what becomes of packets in impaired queues.
//! - `inject`: sending without loss; `pace`: when.
//! - `window`: packets under way; `account`: where each ended.
//! - `engine`: what sends, and why; `replayer`: the kernel's live frames.
//! - `flood`: the highest rate, counted instead of accounted for; `source`: where its frames come from.
//! - `bare`: a link without a device under test, for benchmarks.

mod account;
mod attach;
mod bare;
mod engine;
mod flood;
mod impaired;
mod inject;
mod kit;
mod lead;
mod ledger;
mod live_frames;
mod pace;
mod place;
mod punctual;
mod replay;
mod replayer;
mod source;
mod window;

use crate::kernel::btf::BtfError;
use crate::object::cost::Targets;
use crate::object::{Object, ObjectError};
use crate::observation;
use crate::topology::TopologyError;

pub use account::Progress;
pub(crate) use attach::load_for;
pub use attach::{Attachments, XdpAlone};
pub use bare::{BareLink, BareOptions};
pub use engine::{Chosen, Engine, EngineChoice};
pub use flood::{FloodOptions, FloodOutcome, Repeat, SideCount, flood};
pub use impaired::check as check_impairment;
pub use ledger::Arrived;
pub use pace::{Pacing, Speed, SpeedError};
pub(crate) use place::Namespace;
pub use replay::{OnProgress, replay};
pub use source::{Given, OfCapture, OfSynth, Size, Source, SourceError};

/// The ledger's object as replays that record frames load it, and its programs at tracepoints with these.
///
/// # Errors
/// A kernel without the types that it needs, or what [`crate::object::Object::load`] says.
pub(crate) fn ledger_object() -> Result<(Object, Targets), WireError> {
    Ok((kit::load_object(true)?, [&ledger::TRACED[..], &ledger::TRACED_XDP, &ledger::TRACED_EGRESS].concat()))
}

/// The object of live frames and meters, as floods load it.
///
/// # Errors
/// What [`crate::object::Object::load`] says.
pub(crate) fn replayer_object() -> Result<(Object, Targets), WireError> {
    let room = replayer::Room { slots: 1, chunks: 1 };
    Ok((replayer::Replayer::load(room, replayer::Metering::default())?.object, Targets::new()))
}

/// Why a wire run could not be done.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The topology has no place for wire mode.
    #[error("topology {topology} cannot be used in wire mode: {problem}")]
    Topology {
        /// Name of the topology.
        topology: String,
        /// What it lacks.
        problem: String,
    },
    /// An object or program failed.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The network could not be asked or changed.
    #[error(transparent)]
    Network(#[from] TopologyError),
    /// The kernel's types lack what the ledger reads.
    #[error("cannot find the kernel's fields that the ledger reads")]
    Btf(#[from] BtfError),
    /// There is one XDP program already.
    #[error("cannot attach XDP program {second}: program {first} is attached, and wire mode runs one XDP program")]
    SecondXdp {
        /// The program attached before.
        first: String,
        /// The one that was refused.
        second: String,
    },
    /// More tc programs than there are priorities.
    #[error("cannot attach more than {most} programs at {hook}")]
    TooMany {
        /// The hook.
        hook: &'static str,
        /// The limit.
        most: usize,
    },
    /// A program is of a kind that the hook does not take.
    #[error("cannot attach program {program} of object {object} to {hook}: it is of kind {kind}")]
    Kind {
        /// Name of the object.
        object: String,
        /// Name of the program.
        program: String,
        /// Its kind.
        kind: &'static str,
        /// The hook.
        hook: String,
    },
    /// The kernel refused to attach a program.
    #[error("cannot attach program {program} of object {object} to {hook}")]
    Attach {
        /// Name of the object.
        object: String,
        /// Name of the program.
        program: String,
        /// The hook.
        hook: String,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
    /// A hook is at something that the network does not have.
    #[error("cannot attach to {hook}: the device under test has no such interface; it has {}", known.join(", "))]
    NoPlace {
        /// The hook.
        hook: String,
        /// The interfaces that there are.
        known: Vec<String>,
    },
    /// A hook needs a name.
    #[error("cannot attach program {program} to {hook}: neither its section nor `at` says where")]
    Placeless {
        /// The hook.
        hook: String,
        /// Name of the program.
        program: String,
    },
    /// The kernel does not let the lab's XDP program call the one under test.
    #[error("cannot call XDP program {program} of object {object} from the lab's own")]
    Chain {
        /// Name of the object.
        object: String,
        /// Name of the program.
        program: String,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
    /// A system call failed.
    #[error("cannot {operation}")]
    System {
        /// What was attempted, on what.
        operation: String,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
    /// The next frame could not be read.
    #[error("cannot read the next frame")]
    Frames(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What was asked to send frames cannot.
    #[error("cannot send by {engine}: {why}")]
    Engine {
        /// What was asked for.
        engine: Engine,
        /// What keeps it from being used.
        why: String,
    },
    /// Frames were sent into a link, without an error, and none came out.
    #[error("cannot get frames through interface {interface}: {sent} were sent and none arrived; {why}")]
    Vanished {
        /// Where they were to arrive.
        interface: String,
        /// How many.
        sent: u64,
        /// What is wrong with the interface, as far as can be told.
        why: String,
    },
    /// The kernel does not send a frame.
    #[error(
        "cannot send packet {packet} ({len} bytes) on interface {interface}, which takes frames of 14 to {largest} bytes"
    )]
    Refused {
        /// Number of the packet in the capture.
        packet: u64,
        /// Its bytes.
        len: usize,
        /// The most that the interface takes.
        largest: usize,
        /// The interface.
        interface: String,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
}

/// How a replay is done.
#[derive(Clone, Copy, Debug)]
pub struct WireOptions {
    /// How fast.
    pub speed: Speed,
    /// What sends.
    pub engine: EngineChoice,
    /// Whether the frames that arrive at the far ends are kept.
    pub record: bool,
    /// Whether the frames that were sent are kept, each with its end.
    pub keep_sent: bool,
    /// How long to wait for a packet whose end is not known before it counts as unaccounted, and for any progress.
    pub deadline: std::time::Duration,
}

impl Default for WireOptions {
    fn default() -> Self {
        Self {
            speed: Speed::Top,
            engine: EngineChoice::Auto,
            record: false,
            keep_sent: false,
            deadline: std::time::Duration::from_secs(2),
        }
    }
}

/// A packet that the kernel gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelDrop {
    /// Number in the capture.
    pub packet: u64,
    /// The kernel's name of the reason, `NOT_SPECIFIED` where it gives none.
    pub reason: String,
    /// Address of the code that gave it up.
    pub location: u64,
}

/// A packet whose end is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unaccounted {
    /// Number in the capture.
    pub packet: u64,
    /// How far it came.
    pub progress: Progress,
}

/// Where a frame that was sent ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SentEnd {
    /// It left the device under test, or was taken in by it.
    Passed,
    /// A program ended it.
    Verdict {
        /// `xdp`, `tc` or `tc egress`.
        hook: &'static str,
        /// The kernel's name of the verdict.
        verdict: &'static str,
        /// Name of the program.
        program: String,
    },
    /// The kernel gave it up.
    Dropped {
        /// The kernel's name of the reason, `NOT_SPECIFIED` where it gives none.
        reason: String,
        /// Address of the code that gave it up.
        location: u64,
    },
    /// That is not known.
    Open(Progress),
}

/// A frame that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentFrame {
    /// Number in the capture.
    pub number: u64,
    /// Kernel time at which it, or the first of those sent together with it, was let go, ns since the UNIX epoch.
    pub time_ns: u64,
    /// Where it was sent: 0 the client, 1 the server.
    pub side: usize,
    /// Its bytes, as they were sent.
    pub data: Vec<u8>,
    /// Where it ended.
    pub end: SentEnd,
}

/// Most entries of each list in an outcome; counts are exact all the same.
pub const LISTED: usize = 10_000;

/// What a replay found, beside what the programs under test saw.
#[derive(Clone, Debug, Default)]
pub struct WireOutcome {
    /// The account of every packet.
    pub ledger: observation::Ledger,
    /// Packets that a program's verdict ended, one row per program, verdict and flow.
    pub drops: Vec<observation::Drop>,
    /// Packets that the kernel gave up, in the order sent; the first [`LISTED`].
    pub kernel_drops: Vec<KernelDrop>,
    /// Packets whose end is not known, in the order sent; the first [`LISTED`].
    pub unaccounted: Vec<Unaccounted>,
    /// How well the schedule was kept.
    pub pacing: Pacing,
    /// What sent the frames, and why.
    pub engine: String,
    /// Frames that were too long for the engine and went out by packet sockets.
    pub by_socket: u64,
    /// Frames at the far ends, in the order of their arrival; empty unless recorded. They are held in memory.
    pub received: Vec<Arrived>,
    /// Frames that the recorder had no room for.
    pub unrecorded: u64,
    /// The frames that were sent, in the order in which their ends were known, which is that of their sending; empty
    /// unless asked for. They are held in memory, up to [`crate::recorder::MOST_BYTES`].
    pub sent: Vec<SentFrame>,
    /// Frames that were sent and not kept: no room.
    pub unkept: u64,
    /// Frames of the server's side that were not offered, because the topology has no such side.
    pub withheld: u64,
    /// Packets at the device under test that the lab did not send there. Those that it forwarded count as generated.
    pub foreign: u64,
    /// Packets that could not be stamped and so not be followed beyond XDP: they count as ended there.
    pub unstamped: u64,
    /// Packets that arrived at a far end without having left through tc: sent back or redirected by XDP.
    pub by_xdp: u64,
    /// Impaired interfaces whose seed the kernel does not take.
    pub unseeded: Vec<String>,
    /// Whether the run was stopped from outside.
    pub interrupted: bool,
    /// Whether the run was given up, because frames did not reach the device under test.
    pub stalled: bool,
}

impl WireOutcome {
    /// What a reader must know to judge the numbers.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let mut note = |count: u64, text: &str| {
            if count > 0 {
                notes.push(format!("{count} {text}"));
            }
        };
        note(self.withheld, "frames of the server's side were not offered: the topology has no such side");
        note(self.by_socket, "frames were too long for live frames and went out by packet sockets");
        note(self.foreign, "packets at the device under test were not sent by the lab");
        note(self.unstamped, "packets could not be stamped and followed beyond XDP");
        note(self.by_xdp, "frames reached a far end straight from XDP, past tc");
        note(self.unrecorded, "arrived frames were not recorded: no room");
        if self.stalled {
            notes.push("given up: frames did not reach the device under test".to_owned());
        }
        for interface in &self.unseeded {
            notes.push(format!(
                "the impairment of {interface} is another one in each run: this kernel takes no seed (Linux 6.6 does)"
            ));
        }
        for lost in self.unaccounted.iter().take(10) {
            notes.push(format!("packet {} is unaccounted for: {}", lost.packet, lost.progress));
        }
        notes
    }
}
