//! Conversations out of recorded frames: what the played end sends, and what the live end's socket is to do.

mod builder;
mod withheld;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::Dut;
use super::end::End;
use super::packet::{Packet, Unfit};
use crate::capture::Frame;
use crate::topology::presets;
use builder::Builder;

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
    /// Of a datagram: how many of the live end's stand before it. Of a segment: behind the last number that the live end
    /// had sent.
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
    /// As [`What::Write`], and the last byte is urgent.
    Urgent(u64),
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
    /// How many datagrams it is to read.
    pub(super) asked: u64,
    /// No datagram of the client was answered but by an ICMP error, "port unreachable", of the server's.
    pub(super) is_refused: bool,
    /// Nobody listens at the live server's port.
    pub(super) is_closed: bool,
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
    /// The client's SYN has data in it (RFC 7413).
    pub(super) fast_open: bool,
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
            if packet.refuses && index.is_none() {
                *others.entry(kind_of(Unfit::Other)).or_default() += 1;
                continue;
            }
            let index = index.unwrap_or_else(|| {
                builders.push(Builder::new(&packet, frame.time_ns, dut));
                known.insert(key, builders.len() - 1);
                builders.len() - 1
            });
            builders[index].add(frame, packet);
        }
        let mut flows: Vec<Flow> = builders.into_iter().map(Builder::build).collect();
        refuse_unplayable(&mut flows, dut);
        if dut == Dut::Server {
            close_ports(&mut flows);
        }
        tell_of_ecn(&mut flows, dut);
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

    /// Whether the recorded server was silent, or behind something that was, where the live one speaks.
    pub(super) fn is_ignored(&self, dut: Dut) -> bool {
        let was_ignored = if self.tcp { self.end.was_ignored() } else { self.is_closed && !self.is_refused };
        dut == Dut::Server && was_ignored
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

/// Nobody listens where the recorded server refused datagrams and never answered one: the kernel refuses them itself.
fn close_ports(flows: &mut [Flow]) {
    let mut refuses: HashMap<SocketAddr, bool> = HashMap::new();
    for flow in flows.iter().filter(|flow| !flow.tcp && flow.refused.is_none()) {
        let answers = !flow.datagrams.is_empty();
        if answers || flow.is_refused {
            refuses.entry(flow.server).and_modify(|refuses| *refuses &= !answers).or_insert(!answers);
        }
    }
    for flow in flows.iter_mut().filter(|flow| !flow.tcp && flow.refused.is_none()) {
        flow.is_closed = refuses.get(&flow.server) == Some(&true);
        if flow.is_closed {
            // No socket takes them.
            (flow.asked, flow.bytes, flow.reads) = (0, [0; 2], Vec::new());
        } else if flow.is_refused {
            flow.is_refused = false;
            flow.notes.insert("its datagrams are taken: the port that refused them answers others".to_owned());
        }
    }
}

/// Whether the kernel's clients ask for ECN is one setting for all of them.
fn tell_of_ecn(flows: &mut [Flow], dut: Dut) {
    let is_played = |flow: &Flow| flow.tcp && flow.refused.is_none();
    if dut == Dut::Client && flows.iter().any(|flow| is_played(flow) && flow.asks_for_ecn) {
        for flow in flows.iter_mut().filter(|flow| is_played(flow) && !flow.asks_for_ecn) {
            flow.notes.insert("its SYN asks for ECN, as that of others in the capture does".to_owned());
        }
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

#[cfg(test)]
mod tests;
