//! Sending by packet sockets: for kernels without live frames, and for frames that are too long for those.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::traffic::Traffic;
use super::{Flood, pinned};
use crate::sys::SEND_BATCH;
use crate::wire::WireError;
use crate::wire::inject::{Injector, Outgoing, Receiver, Went};
use crate::wire::replayer::{Account, Meters};

/// The meters at the device under test, which see frames without having been told of them.
impl Receiver for Meters {
    fn announce(&self, _side: usize, _number: u64, _frame: &Outgoing<'_>) {}

    fn withdraw(&self, _side: usize, _number: u64) {}

    fn seen(&self, side: usize) -> u64 {
        self.frames(side)
    }
}

/// Frames that are sent together, all on one side.
#[derive(Default)]
struct Batch {
    side: usize,
    /// As many buffers as there ever were frames, and how many of them are used.
    frames: Vec<(u64, Vec<u8>)>,
    used: usize,
}

impl Batch {
    fn push(&mut self, number: u64, data: &[u8]) {
        if self.used == self.frames.len() {
            self.frames.push((0, Vec::new()));
        }
        let (place, buffer) = &mut self.frames[self.used];
        *place = number;
        buffer.clear();
        buffer.extend_from_slice(data);
        self.used += 1;
    }
}

impl Flood<'_, '_> {
    /// Sends the source by packet sockets.
    pub(super) fn by_sockets(&mut self, traffic: &mut Traffic<'_>) -> Result<Account, WireError> {
        let _pinned = pinned()?;
        let stop = self.end.stop;
        let mut injector = Injector::open(self.place, self.options.deadline, stop)?;
        self.end.start = Instant::now();
        let (mut account, mut batch) = (Account::default(), Batch::default());
        'all: for _ in 0..self.end.times() {
            while let Some((side, frame)) = traffic.next()? {
                if batch.used == SEND_BATCH || side != batch.side {
                    if self.end.is_over() || self.flush(&mut injector, &mut batch, &mut account)? != Went::Well {
                        break 'all;
                    }
                    batch.side = side;
                }
                batch.push(frame.number, &frame.data);
            }
            if self.flush(&mut injector, &mut batch, &mut account)? != Went::Well || self.end.is_over() {
                break;
            }
            if account.frames == [0; 2] {
                break;
            }
            traffic.rewind()?;
        }
        Ok(account)
    }

    fn flush(
        &mut self,
        injector: &mut Injector<'_>,
        batch: &mut Batch,
        account: &mut Account,
    ) -> Result<Went, WireError> {
        let frames = &batch.frames[..std::mem::take(&mut batch.used)];
        let mut outgoing = [Outgoing { number: 0, time_ns: 0, slot: 0, data: &[] }; SEND_BATCH];
        for (to, (number, data)) in outgoing.iter_mut().zip(frames) {
            *to = Outgoing { number: *number, data, ..*to };
        }
        let sent = injector.send(&self.meters, batch.side, &outgoing[..frames.len()]);
        account.frames[batch.side] += sent.frames as u64;
        account.bytes[batch.side] += frames[..sent.frames].iter().map(|(_, data)| data.len() as u64).sum::<u64>();
        let total = account.frames.iter().sum();
        self.sent.store(total, Ordering::Relaxed);
        (self.progress)(total)?;
        let went = sent.went?;
        if went == Went::Stalled && self.meters.frames(batch.side) == 0 {
            let (_, link) = self.place.links().find(|(side, _)| *side == batch.side).unwrap_or((0, &self.place.client));
            return Err(WireError::Vanished {
                interface: format!("{} of host {}", link.dut.name, link.dut.host),
                sent: account.frames[batch.side],
                why: format!("XDP there sees nothing; its MTU is {}", link.dut.mtu),
            });
        }
        Ok(went)
    }
}
