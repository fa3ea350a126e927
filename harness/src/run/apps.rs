//! A run of real applications.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::load::load;
use super::{RunError, Step, choose, collect, stage};
use crate::apps::{self, AppSpec};
use crate::kernel;
use crate::object::Clock;
use crate::pool::Pool;
use crate::recorder::Recorder;
use crate::report::{self, Document, KernelSummary};
use crate::scenario::{Mode, spec::Programs};
use crate::suite::Watch;
use crate::topology::{DEFAULT_MTU, Host, Network, Preset, Role, TopologyChoice};

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
    let mut recording = None;
    let outcome = stage::play(&topology, Watch::AllBut(None), &mut analyzers, step, |network, progress| {
        let recorder = plan.record.as_ref().map(|_| Recorder::start(&recorded(network))).transpose()?;
        let played = apps::play(network, &plan.apps, &folder, stop, &mut |at| progress.at(Step::App { at }));
        recording = recorder.map(Recorder::stop);
        played
    })?;
    if outcome.interrupted {
        document.notes.push("interrupted: applications were ended before their time".to_owned());
    }
    document.notes.extend(outcome.notes);
    document.apps = outcome.apps;
    collect(pool, keys, analyzers, 0, step, &mut document)?;
    if let (Some(path), Some(recording)) = (&plan.record, recording) {
        recording.write(path, &document.observation)?;
        if recording.lost() > 0 {
            document.notes.push(format!("{} frames are not in the recording: no room", recording.lost()));
        }
    }
    Ok(document)
}

/// The devices under test; every host where there is none.
fn recorded(network: &Network) -> Vec<&Host> {
    let duts: Vec<&Host> = network.hosts().iter().filter(|host| host.role() == Role::Dut).collect();
    if duts.is_empty() { network.hosts().iter().collect() } else { duts }
}
