//! `bpflab exec` and `bpflab matrix --test-binary`: any command, and any project's tests, in guests.
//!
//! The test binary is this one: some of its tests play parts when a guest runs them.

use std::ffi::OsStr;
use std::path::PathBuf;

use bpflab::record::Outcome;
use serde_json::Value;

use crate::matrix::{oldest_kernel, results};
use crate::support::{Ended, Lab};

/// Set where the tests below play their parts.
const PLAY: &str = "BPFLAB_TEST_PLAY";

fn plays() -> bool {
    std::env::var_os(PLAY).is_some()
}

#[test]
fn part_a_passes() {
    if plays() {
        println!("test exec::part_a_passes ... FAILED");
    }
}

/// In a guest of the fast runner, which has this on its command line, and nowhere else.
#[test]
fn part_b_ends_the_kernel() {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap();
    if plays() && line.contains("loglevel=6 panic=-1") {
        std::fs::write("/proc/sys/kernel/sysrq", "1").unwrap();
        std::fs::write("/proc/sysrq-trigger", "c").unwrap();
    }
}

#[test]
fn part_c_fails() {
    assert!(!plays(), "as told");
}

#[test]
fn part_d_is_unsupported() {
    if plays() {
        eprintln!("bpflab: unsupported: nothing of that here");
    }
}

fn own_binary() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// A lab whose list of kernels has `entry` alone.
fn lab(entry: &str) -> Lab {
    let lab = Lab::new();
    lab.write("vm/kernels.toml", entry);
    lab
}

/// `bpflab exec --kernel old ARGS`, with `args` separated by spaces, and a script for the guest's shell.
fn script(lab: &Lab, args: &str, script: &str) -> Ended {
    let args = ["exec", "--kernel", "old"].into_iter().chain(args.split_whitespace());
    lab.bpflab(args.chain(["--", "sh", "-c", script]))
}

#[test]
fn wrong_arguments_are_refused_before_any_guest() {
    let lab = Lab::new();
    let exec = |args: &str| lab.bpflab(["exec"].into_iter().chain(args.split_whitespace()));
    exec("--kernel 6.1").refused(&["COMMAND"]);
    exec("true").refused(&["--kernel"]);
    exec("--kernel 6.1 --cpus 0 true").refused(&["--cpus"]);
    exec("--kernel 6.1 --env =1 true").refused(&["`--env =1` names no variable"]);
    exec("--kernel 6.1 --with no/such true").refused(&["`--with no/such` is neither a file nor a program"]);
    exec("--kernel 6.1 --dir no/such true").refused(&["--dir no/such: No such file"]);
    exec("--kernel 6.1 --dir . --runner fast true").refused(&["--dir needs the vng runner"]);
    // Without a list here, the one that the command was built with.
    exec("--kernel 6.21 true").refused(&["no kernel is called `6.21`", "6.12"]);
    exec("--kernel 6.1 --kernels no/list.toml true").refused(&["cannot read the list of kernels no/list.toml"]);
    exec("--kernel 6.1 no-such-command").exits(127).complains(&["no-such-command: command not found"]);
    exec("--kernel 6.1 ./no-such-command").exits(127).complains(&["command not found"]);
}

#[test]
fn the_list_of_tests_is_asked_for_here() {
    let lab = Lab::new();
    let args = ["exec", "--kernel", "6.21", "--"].map(OsStr::new);
    let own = own_binary();
    let ended = lab.bpflab(args.into_iter().chain([own.as_os_str(), "--list".as_ref(), "--format=terse".as_ref()]));
    ended.passed().says(&["exec::part_b_ends_the_kernel: test\n"]);
}

#[test]
fn test_binaries_are_refused_by_what_they_are() {
    let lab = Lab::new();
    let matrix = |args: &[&str]| lab.bpflab(["matrix"].iter().chain(args));
    matrix(&["--test-binary", "no/such"]).refused(&["cannot ask ", "no/such for its tests: No such file"]);
    matrix(&["--test-binary", "/bin/echo"]).refused(&["/bin/echo is no test binary", "`--list --format terse`"]);
    matrix(&["--test-args", "--ignored"]).refused(&["--test-binary"]);
    let own = own_binary();
    let own = own.to_str().unwrap();
    matrix(&["--test-binary", own, "--mode", "wire"]).refused(&["--mode", "cannot be used with", "--test-binary"]);
    matrix(&["--test-binary", own, "no-such-test"])
        .exits(4)
        .complains(&["no test of cli is selected by `no-such-test`"]);
    matrix(&["--test-binary", own, "[a"]).refused(&["`[a` is no glob"]);
}

#[test]
fn a_command_in_a_guest_is_as_one_here() {
    let Some(entry) = oldest_kernel("a_command_in_a_guest_is_as_one_here") else { return };
    let lab = lab(&entry);
    lab.write("data.txt", "from here\n");
    let here = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let says = "cat /proc/sys/kernel/osrelease data.txt; echo $WORD >&2; echo x >data.txt; exit 7";
    let ended = script(&lab, "--runner fast --env WORD=said --with data.txt --with cat", says).exits(7);
    assert!(ended.out.ends_with("\nfrom here\n") && !ended.out.starts_with(here.trim()), "{}", ended.out);
    assert!(ended.err.starts_with("said\n"), "{}", ended.err);
    ended.complains(&["note: in this guest a command can write to /tmp; the rest is read-only"]);
    script(&lab, "--runner fast", "kill -SEGV $$").exits(128 + 11).complains(&["sh: ended by SIGSEGV"]);
    let ended = script(&lab, "--runner fast --timeout 1", "echo begun; while :; do :; done").exits(124);
    ended.says(&["begun\n"]).complains(&["sh: did not end in 1 s"]);
    // What is not there is named, if this machine has it.
    let ended = script(&lab, "--runner fast", "read line <data.txt").exits(2);
    ended.complains(&["note: this machine has data.txt, the guest has not: a fast guest has the command"]);
    // Three times what a pipe holds: when all of it is written, its beginning is out of the guest.
    let much =
        "i=0; while [ $i -lt 4000 ]; do echo 0123456789012345678901234567890123456789012345678; i=$((i+1)); done";
    let crash = &format!("echo before; {much}; echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger");
    let ended = script(&lab, "--runner fast", crash).exits(69).says(&["before\n"]);
    ended.complains(&["bpflab: kernel panic: ", "sysrq triggered crash", "bpflab:   | "]);
}

#[test]
fn a_guest_of_virtme_ng_sees_this_machine_and_writes_where_it_may() {
    let Some(entry) = oldest_kernel("a_guest_of_virtme_ng_sees_this_machine_and_writes_where_it_may") else { return };
    let lab = lab(&entry);
    lab.write("data.txt", "from here\n");
    lab.write("out/kept", "");
    let says = "cat data.txt; echo from there >out/new; echo x >/tmp/gone; test -s /tmp/gone; exit $?";
    script(&lab, "--dir out", says).passed().says(&["from here\n"]);
    assert_eq!(lab.read("out/new"), "from there\n");
}

#[test]
fn tests_of_a_binary_are_trials_and_one_that_ends_the_kernel_hides_no_other() {
    let test = "tests_of_a_binary_are_trials_and_one_that_ends_the_kernel_hides_no_other";
    let Some(entry) = oldest_kernel(test) else { return };
    let lab = lab(&entry);
    let own = own_binary();
    let play = format!("{PLAY}=1");
    let args =
        ["matrix", "cli/exec::part_*", "--runner", "fast", "--env", &play, "--output", "page.json", "--test-binary"];
    let ended = lab.bpflab(args.map(OsStr::new).into_iter().chain([own.as_os_str()])).exits(1);
    ended.says(&["panicked at ", ": as told", "nothing of that here", "1 unsupported, 1 lab failure"]);
    let page: Value = serde_json::from_str(&lab.read("page.json")).unwrap();
    let kernel = &page["kernels"][0];
    let outcome = |outcome: Outcome| serde_json::to_value(outcome).unwrap().as_str().unwrap().to_owned();
    let expected = [Outcome::Passed, Outcome::LabFailure, Outcome::Failed, Outcome::Unsupported].map(outcome);
    assert_eq!(results(kernel), expected, "{:#}", kernel["failures"]);
    assert_eq!(kernel["records"][1]["scenario"], "cli/exec::part_b_ends_the_kernel");
    assert!(kernel["records"][1].get("mode").is_none());
    assert_eq!(kernel["failures"][0]["trial"], "cli/exec::part_b_ends_the_kernel");
    assert_eq!(kernel["failures"][0]["kind"], "panic");
    assert_eq!(kernel["guests"].as_array().unwrap().len(), 2);
}
