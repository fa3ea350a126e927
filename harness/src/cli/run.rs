//! `bpflab run` and `bpflab list`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use console::Style;

use super::args::{ExecutionArgs, ListArgs, RunArgs, SCENARIOS};
use super::coverage::Coverage;
use super::{Exit, Failure, matrix, watch};
use crate::record::{Outcome, Record};
use crate::recorder::Target;
use crate::run::RunError;
use crate::scenario::judge::{judge, kernel_summary};
use crate::scenario::trial::{COVERAGE, Trial};
use crate::scenario::{Found, Mode, ScenarioError};

/// Below the current folder: where runs keep what they offered and received.
pub const RUNS: &str = "reports/runs";

fn select(root: &Path, pattern: Option<&str>) -> Result<Vec<Trial>, Failure> {
    let root = root
        .canonicalize()
        .map_err(|source| Failure::invalid(&ScenarioError::NoFolder { path: root.to_owned(), source }))?;
    let trials = Trial::all(&root).map_err(|error| Failure::invalid(&error))?;
    let Some(pattern) = pattern else { return Ok(trials) };
    // A name that is also part of others stands for itself, so that one scenario can be repeated alone.
    if trials.iter().any(|trial| trial.found.name == pattern) {
        return Ok(trials.into_iter().filter(|trial| trial.found.name == pattern).collect());
    }
    let glob = glob::Pattern::new(pattern).map_err(|error| Failure {
        exit: Exit::Invalid,
        message: format!("the pattern `{pattern}` is no glob: {error}"),
    })?;
    Ok(trials
        .into_iter()
        .filter(|trial| trial.found.name.contains(pattern) || glob.matches(&trial.found.name))
        .collect())
}

/// The trials of the scenarios that `pattern` names, in `mode` if one is given.
pub fn selected(root: &Path, pattern: Option<&str>, mode: Option<Mode>) -> Result<Vec<Trial>, Failure> {
    let mut trials = select(root, pattern)?;
    trials.retain(|trial| mode.is_none_or(|mode| mode == trial.mode));
    Ok(trials)
}

/// Says that nothing was selected, and by what.
pub fn nothing(folder: &Path, pattern: Option<&str>, mode: Option<Mode>) -> Exit {
    let pattern = pattern.map_or_else(String::new, |pattern| format!(" by `{pattern}`"));
    let mode = mode.map_or_else(String::new, |mode| format!(" in {mode} mode"));
    eprintln!("bpflab: no scenario in {} is selected{pattern}{mode}", folder.display());
    Exit::Nothing
}

/// Runs the selected scenarios and prints one line each, with a diff for each that fails; again and again if that is
/// wanted.
pub fn run(args: &RunArgs) -> Result<Exit, Failure> {
    if !args.watch {
        return once(args);
    }
    // Scenarios find other captures beside their folder.
    let captures = args.scenarios.join("../pcaps");
    watch::watch(&[args.scenarios.clone(), captures, args.guests.kernels.clone()], || once(args))
}

fn once(args: &RunArgs) -> Result<Exit, Failure> {
    let mut trials = selected(&args.scenarios, args.pattern.as_deref(), args.mode)?;
    if trials.is_empty() {
        return Ok(nothing(&args.scenarios, args.pattern.as_deref(), args.mode));
    }
    if !args.kernel.is_empty() {
        for (trial, record) in refuse(&mut trials, args.execution) {
            show(&trial, &record, args);
        }
        return if trials.is_empty() { Ok(Exit::Unavailable) } else { matrix::inner_loop(&trials, args) };
    }
    let mut output = args.output.as_ref().map(std::fs::File::create).transpose().map_err(|source| {
        let path = args.output.clone().unwrap_or_default();
        Failure::invalid(&RunError::Artefact { path, source })
    })?;
    if let Some(path) = &args.record {
        record_one(&mut trials, path)?;
    }
    let mut counts = Counts { left: trials.len(), ..Counts::default() };
    let mut coverage = args.coverage.as_deref().map(Coverage::new);
    for trial in &mut trials {
        trial.coverage = coverage.is_some();
        let record = match refused(trial, args.execution) {
            Some(record) => record,
            None => record(trial, coverage.as_mut())?,
        };
        counts.add(record.result);
        show(trial, &record, args);
        if let Some(file) = &mut output {
            let line = serde_json::to_string(&record).unwrap_or_default();
            writeln!(file, "{line}").map_err(|error| Failure::unavailable(&error))?;
        }
        if is_interrupted() {
            break;
        }
    }
    if counts.left > 0 {
        println!("interrupted: {} not run", counts.left);
    }
    let refused = if counts.refused > 0 { format!(", {} refused", counts.refused) } else { String::new() };
    let differs = if counts.differs > 0 { format!(", {} differ as declared", counts.differs) } else { String::new() };
    println!(
        "{} passed{differs}, {} failed, {} unsupported{refused}, {} lab failures",
        counts.passed, counts.failed, counts.unsupported, counts.lab
    );
    if let Some(coverage) = coverage {
        coverage.finish()?;
    }
    Ok(counts.exit())
}

fn is_interrupted() -> bool {
    super::signals::stop_flag().load(Ordering::Relaxed)
}

#[derive(Default)]
struct Counts {
    /// Selected and not yet run.
    left: usize,
    passed: u64,
    differs: u64,
    failed: u64,
    unsupported: u64,
    /// By `--no-exec`.
    refused: u64,
    lab: u64,
}

impl Counts {
    fn add(&mut self, outcome: Outcome) {
        self.left = self.left.saturating_sub(1);
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Differs => self.differs += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Unsupported => self.unsupported += 1,
            Outcome::Skipped => self.refused += 1,
            Outcome::LabFailure => self.lab += 1,
        }
    }

    fn exit(&self) -> Exit {
        match self {
            // What an interruption kept from running has not passed.
            Self { failed: 1.., .. } | Self { left: 1.., .. } => Exit::Failed,
            Self { lab: 1.., .. } => Exit::Unavailable,
            // A run in which nothing could run has shown nothing.
            Self { passed: 0, differs: 0, .. } => Exit::Unavailable,
            _ => Exit::Passed,
        }
    }
}

/// Has the one selected trial recorded.
fn record_one(trials: &mut [Trial], path: &Path) -> Result<(), Failure> {
    if let [trial] = trials {
        // A file that cannot be written is no failure of the scenario.
        Target::open(path).map_err(|error| Failure::invalid(&error))?;
        trial.record = Some(path.to_owned());
        return Ok(());
    }
    let names: Vec<String> = trials.iter().take(3).map(Trial::name).collect();
    let more = if trials.len() > 3 { ", ..." } else { "" };
    Err(Failure {
        exit: Exit::Invalid,
        message: format!(
            "--record {}: one file is for one scenario in one mode, and {} are selected ({}{more}): name one, and its mode \
             with --mode",
            path.display(),
            trials.len(),
            names.join(", ")
        ),
    })
}

/// The record of a trial that `--no-exec` forbids: it is skipped, which says what it would have executed, and neither
/// passes nor fails.
fn refused(trial: &Trial, execution: ExecutionArgs) -> Option<Record> {
    let executes = trial.executes();
    if !execution.no_exec || executes.is_empty() {
        return None;
    }
    let mut record = Record::new(&trial.found.name, trial.mode, kernel_summary());
    record.result = Outcome::Skipped;
    record.reasons = executes.into_iter().map(|app| format!("refused (--no-exec): executes {app}")).collect();
    Some(record)
}

/// Takes the trials that `--no-exec` forbids out of `trials`, each with its record.
pub fn refuse(trials: &mut Vec<Trial>, execution: ExecutionArgs) -> Vec<(Trial, Record)> {
    let mut out = Vec::new();
    trials.retain(|trial| match refused(trial, execution) {
        Some(record) => {
            out.push((trial.clone(), record));
            false
        }
        None => true,
    });
    out
}

/// Runs one trial; a failed one leaves its artefacts.
fn record(trial: &Trial, coverage: Option<&mut Coverage>) -> Result<Record, Failure> {
    let record = judge(trial, &artefacts(trial), super::signals::stop_flag());
    if let Some(coverage) = coverage {
        coverage.add(&artefacts(trial).join(COVERAGE))?;
    }
    keep(trial, &record);
    Ok(record)
}

fn artefacts(trial: &Trial) -> PathBuf {
    Path::new(RUNS).join(format!("{}-{}", trial.found.name.replace('/', "-"), trial.mode))
}

/// Leaves the record beside the captures of a failed trial, and removes what a passed one wrote.
fn keep(trial: &Trial, record: &Record) {
    let folder = artefacts(trial);
    if matches!(record.result, Outcome::Passed | Outcome::Differs) {
        let _ = std::fs::remove_dir_all(folder);
    } else if let Ok(text) = serde_json::to_string_pretty(record) {
        let _ = std::fs::create_dir_all(&folder);
        let _ = std::fs::write(folder.join("record.json"), text);
    }
}

/// The command that repeats a trial alone, from the folder and with the scenarios of this one.
fn repeat(trial: &Trial, scenarios: &Path) -> String {
    let command = trial.repeat();
    if scenarios == Path::new(SCENARIOS) {
        return command;
    }
    format!("{command} --scenarios '{}'", scenarios.display().to_string().replace('\'', r"'\''"))
}

fn show(trial: &Trial, record: &Record, args: &RunArgs) {
    let (mark, style) = match record.result {
        Outcome::Passed => ("passed     ", Style::new().green()),
        Outcome::Differs => ("differs    ", Style::new().cyan()),
        Outcome::Failed => ("failed     ", Style::new().red().bold()),
        Outcome::Unsupported => ("unsupported", Style::new().yellow()),
        Outcome::Skipped => ("refused    ", Style::new().yellow()),
        Outcome::LabFailure => ("lab failure", Style::new().red().bold()),
    };
    if args.quiet && matches!(record.result, Outcome::Passed | Outcome::Differs | Outcome::Unsupported) {
        return;
    }
    println!("{} {:>6} ms  {}", style.apply_to(mark), record.duration_ms, trial.name());
    if let (Outcome::Differs, Some(variant)) = (record.result, &record.variant) {
        println!("    as declared for {} ({}): {}", variant.kernel, variant.name, variant.reason);
    }
    for line in record.reasons.iter().flat_map(|reason| reason.lines()) {
        let style = match line.chars().next() {
            Some('+') => Style::new().green(),
            Some('-') => Style::new().red(),
            _ => Style::new(),
        };
        println!("    {}", style.apply_to(line));
    }
    if matches!(record.result, Outcome::Failed | Outcome::LabFailure) {
        println!("    repeat: {}", repeat(trial, &args.scenarios));
        println!("    artefacts: {}", artefacts(trial).display());
    }
}

/// Lists scenarios with their modes, and what they lack here.
pub fn list(args: &ListArgs) -> Result<Exit, Failure> {
    let trials = select(&args.scenarios, args.pattern.as_deref())?;
    if trials.is_empty() {
        return Ok(nothing(&args.scenarios, args.pattern.as_deref(), None));
    }
    let rows: Vec<serde_json::Value> = trials
        .iter()
        .map(|trial| {
            let unmet: Vec<String> = trial.unmet().iter().map(ToString::to_string).collect();
            serde_json::json!({
                "scenario": trial.found.name,
                "mode": trial.mode,
                "purpose": trial.found.scenario.purpose,
                "executes": trial.executes(),
                "unsupported": unmet,
            })
        })
        .collect();
    if args.json {
        println!("{:#}", serde_json::json!({ "version": 1, "scenarios": rows }));
        return Ok(Exit::Passed);
    }
    let width = trials.iter().map(|trial| trial.found.name.len()).max().unwrap_or(0);
    for scenario in trials.chunk_by(|one, next| one.found.name == next.found.name) {
        let modes: Vec<String> = scenario.iter().map(|trial| trial.mode.to_string()).collect();
        let Found { name, scenario: spec, .. } = &scenario[0].found;
        println!("{name:<width$}  {:<13}  {}", modes.join(" "), spec.purpose);
        for app in scenario[0].executes() {
            println!("{:<width$}  executes {app}", "");
        }
        for trial in scenario {
            for unmet in trial.unmet() {
                println!("{:<width$}  {} is unsupported here: {unmet}", "", trial.mode);
            }
        }
    }
    Ok(Exit::Passed)
}
