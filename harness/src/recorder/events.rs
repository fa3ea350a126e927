//! Which packet of a recording each event of an observation is about: by flow, and by order within it.
//!
//! An event that has a flow stands on a packet of it: the one that it is about as far as can be told, else the flow's
//! first. What has none, or one that is not in the recording, is handed back as a line.

use std::collections::{BTreeMap, HashMap};

use super::packet::Packet;
use super::{Recording, connections};
use crate::observation::Observation;

/// Comments by the position of the packet, and lines on what has no packet.
#[derive(Debug, Default)]
pub(super) struct Placed {
    pub(super) comments: BTreeMap<usize, Vec<String>>,
    pub(super) unplaced: Vec<String>,
}

/// Puts the events of `observation` on the packets of `recording`.
pub(super) fn place(recording: &Recording, observation: &Observation) -> Placed {
    let packets: Vec<Packet> = recording.frames.iter().map(|frame| Packet::of(&frame.data)).collect();
    let mut notes = Notes::new(recording, &packets);
    notes.flows(observation);
    if let Some(tcp) = &observation.tcp {
        connections::place(&mut notes, tcp);
    }
    notes.sockets(observation);
    notes.exchanges(observation);
    for drop in &observation.drops {
        notes.drop(drop);
    }
    for error in &observation.icmp_errors {
        notes.icmp_error(error);
    }
    notes.live(observation);
    notes.latency(observation);
    notes.objects(observation);
    notes.counts(observation);
    notes.placed
}

pub(super) struct Notes<'a> {
    pub(super) recording: &'a Recording,
    pub(super) packets: &'a [Packet],
    /// Positions of each flow's packets, by time, where the packet passes first.
    first: HashMap<&'a str, Vec<usize>>,
    /// Positions of what is one packet at several places, by time.
    pub(super) copies: HashMap<u64, Vec<usize>>,
    placed: Placed,
}

impl<'a> Notes<'a> {
    fn new(recording: &'a Recording, packets: &'a [Packet]) -> Self {
        let mut first: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut copies: HashMap<u64, Vec<usize>> = HashMap::new();
        for (position, packet) in packets.iter().enumerate() {
            let frame = &recording.frames[position];
            if recording.interfaces[frame.interface].behind {
                continue;
            }
            let same = copies.entry(packet.identity).or_default();
            // Where the device under test sends what it got, a packet is there twice; what it made itself, once.
            let forwarded = frame.outgoing && same.iter().any(|other| !recording.frames[*other].outgoing);
            same.push(position);
            if !forwarded {
                let names = [Some(packet.flow.as_str()), packet.ends.as_deref()];
                names.into_iter().flatten().for_each(|flow| first.entry(flow).or_default().push(position));
            }
        }
        Self { recording, packets, first, copies, placed: Placed::default() }
    }

    pub(super) fn note(&mut self, position: usize, text: String) {
        self.placed.comments.entry(position).or_default().push(text);
    }

    pub(super) fn unplaced(&mut self, text: String) {
        self.placed.unplaced.push(text);
    }

    /// The packets of a flow, where each passes first.
    pub(super) fn positions(&self, flow: &str) -> Vec<usize> {
        self.first.get(flow).cloned().unwrap_or_default()
    }

    /// Whether a flow has a packet for which `is` holds.
    pub(super) fn has(&self, flow: &str, is: impl Fn(&Packet) -> bool) -> bool {
        self.nth(flow, 0, is).is_some()
    }

    /// The `number`-th packet of a flow, from 0, for which `is` holds.
    fn nth(&self, flow: &str, number: usize, is: impl Fn(&Packet) -> bool) -> Option<usize> {
        let positions = self.first.get(flow)?.iter().copied();
        positions.filter(|position| is(&self.packets[*position])).nth(number)
    }

    /// Puts a comment on the `number`-th packet of a flow for which `is` holds; without one it becomes a line.
    pub(super) fn place_nth(&mut self, flow: &str, number: usize, is: impl Fn(&Packet) -> bool, text: String) {
        match self.nth(flow, number, is) {
            Some(position) => self.note(position, text),
            None => self.unplaced(format!("{flow}: {text}")),
        }
    }

    /// Puts a comment on the first packet of a conversation, whoever sent it.
    pub(super) fn place_either(&mut self, proto: &str, one: &str, other: &str, text: String) {
        let ways = [format!("{proto} {one} > {other}"), format!("{proto} {other} > {one}")];
        let first = ways.iter().filter_map(|flow| self.nth(flow, 0, |_| true)).min();
        match first {
            Some(position) => self.note(position, text),
            None => self.unplaced(format!("{proto} {one} and {other}: {text}")),
        }
    }

    pub(super) fn payload(&self, position: usize) -> &'a [u8] {
        &self.recording.frames[position].data[self.packets[position].payload.clone()]
    }

    fn flows(&mut self, observation: &Observation) {
        for flow in &observation.flows {
            let text = format!(
                "flow: {} packets and {} bytes there, {} and {} back, {:.3} ms",
                flow.packets.a_to_b,
                flow.bytes.a_to_b,
                flow.packets.b_to_a,
                flow.bytes.b_to_a,
                flow.duration_us / 1e3
            );
            self.place_either(&flow.proto, &flow.a, &flow.b, text);
        }
    }

    fn sockets(&mut self, observation: &Observation) {
        let Some(tcp) = &observation.tcp else { return };
        // A socket's changes follow each other.
        let mut ways: Vec<([&str; 3], Vec<&str>)> = Vec::new();
        for change in &tcp.kernel_transitions {
            let socket = [change.host.as_str(), change.local.as_str(), change.remote.as_str()];
            let known = ways
                .iter_mut()
                .rev()
                .find(|(known, states)| *known == socket && states.last().is_some_and(|state| *state == change.from));
            match known {
                Some((_, states)) => states.push(&change.to),
                None => ways.push((socket, vec![&change.from, &change.to])),
            }
        }
        for ([host, local, remote], states) in ways {
            let text = format!("kernel socket {local} on {host}: {}", states.join(" > "));
            self.place_either("tcp", local, remote, text);
        }
        for socket in &tcp.kernel_sockets {
            let text = format!(
                "kernel socket {} on {}: {}, {} retransmissions, congestion window {}{}",
                socket.local,
                socket.host,
                socket.state,
                socket.retransmissions,
                socket.cwnd,
                socket.srtt_us.map_or_else(String::new, |us| format!(", round trip {us:.0} us"))
            );
            self.place_either("tcp", &socket.local, &socket.remote, text);
        }
        for one in &tcp.disagreements {
            let text = format!(
                "disagreement: {} of {} on {} is {} by the path and {} by the kernel",
                one.property, one.local, one.host, one.wire, one.kernel
            );
            self.place_either("tcp", &one.local, &one.remote, text);
        }
    }

    fn exchanges(&mut self, observation: &Observation) {
        // Exchanges of a connection are in their order, and several may be in one segment: the search goes on where the
        // last request was found.
        let mut found: HashMap<String, (usize, usize)> = HashMap::new();
        for http in &observation.http {
            let status = http.status.map_or_else(|| "unanswered".to_owned(), |status| status.to_string());
            let host = http.host.as_deref().unwrap_or("-");
            let text = format!("http: {} {host}{} {status}{}", http.method, http.path, took(http.latency_us));
            let flow = format!("tcp {} > {}", http.client, http.server);
            let start = found.get(&flow).copied().unwrap_or_default();
            let request = self.request(&flow, start, &http.method, &http.path);
            if let Some((position, next)) = request {
                found.insert(flow.clone(), next);
                self.note(position, text);
            } else {
                self.unplaced(format!("{flow}: {text}"));
            }
        }
        let mut asked: HashMap<String, usize> = HashMap::new();
        for dns in &observation.dns {
            let flow = format!("{} {} > {}", dns.transport, dns.client, dns.server);
            let number = asked.entry(flow.clone()).or_default();
            let rcode = dns.rcode.as_deref().unwrap_or("unanswered");
            let text = format!("dns: {} {} {rcode}{}", dns.name, dns.kind, took(dns.latency_us));
            self.place_nth(&flow, *number, |packet| !packet.payload.is_empty(), text);
            *number += 1;
        }
        for tls in &observation.tls {
            /// Content type of a record with handshake messages (RFC 8446 section 5.1).
            const HANDSHAKE: u8 = 22;
            let flow = format!("tcp {} > {}", tls.client, tls.server);
            let (name, version) = (tls.sni.as_deref().unwrap_or("-"), tls.version.as_deref().unwrap_or("-"));
            let text = format!("tls: {name} {version}{}", took(tls.latency_us));
            let positions = self.positions(&flow);
            let found = positions.into_iter().find(|position| self.payload(*position).first() == Some(&HANDSHAKE));
            self.place_at(found, &flow, text);
        }
    }

    /// The packet in which a request begins, and where the search for the next is to begin: the place among the flow's
    /// packets, and in the payload. Of a request at the beginning of a segment the rest of its line may be in the next.
    fn request(
        &self,
        flow: &str,
        (start, offset): (usize, usize),
        method: &str,
        path: &str,
    ) -> Option<(usize, (usize, usize))> {
        let positions = self.first.get(flow)?;
        let line = format!("{method} {path}");
        let begins = format!("{method} ");
        for (at, position) in positions.iter().enumerate().skip(start) {
            let payload = self.payload(*position);
            let from = if at == start { offset.min(payload.len()) } else { 0 };
            let within = payload[from..].windows(line.len()).position(|part| part == line.as_bytes());
            let cut = from == 0 && payload.starts_with(begins.as_bytes());
            if let Some(place) = within.or(cut.then_some(0)) {
                return Some((*position, (at, from + place + begins.len())));
            }
        }
        None
    }

    fn place_at(&mut self, position: Option<usize>, flow: &str, text: String) {
        match position {
            Some(position) => self.note(position, text),
            None => self.unplaced(format!("{flow}: {text}")),
        }
    }
}

fn took(us: Option<f64>) -> String {
    us.map_or_else(String::new, |us| format!(", answered after {us:.0} us"))
}
