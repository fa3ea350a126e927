//! `bpflab import`: options, the report, and what is left where something is wrong.

use super::support::{Lab, keepalive, pcap};

#[test]
fn an_import_says_what_it_did_and_its_output_can_be_replayed() {
    let lab = Lab::new();
    let capture = keepalive();
    let ended = lab.bpflab(["import".as_ref(), capture.as_os_str()]).passed();
    for part in ["20 read, 20 written", "different ipv4 addresses", "Could still identify someone", "Left out"] {
        assert!(ended.out.contains(part), "{part} in {}", ended.out);
    }
    assert!(lab.read("http-keepalive-imported.provenance.toml").contains("Crypto-PAn"));
    let document = lab.document(&lab.path().join("http-keepalive-imported.pcapng"), "--mode lockstep");
    assert_eq!(document["http"].as_array().map(Vec::len), Some(5));
    assert!(!document.to_string().contains("bpflab.example"));
}

#[test]
fn a_kept_key_repeats_an_import_to_the_byte() {
    let lab = Lab::new();
    let capture = pcap("dns-answers.pcap");
    let run = |options: &str| {
        let options = options.split_whitespace();
        lab.bpflab(["import", "--json", capture.to_str().unwrap()].into_iter().chain(options)).passed().json()
    };
    let first = run("-o first.pcapng --keep-key key --payload random --seed 3");
    let again = run("-o again.pcapng --key-file key --payload random --seed 3");
    assert_eq!(first["files"][0]["sha256"], again["files"][0]["sha256"]);
    assert_eq!(first["version"], 1);
    assert_ne!(run("-o other.pcapng")["files"][0]["sha256"], first["files"][0]["sha256"], "another key each time");
    let kept = lab.bpflab(["import", capture.to_str().unwrap(), "-o", "last.pcapng", "--keep-key", "key"]);
    assert_eq!(kept.code, Some(2), "a key is not written over: {}", kept.err);
    assert!(!lab.path().join("last.pcapng").exists());
}

#[test]
fn a_policy_file_and_options_decide_together() {
    let lab = Lab::new();
    lab.write("policy.toml", "payload = \"keep\"\nnames = \"keep\"\nkeep_headers = [\"User-Agent\"]\n");
    let capture = keepalive();
    let args = [
        "import",
        capture.to_str().unwrap(),
        "-o",
        "out.pcapng",
        "--policy",
        "policy.toml",
        "--names",
        "replace",
        "--json",
    ];
    let report = lab.bpflab(args).passed().json();
    assert_eq!((&report["policy"]["payload"], &report["policy"]["names"]), (&"keep".into(), &"replace".into()));
    let bytes = std::fs::read(lab.path().join("out.pcapng")).unwrap();
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("User-Agent: curl/") && !holds("www.bpflab"));
    let remaining = report["remaining"].to_string();
    assert!(remaining.contains("HTTP header user-agent") && remaining.contains("bytes of payload"), "{remaining}");
    lab.write("wrong.toml", "payloads = \"keep\"\n");
    let ended = lab.bpflab(["import", capture.to_str().unwrap(), "--policy", "wrong.toml"]);
    assert!(ended.code == Some(2) && ended.err.contains("unknown field `payloads`"), "{ended:?}");
}

#[test]
fn mistakes_leave_no_file() {
    let lab = Lab::new();
    let capture = keepalive();
    for (options, code, message) in [
        ("--from tomorrow", 2, "is no time"),
        ("--flow 10.0.0.1:80", 2, "is no flow"),
        ("--split hours", 2, "is none of `flow`"),
        ("--filter tcp-or-so", 2, "does not compile"),
        ("--from +1h", 4, "no packet of"),
        ("--key-file nowhere", 2, "cannot read key file"),
        ("--no-anonymise --payload zero", 2, "cannot be used with"),
        ("-o nowhere/out.pcapng", 2, "cannot write nowhere/out.pcapng"),
    ] {
        let options = options.split_whitespace();
        let ended = lab.bpflab(["import", capture.to_str().unwrap()].into_iter().chain(options.clone()));
        assert!(ended.code == Some(code) && ended.err.contains(message), "{ended:?}");
        assert_eq!(std::fs::read_dir(lab.path()).unwrap().count(), 0, "after {:?}", options.collect::<Vec<_>>());
    }
}

#[test]
fn without_anonymising_it_selects_and_converts_only() {
    let lab = Lab::new();
    let capture = pcap("linktype-sll2.pcap");
    let args = ["import", capture.to_str().unwrap(), "-o", "out.pcapng", "--no-anonymise"];
    let ended = lab.bpflab(args).passed();
    assert!(ended.out.contains("nothing was anonymised"), "{}", ended.out);
    assert!(lab.read("out.provenance.toml").contains("scrubbed = \"\""));
    let document = lab.document(&lab.path().join("out.pcapng"), "--mode lockstep");
    assert!(document["capture"].to_string().contains("ETHERNET"), "{}", document["capture"]);
    assert!(document.to_string().contains("10.66.0.1"));
}
