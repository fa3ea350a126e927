//! The lines that the verifier ends its log with at level `BPF_LOG_STATS`
//! (`print_verification_stats` in `kernel/bpf/verifier.c`):
//!
//! ```text
//! verification time 1234 usec
//! stack depth 64+0+32
//! processed 411 insns (limit 1000000) max_states_per_insn 2 total_states 19 peak_states 19 mark_read 5
//! ```

/// What they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Instructions that the verifier processed: each as often as a path led it there.
    pub instructions: u64,
    /// Bytes of stack, summed up over the program's functions: the line has one number for each, the program itself
    /// first. What a chain of calls takes is at most that (`check_max_stack_depth` rounds each up, and allows 512 per
    /// chain).
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
        // A newer kernel may say more behind the numbers.
        let depths = stack.split_whitespace().next().unwrap_or_default();
        let sum = depths.split('+').try_fold(0_u32, |sum, depth| sum.checked_add(depth.parse().ok()?));
        Ok(Self {
            instructions: instructions.ok_or_else(|| unreadable(processed))?,
            stack_bytes: sum.ok_or_else(|| unreadable(stack))?,
        })
    }
}

/// Whether a line is one of the statistics.
pub(super) fn is_part(line: &str) -> bool {
    ["verification time ", "stack depth ", "processed "].iter().any(|start| line.trim_start().starts_with(start))
}
