//! A machine for eBPF, as strict about uninitialised registers and stack as the verifier is.

use std::collections::BTreeMap;

use super::super::instruction::{Control, FP, Instruction};

/// What `ld_imm64` gives for the value of the counters' map.
const COUNTERS: u64 = 0x7000_0000_0000;
/// What the frame pointer of the first function is.
const STACK: u64 = 0x1000_0000;
/// Bytes of stack of each function.
const FRAME: u64 = 512;
/// Instructions after which a program is taken to run forever.
const FUEL: u64 = 1 << 20;

/// What is seen of a run from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trace {
    /// What it returned.
    pub(super) result: u64,
    /// Helpers with their arguments, in order.
    pub(super) calls: Vec<(i32, Vec<u64>)>,
}

/// What is counted besides.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// How often each instruction was run.
    pub(super) runs: Vec<u64>,
    /// The counters' map.
    pub(super) slots: BTreeMap<u64, u64>,
}

/// A register or a word of the stack; nothing if it holds no value.
type Word = Option<u64>;

pub(super) struct Machine<'a> {
    code: &'a [Instruction],
    stack: BTreeMap<u64, u64>,
    trace: Trace,
    pub(super) counts: Counts,
    fuel: u64,
}

impl<'a> Machine<'a> {
    /// Runs a program. An error is what the verifier would refuse.
    pub(super) fn run(code: &'a [Instruction], context: u64) -> Result<(Trace, Counts), String> {
        let counts = Counts { runs: vec![0; code.len()], ..Counts::default() };
        let mut machine = Self { code, stack: BTreeMap::new(), trace: Trace::default(), counts, fuel: FUEL };
        let mut registers = [None; 11];
        registers[1] = Some(context);
        machine.trace.result = machine.function(0, registers, 0)?.ok_or("r0 is not set at the end")?;
        Ok((machine.trace, machine.counts))
    }

    fn function(&mut self, start: usize, mut registers: [Word; 11], depth: u64) -> Result<Word, String> {
        registers[FP as usize] = Some(STACK - depth * FRAME);
        let mut at = start;
        loop {
            let insn = self.code[at];
            self.counts.runs[at] += 1;
            self.fuel = self.fuel.checked_sub(1).ok_or("it runs forever")?;
            let mut next = at + if insn.is_wide() { 2 } else { 1 };
            let to = |distance: i64| (at as i64 + 1 + distance) as usize;
            match insn.control() {
                Control::Exit => return Ok(registers[0]),
                Control::Jump(distance) => next = to(distance),
                Control::Branch(distance) if self.holds(insn, &registers)? => next = to(distance),
                Control::Branch(_) => {}
                _ if insn.code == 0x85 => {
                    registers[0] = match insn.function() {
                        Some(distance) => self.function(to(distance.into()), callee(&registers), depth + 1)?,
                        None => Some(self.helper(insn.imm, &registers)?),
                    };
                    registers[1..=5].fill(None);
                }
                _ => self.step(at, insn, &mut registers)?,
            }
            at = next;
        }
    }

    /// A helper with as many arguments as its number says, whose result depends on them.
    fn helper(&mut self, number: i32, registers: &[Word; 11]) -> Result<u64, String> {
        let arguments: Option<Vec<u64>> = registers[1..=(number % 6) as usize].iter().copied().collect();
        let arguments = arguments.ok_or_else(|| format!("an argument of helper {number} is not set"))?;
        let mix = |hash: u64, value: &u64| (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        let result = arguments.iter().fold(number as u64, mix);
        self.trace.calls.push((number, arguments));
        Ok(result)
    }

    fn holds(&self, insn: Instruction, registers: &[Word; 11]) -> Result<bool, String> {
        let (a, b) = operands(insn, registers)?;
        let (a, b) = if insn.code & 7 == 6 { (a & 0xffff_ffff, b & 0xffff_ffff) } else { (a, b) };
        Ok(match insn.code & 0xf0 {
            0x10 => a == b,
            0x20 => a > b,
            0x50 => a != b,
            0xa0 => a < b,
            0x60 => a.cast_signed() > b.cast_signed(),
            other => return Err(format!("condition {other:#x}")),
        })
    }

    fn step(&mut self, at: usize, insn: Instruction, registers: &mut [Word; 11]) -> Result<(), String> {
        let get = |register: u8| registers[register as usize].ok_or_else(|| format!("{at}: r{register} is not set"));
        let place = |base: u8| Ok::<u64, String>(get(base)?.wrapping_add_signed(insn.offset.into()));
        match insn.code {
            0x18 if insn.src == 2 => {
                registers[insn.dst as usize] = Some(COUNTERS + self.code[at + 1].imm as u64);
            }
            0x18 => {
                let high = (self.code[at + 1].imm as u64) << 32;
                registers[insn.dst as usize] = Some(high | u64::from(insn.imm.cast_unsigned()));
            }
            0x79 => registers[insn.dst as usize] = Some(*self.word(place(insn.src)?)?),
            0x7b => self.store(place(insn.dst)?, get(insn.src)?)?,
            0x7a => self.store(place(insn.dst)?, insn.imm as u64)?,
            0xdb => return self.atomic(insn, place(insn.dst)?, registers),
            _ => registers[insn.dst as usize] = Some(alu(insn, registers)?),
        }
        Ok(())
    }

    fn atomic(&mut self, insn: Instruction, place: u64, registers: &mut [Word; 11]) -> Result<(), String> {
        let operand = registers[insn.src as usize].ok_or("the operand of an atomic is not set")?;
        let expected = registers[0];
        let word = self.word(place)?;
        let old = *word;
        match insn.imm {
            0 | 1 => *word = old.wrapping_add(operand),
            0xe1 => *word = operand,
            0xf1 if old == expected.ok_or("r0 of an exchange is not set")? => *word = operand,
            0xf1 => {}
            other => return Err(format!("atomic {other:#x}")),
        }
        match insn.imm {
            1 | 0xe1 => registers[insn.src as usize] = Some(old),
            0xf1 => registers[0] = Some(old),
            _ => {}
        }
        Ok(())
    }

    fn word(&mut self, place: u64) -> Result<&mut u64, String> {
        if place >= COUNTERS {
            return Ok(self.counts.slots.entry((place - COUNTERS) / 8).or_default());
        }
        self.stack.get_mut(&place).ok_or_else(|| format!("nothing was stored at {place:#x}"))
    }

    fn store(&mut self, place: u64, value: u64) -> Result<(), String> {
        if place >= COUNTERS {
            *self.word(place)? = value;
        } else if place > STACK || place.is_multiple_of(8) {
            self.stack.insert(place, value);
        } else {
            return Err(format!("{place:#x} is not aligned"));
        }
        Ok(())
    }
}

fn callee(registers: &[Word; 11]) -> [Word; 11] {
    let mut fresh = [None; 11];
    fresh[1..=5].copy_from_slice(&registers[1..=5]);
    fresh
}

fn operands(insn: Instruction, registers: &[Word; 11]) -> Result<(u64, u64), String> {
    let get = |register: u8| registers[register as usize].ok_or_else(|| format!("r{register} is not set"));
    Ok((get(insn.dst)?, if insn.code & 8 != 0 { get(insn.src)? } else { insn.imm as u64 }))
}

fn alu(insn: Instruction, registers: &[Word; 11]) -> Result<u64, String> {
    let value = match insn.code & 0xf0 {
        0xb0 if insn.code & 8 != 0 => registers[insn.src as usize].ok_or("the source of a move is not set")?,
        0xb0 => insn.imm as u64,
        operation => {
            let (a, b) = operands(insn, registers)?;
            match operation {
                0x00 => a.wrapping_add(b),
                0x10 => a.wrapping_sub(b),
                0x20 => a.wrapping_mul(b),
                0x40 => a | b,
                0x50 => a & b,
                0x70 => a >> (b & 63),
                0xa0 => a ^ b,
                other => return Err(format!("operation {other:#x}")),
            }
        }
    };
    Ok(if insn.code & 7 == 4 { value & 0xffff_ffff } else { value })
}
