//! Choosing a probe for each block of a program, and putting them in.

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use aya_obj::generated::bpf_insn;

use super::flow::Flow;
use super::instruction::{FP, Instruction, Registers};
use super::registers::{self, Facts};
use super::rewrite::{Rewriter, Rewritten};
use super::{FuncInfo, LineInfo, stack};

/// How a probe adds one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counting {
    /// By an atomic addition: exact when several CPUs run the program at once, and about 5 ns a block.
    #[default]
    Atomic,
    /// By loading, adding and storing: under 1 ns a block, and exact where one run ends before the next begins, as in
    /// lockstep. Where runs overlap, counts may be lost.
    Plain,
}

/// A program as it would be loaded, and where to count.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Its instructions, relocated: the program itself, then the functions that it calls.
    pub instructions: &'a [bpf_insn],
    /// Its functions as its BTF has them, in the order of the code; may be empty.
    pub functions: &'a [FuncInfo],
    /// Its lines, in the order of the code; may be empty.
    pub lines: &'a [LineInfo],
    /// The array map of the counters (see [`super::CoverageMap`]); it must be open when the result is loaded.
    pub map_fd: RawFd,
    /// How to count.
    pub counting: Counting,
    /// The counter of the first block; the others follow.
    pub first_slot: u32,
    /// Bytes of stack of each function as the verifier says of this very code (see [`stack_depths`]). They are needed
    /// where a block has no two free registers; without them such a block has no count, but at best a flag.
    ///
    /// [`stack_depths`]: super::stack_depths
    pub stack: Option<&'a [u32]>,
    /// Whether the kernel takes jumps of more than 32767 instructions (`gotol`, since 6.6: 4cd58e9af8b9).
    pub long_jumps: bool,
}

/// A program that counts which of its blocks are reached, to be loaded in place of the plain one.
#[derive(Clone, Debug)]
pub struct Instrumented {
    /// Its instructions.
    pub instructions: Vec<bpf_insn>,
    /// Its functions, moved.
    pub functions: Vec<FuncInfo>,
    /// Its lines, moved. A probe belongs to the line of the block that it stands before.
    pub lines: Vec<LineInfo>,
    /// Where is counted what.
    pub probes: Vec<Probe>,
    /// Blocks that have no probe: no register was free, and no stack to save one.
    pub unprobed: Vec<Span>,
    /// Conditional jumps of the plain program.
    pub branches: Vec<Branch>,
    /// Where each function of the plain program starts, those that its BTF does not tell of included.
    pub starts: Vec<u32>,
    /// Probes that save registers on the stack around themselves.
    pub spilling: u32,
    /// Jumps that had to be made long.
    pub lengthened: u32,
}

impl Instrumented {
    /// How many slots are used: the next program's first is that much higher.
    #[must_use]
    pub fn slots(&self) -> u32 {
        u32::try_from(self.probes.len()).unwrap_or(u32::MAX)
    }
}

/// Instructions of the plain program, in slots of 8 bytes: an `ld_imm64` has two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Span {
    /// Index of the first.
    pub first: u32,
    /// How many.
    pub len: u32,
}

/// What a probe writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// How often the block was entered, on all CPUs.
    Count,
    /// 1 once it was entered.
    Flag,
}

/// A probe at the start of a basic block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Index of its counter in the map.
    pub slot: u32,
    /// First instruction of the block in the plain program.
    pub first: u32,
    /// Instructions of the block.
    pub len: u32,
    /// What it writes.
    pub kind: ProbeKind,
}

/// One way on from a conditional jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// First instruction of the block that it leads to.
    pub to: u32,
    /// Whether nothing else leads there, so that the block's count is that of this way.
    pub only: bool,
}

/// A conditional jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Its index in the plain program.
    pub instruction: u32,
    /// First instruction of its block.
    pub block: u32,
    /// Where it leads if its condition holds.
    pub taken: Edge,
    /// Where it leads otherwise.
    pub not_taken: Edge,
}

/// Why a program could not be instrumented.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstrumentError {
    /// There are no instructions, or more than any kernel takes.
    #[error("cannot instrument a program of {0} instructions")]
    Size(usize),
    /// An instruction that is not known here, so neither is what it reads and writes.
    #[error("cannot instrument instruction {instruction}: code {code:#04x} is not known, or has a form that is not")]
    Unknown {
        /// Its index.
        instruction: usize,
        /// Its code.
        code: u8,
    },
    /// A jump through a register, whose targets are listed in a map.
    #[error("cannot instrument instruction {instruction}: it jumps to wherever a register says")]
    Indirect {
        /// Its index.
        instruction: usize,
    },
    /// A jump or call out of its function or the program, or between the two slots of an instruction.
    #[error("cannot instrument instruction {instruction}: nothing can be jumped to at {target}")]
    Target {
        /// Its index.
        instruction: usize,
        /// Where it leads.
        target: i64,
    },
    /// The end of a function is reached by running on.
    #[error("cannot instrument instruction {instruction}: its function goes on beyond its end")]
    FallsOff {
        /// Its index.
        instruction: usize,
    },
    /// A function or line of the BTF that is out of order, or not at an instruction.
    #[error("cannot instrument a program whose {what} record {record} stands at no instruction or out of order")]
    Record {
        /// `function` or `line`.
        what: &'static str,
        /// Its index.
        record: usize,
    },
    /// The probes between a jump and its target make it longer than it can be.
    #[error(
        "cannot instrument instruction {instruction}: with probes it jumps too far, which this kernel has no jump for"
    )]
    TooFar {
        /// Its index.
        instruction: usize,
    },
    /// The counters do not fit into one value of a map.
    #[error("cannot instrument a program with {blocks} blocks: there are {first_slot} counters already")]
    Slots {
        /// How many more were wanted.
        blocks: usize,
        /// How many there are.
        first_slot: u32,
    },
}

/// Instructions that the verifier takes of anybody (`BPF_COMPLEXITY_LIMIT_INSNS`).
const MOST_INSTRUCTIONS: usize = 1_000_000;
/// How far into a map's value an instruction may point (`BPF_MAX_VAR_OFF`), in counters.
const MOST_SLOTS: usize = (1 << 29) / 8;
/// Registers in the order in which probes take them: those first that compiled code need not save.
const PREFERENCE: [u8; 10] = [0, 5, 4, 3, 2, 1, 9, 8, 7, 6];

/// Puts a probe at the start of each basic block of a program.
///
/// A block begins where a function starts, where a jump leads, and after a jump, a tail call or a load that may end the
/// program; so each of its instructions is run as often as its first, but for one case: a function that it calls may
/// end the program itself, by a tail call or an exception.
///
/// # What a probe does
/// It takes two registers that nobody reads before they are written again: one for the address of its counter, one to
/// add with, as [`Counting`] says. Where there are not two such registers, others are saved below what the function has
/// of the stack, as aligned values of 8 bytes, since that is how the verifier keeps a pointer's type (but before 5.12
/// not the bounds of a number). Where there is no stack for that, 1 is stored through one register; and where no
/// register is free at all, the block is listed as having no probe.
///
/// # Errors
/// [`InstrumentError`] for code that no kernel would load, and for what cannot be moved.
pub fn instrument(input: &Input<'_>) -> Result<Instrumented, InstrumentError> {
    let code: Vec<Instruction> = input.instructions.iter().map(Instruction::from).collect();
    if code.is_empty() || code.len() > MOST_INSTRUCTIONS {
        return Err(InstrumentError::Size(code.len()));
    }
    check_records("function", input.functions.iter().map(|function| function.insn_off), &code, true)?;
    check_records("line", input.lines.iter().map(|line| line.insn_off), &code, false)?;
    let starts: Vec<usize> = input.functions.iter().map(|function| function.insn_off as usize).collect();
    let flow = Flow::of(&code, &starts)?;
    if flow.blocks.len() > MOST_SLOTS - MOST_SLOTS.min(input.first_slot as usize) {
        return Err(InstrumentError::Slots { blocks: flow.blocks.len(), first_slot: input.first_slot });
    }
    let facts = registers::analyse(&code, &flow);
    let spare = stack::spare(&code, &flow, input.stack, &wanted_stack(&flow, &facts));
    let mut chosen = Chosen::new(input);
    for (index, function) in flow.functions.iter().enumerate() {
        for block in function.blocks.clone() {
            chosen.choose(&flow.blocks[block].code, facts[block], spare[index]);
        }
    }
    let Rewritten { code: moved, entry, lengthened, .. } =
        Rewriter { code: &code, probes: &chosen.before, long_jumps: input.long_jumps }.rewrite()?;
    let functions = input.functions.iter().map(|at| FuncInfo { insn_off: entry[at.insn_off as usize], ..*at });
    let lines = input.lines.iter().map(|at| LineInfo { insn_off: entry[at.insn_off as usize], ..*at });
    Ok(Instrumented {
        instructions: moved.into_iter().map(bpf_insn::from).collect(),
        functions: functions.collect(),
        lines: lines.collect(),
        branches: branches(&code, &flow),
        starts: flow.functions.iter().map(|function| index(function.code.start)).collect(),
        probes: chosen.probes,
        unprobed: chosen.unprobed,
        spilling: chosen.spilling,
        lengthened,
    })
}

/// An index into the code, of which there is less than `u32` has numbers.
pub(super) fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// Records stand at instructions, in order; of functions the first is where the program starts.
fn check_records(
    what: &'static str,
    offsets: impl Iterator<Item = u32>,
    code: &[Instruction],
    first_is_start: bool,
) -> Result<(), InstrumentError> {
    let mut last = None;
    for (record, offset) in offsets.enumerate() {
        let at = offset as usize;
        let second = at.checked_sub(1).and_then(|before| code.get(before)).is_some_and(|before| before.is_wide());
        let ordered = last.map_or(!first_is_start || at == 0, |last| last < at);
        if at >= code.len() || second || !ordered {
            return Err(InstrumentError::Record { what, record });
        }
        last = Some(at);
    }
    Ok(())
}

/// Registers that a probe may take as they are.
fn free(facts: Facts) -> Vec<u8> {
    let free = Registers::GENERAL.without(facts.live);
    PREFERENCE.into_iter().filter(|register| free.has(*register)).collect()
}

/// Registers that a probe may save and restore. Long-lived ones come first: they are likelier to be pointers, which
/// every kernel keeps whole.
fn saveable(facts: Facts) -> Vec<u8> {
    let saveable = facts.live.and(facts.certain);
    PREFERENCE.into_iter().rev().filter(|register| saveable.has(*register)).collect()
}

/// Bytes of stack that the probes of each function could use.
fn wanted_stack(flow: &Flow, facts: &[Facts]) -> Vec<u32> {
    let of_block = |facts: &Facts| {
        let missing = 2_usize.saturating_sub(free(*facts).len());
        if saveable(*facts).len() < missing { 0 } else { 8 * missing as u32 }
    };
    let functions = flow.functions.iter();
    functions.map(|function| facts[function.blocks.clone()].iter().map(of_block).max().unwrap_or(0)).collect()
}

/// The probes as they are chosen.
struct Chosen<'a> {
    input: &'a Input<'a>,
    /// Their code, by the instruction that they stand before.
    before: BTreeMap<usize, Vec<Instruction>>,
    probes: Vec<Probe>,
    unprobed: Vec<Span>,
    spilling: u32,
}

impl<'a> Chosen<'a> {
    fn new(input: &'a Input<'a>) -> Self {
        Self { input, before: BTreeMap::new(), probes: Vec::new(), unprobed: Vec::new(), spilling: 0 }
    }

    /// Chooses for the block of `range`; `spare` is how far below the frame pointer its function's stack is unused.
    fn choose(&mut self, range: &std::ops::Range<usize>, facts: Facts, spare: Option<u32>) {
        let (first, len) = (index(range.start), index(range.len()));
        // `instrument` made sure that no slot is too high.
        let slot = self.input.first_slot + index(self.probes.len());
        let address = |register| Instruction::map_value(register, self.input.map_fd, slot.cast_signed() * 8);
        let count = |address_in: u8, one_in: u8| -> Vec<Instruction> {
            let mut code = address(address_in).to_vec();
            match self.input.counting {
                Counting::Atomic => {
                    code.extend([Instruction::set(one_in, 1), Instruction::add_atomically(address_in, one_in)]);
                }
                Counting::Plain => code.extend([
                    Instruction::load(one_in, address_in, 0),
                    Instruction::add_value(one_in, 1),
                    Instruction::store(address_in, 0, one_in),
                ]),
            }
            code
        };
        let free = free(facts);
        let saved: Vec<u8> = saveable(facts).into_iter().take(2_usize.saturating_sub(free.len())).collect();
        let offset = |nth: usize, spare: u32| i16::try_from(-i64::from(spare) - 8 * (nth as i64 + 1)).ok();
        let (kind, code) = match (free.as_slice(), saved.as_slice(), spare) {
            ([a, b, ..], ..) => (ProbeKind::Count, count(*a, *b)),
            (few, saved, Some(spare)) if few.len() + saved.len() == 2 => {
                let places: Option<Vec<i16>> = (0..saved.len()).map(|nth| offset(nth, spare)).collect();
                let Some(places) = places else { return self.unprobed.push(Span { first, len }) };
                let both: Vec<u8> = few.iter().chain(saved).copied().collect();
                let mut code: Vec<Instruction> =
                    saved.iter().zip(&places).map(|(saved, at)| Instruction::store(FP, *at, *saved)).collect();
                code.extend(count(both[0], both[1]));
                code.extend(saved.iter().zip(&places).map(|(saved, at)| Instruction::load(*saved, FP, *at)));
                self.spilling += 1;
                (ProbeKind::Count, code)
            }
            ([a], ..) => {
                let mut code = address(*a).to_vec();
                code.push(Instruction::store_value(*a, 1));
                (ProbeKind::Flag, code)
            }
            _ => return self.unprobed.push(Span { first, len }),
        };
        self.before.insert(range.start, code);
        self.probes.push(Probe { slot, first, len, kind });
    }
}

/// The conditional jumps that have two ways on.
fn branches(code: &[Instruction], flow: &Flow) -> Vec<Branch> {
    let entries = flow.entries();
    let edge = |block: usize| Edge { to: index(flow.blocks[block].code.start), only: entries[block] == 1 };
    let branch = |block: &super::flow::Block| {
        let (Some(next), Some(jump)) = (block.next, block.jump) else { return None };
        let last = super::flow::last_of(code, block.code.clone());
        let is_branch = code[last].is_condition() && next != jump;
        is_branch.then(|| Branch {
            instruction: index(last),
            block: index(block.code.start),
            taken: edge(jump),
            not_taken: edge(next),
        })
    };
    flow.blocks.iter().filter_map(branch).collect()
}
