//! Traffic at the highest rate that the links take: counted, not accounted for packet by packet.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use super::{RunError, Step, load, stage, summary};
use crate::capture::{self, Survey};
use crate::kernel::{self, probe};
use crate::object::Clock;
use crate::observation::Observation;
use crate::pool::Pool;
use crate::report::{CaptureSummary, KernelSummary};
use crate::scenario::Mode;
use crate::scenario::spec::Programs;
use crate::suite::{self, Observer, Watch};
use crate::synth::{self, Hosts, Spec};
use crate::topology::{DEFAULT_MTU, Network, Topology, TopologyChoice};
use crate::wire::{self, Attachments, FloodOptions, FloodOutcome, OfCapture, OfSynth, Repeat, SideCount, Size, Source};

/// Part of the time above which waiting for frames is worth a note.
const WAITED: f64 = 0.1;

/// Version of [`FloodDocument`].
const VERSION: u32 = 1;

/// What a flood sends.
#[derive(Clone, Debug)]
pub enum FloodTraffic {
    /// A capture.
    Capture {
        /// The file.
        file: PathBuf,
        /// How its frames are read and treated.
        options: capture::Options,
    },
    /// Traffic of the catalogue, several declarations merged by time. Rates and shapes decide how many frames there are and in
    /// which order; when they are sent, the links do. What does not fit into memory is made while it is sent.
    Synth(Vec<Spec>),
}

/// Everything that decides a flood, beside [`FloodOptions`].
#[derive(Clone, Debug)]
pub struct FloodPlan {
    /// What is sent.
    pub traffic: FloodTraffic,
    /// Programs and their settings.
    pub programs: Programs,
    /// Hosts and links.
    pub topology: TopologyChoice,
}

/// What a flood came to, as `--json` prints it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FloodDocument {
    /// Version of this form: 1.
    pub version: u32,
    /// The capture. Of made traffic its name, and the packets and bytes that it has once through, as far as it came.
    pub capture: CaptureSummary,
    /// The declarations that the traffic was made from; none for a capture.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub synth: Vec<Spec>,
    /// The kernel.
    pub kernel: KernelSummary,
    /// Name of the topology.
    pub topology: String,
    /// What sent the frames, and why.
    pub engine: String,
    /// Whether the traffic was larger than what is held in memory, so that it was read or made while it was sent.
    pub streamed: bool,
    /// How long nothing was sent because the next frames were not read or made yet, seconds; 0 unless streamed.
    #[serde(default)]
    pub waited_s: f64,
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

/// Sends the traffic of `plan` through its topology as fast as it can be sent, with the programs of `plan` attached.
///
/// # Errors
/// See [`RunError`].
pub fn flood(
    plan: &FloodPlan,
    options: &FloodOptions,
    stop: &AtomicBool,
    step: &mut dyn FnMut(Step<'_>),
) -> Result<FloodDocument, RunError> {
    let unmet = probe::unmet(&probe::Requirement::of_mode(Mode::Wire));
    if !unmet.is_empty() {
        return Err(RunError::Unmet(unmet));
    }
    match &plan.traffic {
        FloodTraffic::Capture { file, options: reading } => {
            step(Step::Survey { file });
            let survey = Survey::of(file, reading)?;
            let (clients, servers) = (&survey.endpoints.client, &survey.endpoints.server);
            let topology = plan.topology.resolve(clients, servers, reading.mtu);
            let mut source = OfCapture::new(file, reading, &survey)?;
            let start_ns = survey.first_ns.unwrap_or_default();
            let document = send(&plan.programs, &topology, options, (&mut source, start_ns), stop, step)?;
            Ok(FloodDocument { capture: summary(file, &survey), ..document })
        }
        FloodTraffic::Synth(specs) => {
            let topology = plan.topology.resolve(&[], &[], DEFAULT_MTU);
            let mut source = OfSynth::new(specs, &Hosts::from(&topology)).map_err(synth::WriteError::from)?;
            let document = send(&plan.programs, &topology, options, (&mut source, synth::START_NS), stop, step)?;
            Ok(FloodDocument { capture: made(specs, source.given()), synth: specs.clone(), ..document })
        }
    }
}

/// Made traffic in the place of a capture.
fn made(specs: &[Spec], Size { frames, bytes, .. }: Size) -> CaptureSummary {
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let format = "made from the catalogue".to_owned();
    CaptureSummary { file: names.join(" + "), format, packets: frames, bytes, ..CaptureSummary::default() }
}

/// Loads the programs, sends, and tells what was counted. Times are told from `start_ns` on.
fn send(
    programs: &Programs,
    topology: &Topology,
    options: &FloodOptions,
    (source, start_ns): (&mut dyn Source, u64),
    stop: &AtomicBool,
    step: &mut dyn FnMut(Step<'_>),
) -> Result<FloodDocument, RunError> {
    let (_, mut analyzers, mut notes) = load::load(&Pool::default(), programs, Clock::Kernel, step)?;
    let outcome = through(topology, options, source, &mut analyzers, stop, step)?;
    step(Step::Collect);
    let mut observation = Observation::default();
    for analyzer in &mut analyzers {
        analyzer.finish(start_ns, &mut observation)?;
    }
    notes.extend(remarks(&outcome));
    let [client, server] = outcome.sides;
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let bits = (client.sent_bytes + server.sent_bytes) as f64 * 8.0;
    let elapsed_s = outcome.elapsed.as_secs_f64();
    Ok(FloodDocument {
        version: VERSION,
        kernel: KernelSummary { release: kernel::release(), machine: std::env::consts::ARCH.to_owned() },
        topology: topology.name.clone(),
        engine: outcome.engine.to_string(),
        streamed: outcome.streamed,
        waited_s: outcome.waited.unwrap_or_default().as_secs_f64(),
        elapsed_s,
        rate_pps: outcome.rate_pps(),
        sent_bps: bits / elapsed_s.max(1e-9),
        client,
        server,
        lost: outcome.lost(),
        interrupted: outcome.interrupted,
        observation,
        notes,
        ..FloodDocument::default()
    })
}

/// What the reader must know to judge the numbers.
fn remarks(outcome: &FloodOutcome) -> Vec<String> {
    let mut notes = Vec::new();
    if outcome.withheld > 0 {
        let text = "frames of the server's side were not sent: the topology has no such side";
        notes.push(format!("{} {text}", outcome.withheld));
    }
    if outcome.lost() > 0 {
        notes.push(format!("{} frames were sent and never seen: the receiver is slower than the link", outcome.lost()));
    }
    let share = outcome.waited.unwrap_or_default().as_secs_f64() / outcome.elapsed.as_secs_f64().max(1e-9);
    if share > WAITED {
        notes.push(format!(
            "{:.0} % of the time nothing was sent because the next frames were not there yet: one CPU reads or makes them; \
             what fits into memory is there before the first is sent, and goes out at the link's own rate",
            share * 100.0
        ));
    }
    notes
}

fn through(
    topology: &Topology,
    options: &FloodOptions,
    source: &mut dyn Source,
    analyzers: &mut [Box<dyn Observer>],
    stop: &AtomicBool,
    step: &mut dyn FnMut(Step<'_>),
) -> Result<FloodOutcome, RunError> {
    // How many there will be is not always known.
    let of = match (options.repeat, source.size().frames) {
        (Repeat::For(_), _) | (_, u64::MAX) => 0,
        (Repeat::Times(times), frames) => frames.saturating_mul(times),
    };
    let _group = stage::own_group(analyzers)?;
    step(Step::Build { topology: &topology.name });
    let network = Network::build(topology)?;
    let result = (|| {
        let mut attachments = Attachments::new(&network)?;
        suite::attach(analyzers, Watch::BetweenFarEnds, &mut attachments, &network)?;
        wire::flood(&network, &attachments, source, options, stop, &mut |done| {
            step(Step::Frames { done, of: of.max(done) });
            suite::drain(analyzers)
        })
    })();
    let closed = network.close();
    let outcome = result?;
    closed?;
    Ok(outcome)
}
