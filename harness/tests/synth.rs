//! Traffic of the catalogue as the suite's programs see it: what is made up must look to them like what it imitates.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use bpflab::capture::{Options, SidesPolicy};
use bpflab::live::LiveOptions;
use bpflab::object::Clock;
use bpflab::report::Document;
use bpflab::run::{self, Plan};
use bpflab::scenario::Mode;
use bpflab::scenario::spec::Programs;
use bpflab::synth::{self, Entry, Hosts, IpVersions, Spec};
use bpflab::topology::TopologyChoice;
use bpflab::wire::{EngineChoice, Speed};

/// What the suite sees of `spec`, packet by packet.
fn seen(spec: &Spec) -> Document {
    let folder = tempfile::tempdir().expect("a folder");
    let capture = folder.path().join("synth.pcapng");
    synth::write(std::slice::from_ref(spec), &Hosts::default(), None, &capture, &mut |_| true).expect("write");
    play(&capture)
}

fn play(capture: &Path) -> Document {
    let plan = Plan {
        capture: capture.to_owned(),
        options: Options { sides: SidesPolicy::Mac, ..Options::default() },
        mode: Some(Mode::Lockstep),
        programs: Programs::default(),
        topology: TopologyChoice::default(),
        speed: Speed::Top,
        engine: EngineChoice::Auto,
        clock: Clock::Capture,
        live: LiveOptions::default(),
        apps: Vec::new(),
        artefacts: None,
        record: None,
    };
    run::run(&plan, &AtomicBool::new(false), &mut |_| ()).expect("run")
}

/// Entries of whole conversations over TCP, each unit of which opens a connection.
fn conversations() -> impl Iterator<Item = &'static Entry> {
    let others = ["scan", "sweep", "dns", "coap"];
    synth::catalogue().filter(move |entry| {
        entry.two_sided
            && !others.iter().any(|part| entry.name.contains(part))
            && entry.name != "random-subdomain-flood"
    })
}

#[test]
fn every_connection_has_its_handshake_and_nothing_out_of_place() {
    assert!(conversations().count() >= 14);
    for entry in conversations() {
        let count = if entry.name == "large-flow" { 1 } else { 4 };
        let spec = Spec { ip: Some(IpVersions::Both), count: Some(count), ..Spec::new(entry.name) };
        let document = seen(&spec);
        let tcp = document.observation.tcp.as_ref().expect("connections");
        let name = entry.name;
        assert_eq!(tcp.handshakes.len() as u64, count, "{name}");
        assert_eq!((tcp.out_of_order, tcp.duplicate_acks, tcp.half_open), (0, 0, 0), "{name}");
        // A full-size segment that is lost again and again is what the one entry is about: 5 retries each.
        let lost = if name == "pmtu-black-hole" { 5 * count } else { 0 };
        assert_eq!(tcp.retransmissions, lost, "{name}");
        assert!(document.observation.malformed.is_empty(), "{name}: {:?}", document.observation.malformed);
        let findings: Vec<&str> = document.capture.findings.iter().map(|finding| finding.kind.as_str()).collect();
        assert!(findings.is_empty(), "{name}: {findings:?}");
        assert_eq!(document.observation.ledger.unaccounted, 0, "{name}");
    }
}

#[test]
fn transactions_are_understood() {
    let spec = |name: &str| Spec { ip: Some(IpVersions::Both), count: Some(6), ..Spec::new(name) };
    let http = seen(&spec("http-transactions"));
    assert_eq!(http.observation.http.len(), 6);
    assert!(http.observation.http.iter().all(|exchange| exchange.status == Some(200)));
    let tls = seen(&spec("tls-hello"));
    assert_eq!(tls.observation.tls.len(), 6);
    for name in ["dns-transactions", "dns-tunnel", "dns-exfiltration", "dns-amplification", "random-subdomain-flood"] {
        let dns = seen(&spec(name));
        assert_eq!(dns.observation.dns.len(), 6, "{name}");
        assert!(dns.observation.dns.iter().all(|exchange| exchange.rcode.is_some()), "{name}");
    }
}

#[test]
fn a_scan_finds_the_ports_that_are_said_to_be_open() {
    let params = [("ports", "1-50"), ("open", "21,22,25"), ("filtered", "50")];
    for name in ["syn-scan", "connect-scan"] {
        let params = params.map(|(name, value)| (name.to_owned(), value.into())).into();
        let tcp = seen(&Spec { params, ..Spec::new(name) }).observation.tcp.expect("connections");
        // 46 refusals, and 3 resets by the scanner.
        assert_eq!((tcp.syn, tcp.syn_ack, tcp.rst, tcp.half_open), (50, 3, 49, 1), "{name}");
        assert_eq!(tcp.handshakes.len(), if name == "connect-scan" { 3 } else { 0 }, "{name}");
    }
}

#[test]
fn a_flood_is_as_many_half_open_connections() {
    let spec = Spec { ip: Some(IpVersions::Both), count: Some(500), ..Spec::new("syn-flood") };
    let observation = seen(&spec).observation;
    let tcp = observation.tcp.expect("connections");
    assert_eq!((tcp.syn, tcp.half_open, observation.flows.len()), (500, 500, 500));
}
