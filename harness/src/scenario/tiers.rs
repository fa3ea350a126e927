//! One scenario in lockstep mode and on the wire, side by side: what differs, and what must differ because test runs
//! execute no side effects (`Documentation/bpf/bpf_prog_run.rst`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use serde_json::Value;

use super::trial::Trial;
use super::{Found, Mode};
use crate::capture::{self, Frames, Survey};
use crate::hook::HookKind;
use crate::observation::{ChangedField, DropClass, Observation, UnderTest};
use crate::rows::{EventRows, MapRows};
use crate::run::{RECEIVED, RunError};
use crate::subject::{self, Setup};

/// Version of the document.
pub const VERSION: u32 = 1;
/// Most differences of one kind that are listed.
const LISTED: usize = 20;

/// What differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// `ledger`, `verdict`, `map`, `events`, `packet`.
    pub kind: &'static str,
    /// What it is of: a count, a program, a row, a packet.
    pub what: String,
    /// In lockstep mode; absent where there is no such thing.
    pub lockstep: Option<String>,
    /// On the wire.
    pub wire: Option<String>,
    /// Why test runs cannot be otherwise; absent for a difference that should be looked at.
    pub inherent: Option<&'static str>,
}

/// Both modes of a scenario, compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tiers {
    /// Version of this document.
    pub version: u32,
    /// The scenario.
    pub scenario: String,
    /// Packets offered in both.
    pub offered: u64,
    /// What differs, in the order of the list.
    pub differences: Vec<Difference>,
}

impl Tiers {
    /// Whether nothing differs but what must.
    #[must_use]
    pub fn agree(&self) -> bool {
        self.differences.iter().all(|difference| difference.inherent.is_some())
    }
}

const REDIRECT: &str = "a test run says that a packet is redirected and does not send it";
const STACK: &str = "the kernel's stack takes no part in lockstep mode";
const CLOCK: &str = "the program reads the clock, and packets of a test run follow each other at another pace";
const ELSEWHERE: &str =
    "programs at hooks off the packets' way, and names of interfaces and namespaces, exist on the wire alone";
const ROUTED: &str = "the topology's own device changes addresses and TTL";

/// Runs `found` in both modes and compares; what was received is kept below `artefacts`.
///
/// # Errors
/// Those of a run.
pub fn compare(found: &Found, root: &Path, artefacts: &Path, stop: &AtomicBool) -> Result<Tiers, RunError> {
    let run = |mode: Mode| {
        let trial = Trial::new(found.clone(), root, mode);
        let unmet = trial.unmet();
        if !unmet.is_empty() {
            return Err(RunError::Unmet(unmet));
        }
        let folder = artefacts.join(mode.to_string());
        let document = trial.observe(&folder, stop, &mut |_| ())?.document;
        Ok((document, frames(&folder.join(RECEIVED))?))
    };
    let (lockstep, left) = run(Mode::Lockstep)?;
    let (wire, arrived) = run(Mode::Wire)?;
    let named = |setup: &Setup| setup.maps.values().any(|entries| entries.to_string().contains("\"@"));
    let names_places = found.scenario.programs.objects.iter().any(named);
    let reads_clock = found.scenario.programs.objects.iter().any(|setup| clock(&found.folder.join(&setup.object)));
    let why_packets = match wire.topology.as_deref() {
        _ if wire.observation.ledger.consumed_by.contains_key("local delivery") => Some(STACK),
        Some("bridge") => None,
        _ => Some(ROUTED),
    };
    let mut differences = ledgers(&lockstep.observation, &wire.observation);
    differences.extend(verdicts(&lockstep.observation, &wire.observation));
    differences.extend(objects(&lockstep.observation.objects, &wire.observation.objects, names_places, reads_clock));
    differences.extend(packets(left, arrived, why_packets));
    let offered = lockstep.observation.ledger.offered;
    Ok(Tiers { version: VERSION, scenario: found.name.clone(), offered, differences })
}

/// Numbers of the helpers that read a clock: `ktime_get_ns`, `ktime_get_boot_ns`, `ktime_get_coarse_ns`,
/// `ktime_get_tai_ns`, `jiffies64`.
const CLOCKS: [u32; 5] = [5, 125, 160, 208, 118];

fn clock(object: &Path) -> bool {
    let elf = std::fs::read(object).ok().and_then(|bytes| crate::object::elf::Elf::parse(&bytes).ok());
    elf.is_some_and(|elf| CLOCKS.iter().any(|helper| elf.needs.helpers.contains(helper)))
}

fn frames(path: &Path) -> Result<Vec<Vec<u8>>, RunError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let options = capture::Options { mtu: u32::from(u16::MAX), ..capture::Options::default() };
    let survey = Survey::of(path, &options)?;
    let frames = Frames::open(path, &options, &survey)?;
    Ok(frames.map(|frame| frame.map(|frame| frame.data)).collect::<Result<_, _>>()?)
}

fn ledgers(lockstep: &Observation, wire: &Observation) -> Vec<Difference> {
    let (one, other) = (&lockstep.ledger, &wire.ledger);
    let redirects = |observation: &Observation| observation.ledger.consumed_by.keys().any(|by| is_sent_on(by));
    let inherent = match () {
        () if other.dropped > 0 || other.generated > 0 || other.consumed_by.contains_key("local delivery") => {
            Some(STACK)
        }
        () if redirects(lockstep) || redirects(wire) => Some(REDIRECT),
        () => None,
    };
    let counts = [
        ("delivered", one.delivered, other.delivered),
        ("dropped", one.dropped, other.dropped),
        ("consumed", one.consumed, other.consumed),
        ("unaccounted", one.unaccounted, other.unaccounted),
        ("generated", one.generated, other.generated),
    ];
    let differ = counts.into_iter().filter(|(_, one, other)| one != other);
    differ
        .map(|(what, one, other)| Difference {
            kind: "ledger",
            what: what.to_owned(),
            lockstep: Some(one.to_string()),
            wire: Some(other.to_string()),
            inherent,
        })
        .collect()
}

/// Whether a verdict sends a packet somewhere.
fn is_sent_on(verdict: &str) -> bool {
    ["XDP_TX", "XDP_REDIRECT", "TC_ACT_REDIRECT"].iter().any(|name| verdict.starts_with(name))
}

/// Packets that programs ended, by verdict, program and flow.
fn verdicts(lockstep: &Observation, wire: &Observation) -> Vec<Difference> {
    let table = |observation: &Observation| -> BTreeMap<String, u64> {
        let ended = observation.drops.iter().filter(|drop| drop.class == DropClass::Verdict);
        ended.map(|drop| (format!("{} by {}: {}", drop.reason, drop.place, drop.flow), drop.packets)).collect()
    };
    let (one, other) = (table(lockstep), table(wire));
    let mut differences = tables("verdict", &one, &other, |_| None);
    for difference in &mut differences {
        difference.inherent = is_sent_on(&difference.what).then_some(REDIRECT);
    }
    differences
}

fn tables<V: PartialEq + ToString>(
    kind: &'static str,
    one: &BTreeMap<String, V>,
    other: &BTreeMap<String, V>,
    inherent: impl Fn(&str) -> Option<&'static str>,
) -> Vec<Difference> {
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let differ = names.into_iter().filter(|name| one.get(*name) != other.get(*name));
    differ
        .map(|name| Difference {
            kind,
            what: name.clone(),
            lockstep: one.get(name).map(V::to_string),
            wire: other.get(name).map(V::to_string),
            inherent: inherent(name),
        })
        .take(LISTED)
        .collect()
}

fn objects(lockstep: &[UnderTest], wire: &[UnderTest], names_places: bool, reads_clock: bool) -> Vec<Difference> {
    let mut differences = Vec::new();
    for (one, other) in lockstep.iter().zip(wire) {
        let off_path = other.programs.iter().any(|program| !is_on_path(&program.hook));
        let why = if off_path || names_places { Some(ELSEWHERE) } else { reads_clock.then_some(CLOCK) };
        for (map, same) in one.maps.iter().zip(&other.maps) {
            let name = format!("{}.{}", one.object, map.map);
            differences.extend(tables("map", &rows(&name, map), &rows(&name, same), |_| why));
        }
        for (ring, same) in one.events.iter().zip(&other.events) {
            differences.extend(events(&format!("{}.{}", one.object, ring.map), ring, same, why));
        }
    }
    differences
}

/// Whether packets meet the programs of a hook, as it is written, in both modes.
fn is_on_path(hook: &str) -> bool {
    let kind = hook.split(' ').next().unwrap_or_default().parse::<HookKind>();
    kind.is_ok_and(|kind| kind.is_on_path() || kind == HookKind::None)
}

fn rows(name: &str, map: &MapRows) -> BTreeMap<String, Value> {
    let key = |key: Option<&Value>, index: usize| key.map_or_else(|| index.to_string(), Value::to_string);
    let rows = map.rows.iter().enumerate();
    rows.map(|(index, row)| (format!("{name}[{}]", key(row.key.as_ref(), index)), row.value.clone())).collect()
}

fn events(name: &str, one: &EventRows, other: &EventRows, why: Option<&'static str>) -> Vec<Difference> {
    let text = |list: &EventRows, index: usize| list.events.get(index).map(Value::to_string);
    let longest = one.events.len().max(other.events.len());
    let differ = (0..longest).filter(|index| one.events.get(*index) != other.events.get(*index));
    differ
        .map(|index| Difference {
            kind: "events",
            what: format!("{name}[{index}]"),
            lockstep: text(one, index),
            wire: text(other, index),
            inherent: why,
        })
        .take(LISTED)
        .collect()
}

/// Packets that left in one mode and not in the other. Those that the other mode has as well, in whatever order, are the
/// same; of the rest the n-th of a class is compared with the n-th of that class.
fn packets(left: Vec<Vec<u8>>, arrived: Vec<Vec<u8>>, why: Option<&'static str>) -> Vec<Difference> {
    let mut counts: BTreeMap<&[u8], i64> = BTreeMap::new();
    left.iter().for_each(|frame| *counts.entry(frame).or_default() += 1);
    arrived.iter().for_each(|frame| *counts.entry(frame).or_default() -= 1);
    let rest = |frames: &'_ [Vec<u8>], sign: i64| -> BTreeMap<String, Vec<Vec<u8>>> {
        let mut counts = counts.clone();
        let mut rest: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for frame in frames {
            let count = counts.entry(frame).or_default();
            if *count * sign > 0 {
                *count -= sign;
                rest.entry(subject::class(frame)).or_default().push(frame.clone());
            }
        }
        rest
    };
    let (one, other) = (rest(&left, 1), rest(&arrived, -1));
    let classes: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let mut differences = Vec::new();
    for class in classes {
        let empty = Vec::new();
        let (one, other) = (one.get(class).unwrap_or(&empty), other.get(class).unwrap_or(&empty));
        for index in 0..one.len().max(other.len()) {
            differences.push(packet(class, index, one.get(index), other.get(index), why));
        }
    }
    differences.truncate(LISTED);
    differences
}

fn packet(
    class: &str,
    index: usize,
    one: Option<&Vec<u8>>,
    other: Option<&Vec<u8>>,
    why: Option<&'static str>,
) -> Difference {
    let fields = match (one, other) {
        (Some(one), Some(other)) => subject::changed_fields(one, other),
        _ => Vec::new(),
    };
    let side = |value: fn(&ChangedField) -> &Option<String>| {
        let parts = fields.iter().map(|field| format!("{}={}", field.field, value(field).as_deref().unwrap_or("-")));
        parts.collect::<Vec<_>>().join(" ")
    };
    let text = |frame: Option<&Vec<u8>>, side: String| {
        frame.map(|frame| if side.is_empty() { format!("{} bytes", frame.len()) } else { side })
    };
    Difference {
        kind: "packet",
        what: format!("{class} #{}", index + 1),
        lockstep: text(one, side(|field| &field.before)),
        wire: text(other, side(|field| &field.after)),
        inherent: why,
    }
}
