//! Timestamps wherever they stand among the options. The proof that they were read: a segment that fills a hole
//! quickly, but with a newer TSval, is a retransmission; unread, it would be out of order.

use bpflab_programs::packet::ACK;

use super::{Lab, client};

/// TSval 70 and 71, TSecr 1.
const OLD: [u8; 10] = [8, 10, 0, 0, 0, 70, 0, 0, 0, 1];
const NEW: [u8; 10] = [8, 10, 0, 0, 0, 71, 0, 0, 0, 1];

/// Whether the timestamps of segments with these bytes around them are read.
fn read(before: &[u8], after: &[u8]) -> bool {
    let around = |option: &[u8]| [before, option, after].concat();
    let mut lab = Lab::new();
    lab.handshake().at(600, client(ACK, 1101, 5001).len(100).options(&around(&OLD)));
    lab.at(700, client(ACK, 1001, 5001).len(100).options(&around(&NEW)));
    let connection = lab.connection();
    assert_eq!(connection.out_of_order.a_to_b + connection.retransmissions.a_to_b, 1);
    connection.retransmissions.a_to_b == 1
}

#[test]
fn timestamps_are_found_in_any_place() {
    assert!(read(&[1, 1], &[]), "the layout of RFC 7323 appendix A");
    assert!(read(&[], &[1, 1]));
    assert!(read(&[], &[0, 0]), "padded with end of list");
    // Linux's SYN: MSS, SACK permitted, timestamps, NOP, window scale.
    assert!(read(&[2, 4, 5, 180, 4, 2], &[1, 3, 3, 7]));
    // Three SACK blocks before them: 2 + 26 + 10 + 2 = 40 bytes.
    let mut sack = vec![1, 1, 5, 26];
    sack.extend([0; 24]);
    assert!(read(&sack, &[1, 1]));
    // Thirty NOPs: as many options as fit.
    assert!(read(&[1; 30], &[]));
}

#[test]
fn damaged_options_end_the_search() {
    assert!(!read(&[0, 0], &[]), "nothing counts after the end of the list");
    assert!(!read(&[3, 0], &[]), "an option cannot be shorter than its kind and length");
    assert!(!read(&[254, 1], &[]));
    assert!(!read(&[254, 39], &[]), "an option that reaches past the header");
    assert!(!read(&[254, 255], &[]));
}

#[test]
fn option_cut_by_the_end_of_the_header_is_not_read() {
    // Kind and length of timestamps in the last 4 of 12 bytes.
    let mut lab = Lab::new();
    let cut = [1, 1, 1, 1, 1, 1, 1, 1, 8, 10, 0, 70];
    lab.handshake().at(600, client(ACK, 1101, 5001).len(100).options(&cut));
    lab.at(700, client(ACK, 1001, 5001).len(100).options(&cut));
    assert_eq!(lab.connection().out_of_order.a_to_b, 1);
}
