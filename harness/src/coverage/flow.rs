//! Functions and basic blocks.

use std::collections::BTreeSet;
use std::ops::Range;

use super::instruction::{Control, Instruction};
use super::instrument::InstrumentError;

/// Instructions that are run one after the other: none but the first is jumped to, and all but the last lead to the
/// next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Its instructions.
    pub(super) code: Range<usize>,
    /// The block behind it, if it can lead there.
    pub(super) next: Option<usize>,
    /// The block that it jumps to.
    pub(super) jump: Option<usize>,
}

impl Block {
    pub(super) fn successors(&self) -> impl Iterator<Item = usize> + use<> {
        self.next.into_iter().chain(self.jump)
    }
}

/// A function of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// Its instructions.
    pub(super) code: Range<usize>,
    /// Its blocks; the first is where it is entered.
    pub(super) blocks: Range<usize>,
    /// The functions that it calls or hands to somebody who does.
    pub(super) callees: Vec<usize>,
}

/// A program's functions and blocks, both in the order of the code.
#[derive(Clone, Debug, Default)]
pub(super) struct Flow {
    pub(super) functions: Vec<Function>,
    pub(super) blocks: Vec<Block>,
}

/// The instruction at `distance` from the one after `at`.
pub(super) fn target(code: &[Instruction], at: usize, distance: i64) -> Result<usize, InstrumentError> {
    let target = i64::try_from(at).unwrap_or(i64::MAX).saturating_add(1).saturating_add(distance);
    let inside = usize::try_from(target).ok().filter(|target| {
        *target < code.len() && !target.checked_sub(1).is_some_and(|before| starts_wide(code, before))
    });
    inside.ok_or(InstrumentError::Target { instruction: at, target })
}

/// Whether the instruction at `at` is the first slot of two. A second slot has no code, so it is not taken for one.
fn starts_wide(code: &[Instruction], at: usize) -> bool {
    code[at].is_wide()
}

impl Flow {
    /// Finds them. `starts` are the functions known to start at an instruction; those that are called are found anyway.
    pub(super) fn of(code: &[Instruction], starts: &[usize]) -> Result<Self, InstrumentError> {
        let mut functions = BTreeSet::from([0]);
        functions.extend(starts.iter().copied());
        let mut leaders = BTreeSet::new();
        let mut at = 0;
        while at < code.len() {
            let insn = code[at];
            let next = at + if insn.is_wide() { 2 } else { 1 };
            let whole = next <= code.len() && (next == at + 1 || code[at + 1].code == 0);
            if !insn.is_known() || !whole {
                return Err(InstrumentError::Unknown { instruction: at, code: insn.code });
            }
            if let Some(distance) = insn.function() {
                functions.insert(target(code, at, i64::from(distance))?);
            }
            match insn.control() {
                Control::Next => {}
                Control::PerhapsNext | Control::Exit => drop(leaders.insert(next)),
                Control::Jump(distance) | Control::Branch(distance) => {
                    leaders.extend([next, target(code, at, distance)?]);
                }
                Control::Indirect => return Err(InstrumentError::Indirect { instruction: at }),
            }
            at = next;
        }
        let mut flow = Self::default();
        let starts: Vec<usize> = functions.into_iter().collect();
        for (index, start) in starts.iter().enumerate() {
            let end = starts.get(index + 1).copied().unwrap_or(code.len());
            flow.add_function(code, *start..end, &starts, &leaders)?;
        }
        Ok(flow)
    }

    fn add_function(
        &mut self,
        code: &[Instruction],
        range: Range<usize>,
        starts: &[usize],
        leaders: &BTreeSet<usize>,
    ) -> Result<(), InstrumentError> {
        let inside = leaders.range(range.start + 1..range.end).copied();
        let cuts: Vec<usize> = std::iter::once(range.start).chain(inside).chain([range.end]).collect();
        let first = self.blocks.len();
        let find = |from: usize, to: usize| match cuts[..cuts.len() - 1].binary_search(&to) {
            Ok(index) => Ok(first + index),
            Err(_) => Err(InstrumentError::Target { instruction: from, target: i64::try_from(to).unwrap_or(i64::MAX) }),
        };
        for pair in cuts.windows(2) {
            let (start, end) = (pair[0], pair[1]);
            let last = last_of(code, start..end);
            let (falls, jumps) = match code[last].control() {
                Control::Next | Control::PerhapsNext => (true, None),
                Control::Branch(distance) => (true, Some(distance)),
                Control::Jump(distance) => (false, Some(distance)),
                Control::Exit | Control::Indirect => (false, None),
            };
            if falls && end == range.end {
                return Err(InstrumentError::FallsOff { instruction: last });
            }
            let next = if falls { Some(find(last, end)?) } else { None };
            let jump = jumps.map(|distance| find(last, target(code, last, distance)?)).transpose()?;
            self.blocks.push(Block { code: start..end, next, jump });
        }
        let mut callees: Vec<usize> = Vec::new();
        for at in range.clone() {
            if let Some(distance) = code[at].function() {
                let callee = target(code, at, i64::from(distance))?;
                callees.extend(starts.binary_search(&callee).ok());
            }
        }
        callees.sort_unstable();
        callees.dedup();
        self.functions.push(Function { code: range, blocks: first..self.blocks.len(), callees });
        Ok(())
    }

    /// How many ways lead into each block: jumps, running on, and the entries of functions.
    pub(super) fn entries(&self) -> Vec<u32> {
        let mut entries = vec![0; self.blocks.len()];
        for successor in self.blocks.iter().flat_map(Block::successors) {
            entries[successor] += 1;
        }
        for function in &self.functions {
            entries[function.blocks.start] += 1;
        }
        entries
    }
}

/// The last instruction of a range, which does not end between the slots of one.
pub(super) fn last_of(code: &[Instruction], range: Range<usize>) -> usize {
    let last = range.end - 1;
    if last > range.start && starts_wide(code, last - 1) { last - 1 } else { last }
}
