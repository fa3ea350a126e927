//! The inside of a guest: runs what a request names and tells it, message by message.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::child::{self, Streams};
use super::protocol::{Ending, GuestCommand, Message, Mishap, PROTOCOL_VERSION, Request, TrialName};
use super::test_binary;
use crate::kernel::probe::Build;
use crate::record::{Outcome, Record};
use crate::scenario::judge::{self, judge_on};
use crate::scenario::trial::Trial;
use crate::suite::cost::costs;

/// Bytes of the largest file that is sent: its line must stay below what the lab reads.
const LARGEST_ARTEFACT: u64 = 32 << 20;

/// Why a guest could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The request cannot be read.
    #[error("cannot read request {}", path.display())]
    Request {
        /// The file.
        path: std::path::PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A message could not be written.
    #[error("cannot write a message")]
    Write(#[from] std::io::Error),
}

/// Runs the command and the trials of the request in file `path` and writes messages to `out`.
///
/// # Errors
/// See [`GuestError`]; what goes wrong in a trial is in its record.
pub fn serve(path: &Path, out: &mut dyn Write) -> Result<(), GuestError> {
    let failed = |source| GuestError::Request { path: path.to_owned(), source };
    let text = std::fs::read(path).map_err(failed)?;
    let request: Request = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
    freshen(&request);
    Message::Hello { version: PROTOCOL_VERSION, kernel: judge::kernel_summary() }.write(out)?;
    if request.costs {
        Message::Costs { programs: costs() }.write(out)?;
    }
    if let Some(command) = &request.command {
        let ending = execute(command, out)?;
        Message::Ended { ending }.write(out)?;
    }
    let mut records = 0;
    for name in &request.trials {
        Message::Started { trial: name.clone() }.write(out)?;
        let record = Box::new(run(name, &request));
        Message::Record { record }.write(out)?;
        records += 1;
        if request.send_artefacts {
            send(&request.artefacts, out)?;
        }
        if let Some(mishap) = request.mishap {
            suffer(mishap, out)?;
        }
    }
    Message::Done { records }.write(out)?;
    Ok(())
}

/// Runs a command and sends what it writes as it comes.
fn execute(command: &GuestCommand, out: &mut dyn Write) -> Result<Ending, GuestError> {
    let ending = child::run(command, Streams::Apart, &mut |stream, bytes| {
        Message::Output { stream, content: BASE64_STANDARD.encode(bytes) }.write(out)
    });
    Ok(ending?)
}

fn run(name: &TrialName, request: &Request) -> Record {
    if name.mode.is_none() {
        return test_binary::run(name, &request.binaries, judge::kernel_summary());
    }
    let not_run = |why: String| {
        let mut record = Record::new(&name.scenario, name.mode, judge::kernel_summary());
        record.reasons.push(why);
        record
    };
    let trial = match Trial::named(&request.scenarios, name) {
        Ok(Some(trial)) => trial,
        Ok(None) => return not_run("the guest does not find the scenario".to_owned()),
        Err(error) => return not_run(crate::error::chain(&error)),
    };
    let folder = request.artefacts.join(format!("{}-{}", name.scenario.replace('/', "-"), trial.mode));
    let record = judge_on(Build::Listed(&request.lacks), &trial, &folder, &AtomicBool::new(false));
    if matches!(record.result, Outcome::Passed | Outcome::Differs | Outcome::Unsupported) {
        let _ = std::fs::remove_dir_all(folder);
    }
    record
}

/// Sends what a failed trial left in its folder below `artefacts`, and removes it: the guest keeps it in memory. A file
/// that cannot be read is missing there, as it would be here.
fn send(artefacts: &Path, out: &mut dyn Write) -> Result<(), GuestError> {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for folder in entries(artefacts) {
        for file in entries(&folder) {
            let size = std::fs::metadata(&file).map_or(u64::MAX, |meta| meta.len());
            let Some(bytes) = (size <= LARGEST_ARTEFACT).then(|| std::fs::read(&file).ok()).flatten() else { continue };
            let content = BASE64_STANDARD.encode(bytes);
            Message::Artefact { folder: name(&folder), name: name(&file), content }.write(out)?;
        }
        let _ = std::fs::remove_dir_all(folder);
    }
    Ok(())
}

/// Undoes what all restored guests have in common. Where that fails the trials tell: nothing in them may depend on it.
fn freshen(request: &Request) {
    if let Some(time_ns) = request.time_ns {
        let _ = crate::sys::set_clock(time_ns);
    }
    if let Some(seed) = &request.seed {
        let _ = crate::sys::reseed_random(seed.as_bytes());
    }
}

/// Brings about a mishap, so that the lab's tests see what the lab makes of it.
fn suffer(mishap: Mishap, out: &mut dyn Write) -> Result<(), GuestError> {
    match mishap {
        Mishap::Panic => {
            std::fs::write("/proc/sys/kernel/sysrq", "1")?;
            std::fs::write("/proc/sysrq-trigger", "c")?;
        }
        Mishap::Silence => loop {
            std::thread::park();
        },
        Mishap::Quit => std::process::exit(3),
        Mishap::Babble => out.write_all(b"\nbash: no job control in this shell\n")?,
    }
    Ok(())
}
