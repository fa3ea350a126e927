//! `bpflab matrix`: what it refuses before any guest is started, and what it makes of guests that fail.
//!
//! Tests with a guest need what `ci/setup` installs, and a kernel of the list in the cache; where something is not
//! there they say so on standard error, past the capture of passing tests' output. With `BPFLAB_GUESTS=required`, which
//! `ci/test` sets, they fail.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use bpflab::vm::runner::Runner;
use serde_json::Value;

use crate::scenarios::{add, lab_with};
use crate::support::{Ended, Lab};

/// A kernel of a mirror, and one that is not there.
const LIST: &str = "[[kernel]]\nname = \"6.12\"\ndebian = { suites = [\"trial\"], package = \"linux-image-6.12.*\" }\n";
const ABSENT: &str = "[[kernel]]\nname = \"6.19\"\nimage = { vmlinuz = \"absent\", built_in = true }\n";

/// `bpflab matrix ARGS`, with an empty cache.
fn matrix(lab: &Lab, args: &[&str]) -> Ended {
    let mut command = lab.command(["matrix", "--no-kvm"].iter().chain(args));
    command.env("BPFLAB_CACHE", lab.path().join("cache")).env_remove("BPFLAB_MIRROR");
    Ended::from(command.output().unwrap())
}

/// A lab with one scenario and a list of kernels.
fn lab(list: &str) -> Lab {
    let lab = lab_with("arp/asked", "");
    lab.write("vm/kernels.toml", list);
    lab
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Says aloud what `test` lacks, since it then shows nothing.
fn unsupported(test: &str, lack: &str) {
    assert!(std::env::var_os("BPFLAB_GUESTS").is_none_or(|guests| guests != "required"), "{test}: {lack}");
    let _ = writeln!(std::io::stderr(), "unsupported: {test}: {lack}");
}

/// What guests need and this machine lacks.
pub fn guests_lack(test: &str) -> Option<String> {
    let lack = Runner::Vng.check().and_then(|()| Runner::Fast.check()).err().map(|error| error.to_string());
    if let Some(lack) = &lack {
        unsupported(test, lack);
    }
    lack
}

#[test]
fn applications_are_refused_without_a_guest_where_they_are_forbidden() {
    let lab = lab(LIST);
    let text = "purpose = \"a command is run\"\nmodes = [\"live\"]\n[[traffic.apps]]\nname = \"true\"\n\
                host = \"client\"\ncommand = [\"true\"]\n";
    lab.write("scenarios/apps/true.toml", text);
    lab.write("scenarios/apps/true.snap", "---\nsource: by hand\n---\n");
    let refused = matrix(&lab, &["apps/true", "--no-exec"]).exits(69);
    refused.complains(&["apps/true [live]", "refused (--no-exec): executes ", "--no-exec forbids"]);
}

#[test]
fn wrong_arguments_and_files_are_refused_before_anything_starts() {
    let lab = lab(LIST);
    matrix(&lab, &["--kernel", "6.21"]).refused(&["no kernel is called `6.21`", "did you mean `6.12`?"]);
    matrix(&lab, &["--kernels", "no/list.toml"]).refused(&["cannot read the list of kernels no/list.toml"]);
    matrix(&lab, &["--scenarios", "elsewhere"]).refused(&["elsewhere", "No such file"]);
    matrix(&lab, &["--mode", "wired"]).refused(&["'wired'", "wire"]);
    matrix(&lab, &["--runner", "docker"]).refused(&["'docker'", "vng"]);
    matrix(&lab, &["--jobs", "0"]).refused(&["--jobs"]);
    matrix(&lab, &["--exit-on", "sometimes"]).refused(&["'sometimes'", "lab-failure"]);
    matrix(&lab, &["--costs", "--no-costs"]).refused(&["--costs", "cannot be used with", "--no-costs"]);
    lab.write("costs.toml", "[\"6.12\".flows]\nflows_xdp = { instructions = 1 }\n");
    matrix(&lab, &["--cost-figures", "costs.toml"]).refused(&["costs.toml:2:", "missing field `stack_bytes`"]);
    lab.write("vm/kernels.toml", LIST.replace("suites", "suits"));
    matrix(&lab, &[]).refused(&["vm/kernels.toml:3:", "unknown field `suits`", "did you mean `suites`?"]);
    lab.write("vm/kernels.toml", format!("{LIST}lacks = {{ nettem = \"small\" }}\n"));
    matrix(&lab, &[]).refused(&["vm/kernels.toml:1:", "unknown feature `nettem`", "did you mean `netem`?"]);
    assert!(!lab.path().join("reports").exists(), "nothing was started");
}

#[test]
fn a_pattern_or_mode_that_selects_nothing_is_no_pass() {
    let lab = lab(LIST);
    matrix(&lab, &["udp"]).exits(4).complains(&["no scenario in scenarios is selected", "`udp`"]);
    matrix(&lab, &["--mode", "wire"]).exits(4).complains(&["in wire mode"]);
    matrix(&lab, &["[a"]).refused(&["`[a` is no glob"]);
}

#[test]
fn a_missing_tool_is_named_with_the_way_to_get_it() {
    let lab = lab(LIST);
    // Debian has QEMU in /usr/bin, which is looked at only where PATH names it.
    let mut command = lab.command(["matrix"]);
    let empty = lab.path().join("empty");
    command.env("PATH", &empty).env("HOME", &empty).env_remove("SUDO_UID").env_remove("SUDO_GID");
    let ended = Ended::from(command.output().unwrap()).exits(69);
    ended.complains(&["the vng runner needs ", ", which is not installed: "]);
}

#[test]
fn a_scenario_above_every_kernel_fails_before_any_guest() {
    if guests_lack("a_scenario_above_every_kernel_fails_before_any_guest").is_some() {
        return;
    }
    let lab = lab(ABSENT);
    add(&lab, "arp/asked", "requires = [\"kernel >=99\"]");
    let says = "arp/asked [lockstep] runs on no kernel: it requires kernel >=99, of 6.19 (6.19)";
    matrix(&lab, &[]).exits(1).complains(&[says]);
    // Of one kernel of the list nothing follows.
    matrix(&lab, &["--kernel", "6.19"]).exits(69).says(&["kernel not available"]);
    // Another scenario is worth a guest; the matrix fails all the same, and a requirement without effect is told.
    add(&lab, "arp/other", "requires = [\"kernel >=5.4\"]");
    let note = "arp/other requires `kernel >=5.4`, which every kernel of the list has: the requirement says nothing";
    matrix(&lab, &[]).exits(1).complains(&[says, note]).says(&[says]);
    assert!(!matrix(&lab, &["--quiet"]).exits(1).err.contains("says nothing"));
}

#[test]
fn a_kernel_that_cannot_be_had_is_a_lab_failure_with_all_its_trials() {
    if guests_lack("a_kernel_that_cannot_be_had_is_a_lab_failure_with_all_its_trials").is_some() {
        return;
    }
    let lab = lab(ABSENT);
    let ended = matrix(&lab, &["--output", "page.json", "--html", "page.html", "--junit", "page.xml"]).exits(69);
    ended.complains(&["verifier cost is not measured: there are no figures in vm/costs.toml"]).says(&[
        "kernel not available",
        "no bootable kernel in vm/absent",
        "1 lab failure, 1 guest failure",
    ]);
    let page: Value = serde_json::from_str(&lab.read("page.json")).unwrap();
    assert_eq!(page["kernels"][0]["records"][0]["result"], "lab_failure");
    assert!(lab.read("page.html").contains("arp/asked") && lab.read("page.xml").contains("<testsuites"));
    matrix(&lab, &["--exit-on", "failed"]).passed();
    matrix(&lab, &["--exit-on", "never"]).passed();
    // A run without numbers changes no figure.
    lab.write("vm/costs.toml", "[\"6.19\".flows]\nflows_xdp = { instructions = 1, stack_bytes = 2 }\n");
    let ended = matrix(&lab, &["--accept-costs"]).exits(69);
    ended.complains(&["no cost was measured on 6.19: its figures stay as they are"]);
    assert!(lab.read("vm/costs.toml").ends_with("flows_xdp = { instructions = 1, stack_bytes = 2 }\n"));
    // Figures that cannot be written take no result with them.
    let args = ["--accept-costs", "--cost-figures", "no/costs.toml", "--output", "kept.json"];
    matrix(&lab, &args).exits(2).complains(&["cannot write the figures of verifier cost no/costs.toml"]);
    assert!(lab.path().join("kept.json").exists());
}

/// The oldest kernel of the repository's list that is in the cache, called `old`, as an entry for a list.
pub fn oldest_kernel(test: &str) -> Option<String> {
    if guests_lack(test).is_some() {
        return None;
    }
    let list = repository("vm/kernels.toml");
    let rows = Lab::new().bpflab([
        "kernels".as_ref(),
        "list".as_ref(),
        "--json".as_ref(),
        "--kernels".as_ref(),
        list.as_os_str(),
    ]);
    let rows = rows.passed().json();
    let rows = rows["kernels"].as_array().unwrap();
    let Some(index) = rows.iter().position(|row| row["state"] == "cached") else {
        unsupported(test, "no kernel is in the cache: `bpflab kernels fetch`");
        return None;
    };
    let name = rows[index]["name"].as_str().unwrap();
    let text = std::fs::read_to_string(list).unwrap();
    let entry = text.split("[[kernel]]").nth(index + 1).unwrap().trim_end();
    Some(format!("[[kernel]]{}\n", entry.replacen(&format!("\"{name}\""), "\"old\"", 1)))
}

/// One object instead of all that scenarios have by default: an emulated verifier takes its time.
const FLOWS_ALONE: &str = "[programs]\nflows = {}";

/// Runs `scenarios` on the kernel `entry`, whose guest suffers `mishap`, and on a kernel that is not there; gives the
/// result of the former.
fn suffer(entry: &str, mishap: &str, scenarios: &[&str]) -> Value {
    let lab = lab_with(scenarios[0], FLOWS_ALONE);
    scenarios[1..].iter().for_each(|scenario| add(&lab, scenario, FLOWS_ALONE));
    lab.write("vm/kernels.toml", format!("{entry}{ABSENT}"));
    let args = ["matrix", "--output", "page.json", "--mishap", mishap];
    let ended = lab.bpflab(args).exits(69).says(&["6.19", "kernel not available"]);
    let page: Value = serde_json::from_str(&lab.read("page.json")).unwrap();
    let [old, absent] = page["kernels"].as_array().unwrap().as_slice() else { panic!("{}", ended.out) };
    assert_eq!((&old["name"], &absent["name"]), (&"old".into(), &"6.19".into()));
    assert!(absent["records"].as_array().unwrap().iter().all(|record| record["result"] == "lab_failure"));
    old.clone()
}

pub fn results(kernel: &Value) -> Vec<&str> {
    kernel["records"].as_array().unwrap().iter().map(|record| record["result"].as_str().unwrap()).collect()
}

#[test]
fn a_guest_that_panics_is_named_and_the_next_one_goes_on() {
    let Some(entry) = oldest_kernel("a_guest_that_panics_is_named_and_the_next_one_goes_on") else { return };
    let old = suffer(&entry, "panic", &["arp/asked", "arp/other"]);
    let failure = &old["failures"][0];
    assert_eq!(failure["kind"], "panic", "{failure:#}");
    let console = failure["console"].to_string();
    assert!(console.contains("sysrq") && console.contains("Kernel panic"), "{console}");
    assert_eq!(old["guests"].as_array().unwrap().len(), 2);
    // The panic is brought about after the first record. Whether it was read as part of that trial is a matter of time.
    let results = results(&old);
    assert!(matches!(results[0], "passed" | "lab_failure"), "{results:?}");
    assert_eq!(results[1], "passed", "the guest after it ran the other trial");
}

#[test]
fn a_guest_that_quits_or_babbles_is_named() {
    let Some(entry) = oldest_kernel("a_guest_that_quits_or_babbles_is_named") else { return };
    for (mishap, kind) in [("quit", "ended_early"), ("babble", "protocol")] {
        let old = suffer(&entry, mishap, &["arp/asked"]);
        assert_eq!(old["failures"][0]["kind"], kind, "{}", old["failures"]);
        assert_eq!(results(&old), ["passed"], "what came before it is kept");
    }
}

#[test]
fn costs_are_measured_accepted_and_held_against_their_figures_and_lacks_against_the_kernel() {
    let test = "costs_are_measured_accepted_and_held_against_their_figures_and_lacks_against_the_kernel";
    let Some(entry) = oldest_kernel(test) else { return };
    let lab = lab_with("arp/asked", FLOWS_ALONE);
    add(&lab, "arp/other", &format!("requires = [\"netem\"]\n{FLOWS_ALONE}"));
    lab.write("vm/kernels.toml", format!("{entry}lacks = {{ netem = \"said to be small\" }}\n"));
    lab.write("vm/costs.toml", "[old.flows]\nflows_xdp = { instructions = 10, stack_bytes = 4096 }\n");
    let ended = lab.bpflab(["matrix", "--accept-costs", "--output", "page.json"]).exits(1);
    ended.says(&["the list of kernels says that this one `lacks` it: said to be small", "flows/flows_xdp"]);
    let page: Value = serde_json::from_str(&lab.read("page.json")).unwrap();
    assert_eq!(results(&page["kernels"][0]), ["passed", "failed"]);
    assert_eq!(page["kernels"][0]["cost_rises"], serde_json::json!([]));
    let costs = page["kernels"][0]["costs"].as_array().unwrap();
    let xdp = costs.iter().find(|cost| cost["program"] == "flows_xdp").unwrap();
    let line =
        format!("flows_xdp = {{ instructions = {}, stack_bytes = {} }}", xdp["instructions"], xdp["stack_bytes"]);
    assert!(lab.read("vm/costs.toml").contains(&line), "{}", lab.read("vm/costs.toml"));
}

/// The records of a result, without what they took.
fn timeless(page: &Value) -> Vec<Value> {
    let mut records = page["kernels"][0]["records"].as_array().unwrap().clone();
    for record in &mut records {
        record["duration_ms"] = Value::Null;
        // Latencies and rates; what is the same each time is in the snapshot.
        record["document"] = Value::Bool(record["document"].is_object());
    }
    records
}

#[test]
fn both_runners_give_the_same_records() {
    let test = "both_runners_give_the_same_records";
    let Some(entry) = oldest_kernel(test) else { return };
    let lab = lab_with("arp/asked", FLOWS_ALONE);
    // One that passes, one that cannot run, one that fails for want of a snapshot, in both modes.
    add(&lab, "arp/later", &format!("requires = [\"kernel >=99\"]\n{FLOWS_ALONE}"));
    add(&lab, "arp/unseen", FLOWS_ALONE);
    let both = lab.read("scenarios/arp/unseen.toml").replace("[\"lockstep\"]", "[\"lockstep\", \"wire\"]");
    lab.write("scenarios/arp/unseen.toml", both);
    std::fs::remove_file(lab.path().join("scenarios/arp/unseen.snap")).unwrap();
    lab.write("vm/kernels.toml", entry);
    let records = ["vng", "fast"].map(|runner| {
        let page = format!("{runner}.json");
        lab.bpflab(["matrix", "--kernel", "old", "--runner", runner, "--output", &page]).exits(1);
        let page: Value = serde_json::from_str(&lab.read(&page)).unwrap();
        assert_eq!(page["kernels"][0]["runner"], runner);
        timeless(&page)
    });
    let results: Vec<&str> = records[0].iter().map(|record| record["result"].as_str().unwrap()).collect();
    assert_eq!(results, ["passed", "unsupported", "failed", "failed"]);
    assert_eq!(records[0], records[1]);
    // What a failed trial offered and saw comes back from both.
    let runs = std::fs::read_dir(lab.path().join("reports/runs")).unwrap();
    let artefacts = runs.map(|run| {
        let folder = run.unwrap().path().join("old-1/artefacts/arp-unseen-lockstep");
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        names
    });
    let artefacts: Vec<_> = artefacts.collect();
    assert!(artefacts.len() == 2 && !artefacts[0].is_empty() && artefacts[0] == artefacts[1], "{artefacts:?}");
}

#[test]
fn a_saved_guest_that_is_damaged_is_booted_anew() {
    let Some(entry) = oldest_kernel("a_saved_guest_that_is_damaged_is_booted_anew") else { return };
    let lab = lab_with("arp/asked", FLOWS_ALONE);
    lab.write("vm/kernels.toml", entry);
    // Kernels as they are in the cache, saved guests elsewhere.
    let cache = lab.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    let kernels = bpflab::vm::kernels::lab_cache().unwrap().join("kernels");
    std::os::unix::fs::symlink(kernels, cache.join("kernels")).unwrap();
    let run = || {
        let mut command = lab.command(["run", "arp/asked", "--kernel", "old", "--output", "records.jsonl"]);
        Ended::from(command.env("BPFLAB_CACHE", &cache).output().unwrap())
    };
    run().passed();
    let mut states = std::fs::read_dir(cache.join("guests")).unwrap().map(|entry| entry.unwrap().path().join("state"));
    let state = states.find(|state| state.exists()).unwrap();
    let whole = std::fs::metadata(&state).unwrap().len();
    std::fs::File::options().write(true).open(&state).unwrap().set_len(whole / 2).unwrap();
    // The one that could not be restored is told, and another one has done the work.
    let ended = run().exits(69).says(&["guest did not boot", "1 passed"]);
    assert!(ended.out.contains("1 guest failure"), "{}", ended.out);
    assert_eq!(std::fs::metadata(&state).unwrap().len() / 2, whole / 2, "saved again");
    run().passed();
}
