//! Sending by the kernel's live frames what is larger than the arena: some parts of it are filled while others are sent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::live::{Sending, fill};
use super::traffic::Traffic;
use super::{End, pinned};
use crate::wire::WireError;
use crate::wire::place::Place;
use crate::wire::replay::OnProgress;
use crate::wire::replayer::{Account, Arena, Meters, Part, Sender};

/// Between a source and the links that its frames go into.
pub(in crate::wire) struct Pipe<'a> {
    pub(in crate::wire) sender: Sender,
    pub(in crate::wire) arena: &'a Arena,
    pub(in crate::wire) meters: Meters,
    /// Number of the meter where the client's frames arrive; the server's is the next.
    pub(in crate::wire) first_meter: usize,
    pub(in crate::wire) place: &'a Place,
    /// How long to wait for the first frames.
    pub(in crate::wire) deadline: Duration,
    /// Bytes of the longest frame that can be sent.
    pub(in crate::wire) largest: usize,
    pub(in crate::wire) end: End<'a>,
    /// Told the number of frames sent.
    pub(in crate::wire) sent: &'a AtomicU64,
}

/// What was sent.
#[derive(Clone, Copy, Debug)]
pub(in crate::wire) struct Streamed {
    pub(in crate::wire) account: Account,
    /// How long nothing was sent for want of frames.
    pub(in crate::wire) waited: Duration,
}

impl Pipe<'_> {
    /// Sends on a thread of its own what this one reads from the source.
    pub(in crate::wire) fn stream(
        self,
        traffic: &mut Traffic<'_>,
        progress: &mut OnProgress<'_>,
    ) -> Result<Streamed, WireError> {
        let Self { sender, arena, meters, first_meter, place, deadline, largest, end, sent } = self;
        let (full, to_send) = mpsc::channel::<Part>();
        let (empty, to_fill) = mpsc::channel::<Part>();
        for part in arena.parts() {
            // The receiver is here: it cannot be gone.
            let _ = empty.send(part);
        }
        std::thread::scope(|scope| {
            let sending = scope.spawn(move || -> Result<Streamed, WireError> {
                // The one who fills is free to go where there is time.
                let _pinned = pinned()?;
                let end = End { start: Instant::now(), ..end };
                let mut sending = Sending::new(&sender, &meters, first_meter, place, deadline);
                let (mut waited, mut since) = (Duration::ZERO, Instant::now());
                while let Ok(part) = to_send.recv() {
                    waited += since.elapsed();
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
                    since = Instant::now();
                }
                Ok(Streamed { account: sender.account(), waited })
            });
            let filling = Filling { arena, largest, end, sent, full: &full, to_fill: &to_fill };
            let filled = filling.run(traffic, progress);
            // Without the channel the other thread ends, when it has sent what it was given.
            drop((full, to_fill));
            let streamed = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            filled.map(|()| streamed)
        })
    }
}

/// The end of a pipe that frames go into.
struct Filling<'a> {
    arena: &'a Arena,
    largest: usize,
    end: End<'a>,
    sent: &'a AtomicU64,
    full: &'a mpsc::Sender<Part>,
    to_fill: &'a mpsc::Receiver<Part>,
}

impl Filling<'_> {
    fn run(&self, traffic: &mut Traffic<'_>, progress: &mut OnProgress<'_>) -> Result<(), WireError> {
        for _ in 0..self.end.times() {
            loop {
                // An end of the other thread is told by its result.
                let Ok(part) = self.to_fill.recv() else { return Ok(()) };
                let mut part = part.emptied();
                let all = fill(self.arena, &mut part, traffic, self.largest, &|| self.end.is_over())?;
                if self.full.send(part).is_err() || self.end.is_over() {
                    return Ok(());
                }
                progress(self.sent.load(Ordering::Relaxed))?;
                if all {
                    break;
                }
            }
            traffic.rewind()?;
        }
        Ok(())
    }
}
