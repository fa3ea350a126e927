//! Sending by the kernel's live frames: all from memory, or one half while the other is filled.

use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::traffic::Traffic;
use super::{End, Flood, wait_for};
use crate::wire::WireError;
use crate::wire::engine::{Engine, largest_live_frame};
use crate::wire::place::Place;
use crate::wire::replayer::{Account, Arena, Meters, Part, Replayer, Sender};

/// Frames of one call into the kernel: a few ms, and hundreds of times what a call costs.
const CALL: u64 = 16_384;
/// Frames of the first call, which shows whether any arrive.
const PROOF: u64 = 64;

impl Flood<'_, '_> {
    /// Sends the source by live frames.
    pub(super) fn by_live_frames(
        &mut self,
        replayer: &mut Replayer,
        traffic: &mut Traffic<'_>,
    ) -> Result<Account, WireError> {
        let unusable = |why| WireError::Engine { engine: Engine::LiveFrames, why };
        let largest = largest_live_frame().map_err(unusable)?;
        let sender = replayer.sender(self.place, largest)?;
        let arena = replayer.arena()?;
        let mut whole = arena.whole();
        if !fill(&arena, &mut whole, traffic, largest, None)? {
            traffic.start_over()?;
            self.streamed = true;
            return self.stream(sender, &arena, replayer.meters()?, traffic, largest);
        }
        self.end.start = Instant::now();
        let frames = whole.filled().len() as u64;
        if frames == 0 {
            return Ok(Account::default());
        }
        sender.select(whole.filled());
        let mut sending = Sending::new(&sender, &self.meters, self.place, self.options.deadline);
        let mut left = frames.saturating_mul(self.end.times());
        while left > 0 && !self.end.is_over() {
            left -= sending.send(left)?;
            (self.progress)(sending.sent)?;
        }
        Ok(sender.account())
    }

    /// Fills one half of the arena while the other is sent, on a thread of its own.
    fn stream(
        &mut self,
        sender: Sender,
        arena: &Arena,
        meters: Meters,
        traffic: &mut Traffic<'_>,
        largest: usize,
    ) -> Result<Account, WireError> {
        let (end, place, deadline, sent) = (self.end, self.place, self.options.deadline, self.sent);
        let (full, to_send) = mpsc::sync_channel::<Part>(1);
        let (empty, to_fill) = mpsc::channel::<Part>();
        for half in arena.halves() {
            // The receiver is here: it cannot be gone.
            let _ = empty.send(half);
        }
        self.end.start = Instant::now();
        std::thread::scope(|scope| {
            let sending = scope.spawn(move || -> Result<Account, WireError> {
                let end = End { start: Instant::now(), ..end };
                let mut sending = Sending::new(&sender, &meters, place, deadline);
                while let Ok(part) = to_send.recv() {
                    sender.select(part.filled());
                    let mut left = part.filled().len() as u64;
                    while left > 0 && !end.is_over() {
                        left -= sending.send(left)?;
                        sent.store(sending.sent, Ordering::Relaxed);
                    }
                    if end.is_over() {
                        break;
                    }
                    // Nobody wants it back at the end, when other parts may still wait to be sent.
                    let _ = empty.send(part);
                }
                Ok(sender.account())
            });
            let filled = self.fill_halves(arena, traffic, largest, &full, &to_fill);
            // Without the channel the other thread ends, when it has sent what it was given.
            drop((full, to_fill));
            let account = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            filled.map(|()| account)
        })
    }

    fn fill_halves(
        &mut self,
        arena: &Arena,
        traffic: &mut Traffic<'_>,
        largest: usize,
        full: &mpsc::SyncSender<Part>,
        to_fill: &mpsc::Receiver<Part>,
    ) -> Result<(), WireError> {
        for _ in 0..self.end.times() {
            loop {
                // An end of the other thread is told by its result.
                let Ok(part) = to_fill.recv() else { return Ok(()) };
                let mut part = part.emptied();
                let all = fill(arena, &mut part, traffic, largest, Some(self.end))?;
                if full.send(part).is_err() || self.end.is_over() {
                    return Ok(());
                }
                (self.progress)(self.sent.load(Ordering::Relaxed))?;
                if all {
                    break;
                }
            }
            traffic.rewind()?;
        }
        Ok(())
    }
}

/// Adds the next frames of the source to a part of the arena; says whether the source is at its end. With `end`, that
/// ends it early.
fn fill(
    arena: &Arena,
    part: &mut Part,
    traffic: &mut Traffic<'_>,
    largest: usize,
    end: Option<End<'_>>,
) -> Result<bool, WireError> {
    while let Some((side, frame)) = traffic.next()? {
        let len = frame.data.len();
        if len > largest {
            let why = format!("a frame of {len} bytes is over the {largest} of a live frame");
            return Err(WireError::Engine { engine: Engine::LiveFrames, why });
        }
        if !arena.put(part, side, &frame.data) {
            traffic.keep();
            return Ok(false);
        }
        if part.filled().len().is_multiple_of(1024) && end.is_some_and(|end| end.is_over()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Calls into the kernel, the first of them a short one whose frames must arrive.
struct Sending<'a> {
    sender: &'a Sender,
    meters: &'a Meters,
    place: &'a Place,
    deadline: Duration,
    sent: u64,
}

impl<'a> Sending<'a> {
    fn new(sender: &'a Sender, meters: &'a Meters, place: &'a Place, deadline: Duration) -> Self {
        Self { sender, meters, place, deadline, sent: 0 }
    }

    /// Sends the next frames, at most `most` of them, and returns how many.
    fn send(&mut self, most: u64) -> Result<u64, WireError> {
        let is_first = self.sent == 0;
        let count = most.min(if is_first { PROOF } else { CALL });
        self.sender.send(u32::try_from(count).unwrap_or(u32::MAX))?;
        self.sent += count;
        if is_first {
            self.prove()?;
        }
        Ok(count)
    }

    /// That the first frames were sent says nothing; some must have arrived.
    fn prove(&self) -> Result<(), WireError> {
        let account = self.sender.account();
        for (side, link) in self.place.links() {
            let seen = || self.meters.frames(side);
            if account.frames[side] > 0 && !wait_for(&seen, 1, self.deadline) {
                return Err(WireError::Vanished {
                    interface: format!("{} of host {}", link.dut.name, link.dut.host),
                    sent: account.frames[side],
                    why: format!(
                        "a link takes live frames only where its other end is up, runs native XDP or GRO, and has an MTU \
                         for them (it is {} there)",
                        link.dut.mtu
                    ),
                });
            }
        }
        Ok(())
    }
}
