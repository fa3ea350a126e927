//! eBPF objects: the suite's own, embedded in this binary, and anybody's ELF; loading them, and saying why one
//! could not be loaded.

use std::os::fd::{AsFd as _, BorrowedFd};

use aya::maps::{Map, MapError};
use aya::programs::{Program, ProgramError, ProgramFd};
use aya::{Btf, Ebpf, EbpfError, EbpfLoader, Pod};
use bpflab_programs::stamp;

use self::store::Store;
use crate::kernel::{self, btf::BtfError};
use crate::sys::MappedArray;

pub mod cost;
pub mod elf;
pub mod section;
mod store;

pub(crate) use store::data as map_data;

/// Where the programs of an object take the time from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// The kernel's monotonic clock.
    #[default]
    Kernel,
    /// The lockstep runner's virtual clock: set before each packet.
    Virtual,
    /// The capture's time of each packet, carried in front of it through the wire.
    Capture,
}

impl Clock {
    const fn source(self) -> u32 {
        match self {
            Self::Kernel => stamp::CLOCK_KERNEL,
            Self::Virtual => stamp::CLOCK_MAP,
            Self::Capture => stamp::CLOCK_STAMP,
        }
    }
}

/// The suite's objects, compiled into this binary by `build.rs`.
pub mod suite {
    macro_rules! objects {
        ($($(#[$doc:meta])* $name:ident = $file:literal;)+) => {
            $($(#[$doc])* pub static $name: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/", $file));)+
        };
    }
    objects! {
        /// Per-flow accounting and malformed packets (XDP and tc).
        FLOWS = "flows";
        /// TCP connections as an observer sees them (tc, `inet_sock_set_state`).
        TCP_STATE = "tcp_state";
        /// Kernel drops with reason and place (`kfree_skb`).
        DROPS = "drops";
        /// What the kernel says of its TCP sockets (tracepoints).
        SOCKETS = "sockets";
        /// Packets' way through the receive path (tracepoints, kernel functions).
        LATENCY = "latency";
        /// DNS, HTTP/1.x and TLS messages (tc).
        PROTOCOLS = "protocols";
        /// The lab's own account of each packet in wire mode.
        LEDGER = "ledger";
        /// Sends frames from inside the kernel and counts what arrives (live frames).
        REPLAYER = "replayer";
        /// The shared parser alone.
        PARSER = "parser";
        /// An empty program and one that does a single map lookup: what the benchmarks compare with.
        BASELINE = "baseline";
        /// Programs that end packets in each way, for the lab's own tests.
        VERDICTS = "verdicts";
    }
}

/// A program that the verifier did not take.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct Refusal {
    /// Name of the object.
    pub object: String,
    /// Name of the program.
    pub program: String,
    /// Release of the running kernel.
    pub kernel: String,
    /// The last lines of the verifier's log, the register states cut short.
    pub tail: String,
    /// The whole log, for the artefacts of the run.
    pub log: String,
    /// The kernel's error.
    pub source: std::io::Error,
}

impl Refusal {
    /// The error about a program that the running kernel refused with this log.
    pub(crate) fn of(object: String, program: String, log: String, source: std::io::Error) -> ObjectError {
        let (kernel, tail) = (kernel::release(), last_lines(&log, 12));
        ObjectError::Refused(Box::new(Self { object, program, kernel, tail, log, source }))
    }
}

/// Why an object or one of its programs could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The ELF could not be read or its maps not be created.
    #[error("cannot load object {object}")]
    Object {
        /// Name of the object.
        object: String,
        /// What aya says.
        #[source]
        source: Box<EbpfError>,
    },
    /// The verifier refused a program.
    #[error("the verifier refused program {} of object {} on kernel {}\n{}", .0.program, .0.object, .0.kernel, .0.tail)]
    Refused(#[source] Box<Refusal>),
    /// The kernel's types could not be read, or lack a field that the object reads.
    #[error("cannot fit object {object} to the running kernel")]
    Types {
        /// Name of the object.
        object: String,
        /// What is missing.
        #[source]
        source: Box<BtfError>,
    },
    /// A program could not be loaded or attached for another reason.
    #[error("cannot {operation} program {program} of object {object}")]
    Program {
        /// `load` or `attach`, with where.
        operation: String,
        /// Name of the object.
        object: String,
        /// Name of the program.
        program: String,
        /// What aya says.
        #[source]
        source: Box<ProgramError>,
    },
    /// The object has no program or map of that name or kind.
    #[error("object {object} has no {what}")]
    Missing {
        /// Name of the object.
        object: String,
        /// What was looked for.
        what: String,
    },
    /// An object under test failed.
    #[error(transparent)]
    Subject(#[from] Box<crate::subject::SubjectError>),
    /// A map could not be read or written.
    #[error("cannot access map {map} of object {object}")]
    Map {
        /// Name of the object.
        object: String,
        /// Name of the map.
        map: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An object whose maps exist; its programs are loaded one by one.
#[derive(Debug)]
pub struct Object {
    name: String,
    /// The object as aya holds it.
    pub ebpf: Ebpf,
    clock: Option<MappedArray<u64>>,
    /// All its maps.
    stores: Vec<Store>,
}

/// What is set in an object before it is loaded.
#[derive(Default)]
pub struct LoadOptions<'a> {
    /// Time source of the suite's objects; ignored by objects without a `CLOCK_SOURCE`.
    pub clock: Clock,
    /// Read-only globals by name: their bytes (see [`crate::sys::bytes_of`]) and whether the object must have them.
    pub globals: Vec<(&'a str, &'a [u8], bool)>,
    /// Sizes of maps by name.
    pub max_entries: Vec<(&'a str, u32)>,
}

impl Object {
    /// Creates the maps of `elf` and relocates its programs; loads none of them.
    ///
    /// # Errors
    /// [`ObjectError::Object`].
    pub fn load(name: &str, elf: &[u8], options: &LoadOptions<'_>) -> Result<Self, ObjectError> {
        kernel::make_room_for_maps();
        let source = options.clock.source();
        let mut loader = EbpfLoader::new();
        // aya would parse the kernel's types anew for each object. An object that needs them and has none says so.
        loader.btf(kernel::aya_btf().ok());
        loader.override_global("CLOCK_SOURCE", &source, false);
        for (global, value, must_exist) in &options.globals {
            loader.override_global(global, *value, *must_exist);
        }
        for (map, entries) in &options.max_entries {
            loader.map_max_entries(map, *entries);
        }
        let ebpf = loader
            .load(elf)
            .map_err(|source| ObjectError::Object { object: name.to_owned(), source: Box::new(source) })?;
        let mut object = Self { name: name.to_owned(), ebpf, clock: None, stores: Vec::new() };
        for (map, data) in object.ebpf.maps() {
            object.stores.push(Store::of(map, data).map_err(|source| object.map_error(map, source))?);
        }
        if options.clock != Clock::Kernel && object.ebpf.map("CLOCK").is_some() {
            object.clock = Some(object.mapped("CLOCK", 1)?);
        }
        Ok(object)
    }

    /// The name given at load.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Empties all maps but rings, those that were taken out included: hash maps lose their elements, arrays are set to
    /// zeros. Read-only globals stay. No program of the object may be attached.
    ///
    /// # Errors
    /// [`ObjectError::Map`] for the first map that the kernel does not let empty, or of a type for which it is not known
    /// how; then the object is not as new.
    pub fn clear_maps(&self) -> Result<(), ObjectError> {
        let mut stores = self.stores.iter();
        stores.try_for_each(|store| store.clear().map_err(|source| self.map_error(&store.name, source)))
    }

    /// The descriptors of all maps by name, those that were taken out included.
    pub(crate) fn map_fds(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.stores.iter().map(|store| (store.name.as_str(), store.fd.as_fd()))
    }

    /// Sets the virtual time, ns since the UNIX epoch. Without effect on an object that has no clock.
    pub fn set_clock(&self, time_ns: u64) {
        if let Some(clock) = &self.clock {
            clock.set(0, time_ns);
        }
    }

    /// Maps a `BPF_F_MMAPABLE` array of this object into memory.
    ///
    /// # Errors
    /// [`ObjectError::Missing`] or [`ObjectError::Map`].
    pub fn mapped<T: Pod>(&self, map: &str, len: usize) -> Result<MappedArray<T>, ObjectError> {
        MappedArray::new(self.map_fd(map)?, len).map_err(|source| self.map_error(map, source))
    }

    /// A map in the form of one of aya's typed maps.
    ///
    /// # Errors
    /// [`ObjectError::Missing`], or [`ObjectError::Map`] where it is of another kind.
    pub fn typed_map<'a, T: TryFrom<&'a Map, Error = MapError>>(&'a self, map: &str) -> Result<T, ObjectError> {
        let found = self.ebpf.map(map).ok_or_else(|| self.missing(format!("map {map}")))?;
        T::try_from(found).map_err(|source| self.map_error(map, source))
    }

    /// The descriptor of a map.
    ///
    /// # Errors
    /// [`ObjectError::Missing`].
    pub fn map_fd(&self, map: &str) -> Result<BorrowedFd<'_>, ObjectError> {
        let mut maps = self.map_fds();
        maps.find(|(name, _)| *name == map).map(|(_, fd)| fd).ok_or_else(|| self.missing(format!("map {map}")))
    }

    /// Loads program `program` into the kernel; for a BTF tracepoint, fentry or fexit program, `tracing` names the
    /// tracepoint or function and the kernel's types. Loading twice is harmless.
    ///
    /// # Errors
    /// [`ObjectError::Refused`] with the verifier's log, [`ObjectError::Program`], [`ObjectError::Missing`].
    pub fn load_program(&mut self, program: &str, tracing: Option<(&str, &Btf)>) -> Result<ProgramFd, ObjectError> {
        let missing = self.missing(format!("program {program}"));
        let loaded = match (self.ebpf.program_mut(program), tracing) {
            (None, _) => return Err(missing),
            (Some(other), _) if other.fd().is_ok() => Ok(()),
            (Some(Program::Xdp(xdp)), _) => xdp.load(),
            (Some(Program::SchedClassifier(tc)), _) => tc.load(),
            (Some(Program::KProbe(probe)), _) => probe.load(),
            (Some(Program::BtfTracePoint(tp)), Some((target, btf))) => tp.load(target, btf),
            (Some(Program::FEntry(entry)), Some((target, btf))) => entry.load(target, btf),
            (Some(Program::FExit(exit)), Some((target, btf))) => exit.load(target, btf),
            (Some(_), _) => return Err(self.missing(format!("XDP, tc or tracing program {program}"))),
        };
        loaded.map_err(|source| self.program_error("load", program, source))?;
        self.program_fd(program)
    }

    /// Loads program `program` and attaches it to the BTF-typed raw tracepoint `tracepoint`, until this object is
    /// dropped.
    ///
    /// # Errors
    /// As [`Object::load_program`]; [`ObjectError::Types`] without BTF.
    pub fn attach_tracepoint(&mut self, program: &str, tracepoint: &str) -> Result<(), ObjectError> {
        match self.ebpf.program(program) {
            Some(Program::BtfTracePoint(_)) => self.attach_traced(program, tracepoint),
            _ => Err(self.missing(format!("BTF tracepoint program {program}"))),
        }
    }

    /// Loads program `program` and attaches it to the kernel's function `function` as the program's kind says (kprobe,
    /// kretprobe, fentry, fexit), until it is detached or this object is dropped. After an error, and once detached, it
    /// may be attached to another function.
    ///
    /// That it is attached does not mean that it fires: a function may live on in copies inlined elsewhere.
    ///
    /// # Errors
    /// As [`Object::load_program`]; [`ObjectError::Types`] without BTF, which kprobes do not need.
    pub fn attach_function(&mut self, program: &str, function: &str) -> Result<(), ObjectError> {
        match self.ebpf.program(program) {
            Some(Program::KProbe(_) | Program::FEntry(_) | Program::FExit(_)) => self.attach_traced(program, function),
            _ => Err(self.missing(format!("kprobe, fentry or fexit program {program}"))),
        }
    }

    /// Detaches a kprobe, fentry, fexit or BTF tracepoint program and takes it out of the kernel. Without effect on a
    /// program that is not loaded, or of another kind.
    pub fn detach(&mut self, program: &str) {
        // The only failure is that there is nothing to unload.
        let _ = match self.ebpf.program_mut(program) {
            Some(Program::KProbe(probe)) => probe.unload(),
            Some(Program::FEntry(entry)) => entry.unload(),
            Some(Program::FExit(exit)) => exit.unload(),
            Some(Program::BtfTracePoint(tp)) => tp.unload(),
            _ => Ok(()),
        };
    }

    fn attach_traced(&mut self, program: &str, target: &str) -> Result<(), ObjectError> {
        let is_kprobe = matches!(self.ebpf.program(program), Some(Program::KProbe(_)));
        let types = |source| ObjectError::Types { object: self.name.clone(), source: Box::new(source) };
        let tracing = if is_kprobe { None } else { Some((target, kernel::aya_btf().map_err(types)?)) };
        let loaded = self.load_program(program, tracing);
        let attached = loaded.and_then(|_| {
            let attached = match self.ebpf.program_mut(program) {
                Some(Program::KProbe(probe)) => probe.attach(target, 0).map(|_link| ()),
                Some(Program::FEntry(entry)) => entry.attach().map(|_link| ()),
                Some(Program::FExit(exit)) => exit.attach().map(|_link| ()),
                Some(Program::BtfTracePoint(tp)) => tp.attach().map(|_link| ()),
                _ => Ok(()),
            };
            attached.map_err(|source| self.program_error(&format!("attach to {target}"), program, source))
        });
        if attached.is_err() {
            // A BTF-typed program is loaded for one target: for another it must be loaded anew.
            self.detach(program);
        }
        attached
    }

    /// The descriptor of a loaded program.
    ///
    /// # Errors
    /// [`ObjectError::Missing`], [`ObjectError::Program`] if it is not loaded.
    pub fn program_fd(&self, program: &str) -> Result<ProgramFd, ObjectError> {
        let loaded = self.ebpf.program(program).ok_or_else(|| self.missing(format!("program {program}")))?;
        loaded.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(|source| self.program_error("use", program, source))
    }

    /// An error about `map`.
    pub fn map_error(&self, map: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ObjectError {
        ObjectError::Map { object: self.name.clone(), map: map.to_owned(), source: source.into() }
    }

    /// An error about something the object lacks.
    #[must_use]
    pub fn missing(&self, what: String) -> ObjectError {
        ObjectError::Missing { object: self.name.clone(), what }
    }

    /// An error about `program`; a refusal of the verifier keeps its log.
    pub fn program_error(&self, operation: &str, program: &str, source: ProgramError) -> ObjectError {
        let (object, program) = (self.name.clone(), program.to_owned());
        match source {
            ProgramError::LoadError { io_error, verifier_log } => {
                Refusal::of(object, program, verifier_log.to_string(), io_error)
            }
            source => {
                ObjectError::Program { operation: operation.to_owned(), object, program, source: Box::new(source) }
            }
        }
    }
}

impl crate::suite::Programs for Object {
    fn object_name(&self) -> &str {
        &self.name
    }

    fn load(&mut self, program: &str, target: Option<&str>) -> Result<crate::suite::Loaded, ObjectError> {
        let types = |source| ObjectError::Types { object: self.name.clone(), source: Box::new(source) };
        let tracing = match target {
            Some(target) => Some((target, kernel::aya_btf().map_err(types)?)),
            None => None,
        };
        let loaded = self.load_program(program, tracing)?;
        let kind = match self.ebpf.program(program) {
            Some(Program::Xdp(_)) => "xdp",
            Some(Program::SchedClassifier(_)) => "tc",
            Some(Program::BtfTracePoint(_)) => "tp_btf",
            Some(Program::FEntry(_)) => "fentry",
            Some(Program::FExit(_)) => "fexit",
            _ => "kprobe",
        };
        let copied = loaded.as_fd().try_clone_to_owned();
        let fd = copied.map_err(|source| self.program_error("use", program, ProgramError::IOError(source)))?;
        // None of the suite's programs is for a control group, where alone this matters.
        Ok(crate::suite::Loaded { fd, kind, attach: 0 })
    }
}

/// The last `count` lines of a verifier log, which end with what is wrong and the verifier's statistics. A line of
/// register states may have thousands of characters: the beginning names the instruction.
pub(crate) fn last_lines(log: &str, count: usize) -> String {
    const WIDTH: usize = 160;
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines.iter().skip(lines.len().saturating_sub(count));
    last.map(|line| line.chars().take(WIDTH).collect::<String>()).collect::<Vec<_>>().join("\n")
}
