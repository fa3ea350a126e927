//! The lines that the verifier ends its log with at level `BPF_LOG_STATS`
//! (`print_verification_stats` in `kernel/bpf/verifier.c`):
//!
//! ```text
//! verification time 1234 usec
//! stack depth 64+0+32
//! processed 411 insns (limit 1000000) max_states_per_insn 2 total_states 19 peak_states 19 mark_read 5
//! ```
//!
//! The 7 series has the stack of each function in a line of its own, below that of the deepest chain of calls:
//!
//! ```text
//! stack depth max 96
//! subprog 0 (main) main insns_self 380 insns_total 411 stack 64
//! subprog 1 (helper) static insns_self 31 insns_total 31 stack 32
//! ```

/// What the line of a function starts with.
const FUNCTION: &str = "subprog ";

/// What they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Instructions that the verifier processed: each as often as a path led it there.
    pub instructions: u64,
    /// Bytes of stack, summed up over the program's functions, which every kernel tells. What a chain of calls takes, of
    /// which `check_max_stack_depth` allows 512, is about that or less: older kernels do not say which function calls
    /// which.
    pub stack_bytes: u32,
}

impl Statistics {
    /// Reads them from `log`.
    ///
    /// # Errors
    /// Which line is missing or has no number, as a sentence.
    pub fn parse(log: &str) -> Result<Self, String> {
        let after = |start: &str| {
            let line = log.lines().rev().find_map(|line| line.trim().strip_prefix(start));
            line.map(str::trim).ok_or_else(|| format!("the verifier's log has no line `{}`", start.trim()))
        };
        let unreadable = |line: &str| format!("the verifier's log has no number in `{line}`");
        let processed = after("processed ")?;
        let instructions = processed.split_once(" insns").and_then(|(number, _)| number.parse().ok());
        let stack = after("stack depth ")?;
        let depths: Vec<&str> = match stack.strip_prefix("max ") {
            None => stack.split('+').collect(),
            Some(deepest) => match functions(log) {
                functions if functions.is_empty() => vec![deepest],
                functions => functions,
            },
        };
        let sum = depths.into_iter().try_fold(0_u32, |sum, depth| sum.checked_add(depth.trim().parse().ok()?));
        Ok(Self {
            instructions: instructions.ok_or_else(|| unreadable(processed))?,
            stack_bytes: sum.ok_or_else(|| unreadable(stack))?,
        })
    }
}

/// The numbers at the ends of the lines of functions.
fn functions(log: &str) -> Vec<&str> {
    let lines = log.lines().filter(|line| line.trim_start().starts_with(FUNCTION));
    lines.filter_map(|line| line.rsplit_once(" stack ")).map(|(_, depth)| depth).collect()
}

/// Whether a line is one of the statistics.
pub(super) fn is_part(line: &str) -> bool {
    ["verification time ", "stack depth ", FUNCTION, "processed "]
        .iter()
        .any(|start| line.trim_start().starts_with(start))
}
