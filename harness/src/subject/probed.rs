//! Programs changed before they are loaded: another clock, and counters for what is reached.

use std::os::fd::AsRawFd as _;

use super::code::Code;
use super::{LoadError, LoadedProgram};
use crate::coverage::{
    Counting, CoverageMap, FuncInfo, Identity, Input, Layout, LineInfo, ProgramCoverage, instrument, reclock,
    stack_depths,
};
use crate::kernel::btf::Btf;
use crate::kernel::{self, probe::Version};
use crate::sys::{self, MapHandle, MapSpec, MappedArray, map_kind};

/// `BPF_F_MMAPABLE`, since 5.5 (fc9702273e2e).
const MMAPABLE: u32 = 1 << 10;

/// A clock that programs read instead of the kernel's.
#[derive(Debug)]
pub(super) struct VirtualClock {
    map: MapHandle,
    time_ns: MappedArray<u64>,
}

impl VirtualClock {
    /// Makes one that stands at 0.
    pub(super) fn new() -> std::io::Result<Self> {
        let spec = MapSpec {
            kind: map_kind::ARRAY,
            key_size: 4,
            value_size: 8,
            max_entries: 1,
            flags: MMAPABLE,
            name: "bpflab_clock",
            ..MapSpec::default()
        };
        let map = MapHandle::from_fd(sys::create_map(&spec)?)?;
        let time_ns = MappedArray::new(map.fd(), 1)?;
        Ok(Self { map, time_ns })
    }

    /// Sets the time, ns.
    pub(super) fn set(&self, time_ns: u64) {
        self.time_ns.set(0, time_ns);
    }

    /// The same program, reading this clock.
    ///
    /// # Errors
    /// What cannot be moved, as a sentence.
    pub(super) fn wind(&self, code: &Code) -> Result<Code, String> {
        let (functions, lines) = (functions(code), lines(code));
        let fd = self.map.fd().as_raw_fd();
        let reclocked = reclock(&code.instructions, &functions, &lines, fd, long_jumps());
        let Some(reclocked) = reclocked.map_err(|error| error.to_string())? else { return Ok(code.clone()) };
        Ok(Code {
            instructions: reclocked.instructions,
            functions: (FuncInfo::bytes(&reclocked.functions), FuncInfo::RECORD),
            lines: (LineInfo::bytes(&reclocked.lines), LineInfo::RECORD),
            ..code.clone()
        })
    }
}

/// What a program reached, as it is counted.
#[derive(Debug)]
pub(super) struct Covered {
    map: CoverageMap,
    layout: Layout,
}

impl Covered {
    /// What was reached so far.
    pub(super) fn coverage(&self) -> Result<ProgramCoverage, String> {
        let hits = self.map.read().map_err(|error| crate::error::chain(&error))?;
        Ok(self.layout.coverage(&hits))
    }
}

/// Loads a program with counters. Where the kernel does not take it so, it is loaded as it is, and why it is not covered
/// is said.
///
/// # Errors
/// A program that the kernel does not take as it is.
pub(super) fn load_covered(
    code: &Code,
    identity: Identity<'_>,
    target: Option<&str>,
    types: Option<&Btf>,
    counting: Counting,
) -> Result<(LoadedProgram, Result<Covered, String>), LoadError> {
    let name = identity.program;
    let (plain, log) = code.load_with_log(name, target)?;
    let stack = stack_depths(&log);
    let mut why = String::new();
    // With probes that save registers first: without, some blocks have a flag or nothing.
    let tries: &[Option<&[u32]>] = if stack.is_some() { &[stack.as_deref(), None] } else { &[None] };
    for stack in tries {
        match probed(code, identity, target, types, counting, *stack) {
            Ok((loaded, covered)) => return Ok((loaded, Ok(covered))),
            Err(reason) => why = reason,
        }
    }
    Ok((plain, Err(why)))
}

fn probed(
    code: &Code,
    identity: Identity<'_>,
    target: Option<&str>,
    types: Option<&Btf>,
    counting: Counting,
    stack: Option<&[u32]>,
) -> Result<(LoadedProgram, Covered), String> {
    let (functions, lines) = (functions(code), lines(code));
    let input = Input {
        instructions: &code.instructions,
        functions: &functions,
        lines: &lines,
        map_fd: -1,
        counting,
        first_slot: 0,
        stack,
        long_jumps: long_jumps(),
    };
    let said = |error: &dyn std::error::Error| crate::error::chain(error);
    let slots = instrument(&input).map_err(|error| said(&error))?.slots();
    let map = CoverageMap::new(slots).map_err(|error| said(&error))?;
    let instrumented = instrument(&Input { map_fd: map.as_raw_fd(), ..input }).map_err(|error| said(&error))?;
    let layout = Layout::new(identity, code.instructions.len(), &functions, &lines, types, &instrumented);
    let code = Code {
        functions: (FuncInfo::bytes(&instrumented.functions), FuncInfo::RECORD),
        lines: (LineInfo::bytes(&instrumented.lines), LineInfo::RECORD),
        instructions: instrumented.instructions,
        ..code.clone()
    };
    let (loaded, _) = code.load_with_log(identity.program, target).map_err(|error| said(&error))?;
    Ok((loaded, Covered { map, layout }))
}

fn long_jumps() -> bool {
    Version::of_release(&kernel::release()).is_some_and(|kernel| kernel.against(&Version::series(6, 6)).is_ge())
}

/// Records of `size` bytes each, of which the first words are read.
fn words<const N: usize>((bytes, size): &(Vec<u8>, u32)) -> Vec<[u32; N]> {
    let word = |record: &[u8], at: usize| {
        let four = record.get(at * 4..at * 4 + 4).and_then(|four| four.try_into().ok());
        four.map_or(0, u32::from_ne_bytes)
    };
    let records = bytes.chunks_exact((*size).max(4 * N as u32) as usize);
    records.map(|record| std::array::from_fn(|at| word(record, at))).collect()
}

fn functions(code: &Code) -> Vec<FuncInfo> {
    let records = words::<2>(&code.functions).into_iter();
    records.map(|[insn_off, type_id]| FuncInfo { insn_off, type_id }).collect()
}

fn lines(code: &Code) -> Vec<LineInfo> {
    let records = words::<4>(&code.lines).into_iter();
    let line = |[insn_off, file_name_off, line_off, line_col]: [u32; 4]| LineInfo {
        insn_off,
        file_name_off,
        line_off,
        line_col,
    };
    records.map(line).collect()
}
