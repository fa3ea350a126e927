//! Sending by the kernel's live frames what fits into the arena.

use std::time::{Duration, Instant};

use super::stream::Pipe;
use super::traffic::Traffic;
use super::{Flood, pinned, wait_for};
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
        let end = self.end;
        if !fill(&arena, &mut whole, traffic, largest, &|| end.interrupted())? {
            traffic.start_over()?;
            self.end.start = Instant::now();
            let pipe = Pipe {
                sender,
                arena: &arena,
                meters: replayer.meters()?,
                first_meter: 0,
                place: self.place,
                deadline: self.options.deadline,
                largest,
                end: self.end,
                sent: self.sent,
            };
            let streamed = pipe.stream(traffic, self.progress)?;
            self.waited = Some(streamed.waited);
            return Ok(streamed.account);
        }
        let _pinned = pinned()?;
        self.end.start = Instant::now();
        let frames = whole.filled().len() as u64;
        if frames == 0 {
            return Ok(Account::default());
        }
        sender.select(whole.filled());
        let mut sending = Sending::new(&sender, &self.meters, 0, self.place, self.options.deadline);
        let mut left = frames.saturating_mul(self.end.times());
        while left > 0 && !self.end.is_over() {
            left -= sending.send(left)?;
            (self.progress)(sending.sent)?;
        }
        Ok(sender.account())
    }
}

/// Adds the next frames of the source to a part of the arena; says whether the source is at its end. `is_over` ends it early.
pub(super) fn fill(
    arena: &Arena,
    part: &mut Part,
    traffic: &mut Traffic<'_>,
    largest: usize,
    is_over: &dyn Fn() -> bool,
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
        if part.filled().len().is_multiple_of(1024) && is_over() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Calls into the kernel, the first of them a short one whose frames must arrive.
pub(super) struct Sending<'a> {
    sender: &'a Sender,
    meters: &'a Meters,
    /// Number of the meter where the client's frames arrive; the server's is the next.
    first_meter: usize,
    place: &'a Place,
    deadline: Duration,
    pub(super) sent: u64,
}

impl<'a> Sending<'a> {
    pub(super) fn new(
        sender: &'a Sender,
        meters: &'a Meters,
        first_meter: usize,
        place: &'a Place,
        deadline: Duration,
    ) -> Self {
        Self { sender, meters, first_meter, place, deadline, sent: 0 }
    }

    /// Sends the next frames, at most `most` of them, and returns how many.
    pub(super) fn send(&mut self, most: u64) -> Result<u64, WireError> {
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
            let seen = || self.meters.frames(self.first_meter + side);
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
