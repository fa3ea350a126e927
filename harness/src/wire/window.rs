//! The packets under way, and the account of those that have ended.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeBounds;

use bpflab_programs::ledger::{LEFT_CLIENT, LEFT_SERVER, SLOTS};

use super::account::{End, Programs, Progress, end, may_be_verdict};
use super::ledger::{Arrived, Ledger};
use super::{KernelDrop, LISTED, SentEnd, SentFrame, Unaccounted, WireOutcome};
use crate::kernel::reasons::DropReasons;
use crate::kernel::symbols;
use crate::observation;
use crate::recorder::MOST_BYTES;
use crate::suite::drops;

/// Bytes of frames in one window: a window that holds large frames ends before its slots do, so that memory stays small.
const WINDOW_BYTES: usize = 16 << 20;

/// A packet under way.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) number: u64,
    pub(super) time_ns: u64,
    pub(super) slot: u32,
    side: usize,
    /// When it was handed to the kernel, ns since the UNIX epoch; 0 before that.
    sent_ns: u64,
    pub(super) data: Vec<u8>,
    /// A socket had it.
    taken: bool,
}

/// The packets sent since everything was last accounted for.
#[derive(Debug)]
pub(super) struct Window {
    packets: Vec<Packet>,
    bytes: usize,
    slots: Slots,
}

/// Slots that a new packet may have. One whose packet's end is not known stays taken: the kernel may still hold the
/// packet and speak of it later.
#[derive(Debug)]
struct Slots {
    next: u32,
    taken: Vec<bool>,
}

impl Slots {
    fn free(&mut self) -> Option<u32> {
        while let Some(taken) = self.taken.get(self.next as usize) {
            self.next += 1;
            if !taken {
                return Some(self.next - 1);
            }
        }
        None
    }
}

impl Window {
    pub(super) fn new() -> Self {
        Self { packets: Vec::new(), bytes: 0, slots: Slots { next: 0, taken: vec![false; SLOTS] } }
    }

    /// Takes a packet in, or gives it back when the window is full.
    pub(super) fn push(&mut self, side: usize, number: u64, time_ns: u64, data: Vec<u8>) -> Result<(), Vec<u8>> {
        if self.bytes > 0 && self.bytes + data.len() > WINDOW_BYTES {
            return Err(data);
        }
        let Some(slot) = self.slots.free() else { return Err(data) };
        self.bytes += data.len();
        self.packets.push(Packet { number, time_ns, slot, side, sent_ns: 0, data, taken: false });
        Ok(())
    }

    pub(super) fn packets(&self) -> &[Packet] {
        &self.packets
    }

    /// Notes when packets were sent, by their places in the window.
    pub(super) fn sent(&mut self, places: impl RangeBounds<usize>, time_ns: u64) {
        let places = (places.start_bound().cloned(), places.end_bound().cloned());
        self.packets[places].iter_mut().for_each(|packet| packet.sent_ns = time_ns);
    }

    /// Forgets the packets from the `sent`-th on, which did not go out.
    pub(super) fn truncate(&mut self, sent: usize) {
        self.packets.truncate(sent);
    }

    /// Ends the packets that a UDP socket has had, which are `datagrams` of those addressed to it that the kernel holds.
    /// Newer kernels are silent about their end (seen on 6.18; `skb_consume_udp`, net/ipv4/udp.c).
    pub(super) fn taken(
        &mut self,
        socket: SocketAddr,
        datagrams: u64,
        ledger: &Ledger,
        programs: &Programs,
        reasons: &DropReasons,
    ) {
        let to_it = format!("> {socket}");
        let held = |packet: &&mut Packet| {
            may_be_taken(&packet_end(packet, ledger, programs, reasons))
                && crate::flow_name::of(&packet.data).ends_with(&to_it)
        };
        let most = usize::try_from(datagrams).unwrap_or(usize::MAX);
        self.packets.iter_mut().filter(held).take(most).for_each(|packet| packet.taken = true);
    }

    /// Whether every packet has ended; `from` is where the last look stopped, and is moved on.
    pub(super) fn has_ended(
        &self,
        from: &mut usize,
        ledger: &Ledger,
        programs: &Programs,
        reasons: &DropReasons,
    ) -> bool {
        while let Some(packet) = self.packets.get(*from) {
            if matches!(packet_end(packet, ledger, programs, reasons), End::Open(_)) {
                return false;
            }
            *from += 1;
        }
        true
    }

    /// Books every packet and empties the window.
    pub(super) fn harvest(&mut self, ledger: &Ledger, programs: &Programs, reasons: &DropReasons, books: &mut Books) {
        for packet in self.packets.drain(..) {
            let end = packet_end(&packet, ledger, programs, reasons);
            if matches!(end, End::Open(_)) {
                self.slots.taken[packet.slot as usize] = true;
            } else {
                ledger.clear(packet.slot);
            }
            books.enter(packet, end, reasons);
        }
        self.bytes = 0;
        self.slots.next = 0;
    }
}

/// Where a packet ended, with this kernel's names of reasons and functions.
fn packet_end<'a>(packet: &Packet, ledger: &Ledger, programs: &'a Programs, reasons: &DropReasons) -> End<'a> {
    let place = |location| symbols::functions([location]).ok()?.remove(&location);
    let fate = ledger.fate(packet.slot);
    let end = end(
        &fate,
        packet.side,
        programs,
        |reason| may_be_verdict(&reasons.name(reason)),
        |reason, location| drops::is_queue(&reasons.name(reason), || place(location)),
    );
    if packet.taken && may_be_taken(&end) { End::Local } else { end }
}

/// Whether a packet of that end may be in a socket instead. A tc program that lets it pass ends the chain like one that
/// redirects it, and of what follows there is no word.
fn may_be_taken(end: &End<'_>) -> bool {
    matches!(end, End::Open(Progress::Stack) | End::Verdict { verdict: "TC_ACT_REDIRECT", .. })
}

/// The account of a run.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) outcome: WireOutcome,
    /// Packets that left, by side.
    left: [u64; 2],
    /// Packets that were dropped by the queue on their way out, by side.
    queued: [u64; 2],
    verdicts: BTreeMap<(&'static str, &'static str, String, String), u64>,
    /// Whether packets are kept with their ends, and the bytes of what is kept.
    pub(super) keep: bool,
    kept: usize,
}

impl Books {
    fn enter(&mut self, packet: Packet, end: End<'_>, reasons: &DropReasons) {
        self.count(&packet, end, reasons);
        if !self.keep {
            return;
        }
        let Packet { number, side, sent_ns: time_ns, data, .. } = packet;
        let cost = size_of::<SentFrame>() + data.len();
        if self.kept + cost > MOST_BYTES {
            self.outcome.unkept += 1;
            return;
        }
        self.kept += cost;
        let end = match end {
            End::Left(_) | End::Local => SentEnd::Passed,
            End::Verdict { hook, verdict, program } => SentEnd::Verdict { hook, verdict, program: program.to_owned() },
            End::Dropped { reason, location, .. } => SentEnd::Dropped { reason: reasons.name(reason), location },
            End::Open(progress) => SentEnd::Open(progress),
        };
        self.outcome.sent.push(SentFrame { number, time_ns, side, data, end });
    }

    /// Takes a frame in that has arrived at a far end; where frames are kept at both ends, as far as there is room.
    pub(super) fn arrived(&mut self, frame: Arrived) {
        let cost = size_of::<Arrived>() + frame.data.len();
        if self.keep && self.kept + cost > MOST_BYTES {
            self.outcome.unrecorded += 1;
            return;
        }
        self.kept += cost;
        self.outcome.received.push(frame);
    }

    fn count(&mut self, packet: &Packet, end: End<'_>, reasons: &DropReasons) {
        let (outcome, number) = (&mut self.outcome, packet.number);
        let ledger = &mut outcome.ledger;
        ledger.offered += 1;
        match end {
            End::Left(sides) => {
                ledger.delivered += 1;
                self.left[0] += u64::from(sides & LEFT_CLIENT != 0);
                self.left[1] += u64::from(sides & LEFT_SERVER != 0);
            }
            End::Verdict { hook, verdict, program } => {
                ledger.consumed += 1;
                *ledger.consumed_by.entry(format!("{verdict} by {program}")).or_default() += 1;
                let flow = crate::flow_name::of(&packet.data);
                *self.verdicts.entry((hook, verdict, program.to_owned(), flow)).or_default() += 1;
            }
            End::Local => {
                ledger.consumed += 1;
                *ledger.consumed_by.entry("local delivery".to_owned()).or_default() += 1;
            }
            End::Dropped { reason, location, queue } => {
                self.queued[0] += u64::from(queue & LEFT_CLIENT != 0);
                self.queued[1] += u64::from(queue & LEFT_SERVER != 0);
                let reason = reasons.name(reason);
                ledger.dropped += 1;
                *ledger.dropped_by.entry(reason.clone()).or_default() += 1;
                if outcome.kernel_drops.len() < LISTED {
                    outcome.kernel_drops.push(KernelDrop { packet: number, reason, location });
                }
            }
            End::Open(progress) => {
                ledger.unaccounted += 1;
                if outcome.unaccounted.len() < LISTED {
                    outcome.unaccounted.push(Unaccounted { packet: number, progress });
                }
            }
        }
    }

    /// Packets that left on a side, and were not dropped by its queue.
    pub(super) fn left(&self, side: usize) -> u64 {
        self.left[side]
    }

    /// Compares what left with what arrived. What did not arrive was lost on the last link: those packets count as
    /// dropped there, though which ones they are is not known.
    ///
    /// An impaired queue drops packets that the device under test made as well, or one of a packet's two ways out;
    /// what `queue_drops` it counts beyond those of the account is not expected to arrive. What arrives beyond the
    /// expected are copies where the queue makes some: a copy that is lost counts as its packet's loss, and the packet
    /// that arrives as a copy.
    pub(super) fn balance(
        &mut self,
        side: usize,
        generated: u64,
        arrived: u64,
        queue_drops: Option<u64>,
        copies: bool,
    ) {
        const LOST: &str = "LOST_ON_LAST_LINK";
        let elsewhere = queue_drops.unwrap_or_default().saturating_sub(self.queued[side]);
        let expected = (self.left[side] + generated).saturating_sub(elsewhere);
        let ledger = &mut self.outcome.ledger;
        ledger.generated += generated;
        let lost = expected.saturating_sub(arrived).min(ledger.delivered);
        if lost > 0 {
            ledger.delivered -= lost;
            ledger.dropped += lost;
            *ledger.dropped_by.entry(LOST.to_owned()).or_default() += lost;
        }
        let more = arrived.saturating_sub(expected);
        if copies {
            ledger.duplicated += more;
        } else {
            self.outcome.by_xdp += more;
        }
    }

    /// The rows of packets that a verdict ended.
    pub(super) fn close(mut self, host: &str) -> WireOutcome {
        self.outcome.drops = self
            .verdicts
            .into_iter()
            .map(|((by, reason, place, flow), packets)| observation::Drop {
                by: by.split(' ').next().unwrap_or(by).to_owned(),
                reason: reason.to_owned(),
                class: observation::DropClass::Verdict,
                place,
                host: host.to_owned(),
                flow,
                packets,
            })
            .collect();
        self.outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10 packets left by the server's side, of 13; its queue dropped the other 3.
    fn books() -> Books {
        let mut books = Books { left: [0, 10], queued: [0, 3], ..Books::default() };
        books.outcome.ledger =
            observation::Ledger { offered: 13, delivered: 10, dropped: 3, ..observation::Ledger::default() };
        books
    }

    fn balanced(arrived: u64, generated: u64, drops: Option<u64>, copies: bool) -> (u64, u64, u64, u64) {
        let mut books = books();
        books.balance(1, generated, arrived, drops, copies);
        let ledger = &books.outcome.ledger;
        (ledger.delivered, ledger.dropped, ledger.duplicated, books.outcome.by_xdp)
    }

    #[test]
    fn what_an_impaired_queue_does_is_not_taken_for_a_loss_or_for_xdp() {
        assert_eq!(balanced(10, 0, Some(3), false), (10, 3, 0, 0));
        // Two of five packets that the device under test made itself were lost on purpose as well.
        assert_eq!(balanced(13, 5, Some(5), false), (10, 3, 0, 0));
        // Four copies arrived.
        assert_eq!(balanced(14, 0, Some(3), true), (10, 3, 4, 0));
        // Without an impairment as before.
        assert_eq!(balanced(9, 0, None, false), (9, 4, 0, 0));
        assert_eq!(balanced(12, 0, None, false), (10, 3, 0, 2));
    }
}
