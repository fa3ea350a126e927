//! Live frames by the batch: handed to the kernel together, to be sent at once or each when it is due.

use bpflab_programs::replayer::{Moment, SHORTEST};

use super::WireError;
use super::inject::{Outgoing, TRAIN};
use super::place::{Place, Port};
use super::replayer::{Arena, Metering, Replayer, Room, Sender};
use crate::sys::SEND_BATCH;

/// The kernel as a sender of batches.
pub(super) struct LiveFrames {
    sender: Sender,
    arena: Arena,
    largest: usize,
    /// Each frame waits in the kernel until it is due.
    pub(super) is_timed: bool,
    // The maps of both.
    _replayer: Replayer,
}

impl LiveFrames {
    /// Frames go as fast as they can. `largest` is what a live frame holds.
    pub(super) fn at_once(place: &Place, largest: usize) -> Result<Self, WireError> {
        // 64 frames of less than a page fill a quarter of a chunk.
        let room = Room { slots: SEND_BATCH as u32, chunks: 1 };
        Self::with(Replayer::load(room, Metering::default())?, place, largest, false)
    }

    /// Frames go when they are due. `largest` is what a live frame holds.
    pub(super) fn when_due(place: &Place, largest: usize) -> Result<Self, WireError> {
        let room = Room { slots: TRAIN as u32, chunks: 1 };
        Self::with(Replayer::when_due(room)?, place, largest, true)
    }

    fn with(mut replayer: Replayer, place: &Place, largest: usize, is_timed: bool) -> Result<Self, WireError> {
        let sender = replayer.sender(place, largest)?;
        Ok(Self { sender, arena: replayer.arena()?, largest, is_timed, _replayer: replayer })
    }

    /// Whether a frame goes into a live frame and out at `port`. What the interface does not take, a socket refuses.
    pub(super) fn fits(&self, port: &Port, frame: &Outgoing<'_>) -> bool {
        (SHORTEST..=self.largest.min(port.largest_frame(frame.data))).contains(&frame.data.len())
    }

    /// Sends frames, all of which fit, at once.
    pub(super) fn send(&self, side: usize, frames: &[Outgoing<'_>]) -> Result<(), WireError> {
        self.fill(side, frames);
        self.sender.send(u32::try_from(frames.len()).unwrap_or(u32::MAX))
    }

    /// Sends frames, all of which fit, each when its moment says that it is due, and notes in the moments how that went.
    pub(super) fn send_when_due(
        &self,
        side: usize,
        frames: &[Outgoing<'_>],
        moments: &mut [Moment],
    ) -> Result<(), WireError> {
        self.fill(side, frames);
        for (slot, moment) in (0..).zip(moments.iter()) {
            self.sender.set_due(slot, moment.due_ns);
        }
        self.sender.send(u32::try_from(frames.len()).unwrap_or(u32::MAX))?;
        for (slot, moment) in (0..).zip(moments) {
            *moment = self.sender.moment(slot);
        }
        Ok(())
    }

    fn fill(&self, side: usize, frames: &[Outgoing<'_>]) {
        let mut part = self.arena.whole();
        for frame in frames {
            self.arena.put(&mut part, side, frame.data);
        }
        self.sender.select(part.filled());
    }
}
