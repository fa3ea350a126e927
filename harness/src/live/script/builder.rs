//! One conversation, put together packet by packet.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Dut;
use super::super::end::End;
use super::super::packet::{Offer, Packet, flag};
use super::withheld::Withheld;
use super::{Action, Flow, Step, What};
use crate::capture::Frame;

/// The flags of a SYN that asks for explicit congestion notification.
const ASKS: u8 = flag::SYN | flag::ECE | flag::CWR;

/// A stream put together from segments.
#[derive(Debug, Default)]
struct Stream {
    pieces: BTreeMap<u32, Vec<u8>>,
    end: u32,
}

impl Stream {
    fn add(&mut self, at: u32, bytes: &[u8]) {
        if bytes.is_empty() || at > u32::MAX / 2 {
            return;
        }
        self.end = self.end.max(at.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX)));
        let longer = self.pieces.get(&at).is_none_or(|known| known.len() < bytes.len());
        if longer {
            self.pieces.insert(at, bytes.to_vec());
        }
    }

    /// The bytes up to the first that the capture lacks, and how many are missing there. Nothing stands for those: one
    /// segment far ahead would cost as much memory as the gap before it.
    fn bytes(&self) -> (Vec<u8>, u64) {
        let mut whole = Vec::new();
        for (at, piece) in &self.pieces {
            let at = *at as usize;
            if at > whole.len() {
                let missing = at - whole.len();
                return (whole, missing as u64);
            }
            if let Some(new) = piece.get(whole.len() - at..) {
                whole.extend_from_slice(new);
            }
        }
        (whole, 0)
    }
}

/// A conversation under construction. Sides are 0 (client) and 1 (server).
pub(super) struct Builder {
    pub(super) flow: Flow,
    live: usize,
    isn: [Option<u32>; 2],
    scale: [u8; 2],
    streams: [Stream; 2],
    /// Of the live side: what it had acknowledged, written, and whether it reads.
    acked: u64,
    written: u64,
    paused: bool,
    edge: u64,
    first_window: Option<u32>,
    counts: [u64; 2],
    /// ICMP errors.
    refusals: [u64; 2],
    /// Numbers of each side that the other one has acknowledged, its SYN left out.
    claimed: [u64; 2],
    /// Behind the last number that the live side has sent, its SYN at 0.
    sent: u64,
    /// What the server's SYN agrees to.
    agreed: Option<Vec<Offer>>,
    withheld: Withheld,
}

impl Builder {
    pub(super) fn new(first: &Packet, time_ns: u64, dut: Dut) -> Self {
        let answers = first.tcp && first.flags() & (flag::SYN | flag::ACK) == flag::SYN | flag::ACK;
        let (client, server) = if answers { (first.to, first.from) } else { (first.from, first.to) };
        let flow = Flow {
            tcp: first.tcp,
            client,
            server,
            start_ns: time_ns,
            steps: Vec::new(),
            actions: Vec::new(),
            writes: Vec::new(),
            datagrams: Vec::new(),
            asked: 0,
            is_refused: false,
            is_closed: false,
            reads: Vec::new(),
            live_isn: 0,
            played_isn: 0,
            end: End::default(),
            bytes: [0; 2],
            refused: None,
            notes: BTreeSet::new(),
            receive_buffer: None,
            asks_for_ecn: first.tcp && first.flags() & ASKS == ASKS,
            fast_open: false,
        };
        Self {
            flow,
            live: if dut == Dut::Server { 1 } else { 0 },
            isn: [None; 2],
            scale: [0; 2],
            streams: Default::default(),
            acked: 0,
            written: 0,
            paused: false,
            edge: 0,
            first_window: None,
            counts: [0; 2],
            refusals: [0; 2],
            claimed: [0; 2],
            sent: 0,
            agreed: None,
            withheld: Withheld::default(),
        }
    }

    /// Whether a packet between the same ends begins another connection.
    pub(super) fn is_another(&self, packet: &Packet) -> bool {
        packet.tcp
            && packet.flags() & (flag::SYN | flag::ACK) == flag::SYN
            && self.isn[usize::from(packet.from != self.flow.client)].is_some_and(|isn| isn != packet.seq())
    }

    pub(super) fn add(&mut self, frame: &Frame, packet: Packet) {
        let side = usize::from(packet.from != self.flow.client);
        match (packet.tcp, packet.refuses) {
            (true, _) => self.segment(frame, side, packet),
            (false, false) => self.datagram(frame.time_ns, side, packet),
            (false, true) => self.refusal(frame.time_ns, side, packet),
        }
    }

    /// An ICMP error for a datagram of the other side.
    fn refusal(&mut self, time_ns: u64, side: usize, packet: Packet) {
        self.refusals[side] += 1;
        if side != self.live {
            self.flow.steps.push(Step { time_ns, packet, seq: 0, ack: None, after: self.counts[self.live] });
        }
    }

    fn datagram(&mut self, time_ns: u64, side: usize, packet: Packet) {
        self.flow.bytes[side] += packet.payload().len() as u64;
        if side == self.live {
            self.flow.writes.extend_from_slice(packet.payload());
            self.flow.datagrams.push(self.flow.writes.len());
            let what = What::Write(self.flow.datagrams.len() as u64);
            self.flow.actions.push(Action { time_ns, after: self.counts[1 - self.live], what });
        } else {
            self.flow.reads.extend_from_slice(packet.payload());
            self.flow.steps.push(Step { time_ns, packet, seq: 0, ack: None, after: self.counts[self.live] });
        }
        self.counts[side] += 1;
    }

    fn segment(&mut self, frame: &Frame, side: usize, packet: Packet) {
        let flags = packet.flags();
        self.flow.end.see(side, flags);
        if flags & flag::SYN != 0 && self.isn[side].is_none() {
            self.isn[side] = Some(packet.seq());
            self.scale[side] = packet.window_scale().unwrap_or(0);
            self.flow.fast_open |= side == 0 && !packet.payload().is_empty();
        }
        if side == 1 && flags & flag::SYN != 0 {
            self.agreed.get_or_insert_with(|| packet.offers());
        }
        if let Some(isn) = self.isn[1 - side].filter(|_| flags & flag::ACK != 0) {
            let acked = packet.ack().wrapping_sub(isn);
            if acked < u32::MAX / 2 {
                self.claimed[1 - side] = self.claimed[1 - side].max(u64::from(acked.saturating_sub(1)));
            }
        }
        let Some(isn) = self.isn[side] else {
            // The answer to a SYN that nobody wanted has no number of its own.
            let refusal = flags & flag::RST != 0 && self.isn[1 - side].is_some();
            if !refusal {
                let text = format!("the capture has no handshake of it (packet {} is its first)", frame.number);
                self.flow.refused.get_or_insert(text);
            }
            if side != self.live && self.flow.refused.is_none() {
                self.step(frame.time_ns, side, packet, 0);
            }
            return;
        };
        let seq = packet.seq().wrapping_sub(isn);
        // A SYN takes the first number; bytes count from 0 behind it.
        let at = if flags & flag::SYN != 0 { seq } else { seq.wrapping_sub(1) };
        self.streams[side].add(at, packet.payload());
        if side == self.live {
            self.act(frame.time_ns, seq, &packet)
        } else {
            self.step(frame.time_ns, side, packet, seq)
        }
    }

    fn step(&mut self, time_ns: u64, side: usize, packet: Packet, seq: u32) {
        let acks = packet.flags() & flag::ACK != 0;
        let ack = self.isn[1 - side].filter(|_| acks).map(|isn| packet.ack().wrapping_sub(isn));
        // A probe beyond the window is meant not to be taken.
        let is_probe = self.first_window.is_some() && u64::from(seq.wrapping_add(packet.span())) > self.edge + 1;
        self.withheld.sent(seq, packet.span(), is_probe);
        self.flow.steps.push(Step { time_ns, packet, seq, ack, after: self.sent });
    }

    /// What the application behind a segment of the live side did.
    fn act(&mut self, time_ns: u64, seq: u32, packet: &Packet) {
        let flags = packet.flags();
        if seq < u32::MAX / 2 {
            self.sent = self.sent.max(u64::from(seq) + u64::from(packet.span()));
        }
        if let Some(isn) = self.isn[1 - self.live].filter(|_| flags & flag::ACK != 0) {
            let position = |number: u32| number.wrapping_sub(isn);
            let blocks = packet.blocks().into_iter().map(|block| block.map(position)).collect();
            self.withheld.answered(position(packet.ack()), blocks);
            // Its SYN and FIN take numbers, too, but are nothing to read.
            let acked = u64::from(packet.ack().wrapping_sub(isn)).saturating_sub(1);
            let there = u64::from(self.streams[1 - self.live].end);
            self.acked = self.acked.max(acked.min(there));
        }
        if flags & flag::RST != 0 {
            // The kernel answers by itself what comes behind its own end.
            if !self.flow.end.is_over() || self.flow.end.text().starts_with("reset") {
                self.push(time_ns, self.acked, What::Reset);
            }
            return;
        }
        let shift =
            if flags & flag::SYN != 0 { 0 } else { self.scale[self.live].min(if self.both_scale() { 14 } else { 0 }) };
        let window = u32::from(packet.window()) << shift;
        let edge = self.acked + u64::from(window);
        if flags & flag::SYN == 0 {
            self.first_window.get_or_insert(window);
            if window == 0 && !self.paused {
                self.paused = true;
            } else if self.paused && edge > self.edge {
                self.paused = false;
                self.push(time_ns, 0, What::Resume);
            }
            self.edge = self.edge.max(edge);
        }
        let len = packet.payload().len() as u64;
        let end = u64::from(seq.saturating_sub(u32::from(flags & flag::SYN == 0))) + len;
        if len > 0 && end > self.written && seq < u32::MAX / 2 {
            let urgent = packet.urgent().map(|urgent| end - len + u64::from(urgent));
            if let Some(urgent) = urgent.filter(|urgent| *urgent > self.written) {
                self.push(time_ns, self.acked, What::Urgent(urgent));
            }
            if urgent != Some(end) {
                self.push(time_ns, self.acked, What::Write(end));
            }
            self.written = end;
        }
        if flags & flag::FIN != 0 && !self.flow.actions.iter().any(|action| action.what == What::Finish) {
            self.push(time_ns, self.acked, What::Finish);
        }
    }

    fn push(&mut self, time_ns: u64, after: u64, what: What) {
        self.flow.actions.push(Action { time_ns, after, what });
    }

    /// Windows are scaled only if both SYNs say so (RFC 7323 section 2.2); a SYN without the option counts as 0 here.
    fn both_scale(&self) -> bool {
        self.scale[0] > 0 || self.scale[1] > 0
    }

    pub(super) fn build(mut self) -> Flow {
        let flow = &mut self.flow;
        if !flow.tcp {
            flow.asked = self.counts[1 - self.live];
            flow.is_refused = self.refusals[1] > 0 && self.counts[1] == 0;
            let (side, count) = (["client", "server"][self.live], self.refusals[self.live]);
            if count > 0 && !(flow.is_refused && self.live == 1) {
                flow.notes
                    .insert(format!("{count} ICMP errors of the {side} left out: its socket takes what they refused"));
            }
            return self.flow;
        }
        flow.live_isn = self.isn[self.live].unwrap_or_default();
        flow.played_isn = self.isn[1 - self.live].unwrap_or_default();
        let names = ["client", "server"];
        let [live, played] = [self.live, 1 - self.live];
        // What was acknowledged and is not there was cut from its packet, or not recorded. A FIN takes one number.
        let missing = |side: usize, (bytes, gap): (&[u8], u64)| {
            gap.max(self.claimed[side].saturating_sub(bytes.len() as u64 + 1))
        };
        let (writes, gap) = self.streams[live].bytes();
        let (reads, other_gap) = self.streams[played].bytes();
        for (side, missing) in [(live, missing(live, (&writes, gap))), (played, missing(played, (&reads, other_gap)))] {
            if missing > 0 && flow.refused.is_none() {
                flow.refused = Some(format!("the capture lacks {missing} bytes of the {}", names[side]));
            }
        }
        flow.bytes[live] = writes.len() as u64;
        flow.writes = writes;
        flow.bytes[played] = reads.len() as u64;
        flow.reads = reads;
        if self.isn[0].is_none() && flow.refused.is_none() {
            flow.refused = Some("the capture has no handshake of it (there is no SYN)".to_owned());
        }
        gate(flow, self.first_window);
        if self.live == 1 {
            agree(flow, self.agreed.as_deref());
        }
        let lost = self.withheld.lost();
        if !lost.is_empty() {
            flow.notes.insert(format!(
                "{} of the {}'s packets left out: lost behind the capture, as what was sent again shows",
                lost.len(),
                names[played]
            ));
            let mut index = 0;
            flow.steps.retain(|_| {
                index += 1;
                !lost.contains(&(index - 1))
            });
        }
        self.flow
    }
}

/// Takes out of the played SYNs what the recorded server did not agree to, so that the live one does not either: what the
/// played end sends later is without it.
fn agree(flow: &mut Flow, agreed: Option<&[Offer]>) {
    let Some(agreed) = agreed else { return };
    let syns = flow.steps.iter_mut().map(|step| &mut step.packet);
    for syn in syns.filter(|packet| packet.flags() & (flag::SYN | flag::ACK) == flag::SYN) {
        for offer in syn.offers().into_iter().filter(|offer| !agreed.contains(offer)) {
            syn.withdraw(offer);
            flow.notes.insert(format!("its SYN does not offer {}, which the server refused", offer.text()));
        }
    }
}

/// Where the live end's window closed, its socket has room for no more than that window, and reads only when it opened
/// again.
fn gate(flow: &mut Flow, first_window: Option<u32>) {
    let Some(resume) = flow.actions.iter().position(|action| action.what == What::Resume) else { return };
    flow.receive_buffer = first_window;
    let time_ns = flow.start_ns;
    // Reading begins when the window opens for the first time; what was written before does not wait for it.
    flow.actions.insert(0, Action { time_ns, after: 0, what: What::Pause });
    for action in &mut flow.actions[..=resume] {
        action.after = 0;
    }
}
