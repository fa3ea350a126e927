//! A run of real applications.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::load::load;
use super::{RunError, Step, choose, collect, recording, stage};
use crate::apps::{self, AppSpec};
use crate::kernel;
use crate::object::Clock;
use crate::pool::Pool;
use crate::recorder::Target;
use crate::report::{self, Document, KernelSummary};
use crate::scenario::{Mode, spec::Programs};
use crate::suite::Watch;
use crate::topology::{DEFAULT_MTU, Preset, TopologyChoice};

/// What decides a run of applications.
#[derive(Clone, Debug)]
pub struct AppsPlan {
    /// The applications.
    pub apps: Vec<AppSpec>,
    /// Programs and their settings.
    pub programs: Programs,
    /// Hosts and links; the preset `router` if it names none.
    pub topology: TopologyChoice,
    /// Where outputs are kept, below a folder `apps`.
    pub artefacts: PathBuf,
    /// Where what passes the links of the device under test is recorded, with what was seen as comments.
    pub record: Option<PathBuf>,
}

/// Runs applications in live mode.
///
/// # Errors
/// See [`RunError`].
pub fn run_apps(
    pool: &Pool,
    plan: &AppsPlan,
    stop: &AtomicBool,
    step: &mut dyn FnMut(Step<'_>),
) -> Result<Document, RunError> {
    let target = plan.record.as_deref().map(Target::open).transpose()?;
    let (mode, reason) = choose(Some(Mode::Live))?;
    step(Step::Chosen { mode, reason: &reason });
    let (keys, mut analyzers, notes) = load(pool, &plan.programs, Clock::Kernel, step)?;
    // An application needs hosts with addresses of their own.
    let topology = plan.topology.or_preset(Preset::Router).resolve(&[], &[], DEFAULT_MTU);
    let mut document = Document {
        version: report::VERSION,
        kernel: KernelSummary { release: kernel::release(), machine: std::env::consts::ARCH.to_owned() },
        mode: mode.to_string(),
        mode_reason: reason,
        engine: "applications".to_owned(),
        clock: "kernel".to_owned(),
        topology: Some(topology.name.clone()),
        notes,
        ..Document::default()
    };
    let folder = plan.artefacts.join("apps");
    let record = target.is_some();
    let (outcome, recorded) =
        stage::play(&topology, Watch::AllBut(None), &mut analyzers, record, step, |network, progress| {
            apps::play(network, &plan.apps, &folder, stop, &mut |at| progress.at(Step::App { at }))
        })?;
    if outcome.interrupted {
        document.notes.push("interrupted: applications were ended before their time".to_owned());
    }
    document.notes.extend(outcome.notes);
    document.apps = outcome.apps;
    collect(pool, keys, analyzers, 0, step, &mut document)?;
    recording::write(target, recorded, &mut document)?;
    Ok(document)
}
