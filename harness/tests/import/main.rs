//! Imports of whole captures: what is left of the original, whether it still says the same, and what becomes of files.

#![allow(missing_docs, reason = "a test")]

mod files;
mod sameness;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bpflab::capture::{Frames, Options, Oversize, Survey};
use bpflab::import::anonymise::{Key, Payload, Policy, tuples};
use bpflab::import::{ImportError, Plan, Report, Selection, Split, import};

/// A folder that is removed with the test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Names of the files in it, sorted.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

fn pcaps() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pcaps");
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "pcap" || extension == "pcapng"))
        .collect();
    found.sort();
    assert!(found.len() > 20, "the repository's captures");
    found
}

fn pcap(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../pcaps").join(name)
}

/// A plan that replaces everything with a fixed key.
fn plan(input: &Path, output: PathBuf) -> Plan {
    Plan {
        input: input.to_owned(),
        output,
        selection: Selection::default(),
        split: Split::None,
        anonymise: Some((Key::new([0x42; 32]), Policy::default())),
        force: false,
        origin: String::new(),
        licence: String::new(),
    }
}

fn run(plan: &Plan) -> Result<Report, ImportError> {
    import(plan, &AtomicBool::new(false), &mut |_| ())
}

/// All frames of a capture, as they stand in it.
fn frames(path: &Path) -> Vec<Vec<u8>> {
    let options = Options { oversize: Oversize::Segment, mtu: 65535, ..Options::default() };
    let survey = Survey::of(path, &options).unwrap();
    Frames::open(path, &options, &survey).unwrap().map(|frame| frame.unwrap().data).collect()
}

/// Bytes that tell whose capture it is: addresses of all layers, as bytes and as text, and names.
fn secrets(path: &Path) -> BTreeSet<Vec<u8>> {
    let mut secrets = BTreeSet::new();
    for frame in frames(path) {
        for mac in [&frame[..6], &frame[6..12]] {
            if mac[0] & 1 == 0 && *mac != [0; 6] {
                secrets.insert(mac.to_vec());
            }
        }
        for tuple in tuples(&frame) {
            for address in [tuple.source.ip(), tuple.destination.ip()] {
                if address.is_multicast() || address.is_unspecified() || address.is_loopback() {
                    continue;
                }
                match address {
                    IpAddr::V4(address) if address.is_broadcast() => continue,
                    IpAddr::V4(address) => secrets.insert(address.octets().to_vec()),
                    IpAddr::V6(address) => secrets.insert(address.octets().to_vec()),
                };
                secrets.insert(address.to_string().into_bytes());
            }
        }
    }
    for name in ["bpflab", "BPFLAB", "curl", "nginx", "OpenSSH", "index", "style.css", "missing", "10.66", "3k.txt"] {
        secrets.insert(name.as_bytes().to_vec());
    }
    secrets
}

#[test]
fn no_address_and_no_name_of_any_capture_is_left() {
    let folder = Folder::new();
    for path in pcaps() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        for payload in [Payload::Zero, Payload::Random] {
            let output = folder.path(&format!("{name}-{payload:?}.pcapng"));
            let mut plan = plan(&path, output.clone());
            plan.anonymise = Some((Key::new([0x42; 32]), Policy { payload, ..Policy::default() }));
            let report = run(&plan).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(report.packets.read, report.packets.written);
            let bytes = std::fs::read(&output).unwrap();
            for secret in secrets(&path) {
                let found = bytes.windows(secret.len()).position(|window| window == secret);
                assert_eq!(found, None, "{name}, payload {payload:?}: {}", secret.escape_ascii());
            }
        }
    }
}

#[test]
fn the_same_key_and_seed_give_the_same_bytes_and_others_do_not() {
    let folder = Folder::new();
    let mut digests = BTreeSet::new();
    for (round, (key, seed)) in [(1, 0), (1, 0), (2, 0), (1, 7)].into_iter().enumerate() {
        let mut plan = plan(&pcap("http-keepalive.pcap"), folder.path(&format!("{round}.pcapng")));
        let policy = Policy { payload: Payload::Random, seed, ..Policy::default() };
        plan.anonymise = Some((Key::new([key; 32]), policy));
        digests.insert(run(&plan).unwrap().files[0].sha256.clone());
    }
    assert_eq!(digests.len(), 3, "of four imports the first two are the same");
}
