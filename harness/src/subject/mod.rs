//! An object under test: any eBPF ELF file, whoever compiled it, with its maps made and its programs ready to be loaded.
//!
//! Two libraries make the maps and relocate the code. libbpf is asked first: C objects are written for it, and it alone
//! knows its conventions (`SEC("tc")`, kernel configuration and symbols, arrays filled in by the object). What it does
//! not take (maps of section `maps`, rings as aya declares them) aya does. From there on there is one way for all: the
//! programs are loaded by this crate, one by one, and attached by their descriptors.
//!
//! Why both: of 67 object files of libbpf-bootstrap, xdp-tools and cilium/ebpf (its examples, built by bpf2go, and its test
//! data) aya alone makes 47 ready and libbpf alone 53, the two together 57. aya 0.14 does not know the sections `tc`,
//! `ksyscall` and `usdt`, nor `.kconfig`, `.ksyms`, and arrays that the object fills in; libbpf 1.7 does not take maps of
//! section `maps` and static functions in sections of their own, and takes the types of events that cilium/ebpf and
//! aya-ebpf give to rings for sizes, which is mended for the former. The other ten want modules of a test kernel, symbols
//! that no kernel has, functions in sections that name no kind of program, or to be linked first.

mod aya;
mod code;
pub mod inspect;
#[cfg(feature = "libbpf")]
mod libbpf;
mod maps;
mod observer;
mod options;
mod packets;
mod place;
mod probed;
pub mod source;

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

pub use self::code::{Code, LoadError, LoadedProgram};
pub use self::observer::{AttachSetup, Setup, SubjectObserver};
pub use self::options::{Loader, SubjectOptions};
pub(crate) use self::packets::Packets;
pub use self::packets::{changed_fields, class};
use self::probed::{Covered, VirtualClock};
use crate::coverage::{Counting, Identity, ProgramCoverage};
use crate::kernel;
use crate::object::elf::{Elf, ElfError};
use crate::object::section::SectionError;
use crate::sys::MapHandle;

/// Why an object could not be made ready, or a program of it not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// Its source could not be compiled.
    #[error(transparent)]
    Source(#[from] source::SourceError),
    /// The file could not be read.
    #[error("cannot read object {object}")]
    Read {
        /// The file.
        object: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It is no object file that can be used.
    #[error("cannot use {object} as an eBPF object")]
    Elf {
        /// The object.
        object: String,
        /// What is wrong.
        #[source]
        source: ElfError,
    },
    /// No library took it.
    #[error("cannot load object {object}: {}", reasons.join("; "))]
    Refused {
        /// The object.
        object: String,
        /// What each library said.
        reasons: Vec<String>,
    },
    /// It has no program, map or global of that name.
    #[error("object {object} has no {what}{}", nearest(.known, .name))]
    Missing {
        /// The object.
        object: String,
        /// `program NAME`, ...
        what: String,
        /// The name that was looked for.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// A global is of another size.
    #[error("global {global} of object {object} has {expected} bytes, and was given {given}")]
    GlobalSize {
        /// The object.
        object: String,
        /// The global.
        global: String,
        /// Its size.
        expected: usize,
        /// Bytes given.
        given: usize,
    },
    /// The value of a global does not fit it.
    #[error("cannot set global {global} of object {object}")]
    Global {
        /// The object.
        object: String,
        /// The global.
        global: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nothing says where any of its programs belongs.
    #[error(
        "object {object} has no program whose section says where it is attached{}",
        if programs.is_empty() { "; it has none at all".to_owned() } else { format!(": name one of {}", programs.join(", ")) }
    )]
    Nowhere {
        /// The object.
        object: String,
        /// Its programs, each with its section.
        programs: Vec<String>,
    },
    /// A program cannot go to a hook.
    #[error("cannot attach program {program} of object {object}: {reason}")]
    Hook {
        /// The object.
        object: String,
        /// The program.
        program: String,
        /// Why.
        reason: String,
    },
    /// The section of a program says nothing that it could be loaded as.
    #[error("cannot load program {program} of object {object}")]
    Section {
        /// The object.
        object: String,
        /// The program.
        program: String,
        /// What is wrong.
        #[source]
        source: SectionError,
    },
    /// The kernel did not take a program.
    #[error("cannot load program {program} of object {object}")]
    Load {
        /// The object.
        object: String,
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: Box<LoadError>,
    },
    /// A map could not be read or written.
    #[error("cannot access map {map} of object {object}")]
    Map {
        /// The object.
        object: String,
        /// The map.
        map: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What an object is called: its file's name without `.o` and `.bpf`.
#[must_use]
pub fn name_of(path: &Path) -> String {
    let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    stem.trim_end_matches(".bpf").to_owned()
}

fn nearest(known: &[String], name: &str) -> String {
    if known.is_empty() {
        return "; it has none at all".to_owned();
    }
    let closest = crate::scenario::hint::closest(name, known.iter().map(String::as_str));
    closest.map_or_else(|| format!("; it has {}", known.join(", ")), |name| format!("; did you mean {name}?"))
}

/// A map of an object.
#[derive(Debug)]
pub struct SubjectMap {
    /// Its name; that of a data section is the section's.
    pub name: String,
    /// The map.
    pub handle: MapHandle,
}

/// What a library made of an object.
struct Prepared {
    maps: Vec<SubjectMap>,
    code: BTreeMap<String, Code>,
    keep: Keep,
}

/// What must live as long as the code: libbpf's own descriptors of the maps, which the code names.
#[derive(Debug)]
enum Keep {
    #[cfg(feature = "libbpf")]
    #[allow(dead_code, reason = "held to be dropped")]
    Libbpf(crate::sys::LibbpfObject),
    Nothing,
}

/// An object under test.
#[derive(Debug)]
pub struct Subject {
    name: String,
    sha256: String,
    elf: Elf,
    loader: Loader,
    maps: Vec<SubjectMap>,
    code: BTreeMap<String, Code>,
    loaded: BTreeMap<String, Arc<LoadedProgram>>,
    offsets: BTreeMap<String, u64>,
    clock: Option<VirtualClock>,
    counting: Option<Counting>,
    /// By program; or why it is not covered.
    covered: BTreeMap<String, Result<Covered, String>>,
    /// After `code`, which does not outlive it.
    #[allow(dead_code, reason = "held to be dropped")]
    keep: Keep,
}

impl Subject {
    /// Reads an object file and makes its maps.
    ///
    /// # Errors
    /// See [`SubjectError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SubjectError> {
        Self::open_with(path, &SubjectOptions::default())
    }

    /// As [`Subject::open`], with options.
    ///
    /// # Errors
    /// See [`SubjectError`].
    pub fn open_with(path: impl AsRef<Path>, options: &SubjectOptions) -> Result<Self, SubjectError> {
        let path = path.as_ref();
        let name = name_of(path);
        let read = |source| SubjectError::Read { object: path.display().to_string(), source };
        let bytes = std::fs::read(path).map_err(read)?;
        Self::from_bytes(&name, &bytes, options)
    }

    /// Makes the maps of the object file `bytes` and relocates its programs; loads none of them.
    ///
    /// # Errors
    /// [`SubjectError::Elf`], [`SubjectError::Refused`]; [`SubjectError::Missing`] for an option that names nothing.
    pub fn from_bytes(name: &str, bytes: &[u8], options: &SubjectOptions) -> Result<Self, SubjectError> {
        Self::from_elf(name, bytes, parse(name, bytes)?, options)
    }

    /// As [`Subject::from_bytes`], of a file that has been read already.
    fn from_elf(name: &str, bytes: &[u8], elf: Elf, options: &SubjectOptions) -> Result<Self, SubjectError> {
        kernel::make_room_for_maps();
        options.check(name, &elf)?;
        let (loader, prepared) = prepare(name, bytes, &elf, options)?;
        let offsets = elf.globals.iter().map(|global| (global.name.clone(), global.offset as u64)).collect();
        let clock = match options.virtual_clock {
            true => Some(VirtualClock::new().map_err(|source| SubjectError::Map {
                object: name.to_owned(),
                map: "(of the virtual clock)".to_owned(),
                source: Box::new(source),
            })?),
            false => None,
        };
        let subject = Self {
            offsets,
            clock,
            counting: options.coverage,
            covered: BTreeMap::new(),
            name: name.to_owned(),
            sha256: format!("{:x}", Sha256::digest(bytes)),
            elf,
            loader,
            maps: prepared.maps,
            code: prepared.code,
            loaded: BTreeMap::new(),
            keep: prepared.keep,
        };
        Ok(subject)
    }

    /// Its name: the file's without extension, unless another was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the file, lower-case hexadecimal.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// What the file says of itself.
    #[must_use]
    pub fn elf(&self) -> &Elf {
        &self.elf
    }

    /// The library that made its maps.
    #[must_use]
    pub fn loader(&self) -> Loader {
        self.loader
    }

    /// Its maps, data sections included.
    #[must_use]
    pub fn maps(&self) -> &[SubjectMap] {
        &self.maps
    }

    /// The map of that name.
    ///
    /// # Errors
    /// [`SubjectError::Missing`].
    pub fn map(&self, name: &str) -> Result<&MapHandle, SubjectError> {
        let found = self.maps.iter().find(|map| map.name == name).map(|map| &map.handle);
        found.ok_or_else(|| self.missing("map", name, self.maps.iter().map(|map| map.name.clone()).collect()))
    }

    /// The code of a program.
    ///
    /// # Errors
    /// [`SubjectError::Missing`]; [`SubjectError::Section`] for one that cannot be loaded by itself.
    pub fn code(&self, program: &str) -> Result<&Code, SubjectError> {
        if let Some(code) = self.code.get(program) {
            return Ok(code);
        }
        let (object, program) = (self.name.clone(), program.to_owned());
        match self.elf.program(&program).map(|known| known.kind()) {
            Some(Err(source)) => Err(SubjectError::Section { object, program, source }),
            _ => Err(self.missing("program", &program, self.code.keys().cloned().collect())),
        }
    }

    /// Loads a program into the kernel, unless it is loaded. `target` names the function or tracepoint of a program that
    /// is loaded for one, if its section does not, or another one.
    ///
    /// # Errors
    /// [`SubjectError::Load`] with the verifier's log; as [`Subject::code`].
    pub fn load_program(&mut self, program: &str, target: Option<&str>) -> Result<Arc<LoadedProgram>, SubjectError> {
        if let Some(loaded) = self.loaded.get(program)
            && (target.is_none() || target == loaded.target.as_deref())
        {
            return Ok(Arc::clone(loaded));
        }
        let loaded = Arc::new(self.load_code(program, target)?);
        self.loaded.insert(program.to_owned(), Arc::clone(&loaded));
        self.fill_arrays(program, &loaded)?;
        Ok(loaded)
    }

    fn load_code(&mut self, program: &str, target: Option<&str>) -> Result<LoadedProgram, SubjectError> {
        let failed = |object: &str, source| SubjectError::Load {
            object: object.to_owned(),
            program: program.to_owned(),
            source: Box::new(source),
        };
        let mut code = self.code(program)?.clone();
        if let Some(clock) = &self.clock {
            code = clock.wind(&code).map_err(|reason| failed(&self.name, LoadError::Clock(reason)))?;
        }
        let Some(counting) = self.counting else {
            return code.load(program, target).map_err(|source| failed(&self.name, source));
        };
        let identity = Identity { object: &self.name, digest: &self.sha256, program };
        let loaded = probed::load_covered(&code, identity, target, self.elf.btf.as_ref(), counting);
        let (loaded, covered) = loaded.map_err(|source| failed(&self.name, source))?;
        self.covered.insert(program.to_owned(), covered);
        Ok(loaded)
    }

    /// Sets the time that programs read where they have a virtual clock, ns.
    pub fn set_clock(&self, time_ns: u64) {
        if let Some(clock) = &self.clock {
            clock.set(time_ns);
        }
    }

    /// What each loaded program reached so far, or why that is not known. Empty unless asked for by
    /// [`SubjectOptions::coverage`].
    pub fn coverage(&self) -> impl Iterator<Item = (&str, Result<ProgramCoverage, String>)> {
        self.covered.iter().map(|(program, covered)| {
            (program.as_str(), covered.as_ref().map_err(Clone::clone).and_then(Covered::coverage))
        })
    }

    /// The programs that are loaded.
    pub fn loaded(&self) -> impl Iterator<Item = (&str, &Arc<LoadedProgram>)> {
        self.loaded.iter().map(|(name, program)| (name.as_str(), program))
    }

    /// Puts a program where the object's own arrays of programs want it, and loads those that such an array names and
    /// that are not loaded yet: without them a tail call goes nowhere.
    fn fill_arrays(&mut self, program: &str, loaded: &LoadedProgram) -> Result<(), SubjectError> {
        let values = |elf: &Elf| -> Vec<(String, u32, String)> {
            let declared = elf.maps.iter().filter(|map| map.kind == Some(PROG_ARRAY));
            let slots = declared.flat_map(|map| map.values.iter().map(|(slot, of)| (&map.name, *slot, of)));
            slots.map(|(map, slot, of)| (map.clone(), slot, of.clone())).collect()
        };
        for (map, slot, of) in values(&self.elf) {
            if of == program {
                self.set_program(&map, slot, loaded)?;
            } else if !self.loaded.contains_key(&of) {
                self.load_program(&of, None)?;
            }
        }
        Ok(())
    }

    /// Puts a loaded program into slot `slot` of the array of programs `map`.
    ///
    /// # Errors
    /// [`SubjectError::Map`] for another kind of map, a slot beyond its end, or a program unlike those in it.
    pub fn set_program(&self, map: &str, slot: u32, program: &LoadedProgram) -> Result<(), SubjectError> {
        let value = program.raw_fd().to_ne_bytes();
        let updated = self.map(map)?.update(Some(&slot.to_ne_bytes()), &value, 0);
        updated.map_err(|source| self.map_error(map, source))
    }

    /// The object's types in the kernel, if it took them.
    pub(crate) fn loaded_types(&self) -> Option<BorrowedFd<'_>> {
        self.code.values().find_map(|code| code.btf.as_ref()).map(|types| types.as_fd())
    }

    /// Places of global variables in their sections, by name.
    pub(crate) fn offsets(&self) -> &BTreeMap<String, u64> {
        &self.offsets
    }

    /// An error about a map.
    pub(crate) fn map_error(
        &self,
        map: &str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> SubjectError {
        SubjectError::Map { object: self.name.clone(), map: map.to_owned(), source: source.into() }
    }

    /// An error about something that the object lacks.
    pub(crate) fn missing(&self, what: &str, name: &str, known: Vec<String>) -> SubjectError {
        missing(&self.name, what, name, known)
    }
}

/// Reads the file of an object.
fn parse(name: &str, bytes: &[u8]) -> Result<Elf, SubjectError> {
    Elf::parse(bytes).map_err(|source| SubjectError::Elf { object: name.to_owned(), source })
}

pub(crate) fn missing(object: &str, what: &str, name: &str, known: Vec<String>) -> SubjectError {
    SubjectError::Missing { object: object.to_owned(), what: format!("{what} {name}"), name: name.to_owned(), known }
}

const PROG_ARRAY: u32 = 3;
/// `BPF_MAP_TYPE_INSN_ARRAY` of `enum bpf_map_type` (6.19).
const LAST_MAP_TYPE: u32 = 34;

/// Asks the libraries in their order, or the one that was asked for.
fn prepare(name: &str, bytes: &[u8], elf: &Elf, options: &SubjectOptions) -> Result<(Loader, Prepared), SubjectError> {
    let mut reasons = Vec::new();
    let order = match options.loader {
        Some(loader) => vec![loader],
        None => Loader::ORDER.to_vec(),
    };
    for loader in order {
        let prepared = match loader {
            #[cfg(feature = "libbpf")]
            Loader::Libbpf => libbpf::prepare(name, bytes, elf, options),
            #[cfg(not(feature = "libbpf"))]
            Loader::Libbpf => Err("this bpflab was built without libbpf (feature `libbpf`)".to_owned()),
            Loader::Aya => aya::prepare(bytes, elf, options),
        };
        match prepared {
            Ok(prepared) => return Ok((loader, prepared)),
            Err(reason) => reasons.push(format!("{loader}: {reason}")),
        }
    }
    let strange = elf.maps.iter().filter_map(|map| Some((&map.name, map.kind.filter(|kind| *kind > LAST_MAP_TYPE)?)));
    reasons.extend(strange.map(|(map, kind)| format!("map {map} is of type {kind}, which no kernel known here has")));
    Err(SubjectError::Refused { object: name.to_owned(), reasons })
}
