//! Objects under test: an ELF file that the lab loads, or whatever the test has loaded itself.

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd as _, BorrowedFd};

use aya::programs::cgroup_skb::CgroupSkbAttachType;
use aya::programs::{ProbeKind, Program, ProgramError};
use aya::{Btf as AyaBtf, Ebpf};

use super::packet::{self, Packet, PacketRun};
use super::{Events, LabError, Table};
use crate::object::ObjectError;
use crate::object::elf::Elf;
use crate::rows::{Hints, Source};
use crate::subject::{Subject, SubjectError};
use crate::suite::{Loaded, Programs};
use crate::{kernel, object, sys};

/// An object whose programs can be attached and run and whose maps can be read: a [`Subject`], an [`aya::Ebpf`], or
/// anything else that has descriptors, once this trait and [`Programs`] are implemented for it.
pub trait EbpfObject: Programs {
    /// Its maps by name.
    fn maps_by_name(&self) -> Vec<(String, BorrowedFd<'_>)>;

    /// What is known of a map beside its descriptor. Without the object's own types those that the kernel has are
    /// used, which maps declared by BTF have and the events of rings have not.
    fn source<'a>(&'a self, map: &'a str) -> Source<'a> {
        Source { name: map, ..Source::default() }
    }

    /// Opens a map by its types.
    ///
    /// # Errors
    /// [`LabError::Subject`] for a name that the object does not have, [`LabError::Map`].
    fn typed_map(&self, map: &str) -> Result<Table, LabError> {
        self.typed_map_with(map, &Hints::default())
    }

    /// As [`EbpfObject::typed_map`], with formats, order, names and limits as in the `rows` of a scenario.
    ///
    /// # Errors
    /// As [`EbpfObject::typed_map`]; [`LabError::Map`] for a hint that does not fit the map.
    fn typed_map_with(&self, map: &str, hints: &Hints) -> Result<Table, LabError> {
        Table::open(self.object_name(), find(self, map)?, self.source(map), hints)
    }

    /// A map as one of aya's own types (`HashMap<_, u32, Stats>`, `PerCpuArray`, ...), for keys and values that are Rust
    /// structs: `let map: HashMap<_, u32, u64> = object.aya_map("COUNTS")?`. The types' sizes are checked, their
    /// layout is the test's affair.
    ///
    /// # Errors
    /// As [`EbpfObject::typed_map`]; [`LabError::Map`] for a map of another kind or of other sizes.
    fn aya_map<T>(&self, map: &str) -> Result<T, LabError>
    where
        Self: Sized,
        T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
    {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| LabError::map(self.object_name(), map, source);
        let fd = find(self, map)?.try_clone_to_owned().map_err(|error| failed(error.into()))?;
        let data = aya::maps::MapData::from_fd(fd).map_err(|error| failed(error.into()))?;
        let data = aya::maps::Map::from_map_data(data).map_err(|error| failed(error.into()))?;
        T::try_from(data).map_err(|error| failed(error.into()))
    }

    /// Opens a ring buffer or perf event array. A ring has one reader: open it once, and not where [`super::Lab::observe`]
    /// reads it already. A perf event array is heard from here on.
    ///
    /// # Errors
    /// As [`EbpfObject::typed_map`].
    fn events(&self, map: &str) -> Result<Events, LabError> {
        self.events_with(map, &Hints::default())
    }

    /// As [`EbpfObject::events`], with hints: `event = "struct name"` is the type of the events where the object does
    /// not say it.
    ///
    /// # Errors
    /// As [`EbpfObject::typed_map_with`].
    fn events_with(&self, map: &str, hints: &Hints) -> Result<Events, LabError> {
        Events::open(self.object_name(), find(self, map)?, self.source(map), hints)
    }

    /// Runs one program over one packet by `BPF_PROG_TEST_RUN` and tells the verdict, the packet as the program left it
    /// and what changed in the object's maps. Nothing is attached or sent, and a redirect goes nowhere. Other programs
    /// of the object must not run meanwhile, or their changes are told as well.
    ///
    /// # Errors
    /// [`LabError::Object`] for a program that does not exist or that the verifier refuses,
    /// [`LabError::NoPacketProgram`], [`LabError::Packet`], [`LabError::Map`].
    fn run_packet(&mut self, program: &str, packet: impl Into<Packet>) -> Result<PacketRun, LabError>
    where
        Self: Sized,
    {
        packet::run(self, program, &packet.into())
    }
}

/// The descriptor of a map.
fn find<'a, O: EbpfObject + ?Sized>(object: &'a O, map: &str) -> Result<BorrowedFd<'a>, LabError> {
    let maps = object.maps_by_name();
    if let Some((_, fd)) = maps.iter().find(|(name, _)| name == map) {
        return Ok(*fd);
    }
    let known = maps.into_iter().map(|(name, _)| name).collect();
    Err(crate::subject::missing(object.object_name(), "map", map, known).into())
}

impl EbpfObject for Subject {
    fn maps_by_name(&self) -> Vec<(String, BorrowedFd<'_>)> {
        self.maps().iter().map(|map| (map.name.clone(), map.handle.fd())).collect()
    }

    fn source<'a>(&'a self, map: &'a str) -> Source<'a> {
        Source { name: map, object: self.elf().btf.as_ref(), offsets: Some(self.offsets()) }
    }
}

impl EbpfObject for Ebpf {
    fn maps_by_name(&self) -> Vec<(String, BorrowedFd<'_>)> {
        self.maps().map(|(name, map)| (name.to_owned(), object::map_data(map).fd().as_fd())).collect()
    }
}

/// The test has given it no name; with [`NamedEbpf`] it has one.
impl Programs for Ebpf {
    fn object_name(&self) -> &str {
        "ebpf"
    }

    fn load(&mut self, program: &str, target: Option<&str>) -> Result<Loaded, ObjectError> {
        load(self, "ebpf", program, target)
    }
}

/// An [`aya::Ebpf`] with a name for messages and snapshots, and with the types of its ELF file, by which the events of its
/// rings and the maps that the kernel has no types for are read. It is used like the `Ebpf` inside.
#[derive(Debug)]
pub struct NamedEbpf {
    ebpf: Ebpf,
    name: String,
    elf: Elf,
}

impl NamedEbpf {
    /// Puts a name and the bytes of the ELF file beside what aya made of it.
    ///
    /// # Errors
    /// [`LabError::Subject`] if `elf` is no eBPF object.
    pub fn new(name: &str, elf: &[u8], ebpf: Ebpf) -> Result<Self, LabError> {
        let elf = Elf::parse(elf).map_err(|source| SubjectError::Elf { object: name.to_owned(), source })?;
        Ok(Self { ebpf, name: name.to_owned(), elf })
    }

    /// Loads an ELF file by aya with its default settings, and the running kernel's types.
    ///
    /// # Errors
    /// As [`NamedEbpf::new`]; [`LabError::Object`] if aya does not take it.
    pub fn load(name: &str, elf: &[u8]) -> Result<Self, LabError> {
        kernel::make_room_for_maps();
        let mut loader = aya::EbpfLoader::new();
        // aya would read the kernel's types anew for each object; one that needs them and has none says so.
        let loaded = loader.btf(kernel::aya_btf().ok()).load(elf);
        let failed = |source| ObjectError::Object { object: name.to_owned(), source: Box::new(source) };
        Self::new(name, elf, loaded.map_err(failed)?)
    }
}

impl Deref for NamedEbpf {
    type Target = Ebpf;

    fn deref(&self) -> &Ebpf {
        &self.ebpf
    }
}

impl DerefMut for NamedEbpf {
    fn deref_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

impl Programs for NamedEbpf {
    fn object_name(&self) -> &str {
        &self.name
    }

    fn load(&mut self, program: &str, target: Option<&str>) -> Result<Loaded, ObjectError> {
        load(&mut self.ebpf, &self.name, program, target)
    }
}

impl EbpfObject for NamedEbpf {
    fn maps_by_name(&self) -> Vec<(String, BorrowedFd<'_>)> {
        self.ebpf.maps_by_name()
    }

    fn source<'a>(&'a self, map: &'a str) -> Source<'a> {
        Source { name: map, object: self.elf.btf.as_ref(), offsets: None }
    }
}

/// Loads a program of an `Ebpf`, unless the test has done so, by the method of its kind.
fn load(ebpf: &mut Ebpf, object: &str, program: &str, target: Option<&str>) -> Result<Loaded, ObjectError> {
    let Some(found) = ebpf.program_mut(program) else {
        let known = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
        return Err(Box::new(crate::subject::missing(object, "program", program, known)).into());
    };
    let error = |source| program_error(object, program, source);
    if found.fd().is_err() {
        let typed = matches!(found, Program::BtfTracePoint(_) | Program::FEntry(_) | Program::FExit(_));
        let types = |source| ObjectError::Types { object: object.to_owned(), source: Box::new(source) };
        let tracing = match target.filter(|_| typed) {
            Some(target) => Some((target, kernel::aya_btf().map_err(types)?)),
            None => None,
        };
        load_new(found, tracing).unwrap_or_else(|| Err(ProgramError::UnexpectedProgramType)).map_err(error)?;
    }
    let (kind, attach) = kind(found);
    let fd = found.fd().and_then(|fd| Ok(fd.as_fd().try_clone_to_owned()?)).map_err(error)?;
    Ok(Loaded { fd, kind, attach })
}

/// Nothing for a kind that only the test can load, or one that is loaded for a target and was given none.
fn load_new(program: &mut Program, tracing: Option<(&str, &AyaBtf)>) -> Option<Result<(), ProgramError>> {
    Some(match (program, tracing) {
        (Program::Xdp(program), _) => program.load(),
        (Program::SchedClassifier(program), _) => program.load(),
        (Program::SocketFilter(program), _) => program.load(),
        (Program::CgroupSkb(program), _) => program.load(),
        (Program::FlowDissector(program), _) => program.load(),
        (Program::SkLookup(program), _) => program.load(),
        (Program::SockOps(program), _) => program.load(),
        (Program::KProbe(program), _) => program.load(),
        (Program::UProbe(program), _) => program.load(),
        (Program::TracePoint(program), _) => program.load(),
        (Program::RawTracePoint(program), _) => program.load(),
        (Program::BtfTracePoint(program), Some((target, btf))) => program.load(target, btf),
        (Program::FEntry(program), Some((target, btf))) => program.load(target, btf),
        (Program::FExit(program), Some((target, btf))) => program.load(target, btf),
        _ => return None,
    })
}

/// The name of a program's kind (see [`crate::object::section::Kind::name`]), and what it was loaded to be attached as
/// (`enum bpf_attach_type`), which matters for control groups alone.
fn kind(program: &Program) -> (&'static str, u32) {
    const SOCK_OPS: u32 = 3;
    match program {
        Program::Xdp(_) => ("xdp", 0),
        Program::SchedClassifier(_) => ("tc", 0),
        Program::SocketFilter(_) => ("socket_filter", 0),
        Program::CgroupSkb(program) => {
            ("cgroup_skb", u32::from(matches!(program.expected_attach_type(), Some(CgroupSkbAttachType::Egress))))
        }
        Program::FlowDissector(_) => ("flow_dissector", 0),
        Program::SkLookup(_) => ("sk_lookup", 0),
        Program::SockOps(_) => ("sock_ops", SOCK_OPS),
        Program::KProbe(program) if matches!(program.kind(), ProbeKind::Return) => ("kretprobe", 0),
        Program::KProbe(_) => ("kprobe", 0),
        Program::UProbe(program) if matches!(program.kind(), ProbeKind::Return) => ("uretprobe", 0),
        Program::UProbe(_) => ("uprobe", 0),
        Program::TracePoint(_) => ("tracepoint", 0),
        Program::RawTracePoint(_) => ("raw_tracepoint", 0),
        Program::BtfTracePoint(_) => ("tp_btf", 0),
        Program::FEntry(_) => ("fentry", 0),
        Program::FExit(_) => ("fexit", 0),
        _ => ("other", 0),
    }
}

fn program_error(object: &str, program: &str, source: ProgramError) -> ObjectError {
    let (object, program) = (object.to_owned(), program.to_owned());
    match source {
        ProgramError::LoadError { io_error, verifier_log } => {
            object::Refusal::of(object, program, verifier_log.to_string(), io_error)
        }
        source => ObjectError::Program { operation: "load".to_owned(), object, program, source: Box::new(source) },
    }
}

/// Whether a map holds events.
pub(super) fn ring(fd: BorrowedFd<'_>) -> bool {
    use sys::map_kind::{PERF_EVENT_ARRAY, RINGBUF};
    sys::map_info(fd).is_ok_and(|info| matches!(info.kind, RINGBUF | PERF_EVENT_ARRAY))
}
