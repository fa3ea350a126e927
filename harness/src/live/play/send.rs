//! The played end's packets.

use std::os::fd::AsFd as _;

use super::super::LiveError;
use super::super::packet::Packet;
use super::super::peer::Next;
use super::Run;
use crate::sys::{self, SEND_BATCH};

impl Run<'_> {
    pub(super) fn send(&mut self, index: usize, now: u64) {
        let flow = &self.script.flows[index];
        let patience = self.patience;
        loop {
            if !flow.tcp {
                if !self.send_datagram(index, now) {
                    return;
                }
                continue;
            }
            let mut peer = std::mem::take(&mut self.states[index].peer);
            let written = self.states[index].responder.written_bytes;
            let next = peer.next(flow, now, &|time_ns| self.plan(time_ns), patience, written);
            let packet = match next {
                Next::Now => peer.take(flow, 1 - self.live_side()),
                Next::Done => peer.tail(flow).inspect(|_| self.states[index].tails += 1),
                _ => None,
            };
            let packet = packet.or_else(|| peer.acknowledge(flow));
            self.states[index].peer = peer;
            match (next, packet) {
                (_, Some(packet)) => {
                    self.touch(index, now);
                    self.push(packet);
                }
                (Next::At(due), None) => return self.keep_alive(index, due),
                (Next::Hold { deadline_ns }, None) => return self.remind(index, deadline_ns),
                _ => return,
            }
        }
    }

    /// Sends the next datagram of the played end, if it may go.
    fn send_datagram(&mut self, index: usize, now: u64) -> bool {
        let flow = &self.script.flows[index];
        let sent = usize::try_from(self.states[index].peer.packets).unwrap_or(usize::MAX);
        let Some(step) = flow.steps.get(sent) else { return false };
        let due = self.plan(step.time_ns);
        if now < due {
            self.keep_alive(index, due);
            return false;
        }
        if self.states[index].peer.received < step.after {
            // An application may answer less often than was recorded.
            let deadline = self.states[index].last_ns + self.patience.whole_ns;
            if self.states[index].forwarded_to.is_none() || now < deadline {
                self.remind(index, deadline);
                return false;
            }
        }
        let packet = step.packet.clone();
        let state = &mut self.states[index];
        (state.peer.packets, state.last_ns) = (state.peer.packets + 1, now);
        self.push(packet);
        true
    }

    fn push(&mut self, mut packet: Packet) {
        let [to, from] = self.macs;
        packet.finish(to, from);
        self.outgoing.push(packet.frame);
    }

    pub(super) fn flush(&mut self) -> Result<(), LiveError> {
        let frames = std::mem::take(&mut self.outgoing);
        let mut rest: &[Vec<u8>] = &frames;
        while !rest.is_empty() {
            let batch: Vec<&[u8]> = rest.iter().take(SEND_BATCH).map(Vec::as_slice).collect();
            match sys::send_frames(self.sender.as_fd(), &batch) {
                Ok(sent) => rest = &rest[sent..],
                // The driver has no room just now.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN)) => {
                    std::thread::yield_now();
                }
                Err(source) => {
                    let operation = format!("send a packet of {} bytes as the played end", batch[0].len());
                    return Err(LiveError::System { operation, source });
                }
            }
        }
        Ok(())
    }
}
