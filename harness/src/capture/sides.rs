//! Which end of the wire each frame enters.
//!
//! Who talks to whom must stand on opposite sides, or their frames would not cross the wire. So addresses are nodes of a
//! graph, every frame is an edge, and its parts are coloured with two colours (a disjoint-set forest that keeps the
//! parity of each node to its root). The first edges win: an edge that contradicts them is a frame between two
//! endpoints of the same side, which is counted. Which colour of a part is the client's is decided by the best evidence
//! in it: an endpoint that sent a SYN, else the one that sent first.
//!
//! The survey learns from the whole capture; only then are sides handed out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

use serde::Serialize;

use super::options::{Net, Side, SidesPolicy};
use super::parse::{TCP, UDP, View};
use super::reader::Tally;

/// Endpoints remembered, about 100 bytes each. Frames of others get their side from a hash.
const MAX_NODES: usize = 1 << 20;
/// MAC addresses remembered beside them.
const MAX_MACS: usize = 1 << 18;
/// MAC addresses tied to the side of an IP address. Raw IP has as many of them as addresses, and needs none.
const MAX_TIES: u32 = 1 << 16;
/// Addresses listed in [`Endpoints`], both sides together.
pub const MAX_ENDPOINTS: usize = 4096;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// By what addresses sides were decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SidesBasis {
    /// IP addresses and who started each conversation; MAC addresses for frames without IP.
    Endpoint,
    /// MAC addresses.
    Mac,
    /// Networks given by the user; MAC addresses for frames without IP.
    ClientNets,
}

/// The IP addresses of each side, in order of appearance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Endpoints {
    /// Unicast addresses on the client's side.
    pub client: Vec<IpAddr>,
    /// Unicast addresses on the server's side.
    pub server: Vec<IpAddr>,
    /// Whether there were more than [`MAX_ENDPOINTS`], so that some are missing.
    pub incomplete: bool,
}

/// A node: an IP address (with a port where one host talks to itself) or a MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    kind: u8,
    port: u16,
    // Not a u128: its alignment would add 16 bytes to every entry of the table.
    address: [u64; 2],
}

impl Key {
    fn mac(bytes: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = bytes;
        Self { kind: 0, port: 0, address: [0, u64::from_be_bytes([0, 0, a, b, c, d, e, f])] }
    }

    fn ip(address: IpAddr, port: u16) -> Self {
        match address {
            IpAddr::V4(address) => Self { kind: 4, port, address: [0, u64::from(address.to_bits())] },
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                Self { kind: 6, port, address: [(bits >> 64) as u64, bits as u64] }
            }
        }
    }

    fn address(self) -> Option<IpAddr> {
        let [high, low] = self.address;
        match self.kind {
            4 => Some(IpAddr::from((low as u32).to_be_bytes())),
            6 => Some(IpAddr::from((u128::from(high) << 64 | u128::from(low)).to_be_bytes())),
            _ => None,
        }
    }
}

/// Evidence for who is the client, best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Evidence {
    /// Sent the first frame.
    First,
    /// Sent a SYN, or was sent a SYN-ACK.
    Syn,
    /// Told by the user.
    Told,
}

/// What a frame says about sides.
#[derive(Debug)]
struct Talk {
    source: Key,
    /// Absent if the frame goes to a group.
    destination: Option<Key>,
    evidence: Evidence,
    /// The destination is the client: a SYN-ACK.
    reversed: bool,
}

fn macs(data: &[u8]) -> Option<([u8; 6], [u8; 6])> {
    let (destination, rest) = data.split_first_chunk::<6>()?;
    Some((*rest.first_chunk::<6>()?, *destination))
}

fn by_mac(data: &[u8]) -> Option<Talk> {
    let (source, destination) = macs(data)?;
    let group = destination[0] & 1 != 0;
    let destination = (!group).then(|| Key::mac(destination));
    Some(Talk { source: Key::mac(source), destination, evidence: Evidence::First, reversed: false })
}

fn is_group(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::from([255; 4])
}

/// By IP address, if the frame has a source that names a host.
fn by_ip(data: &[u8], view: &View) -> Option<Talk> {
    let ip = view.ip.as_ref()?;
    let (source, destination) = ip.addresses(data)?;
    if source.is_unspecified() || is_group(source) {
        return None;
    }
    let transport = ip.unfragmented();
    // A host that talks to itself: only ports tell its two ends apart.
    let ports = match transport {
        Some((TCP | UDP, at)) if source == destination => data.get(at..).and_then(<[u8]>::first_chunk::<4>),
        _ => None,
    };
    let (from, to) = ports.map_or((0, 0), |[a, b, c, d]| (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])));
    let flags = match transport {
        Some((TCP, at)) => data.get(at + 13).copied().unwrap_or(0),
        _ => 0,
    };
    let group = is_group(destination) || data[0] & 1 != 0;
    Some(Talk {
        source: Key::ip(source, from),
        destination: (!group).then(|| Key::ip(destination, to)),
        evidence: if flags & SYN == 0 { Evidence::First } else { Evidence::Syn },
        reversed: flags & (SYN | ACK) == SYN | ACK,
    })
}

#[derive(Clone, Copy, Debug)]
struct Node {
    parent: u32,
    /// On the other side than its parent.
    flipped: bool,
    /// Of a root: the root itself is a client.
    root_is_client: bool,
    /// Of a root: what that is based on, and the order of its appearance.
    evidence: Evidence,
    since: u32,
    /// Nodes below, for balance.
    size: u32,
    /// A MAC address that an IP address has been tied to.
    tied: bool,
}

/// The forest, while it is learned.
#[derive(Debug)]
struct Forest {
    max: usize,
    keys: HashMap<Key, u32>,
    nodes: Vec<Node>,
    time: u32,
    ties: u32,
    /// Frames whose endpoints had no place left.
    overflown: Tally,
}

impl Forest {
    fn new(max: usize) -> Self {
        Self { max, keys: HashMap::new(), nodes: Vec::new(), time: 0, ties: 0, overflown: Tally::default() }
    }

    fn node(&mut self, key: Key) -> Option<u32> {
        let next = u32::try_from(self.nodes.len()).ok()?;
        match self.keys.entry(key) {
            Entry::Occupied(entry) => Some(*entry.get()),
            Entry::Vacant(_) if self.nodes.len() >= self.max => None,
            Entry::Vacant(entry) => {
                entry.insert(next);
                self.time = self.time.saturating_add(1);
                self.nodes.push(Node {
                    parent: next,
                    flipped: false,
                    root_is_client: true,
                    evidence: Evidence::First,
                    since: self.time,
                    size: 1,
                    tied: false,
                });
                Some(next)
            }
        }
    }

    /// The root of a node, and whether the node is on the other side than it. Shortens the path by half.
    fn find(&mut self, mut at: u32) -> (u32, bool) {
        let mut flipped = false;
        loop {
            let node = self.nodes[at as usize];
            if node.parent == at {
                return (at, flipped);
            }
            let parent = self.nodes[node.parent as usize];
            let shorter = &mut self.nodes[at as usize];
            shorter.parent = parent.parent;
            shorter.flipped = node.flipped ^ parent.flipped;
            flipped ^= shorter.flipped;
            at = parent.parent;
        }
    }

    /// Takes note that `client` is one.
    fn vote(&mut self, client: u32, evidence: Evidence) {
        let (root, flipped) = self.find(client);
        let time = self.time;
        let root = &mut self.nodes[root as usize];
        if evidence > root.evidence {
            (root.evidence, root.root_is_client, root.since) = (evidence, !flipped, time);
        }
    }

    /// Puts two nodes on opposite sides, or on the same. Says whether that is so, now or already.
    fn relate(&mut self, a: u32, b: u32, opposite: bool) -> bool {
        let ((a, a_flipped), (b, b_flipped)) = (self.find(a), self.find(b));
        let flipped = a_flipped ^ b_flipped ^ opposite;
        if a == b {
            return !flipped;
        }
        let (root, child) = if self.nodes[a as usize].size >= self.nodes[b as usize].size { (a, b) } else { (b, a) };
        let below = self.nodes[child as usize];
        let above = &mut self.nodes[root as usize];
        above.size += below.size;
        // The better evidence wins, and of equal evidence the earlier.
        if (below.evidence, std::cmp::Reverse(below.since)) > (above.evidence, std::cmp::Reverse(above.since)) {
            above.root_is_client = below.root_is_client ^ flipped;
            (above.evidence, above.since) = (below.evidence, below.since);
        }
        let below = &mut self.nodes[child as usize];
        (below.parent, below.flipped) = (root, flipped);
        true
    }

    /// Learns from one frame. Says whether its two endpoints are on opposite sides.
    fn learn(&mut self, number: u64, talk: &Talk) -> bool {
        let source = self.node(talk.source);
        let destination = talk.destination.map(|key| self.node(key));
        let (Some(source), Some(destination)) = (source, destination.unwrap_or(source)) else {
            self.overflown.add(number);
            return true;
        };
        if talk.destination.is_none() {
            return true;
        }
        self.time = self.time.saturating_add(1);
        let crosses = self.relate(source, destination, true);
        if crosses {
            self.vote(if talk.reversed { destination } else { source }, talk.evidence);
        }
        crosses
    }

    /// Ties a MAC address to the side of the first IP address seen behind it, for frames without IP.
    fn tie(&mut self, mac: [u8; 6], ip: Key) {
        if self.ties >= MAX_TIES {
            return;
        }
        let (Some(mac), Some(ip)) = (self.node(Key::mac(mac)), self.node(ip)) else { return };
        if !self.nodes[mac as usize].tied {
            self.nodes[mac as usize].tied = true;
            self.ties += 1;
            self.relate(mac, ip, false);
        }
    }

    /// The table of nodes, and the side of each.
    fn into_sides(mut self) -> (HashMap<Key, u32>, Vec<Side>) {
        let nodes = 0..self.nodes.len() as u32;
        let sides = nodes.map(|node| {
            let (root, flipped) = self.find(node);
            let client = self.nodes[root as usize].root_is_client ^ flipped;
            if client { Side::Client } else { Side::Server }
        });
        let sides = sides.collect();
        (self.keys, sides)
    }
}

/// Collects what frames say about sides.
#[derive(Debug)]
pub(super) struct Learner {
    policy: SidesPolicy,
    endpoint: Forest,
    mac: Forest,
    same_by_endpoint: Tally,
    same_by_mac: Tally,
    /// Unicast addresses with the key that decides each by MAC.
    addresses: Vec<(IpAddr, Key)>,
    known: HashMap<IpAddr, ()>,
    incomplete: bool,
}

impl Learner {
    pub(super) fn new(policy: &SidesPolicy) -> Self {
        Self {
            policy: policy.clone(),
            endpoint: Forest::new(MAX_NODES),
            mac: Forest::new(MAX_MACS),
            same_by_endpoint: Tally::default(),
            same_by_mac: Tally::default(),
            addresses: Vec::new(),
            known: HashMap::new(),
            incomplete: false,
        }
    }

    pub(super) fn learn(&mut self, number: u64, data: &[u8], view: &View) {
        self.list(data, view);
        if matches!(self.policy, SidesPolicy::Auto | SidesPolicy::Mac)
            && let Some(talk) = by_mac(data)
            && !self.mac.learn(number, &talk)
        {
            self.same_by_mac.add(number);
        }
        if self.policy != SidesPolicy::Mac {
            let by_ip = by_ip(data, view);
            if let (Some(talk), Some((source, destination))) = (&by_ip, macs(data)) {
                self.tell(talk);
                if source != destination {
                    self.endpoint.tie(source, talk.source);
                }
            }
            if let Some(talk) = by_ip.or_else(|| by_mac(data))
                && !self.endpoint.learn(number, &talk)
            {
                self.same_by_endpoint.add(number);
            }
        }
    }

    /// With networks given, ties IP addresses to one node that is a client by definition.
    fn tell(&mut self, talk: &Talk) {
        let SidesPolicy::ClientNets(nets) = &self.policy else { return };
        const ANCHOR: Key = Key { kind: 1, port: 0, address: [0, 0] };
        for key in [Some(talk.source), talk.destination].into_iter().flatten() {
            if self.endpoint.keys.contains_key(&key) {
                continue;
            }
            let opposite = !is_client(nets, key);
            let (Some(anchor), Some(node)) = (self.endpoint.node(ANCHOR), self.endpoint.node(key)) else { return };
            self.endpoint.vote(anchor, Evidence::Told);
            self.endpoint.relate(anchor, node, opposite);
        }
    }

    fn list(&mut self, data: &[u8], view: &View) {
        let Some((addresses, macs)) = view.ip.and_then(|ip| ip.addresses(data)).zip(macs(data)) else { return };
        for (address, mac) in [(addresses.0, macs.0), (addresses.1, macs.1)] {
            if is_group(address) || address.is_unspecified() || mac[0] & 1 != 0 || self.known.contains_key(&address) {
                continue;
            }
            if self.known.len() >= MAX_ENDPOINTS {
                self.incomplete = true;
                continue;
            }
            self.known.insert(address, ());
            self.addresses.push((address, Key::mac(mac)));
        }
    }

    /// Decides.
    pub(super) fn finish(self) -> Learned {
        let mac_is_better =
            self.same_by_endpoint.count > 0 && self.same_by_mac.count == 0 && self.mac.overflown.count == 0;
        let (basis, nets) = match self.policy {
            SidesPolicy::Mac => (SidesBasis::Mac, Vec::new()),
            SidesPolicy::Auto if mac_is_better => (SidesBasis::Mac, Vec::new()),
            SidesPolicy::Auto | SidesPolicy::Endpoint => (SidesBasis::Endpoint, Vec::new()),
            SidesPolicy::ClientNets(nets) => (SidesBasis::ClientNets, nets),
        };
        let (forest, same_side) = match basis {
            SidesBasis::Mac => (self.mac, self.same_by_mac),
            SidesBasis::Endpoint | SidesBasis::ClientNets => (self.endpoint, self.same_by_endpoint),
        };
        let overflown = forest.overflown;
        let (table, of_node) = forest.into_sides();
        let sides = Sides { basis, nets, table, of_node };
        let mut endpoints = Endpoints { incomplete: self.incomplete, ..Endpoints::default() };
        for (address, mac) in self.addresses {
            let key = if basis == SidesBasis::Mac { mac } else { Key::ip(address, 0) };
            match sides.of_key(key).unwrap_or(Side::Client) {
                Side::Client => endpoints.client.push(address),
                Side::Server => endpoints.server.push(address),
            }
        }
        Learned { sides, endpoints, same_side, overflown }
    }
}

fn is_client(nets: &[Net], key: Key) -> bool {
    key.address().is_some_and(|address| nets.iter().any(|net| net.contains(address)))
}

/// What the survey learned about sides.
pub(super) struct Learned {
    pub sides: Sides,
    pub endpoints: Endpoints,
    /// Frames between endpoints of one side.
    pub same_side: Tally,
    /// Frames of endpoints that found no place in the table.
    pub overflown: Tally,
}

/// The side of every address of a capture.
#[derive(Debug)]
pub(super) struct Sides {
    pub basis: SidesBasis,
    nets: Vec<Net>,
    table: HashMap<Key, u32>,
    of_node: Vec<Side>,
}

impl Sides {
    fn of_key(&self, key: Key) -> Option<Side> {
        if self.basis == SidesBasis::ClientNets && key.kind != 0 {
            return Some(if is_client(&self.nets, key) { Side::Client } else { Side::Server });
        }
        self.table.get(&key).and_then(|node| self.of_node.get(*node as usize)).copied()
    }

    /// The side on which a frame enters.
    pub(super) fn of(&self, data: &[u8], view: &View) -> Side {
        let talk = match self.basis {
            SidesBasis::Mac => by_mac(data),
            SidesBasis::Endpoint | SidesBasis::ClientNets => by_ip(data, view).or_else(|| by_mac(data)),
        };
        let Some(talk) = talk else { return Side::Client };
        if let Some(side) = self.of_key(talk.source) {
            return side;
        }
        // Beyond the table: opposite to the partner, or by a hash that both directions agree on.
        let Some(destination) = talk.destination else { return Side::Client };
        match self.of_key(destination) {
            Some(side) => side.opposite(),
            None if (spread(talk.source), talk.source) < (spread(destination), destination) => Side::Client,
            None => Side::Server,
        }
    }
}

/// A fixed hash (the finaliser of SplitMix64), so that sides do not change from run to run.
fn spread(key: Key) -> u64 {
    let mut x = key.address[1] ^ key.address[0].rotate_left(32) ^ u64::from(key.port);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn udp(from: u8, to: u8) -> (Vec<u8>, View) {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, from], [2, 0, 0, 0, 0, to]);
        let mut data = Vec::new();
        ethernet.ipv4([10, 0, 0, from], [10, 0, 0, to], 64).udp(1, 2).write(&mut data, b"").unwrap();
        let view = View::of(&data);
        (data, view)
    }

    #[test]
    fn endpoints_beyond_the_table_still_stand_opposite_their_partners() {
        let mut learner = Learner::new(&SidesPolicy::Endpoint);
        // Room for 10.0.0.1, its MAC address and 10.0.0.2.
        learner.endpoint.max = 3;
        for (number, (from, to)) in [(1, 2), (3, 4), (5, 1), (5, 6)].into_iter().enumerate() {
            let (data, view) = udp(from, to);
            learner.learn(number as u64 + 1, &data, &view);
        }
        let learned = learner.finish();
        assert_eq!(learned.overflown, Tally { count: 3, first: 2 });
        let side = |from, to| {
            let (data, view) = udp(from, to);
            learned.sides.of(&data, &view)
        };
        assert_eq!((side(1, 2), side(2, 1)), (Side::Client, Side::Server), "in the table");
        assert_eq!(side(5, 1), Side::Server, "opposite to a known partner");
        for (a, b) in [(3, 4), (5, 6), (200, 100)] {
            assert_eq!(side(a, b), side(b, a).opposite(), "both unknown");
        }
    }

    #[test]
    fn colours_agree_with_a_search_over_the_graph() {
        // A path of 2000 nodes joined in a scattered order: distance decides the colour.
        let mut forest = Forest::new(MAX_NODES);
        let key = |n: u32| Key::ip(IpAddr::from(n.to_be_bytes()), 0);
        for step in 0..2000_u32 {
            let from = step * 1237 % 2000;
            let talk = Talk {
                source: key(from),
                destination: Some(key(from + 1)),
                evidence: if from == 700 { Evidence::Syn } else { Evidence::First },
                reversed: false,
            };
            assert!(forest.learn(u64::from(step), &talk));
        }
        let (table, sides) = forest.into_sides();
        for n in 0..=2000_u32 {
            let expected = if n % 2 == 0 { Side::Client } else { Side::Server };
            assert_eq!(sides[table[&key(n)] as usize], expected, "{n}: node 700 sent a SYN");
        }
    }
}
