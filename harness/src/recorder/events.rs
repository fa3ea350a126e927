//! Which packet of a recording each event of an observation is about: by flow, and by order within it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::Recording;
use crate::flow_name;
use crate::observation::{Drop, Observation};

/// What is needed of a packet.
#[derive(Debug, Default)]
struct Packet {
    /// `tcp a > b`.
    flow: String,
    payload: Vec<u8>,
    /// Number of the first byte, where it is TCP.
    sequence: Option<u32>,
    /// What makes it this packet wherever it passes: addresses aside, which a router changes.
    identity: Vec<u8>,
}

/// Comments by the position of the packet.
pub(super) fn comments(recording: &Recording, observation: &Observation) -> BTreeMap<usize, Vec<String>> {
    let packets: Vec<Packet> = recording.frames.iter().map(|frame| packet(&frame.data)).collect();
    let mut notes = Notes::new(recording, &packets);
    notes.exchanges(observation);
    notes.retransmissions(observation);
    for drop in &observation.drops {
        notes.drop(drop);
    }
    notes.comments
}

fn packet(frame: &[u8]) -> Packet {
    let mut read = Packet { flow: flow_name::of(frame), ..Packet::default() };
    let Ok(sliced) = SlicedPacket::from_ethernet(frame) else { return read };
    if let Some(NetSlice::Ipv4(ip)) = &sliced.net {
        read.identity.extend(ip.header().identification().to_be_bytes());
    }
    match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            read.sequence = Some(tcp.sequence_number());
            read.payload = tcp.payload().to_vec();
            read.identity.extend(tcp.slice());
        }
        Some(TransportSlice::Udp(udp)) => {
            read.payload = udp.payload().to_vec();
            read.identity.extend(udp.slice());
        }
        _ => read.identity.extend(sliced.net.iter().filter_map(|net| net.ip_payload_ref()).flat_map(|ip| ip.payload)),
    }
    read
}

struct Notes<'a> {
    recording: &'a Recording,
    packets: &'a [Packet],
    /// Positions of each flow's packets, by time, where the packet passes first.
    first: HashMap<&'a str, Vec<usize>>,
    comments: BTreeMap<usize, Vec<String>>,
}

impl<'a> Notes<'a> {
    fn new(recording: &'a Recording, packets: &'a [Packet]) -> Self {
        let mut first: HashMap<&str, Vec<usize>> = HashMap::new();
        for (position, packet) in packets.iter().enumerate() {
            // Where the device under test sends what it got, a packet is there twice; what it made itself, once.
            let forwarded = recording.frames[position].outgoing && before(recording, packets, position).is_some();
            if !forwarded {
                first.entry(&packet.flow).or_default().push(position);
            }
        }
        Self { recording, packets, first, comments: BTreeMap::new() }
    }

    fn note(&mut self, position: usize, text: String) {
        self.comments.entry(position).or_default().push(text);
    }

    /// The `number`-th packet of a flow, from 0, for which `is` holds.
    fn nth(&self, flow: &str, number: usize, is: impl Fn(&Packet) -> bool) -> Option<usize> {
        let positions = self.first.get(flow)?.iter().copied();
        positions.filter(|position| is(&self.packets[*position])).nth(number)
    }

    fn exchanges(&mut self, observation: &Observation) {
        for http in &observation.http {
            let flow = format!("tcp {} > {}", http.client, http.server);
            let begins = format!("{} ", http.method);
            let before = observation.http.iter().filter(|other| {
                let same = (&other.client, &other.server, &other.method) == (&http.client, &http.server, &http.method);
                same && other.exchange < http.exchange
            });
            let number = before.count();
            if let Some(position) = self.nth(&flow, number, |packet| packet.payload.starts_with(begins.as_bytes())) {
                let status = http.status.map_or_else(|| "unanswered".to_owned(), |status| status.to_string());
                let host = http.host.as_deref().unwrap_or("-");
                let text = format!("http: {} {host}{} {status}{}", http.method, http.path, took(http.latency_us));
                self.note(position, text);
            }
        }
        let mut asked: HashMap<String, usize> = HashMap::new();
        for dns in &observation.dns {
            let flow = format!("{} {} > {}", dns.transport, dns.client, dns.server);
            let number = asked.entry(flow.clone()).or_default();
            if let Some(position) = self.nth(&flow, *number, |packet| !packet.payload.is_empty()) {
                let rcode = dns.rcode.as_deref().unwrap_or("unanswered");
                self.note(position, format!("dns: {} {} {rcode}{}", dns.name, dns.kind, took(dns.latency_us)));
            }
            *number += 1;
        }
        for tls in &observation.tls {
            /// Content type of a record with handshake messages (RFC 8446 section 5.1).
            const HANDSHAKE: u8 = 22;
            let flow = format!("tcp {} > {}", tls.client, tls.server);
            if let Some(position) = self.nth(&flow, 0, |packet| packet.payload.first() == Some(&HANDSHAKE)) {
                let (name, version) = (tls.sni.as_deref().unwrap_or("-"), tls.version.as_deref().unwrap_or("-"));
                self.note(position, format!("tls: {name} {version}{}", took(tls.latency_us)));
            }
        }
    }

    /// Segments whose bytes were there before, as many as were seen.
    fn retransmissions(&mut self, observation: &Observation) {
        let connections = observation.tcp.iter().flat_map(|tcp| &tcp.connections);
        let ways: Vec<(String, u64)> = connections
            .flat_map(|one| {
                let there = (format!("tcp {} > {}", one.client, one.server), one.retransmissions.a_to_b);
                [there, (format!("tcp {} > {}", one.server, one.client), one.retransmissions.b_to_a)]
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        for (flow, count) in ways {
            let mut seen = BTreeSet::new();
            let positions = self.first.get(flow.as_str()).cloned().unwrap_or_default();
            let again = positions.into_iter().filter(|position| {
                let packet = &self.packets[*position];
                // A segment that is sent again begins where it began, as a rule; what is cut otherwise is not found.
                !packet.payload.is_empty() && packet.sequence.is_some_and(|sequence| !seen.insert(sequence))
            });
            let most = usize::try_from(count).unwrap_or(usize::MAX);
            for position in again.take(most).collect::<Vec<_>>() {
                self.note(position, "tcp: retransmission".to_owned());
            }
        }
    }

    /// Packets that were given up: of their flow, those that came into the host and did not leave it. Of a host whose
    /// links are not recorded, the last of the flow that left towards it, which the comment says.
    fn drop(&mut self, drop: &Drop) {
        let host = |interface: usize| self.recording.interfaces[interface].name.split('.').next();
        let is_here = (0..self.recording.interfaces.len()).any(|interface| host(interface) == Some(&drop.host));
        let mut positions: Vec<usize> = if is_here {
            let positions = self.first.get(drop.flow.as_str()).into_iter().flatten().copied();
            let came_in = |position: &usize| {
                let frame = &self.recording.frames[*position];
                !frame.outgoing && host(frame.interface) == Some(&drop.host)
            };
            let stayed = |position: &usize| after(self.recording, self.packets, *position).is_none();
            positions.filter(came_in).filter(stayed).collect()
        } else {
            let left = |position: &usize| self.recording.frames[*position].outgoing;
            (0..self.packets.len()).rev().filter(left).filter(|at| self.packets[*at].flow == drop.flow).collect()
        };
        let told = if is_here { "" } else { " (which packet is told by the flow alone)" };
        let text = format!("drop: {} in {} by {} on {}{told}", drop.reason, drop.place, drop.by, drop.host);
        positions.truncate(usize::try_from(drop.packets).unwrap_or(usize::MAX));
        for position in positions {
            self.note(position, text.clone());
        }
    }
}

/// Packets that are looked through for the same one at another interface: a router needs no longer.
const NEAR: usize = 4096;

fn is_same(packets: &[Packet], one: usize, other: usize) -> bool {
    let (one, other) = (&packets[one], &packets[other]);
    one.flow == other.flow && one.identity == other.identity
}

/// Where a packet that leaves came in, if it did.
fn before(recording: &Recording, packets: &[Packet], position: usize) -> Option<usize> {
    let is = |other: &usize| !recording.frames[*other].outgoing && is_same(packets, position, *other);
    (position.saturating_sub(NEAR)..position).rev().find(is)
}

/// Where a packet that came in leaves, if it does.
fn after(recording: &Recording, packets: &[Packet], position: usize) -> Option<usize> {
    let is = |other: &usize| recording.frames[*other].outgoing && is_same(packets, position, *other);
    (position + 1..packets.len().min(position + NEAR)).find(is)
}

fn took(us: Option<f64>) -> String {
    us.map_or_else(String::new, |us| format!(", answered after {us:.0} us"))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::super::{Recorded, RecordedInterface};
    use super::*;
    use crate::observation::{Connection, Dns, Http, PerDirection, Tcp};

    fn tcp(from: u16, to: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let ends = if from > to { ([10, 71, 1, 1], [10, 71, 2, 2]) } else { ([10, 71, 2, 2], [10, 71, 1, 1]) };
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(ends.0, ends.1, 64).tcp(from, to, sequence, 1000);
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).unwrap();
        frame
    }

    fn recording(frames: &[(usize, bool, Vec<u8>)]) -> Recording {
        let interface = |name: &str| RecordedInterface { name: name.to_owned(), ..RecordedInterface::default() };
        let frame = |(time_ns, (interface, outgoing, data)): (u64, &(usize, bool, Vec<u8>))| Recorded {
            time_ns,
            interface: *interface,
            outgoing: *outgoing,
            wire_len: u32::try_from(data.len()).unwrap(),
            data: data.clone(),
        };
        Recording {
            interfaces: vec![interface("dut.eth0"), interface("dut.eth1")],
            frames: (0..).zip(frames).map(frame).collect(),
        }
    }

    #[test]
    fn events_are_on_the_first_packet_that_they_are_about() {
        let request = tcp(40000, 80, 1, b"GET /a HTTP/1.1\r\n\r\n");
        let again = tcp(40000, 80, 20, b"GET /b HTTP/1.1\r\n\r\n");
        let lost = tcp(40001, 81, 7, b"");
        let recording = recording(&[
            (0, false, request.clone()),
            (1, true, request),
            (0, false, again.clone()),
            (1, true, again.clone()),
            (0, false, again.clone()),
            (1, true, again),
            (0, false, lost),
        ]);
        let exchange = |exchange, path: &str| Http {
            client: "10.71.1.1:40000".to_owned(),
            server: "10.71.2.2:80".to_owned(),
            method: "GET".to_owned(),
            path: path.to_owned(),
            status: Some(200),
            latency_us: Some(120.4),
            exchange,
            ..Http::default()
        };
        let connection = Connection {
            client: "10.71.1.1:40000".to_owned(),
            server: "10.71.2.2:80".to_owned(),
            retransmissions: PerDirection { a_to_b: 1, b_to_a: 0 },
            ..Connection::default()
        };
        let observation = Observation {
            http: vec![exchange(1, "/a"), exchange(2, "/b")],
            tcp: Some(Tcp { connections: vec![connection], ..Tcp::default() }),
            drops: vec![Drop {
                by: "kernel".to_owned(),
                reason: "NO_SOCKET".to_owned(),
                place: "tcp_v4_rcv".to_owned(),
                host: "dut".to_owned(),
                flow: "tcp 10.71.1.1:40001 > 10.71.2.2:81".to_owned(),
                packets: 3,
                ..Drop::default()
            }],
            dns: vec![Dns { transport: "udp".to_owned(), ..Dns::default() }],
            ..Observation::default()
        };
        let found: Vec<(usize, String)> =
            comments(&recording, &observation).into_iter().map(|(at, texts)| (at, texts.join("; "))).collect();
        let expected = [
            (0, "http: GET -/a 200, answered after 120 us"),
            (2, "http: GET -/b 200, answered after 120 us"),
            (4, "tcp: retransmission"),
            (6, "drop: NO_SOCKET in tcp_v4_rcv by kernel on dut"),
        ];
        assert_eq!(found, expected.map(|(at, text)| (at, text.to_owned())));
    }
}
