//! Recorded conversations against the kernel's own sockets: the captures of the repository, played both ways.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bpflab::capture::{self, Writer};
use bpflab::live::{Dut, LiveOptions};
use bpflab::object::Clock;
use bpflab::observation::live::{Fate, Live};
use bpflab::report::Document;
use bpflab::run::{self, Plan};
use bpflab::scenario::Mode;
use bpflab::scenario::spec::Programs;
use bpflab::synth::{self, IpVersions, Spec};
use bpflab::topology::TopologyChoice;
use bpflab::wire::{EngineChoice, Speed};
use rstest::rstest;

fn pcap(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../pcaps").join(name)
}

fn try_play(capture: &Path, dut: Dut, speed: Speed) -> Result<Document, run::RunError> {
    let plan = Plan {
        capture: capture.to_owned(),
        options: capture::Options::default(),
        mode: Some(Mode::Live),
        programs: Programs::of(&[]),
        topology: TopologyChoice::default(),
        speed: Speed::Top,
        engine: EngineChoice::Auto,
        clock: Clock::Kernel,
        live: LiveOptions { dut, speed, ..LiveOptions::default() },
        artefacts: None,
    };
    run::run(&plan, &AtomicBool::new(false), &mut |_| ())
}

fn play(capture: &Path, dut: Dut, speed: Speed) -> Live {
    try_play(capture, dut, speed).unwrap().observation.live.unwrap()
}

#[rstest]
fn every_conversation_ends_as_recorded_with_all_its_bytes(
    #[values(
        ("closed-port.pcap", 4),
        ("dns-answers.pcap", 7),
        ("dns-tcp-fallback.pcap", 2),
        ("http-ipv6.pcap", 1),
        ("http-keepalive.pcap", 1),
        ("http-pipelined.pcap", 1),
        ("linktype-raw.pcap", 2),
        ("nmap-syn.pcap", 50),
        ("postgres.pcap", 1),
        ("qinq.pcap", 1),
        ("redis.pcapng", 5),
        ("rst-by-server.pcap", 1),
        ("ssh.pcap", 1),
        ("tls13.pcap", 1)
    )]
    (name, flows): (&str, u64),
    #[values(Dut::Server, Dut::Client)] dut: Dut,
) {
    let live = play(&pcap(name), dut, Speed::Scaled(10.0));
    assert_eq!((live.flows.len() as u64, live.as_recorded), (flows, flows), "{:#?}", live.flows);
    for flow in &live.flows {
        assert!(matches!(flow.fate, Fate::Replayed | Fate::Adapted), "{flow:#?}");
    }
}

#[test]
fn lost_segments_are_sent_again_by_the_kernel() {
    let live = play(&pcap("retransmit.pcap"), Dut::Server, Speed::Scaled(1.0));
    assert_eq!(live.as_recorded, 1, "{:#?}", live.flows);
    // The capture's server had to send two segments again; the kernel's congestion control is its own.
    assert!(live.counters.get("TcpRetransSegs").is_some_and(|count| *count >= 1), "{:?}", live.counters);
    // The client's duplicate acknowledgements say with SACK what came: it is believed only if the numbers are right.
    assert!(!live.counters.contains_key("TcpExtTCPSACKDiscard"), "{:?}", live.counters);
    assert_eq!((live.flows[0].socket_bytes.a_to_b, live.flows[0].socket_bytes.b_to_a), (89, 30_242));
}

#[test]
fn a_window_closes_in_the_kernel_where_the_recorded_one_did() {
    let live = play(&pcap("slow-reader.pcap"), Dut::Server, Speed::Scaled(1.0));
    assert_eq!(live.as_recorded, 1, "{:#?}", live.flows);
    assert_eq!(live.flows[0].socket_bytes.a_to_b, 20_000);
    assert!(live.counters.get("TcpExtTCPToZeroWindowAdv").is_some_and(|count| *count >= 1), "{:?}", live.counters);
}

#[test]
fn what_cannot_be_played_is_refused_and_says_why() {
    let refused = |name: &str| {
        let live = play(&pcap(name), Dut::Server, Speed::Top);
        assert_eq!(live.fates, [(Fate::Refused, 1)].into(), "{:#?}", live.flows);
        live.flows[0].reasons.join("; ")
    };
    assert_eq!(refused("loopback.pcap"), "both its ends are 127.0.0.1");
    assert!(refused("snaplen.pcap").ends_with("is cut by the capture"));
    let error = try_play(&pcap("ping-fragments.pcap"), Dut::Server, Speed::Top).unwrap_err().to_string();
    assert!(error.contains("none of them is part of a TCP or UDP conversation"), "{error}");
}

/// Transactions of the catalogue, all within about 40 ms.
fn transactions(folder: &Path, ip: IpVersions, count: u64) -> PathBuf {
    let path = folder.join("transactions.pcapng");
    let spec = Spec { count: Some(count), rate: Some(10_000.0), ip: Some(ip), ..Spec::new("http-transactions") };
    let mut writer = Writer::create(&path).unwrap();
    for frame in synth::frames(&spec).unwrap() {
        writer.write(frame.time_ns, &frame.data, frame.wire_len).unwrap();
    }
    writer.finish().unwrap();
    path
}

#[rstest]
fn many_connections_at_once(
    #[values(Dut::Server, Dut::Client)] dut: Dut,
    #[values(IpVersions::V4, IpVersions::V6)] ip: IpVersions,
) {
    const COUNT: u64 = 400;
    let folder = tempfile::tempdir().unwrap();
    let live = play(&transactions(folder.path(), ip, COUNT), dut, Speed::Scaled(1.0));
    let other: Vec<_> = live.flows.iter().filter(|flow| flow.fate != Fate::Replayed).collect();
    assert_eq!((live.flows.len() as u64, live.as_recorded), (COUNT, COUNT), "{other:#?}");
    let opens = if dut == Dut::Server { "TcpPassiveOpens" } else { "TcpActiveOpens" };
    assert_eq!(live.counters.get(opens), Some(&COUNT), "{:?}", live.counters);
}

#[test]
fn damaged_captures_end() {
    let bytes = std::fs::read(pcap("http-keepalive.pcap")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.pcap");
    for round in 0..12_usize {
        let mut damaged = bytes.clone();
        for step in 0..6 {
            // Past the file's header and the first record's.
            let at = 40 + (round * 6 + step) * 131 % (damaged.len() - 40);
            damaged[at] ^= 1 << (step % 8);
        }
        std::fs::write(&path, damaged).unwrap();
        let plan = LiveOptions { deadline_s: 0.05, speed: Speed::Top, ..LiveOptions::default() };
        assert_eq!(plan.validate(), Ok(()));
        // Whatever comes of it, it comes to an end.
        _ = try_play(&path, if round % 2 == 0 { Dut::Server } else { Dut::Client }, Speed::Top);
    }
}
