//! A run on the wire.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::tee::Tee;
use super::{Plan, RECEIVED, RunError, Step, interrupted, recording, stage};
use crate::capture::{Survey, Writer};
use crate::observation::Observation;
use crate::recorder::{Recorder, Recording};
use crate::report::{Document, PacingSummary};
use crate::suite::{self, Observer, Watch};
use crate::topology::Network;
use crate::wire::{self, Attachments, WireOptions};

pub(super) fn run(
    plan: &Plan,
    analyzers: &mut [Box<dyn Observer>],
    offered: &mut Tee,
    survey: &Survey,
    stop: &AtomicBool,
    step: &mut dyn FnMut(Step<'_>),
    document: &mut Document,
) -> Result<Option<Recording>, RunError> {
    let (clients, servers) = (&survey.endpoints.client, &survey.endpoints.server);
    let topology = plan.topology.resolve(clients, servers, plan.options.mtu);
    wire::check_impairment(&topology)?;
    stage::check(&topology)?;
    let _group = stage::own_group(analyzers)?;
    step(Step::Build { topology: &topology.name });
    document.topology = Some(topology.name.clone());
    let network = Network::build(&topology)?;
    let result = {
        let mut attachments = Attachments::new(&network)?;
        suite::attach(analyzers, Watch::BetweenFarEnds, &mut attachments, &network)?;
        let options = WireOptions {
            speed: plan.speed,
            engine: plan.engine,
            record: plan.artefacts.is_some() || plan.record.is_some(),
            keep_sent: plan.record.is_some(),
            ..WireOptions::default()
        };
        let of = survey.will_offer;
        let recorder = plan.record.as_ref().map(|_| Recorder::start(&network)).transpose()?;
        let result = wire::replay(&network, &mut attachments, offered, &options, stop, &mut |done| {
            step(Step::Frames { done, of });
            suite::drain(analyzers)
        });
        result.map(|mut outcome| {
            let keep = plan.artefacts.is_some();
            let known = recording::known(&attachments.interfaces(), &mut outcome, keep);
            (outcome, recorder.map(|recorder| recorder.stop(known)))
        })
    };
    let closed = network.close();
    let (outcome, recording) = result?;
    closed?;
    document.engine = outcome.engine.clone();
    document.pacing = Some(PacingSummary::from(&outcome.pacing));
    document.notes.extend(outcome.notes());
    if outcome.interrupted {
        document.notes.push(interrupted(survey.will_offer, outcome.ledger.offered));
    }
    if let Some(folder) = &plan.artefacts {
        write_received(&folder.join(RECEIVED), &outcome)?;
    }
    document.observation = Observation { ledger: outcome.ledger, drops: outcome.drops, ..Observation::default() };
    Ok(recording)
}

fn write_received(path: &Path, outcome: &wire::WireOutcome) -> Result<(), RunError> {
    let mut writer = Writer::create(path)?;
    for frame in &outcome.received {
        writer.write(frame.time_ns, &frame.data, frame.wire_len)?;
    }
    Ok(writer.finish()?)
}
