//! What becomes of namespaces and links when a run is interrupted or killed.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Ended, Lab, keepalive, ledger};

/// Names of network namespaces (ip-netns(8)).
const NAMESPACES: &str = "/run/netns";
/// Far longer than anything here takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// A frame every two seconds: the 20 frames outlast any test.
const SLOW: &str = "--mode wire --speed 0.5 --json";

/// The names of namespaces that process `pid` made, from a directory of such names.
fn made_by(pid: u32, names: &str) -> Vec<String> {
    let prefix = format!("bpflab-{pid}-");
    let names = std::fs::read_dir(names).into_iter().flatten();
    names
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

/// Waits until `done` or the process has ended.
#[track_caller]
fn wait_for(child: &mut Child, what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(child.try_wait().unwrap().is_none(), "ended before {what}");
        assert!(start.elapsed() < PATIENCE, "no {what} in {PATIENCE:?}");
        // Between two looks at the condition, so that waiting takes no CPU from what is waited for.
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn slow(command: &mut Command) -> Child {
    command.args(["replay".as_ref(), keepalive().as_os_str()]).args(SLOW.split(' '));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_signal_ends_a_run_with_what_was_seen_and_nothing_left() {
    let lab = Lab::new();
    for name in ["INT", "TERM"] {
        let mut child = slow(&mut lab.command([] as [&str; 0]));
        let pid = child.id();
        wait_for(&mut child, "namespaces", || made_by(pid, NAMESPACES).len() == 3);
        signal(&child, name);
        let start = Instant::now();
        let ended = Ended::from(child.wait_with_output().unwrap()).passed();
        assert!(start.elapsed() < PATIENCE, "{name}: the pace does not hold up the end");
        let document = ended.json();
        let [offered, ..] = ledger(&document);
        assert!(offered < 20, "{name}: {offered}");
        let notes = document["notes"].to_string();
        assert!(notes.contains(&format!("interrupted: {offered} of 20 frames were offered")), "{name}: {notes}");
        assert_eq!(made_by(pid, NAMESPACES), [] as [&str; 0], "{name}");
    }
}

#[test]
fn scenarios_that_an_interruption_kept_from_running_have_not_passed() {
    let lab = Lab::new();
    std::fs::copy(keepalive(), lab.write("pcaps/slow.pcap", "")).unwrap();
    let text = "purpose = \"p\"\nmodes = [\"wire\"]\n[traffic]\ncapture = \"slow.pcap\"\nspeed = \"0.5\"\n";
    for name in ["a/first", "a/second", "a/third"] {
        lab.write(&format!("scenarios/{name}.toml"), text);
    }
    let mut child = lab.command(["run"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    wait_for(&mut child, "namespaces", || made_by(pid, NAMESPACES).len() == 3);
    signal(&child, "INT");
    let ended = Ended::from(child.wait_with_output().unwrap()).exits(1);
    let ended =
        ended.says(&["a/first [wire]", "interrupted before its end", "interrupted: 2 not run", "0 passed, 1 failed"]);
    assert!(!ended.out.contains("a/second"), "{}", ended.out);
    assert_eq!(made_by(pid, NAMESPACES), [] as [&str; 0]);
}

/// A mount namespace with an empty directory of names, so that no other process removes what a killed run left there.
struct Apart {
    holder: Child,
    /// The holder ends when this is closed.
    _stdin: ChildStdin,
}

impl Apart {
    fn new() -> Self {
        let script = format!("mkdir -p {NAMESPACES} && mount -t tmpfs none {NAMESPACES} && echo ready && exec cat");
        let mut command = Command::new("unshare");
        let command = command.args(["--mount", "sh", "-c", &script]);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = holder.stdin.take().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { holder, _stdin: stdin }
    }

    /// `bpflab` there, not started. `nsenter` becomes the command: the process is the same.
    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id())).arg(env!("CARGO_BIN_EXE_bpflab"));
        command
    }

    fn bpflab(&self, args: &[&str]) -> Ended {
        Ended::from(self.command().args(args).output().unwrap())
    }

    /// Its directory of names, from outside.
    fn names(&self) -> String {
        format!("/proc/{}/root{NAMESPACES}", self.holder.id())
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The network interfaces of the namespace that the tests run in.
fn interfaces() -> Vec<String> {
    let links = std::fs::read_dir("/sys/class/net").unwrap();
    let mut names: Vec<String> = links.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_a_killed_run_left_is_found_and_removed() {
    let apart = Apart::new();
    let before = interfaces();
    apart.bpflab(&["clean", "--check"]).passed().says(&["nothing left behind"]);

    let mut child = slow(&mut apart.command());
    let pid = child.id();
    wait_for(&mut child, "namespaces", || made_by(pid, &apart.names()).len() == 3);
    // While it runs, what it made is its own.
    apart.bpflab(&["clean", "--check"]).passed();
    child.kill().unwrap();
    child.wait().unwrap();

    let left = made_by(pid, &apart.names());
    assert_eq!(left.len(), 3, "nobody could remove them: {left:?}");
    apart.bpflab(&["clean", "--check"]).exits(1).says(&["left behind: namespace", &pid.to_string()]);
    let removed = apart.bpflab(&["clean"]).passed();
    for name in &left {
        assert!(removed.out.contains(name), "no {name} in: {}", removed.out);
    }
    assert_eq!(made_by(pid, &apart.names()), [] as [&str; 0]);
    apart.bpflab(&["clean", "--check"]).passed().says(&["nothing left behind"]);
    assert_eq!(interfaces(), before, "links are made between namespaces only");
}

#[test]
fn a_run_removes_what_a_killed_one_left() {
    let apart = Apart::new();
    let mut child = slow(&mut apart.command());
    let pid = child.id();
    wait_for(&mut child, "namespaces", || made_by(pid, &apart.names()).len() == 3);
    child.kill().unwrap();
    child.wait().unwrap();
    let capture = keepalive();
    let next = ["replay", capture.to_str().unwrap(), "--mode", "wire", "--json"];
    assert_eq!(ledger(&apart.bpflab(&next).passed().json()), [20, 20, 0, 0, 0]);
    apart.bpflab(&["clean", "--check"]).passed();
}
