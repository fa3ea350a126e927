//! Duplicate acknowledgements, windows and round trips.

use bpflab_programs::packet::{ACK, FIN};

use super::{Lab, both, client, server};

/// A lab after the handshake with 300 bytes of the client under way, sent at 600, 610 and 620 µs; the server's window
/// is known to be 1000 and its last acknowledgement is 1001.
fn under_way() -> Lab {
    let mut lab = Lab::new();
    lab.handshake().at(550, server(ACK, 5001, 1001));
    for segment in 0..3 {
        lab.at(600 + u64::from(segment) * 10, client(ACK, 1001 + segment * 100, 5001).len(100));
    }
    lab
}

#[test]
fn duplicate_acknowledgement_meets_all_five_conditions() {
    let duplicates = |segment| under_way().at(700, segment).connection().duplicate_acks;
    assert_eq!(duplicates(server(ACK, 5001, 1001)), both(0, 1));
    assert_eq!(duplicates(server(ACK, 5001, 1001).len(1)), both(0, 0), "it carries data (b)");
    assert_eq!(duplicates(server(FIN | ACK, 5001, 1001)), both(0, 0), "it has FIN (c)");
    assert_eq!(duplicates(server(ACK, 5001, 1101)), both(0, 0), "it acknowledges something new (d)");
    assert_eq!(duplicates(server(ACK, 5001, 1001).window(999)), both(0, 0), "another window (e)");

    let mut lab = Lab::new();
    lab.handshake().at(550, server(ACK, 5001, 1001)).at(560, server(ACK, 5001, 1001));
    assert_eq!(lab.connection().duplicate_acks, both(0, 0), "nothing is outstanding (a)");
}

#[test]
fn three_duplicates_ask_for_a_fast_retransmission() {
    let mut lab = under_way();
    // The first 100 bytes were lost after the observer: each later segment draws one duplicate.
    for duplicate in 0..3 {
        lab.at(700 + duplicate, server(ACK, 5001, 1001));
    }
    lab.at(800, client(ACK, 1001, 5001).len(100)).at(900, server(ACK, 5001, 1301));
    let connection = lab.connection();
    assert_eq!(connection.duplicate_acks, both(0, 3));
    assert_eq!(connection.retransmissions, both(1, 0));
    assert_eq!(connection.rtt_to_server.samples, 0, "the acknowledgement covers data that was sent twice");
}

#[test]
fn window_of_the_syn_ack_is_not_compared() {
    let mut lab = Lab::new();
    // The SYN-ACK announces 65160 unscaled, the next acknowledgement 509 scaled: that is no update.
    lab.at(0, client(super::SYN, 1000, 0)).at(400, server(super::SYN | ACK, 5000, 1001).window(65_160));
    lab.at(500, client(ACK, 1001, 5001).len(10)).at(510, server(ACK, 5001, 1001).window(509));
    let connection = lab.connection();
    assert_eq!((connection.window_updates, connection.duplicate_acks), (both(0, 0), both(0, 0)));
}

#[test]
fn zero_window_and_the_update_that_ends_it() {
    let mut lab = under_way();
    lab.at(700, server(ACK, 5001, 1301).window(0));
    lab.at(5000, server(ACK, 5001, 1301).window(800));
    lab.at(6000, server(ACK, 5001, 1301).window(900));
    let connection = lab.connection();
    assert_eq!(connection.zero_windows, both(0, 1));
    assert_eq!(connection.window_updates, both(0, 2));
    assert_eq!(connection.duplicate_acks, both(0, 0));
}

#[test]
fn window_of_zero_counts_only_where_it_means_something() {
    let mut lab = Lab::new();
    lab.handshake().at(600, server(FIN | ACK, 5001, 1001).window(0)).at(700, client(super::RST, 1001, 0).window(0));
    assert_eq!(lab.connection().zero_windows, both(0, 0), "FIN and RST come with any window");
}

#[test]
fn round_trip_ends_with_the_acknowledgement_of_the_last_byte() {
    let mut lab = under_way();
    // 1101 acknowledges the segment of 600 µs, 1301 (delayed) that of 620 µs.
    lab.at(700, server(ACK, 5001, 1101)).at(1620, server(ACK, 5001, 1301));
    let rtt = lab.connection().rtt_to_server;
    assert_eq!((rtt.samples, rtt.min_us, rtt.mean_us, rtt.max_us), (2, 100.0, 550.0, 1000.0));
    assert_eq!(lab.connection().rtt_to_client.samples, 0);
}

#[test]
fn round_trips_of_both_directions_are_kept_apart() {
    let mut lab = Lab::new();
    lab.handshake();
    lab.at(1000, client(ACK, 1001, 5001).len(10)).at(1300, server(ACK, 5001, 1011).len(20));
    lab.at(1340, client(ACK, 1011, 5021));
    let connection = lab.connection();
    assert_eq!((connection.rtt_to_server.samples, connection.rtt_to_server.min_us), (1, 300.0));
    assert_eq!((connection.rtt_to_client.samples, connection.rtt_to_client.min_us), (1, 40.0));
}

#[test]
fn acknowledgement_inside_a_segment_measures_nothing() {
    let mut lab = under_way();
    lab.at(700, server(ACK, 5001, 1150)).at(710, server(ACK, 5001, 1201));
    let rtt = lab.connection().rtt_to_server;
    assert_eq!((rtt.samples, rtt.max_us), (1, 100.0), "only 1201 is the end of a segment, that of 610 µs");
}

#[test]
fn karn_leaves_out_what_was_sent_twice() {
    let mut lab = under_way();
    // 1001..1101 is sent again; which transmission does the acknowledgement of 1101 answer?
    lab.at(700, client(ACK, 1001, 5001).len(100)).at(750, server(ACK, 5001, 1101));
    lab.at(760, client(ACK, 1301, 5001).len(100)).at(860, server(ACK, 5001, 1401));
    assert_eq!(lab.connection().rtt_to_server.samples, 0, "1401 covers 1201..1301, which was under way as well");
    lab.at(900, client(ACK, 1401, 5001).len(100)).at(950, server(ACK, 5001, 1501));
    let rtt = lab.connection().rtt_to_server;
    assert_eq!((rtt.samples, rtt.min_us), (1, 50.0), "from here on everything was sent once");
}

#[test]
fn echoed_timestamp_tells_which_transmission_was_answered() {
    let samples = |tsecr| {
        let mut lab = Lab::new();
        lab.handshake().at(600, client(ACK, 1001, 5001).len(100).ts(10, 1));
        lab.at(700, client(ACK, 1001, 5001).len(100).ts(11, 1)).at(800, server(ACK, 5001, 1101).ts(1, tsecr));
        let rtt = lab.connection().rtt_to_server;
        (rtt.samples, rtt.max_us)
    };
    assert_eq!(samples(10), (1, 200.0), "the first transmission, of 600 µs");
    assert_eq!(samples(11), (0, 0.0), "the second");
}

#[test]
fn retransmission_in_the_same_tick_stays_ambiguous() {
    let mut lab = Lab::new();
    lab.handshake().at(600, client(ACK, 1001, 5001).len(100).ts(10, 1));
    lab.at(700, client(ACK, 1001, 5001).len(100).ts(10, 1)).at(800, server(ACK, 5001, 1101).ts(1, 10));
    assert_eq!(lab.connection().rtt_to_server.samples, 0);
}

#[test]
fn data_that_waited_behind_a_hole_measures_nothing() {
    let mut lab = Lab::new();
    lab.handshake();
    // 1101..1201 overtakes 1001..1101; the acknowledgement of both waited for the slower one.
    lab.at(600, client(ACK, 1101, 5001).len(100)).at(900, client(ACK, 1001, 5001).len(100));
    lab.at(950, server(ACK, 5001, 1201));
    assert_eq!(lab.connection().rtt_to_server.samples, 0);
}

#[test]
fn ninth_segment_under_way_is_not_measured() {
    let mut lab = Lab::new();
    lab.handshake();
    for segment in 0..10 {
        lab.at(600, client(ACK, 1001 + segment * 100, 5001).len(100));
    }
    for segment in 0..10 {
        lab.at(700, server(ACK, 5001, 1101 + segment * 100));
    }
    assert_eq!(lab.connection().rtt_to_server.samples, 8);
}

#[test]
fn acknowledgement_that_went_back_is_ignored() {
    let mut lab = under_way();
    lab.at(700, server(ACK, 5001, 1201)).at(710, server(ACK, 5001, 1101).window(900)).at(720, server(ACK, 5001, 1201));
    let connection = lab.connection();
    assert_eq!(connection.duplicate_acks, both(0, 1), "1201 twice with window 1000; 1101 came late");
    assert_eq!(connection.window_updates, both(0, 0));
}
