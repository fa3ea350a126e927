//! `bpflab minimize`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bpflab::capture::Writer;
use etherparse::PacketBuilder;
use serde_json::Value;

use crate::support::{Lab, keepalive};

/// 10,000 packets of 100 conversations: datagrams, and one segment with both SYN and FIN.
fn needle(folder: &Path) -> PathBuf {
    let path = folder.join("haystack.pcapng");
    let mut writer = Writer::create(&path).unwrap();
    for number in 0..10_000_u64 {
        let port = 1000 + u16::try_from(number % 100).unwrap();
        let payload = format!("packet number {number}");
        let mut data = Vec::new();
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let builder = builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        match number {
            6_543 => builder.tcp(port, 5300, 1, 1024).syn().fin().write(&mut data, payload.as_bytes()).unwrap(),
            _ => builder.udp(port, 5300).write(&mut data, payload.as_bytes()).unwrap(),
        }
        writer.write(1_700_000_000_000_000_000 + number * 1_000_000, &data, 0).unwrap();
    }
    writer.finish().unwrap();
    path
}

#[test]
fn one_guilty_packet_among_ten_thousand_is_found_and_becomes_a_scenario() {
    let lab = Lab::new();
    needle(lab.path());
    let condition = r#"malformed["bad_tcp_flags"] > 0"#;
    let into = ["-o", "small.pcapng", "--scenario", "found/flags"];
    std::fs::create_dir(lab.path().join("scenarios")).unwrap();
    let arguments = ["minimize", "haystack.pcapng", "--while", condition, "--programs", "flows", "--json"];
    let start = Instant::now();
    let ended = lab.bpflab(arguments.into_iter().chain(into));
    println!("took {:?}", start.elapsed());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let end = ended.out.find("\n}").unwrap() + 2;
    let report: Value = serde_json::from_str(&ended.out[..end]).unwrap();
    assert_eq!(report["packets_before"], 10_000);
    // 14 + 20 + 20 bytes: nothing of the payload is needed.
    assert_eq!((&report["packets"], &report["bytes"]), (&1.into(), &54.into()), "{report:#}");
    assert_eq!(report["complete"], true);
    // The segment is a conversation of its own.
    assert_eq!(report["stages"][0]["before"], 101);
    let text = lab.read("scenarios/found/flags/scenario.toml");
    assert!(text.contains("holds = [") && text.contains("sha256 = "), "{text}");
    let snapshot = lab.read("scenarios/found/flags/flags.snap.new");
    assert!(snapshot.contains("malformed\n  bad_tcp_flags: 1\n"), "{snapshot}");
}

#[test]
fn a_condition_that_is_wrong_or_does_not_hold_is_answered_by_its_own_exit_code() {
    let lab = Lab::new();
    let capture = keepalive().display().to_string();
    let run = |condition: &str| lab.bpflab(["minimize", &capture, "--while", condition, "-o", "small.pcapng"]);
    let ended = run("malformd > 0");
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.err.contains("did you mean `malformed`?") && ended.err.contains("^^^^^^^^"), "{ended:?}");
    let ended = run("malformed > 0");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("the condition does not hold"), "{ended:?}");
    assert!(!lab.path().join("small.pcapng").exists());
}
