//! What the command says of itself and of this machine, and what it says to a user who is not root.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::{Ended, Lab, keepalive};

/// `nobody`.
const UNPRIVILEGED: u32 = 65_534;

#[test]
fn help_and_version() {
    let lab = Lab::new();
    let commands = ["replay", "run", "list", "new", "doctor", "clean", "completions"];
    lab.bpflab(["--help"]).passed().says(&commands);
    lab.bpflab(["--version"]).passed().says(&[env!("CARGO_PKG_VERSION")]);
    for command in commands {
        lab.bpflab([command, "--help"]).passed().says(&["Usage: bpflab", command]);
    }
    lab.bpflab([] as [&str; 0]).refused(&["Usage: bpflab"]);
    lab.bpflab(["reply"]).refused(&["'reply'", "'replay'"]);
}

#[test]
fn completions_are_a_script_for_the_shell() {
    let script = Lab::new().bpflab(["completions", "bash"]).passed().says(&["_bpflab()", "--topology"]);
    let mut check = Command::new("bash");
    let status = check.args(["-n", "-c", &script.out]).status().unwrap();
    assert!(status.success());
    Lab::new().bpflab(["completions", "cobol"]).refused(&["cobol"]);
}

#[test]
fn the_doctor_finds_what_the_tests_need() {
    let lab = Lab::new();
    lab.bpflab(["doctor"]).passed().says(&["kernel", "root", "btf"]);
    let document = lab.bpflab(["doctor", "--json"]).passed().json();
    assert_eq!(document["version"], 1);
    let checks = document["checks"].as_array().unwrap();
    assert!(
        checks.iter().all(|check| ["name", "found", "detail", "costs", "get"].iter().all(|key| check[key].is_string()))
    );
    let root = checks.iter().find(|check| check["name"] == "root").unwrap();
    assert_eq!(root["found"], "found");
}

/// A folder that everyone may read, with the command and a capture in it: the build's may lie in a private place.
struct Open {
    lab: Lab,
}

impl Open {
    fn new() -> Self {
        let lab = Lab::new();
        let everyone = std::fs::Permissions::from_mode(0o755);
        for (from, name) in [(PathBuf::from(env!("CARGO_BIN_EXE_bpflab")), "bpflab"), (keepalive(), "capture.pcap")] {
            std::fs::copy(from, lab.path().join(name)).unwrap();
            std::fs::set_permissions(lab.path().join(name), everyone.clone()).unwrap();
        }
        std::fs::set_permissions(lab.path(), everyone).unwrap();
        Self { lab }
    }

    fn bpflab(&self, args: &[&str]) -> Ended {
        let mut command = Command::new(self.lab.path().join("bpflab"));
        command.args(args).current_dir(self.lab.path()).stdin(Stdio::null());
        // Of a process of root, this also drops all other groups.
        Ended::from(command.uid(UNPRIVILEGED).gid(UNPRIVILEGED).output().unwrap())
    }
}

#[test]
fn without_root_it_says_so_and_how_to_get_it() {
    let open = Open::new();
    for mode in [&["--mode", "lockstep"][..], &["--mode", "wire"], &[]] {
        let ended = open.bpflab(&[&["replay", "capture.pcap"], mode].concat()).exits(69);
        let ended = ended.complains(&["root", "CAP_NET_ADMIN", "sudo"]);
        assert!(!ended.err.contains("newer kernel"), "what only root can tell is no reason: {}", ended.err);
    }
    open.bpflab(&["doctor"]).exits(69).says(&["missing root"]);
    // Wrong input is wrong for everyone.
    open.bpflab(&["replay", "bpflab"]).refused(&["ELF"]);
    open.bpflab(&["--version"]).passed();
    // A scenario that cannot run for want of root has not passed.
    open.lab.write("scenarios/a/b.toml", "purpose = \"p\"\n[traffic]\ncapture = \"../capture.pcap\"\n");
    open.bpflab(&["run"]).exits(69).says(&["root", "0 passed, 0 failed, 2 unsupported"]);
}
