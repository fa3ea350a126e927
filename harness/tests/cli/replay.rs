//! `bpflab replay`: what is printed, where to, and under which options.

use bpflab::capture::{Options, Survey};
use serde_json::Value;

use crate::support::{Lab, keepalive, ledger, pcap};

const KEYS: [&str; 13] = [
    "version",
    "capture",
    "kernel",
    "mode",
    "ledger",
    "flows",
    "tcp",
    "drops",
    "malformed",
    "dns",
    "http",
    "tls",
    "losses",
];

fn statuses(document: &Value) -> Vec<u64> {
    document["http"].as_array().unwrap().iter().map(|exchange| exchange["status"].as_u64().unwrap()).collect()
}

#[test]
fn both_modes_tell_the_same_of_a_capture_under_its_own_times() {
    let lab = Lab::new();
    let lockstep = lab.document(&keepalive(), "--mode lockstep");
    let wire = lab.document(&keepalive(), "--mode wire");
    for (document, mode) in [(&lockstep, "lockstep"), (&wire, "wire")] {
        for key in KEYS {
            assert!(document.get(key).is_some(), "{mode}: no `{key}`");
        }
        assert_eq!(document["version"], 1);
        assert_eq!(document["mode"], mode);
        assert_eq!(document["clock"], "capture");
        assert_eq!(document["capture"]["packets"], 20);
        assert_eq!(ledger(document), [20, 20, 0, 0, 0], "{mode}");
        assert_eq!(statuses(document), [200, 200, 404, 200, 304], "{mode}");
    }
    // On the wire a probe can be missed on a busy machine, and the answer says so; lockstep misses nothing.
    assert_eq!(lockstep["losses"], serde_json::json!({}));
    for key in ["capture", "flows", "tcp", "http", "drops", "malformed", "hooks"] {
        assert_eq!(lockstep[key], wire[key], "{key}");
    }
}

#[test]
fn lockstep_is_the_same_to_the_byte() {
    let lab = Lab::new();
    let [first, second] = [(); 2].map(|()| lab.replay(&keepalive(), "--mode lockstep --json").passed().out);
    assert_eq!(first, second);
}

#[test]
fn the_report_for_people_names_the_capture_and_closes_the_account() {
    let lab = Lab::new();
    let report =
        lab.replay(&keepalive(), "--mode lockstep").passed().says(&["http-keepalive.pcap", "404", "10.66.0.2:80"]);
    assert!(!report.out.contains('\u{1b}'), "no colours where there is no terminal");
}

#[test]
fn programs_that_are_left_out_say_nothing() {
    let document = Lab::new().document(&keepalive(), "--mode lockstep --programs flows");
    assert_eq!(document["flows"].as_array().unwrap().len(), 2);
    assert_eq!(document["tcp"], Value::Null);
    assert_eq!(document["http"], serde_json::json!([]));
    // One program set at XDP and none at tc, so a packet still meets a hook.
    assert_eq!(ledger(&document), [20, 20, 0, 0, 0]);

    Lab::new().replay(&keepalive(), "--programs flow").refused(&["'flow'", "--programs", "flows"]);
    let text = "--programs tcp_state --drop-malformed";
    Lab::new().replay(&keepalive(), text).refused(&["--drop-malformed needs the program flows"]);
}

#[test]
fn a_filter_and_a_limit_choose_packets() {
    let lab = Lab::new();
    let capture = keepalive();
    let filtered = |more: &[&str]| {
        let mut args = vec!["replay", capture.to_str().unwrap(), "--json", "--mode", "lockstep"];
        args.extend(more);
        lab.bpflab(args)
    };
    // All but the ARP request and its answer.
    let document = filtered(&["--filter", "tcp port 80"]).passed().json();
    assert_eq!(ledger(&document)[0], 18);
    assert_eq!(document["flows"].as_array().unwrap().len(), 1);

    let document = filtered(&["--filter", "tcp port 80", "--limit", "3"]).passed().json();
    assert_eq!(ledger(&document)[0], 3);
    assert_eq!(document["tcp"]["handshakes"].as_array().unwrap().len(), 1, "the limit counts after the filter");

    let document = filtered(&["--filter", "udp"]).passed().json();
    assert_eq!(ledger(&document)[0], 0);
    assert_eq!(document["capture"]["findings"][0]["kind"], "nothing_selected");

    filtered(&["--filter", "tcp prt 80"]).refused(&["filter expression `tcp prt 80`", "syntax error"]);
    filtered(&["--limit", "many"]).refused(&["'many'", "--limit"]);
}

#[test]
fn a_speed_is_a_factor_a_rate_or_top() {
    let lab = Lab::new();
    for speed in ["fast", "-1x", "0", "x", "nan"] {
        lab.replay(&keepalive(), &format!("--speed={speed}")).refused(&["--speed", "is not a speed", speed]);
    }
    // 20 packets at 1000 a second: the last is due 19 ms after the first, and sent as much earlier as it takes to arrive.
    let document = lab.document(&keepalive(), "--mode wire --speed 1000");
    assert_eq!(ledger(&document), [20, 20, 0, 0, 0]);
    assert!(document["pacing"]["elapsed_s"].as_f64().unwrap() >= 0.0188, "{}", document["pacing"]);
    // By the kernel where that can, by sockets where they are asked for.
    let has_live_frames = bpflab::kernel::probe::unmet(&["xdp-live-frames".parse().unwrap()]).is_empty();
    assert!(document["engine"].as_str().unwrap().contains("each frame waits in the kernel") || !has_live_frames);
    let document = lab.document(&keepalive(), "--mode wire --speed 1000 --engine sendmmsg");
    assert_eq!(ledger(&document), [20, 20, 0, 0, 0]);
    assert_eq!(document["engine"], "sendmmsg + qdisc bypass (asked for)");
}

#[test]
fn the_kernels_clock_gives_times_of_the_replay() {
    let document = Lab::new().document(&keepalive(), "--mode wire --clock kernel --speed 20");
    assert_eq!(document["clock"], "kernel");
    assert_eq!(ledger(&document), [20, 20, 0, 0, 0]);
    assert_eq!(statuses(&document), [200, 200, 404, 200, 304]);
    // Captured within 1 ms; sent at 20 packets a second, the connection's 18 packets take 17 gaps of 50 ms. A late
    // first packet shortens that, so the bound is far below it.
    let tcp = document["flows"].as_array().unwrap().iter().find(|flow| flow["proto"] == "tcp").unwrap();
    let duration_us = tcp["duration_us"].as_f64().unwrap();
    assert!(duration_us > 100_000.0, "{duration_us}");
}

#[test]
fn the_answer_goes_to_a_file_on_request() {
    let lab = Lab::new();
    let ended = lab.replay(&keepalive(), "--mode lockstep --json --output made/answer.json --quiet").passed();
    assert_eq!((ended.out.as_str(), ended.err.as_str()), ("", ""));
    let document: Value = serde_json::from_str(&lab.read("made/answer.json")).unwrap();
    assert_eq!(ledger(&document)[0], 20);

    lab.write("taken", "a file");
    lab.replay(&keepalive(), "--mode lockstep --json --output taken/answer.json").refused(&["taken"]);
}

#[test]
fn artefacts_hold_what_was_offered_and_what_arrived() {
    let lab = Lab::new();
    let document = lab.document(&keepalive(), "--mode wire --artefacts kept/here");
    let packets = |name: &str| {
        let path = lab.path().join("kept/here").join(name);
        Survey::of(&path, &Options::default()).unwrap().packets
    };
    assert_eq!(packets("offered.pcapng"), 20);
    assert_eq!(packets("received.pcapng"), 20);
    let record: Value = serde_json::from_str(&lab.read("kept/here/record.json")).unwrap();
    assert_eq!(record, document);
    // What was offered is a capture like the one it came from.
    let again = lab.document(&lab.path().join("kept/here/offered.pcapng"), "--mode lockstep");
    assert_eq!(again["flows"], document["flows"]);
    assert_eq!(again["http"], document["http"]);

    lab.document(&keepalive(), "--mode lockstep --limit 7 --artefacts lockstep");
    let survey = Survey::of(&lab.path().join("lockstep/offered.pcapng"), &Options::default()).unwrap();
    assert_eq!(survey.packets, 7);
}

#[test]
fn standard_input_is_a_capture_too() {
    let lab = Lab::new();
    let args = ["replay", "-", "--json", "--mode", "lockstep"];
    let mut piped = lab.piped(&args, std::fs::read(keepalive()).unwrap()).passed().json();
    let mut named = lab.document(&keepalive(), "--mode lockstep");
    assert_eq!(piped["capture"]["file"], "-");
    for document in [&mut piped, &mut named] {
        document["capture"]["file"].take();
    }
    assert_eq!(piped, named);
    let refused = lab.piped(&args, Vec::new()).refused(&["standard input", "empty"]);
    assert!(!refused.err.contains("/tmp"), "a file that nobody named is not spoken of: {}", refused.err);
}

#[test]
fn the_host_answers_by_itself_for_closed_ports() {
    let document = Lab::new().document(&pcap("closed-port.pcap"), "--mode wire --topology host");
    assert_eq!(document["topology"], "host");
    let [offered, delivered, dropped, consumed, unaccounted] = ledger(&document);
    // ARP, TCP SYN and UDP over IPv4; neighbour solicitation, TCP SYN and UDP over IPv6. The server's six are its own.
    assert_eq!((offered, delivered, unaccounted), (6, 0, 0));
    assert_eq!(dropped + consumed, 6);
    let no_socket = &document["ledger"]["dropped_by"]["NO_SOCKET"];
    assert_eq!(no_socket, 4, "TCP and UDP, IPv4 and IPv6: {}", document["ledger"]);
    // As the capture has it: two RST and two ICMP errors, here made by this kernel.
    assert_eq!(document["ledger"]["generated"], 4);
    let note = document["notes"][0].as_str().unwrap();
    assert!(note.contains("6 frames of the server's side were not offered"), "{note}");
}

#[test]
fn a_router_delivers_what_it_can_route() {
    let document = Lab::new().document(&keepalive(), "--mode wire --topology router");
    assert_eq!(document["topology"], "router");
    // The router keeps the ARP request and its answer to itself.
    assert_eq!(ledger(&document), [20, 18, 0, 2, 0]);
    assert_eq!(statuses(&document), [200, 200, 404, 200, 304]);
}

/// A bridge between two hosts, as one would write it by hand.
const WRITTEN_OUT: &str = r#"
name = "by-hand"

[[hosts]]
name = "left"
role = "client"

[[hosts]]
name = "middle"
role = "dut"
bridges = [{ name = "br0", ports = ["in", "out"] }]

[[hosts]]
name = "right"
role = "server"

[[links]]
ends = [{ host = "left", interface = "eth0" }, { host = "middle", interface = "in", xdp = true }]

[[links]]
ends = [{ host = "middle", interface = "out", xdp = true }, { host = "right", interface = "eth0" }]
"#;

#[test]
fn a_topology_may_be_written_out() {
    let lab = Lab::new();
    lab.write("hand.toml", WRITTEN_OUT);
    let document = lab.document(&keepalive(), "--mode wire --topology hand.toml");
    assert_eq!(document["topology"], "by-hand");
    assert_eq!(ledger(&document), [20, 20, 0, 0, 0]);
    assert_eq!(statuses(&document), [200, 200, 404, 200, 304]);
}

#[test]
fn options_of_wire_mode_are_refused_in_lockstep_mode() {
    let lab = Lab::new();
    for option in ["--topology router", "--speed 1x", "--clock kernel"] {
        let name = option.split(' ').next().unwrap_or_default();
        let args = format!("--mode lockstep {option}");
        lab.replay(&keepalive(), &args).refused(&[&format!("{name} needs wire mode")]);
    }
    let args = "--mode lockstep --programs flows,latency";
    lab.replay(&keepalive(), args).refused(&["--programs latency needs wire mode"]);
}

#[test]
fn latency_is_told_only_if_asked_for() {
    let lab = Lab::new();
    assert!(lab.document(&keepalive(), "--mode wire").get("latency").is_none());
    let document = lab.document(&keepalive(), "--mode wire --topology host --programs latency");
    let latency = &document["latency"];
    assert_eq!(latency["stages"][0]["stage"], "driver");
    assert_eq!(latency["stages"][1]["since"], "driver");
    // What is measured has a probe, and what is not has a reason.
    let probes = latency["probes"].as_array().unwrap();
    assert!(probes.iter().all(|probe| probe["by"].is_string() || probe["reason"].is_string()), "{probes:#?}");
    let text = lab.replay(&keepalive(), "--mode wire --topology host --programs latency");
    text.passed().says(&["Latency", "measured by", "netif_receive_skb", "by flow"]);
}

#[test]
fn a_wrong_topology_is_refused_by_name() {
    let lab = Lab::new();
    let refused = |file: &str, parts: &[&str]| {
        lab.replay(&keepalive(), &format!("--mode wire --topology {file}")).refused(&[&[file], parts].concat());
    };
    refused("ring", &["not a preset (bridge, router, host)"]);
    lab.write("typo.toml", WRITTEN_OUT.replace("bridges =", "brigdes ="));
    refused("typo.toml", &["unknown field `brigdes`", "line 11"]);
    lab.write("far.toml", WRITTEN_OUT.replace(r#"host = "right""#, r#"host = "elsewhere""#));
    refused("far.toml", &["elsewhere"]);
    lab.write("no-dut.toml", WRITTEN_OUT.replace("role = \"dut\"\n", ""));
    refused("no-dut.toml", &["dut"]);
}
