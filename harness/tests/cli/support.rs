//! Running the command, and captures to run it on.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

/// Length of a pcap file's header in bytes (`pcap-savefile(5)`).
pub const PCAP_HEADER: usize = 24;

/// A capture of the repository.
pub fn pcap(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../pcaps").join(name)
}

/// Five HTTP exchanges on one connection, and an ARP request with its answer: 20 packets.
pub fn keepalive() -> PathBuf {
    pcap("http-keepalive.pcap")
}

/// A working directory and the command in it.
pub struct Lab {
    folder: TempDir,
}

/// How a command ended, in text.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Lab {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file below the working directory, with its folders.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, contents).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap()
    }

    /// `bpflab` with `args`, not started.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bpflab"));
        command.args(args).current_dir(self.path()).stdin(Stdio::null());
        command
    }

    /// Runs `bpflab` with `args` to its end.
    pub fn bpflab<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ended {
        Ended::from(self.command(args).output().unwrap())
    }

    /// `bpflab replay CAPTURE ARGS`, with `args` separated by spaces.
    pub fn replay(&self, capture: &Path, args: &str) -> Ended {
        self.bpflab(["replay".as_ref(), capture.as_os_str()].into_iter().chain(args.split_whitespace().map(OsStr::new)))
    }

    /// The document of `bpflab replay CAPTURE --json ARGS`, which must pass.
    pub fn document(&self, capture: &Path, args: &str) -> Value {
        self.replay(capture, &format!("--json {args}")).passed().json()
    }

    /// Runs `bpflab` with `args` and `input` on standard input.
    pub fn piped(&self, args: &[&str], input: Vec<u8>) -> Ended {
        let mut command = self.command(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feeder = thread::spawn(move || stdin.write_all(&input));
        let ended = Ended::from(child.wait_with_output().unwrap());
        feeder.join().unwrap().unwrap();
        ended
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("everything printed is UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ended {
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "standard output:\n{}\nstandard error:\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    pub fn passed(self) -> Self {
        self.exits(0)
    }

    /// Wrong usage or input: exit code 2, nothing on standard output, and a message with all of `parts`.
    #[track_caller]
    pub fn refused(self, parts: &[&str]) -> Self {
        let ended = self.exits(2).complains(parts);
        assert_eq!(ended.out, "");
        ended
    }

    /// Standard error has all of `parts`.
    #[track_caller]
    pub fn complains(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.err.contains(part), "no `{part}` in: {}", self.err);
        }
        self
    }

    /// Standard output has all of `parts`.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.out.contains(part), "no `{part}` in:\n{}", self.out);
        }
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in:\n{}", self.out))
    }
}

/// The ledger's numbers: offered, delivered, dropped, consumed, unaccounted. They must add up.
#[track_caller]
pub fn ledger(document: &Value) -> [u64; 5] {
    let numbers = ["offered", "delivered", "dropped", "consumed", "unaccounted"]
        .map(|name| document["ledger"][name].as_u64().unwrap());
    assert_eq!(numbers[0], numbers[1..].iter().sum::<u64>(), "{}", document["ledger"]);
    numbers
}
