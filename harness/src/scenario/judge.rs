//! From what a trial saw to its record: expectations, the snapshot, and the difference that is declared for this
//! kernel.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use similar::TextDiff;

use super::trial::{Seen, Trial};
use super::variant::{self, Variant};
use crate::kernel::{self, probe::Build, probe::Version};
use crate::record::{Outcome, Record};
use crate::report::KernelSummary;

/// Runs one trial and holds it against its snapshot. Never writes a snapshot: that takes a person.
pub fn judge(trial: &Trial, artefacts: &Path, stop: &AtomicBool) -> Record {
    judge_on(Build::Unknown, trial, artefacts, stop)
}

/// As [`judge`], on a kernel of whose build something may be known.
pub fn judge_on(build: Build<'_>, trial: &Trial, artefacts: &Path, stop: &AtomicBool) -> Record {
    let start = Instant::now();
    let mut record = Record::new(&trial.found.name, trial.mode, kernel_summary());
    let unmet = trial.unmet_on(build);
    if !unmet.is_empty() {
        // A feature that this kernel is declared to have is no reason to skip.
        let contradicted = unmet.iter().any(|unmet| unmet.contradiction.is_some());
        record.result = if contradicted { Outcome::Failed } else { Outcome::Unsupported };
        record.reasons = unmet.iter().map(ToString::to_string).collect();
        return record;
    }
    match trial.observe(artefacts, stop, &mut |_| ()) {
        Err(error) => {
            record.result = if error.is_invalid_input() { Outcome::Failed } else { Outcome::LabFailure };
            record.reasons.push(error.explain(Some(artefacts)));
        }
        Ok(seen) => compare(trial, seen, &mut record),
    }
    if stop.load(Ordering::Relaxed) {
        record.reasons.push("interrupted before its end".to_owned());
        record.result = Outcome::Failed;
    }
    record.duration_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    record
}

/// The running kernel.
#[must_use]
pub fn kernel_summary() -> KernelSummary {
    KernelSummary { release: kernel::release(), machine: std::env::consts::ARCH.to_owned() }
}

/// The difference that `trial` declares for the running kernel.
///
/// # Errors
/// Two of them, as a sentence.
pub fn variant(trial: &Trial) -> Result<Option<&Variant>, String> {
    match Version::of_release(&kernel::release()) {
        Some(version) => variant::select(&trial.found.scenario.snapshot.variants, trial.mode, &version),
        None => Ok(None),
    }
}

fn compare(trial: &Trial, seen: Seen, record: &mut Record) {
    record.reasons.extend(seen.failures.iter().map(ToString::to_string));
    let base = read_snapshot(&trial.snapshot_file(None));
    match variant(trial) {
        Err(sentence) => record.reasons.push(sentence),
        Ok(None) => record.reasons.extend(difference(&base, &seen.text)),
        Ok(Some(variant)) => {
            record.variant = Some(variant.declared());
            record.reasons.extend(rotten(variant, &base, &seen.text));
            record.reasons.extend(difference(&read_snapshot(&trial.snapshot_file(Some(variant))), &seen.text));
        }
    }
    record.result = match (record.reasons.is_empty(), &record.variant) {
        (true, None) => Outcome::Passed,
        (true, Some(_)) => Outcome::Differs,
        (false, _) => Outcome::Failed,
    };
    record.base = base.ok().filter(|base| base.trim_end() != seen.text.trim_end());
    record.snapshot = Some(seen.text);
    record.document = Some(seen.document);
}

/// Why a declared difference is none: the kernel answers as all others do.
#[must_use]
pub fn rotten(variant: &Variant, base: &Result<String, String>, text: &str) -> Option<String> {
    base.as_ref().is_ok_and(|base| base.trim_end() == text.trim_end()).then(|| {
        format!(
            "variant `{}` ({}) is declared, but this kernel gives the common snapshot: remove the variant, or narrow its \
             kernels",
            variant.name, variant.kernel
        )
    })
}

/// The text of a snapshot file, or what is missing.
///
/// # Errors
/// A sentence that says how to get one.
pub fn read_snapshot(path: &Path) -> Result<String, String> {
    match std::fs::read_to_string(path) {
        Ok(file) => Ok(snapshot_text(&file).to_owned()),
        Err(error) => Err(format!(
            "there is no snapshot {} ({error}); `cargo test` writes a pending one, `cargo insta review` accepts it",
            path.display(),
        )),
    }
}

/// What the snapshot says otherwise, as a diff; nothing if it agrees.
fn difference(expected: &Result<String, String>, text: &str) -> Option<String> {
    let expected = match expected {
        Ok(expected) => expected,
        Err(missing) => return Some(missing.clone()),
    };
    if expected.trim_end() == text.trim_end() {
        return None;
    }
    let diff = TextDiff::from_lines(expected.as_str(), text);
    Some(diff.unified_diff().context_radius(3).header("snapshot", "this run").to_string())
}

/// The text of a snapshot file: what stands below its header of two `---` lines.
#[must_use]
pub fn snapshot_text(file: &str) -> &str {
    let body = file.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n")).map(|(_, body)| body);
    body.unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_snapshot_is_what_follows_its_header() {
        assert_eq!(snapshot_text("---\nsource: x\ndescription: \"a --- b\"\n---\nledger\n  a\n"), "ledger\n  a\n");
        assert_eq!(snapshot_text("ledger\n"), "ledger\n");
    }
}
