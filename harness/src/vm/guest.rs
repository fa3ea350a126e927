//! The inside of a guest: runs what a request names and tells it, message by message.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::protocol::{Message, Mishap, PROTOCOL_VERSION, Request, TrialName};
use crate::kernel::probe::Build;
use crate::record::{Outcome, Record};
use crate::scenario::judge::{self, judge_on};
use crate::scenario::trial::Trial;
use crate::suite::cost::costs;

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
    /// The scenarios cannot be read.
    #[error(transparent)]
    Scenarios(#[from] crate::scenario::ScenarioError),
}

/// Runs the trials of the request in file `path` and writes messages to `out`.
///
/// # Errors
/// See [`GuestError`]; what goes wrong in a trial is in its record.
pub fn serve(path: &Path, out: &mut dyn Write) -> Result<(), GuestError> {
    let failed = |source| GuestError::Request { path: path.to_owned(), source };
    let text = std::fs::read(path).map_err(failed)?;
    let request: Request = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
    freshen(&request);
    Message::Hello { version: PROTOCOL_VERSION, kernel: judge::kernel_summary() }.write(out)?;
    let all = Trial::all(&request.scenarios)?;
    if request.costs {
        Message::Costs { programs: costs() }.write(out)?;
    }
    let mut records = 0;
    for name in &request.trials {
        Message::Started { trial: name.clone() }.write(out)?;
        let record = Box::new(run(name, &all, &request));
        Message::Record { record }.write(out)?;
        records += 1;
        if let Some(mishap) = request.mishap {
            suffer(mishap, out)?;
        }
    }
    Message::Done { records }.write(out)?;
    Ok(())
}

fn run(name: &TrialName, all: &[Trial], request: &Request) -> Record {
    let Some(trial) = all.iter().find(|trial| trial.found.name == name.scenario && trial.mode == name.mode) else {
        let mut record = Record::new(&name.scenario, name.mode, judge::kernel_summary());
        record.reasons.push("the guest does not find the scenario".to_owned());
        return record;
    };
    let folder = request.artefacts.join(format!("{}-{}", name.scenario.replace('/', "-"), name.mode));
    let record = judge_on(Build::Listed(&request.lacks), trial, &folder, &AtomicBool::new(false));
    if matches!(record.result, Outcome::Passed | Outcome::Differs | Outcome::Unsupported) {
        let _ = std::fs::remove_dir_all(folder);
    }
    record
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
