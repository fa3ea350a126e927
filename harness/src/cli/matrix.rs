//! `bpflab matrix`: scenarios on other kernels.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::{GuestOptions, MatrixArgs};
use super::display::MatrixProgress;
use super::{Exit, Failure, KernelProgress, chain, kernels, report, run};
use crate::record::Matrix;
use crate::report::matrix::{problems_of, terminal};
use crate::scenario::trial::Trial;
use crate::vm::kernels::{Cache, Kernel, KernelList, lab_cache};
use crate::vm::kvm::{self, Acceleration};
use crate::vm::matrix::{self, Options, Target};
use crate::vm::protocol::TrialName;
use crate::vm::runner::{Needs, Setting};
use crate::vm::supervise::Limits;

/// Emulated guests boot in 5 s on an idle machine; a busy one may take many times as long.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// From a guest's last message to the end of its processes.
const EXIT_LIMIT: Duration = Duration::from_secs(30);

/// Runs the selected scenarios on the kernels of the list, prints their page and writes what was asked for.
pub fn matrix(args: &MatrixArgs) -> Result<Exit, Failure> {
    let trials = run::selected(&args.scenarios, args.pattern.as_deref(), args.mode)?;
    if trials.is_empty() {
        return Ok(run::nothing(&args.scenarios, args.pattern.as_deref(), args.mode));
    }
    let mut matrix = on_kernels(&trials, &args.scenarios, &args.kernel, &args.guests, args.quiet)?;
    // Only a whole list can tell that a scenario runs nowhere.
    if args.kernel.is_empty() {
        matrix.problems = problems_of(&matrix);
    }
    // Files first: a terminal that went away takes nothing with it.
    report::write_outputs(&matrix, &args.outputs)?;
    report::print(&terminal::render(&matrix, report::layout(args.fold)));
    Ok(report::exit(&matrix, &args.exit_on))
}

/// Fetches the kernels, starts the guests, waits for all records.
fn on_kernels(
    trials: &[Trial],
    scenarios: &Path,
    names: &[String],
    guests: &GuestOptions,
    quiet: bool,
) -> Result<Matrix, Failure> {
    let list = KernelList::read(&guests.kernels).map_err(|error| kernels::failure(&error))?;
    let chosen = list.select(names).map_err(|error| kernels::failure(&error))?;
    guests.runner.check().map_err(|error| Failure::unavailable(&error))?;
    let cache = Cache::open().map_err(|error| kernels::failure(&error))?;
    let options = options(scenarios, trials, guests)?;
    let targets: Vec<Target> = chosen.into_iter().map(|kernel| target(kernel, &cache, guests, quiet)).collect();
    let names: Vec<TrialName> =
        trials.iter().map(|trial| TrialName { scenario: trial.found.name.clone(), mode: trial.mode }).collect();
    let progress = MatrixProgress::new(quiet, trials.len());
    let stop = super::signals::stop_flag();
    let matrix = matrix::run(&targets, &names, &options, stop, &|kernel, step| progress.step(kernel, &step));
    progress.finish();
    Ok(matrix)
}

/// A kernel that cannot be had is a failure of its own and keeps no other from running.
fn target(kernel: &Kernel, cache: &Cache, guests: &GuestOptions, quiet: bool) -> Target {
    let mut progress = (!quiet).then(|| KernelProgress::new(&kernel.name));
    let image = cache.ensure(kernel, guests.mirror.as_deref(), &mut |step| {
        if let Some(progress) = &mut progress {
            progress.step(&step);
        }
    });
    if let Some(progress) = &mut progress {
        progress.finish();
    }
    Target { name: kernel.name.clone(), image: image.map_err(|error| chain(&error)) }
}

fn options(scenarios: &Path, trials: &[Trial], guests: &GuestOptions) -> Result<Options, Failure> {
    let binary = std::env::current_exe().map_err(|error| Failure::unavailable(&error))?;
    let scenarios = scenarios.canonicalize().map_err(|error| Failure::unavailable(&error))?;
    let cache = lab_cache().map_err(|error| kernels::failure(&error))?;
    let folder = PathBuf::from(super::RUNS).join(format!("matrix-{}", std::process::id()));
    let acceleration = acceleration(guests, &cache)?;
    let mut setting = Setting { memory_mib: guests.memory, acceleration, binary, scenarios, cache, payload: None };
    guests.runner.prepare(&mut setting, &Needs::of(trials), &folder).map_err(|error| Failure::unavailable(&error))?;
    Ok(Options {
        runner: guests.runner,
        jobs: guests.jobs.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZero::get),
        setting,
        limits: Limits { boot: BOOT_LIMIT, silence: Duration::from_secs(guests.timeout), exit: EXIT_LIMIT },
        costs: false,
        folder,
        mishap: guests.mishap,
    })
}

fn acceleration(guests: &GuestOptions, cache: &Path) -> Result<Acceleration, Failure> {
    if guests.no_kvm {
        return Ok(Acceleration::Emulation("--no-kvm".to_owned()));
    }
    let qemu = guests.runner.tool("qemu-system-x86_64").map_err(|error| Failure::unavailable(&error))?;
    Ok(kvm::acceleration(cache, &qemu))
}
