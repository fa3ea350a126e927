//! `bpflab flood`, `bpflab synth --flood`, and `--engine`: what is counted, and what is refused.

use crate::support::{Ended, Lab, keepalive};

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
    lab.replay(&capture, "--engine sendmmsg --mode lockstep").refused(&["--engine needs wire mode"]);
}

fn synth(lab: &Lab, args: &str) -> Ended {
    lab.bpflab(["synth"].into_iter().chain(args.split_whitespace()))
}

#[test]
fn traffic_of_the_catalogue_is_flooded_without_a_file() {
    let lab = Lab::new();
    let args = "udp-flood --count 3000 --set payload=100 --seed 9 --topology bridge --flood --loop 4 --json --quiet";
    let document = synth(&lab, args).passed().json();
    let client = &document["client"];
    for (what, count) in [("sent", 12_000), ("taken_in", 12_000), ("sent_bytes", 12_000 * 142)] {
        assert_eq!(client[what], count, "{what}");
    }
    assert_eq!((&document["lost"], &document["server"]["arrived"]), (&0.into(), &client["sent"]));
    let capture = &document["capture"];
    assert_eq!((&capture["file"], &capture["packets"]), (&"udp-flood".into(), &3_000.into()));
    let spec = &document["synth"][0];
    assert_eq!((&spec["name"], &spec["seed"], &spec["count"]), (&"udp-flood".into(), &9.into(), &3_000.into()));
    assert!(std::fs::read_dir(lab.path()).unwrap().next().is_none(), "nothing is written");

    let text = "http-transactions --ip both --topology router --flood --engine sendmmsg";
    synth(&lab, text).passed().says(&["traffic    http-transactions: ", "(asked for)", "every frame was seen"]);
}

#[test]
fn more_frames_than_can_ever_be_sent_end_with_the_time() {
    let lab = Lab::new();
    let args = "syn-flood --count 18446744073709551615 --topology bridge --flood --seconds 1 --memory 4 --json --quiet";
    let document = synth(&lab, args).passed().json();
    let sent = document["client"]["sent"].as_u64().unwrap();
    assert!(sent > 1_000 && document["elapsed_s"].as_f64() > Some(1.0), "{document}");
    assert_eq!((&document["lost"], &document["interrupted"]), (&0.into(), &false.into()));
    // What was made is at least what was sent: there is no second time through.
    assert!(document["capture"]["packets"].as_u64() >= Some(sent), "{document}");
}

#[test]
fn made_traffic_that_makes_no_sense_is_refused() {
    let lab = Lab::new();
    let capture = keepalive();
    let over = format!("syn-flood --topology bridge --flood --with {}", capture.display());
    for (args, said) in [
        ("syn-flod --topology bridge --flood", "did you mean `syn-flood`?"),
        ("syn-flood --flood", "--topology"),
        ("syn-flood --flood -w out.pcapng", "cannot be used with"),
        (&over, "cannot be used with"),
        ("syn-flood --topology bridge --flood --speed 10x", "cannot be used with"),
        ("syn-flood --topology bridge --flood --mode wire", "cannot be used with"),
        ("syn-flood --topology bridge --loop 2", "--loop goes with --flood"),
        ("syn-flood --topology bridge --memory 64", "--memory goes with --flood"),
        ("syn-flood --topology bridge --flood --loop 0", "--loop"),
        ("syn-flood --topology bridge --flood --loop 2 --seconds 1", "cannot be used with"),
        ("syn-flood --topology bridge --flood --count 0", "syn-flood: there is nothing to send"),
        ("syn-flood --topology bridge --flood --duration inf", "a duration of inf s"),
        ("syn-flood --topology ring --flood", "not a preset"),
        ("syn-flood --target 203.0.113.9 --topology bridge --flood", "is no target in the topology"),
    ] {
        synth(&lab, args).refused(&[said]);
    }
    // A capture is what `flood` takes; it says where the other is.
    lab.bpflab(["flood", "syn-flood"]).refused(&["bpflab synth syn-flood --topology bridge --flood"]);
    let path = capture.to_str().unwrap();
    lab.bpflab(["flood", path, path]).refused(&["unexpected argument"]);
}
