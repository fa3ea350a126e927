//! Which end of the wire frames enter.

use bpflab::capture::{Frame, Kind, Options, Side, SidesBasis, SidesPolicy, Survey};

use super::files::{PLAIN, SYN, SYN_ACK, Temp, arp, pcap, record, tcp, udp};
use super::run;

const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [10, 0, 0, 2];
const C: [u8; 4] = [10, 0, 0, 3];

fn sides(policy: &str, frames: &[Vec<u8>]) -> (Survey, Vec<Frame>, String) {
    let records: Vec<_> = frames.iter().enumerate().map(|(i, data)| record(i as u64, data.clone())).collect();
    let file = Temp::new(&pcap(false, true, 1, &records));
    let policy: SidesPolicy = policy.parse().unwrap();
    let (survey, frames) = run(&file.path(), &Options { sides: policy, ..Options::default() });
    let letters = frames.iter().map(|frame| if frame.side == Side::Client { 'c' } else { 's' }).collect();
    (survey, frames, letters)
}

fn letters(policy: &str, frames: &[Vec<u8>]) -> String {
    sides(policy, frames).2
}

#[test]
fn who_sends_the_syn_is_the_client_even_if_the_server_is_heard_first() {
    let frames = [tcp(B, A, PLAIN, b"end of an older one"), tcp(A, B, SYN, b""), tcp(B, A, SYN_ACK, b"")];
    assert_eq!(letters("auto", &frames), "scs");
    assert_eq!(letters("auto", &[tcp(B, A, SYN_ACK, b""), tcp(A, B, PLAIN, b"")]), "sc", "a SYN-ACK tells as much");
    assert_eq!(letters("auto", &[tcp(B, A, PLAIN, b""), tcp(A, B, PLAIN, b"")]), "cs", "else the first sender");
    assert_eq!(letters("mac", &frames), "csc", "MAC addresses know nothing of SYNs");
}

#[test]
fn partners_are_on_opposite_sides_and_the_first_decision_wins() {
    // A calls B, B calls C: B stays the server, so C must be on A's side.
    assert_eq!(letters("endpoint", &[tcp(A, B, SYN, b""), tcp(B, C, SYN, b""), tcp(C, B, SYN_ACK, b"")]), "csc");
    // Two conversations apart, joined later: the earlier evidence keeps its colours.
    let four = [udp(A, B, (1, 53), b""), udp([10, 0, 0, 4], C, (1, 53), b""), udp([10, 0, 0, 4], A, (5, 6), b"")];
    assert_eq!(letters("endpoint", &four), "css", "10.0.0.4 is opposite to A, and so C is beside A");
}

#[test]
fn a_triangle_cannot_be_coloured_and_is_counted() {
    let frames = [tcp(A, B, SYN, b""), tcp(B, C, SYN, b""), tcp(C, A, SYN, b""), tcp(A, C, SYN_ACK, b"")];
    let (survey, _, letters) = sides("endpoint", &frames);
    assert_eq!(letters, "cscc");
    let finding = survey.finding(Kind::SameSide).unwrap();
    assert_eq!((finding.count, finding.first, finding.refused), (2, Some(3), 0));
}

#[test]
fn auto_falls_back_to_macs_where_they_explain_everything() {
    // The same triangle, but all of it between two MAC addresses: two machines with several addresses each.
    let mut frames = [tcp(A, B, SYN, b""), tcp(B, C, SYN, b""), tcp(C, A, SYN, b"")];
    for (frame, (to, from)) in frames.iter_mut().zip([(2, 1), (1, 2), (2, 1)]) {
        (frame[5], frame[11]) = (to, from);
    }
    let (survey, _, letters) = sides("auto", &frames);
    assert_eq!((survey.sides_basis, letters.as_str()), (SidesBasis::Mac, "csc"));
    assert!(survey.finding(Kind::SameSide).is_none());
}

#[test]
fn frames_without_ip_follow_the_mac_addresses() {
    let mac = |address: [u8; 4]| [2, 0, 0, 0, 0, address[3]];
    // The server asks first, to all; its side is known from the SYN that comes later.
    let frames = [arp((mac(B), B), ([0; 6], A), 1), arp((mac(A), A), (mac(B), B), 2), tcp(A, B, SYN, b"")];
    assert_eq!(letters("auto", &frames), "scc");
    assert_eq!(letters("client-nets=10.0.0.2", &frames), "css");
    assert_eq!(letters("auto", &frames[..2]), "cs", "with no IP at all, the first sender is the client");
}

#[test]
fn multicast_and_broadcast_say_nothing_about_sides() {
    let mut multicast = udp(B, [224, 0, 0, 251], (5353, 5353), b"");
    multicast[..6].copy_from_slice(&[0x01, 0x00, 0x5e, 0, 0, 251]);
    let mut broadcast = udp(B, [10, 0, 0, 255], (137, 137), b"");
    broadcast[..6].fill(0xff);
    let frames = [multicast, broadcast, tcp(A, B, SYN, b"")];
    let (survey, _, letters) = sides("auto", &frames);
    assert_eq!(letters, "ssc", "B is the server, whatever it announced before");
    assert_eq!(survey.endpoints.client, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(survey.endpoints.server, ["10.0.0.2".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn a_host_that_talks_to_itself_is_split_by_ports() {
    let lo = [127, 0, 0, 1];
    let mut frames = [tcp(lo, lo, SYN, b""), tcp(lo, lo, SYN_ACK, b""), udp(lo, lo, (40_000, 53), b"")];
    for frame in &mut frames {
        frame[..12].fill(0);
    }
    // The answer goes from port 80 to port 1000.
    frames[1][34..38].copy_from_slice(&[0, 80, 3, 232]);
    assert_eq!(letters("auto", &frames), "csc");
}

#[test]
fn networks_decide_alone() {
    let frames = [tcp(B, A, SYN, b""), tcp(A, B, SYN_ACK, b""), tcp(B, C, SYN, b"")];
    let (survey, _, letters) = sides("client-nets=10.0.0.1,192.0.2.0/24", &frames);
    assert_eq!((survey.sides_basis, letters.as_str()), (SidesBasis::ClientNets, "scs"));
    assert_eq!(survey.finding(Kind::SameSide).unwrap().first, Some(3), "B and C are both servers");
    assert_eq!(survey.endpoints.server.len(), 2);
}

#[test]
fn more_endpoints_than_listed_are_flagged() {
    let frames: Vec<_> = (0..5000_u32)
        .map(|i| {
            let [_, _, high, low] = i.to_be_bytes();
            udp([10, 1, high, low], B, (1, 53), b"")
        })
        .collect();
    let (survey, _, letters) = sides("auto", &frames);
    assert!(survey.endpoints.incomplete);
    assert_eq!(survey.endpoints.client.len() + survey.endpoints.server.len(), 4096);
    assert!(letters.bytes().all(|side| side == b'c'), "sides are not limited to the list");
}
