//! The scenarios as tests: every `*.toml` below this folder is found at run time and runs once per mode.
//!
//! A scenario whose requirements this machine does not meet is reported as ignored, with its reason in the name of its
//! kind, and counted apart. Snapshots stand beside the scenarios; `cargo insta review` shows what changed.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bpflab::scenario::{Variant, judge, trial::Trial};
use libtest_mimic::{Arguments, Failed};

fn main() {
    let args = Arguments::from_args();
    let root = match Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios").canonicalize() {
        Ok(root) => root,
        Err(error) => fail(&format!("cannot find the scenarios folder: {error}")),
    };
    let trials = match Trial::all(&root) {
        Ok(trials) => trials,
        Err(error) => fail(&bpflab::cli::chain(&error)),
    };
    if trials.is_empty() {
        fail(&format!("no scenario in {}", root.display()));
    }
    let tests = trials.into_iter().map(test).collect();
    libtest_mimic::run(&args, tests).exit();
}

fn fail(message: &str) -> ! {
    eprintln!("scenarios: {message}");
    std::process::exit(101)
}

fn test(trial: Trial) -> libtest_mimic::Trial {
    let unmet = trial.unmet();
    let name = trial.name();
    if unmet.is_empty() {
        return libtest_mimic::Trial::test(name, move || run(&trial));
    }
    let reasons: Vec<String> = unmet.iter().map(ToString::to_string).collect();
    if unmet.iter().any(|unmet| unmet.contradiction.is_some()) {
        // A feature that this kernel is declared to have is no reason to skip.
        return libtest_mimic::Trial::test(name, move || Err(reasons.join("\n").into()));
    }
    libtest_mimic::Trial::test(name, || Ok(()))
        .with_kind(format!("unsupported: {}", reasons.join("; ")))
        .with_ignored_flag(true)
}

fn run(trial: &Trial) -> Result<(), Failed> {
    let folder = artefacts(trial);
    let mut problems = Vec::new();
    match trial.observe(&folder, &AtomicBool::new(false), &mut |_| ()) {
        Err(error) => problems.push(bpflab::cli::chain(&error)),
        Ok(seen) => {
            problems.extend(seen.failures.iter().map(ToString::to_string));
            problems.extend(compare(trial, &seen.text));
            let record = folder.join("record.json");
            if let Err(error) = std::fs::write(&record, seen.document.to_json()) {
                problems.push(format!("cannot write {}: {error}", record.display()));
            }
        }
    }
    if problems.is_empty() {
        // A passed run keeps nothing.
        let _ = std::fs::remove_dir_all(&folder);
        return Ok(());
    }
    problems.push(format!("repeat: {}", trial.repeat()));
    problems.push(format!("artefacts: {}", folder.display()));
    Err(problems.join("\n").into())
}

/// What is wrong with `text`, held against the snapshot for this kernel.
fn compare(trial: &Trial, text: &str) -> Vec<String> {
    let variant = match judge::variant(trial) {
        Ok(variant) => variant,
        Err(sentence) => return vec![sentence],
    };
    let base = judge::read_snapshot(&trial.snapshot_file(None));
    let mut problems: Vec<String> =
        variant.and_then(|variant| judge::rotten(variant, &base, text)).into_iter().collect();
    if !matches(trial, variant, text) {
        problems.push("the snapshot differs, or is missing (see the diff above)".to_owned());
    }
    problems
}

/// Holds `text` against a snapshot; insta prints the difference and leaves a pending snapshot.
fn matches(trial: &Trial, variant: Option<&Variant>, text: &str) -> bool {
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path(&trial.found.folder);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_description(&trial.found.scenario.purpose);
    let name = trial.found.snapshot(trial.mode, variant);
    settings.bind(|| std::panic::catch_unwind(|| insta::assert_snapshot!(name, text)).is_ok())
}

fn artefacts(trial: &Trial) -> PathBuf {
    let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(bpflab::cli::RUNS);
    runs.join(format!("test-{}-{}", trial.found.name.replace('/', "-"), trial.mode))
}
