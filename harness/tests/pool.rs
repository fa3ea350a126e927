//! An object that was used before gives the same observation as a fresh one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use bpflab::object::{Clock, LoadOptions, Object, ObjectError, suite};
use bpflab::pool::{Key, Pool};
use bpflab::scenario::trial::Trial;
use bpflab::suite::Family;
use bpflab::suite::flows::{Flows, FlowsSettings};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;

fn text(trial: &Trial) -> String {
    let artefacts = tempfile::tempdir().unwrap();
    let seen = trial.observe(artefacts.path(), &AtomicBool::new(false), &mut |_| ());
    seen.unwrap_or_else(|error| panic!("{}: {error}", trial.name())).text
}

#[test]
fn every_scenario_reads_the_same_from_used_objects_in_any_order() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let mut trials = Trial::all(&root).unwrap();
    trials.retain(|trial| trial.unmet().is_empty());
    let fresh: BTreeMap<String, String> = trials
        .iter()
        .map(|trial| {
            Pool::shared().clear();
            (trial.name(), text(trial))
        })
        .collect();
    // The seed of a run that fails is all that is needed to repeat it.
    for seed in [1, 2] {
        trials.shuffle(&mut SmallRng::seed_from_u64(seed));
        for trial in &trials {
            // Twice: after another scenario, and after itself.
            for _ in 0..2 {
                assert_same(&text(trial), &fresh[&trial.name()], &format!("{} (seed {seed})", trial.name()));
            }
        }
    }
    assert!(Pool::shared().len() < trials.len(), "objects are shared");
}

fn assert_same(used: &str, fresh: &str, what: &str) {
    let diff = similar::TextDiff::from_lines(fresh, used);
    assert!(used == fresh, "{what}:\n{}", diff.unified_diff().header("fresh", "used"));
}

#[test]
fn an_object_comes_back_for_its_own_key_only() {
    let pool = Pool::default();
    let (keep, drop) = (FlowsSettings::default(), FlowsSettings { drop_malformed: true, ..FlowsSettings::default() });
    let key = |settings: &FlowsSettings, clock| Key::new(Family::Flows, clock, settings);
    let load = || Ok::<_, ObjectError>(Box::new(Flows::load(Clock::Virtual, &keep)?) as _);
    let never = || Err("nothing waits");
    let flows = pool.take(&key(&keep, Clock::Virtual), load).unwrap();
    assert!(pool.is_empty());
    pool.give_back(key(&keep, Clock::Virtual), flows);
    assert_eq!(pool.len(), 1);
    assert_eq!(pool.take(&key(&drop, Clock::Virtual), never).err(), Some("nothing waits"));
    assert_eq!(pool.take(&key(&keep, Clock::Capture), never).err(), Some("nothing waits"));
    assert!(pool.take(&key(&keep, Clock::Virtual), never).is_ok());
    assert!(pool.is_empty());
}

#[test]
fn maps_of_an_unknown_kind_are_not_emptied_in_silence() {
    // A map of programs: what it held before its first use is not known.
    let object = Object::load("ledger", suite::LEDGER, &LoadOptions::default()).unwrap();
    let error = object.clear_maps().unwrap_err();
    assert_eq!(error.to_string(), "cannot access map CHAIN of object ledger");
}
