//! The played end of one TCP connection: which packet goes out when, with which numbers of the live end.

use super::end::End;
use super::follow::Follow;
use super::packet::{Packet, flag, is_before};
use super::script::{Flow, Step};

/// How long an acknowledgement waits for a live end that has been given all the bytes and has stopped sending them, for
/// want of the acknowledgement itself: less than its retransmission timeout (`TCP_RTO_MIN`, 200 ms), which would be no
/// fault of the capture's.
const STALLED_NS: u64 = 60_000_000;

/// How long a segment waits for a window that has room for a part of it, before that part goes alone: as long as a sender
/// waits by its persist timer at least (RFC 9293 section 3.8.6.1, `TCP_RTO_MIN`).
const PART_NS: u64 = 200_000_000;

/// Whether the next packet may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// There is none left.
    Done,
    /// Not before its time.
    At(u64),
    /// Not before the live end has sent or acknowledged more, or `deadline_ns`.
    Hold {
        deadline_ns: u64,
    },
    Now,
}

/// How long is waited for the live end, ns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Until it is given up.
    pub(super) whole_ns: u64,
    /// Until it is taken to have stopped for want of an acknowledgement.
    stalled_ns: u64,
    /// By how much the link delays what goes there and comes back.
    pub(super) round_trip_ns: u64,
}

impl Patience {
    pub(super) fn new(whole_ns: u64, round_trip_ns: u64) -> Self {
        // On a slow link, its machine may be slow as well: the delay counts twice.
        let stalled_ns = STALLED_NS + 2 * round_trip_ns;
        Self { whole_ns: whole_ns + round_trip_ns, stalled_ns, round_trip_ns }
    }
}

/// Sequence numbers are relative to the SYNs, as in the script.
#[derive(Debug, Default)]
pub(super) struct Peer {
    next: usize,
    /// The live end's first sequence number.
    live_isn: Option<u32>,
    /// Behind the last number that it has sent.
    live_sent: u32,
    /// What it has acknowledged, and how much more it takes.
    live_acked: u32,
    live_window: u32,
    live_scale: u8,
    /// Its last timestamp.
    timestamp: Option<u32>,
    /// What the played end has sent, and acknowledged.
    sent: u32,
    acked: u32,
    held_since: Option<u64>,
    /// Bytes of the next packet's payload that have gone already, and how many more are to go by themselves.
    gone: u32,
    part: Option<u32>,
    /// How much later than planned the rest of it goes, ns: gaps stay gaps.
    lag_ns: u64,
    /// Where a real application answers.
    pub(super) follow: Option<Follow>,
    pub(super) end: End,
    pub(super) packets: u64,
    pub(super) received: u64,
    /// ICMP errors for datagrams of the played end.
    pub(super) refused: u64,
    /// What was sent otherwise than recorded.
    pub(super) adapted: Vec<String>,
}

/// Time of the plan for something recorded at `time_ns`, relative to the start of all.
pub(super) type Plan<'a> = &'a dyn Fn(u64) -> u64;

impl Peer {
    /// The played end of a connection that a real application answers, if one does.
    pub(super) fn following(follow: Option<Follow>) -> Self {
        Self { follow, ..Self::default() }
    }

    /// Whether packet `next` may go at `now_ns`. `written` is how many bytes the live end's kernel was given.
    pub(super) fn next(&mut self, flow: &Flow, now_ns: u64, plan: Plan<'_>, patience: Patience, written: u64) -> Next {
        self.leave_out(flow);
        let Some(step) = flow.steps.get(self.next) else { return Next::Done };
        if self.is_broken_off() {
            return Next::Done;
        }
        let due_ns = plan(step.time_ns) + self.lag_ns;
        if now_ns < due_ns {
            return Next::At(due_ns);
        }
        let (for_data, for_room) = (self.waits_for_data(step), self.waits_for_room(step));
        if !for_data && !for_room {
            self.release(now_ns);
            return Next::Now;
        }
        let since = *self.held_since.get_or_insert(due_ns.max(now_ns));
        let part = if for_data { None } else { self.room(step) };
        let deadline_ns = match (part, self.answering()) {
            (Some(_), _) => since + PART_NS.min(patience.whole_ns),
            (None, Some(follow)) if for_data => follow.deadline_ns(since, patience, self.live_sent),
            _ if for_data && self.has_stalled(step, written) => since + patience.whole_ns.min(patience.stalled_ns),
            _ => since + patience.whole_ns,
        };
        if now_ns < deadline_ns {
            return Next::Hold { deadline_ns };
        }
        self.release(now_ns);
        let (ack, packet) = (step.ack.unwrap_or_default(), self.next + 1);
        match part {
            Some(room) => {
                self.part = Some(room);
                let text = format!("packet {packet} of the played end goes in parts, as the live end's window lets it");
                if self.adapted.last() != Some(&text) {
                    self.adapted.push(text);
                }
            }
            None if for_data => self.do_without(ack, packet),
            None => {
                self.adapted.push(format!("packet {packet} of the played end does not fit into the live end's window"));
            }
        }
        Next::Now
    }

    /// What goes along with a real application, once that has been reached.
    fn answering(&self) -> Option<&Follow> {
        self.follow.as_ref().filter(|_| self.live_isn.is_some())
    }

    /// Whether a packet acknowledges what the live end has not sent yet.
    fn waits_for_data(&self, step: &Step) -> bool {
        let Some(ack) = step.ack else { return false };
        match self.answering() {
            // Nothing more comes of a server that has finished.
            Some(follow) => follow.waits(ack, self.live_sent) && !self.end.server_has_finished(),
            None => self.live_isn.is_none() || is_before(self.live_sent, ack),
        }
    }

    /// Whether a packet has bytes beyond the live end's window.
    fn waits_for_room(&self, step: &Step) -> bool {
        let end = step.seq.wrapping_add(step.packet.span());
        let is_new = is_before(self.sent, end) && !step.packet.payload().is_empty() && self.live_isn.is_some();
        is_new && is_before(self.edge(), end)
    }

    /// How many of its bytes that have not gone there is room for, if for any.
    fn room(&self, step: &Step) -> Option<u32> {
        let room = self.edge().wrapping_sub(step.seq.wrapping_add(self.gone)).cast_signed();
        u32::try_from(room).ok().filter(|room| *room > 0)
    }

    fn edge(&self) -> u32 {
        self.live_acked.wrapping_add(self.live_window)
    }

    /// Whether the live end's kernel has been given what a packet acknowledges, and waits with it.
    fn has_stalled(&self, step: &Step, written: u64) -> bool {
        self.live_isn.is_some() && step.ack.is_some_and(|ack| u64::from(ack.saturating_sub(1)) <= written)
    }

    /// The packet that was held goes; what comes behind it is as much later.
    fn release(&mut self, now_ns: u64) {
        if let Some(since) = self.held_since.take() {
            self.lag_ns += now_ns.saturating_sub(since);
        }
    }

    /// Packet number `packet` goes, although what it acknowledges in the capture has not come.
    fn do_without(&mut self, ack: u32, packet: usize) {
        let is_connected = self.live_isn.is_some();
        match self.follow.as_mut().filter(|_| is_connected) {
            Some(follow) => follow.parted = true,
            None => {
                let sent = self.live_sent;
                let text =
                    format!("packet {packet} of the played end acknowledges {sent} instead of {ack}: no more came");
                self.adapted.push(text);
            }
        }
    }

    /// The next packet, with the numbers of the live end; checksums are still to be made.
    pub(super) fn take(&mut self, flow: &Flow, played: usize) -> Option<Packet> {
        let step = flow.steps.get(self.next)?;
        let (from, len) = (self.gone as usize, step.packet.payload().len());
        let mut packet = match self.part.take() {
            // Less than all of it: otherwise there would have been room.
            Some(room) if from + (room as usize) < len => {
                self.gone += room;
                step.packet.part(from..from + room as usize)
            }
            _ if from > 0 => step.packet.part(from.min(len)..len),
            _ => step.packet.clone(),
        };
        if packet.payload().len() + from == len {
            (self.next, self.gone) = (self.next + 1, 0);
            self.packets += 1;
        }
        let mut has_parted = false;
        if let Some(follow) = &mut self.follow {
            follow.sends(step, self.live_sent);
            has_parted = follow.parted;
        }
        if let Some(ack) = step.ack {
            let ack = if has_parted || is_before(self.live_sent, ack) { self.live_sent } else { ack };
            if is_before(self.acked, ack) {
                self.acked = ack;
            }
            let isn = self.live_isn.unwrap_or(flow.live_isn);
            packet.acknowledge(isn.wrapping_add(ack), self.timestamp, isn.wrapping_sub(flow.live_isn));
            if has_parted {
                packet.forget_blocks();
            }
        }
        let end = step.seq.wrapping_add(u32::try_from(from).unwrap_or_default()).wrapping_add(packet.span());
        if is_before(self.sent, end) {
            self.sent = end;
        }
        self.end.see(played, packet.flags());
        Some(packet)
    }

    /// Takes in a packet of the live end, which is side `live`.
    pub(super) fn receive(&mut self, packet: &Packet, played_isn: u32, live: usize, now_ns: u64) {
        let flags = packet.flags();
        self.received += 1;
        self.end.see(live, flags);
        if flags & flag::SYN != 0 && self.live_isn.is_none() {
            self.live_isn = Some(packet.seq());
            self.live_scale = packet.window_scale().unwrap_or(0);
        }
        if flags & flag::ACK != 0 {
            let acked = packet.ack().wrapping_sub(played_isn);
            if !is_before(acked, self.live_acked) {
                self.live_acked = acked;
                let scale = if flags & flag::SYN != 0 { 0 } else { self.live_scale };
                self.live_window = u32::from(packet.window()) << scale;
            }
        }
        self.timestamp = packet.timestamp().or(self.timestamp);
        if let Some(isn) = self.live_isn {
            let end = packet.seq().wrapping_sub(isn).wrapping_add(packet.span());
            if is_before(self.live_sent, end) {
                self.live_sent = end;
                if let Some(follow) = &mut self.follow {
                    follow.heard(now_ns);
                }
            }
        }
    }

    /// Goes past recorded packets that only acknowledge what an application did not answer.
    fn leave_out(&mut self, flow: &Flow) {
        let Some(follow) = &mut self.follow else { return };
        while follow.leaves_out(flow, self.next) {
            self.next += 1;
            follow.skipped += 1;
        }
    }

    /// Whether a real application's end is gone, so that nothing more can be asked of it.
    pub(super) fn is_broken_off(&self) -> bool {
        self.follow.is_some() && self.end.was_reset()
    }

    /// An acknowledgement of what an application answered beyond what the capture knows of.
    pub(super) fn acknowledge(&mut self, flow: &Flow) -> Option<Packet> {
        let window = self.follow.as_mut().filter(|follow| follow.parted)?.window(flow);
        if self.end.was_reset() || !is_before(self.acked, self.live_sent) {
            return None;
        }
        self.bare(flow, window)
    }

    /// An acknowledgement of all that the live end has sent, by itself.
    fn bare(&mut self, flow: &Flow, window: u16) -> Option<Packet> {
        let like = flow.steps.iter().rev().find(|step| step.packet.flags() & flag::SYN == 0)?;
        let first = flow.steps.first()?;
        let ack = self.live_isn?.wrapping_add(self.live_sent);
        self.acked = self.live_sent;
        let seq = first.packet.seq().wrapping_sub(first.seq).wrapping_add(self.sent);
        Some(like.packet.bare(seq, ack, window))
    }

    /// An acknowledgement that the capture does not have, of what the live end sent beyond it: only where the recorded end
    /// had acknowledged everything.
    pub(super) fn tail(&mut self, flow: &Flow) -> Option<Packet> {
        let is_done = self.next >= flow.steps.len();
        if !is_done || !is_before(self.acked, self.live_sent) || !flow.end.is_over() || self.end.was_reset() {
            return None;
        }
        let last = flow.steps.iter().rev().find(|step| step.packet.flags() & flag::SYN == 0)?;
        self.bare(flow, last.packet.window())
    }

    pub(super) fn is_done(&self, flow: &Flow) -> bool {
        self.next >= flow.steps.len()
    }

    /// Packets that were not sent.
    pub(super) fn left(&self, flow: &Flow) -> usize {
        flow.steps.len() - self.next.min(flow.steps.len())
    }
}
