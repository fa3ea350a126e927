//! Where a function has stack to spare.

use super::flow::Flow;
use super::instruction::Instruction;

/// Bytes of stack that a chain of calls may take (`MAX_BPF_STACK`).
const LIMIT: u32 = 512;
/// Bytes before a call in a program with tail calls (`check_max_stack_depth_subprog` in `kernel/bpf/verifier.c`).
const LIMIT_WITH_TAIL_CALLS: u32 = 256;
/// What each function's part is rounded up to; since 6.8 it is half of that where programs are compiled.
const ROUNDED_TO: u32 = 32;
/// What the verifier takes itself for counting a function's `may_goto`s: a count, and since 6.15 a time.
const MAY_GOTO: u32 = 16;

/// Functions that the verifier lets a program have (`BPF_MAX_SUBPROGS`).
const MOST_FUNCTIONS: usize = 256;

/// Bytes of stack of each function of a program, in the order of the code, from the verifier's log at the level of
/// statistics (`BPF_LOG_STATS`): `stack depth 64+0+32`, or one line for each function in the 7 series. Nothing if the log
/// does not say.
#[must_use]
pub fn stack_depths(log: &str) -> Option<Vec<u32>> {
    let line = log.lines().rev().find_map(|line| line.trim().strip_prefix("stack depth "))?;
    if !line.starts_with("max ") {
        return line.split('+').map(|depth| depth.trim().parse().ok()).collect();
    }
    let functions = log.lines().filter(|line| line.trim_start().starts_with("subprog "));
    let depths: Option<Vec<u32>> = functions.map(|line| line.rsplit_once(" stack ")?.1.trim().parse().ok()).collect();
    depths.filter(|depths| !depths.is_empty())
}

/// For each function the distance below the frame pointer from which on nothing is its own, a multiple of 8; nothing
/// where `wanted` bytes more would be too many for a chain of calls, or where 0 are wanted.
///
/// `measured` is what the verifier says of each function. It follows pointers wherever they go, which nothing here
/// does, so without it there is no stack to spare. What a function names itself is heeded too: the verifier does not
/// count what it expects to remove (`mark_fastcall_patterns`, since 6.12).
pub(super) fn spare(code: &[Instruction], flow: &Flow, measured: Option<&[u32]>, wanted: &[u32]) -> Vec<Option<u32>> {
    let none = vec![None; flow.functions.len()];
    let Some(measured) = measured.filter(|measured| measured.len() == flow.functions.len()) else { return none };
    if flow.functions.len() > MOST_FUNCTIONS {
        return none;
    }
    let has_tail_calls = code.iter().any(|insn| insn.is_tail_call()) && flow.functions.len() > 1;
    let limit = if has_tail_calls { LIMIT_WITH_TAIL_CALLS } else { LIMIT };
    let own: Vec<u32> = flow
        .functions
        .iter()
        .zip(measured)
        .map(|(function, measured)| {
            let named = code[function.code.clone()].iter().map(|insn| insn.stack_below()).max().unwrap_or(0);
            named.max(*measured).next_multiple_of(8)
        })
        .collect();
    let mut taken: Vec<u32> = flow
        .functions
        .iter()
        .zip(&own)
        .map(|(function, own)| {
            let bounded = code[function.code.clone()].iter().any(|insn| insn.is_may_goto());
            own + if bounded { MAY_GOTO } else { 0 }
        })
        .collect();
    let mut spare = none;
    for function in 0..flow.functions.len() {
        if wanted[function] == 0 {
            continue;
        }
        taken[function] += wanted[function];
        if deepest(flow, &taken) <= limit {
            spare[function] = Some(own[function]);
        } else {
            taken[function] -= wanted[function];
        }
    }
    spare
}

/// Bytes that the deepest chain of calls takes.
fn deepest(flow: &Flow, taken: &[u32]) -> u32 {
    let mut known = vec![None; flow.functions.len()];
    (0..flow.functions.len()).map(|function| below(flow, taken, function, &mut known)).max().unwrap_or(0)
}

/// Bytes of `function` and what it calls. A function under way counts nothing: calls do not recur, so it was handed to
/// somebody who calls it later, on a stack of its own.
fn below(flow: &Flow, taken: &[u32], function: usize, known: &mut [Option<u32>]) -> u32 {
    if let Some(known) = known[function] {
        return known;
    }
    known[function] = Some(0);
    let callees = &flow.functions[function].callees;
    let called = callees.iter().map(|callee| below(flow, taken, *callee, known)).max().unwrap_or(0);
    let all = taken[function].max(1).next_multiple_of(ROUNDED_TO).saturating_add(called);
    known[function] = Some(all);
    all
}
