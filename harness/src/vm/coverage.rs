//! What the requirements of scenarios mean for a whole list of kernels, told from their releases alone, before any
//! guest is started.

use std::cmp::Ordering;

use crate::kernel::probe::{Requirement, Version};
use crate::scenario::trial::Trial;

/// A kernel of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Its name in the list.
    pub name: String,
    /// Its release, as far as it is known before it has booted.
    pub version: Option<Version>,
}

/// Trials that would run on none of `kernels`, by the ranges of kernels that they require: each as a sentence that
/// starts with the trial's name. None as long as the release of one of the kernels is not known, which might be the one.
#[must_use]
pub fn out_of_reach(trials: &[Trial], kernels: &[Release]) -> Vec<(String, String)> {
    let Some(versions) = versions(kernels) else { return Vec::new() };
    let told = trials.iter().filter_map(|trial| {
        let ranges: Vec<_> = trial.found.scenario.requires.iter().filter_map(range).collect();
        if versions.iter().any(|version| ranges.iter().all(|range| range.contains(version))) {
            return None;
        }
        let ranges: Vec<String> = ranges.iter().map(|range| format!("kernel {range}")).collect();
        let listed: Vec<String> =
            kernels.iter().zip(&versions).map(|(kernel, version)| format!("{} ({version})", kernel.name)).collect();
        let name = trial.name();
        let sentence =
            format!("{name} runs on no kernel: it requires {}, of {}", ranges.join(" and "), listed.join(", "));
        Some((name, sentence))
    });
    told.collect()
}

/// Requirements that say nothing, because every one of `kernels` meets them by its release: each scenario once.
#[must_use]
pub fn idle(trials: &[Trial], kernels: &[Release]) -> Vec<String> {
    let Some(versions) = versions(kernels) else { return Vec::new() };
    let mut notes = Vec::new();
    for trial in trials {
        for requirement in &trial.found.scenario.requires {
            let met = match requirement {
                Requirement::Kernel(range) => versions.iter().all(|version| range.contains(version)),
                Requirement::Feature(feature) if feature.config.is_none() => feature.since.is_some_and(|since| {
                    versions.iter().all(|version| version.against(&since.version) != Ordering::Less)
                }),
                _ => false,
            };
            let note = format!(
                "{} requires `{requirement}`, which every kernel of the list has: the requirement says nothing",
                trial.found.name
            );
            if met && !notes.contains(&note) {
                notes.push(note);
            }
        }
    }
    notes
}

fn versions(kernels: &[Release]) -> Option<Vec<Version>> {
    let versions: Option<Vec<Version>> = kernels.iter().map(|kernel| kernel.version).collect();
    versions.filter(|versions| !versions.is_empty())
}

fn range(requirement: &Requirement) -> Option<&crate::kernel::probe::VersionRange> {
    match requirement {
        Requirement::Kernel(range) => Some(range),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The trials of scenarios with these requirements, read from files as any other: `t/0`, `t/1`, ...
    fn trials(requires: &[&str]) -> Vec<Trial> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("t")).unwrap();
        for (number, requires) in requires.iter().enumerate() {
            let text = format!(
                "purpose = \"p\"\nmodes = [\"lockstep\"]\nrequires = [{requires}]\n[[traffic.frames]]\nhex = \"{}\"\n",
                "00".repeat(60)
            );
            std::fs::write(folder.path().join(format!("t/{number}.toml")), text).unwrap();
        }
        Trial::all(folder.path()).unwrap()
    }

    fn list(versions: &[&str]) -> Vec<Release> {
        let release = |text: &&str| Release { name: (*text).to_owned(), version: text.parse().ok() };
        versions.iter().map(release).collect()
    }

    #[test]
    fn a_scenario_above_the_newest_kernel_or_between_two_would_never_run() {
        let trials = trials(&["\"kernel >=99\"", "\"kernel >=6.1\"", "\"kernel >=5.11, <6\"", "\"netem\"", ""]);
        let list = list(&["5.10", "6.1.7", "7.3"]);
        assert_eq!(
            out_of_reach(&trials, &list).into_iter().map(|(_, sentence)| sentence).collect::<Vec<_>>(),
            [
                "t/0 [lockstep] runs on no kernel: it requires kernel >=99, of 5.10 (5.10), 6.1.7 (6.1.7), 7.3 (7.3)",
                "t/2 [lockstep] runs on no kernel: it requires kernel >=5.11, <6, of 5.10 (5.10), 6.1.7 (6.1.7), 7.3 \
                 (7.3)",
            ]
        );
    }

    #[test]
    fn a_kernel_of_unknown_release_might_be_the_one() {
        let trials = trials(&["\"kernel >=99\"", "\"kernel >=5\""]);
        for list in [list(&["5.10", "rc"]), Vec::new()] {
            assert_eq!(out_of_reach(&trials, &list), []);
            assert_eq!(idle(&trials, &list), [""; 0]);
        }
    }

    #[test]
    fn a_requirement_that_every_kernel_meets_says_nothing() {
        // The ring buffer is of 5.8 and no build lacks it; BTF is of 5.4 and a build may.
        let trials =
            trials(&["\"kernel >=5.4\", \"ring-buffer\"", "\"kernel >=6\", \"btf\", \"drop-reasons\", \"root\""]);
        let says_nothing = "which every kernel of the list has: the requirement says nothing";
        assert_eq!(
            idle(&trials, &list(&["5.10", "7.3"])),
            [
                format!("t/0 requires `kernel >=5.4`, {says_nothing}"),
                format!("t/0 requires `ring-buffer`, {says_nothing}")
            ]
        );
        assert_eq!(idle(&trials, &list(&["6.1"])).len(), 4);
    }
}
