//! `bpflab matrix`: scenarios on other kernels.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::{BringArgs, CostOptions, GuestOptions, MatrixArgs, RunArgs};
use super::display::MatrixProgress;
use super::guests::{self, BOOT_LIMIT, acceleration, list_or_own, target};
use super::report::ExitOn;
use super::test_binaries::Chosen;
use super::{Exit, Failure, kernels, report, run};
use crate::cost::Figures;
use crate::kernel::probe::Version;
use crate::record::{Matrix, Record};
use crate::report::matrix::{problems_of, terminal};
use crate::run::RunError;
use crate::scenario::Mode;
use crate::scenario::trial::{Trial, TrialName};
use crate::subject::SubjectError;
use crate::subject::source::SourceError;
use crate::vm::coverage::{self, Release};
use crate::vm::kernels::{Cache, KernelList, lab_cache};
use crate::vm::matrix::{self, Options, Target};
use crate::vm::runner::{Needs, Runner, Setting};
use crate::vm::supervise::Limits;

/// Stands for all kernels of the list.
const ALL: &str = "all";
/// From a guest's last message to the end of its processes.
const EXIT_LIMIT: Duration = Duration::from_secs(30);
/// From the end of a test's time on, until the guest says that it killed it.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// Runs the selected scenarios, or the tests of test binaries, on the kernels of the list, prints their page and writes
/// what was asked for.
pub fn matrix(args: &MatrixArgs) -> Result<Exit, Failure> {
    if !args.test_binary.is_empty() {
        return test_binaries(args);
    }
    let mut trials = run::selected(&args.scenarios, args.pattern.as_deref(), args.mode)?;
    if trials.is_empty() {
        return Ok(run::nothing(&args.scenarios, args.pattern.as_deref(), args.mode));
    }
    let order: Vec<(String, Mode)> = trials.iter().map(|trial| (trial.found.name.clone(), trial.mode)).collect();
    let refused = run::refuse(&mut trials, args.execution);
    for (trial, record) in refused.iter().filter(|_| !args.quiet) {
        eprintln!("bpflab: {}: {}", trial.name(), record.reasons.join("; "));
    }
    if trials.is_empty() {
        let message = "all selected scenarios execute applications, which --no-exec forbids".to_owned();
        return Err(Failure { exit: Exit::Unavailable, message });
    }
    // A file that is wrong must not be found out after ten minutes.
    let figures = Figures::read(&args.costs.cost_figures).map_err(|error| Failure::invalid(&error))?;
    let costs = wants_costs(args);
    let job = Job {
        trials: &trials,
        scenarios: Some(&args.scenarios),
        tests: &Chosen::default(),
        bring: &args.bring,
        kernels: &args.kernel,
        guests: &args.guests,
        runner: args.guests.runner.unwrap_or_default(),
        costs,
        quiet: args.quiet,
    };
    let (mut matrix, unreached) = job.run()?;
    add_refused(&mut matrix, &refused, &order);
    let accepted = if costs { judge_costs(&mut matrix, figures, &args.costs) } else { Ok(()) };
    // Only a whole list can tell that a scenario runs nowhere.
    if args.kernel.is_empty() {
        matrix.problems = problems(&matrix, unreached);
    }
    // Files first: a terminal that went away takes nothing with it.
    report::write_outputs(&matrix, &args.outputs)?;
    report::print(&terminal::render(&matrix, report::layout(args.fold)));
    accepted?;
    Ok(report::exit(&matrix, &args.exit_on))
}

/// Puts the records of trials that were refused beside those of each kernel, in the order in which they were selected.
fn add_refused(matrix: &mut Matrix, refused: &[(Trial, Record)], order: &[(String, Mode)]) {
    for run in &mut matrix.kernels {
        for (_, record) in refused {
            let mut record = record.clone();
            record.kernel.release.clone_from(&run.release);
            run.records.push(record);
        }
        let place = |record: &Record| {
            order.iter().position(|(name, mode)| *name == record.scenario && Some(*mode) == record.mode)
        };
        run.records.sort_by_key(place);
    }
}

/// [`matrix`] for test binaries.
fn test_binaries(args: &MatrixArgs) -> Result<Exit, Failure> {
    let tests = Chosen::of(args)?;
    if tests.tests.is_empty() {
        return Ok(tests.nothing(args.pattern.as_deref()));
    }
    let job = Job {
        trials: &[],
        scenarios: None,
        tests: &tests,
        bring: &args.bring,
        kernels: &args.kernel,
        guests: &args.guests,
        runner: args.guests.runner.unwrap_or_default(),
        costs: false,
        quiet: args.quiet,
    };
    let (mut matrix, _) = job.run()?;
    if args.kernel.is_empty() {
        matrix.problems = problems_of(&matrix);
    }
    report::write_outputs(&matrix, &args.outputs)?;
    report::print(&terminal::render(&matrix, report::layout(args.fold)));
    Ok(report::exit(&matrix, &args.exit_on))
}

/// Runs `trials` on the kernels that `bpflab run` was given, and prints their page.
pub fn inner_loop(trials: &[Trial], args: &RunArgs) -> Result<Exit, Failure> {
    let whole = args.kernel.iter().any(|name| name == ALL);
    let job = Job {
        trials,
        scenarios: Some(&args.scenarios),
        tests: &Chosen::default(),
        bring: &BringArgs::default(),
        kernels: if whole { &[] } else { &args.kernel },
        guests: &args.guests,
        runner: args.guests.runner.unwrap_or_else(|| runner_for(trials)),
        costs: false,
        quiet: args.quiet,
    };
    tell_of_apps(trials, job.runner);
    let (matrix, _) = job.run()?;
    if let Some(file) = &args.output {
        let records = matrix.kernels.iter().flat_map(|run| &run.records);
        let lines: String =
            records.filter_map(|record| serde_json::to_string(record).ok()).map(|line| line + "\n").collect();
        let failed = |source| RunError::Artefact { path: file.clone(), source };
        std::fs::write(file, lines).map_err(|source| Failure::invalid(&failed(source)))?;
    }
    report::print(&terminal::render(&matrix, report::layout(args.quiet)));
    Ok(report::exit(&matrix, &ExitOn::default()))
}

/// The runner of single kernels where none is named: the quick one, whose guests have what the lab needs and nothing
/// else; where applications are executed the other, whose guests see all of this machine.
fn runner_for(trials: &[Trial]) -> Runner {
    if trials.iter().any(|trial| !trial.executes().is_empty()) { Runner::Vng } else { Runner::Fast }
}

/// Says why applications are not to be had in guests that are asked for by name.
fn tell_of_apps(trials: &[Trial], runner: Runner) {
    let count = trials.iter().filter(|trial| !trial.executes().is_empty()).count();
    if count > 0 && runner == Runner::Fast {
        eprintln!(
            "bpflab: guests of the runner fast have no applications, which {count} of the scenarios execute; those of \
             vng see this machine's"
        );
    }
}

/// Runs `trials` of the folder `scenarios` on the kernels of those names, without a word.
pub fn on_kernels(
    trials: &[Trial],
    scenarios: &Path,
    kernels: &[String],
    guests: &GuestOptions,
    runner: Runner,
) -> Result<Matrix, Failure> {
    let job = Job {
        trials,
        scenarios: Some(scenarios),
        tests: &Chosen::default(),
        bring: &BringArgs::default(),
        kernels,
        guests,
        runner,
        costs: false,
        quiet: true,
    };
    job.run().map(|(matrix, _)| matrix)
}

/// Whether verifier cost is measured: where it is asked for, or all scenarios run by the runner that takes its time, and
/// there is something to hold it against.
fn wants_costs(args: &MatrixArgs) -> bool {
    let CostOptions { costs, no_costs, accept_costs, cost_figures } = &args.costs;
    if *costs || *accept_costs {
        return true;
    }
    let is_slow = args.guests.runner.unwrap_or_default() == Runner::Vng;
    let is_whole = args.pattern.is_none() && args.mode.is_none() && is_slow;
    if is_whole && !no_costs && !cost_figures.exists() {
        eprintln!("bpflab: verifier cost is not measured: there are no figures in {}", cost_figures.display());
    }
    is_whole && !no_costs && cost_figures.exists()
}

/// Holds what was measured against the figures, or makes it the figures.
fn judge_costs(matrix: &mut Matrix, mut figures: Figures, options: &CostOptions) -> Result<(), Failure> {
    if options.accept_costs {
        for run in &matrix.kernels {
            if run.costs.is_empty() {
                eprintln!("bpflab: no cost was measured on {}: its figures stay as they are", run.name);
            } else {
                figures.accept(&run.name, &run.costs);
            }
        }
        figures.write(&options.cost_figures).map_err(|error| Failure::invalid(&error))?;
    }
    figures.judge(matrix);
    Ok(())
}

/// What the releases told beforehand, and what the records tell beside it.
fn problems(matrix: &Matrix, unreached: Vec<(String, String)>) -> Vec<String> {
    let known = |sentence: &String| unreached.iter().any(|(trial, _)| sentence.starts_with(&format!("{trial} ran ")));
    let others = problems_of(matrix).into_iter().filter(|sentence| !known(sentence)).collect::<Vec<_>>();
    unreached.iter().map(|(_, sentence)| sentence.clone()).chain(others).collect()
}

/// Trials that no kernel of the whole list can run by its release, with a sentence each; said before any guest is
/// started. Nothing where only some kernels of the list run.
///
/// # Errors
/// There is no other trial: nothing is worth a guest.
fn unreached(job: &Job<'_>, targets: &[Target]) -> Result<Vec<(String, String)>, Failure> {
    let trials = job.trials;
    // Of what tests need nothing is known before they run.
    if !job.kernels.is_empty() || trials.is_empty() {
        return Ok(Vec::new());
    }
    let release = |target: &Target| {
        let release = target.image.as_ref().map_or(target.name.as_str(), |image| image.release.as_str());
        Release { name: target.name.clone(), version: Version::of_release(release) }
    };
    let releases: Vec<Release> = targets.iter().map(release).collect();
    let unreached = coverage::out_of_reach(trials, &releases);
    let sentences: Vec<&str> = unreached.iter().map(|(_, sentence)| sentence.as_str()).collect();
    if unreached.len() == trials.len() {
        return Err(Failure { exit: Exit::Failed, message: sentences.join("\n") });
    }
    if !job.quiet {
        for note in coverage::idle(trials, &releases) {
            eprintln!("bpflab: note: {note}");
        }
    }
    for sentence in sentences {
        eprintln!("bpflab: {sentence}");
    }
    Ok(unreached)
}

/// What is to be run, and where.
struct Job<'a> {
    trials: &'a [Trial],
    scenarios: Option<&'a Path>,
    /// Test binaries with their tests, which run behind the scenarios.
    tests: &'a Chosen,
    bring: &'a BringArgs,
    /// Names of kernels; the whole list if there are none.
    kernels: &'a [String],
    guests: &'a GuestOptions,
    runner: Runner,
    costs: bool,
    quiet: bool,
}

impl Job<'_> {
    /// Fetches the kernels, starts the guests, waits for all records.
    ///
    /// Gives the trials that were known to run on no kernel, too.
    fn run(&self) -> Result<(Matrix, Vec<(String, String)>), Failure> {
        let guests = self.guests;
        // Guests have no compiler, and neither time nor a kernel should be spent on a source that has errors.
        compile(self.trials)?;
        let list = match self.scenarios {
            Some(_) => KernelList::read(&guests.kernels).map_err(|error| kernels::failure(&error))?,
            // Other projects have none of their own.
            None => list_or_own(&guests.kernels)?,
        };
        let chosen = list.select(self.kernels).map_err(|error| kernels::failure(&error))?;
        self.runner.check().map_err(|error| Failure::unavailable(&error))?;
        let cache = Cache::open().map_err(|error| kernels::failure(&error))?;
        let targets: Vec<Target> = chosen
            .into_iter()
            .map(|kernel| target(kernel, &cache, guests.mirror.as_deref(), &|_| !self.quiet))
            .collect();
        let unreached = unreached(self, &targets)?;
        let options = self.options()?;
        let name = |trial: &Trial| TrialName { scenario: trial.found.name.clone(), mode: Some(trial.mode) };
        let names: Vec<TrialName> = self.trials.iter().map(name).chain(self.tests.tests.iter().cloned()).collect();
        let progress = MatrixProgress::new(self.quiet, names.len());
        let stop = super::signals::stop_flag();
        let matrix = matrix::run(&targets, &names, &options, stop, &|kernel, step| progress.step(kernel, &step));
        progress.finish();
        Ok((matrix, unreached))
    }

    fn options(&self) -> Result<Options, Failure> {
        let unavailable = |error: &dyn std::error::Error| Failure::unavailable(error);
        let guests = self.guests;
        let binary = std::env::current_exe().map_err(|error| unavailable(&error))?;
        let scenarios = self.scenarios.map(Path::canonicalize).transpose().map_err(|error| unavailable(&error))?;
        let cache = lab_cache().map_err(|error| kernels::failure(&error))?;
        let folder = PathBuf::from(super::RUNS).join(format!("matrix-{}", std::process::id()));
        let mut setting = Setting {
            memory_mib: guests.memory,
            cpus: NonZero::<u32>::MIN,
            acceleration: acceleration(self.runner, guests.no_kvm, &cache)?,
            binary,
            scenarios,
            shown: Vec::new(),
            share: None,
            cache,
            payload: None,
        };
        let needs = self.needs(&mut setting)?;
        self.runner.prepare(&mut setting, &needs, &folder).map_err(|error| unavailable(&error))?;
        Ok(Options {
            runner: self.runner,
            jobs: guests.jobs.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZero::get),
            setting,
            limits: Limits { boot: BOOT_LIMIT, silence: self.silence(), exit: EXIT_LIMIT },
            binaries: self.tests.binaries.clone(),
            costs: self.costs,
            folder,
            mishap: guests.mishap,
        })
    }

    /// What guests must have, and in `setting` what they see.
    fn needs(&self, setting: &mut Setting) -> Result<Needs, Failure> {
        let [first, ..] = &self.tests.binaries[..] else { return Ok(Needs::of(self.trials)) };
        // Folder and environment are those of all.
        let command = &first.command;
        let programs = self.tests.binaries.iter().map(|binary| binary.command.program.clone());
        let programs: Vec<PathBuf> = programs.collect();
        let needs = guests::needs(&programs, &command.folder, &command.environment, self.bring)?;
        guests::show(setting, &needs);
        setting.share = guests::share(self.runner, self.bring)?;
        Ok(needs)
    }

    /// How long a guest may be silent: as long as a trial may take, but a test ends by itself before.
    fn silence(&self) -> Duration {
        let limit = Duration::from_secs(self.guests.timeout);
        if self.tests.binaries.is_empty() { limit } else { limit.saturating_add(KILL_LIMIT) }
    }
}

/// Brings the objects under test up to date with their sources.
fn compile(trials: &[Trial]) -> Result<(), Failure> {
    trials.iter().try_for_each(|trial| {
        trial.compile().map_err(|error| match error {
            SubjectError::Source(SourceError::Run { .. }) => Failure::unavailable(&error),
            _ => Failure::invalid(&error),
        })
    })
}
