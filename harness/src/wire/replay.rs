//! A replay from its first frame to its account.

use std::sync::atomic::{AtomicBool, Ordering};

use bpflab_programs::replayer::Moment;

use super::account::Programs;
use super::attach::{Attachments, XdpMode};
use super::engine::{Chosen, Engine, EngineChoice, Needs, choose, largest_live_frame};
use super::impaired::{self, Impaired};
use super::inject::{Injector, Outgoing, Sent, TRAIN, Went};
use super::ledger::Ledger;
use super::live_frames::LiveFrames;
use super::pace::{Keeping, Schedule};
use super::place::{Place, readdress};
use super::punctual::begun_ns;
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
        let largest = largest_live_frame().map_err(unusable)?;
        injector.use_live(match options.speed {
            Speed::Top => LiveFrames::at_once(&place, largest)?,
            _ => LiveFrames::when_due(&place, largest)?,
        });
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
/// The benchmark `engine` has live frames at half the speed of packet sockets here: at top speed they are for those who
/// ask for them. Where frames have their times, the calls are made in the time between.
fn engine(place: &Place, attachments: &Attachments, options: &WireOptions) -> Result<Chosen, WireError> {
    if options.engine == EngineChoice::Auto && options.speed == Speed::Top {
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

/// The window's packets from the `first` on, as they are sent.
fn outgoing(window: &Window, first: usize) -> Vec<Outgoing<'_>> {
    let packets = &window.packets()[first..];
    packets
        .iter()
        .map(|packet| Outgoing {
            number: packet.number,
            time_ns: packet.time_ns,
            slot: packet.slot,
            data: &packet.data,
        })
        .collect()
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

impl Batch {
    /// Whether a packet belongs to these: it is due within `near_ns` of the last one, or, like that, before `now_ns`.
    fn takes(&self, side: usize, due: Option<u64>, near_ns: u64, now_ns: u64) -> bool {
        let most = if due.is_some() { TRAIN } else { SEND_BATCH };
        match (self.due.last(), due) {
            (None, _) => true,
            _ if side != self.side || self.due.len() >= most => false,
            (Some(Some(last)), Some(due)) => due.saturating_sub(*last) <= near_ns || due <= now_ns,
            _ => true,
        }
    }
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
        let now_ns = self.start_ns.map_or(0, |start_ns| sys::monotonic_ns().saturating_sub(start_ns));
        if !self.batch.takes(side, due, self.injector.near_ns(), now_ns) {
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
        Ok(())
    }

    /// Sends the batch; forgets it if nothing more is to be sent.
    fn flush(&mut self) -> Result<(), WireError> {
        if self.batch.due.is_empty() || self.ended() {
            let unsent = std::mem::take(&mut self.batch.due).len();
            self.window.truncate(self.window.packets().len() - unsent);
            return Ok(());
        }
        let first = self.window.packets().len() - self.batch.due.len();
        let due: Option<Vec<u64>> = std::mem::take(&mut self.batch.due).into_iter().collect();
        let sent = match due {
            Some(due) => self.send_when_due(first, &due),
            None => self.send(first),
        };
        self.window.truncate(first + sent.frames);
        let went = sent.went?;
        self.books.outcome.interrupted |= went == Went::Stopped;
        self.books.outcome.stalled |= went == Went::Stalled;
        self.progress()
    }

    /// Sends the window's packets from the `first` on at once.
    fn send(&mut self, first: usize) -> Sent {
        let before = sys::monotonic_ns();
        if self.options.keep_sent {
            self.window.sent(first.., self.ledger.wall_ns(before));
        }
        let sent = self.injector.send(&self.ledger, self.batch.side, &outgoing(&self.window, first));
        let start_ns = *self.start_ns.get_or_insert(before);
        let now = sys::monotonic_ns() - start_ns;
        (0..sent.frames).for_each(|_| self.keeping.sent(None, now));
        sent
    }

    /// Sends the window's packets from the `first` on when they are due, ns from the start.
    fn send_when_due(&mut self, first: usize, due: &[u64]) -> Sent {
        let start_ns = self.start_ns.unwrap_or_else(|| self.injector.soon_ns());
        let mut moments: Vec<Moment> =
            due.iter().map(|due| Moment { due_ns: start_ns + due, ..Moment::default() }).collect();
        let frames = outgoing(&self.window, first);
        let sent = self.injector.send_when_due(&self.ledger, self.batch.side, &frames, &mut moments);
        moments.truncate(sent.frames);
        let start_ns = *self.start_ns.get_or_insert_with(|| begun_ns(start_ns, &moments));
        for (index, (moment, due)) in (first..).zip(moments.iter().zip(due)) {
            let arrived_ns = moment.through_ns.max(moment.sent_ns);
            self.keeping.sent(Some(*due), arrived_ns.saturating_sub(start_ns));
            if self.options.keep_sent {
                self.window.sent(index..=index, self.ledger.wall_ns(moment.sent_ns));
            }
        }
        sent
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_that_are_due_together_are_sent_together() {
        let batch = Batch { side: 0, due: vec![Some(1_000)] };
        let takes = |side, due, near_ns, now_ns| batch.takes(side, Some(due), near_ns, now_ns);
        assert!(takes(0, 1_000, 0, 0) && takes(0, 1_500, 500, 0));
        assert!(!takes(0, 1_501, 500, 0), "due too late");
        assert!(takes(0, 90_000, 500, 90_000), "late already");
        assert!(!takes(1, 1_000, 500, 90_000), "of the other side");
        assert!(takes(0, 900, 0, 0), "dated before the one before it");
        assert!(Batch::default().takes(1, Some(1_000), 0, 0), "the first");
        let full = Batch { side: 0, due: vec![Some(0); TRAIN] };
        assert!(!full.takes(0, Some(0), 0, 0));
    }

    #[test]
    fn packets_without_times_are_sent_as_many_as_one_call_takes() {
        let batch = |len| Batch { side: 0, due: vec![None; len] };
        assert!(batch(SEND_BATCH - 1).takes(0, None, 0, 0));
        assert!(!batch(SEND_BATCH).takes(0, None, 0, 0) && !batch(1).takes(1, None, 0, 0));
    }
}
