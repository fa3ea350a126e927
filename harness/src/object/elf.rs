//! What an eBPF object file says of itself, without a kernel: programs, maps, globals, licence, types.
//!
//! Nothing in the file is trusted: `object` checks every offset, and BTF is read by [`Btf`], which does.

use std::collections::BTreeMap;

use object::elf::EM_BPF;
use object::read::elf::ElfFile64;
use object::{
    Architecture, Endianness, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex,
    SymbolKind,
};

use super::section::{self, Section, SectionError};
use crate::kernel::btf::{Btf, BtfError, Kind};
use crate::rows::map_types;

mod needs;

pub use needs::{Need, Needs};

/// Bytes of an instruction.
pub const INSTRUCTION: usize = 8;

/// Why a file cannot be used as an eBPF object.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// It is something else.
    #[error("not an ELF file: it begins with {0}")]
    NotElf(String),
    /// It is an ELF file that is cut off or damaged.
    #[error("the ELF file is damaged or cut off: {0}")]
    Damaged(String),
    /// It is for another machine.
    #[error("the ELF file is for {found}, not for BPF (machine {machine}): compile with -target bpf")]
    Machine {
        /// What it is for.
        found: String,
        /// The machine's number, `e_machine`.
        machine: u16,
    },
    /// Its byte order is not this machine's.
    #[error("the object is {found}-endian, and this machine is not: compile with -target {target}")]
    ByteOrder {
        /// `big` or `little`.
        found: &'static str,
        /// The target that fits.
        target: &'static str,
    },
    /// It is not relocatable: an executable or a library.
    #[error("the ELF file is not an object file but {0}")]
    NotRelocatable(&'static str),
    /// Its types cannot be read.
    #[error("cannot read the types of the object (section .BTF)")]
    Types(#[from] BtfError),
}

/// A program of an object file.
#[derive(Clone, Debug)]
pub struct ElfProgram {
    /// Its function's name.
    pub name: String,
    /// Its section's name.
    pub section: String,
    /// Instructions, without the functions that it calls.
    pub instructions: usize,
}

impl ElfProgram {
    /// What its section's name says of it.
    ///
    /// # Errors
    /// A section that names nothing that can be loaded.
    pub fn kind(&self) -> Result<Section<'_>, SectionError> {
        section::parse(&self.section)
    }
}

/// How a map is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declaration {
    /// In section `.maps`, by BTF.
    Btf,
    /// In section `maps`, as a `struct bpf_map_def`.
    Legacy,
    /// A data section.
    Data,
}

/// A map of an object file.
#[derive(Clone, Debug)]
pub struct ElfMap {
    /// Its name; a data section's is the section's.
    pub name: String,
    /// How it is declared.
    pub declaration: Declaration,
    /// `BPF_MAP_TYPE_*`, as far as it is declared.
    pub kind: Option<u32>,
    /// Bytes of a key.
    pub key_size: Option<u32>,
    /// Bytes of a value.
    pub value_size: Option<u32>,
    /// Type of a key.
    pub key_type: Option<u32>,
    /// Type of a value; of an event, for a ring buffer that names it.
    pub value_type: Option<u32>,
    /// Elements.
    pub max_entries: Option<u32>,
    /// Elements that the object fills in itself: index and name of a program or map.
    pub values: Vec<(u32, String)>,
}

/// A global variable.
#[derive(Clone, Debug)]
pub struct Global {
    /// Its name.
    pub name: String,
    /// Its section, which is the name of its map.
    pub section: String,
    /// Bytes from the start of the section.
    pub offset: usize,
    /// Bytes.
    pub size: usize,
    /// Its type, if the object has types.
    pub ty: Option<u32>,
    /// What it holds before anything runs; empty where that is all zeros (`.bss`).
    pub initial: Vec<u8>,
}

/// An object file, read.
#[derive(Debug)]
pub struct Elf {
    /// Its programs, in the order of the file.
    pub programs: Vec<ElfProgram>,
    /// Its maps, data sections included.
    pub maps: Vec<ElfMap>,
    /// Its global variables.
    pub globals: Vec<Global>,
    /// Its licence; helpers of the kernel that are for GPL programs alone ask for one that is compatible.
    pub license: Option<String>,
    /// Its types.
    pub btf: Option<Btf>,
    /// Whether it has line information (`.BTF.ext`).
    pub has_lines: bool,
    /// Helpers, kernel functions and instructions that its code has.
    pub needs: Needs,
}

type File<'a> = ElfFile64<'a, Endianness>;

impl Elf {
    /// Reads an object file.
    ///
    /// # Errors
    /// [`ElfError`] for anything that is not a BPF object of this machine's byte order.
    pub fn parse(bytes: &[u8]) -> Result<Self, ElfError> {
        let file = open(bytes)?;
        let btf = match file.section_by_name(".BTF") {
            Some(section) => Some(Btf::parse(data(&section)?)?),
            None => None,
        };
        let license = match file.section_by_name("license") {
            Some(section) => Some(text(data(&section)?)),
            None => None,
        };
        let mut maps = maps(&file, btf.as_ref())?;
        let globals = globals(&file, btf.as_ref())?;
        let programs = programs(&file)?;
        let needs = Needs::of(&file, &maps, &programs)?;
        maps.sort_by(|one, other| one.name.cmp(&other.name));
        let has_lines = file.section_by_name(".BTF.ext").is_some();
        Ok(Self { programs, maps, globals, license, btf, has_lines, needs })
    }

    /// The map of that name.
    #[must_use]
    pub fn map(&self, name: &str) -> Option<&ElfMap> {
        self.maps.iter().find(|map| map.name == name)
    }

    /// The program of that name.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<&ElfProgram> {
        self.programs.iter().find(|program| program.name == name)
    }
}

fn open(bytes: &[u8]) -> Result<File<'_>, ElfError> {
    if bytes.get(..4) != Some(b"\x7fELF") {
        let head: Vec<String> = bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        return Err(ElfError::NotElf(if head.is_empty() { "nothing".to_owned() } else { head.join(" ") }));
    }
    let big = bytes.get(5) == Some(&2);
    let machine = bytes.get(18..20).and_then(|two| two.try_into().ok());
    let machine = machine.map_or(0, |two| if big { u16::from_be_bytes(two) } else { u16::from_le_bytes(two) });
    let damaged = |error: object::Error| ElfError::Damaged(error.to_string());
    if machine != EM_BPF {
        let found = object::File::parse(bytes).map(|file| file.architecture()).unwrap_or(Architecture::Unknown);
        return Err(ElfError::Machine { found: format!("{found:?}"), machine });
    }
    if big != cfg!(target_endian = "big") {
        let (found, target) = if big { ("big", "bpfel") } else { ("little", "bpfeb") };
        return Err(ElfError::ByteOrder { found, target });
    }
    let file = File::parse(bytes).map_err(damaged)?;
    match file.kind() {
        object::ObjectKind::Relocatable => Ok(file),
        object::ObjectKind::Executable => Err(ElfError::NotRelocatable("an executable")),
        _ => Err(ElfError::NotRelocatable("something else")),
    }
}

fn damaged(error: object::Error) -> ElfError {
    ElfError::Damaged(error.to_string())
}

fn data<'a, 'f>(section: &object::read::elf::ElfSection64<'a, 'f, Endianness>) -> Result<&'a [u8], ElfError> {
    section.data().map_err(|error| {
        let name = section.name().unwrap_or_default();
        ElfError::Damaged(format!("section {name}: {error}"))
    })
}

/// A string up to its NUL byte.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Whether a section holds code.
fn is_code(section: &object::read::elf::ElfSection64<'_, '_, Endianness>) -> bool {
    section.kind() == object::SectionKind::Text
}

fn programs(file: &File<'_>) -> Result<Vec<ElfProgram>, ElfError> {
    let mut found: Vec<(SectionIndex, u64, ElfProgram)> = Vec::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition()) {
        let Some(index) = symbol.section_index() else { continue };
        let section = file.section_by_index(index).map_err(damaged)?;
        let name = section.name().map_err(damaged)?;
        // Functions in `.text` are called by programs.
        if name == ".text" || !is_code(&section) || symbol.is_local() {
            continue;
        }
        let end = symbol.address().checked_add(symbol.size());
        let bytes = data(&section)?.len() as u64;
        if end.is_none_or(|end| end > bytes) || !(symbol.size() as usize).is_multiple_of(INSTRUCTION) {
            let symbol = symbol.name().unwrap_or_default();
            return Err(ElfError::Damaged(format!("function {symbol} is not within its section {name}")));
        }
        let program = ElfProgram {
            name: symbol.name().map_err(damaged)?.to_owned(),
            section: name.to_owned(),
            instructions: symbol.size() as usize / INSTRUCTION,
        };
        found.push((index, symbol.address(), program));
    }
    found.sort_by_key(|(section, address, _)| (section.0, *address));
    Ok(found.into_iter().map(|(.., program)| program).collect())
}

/// Whether a section of that name becomes a map.
fn is_data(name: &str) -> bool {
    [".rodata", ".data", ".bss"]
        .iter()
        .any(|prefix| name == *prefix || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')))
}

const ARRAY: u32 = 2;

fn maps(file: &File<'_>, btf: Option<&Btf>) -> Result<Vec<ElfMap>, ElfError> {
    let mut maps = Vec::new();
    for section in file.sections() {
        let name = section.name().map_err(damaged)?;
        if is_data(name) && section.size() > 0 {
            maps.push(ElfMap {
                name: name.to_owned(),
                declaration: Declaration::Data,
                kind: Some(ARRAY),
                key_size: Some(4),
                value_size: u32::try_from(section.size()).ok(),
                key_type: None,
                value_type: None,
                max_entries: Some(1),
                values: Vec::new(),
            });
        } else if name == ".maps" || name == "maps" || name.starts_with("maps/") {
            let legacy = name != ".maps";
            for symbol in file.symbols().filter(|symbol| symbol.section_index() == Some(section.index())) {
                if symbol.kind() == SymbolKind::Section || symbol.name().is_ok_and(str::is_empty) {
                    continue;
                }
                let symbol_name = symbol.name().map_err(damaged)?;
                maps.push(if legacy {
                    legacy_map(symbol_name, data(&section)?, symbol.address())?
                } else {
                    btf_map(file, &section, symbol_name, symbol.address(), symbol.size(), btf)?
                });
            }
        }
    }
    Ok(maps)
}

/// `struct bpf_map_def`: type, key size, value size, elements, flags.
fn legacy_map(name: &str, section: &[u8], offset: u64) -> Result<ElfMap, ElfError> {
    let word = |index: usize| {
        let at = usize::try_from(offset).ok()?.checked_add(index * 4)?;
        section.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
    };
    if word(3).is_none() {
        return Err(ElfError::Damaged(format!("the definition of map {name} is not within its section")));
    }
    Ok(ElfMap {
        name: name.to_owned(),
        declaration: Declaration::Legacy,
        kind: word(0),
        key_size: word(1),
        value_size: word(2),
        key_type: None,
        value_type: None,
        max_entries: word(3),
        values: Vec::new(),
    })
}

fn btf_map(
    file: &File<'_>,
    section: &object::read::elf::ElfSection64<'_, '_, Endianness>,
    name: &str,
    address: u64,
    size: u64,
    btf: Option<&Btf>,
) -> Result<ElfMap, ElfError> {
    let mut map = ElfMap {
        name: name.to_owned(),
        declaration: Declaration::Btf,
        kind: None,
        key_size: None,
        value_size: None,
        key_type: None,
        value_type: None,
        max_entries: None,
        values: Vec::new(),
    };
    let Some(btf) = btf else { return Ok(map) };
    let Some(types) = map_types(btf, name) else { return Ok(map) };
    let bytes = |ty: Option<u32>| u32::try_from(btf.size(ty?)?).ok();
    map.kind = types.kind;
    map.max_entries = types.max_entries;
    (map.key_type, map.value_type) = (types.key, types.value);
    map.key_size = bytes(types.key).or(types.key_size);
    map.value_size = bytes(types.value).or(types.value_size);
    if let Some(values_at) = values_offset(btf, name) {
        // Each element that the object fills in is a relocation of a pointer.
        let slots = address.saturating_add(values_at)..address.saturating_add(size);
        for (at, relocation) in section.relocations().filter(|(at, _)| slots.contains(at)) {
            if let RelocationTarget::Symbol(index) = relocation.target() {
                let symbol = file.symbol_by_index(index).map_err(damaged)?;
                let index = u32::try_from((at - slots.start) / 8).unwrap_or(u32::MAX);
                map.values.push((index, symbol.name().map_err(damaged)?.to_owned()));
            }
        }
        map.values.sort();
    }
    Ok(map)
}

/// Bytes from the start of a map's definition to the elements that the object fills in.
fn values_offset(btf: &Btf, name: &str) -> Option<u64> {
    let definition = btf.named(name).filter_map(|id| btf.ty(id)).find_map(|ty| match ty.kind {
        Kind::Variable(target) => btf.resolve(target).filter(|ty| ty.kind == Kind::Struct),
        _ => None,
    })?;
    let mut members = btf.members(definition);
    members.find(|member| btf.string(member.name) == "values").map(|member| u64::from(member.bit_offset / 8))
}

fn globals(file: &File<'_>, btf: Option<&Btf>) -> Result<Vec<Global>, ElfError> {
    // The types of variables, by name. A name that is used twice (static variables of two functions) has no type here.
    let types: BTreeMap<&str, Option<u32>> = btf.map_or_else(BTreeMap::new, |btf| {
        let mut types = BTreeMap::new();
        for ty in (1..=u32::try_from(btf.len()).unwrap_or_default()).filter_map(|id| btf.ty(id)) {
            if let Kind::Variable(target) = ty.kind {
                types.entry(btf.string(ty.name)).and_modify(|ty| *ty = None).or_insert(Some(target));
            }
        }
        types
    });
    let mut globals = Vec::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Data) {
        let Some(index) = symbol.section_index() else { continue };
        let section = file.section_by_index(index).map_err(damaged)?;
        let section_name = section.name().map_err(damaged)?;
        if !is_data(section_name) {
            continue;
        }
        let name = symbol.name().map_err(damaged)?.to_owned();
        let (offset, size) = (symbol.address() as usize, symbol.size() as usize);
        let outside = || ElfError::Damaged(format!("variable {name} is not within its section {section_name}"));
        let end = offset.checked_add(size).filter(|end| *end as u64 <= section.size()).ok_or_else(outside)?;
        let bytes = if section.kind().is_bss() { &[][..] } else { data(&section)? };
        let initial = if bytes.is_empty() { Vec::new() } else { bytes.get(offset..end).ok_or_else(outside)?.to_vec() };
        let ty = types.get(name.as_str()).copied().flatten();
        globals.push(Global { name, section: section_name.to_owned(), offset, size, ty, initial });
    }
    globals.sort_by(|one, other| (&one.section, one.offset).cmp(&(&other.section, other.offset)));
    Ok(globals)
}
