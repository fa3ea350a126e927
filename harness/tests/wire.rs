//! Wire mode on real links: order, the account of every packet, verdicts, pace, and what happens when things go wrong.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bpflab::capture::{Frame, Side};
use bpflab::object::{LoadOptions, Object, suite};
use bpflab::topology::{Network, Topology, XDP_MAX_MTU, presets};
use bpflab::wire::{self, Attachments, Progress, Speed, WireError, WireOptions, WireOutcome};
use etherparse::PacketBuilder;

/// Addresses of the presets `router` and `host`.
const CLIENT: [u8; 4] = [10, 71, 1, 1];
const DUT: [u8; 4] = [10, 71, 1, 2];
const SERVER: [u8; 4] = [10, 71, 2, 2];

/// Frames of one capture: numbered from 1, a microsecond apart.
fn capture(frames: impl IntoIterator<Item = (Side, Vec<u8>)>) -> Vec<Frame> {
    (1..)
        .zip(frames)
        .map(|(number, (side, data))| Frame {
            number,
            time_ns: 1_700_000_000_000_000_000 + number * 1_000,
            wire_len: u32::try_from(data.len()).unwrap(),
            data,
            side,
        })
        .collect()
}

fn udp(source: [u8; 4], destination: [u8; 4], ttl: u8, port: u16, payload: &[u8]) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(source, destination, ttl).udp(4000, port);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// A frame of `len` bytes with an ethertype that no stack knows, and `number` in its payload.
fn plain(number: u64, len: usize) -> Vec<u8> {
    let mut frame = vec![0; len];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
    frame[14..22].copy_from_slice(&number.to_be_bytes());
    frame
}

fn nothing(_: &mut Attachments) {}

fn try_replay(
    topology: &Topology,
    attach: impl FnOnce(&mut Attachments),
    frames: &[Frame],
    options: &WireOptions,
) -> Result<WireOutcome, WireError> {
    let network = Network::build(topology).unwrap();
    let mut attachments = Attachments::new(&network).unwrap();
    attach(&mut attachments);
    let frames = frames.iter().cloned().map(Ok::<_, Infallible>);
    let outcome = wire::replay(&network, &mut attachments, frames, options, &AtomicBool::new(false), &mut |_| Ok(()));
    drop(attachments);
    network.close().unwrap();
    outcome
}

fn replay(topology: &Topology, attach: impl FnOnce(&mut Attachments), frames: &[Frame]) -> WireOutcome {
    try_replay(topology, attach, frames, &WireOptions { record: true, ..WireOptions::default() }).unwrap()
}

fn counts<const N: usize>(rows: [(&str, u64); N]) -> BTreeMap<String, u64> {
    rows.map(|(name, count)| (name.to_owned(), count)).into()
}

/// Frames of many kinds and lengths in bursts from either side, each with its number at its end.
fn mixed(count: u64) -> Vec<Frame> {
    // A small linear congruential generator: the same frames each time.
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut side, mut burst) = (Side::Client, 0);
    capture((1..=count).map(|number| {
        if burst == 0 {
            side = if side == Side::Client { Side::Server } else { Side::Client };
            burst = 1 + random(40);
        }
        burst -= 1;
        let payload: Vec<u8> = (0..random(1_400)).map(|byte| byte as u8).chain(number.to_be_bytes()).collect();
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut frame = Vec::new();
        match random(6) {
            0 => ethernet.ipv4(CLIENT, SERVER, 64).udp(1, 2).write(&mut frame, &payload).unwrap(),
            1 => ethernet.ipv4(CLIENT, SERVER, 64).tcp(1, 2, 3, 4).write(&mut frame, &payload).unwrap(),
            2 => ethernet.ipv6([1; 16], [2; 16], 64).udp(1, 2).write(&mut frame, &payload).unwrap(),
            3 => {
                let vlan = ethernet.single_vlan(7.try_into().unwrap());
                vlan.ipv4(CLIENT, SERVER, 64).udp(1, 2).write(&mut frame, &payload).unwrap();
            }
            4 => frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 0x08, 0x06], &payload].concat(),
            _ => frame = [&plain(0, 22)[..14], &payload].concat(),
        }
        (side, frame)
    }))
}

#[test]
fn a_bridge_delivers_every_frame_in_order_and_unchanged() {
    let frames = mixed(10_000);
    let outcome = replay(&presets::bridge(), nothing, &frames);
    assert_eq!(outcome.ledger.offered, 10_000);
    assert_eq!(outcome.ledger.delivered, 10_000, "{:?} {:?}", outcome.ledger, outcome.notes());
    assert_eq!((outcome.ledger.generated, outcome.foreign, outcome.unrecorded), (0, 0, 0));
    assert_eq!(outcome.received.len(), 10_000);
    for (sent, received) in frames.iter().zip(&outcome.received) {
        let far = if sent.side == Side::Client { 1 } else { 0 };
        assert_eq!(received.side, far, "packet {}", sent.number);
        assert!(received.data == sent.data, "packet {} changed or out of order", sent.number);
    }
    assert!(outcome.received.is_sorted_by_key(|frame| frame.time_ns));
}

#[test]
fn more_packets_than_slots_are_accounted_for_in_windows() {
    // 65536 slots: these need two windows.
    let frames = capture((0..70_000).map(|number| (Side::Client, plain(number, 64))));
    let outcome = try_replay(&presets::bridge(), nothing, &frames, &WireOptions::default()).unwrap();
    assert_eq!((outcome.ledger.offered, outcome.ledger.delivered), (70_000, 70_000), "{:?}", outcome.notes());
}

#[test]
fn what_a_bridge_refuses_is_a_kernel_drop_with_its_number() {
    let mut frames = capture((0..20).map(|number| (Side::Client, plain(number, 100))));
    // A group address as source, and none at all (br_handle_frame, net/bridge/br_input.c).
    frames[4].data[6] = 3;
    frames[9].data[6..12].fill(0);
    let outcome = replay(&presets::bridge(), nothing, &frames);
    assert_eq!((outcome.ledger.delivered, outcome.ledger.dropped, outcome.ledger.unaccounted), (18, 2, 0));
    assert_eq!(outcome.kernel_drops.iter().map(|drop| drop.packet).collect::<Vec<_>>(), [5, 10]);
}

#[test]
fn a_frame_dropped_before_tc_is_the_kernels_even_with_an_xdp_program_attached() {
    // A VLAN tag announced by the ethertype but cut off: the kernel gives it up before tc ingress sees it.
    let mut frames = capture((0..4).map(|number| (Side::Client, plain(number, 100))));
    frames[1].data.truncate(14);
    frames[1].data[12..14].copy_from_slice(&[0x81, 0x00]);
    let mut object = verdicts();
    let outcome = replay(&presets::bridge(), |to| to.xdp(&mut object, "drop_odd").unwrap(), &frames);
    assert_eq!((outcome.ledger.delivered, outcome.ledger.dropped), (3, 1), "{:?}", outcome.ledger);
    assert_eq!(outcome.kernel_drops[0].packet, 2);
}

#[test]
fn a_router_drops_for_its_own_reasons_and_answers() {
    let mut bad_checksum = udp(CLIENT, SERVER, 64, 9, b"checksum");
    bad_checksum[24] ^= 1;
    let frames = capture([
        (Side::Client, udp(CLIENT, SERVER, 64, 9, b"sound")),
        (Side::Client, udp(CLIENT, SERVER, 1, 9, b"time exceeded")),
        (Side::Client, bad_checksum),
        (Side::Client, udp(CLIENT, [10, 99, 0, 1], 64, 9, b"no route")),
        (Side::Server, udp(SERVER, CLIENT, 64, 9, b"back")),
    ]);
    let outcome = replay(&presets::router(), nothing, &frames);
    assert_eq!((outcome.ledger.offered, outcome.ledger.delivered, outcome.ledger.dropped), (5, 2, 3));
    assert_eq!(outcome.kernel_drops.iter().map(|drop| drop.packet).collect::<Vec<_>>(), [2, 3, 4]);
    // Time exceeded and network unreachable, both to the client.
    assert_eq!(outcome.ledger.generated, 2);
    assert_eq!(outcome.received.iter().filter(|frame| frame.side == 0).count(), 3);
    if has_reasons() {
        assert_eq!(outcome.kernel_drops[1].reason, "IP_CSUM");
    }
}

#[test]
fn a_host_refuses_a_closed_port_and_takes_in_what_it_answers() {
    let mut ping = Vec::new();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(CLIENT, DUT, 64);
    builder.icmpv4_echo_request(1, 1).write(&mut ping, b"ping").unwrap();
    let frames = capture([
        (Side::Client, udp(CLIENT, DUT, 64, 9, b"closed")),
        (Side::Server, udp(DUT, CLIENT, 64, 4000, b"never sent")),
        (Side::Client, ping),
    ]);
    let outcome = replay(&presets::host(&[]), nothing, &frames);
    assert_eq!((outcome.ledger.offered, outcome.withheld), (2, 1));
    assert_eq!((outcome.ledger.dropped, outcome.ledger.consumed, outcome.ledger.unaccounted), (1, 1, 0));
    assert_eq!(outcome.ledger.consumed_by, counts([("local delivery", 1)]));
    if has_reasons() {
        assert_eq!(outcome.ledger.dropped_by, counts([("NO_SOCKET", 1)]));
    }
    // Port unreachable and the echo reply.
    assert_eq!((outcome.ledger.generated, outcome.received.len()), (2, 2));
}

#[test]
fn a_packet_that_the_kernel_holds_is_listed_with_how_far_it_came() {
    let network = Network::build(&presets::host(&[])).unwrap();
    let socket = network
        .host(presets::DUT)
        .unwrap()
        .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9)))
        .expect("a socket that nobody reads from");
    let mut attachments = Attachments::new(&network).unwrap();
    let frames =
        capture([(Side::Client, udp(CLIENT, DUT, 64, 9, b"held")), (Side::Client, udp(CLIENT, DUT, 64, 8, b"not"))]);
    let options = WireOptions { deadline: Duration::from_millis(50), ..WireOptions::default() };
    let frames = frames.into_iter().map(Ok::<_, Infallible>);
    let stop = AtomicBool::new(false);
    let outcome = wire::replay(&network, &mut attachments, frames, &options, &stop, &mut |_| Ok(())).unwrap();
    drop(socket);
    assert_eq!((outcome.ledger.dropped, outcome.ledger.unaccounted), (1, 1));
    assert_eq!(outcome.unaccounted[0].packet, 1);
    assert_eq!(outcome.unaccounted[0].progress, Progress::Stack);
    drop(attachments);
    network.close().unwrap();
}

/// Whether this kernel says why it drops (Linux 5.17).
fn has_reasons() -> bool {
    bpflab::kernel::btf::Btf::kernel().unwrap().enum_names("skb_drop_reason").is_some()
}

fn verdicts() -> Object {
    Object::load("verdicts", suite::VERDICTS, &LoadOptions::default()).unwrap()
}

#[test]
fn every_xdp_verdict_is_consumed_under_its_own_name() {
    // 100 frames of each length modulo 4: pass, drop, send back, abort.
    let frames = capture((0..400_u64).map(|number| (Side::Client, plain(number, 100 + (number % 4) as usize))));
    let mut object = verdicts();
    let outcome = replay(&presets::bridge(), |to| to.xdp(&mut object, "each_verdict").unwrap(), &frames);
    assert_eq!((outcome.ledger.delivered, outcome.ledger.consumed), (100, 300), "{:?}", outcome.ledger);
    let by = [("XDP_ABORTED by each_verdict", 100), ("XDP_DROP by each_verdict", 100), ("XDP_TX by each_verdict", 100)];
    assert_eq!(outcome.ledger.consumed_by, counts(by));
    // What XDP sends back arrives at the client without having left through tc.
    assert_eq!((outcome.by_xdp, outcome.received.iter().filter(|frame| frame.side == 0).count()), (100, 100));
    let rows: Vec<(&str, &str, &str, u64)> =
        outcome.drops.iter().map(|row| (&*row.by, &*row.reason, &*row.place, row.packets)).collect();
    assert_eq!(rows[0], ("xdp", "XDP_ABORTED", "each_verdict", 100));
}

#[test]
fn an_xdp_program_for_fragmented_frames_is_called_too() {
    let frames = capture((0..20).map(|number| (Side::Client, plain(number, 100 + (number % 2) as usize))));
    let mut object = verdicts();
    let outcome = replay(&presets::bridge(), |to| to.xdp(&mut object, "drop_odd_frags").unwrap(), &frames);
    assert_eq!(outcome.ledger.consumed_by, counts([("XDP_DROP by drop_odd_frags", 10)]));
    assert_eq!(outcome.ledger.delivered, 10);
}

#[test]
fn a_second_xdp_program_is_refused_by_name() {
    let mut object = verdicts();
    let network = Network::build(&presets::bridge()).unwrap();
    let mut attachments = Attachments::new(&network).unwrap();
    attachments.xdp(&mut object, "drop_odd").unwrap();
    let error = attachments.xdp(&mut object, "each_verdict").unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot attach XDP program each_verdict: program drop_odd is attached, and wire mode runs one XDP program"
    );
    let error = attachments.tc_ingress(&mut object, "drop_odd").unwrap_err();
    assert_eq!(error.to_string(), "cannot attach program drop_odd of object verdicts to tc-ingress: it is of kind xdp");
}

/// 10 frames: the odd numbered ones are UDP, the even numbered ones are not IP.
fn half_udp() -> Vec<Frame> {
    capture((1..=10).map(|number| {
        let udp = udp(CLIENT, SERVER, 64, 9, &[0; 32]);
        (Side::Client, if number % 2 == 1 { udp } else { plain(number, 64) })
    }))
}

#[test]
fn a_shot_packet_is_a_verdict_of_the_program_that_shot_it() {
    let mut object = verdicts();
    let attach = |to: &mut Attachments| {
        to.tc_ingress(&mut object, "pass").unwrap();
        to.tc_ingress(&mut object, "shot_udp").unwrap();
        to.tc_ingress(&mut object, "pass").unwrap();
    };
    let outcome = replay(&presets::bridge(), attach, &half_udp());
    assert_eq!((outcome.ledger.delivered, outcome.ledger.dropped), (5, 0), "{:?}", outcome.ledger);
    assert_eq!(outcome.ledger.consumed_by, counts([("TC_ACT_SHOT by shot_udp", 5)]));
    assert_eq!(outcome.drops[0].flow, "udp 10.71.1.1:4000 > 10.71.2.2:9");
}

#[test]
fn a_program_that_returns_ok_ends_the_chain_but_not_the_packet() {
    let mut object = verdicts();
    let attach = |to: &mut Attachments| {
        to.tc_ingress(&mut object, "shot_udp_else_ok").unwrap();
        to.tc_ingress(&mut object, "shot_udp").unwrap();
    };
    let outcome = replay(&presets::bridge(), attach, &half_udp());
    assert_eq!(outcome.ledger.delivered, 5, "{:?}", outcome.ledger);
    assert_eq!(outcome.ledger.consumed_by, counts([("TC_ACT_SHOT by shot_udp_else_ok", 5)]));
}

#[test]
fn verdicts_at_egress_are_told_from_those_at_ingress() {
    let mut object = verdicts();
    let outcome = replay(&presets::bridge(), |to| to.tc_egress(&mut object, "shot_udp_else_ok").unwrap(), &half_udp());
    assert_eq!((outcome.ledger.delivered, outcome.received.len()), (5, 5), "{:?}", outcome.ledger);
    assert_eq!(outcome.ledger.consumed_by, counts([("TC_ACT_SHOT by shot_udp_else_ok", 5)]));
}

#[test]
fn a_frame_over_the_mtu_is_named_and_those_before_it_are_not_lost() {
    let mut frames = capture((0..10).map(|number| (Side::Client, plain(number, 100))));
    frames[6].data = plain(7, 1515);
    let error = try_replay(&presets::bridge(), nothing, &frames, &WireOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot send packet 7 (1515 bytes) on interface eth0, which takes frames of 14 to 1514 bytes"
    );
}

#[test]
fn a_run_that_is_stopped_accounts_for_what_it_sent() {
    let network = Network::build(&presets::bridge()).unwrap();
    let mut attachments = Attachments::new(&network).unwrap();
    let stop = AtomicBool::new(false);
    let frames = (0..).map(|number| {
        let frame = Frame { number, time_ns: number, wire_len: 64, data: plain(number, 64), side: Side::Client };
        Ok::<_, Infallible>(frame)
    });
    let outcome = wire::replay(&network, &mut attachments, frames, &WireOptions::default(), &stop, &mut |sent| {
        stop.store(sent >= 1_000, Ordering::Relaxed);
        Ok(())
    })
    .unwrap();
    assert!(outcome.interrupted);
    // Batches of 64: the first one that reaches 1000.
    assert_eq!((outcome.ledger.offered, outcome.ledger.delivered), (1_024, 1_024));
    drop(attachments);
    network.close().unwrap();
}

#[test]
fn what_the_far_ends_own_stack_sends_is_foreign_and_shifts_nothing() {
    let network = Network::build(&presets::router()).unwrap();
    let mut attachments = Attachments::new(&network).unwrap();
    let client = network.host(presets::CLIENT).unwrap();
    let frames = capture((0..500).map(|_| (Side::Client, udp(CLIENT, SERVER, 64, 9, b"ours"))));
    let frames = frames.into_iter().map(Ok::<_, Infallible>);
    let stop = AtomicBool::new(false);
    let mut foreign = 0;
    let outcome = wire::replay(&network, &mut attachments, frames, &WireOptions::default(), &stop, &mut |sent| {
        if sent < 500 {
            foreign += 1;
            client.run(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"not ours", (Ipv4Addr::from(SERVER), 9))).unwrap();
        }
        Ok(())
    })
    .unwrap();
    assert_eq!((outcome.ledger.delivered, outcome.ledger.unaccounted), (500, 0), "{:?}", outcome.notes());
    assert_eq!(outcome.foreign, foreign);
    drop(attachments);
    network.close().unwrap();
}

#[test]
fn a_paced_replay_sends_no_frame_early() {
    // 20 frames in 19 gaps of 2 ms, at twice the speed.
    let mut frames = capture((0..20).map(|number| (Side::Client, plain(number, 64))));
    for frame in &mut frames {
        frame.time_ns = frame.number * 2_000_000;
    }
    let engines = [wire::EngineChoice::Auto, wire::EngineChoice::Sendmmsg];
    for engine in engines {
        let speed = Speed::Scaled(2.0);
        let options = WireOptions { speed, engine, record: true, keep_sent: true, ..WireOptions::default() };
        let outcome = try_replay(&presets::bridge(), nothing, &frames, &options).unwrap();
        assert_eq!(outcome.ledger.delivered, 20);
        let pacing = outcome.pacing;
        assert_eq!((pacing.frames, pacing.asked_s), (20, Some(0.019)));
        // A frame is sent as much earlier as it takes to arrive, of which at most 150 us are believed; times count from
        // the first one's arrival.
        assert!(pacing.elapsed_s >= 0.018_85, "{pacing:?}");
        for (number, (sent, received)) in (0..).zip(outcome.sent.iter().zip(&outcome.received)) {
            let after_ns = sent.time_ns - outcome.sent[0].time_ns;
            assert!(after_ns + 150_000 >= number * 1_000_000, "frame {number} was sent early, after {after_ns} ns");
            assert!(received.time_ns >= sent.time_ns, "frame {number} arrived before it was sent");
        }
    }
}

#[test]
fn frames_of_a_paced_replay_keep_their_order_however_close_they_are() {
    // Bursts of either side a microsecond apart, longer than what goes out by one call, and silences of 3 ms.
    let mut frames = mixed(1_500);
    for frame in &mut frames {
        if frame.number > 1_000 {
            frame.side = Side::Client;
        }
        frame.time_ns += frame.number / 250 * 3_000_000;
    }
    for engine in [wire::EngineChoice::Auto, wire::EngineChoice::Sendmmsg] {
        let speed = Speed::Scaled(1.0);
        let options = WireOptions { speed, engine, record: true, keep_sent: true, ..WireOptions::default() };
        let outcome = try_replay(&presets::bridge(), nothing, &frames, &options).unwrap();
        assert_eq!(outcome.ledger.delivered, 1_500, "{:?} {:?}", outcome.ledger, outcome.notes());
        assert_eq!((outcome.received.len(), outcome.sent.len()), (1_500, 1_500));
        for ((frame, sent), received) in frames.iter().zip(&outcome.sent).zip(&outcome.received) {
            assert!(received.data == frame.data, "packet {} changed or out of order", frame.number);
            assert_eq!(sent.number, frame.number);
            assert!(sent.time_ns <= received.time_ns, "packet {} arrived before it was sent", frame.number);
        }
        assert!(outcome.sent.is_sorted_by_key(|frame| frame.time_ns));
    }
}

#[test]
fn a_paced_replay_sends_what_the_kernel_cannot_by_sockets() {
    // Frames that native XDP takes and live frames do not hold, among short ones.
    let topology = presets::bridge().with_mtu(XDP_MAX_MTU);
    let lens = [64, 3_500, 60, 61, 3_510, 3_511, 1_514, 3_520, 64];
    let mut frames = capture((0..).zip(lens).map(|(number, len)| (Side::Client, plain(number, len))));
    for frame in &mut frames {
        frame.time_ns += frame.number / 3 * 1_000_000;
    }
    let options = WireOptions { speed: Speed::Scaled(1.0), record: true, ..WireOptions::default() };
    let outcome = try_replay(&topology, nothing, &frames, &options).unwrap();
    let engine = &outcome.engine;
    if engine.starts_with("live frames") {
        assert_eq!(engine, "live frames (each frame waits in the kernel until it is due)");
        assert_eq!(outcome.by_socket, 4);
    }
    assert_eq!(outcome.received.len(), frames.len(), "{:?}", outcome.notes());
    for (sent, received) in frames.iter().zip(&outcome.received) {
        assert!(received.data == sent.data, "packet {}", sent.number);
    }
}
