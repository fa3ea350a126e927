use etherparse::{PacketBuilder, TcpOptionElement};

use super::super::packet::flag;
use super::*;

const CLIENT: [u8; 4] = [192, 0, 2, 1];
const SERVER: [u8; 4] = [192, 0, 2, 2];
/// First sequence numbers of the two ends.
const ISN: [u32; 2] = [1000, 0xffff_fff0];

/// A segment `at` µs from side 0 or 1: flags, bytes sent and acknowledged before it (the SYNs not counted), payload.
fn segment(at: u64, side: usize, flags: u8, sent: u32, acked: u32, payload: &[u8], window: u16) -> Frame {
    let ends = [(CLIENT, 40_000), (SERVER, 80)];
    let ((from, from_port), (to, to_port)) = (ends[side], ends[1 - side]);
    let syn = flags & flag::SYN != 0;
    let seq = ISN[side].wrapping_add(if syn { 0 } else { 1 + sent });
    let mut header = etherparse::TcpHeader::new(from_port, to_port, seq, window);
    (header.fin, header.syn, header.rst) = (flags & flag::FIN != 0, syn, flags & flag::RST != 0);
    if flags & flag::ACK != 0 {
        (header.ack, header.acknowledgment_number) = (true, ISN[1 - side].wrapping_add(1 + acked));
    }
    if syn {
        header.set_options(&[TcpOptionElement::WindowScale(0)]).unwrap();
    }
    let builder =
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(from, to, 64).tcp_header(header);
    let mut data = Vec::new();
    builder.write(&mut data, payload).unwrap();
    Frame { time_ns: at * 1000, wire_len: data.len() as u32, data, ..Frame::default() }
}

/// A request of 5 bytes, its answer of 6 in two segments of which the second is sent again, and an end from both sides.
fn exchange() -> Vec<Frame> {
    use flag::{ACK, FIN, PSH, SYN};
    vec![
        segment(0, 0, SYN, 0, 0, b"", 500),
        segment(10, 1, SYN | ACK, 0, 0, b"", 500),
        segment(20, 0, ACK, 0, 0, b"", 500),
        segment(30, 0, ACK | PSH, 0, 0, b"query", 500),
        segment(40, 1, ACK, 0, 5, b"ans", 500),
        segment(50, 1, ACK | PSH, 3, 5, b"wer", 500),
        segment(60, 0, ACK, 5, 3, b"", 500),
        segment(90, 1, ACK | PSH, 3, 5, b"wer", 500),
        segment(100, 0, ACK | FIN, 5, 6, b"", 500),
        segment(110, 1, ACK | FIN, 6, 6, b"", 500),
        segment(120, 0, ACK, 6, 7, b"", 500),
    ]
}

fn only(script: &Script) -> &Flow {
    let [flow] = &script.flows[..] else { panic!("{:?}", script.flows) };
    assert_eq!(flow.refused, None);
    flow
}

#[test]
fn what_the_server_did_is_told_by_what_it_had_read() {
    let script = Script::new(&exchange(), Dut::Server);
    let flow = only(&script);
    let actions: Vec<(u64, u64, &What)> =
        flow.actions.iter().map(|action| (action.time_ns / 1000, action.after, &action.what)).collect();
    // The retransmission is the kernel's business, not the application's.
    assert_eq!(actions, [(40, 5, &What::Write(3)), (50, 5, &What::Write(6)), (110, 5, &What::Finish)]);
    assert_eq!((&flow.writes[..], &flow.reads[..], flow.bytes), (&b"answer"[..], &b"query"[..], [5, 6]));
    assert_eq!(flow.end.text(), "closed");
    // SYN at 0, bytes from 1: what is acknowledged of the server, its FIN last.
    let steps: Vec<(u32, Option<u32>)> = flow.steps.iter().map(|step| (step.seq, step.ack)).collect();
    let expected = [(0, None), (1, Some(1)), (1, Some(1)), (6, Some(4)), (6, Some(7)), (7, Some(8))];
    assert_eq!(steps, expected);
}

#[test]
fn the_other_end_is_the_mirror_image() {
    let script = Script::new(&exchange(), Dut::Client);
    let flow = only(&script);
    let actions: Vec<(u64, &What)> = flow.actions.iter().map(|action| (action.after, &action.what)).collect();
    assert_eq!(actions, [(0, &What::Write(5)), (6, &What::Finish)]);
    assert_eq!((&flow.writes[..], &flow.reads[..]), (&b"query"[..], &b"answer"[..]));
    // The client had the second segment only when it came again, as its acknowledgements say.
    let payloads: Vec<(u64, &[u8])> =
        flow.steps.iter().map(|step| (step.time_ns / 1000, step.packet.payload())).collect();
    assert_eq!(payloads, [(10, &b""[..]), (40, b"ans"), (90, b"wer"), (110, b"")]);
    let addresses = script.addresses();
    assert_eq!((addresses.live, addresses.played), (vec![CLIENT.into()], vec![SERVER.into()]));
}

#[test]
fn a_window_that_closes_keeps_the_socket_from_reading_until_it_opens() {
    use flag::ACK;
    let mut frames = exchange();
    frames.truncate(3);
    frames.extend([
        segment(30, 0, ACK, 0, 0, &[7; 500], 500),
        segment(40, 1, ACK, 0, 500, b"", 0),
        segment(90, 1, ACK, 0, 500, b"", 400),
    ]);
    // The window of the server, before it closes, is in the acknowledgement of the SYN's successor.
    frames.insert(3, segment(25, 1, ACK, 0, 0, b"", 500));
    let script = Script::new(&frames, Dut::Server);
    let flow = only(&script);
    let actions: Vec<(u64, &What)> = flow.actions.iter().map(|action| (action.time_ns / 1000, &action.what)).collect();
    assert_eq!(actions, [(0, &What::Pause), (90, &What::Resume)]);
    assert_eq!(flow.receive_buffer, Some(500));
}

#[test]
fn what_cannot_be_played_is_refused_with_its_reason() {
    let refused = |frames: &[Frame]| Script::new(frames, Dut::Server).flows[0].refused.clone().unwrap_or_default();
    let mut frames = exchange();
    frames.drain(..3);
    assert!(refused(&frames).contains("no handshake"), "{}", refused(&frames));
    // The second half of the request was seen, the first was not; the server acknowledges all of it.
    let mut frames = exchange();
    frames[3] = segment(30, 0, flag::ACK, 2, 0, b"ery", 500);
    assert_eq!(refused(&frames), "the capture lacks 5 bytes of the client");
    let mut frames = exchange();
    frames[4].number = 5;
    frames[4].data.truncate(56);
    assert_eq!(refused(&frames), "packet 5 is cut by the capture");
    let loopback = |frame: &mut Frame| {
        frame.data[26..34].copy_from_slice(&[127, 0, 0, 1, 127, 0, 0, 1]);
    };
    let mut frames = exchange();
    frames.iter_mut().for_each(loopback);
    assert!(refused(&frames).contains("both its ends are 127.0.0.1"), "{}", refused(&frames));
}

#[test]
fn a_refused_connection_needs_no_socket() {
    use flag::{ACK, RST, SYN};
    let mut answer = segment(10, 1, RST | ACK, 0, 0, b"", 0);
    answer.data[38..42].fill(0);
    let frames = [segment(0, 0, SYN, 0, 0, b"", 500), answer];
    let server = Script::new(&frames, Dut::Server);
    assert_eq!((only(&server).end.text(), only(&server).actions.len()), ("refused".to_owned(), 0));
    let client = Script::new(&frames, Dut::Client);
    let [step] = &only(&client).steps[..] else { panic!("{client:?}") };
    assert_eq!((step.packet.flags(), step.ack), (RST | ACK, Some(1)));
}

#[test]
fn random_frames_are_never_more_than_refused() {
    let mut state = 1_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for _ in 0..3000 {
        let mut frames = exchange();
        for _ in 0..random() % 8 {
            let frame = random() % frames.len();
            let data = &mut frames[frame].data;
            let at = 14 + random() % (data.len() - 14);
            data[at] = random() as u8;
        }
        let (one, other) = (random() % frames.len(), random() % frames.len());
        frames.swap(one, other);
        for dut in [Dut::Server, Dut::Client] {
            _ = Script::new(&frames, dut).addresses();
        }
    }
}

#[test]
fn urgent_data_is_written_as_such() {
    let mut frames = exchange();
    // The second byte of "ans" is the last urgent one.
    let tcp = 14 + 20;
    frames[4].data[tcp + 13] |= flag::URG;
    frames[4].data[tcp + 18..tcp + 20].copy_from_slice(&2_u16.to_be_bytes());
    let script = Script::new(&frames, Dut::Server);
    let actions: Vec<&What> = only(&script).actions.iter().map(|action| &action.what).collect();
    assert_eq!(actions, [&What::Urgent(2), &What::Write(3), &What::Write(6), &What::Finish]);
}

#[test]
fn what_the_recorded_server_refused_is_not_offered() {
    let mut frames = exchange();
    // Both agree on the scaling of windows; the client alone asks for ECN.
    frames[0].data[14 + 20 + 13] |= flag::ECE | flag::CWR;
    let script = Script::new(&frames, Dut::Server);
    let flow = only(&script);
    let syn = &flow.steps[0].packet;
    assert_eq!((syn.flags(), syn.window_scale()), (flag::SYN, Some(0)));
    assert_eq!(flow.notes, ["its SYN does not offer ECN, which the server refused".to_owned()].into());
    // The other end's SYN is the kernel's own.
    assert!(!only(&Script::new(&frames, Dut::Client)).notes.iter().any(|note| note.contains("offer")));
}

#[test]
fn what_was_lost_behind_the_capture_is_not_sent() {
    use flag::{ACK, PSH};
    let mut frames = exchange();
    // The request came twice, and was acknowledged after the second time.
    frames.insert(4, segment(35, 0, ACK | PSH, 0, 0, b"query", 500));
    let script = Script::new(&frames, Dut::Server);
    let flow = only(&script);
    assert_eq!(flow.steps.len(), 6, "as many as without the first");
    assert_eq!(flow.steps[2].time_ns, 35_000);
    assert_eq!(flow.notes.iter().filter(|note| note.contains("1 of the client's packets left out")).count(), 1);
}

#[test]
fn a_handshake_with_data_in_it_is_known_as_such() {
    let mut frames = exchange();
    assert!(!only(&Script::new(&frames, Dut::Server)).fast_open);
    frames[0] = segment(0, 0, flag::SYN, 0, 0, b"query", 500);
    frames.remove(3);
    let script = Script::new(&frames, Dut::Client);
    let flow = only(&script);
    assert!(flow.fast_open);
    assert_eq!((flow.actions[0].time_ns, &flow.actions[0].what), (0, &What::Write(5)));
}

/// A datagram of the client's to the server, or back, or the server's ICMP error for the one from `port`.
fn datagram(at: u64, port: u16, kind: &str) -> Frame {
    let builder = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let (mut question, mut data) = (Vec::new(), Vec::new());
    builder().ipv4(CLIENT, SERVER, 64).udp(port, 53).write(&mut question, b"query").unwrap();
    match kind {
        "asks" => data = question,
        "answers" => builder().ipv4(SERVER, CLIENT, 64).udp(53, port).write(&mut data, b"answer").unwrap(),
        _ => {
            let unreachable =
                etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
            builder().ipv4(SERVER, CLIENT, 64).icmpv4(unreachable).write(&mut data, &question[14..]).unwrap();
        }
    }
    Frame { time_ns: at * 1000, wire_len: data.len() as u32, data, ..Frame::default() }
}

#[test]
fn a_port_is_closed_that_refuses_datagrams_and_answers_none() {
    let refused = [datagram(0, 5000, "asks"), datagram(10, 5000, "refuses"), datagram(20, 5001, "asks")];
    let script = Script::new(&refused, Dut::Server);
    let told = |script: &Script| -> Vec<_> {
        script.flows.iter().map(|flow| (flow.is_closed, flow.is_refused, flow.asked, flow.steps.len())).collect()
    };
    assert_eq!(told(&script), [(true, true, 0, 1), (true, false, 0, 1)], "the other one was ignored");
    assert!(script.flows[1].is_ignored(Dut::Server) && !script.flows[0].is_ignored(Dut::Server));
    // The played server says itself that its port is closed.
    let script = Script::new(&refused, Dut::Client);
    assert_eq!(told(&script), [(false, true, 0, 1), (false, false, 0, 0)]);
    assert_eq!(script.flows[0].steps[0].after, 1, "once the datagram has come");
}

#[test]
fn a_port_that_answers_as_well_is_open() {
    let frames = [
        datagram(0, 5000, "asks"),
        datagram(10, 5000, "refuses"),
        datagram(20, 5001, "asks"),
        datagram(30, 5001, "answers"),
    ];
    let script = Script::new(&frames, Dut::Server);
    assert!(script.flows.iter().all(|flow| !flow.is_closed && !flow.is_refused && flow.asked == 1));
    assert_eq!(script.flows[0].notes.len(), 1, "{:?}", script.flows[0].notes);
    // The error for a datagram that the capture does not have belongs to no conversation.
    let script = Script::new(&frames[1..2], Dut::Server);
    assert_eq!((script.flows(), script.others()), (0, &[("neither TCP nor UDP", 1)].into()));
}
