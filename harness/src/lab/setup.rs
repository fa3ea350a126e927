//! Programs in place, packets through them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::lockstep::{Log, Player, Step};
use super::object::{EbpfObject, ring};
use super::outcome::{Outcome, Received};
use super::{Events, LabError, Table};
use crate::capture::{self, CaptureError, Frame, Frames, Side, Survey};
use crate::hook::{Hook, HookKind};
use crate::kernel::probe::{self, Requirement, RunMode};
use crate::lockstep;
use crate::observation::{Observation, ProgramSeen, UnderTest};
use crate::rows::{Aliases, Hints};
use crate::suite::{Observer, sort_drops};
use crate::topology::{Host, Network, Topology};
use crate::wire::{self, Attachments, Speed, WireOptions, XdpAlone};

/// Nanoseconds between two frames of [`Lab::send`], and the time of the first, since 1970.
const GAP_NS: u64 = 1_000;
const EPOCH_NS: u64 = 1_000_000_000_000_000_000;

/// Hosts and the programs under test at them, for as long as this lives: dropping it detaches the programs and removes
/// the hosts.
///
/// What was loaded stays the test's: maps are read and written between two calls of [`Lab::send`], and the next packets
/// find what the last ones left.
#[derive(Debug)]
pub struct Lab {
    stage: Stage,
    attached: Vec<(String, ProgramSeen)>,
    observed: Vec<Observed>,
    sent: u64,
}

#[derive(Debug)]
enum Stage {
    Lockstep(Vec<Step>),
    Wire(Box<Wire>),
}

/// In the order in which they go.
#[derive(Debug)]
struct Wire {
    /// XDP programs between two replays, when the lab's own are not around them.
    alone: Option<XdpAlone>,
    attachments: Attachments,
    network: Network,
}

#[derive(Debug)]
struct Observed {
    object: String,
    tables: Vec<Table>,
    events: Vec<Events>,
}

impl Lab {
    /// A lab in which packets go through XDP and tc programs one after the other by `BPF_PROG_TEST_RUN`: the same each
    /// time, fast, and without a kernel's stack behind them.
    ///
    /// # Errors
    /// [`LabError::Unmet`] without root, or on a kernel that does not run programs so.
    pub fn lockstep() -> Result<Self, LabError> {
        check(RunMode::Lockstep)?;
        Ok(Self::new(Stage::Lockstep(Vec::new())))
    }

    /// A lab with hosts: packets cross real links from the client or the server to the device under test, through
    /// programs and the kernel's stack. [`crate::topology::presets`] has `bridge`, `router` and `host`.
    ///
    /// # Errors
    /// [`LabError::Unmet`] without root, or on a kernel that lacks what accounting for every packet takes;
    /// [`LabError::Topology`].
    pub fn wire(topology: &Topology) -> Result<Self, LabError> {
        check(RunMode::Wire)?;
        let network = Network::build(topology)?;
        let attachments = Attachments::new(&network)?;
        Ok(Self::new(Stage::Wire(Box::new(Wire { alone: None, attachments, network }))))
    }

    fn new(stage: Stage) -> Self {
        Self { stage, attached: Vec::new(), observed: Vec::new(), sent: 0 }
    }

    /// Loads a program of an object, unless it is loaded, and attaches it: behind those already at the same hook, and at
    /// all interfaces of the device under test unless the hook names one. In lockstep packets meet XDP, tc ingress and tc
    /// egress programs in this order.
    ///
    /// # Errors
    /// [`LabError::Object`] and [`LabError::Subject`] for a program that does not exist or that the verifier refuses,
    /// [`LabError::Wire`] for one that is of another kind than the hook's or a place that is not there,
    /// [`LabError::NotInLockstep`].
    pub fn attach(&mut self, object: &mut impl EbpfObject, program: &str, hook: Hook) -> Result<(), LabError> {
        let name = object.object_name().to_owned();
        let seen = ProgramSeen { program: program.to_owned(), hook: hook.to_string(), ..ProgramSeen::default() };
        match &mut self.stage {
            Stage::Lockstep(steps) => {
                if !hook.kind.is_on_path() && hook.kind != HookKind::None {
                    return Err(LabError::NotInLockstep { program: program.to_owned(), hook });
                }
                let loaded = wire::load_for(object, program, &hook)?;
                if hook.kind != HookKind::None {
                    let (object, program) = (name.clone(), program.to_owned());
                    steps.push(Step {
                        object,
                        program,
                        hook,
                        fd: Arc::new(loaded.fd),
                        kind: loaded.kind,
                        attach: loaded.attach,
                    });
                }
            }
            Stage::Wire(wire) => wire.attach(object, program, &hook)?,
        }
        self.attached.push((name, seen));
        Ok(())
    }

    /// From now on outcomes hold the contents of the object's maps, and the events of its rings since the last outcome.
    ///
    /// # Errors
    /// [`LabError::Map`].
    pub fn observe(&mut self, object: &impl EbpfObject) -> Result<(), LabError> {
        self.observe_with(object, &BTreeMap::new())
    }

    /// As [`Lab::observe`], with hints by the name of the map (see [`EbpfObject::typed_map_with`]); maps of read-only
    /// variables are shown only if they have some.
    ///
    /// # Errors
    /// As [`Lab::observe`]; [`LabError::Subject`] for hints for a map that there is not.
    pub fn observe_with(&mut self, object: &impl EbpfObject, hints: &BTreeMap<String, Hints>) -> Result<(), LabError> {
        let mut maps = object.maps_by_name();
        maps.sort_by(|(one, _), (other, _)| one.cmp(other));
        if let Some(name) = hints.keys().find(|name| !maps.iter().any(|(map, _)| map == *name)) {
            let known = maps.into_iter().map(|(map, _)| map).collect();
            return Err(crate::subject::missing(object.object_name(), "map", name, known).into());
        }
        let name = object.object_name().to_owned();
        let mut observed = Observed { object: name.clone(), tables: Vec::new(), events: Vec::new() };
        for (map, fd) in maps {
            let (given, none) = (hints.get(&map), Hints::default());
            let source = object.source(&map);
            if ring(fd) {
                observed.events.push(Events::open(&name, fd, source, given.unwrap_or(&none))?);
            } else if given.is_some() || !(map.starts_with(".rodata") || map == ".kconfig") {
                observed.tables.push(Table::open(&name, fd, source, given.unwrap_or(&none))?);
            }
        }
        self.observed.push(observed);
        Ok(())
    }

    /// Sends Ethernet frames from the client, in order, and waits until it is known what became of each. At a device under
    /// test that does not bridge they get the Ethernet addresses of the link.
    ///
    /// # Errors
    /// [`LabError::Wire`] for a frame that the link does not take, [`LabError::Lockstep`], [`LabError::Map`].
    pub fn send<F: Into<Vec<u8>>>(&mut self, frames: impl IntoIterator<Item = F>) -> Result<Outcome, LabError> {
        self.send_from(Side::Client, frames)
    }

    /// As [`Lab::send`], from either side.
    ///
    /// # Errors
    /// As [`Lab::send`].
    pub fn send_from<F: Into<Vec<u8>>>(
        &mut self,
        side: Side,
        frames: impl IntoIterator<Item = F>,
    ) -> Result<Outcome, LabError> {
        let mut number = self.sent;
        let frames = frames.into_iter().map(move |data| {
            let data = data.into();
            number += 1;
            let wire_len = u32::try_from(data.len()).unwrap_or(u32::MAX);
            Ok(Frame { number, time_ns: EPOCH_NS + number * GAP_NS, wire_len, data, side })
        });
        self.play(frames, Speed::Top)
    }

    /// Sends the frames of a capture file, each from its own side, as fast as they can be sent.
    ///
    /// # Errors
    /// [`LabError::Capture`]; as [`Lab::send`].
    pub fn replay(&mut self, capture: impl AsRef<Path>) -> Result<Outcome, LabError> {
        self.replay_with(capture, &capture::Options::default(), Speed::Top)
    }

    /// As [`Lab::replay`], with a choice of frames and treatment, and at a speed, which is of no account in lockstep.
    ///
    /// # Errors
    /// As [`Lab::replay`].
    pub fn replay_with(
        &mut self,
        capture: impl AsRef<Path>,
        options: &capture::Options,
        speed: Speed,
    ) -> Result<Outcome, LabError> {
        let survey = Survey::of(capture.as_ref(), options)?;
        let frames = Frames::open(capture.as_ref(), options, &survey)?;
        self.play(frames, speed)
    }

    fn play(
        &mut self,
        frames: impl Iterator<Item = Result<Frame, CaptureError>>,
        speed: Speed,
    ) -> Result<Outcome, LabError> {
        let Self { stage, attached, observed, sent } = self;
        let mut outcome = match stage {
            Stage::Lockstep(steps) => play_lockstep(steps, frames, observed)?,
            Stage::Wire(wire) => wire.play(frames, speed, observed)?,
        };
        *sent += outcome.ledger().offered;
        sort_drops(&mut outcome.observation.drops);
        describe(attached, observed, &mut outcome.observation)?;
        Ok(outcome)
    }

    /// A host of a wire lab, for sockets and processes: `lab.host("server")?.run(|| ...)`.
    ///
    /// # Errors
    /// [`LabError::NoHosts`], [`LabError::Topology`] for a name that the topology does not have.
    pub fn host(&self, name: &str) -> Result<&Host, LabError> {
        match &self.stage {
            Stage::Lockstep(_) => Err(LabError::NoHosts(name.to_owned())),
            Stage::Wire(wire) => Ok(wire.network.host(name)?),
        }
    }

    /// Detaches the programs and removes the hosts, as dropping does, and says what could not be removed.
    ///
    /// # Errors
    /// [`LabError::Topology`].
    pub fn close(self) -> Result<(), LabError> {
        match self.stage {
            Stage::Lockstep(_) => Ok(()),
            Stage::Wire(wire) => {
                let Wire { alone, attachments, network } = *wire;
                drop(alone);
                drop(attachments);
                Ok(network.close()?)
            }
        }
    }
}

fn check(mode: RunMode) -> Result<(), LabError> {
    match probe::unmet(&Requirement::of_mode(mode)) {
        unmet if unmet.is_empty() => Ok(()),
        unmet => Err(LabError::Unmet(unmet)),
    }
}

impl Wire {
    fn attach(&mut self, object: &mut impl EbpfObject, program: &str, hook: &Hook) -> Result<(), LabError> {
        let xdp = matches!(hook.kind, HookKind::Xdp | HookKind::XdpGeneric);
        if xdp {
            self.alone = None;
        }
        let attached = self.attachments.attach(object, program, hook, &self.network);
        if xdp {
            self.alone = Some(self.attachments.attach_xdp_alone()?);
        }
        Ok(attached?)
    }

    fn play(
        &mut self,
        frames: impl Iterator<Item = Result<Frame, CaptureError>>,
        speed: Speed,
        observed: &mut [Observed],
    ) -> Result<Outcome, LabError> {
        let options = WireOptions { speed, record: true, ..WireOptions::default() };
        let (stop, had_xdp) = (AtomicBool::new(false), self.alone.take().is_some());
        let mut drain_all = |_| {
            drain(observed);
            Ok(())
        };
        let played = wire::replay(&self.network, &mut self.attachments, frames, &options, &stop, &mut drain_all);
        if had_xdp {
            self.alone = Some(self.attachments.attach_xdp_alone()?);
        }
        let played = played?;
        let notes = played.notes();
        let side = |number: usize| if number == 0 { Side::Client } else { Side::Server };
        let received = played.received.into_iter().map(|frame| Received { side: side(frame.side), data: frame.data });
        Ok(Outcome {
            observation: Observation { ledger: played.ledger, drops: played.drops, ..Observation::default() },
            received: received.collect(),
            notes,
        })
    }
}

fn play_lockstep(
    steps: &[Step],
    mut frames: impl Iterator<Item = Result<Frame, CaptureError>>,
    observed: &mut [Observed],
) -> Result<Outcome, LabError> {
    let log = Log::new(steps);
    let mut players: Vec<Box<dyn Observer>> =
        steps.iter().map(|step| Box::new(Player::new(step, &log)) as Box<dyn Observer>).collect();
    let mut next = |frame: &mut Frame| match frames.next().transpose()? {
        Some(found) => {
            *frame = found;
            Ok(true)
        }
        None => Ok(false),
    };
    let mut received = Vec::new();
    let mut deliver = |frame: &Frame, data: &[u8]| {
        received.push(Received { side: frame.side.opposite(), data: data.to_vec() });
        Ok(())
    };
    let stop = AtomicBool::new(false);
    let played = lockstep::replay_to(&mut players, &mut next, &mut deliver, &stop, &mut |_| drain(observed))?;
    let objects = log.take().into_iter().map(|(object, packets)| {
        let (verdicts, changes) = packets.finish();
        let seen = |(program, verdicts)| ProgramSeen { program, verdicts, ..ProgramSeen::default() };
        UnderTest { object, programs: verdicts.into_iter().map(seen).collect(), changes, ..UnderTest::default() }
    });
    let observation = Observation {
        ledger: played.ledger,
        drops: played.drops,
        objects: objects.collect(),
        ..Observation::default()
    };
    Ok(Outcome { observation, received, notes: Vec::new() })
}

fn drain(observed: &mut [Observed]) {
    observed.iter_mut().flat_map(|object| &mut object.events).for_each(Events::drain);
}

/// Adds the programs, maps and events of the objects to what lockstep knows of them.
fn describe(
    attached: &[(String, ProgramSeen)],
    observed: &mut [Observed],
    observation: &mut Observation,
) -> Result<(), LabError> {
    let mut known = std::mem::take(&mut observation.objects);
    let mut names: Vec<String> = Vec::new();
    for name in attached.iter().map(|(name, _)| name).chain(observed.iter().map(|observed| &observed.object)) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    for name in names {
        let place = known.iter().position(|object| object.object == name);
        let mut object = place.map_or_else(UnderTest::default, |place| known.swap_remove(place));
        let mut seen = std::mem::take(&mut object.programs);
        object.programs = attached.iter().filter(|(of, _)| *of == name).map(|(_, program)| program.clone()).collect();
        for program in &mut object.programs {
            if let Some(place) = seen.iter().position(|seen| seen.program == program.program) {
                program.verdicts = seen.swap_remove(place).verdicts;
            }
        }
        let mut aliases = Aliases::default();
        for observed in observed.iter_mut().filter(|observed| observed.object == name) {
            for table in &observed.tables {
                object.maps.push(table.read_with(&mut aliases)?);
            }
            object.events.extend(observed.events.iter_mut().map(|events| events.take_rows(&mut aliases)));
        }
        for lost in &object.events {
            if let Some(count) = lost.lost.filter(|count| *count > 0) {
                observation.losses.insert(format!("{name}.{}", lost.map), count);
            }
        }
        observation.objects.push(UnderTest { object: name, ..object });
    }
    Ok(())
}
