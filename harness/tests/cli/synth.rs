//! `bpflab synth`: the list, files, and traffic through a topology.

use crate::support::{Ended, Lab, ledger, pcap};

fn synth(lab: &Lab, args: &str) -> Ended {
    lab.bpflab(["synth"].into_iter().chain(args.split_whitespace()))
}

#[test]
fn the_list_has_every_entry_with_its_parameters() {
    let lab = Lab::new();
    let text = synth(&lab, "--list").passed().out;
    for part in ["syn-flood", "port=80", "window=64240 bytes", "slowloris", "modbus-transactions"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let document = synth(&lab, "--list --json").passed().json();
    assert_eq!(document["version"], 1);
    let entries = document["entries"].as_array().unwrap();
    assert!(entries.len() >= 50, "{}", entries.len());
    assert!(entries.iter().all(|entry| entry["count"].as_u64() > Some(0) && entry["source"].is_string()));
    let text = synth(&lab, "syn-flood --describe").passed().out;
    assert!(text.contains("RFC 4987") && text.contains("0 to 65535 bytes"), "{text}");
}

#[test]
fn a_file_has_what_was_asked_for() {
    let lab = Lab::new();
    let args = "udp-flood --set payload=100 --count 500 --rate 1000 --seed 3 --ip both";
    let document = synth(&lab, &format!("{args} -w one.pcapng --json")).passed().json();
    assert_eq!((&document["packets"], &document["version"]), (&500.into(), &1.into()));
    // Headers of 42 and 62 bytes, 250 packets each.
    assert_eq!(document["bytes"], 250 * 142 + 250 * 162);
    assert_eq!(document["duration_s"], 0.499);
    synth(&lab, &format!("{args} -w two.pcapng")).passed();
    let [one, two] = ["one.pcapng", "two.pcapng"].map(|name| std::fs::read(lab.path().join(name)).unwrap());
    assert_eq!(one, two, "the same seed gives the same bytes");
}

#[test]
fn traffic_goes_through_a_topology_and_over_a_capture() {
    let lab = Lab::new();
    for mode in ["lockstep", "wire"] {
        let flood = synth(&lab, &format!("syn-flood --count 50 --topology bridge --mode {mode} --json --quiet"));
        let document = flood.passed().json();
        assert_eq!(document["capture"]["file"], "syn-flood");
        assert_eq!(ledger(&document), [50, 50, 0, 0, 0], "{mode}");
        assert_eq!(document["tcp"]["half_open"], 50);
    }
    // 50 SYNs to a port that is closed: each is dropped, and answered with an RST.
    let host = synth(&lab, "syn-flood --count 50 --topology host --mode wire --json --quiet").passed().json();
    assert_eq!(ledger(&host), [50, 0, 50, 0, 0]);
    let capture = pcap("http-keepalive.pcap");
    let mixed = format!("syn-flood --count 5 --with {} --topology bridge --mode lockstep --json -q", capture.display());
    let document = synth(&lab, &mixed).passed().json();
    assert_eq!((ledger(&document)[0], document["http"].as_array().unwrap().len()), (25, 5));
}

#[test]
fn a_rate_that_is_not_reached_is_told() {
    let lab = Lab::new();
    // A packet a nanosecond.
    let args = "udp-flood --count 2000 --rate 1000000000 --topology bridge --mode wire --json --quiet";
    let document = synth(&lab, args).passed().json();
    let notes = document["notes"].to_string();
    assert!(notes.contains("1000000000 packets/s were asked for"), "{notes}");
}

#[test]
fn what_cannot_be_made_is_invalid_input() {
    let lab = Lab::new();
    for (args, said) in [
        ("syn-flod -w x", "did you mean `syn-flood`?"),
        ("syn-flood --set prt=1 -w x", "did you mean `port`?"),
        ("syn-flood --set port=70000 -w x", "is 0 to 65535, not 70000"),
        ("syn-flood --set port -w x", "it is written NAME=VALUE"),
        ("arp-spoofing --ip 6 -w x", "IPv6 has no ARP"),
        ("syn-flood --rate 0 -w x", "a rate of 0 a second is out of range"),
        ("syn-flood --shape ramp -w x", "is not a shape"),
        ("syn-flood", "goes nowhere"),
        (
            "syn-flood --target 203.0.113.9 --topology bridge",
            "is no target in the topology, which has client (10.71.0.1",
        ),
        ("syn-flood --target sever --topology bridge", "did you mean `server`?"),
        ("syn-flood --topology nowhere", "not a preset"),
        ("syn-flood --count 0 --topology bridge", "there is nothing to send"),
        ("syn-flood -w x --with missing.pcap", "missing.pcap"),
        ("syn-flood -w nowhere/x", "nowhere/x"),
        ("", "required"),
    ] {
        let ended = synth(&lab, args);
        assert_eq!(ended.code, Some(2), "{args}: {ended:?}");
        assert!(ended.err.contains(said), "{args}: {}", ended.err);
    }
}
