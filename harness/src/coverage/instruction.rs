//! One instruction: what it reads and writes, and where it leads (`Documentation/bpf/standardization/instruction-set.rst`).

use aya_obj::generated::bpf_insn;

/// Classes: the lower three bits of the code.
const LD: u8 = 0;
const LDX: u8 = 1;
const ST: u8 = 2;
const STX: u8 = 3;
const JMP: u8 = 5;
const JMP32: u8 = 6;

/// Of arithmetic and jumps: the second operand is a register.
const SOURCE_REGISTER: u8 = 0x08;
/// Modes of loads and stores.
const MODE: u8 = 0xe0;
const MODE_ABS: u8 = 0x20;
const MODE_IND: u8 = 0x40;
const MODE_ATOMIC: u8 = 0xc0;
/// `ld_imm64`, the one instruction of two slots.
const LD_IMM64: u8 = 0x18;
/// Operations.
const OPERATION: u8 = 0xf0;
const ALU_MOV: u8 = 0xb0;
const JA: u8 = 0x00;
const CALL: u8 = 0x80;
const EXIT: u8 = 0x90;
const JCOND: u8 = 0xe0;

/// Immediates of atomic instructions.
const ATOMIC_FETCH: i32 = 0x01;
const ATOMIC_CMPXCHG: i32 = 0xf1;
const ATOMIC_LOAD_ACQUIRE: i32 = 0x100;
const ATOMIC_STORE_RELEASE: i32 = 0x110;

/// Source register of calls of the program's own functions, and of `ld_imm64`s.
const PSEUDO_CALL: u8 = 1;
const PSEUDO_KFUNC_CALL: u8 = 2;
const PSEUDO_MAP_VALUE: u8 = 2;
const PSEUDO_FUNC: u8 = 4;

/// `bpf_tail_call`: where it succeeds, what follows is not run.
const TAIL_CALL: i32 = 12;

/// The frame pointer.
pub(super) const FP: u8 = 10;

/// A set of registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Registers(u16);

impl Registers {
    pub(super) const NONE: Self = Self(0);
    /// Those that instructions can write: `r0` to `r9`.
    pub(super) const GENERAL: Self = Self(0x3ff);
    /// `r1` to `r5`: a call's arguments, which no call preserves.
    pub(super) const ARGUMENTS: Self = Self(0x3e);

    pub(super) const fn of(register: u8) -> Self {
        Self(1 << register)
    }

    pub(super) const fn has(self, register: u8) -> bool {
        self.0 & (1 << register) != 0
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// Where an instruction leads. Distances count from the instruction after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// To the next one.
    Next,
    /// To the next one, if at all: a tail call, a load that ends the program beyond the packet's end.
    PerhapsNext,
    /// To one other.
    Jump(i64),
    /// To another or the next one.
    Branch(i64),
    /// Nowhere.
    Exit,
    /// To an address in a register.
    Indirect,
}

/// An instruction, or the second slot of an `ld_imm64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u8,
    pub(super) dst: u8,
    pub(super) src: u8,
    pub(super) offset: i16,
    pub(super) imm: i32,
}

impl From<&bpf_insn> for Instruction {
    fn from(insn: &bpf_insn) -> Self {
        Self { code: insn.code, dst: insn.dst_reg(), src: insn.src_reg(), offset: insn.off, imm: insn.imm }
    }
}

impl From<Instruction> for bpf_insn {
    fn from(insn: Instruction) -> Self {
        Self {
            code: insn.code,
            _bitfield_align_1: [],
            _bitfield_1: Self::new_bitfield_1(insn.dst, insn.src),
            off: insn.offset,
            imm: insn.imm,
        }
    }
}

impl Instruction {
    pub(super) const fn new(code: u8, dst: u8, src: u8, offset: i16, imm: i32) -> Self {
        Self { code, dst, src, offset, imm }
    }

    /// `register = value`
    pub(super) const fn set(register: u8, value: i32) -> Self {
        Self::new(0xb7, register, 0, 0, value)
    }

    /// `register += value`
    pub(super) const fn add_value(register: u8, value: i32) -> Self {
        Self::new(0x07, register, 0, 0, value)
    }

    /// `*(u64 *)(base + offset) = register`
    pub(super) const fn store(base: u8, offset: i16, register: u8) -> Self {
        Self::new(0x7b, base, register, offset, 0)
    }

    /// `*(u64 *)base = value`
    pub(super) const fn store_value(base: u8, value: i32) -> Self {
        Self::new(0x7a, base, 0, 0, value)
    }

    /// `register = *(u64 *)(base + offset)`
    pub(super) const fn load(register: u8, base: u8, offset: i16) -> Self {
        Self::new(0x79, register, base, offset, 0)
    }

    /// `lock *(u64 *)base += register`: atomic addition that fetches nothing, which every kernel with eBPF has.
    pub(super) const fn add_atomically(base: u8, register: u8) -> Self {
        Self::new(0xdb, base, register, 0, 0)
    }

    /// `register = address of the value of map fd's first element, + offset`: both slots.
    pub(super) const fn map_value(register: u8, fd: i32, offset: i32) -> [Self; 2] {
        [Self::new(LD_IMM64, register, PSEUDO_MAP_VALUE, 0, fd), Self::new(0, 0, 0, 0, offset)]
    }

    /// An unconditional jump with a distance of 16 bits.
    pub(super) const fn jump(distance: i16) -> Self {
        Self::new(JMP, 0, 0, distance, 0)
    }

    /// `gotol`: one with 32 bits, since 6.6 (4cd58e9af8b9).
    pub(super) const fn long_jump(distance: i32) -> Self {
        Self::new(JMP32, 0, 0, 0, distance)
    }

    const fn class(self) -> u8 {
        self.code & 7
    }

    const fn is_jump_class(self) -> bool {
        matches!(self.class(), JMP | JMP32)
    }

    const fn operation(self) -> u8 {
        self.code & OPERATION
    }

    /// Whether the next slot belongs to this instruction.
    pub(super) const fn is_wide(self) -> bool {
        self.code == LD_IMM64
    }

    /// The distance to the function that this calls or takes the address of.
    pub(super) const fn function(self) -> Option<i32> {
        let call = self.code == JMP | CALL && self.src == PSEUDO_CALL;
        if call || (self.is_wide() && self.src == PSEUDO_FUNC) { Some(self.imm) } else { None }
    }

    /// Whether its distance is in the immediate: `gotol`.
    pub(super) const fn is_long_jump(self) -> bool {
        self.code == JMP32
    }

    /// A conditional jump of the program itself, not one that the verifier bounds loops with (`may_goto`).
    pub(super) const fn is_condition(self) -> bool {
        self.is_jump_class() && !matches!(self.operation(), JA | CALL | EXIT | JCOND)
    }

    /// `may_goto`, for which the verifier takes stack of the function (since 6.9, 011832b97b31).
    pub(super) const fn is_may_goto(self) -> bool {
        self.code == JMP | JCOND
    }

    /// A call of `bpf_tail_call`.
    pub(super) const fn is_tail_call(self) -> bool {
        self.code == JMP | CALL && self.src == 0 && self.imm == TAIL_CALL
    }

    const fn is_call(self) -> bool {
        self.code == JMP | CALL || self.code == JMP | CALL | SOURCE_REGISTER
    }

    const fn is_packet_load(self) -> bool {
        self.class() == LD && matches!(self.code & MODE, MODE_ABS | MODE_IND)
    }

    /// Whether this is an instruction of which everything needed here is known.
    pub(super) const fn is_known(self) -> bool {
        let class_known = match self.class() {
            LD => self.is_wide() || self.is_packet_load(),
            JMP => !matches!(self.operation(), 0xf0) && (!self.is_call() || self.src <= PSEUDO_KFUNC_CALL),
            JMP32 => !matches!(self.operation(), CALL | EXIT | JCOND | 0xf0),
            STX if self.code & MODE == MODE_ATOMIC => self.atomic_is_known(),
            _ => true,
        };
        class_known && self.dst <= FP && self.src <= FP
    }

    const fn atomic_is_known(self) -> bool {
        matches!(self.imm, ATOMIC_CMPXCHG | 0xe1 | ATOMIC_LOAD_ACQUIRE | ATOMIC_STORE_RELEASE)
            || matches!(self.imm & !ATOMIC_FETCH, 0x00 | 0x40 | 0x50 | 0xa0)
    }

    /// Where it leads.
    pub(super) const fn control(self) -> Control {
        if self.is_packet_load() || self.is_tail_call() {
            return Control::PerhapsNext;
        }
        if !self.is_jump_class() {
            return Control::Next;
        }
        match self.operation() {
            JA if self.code & SOURCE_REGISTER != 0 => Control::Indirect,
            JA if self.is_long_jump() => Control::Jump(self.imm as i64),
            JA => Control::Jump(self.offset as i64),
            CALL => Control::Next,
            EXIT => Control::Exit,
            _ => Control::Branch(self.offset as i64),
        }
    }

    /// Registers that it reads. `initialised` are those that may hold a value here: a call reads as many of its
    /// arguments as the callee has, which is at most that.
    pub(super) const fn reads(self, initialised: Registers) -> Registers {
        let (dst, src) = (Registers::of(self.dst), Registers::of(self.src));
        let source = if self.code & SOURCE_REGISTER != 0 { src } else { Registers::NONE };
        match self.class() {
            LD if self.code & MODE == MODE_IND => src.or(Registers::of(6)),
            LD if self.is_packet_load() => Registers::of(6),
            LD => Registers::NONE,
            LDX => src,
            ST => dst,
            STX if self.code & MODE != MODE_ATOMIC => dst.or(src),
            STX => match self.imm {
                ATOMIC_LOAD_ACQUIRE => src,
                ATOMIC_CMPXCHG => dst.or(src).or(Registers::of(0)),
                _ => dst.or(src),
            },
            JMP | JMP32 => match self.operation() {
                JA | JCOND => Registers::NONE,
                CALL => Registers::ARGUMENTS.and(initialised),
                EXIT => Registers::of(0).and(initialised),
                _ => dst.or(source),
            },
            // Arithmetic; what a byte swap calls its source is its byte order.
            _ if self.operation() == ALU_MOV => source,
            _ if self.operation() == 0xd0 => dst,
            _ => dst.or(source),
        }
    }

    /// Registers that it writes: after it they have nothing of what they had before.
    pub(super) const fn writes(self) -> Registers {
        let (dst, src) = (Registers::of(self.dst), Registers::of(self.src));
        match self.class() {
            LD if self.is_packet_load() => Registers::ARGUMENTS.or(Registers::of(0)),
            LD | LDX => dst,
            ST => Registers::NONE,
            STX if self.code & MODE != MODE_ATOMIC => Registers::NONE,
            STX => match self.imm {
                ATOMIC_LOAD_ACQUIRE => dst,
                ATOMIC_STORE_RELEASE => Registers::NONE,
                ATOMIC_CMPXCHG => Registers::of(0),
                imm if imm & ATOMIC_FETCH != 0 => src,
                _ => Registers::NONE,
            },
            JMP | JMP32 if self.is_call() => Registers::ARGUMENTS.or(Registers::of(0)),
            JMP | JMP32 => Registers::NONE,
            _ => dst,
        }
    }

    /// Registers of those that it writes which may, and which certainly do, hold a value after it.
    pub(super) const fn initialises(self) -> (Registers, Registers) {
        match self.class() {
            // A function may return nothing.
            JMP | JMP32 if self.is_call() => (Registers::of(0), Registers::NONE),
            LD if self.is_packet_load() => (Registers::of(0), Registers::of(0)),
            _ => (self.writes(), self.writes()),
        }
    }

    /// The lowest byte of the stack that it names itself, as a distance below the frame pointer.
    pub(super) fn stack_below(self) -> u32 {
        let offset = match self.class() {
            LDX if self.src == FP => i64::from(self.offset),
            ST | STX if self.dst == FP => i64::from(self.offset),
            // A load-acquire has its address in the source.
            STX if self.src == FP && self.imm == ATOMIC_LOAD_ACQUIRE => i64::from(self.offset),
            _ => 0,
        };
        u32::try_from(-offset).unwrap_or(0)
    }
}
