//! Sends frames when they are due.
//!
//! Where the kernel has live frames, it waits itself, in the program that sends them: nothing but the link is then between
//! the clock and the frame, and frames a microsecond apart leave a microsecond apart. A call takes its time until the
//! first frame is ready to go; it is made as much earlier, and takes all frames that come so soon after each other that
//! there is no time for another. Elsewhere, and for frames that live frames do not hold, a thread with precedence looks at
//! the clock and sends by a packet socket.
//!
//! In either case the frame arrives when it is due: it is sent as much earlier as frames were seen to take.

use std::sync::atomic::Ordering;

use bpflab_programs::replayer::Moment;

use super::inject::{Injector, Outgoing, Receiver, Sent, TRAIN, Went};
use super::lead::Lead;
use crate::sys::{self, SEND_BATCH, Urgent};

/// A sleeper wakes up late, by timers and by whoever has the CPU, and on a CPU that has to wake up as well; so much of a
/// wait is spent looking at the clock.
const SPIN_NS: u64 = 500_000;
/// Who never sleeps for so long is no longer given precedence: the kernel takes 50 ms of each second from a real-time
/// thread that does not let go (`sched_rt_runtime_us`), all at once.
const AWAKE_NS: u64 = 500_000_000;
/// Longest sleep before the stop flag is looked at again.
const NAP_NS: u64 = 20_000_000;
/// The least and the most that a call is made before its first frame is due. Softirqs of this CPU wait as long.
const HEAD_NS: std::ops::RangeInclusive<u64> = 100_000..=2_000_000;

/// What a punctual sender has learned, and what makes it one.
#[derive(Debug)]
pub(super) struct Punctual {
    urgent: Option<Urgent>,
    /// Since when the thread has not slept.
    awake_since_ns: u64,
    /// Twice as long as it takes from a call that sends live frames until the first one's turn comes.
    head_ns: u64,
    lead: Lead,
    /// When the last frame was sent.
    sent_ns: u64,
}

impl Default for Punctual {
    fn default() -> Self {
        Self { urgent: None, awake_since_ns: 0, head_ns: 2 * HEAD_NS.start(), lead: Lead::default(), sent_ns: 0 }
    }
}

impl Punctual {
    /// With precedence for the calling thread.
    pub(super) fn new() -> Self {
        Self { urgent: Some(Urgent::new()), awake_since_ns: sys::monotonic_ns(), ..Self::default() }
    }

    pub(super) const fn is_urgent(&self) -> bool {
        self.urgent.is_some()
    }

    /// Sets when frames are to be sent so that they arrive when `moments` say that they are due.
    fn lead(&self, moments: &mut [Moment]) {
        let mut last_ns = self.sent_ns;
        for moment in moments {
            let due_ns = moment.due_ns;
            moment.due_ns = due_ns.saturating_sub(self.lead.ns(due_ns.saturating_sub(last_ns)));
            last_ns = due_ns;
        }
    }

    fn learn(&mut self, moment: &Moment) {
        if moment.through_ns > moment.sent_ns {
            self.lead.learn(moment.sent_ns.saturating_sub(self.sent_ns), moment.through_ns - moment.sent_ns);
        }
        self.sent_ns = moment.through_ns.max(moment.sent_ns);
    }

    fn learn_head(&mut self, took_ns: u64) {
        let wanted = (2 * took_ns).clamp(*HEAD_NS.start(), *HEAD_NS.end());
        self.head_ns = wanted.max(self.head_ns - self.head_ns.saturating_sub(wanted) / 8);
    }
}

/// When a replay began whose first frames were meant to be sent from `start_ns` on. Times count from the arrival of the
/// first frame, if that went alone.
pub(super) fn begun_ns(start_ns: u64, first: &[Moment]) -> u64 {
    match first {
        [first] => first.through_ns.max(start_ns),
        _ => start_ns,
    }
}

impl Injector<'_> {
    /// Frames that are due within so many ns of each other are best sent together, by [`Injector::send_when_due`].
    pub(super) fn near_ns(&self) -> u64 {
        if self.live.as_ref().is_some_and(|live| live.is_timed) { self.punctual.head_ns } else { 0 }
    }

    /// A time from which on frames can be sent punctually, ns of the monotonic clock.
    pub(super) fn soon_ns(&self) -> u64 {
        sys::monotonic_ns() + 2 * self.punctual.head_ns
    }

    /// Sends frames on one side, at most [`TRAIN`], so that each arrives when its moment says that it is due, and notes in
    /// the moments how that went.
    pub(super) fn send_when_due(
        &mut self,
        receiver: &impl Receiver,
        side: usize,
        frames: &[Outgoing<'_>],
        moments: &mut [Moment],
    ) -> Sent {
        let mut done = 0;
        while done < frames.len() {
            let (frames, moments) = (&frames[done..], &mut moments[done..]);
            let (together, fit) = self.alike(side, &frames[..frames.len().min(TRAIN)]);
            let (frames, moments) = (&frames[..together], &mut moments[..together]);
            let sent = if fit {
                self.train(receiver, side, frames, moments)
            } else {
                self.by_socket_when_due(receiver, side, frames, moments)
            };
            done += sent.frames;
            if !matches!(sent.went, Ok(Went::Well)) {
                return Sent { frames: done, ..sent };
            }
        }
        Sent { frames: done, went: Ok(Went::Well) }
    }

    /// How many frames, from the first on, the kernel can send when they are due, or cannot, and which of the two.
    fn alike(&self, side: usize, frames: &[Outgoing<'_>]) -> (usize, bool) {
        let live = self.live.as_ref().filter(|live| live.is_timed).zip(self.port(side));
        let fits = |frame: &Outgoing<'_>| live.is_some_and(|(live, port)| live.fits(port, frame));
        let first = frames.first().is_some_and(fits);
        (frames.iter().take_while(|frame| fits(frame) == first).count(), first)
    }

    /// Lets the kernel send frames.
    fn train(
        &mut self,
        receiver: &impl Receiver,
        side: usize,
        frames: &[Outgoing<'_>],
        moments: &mut [Moment],
    ) -> Sent {
        let due: Vec<u64> = moments.iter().map(|moment| moment.due_ns).collect();
        self.punctual.lead(moments);
        let went = self.get_ready(receiver, side, moments[0].due_ns.saturating_sub(self.punctual.head_ns));
        let Some(live) = self.live.as_ref().filter(|_| went == Went::Well) else {
            return Sent { frames: 0, went: Ok(went) };
        };
        self.announce(receiver, side, frames);
        let called_ns = sys::monotonic_ns();
        let went = live.send_when_due(side, frames, moments);
        self.punctual.learn_head(moments[0].ready_ns.saturating_sub(called_ns));
        for (moment, due_ns) in moments.iter_mut().zip(due) {
            moment.due_ns = due_ns;
            self.punctual.learn(moment);
        }
        self.count(side, frames.len());
        Sent { frames: frames.len(), went: went.map(|()| Went::Well) }
    }

    /// Sends the first frame by the socket, and with it those that are late by then.
    fn by_socket_when_due(
        &mut self,
        receiver: &impl Receiver,
        side: usize,
        frames: &[Outgoing<'_>],
        moments: &mut [Moment],
    ) -> Sent {
        let mut first = [moments[0]];
        self.punctual.lead(&mut first);
        let went = self.get_ready(receiver, side, first[0].due_ns);
        if went != Went::Well {
            return Sent { frames: 0, went: Ok(went) };
        }
        let sent_ns = sys::monotonic_ns();
        let count = 1 + moments[1..].iter().take_while(|moment| moment.due_ns <= sent_ns).count();
        let sent = self.send_now(receiver, side, &frames[..count.min(SEND_BATCH)]);
        let through_ns = sys::monotonic_ns();
        for moment in &mut moments[..sent.frames] {
            *moment = Moment { sent_ns, through_ns, ..*moment };
        }
        if count == 1 {
            self.punctual.learn(&moments[0]);
        }
        self.punctual.sent_ns = through_ns;
        sent
    }

    /// Waits for room, and until the monotonic clock reads `due_ns`.
    fn get_ready(&mut self, receiver: &impl Receiver, side: usize, due_ns: u64) -> Went {
        match self.make_room(receiver, side) {
            Went::Well => self.wait_until(due_ns),
            went => went,
        }
    }

    /// Waits until the monotonic clock reads `due_ns`.
    fn wait_until(&mut self, due_ns: u64) -> Went {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Went::Stopped;
            }
            let now = sys::monotonic_ns();
            if now.saturating_sub(self.punctual.awake_since_ns) > AWAKE_NS {
                self.punctual.urgent = None;
            }
            if now >= due_ns {
                return Went::Well;
            }
            match (due_ns - now).checked_sub(SPIN_NS) {
                Some(long) if long > 0 => {
                    sys::sleep_until(now + long.min(NAP_NS));
                    self.punctual.awake_since_ns = sys::monotonic_ns();
                }
                _ => std::hint::spin_loop(),
            }
        }
    }
}
