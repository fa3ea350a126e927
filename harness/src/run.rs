//! The whole pipeline: survey the capture, choose a mode, load the programs, send the frames, collect what was seen.
//!
//! The runner never prints. It reports typed steps to its caller and returns a [`Document`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::capture::{self, CaptureError, Frame, Frames, Survey, Writer};
use crate::cgroup::OwnGroup;
use crate::hook::HookKind;
use crate::kernel::{self, probe};
use crate::lockstep::{self, LockstepError};
use crate::object::{Clock, ObjectError, Refusal};
use crate::observation::Observation;
use crate::pool::{Key, Pool};
use crate::report::{self, CaptureSummary, Document, FindingSummary, KernelSummary, PacingSummary};
use crate::scenario::{Mode, spec::Programs};
use crate::subject::{self, LoadError, SubjectError, SubjectObserver};
use crate::suite::protocols::ProtocolsError;
use crate::suite::{self, Family, Observer};
use crate::synth;
use crate::topology::{Network, TopologyChoice, TopologyError};
use crate::wire::{self, Attachments, Speed, WireError, WireOptions};

/// Everything that decides a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The capture.
    pub capture: PathBuf,
    /// How its frames are read and treated.
    pub options: capture::Options,
    /// The mode; nothing lets the run choose.
    pub mode: Option<Mode>,
    /// Programs and their settings.
    pub programs: Programs,
    /// Hosts and links of wire mode.
    pub topology: TopologyChoice,
    /// Pace of wire mode.
    pub speed: Speed,
    /// Clock of the analysis in wire mode.
    pub clock: Clock,
    /// Where the frames as offered and as received are kept.
    pub artefacts: Option<PathBuf>,
}

/// What a run is doing.
#[derive(Debug)]
pub enum Step<'a> {
    /// Reads the capture once, to say what is in it.
    Survey {
        /// The file.
        file: &'a Path,
    },
    /// The mode is decided.
    Chosen {
        /// The mode.
        mode: Mode,
        /// Why this one.
        reason: &'a str,
    },
    /// Loads an object.
    Load {
        /// Its name.
        object: &'a str,
    },
    /// Builds the topology.
    Build {
        /// Its name.
        topology: &'a str,
    },
    /// Has sent so many frames.
    Frames {
        /// Sent.
        done: u64,
        /// To be sent.
        of: u64,
    },
    /// Reads maps and counters.
    Collect,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The capture is not usable.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// This machine cannot do it.
    #[error("{}", missing(.0))]
    Unmet(Vec<probe::Unmet>),
    /// An object is not usable.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// An object under test is not usable.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The object `protocols` cannot be set as asked.
    #[error(transparent)]
    Protocols(#[from] ProtocolsError),
    /// The topology could not be built.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// Lockstep mode failed.
    #[error(transparent)]
    Lockstep(#[from] LockstepError),
    /// Wire mode failed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Traffic could not be made.
    #[error(transparent)]
    Synth(#[from] synth::WriteError),
    /// An artefact could not be written.
    #[error("cannot write artefact {}", path.display())]
    Artefact {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl RunError {
    /// Whether the input is at fault, rather than this machine.
    #[must_use]
    pub fn is_invalid_input(&self) -> bool {
        matches!(self, Self::Capture(_) | Self::Lockstep(LockstepError::Capture(_)))
            || matches!(self, Self::Topology(TopologyError::Invalid(_)) | Self::Wire(WireError::Topology { .. }))
            || matches!(self, Self::Wire(WireError::Frames(_)) | Self::Synth(_))
            || matches!(self, Self::Subject(_) | Self::Object(ObjectError::Subject(_)))
            || matches!(
                self,
                Self::Lockstep(LockstepError::Object(ObjectError::Subject(_) | ObjectError::Missing { .. }))
            )
            || matches!(self, Self::Wire(WireError::Object(ObjectError::Subject(_)) | WireError::Kind { .. }))
            || matches!(
                self,
                Self::Wire(WireError::NoPlace { .. } | WireError::Placeless { .. } | WireError::SecondXdp { .. })
            )
            // A tracepoint, function or file that there is not.
            || matches!(self, Self::Wire(WireError::Attach { source, .. }) if source.kind() == std::io::ErrorKind::NotFound)
            || matches!(self, Self::Protocols(ProtocolsError::TooManyPorts(_) | ProtocolsError::PortZero))
    }

    /// The error with its causes; a verifier's whole log goes to the folder `artefacts`.
    #[must_use]
    pub fn explain(&self, artefacts: Option<&Path>) -> String {
        let mut message = crate::error::chain(self);
        let Some((program, log)) = verifier_log(self) else { return message };
        match artefacts {
            Some(folder) => {
                let path = folder.join(format!("verifier-{program}.log"));
                if std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, log)).is_ok() {
                    message.push_str(&format!("\nthe whole log is in {}", path.display()));
                }
            }
            None => message.push_str("\n--artefacts FOLDER keeps the whole log"),
        }
        message
    }
}

/// The verifier's whole log, if it is the cause of `error`, with the program's name.
fn verifier_log(error: &RunError) -> Option<(&str, &str)> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Some((&refusal.program, &refusal.log));
        }
        // A source in a box is shown as the box.
        if let Some(LoadError::Refused { program, log, .. }) =
            error.downcast_ref::<Box<LoadError>>().map(|inner| &**inner)
        {
            return Some((program, log));
        }
        cause = error.source();
    }
    None
}

fn missing(unmet: &[probe::Unmet]) -> String {
    // Without root nothing else can be told: what is known to be missing is the reason for the rest.
    let is_known = unmet.iter().any(|unmet| unmet.certain);
    let told = unmet.iter().filter(|unmet| unmet.certain || !is_known);
    let lines: Vec<String> = told.map(probe::Unmet::to_string).collect();
    format!("this machine cannot run it: {}", lines.join("; "))
}

/// Runs `plan`. `stop` ends the run early, with what was seen so far.
///
/// # Errors
/// See [`RunError`].
pub fn run(plan: &Plan, stop: &AtomicBool, step: &mut dyn FnMut(Step<'_>)) -> Result<Document, RunError> {
    run_with(&Pool::default(), plan, stop, step)
}

/// As [`run`], with objects from `pool` where it has them. After a run that fails they do not go back.
///
/// # Errors
/// See [`RunError`].
pub fn run_with(
    pool: &Pool,
    plan: &Plan,
    stop: &AtomicBool,
    step: &mut dyn FnMut(Step<'_>),
) -> Result<Document, RunError> {
    step(Step::Survey { file: &plan.capture });
    let survey = Survey::of(&plan.capture, &plan.options)?;
    let (mode, reason) = choose(plan.mode)?;
    step(Step::Chosen { mode, reason: &reason });
    let clock = if mode == Mode::Lockstep { Clock::Virtual } else { plan.clock };
    let (keys, mut analyzers, notes) = load(pool, &plan.programs, clock, step)?;
    let mut document = Document {
        version: report::VERSION,
        capture: summary(&plan.capture, &survey),
        kernel: KernelSummary { release: kernel::release(), machine: std::env::consts::ARCH.to_owned() },
        mode: mode.to_string(),
        mode_reason: reason,
        clock: if clock == Clock::Kernel { "kernel" } else { "capture" }.to_owned(),
        notes,
        ..Document::default()
    };
    let frames = Frames::open(&plan.capture, &plan.options, &survey)?;
    let mut offered = Tee::new(frames, plan.artefacts.as_deref())?;
    match mode {
        Mode::Lockstep => run_lockstep(plan, &mut analyzers, &mut offered, &survey, stop, step, &mut document)?,
        Mode::Wire => run_wire(plan, &mut analyzers, &mut offered, &survey, stop, step, &mut document)?,
    }
    offered.finish()?;
    step(Step::Collect);
    let start_ns = offered.first_ns.unwrap_or_default();
    for analyzer in &mut analyzers {
        analyzer.finish(start_ns, &mut document.observation)?;
    }
    for covered in analyzers.iter().flat_map(|observer| observer.coverage()) {
        match covered {
            Ok(program) => document.coverage.push(program),
            Err(why) => document.notes.push(why),
        }
    }
    for (key, analyzer) in keys.into_iter().zip(analyzers) {
        pool.give_back(key, analyzer);
    }
    suite::sort_drops(&mut document.observation.drops);
    reconcile(&mut document);
    Ok(document)
}

/// Some losses of the drop table are of the whole machine: calls that the kernel skipped, and packets of no known
/// namespace. Where the table has at least the drops that the ledger counted by itself, none of them was this run's.
fn reconcile(document: &mut Document) {
    let observation = &mut document.observation;
    let listed: u64 = observation.drops.iter().filter(|drop| drop.by == "kernel").map(|drop| drop.packets).sum();
    if listed < observation.ledger.dropped {
        return;
    }
    for loss in [suite::drops::SKIPPED, suite::drops::UNATTRIBUTED] {
        if let Some(count) = observation.losses.remove(loss) {
            document.notes.push(format!("{count} drops elsewhere on this machine were not seen whole ({loss})"));
        }
    }
}

/// The mode that was asked for, or the one that answers most here, and why.
fn choose(asked: Option<Mode>) -> Result<(Mode, String), RunError> {
    let unmet = |mode| probe::unmet(&probe::Requirement::of_mode(mode));
    match asked {
        Some(mode) => match unmet(mode) {
            unmet if unmet.is_empty() => Ok((mode, "as asked".to_owned())),
            unmet => Err(RunError::Unmet(unmet)),
        },
        None => {
            let wire = unmet(Mode::Wire);
            if wire.is_empty() {
                let reason = "chosen because it answers most: the kernel's own forwarding and drops take part";
                return Ok((Mode::Wire, reason.to_owned()));
            }
            let lockstep = unmet(Mode::Lockstep);
            if !lockstep.is_empty() {
                return Err(RunError::Unmet(lockstep));
            }
            let lacks: Vec<String> = wire.iter().map(probe::Unmet::to_string).collect();
            Ok((Mode::Lockstep, format!("chosen because wire mode is not to be had here: {}", lacks.join("; "))))
        }
    }
}

/// The objects of a run in the order in which packets meet them, each with its key, and what could not be loaded.
type Loaded = (Vec<Key>, Vec<Box<dyn Observer>>, Vec<String>);

fn load(pool: &Pool, programs: &Programs, clock: Clock, step: &mut dyn FnMut(Step<'_>)) -> Result<Loaded, RunError> {
    let (mut keys, mut analyzers, mut notes) = Loaded::default();
    let mut add = |key: Key, object, load: &dyn Fn() -> Result<Box<dyn Observer>, RunError>| {
        step(Step::Load { object });
        analyzers.push(pool.take(&key, load)?);
        keys.push(key);
        Ok::<_, RunError>(())
    };
    if let Some(settings) = &programs.flows {
        let key = Key::new(Family::Flows, clock, settings);
        add(key, "flows", &|| Ok(Box::new(suite::flows::Flows::load(clock, settings)?)))?;
    }
    if let Some(settings) = &programs.tcp_state {
        let key = Key::new(Family::TcpState, clock, settings);
        add(key, "tcp_state", &|| Ok(Box::new(suite::tcp_state::TcpState::load(clock, settings)?)))?;
    }
    if let Some(settings) = &programs.protocols {
        let key = Key::new(Family::Protocols, clock, settings);
        add(key, "protocols", &|| Ok(Box::new(suite::protocols::Protocols::load(clock, settings)?)))?;
    }
    // Its only hook is in the kernel's stack, which has no part in lockstep mode.
    if let Some(settings) = programs.drops.as_ref().filter(|_| clock != Clock::Virtual) {
        let key = Key::new(Family::Drops, clock, settings);
        add(key, "drops", &|| Ok(Box::new(suite::drops::Drops::load(clock, settings)?)))?;
    }
    // After `tcp_state`, with which it compares. A kernel on which it does not load loses nothing else.
    if let Some(settings) = programs.sockets.as_ref().filter(|_| clock != Clock::Virtual) {
        let key = Key::new(Family::Sockets, clock, settings);
        let load = || Ok(Box::new(suite::sockets::Sockets::load(clock, settings)?) as Box<dyn Observer>);
        if let Err(error) = add(key, "sockets", &load) {
            notes.push(format!("the kernel's sockets are not observed: {}", crate::error::chain(&error)));
        }
    }
    for setup in &programs.objects {
        let name = subject::name_of(&setup.object);
        step(Step::Load { object: &name });
        let read = |source| SubjectError::Read { object: setup.object.display().to_string(), source };
        let bytes = std::fs::read(&setup.object).map_err(read)?;
        analyzers.push(Box::new(SubjectObserver::new(setup, &bytes, &name, clock)?));
    }
    // As `drops`. Never pooled, so without a key and last: which probes measure is found out anew by each load.
    if let Some(settings) = programs.latency.as_ref().filter(|_| clock != Clock::Virtual) {
        step(Step::Load { object: "latency" });
        analyzers.push(Box::new(suite::latency::Latency::load(settings)?));
    }
    Ok((keys, analyzers, notes))
}

fn run_lockstep(
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

fn run_wire(
    plan: &Plan,
    analyzers: &mut [Box<dyn Observer>],
    offered: &mut Tee,
    survey: &Survey,
    stop: &AtomicBool,
    step: &mut dyn FnMut(Step<'_>),
    document: &mut Document,
) -> Result<(), RunError> {
    let (clients, servers) = (&survey.endpoints.client, &survey.endpoints.server);
    let topology = plan.topology.resolve(clients, servers, plan.options.mtu);
    // Sockets belong to the control group that they are made in.
    let needs_group = |observer: &dyn Observer| {
        observer.attaches().iter().any(|attach| attach.hook.kind == HookKind::Cgroup && attach.hook.at.is_none())
    };
    let _group = if analyzers.iter().any(|observer| needs_group(observer.as_ref())) {
        let failed = |source| WireError::System { operation: "enter a control group of its own".to_owned(), source };
        Some(OwnGroup::enter().map_err(failed)?)
    } else {
        None
    };
    step(Step::Build { topology: &topology.name });
    document.topology = Some(topology.name.clone());
    let network = Network::build(&topology)?;
    let result = {
        let mut attachments = Attachments::new(&network)?;
        suite::attach(analyzers, &mut attachments, &network)?;
        let options = WireOptions { speed: plan.speed, record: plan.artefacts.is_some(), ..WireOptions::default() };
        let of = survey.will_offer;
        wire::replay(&network, &mut attachments, offered, &options, stop, &mut |done| {
            step(Step::Frames { done, of });
            suite::drain(analyzers)
        })
    };
    let closed = network.close();
    let outcome = result?;
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
    Ok(())
}

fn interrupted(of: u64, done: u64) -> String {
    format!("interrupted: {done} of {of} frames were offered; the numbers cover those")
}

/// File of the frames that left, below the folder of artefacts.
pub const RECEIVED: &str = "received.pcapng";

/// Passes frames on and keeps a copy of each in `offered.pcapng`.
struct Tee {
    frames: Frames,
    copy: Option<Writer>,
    first_ns: Option<u64>,
}

impl Tee {
    fn new(frames: Frames, folder: Option<&Path>) -> Result<Self, RunError> {
        let copy = match folder {
            None => None,
            Some(folder) => {
                let failed = |source| RunError::Artefact { path: folder.to_owned(), source };
                std::fs::create_dir_all(folder).map_err(failed)?;
                Some(Writer::create(&folder.join("offered.pcapng"))?)
            }
        };
        Ok(Self { frames, copy, first_ns: None })
    }

    /// The next frame, into a buffer that is used again; false at the end.
    fn next_into(&mut self, frame: &mut Frame) -> Result<bool, CaptureError> {
        if !self.frames.next_into(frame)? {
            return Ok(false);
        }
        self.first_ns.get_or_insert(frame.time_ns);
        if let Some(copy) = &mut self.copy {
            copy.write(frame.time_ns, &frame.data, frame.wire_len)?;
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<(), RunError> {
        match self.copy.take() {
            None => Ok(()),
            Some(writer) => Ok(writer.finish()?),
        }
    }
}

impl Iterator for Tee {
    type Item = Result<Frame, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut frame = Frame::default();
        match self.next_into(&mut frame) {
            Ok(true) => Some(Ok(frame)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

fn write_received(path: &Path, outcome: &wire::WireOutcome) -> Result<(), RunError> {
    let mut writer = Writer::create(path)?;
    for frame in &outcome.received {
        writer.write(frame.time_ns, &frame.data, frame.wire_len)?;
    }
    Ok(writer.finish()?)
}

fn summary(file: &Path, survey: &Survey) -> CaptureSummary {
    let duration_ns = survey.last_ns.unwrap_or_default() - survey.first_ns.unwrap_or_default();
    let resolutions: BTreeSet<String> = survey.interfaces.iter().map(|one| one.resolution.to_string()).collect();
    let links: BTreeSet<String> = survey.interfaces.iter().map(|one| one.link.to_string()).collect();
    #[allow(clippy::cast_precision_loss, reason = "a duration shown to the microsecond")]
    let duration_s = duration_ns as f64 / 1e9;
    CaptureSummary {
        file: file.display().to_string(),
        format: format!("{} {}", survey.format.name(), resolutions.into_iter().collect::<Vec<_>>().join(" + ")),
        link_types: links.into_iter().collect(),
        packets: survey.packets,
        bytes: survey.wire_bytes,
        duration_s,
        sha256: survey.sha256.clone(),
        findings: survey
            .findings
            .iter()
            .map(|finding| FindingSummary {
                kind: finding.kind.to_string(),
                count: finding.count,
                first_packet: finding.first,
                refused: finding.refused,
                message: finding.text.clone(),
            })
            .collect(),
    }
}
