//! Moving a program's instructions apart to make room for others.

use std::collections::BTreeMap;

use super::flow::target;
use super::instruction::{Control, Instruction};
use super::instrument::{InstrumentError, index};

/// A program and what is to stand before its instructions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rewriter<'a> {
    pub(super) code: &'a [Instruction],
    /// By the index of an instruction, which must not be a second slot. What jumps there jumps to what is put before it.
    pub(super) probes: &'a BTreeMap<usize, Vec<Instruction>>,
    /// Whether there are jumps with a distance of 32 bits.
    pub(super) long_jumps: bool,
}

/// The result.
#[derive(Debug)]
pub(super) struct Rewritten {
    pub(super) code: Vec<Instruction>,
    /// Where each instruction went, or what is put before it.
    pub(super) entry: Vec<u32>,
    /// Jumps that had to be made long.
    pub(super) lengthened: u32,
}

/// Where instructions go.
struct Places {
    /// The instruction, or what stands before it.
    entry: Vec<usize>,
    /// The instruction itself.
    own: Vec<usize>,
}

impl Rewriter<'_> {
    pub(super) fn rewrite(&self) -> Result<Rewritten, InstrumentError> {
        let mut long = vec![false; self.code.len()];
        // A jump that is made long makes others longer, but none shorter: this ends.
        loop {
            let places = self.places(&long);
            let mut more = false;
            for (at, insn) in self.code.iter().enumerate() {
                if let (false, Some(to)) = (long[at], self.short_target(at, *insn)?)
                    && i16::try_from(distance(&places, at, to)).is_err()
                {
                    if !self.long_jumps {
                        return Err(InstrumentError::TooFar { instruction: at });
                    }
                    long[at] = true;
                    more = true;
                }
            }
            if !more {
                return self.emit(&places, &long);
            }
        }
    }

    /// Where a jump leads whose distance has 16 bits.
    fn short_target(&self, at: usize, insn: Instruction) -> Result<Option<usize>, InstrumentError> {
        match insn.control() {
            Control::Jump(distance) | Control::Branch(distance) if !insn.is_long_jump() => {
                target(self.code, at, distance).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn places(&self, long: &[bool]) -> Places {
        let mut places = Places { entry: Vec::with_capacity(long.len()), own: Vec::with_capacity(long.len()) };
        let mut next = 0;
        for (at, insn) in self.code.iter().enumerate() {
            places.entry.push(next);
            next += self.probes.get(&at).map_or(0, Vec::len);
            places.own.push(next);
            // A condition cannot be long itself: two jumps follow it.
            next += if long[at] && matches!(insn.control(), Control::Branch(_)) { 3 } else { 1 };
        }
        places
    }

    fn emit(&self, places: &Places, long: &[bool]) -> Result<Rewritten, InstrumentError> {
        let mut code = Vec::new();
        for (at, insn) in self.code.iter().enumerate() {
            code.extend(self.probes.get(&at).into_iter().flatten());
            let far = |to: usize, after: usize| {
                let distance = places.entry[to] as i64 - (places.own[at] + after) as i64;
                i32::try_from(distance).map_err(|_| InstrumentError::TooFar { instruction: at })
            };
            match insn.control() {
                Control::Branch(distance) if long[at] => {
                    let to = target(self.code, at, distance)?;
                    code.push(Instruction { offset: 1, ..*insn });
                    code.push(Instruction::jump(1));
                    code.push(Instruction::long_jump(far(to, 3)?));
                }
                Control::Jump(distance) if long[at] || insn.is_long_jump() => {
                    code.push(Instruction::long_jump(far(target(self.code, at, distance)?, 1)?));
                }
                Control::Jump(distance) | Control::Branch(distance) => {
                    let to = target(self.code, at, distance)?;
                    let offset = i16::try_from(far(to, 1)?).map_err(|_| InstrumentError::TooFar { instruction: at })?;
                    code.push(Instruction { offset, ..*insn });
                }
                _ => match insn.function() {
                    Some(distance) => {
                        let to = target(self.code, at, i64::from(distance))?;
                        code.push(Instruction { imm: far(to, 1)?, ..*insn });
                    }
                    None => code.push(*insn),
                },
            }
        }
        let lengthened = index(long.iter().filter(|long| **long).count());
        Ok(Rewritten { code, entry: places.entry.iter().map(|at| index(*at)).collect(), lengthened })
    }
}

/// The distance of a jump at `at` to `to`, in the new code.
fn distance(places: &Places, at: usize, to: usize) -> i64 {
    places.entry[to] as i64 - (places.own[at] + 1) as i64
}
