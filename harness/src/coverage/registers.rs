//! Which registers a block may overwrite at its start, and which it may save: liveness, backwards, and
//! initialisation, forwards.
//!
//! The verifier lets nobody read what was not written, not even to save it, and knows of every call how many arguments
//! it has. Here a call is taken to read every argument that may hold a value: in code that the verifier takes, that
//! includes all which the call has, and those registers that hold none are free whatever the call has.

use super::flow::{Flow, Function};
use super::instruction::{FP, Instruction, Registers};

/// What is known of the registers at the start of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Their values may be read before they are overwritten.
    pub(super) live: Registers,
    /// They hold values whichever way led here.
    pub(super) certain: Registers,
}

/// Registers that may hold, and that certainly hold, a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    may: Registers,
    must: Registers,
}

impl Held {
    fn after(self, insn: Instruction) -> Self {
        let (may, must) = insn.initialises();
        let written = insn.writes();
        Self { may: self.may.without(written).or(may), must: self.must.without(written).or(must) }
    }

    fn join(self, other: Option<Self>) -> Self {
        let Some(other) = other else { return self };
        Self { may: self.may.or(other.may), must: self.must.and(other.must) }
    }
}

/// The facts of every block.
pub(super) fn analyse(code: &[Instruction], flow: &Flow) -> Vec<Facts> {
    let mut facts = Vec::with_capacity(flow.blocks.len());
    for (index, function) in flow.functions.iter().enumerate() {
        let held = held(code, flow, function, index == 0);
        let live = live(code, flow, function, &held);
        facts.extend(live.into_iter().zip(&held).map(|(live, held)| Facts { live, certain: held.must }));
    }
    facts
}

/// Instructions of a block; second slots are not among them.
fn instructions(code: &[Instruction], range: std::ops::Range<usize>) -> impl Iterator<Item = Instruction> + '_ {
    let mut second = false;
    code[range].iter().copied().filter(move |insn| {
        let skip = second;
        second = !skip && insn.is_wide();
        !skip
    })
}

/// What each block of a function finds when it is entered.
fn held(code: &[Instruction], flow: &Flow, function: &Function, is_main: bool) -> Vec<Held> {
    let first = function.blocks.start;
    let mut found: Vec<Option<Held>> = vec![None; function.blocks.len()];
    let (context, frame) = (Registers::of(1), Registers::of(FP));
    // Nothing here says how many arguments a function takes.
    let entry = if is_main {
        Held { may: context.or(frame), must: context.or(frame) }
    } else {
        Held { may: Registers::ARGUMENTS.or(frame), must: frame }
    };
    found[0] = Some(entry);
    let mut work = vec![first];
    while let Some(block) = work.pop() {
        let Some(start) = found[block - first] else { continue };
        let end = instructions(code, flow.blocks[block].code.clone()).fold(start, Held::after);
        for next in flow.blocks[block].successors() {
            let joined = end.join(found[next - first]);
            if found[next - first] != Some(joined) {
                found[next - first] = Some(joined);
                work.push(next);
            }
        }
    }
    // What nothing leads to is not loaded by any kernel: nothing is assumed of it.
    let unknown = Held { may: Registers::GENERAL, must: Registers::NONE };
    found.into_iter().map(|held| held.unwrap_or(unknown)).collect()
}

/// What each block of a function may read of what it finds.
fn live(code: &[Instruction], flow: &Flow, function: &Function, held: &[Held]) -> Vec<Registers> {
    let first = function.blocks.start;
    let effects: Vec<(Registers, Registers)> = function
        .blocks
        .clone()
        .map(|block| {
            let (mut reads, mut writes, mut state) = (Registers::NONE, Registers::NONE, held[block - first]);
            for insn in instructions(code, flow.blocks[block].code.clone()) {
                reads = reads.or(insn.reads(state.may).without(writes));
                writes = writes.or(insn.writes());
                state = state.after(insn);
            }
            (reads, writes)
        })
        .collect();
    let mut before: Vec<Vec<usize>> = vec![Vec::new(); function.blocks.len()];
    for block in function.blocks.clone() {
        for next in flow.blocks[block].successors() {
            before[next - first].push(block - first);
        }
    }
    let mut live = vec![Registers::NONE; function.blocks.len()];
    let mut work: Vec<usize> = (0..live.len()).collect();
    while let Some(block) = work.pop() {
        let after =
            flow.blocks[first + block].successors().fold(Registers::NONE, |all, next| all.or(live[next - first]));
        let (reads, writes) = effects[block];
        let found = reads.or(after.without(writes));
        if found != live[block] {
            live[block] = found;
            work.extend(&before[block]);
        }
    }
    live
}
