//! A run in lockstep mode.

use std::sync::atomic::AtomicBool;

use super::tee::Tee;
use super::{Plan, RECEIVED, RunError, Step, interrupted};
use crate::capture::{CaptureError, Frame, Survey, Writer};
use crate::lockstep::{self, Audience, Passage};
use crate::observation::Observation;
use crate::recorder::{PacketLog, Recording};
use crate::report::Document;
use crate::suite::Observer;

/// Keeps what passed, and what is recorded.
struct Keeper {
    received: Option<Writer>,
    log: Option<PacketLog>,
}

impl Audience for Keeper {
    fn delivered(&mut self, frame: &Frame, left: &[u8]) -> Result<(), CaptureError> {
        match &mut self.received {
            Some(writer) => writer.write(frame.time_ns, left, u32::try_from(left.len()).unwrap_or(u32::MAX)),
            None => Ok(()),
        }
    }

    fn listens(&self) -> bool {
        self.log.is_some()
    }

    fn packet(&mut self, frame: &Frame, passage: &Passage<'_>) -> Result<(), CaptureError> {
        self.log.as_mut().map_or(Ok(()), |log| log.packet(frame, passage))
    }
}

pub(super) fn run(
    plan: &Plan,
    analyzers: &mut [Box<dyn Observer>],
    offered: &mut Tee,
    survey: &Survey,
    stop: &AtomicBool,
    step: &mut dyn FnMut(Step<'_>),
    document: &mut Document,
) -> Result<Option<Recording>, RunError> {
    let of = survey.will_offer;
    let received = match &plan.artefacts {
        Some(folder) => Some(Writer::create(&folder.join(RECEIVED))?),
        None => None,
    };
    let mut keeper = Keeper { received, log: plan.record.as_ref().map(|_| PacketLog::default()) };
    let outcome =
        lockstep::replay_before(analyzers, &mut |frame| offered.next_into(frame), &mut keeper, stop, &mut |done| {
            step(Step::Frames { done, of });
        })?;
    if let Some(writer) = keeper.received {
        writer.finish()?;
    }
    document.engine = "BPF_PROG_TEST_RUN, packet by packet".to_owned();
    document.observation = Observation { ledger: outcome.ledger, drops: outcome.drops, ..Observation::default() };
    if outcome.interrupted {
        document.notes.push(interrupted(of, document.observation.ledger.offered));
    }
    Ok(keeper.log.map(PacketLog::finish))
}
