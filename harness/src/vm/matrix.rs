//! Many trials on many kernels: guests side by side, and one record for each trial on each kernel, come what may.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::kernels::Image;
use super::kvm::{self, Acceleration};
use super::protocol::{Message, Mishap, PROTOCOL_VERSION, Request, TestBinary, TrialName};
use super::runner::{Runner, RunnerError, Setting};
use super::supervise::{Guest, Life, Limits, supervise};
use crate::kernel::probe::Lacks;
use crate::record::{FailureKind, GuestFailure, KernelRun, MATRIX_VERSION, Matrix, Outcome, Record};
use crate::report::KernelSummary;

/// Guests that one kernel gets: a trial that takes its guest with it must not take the others too, but a kernel that
/// falls each time is told off at last.
const GUESTS_PER_KERNEL: usize = 4;

/// A kernel of the list, with its image or what kept it away.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name in the list.
    pub name: String,
    /// Features that it was built without.
    pub lacks: Lacks,
    /// The image, or a sentence.
    pub image: Result<Image, String>,
}

/// How a matrix is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The runner.
    pub runner: Runner,
    /// Guests side by side.
    pub jobs: usize,
    /// What the guests have in common.
    pub setting: Setting,
    /// How long they may be silent.
    pub limits: Limits,
    /// Test binaries that trials name.
    pub binaries: Vec<TestBinary>,
    /// Whether verifier costs are measured.
    pub costs: bool,
    /// Where each guest's files are kept: request, console, messages, artefacts of failed trials.
    pub folder: PathBuf,
    /// A mishap in each first guest, for the lab's own tests.
    pub mishap: Option<Mishap>,
}

/// What a matrix is doing.
#[derive(Debug)]
pub enum Step<'a> {
    /// A guest is being started, for so many trials.
    Start {
        /// How many are left.
        trials: usize,
    },
    /// The guest speaks.
    Booted {
        /// `uname -r`.
        release: &'a str,
        /// From its start.
        after: Duration,
    },
    /// A trial begins.
    Trial(&'a TrialName),
    /// A trial ended.
    Record(&'a Record),
    /// Something is wrong with the guest.
    Failure(&'a GuestFailure),
    /// The kernel's trials are done.
    Finished(&'a KernelRun),
}

/// Runs `trials` on each of `targets`; `step` is told what happens, by the kernel's name.
#[must_use]
pub fn run(
    targets: &[Target],
    trials: &[TrialName],
    options: &Options,
    stop: &AtomicBool,
    step: &(dyn Fn(&str, Step<'_>) + Sync),
) -> Matrix {
    let start = Instant::now();
    let queue: Mutex<VecDeque<usize>> = Mutex::new((0..targets.len()).collect());
    let done: Mutex<Vec<(usize, KernelRun)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, targets.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(position) = next else { break };
                    let target = &targets[position];
                    let tell = |what: Step<'_>| step(&target.name, what);
                    let run = run_kernel(target, trials, options, stop, &tell);
                    tell(Step::Finished(&run));
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((position, run));
                }
            });
        }
    });
    let mut kernels = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    kernels.sort_by_key(|(position, _)| *position);
    Matrix {
        version: MATRIX_VERSION,
        kernels: kernels.into_iter().map(|(_, run)| run).collect(),
        problems: Vec::new(),
        wall_s: start.elapsed().as_secs_f64(),
    }
}

fn run_kernel(
    target: &Target,
    trials: &[TrialName],
    options: &Options,
    stop: &AtomicBool,
    tell: &dyn Fn(Step<'_>),
) -> KernelRun {
    let mut run = KernelRun { name: target.name.clone(), runner: options.runner.to_string(), ..KernelRun::default() };
    match &target.image {
        Ok(image) => {
            run.version.clone_from(&image.version);
            run.sha256.clone_from(&image.sha256);
            Guests {
                image,
                lacks: &target.lacks,
                options,
                stop,
                tell,
                setting: options.setting.clone(),
                run: &mut run,
            }
            .serve(trials);
        }
        Err(sentence) => run.failures.push(unavailable(sentence.clone())),
    }
    complete(&mut run, trials);
    run
}

fn unavailable(message: String) -> GuestFailure {
    GuestFailure { kind: FailureKind::Unavailable, trial: None, message, console: Vec::new() }
}

/// A guest that there never was.
fn not_started(error: &RunnerError) -> GuestFailure {
    let message = crate::error::chain(error);
    match error {
        RunnerError::Boot { console, .. } => {
            GuestFailure { kind: FailureKind::NoBoot, trial: None, message, console: console.clone() }
        }
        RunnerError::Interrupted => GuestFailure { kind: FailureKind::Interrupted, ..unavailable(message) },
        _ => unavailable(message),
    }
}

/// Keeps a file that a guest sent, as a guest that writes here itself would have. One that cannot be kept is missing.
fn keep_artefact(guest: &Path, folder: &str, name: &str, content: &str) {
    // Names come from the guest.
    let is_plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    if let (true, true, Ok(bytes)) = (is_plain(folder), is_plain(name), BASE64_STANDARD.decode(content)) {
        let folder = guest.join("artefacts").join(folder);
        let _ = std::fs::create_dir_all(&folder);
        let _ = std::fs::write(folder.join(name), bytes);
    }
}

/// The guests of one kernel, one after the other.
struct Guests<'a> {
    image: &'a Image,
    lacks: &'a Lacks,
    options: &'a Options,
    stop: &'a AtomicBool,
    tell: &'a dyn Fn(Step<'_>),
    setting: Setting,
    run: &'a mut KernelRun,
}

impl Guests<'_> {
    fn serve(&mut self, trials: &[TrialName]) {
        let mut left = trials.to_vec();
        while !left.is_empty() && self.run.guests.len() < GUESTS_PER_KERNEL {
            let Some(life) = self.live(&left) else { break };
            let progressed = !life.records.is_empty() || life.interrupted_trial.is_some();
            let done = life.done;
            let spoke = life.release.is_some();
            self.keep(life, &mut left);
            if done || self.stop.load(Ordering::Relaxed) {
                break;
            }
            if !spoke && self.setting.acceleration == Acceleration::Kvm {
                let why = "/dev/kvm passed its trial, but a guest did not boot by it";
                if let Ok(qemu) = self.options.runner.tool("qemu-system-x86_64") {
                    self.setting.acceleration = kvm::give_up(&self.setting.cache, &qemu, why);
                    continue;
                }
            }
            let is_first = self.run.guests.len() == 1;
            if !spoke && is_first && self.options.runner.forget(self.image, &self.setting) {
                continue;
            }
            if !progressed {
                break;
            }
        }
        self.run.acceleration = self.setting.acceleration.to_string();
    }

    /// One guest's life; nothing if it could not be started.
    fn live(&mut self, left: &[TrialName]) -> Option<Life> {
        (self.tell)(Step::Start { trials: left.len() });
        let is_first = self.run.guests.is_empty();
        let request = Request {
            version: PROTOCOL_VERSION,
            trials: left.to_vec(),
            binaries: self.options.binaries.clone(),
            lacks: self.lacks.clone(),
            costs: self.options.costs && is_first,
            mishap: self.options.mishap.filter(|_| is_first),
            ..Request::default()
        };
        let folder = self.options.folder.join(format!("{}-{}", self.run.name, self.run.guests.len() + 1));
        let guest = match self.start(&request, &folder) {
            Ok(guest) => guest,
            Err(error) => {
                let failure = not_started(&error);
                (self.tell)(Step::Failure(&failure));
                self.run.failures.push(failure);
                return None;
            }
        };
        let born = guest.started;
        Some(supervise(guest, &self.options.limits, self.stop, &mut |message| match message {
            Message::Hello { kernel, .. } => {
                (self.tell)(Step::Booted { release: &kernel.release, after: born.elapsed() });
            }
            Message::Started { trial } => (self.tell)(Step::Trial(trial)),
            Message::Record { record } => (self.tell)(Step::Record(record)),
            Message::Artefact { folder: of, name, content } => keep_artefact(&folder, of, name, content),
            Message::Costs { .. } | Message::Output { .. } | Message::Ended { .. } | Message::Done { .. } => {}
        }))
    }

    fn start(&self, request: &Request, folder: &Path) -> Result<Guest, RunnerError> {
        let made = std::fs::create_dir_all(folder).and_then(|()| folder.canonicalize());
        let folder = made.map_err(|source| RunnerError::Folder { path: folder.to_owned(), source })?;
        self.options.runner.start(self.image, request, &self.setting, &folder, self.stop)
    }

    /// Takes over what a guest left, and strikes what needs no other guest from `left`.
    fn keep(&mut self, life: Life, left: &mut Vec<TrialName>) {
        if let Some(release) = life.release {
            self.run.release = release;
        }
        if !life.costs.is_empty() {
            self.run.costs = life.costs;
        }
        self.run.guests.push(life.times);
        for failure in &life.failures {
            (self.tell)(Step::Failure(failure));
        }
        if let Some(trial) = life.interrupted_trial {
            left.retain(|name| *name != trial);
            let reasons = life.failures.iter().map(|failure| format!("{}: {}", failure.kind.text(), failure.message));
            let mut record = lab_failure(self.run, &trial);
            record.reasons.extend(reasons);
            self.run.records.push(record);
        }
        let recorded = |name: &TrialName| {
            life.records.iter().any(|record| record.scenario == name.scenario && record.mode == name.mode)
        };
        left.retain(|name| !recorded(name));
        self.run.records.extend(life.records);
        self.run.failures.extend(life.failures);
    }
}

fn lab_failure(run: &KernelRun, trial: &TrialName) -> Record {
    let kernel = KernelSummary { release: run.release.clone(), machine: std::env::consts::ARCH.to_owned() };
    let record = Record::new(&trial.scenario, trial.mode, kernel);
    debug_assert!(record.result == Outcome::LabFailure);
    record
}

/// Gives every trial without a record one that says why, and puts all in the order of `trials`.
fn complete(run: &mut KernelRun, trials: &[TrialName]) {
    let place =
        |record: &Record| trials.iter().position(|name| name.scenario == record.scenario && name.mode == record.mode);
    let why = run.failures.last().map_or_else(
        || "no guest ran it".to_owned(),
        |failure| format!("not run: {}: {}", failure.kind.text(), failure.message),
    );
    for name in trials {
        if !run.records.iter().any(|record| record.scenario == name.scenario && record.mode == name.mode) {
            let mut record = lab_failure(run, name);
            record.reasons.push(why.clone());
            run.records.push(record);
        }
    }
    run.records.sort_by_key(place);
}
