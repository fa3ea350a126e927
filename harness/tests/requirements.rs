//! Requirements are checked both ways: a feature that the kernel should have and lacks is a failure, and so is one that
//! the list of kernels says it lacks.

use std::sync::atomic::AtomicBool;

use bpflab::kernel::probe::{Build, FEATURES, Lacks, Requirement, Unmet, Version, unmet, unmet_on};
use bpflab::record::{Outcome, Record};
use bpflab::scenario::judge::judge_on;
use bpflab::scenario::trial::Trial;

fn requirement(text: &str) -> Requirement {
    text.parse().unwrap()
}

/// What is unmet of one feature on a kernel of the list that lacks `lacks`.
fn listed(feature: &str, lacks: &[&str]) -> Option<Unmet> {
    let lacks: Lacks = lacks.iter().map(|name| ((*name).to_owned(), "left out to be small".to_owned())).collect();
    unmet_on(&[requirement(feature)], Build::Listed(&lacks)).into_iter().next()
}

#[test]
fn a_listed_kernel_has_what_its_release_promises_or_the_list_says_why_not() {
    let release = Version::of_release(&bpflab::kernel::release()).unwrap();
    for feature in &FEATURES {
        let (name, is_there) = (feature.name, unmet(&[requirement(feature.name)]).is_empty());
        let is_due = feature.since.is_some_and(|since| release.against(&since.version).is_ge());
        let (silent, denied) = (listed(name, &[]), listed(name, &[name]));
        if is_there {
            assert_eq!(silent, None, "{name}");
            let text = denied.unwrap().contradiction.unwrap();
            assert!(text.ends_with("says that this one `lacks` it: left out to be small"), "{text}");
            continue;
        }
        let silent = silent.unwrap();
        // What could not be found out (`certain` is false) contradicts nothing.
        assert_eq!(silent.contradiction.is_some(), is_due && silent.certain, "{silent}");
        if let (Some(config), Some(text)) = (feature.config, silent.contradiction) {
            assert!(text.starts_with("declared since ") && text.contains(config), "{text}");
            let denied = denied.unwrap();
            assert_eq!(denied.contradiction, None, "{denied}");
            assert!(denied.to_string().contains("left out to be small"), "{denied}");
        }
    }
}

/// A scenario with these requirements, in lockstep mode, through the whole of what a trial goes through.
fn judged(requires: &str, build: Build<'_>) -> Record {
    let folder = tempfile::tempdir().unwrap();
    let frames = format!("[[traffic.frames]]\nhex = \"{}0806{}\"\n", "ff".repeat(12), "00".repeat(46));
    let text = format!("purpose = \"p\"\nmodes = [\"lockstep\"]\nrequires = [{requires}]\n{frames}");
    std::fs::create_dir(folder.path().join("a")).unwrap();
    std::fs::write(folder.path().join("a/b.toml"), text).unwrap();
    let trials = Trial::all(folder.path()).unwrap();
    judge_on(build, &trials[0], &folder.path().join("artefacts"), &AtomicBool::new(false))
}

#[test]
fn a_trial_fails_where_its_kernel_contradicts_the_list_and_is_unsupported_where_both_agree() {
    let nothing = Lacks::new();
    // Lockstep mode itself needs it, so it is there.
    let lie: Lacks = [("xdp-test-run".to_owned(), "too slow".to_owned())].into();
    let record = judged("\"xdp-test-run\"", Build::Listed(&lie));
    assert_eq!(record.result, Outcome::Failed);
    assert!(record.reasons[0].contains("the list of kernels says that this one `lacks` it: too slow"), "{record:?}");
    // A feature that this kernel should have and lacks; a kernel with everything has none.
    let lacking = FEATURES.iter().find(|feature| {
        feature.config.is_some() && listed(feature.name, &[]).is_some_and(|unmet| unmet.contradiction.is_some())
    });
    if let Some(feature) = lacking {
        let requires = format!("{:?}", feature.name);
        let truth: Lacks = [(feature.name.to_owned(), "left out".to_owned())].into();
        let results = [Build::Unknown, Build::Listed(&truth), Build::Listed(&nothing)]
            .map(|build| judged(&requires, build).result);
        assert_eq!(results, [Outcome::Unsupported, Outcome::Unsupported, Outcome::Failed], "{}", feature.name);
    }
    // A range of kernels is no promise of a feature.
    assert_eq!(judged("\"kernel >=99\"", Build::Listed(&nothing)).result, Outcome::Unsupported);
    // With all requirements met it is the missing snapshot that fails.
    let record = judged("\"ring-buffer\"", Build::Listed(&nothing));
    assert!(record.result == Outcome::Failed && record.reasons[0].starts_with("there is no snapshot"), "{record:?}");
}
