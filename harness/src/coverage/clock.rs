//! Another clock for a program: calls of helpers that read the kernel's are replaced by reads of a map.

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use aya_obj::generated::bpf_insn;

use super::instruction::Instruction;
use super::instrument::InstrumentError;
use super::rewrite::{Rewriter, Rewritten};
use super::{FuncInfo, LineInfo};

/// Helpers that give ns of one of the kernel's clocks: `ktime_get_ns`, `ktime_get_boot_ns`, `ktime_get_coarse_ns`,
/// `ktime_get_tai_ns` (`___BPF_FUNC_MAPPER` of `include/uapi/linux/bpf.h`).
pub const CLOCK_HELPERS: [u32; 4] = [5, 125, 160, 208];

/// A call of a helper: `BPF_JMP | BPF_CALL` with source register 0.
const CALL: u8 = 0x85;

/// A program that reads its time from a map.
#[derive(Clone, Debug)]
pub struct Reclocked {
    /// Its instructions.
    pub instructions: Vec<bpf_insn>,
    /// Its functions, moved.
    pub functions: Vec<FuncInfo>,
    /// Its lines, moved.
    pub lines: Vec<LineInfo>,
}

/// Replaces each call of one of [`CLOCK_HELPERS`] by a read of the 8 bytes at the start of the array map `clock_fd`, which
/// must be open when the result is loaded. Nothing if there is no such call.
///
/// # Errors
/// [`InstrumentError`] for code that no kernel would load, and for what cannot be moved.
pub fn reclock(
    instructions: &[bpf_insn],
    functions: &[FuncInfo],
    lines: &[LineInfo],
    clock_fd: RawFd,
    long_jumps: bool,
) -> Result<Option<Reclocked>, InstrumentError> {
    let mut code: Vec<Instruction> = instructions.iter().map(Instruction::from).collect();
    let mut before = BTreeMap::new();
    let mut second = false;
    for (at, (insn, raw)) in code.iter_mut().zip(instructions).enumerate() {
        // The second slot of a 64-bit load is no instruction.
        if std::mem::take(&mut second) {
            continue;
        }
        second = insn.is_wide();
        let helper = raw.imm.cast_unsigned();
        if raw.code == CALL && raw.src_reg() == 0 && CLOCK_HELPERS.contains(&helper) {
            // The result is in r0, as the helper's was; r1 to r5, which it would have taken away, stay.
            before.insert(at, Instruction::map_value(0, clock_fd, 0).to_vec());
            *insn = Instruction::load(0, 0, 0);
        }
    }
    if before.is_empty() {
        return Ok(None);
    }
    let Rewritten { code: moved, entry, .. } = Rewriter { code: &code, probes: &before, long_jumps }.rewrite()?;
    let at = |offset: u32| entry.get(offset as usize).copied().unwrap_or(offset);
    Ok(Some(Reclocked {
        instructions: moved.into_iter().map(bpf_insn::from).collect(),
        functions: functions.iter().map(|one| FuncInfo { insn_off: at(one.insn_off), ..*one }).collect(),
        lines: lines.iter().map(|one| LineInfo { insn_off: at(one.insn_off), ..*one }).collect(),
    }))
}
