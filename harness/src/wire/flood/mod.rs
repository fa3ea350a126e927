//! Frames at the highest rate that a link takes, counted at both ends.
//!
//! [`replay`](super::replay()) accounts for every packet: it announces each, keeps few under way and learns the fate of
//! each. That has its price, which at millions of frames a second is the whole budget. A flood therefore counts instead:
//! what was sent on a side, what the device under test took in there (in XDP, before any program), and what arrived at
//! the far ends. Programs under test are attached as for a replay, between these meters.
//!
//! On each link frames go out in the order of the source; what goes out on the two sides is not held together. A source
//! that fits into memory is put there once and sent again and again; of a larger one, parts are sent while others are
//! filled.
//!
//! - `traffic`: the source's frames as they are sent.
//! - `meters`: programs that count, at both ends.
//! - `live`: sending by the kernel, `stream`: of more than fits into memory; `sockets`: by packet sockets.

mod live;
mod meters;
mod sockets;
mod stream;
mod traffic;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bpflab_programs::replayer::FAR;

pub(super) use self::stream::Pipe;
pub(super) use self::traffic::Traffic;
use super::attach::{Attachments, XdpMode};
use super::engine::{Chosen, Engine, EngineChoice, Needs, choose, largest_live_frame};
use super::impaired::{self, Impaired};
use super::place::{Place, disable_gro};
use super::replay::OnProgress;
use super::replayer::{Account, Metering, Meters, Replayer, Room};
use super::source::Source;
use super::{Speed, WireError};
use crate::sys::{self, Pinned};
use crate::topology::Network;

/// When a flood ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// After the source was sent so many times.
    Times(u64),
    /// When so much time has passed since the first frame.
    For(Duration),
}

/// How a flood is done.
#[derive(Clone, Copy, Debug)]
pub struct FloodOptions {
    /// What sends.
    pub engine: EngineChoice,
    /// When it ends.
    pub repeat: Repeat,
    /// How long to wait for frames that do not arrive.
    pub deadline: Duration,
    /// Most bytes of frames that are held in memory at once.
    pub most_bytes: u64,
}

impl Default for FloodOptions {
    /// Once, by what fits, with at most 256 MiB of frames in memory.
    fn default() -> Self {
        Self {
            engine: EngineChoice::Auto,
            repeat: Repeat::Times(1),
            deadline: Duration::from_secs(2),
            most_bytes: 256 << 20,
        }
    }
}

/// What was counted on one side of the device under test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SideCount {
    /// Frames sent from this side's far end.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Frames that XDP at the device under test's interface saw, before any program under test.
    pub taken_in: u64,
    /// Frames that arrived at this side's far end.
    pub arrived: u64,
    /// Their bytes.
    pub arrived_bytes: u64,
}

/// What a flood came to.
#[derive(Clone, Debug)]
pub struct FloodOutcome {
    /// What sent, and why.
    pub engine: Chosen,
    /// Whether the source was larger than what is held in memory, so that it was sent in pieces.
    pub streamed: bool,
    /// The client's side and the server's.
    pub sides: [SideCount; 2],
    /// From the first frame until the device under test had seen the last.
    pub elapsed: Duration,
    /// How long of that nothing was sent because the source had not given the next frames yet; nothing where all frames were
    /// in memory before, or packet sockets sent.
    pub waited: Option<Duration>,
    /// Frames of the server's side that were not sent, because the topology has no such side; once through the source.
    pub withheld: u64,
    /// Whether it was stopped from outside.
    pub interrupted: bool,
}

impl FloodOutcome {
    /// Frames sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sides.iter().map(|side| side.sent).sum()
    }

    /// Frames sent that the device under test never saw.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sides.iter().map(|side| side.sent.saturating_sub(side.taken_in)).sum()
    }

    /// Frames a second that the device under test took in.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    pub fn rate_pps(&self) -> f64 {
        let taken: u64 = self.sides.iter().map(|side| side.taken_in).sum();
        taken as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Sends what `source` has through the device under test as fast as it can be sent. `on_progress` is told now and then
/// how many frames were sent, and is where the programs under test are read before their rings fill.
///
/// # Errors
/// A frame that cannot be read or sent, a program that cannot be attached, [`WireError::Engine`] where the engine that
/// was asked for cannot be used, [`WireError::Vanished`] where frames are sent and none arrives.
pub fn flood(
    network: &Network,
    attachments: &Attachments,
    source: &mut dyn Source,
    options: &FloodOptions,
    stop: &AtomicBool,
    on_progress: &mut OnProgress<'_>,
) -> Result<FloodOutcome, WireError> {
    impaired::check(network.topology())?;
    let place = Place::of(network)?;
    let impaired = Impaired::of(network, &place)?;
    let size = source.size();
    let generic = place.links().find(|(side, _)| meters::mode(attachments, *side) == XdpMode::Generic);
    let needs = Needs {
        speed: Speed::Top,
        longest: Some(size.longest),
        without_napi: generic.map(|(_, link)| link.dut.name.as_str()),
    };
    let engine = choose(options.engine, needs, largest_live_frame)?;
    let room = match engine.engine {
        Engine::LiveFrames => Room::of(size.frames, size.bytes, options.most_bytes),
        Engine::Sendmmsg => Room { slots: 1, chunks: 1 },
    };
    let mut replayer = Replayer::load(room, Metering::default())?;
    let _attached = meters::attach(&mut replayer, &place, attachments)?;
    disable_gro(network, &place)?;
    let meters = replayer.meters()?;
    let end = End { stop, repeat: options.repeat, start: Instant::now() };
    let sent = AtomicU64::new(0);
    let mut flood = Flood { place: &place, meters, options, end, progress: on_progress, sent: &sent, waited: None };
    let mut traffic = Traffic::new(source, &place);
    let account = match engine.engine {
        Engine::LiveFrames => flood.by_live_frames(&mut replayer, &mut traffic)?,
        Engine::Sendmmsg => flood.by_sockets(&mut traffic)?,
    };
    flood.finish(engine, account, traffic.withheld, &impaired)
}

/// Keeps the calling thread, which sends, on one CPU.
fn pinned() -> Result<Pinned, WireError> {
    Pinned::here()
        .map_err(|source| WireError::System { operation: "keep the sending thread on one CPU".to_owned(), source })
}

/// When sending is over.
#[derive(Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) stop: &'a AtomicBool,
    pub(super) repeat: Repeat,
    pub(super) start: Instant,
}

impl End<'_> {
    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether nothing more is to be sent, whatever is left of the source.
    fn is_over(&self) -> bool {
        self.interrupted() || matches!(self.repeat, Repeat::For(time) if self.start.elapsed() >= time)
    }

    /// How often the source is sent.
    fn times(&self) -> u64 {
        match self.repeat {
            Repeat::Times(times) => times,
            Repeat::For(_) => u64::MAX,
        }
    }
}

/// A flood under way.
struct Flood<'a, 'b> {
    place: &'a Place,
    meters: Meters,
    options: &'a FloodOptions,
    end: End<'a>,
    progress: &'a mut OnProgress<'b>,
    /// Frames sent, for progress.
    sent: &'a AtomicU64,
    /// How long sending waited for frames, if not all were in memory before.
    waited: Option<Duration>,
}

impl Flood<'_, '_> {
    /// Waits for what is under way and adds up.
    fn finish(
        self,
        engine: Chosen,
        account: Account,
        withheld: u64,
        impaired: &Impaired<'_>,
    ) -> Result<FloodOutcome, WireError> {
        let taken_in = || (0..2).map(|side| self.meters.frames(side)).sum::<u64>();
        let wanted = account.frames.iter().sum();
        wait_for(&taken_in, wanted, self.options.deadline);
        let elapsed = self.end.start.elapsed();
        // What XDP has seen is on its way through the stack, on whatever CPU: nothing arrives after that is over.
        let arrived = || (0..2).map(|side| self.meters.frames(FAR + side)).sum::<u64>();
        let (mut before, mut since) = (None, Instant::now());
        loop {
            let mut waiting = 0;
            for (side, _) in self.place.links() {
                waiting += impaired.counters(side)?.map_or(0, |queue| queue.waiting);
            }
            let now = arrived();
            let still = before.replace(now) == Some(now);
            // A slow link gives signs of life.
            since = if still { since } else { Instant::now() };
            let delay = Duration::from_nanos(impaired.delay_ns(0).max(impaired.delay_ns(1)));
            if still && waiting == 0 || since.elapsed() > self.options.deadline.saturating_add(delay) {
                break;
            }
            if sys::wait_for_softirqs().is_err() {
                std::thread::yield_now();
            }
        }
        let side = |side: usize| {
            let far = self.meters.get(FAR + side);
            SideCount {
                sent: account.frames[side],
                sent_bytes: account.bytes[side],
                taken_in: self.meters.frames(side),
                arrived: far.frames,
                arrived_bytes: far.bytes,
            }
        };
        Ok(FloodOutcome {
            engine,
            streamed: self.waited.is_some(),
            sides: [side(0), side(1)],
            elapsed,
            waited: self.waited,
            withheld,
            interrupted: self.end.interrupted(),
        })
    }
}

/// Waits until `count` has reached `wanted`, or has not changed for as long as `deadline`.
fn wait_for(count: &dyn Fn() -> u64, wanted: u64, deadline: Duration) -> bool {
    let (mut last, mut since) = (count(), Instant::now());
    while last < wanted {
        std::thread::yield_now();
        let now = count();
        if now != last {
            (last, since) = (now, Instant::now());
        } else if since.elapsed() > deadline {
            return false;
        }
    }
    true
}
