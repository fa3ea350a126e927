//! The whole pipeline: survey the capture, choose a mode, load the programs, send the frames, collect what was seen.
//!
//! The runner never prints. It reports typed steps to its caller and returns a [`Document`].

mod apps;
mod error;
mod flood;
mod live;
mod load;
mod lockstep;
mod recording;
mod stage;
mod tee;
mod wire;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::apps::AppSpec;
use crate::capture::{self, Frames, Survey};
use crate::kernel::{self, probe};
use crate::live::LiveOptions;
use crate::object::Clock;
use crate::pool::{Key, Pool};
use crate::report::{self, CaptureSummary, Document, FindingSummary, KernelSummary};
use crate::scenario::{Mode, spec::Programs};
use crate::suite::{self, Observer};
use crate::topology::TopologyChoice;
use crate::wire::{EngineChoice, Speed};
use load::load;
use tee::Tee;

pub use apps::{AppsPlan, run_apps};
pub use error::RunError;
pub use flood::{FloodDocument, FloodPlan, FloodTraffic, flood};

/// Everything that decides a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The capture.
    pub capture: PathBuf,
    /// How its frames are read and treated.
    pub options: capture::Options,
    /// The mode; nothing lets the run choose.
    pub mode: Option<Mode>,
    /// Programs and their settings.
    pub programs: Programs,
    /// Hosts and links of wire mode.
    pub topology: TopologyChoice,
    /// Pace of wire mode.
    pub speed: Speed,
    /// What sends in wire mode.
    pub engine: EngineChoice,
    /// Clock of the analysis in wire mode.
    pub clock: Clock,
    /// How live mode plays the capture.
    pub live: LiveOptions,
    /// Servers that live mode hands conversations on to, beside those that run anyway.
    pub apps: Vec<AppSpec>,
    /// Where the frames as offered and as received are kept.
    pub artefacts: Option<PathBuf>,
    /// Where what passes the links of the device under test is recorded, in lockstep mode what is offered to the
    /// programs, with what was seen as comments; see [`crate::recorder`].
    pub record: Option<PathBuf>,
}

/// What a run is doing.
#[derive(Debug)]
pub enum Step<'a> {
    /// Reads the capture once, to say what is in it.
    Survey {
        /// The file.
        file: &'a Path,
    },
    /// The mode is decided.
    Chosen {
        /// The mode.
        mode: Mode,
        /// Why this one.
        reason: &'a str,
    },
    /// Loads an object.
    Load {
        /// Its name.
        object: &'a str,
    },
    /// Builds the topology.
    Build {
        /// Its name.
        topology: &'a str,
    },
    /// Has sent so many frames.
    Frames {
        /// Sent.
        done: u64,
        /// To be sent.
        of: u64,
    },
    /// So many conversations are over (live mode).
    Flows {
        /// Over.
        done: u64,
        /// All.
        of: u64,
    },
    /// Applications run.
    App {
        /// How far they have come.
        at: crate::apps::Progress<'a>,
    },
    /// Reads maps and counters.
    Collect,
}

/// Runs `plan`. `stop` ends the run early, with what was seen so far.
///
/// # Errors
/// See [`RunError`].
pub fn run(plan: &Plan, stop: &AtomicBool, step: &mut dyn FnMut(Step<'_>)) -> Result<Document, RunError> {
    run_with(&Pool::default(), plan, stop, step)
}

/// As [`run`], with objects from `pool` where it has them. After a run that fails they do not go back.
///
/// # Errors
/// See [`RunError`].
pub fn run_with(
    pool: &Pool,
    plan: &Plan,
    stop: &AtomicBool,
    step: &mut dyn FnMut(Step<'_>),
) -> Result<Document, RunError> {
    let target = plan.record.as_deref().map(|path| recording::target(path, &plan.capture)).transpose()?;
    step(Step::Survey { file: &plan.capture });
    let survey = Survey::of(&plan.capture, &plan.options)?;
    let (mode, reason) = choose(plan.mode)?;
    step(Step::Chosen { mode, reason: &reason });
    let clock = match mode {
        Mode::Lockstep => Clock::Virtual,
        Mode::Wire => plan.clock,
        // Sockets keep their own time.
        Mode::Live => Clock::Kernel,
    };
    let (keys, mut analyzers, notes) = load(pool, &plan.programs, clock, step)?;
    let mut document = Document {
        version: report::VERSION,
        capture: summary(&plan.capture, &survey),
        kernel: KernelSummary { release: kernel::release(), machine: std::env::consts::ARCH.to_owned() },
        mode: mode.to_string(),
        mode_reason: reason,
        clock: if clock == Clock::Kernel { "kernel" } else { "capture" }.to_owned(),
        notes,
        ..Document::default()
    };
    let frames = Frames::open(&plan.capture, &plan.options, &survey)?;
    let mut offered = Tee::new(frames, plan.artefacts.as_deref())?;
    let recorded = match mode {
        Mode::Lockstep => lockstep::run(plan, &mut analyzers, &mut offered, &survey, stop, step, &mut document)?,
        Mode::Wire => wire::run(plan, &mut analyzers, &mut offered, &survey, stop, step, &mut document)?,
        Mode::Live => live::run(plan, &mut analyzers, &mut offered, stop, step, &mut document)?,
    };
    offered.finish()?;
    collect(pool, keys, analyzers, offered.first_ns.unwrap_or_default(), step, &mut document)?;
    recording::write(target, recorded, &mut document)?;
    Ok(document)
}

/// Reads what the programs have seen, and gives them back. Times are told from `start_ns` on.
fn collect(
    pool: &Pool,
    keys: Vec<Key>,
    mut analyzers: Vec<Box<dyn Observer>>,
    start_ns: u64,
    step: &mut dyn FnMut(Step<'_>),
    document: &mut Document,
) -> Result<(), RunError> {
    step(Step::Collect);
    for analyzer in &mut analyzers {
        analyzer.finish(start_ns, &mut document.observation)?;
    }
    for covered in analyzers.iter().flat_map(|observer| observer.coverage()) {
        match covered {
            Ok(program) => document.coverage.push(program),
            Err(why) => document.notes.push(why),
        }
    }
    for (key, analyzer) in keys.into_iter().zip(analyzers) {
        pool.give_back(key, analyzer);
    }
    suite::sort_drops(&mut document.observation.drops);
    reconcile(document);
    Ok(())
}

/// Some losses of the drop table are of the whole machine: calls that the kernel skipped, and packets of no known
/// namespace. Where the table has at least the drops that the ledger counted by itself, none of them was this run's.
fn reconcile(document: &mut Document) {
    let observation = &mut document.observation;
    let listed: u64 = observation.drops.iter().filter(|drop| drop.by == "kernel").map(|drop| drop.packets).sum();
    if listed < observation.ledger.dropped {
        return;
    }
    for loss in [suite::drops::SKIPPED, suite::drops::UNATTRIBUTED] {
        if let Some(count) = observation.losses.remove(loss) {
            document.notes.push(format!("{count} drops elsewhere on this machine were not seen whole ({loss})"));
        }
    }
}

/// The mode that was asked for, or the one that answers most here, and why.
fn choose(asked: Option<Mode>) -> Result<(Mode, String), RunError> {
    let unmet = |mode| probe::unmet(&probe::Requirement::of_mode(mode));
    match asked {
        Some(mode) => match unmet(mode) {
            unmet if unmet.is_empty() => Ok((mode, "as asked".to_owned())),
            unmet => Err(RunError::Unmet(unmet)),
        },
        None => {
            let wire = unmet(Mode::Wire);
            if wire.is_empty() {
                let reason = "chosen because it answers most: the kernel's own forwarding and drops take part";
                return Ok((Mode::Wire, reason.to_owned()));
            }
            let lockstep = unmet(Mode::Lockstep);
            if !lockstep.is_empty() {
                return Err(RunError::Unmet(lockstep));
            }
            let lacks: Vec<String> = wire.iter().map(probe::Unmet::to_string).collect();
            Ok((Mode::Lockstep, format!("chosen because wire mode is not to be had here: {}", lacks.join("; "))))
        }
    }
}

fn summary(file: &Path, survey: &Survey) -> CaptureSummary {
    let duration_ns = survey.last_ns.unwrap_or_default() - survey.first_ns.unwrap_or_default();
    let resolutions: BTreeSet<String> = survey.interfaces.iter().map(|one| one.resolution.to_string()).collect();
    let links: BTreeSet<String> = survey.interfaces.iter().map(|one| one.link.to_string()).collect();
    #[allow(clippy::cast_precision_loss, reason = "a duration shown to the microsecond")]
    let duration_s = duration_ns as f64 / 1e9;
    CaptureSummary {
        file: file.display().to_string(),
        format: format!("{} {}", survey.format.name(), resolutions.into_iter().collect::<Vec<_>>().join(" + ")),
        link_types: links.into_iter().collect(),
        packets: survey.packets,
        bytes: survey.wire_bytes,
        duration_s,
        sha256: survey.sha256.clone(),
        findings: survey
            .findings
            .iter()
            .map(|finding| FindingSummary {
                kind: finding.kind.to_string(),
                count: finding.count,
                first_packet: finding.first,
                refused: finding.refused,
                message: finding.text.clone(),
            })
            .collect(),
    }
}

fn interrupted(of: u64, done: u64) -> String {
    format!("interrupted: {done} of {of} frames were offered; the numbers cover those")
}

/// File of the frames that left, below the folder of artefacts.
pub const RECEIVED: &str = "received.pcapng";
