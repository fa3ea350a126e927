//! Recorded conversations against the kernel's own sockets, from both ends. Run as root.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bpflab::capture::{Frame, Frames, Options, Side, Survey, Writer};
use bpflab::live::{Dut, LiveOptions, Script};
use bpflab::object::Clock;
use bpflab::observation::live::{Fate, Live};
use bpflab::run::{self, Plan};
use bpflab::scenario::{Mode, spec::Programs};
use bpflab::synth::{self, IpVersions, Spec};
use bpflab::topology::TopologyChoice;
use bpflab::wire::{EngineChoice, Speed};
use etherparse::{PacketBuilder, TcpHeader};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use rstest::rstest;

fn pcaps(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../pcaps").join(name)
}

fn try_play(capture: &Path, live: LiveOptions) -> Result<Live, run::RunError> {
    let plan = Plan {
        capture: capture.to_owned(),
        options: Options::default(),
        mode: Some(Mode::Live),
        programs: Programs::of(&[]),
        topology: TopologyChoice::default(),
        speed: Speed::Top,
        engine: EngineChoice::Auto,
        clock: Clock::Kernel,
        live,
        artefacts: None,
        record: None,
    };
    let document = run::run(&plan, &AtomicBool::new(false), &mut |_| ())?;
    Ok(document.observation.live.expect("live mode ran"))
}

fn play(capture: &str, dut: Dut, speed: Speed) -> Live {
    try_play(&pcaps(capture), LiveOptions { dut, speed, ..LiveOptions::default() }).expect(capture)
}

const FAST: Speed = Speed::Scaled(10.0);

#[test]
fn every_conversation_ends_as_recorded_from_both_ends() {
    // Numbers of conversations: nmap tried 50 ports, each of the 7 questions has a port of its own, redis-cli connected
    // five times, and of the closed ports two are TCP's and two are UDP's.
    for (capture, flows) in [
        ("http-keepalive.pcap", 1),
        ("http-pipelined.pcap", 1),
        ("http-ipv6.pcap", 1),
        ("postgres.pcap", 1),
        ("redis.pcapng", 5),
        ("ssh.pcap", 1),
        ("tls12.pcap", 1),
        ("tls13.pcap", 1),
        ("rst-by-server.pcap", 1),
        ("closed-port.pcap", 4),
        ("dns-answers.pcap", 7),
        ("dns-tcp-fallback.pcap", 2),
        ("nmap-syn.pcap", 50),
    ] {
        for dut in [Dut::Server, Dut::Client] {
            let live = play(capture, dut, FAST);
            assert_eq!(live.as_recorded, flows, "{capture} {dut:?}: {:?}", live.flows);
            assert_eq!(live.fates.get(&Fate::Failed), None, "{capture} {dut:?}: {:?}", live.flows);
        }
    }
}

#[test]
fn the_kernel_sees_the_recorded_losses_and_nothing_of_the_lab() {
    let live = play("retransmit.pcap", Dut::Server, Speed::Scaled(1.0));
    assert_eq!(live.as_recorded, 1, "{:?}", live.flows);
    let counter = |name: &str| live.counters.get(name).copied().unwrap_or(0);
    // The recorded server sent one segment again at once, and the last one after a time-out. The SYN that came twice
    // is answered twice.
    assert!(counter("TcpRetransSegs") >= 2, "{:?}", live.counters);
    assert!(counter("TcpExtTCPFastRetrans") >= 1, "{:?}", live.counters);
    // The capture has no reset, and closing the lab's sockets makes none that is counted.
    assert_eq!((counter("TcpOutRsts"), counter("TcpExtTCPAbortOnData")), (0, 0), "{:?}", live.counters);
}

#[test]
fn a_window_that_closed_closes_again() {
    let live = play("slow-reader.pcap", Dut::Server, Speed::Scaled(1.0));
    assert_eq!(live.as_recorded, 1, "{:?}", live.flows);
    for name in ["TcpExtTCPToZeroWindowAdv", "TcpExtTCPFromZeroWindowAdv"] {
        assert_eq!(live.counters.get(name), Some(&1), "{name}: closed once, opened once: {:?}", live.counters);
    }
}

#[test]
fn packets_that_were_cut_are_not_played() {
    for dut in [Dut::Server, Dut::Client] {
        let live = play("snaplen.pcap", dut, FAST);
        assert_eq!(live.fates.get(&Fate::Refused), Some(&1), "{:?}", live.flows);
        assert!(live.flows[0].reasons[0].contains("cut by the capture"), "{:?}", live.flows);
    }
}

/// One packet of connection `number`, from its client or its server.
fn segment(number: u32, at_us: u64, from_client: bool, flags: &str, seq: u32, ack: u32, payload: &[u8]) -> Frame {
    // Ports 1024 to 61023 of as many clients as it takes, and two servers' ports.
    let client = ([192, 0, 2, 1 + (number / 60_000) as u8], 1024 + (number % 60_000) as u16);
    let server = ([198, 51, 100, 1], 80 + (number % 2) as u16);
    let (from, to) = if from_client { (client, server) } else { (server, client) };
    let mut header = TcpHeader::new(from.1, to.1, seq, 64_000);
    header.syn = flags.contains('S');
    header.fin = flags.contains('F');
    header.ack = flags.contains('A');
    header.acknowledgment_number = if header.ack { ack } else { 0 };
    let mut data = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4(from.0, to.0, 64)
        .tcp_header(header)
        .write(&mut data, payload)
        .unwrap();
    let side = if from_client { Side::Client } else { Side::Server };
    Frame { number: 0, time_ns: at_us * 1000, wire_len: data.len() as u32, data, side }
}

/// A capture of `count` connections, 10 us apart, each with a request of 100 bytes and an answer of 1000.
fn connections(path: &Path, count: u32) {
    let mut frames = Vec::new();
    for number in 0..count {
        let (client, server) = (number.wrapping_mul(2_654_435_761), number.wrapping_mul(40_503) ^ 0xffff_0000);
        let c = |sent: u32| client.wrapping_add(sent);
        let s = |sent: u32| server.wrapping_add(sent);
        let at = u64::from(number) * 10;
        frames.extend([
            segment(number, at, true, "S", c(0), 0, b""),
            segment(number, at + 100, false, "SA", s(0), c(1), b""),
            segment(number, at + 200, true, "A", c(1), s(1), b""),
            segment(number, at + 300, true, "A", c(1), s(1), &[b'q'; 100]),
            segment(number, at + 400, false, "A", s(1), c(101), &[b'a'; 1000]),
            segment(number, at + 500, true, "AF", c(101), s(1001), b""),
            segment(number, at + 600, false, "AF", s(1001), c(102), b""),
            segment(number, at + 700, true, "A", c(102), s(1002), b""),
        ]);
    }
    frames.sort_by_key(|frame| frame.time_ns);
    let mut writer = Writer::create(path).unwrap();
    for frame in &frames {
        writer.write(frame.time_ns, &frame.data, frame.wire_len).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn many_connections_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("many.pcapng");
    // BPFLAB_CONNECTIONS=10000 is the full size.
    let count = std::env::var("BPFLAB_CONNECTIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    connections(&capture, count);
    let start = std::time::Instant::now();
    let live = try_play(&capture, LiveOptions::default()).unwrap();
    let failed: Vec<_> = live.flows.iter().filter(|flow| flow.fate == Fate::Failed).take(3).collect();
    println!("{count} connections: {} as recorded in {:?}: {:?}", live.as_recorded, start.elapsed(), live.counters);
    // At least 99.9 %.
    assert!(live.as_recorded * 1000 >= u64::from(count) * 999, "{} of {count}: {failed:?}", live.as_recorded);
    assert!(live.counters["TcpPassiveOpens"] >= live.as_recorded, "the kernel counts them, too");
}

fn frames_of(capture: &Path) -> Vec<Frame> {
    let options = Options::default();
    let survey = Survey::of(capture, &options).unwrap();
    Frames::open(capture, &options, &survey).unwrap().map(Result::unwrap).collect()
}

#[test]
fn damaged_captures_are_read_without_harm() {
    let mut random = SmallRng::seed_from_u64(5);
    let sound = frames_of(&pcaps("retransmit.pcap"));
    for _ in 0..2000 {
        let mut frames = sound.clone();
        for _ in 0..random.random_range(1..20) {
            let index = random.random_range(0..frames.len());
            let data = &mut frames[index].data;
            let at = random.random_range(0..data.len());
            match random.random_range(0..3) {
                0 => data[at] = random.random(),
                1 => data.truncate(at.max(1)),
                _ => frames.swap(index, (index * 7 + 1) % sound.len()),
            }
        }
        for dut in [Dut::Server, Dut::Client] {
            _ = Script::new(&frames, dut);
        }
    }
}

/// Transactions of the catalogue, all begun within 40 ms.
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
fn both_ends_and_both_versions_of_ip(
    #[values(Dut::Server, Dut::Client)] dut: Dut,
    #[values(IpVersions::V4, IpVersions::V6)] ip: IpVersions,
) {
    const COUNT: u64 = 200;
    let folder = tempfile::tempdir().unwrap();
    let live =
        try_play(&transactions(folder.path(), ip, COUNT), LiveOptions { dut, ..LiveOptions::default() }).unwrap();
    let other: Vec<_> = live.flows.iter().filter(|flow| flow.fate != Fate::Replayed).collect();
    assert_eq!((live.flows.len() as u64, live.as_recorded), (COUNT, COUNT), "{other:#?}");
    let opens = if dut == Dut::Server { "TcpPassiveOpens" } else { "TcpActiveOpens" };
    assert_eq!(live.counters.get(opens), Some(&COUNT), "{:?}", live.counters);
}

#[test]
fn what_no_network_carries_is_refused() {
    let live = play("loopback.pcap", Dut::Server, FAST);
    assert_eq!(live.flows[0].reasons, ["both its ends are 127.0.0.1"]);
    let error = try_play(&pcaps("ping-fragments.pcap"), LiveOptions::default()).unwrap_err().to_string();
    assert!(error.contains("none of them is part of a TCP or UDP conversation"), "{error}");
}

#[test]
fn a_damaged_capture_that_is_played_comes_to_its_end() {
    let bytes = std::fs::read(pcaps("http-keepalive.pcap")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.pcap");
    let mut random = SmallRng::seed_from_u64(7);
    for round in 0..12 {
        let mut damaged = bytes.clone();
        for _ in 0..6 {
            // Behind the file's header and the first record's.
            let at = random.random_range(40..damaged.len());
            damaged[at] ^= 1 << random.random_range(0..8);
        }
        std::fs::write(&path, damaged).unwrap();
        let dut = if round % 2 == 0 { Dut::Server } else { Dut::Client };
        // Whatever comes of it.
        _ = try_play(&path, LiveOptions { dut, speed: Speed::Top, deadline_s: 0.05 });
    }
}
