//! `bpflab compare`: lockstep mode and the wire, side by side.

use std::path::Path;

use super::args::CompareArgs;
use super::run::{RUNS, nothing, selected};
use super::{Exit, Failure};
use crate::run::RunError;
use crate::scenario::Mode;
use crate::scenario::tiers::{self, Difference, Tiers};

/// Runs each selected scenario in both modes, whatever modes it asks for, and prints what differs. Differences that are
/// not inherent make it fail.
pub fn compare(args: &CompareArgs) -> Result<Exit, Failure> {
    let mut trials = selected(&args.scenarios, args.pattern.as_deref(), None)?;
    trials.dedup_by(|one, other| one.found.name == other.found.name);
    if trials.is_empty() {
        return Ok(nothing(&args.scenarios, args.pattern.as_deref(), None));
    }
    let mut exit = Exit::Passed;
    let stop = super::signals::stop_flag();
    for trial in &trials {
        let name = &trial.found.name;
        let artefacts = Path::new(RUNS).join(name).join("compare");
        let compared = tiers::compare(&trial.found, &trial.root, &artefacts, stop);
        match compared {
            Ok(tiers) => {
                if !tiers.agree() {
                    exit = Exit::Failed;
                }
                show(&tiers, args.json);
            }
            Err(error @ RunError::Unmet(_)) => println!("{name}: not compared: {}", crate::error::chain(&error)),
            Err(error) => return Err(super::replay::failure(&error, Some(&artefacts))),
        }
        if stop.load(std::sync::atomic::Ordering::Relaxed) {
            break;
        }
    }
    Ok(exit)
}

fn show(tiers: &Tiers, json: bool) {
    if json {
        super::report::print(&format!("{}\n", serde_json::to_string(tiers).unwrap_or_default()));
        return;
    }
    let (must, should): (Vec<_>, Vec<_>) =
        tiers.differences.iter().partition(|difference| difference.inherent.is_some());
    let mut text = format!(
        "{}: {} packets in {} and {} mode, {} differences, {} of them inherent\n",
        tiers.scenario,
        tiers.offered,
        Mode::Lockstep,
        Mode::Wire,
        tiers.differences.len(),
        must.len()
    );
    for difference in should.iter().chain(&must) {
        text += &line(difference);
    }
    super::report::print(&text);
}

fn line(difference: &Difference) -> String {
    let absent = || "nothing".to_owned();
    let Difference { kind, what, lockstep, wire, inherent } = difference;
    let (lockstep, wire) = (lockstep.clone().unwrap_or_else(absent), wire.clone().unwrap_or_else(absent));
    let why = inherent.map_or_else(String::new, |why| format!("\n    inherent: {why}"));
    format!("  {kind} {what}\n    lockstep: {lockstep}\n    wire:     {wire}{why}\n")
}
