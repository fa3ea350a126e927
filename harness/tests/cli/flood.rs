//! `bpflab flood`, and `--engine`: what is counted, and what is refused.

use crate::support::{Lab, keepalive};

#[test]
fn a_flood_counts_at_both_ends() {
    let lab = Lab::new();
    let capture = keepalive();
    let args = ["flood".as_ref(), capture.as_os_str(), "--loop".as_ref(), "500".as_ref(), "--json".as_ref()];
    let document = lab.bpflab(args).passed().json();
    // 20 packets, 500 times.
    let (client, server) = (&document["client"], &document["server"]);
    let sum = |what: &str| client[what].as_u64().unwrap() + server[what].as_u64().unwrap();
    assert_eq!((sum("sent"), sum("taken_in"), document["lost"].as_u64()), (10_000, 10_000, Some(0)));
    assert_eq!(client["arrived"], server["sent"]);
    assert_eq!((document["version"].as_u64(), document["interrupted"].as_bool()), (Some(1), Some(false)));
    assert!(document["rate_pps"].as_f64().unwrap() > 1_000.0, "{document}");

    let args = ["flood".as_ref(), capture.as_os_str(), "--engine".as_ref(), "sendmmsg".as_ref()];
    lab.bpflab(args).passed().says(&["sendmmsg + qdisc bypass (asked for)", "every frame was seen"]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let lab = Lab::new();
    let capture = keepalive();
    let flood = |args: &[&str]| {
        let all = ["flood", capture.to_str().unwrap()].iter().chain(args).copied().collect::<Vec<_>>();
        lab.bpflab(all)
    };
    flood(&["--loop", "0"]).refused(&["--loop"]);
    flood(&["--loop", "2", "--seconds", "1"]).refused(&["--seconds"]);
    flood(&["--topology", "ring"]).refused(&["ring"]);
    lab.bpflab(["flood", "no-such.pcap"]).refused(&["no-such.pcap"]);
    lab.replay(&capture, "--engine live-frames --speed 1x")
        .refused(&["cannot send by live frames: the pace is 1x, and live frames know top speed only"]);
    lab.replay(&capture, "--engine sendmmsg --mode lockstep").refused(&["--engine needs wire mode"]);
}
