//! A capture at the highest rate that the links take: counted, not accounted for packet by packet.

use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use super::{Plan, RunError, Step, load, stage, summary};
use crate::capture::Survey;
use crate::kernel::{self, probe};
use crate::object::Clock;
use crate::observation::Observation;
use crate::pool::Pool;
use crate::report::{CaptureSummary, KernelSummary};
use crate::scenario::Mode;
use crate::suite::{self, Observer, Watch};
use crate::topology::Network;
use crate::wire::{self, Attachments, FloodOptions, FloodOutcome, OfCapture, Repeat, SideCount};

/// Version of [`FloodDocument`].
const VERSION: u32 = 1;

/// What a flood came to, as `--json` prints it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FloodDocument {
    /// Version of this form: 1.
    pub version: u32,
    /// The capture.
    pub capture: CaptureSummary,
    /// The kernel.
    pub kernel: KernelSummary,
    /// Name of the topology.
    pub topology: String,
    /// What sent the frames, and why.
    pub engine: String,
    /// Whether the capture was larger than what is held in memory, so that it was read while it was sent.
    pub streamed: bool,
    /// From the first frame until the device under test had seen the last, seconds.
    pub elapsed_s: f64,
    /// Frames a second that the device under test took in.
    pub rate_pps: f64,
    /// Bits a second that were sent, of frames without preamble and check sequence.
    pub sent_bps: f64,
    /// The client's side.
    pub client: SideCount,
    /// The server's side.
    pub server: SideCount,
    /// Frames that were sent and that the device under test did not see.
    pub lost: u64,
    /// Whether it was stopped from outside.
    pub interrupted: bool,
    /// What programs under test saw. There is no account of packets: its `ledger` is empty.
    pub observation: Observation,
    /// What the reader must know to judge the numbers.
    pub notes: Vec<String>,
}

impl FloodDocument {
    /// The document as pretty JSON with a final newline.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings, numbers and string-keyed maps: serialising cannot fail.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// Sends the capture of `plan` through its topology as fast as it can be sent, with the programs of `plan` attached.
/// Mode, speed, engine and artefacts of the plan have no part in it.
///
/// # Errors
/// See [`RunError`].
pub fn flood(
    plan: &Plan,
    options: &FloodOptions,
    stop: &AtomicBool,
    step: &mut dyn FnMut(Step<'_>),
) -> Result<FloodDocument, RunError> {
    let unmet = probe::unmet(&probe::Requirement::of_mode(Mode::Wire));
    if !unmet.is_empty() {
        return Err(RunError::Unmet(unmet));
    }
    step(Step::Survey { file: &plan.capture });
    let survey = Survey::of(&plan.capture, &plan.options)?;
    let (_, mut analyzers, mut notes) = load::load(&Pool::default(), &plan.programs, Clock::Kernel, step)?;
    let (outcome, topology) = send(plan, options, &survey, &mut analyzers, stop, step)?;
    step(Step::Collect);
    let mut observation = Observation::default();
    for analyzer in &mut analyzers {
        analyzer.finish(survey.first_ns.unwrap_or_default(), &mut observation)?;
    }
    if outcome.withheld > 0 {
        let text = "frames of the server's side were not sent: the topology has no such side";
        notes.push(format!("{} {text}", outcome.withheld));
    }
    if outcome.lost() > 0 {
        notes.push(format!("{} frames were sent and never seen: the receiver is slower than the link", outcome.lost()));
    }
    let [client, server] = outcome.sides;
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let bits = (client.sent_bytes + server.sent_bytes) as f64 * 8.0;
    let elapsed_s = outcome.elapsed.as_secs_f64();
    Ok(FloodDocument {
        version: VERSION,
        capture: summary(&plan.capture, &survey),
        kernel: KernelSummary { release: kernel::release(), machine: std::env::consts::ARCH.to_owned() },
        topology,
        engine: outcome.engine.to_string(),
        streamed: outcome.streamed,
        elapsed_s,
        rate_pps: outcome.rate_pps(),
        sent_bps: bits / elapsed_s.max(1e-9),
        client,
        server,
        lost: outcome.lost(),
        interrupted: outcome.interrupted,
        observation,
        notes,
    })
}

fn send(
    plan: &Plan,
    options: &FloodOptions,
    survey: &Survey,
    analyzers: &mut [Box<dyn Observer>],
    stop: &AtomicBool,
    step: &mut dyn FnMut(Step<'_>),
) -> Result<(FloodOutcome, String), RunError> {
    let (clients, servers) = (&survey.endpoints.client, &survey.endpoints.server);
    let topology = plan.topology.resolve(clients, servers, plan.options.mtu);
    let of = match options.repeat {
        Repeat::Times(times) => survey.will_offer.saturating_mul(times),
        Repeat::For(_) => 0,
    };
    let _group = stage::own_group(analyzers)?;
    let mut source = OfCapture::new(&plan.capture, &plan.options, survey)?;
    step(Step::Build { topology: &topology.name });
    let network = Network::build(&topology)?;
    let result = (|| {
        let mut attachments = Attachments::new(&network)?;
        suite::attach(analyzers, Watch::BetweenFarEnds, &mut attachments, &network)?;
        wire::flood(&network, &attachments, &mut source, options, stop, &mut |done| {
            step(Step::Frames { done, of: of.max(done) });
            suite::drain(analyzers)
        })
    })();
    let closed = network.close();
    let outcome = result?;
    closed?;
    Ok((outcome, topology.name))
}
