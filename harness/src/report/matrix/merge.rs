//! Joining the parts of a run that had one kernel per job.

use std::collections::{BTreeSet, HashMap};

use thiserror::Error;

use super::grid::{Grid, Row};
use crate::record::{KernelRun, MATRIX_VERSION, Matrix, Outcome, ProgramCost, Record};
use crate::scenario::Mode;

/// Why parts do not make a whole.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MergeError {
    /// There is no part.
    #[error("there is nothing to merge")]
    Nothing,
    /// The same name stands for two kernels.
    #[error("kernel `{kernel}` is {first} in one part and {second} in another: give them names of their own")]
    Kernels {
        /// The name.
        kernel: String,
        /// Release, version and image in the part that came first.
        first: String,
        /// The same in the other.
        second: String,
    },
    /// The same kernel answered one trial in two ways.
    #[error("kernel `{kernel}` has two different records of {trial}: {first} in one part, {second} in another")]
    Records {
        /// The kernel.
        kernel: String,
        /// `family/behaviour [mode]`.
        trial: String,
        /// The outcome in the part that came first.
        first: &'static str,
        /// The outcome in the other.
        second: &'static str,
    },
    /// The same kernel's verifier counted one program in two ways.
    #[error(
        "kernel `{kernel}` has two different costs of {program}: {first} instructions in one part, {second} in another"
    )]
    Costs {
        /// The kernel.
        kernel: String,
        /// Object and program.
        program: String,
        /// Instructions in the part that came first.
        first: u64,
        /// Instructions in the other.
        second: u64,
    },
}

/// Joins `parts`: kernels ordered by their release, each once with all its records. What is a problem of a list of
/// kernels is judged anew, since no part has seen the list.
///
/// # Errors
/// [`MergeError`]: nothing to merge, or parts that contradict each other about the same kernel.
pub fn merge(parts: Vec<Matrix>) -> Result<Matrix, MergeError> {
    if parts.is_empty() {
        return Err(MergeError::Nothing);
    }
    let wall_s = parts.iter().map(|part| part.wall_s).fold(0.0, f64::max);
    let mut kernels: Vec<KernelRun> = Vec::new();
    for run in parts.into_iter().flat_map(|part| part.kernels) {
        match kernels.iter_mut().find(|other| other.name == run.name) {
            Some(other) => join(other, run)?,
            None => kernels.push(run),
        }
    }
    kernels.sort_by_cached_key(age);
    let mut whole = Matrix { version: MATRIX_VERSION, kernels, problems: Vec::new(), wall_s };
    whole.problems = problems_of(&whole);
    Ok(whole)
}

/// Adds what `run` knows to `into`, which is the same kernel.
fn join(into: &mut KernelRun, run: KernelRun) -> Result<(), MergeError> {
    same_kernel(into, &run)?;
    let known: HashMap<(String, Option<Mode>), usize> = into
        .records
        .iter()
        .enumerate()
        .map(|(place, record)| ((record.scenario.clone(), record.mode), place))
        .collect();
    let mut new = Vec::new();
    for record in run.records {
        match known.get(&(record.scenario.clone(), record.mode)) {
            Some(place) => same_record(&into.name, &into.records[*place], &record)?,
            None => new.push(record),
        }
    }
    for cost in run.costs {
        let is_this = |other: &&ProgramCost| (&other.object, &other.program) == (&cost.object, &cost.program);
        match into.costs.iter().find(is_this) {
            Some(other) if other.instructions != cost.instructions => {
                return Err(MergeError::Costs {
                    kernel: into.name.clone(),
                    program: format!("{}/{}", cost.object, cost.program),
                    first: other.instructions,
                    second: cost.instructions,
                });
            }
            Some(_) => {}
            None => into.costs.push(cost),
        }
    }
    into.records.append(&mut new);
    // A part that is given twice adds neither guests nor failures.
    let guests = run.guests.into_iter().filter(|guest| !into.guests.contains(guest)).collect::<Vec<_>>();
    into.guests.extend(guests);
    let failures = run.failures.into_iter().filter(|failure| !into.failures.contains(failure)).collect::<Vec<_>>();
    into.failures.extend(failures);
    let rises = run.cost_rises.into_iter().filter(|rise| !into.cost_rises.contains(rise)).collect::<Vec<_>>();
    into.cost_rises.extend(rises);
    Ok(())
}

/// The same kernel, as far as both parts know it: a part whose guest never came to speak knows no release.
fn same_kernel(into: &mut KernelRun, run: &KernelRun) -> Result<(), MergeError> {
    let describe = |run: &KernelRun| {
        let image: String = run.sha256.chars().take(12).collect();
        [run.release.as_str(), run.version.as_str(), image.as_str()]
            .map(|part| if part.is_empty() { "?" } else { part })
            .join(" ")
    };
    let (first, second) = (describe(into), describe(run));
    let fields = [
        (&mut into.release, &run.release),
        (&mut into.version, &run.version),
        (&mut into.sha256, &run.sha256),
        (&mut into.runner, &run.runner),
        (&mut into.acceleration, &run.acceleration),
    ];
    for (place, (known, other)) in fields.into_iter().enumerate() {
        // Runner and acceleration may differ: they are not to change an answer.
        if place < 3 && !known.is_empty() && !other.is_empty() && known != other {
            return Err(MergeError::Kernels { kernel: run.name.clone(), first, second });
        }
        if known.is_empty() {
            known.clone_from(other);
        }
    }
    Ok(())
}

/// Whether two records of a trial say the same; how long it took does not count.
fn same_record(kernel: &str, first: &Record, second: &Record) -> Result<(), MergeError> {
    let said = |record: &Record| {
        (record.result, record.reasons.clone(), record.snapshot.clone(), record.base.clone(), record.variant.clone())
    };
    if said(first) == said(second) {
        return Ok(());
    }
    Err(MergeError::Records {
        kernel: kernel.to_owned(),
        trial: first.trial(),
        first: first.result.text(),
        second: second.result.text(),
    })
}

/// Where a kernel stands among others: numbers of its release, candidates before the release itself, then its name. A
/// kernel that never spoke stands where its name would, and behind all others if that is no number.
fn age(run: &KernelRun) -> (Vec<u32>, u32, String) {
    let known = [&run.release, &run.version, &run.name].into_iter().find(|text| numbers(text).is_some());
    let candidate = known.and_then(|text| {
        let (_, rest) = text.split_once("rc")?;
        rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
    });
    let numbers = known.and_then(|text| numbers(text)).unwrap_or_else(|| vec![u32::MAX]);
    (numbers, candidate.unwrap_or(u32::MAX), run.name.clone())
}

/// The numbers that a release starts with; three of them, as `6.12` is older than `6.12.1`.
fn numbers(release: &str) -> Option<Vec<u32>> {
    let end = release.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(release.len());
    let mut numbers: Vec<u32> = release[..end].split('.').map_while(|number| number.parse().ok()).collect();
    if numbers.is_empty() {
        return None;
    }
    numbers.resize(numbers.len().max(3), 0);
    Some(numbers)
}

/// What is wrong with `matrix` as the result of a whole list of kernels: trials that are unsupported on every one of
/// them, and so would never run. Each as `SCENARIO [mode] ran on no kernel: REASONS`.
#[must_use]
pub fn problems_of(matrix: &Matrix) -> Vec<String> {
    let grid = Grid::new(matrix);
    let never = |row: &&Row<'_>| row.cells.iter().all(|cell| cell.outcome() == Some(Outcome::Unsupported));
    grid.rows
        .iter()
        .filter(never)
        .map(|row| {
            let mut seen = BTreeSet::new();
            let reasons = row.cells.iter().flat_map(super::grid::Cell::reasons);
            let reasons: Vec<&str> = reasons.map(String::as_str).filter(|reason| seen.insert(*reason)).collect();
            let reasons = if reasons.is_empty() { "no reason given".to_owned() } else { reasons.join("; ") };
            format!("{} ran on no kernel: {reasons}", row.trial())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::FailureKind;
    use crate::report::matrix::{sample, to_json};

    /// The sample, one kernel a part.
    fn parts() -> Vec<Matrix> {
        let whole = sample::matrix();
        let part = |run: &KernelRun| Matrix { kernels: vec![run.clone()], ..whole.clone() };
        whole.kernels.iter().map(part).collect()
    }

    #[test]
    fn parts_in_any_order_make_the_whole() {
        let mut parts = parts();
        parts.reverse();
        parts[1].wall_s = 700.5;
        let whole = merge(parts).unwrap();
        assert_eq!(to_json(&whole), to_json(&Matrix { wall_s: 700.5, ..sample::matrix() }));
        assert_eq!(merge(Vec::new()).unwrap_err(), MergeError::Nothing);
    }

    #[test]
    fn the_same_kernel_twice_must_say_the_same() {
        let mut parts = parts();
        let mut again = parts[0].clone();
        for record in &mut again.kernels[0].records {
            record.duration_ms += 1;
        }
        parts.push(again.clone());
        assert_eq!(to_json(&merge(parts.clone()).unwrap()), to_json(&sample::matrix()));

        parts[3].kernels[0].records[1].snapshot = Some("another".to_owned());
        assert_eq!(
            merge(parts.clone()).unwrap_err().to_string(),
            "kernel `5.10` has two different records of drops/no-socket [wire]: differs as declared in one part, \
             differs as declared in another"
        );
        parts[3] = again.clone();
        parts[3].kernels[0].sha256 = "cd".repeat(32);
        let error = merge(parts.clone()).unwrap_err().to_string();
        assert!(error.starts_with("kernel `5.10` is 5.10.0-46-amd64 5.10.0-1 abababababab in one part"), "{error}");

        parts[3] = Matrix { kernels: vec![sample::matrix().kernels[2].clone()], ..again };
        parts[3].kernels[0].costs[0].instructions += 1;
        let error = merge(parts).unwrap_err().to_string();
        assert!(error.contains("costs of flows/flows_xdp: 1300 instructions in one part, 1301"), "{error}");
    }

    #[test]
    fn shards_of_one_kernel_are_joined() {
        let mut parts = parts();
        let mut rest = parts[2].clone();
        rest.kernels[0].records.drain(..3);
        rest.kernels[0].release.clear();
        parts[2].kernels[0].records.truncate(3);
        parts.push(rest);
        assert_eq!(to_json(&merge(parts).unwrap()), to_json(&sample::matrix()));
    }

    #[test]
    fn kernels_stand_in_the_order_of_their_releases() {
        let names = |runs: Vec<KernelRun>| {
            let part = Matrix { kernels: runs, ..Matrix::default() };
            merge(vec![part]).unwrap().kernels.into_iter().map(|run| run.name).collect::<Vec<_>>()
        };
        let kernel = |name: &str, release: &str| sample::kernel(name, release, Vec::new());
        let mut silent = kernel("6.1", "");
        silent.version.clear();
        let mut lost = kernel("running", "");
        lost.version.clear();
        let runs = vec![
            lost,
            kernel("next", "7.4.0"),
            kernel("candidate", "7.4.0-rc2-amd64"),
            kernel("6.18", "6.18.15+deb13-amd64"),
            kernel("6.12", "6.12.107-cloud"),
            silent,
            kernel("5.10", "5.10.0-46-amd64"),
        ];
        assert_eq!(names(runs), ["5.10", "6.1", "6.12", "6.18", "candidate", "next", "running"]);
    }

    #[test]
    fn a_trial_that_no_kernel_runs_is_a_problem() {
        let mut parts = parts();
        let lacking = parts[0].kernels[0].records[3].clone();
        for (part, release) in [(1, "6.1.0"), (2, "7.3.4")] {
            parts[part].kernels[0].records[3] = lacking.clone();
            parts[part].kernels[0].records[3].reasons = vec![format!("kernel >=99: this is {release}")];
        }
        let whole = merge(parts.clone()).unwrap();
        assert_eq!(
            whole.problems,
            ["tcp/new-probe [lockstep] ran on no kernel: kernel >=6.1: this is 5.10.0-46-amd64; kernel >=99: this is \
              6.1.0; kernel >=99: this is 7.3.4"]
        );
        // A kernel whose guest did not boot might have run it.
        parts[2].kernels[0].records.clear();
        parts[2].kernels[0].failures = vec![crate::record::GuestFailure {
            kind: FailureKind::NoBoot,
            trial: None,
            message: "no message in 60 s".to_owned(),
            console: Vec::new(),
        }];
        assert_eq!(merge(parts).unwrap().problems, [""; 0]);
    }
}
