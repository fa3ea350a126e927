//! A replay from its first frame to its account.

use std::sync::atomic::{AtomicBool, Ordering};

use super::account::Programs;
use super::attach::{Attachments, XdpMode};
use super::engine::{Chosen, Engine, EngineChoice, Needs, choose, largest_live_frame};
use super::impaired::{self, Impaired};
use super::inject::{Injector, Live, Outgoing, Went};
use super::ledger::Ledger;
use super::pace::{Keeping, Schedule};
use super::place::{Place, readdress};
use super::window::{Books, Window};
use super::{Speed, WireError, WireOptions, WireOutcome};
use crate::capture::{Frame, Side};
use crate::kernel::btf::Btf;
use crate::kernel::reasons::DropReasons;
use crate::object::ObjectError;
use crate::sys::{self, Pinned, SEND_BATCH};
use crate::topology::{Network, QueueCounters};

/// Called between batches with the number of frames sent so far: the caller shows progress and lets the programs under
/// test be read, before their rings fill.
pub type OnProgress<'a> = dyn FnMut(u64) -> Result<(), ObjectError> + 'a;

/// Sends `frames` through the device under test and accounts for every one.
///
/// `stop` ends the run early, with what was done so far. Whatever the outcome, the ledger's programs are detached when
/// this returns.
///
/// # Errors
/// A frame that cannot be read or sent, a program that cannot be attached, an error of `on_progress`.
pub fn replay<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    network: &Network,
    attachments: &mut Attachments,
    frames: impl Iterator<Item = Result<Frame, E>>,
    options: &WireOptions,
    stop: &AtomicBool,
    on_progress: &mut OnProgress<'_>,
) -> Result<WireOutcome, WireError> {
    impaired::check(network.topology())?;
    let place = Place::of(network)?;
    let impaired = Impaired::of(network, &place)?;
    let ledger = Ledger::arm(network, &place, attachments, options.record)?;
    let engine = engine(&place, attachments, options)?;
    let mut injector = Injector::open(&place, options.deadline, stop)?;
    if engine.engine == Engine::LiveFrames {
        let unusable = |why| WireError::Engine { engine: Engine::LiveFrames, why };
        injector.use_live(Live::new(&place, largest_live_frame().map_err(unusable)?)?);
    }
    let pinned = Pinned::here()
        .map_err(|source| WireError::System { operation: "keep the sending thread on one CPU".to_owned(), source })?;
    if options.speed != Speed::Top {
        injector.be_punctual();
    }
    let mut run = Run {
        network,
        place: &place,
        impaired,
        programs: &attachments.programs,
        options,
        ledger,
        injector,
        stop,
        cpu: pinned.cpu,
        reasons: DropReasons::new(Btf::kernel()?),
        schedule: Schedule::new(options.speed),
        keeping: Keeping::default(),
        window: Window::new(),
        batch: Batch::default(),
        books: Books::default(),
        start_ns: None,
        on_progress,
    };
    run.books.outcome.engine = engine.to_string();
    run.books.keep = options.keep_sent;
    let result = run.all(frames);
    // A frame that cannot be read or sent does not take back what was done, but is what the caller must hear.
    let settled = run.settle();
    result?;
    settled?;
    run.finish()
}

/// What sends. An account of each packet needs the two sides in one order, so a change of side waits for what is under
/// way; conversations change sides every few packets, and a call that sends live frames costs as much as tens of frames.
/// The benchmark `engine` has live frames at half the speed of packet sockets here: they are for those who ask for them.
fn engine(place: &Place, attachments: &Attachments, options: &WireOptions) -> Result<Chosen, WireError> {
    if options.engine == EngineChoice::Auto {
        let why = "each packet is accounted for".to_owned();
        return Ok(Chosen { engine: Engine::Sendmmsg, why });
    }
    let generic = |(side, _): &(usize, _)| {
        attachments.xdp[*side].as_ref().is_some_and(|under_test| under_test.mode == XdpMode::Generic)
    };
    let generic = place.links().find(generic);
    let needs =
        Needs { speed: options.speed, longest: None, without_napi: generic.map(|(_, link)| link.dut.name.as_str()) };
    choose(options.engine, needs, largest_live_frame)
}

/// The wall clock, as packets are stamped by it, ns since the UNIX epoch.
fn now_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

struct Run<'a, 'b> {
    network: &'a Network,
    place: &'a Place,
    impaired: Impaired<'a>,
    programs: &'a Programs,
    options: &'a WireOptions,
    ledger: Ledger,
    injector: Injector<'a>,
    stop: &'a AtomicBool,
    cpu: usize,
    reasons: DropReasons,
    schedule: Schedule,
    keeping: Keeping,
    window: Window,
    batch: Batch,
    books: Books,
    /// Monotonic time of the first frame's sending.
    start_ns: Option<u64>,
    on_progress: &'a mut OnProgress<'b>,
}

/// The last packets of the window that wait to be sent together, all on one side.
#[derive(Debug, Default)]
struct Batch {
    side: usize,
    due: Vec<Option<u64>>,
}

impl Run<'_, '_> {
    fn all<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        &mut self,
        frames: impl Iterator<Item = Result<Frame, E>>,
    ) -> Result<(), WireError> {
        for frame in frames {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => {
                    self.flush()?;
                    return Err(WireError::Frames(error.into()));
                }
            };
            if self.ended() {
                break;
            }
            self.offer(frame)?;
        }
        self.flush()
    }

    /// Whether nothing more is to be sent.
    fn ended(&mut self) -> bool {
        let outcome = &mut self.books.outcome;
        outcome.interrupted |= self.stop.load(Ordering::Relaxed);
        outcome.interrupted || outcome.stalled
    }

    fn offer(&mut self, frame: Frame) -> Result<(), WireError> {
        let place = self.place;
        let (side, link) = match frame.side {
            Side::Client => (0, Some(&place.client)),
            Side::Server => (1, place.server.as_ref()),
        };
        let Some(link) = link else {
            self.books.outcome.withheld += 1;
            return Ok(());
        };
        let Frame { number, time_ns, mut data, .. } = frame;
        if !link.dut.bridged {
            readdress(&mut data, link);
        }
        let due = self.schedule.due(time_ns);
        let early = self.is_early(due);
        if early || side != self.batch.side || self.batch.due.len() == SEND_BATCH {
            self.flush()?;
        }
        self.batch.side = side;
        if let Err(data) = self.window.push(side, number, time_ns, data) {
            self.flush()?;
            self.settle()?;
            // An empty window takes any frame.
            let _ = self.window.push(side, number, time_ns, data);
        }
        self.batch.due.push(due);
        if !early {
            return Ok(());
        }
        if let (Some(due), Some(start_ns)) = (due, self.start_ns)
            && self.injector.wait_until(start_ns + due) == Went::Stopped
        {
            self.books.outcome.interrupted = true;
        }
        self.flush()
    }

    /// Whether a frame is due only later: then those before it must not wait for it, and it must not wait for the next.
    /// Frames that are late already go out in batches.
    fn is_early(&self, due: Option<u64>) -> bool {
        match (due, self.start_ns) {
            (Some(due), Some(start_ns)) => sys::monotonic_ns() < start_ns + due,
            // The first frame starts the clock, and is sent at once.
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    /// Sends the batch; forgets it if nothing more is to be sent.
    fn flush(&mut self) -> Result<(), WireError> {
        if self.batch.due.is_empty() || self.ended() {
            let unsent = std::mem::take(&mut self.batch.due).len();
            self.window.truncate(self.window.packets().len() - unsent);
            return Ok(());
        }
        let first = self.window.packets().len() - self.batch.due.len();
        if self.options.keep_sent {
            self.window.sent(first, now_ns());
        }
        let packets = self.window.packets();
        let mut outgoing = [Outgoing { number: 0, time_ns: 0, slot: 0, data: &[] }; SEND_BATCH];
        for (to, packet) in outgoing.iter_mut().zip(&packets[first..]) {
            *to = Outgoing { number: packet.number, time_ns: packet.time_ns, slot: packet.slot, data: &packet.data };
        }
        let count = self.batch.due.len();
        let before = sys::monotonic_ns();
        let sent = self.injector.send(&self.ledger, self.batch.side, &outgoing[..count]);
        let now = sys::monotonic_ns();
        // Where frames have their times, these count from the first one's arrival.
        let is_paced = self.batch.due[0].is_some();
        let start_ns = *self.start_ns.get_or_insert(if is_paced { now } else { before });
        let now = now - start_ns;
        for due in self.batch.due.drain(..).take(sent.frames) {
            self.keeping.sent(due, now);
        }
        self.window.truncate(first + sent.frames);
        let went = sent.went?;
        self.books.outcome.interrupted |= went == Went::Stopped;
        self.books.outcome.stalled |= went == Went::Stalled;
        self.progress()
    }

    fn progress(&mut self) -> Result<(), WireError> {
        let books = &mut self.books;
        self.ledger.collect(|frame| books.arrived(frame));
        let sent = self.injector.sent(0) + self.injector.sent(1);
        Ok((self.on_progress)(sent)?)
    }

    /// Waits until the end of every packet under way is known, and books it. Bounded by the deadline, so the stop flag
    /// is not heeded: a run that is stopped still says where its packets ended.
    fn settle(&mut self) -> Result<(), WireError> {
        let deadline = sys::monotonic_ns() + u64::try_from(self.options.deadline.as_nanos()).unwrap_or(u64::MAX / 2);
        for side in 0..2 {
            if !self.books.outcome.stalled {
                let went = self.injector.wait_seen(&self.ledger, side, 0, None);
                self.books.outcome.stalled |= went == Went::Stalled;
            }
        }
        self.leave_softirqs();
        let programs = self.programs;
        let mut ended = 0;
        loop {
            // Nobody else reads these sockets, and not before all frames are on their way.
            for (socket, datagrams) in self.network.read_sockets() {
                self.window.taken(socket, datagrams, &self.ledger, programs, &self.reasons);
            }
            let all = self.window.has_ended(&mut ended, &self.ledger, programs, &self.reasons);
            if all || sys::monotonic_ns() >= deadline {
                break;
            }
            self.injector.pause();
        }
        self.window.harvest(&self.ledger, programs, &self.reasons, &mut self.books);
        self.progress()
    }

    /// Makes sure that no packet is half-way through the device under test. On this thread's CPU none can be while it
    /// runs; if XDP ran elsewhere too, whatever runs there must end first.
    fn leave_softirqs(&self) {
        let here = 1 << (self.cpu % 64);
        let elsewhere = (0..2).any(|side| self.ledger.counters(side).cpus & !here != 0);
        if elsewhere && sys::wait_for_softirqs().is_err() {
            // Without membarrier the wait for each packet's end has to do.
            self.injector.pause();
        }
    }

    /// Waits for the last frames at the far ends and closes the books.
    fn finish(mut self) -> Result<WireOutcome, WireError> {
        let end_ns = self.start_ns.map_or(0, |start_ns| sys::monotonic_ns() - start_ns);
        for side in [0, 1_u32] {
            let index = side as usize;
            let (generated, queue) = self.wait_arrived(side)?;
            let counters = self.ledger.counters(index);
            let copies = self.impaired.duplicates(index);
            self.books.balance(index, generated, counters.arrived, queue.map(|queue| queue.dropped), copies);
            self.books.outcome.foreign += counters.foreign;
            self.books.outcome.unstamped += counters.unstamped;
            self.books.outcome.unrecorded += counters.unrecorded;
        }
        self.progress()?;
        self.books.outcome.unseeded = self.impaired.unseeded()?;
        self.books.outcome.by_socket = self.injector.by_socket;
        self.books.outcome.pacing = self.keeping.summary(self.options.speed, end_ns);
        self.ledger.disarm();
        Ok(self.books.close(&self.place.host))
    }

    /// Waits until what left by a side has arrived, or the deadline has passed without any arrival. Returns how many
    /// packets the device under test made itself, and what its queue did where it is impaired.
    fn wait_arrived(&mut self, side: u32) -> Result<(u64, Option<QueueCounters>), WireError> {
        /// An impaired queue is asked again after so long, ns.
        const AGAIN_NS: u64 = 500_000;
        let index = side as usize;
        let patience = u64::try_from(self.options.deadline.as_nanos()).unwrap_or(u64::MAX / 2);
        let patience = patience.saturating_add(self.impaired.delay_ns(index));
        let mut last = self.ledger.arrived(index);
        let mut deadline = sys::monotonic_ns().saturating_add(patience);
        loop {
            let generated = self.ledger.generated(side)?;
            let queue = self.impaired.counters(index)?;
            let arrived = self.ledger.arrived(index);
            let all = match &queue {
                None => arrived >= self.books.left(index) + generated,
                Some(queue) => queue.waiting == 0 && arrived >= queue.packets,
            };
            let now = sys::monotonic_ns();
            if all || now >= deadline {
                return Ok((generated, queue));
            }
            if queue.is_none() {
                self.injector.pause();
                continue;
            }
            // A slow link gives signs of life.
            if std::mem::replace(&mut last, arrived) != arrived {
                deadline = now.saturating_add(patience);
                self.progress()?;
            }
            sys::sleep_until(now + AGAIN_NS);
        }
    }
}
