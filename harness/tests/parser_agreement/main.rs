//! The eBPF parser agrees with another implementation on a million mutated packets.
//!
//! `BPFLAB_MUTATIONS` sets their number and `BPFLAB_SEED` the first seed; packet n is made from seed + n alone, so one
//! packet is repeated with its own seed and `BPFLAB_MUTATIONS=1`.

mod corpus;
mod model;
mod mutate;
mod whole;

use std::fmt::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::programs::ProgramFd;
use bpflab::object::{LoadOptions, Object, suite};
use bpflab::sys::{MappedArray, test_run};
use bpflab_programs::packet::{
    BAD_KINDS, BAD_NAMES, ENCAP_GRE, ENCAP_MPLS, ENCAP_VXLAN, FAMILY_ARP, FAMILY_IPV4, FAMILY_IPV6, FAMILY_OTHER,
    FRAGMENT_FIRST, FRAGMENT_LATER, NO_VLAN, Packet,
};
use whole::Opinion;

const MUTATIONS: u64 = 1_000_000;
const SEED: u64 = 0x0b9f_1ab0_0000_0000;
/// Every so many packets also go through the tc parser.
const TC_EVERY: u64 = 8;

/// The parser in the kernel.
struct Parser {
    _object: Object,
    xdp: ProgramFd,
    tc: ProgramFd,
    parsed: MappedArray<Packet>,
}

impl Parser {
    fn load() -> Self {
        let mut object =
            Object::load("parser", suite::PARSER, &LoadOptions::default()).expect("the parser's maps can be made");
        let xdp = object.load_program("parse_only", None).expect("the verifier accepts the XDP parser");
        let tc = object.load_program("parse_only_tc", None).expect("the verifier accepts the tc parser");
        let parsed = object.mapped("PARSED", 1).expect("the result can be mapped");
        Self { _object: object, xdp, tc, parsed }
    }

    fn xdp(&self, frame: &[u8]) -> Packet {
        self.run(&self.xdp, frame).unwrap_or_else(|error| panic!("no run over {} bytes: {error}", frame.len()))
    }

    /// Nothing where the kernel makes no socket buffer of so short a frame: newer ones want a whole IP header behind an
    /// IP ethertype (`bpf_prog_test_run_skb`).
    fn tc(&self, frame: &[u8]) -> Option<Packet> {
        match self.run(&self.tc, frame) {
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput && frame.len() < 14 + 40 => None,
            result => Some(result.unwrap_or_else(|error| panic!("no run over {} bytes: {error}", frame.len()))),
        }
    }

    fn run(&self, program: &ProgramFd, frame: &[u8]) -> std::io::Result<Packet> {
        // A value that no frame gives, so that a program that did not write is found out.
        self.parsed.set(0, Packet { reserved: 0xff, ..Packet::default() });
        test_run(program.as_fd(), frame, None, 1)?;
        Ok(self.parsed.get(0))
    }
}

/// What the packets of a run were like: a test that never meets a fragment says nothing about fragments.
#[derive(Default)]
struct Coverage {
    seen: std::collections::BTreeMap<&'static str, u64>,
}

impl Coverage {
    fn note(&mut self, packet: &Packet) {
        let is = |condition: bool, name| condition.then_some(name);
        let kinds = [
            is(packet.malformed == 0, "well-formed"),
            is(packet.family == FAMILY_OTHER, "other"),
            is(packet.family == FAMILY_ARP, "arp"),
            is(packet.family == FAMILY_IPV4, "ipv4"),
            is(packet.family == FAMILY_IPV6, "ipv6"),
            is(packet.family == FAMILY_IPV6 && packet.l4_offset > 54 && packet.vlan == NO_VLAN, "extensions"),
            is(packet.family == FAMILY_IPV4 && packet.l4_offset > 34 && packet.vlan == NO_VLAN, "options"),
            is(packet.proto == 6 && packet.tcp_header_len >= 20, "tcp"),
            is(packet.proto == 17 && packet.l4_offset != 0, "udp"),
            is(packet.proto == 132 && packet.l4_offset != 0, "sctp"),
            is(packet.proto == 1 && packet.l4_offset != 0, "icmp"),
            is(packet.proto == 58 && packet.l4_offset != 0, "icmpv6"),
            is(packet.vlan != NO_VLAN, "tagged"),
            is(packet.inner_vlan != NO_VLAN, "tagged twice"),
            is(packet.fragment == FRAGMENT_FIRST, "first fragment"),
            is(packet.fragment == FRAGMENT_LATER, "later fragment"),
            is(packet.encap == ENCAP_GRE, "gre"),
            is(packet.encap == ENCAP_VXLAN, "vxlan"),
            is(packet.encap == ENCAP_MPLS, "mpls"),
        ];
        let malformed = (0..BAD_KINDS).map(|bit| is(packet.malformed >> bit & 1 == 1, BAD_NAMES[bit]));
        for kind in kinds.into_iter().chain(malformed).flatten() {
            *self.seen.entry(kind).or_default() += 1;
        }
    }

    /// Fails if a kind was met in fewer than one packet of a thousand.
    fn check(&self, packets: u64) {
        const KINDS: usize = 19 + BAD_KINDS;
        assert_eq!(self.seen.len(), KINDS, "some kinds of packets were never met: {:?}", self.seen);
        for (kind, count) in &self.seen {
            assert!(count * 1000 >= packets, "only {count} of {packets} packets were {kind}");
        }
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    let digits = text.strip_prefix("0x");
    digits
        .map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16))
        .unwrap_or_else(|_| panic!("{name}={text} is not a number"))
}

/// The two results field by field where they differ, with what is needed to see it again.
fn disagreement(seed: u64, frame: &[u8], what: &str, kernel: &Packet, model: &Packet) -> String {
    let hex = frame.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    let mut text = format!("{what}; again with BPFLAB_SEED={seed:#x} BPFLAB_MUTATIONS=1\npacket {hex}\n");
    let (kernel, model) = (format!("{kernel:#?}"), format!("{model:#?}"));
    for change in similar::TextDiff::from_lines(&kernel, &model).iter_all_changes() {
        let _ = write!(text, "{}{change}", change.tag());
    }
    text
}

#[test]
fn the_parser_agrees_with_etherparse() {
    let (count, seed) = (from_environment("BPFLAB_MUTATIONS", MUTATIONS), from_environment("BPFLAB_SEED", SEED));
    let corpus = corpus::frames(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../pcaps"));
    let parser = Parser::load();
    let mut coverage = Coverage::default();
    let (mut same, mut excused, mut through_tc) = (0_u64, 0_u64, 0_u64);
    for seed in (0..count).map(|n| seed.wrapping_add(n)) {
        let frame = mutate::mutated(seed, &corpus);
        let (kernel, model) = (parser.xdp(&frame), model::parse(&frame));
        assert!(kernel == model, "{}", disagreement(seed, &frame, "XDP (-) and model (+) differ", &kernel, &model));
        if seed % TC_EVERY == 0
            && let Some(tc) = parser.tc(&frame)
        {
            assert!(tc == model, "{}", disagreement(seed, &frame, "tc (-) and model (+) differ", &tc, &model));
            through_tc += 1;
        }
        match whole::compare(&frame, &kernel) {
            Opinion::Same => same += 1,
            Opinion::Excused => excused += 1,
            Opinion::Differs(why) => panic!("{}", disagreement(seed, &frame, why, &kernel, &model)),
        }
        coverage.note(&kernel);
    }
    println!("{count} packets from {} frames, first seed {seed:#x}", corpus.len());
    println!("{through_tc} of them through tc as well");
    println!("whole frames: {same} read alike by etherparse, {excused} left out by the rules");
    println!("{:#?}", coverage.seen);
    if count >= 100_000 {
        coverage.check(count);
        assert!(through_tc > count / TC_EVERY / 2, "only {through_tc} packets went through tc");
        assert!(same > excused, "most frames must be fit for a second opinion: {same} were, {excused} were not");
    }
}

#[test]
fn the_corpus_is_well_formed() {
    let parser = Parser::load();
    // The frames built here, without captures; three of them are beyond the parser on purpose: nine extension headers,
    // five MPLS labels, three tags.
    let corpus = corpus::frames(Path::new("/nonexistent"));
    let bad: Vec<_> = corpus.iter().map(|frame| parser.xdp(frame).malformed).filter(|bits| *bits != 0).collect();
    assert_eq!(bad, [bpflab_programs::packet::TOO_DEEP; 3]);
}
