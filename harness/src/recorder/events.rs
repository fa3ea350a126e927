//! Which packet of a recording each event of an observation is about: by flow, and by order within it.
//!
//! An event that has a flow stands on a packet of it: the one that it is about as far as can be told, else the flow's
//! first. What has none, or one that is not in the recording, is handed back as a line.

use std::collections::{BTreeMap, HashMap};

use super::packet::{Packet, quoted_flow};
use super::{Recording, connections};
use crate::observation::{Drop, DropClass, IcmpError, Observation, StageTimes};

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
    recording: &'a Recording,
    pub(super) packets: &'a [Packet],
    /// Positions of each flow's packets, by time, where the packet passes first.
    first: HashMap<&'a str, Vec<usize>>,
    /// Positions of what is one packet at several places, by time.
    copies: HashMap<u64, Vec<usize>>,
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
    fn place_either(&mut self, proto: &str, one: &str, other: &str, text: String) {
        let ways = [format!("{proto} {one} > {other}"), format!("{proto} {other} > {one}")];
        let first = ways.iter().filter_map(|flow| self.nth(flow, 0, |_| true)).min();
        match first {
            Some(position) => self.note(position, text),
            None => self.unplaced(format!("{proto} {one} and {other}: {text}")),
        }
    }

    fn payload(&self, position: usize) -> &'a [u8] {
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

    /// Packets that were given up: of their flow, those that came into the host and did not leave it. Of a host whose
    /// links are not recorded, the last of the flow that left towards it, which the comment says. Packets of which the
    /// run knows their end are not looked for again.
    fn drop(&mut self, drop: &Drop) {
        let text = format!("drop: {} in {} by {} on {}", drop.reason, drop.place, drop.by, drop.host);
        // Names of the packets' flows say nothing of tags.
        let flow = drop.flow.split(" vlan ").next().unwrap_or_default();
        let of_flow = self.positions(flow);
        let is_known = |position: &&usize| {
            self.recording.frames[**position].ended.as_ref().is_some_and(|ended| {
                let same = ended.by == drop.by && ended.reason == drop.reason;
                // The kernel's word for what a program did.
                same || (drop.by == "kernel" && drop.class == DropClass::Verdict && ended.by != "kernel")
            })
        };
        let known = of_flow.iter().filter(is_known).count();
        let left = usize::try_from(drop.packets).unwrap_or(usize::MAX).saturating_sub(known);
        if left == 0 {
            return;
        }
        let host = |interface: usize| &self.recording.interfaces[interface].host;
        let is_here = (0..self.recording.interfaces.len()).any(|interface| *host(interface) == drop.host);
        let mut positions: Vec<usize> = if is_here {
            let came_in = |position: &usize| {
                let frame = &self.recording.frames[*position];
                !frame.outgoing && *host(frame.interface) == drop.host && frame.ended.is_none()
            };
            of_flow.into_iter().filter(came_in).filter(|position| !self.leaves(*position)).collect()
        } else {
            let went = |position: &usize| self.recording.frames[*position].outgoing;
            (0..self.packets.len()).rev().filter(went).filter(|at| self.packets[*at].flow == flow).collect()
        };
        positions.truncate(left);
        let told = if is_here { "" } else { " (which packet is told by the flow alone)" };
        if positions.len() < left {
            self.unplaced(format!("{}: {} of {text} are on no packet here", drop.flow, left - positions.len()));
        }
        for position in positions {
            self.note(position, format!("{text}{told}"));
        }
    }

    /// Whether a packet that came in leaves.
    fn leaves(&self, position: usize) -> bool {
        let copies = self.copies.get(&self.packets[position].identity);
        copies.into_iter().flatten().any(|other| *other > position && self.recording.frames[*other].outgoing)
    }

    /// On the ICMP errors themselves, which quote the packet that they are about.
    fn icmp_error(&mut self, error: &IcmpError) {
        let is_it = |position: &usize| {
            let same = self.packets[*position].icmp.is_some_and(|icmp| {
                (icmp.proto, icmp.kind, icmp.code) == (error.proto.as_str(), error.kind, error.code)
            });
            let sent = self.recording.frames[*position].outgoing;
            same && sent && quoted_flow(self.payload(*position)).as_ref() == Some(&error.flow)
        };
        let wanted = usize::try_from(error.packets).unwrap_or(usize::MAX);
        let found: Vec<usize> = (0..self.packets.len()).filter(is_it).take(wanted).collect();
        let cause = if error.dropped_for.is_empty() {
            String::new()
        } else {
            format!(", dropped for {}", error.dropped_for.join(", "))
        };
        let text = format!("icmp: {} for {}{cause}", error.meaning, error.flow);
        if found.len() < wanted {
            self.unplaced(format!("{} of {text} are on no packet here", wanted - found.len()));
        }
        for position in found {
            self.note(position, text.clone());
        }
    }

    fn live(&mut self, observation: &Observation) {
        for flow in observation.live.iter().flat_map(|live| &live.flows) {
            let why = if flow.reasons.is_empty() { String::new() } else { format!(": {}", flow.reasons.join("; ")) };
            let ends = format!("recorded as {}, ends as {}", flow.recorded_end, flow.live_end);
            let text = format!("live: {}{why} ({ends})", flow.fate.text());
            self.place_either(&flow.proto, &flow.client, &flow.server, text);
        }
    }

    fn latency(&mut self, observation: &Observation) {
        let Some(latency) = &observation.latency else { return };
        for StageTimes { host, flow, stage, since, count, p50_ns, p99_ns, max_ns, .. } in &latency.flows {
            let (Some(flow), Some(since)) = (flow, since) else { continue };
            let us = |ns: u64| format!("{}.{:03} us", ns / 1000, ns % 1000);
            let part = |ns: &Option<u64>| ns.map_or_else(|| "-".to_owned(), us);
            let (half, most) = (part(p50_ns), part(p99_ns));
            let text = format!(
                "latency on {host}: {since} to {stage} of {count} packets: median {half}, 99 % {most}, longest {}",
                us(*max_ns)
            );
            self.place_nth(flow, 0, |_| true, text);
        }
        for queue in latency.queues.iter().filter(|queue| queue.refused > 0) {
            let (proto, local, host) = (&queue.proto, &queue.local, &queue.host);
            self.unplaced(format!("{} datagrams found the queue of {proto} {local} on {host} full", queue.refused));
        }
    }

    /// Events and changes of objects under test, where they are not on their packets already: on a link, which packet an
    /// event is about only the event itself can say.
    fn objects(&mut self, observation: &Observation) {
        for object in &observation.objects {
            for ring in &object.events {
                let count = ring.events.len() as u64 + ring.more;
                if count == 0 || (self.recording.told && ring.more == 0) {
                    continue;
                }
                let name = format!("{}.{}", object.object, ring.map);
                if self.recording.told {
                    self.unplaced(format!("{name}: {} events were not kept", ring.more));
                    continue;
                }
                self.unplaced(format!("{name}: {count} events, which do not say their packet"));
                for event in &ring.events {
                    self.unplaced(format!("  {event}"));
                }
            }
            if !self.recording.told {
                let printed = object.printed.iter();
                let lines: Vec<String> = printed.map(|line| format!("{} printed: {line}", object.object)).collect();
                self.placed.unplaced.extend(lines);
            }
            let notes = object.notes.iter().map(|note| format!("{}: {note}", object.object));
            self.placed.unplaced.extend(notes);
        }
    }

    /// What has neither flow nor packet.
    fn counts(&mut self, observation: &Observation) {
        for (what, count) in &observation.malformed {
            self.unplaced(format!("malformed: {count} x {what}"));
        }
        for (what, count) in &observation.losses {
            self.unplaced(format!("not seen: {count} of {what}"));
        }
    }
}

fn took(us: Option<f64>) -> String {
    us.map_or_else(String::new, |us| format!(", answered after {us:.0} us"))
}
