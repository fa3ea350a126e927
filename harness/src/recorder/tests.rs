//! Recordings of made-up sightings, and of a network without programs.

use std::net::UdpSocket;

use etherparse::PacketBuilder;

use super::join::Sighting;
use super::*;
use crate::observation::{Connection, Dns, DropClass, Http, IcmpError, PerDirection, Tcp};
use crate::topology::{Network, presets};

fn udp(ttl: u8, port: u16, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 71, 1, 1], [10, 71, 2, 2], ttl).udp(5000, port);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn tcp(from: u16, to: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let ends = if from > to { ([10, 71, 1, 1], [10, 71, 2, 2]) } else { ([10, 71, 2, 2], [10, 71, 1, 1]) };
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(ends.0, ends.1, 64).tcp(from, to, sequence, 1000);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn sighted(time_ns: u64, first: bool, outgoing: bool, data: &[u8]) -> Sighting {
    let wire_len = u32::try_from(data.len()).unwrap();
    Sighting { first, outgoing, ..Sighting::new(0, time_ns, wire_len, data.into()) }
}

/// What is written of a link with an XDP program: time, interface, whether it went out, comments.
fn joined(sightings: Vec<Sighting>, xdp: Option<&str>) -> Vec<(u64, usize, bool, String)> {
    let link = Link {
        near: "dut.eth0".to_owned(),
        far: "client.eth0".to_owned(),
        xdp: xdp.map(str::to_owned),
        ..Link::default()
    };
    let interface = RecordedInterface { name: link.near.clone(), host: "dut".to_owned(), ..<_>::default() };
    let recording = assemble(&[(link, "dut".to_owned())], vec![interface], sightings);
    let frames = recording.frames.into_iter();
    frames.map(|frame| (frame.time_ns, frame.interface, frame.outgoing, frame.comments.join("; "))).collect()
}

#[test]
fn each_frame_on_the_link_is_there_once_and_what_xdp_swallowed_says_so() {
    let [passed, dropped, answer] = [udp(64, 1, b"a"), udp(64, 2, b"b"), udp(64, 3, b"c")];
    let into = |time, first, data: &[u8]| sighted(time, first, false, data);
    let found = joined(
        vec![
            into(20, true, &dropped),
            into(10, true, &passed),
            into(15, false, &passed),
            sighted(30, true, true, &answer),
            sighted(35, false, true, &answer),
            // Sent back by XDP: its own end does not see it.
            sighted(40, false, true, &dropped),
        ],
        Some("filter"),
    );
    let unseen = "not seen behind XDP: filter dropped it, sent it back or redirected it";
    let expected = [
        (10, 0, false, ""),
        (20, 0, false, unseen),
        (30, 0, true, ""),
        (40, 0, true, "sent by XDP, past the stack and tc"),
    ];
    assert_eq!(found, expected.map(|(time, interface, out, text)| (time, interface, out, text.to_owned())));
    let without = joined(vec![into(20, true, &dropped)], None);
    assert_eq!(without[0].3, "not seen at dut.eth0");
}

#[test]
fn of_equal_frames_that_which_came_last_before_is_the_one_that_passed() {
    let frame = udp(64, 1, b"again");
    let into = |time, first| sighted(time, first, false, &frame);
    // Of three only the third and, long before, the first passed.
    let found = joined(
        vec![into(10, true), into(11, false), into(1000, true), into(2000, true), into(2001, false)],
        Some("limiter"),
    );
    let unseen: Vec<(u64, bool)> = found.iter().map(|frame| (frame.0, frame.3.is_empty())).collect();
    assert_eq!(unseen, [(10, true), (1000, false), (2000, true)]);
}

#[test]
fn a_frame_that_xdp_changed_is_there_as_it_was_and_as_it_became() {
    let into = |time, first, data: &[u8]| sighted(time, first, false, data);
    let found = joined(
        vec![
            into(10, true, &udp(64, 1, b"x")),
            into(11, false, &udp(63, 1, b"x")),
            // Nothing in common, but in its place.
            into(20, true, &udp(64, 2, b"y")),
            into(21, false, &udp(64, 9, b"other")),
        ],
        Some("rewrite"),
    );
    assert_eq!(found.len(), 4);
    assert_eq!((found[0].0, found[0].1), (10, 0));
    assert!(found[0].3.starts_with("changed by rewrite: ipv4.ttl 64 > 63"), "{}", found[0].3);
    assert_eq!((found[1].0, found[1].1, found[1].3.as_str()), (11, 1, "as rewrite left the frame before it"));
    assert!(found[2].3.starts_with("changed by rewrite: length 43 > 47"), "{}", found[2].3);
    assert_eq!(found[3].1, 1);
}

#[test]
fn segments_that_receive_offload_joined_are_there_as_they_were_on_the_link() {
    let into = |time, first, data: &[u8]| sighted(time, first, false, data);
    let found = joined(
        vec![
            into(10, true, &tcp(40000, 80, 1, b"hello ")),
            into(11, true, &tcp(40000, 80, 7, b"world")),
            into(12, false, &tcp(40000, 80, 1, b"hello world")),
        ],
        Some("pass"),
    );
    let found: Vec<(u64, &str)> = found.iter().map(|frame| (frame.0, frame.3.as_str())).collect();
    assert_eq!(found, [(10, ""), (11, "")]);
}

fn recording(frames: &[(usize, bool, Vec<u8>)]) -> Recording {
    let interface = |name: &str| RecordedInterface {
        name: name.to_owned(),
        host: "dut".to_owned(),
        ..RecordedInterface::default()
    };
    let frame = |(time_ns, (interface, outgoing, data)): (u64, &(usize, bool, Vec<u8>))| Recorded {
        time_ns,
        interface: *interface,
        outgoing: *outgoing,
        wire_len: u32::try_from(data.len()).unwrap(),
        data: data.as_slice().into(),
        comments: Vec::new(),
        ended: None,
    };
    Recording {
        interfaces: vec![interface("dut.eth0"), interface("dut.eth1")],
        frames: (0..).zip(frames).map(frame).collect(),
        told: false,
    }
}

#[test]
fn events_are_on_the_first_packet_that_they_are_about() {
    let request = tcp(40000, 80, 1, b"GET /a HTTP/1.1\r\n\r\n");
    let again = tcp(40000, 80, 20, b"GET /b HTTP/1.1\r\n\r\n");
    let recording = recording(&[
        (0, false, request.clone()),
        (1, true, request),
        (0, false, again.clone()),
        (1, true, again.clone()),
        (0, false, again.clone()),
        (1, true, again),
        (0, false, tcp(40001, 81, 7, b"")),
    ]);
    let exchange = |exchange, path: &str| Http {
        client: "10.71.1.1:40000".to_owned(),
        server: "10.71.2.2:80".to_owned(),
        method: "GET".to_owned(),
        path: path.to_owned(),
        status: Some(200),
        latency_us: Some(120.4),
        exchange,
        ..Http::default()
    };
    let connection = Connection {
        client: "10.71.1.1:40000".to_owned(),
        server: "10.71.2.2:80".to_owned(),
        state: "midstream".to_owned(),
        // One more than there is.
        retransmissions: PerDirection { a_to_b: 2, b_to_a: 0 },
        ..Connection::default()
    };
    let observation = Observation {
        http: vec![exchange(1, "/a"), exchange(2, "/b")],
        tcp: Some(Tcp { connections: vec![connection], ..Tcp::default() }),
        drops: vec![crate::observation::Drop {
            by: "kernel".to_owned(),
            reason: "NO_SOCKET".to_owned(),
            place: "tcp_v4_rcv".to_owned(),
            host: "dut".to_owned(),
            flow: "tcp 10.71.1.1:40001 > 10.71.2.2:81".to_owned(),
            packets: 1,
            ..<_>::default()
        }],
        dns: vec![Dns { transport: "udp".to_owned(), name: "a.test".to_owned(), ..Dns::default() }],
        malformed: [("land".to_owned(), 3)].into(),
        ..Observation::default()
    };
    let placed = events::place(&recording, &observation);
    let found: Vec<(usize, String)> = placed.comments.into_iter().map(|(at, texts)| (at, texts.join("; "))).collect();
    let expected = [
        (
            0,
            "tcp: connection ends as midstream, 0 payload bytes there, 0 back; http: GET -/a 200, answered after 120 us",
        ),
        (2, "http: GET -/b 200, answered after 120 us"),
        (4, "tcp: retransmission"),
        (6, "drop: NO_SOCKET in tcp_v4_rcv by kernel on dut"),
    ];
    assert_eq!(found, expected.map(|(at, text)| (at, text.to_owned())));
    let unplaced = [
        "tcp 10.71.1.1:40000 > 10.71.2.2:80: 1 retransmissions are on no packet here",
        "udp  > : dns: a.test  unanswered",
        "malformed: 3 x land",
    ];
    assert_eq!(placed.unplaced, unplaced);
}

#[test]
fn a_drop_whose_packet_is_known_is_not_told_twice_and_an_icmp_error_is_on_itself() {
    let question = udp(64, 9, b"question");
    let builder = PacketBuilder::ethernet2([4; 6], [2; 6]).ipv4([10, 71, 2, 2], [10, 71, 1, 1], 64);
    let builder = builder.icmpv4_raw(3, 3, [0; 4]);
    let mut error = Vec::new();
    builder.write(&mut error, &question[14..14 + 28]).unwrap();
    let mut recording = recording(&[(0, false, question.clone()), (0, true, error), (0, false, udp(64, 9, b"more"))]);
    recording.frames[0].ended = Some(Ended { by: "kernel".to_owned(), reason: "NO_SOCKET".to_owned() });
    let flow = "udp 10.71.1.1:5000 > 10.71.2.2:9".to_owned();
    let drop = crate::observation::Drop {
        by: "kernel".to_owned(),
        reason: "NO_SOCKET".to_owned(),
        place: "__udp4_lib_rcv".to_owned(),
        class: DropClass::Other,
        host: "dut".to_owned(),
        flow: flow.clone(),
        packets: 2,
    };
    let icmp = IcmpError {
        proto: "icmp".to_owned(),
        kind: 3,
        code: 3,
        meaning: "port unreachable".to_owned(),
        flow,
        packets: 1,
        ..IcmpError::default()
    };
    let observation = Observation { drops: vec![drop], icmp_errors: vec![icmp], ..Observation::default() };
    let placed = events::place(&recording, &observation);
    let found: Vec<(usize, String)> = placed.comments.into_iter().map(|(at, texts)| (at, texts.join("; "))).collect();
    let expected = [
        (1, "icmp: port unreachable for udp 10.71.1.1:5000 > 10.71.2.2:9"),
        (2, "drop: NO_SOCKET in __udp4_lib_rcv by kernel on dut"),
    ];
    assert_eq!(found, expected.map(|(at, text)| (at, text.to_owned())));
    assert!(placed.unplaced.is_empty(), "{:?}", placed.unplaced);
}

#[test]
fn every_frame_of_both_links_is_there_with_its_direction() {
    const DATAGRAMS: usize = 5000;
    let network = Network::build(&presets::router()).unwrap();
    let recorder = Recorder::start(&network).unwrap();
    let server = network.host("server").unwrap().run(|| UdpSocket::bind("10.71.2.2:9").unwrap());
    network.host("client").unwrap().run(|| {
        let socket = UdpSocket::bind("10.71.1.1:5000").unwrap();
        for number in 0..DATAGRAMS {
            socket.send_to(&number.to_be_bytes(), "10.71.2.2:9").unwrap();
        }
    });
    drop(server);
    let recording = recorder.stop(Knowledge::default());
    network.close().unwrap();
    let names: Vec<&str> = recording.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    assert_eq!((names, recording.lost()), (vec!["dut.eth0", "dut.eth1"], 0));
    let of = |interface, outgoing| {
        let here = recording.frames.iter().filter(move |frame| frame.interface == interface);
        here.filter(move |frame| frame.outgoing == outgoing && frame.data.len() == 14 + 20 + 8 + 8)
    };
    // In by one link, out by the other, all of them and in order.
    assert_eq!((of(0, false).count(), of(1, true).count()), (DATAGRAMS, DATAGRAMS));
    let numbers = of(1, true).map(|frame| u64::from_be_bytes(frame.data[42..50].try_into().unwrap()));
    assert!(numbers.eq(0..DATAGRAMS as u64));
    assert!(recording.frames.is_sorted_by_key(|frame| frame.time_ns));
    let comments: Vec<&String> = recording.frames.iter().flat_map(|frame| &frame.comments).collect();
    assert!(comments.is_empty(), "{comments:?}");
}
