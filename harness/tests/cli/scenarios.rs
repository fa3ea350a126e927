//! `bpflab run`, `list` and `new`, on scenario folders made for the purpose.

use serde_json::Value;

use crate::support::{Lab, keepalive};

/// A lab whose `pcaps` folder has the capture, and a scenario of that name and text.
pub fn lab_with(name: &str, more: &str) -> Lab {
    let lab = Lab::new();
    std::fs::create_dir(lab.path().join("pcaps")).unwrap();
    std::fs::copy(keepalive(), lab.path().join("pcaps/http-keepalive.pcap")).unwrap();
    add(&lab, name, more);
    lab
}

/// Adds a scenario in lockstep mode of two packets (ARP), with its snapshot.
pub fn add(lab: &Lab, name: &str, more: &str) {
    let text = format!(
        "purpose = \"an address is asked for\"\nmodes = [\"lockstep\"]\n{more}\n[traffic]\ncapture = \"http-keepalive.pcap\"\nlimit = 2\n"
    );
    lab.write(&format!("scenarios/{name}.toml"), text);
    lab.write(&format!("scenarios/{name}.snap"), SNAPSHOT);
}

const SNAPSHOT: &str = "---
source: by hand
---
ledger
  offered 2 = delivered 2 + dropped 0 + consumed 0 + unaccounted 0
hooks
  xdp: 2 packets, 84 bytes
  tc_ingress: 2 packets, 84 bytes
  tc_egress: 2 packets, 84 bytes
flows
  arp 10.66.0.1 > 10.66.0.2: packets 1/1, bytes 42/42
";

#[test]
fn a_folder_that_is_not_there_is_named_with_the_option() {
    for command in ["run", "list"] {
        Lab::new().bpflab([command]).refused(&["the folder of the scenarios, scenarios", "`--scenarios`"]);
    }
}

#[test]
fn a_pattern_selects_by_part_of_the_name_or_as_a_glob() {
    let lab = lab_with("arp/asked", "");
    add(&lab, "arp/asked-twice", "");
    add(&lab, "other/one", "");
    lab.bpflab(["run"]).passed().says(&["3 passed, 0 failed"]);
    lab.bpflab(["run", "arp"]).passed().says(&["arp/asked [lockstep]", "arp/asked-twice", "2 passed, 0 failed"]);
    lab.bpflab(["run", "*/one"]).passed().says(&["other/one", "1 passed"]);
    // A name that is also part of another stands for itself: the command that repeats a failure names one scenario.
    lab.bpflab(["run", "arp/asked"]).passed().says(&["1 passed, 0 failed"]);
    lab.bpflab(["run", "udp"]).exits(4).complains(&["no scenario in scenarios is selected", "udp"]);
    lab.bpflab(["run", "--mode", "wire"]).exits(4).complains(&["no scenario"]);
    lab.bpflab(["run", "[a"]).refused(&["[a"]);
    lab.bpflab(["run", "--scenarios", "elsewhere"]).refused(&["elsewhere", "No such file"]);
    lab.bpflab(["run", "--quiet"]).passed().says(&["3 passed"]);
    assert!(!lab.path().join("reports/runs/arp-asked-lockstep").exists(), "a passed run keeps nothing");
}

#[test]
fn a_failure_says_what_where_and_how_to_repeat_it() {
    let lab = lab_with("arp/asked", "[expect]\n\"ledger.offered\" = 3\n\"flows.0.packets.a_to_b\" = { max = 0 }");
    std::fs::rename(lab.path().join("scenarios"), lab.path().join("my scenarios")).unwrap();
    let failed = lab.bpflab(["run", "--scenarios", "my scenarios", "--output", "records.jsonl"]).exits(1);
    let failed = failed.says(&[
        "arp/asked [lockstep]",
        "ledger.offered: expected 3, found 2",
        "flows.0.packets.a_to_b: expected at most 0, found 1",
        "artefacts: reports/runs/arp-asked-lockstep",
        "0 passed, 1 failed",
    ]);
    for name in ["offered.pcapng", "record.json"] {
        assert!(lab.path().join("reports/runs/arp-asked-lockstep").join(name).exists(), "{name}");
    }
    let record: Value = serde_json::from_str(lab.read("records.jsonl").trim_end()).unwrap();
    assert_eq!((&record["scenario"], &record["result"]), (&"arp/asked".into(), &"failed".into()));
    assert_eq!(record["reasons"].as_array().unwrap().len(), 2);

    // The printed command does repeat it, in a shell.
    let repeat = failed.out.lines().find_map(|line| line.trim().strip_prefix("repeat: bpflab ")).unwrap();
    let shell = format!("exec '{}' {repeat}", env!("CARGO_BIN_EXE_bpflab"));
    let mut again = std::process::Command::new("sh");
    let again = again.args(["-c", &shell]).current_dir(lab.path()).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    let out = String::from_utf8(again.stdout).unwrap();
    assert!(out.contains("0 passed, 1 failed"), "{out}");
}

#[test]
fn another_snapshot_or_none_fails() {
    let lab = lab_with("arp/asked", "");
    lab.write("scenarios/arp/asked.snap", SNAPSHOT.replace("packets 1/1", "packets 1/0"));
    lab.bpflab(["run"]).exits(1).says(&[
        "-  arp 10.66.0.1 > 10.66.0.2: packets 1/0, bytes 42/42",
        "+  arp 10.66.0.1 > 10.66.0.2: packets 1/1, bytes 42/42",
        "1 failed",
    ]);
    std::fs::remove_file(lab.path().join("scenarios/arp/asked.snap")).unwrap();
    lab.bpflab(["run"]).exits(1).says(&["there is no snapshot", "arp/asked.snap", "1 failed"]);
    assert!(!lab.path().join("scenarios/arp/asked.snap").exists(), "accepting a snapshot takes a person");
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_one() {
    let lab = lab_with("arp/asked", "fliter = \"arp\"");
    for command in ["run", "list"] {
        lab.bpflab([command]).refused(&["arp/asked.toml:3:1: unknown field `fliter`"]);
    }
    add(&lab, "arp/asked", "require = [\"root\"]");
    lab.bpflab(["run"]).refused(&["arp/asked.toml:3:1", "did you mean `requires`?"]);
    add(&lab, "arp/asked", "requires = [\"ring-bufer\"]");
    lab.bpflab(["run"]).refused(&["arp/asked.toml:3:13", "did you mean `ring-buffer`?"]);
}

#[test]
fn a_capture_that_is_missing_fails_its_scenario_alone() {
    let lab = lab_with("arp/asked", "");
    lab.write("scenarios/a/b.toml", "purpose = \"p\"\nmodes = [\"lockstep\"]\n[traffic]\ncapture = \"gone.pcap\"\n");
    lab.bpflab(["run"]).exits(1).says(&["gone.pcap", "1 passed, 1 failed"]);
}

#[test]
fn what_this_machine_lacks_is_unsupported_and_no_pass() {
    let lab = lab_with("arp/asked", "requires = [\"kernel >=99\"]");
    let says = ["unsupported", "arp/asked [lockstep]", "kernel >=99", "0 passed, 0 failed, 1 unsupported"];
    lab.bpflab(["run"]).exits(69).says(&says);
    lab.bpflab(["list"]).passed().says(&["arp/asked", "unsupported here: kernel >=99"]);
    add(&lab, "arp/asked", "requires = [\"tool:no-such-tool\"]");
    lab.bpflab(["run"]).exits(69).says(&["no program no-such-tool in PATH", "1 unsupported"]);
    // Beside one that runs it is counted, and that one decides.
    add(&lab, "arp/runs", "");
    lab.bpflab(["run"]).passed().says(&["1 passed, 0 failed, 1 unsupported"]);
}

#[test]
fn the_list_has_every_scenario_with_its_modes() {
    let lab = lab_with("arp/asked", "");
    lab.write("scenarios/b/both.toml", "purpose = \"two modes\"\n[traffic]\ncapture = \"gone.pcap\"\n");
    let list = lab.bpflab(["list"]).passed().says(&["an address is asked for", "lockstep wire", "two modes"]);
    assert_eq!(list.out.lines().count(), 2, "{}", list.out);
    let list = lab.bpflab(["list", "--json"]).passed().json();
    let rows = list["scenarios"].as_array().unwrap();
    let names: Vec<(&str, &str)> =
        rows.iter().map(|row| (row["scenario"].as_str().unwrap(), row["mode"].as_str().unwrap())).collect();
    assert_eq!(names, [("arp/asked", "lockstep"), ("b/both", "lockstep"), ("b/both", "wire")]);
    assert_eq!((&list["version"], &rows[0]["unsupported"]), (&1.into(), &serde_json::json!([])));
    lab.bpflab(["list", "udp"]).exits(4);
}

#[test]
fn a_new_scenario_passes_once_its_author_has_filled_it_in() {
    let lab = Lab::new();
    let capture = keepalive();
    let new = |name: &str| lab.bpflab(["new", name, "--pcap", capture.to_str().unwrap()]);
    new("web/kept-alive").passed().says(&[
        "made scenarios/web/kept-alive/scenario.toml",
        "pending snapshot",
        "20 of 20",
    ]);
    for name in ["scenario.toml", "http-keepalive.pcap", "kept-alive.snap.new"] {
        assert!(lab.path().join("scenarios/web/kept-alive").join(name).exists(), "{name}");
    }
    new("web/kept-alive").refused(&["scenarios/web/kept-alive exists already"]);

    let unfilled =
        ["provenance.origin", "provenance.licence", "provenance.scrubbed", "there is no snapshot", "2 failed"];
    lab.bpflab(["run"]).exits(1).says(&unfilled);
    let folder = lab.path().join("scenarios/web/kept-alive");
    let text = lab.read("scenarios/web/kept-alive/scenario.toml");
    std::fs::write(folder.join("scenario.toml"), text.replace("= \"\"", "= \"as the test says\"")).unwrap();
    std::fs::rename(folder.join("kept-alive.snap.new"), folder.join("kept-alive.snap")).unwrap();
    lab.bpflab(["run", "web/kept-alive"]).passed().says(&["[lockstep]", "[wire]", "2 passed, 0 failed"]);

    // Another file under the same name is noticed.
    std::fs::copy(crate::support::pcap("http-ipv6.pcap"), folder.join("http-keepalive.pcap")).unwrap();
    lab.bpflab(["run", "--mode", "lockstep"]).exits(1).says(&["provenance.sha256"]);
}

#[test]
fn a_new_scenario_needs_a_name_and_a_capture() {
    let lab = Lab::new();
    let capture = keepalive();
    for name in ["alone", "Web/upper", "web/under_score", "../web/out", "/web/root", "web//twice", "web/"] {
        lab.bpflab(["new", name, "--pcap", capture.to_str().unwrap()]).refused(&[name, "family/behaviour"]);
    }
    lab.write("notes.txt", "captured on a Monday\n");
    lab.bpflab(["new", "web/notes", "--pcap", "notes.txt"]).refused(&["notes.txt", "text"]);
    assert!(!lab.path().join("scenarios").exists(), "nothing was made");
}

#[test]
fn a_capture_may_have_any_name() {
    let lab = Lab::new();
    let name = "the \"first\" \\ try.pcap";
    std::fs::copy(keepalive(), lab.path().join(name)).unwrap();
    lab.bpflab(["new", "web/quoted", "--pcap", name]).passed().says(&["pending snapshot"]);
    lab.bpflab(["list"]).passed().says(&["web/quoted"]);
}
