//! New, sent again, late or missing. The handshake of these tests has a round trip of 500 µs.

use bpflab_programs::packet::{ACK, FIN, RST, SYN};

use super::{Lab, both, client, server};

#[test]
fn bytes_seen_before_are_a_retransmission() {
    let mut lab = Lab::new();
    lab.handshake().at(600, client(ACK, 1001, 5001).len(100)).at(200_600, client(ACK, 1001, 5001).len(100));
    let connection = lab.connection();
    assert_eq!(connection.retransmissions, both(1, 0));
    assert_eq!(connection.out_of_order, both(0, 0));
    assert_eq!(connection.payload, both(100, 0), "each byte counts once");
}

#[test]
fn retransmission_that_goes_on_with_new_bytes_counts_only_those() {
    let mut lab = Lab::new();
    lab.handshake().at(600, client(ACK, 1001, 5001).len(100)).at(200_600, client(ACK, 1051, 5001).len(100));
    // 1001..1101, then 1051..1151: 50 bytes again and 50 new ones.
    let connection = lab.connection();
    assert_eq!((connection.retransmissions, connection.payload), (both(1, 0), both(150, 0)));
    lab.at(200_700, client(ACK, 1151, 5001).len(10));
    assert_eq!(lab.connection().retransmissions, both(1, 0), "1151 is the next number");
}

#[test]
fn hole_filled_within_the_round_trip_was_out_of_order() {
    let mut lab = Lab::new();
    lab.handshake();
    lab.at(600, client(ACK, 1101, 5001).len(100)).at(1100, client(ACK, 1001, 5001).len(100));
    let connection = lab.connection();
    assert_eq!((connection.out_of_order, connection.retransmissions), (both(1, 0), both(0, 0)));
    assert_eq!(connection.payload, both(200, 0));
    // The hole is gone: the same bytes once more are a retransmission, however quick.
    lab.at(1110, client(ACK, 1001, 5001).len(100));
    let connection = lab.connection();
    assert_eq!((connection.out_of_order, connection.retransmissions), (both(1, 0), both(1, 0)));
    assert_eq!(connection.payload, both(200, 0));
}

#[test]
fn hole_filled_after_the_round_trip_was_a_retransmission() {
    let mut lab = Lab::new();
    lab.handshake();
    lab.at(600, client(ACK, 1101, 5001).len(100)).at(1101, client(ACK, 1001, 5001).len(100));
    let connection = lab.connection();
    assert_eq!((connection.out_of_order, connection.retransmissions), (both(0, 0), both(1, 0)));
    assert_eq!(connection.payload, both(200, 0), "lost before the observer, so seen once");
}

#[test]
fn newer_timestamp_tells_a_quick_retransmission_from_reordering() {
    let fill = |tsval| {
        let mut lab = Lab::new();
        lab.handshake().at(600, client(ACK, 1101, 5001).len(100).ts(70, 1));
        lab.at(700, client(ACK, 1001, 5001).len(100).ts(tsval, 1));
        let connection = lab.connection();
        (connection.out_of_order.a_to_b, connection.retransmissions.a_to_b)
    };
    assert_eq!(fill(69), (1, 0), "sent before the segment that overtook it");
    assert_eq!(fill(70), (1, 0), "sent in the same tick");
    assert_eq!(fill(71), (0, 1), "sent after it, so sent again");
    assert_eq!(fill(u32::MAX), (1, 0), "timestamps wrap around: -1 is before 70");
}

#[test]
fn hole_in_the_middle_of_a_hole_leaves_two() {
    let mut lab = Lab::new();
    lab.handshake();
    // Missing 1001..1301; then 1101..1201 comes, then its neighbours.
    lab.at(600, client(ACK, 1301, 5001).len(100));
    lab.at(610, client(ACK, 1101, 5001).len(100));
    lab.at(620, client(ACK, 1201, 5001).len(100)).at(630, client(ACK, 1001, 5001).len(100));
    let connection = lab.connection();
    assert_eq!((connection.out_of_order, connection.retransmissions), (both(3, 0), both(0, 0)));
    assert_eq!(connection.payload, both(400, 0));
}

#[test]
fn segment_over_the_edge_of_a_hole_was_sent_again() {
    let mut lab = Lab::new();
    lab.handshake();
    // Missing 1001..1101; 1051..1151 brings 50 of them, and 50 bytes that were seen.
    lab.at(600, client(ACK, 1101, 5001).len(100)).at(610, client(ACK, 1051, 5001).len(100));
    let connection = lab.connection();
    assert_eq!((connection.out_of_order, connection.retransmissions), (both(0, 0), both(1, 0)));
    assert_eq!(connection.payload, both(150, 0));
    // Still missing: 1001..1051.
    lab.at(620, client(ACK, 1001, 5001).len(50));
    assert_eq!(lab.connection().out_of_order, both(1, 0));
    assert_eq!(lab.connection().payload, both(200, 0));
}

#[test]
fn fifth_hole_replaces_the_oldest_and_says_so() {
    let mut lab = Lab::new();
    lab.handshake();
    // Every second segment of 100 bytes comes: holes at 1001, 1201, 1401, 1601 and 1801.
    for hole in 0..5 {
        lab.at(600 + u64::from(hole), client(ACK, 1101 + hole * 200, 5001).len(100));
    }
    for hole in 0..5 {
        lab.at(700, client(ACK, 1001 + hole * 200, 5001).len(100));
    }
    let observation = lab.observe();
    assert_eq!(observation.losses.get("tcp_state.holes"), Some(&1));
    let tcp = observation.tcp.expect("there is a report");
    assert_eq!((tcp.out_of_order, tcp.retransmissions), (4, 1), "the forgotten hole's segment counts as sent again");
}

#[test]
fn keep_alives_are_not_retransmissions() {
    let mut lab = Lab::new();
    lab.handshake().at(600, client(ACK, 1001, 5001).len(100)).at(700, server(ACK, 5001, 1101));
    // RFC 1122 section 4.2.3.6: next - 1, without data or with one byte of garbage.
    lab.at(10_000_000, client(ACK, 1100, 5001)).at(10_000_100, server(ACK, 5001, 1101));
    lab.at(20_000_000, client(ACK, 1100, 5001).len(1)).at(20_000_100, server(ACK, 5001, 1101));
    let connection = lab.connection();
    assert_eq!(connection.retransmissions, both(0, 0));
    assert_eq!(connection.duplicate_acks, both(0, 0), "nothing is outstanding that the answers could ask for");
    assert_eq!(connection.payload, both(100, 0));
}

#[test]
fn one_byte_that_was_not_acknowledged_is_a_retransmission() {
    let mut lab = Lab::new();
    // A key pressed in a shell: one byte, lost, sent again. It has the form of a keep-alive.
    lab.handshake().at(600, client(ACK, 1001, 5001).len(1)).at(200_600, client(ACK, 1001, 5001).len(1));
    assert_eq!(lab.connection().retransmissions, both(1, 0));
}

#[test]
fn zero_window_probes_are_not_retransmissions() {
    let mut lab = Lab::new();
    lab.handshake().at(600, client(ACK, 1001, 5001).len(100)).at(700, server(ACK, 5001, 1101).window(0));
    // One new byte, refused twice, then taken.
    lab.at(200_000, client(ACK, 1101, 5001).len(1)).at(200_100, server(ACK, 5001, 1101).window(0));
    lab.at(600_000, client(ACK, 1101, 5001).len(1)).at(600_100, server(ACK, 5001, 1101).window(0));
    let connection = lab.connection();
    assert_eq!((connection.retransmissions, connection.payload), (both(0, 0), both(100, 0)));
    lab.at(1_400_000, client(ACK, 1101, 5001).len(1)).at(1_400_100, server(ACK, 5001, 1102).window(500));
    lab.at(1_400_200, client(ACK, 1102, 5001).len(100));
    let connection = lab.connection();
    assert_eq!((connection.retransmissions, connection.out_of_order), (both(0, 0), both(0, 0)));
    assert_eq!(connection.payload, both(201, 0), "100 bytes, the probe's byte, 100 bytes");
    assert_eq!(connection.zero_windows, both(0, 3));
}

#[test]
fn refused_probe_byte_is_sent_as_data_once_the_window_opens() {
    let mut lab = Lab::new();
    lab.handshake().at(600, client(ACK, 1001, 5001).len(100)).at(700, server(ACK, 5001, 1101).window(0));
    lab.at(200_000, client(ACK, 1101, 5001).len(1)).at(200_100, server(ACK, 5001, 1101).window(0));
    lab.at(300_000, server(ACK, 5001, 1101).window(500)).at(300_100, client(ACK, 1101, 5001).len(50));
    let connection = lab.connection();
    assert_eq!((connection.retransmissions, connection.payload), (both(0, 0), both(150, 0)));
}

#[test]
fn fin_is_a_number_of_its_own_and_may_be_sent_again() {
    let mut lab = Lab::new();
    lab.handshake().at(600, client(FIN | ACK, 1001, 5001).len(10)).at(200_600, client(FIN | ACK, 1001, 5001).len(10));
    lab.at(400_600, client(FIN | ACK, 1011, 5001));
    let connection = lab.connection();
    assert_eq!(connection.retransmissions, both(2, 0));
    assert_eq!(connection.payload, both(10, 0));
    assert_eq!(connection.state, "fin_wait");
}

#[test]
fn fin_that_fills_a_hole_is_not_payload() {
    let mut lab = Lab::new();
    // Midstream, so that numbers after the FIN can be seen at all: a pure ACK after the FIN was lost.
    lab.handshake().at(600, client(ACK, 1012, 5001)).at(300_000, client(FIN | ACK, 1001, 5001).len(10));
    let connection = lab.connection();
    assert_eq!((connection.payload, connection.retransmissions), (both(10, 0), both(1, 0)));
    assert_eq!(connection.state, "fin_wait");
}

#[test]
fn numbers_wrap_around() {
    let mut lab = Lab::new();
    // The client's SYN is 2^32 - 51: its first 100 bytes are 2^32 - 50 .. 50.
    let isn = 0u32.wrapping_sub(51);
    let first = isn.wrapping_add(1);
    lab.at(0, client(SYN, isn, 0)).at(400, server(SYN | ACK, u32::MAX, first)).at(500, client(ACK, first, 0));
    lab.at(600, client(ACK, first, 0).len(100)).at(700, server(ACK, 0, 50));
    // 150..250 overtakes 50..150; then the very first bytes again.
    lab.at(800, client(ACK, 150, 0).len(100)).at(810, client(ACK, 50, 0).len(100));
    lab.at(900_000, client(ACK, first, 0).len(100));
    lab.at(900_100, server(ACK, 0, 250).len(5));
    let tcp = lab.tcp();
    let connection = &tcp.connections[0];
    assert_eq!(connection.state, "established");
    assert_eq!(tcp.handshakes[0].rtt_us, 500.0);
    assert_eq!((connection.out_of_order, connection.retransmissions), (both(1, 0), both(1, 0)));
    assert_eq!(connection.payload, both(300, 5));
    assert_eq!(connection.rtt_to_server.samples, 1, "600 to 700 µs; the rest came late or again");
}

#[test]
fn numbers_outside_any_window_are_ignored() {
    let mut lab = Lab::new();
    lab.handshake().at(600, client(ACK, 1001, 5001).len(100));
    lab.at(700, client(ACK, 1101 + (1 << 30), 5001).len(100)).at(710, client(ACK, 1101, 5001).len(100));
    let connection = lab.connection();
    assert_eq!(
        (connection.payload, connection.retransmissions, connection.out_of_order),
        (both(200, 0), both(0, 0), both(0, 0))
    );
}

#[test]
fn what_came_before_a_midstream_start_may_be_out_of_order() {
    let mut lab = Lab::new();
    // No handshake, so 3 ms are allowed.
    lab.at(0, client(ACK, 2001, 5001).len(100)).at(3000, client(ACK, 1901, 5001).len(100));
    lab.at(3001, client(ACK, 1801, 5001).len(100));
    let connection = lab.connection();
    assert_eq!((connection.out_of_order, connection.retransmissions), (both(1, 0), both(1, 0)));
    assert_eq!(connection.payload, both(300, 0));
}

#[test]
fn text_in_a_rst_is_no_payload() {
    let mut lab = Lab::new();
    lab.handshake().at(600, server(RST | ACK, 5001, 1001).len(20));
    assert_eq!(lab.connection().payload, both(0, 0));
    assert_eq!(lab.connection().state, "reset");
}
