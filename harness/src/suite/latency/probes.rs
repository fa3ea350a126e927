//! Which probe measures which stage on the running kernel.
//!
//! Attaching proves nothing: a function that the compiler has inlined may attach and stay silent. So each place has a
//! list of candidates, the best first; the first that attaches is tried with real packets, and one that no packet
//! passes gives way to the next.

use super::maps::{hits, reset, set_control, unwatch, watch};
use super::places::{HELPERS, How, PLACES, Place, Way};
use super::smoke::Smoke;
use super::{LatencySettings, ProbeKind, Stage};
use crate::kernel::probe::{self, Requirement};
use crate::object::{Object, ObjectError};
use crate::observation::StageProbe;

/// An error with its causes in one line; of a verifier's log, only that it refused.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let first = |text: String| text.lines().next().unwrap_or_default().to_owned();
    let mut text = first(error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = first(error.to_string());
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// A place in the course of being tried.
struct Trial {
    place: &'static Place,
    /// The ways that are attached.
    attached: Vec<&'static Way>,
    /// The next way to try.
    next: usize,
    /// Why ways were left.
    left: Vec<String>,
}

/// Attaches programs for the stages and says what measures each place.
pub(super) fn attach(object: &mut Object, settings: &LatencySettings) -> Result<Vec<StageProbe>, ObjectError> {
    let stages = &settings.stages;
    let needed = PLACES.iter().filter(|place| place.serves.iter().any(|stage| stages.contains(stage)));
    let kinds = Kinds::new(&settings.kinds);
    let mut trials: Vec<Trial> =
        needed.map(|place| Trial { place, attached: Vec::new(), next: 0, left: Vec::new() }).collect();
    for trial in &mut trials {
        trial.advance(object, &kinds)?;
    }
    let mut helpers = Vec::new();
    if stages.iter().any(|stage| matches!(stage, Stage::Queued | Stage::Read)) {
        for (program, tracepoint) in HELPERS {
            if let Err(error) = object.attach_tracepoint(program, tracepoint) {
                helpers.push(format!("tracepoint {tracepoint}: {}", describe(&error)));
            }
        }
    }
    let proven = match Smoke::new() {
        Err(error) => Err(error),
        Ok(smoke) => {
            let proven = prove(object, &mut trials, &smoke, &kinds);
            smoke.close().and(proven)
        }
    };
    if let Err(reason) = proven {
        for trial in &mut trials {
            trial.leave(object, &reason);
        }
    }
    let mut rows: Vec<StageProbe> = trials.into_iter().map(Trial::row).collect();
    rows.extend(helpers.into_iter().map(|reason| StageProbe {
        stage: Stage::Queued.name().to_owned(),
        packets: "given up".to_owned(),
        by: None,
        reason: Some(reason),
    }));
    // In the order of packets' way, whatever the places depend on.
    rows.sort_by_key(|row| Stage::ALL.iter().position(|stage| stage.name() == row.stage));
    Ok(rows)
}

/// Sends packets until every place has a way that has seen some, or no way left.
fn prove(object: &mut Object, trials: &mut [Trial], smoke: &Smoke, kinds: &Kinds) -> Result<(), String> {
    let told = |error: ObjectError| describe(&error);
    let netns = smoke.netns()?;
    watch(object, netns).map_err(told)?;
    let proven = try_all(object, trials, smoke, kinds);
    unwatch(object, netns).and_then(|()| reset(object)).map_err(told)?;
    proven
}

fn try_all(object: &mut Object, trials: &mut [Trial], smoke: &Smoke, kinds: &Kinds) -> Result<(), String> {
    let told = |error: ObjectError| describe(&error);
    let mut silent = true;
    // Each round takes a candidate from some place, so it ends.
    while silent {
        reset(object).map_err(told)?;
        smoke.round().map_err(|error| format!("the packets that prove probes did not arrive: {error}"))?;
        let hits = hits(object).map_err(told)?;
        silent = false;
        for trial in trials.iter_mut().filter(|trial| !trial.attached.is_empty()) {
            if hits[trial.place.point as usize] == 0 {
                trial.leave(object, "attached, and no packet passed it");
                trial.advance(object, kinds).map_err(told)?;
                silent = true;
            }
        }
    }
    Ok(())
}

impl Trial {
    /// Attaches the next way that the kernel takes, or all where the place has them side by side.
    fn advance(&mut self, object: &mut Object, kinds: &Kinds) -> Result<(), ObjectError> {
        while let Some(way) = self.place.ways.get(self.next) {
            self.next += 1;
            if let Some(lack) = kinds.lack(way.how) {
                // The same for all candidates of its kind: said once.
                if !self.left.iter().any(|left| left == lack) {
                    self.left.push(lack.to_owned());
                }
                continue;
            }
            let attached = match way.how {
                How::Inferred => Ok(()),
                How::Tracepoint => object.attach_tracepoint(way.program, way.target),
                How::Fentry | How::Fexit | How::Kprobe => object.attach_function(way.program, way.target),
            };
            match attached {
                Err(error) => self.left.push(format!("{} {}: {}", way.how.name(), way.target, describe(&error))),
                Ok(()) => {
                    self.attached.push(way);
                    if let Some(control) = way.control {
                        set_control(object, control, 1)?;
                    }
                    if !self.place.all {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives up what is attached.
    fn leave(&mut self, object: &mut Object, reason: &str) {
        for way in self.attached.drain(..) {
            if let Some(control) = way.control {
                // The element exists: nothing can be wrong with it.
                let _ = set_control(object, control, 0);
            }
            if way.how != How::Inferred {
                object.detach(way.program);
            }
            self.left.push(format!("{} {}: {reason}", way.how.name(), way.target));
        }
    }

    fn row(self) -> StageProbe {
        let targets: Vec<&str> = self.attached.iter().map(|way| way.target).collect();
        let by = self.attached.first().map(|way| format!("{} {}", way.how.name(), targets.join(", ")));
        StageProbe {
            stage: self.place.stage.name().to_owned(),
            packets: self.place.packets.to_owned(),
            by,
            reason: (!self.left.is_empty()).then(|| self.left.join("; ")),
        }
    }
}

/// Kinds of probes that are not to be had at all, and why, so that each candidate need not find out.
struct Kinds(Vec<(ProbeKind, String)>);

impl Kinds {
    fn new(wanted: &[ProbeKind]) -> Self {
        let all = [(ProbeKind::Tracepoint, "btf"), (ProbeKind::Fentry, "fentry"), (ProbeKind::Kprobe, "kprobes")];
        let lack = |(kind, feature): (ProbeKind, &str)| {
            if !wanted.contains(&kind) {
                return Some((kind, format!("no {feature}: not asked for")));
            }
            let requirement: Requirement = feature.parse().ok()?;
            let unmet = probe::unmet(&[requirement]).into_iter().next().filter(|unmet| unmet.certain)?;
            Some((kind, format!("no {feature}: {}", unmet.reason)))
        };
        Self(all.into_iter().filter_map(lack).collect())
    }

    fn lack(&self, how: How) -> Option<&str> {
        let kind = match how {
            How::Fentry | How::Fexit => ProbeKind::Fentry,
            How::Kprobe => ProbeKind::Kprobe,
            How::Tracepoint => ProbeKind::Tracepoint,
            How::Inferred => return None,
        };
        self.0.iter().find(|(lacking, _)| *lacking == kind).map(|(_, reason)| reason.as_str())
    }
}
