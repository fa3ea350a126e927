//! Test binaries of any project: their tests as trials, each run in a process of its own in a guest.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::child::{self, Streams};
use super::libtest;
use super::protocol::{Ending, GuestCommand, Stream, TestBinary, TrialName};
use crate::record::Record;
use crate::report::KernelSummary;

/// Milliseconds that a test binary may take to list its tests.
const LIST_LIMIT_MS: u64 = 60_000;
/// Bytes of what a test wrote that are kept of its start, and of its end.
const KEPT: usize = 64 << 10;

/// Why a program is no test binary.
#[derive(Debug, thiserror::Error)]
pub enum TestBinaryError {
    /// It cannot be run.
    #[error("cannot ask {} for its tests: {why}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What was seen.
        why: String,
    },
    /// It printed something else than a list of tests.
    #[error("{} is no test binary: with `--list --format terse` it printed `{line}`", program.display())]
    Foreign {
        /// The program.
        program: PathBuf,
        /// The first line that is none of a list.
        line: String,
    },
}

/// Asks the program of `command` for its tests, on this machine: that needs no kernel in particular.
///
/// # Errors
/// See [`TestBinaryError`].
pub fn list(command: &GuestCommand) -> Result<Vec<String>, TestBinaryError> {
    let program = &command.program;
    let failed = |why: String| TestBinaryError::Start { program: program.clone(), why };
    let mut command = GuestCommand { limit_ms: LIST_LIMIT_MS, ..command.clone() };
    command.arguments.extend(["--list", "--format", "terse"].map(OsString::from));
    let (mut out, mut err) = (Vec::new(), Capture::default());
    let ending = child::run(&command, Streams::Apart, &mut |stream, bytes| {
        match stream {
            Stream::Out => out.extend_from_slice(bytes),
            Stream::Err => err.push(bytes),
        }
        Ok(())
    });
    let said = || String::from_utf8_lossy(&err.bytes()).trim().to_owned();
    match ending.map_err(|error| failed(error.to_string()))? {
        Ending::Exited(0) => {}
        Ending::NotFound(why) | Ending::NotStarted(why) => return Err(failed(why)),
        Ending::TimedOut => return Err(failed(format!("no list in {} s", LIST_LIMIT_MS / 1_000))),
        Ending::Exited(code) => return Err(failed(format!("exit code {code}: {}", said()))),
        Ending::Signalled(signal) => return Err(failed(format!("signal {signal}: {}", said()))),
    }
    let foreign = |line| TestBinaryError::Foreign { program: program.clone(), line };
    libtest::names(&String::from_utf8_lossy(&out)).map_err(foreign)
}

/// Names for `programs`, in their order: the file's without the hash that cargo puts behind it, as long as that tells
/// them apart.
#[must_use]
pub fn names(programs: &[PathBuf]) -> Vec<String> {
    let file = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let short: Vec<String> = programs.iter().map(|path| without_hash(&file(path)).to_owned()).collect();
    let alone = |name: &String, all: &[String]| all.iter().filter(|other| *other == name).count() == 1;
    let long =
        programs.iter().zip(&short).map(|(path, name)| if alone(name, &short) { name.clone() } else { file(path) });
    let long: Vec<String> = long.collect();
    let number = |(place, name): (usize, &String)| {
        if alone(name, &long) { name.clone() } else { format!("{name}#{}", place + 1) }
    };
    long.iter().enumerate().map(number).collect()
}

/// `NAME-0123456789abcdef` as `NAME`.
fn without_hash(name: &str) -> &str {
    let is_hash = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.rsplit_once('-').filter(|(stem, hash)| !stem.is_empty() && is_hash(hash)).map_or(name, |(stem, _)| stem)
}

/// The name of a test as a trial.
#[must_use]
pub fn trial(binary: &str, test: &str) -> TrialName {
    TrialName::test(format!("{binary}/{test}"))
}

/// Runs test `name` of one of `binaries` and judges it.
#[must_use]
pub fn run(name: &TrialName, binaries: &[TestBinary], kernel: KernelSummary) -> Record {
    let start = std::time::Instant::now();
    let mut record = Record::new(&name.scenario, None, kernel);
    // Binaries are named after files, so their names have no slash; those of tests may.
    let found = name
        .scenario
        .split_once('/')
        .and_then(|(binary, test)| binaries.iter().find(|other| other.name == binary).map(|binary| (binary, test)));
    let Some((binary, test)) = found else {
        record.reasons.push("the guest does not know the test binary".to_owned());
        return record;
    };
    let mut command = binary.command.clone();
    command.arguments.extend(["--exact", "--nocapture", "--test-threads=1", "--", test].map(OsString::from));
    let mut wrote = Capture::default();
    let ending = child::run(&command, Streams::Together, &mut |_, bytes| {
        wrote.push(bytes);
        Ok(())
    });
    let ending = ending.unwrap_or_else(|error| Ending::NotStarted(error.to_string()));
    let verdict = libtest::judge(test, &wrote.bytes(), &ending);
    record.result = verdict.outcome;
    record.reasons = verdict.reasons;
    record.duration_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    record
}

/// The start and the end of what somebody writes.
#[derive(Debug, Default)]
struct Capture {
    start: Vec<u8>,
    end: VecDeque<u8>,
    left_out: usize,
}

impl Capture {
    fn push(&mut self, bytes: &[u8]) {
        let (start, rest) = bytes.split_at(bytes.len().min(KEPT - self.start.len()));
        self.start.extend_from_slice(start);
        self.end.extend(rest);
        let over = self.end.len().saturating_sub(KEPT);
        self.end.drain(..over);
        self.left_out += over;
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.start.clone();
        if self.left_out > 0 {
            bytes.extend_from_slice(format!("\n[... {} bytes left out ...]\n", self.left_out).as_bytes());
        }
        bytes.extend(&self.end);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Outcome;

    #[test]
    fn binaries_are_named_without_hashes_as_long_as_that_tells_them_apart() {
        let named = |paths: &[&str]| names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        let one = "deps/wire-0123456789abcdef";
        assert_eq!(named(&[one, "deps/capture", "x/-0123456789abcdef"]), ["wire", "capture", "-0123456789abcdef"]);
        let other = "deps/wire-fedcba9876543210";
        assert_eq!(named(&[one, other]), ["wire-0123456789abcdef", "wire-fedcba9876543210"]);
        assert_eq!(named(&["a/wire", "b/wire", "wire-1"]), ["wire#1", "wire#2", "wire-1"]);
    }

    #[test]
    fn of_a_flood_start_and_end_are_kept() {
        let mut capture = Capture::default();
        (0..100_000).for_each(|number| capture.push(format!("{number:07}\n").as_bytes()));
        let text = String::from_utf8(capture.bytes()).unwrap();
        assert!(text.starts_with("0000000\n") && text.ends_with("0099999\n"), "{}", text.len());
        // 800,000 bytes came.
        assert!(text.contains(&format!("[... {} bytes left out ...]", 800_000 - 2 * KEPT)));
    }

    /// This very test binary, run as any other.
    fn own(environment: &[(&str, &str)]) -> TestBinary {
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let program = std::env::current_exe().unwrap();
        let command =
            GuestCommand { program, environment, folder: "/".into(), limit_ms: 60_000, arguments: Vec::new() };
        TestBinary { name: "own".to_owned(), command }
    }

    /// How the test below is to behave.
    const PART: &str = "BPFLAB_TEST_PART";
    const PLAYER: &str = "vm::test_binary::tests::plays_a_part";

    #[test]
    fn plays_a_part() {
        match std::env::var(PART).as_deref() {
            Ok("fails") => panic!("as told"),
            Ok("unsupported") => eprintln!("{} not here", libtest::UNSUPPORTED),
            Ok("aborts") => std::process::abort(),
            Ok("leaves") => std::process::exit(0),
            _ => {}
        }
    }

    #[test]
    fn tests_are_listed_and_run_one_by_one() {
        let names = list(&own(&[]).command).unwrap();
        assert!(names.iter().any(|name| name == PLAYER), "{names:?}");
        let part = |part: &str| run(&trial("own", PLAYER), &[own(&[(PART, part)])], KernelSummary::default());
        assert_eq!(part("passes").result, Outcome::Passed);
        let failed = part("fails");
        assert_eq!(failed.result, Outcome::Failed);
        assert!(failed.reasons[0].ends_with("as told") && failed.reasons[0].starts_with("panicked at "), "{failed:?}");
        let unsupported = part("unsupported");
        assert_eq!(
            (unsupported.result, &unsupported.reasons[..]),
            (Outcome::Unsupported, &["not here".to_owned()][..])
        );
        assert!(part("aborts").reasons[0].starts_with("signal 6 (SIGABRT)"));
        assert!(part("leaves").reasons[0].contains("before the harness said"));
        let none = run(&trial("own", "no::such"), &[own(&[])], KernelSummary::default());
        assert_eq!(
            (none.result, &none.reasons[0][..]),
            (Outcome::LabFailure, "the test binary ran no test of this name")
        );
    }

    #[test]
    fn what_is_no_test_binary_is_refused() {
        let refusal = |program: &str| {
            let command = GuestCommand { program: program.into(), folder: "/".into(), ..GuestCommand::default() };
            list(&command).unwrap_err().to_string()
        };
        assert!(refusal("/bin/echo").contains("it printed `--list --format terse`"));
        assert!(refusal("/bin/false").contains("exit code 1"));
        assert!(refusal("/no/such").contains("No such file"));
    }
}
