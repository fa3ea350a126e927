//! What an object's code asks of a kernel: helpers, functions of the kernel, instructions, map types. Each is newer than
//! 5.10 or not; the newest decides which kernel is the first that can run the object, as far as the code tells.

use std::collections::{BTreeMap, BTreeSet};

use object::read::elf::ElfSection64;
use object::{Endianness, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget};

use super::{ElfError, ElfMap, ElfProgram, File, INSTRUCTION, damaged, data, is_code};
use crate::kernel::btf::Btf;

/// Highest number of a helper that each kernel has (`___BPF_FUNC_MAPPER` of `include/uapi/linux/bpf.h`); helpers are
/// numbered in the order in which they came, and the list is closed since 6.2.
const HELPERS: [(u32, (u32, u32)); 12] = [
    (155, (5, 10)),
    (162, (5, 11)),
    (163, (5, 12)),
    (165, (5, 13)),
    (168, (5, 14)),
    (175, (5, 15)),
    (179, (5, 16)),
    (185, (5, 17)),
    (193, (5, 18)),
    (203, (5, 19)),
    (207, (6, 0)),
    (209, (6, 1)),
];
/// The last helpers.
const LAST_HELPERS: (u32, u32) = (6, 2);
/// Map types that came after 5.10, by number.
const MAP_TYPES: [(u32, (u32, u32)); 5] = [(29, (5, 11)), (30, (5, 16)), (31, (6, 1)), (32, (6, 2)), (33, (6, 9))];
const TAIL_CALL: u32 = 12;

/// One thing that the code asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// What it is.
    pub what: String,
    /// First kernel that has it, if that is known and after 5.10.
    pub since: Option<(u32, u32)>,
}

/// Everything that the code asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Numbers of helpers (`BPF_FUNC_*`).
    pub helpers: BTreeSet<u32>,
    /// Functions of the kernel, and its variables, by name.
    pub externs: BTreeSet<String>,
    /// Kinds of instruction, map and program that not every kernel since 5.10 has.
    pub features: BTreeMap<String, (u32, u32)>,
    /// Relocations against the kernel's types (CO-RE).
    pub core_relocations: usize,
    /// Functions that programs call.
    pub functions: usize,
    /// Whether programs call other programs through an array.
    pub tail_calls: bool,
}

impl Needs {
    pub(super) fn of(file: &File<'_>, maps: &[ElfMap], programs: &[ElfProgram]) -> Result<Self, ElfError> {
        let mut needs = Self::default();
        for section in file.sections().filter(is_code) {
            needs.code(file, &section)?;
        }
        for (kind, since) in maps
            .iter()
            .filter_map(|map| map.kind)
            .filter_map(|kind| MAP_TYPES.iter().find(|(number, _)| *number == kind).copied())
        {
            let name = aya_obj::generated::bpf_map_type::try_from(kind).map(|kind| format!("{kind:?}"));
            needs.features.insert(name.unwrap_or_else(|_| format!("map type {kind}")), since);
        }
        for program in programs {
            if let Ok(section) = program.kind()
                && let Some(since) = section.kind.since
            {
                needs.features.insert(format!("programs of section {}", program.section), since);
            }
        }
        if let Some(section) = file.section_by_name(".BTF.ext") {
            needs.core_relocations = core_relocations(data(&section)?).unwrap_or_default();
        }
        let functions = file.symbols().filter(|symbol| symbol.kind() == object::SymbolKind::Text);
        needs.functions = functions
            .filter(|symbol| {
                let section = symbol.section_index().and_then(|index| file.section_by_index(index).ok());
                section.is_some_and(|section| section.name() == Ok(".text"))
            })
            .count();
        Ok(needs)
    }

    fn code(&mut self, file: &File<'_>, section: &ElfSection64<'_, '_, Endianness>) -> Result<(), ElfError> {
        let bytes = data(section)?;
        let mut wide = false;
        for instruction in bytes.chunks_exact(INSTRUCTION) {
            // The second half of a 64-bit load is no instruction.
            if std::mem::take(&mut wide) {
                continue;
            }
            let (code, registers) = (instruction[0], instruction[1]);
            let offset = i16::from_ne_bytes([instruction[2], instruction[3]]);
            let immediate = u32::from_ne_bytes([instruction[4], instruction[5], instruction[6], instruction[7]]);
            wide = code == 0x18;
            // A call with source register 0 is one of a helper; without a number it is still to be relocated.
            if code == 0x85 && registers >> 4 == 0 && immediate != u32::MAX && immediate != 0 {
                self.helpers.insert(immediate);
                self.tail_calls |= immediate == TAIL_CALL;
            }
            if let Some((what, since)) = instruction_set(code, registers, offset, immediate) {
                self.features.insert(what.to_owned(), since);
            }
        }
        for (_, relocation) in section.relocations() {
            if let RelocationTarget::Symbol(index) = relocation.target() {
                let symbol = file.symbol_by_index(index).map_err(damaged)?;
                if symbol.is_undefined() {
                    self.externs.insert(symbol.name().map_err(damaged)?.to_owned());
                }
            }
        }
        Ok(())
    }

    /// What is newer than 5.10, the newest last. `types` gives helpers their names: the kernel's.
    #[must_use]
    pub fn list(&self, types: Option<&Btf>) -> Vec<Need> {
        let names = types.and_then(|btf| btf.enum_names("bpf_func_id")).unwrap_or_default();
        let helper = |number: &u32| {
            let name = names.get(&i64::from(*number)).map(|name| name.replacen("BPF_FUNC_", "bpf_", 1));
            let name = name.unwrap_or_else(|| format!("helper {number}"));
            let since = HELPERS.iter().find(|(last, _)| number <= last).map_or(LAST_HELPERS, |(_, since)| *since);
            (since > (5, 10)).then_some(Need { what: name, since: Some(since) })
        };
        let features = self.features.iter().map(|(what, since)| Need { what: what.clone(), since: Some(*since) });
        let mut list: Vec<Need> = self.helpers.iter().filter_map(helper).chain(features).collect();
        list.sort_by(|one, other| (one.since, &one.what).cmp(&(other.since, &other.what)));
        list
    }
}

/// What an instruction is called that not every kernel since 5.10 takes, with the first that does
/// (`Documentation/bpf/standardization/instruction-set.rst`; the commits of kernel/bpf/verifier.c that took them in).
fn instruction_set(code: u8, registers: u8, offset: i16, immediate: u32) -> Option<(&'static str, (u32, u32))> {
    const ATOMIC_ADD: u32 = 0;
    match (code & 0x07, code & 0xe0) {
        // BPF_STX | BPF_ATOMIC.
        (0x03, 0xc0) if [0x100, 0x110].contains(&immediate) => {
            Some(("load-acquire and store-release instructions", (6, 15)))
        }
        (0x03, 0xc0) if immediate != ATOMIC_ADD => Some(("atomic instructions other than addition", (5, 12))),
        // BPF_LDX | BPF_MEMSX.
        (0x01, 0x80) => Some(("sign-extending loads (CPU v4)", (6, 6))),
        // BPF_JMP32 | BPF_JA.
        (0x06, _) if code == 0x06 => Some(("32-bit jumps (CPU v4)", (6, 6))),
        // BPF_JCOND.
        (0x05, _) if code == 0xe5 => Some(("may_goto", (6, 9))),
        // BPF_MOV with an offset, from a register.
        (0x07 | 0x04, _) if matches!(code, 0xbf | 0xbc) && offset != 0 && registers >> 4 != 10 => {
            (offset > 1).then_some(("sign-extending moves (CPU v4)", (6, 6)))
        }
        // BPF_DIV and BPF_MOD with offset 1.
        (0x07 | 0x04, 0x20 | 0x80) if matches!(code & 0xf0, 0x30 | 0x90) && offset == 1 => {
            Some(("signed division (CPU v4)", (6, 6)))
        }
        // BPF_END of the 64-bit class.
        (0x07, _) if code == 0xd7 => Some(("unconditional byte swaps (CPU v4)", (6, 6))),
        _ => None,
    }
}

/// Number of relocations in `.BTF.ext`: a header with the section's place, then record size and groups of records.
fn core_relocations(bytes: &[u8]) -> Option<usize> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?) as usize);
    let header = word(4)?;
    if header < 32 {
        return Some(0);
    }
    let start = header.checked_add(word(24)?)?;
    let end = start.checked_add(word(28)?)?;
    if start == end {
        return Some(0);
    }
    let record = word(start)?;
    let (mut at, mut count) = (start.checked_add(4)?, 0_usize);
    while at < end {
        let records = word(at.checked_add(4)?)?;
        count = count.checked_add(records)?;
        at = at.checked_add(8)?.checked_add(records.checked_mul(record)?)?;
    }
    Some(count)
}
