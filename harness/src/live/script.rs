//! Conversations out of recorded frames: what the played end sends, and what the live end's socket is to do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::Dut;
use super::end::End;
use super::packet::{Packet, Unfit, flag};
use crate::capture::Frame;
use crate::topology::presets;

/// The flags of a SYN that asks for explicit congestion notification.
const ASKS: u8 = flag::SYN | flag::ECE | flag::CWR;

/// A packet of the played end.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Time in the capture, ns.
    pub(super) time_ns: u64,
    pub(super) packet: Packet,
    /// Position of its first byte in the played end's sequence, SYN at 0.
    pub(super) seq: u32,
    /// Up to where it acknowledges the live end's, if it does.
    pub(super) ack: Option<u32>,
    /// Of a datagram: how many of the live end's stand before it.
    pub(super) after: u64,
}

/// Something that the live end's socket does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Action {
    /// Time in the capture, ns.
    pub(super) time_ns: u64,
    /// When it has read so many bytes (datagrams).
    pub(super) after: u64,
    pub(super) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Writes up to this byte of its stream (this datagram).
    Write(u64),
    /// Reads no more, until [`What::Resume`]: its window closes.
    Pause,
    Resume,
    /// Ends its direction.
    Finish,
    /// Ends both at once, with an RST.
    Reset,
}

/// A conversation.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) tcp: bool,
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
    pub(super) start_ns: u64,
    pub(super) steps: Vec<Step>,
    pub(super) actions: Vec<Action>,
    /// What the live end writes.
    pub(super) writes: Vec<u8>,
    /// Ends of the datagrams in it.
    pub(super) datagrams: Vec<usize>,
    /// What it is to read.
    pub(super) reads: Vec<u8>,
    /// First sequence number of the recorded live end: what the played end's acknowledgements count from.
    pub(super) live_isn: u32,
    /// That of the played end.
    pub(super) played_isn: u32,
    pub(super) end: End,
    /// Payload bytes, from the client and from the server.
    pub(super) bytes: [u64; 2],
    /// Why it is not played.
    pub(super) refused: Option<String>,
    /// What is different from the capture.
    pub(super) notes: BTreeSet<String>,
    /// Window that the live end announced first, bytes, where it closed it later.
    pub(super) receive_buffer: Option<u32>,
    /// The client's SYN asks for explicit congestion notification (RFC 3168 section 6.1.1).
    pub(super) asks_for_ecn: bool,
}

/// All conversations of a capture.
#[derive(Debug)]
pub struct Script {
    pub(super) flows: Vec<Flow>,
    /// Packets that belong to none, by what they are.
    pub(super) others: BTreeMap<&'static str, u64>,
    pub(super) packets: usize,
    /// Time of the first packet, ns.
    pub(super) first_ns: u64,
    pub(super) dut: Dut,
}

/// The addresses of the two ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Those that the device under test must have.
    pub live: Vec<IpAddr>,
    /// Those that are played.
    pub played: Vec<IpAddr>,
}

impl Script {
    /// Reads frames in their order. `dut` is the end that is not played.
    #[must_use]
    pub fn new(frames: &[Frame], dut: Dut) -> Self {
        let mut builders: Vec<Builder> = Vec::new();
        let mut known: HashMap<(bool, SocketAddr, SocketAddr), usize> = HashMap::new();
        let mut others: BTreeMap<&'static str, u64> = BTreeMap::new();
        for frame in frames {
            let packet = match Packet::read(&frame.data) {
                Ok(packet) => packet,
                Err(Unfit::Cut(Some((tcp, from, to)))) => {
                    let known = known.get(&(tcp, from.min(to), from.max(to))).copied();
                    match known.map(|index| &mut builders[index].flow.refused) {
                        Some(refused) => {
                            refused.get_or_insert_with(|| format!("packet {} is cut by the capture", frame.number));
                        }
                        None => *others.entry(kind_of(Unfit::Cut(None))).or_default() += 1,
                    }
                    continue;
                }
                Err(unfit) => {
                    *others.entry(kind_of(unfit)).or_default() += 1;
                    continue;
                }
            };
            if packet.to.ip().is_multicast() || packet.to.ip() == IpAddr::from([255; 4]) {
                *others.entry("group or broadcast").or_default() += 1;
                continue;
            }
            let key = (packet.tcp, packet.from.min(packet.to), packet.from.max(packet.to));
            let index = known.get(&key).copied().filter(|index| !builders[*index].is_another(&packet));
            let index = index.unwrap_or_else(|| {
                builders.push(Builder::new(&packet, frame.time_ns, dut));
                known.insert(key, builders.len() - 1);
                builders.len() - 1
            });
            builders[index].add(frame, packet);
        }
        let mut flows: Vec<Flow> = builders.into_iter().map(Builder::build).collect();
        refuse_unplayable(&mut flows, dut);
        Self {
            flows,
            others,
            packets: frames.len(),
            first_ns: frames.iter().map(|frame| frame.time_ns).min().unwrap_or_default(),
            dut,
        }
    }

    /// Number of conversations.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Packets that belong to no conversation, by what they are.
    #[must_use]
    pub fn others(&self) -> &BTreeMap<&'static str, u64> {
        &self.others
    }

    /// The addresses of the two ends of all conversations that can be played.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        let played = self.flows.iter().filter(|flow| flow.refused.is_none());
        let (mut clients, mut servers) = (BTreeSet::new(), BTreeSet::new());
        for flow in played {
            clients.insert(flow.client.ip());
            servers.insert(flow.server.ip());
        }
        let (live, played) = match self.dut {
            Dut::Server => (servers, clients),
            Dut::Client => (clients, servers),
        };
        Addresses { live: live.into_iter().collect(), played: played.into_iter().collect() }
    }
}

impl Flow {
    /// The end whose sockets are real.
    pub(super) fn live(&self, dut: Dut) -> SocketAddr {
        if dut == Dut::Server { self.server } else { self.client }
    }

    /// The end that is played.
    pub(super) fn played(&self, dut: Dut) -> SocketAddr {
        if dut == Dut::Server { self.client } else { self.server }
    }
}

/// Refuses conversations whose ends cannot be told apart by address. An address belongs to the end at which it is more
/// often, or was first.
fn refuse_unplayable(flows: &mut [Flow], dut: Dut) {
    // By how much oftener it is live than played, and what it was first.
    let mut counts: HashMap<IpAddr, (i64, bool)> = HashMap::new();
    for flow in flows.iter().filter(|flow| flow.refused.is_none()) {
        counts.entry(flow.live(dut).ip()).or_insert((0, true)).0 += 1;
        counts.entry(flow.played(dut).ip()).or_insert((0, false)).0 -= 1;
    }
    let is_live =
        |address: IpAddr| counts.get(&address).is_some_and(|(more, first)| *more > 0 || (*more == 0 && *first));
    for flow in flows.iter_mut().filter(|flow| flow.refused.is_none()) {
        let (live, played) = (flow.live(dut).ip(), flow.played(dut).ip());
        let problem = if live == played {
            Some(format!("both its ends are {live}"))
        } else if !presets::is_routable(live) || !presets::is_routable(played) {
            Some(format!("{live} and {played} are not both addresses that a network carries"))
        } else if !is_live(live) {
            Some(format!("{live} is played, since it is the other end of as many conversations or more"))
        } else if is_live(played) {
            Some(format!("{played} is live, since it is that end of as many conversations or more"))
        } else {
            None
        };
        flow.refused = problem;
    }
}

fn kind_of(unfit: Unfit) -> &'static str {
    match unfit {
        Unfit::Other => "neither TCP nor UDP",
        Unfit::Fragment => "fragments",
        Unfit::Malformed => "malformed",
        Unfit::Cut(_) => "cut by the capture",
    }
}

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
struct Builder {
    flow: Flow,
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
    /// Numbers of each side that the other one has acknowledged, its SYN left out.
    claimed: [u64; 2],
}

impl Builder {
    fn new(first: &Packet, time_ns: u64, dut: Dut) -> Self {
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
            reads: Vec::new(),
            live_isn: 0,
            played_isn: 0,
            end: End::default(),
            bytes: [0; 2],
            refused: None,
            notes: BTreeSet::new(),
            receive_buffer: None,
            asks_for_ecn: first.tcp && first.flags() & ASKS == ASKS,
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
            claimed: [0; 2],
        }
    }

    /// Whether a packet between the same ends begins another connection.
    fn is_another(&self, packet: &Packet) -> bool {
        packet.tcp
            && packet.flags() & (flag::SYN | flag::ACK) == flag::SYN
            && self.isn[usize::from(packet.from != self.flow.client)].is_some_and(|isn| isn != packet.seq())
    }

    fn add(&mut self, frame: &Frame, packet: Packet) {
        let side = usize::from(packet.from != self.flow.client);
        if packet.tcp { self.segment(frame, side, packet) } else { self.datagram(frame.time_ns, side, packet) }
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
        self.flow.steps.push(Step { time_ns, packet, seq, ack, after: 0 });
    }

    /// What the application behind a segment of the live side did.
    fn act(&mut self, time_ns: u64, seq: u32, packet: &Packet) {
        let flags = packet.flags();
        if let Some(isn) = self.isn[1 - self.live].filter(|_| flags & flag::ACK != 0) {
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
            self.written = end;
            self.push(time_ns, self.acked, What::Write(end));
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

    fn build(mut self) -> Flow {
        let flow = &mut self.flow;
        if !flow.tcp {
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
        self.flow
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

#[cfg(test)]
mod tests;
