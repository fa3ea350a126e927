//! Anonymising frames: the same length and order, other addresses, names and payload.
//!
//! | what | becomes |
//! |---|---|
//! | IP addresses | Crypto-PAn, prefixes kept ([`CryptoPan`]); private, link-local and multicast stay so, loopback, broadcast and well-known groups stay whole |
//! | MAC addresses | a keyed permutation; group and local bits stay, the vendor if wanted |
//! | names in DNS, HTTP and TLS | label by label a word of the same length, the same wherever it stands |
//! | HTTP targets, cookies, header values | word by word, but for the protocol's own words |
//! | other payload | zeros, random bytes, or what it was ([`Payload`]) |
//!
//! A new frame begins as zeros, and rules copy or replace what they understand: nothing is left over by omission.
//! Lengths, times, ports, sequence numbers, flags and TTLs stay. Checksums (IPv4, TCP, UDP, ICMP, ICMPv6, IGMP, GRE) follow
//! what they cover: right ones are right afterwards, wrong ones are wrong by the same amount.
//!
//! Frames are given twice, in the same order: [`Anonymiser::learn`] puts TCP streams in order and adds up fragments,
//! [`Anonymiser::rewrite`] writes. The same frames, key and policy give the same bytes.

mod cryptopan;
mod dhcp;
mod dns;
mod frame;
mod http;
mod icmp;
mod identity;
mod ip;
mod key;
mod link;
mod parser;
mod policy;
mod stream;
mod text;
mod tls;
mod transport;
mod tuples;

use std::collections::BTreeMap;

use serde::Serialize;

pub use cryptopan::CryptoPan;
pub use key::{Key, KeyError};
pub use policy::{Macs, Payload, Policy, Replace};
pub use tuples::{Tuple, tuples};

use frame::Frame;
use identity::Identities;
use stream::Streams;
use text::Words;

/// Most kinds of unknown protocols that are told apart.
const MAX_UNKNOWN: usize = 64;

/// How often what was replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// By kind: fields, names, messages, or bytes where the kind says so.
    pub changed: BTreeMap<&'static str, u64>,
    /// Different addresses that were replaced: IPv4, IPv6, MAC.
    pub addresses: BTreeMap<&'static str, usize>,
    /// Protocols that no rule reads, to which the payload policy was applied: frames and bytes.
    pub unknown: BTreeMap<String, Unknown>,
}

/// How much of a protocol was not understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unknown {
    /// Packets.
    pub packets: u64,
    /// Bytes of payload.
    pub bytes: u64,
}

impl Counts {
    fn add(&mut self, kind: &'static str, count: u64) {
        if count > 0 {
            *self.changed.entry(kind).or_default() += count;
        }
    }

    fn unknown(&mut self, protocol: impl FnOnce() -> String, bytes: usize) {
        let name = protocol();
        let name =
            if self.unknown.len() < MAX_UNKNOWN || self.unknown.contains_key(&name) { name } else { "others".into() };
        let entry = self.unknown.entry(name).or_default();
        entry.packets += 1;
        entry.bytes += bytes as u64;
    }
}

/// What all rules use.
struct Tools {
    policy: Policy,
    words: Words,
    ids: Identities,
    counts: Counts,
    random: Key,
}

impl Tools {
    /// Applies the payload policy to a range.
    fn payload(&mut self, frame: &mut Frame<'_>, range: std::ops::Range<usize>) {
        let range = frame.clip(range);
        self.policy_bytes(&frame.from[range.clone()], &mut frame.to[range], None);
    }

    /// Applies the payload policy to bytes. Random ones are made of their place in a stream, or of what they replace, so that
    /// what was sent twice is the same twice.
    fn policy_bytes(&mut self, from: &[u8], to: &mut [u8], place: Option<(&[u8], u64)>) {
        match self.policy.payload {
            Payload::Keep => {
                to.copy_from_slice(from);
                self.counts.add("payload_bytes_kept", from.len() as u64);
                return;
            }
            Payload::Zero => to.fill(0),
            Payload::Random => {
                let seed = self.policy.seed.to_be_bytes();
                match place {
                    Some((stream, offset)) => self.random.stream(&[&seed, stream], offset, to),
                    None => {
                        let content = self.random.prf(&[b"content", from]);
                        self.random.stream(&[&seed, &content], 0, to);
                    }
                }
            }
        }
        self.counts.add("payload_bytes", from.len() as u64);
    }
}

/// Replaces everything that names or recognises someone in the frames of a capture.
pub struct Anonymiser {
    tools: Tools,
    streams: Streams,
    fragments: ip::Fragments,
    learning: bool,
    /// What the first reading replaced: it is there that streams are parsed.
    learned: Counts,
    /// Where frames are written while learning, to no use but to add up checksums.
    scratch: Vec<u8>,
}

impl Anonymiser {
    /// An anonymiser that has seen nothing.
    #[must_use]
    pub fn new(key: &Key, policy: &Policy) -> Self {
        let tools = Tools {
            policy: policy.clone(),
            words: Words::new(key, policy),
            ids: Identities::new(key, policy),
            counts: Counts::default(),
            random: key.derive("payload"),
        };
        Self {
            tools,
            streams: Streams::default(),
            fragments: ip::Fragments::default(),
            learning: true,
            learned: Counts::default(),
            scratch: Vec::new(),
        }
    }

    /// First reading: takes in an Ethernet frame.
    pub fn learn(&mut self, data: &[u8]) {
        let mut to = std::mem::take(&mut self.scratch);
        to.clear();
        to.resize(data.len(), 0);
        self.frame(&mut Frame { from: data, to: &mut to });
        self.scratch = to;
    }

    /// Ends the first reading.
    pub fn settle(&mut self) {
        self.learning = false;
        self.streams.settle();
        self.fragments.settle();
        self.tools.counts = std::mem::take(&mut self.learned);
    }

    /// Second reading, after [`Anonymiser::settle`]: puts what replaces the Ethernet frame `data` into `to`, of the same
    /// length. Frames must come as they did in the first reading; one that did not come there loses its TCP payload.
    pub fn rewrite(&mut self, data: &[u8], to: &mut Vec<u8>) {
        to.clear();
        to.resize(data.len(), 0);
        self.frame(&mut Frame { from: data, to });
    }

    /// What was replaced since [`Anonymiser::settle`].
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = self.tools.counts.clone();
        let (v4, v6, mac) = self.tools.ids.distinct();
        counts.addresses = BTreeMap::from([("ipv4", v4), ("ipv6", v6), ("mac", mac)]);
        counts
    }
}

/// Replaces the IPv4 address at `at`. One of which a part was captured becomes zeros.
fn put_v4(frame: &mut Frame<'_>, at: usize, end: usize, tools: &mut Tools) {
    if let Some(address) = frame.u32(at).filter(|_| at + 4 <= end) {
        let mapped = tools.ids.v4(address);
        frame.put(at, &mapped.to_be_bytes());
        tools.counts.add("ipv4_addresses", u64::from(mapped != address));
    }
}

/// As [`put_v4`], of IPv6.
fn put_v6(frame: &mut Frame<'_>, at: usize, end: usize, tools: &mut Tools) {
    if let Some(address) = frame.array(at).filter(|_| at + 16 <= end).map(u128::from_be_bytes) {
        let mapped = tools.ids.v6(address);
        frame.put(at, &mapped.to_be_bytes());
        tools.counts.add("ipv6_addresses", u64::from(mapped != address));
    }
}

/// As [`put_v4`], of Ethernet.
fn put_mac(frame: &mut Frame<'_>, at: usize, end: usize, tools: &mut Tools) {
    if let Some(mac) = frame.array(at).filter(|_| at + 6 <= end) {
        let mapped = tools.ids.mac(mac);
        frame.put(at, &mapped);
        tools.counts.add("mac_addresses", u64::from(mapped != mac));
    }
}

#[cfg(test)]
mod tests;
