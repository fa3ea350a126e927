//! An object under test in a run: its programs attached, its maps filled before and read after, its events taken in.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::packets::Packets;
use super::place;
use super::{Loader, Subject, SubjectError, SubjectOptions};
use crate::coverage::{Counting, ProgramCoverage};
use crate::hook::{Hook, HookKind};
use crate::kernel::tracefs::Printed;
use crate::object::elf::Elf;
use crate::object::{Clock, ObjectError};
use crate::observation::{Observation, ProgramSeen, UnderTest, VerdictCount};
use crate::rows::{Aliases, DEFAULT_PAGES, Hints, MapRows, ReadOptions, Source, TypedEvents, TypedMap, encode_global};
use crate::suite::{Attach, Loaded, Observer, Programs, WatchedHost};
use crate::sys::{self, MapHandle, map_kind};

/// What a scenario says of an object under test.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// The object file.
    pub object: PathBuf,
    /// Its programs and where they are attached, in the order they run. Left out, every program whose section says where
    /// it belongs is attached there.
    #[serde(default)]
    pub attach: Vec<AttachSetup>,
    /// Global variables and their values before anything runs.
    #[serde(default)]
    pub globals: BTreeMap<String, Value>,
    /// Entries of maps before anything runs: a table from key to value, or a list of `{ key, value }`. In wire mode
    /// `"@HOST"` stands for the inode number of a host's network namespace and `"@HOST.INTERFACE"` for the index of an
    /// interface; entries that have one are left out in lockstep mode, which has neither.
    #[serde(default)]
    pub maps: BTreeMap<String, Value>,
    /// Sizes of maps, elements.
    #[serde(default)]
    pub max_entries: BTreeMap<String, u32>,
    /// How maps and events are shown, by their names.
    #[serde(default)]
    pub rows: BTreeMap<String, Hints>,
    /// Maps that are not shown.
    #[serde(default)]
    pub omit: Vec<String>,
    /// The library that makes the maps; by default the first that takes the object.
    pub loader: Option<Loader>,
    /// Whether the kernel counts runs and time of the programs, and what programs print is kept: for a look, not for a
    /// test, since both speak of the machine.
    #[serde(skip)]
    pub look: bool,
    /// Whether it is counted which instructions and lines are reached.
    #[serde(skip)]
    pub coverage: bool,
}

/// One program of an object under test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachSetup {
    /// Its name.
    pub program: String,
    /// The kind of hook; what its section says if left out.
    pub hook: Option<HookKind>,
    /// Where: `HOST` or `HOST.INTERFACE`, a tracepoint, a function, `path:symbol`; what its section says if left out.
    pub at: Option<String>,
    /// Programs of one hook run in the order of this number, lowest first, and where it is the same in that of the list.
    #[serde(default)]
    pub priority: i32,
}

/// A map entry that is known only once the network stands.
#[derive(Debug)]
enum Late {
    /// An interface, `HOST.INTERFACE`, in a device map.
    Device { map: String, key: Value, interface: String },
    /// One that names places.
    Places { map: String, key: Option<Value>, value: Value },
}

/// An object under test that takes part in a run.
#[derive(Debug)]
pub struct SubjectObserver {
    subject: Subject,
    setup: Setup,
    attaches: Vec<Attach>,
    events: Vec<TypedEvents>,
    /// How many of the events of each are no news any more.
    told: Vec<usize>,
    late: Vec<Late>,
    packets: Packets,
    /// Held while the kernel counts.
    statistics: Option<OwnedFd>,
    printed: Option<Printed>,
    notes: Vec<String>,
}

impl SubjectObserver {
    /// Makes the object's maps, sets its globals and fills its maps as `setup` says. Loads no program but those that maps
    /// hold.
    ///
    /// # Errors
    /// [`SubjectError`]; a program, map, global, entry or hint that does not fit the object.
    pub fn new(setup: &Setup, bytes: &[u8], name: &str, clock: Clock) -> Result<Self, SubjectError> {
        let elf = super::parse(name, bytes)?;
        let attaches = attaches(name, setup, &elf)?;
        let options = SubjectOptions {
            loader: setup.loader,
            globals: globals(name, setup, &elf)?,
            max_entries: setup.max_entries.iter().map(|(map, entries)| (map.clone(), *entries)).collect(),
            programs: wanted(&attaches, setup, &elf),
            virtual_clock: clock == Clock::Virtual,
            // Runs of test-run follow each other; on the wire they may overlap.
            coverage: setup.coverage.then_some(match clock {
                Clock::Virtual => Counting::Plain,
                _ => Counting::Atomic,
            }),
        };
        let subject = Subject::from_elf(name, bytes, elf, &options)?;
        Self::with_subject(subject, setup, attaches)
    }

    fn with_subject(subject: Subject, setup: &Setup, attaches: Vec<Attach>) -> Result<Self, SubjectError> {
        let known = |name: &String| subject.maps().iter().any(|map| map.name == *name);
        for name in setup.rows.keys().chain(&setup.omit).chain(setup.maps.keys()) {
            if !known(name) {
                return Err(subject.missing("map", name, subject.maps().iter().map(|map| map.name.clone()).collect()));
            }
        }
        let mut observer = Self {
            subject,
            setup: setup.clone(),
            attaches,
            events: Vec::new(),
            told: Vec::new(),
            late: Vec::new(),
            packets: Packets::default(),
            statistics: None,
            printed: None,
            notes: Vec::new(),
        };
        observer.look();
        observer.events = observer.open_events()?;
        observer.told = vec![0; observer.events.len()];
        observer.fill()?;
        Ok(observer)
    }

    fn look(&mut self) {
        if !self.setup.look {
            return;
        }
        match sys::enable_statistics() {
            Ok(held) => self.statistics = Some(held),
            Err(error) => {
                self.notes.push(format!("runs and their time are not known: the kernel does not count: {error}"))
            }
        }
        match Printed::listen() {
            Ok(printed) => self.printed = Some(printed),
            Err(error) => self.notes.push(format!("what programs print is not known: no tracer: {error}")),
        }
    }

    fn seen(&self, attach: &Attach, verdicts: &mut BTreeMap<String, Vec<VerdictCount>>) -> ProgramSeen {
        let loaded = self.subject.loaded().find(|(name, _)| *name == attach.program);
        let counted = loaded.filter(|_| self.statistics.is_some());
        // A program that another calls, as the lab's own calls XDP programs on the wire, is not counted by the kernel.
        let counted =
            counted.and_then(|(_, program)| sys::program_runs(program.as_fd()).ok()).filter(|(runs, _)| *runs > 0);
        ProgramSeen {
            program: attach.program.clone(),
            hook: attach.hook.to_string(),
            verdicts: verdicts.remove(&attach.program).unwrap_or_default(),
            runs: counted.map(|(runs, _)| runs),
            mean_ns: counted.and_then(|(runs, ns)| ns.checked_div(runs)),
        }
    }

    /// The object.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    fn hints(&self, map: &str) -> Hints {
        self.setup.rows.get(map).cloned().unwrap_or_default()
    }

    fn shown(&self, map: &str) -> bool {
        !self.setup.omit.iter().any(|omitted| omitted == map)
    }

    fn source<'a>(&'a self, map: &'a str) -> Source<'a> {
        Source { name: map, object: self.subject.elf().btf.as_ref(), offsets: Some(self.subject.offsets()) }
    }

    fn open_events(&self) -> Result<Vec<TypedEvents>, SubjectError> {
        let mut events = Vec::new();
        for map in self.subject.maps().iter().filter(|map| self.shown(&map.name)) {
            if is_ring(&map.handle) {
                let opened =
                    TypedEvents::open(map.handle.fd(), self.source(&map.name), &self.hints(&map.name), DEFAULT_PAGES);
                events.push(opened.map_err(|error| self.subject.map_error(&map.name, error))?);
            }
        }
        Ok(events)
    }

    /// Writes the entries that the scenario gives.
    fn fill(&mut self) -> Result<(), SubjectError> {
        for (map, entries) in self.setup.maps.clone() {
            let handle = self.subject.map(&map)?;
            let kind = handle.info().kind;
            let typed = TypedMap::open(handle.fd(), self.source(&map), &self.hints(&map))
                .map_err(|error| self.subject.map_error(&map, error))?;
            for (key, value) in pairs(&self.subject, &map, &entries)? {
                if key.as_ref().is_some_and(place::is_in) || place::is_in(&value) {
                    self.late.push(Late::Places { map: map.clone(), key, value });
                    continue;
                }
                match kind {
                    map_kind::PROG_ARRAY => self.put_program(&map, key.as_ref(), &value)?,
                    map_kind::DEVMAP | map_kind::DEVMAP_HASH if value.is_string() => self.late.push(Late::Device {
                        map: map.clone(),
                        key: key.unwrap_or_default(),
                        interface: value.as_str().unwrap_or_default().to_owned(),
                    }),
                    map_kind::ARRAY_OF_MAPS | map_kind::HASH_OF_MAPS => self.put_inner(&typed, key.as_ref(), &value)?,
                    _ => typed.set(key.as_ref(), &value).map_err(|error| self.subject.map_error(&map, error))?,
                }
            }
        }
        Ok(())
    }

    fn fill_late(&self, late: &Late, hosts: &[WatchedHost]) -> Result<(), SubjectError> {
        match late {
            Late::Device { map, key, interface } => {
                let wrong = |what: String| self.subject.map_error(map, what);
                let ifindex = place::number(interface, hosts).map_err(wrong)?;
                let set = super::maps::set_interface(self.subject.map(map)?, key, ifindex);
                set.map_err(|source| self.subject.map_error(map, source))
            }
            Late::Places { map, key, value } => {
                let wrong = |what: String| self.subject.map_error(map, what);
                let resolved = |part: &Value| place::resolve(part, hosts).map_err(wrong);
                let (key, value) = (key.as_ref().map(resolved).transpose()?, resolved(value)?);
                let handle = self.subject.map(map)?;
                let typed = TypedMap::open(handle.fd(), self.source(map), &self.hints(map));
                let typed = typed.map_err(|error| self.subject.map_error(map, error))?;
                typed.set(key.as_ref(), &value).map_err(|error| self.subject.map_error(map, error))
            }
        }
    }

    fn put_program(&mut self, map: &str, slot: Option<&Value>, program: &Value) -> Result<(), SubjectError> {
        let wrong = |what: &str| self.subject.map_error(map, what.to_owned());
        let slot = slot.and_then(index).ok_or_else(|| wrong("a slot of an array of programs is a number"))?;
        let program =
            program.as_str().ok_or_else(|| wrong("an element of an array of programs is a program's name"))?;
        let loaded = self.subject.load_program(program, None)?;
        self.subject.set_program(map, slot, &loaded)
    }

    /// Entries of an inner map: one that the object put there, or a new one like it.
    fn put_inner(&mut self, typed: &TypedMap, key: Option<&Value>, entries: &Value) -> Result<(), SubjectError> {
        let map = typed.name();
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| self.subject.map_error(map, error);
        let key = key.ok_or_else(|| failed("an element of a map of maps has a key".into()))?;
        let outer = self.subject.map(map)?;
        let key = super::maps::encode_key(outer, self.source(map), key).map_err(failed)?;
        let inner = super::maps::inner(outer, &key, self.source(map), self.subject.loaded_types()).map_err(failed)?;
        let typed = typed.inner(inner.fd()).map_err(|error| failed(error.into()))?;
        for (key, value) in pairs(&self.subject, map, entries)? {
            typed.set(key.as_ref(), &value).map_err(|error| failed(error.into()))?;
        }
        Ok(())
    }

    fn maps(&self, aliases: &mut Aliases) -> Result<Vec<MapRows>, SubjectError> {
        let mut all = Vec::new();
        for map in self.subject.maps() {
            // Constants are the object's, and the scenario's; what a section of them says is no observation.
            let constant = map.name.starts_with(".rodata") || map.name == ".kconfig";
            let asked = self.setup.rows.contains_key(&map.name);
            if is_ring(&map.handle) || !self.shown(&map.name) || (constant && !asked) {
                continue;
            }
            let failed = |error| self.subject.map_error(&map.name, error);
            let typed = TypedMap::open(map.handle.fd(), self.source(&map.name), &self.hints(&map.name));
            all.push(typed.map_err(failed)?.read(ReadOptions { pop: true }, aliases).map_err(failed)?);
        }
        all.sort_by(|one, other| one.map.cmp(&other.map));
        Ok(all)
    }
}

fn is_ring(map: &MapHandle) -> bool {
    matches!(map.info().kind, map_kind::RINGBUF | map_kind::PERF_EVENT_ARRAY)
}

/// A number, also as the text that a key of a TOML table is.
pub(super) fn index(value: &Value) -> Option<u32> {
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    number.and_then(|number| u32::try_from(number).ok())
}

/// Keys and values of entries: a table from key to value, or a list of `{ key, value }`, or of values alone.
fn pairs(subject: &Subject, map: &str, entries: &Value) -> Result<Vec<(Option<Value>, Value)>, SubjectError> {
    let wrong = |what: &str| subject.map_error(map, what.to_owned());
    match entries {
        Value::Object(table) => {
            Ok(table.iter().map(|(key, value)| (Some(Value::String(key.clone())), value.clone())).collect())
        }
        Value::Array(list) => list
            .iter()
            .map(|entry| match entry {
                Value::Object(table)
                    if table.contains_key("value") && table.keys().all(|key| key == "key" || key == "value") =>
                {
                    Ok((table.get("key").cloned(), table["value"].clone()))
                }
                _ => Err(wrong("an entry is { key = ..., value = ... }")),
            })
            .collect(),
        _ => Err(wrong("entries are a table from key to value, or a list of { key, value }")),
    }
}

fn globals(object: &str, setup: &Setup, elf: &Elf) -> Result<Vec<(String, Vec<u8>)>, SubjectError> {
    let mut globals = Vec::new();
    for (name, value) in &setup.globals {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| SubjectError::Global {
            object: object.to_owned(),
            global: name.clone(),
            source,
        };
        let Some(global) = elf.globals.iter().find(|global| global.name == *name) else {
            let known = elf.globals.iter().map(|global| global.name.clone()).collect();
            return Err(super::missing(object, "global variable", name, known));
        };
        let bytes = match &elf.btf {
            Some(btf) => encode_global(btf, name, value).map_err(|error| failed(error.into()))?,
            None => super::maps::number(value, global.size).map_err(failed)?,
        };
        globals.push((name.clone(), bytes));
    }
    Ok(globals)
}

/// Where each program goes.
fn attaches(object: &str, setup: &Setup, elf: &Elf) -> Result<Vec<Attach>, SubjectError> {
    let mut chosen: Vec<AttachSetup> = setup.attach.clone();
    if chosen.is_empty() {
        let by_section = elf.programs.iter().filter(|program| {
            let section = program.kind().ok();
            let hook = section.as_ref().and_then(|section| HookKind::of_program(&section.kind, &program.section));
            // Without a place in its section's name such a program belongs nowhere yet.
            hook.is_some_and(|hook| {
                hook.is_on_path()
                    || matches!(
                        hook,
                        HookKind::Cgroup | HookKind::SkLookup | HookKind::SocketFilter | HookKind::FlowDissector
                    )
                    || section.is_some_and(|section| section.target.is_some())
            })
        });
        chosen =
            by_section.map(|program| AttachSetup { program: program.name.clone(), ..AttachSetup::default() }).collect();
        if chosen.is_empty() {
            // A run of nothing would look like one in which nothing happened.
            let programs = elf.programs.iter().map(|program| format!("{} ({})", program.name, program.section));
            return Err(SubjectError::Nowhere { object: object.to_owned(), programs: programs.collect() });
        }
    }
    chosen.sort_by_key(|attach| attach.priority);
    chosen.into_iter().map(|attach| placed(object, elf, attach)).collect()
}

fn placed(object: &str, elf: &Elf, attach: AttachSetup) -> Result<Attach, SubjectError> {
    let Some(program) = elf.program(&attach.program) else {
        let known = elf.programs.iter().map(|program| program.name.clone()).collect();
        return Err(super::missing(object, "program", &attach.program, known));
    };
    let section = program.kind().map_err(|source| SubjectError::Section {
        object: object.to_owned(),
        program: program.name.clone(),
        source,
    })?;
    let by_section = HookKind::of_program(&section.kind, &program.section);
    let unhooked =
        |reason: String| SubjectError::Hook { object: object.to_owned(), program: program.name.clone(), reason };
    let kind = attach.hook.or(by_section).ok_or_else(|| {
        unhooked(format!(
            "programs of section {} are not attached by the lab; hook = \"none\" loads it",
            program.section
        ))
    })?;
    if kind != HookKind::None && !kind.takes().contains(&section.kind.name) {
        return Err(unhooked(format!("hook {kind} takes no program of section {}", program.section)));
    }
    let at = attach.at.or_else(|| section.target.map(str::to_owned));
    Ok(Attach { program: attach.program, hook: Hook { kind, at } })
}

/// The programs that matter: those attached and those that maps hold. Others may lack what they need of this kernel.
fn wanted(attaches: &[Attach], setup: &Setup, elf: &Elf) -> Vec<String> {
    let mut names: Vec<String> = attaches.iter().map(|attach| attach.program.clone()).collect();
    let filled = elf.maps.iter().filter(|map| map.kind == Some(map_kind::PROG_ARRAY)).flat_map(|map| &map.values);
    names.extend(filled.map(|(_, program)| program.clone()));
    for map in elf.maps.iter().filter(|map| map.kind == Some(map_kind::PROG_ARRAY)) {
        let entries = setup.maps.get(&map.name);
        let texts = |value: &Value| -> Vec<String> {
            match value {
                Value::Object(table) => table.values().filter_map(Value::as_str).map(str::to_owned).collect(),
                Value::Array(list) => {
                    list.iter().filter_map(|entry| entry.get("value")?.as_str()).map(str::to_owned).collect()
                }
                _ => Vec::new(),
            }
        };
        names.extend(entries.map(texts).unwrap_or_default());
    }
    names.retain(|name| elf.program(name).is_some());
    names.sort();
    names.dedup();
    names
}

impl Programs for Subject {
    fn object_name(&self) -> &str {
        self.name()
    }

    fn load(&mut self, program: &str, target: Option<&str>) -> Result<Loaded, ObjectError> {
        let loaded = self.load_program(program, target).map_err(Box::new)?;
        let fd = loaded.as_fd().try_clone_to_owned().map_err(|source| ObjectError::Map {
            object: self.name().to_owned(),
            map: format!("(descriptor of program {program})"),
            source: Box::new(source),
        })?;
        Ok(Loaded { fd, kind: loaded.kind.name, attach: loaded.kind.attach })
    }
}

impl Observer for SubjectObserver {
    fn attaches(&self) -> Vec<Attach> {
        self.attaches.clone()
    }

    fn programs(&mut self) -> &mut dyn Programs {
        &mut self.subject
    }

    fn set_clock(&self, time_ns: u64) {
        self.subject.set_clock(time_ns);
    }

    fn coverage(&self) -> Vec<Result<ProgramCoverage, String>> {
        let named = |(program, covered): (&str, Result<ProgramCoverage, String>)| {
            covered.map_err(|why| format!("program {program} of object {} is not covered: {why}", self.subject.name()))
        };
        self.subject.coverage().map(named).collect()
    }

    fn changes_packets(&self) -> bool {
        true
    }

    fn packet(&mut self, program: &str, verdict: &'static str, before: (u64, &[u8]), after: &[u8]) {
        self.packets.saw(program, verdict, before, after);
    }

    fn news(&mut self) -> Vec<String> {
        let mut news = Vec::new();
        for (events, told) in self.events.iter().zip(&mut self.told) {
            let (name, all) = (format!("{}.{}", self.subject.name(), events.map()), events.pending());
            news.extend(all.iter().skip(*told).map(|event| format!("{name} {event}")));
            *told = all.len();
        }
        let printed = self.printed.as_mut().map(Printed::news).unwrap_or_default();
        news.extend(printed.into_iter().map(|line| format!("{} printed: {line}", self.subject.name())));
        news
    }

    fn watch(&mut self, hosts: &[WatchedHost]) -> Result<(), ObjectError> {
        for late in &self.late {
            self.fill_late(late, hosts).map_err(Box::new)?;
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), ObjectError> {
        Err(ObjectError::Missing { object: self.subject.name().to_owned(), what: "way to be used twice".to_owned() })
    }

    fn drain(&mut self) -> Result<(), ObjectError> {
        self.events.iter_mut().for_each(|events| {
            events.drain();
        });
        self.printed.iter_mut().for_each(Printed::drain);
        Ok(())
    }

    fn finish(&mut self, _start_ns: u64, observation: &mut Observation) -> Result<(), ObjectError> {
        self.drain()?;
        let mut aliases = Aliases::default();
        let maps = self.maps(&mut aliases).map_err(Box::new)?;
        let events: Vec<_> = self.events.drain(..).map(|events| events.finish(&mut aliases)).collect();
        for lost in &events {
            if let Some(count) = lost.lost.filter(|count| *count > 0) {
                observation.losses.insert(format!("{}.{}", self.subject.name(), lost.map), count);
            }
        }
        let packets = std::mem::take(&mut self.packets);
        let (mut verdicts, changes) = packets.finish();
        let programs = self.attaches.iter().map(|attach| self.seen(attach, &mut verdicts)).collect();
        observation.objects.push(UnderTest {
            object: self.subject.name().to_owned(),
            loader: self.subject.loader().to_string(),
            programs,
            changes,
            maps,
            events,
            printed: self.printed.take().map(Printed::finish).unwrap_or_default(),
            notes: std::mem::take(&mut self.notes),
        });
        Ok(())
    }
}
