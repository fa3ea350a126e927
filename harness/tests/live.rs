//! Recorded conversations against the kernel's own sockets, from both ends. Run as root.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bpflab::capture::{Frame, Frames, Options, Side, Survey, Writer};
use bpflab::live::{Dut, LiveOptions, Script};
use bpflab::object::Clock;
use bpflab::observation::live::{Fate, Live, LiveFlow};
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
        apps: Vec::new(),
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
    // The recorded server sent one segment again at once, and the last one after a time-out of 206 ms. The kernel may send
    // more than a segment at once, and again, and whether its timer is over before the recorded acknowledgement comes,
    // depends on who has the CPU.
    assert!(counter("TcpRetransSegs") >= 1, "{:?}", live.counters);
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
fn closed_ports_refuse_datagrams_as_well() {
    // One datagram to a closed port, and its ICMP error, by each version of IP.
    for (dut, counters) in [
        (Dut::Server, ["UdpNoPorts", "Udp6NoPorts", "IcmpOutDestUnreachs", "Icmp6OutDestUnreachs"].as_slice()),
        (Dut::Client, &["IcmpInDestUnreachs", "Icmp6InDestUnreachs"]),
    ] {
        let live = play("closed-port.pcap", dut, FAST);
        assert_eq!(live.fates, [(Fate::Replayed, 4)].into(), "{dut:?}: {:?}", live.flows);
        assert!(live.flows.iter().all(|flow| flow.live_end == "refused"), "{dut:?}: {:?}", live.flows);
        for name in counters {
            assert_eq!(live.counters.get(*name), Some(&1), "{dut:?}, {name}: {:?}", live.counters);
        }
    }
}

#[rstest]
fn nobody_but_the_played_end_answers(#[values(Dut::Server, Dut::Client)] dut: Dut) {
    let live = play("http-ipv6.pcap", dut, FAST);
    assert_eq!(live.counters.get("Icmp6InDestUnreachs"), None, "the capture has none: {:?}", live.counters);
}

#[rstest]
fn what_the_kernel_says_to_whom_the_recorded_server_said_nothing_is_told(#[values(Dut::Server, Dut::Client)] dut: Dut) {
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("silent.pcapng");
    let mut writer = Writer::create(&capture).unwrap();
    // Even numbers ask for port 80, which never answers, odd ones for port 81, which does once.
    for frame in [
        segment(0, 0, true, "S", 100, 0, b""),
        segment(1, 10, true, "S", 200, 0, b""),
        segment(1, 20, false, "SA", 9000, 201, b""),
        segment(3, 30, true, "S", 300, 0, b""),
        segment(0, 1000, true, "S", 100, 0, b""),
    ] {
        writer.write(frame.time_ns, &frame.data, frame.wire_len).unwrap();
    }
    writer.finish().unwrap();
    let live = try_play(&capture, LiveOptions { dut, ..LiveOptions::default() }).unwrap();
    let told = |flow: &LiveFlow| (flow.recorded_end.clone(), flow.live_end.clone(), flow.fate);
    let told: Vec<_> = live.flows.iter().map(told).collect();
    let expected = match dut {
        Dut::Server => [
            ("unanswered", "refused", Fate::Adapted),
            ("half-open", "half-open", Fate::Replayed),
            ("unanswered", "half-open", Fate::Adapted),
        ],
        Dut::Client => [
            ("unanswered", "unanswered", Fate::Replayed),
            ("half-open", "half-open", Fate::Replayed),
            ("unanswered", "unanswered", Fate::Replayed),
        ],
    };
    assert_eq!(told, expected.map(|(recorded, live, fate)| (recorded.to_owned(), live.to_owned(), fate)), "{live:?}");
    if dut == Dut::Server {
        assert_eq!(live.flows[0].reasons, ["the kernel answers, the recorded server did not"]);
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
        _ = try_play(&path, LiveOptions { dut, speed: Speed::Top, deadline_s: 0.05, ..LiveOptions::default() });
    }
}

/// A conversation of one client and one server, put together by hand.
struct Talk {
    frames: Vec<Frame>,
    at_us: u64,
}

/// First sequence numbers of the client and of the server.
const ISN: [u32; 2] = [1000, 90_000];

impl Talk {
    fn new() -> Self {
        Self { frames: Vec::new(), at_us: 0 }
    }

    /// The next segment, 200 us after the one before: from the client or not, its flags, what it and the other end have
    /// sent before (SYNs are not counted), payload.
    fn say(&mut self, from_client: bool, flags: &str, sent: u32, acked: u32, payload: &[u8]) -> &mut Vec<u8> {
        let [own, other] = if from_client { ISN } else { [ISN[1], ISN[0]] };
        let seq = own + sent + u32::from(!flags.contains('S'));
        self.at_us += 200;
        let frame = segment(0, self.at_us, from_client, flags, seq, other + 1 + acked, payload);
        self.frames.push(frame);
        let data = &mut self.frames.last_mut().unwrap().data;
        let tcp = 14 + 20;
        data[tcp + 13] |= if flags.contains('E') { 0x40 } else { 0 } | if flags.contains('C') { 0x80 } else { 0 };
        data
    }

    fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("talk.pcapng");
        let mut writer = Writer::create(&path).unwrap();
        for frame in &self.frames {
            writer.write(frame.time_ns, &frame.data, frame.data.len() as u32).unwrap();
        }
        writer.finish().unwrap();
        path
    }

    fn play(&self, dut: Dut) -> Live {
        let folder = tempfile::tempdir().unwrap();
        try_play(&self.write(folder.path()), LiveOptions { dut, ..LiveOptions::default() }).unwrap()
    }

    /// Both ends finish, the client first.
    fn end(&mut self, client: u32, server: u32) {
        self.say(true, "FA", client, server, b"");
        self.say(false, "FA", server, client + 1, b"");
        self.say(true, "A", client + 1, server + 1, b"");
    }
}

#[track_caller]
fn replayed(live: &Live) {
    assert_eq!((live.as_recorded, live.flows[0].fate), (1, Fate::Replayed), "{:?}", live.flows);
}

#[rstest]
fn urgent_bytes_arrive_in_their_places(#[values(Dut::Server, Dut::Client)] dut: Dut) {
    let mut talk = Talk::new();
    talk.say(true, "S", 0, 0, b"");
    talk.say(false, "SA", 0, 0, b"");
    talk.say(true, "A", 0, 0, b"");
    // Telnet's interrupt: the last byte is urgent, the pointer is behind it.
    let tcp = 14 + 20;
    let urgent = |data: &mut Vec<u8>, end: u16| {
        data[tcp + 13] |= 0x20;
        data[tcp + 18..tcp + 20].copy_from_slice(&end.to_be_bytes());
    };
    urgent(talk.say(true, "A", 0, 0, b"stop\xff"), 5);
    urgent(talk.say(false, "A", 0, 5, b"!and more"), 1);
    talk.end(5, 9);
    replayed(&talk.play(dut));
}

#[rstest]
fn congestion_is_told_by_marks_and_answered(#[values(Dut::Server, Dut::Client)] dut: Dut) {
    let mut talk = Talk::new();
    talk.say(true, "SEC", 0, 0, b"");
    talk.say(false, "SAE", 0, 0, b"");
    talk.say(true, "A", 0, 0, b"");
    // Congestion experienced (RFC 3168 section 5): the two lowest bits of the second byte of the header.
    let mark = |data: &mut Vec<u8>| data[15] |= 3;
    mark(talk.say(true, "A", 0, 0, b"question"));
    mark(talk.say(false, "AE", 0, 8, b"answer"));
    talk.say(true, "AEC", 8, 6, b"");
    talk.say(false, "AC", 6, 8, b"more");
    talk.say(true, "A", 8, 10, b"");
    talk.end(8, 10);
    let live = talk.play(dut);
    replayed(&live);
    // One marked packet came in; what the live end had sent was marked, says the other one.
    let counter = |name: &str| live.counters.get(name).copied().unwrap_or(0);
    assert_eq!(counter("IpExtInCEPkts"), 1, "{:?}", live.counters);
    assert!(counter("TcpExtTCPDeliveredCE") >= 1, "{:?}", live.counters);
}

#[rstest]
fn data_in_the_handshake_is_taken_there(#[values(Dut::Server, Dut::Client)] dut: Dut) {
    let mut talk = Talk::new();
    talk.say(true, "S", 0, 0, b"early");
    talk.say(false, "SA", 0, 5, b"");
    talk.say(false, "A", 0, 5, b"answer");
    talk.say(true, "A", 5, 6, b"");
    talk.end(5, 6);
    let live = talk.play(dut);
    replayed(&live);
    let name = if dut == Dut::Server { "TcpExtTCPFastOpenPassive" } else { "TcpExtTCPFastOpenActive" };
    assert_eq!(live.counters.get(name), Some(&1), "{:?}", live.counters);
}

#[test]
fn what_the_recorded_client_never_had_the_kernels_client_misses_too() {
    let live = play("retransmit.pcap", Dut::Client, Speed::Scaled(1.0));
    assert_eq!(live.as_recorded, 1, "{:?}", live.flows);
    // Fourteen segments came behind the one that was lost, and waited for it. Nothing came twice.
    assert_eq!(live.counters.get("TcpExtTCPOFOQueue"), Some(&14), "{:?}", live.counters);
    assert_eq!(live.counters.get("TcpExtTCPDSACKOldSent"), None, "{:?}", live.counters);
    assert!(live.flows[0].reasons[0].starts_with("2 of the server's packets left out"), "{:?}", live.flows);
}

/// Two requests with their answers, and an end that the client begins.
fn two_requests() -> Talk {
    let mut talk = Talk::new();
    talk.say(true, "S", 0, 0, b"");
    talk.say(false, "SA", 0, 0, b"");
    talk.say(true, "A", 0, 0, b"");
    talk.say(true, "A", 0, 0, b"query");
    talk.say(false, "A", 0, 5, b"answer");
    talk.say(true, "A", 5, 6, b"");
    talk.say(true, "A", 5, 6, b"query");
    talk.say(false, "A", 6, 10, b"answer");
    talk.say(true, "A", 10, 12, b"");
    talk.end(10, 12);
    talk
}

/// Plays the two requests against an application that does this with its connection.
fn against(application: impl FnOnce(TcpStream) + Send + 'static) -> Live {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = std::thread::spawn(move || application(listener.accept().unwrap().0));
    let live = forwarded(&two_requests(), &format!("80=127.0.0.1:{port}"));
    served.join().unwrap();
    live
}

fn forwarded(talk: &Talk, to: &str) -> Live {
    let folder = tempfile::tempdir().unwrap();
    let options = LiveOptions { deadline_s: 1.0, forward: vec![to.parse().unwrap()], ..LiveOptions::default() };
    try_play(&talk.write(folder.path()), options).unwrap()
}

/// Answers each request with the next of these, and closes when the client does.
fn answering(answers: [&'static str; 2]) -> impl FnOnce(TcpStream) + Send {
    move |mut stream| {
        let mut request = [0; 5];
        for answer in answers {
            stream.read_exact(&mut request).unwrap();
            assert_eq!(&request, b"query");
            stream.write_all(answer.as_bytes()).unwrap();
        }
        assert_eq!(stream.read(&mut request).unwrap(), 0);
    }
}

#[test]
fn an_application_that_answers_as_recorded_makes_no_difference() {
    let live = against(answering(["answer", "answer"]));
    replayed(&live);
    let to = live.flows[0].forwarded_to.as_deref().unwrap();
    assert!(to.starts_with("80=127.0.0.1:"), "{to}");
    assert_eq!(live.counters.get("TcpPassiveOpens"), Some(&1), "the kernel's socket is the recorded server's");
}

#[rstest]
#[case::other(["ANSWER", "answer"], 12, &["its answer differs from byte 1 on"])]
#[case::longer(["answer, which is longer", "answer"], 29, &["answered 29 instead of 12 bytes", "from byte 7 on"])]
#[case::shorter(["no", "no"], 4, &["answered 4 instead of 12 bytes", "from byte 1 on"])]
fn an_application_that_answers_otherwise_is_gone_along_with(
    #[case] answers: [&'static str; 2],
    #[case] bytes: u64,
    #[case] reasons: &[&str],
) {
    let live = against(answering(answers));
    let flow = &live.flows[0];
    // Both requests came, one after the other, and both ends finished.
    assert_eq!((flow.fate, &flow.live_end[..]), (Fate::Adapted, "closed"), "{flow:?}");
    assert_eq!((flow.socket_bytes.a_to_b, flow.socket_bytes.b_to_a), (10, bytes), "{flow:?}");
    for reason in reasons {
        assert!(flow.reasons.iter().any(|told| told.contains(reason)), "{reason}: {flow:?}");
    }
}

#[test]
fn an_application_that_breaks_off_is_told() {
    let live = against(|mut stream| {
        let mut request = [0; 5];
        stream.read_exact(&mut request).unwrap();
        // What is not read makes closing a reset.
        let rest = stream.peek(&mut request);
        drop((rest, stream));
    });
    let flow = &live.flows[0];
    assert_eq!(flow.fate, Fate::Adapted, "{flow:?}");
    assert!(flow.reasons.iter().any(|told| told.contains("answered 0 instead of 12 bytes")), "{flow:?}");
}

#[test]
fn an_application_that_never_stops_is_left() {
    let live = against(|mut stream| {
        let flood = [b'x'; 64 << 10];
        while stream.write_all(&flood).is_ok() {}
    });
    let flow = &live.flows[0];
    assert_eq!(flow.fate, Fate::Adapted, "{flow:?}");
    assert_eq!(flow.socket_bytes.a_to_b, 10, "both requests were asked all the same: {flow:?}");
}

#[test]
fn an_application_that_is_not_there_is_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let live = forwarded(&two_requests(), &format!("127.0.0.1:{port}"));
    let flow = &live.flows[0];
    assert_eq!(flow.fate, Fate::Failed, "{flow:?}");
    assert!(flow.reasons[0].starts_with("its application cannot be reached: Connection refused"), "{flow:?}");
    let folder = tempfile::tempdir().unwrap();
    let options = LiveOptions { forward: vec!["nobody.invalid:80".parse().unwrap()], ..LiveOptions::default() };
    let error = try_play(&two_requests().write(folder.path()), options).unwrap_err().to_string();
    assert!(error.contains("nobody.invalid is neither a host of topology host nor a name that is known"), "{error}");
}

#[test]
fn datagrams_are_handed_on_too() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    // Seven questions of the capture, each from a port of its own; the answer is the question.
    let served = std::thread::spawn(move || {
        let mut room = [0; 512];
        for _ in 0..7 {
            let (len, from) = socket.recv_from(&mut room).unwrap();
            socket.send_to(&room[..len], from).unwrap();
        }
    });
    let options = LiveOptions { forward: vec![format!("127.0.0.1:{port}").parse().unwrap()], ..LiveOptions::default() };
    let live = try_play(&pcaps("dns-answers.pcap"), options).unwrap();
    served.join().unwrap();
    assert_eq!(live.fates, [(Fate::Adapted, 7)].into(), "{:?}", live.flows);
    for flow in &live.flows {
        assert_eq!(flow.socket_bytes.a_to_b, flow.socket_bytes.b_to_a, "{flow:?}");
        assert_eq!(flow.reasons.iter().filter(|told| told.contains("nothing happened")).count(), 0, "{flow:?}");
    }
}
