//! A run in lockstep mode.

use std::sync::atomic::AtomicBool;

use super::tee::Tee;
use super::{Plan, RECEIVED, RunError, Step, interrupted};
use crate::capture::{Frame, Survey, Writer};
use crate::lockstep;
use crate::observation::Observation;
use crate::report::Document;
use crate::suite::Observer;

pub(super) fn run(
    plan: &Plan,
    analyzers: &mut [Box<dyn Observer>],
    offered: &mut Tee,
    survey: &Survey,
    stop: &AtomicBool,
    step: &mut dyn FnMut(Step<'_>),
    document: &mut Document,
) -> Result<(), RunError> {
    let of = survey.will_offer;
    let mut received = match &plan.artefacts {
        Some(folder) => Some(Writer::create(&folder.join(RECEIVED))?),
        None => None,
    };
    let mut deliver = |frame: &Frame, left: &[u8]| match &mut received {
        Some(writer) => writer.write(frame.time_ns, left, u32::try_from(left.len()).unwrap_or(u32::MAX)),
        None => Ok(()),
    };
    let outcome =
        lockstep::replay_to(analyzers, &mut |frame| offered.next_into(frame), &mut deliver, stop, &mut |done| {
            step(Step::Frames { done, of });
        })?;
    if let Some(writer) = received {
        writer.finish()?;
    }
    document.engine = "BPF_PROG_TEST_RUN, packet by packet".to_owned();
    document.observation = Observation { ledger: outcome.ledger, drops: outcome.drops, ..Observation::default() };
    if outcome.interrupted {
        document.notes.push(interrupted(of, document.observation.ledger.offered));
    }
    Ok(())
}
