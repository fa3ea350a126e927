//! Which instructions and source lines of an eBPF program were reached.
//!
//! A program is instrumented before it is loaded, as bytecode: [`instrument`] puts a probe at the start of each basic
//! block, which adds one to a counter in an array map ([`CoverageMap`]). Neither its source nor its compiler takes part,
//! so any program whose code may use the value of an array map can be covered (Linux 5.10 and newer).
//!
//! What was counted ([`Hits`]) and where things stand in the code and its source ([`Layout`]) make a
//! [`ProgramCoverage`]; those of several runs, modes and kernels add up in a [`Report`], which the functions of
//! [`render`] turn into text, annotated source, an lcov tracefile or JSON.
//!
//! All but [`CoverageMap`] is pure data: nothing here loads a program.

use aya_obj::generated::{bpf_func_info, bpf_line_info};

mod clock;
mod counters;
mod flow;
mod instruction;
mod instrument;
mod layout;
mod registers;
pub mod render;
mod report;
mod rewrite;
mod stack;

pub use clock::{CLOCK_HELPERS, Reclocked, reclock};
pub use counters::{CoverageMap, CoverageMapError, Hits};
pub use instrument::{
    Branch, Counting, Edge, Input, InstrumentError, Instrumented, Probe, ProbeKind, Span, instrument,
};
pub use layout::{Identity, Layout};
pub use report::{
    BlockCoverage, BranchCoverage, FunctionCoverage, LineCoverage, MergeError, ProgramCoverage, Report, VERSION,
};
pub use stack::stack_depths;

/// The start of a function (`struct bpf_func_info` of `include/uapi/linux/bpf.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FuncInfo {
    /// Index of its first instruction.
    pub insn_off: u32,
    /// Its type in the object's BTF.
    pub type_id: u32,
}

/// From where on instructions belong to a source line (`struct bpf_line_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineInfo {
    /// Index of the first instruction.
    pub insn_off: u32,
    /// Offset of the file's name in the BTF's strings.
    pub file_name_off: u32,
    /// Offset of the line's text in the BTF's strings.
    pub line_off: u32,
    /// Line in the upper 22 bits, column in the lower 10, both from 1.
    pub line_col: u32,
}

impl FuncInfo {
    /// Bytes of a record as the kernel reads it.
    pub const RECORD: u32 = 8;

    /// Records as the kernel reads them, in the machine's byte order.
    #[must_use]
    pub fn bytes(records: &[Self]) -> Vec<u8> {
        records.iter().flat_map(|record| [record.insn_off, record.type_id]).flat_map(u32::to_ne_bytes).collect()
    }
}

impl From<&bpf_func_info> for FuncInfo {
    fn from(record: &bpf_func_info) -> Self {
        Self { insn_off: record.insn_off, type_id: record.type_id }
    }
}

impl LineInfo {
    /// Bytes of a record as the kernel reads it.
    pub const RECORD: u32 = 16;

    /// Records as the kernel reads them, in the machine's byte order.
    #[must_use]
    pub fn bytes(records: &[Self]) -> Vec<u8> {
        let words = |record: &Self| [record.insn_off, record.file_name_off, record.line_off, record.line_col];
        records.iter().flat_map(words).flat_map(u32::to_ne_bytes).collect()
    }
}

impl From<&bpf_line_info> for LineInfo {
    fn from(record: &bpf_line_info) -> Self {
        let bpf_line_info { insn_off, file_name_off, line_off, line_col } = *record;
        Self { insn_off, file_name_off, line_off, line_col }
    }
}

#[cfg(test)]
mod tests;
