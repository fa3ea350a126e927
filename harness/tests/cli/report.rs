//! `bpflab report`, on results made for the purpose.

use bpflab::record::{KernelRun, MATRIX_VERSION, Matrix, Outcome, Record};
use bpflab::report::{KernelSummary, matrix};
use bpflab::scenario::Mode;
use serde_json::Value;

use crate::support::Lab;

/// A result of one kernel with trials that ended so.
fn result(kernel: &str, outcomes: &[Outcome]) -> Matrix {
    let release = format!("{kernel}.0-test");
    let summary = KernelSummary { release: release.clone(), machine: "x86_64".to_owned() };
    let record = |(number, outcome): (usize, &Outcome)| {
        let mut record = Record::new(&format!("family/trial-{number}"), Mode::Wire, summary.clone());
        record.result = *outcome;
        if *outcome != Outcome::Passed {
            record.reasons = vec![format!("because of {kernel}")];
        }
        record
    };
    let records = outcomes.iter().enumerate().map(record).collect();
    let run = KernelRun { name: kernel.to_owned(), release, records, ..KernelRun::default() };
    Matrix { version: MATRIX_VERSION, kernels: vec![run], problems: Vec::new(), wall_s: 12.5 }
}

/// A lab with the results of two kernels: all passed on the newer, on the older as in `outcomes`.
fn lab(outcomes: &[Outcome]) -> Lab {
    let lab = Lab::new();
    lab.write("old.json", matrix::to_json(&result("5.10", outcomes)));
    lab.write("new.json", matrix::to_json(&result("7.3", &vec![Outcome::Passed; outcomes.len()])));
    lab
}

const MERGE: [&str; 4] = ["report", "merge", "new.json", "old.json"];

#[test]
fn results_are_joined_into_one_page_in_every_format() {
    let lab = lab(&[Outcome::Passed, Outcome::Unsupported]);
    let outputs = ["--output", "all.json", "--html", "all.html", "--junit", "all.xml"];
    let merged = lab.bpflab(MERGE.iter().chain(&outputs)).passed();
    let merged = merged.says(&[
        "5.10   7.3",
        "unsup",
        "because of 5.10",
        "2 trials on 2 kernels: 3 passed, 0 failed, 1 unsupported",
    ]);
    assert_eq!(merged.err, "");
    let names: Value = serde_json::from_str(&lab.read("all.json")).unwrap();
    assert_eq!((&names["kernels"][0]["name"], &names["kernels"][1]["name"]), (&"5.10".into(), &"7.3".into()));
    assert!(lab.read("all.html").starts_with("<!doctype html>"));
    assert!(
        lab.read("all.xml")
            .contains("<testsuites name=\"bpflab\" tests=\"4\" failures=\"0\" errors=\"0\" skipped=\"1\"")
    );

    let shown = lab.bpflab(["report", "show", "all.json", "--html", "again.html"]).passed();
    assert_eq!(shown.out, merged.out);
    assert_eq!(lab.read("again.html"), lab.read("all.html"));
    lab.bpflab(["report", "show", "all.json", "--fold"]).passed().says(&["1 ok 1 unsup  2 ok"]);
}

#[test]
fn the_exit_code_follows_the_policy() {
    for (outcome, code) in [
        (Outcome::Passed, 0),
        (Outcome::Differs, 0),
        (Outcome::Failed, 1),
        (Outcome::Unsupported, 0),
        (Outcome::LabFailure, 69),
    ] {
        let lab = lab(&[Outcome::Passed, outcome]);
        lab.bpflab(MERGE.iter().chain(&["--quiet"])).exits(code);
        lab.bpflab(MERGE.iter().chain(&["--exit-on", "never"])).passed();
        let strict = if matches!(outcome, Outcome::Passed | Outcome::LabFailure) { 0 } else { 1 };
        lab.bpflab(MERGE.iter().chain(&["--exit-on", "failed,differs,unsupported"])).exits(strict);
    }
    let lab = lab(&[Outcome::Passed]);
    lab.bpflab(MERGE.iter().chain(&["--exit-on", "sometimes"])).refused(&["sometimes", "lab-failure"]);
}

#[test]
fn a_trial_that_no_kernel_runs_fails_the_whole_and_no_part() {
    let lab = lab(&[Outcome::Passed, Outcome::Unsupported]);
    let never = result("7.3", &[Outcome::Passed, Outcome::Unsupported]);
    lab.write("new.json", matrix::to_json(&never));
    let problem = "family/trial-1 [wire] ran on no kernel: because of 5.10; because of 7.3";
    lab.bpflab(MERGE).exits(1).says(&[problem, "1 problem"]);
    lab.bpflab(["report", "show", "old.json"]).passed();
}

#[test]
fn parts_that_contradict_each_other_are_named() {
    let lab = lab(&[Outcome::Passed]);
    lab.write("again.json", matrix::to_json(&result("7.3", &[Outcome::Failed])));
    lab.bpflab(MERGE.iter().chain(&["again.json", "--output", "all.json"])).refused(&[
        "kernel `7.3` has two different records of family/trial-0 [wire]",
        "passed in one part, failed in another",
    ]);
    assert!(!lab.path().join("all.json").exists());
    // The same part twice is no contradiction.
    lab.bpflab(MERGE.iter().chain(&["new.json"])).passed().says(&["1 trial on 2 kernels"]);
}

#[test]
fn a_kernel_that_left_no_result_is_missed() {
    let lab = lab(&[Outcome::Passed]);
    lab.bpflab(MERGE.iter().chain(&["--expect", "5.10,7.3"])).passed();
    lab.bpflab(MERGE.iter().chain(&["--expect", "5.10,6.1,7.3"])).exits(69).says(&[
        "5.10  6.1   7.3",
        "6.1: kernel not available: it is expected",
        "1 without a record, 1 guest failure",
    ]);
}

#[test]
fn what_is_no_result_is_refused_by_its_name() {
    let lab = lab(&[Outcome::Passed]);
    lab.write("records.jsonl", "{\"version\":2,\"scenario\":\"a/b\"}\n{\"version\":2}\n");
    lab.write("image.png", [0x89, b'P', b'N', b'G', 0, 0xff]);
    lab.write("newer.json", lab.read("new.json").replacen("\"version\": 1", "\"version\": 2", 1));
    lab.bpflab(["report", "show", "records.jsonl"]).refused(&["records.jsonl is no result of a kernel matrix"]);
    lab.bpflab(["report", "show", "image.png"]).refused(&["image.png is no result"]);
    lab.bpflab(["report", "show", "newer.json"]).refused(&["newer.json has a result of version 2", "reads version 1"]);
    lab.bpflab(["report", "show", "gone.json"]).refused(&["reading gone.json", "No such file"]);
    lab.bpflab(["report", "merge", "new.json", "."]).refused(&["reading .", "directory"]);
    lab.bpflab(["report", "merge"]).refused(&["FILES"]);
    lab.bpflab(["report", "show", "new.json", "--html", "no/page.html"])
        .refused(&["writing no/page.html", "No such file"]);
}
