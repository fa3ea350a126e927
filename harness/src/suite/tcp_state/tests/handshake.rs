//! How connections begin, end, and follow each other on the same ports.

use bpflab_programs::packet::{ACK, FIN, RST, SYN};

use super::{Carrier, Lab, both, client, server};
use crate::suite::tcp_state::TcpStateSettings;

#[test]
fn handshake_is_timed_from_syn_to_syn_ack_to_ack() {
    let tcp = Lab::new().handshake().tcp();
    assert_eq!((tcp.syn, tcp.syn_ack, tcp.rst, tcp.fin), (1, 1, 0, 0));
    assert_eq!(tcp.half_open, 0);
    let handshake = &tcp.handshakes[0];
    assert_eq!((handshake.client.as_str(), handshake.server.as_str()), ("10.0.0.1:40000", "10.0.0.2:80"));
    assert_eq!(handshake.syn_to_syn_ack_us, 400.0);
    assert_eq!(handshake.syn_ack_to_ack_us, 100.0);
    assert_eq!(handshake.rtt_us, 500.0);
    assert_eq!(handshake.syn_retries, 0);
    assert_eq!(tcp.connections[0].state, "established");
}

#[test]
fn repeated_syn_and_syn_ack_are_retransmissions_and_no_latency() {
    let mut lab = Lab::new();
    lab.at(0, client(SYN, 1000, 0));
    lab.at(1_000_000, client(SYN, 1000, 0));
    lab.at(3_000_000, client(SYN, 1000, 0));
    lab.at(3_000_400, server(SYN | ACK, 5000, 1001));
    // The first ACK is lost behind the observer's back: the server repeats its SYN-ACK a second later.
    lab.at(4_000_400, server(SYN | ACK, 5000, 1001));
    lab.at(4_000_500, client(ACK, 1001, 5001));
    let tcp = lab.tcp();
    assert_eq!((tcp.syn, tcp.syn_ack), (3, 2));
    let handshake = &tcp.handshakes[0];
    assert_eq!(handshake.syn_retries, 2);
    assert_eq!(handshake.syn_to_syn_ack_us, 400.0, "from the last SYN to the first SYN-ACK");
    assert_eq!(handshake.syn_ack_to_ack_us, 100.0, "from the last SYN-ACK");
    assert_eq!(tcp.connections[0].retransmissions, both(2, 1));
}

#[test]
fn syn_without_answer_is_half_open() {
    let mut lab = Lab::new();
    lab.at(0, client(SYN, 1000, 0).port(1));
    lab.at(10, client(SYN, 1000, 0).port(2)).at(20, server(SYN | ACK, 5000, 1001).port(2));
    let tcp = lab.tcp();
    assert_eq!(tcp.half_open, 2, "neither the unanswered nor the unfinished one is complete");
    assert_eq!(tcp.handshakes, []);
    assert_eq!(tcp.connections[0].state, "syn_sent");
    assert_eq!(tcp.connections[1].state, "syn_received");
}

#[test]
fn refused_connection_is_reset_by_the_server() {
    let mut lab = Lab::new();
    // RFC 9293 section 3.10.7.1: the RST of a closed port has number 0 and acknowledges the SYN.
    lab.at(0, client(SYN, 1000, 0)).at(300, server(RST | ACK, 0, 1001));
    let tcp = lab.tcp();
    assert_eq!((tcp.rst, tcp.half_open), (1, 0));
    assert_eq!(tcp.connections[0].state, "reset");
    assert_eq!(tcp.connections[0].reset_by.as_deref(), Some("server"));
}

#[test]
fn refused_syn_that_is_repeated_can_still_succeed() {
    let mut lab = Lab::new();
    lab.at(0, client(SYN, 1000, 0)).at(300, server(RST | ACK, 0, 1001));
    lab.at(500_000, client(SYN, 1000, 0)).at(500_400, server(SYN | ACK, 5000, 1001));
    lab.at(500_500, client(ACK, 1001, 5001));
    let tcp = lab.tcp();
    assert_eq!(tcp.connections.len(), 1);
    assert_eq!((tcp.connections[0].state.as_str(), &tcp.connections[0].reset_by), ("established", &None));
    assert_eq!((tcp.handshakes[0].rtt_us, tcp.handshakes[0].syn_retries), (500.0, 1));
}

#[test]
fn half_open_scan_is_reset_by_the_client() {
    let mut lab = Lab::new();
    lab.at(0, client(SYN, 1000, 0)).at(300, server(SYN | ACK, 5000, 1001)).at(310, client(RST, 1001, 0));
    let tcp = lab.tcp();
    assert_eq!(tcp.half_open, 0);
    assert_eq!(tcp.handshakes, [], "the client never acknowledged");
    assert_eq!(tcp.connections[0].state, "reset");
    assert_eq!(tcp.connections[0].reset_by.as_deref(), Some("client"));
}

#[test]
fn established_connection_is_reset_by_either_side() {
    let by = |rst| {
        let mut lab = Lab::new();
        lab.handshake().at(600, client(ACK, 1001, 5001).len(10)).at(700, server(ACK, 5001, 1011)).at(800, rst);
        let connection = lab.connection();
        (connection.state, connection.reset_by.unwrap_or_default())
    };
    assert_eq!(by(client(RST | ACK, 1011, 5001)), ("reset".to_owned(), "client".to_owned()));
    assert_eq!(by(server(RST, 5001, 0)), ("reset".to_owned(), "server".to_owned()));
}

#[test]
fn rst_below_the_acknowledged_numbers_changes_nothing() {
    let mut lab = Lab::new();
    lab.handshake().at(600, client(ACK, 1001, 5001).len(10)).at(700, server(ACK, 5001, 1011));
    // 1001 was acknowledged already (RFC 9293 section 3.10.7.4: outside the window, so ignored).
    lab.at(800, client(RST, 1001, 0));
    let tcp = lab.tcp();
    assert_eq!(tcp.rst, 1);
    assert_eq!(tcp.connections[0].state, "established");
    assert_eq!(tcp.connections[0].reset_by, None);
}

#[test]
fn orderly_close_passes_through_fin_wait() {
    let mut lab = Lab::new();
    lab.handshake().at(600, client(FIN | ACK, 1001, 5001));
    assert_eq!(lab.connection().state, "fin_wait");
    lab.at(700, server(ACK, 5001, 1002)).at(750, server(ACK, 5001, 1002).len(100));
    assert_eq!(lab.connection().state, "fin_wait", "the server may go on sending");
    lab.at(800, server(FIN | ACK, 5101, 1002));
    assert_eq!(lab.connection().state, "closing");
    lab.at(900, client(ACK, 1002, 5102));
    let tcp = lab.tcp();
    assert_eq!(tcp.fin, 2);
    assert_eq!(tcp.connections[0].state, "closed");
    assert_eq!(tcp.connections[0].payload, both(0, 100));
    assert_eq!(tcp.retransmissions, 0);
}

#[test]
fn simultaneous_close_is_closed_after_both_acknowledgements() {
    let mut lab = Lab::new();
    // RFC 9293 section 3.6, figure 13: the FINs cross.
    lab.handshake().at(600, client(FIN | ACK, 1001, 5001)).at(600, server(FIN | ACK, 5001, 1001));
    assert_eq!(lab.connection().state, "closing");
    lab.at(700, client(ACK, 1002, 5002));
    assert_eq!(lab.connection().state, "closing");
    lab.at(700, server(ACK, 5002, 1002));
    assert_eq!(lab.connection().state, "closed");
    // A late RST of either side has nothing left to end.
    lab.at(800, server(RST, 5002, 0));
    assert_eq!(lab.connection().state, "closed");
}

#[test]
fn simultaneous_open_is_established_without_a_handshake() {
    let mut lab = Lab::new();
    // RFC 9293 section 3.5, figure 7.
    lab.at(0, client(SYN, 1000, 0)).at(10, server(SYN, 5000, 0));
    assert_eq!(lab.connection().state, "syn_received");
    lab.at(100, client(SYN | ACK, 1000, 5001)).at(110, server(SYN | ACK, 5000, 1001));
    let tcp = lab.tcp();
    assert_eq!(tcp.connections[0].state, "established");
    assert_eq!(tcp.handshakes, [], "there were no three steps");
    assert_eq!(tcp.retransmissions, 0, "the second SYN carries an acknowledgement that the first had not");
}

#[test]
fn finished_connection_is_reported_when_its_ports_are_used_again() {
    let mut lab = Lab::new();
    lab.handshake().at(600, client(ACK, 1001, 5001).len(7));
    lab.at(700, client(FIN | ACK, 1008, 5001)).at(800, server(FIN | ACK, 5001, 1009)).at(900, client(ACK, 1009, 5002));
    lab.at(1_000_000, client(SYN, 500, 0)).at(1_000_200, server(RST | ACK, 0, 501));
    lab.at(2_000_000, client(SYN, 600, 0));
    let tcp = lab.tcp();
    let states: Vec<_> = tcp.connections.iter().map(|connection| connection.state.as_str()).collect();
    assert_eq!(states, ["closed", "reset", "syn_sent"]);
    assert_eq!(tcp.connections[0].payload, both(7, 0));
    assert_eq!(tcp.handshakes.len(), 1);
    assert_eq!((tcp.syn, tcp.half_open), (3, 1));
}

#[test]
fn syn_on_an_open_connection_starts_a_new_one_only_with_a_higher_number() {
    let mut lab = Lab::new();
    lab.handshake().at(600, client(ACK, 1001, 5001).len(100));
    // An old duplicate: below 1101, and not the number of this connection's SYN.
    lab.at(700, client(SYN, 900, 0));
    let tcp = lab.tcp();
    assert_eq!((tcp.connections.len(), tcp.syn, tcp.retransmissions), (1, 2, 0));
    assert_eq!(tcp.connections[0].state, "established");
    lab.at(800, client(SYN, 90_000, 0));
    let tcp = lab.tcp();
    assert_eq!(tcp.connections.len(), 2);
    assert_eq!(tcp.connections[1].state, "syn_sent");
}

#[test]
fn unanswered_syn_with_another_number_is_another_attempt() {
    let mut lab = Lab::new();
    lab.at(0, client(SYN, 1000, 0)).at(10, client(SYN, 7, 0));
    let tcp = lab.tcp();
    assert_eq!((tcp.connections.len(), tcp.half_open, tcp.retransmissions), (2, 2, 0));
}

#[test]
fn server_with_syn_cookies_may_answer_with_another_number() {
    let mut lab = Lab::new();
    lab.at(0, client(SYN, 1000, 0)).at(400, server(SYN | ACK, 5000, 1001));
    lab.at(1_000_000, client(SYN, 1000, 0)).at(1_000_400, server(SYN | ACK, 9000, 1001));
    lab.at(1_000_500, client(ACK, 1001, 9001)).at(1_000_600, server(ACK, 9001, 1001).len(10));
    let tcp = lab.tcp();
    assert_eq!(tcp.connections[0].state, "established");
    assert_eq!(tcp.connections[0].payload, both(0, 10));
    assert_eq!(tcp.connections[0].retransmissions, both(1, 0), "the client's SYN; the second SYN-ACK is another one");
    assert_eq!(tcp.handshakes[0].syn_ack_to_ack_us, 100.0);
}

#[test]
fn midstream_start_takes_the_first_sender_for_the_client() {
    let mut lab = Lab::new();
    lab.at(0, server(ACK, 5001, 1001).len(100)).at(100, client(ACK, 1001, 5101));
    let tcp = lab.tcp();
    assert_eq!(tcp.connections[0].state, "midstream");
    assert_eq!(tcp.connections[0].client, "10.0.0.2:80");
    assert_eq!(tcp.connections[0].payload, both(100, 0));
    assert_eq!((tcp.half_open, tcp.handshakes.len()), (0, 0));
}

#[test]
fn capture_that_begins_with_the_syn_ack_still_knows_the_client() {
    let mut lab = Lab::new();
    lab.at(0, server(SYN | ACK, 5000, 1001)).at(100, client(ACK, 1001, 5001));
    let tcp = lab.tcp();
    assert_eq!(tcp.connections[0].state, "established");
    assert_eq!(tcp.connections[0].client, "10.0.0.1:40000");
    assert_eq!((tcp.half_open, tcp.handshakes.len()), (0, 0), "without the SYN there is nothing to time");
}

#[test]
fn one_direction_alone_is_believed() {
    let mut lab = Lab::new();
    lab.at(0, client(SYN, 1000, 0)).at(500, client(ACK, 1001, 5001)).at(600, client(ACK, 1001, 5001).len(10));
    let tcp = lab.tcp();
    assert_eq!(tcp.connections[0].state, "established");
    assert_eq!((tcp.half_open, tcp.handshakes.len()), (0, 0));
}

#[test]
fn ipv6_and_vlan_carry_the_same_connection() {
    let mut lab = Lab::over(Carrier::Ipv6);
    lab.handshake().at(600, client(ACK, 1001, 5001).len(5));
    let connection = lab.connection();
    assert_eq!((connection.client.as_str(), connection.server.as_str()), ("[fd00::1]:40000", "[fd00::2]:80"));
    assert_eq!((connection.state.as_str(), connection.payload), ("established", both(5, 0)));

    let mut lab = Lab::over(Carrier::Vlan(7));
    lab.handshake().at(600, client(ACK, 1001, 5001).len(5));
    // The same ports in another VLAN are another connection.
    lab.carrier = Carrier::Vlan(8);
    lab.at(700, client(SYN, 1000, 0));
    let tcp = lab.tcp();
    assert_eq!(tcp.connections.len(), 2);
    assert_eq!(tcp.connections[0].payload, both(5, 0));
    assert_eq!(tcp.handshakes[0].rtt_us, 500.0);
}

#[test]
fn connections_beyond_the_limit_are_counted_as_losses() {
    let mut lab = Lab::with(&TcpStateSettings { max_connections: 2 });
    for port in 1..=5 {
        lab.at(u64::from(port), client(SYN, 1000, 0).port(port));
    }
    let observation = lab.observe();
    let tcp = observation.tcp.expect("there is a report");
    assert_eq!(tcp.connections.len(), 2);
    assert_eq!(tcp.syn, 5, "totals need no room");
    assert_eq!(observation.losses.get("tcp_state.CONNECTIONS"), Some(&3));
}

#[test]
fn finished_connections_that_nobody_collects_are_counted_as_losses() {
    let mut lab = Lab::new();
    // Each SYN ends the one before; the ring of 1 MiB holds 1440 connections of 720 + 8 bytes.
    let attempts = 2000;
    for attempt in 0..attempts {
        lab.at(attempt, client(SYN, attempt as u32 * 10, 0));
    }
    let observation = lab.observe();
    let kept = observation.tcp.expect("there is a report").connections.len() as u64;
    let lost = observation.losses.get("tcp_state.EVENTS").copied().unwrap_or_default();
    assert!(lost > 0, "{kept} kept");
    assert_eq!(kept + lost, attempts);
}
