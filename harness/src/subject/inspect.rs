//! What an object is: its programs, maps and globals, what it needs, and whether this kernel takes it.

use serde::Serialize;

use super::{Loader, Subject, SubjectError, SubjectOptions};
use crate::error::chain;
use crate::kernel::{self, btf::Btf};
use crate::object::elf::{Declaration, Elf, ElfMap, Global};
use crate::rows::kind_name;
use crate::sys::map_kind;

/// Version of the document.
pub const VERSION: u32 = 1;

/// An object, as `bpflab inspect` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Version of this document.
    pub version: u32,
    /// The object's name.
    pub object: String,
    /// Bytes of the file.
    pub bytes: usize,
    /// Its licence, absent if it states none.
    pub license: Option<String>,
    /// Whether it has types (BTF), and lines of source.
    pub types: bool,
    /// See `types`.
    pub lines: bool,
    /// The library that makes its maps, absent if none could or none was asked.
    pub loader: Option<Loader>,
    /// Why its maps could not be made.
    pub problem: Option<String>,
    /// The running kernel, absent if it was not asked.
    pub kernel: Option<String>,
    /// What it needs.
    pub needs: NeedsView,
    /// Its programs.
    pub programs: Vec<ProgramView>,
    /// Its maps.
    pub maps: Vec<MapView>,
    /// Its globals.
    pub globals: Vec<GlobalView>,
}

/// What an object needs of a kernel.
#[derive(Clone, Debug, Serialize)]
pub struct NeedsView {
    /// The first kernel that has all that the code names, as far as that is after 5.10.
    pub first_kernel: Option<String>,
    /// What came after 5.10, each with its first kernel.
    pub since: Vec<(String, String)>,
    /// Helpers, by the kernel's names.
    pub helpers: Vec<String>,
    /// Functions and variables of the kernel.
    pub externs: Vec<String>,
    /// Relocations against the kernel's types.
    pub core_relocations: usize,
    /// Functions that programs call.
    pub functions: usize,
    /// Whether programs call others through an array.
    pub tail_calls: bool,
}

/// A program.
#[derive(Clone, Debug, Serialize)]
pub struct ProgramView {
    /// Its name.
    pub program: String,
    /// Its section.
    pub section: String,
    /// Its kind; absent for a section that names none.
    pub kind: Option<&'static str>,
    /// What its section attaches it to.
    pub target: Option<String>,
    /// Instructions in its own section.
    pub instructions: usize,
    /// Instructions with the functions that it calls, once relocated.
    pub relocated: Option<usize>,
    /// Whether the kernel took it; absent if it was not asked.
    pub loads: Option<bool>,
    /// Instructions that the verifier processed.
    pub verified: Option<u64>,
    /// Stack, bytes.
    pub stack_bytes: Option<u32>,
    /// Time that the kernel took to verify and compile it, µs.
    pub load_us: Option<u64>,
    /// Why it was not taken.
    pub reason: Option<String>,
}

/// A map.
#[derive(Clone, Debug, Serialize)]
pub struct MapView {
    /// Its name.
    pub map: String,
    /// Its type by the kernel's name, without `BPF_MAP_TYPE_`.
    pub kind: String,
    /// How it is declared: `btf`, `legacy`, `data`.
    pub declared: &'static str,
    /// Type of a key.
    pub key: Option<String>,
    /// Type of a value.
    pub value: Option<String>,
    /// Bytes of a key.
    pub key_size: Option<u32>,
    /// Bytes of a value.
    pub value_size: Option<u32>,
    /// Elements.
    pub max_entries: Option<u32>,
    /// Elements that the object fills in itself.
    pub filled: Vec<(u32, String)>,
}

/// A global variable.
#[derive(Clone, Debug, Serialize)]
pub struct GlobalView {
    /// Its name.
    pub global: String,
    /// Its section.
    pub section: String,
    /// Its type, if the object has types.
    #[serde(rename = "type")]
    pub ty: Option<String>,
    /// Bytes.
    pub size: usize,
    /// Its bytes at first, hexadecimal; absent where that is all zeros.
    pub initial: Option<String>,
}

impl Inspection {
    /// Looks at an object file; `ask` the kernel as well, which makes its maps and loads each of its programs.
    ///
    /// # Errors
    /// [`SubjectError::Elf`]. What the kernel or a library refuses is part of the answer.
    pub fn of(name: &str, bytes: &[u8], options: &SubjectOptions, ask: bool) -> Result<Self, SubjectError> {
        let elf = super::parse(name, bytes)?;
        let mut inspection = Self {
            version: VERSION,
            object: name.to_owned(),
            bytes: bytes.len(),
            license: elf.license.clone(),
            types: elf.btf.is_some(),
            lines: elf.has_lines,
            loader: None,
            problem: None,
            kernel: None,
            needs: needs(&elf),
            programs: elf.programs.iter().map(program).collect(),
            maps: elf.maps.iter().map(|map| map_view(map, elf.btf.as_ref())).collect(),
            globals: elf.globals.iter().map(|global| global_view(global, elf.btf.as_ref())).collect(),
        };
        if ask {
            inspection.ask(name, bytes, options)?;
        }
        Ok(inspection)
    }

    fn ask(&mut self, name: &str, bytes: &[u8], options: &SubjectOptions) -> Result<(), SubjectError> {
        self.kernel = Some(kernel::release());
        match Subject::from_bytes(name, bytes, options) {
            Ok(mut subject) => {
                self.loader = Some(subject.loader());
                for view in &mut self.programs {
                    try_program(view, &mut subject);
                }
            }
            Err(whole @ SubjectError::Refused { .. }) => {
                // One program that lacks something keeps the others from being relocated: one by one, then.
                let mut made = false;
                for view in &mut self.programs {
                    let options = SubjectOptions { programs: vec![view.program.clone()], ..options.clone() };
                    match Subject::from_bytes(name, bytes, &options) {
                        Ok(mut subject) => {
                            made = true;
                            self.loader = Some(subject.loader());
                            try_program(view, &mut subject);
                        }
                        Err(error) => (view.loads, view.reason) = (Some(false), Some(chain(&error))),
                    }
                }
                self.problem = (!made).then(|| chain(&whole));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether every program loads, as far as the kernel was asked.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.problem.is_none() && self.programs.iter().all(|program| program.loads != Some(false))
    }
}

fn try_program(view: &mut ProgramView, subject: &mut Subject) {
    view.relocated = subject.code(&view.program).ok().map(|code| code.instructions.len());
    match subject.load_program(&view.program, None) {
        Ok(loaded) => {
            view.loads = Some(true);
            view.load_us = Some(loaded.load_us);
            if let Some(statistics) = loaded.statistics {
                view.verified = Some(statistics.instructions);
                view.stack_bytes = Some(statistics.stack_bytes);
            }
        }
        Err(error) => (view.loads, view.reason) = (Some(false), Some(chain(&error))),
    }
}

fn needs(elf: &Elf) -> NeedsView {
    let types = Btf::kernel().ok();
    let list = elf.needs.list(types);
    let series = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    let names = types.and_then(|btf| btf.enum_names("bpf_func_id")).unwrap_or_default();
    let helper = |number: &u32| {
        let name = names.get(&i64::from(*number)).map(|name| name.replacen("BPF_FUNC_", "bpf_", 1));
        name.unwrap_or_else(|| format!("helper {number}"))
    };
    NeedsView {
        first_kernel: list.last().and_then(|need| need.since).map(series),
        since: list.iter().filter_map(|need| Some((need.what.clone(), series(need.since?)))).collect(),
        helpers: elf.needs.helpers.iter().map(helper).collect(),
        externs: elf.needs.externs.iter().cloned().collect(),
        core_relocations: elf.needs.core_relocations,
        functions: elf.needs.functions,
        tail_calls: elf.needs.tail_calls,
    }
}

fn program(program: &crate::object::elf::ElfProgram) -> ProgramView {
    let section = program.kind();
    ProgramView {
        program: program.name.clone(),
        section: program.section.clone(),
        kind: section.as_ref().ok().map(|section| section.kind.name),
        target: section.as_ref().ok().and_then(|section| section.target).map(str::to_owned),
        instructions: program.instructions,
        relocated: None,
        loads: None,
        verified: None,
        stack_bytes: None,
        load_us: None,
        reason: section.err().map(|error| error.to_string()),
    }
}

fn map_view(map: &ElfMap, btf: Option<&Btf>) -> MapView {
    let name = |ty: Option<u32>| Some(btf?.type_name(ty?));
    MapView {
        map: map.name.clone(),
        kind: map.kind.map_or_else(|| "unknown".to_owned(), kind_name),
        declared: match map.declaration {
            Declaration::Btf => "btf",
            Declaration::Legacy => "legacy",
            Declaration::Data => "data",
        },
        key: name(map.key_type),
        value: name(map.value_type),
        key_size: map.key_size,
        value_size: if map.kind == Some(map_kind::RINGBUF) { None } else { map.value_size },
        max_entries: map.max_entries,
        filled: map.values.clone(),
    }
}

fn global_view(global: &Global, btf: Option<&Btf>) -> GlobalView {
    let zero = global.initial.iter().all(|byte| *byte == 0);
    GlobalView {
        global: global.name.clone(),
        section: global.section.clone(),
        ty: global.ty.and_then(|ty| Some(btf?.type_name(ty))),
        size: global.size,
        initial: (!zero).then(|| global.initial.iter().map(|byte| format!("{byte:02x}")).collect()),
    }
}
