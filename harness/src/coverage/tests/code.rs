//! Code written by hand.

use aya_obj::generated::bpf_insn;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::super::flow::Flow;
use super::super::instruction::{Instruction, Registers};
use super::super::{
    Counting, FuncInfo, Input, InstrumentError, Instrumented, LineInfo, ProbeKind, Span, instrument, registers, stack,
    stack_depths,
};

const EXIT: Instruction = Instruction::new(0x95, 0, 0, 0, 0);
/// Slots of a probe that counts atomically: an address of two, a move, the addition.
const PROBE: u32 = 4;

fn insn(code: u8, dst: u8, src: u8, offset: i16, imm: i32) -> Instruction {
    Instruction::new(code, dst, src, offset, imm)
}

fn with(code: &[Instruction], functions: &[FuncInfo], lines: &[LineInfo]) -> Result<Instrumented, InstrumentError> {
    let instructions: Vec<bpf_insn> = code.iter().copied().map(bpf_insn::from).collect();
    instrument(&Input {
        instructions: &instructions,
        functions,
        lines,
        map_fd: 3,
        counting: Counting::Atomic,
        first_slot: 0,
        stack: None,
        long_jumps: true,
    })
}

fn of(code: &[Instruction]) -> Result<Instrumented, InstrumentError> {
    with(code, &[], &[])
}

fn moved(result: &Instrumented) -> Vec<Instruction> {
    result.instructions.iter().map(Instruction::from).collect()
}

#[test]
fn calls_callbacks_jumps_and_records_move_with_the_code() {
    let function = |insn_off, type_id| FuncInfo { insn_off, type_id };
    let line = |insn_off, number: u32| LineInfo { insn_off, file_name_off: 1, line_off: 2, line_col: number << 10 };
    let code = [
        insn(0x18, 2, 4, 0, 6), // 0: r2 = address of the function at 7
        insn(0, 0, 0, 0, 0),
        insn(0x85, 0, 1, 0, 4),  // 2: call the same
        insn(0x06, 0, 0, 0, 1),  // 3: gotol 5
        insn(0x05, 0, 0, -2, 0), // 4: goto 3
        insn(0x15, 0, 0, -3, 1), // 5: if r0 == 1 goto 3
        EXIT,                    // 6
        insn(0xb7, 0, 0, 0, 0),  // 7: the function
        EXIT,
    ];
    let functions = [function(0, 11), function(7, 12)];
    let result = with(&code, &functions, &[line(0, 1), line(2, 2), line(3, 3), line(7, 4), line(8, 5)]).unwrap();
    // Blocks start at 0, 3, 4, 5, 6 and 7. Each of them is moved by its own probe and those before it.
    let starts = [0, 3, 4, 5, 6, 7];
    assert_eq!(result.probes.iter().map(|probe| probe.first).collect::<Vec<_>>(), starts);
    assert_eq!(result.probes.iter().map(|probe| probe.slot).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(result.functions, [function(0, 11), function(7 + 5 * PROBE, 12)]);
    // A line at a block's start is where its probe is, another where its instruction is.
    assert_eq!(
        result.lines,
        [line(0, 1), line(2 + PROBE, 2), line(3 + PROBE, 3), line(7 + 5 * PROBE, 4), line(8 + 6 * PROBE, 5)]
    );
    let (code, at) = (moved(&result), |index: u32| index as usize);
    let entry = (7 + 5 * PROBE) as i32;
    assert_eq!(code[at(PROBE)].imm, entry - PROBE as i32 - 1, "the address");
    assert_eq!(code[at(2 + PROBE)].imm, entry - (2 + PROBE as i32) - 1, "the call");
    assert_eq!(code[at(3 + 2 * PROBE)].imm, 1 + PROBE as i32, "gotol leads to a probe beyond another");
    assert_eq!(i32::from(code[at(4 + 3 * PROBE)].offset), -2 - 2 * PROBE as i32, "back to a probe");
    assert_eq!(i32::from(code[at(5 + 4 * PROBE)].offset), -3 - 3 * PROBE as i32, "the condition");
    assert_eq!(result.starts, [0, 7]);
    assert_eq!(result.branches.len(), 1);
}

/// Registers that may be read behind the start of the first block.
fn live(code: &[Instruction]) -> Vec<u8> {
    let flow = Flow::of(code, &[]).unwrap();
    let facts = registers::analyse(code, &flow);
    (0..11).filter(|register| facts[0].live.has(*register)).collect()
}

#[test]
fn each_instruction_reads_and_writes_what_the_instruction_set_says() {
    // r1 is the program's context, and the only one that a call can have as an argument at its start.
    let cases: [(&str, &[Instruction], &[u8]); 15] = [
        ("exit", &[EXIT], &[]),
        ("a call", &[insn(0x85, 0, 0, 0, 5), EXIT], &[1]),
        ("a kernel function", &[insn(0x85, 0, 2, 0, 5), EXIT], &[1]),
        ("compare and exchange reads r0", &[insn(0xdb, 7, 8, 0, 0xf1), EXIT], &[0, 7, 8]),
        ("exchange", &[insn(0xdb, 7, 8, 0, 0xe1), EXIT], &[7, 8]),
        ("load-acquire", &[insn(0xdb, 7, 8, 0, 0x100), EXIT], &[8]),
        ("store-release", &[insn(0xdb, 7, 8, 0, 0x110), EXIT], &[7, 8]),
        ("a store of a number", &[insn(0x7a, 7, 0, 0, 1), EXIT], &[7]),
        ("a load with sign", &[insn(0x81, 7, 8, 0, 0), EXIT], &[8]),
        ("a packet load", &[insn(0x20, 0, 0, 0, 1), EXIT], &[6]),
        ("an indirect one", &[insn(0x40, 0, 7, 0, 1), EXIT], &[6, 7]),
        ("a cast between address spaces", &[insn(0xbf, 7, 8, 1, 1), EXIT], &[8]),
        ("a byte swap", &[insn(0xdc, 7, 0, 0, 16), EXIT], &[7]),
        ("may_goto", &[insn(0xe5, 0, 0, 0, 0), EXIT], &[]),
        ("what is written first", &[insn(0xb7, 7, 0, 0, 1), insn(0x0f, 7, 8, 0, 0), EXIT], &[8]),
    ];
    for (what, code, expected) in cases {
        assert_eq!(live(code), expected, "{what}");
    }
    // The compiler's loops: what is read in the next round is live at the end of this.
    let code = [insn(0x0f, 7, 8, 0, 0), insn(0x55, 9, 0, -2, 0), insn(0xbf, 0, 6, 0, 0), EXIT];
    assert_eq!(live(&code), [6, 7, 8, 9]);
}

#[test]
fn blocks_begin_where_the_program_may_have_ended() {
    let code = [
        insn(0xb7, 0, 0, 0, 0),
        insn(0x85, 0, 0, 0, 12), // tail call
        insn(0xb7, 0, 0, 0, 1),
        insn(0x20, 0, 0, 0, 4), // packet load
        insn(0xe5, 0, 0, 0, 0), // may_goto
        EXIT,
    ];
    let result = of(&code).unwrap();
    let spans: Vec<(u32, u32)> = result.probes.iter().map(|probe| (probe.first, probe.len)).collect();
    assert_eq!(spans, [(0, 2), (2, 2), (4, 1), (5, 1)]);
    assert_eq!(result.branches, [], "may_goto is the verifier's");
}

/// Code whose last block finds all registers but `free` taken.
fn crowded(free: u8) -> Vec<Instruction> {
    let taken = (0..10_u8).filter(|register| *register >= free);
    let mut code: Vec<Instruction> = (0..10).map(|register| Instruction::set(register, 1)).collect();
    code.push(insn(0x15, 9, 0, 0, 0));
    code.extend((0..free).map(|register| Instruction::set(register, 2)));
    code.extend(taken.map(|register| insn(0x0f, 9, register, 0, 0)));
    code.extend([insn(0xbf, 0, 9, 0, 0), EXIT]);
    code
}

#[test]
fn with_one_register_there_is_a_flag_and_with_none_no_probe() {
    let kinds = |free| {
        let result = of(&crowded(free)).unwrap();
        (result.probes.iter().map(|probe| probe.kind).collect::<Vec<_>>(), result.unprobed)
    };
    assert_eq!(kinds(2), (vec![ProbeKind::Count, ProbeKind::Count], vec![]));
    assert_eq!(kinds(1), (vec![ProbeKind::Count, ProbeKind::Flag], vec![]));
    assert_eq!(kinds(0), (vec![ProbeKind::Count], vec![Span { first: 11, len: 12 }]));
}

#[test]
fn stack_is_spared_below_what_is_used_while_the_chain_of_calls_allows_it() {
    // main calls f, f calls g; what is saved goes below what each uses.
    let code = [insn(0x85, 0, 1, 0, 1), EXIT, insn(0x85, 0, 1, 0, 1), EXIT, insn(0x7a, 10, 0, -40, 0), EXIT];
    let flow = Flow::of(&code, &[]).unwrap();
    let spare = |measured: &[u32], wanted: &[u32]| stack::spare(&code, &flow, Some(measured), wanted);
    assert_eq!(spare(&[0, 20, 8], &[8, 8, 8]), [Some(0), Some(24), Some(40)], "its own words count too");
    assert_eq!(spare(&[0, 20, 8], &[8, 0, 8]), [Some(0), None, Some(40)]);
    // 256 + 192 + 64 is all that there is: whatever is added to one of them is too much, within its 32 bytes it is not.
    assert_eq!(spare(&[256, 192, 64], &[8, 8, 8]), [None, None, None]);
    assert_eq!(spare(&[256, 184, 64], &[8, 8, 8]), [None, Some(184), None]);
    assert_eq!(spare(&[0, 20], &[8, 8, 8]), [None, None, None], "not of this program");
    assert_eq!(stack::spare(&code, &flow, None, &[8, 8, 8]), [None, None, None]);
    // With tail calls half of it is.
    let tail = [insn(0x85, 0, 1, 0, 2), insn(0x85, 0, 0, 0, 12), EXIT, EXIT];
    let flow = Flow::of(&tail, &[]).unwrap();
    assert_eq!(stack::spare(&tail, &flow, Some(&[200, 32]), &[8, 0]), [Some(200), None]);
    assert_eq!(stack::spare(&tail, &flow, Some(&[224, 32]), &[8, 0]), [None, None]);
}

#[test]
fn stack_depths_are_read_of_every_form_of_the_log() {
    assert_eq!(stack_depths("verification time 1 usec\nstack depth 64+0+32\nprocessed 1 insns"), Some(vec![64, 0, 32]));
    let new = "stack depth max 80\nsubprog 0 (main) main insns_self 4 insns_total 7 stack 16\n\
               subprog 1 (a stack 9) static insns_self 3 insns_total 3 stack 48\nprocessed 7 insns\n";
    assert_eq!(stack_depths(new), Some(vec![16, 48]));
    for log in ["", "stack depth", "stack depth 8+", "stack depth max 80\n", "stack depth -8"] {
        assert_eq!(stack_depths(log), None, "{log}");
    }
}

#[test]
fn code_that_no_kernel_loads_is_refused_with_its_place() {
    let jump = |offset| insn(0x05, 0, 0, offset, 0);
    let wide = [insn(0x18, 0, 0, 0, 0), insn(0, 0, 0, 0, 0)];
    let said = |code: &[Instruction]| of(code).unwrap_err();
    assert_eq!(said(&[]), InstrumentError::Size(0));
    assert_eq!(said(&[jump(1), EXIT]), InstrumentError::Target { instruction: 0, target: 2 });
    assert_eq!(said(&[jump(-2), EXIT]), InstrumentError::Target { instruction: 0, target: -1 });
    assert_eq!(said(&[jump(1), wide[0], wide[1], EXIT]), InstrumentError::Target { instruction: 0, target: 2 });
    assert_eq!(said(&[insn(0xb7, 0, 0, 0, 0)]), InstrumentError::FallsOff { instruction: 0 });
    assert_eq!(said(&wide[..1]), InstrumentError::Unknown { instruction: 0, code: 0x18 });
    assert_eq!(said(&[insn(0xdb, 1, 2, 0, 0x77), EXIT]), InstrumentError::Unknown { instruction: 0, code: 0xdb });
    assert_eq!(said(&[insn(0xb7, 11, 0, 0, 0), EXIT]), InstrumentError::Unknown { instruction: 0, code: 0xb7 });
    assert_eq!(said(&[insn(0x0d, 1, 0, 0, 0), EXIT]), InstrumentError::Indirect { instruction: 0 });
    // Into another function.
    let into = [insn(0x85, 0, 1, 0, 1), jump(0), insn(0xb7, 0, 0, 0, 0), EXIT];
    assert_eq!(said(&into), InstrumentError::Target { instruction: 1, target: 2 });
    let at = |insn_off| FuncInfo { insn_off, type_id: 1 };
    for functions in [&[at(1)][..], &[at(0), at(2)], &[at(0), at(0)], &[at(0), at(9)]] {
        let error = with(&[wide[0], wide[0], EXIT], functions, &[]).unwrap_err();
        assert!(matches!(error, InstrumentError::Record { .. } | InstrumentError::Unknown { .. }), "{error}");
    }
    let instructions = [bpf_insn::from(EXIT)];
    let input = Input {
        instructions: &instructions,
        functions: &[],
        lines: &[],
        map_fd: 0,
        counting: Counting::Plain,
        first_slot: (1 << 26) - 1,
        stack: None,
        long_jumps: false,
    };
    assert_eq!(instrument(&input).unwrap().probes[0].slot, (1 << 26) - 1, "the last that an instruction reaches");
    let error = instrument(&Input { first_slot: 1 << 26, ..input }).unwrap_err();
    assert_eq!(error, InstrumentError::Slots { blocks: 1, first_slot: 1 << 26 });
}

#[test]
fn no_code_at_all_makes_it_panic() {
    let mut rng = SmallRng::seed_from_u64(3);
    let codes = [0x05, 0x06, 0x0d, 0x15, 0x18, 0x20, 0x40, 0x79, 0x7b, 0x85, 0x8d, 0x95, 0xb7, 0xbf, 0xdb, 0xe5, 0];
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..60_000 {
        let code: Vec<Instruction> = (0..rng.random_range(1..12))
            .map(|_| {
                let code =
                    if rng.random_range(0..9) == 0 { rng.random() } else { codes[rng.random_range(0..codes.len())] };
                let (near, far) = (rng.random_range(-3..6), rng.random::<i32>());
                let small = rng.random_range(0..20) > 0;
                let (offset, imm) = if small { (near as i16, near) } else { (far as i16, far) };
                insn(code, rng.random_range(0..12), rng.random_range(0..5), offset, imm)
            })
            .chain([EXIT])
            .collect();
        let records: Vec<u32> = (0..rng.random_range(0..3)).map(|_| rng.random_range(0..9)).collect();
        let lines: Vec<LineInfo> =
            records.iter().map(|at| LineInfo { insn_off: *at, file_name_off: 0, line_off: 0, line_col: 0 }).collect();
        match with(&code, &[], &lines) {
            Ok(result) => {
                taken += 1;
                // What comes out is as sound as what came in, and has the same blocks.
                let again = Flow::of(&moved(&result), &[]).unwrap();
                assert_eq!(again.blocks.len(), Flow::of(&code, &[]).unwrap().blocks.len());
            }
            Err(_) => refused += 1,
        }
    }
    assert!(taken > 1000 && refused > 1000, "{taken} {refused}");
}

#[test]
fn sets_of_registers() {
    assert!(Registers::ARGUMENTS.has(1) && Registers::ARGUMENTS.has(5) && !Registers::ARGUMENTS.has(0));
    assert!(Registers::GENERAL.has(9) && !Registers::GENERAL.has(10));
}
