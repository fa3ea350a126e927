//! Random programs behave the same with probes as without, and the counters say what was run.

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::super::flow::Flow;
use super::super::instruction::Instruction;
use super::super::{Counting, Input, Instrumented, ProbeKind, instrument};
use super::interpreter::Machine;

/// Makes programs that the verifier would take: nothing is read that was not written, and every loop ends.
struct Maker {
    rng: SmallRng,
    code: Vec<Instruction>,
    /// Calls of the program's own functions: where, and which.
    calls: Vec<(usize, usize)>,
    functions: usize,
}

/// Words of stack that a function may use.
const WORDS: i16 = 8;

/// What certainly holds a value at one place.
#[derive(Clone, Copy)]
struct State {
    registers: u16,
    words: u16,
}

impl Maker {
    fn emit(&mut self, code: u8, dst: u8, src: u8, offset: i16, imm: i32) {
        self.code.push(Instruction::new(code, dst, src, offset, imm));
    }

    fn pick(&mut self, set: u16) -> u8 {
        let members: Vec<u8> = (0..10).filter(|register| set & (1 << register) != 0).collect();
        members[self.rng.random_range(0..members.len())]
    }

    /// Something that reads and writes registers and stack.
    fn plain(&mut self, state: &mut State, function: usize) {
        let any = |maker: &mut Self| maker.rng.random_range(0..10_u8);
        if state.registers & 0x3ff == 0 {
            let dst = any(self);
            self.emit(0xb7, dst, 0, 0, 7);
            state.registers |= 1 << dst;
        }
        let (dst, src, imm) = (any(self), self.pick(state.registers), self.rng.random_range(-9..999));
        let word = self.rng.random_range(0..WORDS);
        let (place, stored) = (-8 * (word + 1), state.words & (1 << word) != 0);
        match self.rng.random_range(0..14) {
            0 => self.emit(0xb7, dst, 0, 0, imm),
            1 => self.emit(0xbf, dst, src, 0, 0),
            2 => {
                self.emit(0x18, dst, 0, 0, imm);
                self.emit(0, 0, 0, 0, 1);
            }
            3..=5 => {
                let operation = [0x00, 0x10, 0x20, 0x40, 0x50, 0xa0][self.rng.random_range(0..6_usize)];
                let class = if self.rng.random() { 7 } else { 4 };
                let dst = self.pick(state.registers);
                return self.emit(operation | class | 8, dst, src, 0, 0);
            }
            6 => {
                state.words |= 1 << word;
                return self.emit(0x7b, 10, src, place, 0);
            }
            7 => {
                state.words |= 1 << word;
                return self.emit(0x7a, 10, 0, place, imm);
            }
            8 if stored => self.emit(0x79, dst, 10, place, 0),
            9 if stored => {
                // r0 takes part in compare-and-exchange alone.
                let kinds: &[i32] = if state.registers & 1 != 0 { &[0, 1, 0xe1, 0xf1] } else { &[0, 1, 0xe1] };
                let kind = kinds[self.rng.random_range(0..kinds.len())];
                return self.emit(0xdb, 10, src, place, kind);
            }
            10 | 11 => return self.call(state, function),
            _ => self.emit(0xb7, dst, 0, 0, imm),
        }
        state.registers |= 1 << dst;
    }

    /// A call of a helper with as many arguments as happen to be set, or of a later function.
    fn call(&mut self, state: &mut State, function: usize) {
        let set = (1..=5_u16).take_while(|register| state.registers & (1 << register) != 0).count() as i32;
        if self.rng.random() && function + 1 < self.functions {
            let callee = self.rng.random_range(function + 1..self.functions);
            // Functions take two arguments.
            self.emit(0xb7, 1, 0, 0, 1);
            self.emit(0xb7, 2, 0, 0, 2);
            self.calls.push((self.code.len(), callee));
            self.emit(0x85, 0, 1, 0, 0);
        } else {
            let number = 600 + self.rng.random_range(0..=set);
            self.emit(0x85, 0, 0, 0, number);
        }
        state.registers = state.registers & !0x3e | 1;
    }

    /// A condition on something that is set, to be given its distance later.
    fn condition(&mut self, state: &mut State) -> usize {
        if state.registers & 0x3ff == 0 {
            self.emit(0xb7, 3, 0, 0, 3);
            state.registers |= 1 << 3;
        }
        let operation = [0x10, 0x20, 0x50, 0xa0, 0x60][self.rng.random_range(0..5_usize)];
        let class = if self.rng.random() { 5 } else { 6 };
        let (a, b) = (self.pick(state.registers), self.pick(state.registers));
        let imm = self.rng.random_range(-3..300);
        let by_register = if self.rng.random() { 8 } else { 0 };
        self.emit(operation | class | by_register, a, if by_register == 0 { 0 } else { b }, 0, imm);
        if by_register != 0 {
            self.code.last_mut().unwrap().imm = 0;
        }
        self.code.len() - 1
    }

    fn aim(&mut self, from: usize, to: usize) {
        self.code[from].offset = i16::try_from(to as i64 - from as i64 - 1).unwrap();
    }

    /// Code with branches and loops; `state` is what is set before and after.
    fn body(&mut self, state: &mut State, function: usize, depth: u32) {
        for _ in 0..self.rng.random_range(1..6) {
            let before = *state;
            match self.rng.random_range(0..6) {
                0 if depth > 0 => {
                    let skip = self.condition(state);
                    let mut inside = *state;
                    self.body(&mut inside, function, depth - 1);
                    // Half of them have an `else`.
                    if self.rng.random() {
                        let end = self.code.len();
                        if self.rng.random() {
                            self.emit(0x05, 0, 0, 0, 0)
                        } else {
                            self.emit(0x06, 0, 0, 0, 0)
                        }
                        let after = self.code.len();
                        self.aim(skip, after);
                        self.body(state, function, depth - 1);
                        let distance = (self.code.len() - end - 1) as i32;
                        match self.code[end].code {
                            5 => self.code[end].offset = distance as i16,
                            _ => self.code[end].imm = distance,
                        }
                    } else {
                        let after = self.code.len();
                        self.aim(skip, after);
                    }
                    state.registers &= inside.registers;
                    state.words &= inside.words;
                }
                1 if depth > 0 => {
                    // The loop's count is where nothing else writes, by its depth.
                    let place = -8 * (WORDS + 1 + depth as i16);
                    let times = self.rng.random_range(1..4);
                    self.emit(0x7a, 10, 0, place, times);
                    let head = self.code.len();
                    self.body(state, function, depth - 1);
                    for lost in (0..10).filter(|lost| before.registers & !state.registers & (1 << lost) != 0) {
                        self.emit(0xb7, lost, 0, 0, 5);
                    }
                    self.emit(0x79, 0, 10, place, 0);
                    self.emit(0x07, 0, 0, 0, -1);
                    self.emit(0x7b, 10, 0, place, 0);
                    self.emit(0x55, 0, 0, 0, 0);
                    let last = self.code.len() - 1;
                    self.aim(last, head);
                    state.registers |= before.registers | 1;
                }
                _ => self.plain(state, function),
            }
        }
    }

    fn program(seed: u64) -> Vec<Instruction> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let functions = rng.random_range(1..4);
        let mut maker = Self { rng, code: Vec::new(), calls: Vec::new(), functions };
        let mut starts = Vec::new();
        for function in 0..functions {
            starts.push(maker.code.len());
            let mut state = State { registers: if function == 0 { 2 } else { 6 }, words: 0 };
            // Some have all registers taken all the time, so that probes must save some.
            let crowded = maker.rng.random_range(0..3) == 0;
            if crowded {
                for register in 0..10 {
                    maker.emit(0xb7, register, 0, 0, i32::from(register) + 40);
                }
                state.registers = 0x3ff;
            }
            maker.body(&mut state, function, 3);
            if state.registers & 1 == 0 {
                maker.emit(0xb7, 0, 0, 0, 9);
                state.registers |= 1;
            }
            if crowded {
                for register in (1..10).filter(|register| state.registers & (1 << register) != 0) {
                    maker.emit(0x0f, 0, register, 0, 0);
                }
            }
            maker.emit(0x95, 0, 0, 0, 0);
        }
        for (at, callee) in maker.calls.clone() {
            maker.code[at].imm = starts[callee] as i32 - at as i32 - 1;
        }
        maker.code
    }
}

/// The stack that functions of [`Maker`] use at most: words, and counts of loops.
const STACK: u32 = 8 * (WORDS as u32 + 4);

fn instrumented(code: &[Instruction], measured: bool) -> Instrumented {
    let instructions: Vec<_> = code.iter().copied().map(aya_obj::generated::bpf_insn::from).collect();
    let depths = vec![STACK; Flow::of(code, &[]).unwrap().functions.len()];
    let input = Input {
        instructions: &instructions,
        functions: &[],
        lines: &[],
        map_fd: 77,
        counting: if measured { Counting::Atomic } else { Counting::Plain },
        first_slot: 5,
        stack: measured.then_some(&depths),
        long_jumps: false,
    };
    instrument(&input).unwrap()
}

#[test]
fn random_programs_do_the_same_with_probes_and_their_counters_are_right() {
    let (mut counts, mut flags, mut spilling, mut unprobed, mut branches) = (0, 0, 0, 0, 0);
    for seed in 0..4000 {
        let code = Maker::program(seed);
        for measured in [true, false] {
            let result = instrumented(&code, measured);
            let moved: Vec<Instruction> = result.instructions.iter().map(Instruction::from).collect();
            for context in [0, 41, u64::MAX] {
                let (trace, plain) = Machine::run(&code, context).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
                let (with_probes, found) =
                    Machine::run(&moved, context).unwrap_or_else(|why| panic!("seed {seed}, with probes: {why}"));
                assert_eq!(with_probes, trace, "seed {seed}");
                for probe in &result.probes {
                    let runs = plain.runs[probe.first as usize];
                    let expected = if probe.kind == ProbeKind::Flag { runs.min(1) } else { runs };
                    let counted = found.slots.get(&u64::from(probe.slot)).copied().unwrap_or(0);
                    assert_eq!(counted, expected, "seed {seed}, {probe:?}");
                    // What a block is: all of it, or nothing.
                    let block = &plain.runs[probe.first as usize..(probe.first + probe.len) as usize];
                    assert!(block.iter().all(|times| *times == runs || *times == 0), "seed {seed}, {probe:?}");
                }
            }
            branches += check_branches(&code, &result, seed);
            let flagged = result.probes.iter().filter(|probe| probe.kind == ProbeKind::Flag).count();
            counts += result.probes.len() - flagged;
            flags += flagged;
            spilling += result.spilling;
            unprobed += result.unprobed.len();
        }
    }
    // The programs are of all kinds.
    assert!(
        counts > 10_000 && flags > 50 && spilling > 100 && unprobed > 10 && branches > 1000,
        "{counts} {flags} {spilling} {unprobed} {branches}"
    );
}

/// Holds the counts of branches against the machine's; gives how many were known.
fn check_branches(code: &[Instruction], result: &Instrumented, seed: u64) -> usize {
    use super::super::{Hits, Identity, Layout};
    let moved: Vec<Instruction> = result.instructions.iter().map(Instruction::from).collect();
    let (_, found) = Machine::run(&moved, 41).unwrap();
    let (_, plain) = Machine::run(code, 41).unwrap();
    let hits = Hits((0..=5 + result.slots()).map(|slot| found.slots.get(&slot.into()).copied().unwrap_or(0)).collect());
    let identity = Identity { object: "o", digest: "d", program: "p" };
    let coverage = Layout::new(identity, code.len(), &[], &[], None, result).coverage(&hits);
    let mut known = 0;
    for branch in &coverage.branches {
        let all = plain.runs[branch.instruction as usize];
        if let (Some(taken), Some(not_taken)) = (branch.taken, branch.not_taken) {
            assert_eq!(taken + not_taken, all, "seed {seed}, {branch:?}");
            known += 1;
        }
    }
    let reached = plain.runs.iter().filter(|runs| **runs > 0).count();
    let wide = code.iter().zip(&plain.runs).filter(|(insn, runs)| insn.is_wide() && **runs > 0).count();
    if result.unprobed.is_empty() {
        assert_eq!(coverage.reached as usize, reached + wide, "seed {seed}");
    }
    known
}
