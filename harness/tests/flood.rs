//! The highest rate: both engines, both sides, frames of every length, captures and made traffic larger than memory, and what
//! is said when frames do not arrive. Run as root.

use std::convert::Infallible;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bpflab::capture::{Frame, Side};
use bpflab::hook::{Hook, HookKind};
use bpflab::object::{LoadOptions, Object, suite};
use bpflab::synth::{Hosts, IpVersions, Spec};
use bpflab::topology::{Network, Topology, presets};
use bpflab::wire::{
    self, Attachments, BareLink, BareOptions, Engine, EngineChoice, FloodOptions, FloodOutcome, Given, OfSynth, Repeat,
    Size, Source, SourceError, WireError, WireOptions,
};

/// A frame of an ethertype that nobody has, `len` bytes long, that says its number.
fn plain(number: u64, len: usize, side: Side) -> Frame {
    let mut data = vec![0; len];
    data[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    data[12..14].copy_from_slice(&[0x88, 0xb5]);
    for (byte, value) in data.iter_mut().skip(14).zip(number.to_be_bytes().iter().cycle()) {
        *byte = *value;
    }
    Frame { number, time_ns: number, wire_len: u32::try_from(len).unwrap(), data, side }
}

/// Every third frame, from 0 on, is the server's.
fn side(number: u64) -> Side {
    if number.is_multiple_of(3) { Side::Server } else { Side::Client }
}

fn try_flood(topology: &Topology, frames: &[Frame], options: &FloodOptions) -> Result<FloodOutcome, WireError> {
    flood_from(topology, &mut Given::new(frames), options)
}

fn flood_from(topology: &Topology, source: &mut dyn Source, options: &FloodOptions) -> Result<FloodOutcome, WireError> {
    let network = Network::build(topology).unwrap();
    let attachments = Attachments::new(&network).unwrap();
    let stop = AtomicBool::new(false);
    let outcome = wire::flood(&network, &attachments, source, options, &stop, &mut |_| Ok(()));
    drop(attachments);
    network.close().unwrap();
    outcome
}

/// Whether this kernel has live frames: by what the lab chooses.
fn has_live_frames() -> bool {
    bpflab::kernel::probe::unmet(&["xdp-live-frames".parse().unwrap()]).is_empty()
}

const LIVE: FloodOptions = FloodOptions {
    engine: EngineChoice::Auto,
    repeat: Repeat::Times(1),
    deadline: Duration::from_secs(5),
    most_bytes: 256 << 20,
};

#[test]
fn every_frame_of_both_sides_arrives_at_the_other_end() {
    let frames: Vec<Frame> =
        (0..10_000).map(|number| plain(number, 60 + (number as usize * 7) % 1455, side(number))).collect();
    for repeat in [1, 7] {
        let options = FloodOptions { repeat: Repeat::Times(repeat), ..LIVE };
        let outcome = try_flood(&presets::bridge(), &frames, &options).unwrap();
        let [client, server] = outcome.sides;
        // Every third frame from 0 on is the server's: 3334 of 10 000.
        assert_eq!((client.sent, server.sent), (6_666 * repeat, 3_334 * repeat));
        assert_eq!((client.taken_in, server.taken_in), (client.sent, server.sent));
        assert_eq!((client.arrived, server.arrived), (server.sent, client.sent));
        assert_eq!((client.arrived_bytes, server.arrived_bytes), (server.sent_bytes, client.sent_bytes));
        assert_eq!(outcome.engine.engine == Engine::LiveFrames, has_live_frames(), "{}", outcome.engine);
    }
}

#[test]
fn a_capture_larger_than_memory_is_streamed() {
    // 20 000 frames of 760 bytes on average are 15 MB, in memory of 4 MiB.
    let frames: Vec<Frame> =
        (0..20_000).map(|number| plain(number, 60 + (number as usize * 13) % 1401, side(number))).collect();
    let options = FloodOptions { repeat: Repeat::Times(3), most_bytes: 4 << 20, ..LIVE };
    let outcome = try_flood(&presets::bridge(), &frames, &options).unwrap();
    assert_eq!(outcome.streamed, has_live_frames());
    assert_eq!((outcome.sent(), outcome.lost()), (60_000, 0), "{outcome:?}");
    let [client, server] = outcome.sides;
    assert_eq!((client.arrived, server.arrived), (server.sent, client.sent));
    assert_eq!((client.arrived_bytes, server.arrived_bytes), (server.sent_bytes, client.sent_bytes));
}

#[test]
fn conversations_that_are_made_while_they_are_sent_arrive_to_the_last_frame() {
    let spec = Spec { ip: Some(IpVersions::Both), count: Some(7_000), ..Spec::new("http-transactions") };
    // By side: frames and bytes.
    let mut made = [(0_u64, 0_u64); 2];
    for frame in spec.frames().unwrap() {
        let (frames, bytes) = &mut made[usize::from(frame.side == Side::Server)];
        (*frames, *bytes) = (*frames + 1, *bytes + frame.data.len() as u64);
    }
    // Some 16 MB, in memory of 4 MiB.
    assert!(made[0].1 + made[1].1 > 10 << 20, "{made:?}");
    let mut source = OfSynth::new(&[spec], &Hosts::from(&presets::bridge())).unwrap();
    let options = FloodOptions { repeat: Repeat::Times(2), most_bytes: 4 << 20, ..LIVE };
    let outcome = flood_from(&presets::bridge(), &mut source, &options).unwrap();
    assert_eq!((outcome.streamed, outcome.lost()), (has_live_frames(), 0), "{outcome:?}");
    let [client, server] = outcome.sides;
    for (side, (frames, bytes)) in [client, server].into_iter().zip(made) {
        assert_eq!((side.sent, side.sent_bytes, side.taken_in), (2 * frames, 2 * bytes, 2 * frames), "{outcome:?}");
    }
    assert_eq!((client.arrived, client.arrived_bytes), (server.sent, server.sent_bytes));
    assert_eq!((server.arrived, server.arrived_bytes), (client.sent, client.sent_bytes));
    assert_eq!(source.given().frames, made[0].0 + made[1].0);
}

/// A source whose frames say their number, in the last bytes of their source address: on the way to a counter nothing reads
/// those.
struct Numbered {
    source: OfSynth,
    next: u32,
}

/// Where the number stands.
const NUMBER_AT: usize = 8;

impl Source for Numbered {
    fn size(&self) -> Size {
        self.source.size()
    }

    fn next_into(&mut self, frame: &mut Frame) -> Result<bool, SourceError> {
        let is_one = self.source.next_into(frame)?;
        if is_one {
            frame.data[NUMBER_AT..NUMBER_AT + 4].copy_from_slice(&self.next.to_be_bytes());
            self.next += 1;
        }
        Ok(is_one)
    }

    fn rewind(&mut self) -> Result<(), SourceError> {
        self.next = 0;
        self.source.rewind()
    }
}

#[test]
fn traffic_that_is_made_while_it_is_sent_arrives_in_order() {
    if !has_live_frames() {
        return;
    }
    const FRAMES: u32 = 150_000;
    let spec = Spec { count: Some(FRAMES.into()), ..Spec::new("many-flows") };
    let mut source = Numbered { source: OfSynth::new(&[spec], &Hosts::default()).unwrap(), next: 0 };
    let network = Network::build(&presets::bridge()).unwrap();
    // 9 MB, in memory of 2 MiB.
    let room = Size { frames: 40_000, bytes: 2 << 20, longest: 60 };
    let sequence = Some((NUMBER_AT as u32, FRAMES.into()));
    let mut link = BareLink::new(&network, BareOptions { room, sequence, times: 0 }).unwrap();
    for round in 1..4 {
        let (sent, _) = link.stream(&mut source).unwrap();
        assert_eq!(sent, u64::from(FRAMES));
        assert_eq!((link.arrived(), link.disordered()), (round * sent, 0));
        source.rewind().unwrap();
    }
    drop(link);
    network.close().unwrap();
}

#[test]
fn a_flood_for_a_time_ends_by_itself() {
    let frames: Vec<Frame> = (0..10).map(|number| plain(number, 64, Side::Client)).collect();
    let options = FloodOptions { repeat: Repeat::For(Duration::from_millis(200)), ..LIVE };
    let outcome = try_flood(&presets::bridge(), &frames, &options).unwrap();
    assert!(outcome.elapsed >= Duration::from_millis(200) && outcome.sent() > 1_000, "{outcome:?}");
    assert_eq!((outcome.lost(), outcome.interrupted), (0, false));
}

#[test]
fn nothing_to_send_is_no_failure() {
    for engine in [EngineChoice::Auto, EngineChoice::Sendmmsg] {
        for repeat in [Repeat::Times(3), Repeat::For(Duration::from_secs(3600))] {
            let options = FloodOptions { engine, repeat, ..LIVE };
            assert_eq!(try_flood(&presets::bridge(), &[], &options).unwrap().sent(), 0);
            let none = Spec { count: Some(0), ..Spec::new("syn-flood") };
            let mut source = OfSynth::new(&[none], &Hosts::default()).unwrap();
            assert_eq!(flood_from(&presets::bridge(), &mut source, &options).unwrap().sent(), 0);
        }
    }
}

#[test]
fn frames_of_a_side_that_is_not_there_are_withheld() {
    let frames: Vec<Frame> = (0..30).map(|number| plain(number, 64, side(number))).collect();
    let outcome =
        try_flood(&presets::named("host").unwrap(), &frames, &FloodOptions { repeat: Repeat::Times(5), ..LIVE });
    let outcome = outcome.unwrap();
    // 10 of 30 are the server's; the other 20 are sent five times.
    assert_eq!((outcome.withheld, outcome.sent(), outcome.lost()), (10, 100, 0));
}

#[test]
fn a_frame_that_no_live_frame_holds_makes_packet_sockets_send() {
    // Native XDP takes packets of up to 3506 bytes, in frames of 3520; live frames hold about a hundred less.
    let topology = presets::bridge().with_mtu(3_506);
    let frames: Vec<Frame> = (0..100).map(|number| plain(number, 3_520, Side::Client)).collect();
    let outcome = try_flood(&topology, &frames, &LIVE).unwrap();
    assert_eq!(outcome.engine.engine, Engine::Sendmmsg);
    assert_eq!((outcome.sent(), outcome.lost()), (100, 0));
    if !has_live_frames() {
        return;
    }
    assert!(outcome.engine.why.starts_with("a frame of 3520 bytes is over the "), "{}", outcome.engine);
    let error = try_flood(&topology, &frames, &FloodOptions { engine: EngineChoice::LiveFrames, ..LIVE });
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("cannot send by live frames: a frame of 3520 bytes is over the "), "{error}");
}

#[test]
fn lengths_at_the_edges() {
    // The shortest, the shortest on a wire, odd ones, and the longest of this MTU.
    let lengths = [14, 15, 17, 59, 60, 61, 255, 256, 257, 1_513, 1_514];
    let frames: Vec<Frame> =
        (0..1_100).map(|number| plain(number, lengths[number as usize % lengths.len()], Side::Client)).collect();
    for engine in [EngineChoice::Auto, EngineChoice::Sendmmsg] {
        let outcome = try_flood(&presets::bridge(), &frames, &FloodOptions { engine, ..LIVE }).unwrap();
        let bytes: u64 = frames.iter().map(|frame| frame.data.len() as u64).sum();
        assert_eq!((outcome.sides[0].sent_bytes, outcome.sides[0].taken_in), (bytes, 1_100), "{outcome:?}");
        // A bridge does not forward what has no more than an Ethernet header.
        assert!(outcome.sides[1].arrived >= 1_000, "{outcome:?}");
    }
    let error = try_flood(&presets::bridge(), &[plain(7, 1_515, Side::Client)], &LIVE).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot send packet 7 (1515 bytes) on interface eth0, which takes frames of 14 to 1514 bytes"
    );
    let mut short = plain(7, 14, Side::Client);
    short.data.truncate(13);
    let error = try_flood(&presets::bridge(), &[short], &LIVE).unwrap_err();
    assert!(error.to_string().starts_with("cannot send packet 7 (13 bytes)"), "{error}");
}

#[test]
fn frames_that_vanish_are_an_error_that_says_why() {
    let network = Network::build(&presets::bridge()).unwrap();
    // The device under test takes less than the client sends.
    let dut = network.host(presets::DUT).unwrap();
    dut.run(|| std::process::Command::new("ip").args(["link", "set", "eth0", "mtu", "576"]).status().unwrap());
    let attachments = Attachments::new(&network).unwrap();
    let frames: Vec<Frame> = (0..100).map(|number| plain(number, 1_000, Side::Client)).collect();
    for engine in [EngineChoice::Auto, EngineChoice::Sendmmsg] {
        let options = FloodOptions { engine, deadline: Duration::from_millis(100), ..LIVE };
        let stop = AtomicBool::new(false);
        let result = wire::flood(&network, &attachments, &mut Given::new(&frames), &options, &stop, &mut |_| Ok(()));
        let error = result.unwrap_err();
        assert!(matches!(error, WireError::Vanished { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("none arrived") && text.contains("576"), "{text}");
    }
    drop(attachments);
    network.close().unwrap();
}

#[test]
fn where_xdp_is_not_native_packet_sockets_send_and_the_program_decides() {
    let network = Network::build(&presets::bridge()).unwrap();
    let mut object = Object::load("verdicts", suite::VERDICTS, &LoadOptions::default()).unwrap();
    let mut attachments = Attachments::new(&network).unwrap();
    attachments.attach(&mut object, "drop_odd", &Hook::new(HookKind::XdpGeneric), &network).unwrap();
    let frames: Vec<Frame> = (0..1_000).map(|number| plain(number, 100 + number as usize % 2, Side::Client)).collect();
    let flood = |engine| {
        let options = FloodOptions { engine, ..LIVE };
        let stop = AtomicBool::new(false);
        wire::flood(&network, &attachments, &mut Given::new(&frames), &options, &stop, &mut |_| Ok(()))
    };
    let outcome = flood(EngineChoice::Auto).unwrap();
    assert_eq!(outcome.engine.engine, Engine::Sendmmsg);
    assert_eq!((outcome.sides[0].taken_in, outcome.sides[1].arrived), (1_000, 500), "{outcome:?}");
    assert!(matches!(flood(EngineChoice::LiveFrames), Err(WireError::Engine { .. })));
    drop(attachments);
    network.close().unwrap();
}

#[test]
fn a_program_under_test_meets_every_frame() {
    let network = Network::build(&presets::bridge()).unwrap();
    let mut object = Object::load("verdicts", suite::VERDICTS, &LoadOptions::default()).unwrap();
    let mut attachments = Attachments::new(&network).unwrap();
    attachments.xdp(&mut object, "drop_odd").unwrap();
    let frames: Vec<Frame> = (0..1_000).map(|number| plain(number, 100 + number as usize % 2, side(number))).collect();
    let options = FloodOptions { repeat: Repeat::Times(20), ..LIVE };
    let stop = AtomicBool::new(false);
    let outcome =
        wire::flood(&network, &attachments, &mut Given::new(&frames), &options, &stop, &mut |_| Ok(())).unwrap();
    let [client, server] = outcome.sides;
    // Every third frame is the server's: 334 of 1000, of which every second is of odd length.
    assert_eq!((client.taken_in, server.taken_in), (666 * 20, 334 * 20));
    assert_eq!((client.arrived, server.arrived), (167 * 20, 333 * 20), "{outcome:?}");
    drop(attachments);
    network.close().unwrap();
}

#[test]
fn replays_account_for_live_frames_as_for_others_byte_for_byte() {
    if !has_live_frames() {
        return;
    }
    // Past several windows, with lengths of every remainder, both sides, and the odd frame of 14 bytes.
    let frames: Vec<Frame> =
        (0..5_000).map(|number| plain(number + 1, 60 + (number as usize * 31) % 1455, side(number))).collect();
    let options = WireOptions { engine: EngineChoice::LiveFrames, record: true, ..WireOptions::default() };
    let network = Network::build(&presets::bridge()).unwrap();
    let mut attachments = Attachments::new(&network).unwrap();
    let stop = AtomicBool::new(false);
    let given = frames.iter().cloned().map(Ok::<_, Infallible>);
    let outcome = wire::replay(&network, &mut attachments, given, &options, &stop, &mut |_| Ok(())).unwrap();
    drop(attachments);
    network.close().unwrap();
    assert_eq!(outcome.engine, "live frames (asked for)");
    let ledger = &outcome.ledger;
    assert_eq!((ledger.offered, ledger.delivered, ledger.unaccounted), (5_000, 5_000, 0), "{ledger:?}");
    for (at, from) in [(0, Side::Server), (1, Side::Client)] {
        let sent: Vec<&[u8]> = frames.iter().filter(|frame| frame.side == from).map(|frame| &frame.data[..]).collect();
        let arrived: Vec<&[u8]> =
            outcome.received.iter().filter(|frame| frame.side == at).map(|frame| &frame.data[..]).collect();
        assert!(sent == arrived, "side {at}: {} sent, {} arrived", sent.len(), arrived.len());
    }
}
