//! What is given as a capture and is none, or is one in parts: every message names the file and what it is.

use crate::support::{Lab, PCAP_HEADER, keepalive, ledger};

#[test]
fn what_is_no_capture_is_named() {
    let lab = Lab::new();
    let refused = |name: &str, parts: &[&str]| {
        lab.replay(name.as_ref(), "--mode lockstep --json").refused(&[&[name], parts].concat());
    };
    refused("nowhere.pcap", &["No such file"]);
    lab.write("empty.pcap", "");
    refused("empty.pcap", &["empty", "0 bytes"]);
    std::fs::create_dir(lab.path().join("folder")).unwrap();
    refused("folder", &["a directory"]);
    refused(env!("CARGO_BIN_EXE_bpflab"), &["ELF"]);
    lab.write("notes.txt", "captured on a Monday\n");
    refused("notes.txt", &["looks like text", "expected pcap or pcapng"]);
    refused("/dev/null", &["not a regular file"]);
}

#[test]
fn a_link_type_without_ethernet_is_named() {
    let lab = Lab::new();
    let mut bytes = std::fs::read(keepalive()).unwrap();
    // The link type is the last word of the header; 147 is DLT_USER0, which means something to its users only.
    bytes[PCAP_HEADER - 4] = 147;
    lab.write("user.pcap", bytes);
    lab.replay("user.pcap".as_ref(), "").refused(&["user.pcap", "USER0 (147)", "supported are Ethernet (1)"]);
}

#[test]
fn a_capture_cut_off_is_used_up_to_the_cut() {
    let lab = Lab::new();
    let bytes = std::fs::read(keepalive()).unwrap();
    // The last packet is an ACK of 66 bytes.
    lab.write("cut.pcap", &bytes[..bytes.len() - 30]);
    let document = lab.document("cut.pcap".as_ref(), "--mode lockstep");
    assert_eq!(ledger(&document), [19, 19, 0, 0, 0]);
    assert_eq!(document["capture"]["findings"][0]["kind"], "cut_off");
    lab.replay("cut.pcap".as_ref(), "--mode lockstep").passed().says(&["ends in the middle of a record"]);

    lab.write("header.pcap", &bytes[..PCAP_HEADER - 1]);
    lab.replay("header.pcap".as_ref(), "").refused(&["header.pcap", "cut off inside its pcap file header"]);
    lab.write("first.pcap", &bytes[..PCAP_HEADER + 3]);
    lab.replay("first.pcap".as_ref(), "").refused(&["first.pcap", "cut off inside its first record"]);
}

#[test]
fn a_capture_without_packets_is_whole_and_says_so() {
    let lab = Lab::new();
    lab.write("none.pcap", &std::fs::read(keepalive()).unwrap()[..PCAP_HEADER]);
    for mode in ["lockstep", "wire"] {
        let document = lab.document("none.pcap".as_ref(), &format!("--mode {mode}"));
        assert_eq!(ledger(&document), [0; 5], "{mode}");
        assert_eq!(document["capture"]["findings"][0]["kind"], "no_packets", "{mode}");
    }
    lab.replay("none.pcap".as_ref(), "--mode lockstep").passed().says(&["the capture has no packets"]);
}
