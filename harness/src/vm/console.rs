//! What a guest's kernel prints, read for what went wrong.

use std::collections::VecDeque;

use crate::record::FailureKind;

/// Lines of the console that a failure keeps.
const TAIL: usize = 60;
/// Characters of a line that are kept.
const WIDTH: usize = 240;

/// What a line means, by the words that the kernel uses: the first that fits decides.
///
/// Sources: `kernel/panic.c`, `kernel/watchdog.c`, `kernel/rcu/tree_stall.h`, `arch/x86/mm/fault.c`,
/// `arch/x86/kernel/dumpstack.c`, `lib/bug.c`, `kernel/bpf/verifier.c`.
const SIGNS: [(&str, FailureKind); 13] = [
    ("Kernel panic - not syncing", FailureKind::Panic),
    ("BUG: soft lockup", FailureKind::SoftLockup),
    ("hard LOCKUP", FailureKind::SoftLockup),
    ("detected stalls on CPUs/tasks", FailureKind::RcuStall),
    ("self-detected stall on CPU", FailureKind::RcuStall),
    ("verifier bug:", FailureKind::VerifierWarning),
    ("BUG: unable to handle", FailureKind::Oops),
    ("BUG: kernel NULL pointer dereference", FailureKind::Oops),
    ("general protection fault", FailureKind::Oops),
    ("kernel BUG at", FailureKind::Oops),
    ("Oops: ", FailureKind::Oops),
    ("BUG: KASAN", FailureKind::Oops),
    ("BUG: KFENCE", FailureKind::Oops),
];

/// Reads a console line by line and remembers its end.
#[derive(Debug, Default)]
pub struct Console {
    pending: Vec<u8>,
    tail: VecDeque<String>,
}

impl Console {
    /// Takes in `bytes` and gives what they say went wrong, each with its line.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<(FailureKind, String)> {
        self.pending.extend_from_slice(bytes);
        let mut found = Vec::new();
        while let Some(length) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=length).collect();
            let line = clean(&line);
            if let Some(kind) = kind_of(&line) {
                found.push((kind, line.clone()));
            }
            if !line.is_empty() {
                self.tail.push_back(line);
            }
            if self.tail.len() > TAIL {
                self.tail.pop_front();
            }
        }
        // A line without end must not fill the memory.
        if self.pending.len() > 1 << 20 {
            self.pending.clear();
        }
        found
    }

    /// The last lines, oldest first.
    #[must_use]
    pub fn tail(&self) -> Vec<String> {
        let unfinished = clean(&self.pending);
        self.tail.iter().cloned().chain((!unfinished.is_empty()).then_some(unfinished)).collect()
    }
}

fn kind_of(line: &str) -> Option<FailureKind> {
    let sign = SIGNS.iter().find(|(sign, _)| line.contains(sign)).map(|(_, kind)| *kind);
    // `WARNING: CPU: 0 PID: 1 at kernel/bpf/verifier.c:...`; 6.18 and later leave out processor and process.
    let splat = line.contains("WARNING: ") && line.contains("kernel/bpf/");
    sign.or_else(|| splat.then_some(FailureKind::VerifierWarning))
}

/// A line without control sequences, cut to a readable length.
fn clean(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = console::strip_ansi_codes(&text);
    text.chars().filter(|letter| !letter.is_control()).take(WIDTH).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("[    5.1] Kernel panic - not syncing: sysrq triggered crash", FailureKind::Panic)]
    #[case("[   48.0] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [bpflab:201]", FailureKind::SoftLockup)]
    #[case("[   25.9] rcu: INFO: rcu_preempt self-detected stall on CPU", FailureKind::RcuStall)]
    #[case("[   25.9] rcu: INFO: rcu_sched detected stalls on CPUs/tasks:", FailureKind::RcuStall)]
    #[case("[    3.3] BUG: kernel NULL pointer dereference, address: 0000000000000010", FailureKind::Oops)]
    #[case("[    3.3] BUG: unable to handle page fault for address: ffffffffff", FailureKind::Oops)]
    #[case("[    3.3] Oops: 0002 [#1] PREEMPT SMP PTI", FailureKind::Oops)]
    #[case("[    3.3] general protection fault, probably for non-canonical address", FailureKind::Oops)]
    #[case("[    3.3] WARNING: CPU: 0 PID: 211 at kernel/bpf/verifier.c:18441 do_misc", FailureKind::VerifierWarning)]
    #[case("[    3.3] WARNING: kernel/bpf/verifier.c:18441 at do_misc, CPU#0: x/1", FailureKind::VerifierWarning)]
    #[case("[    3.3] verifier bug: REG INVARIANTS VIOLATION (true_reg1)", FailureKind::VerifierWarning)]
    fn what_the_kernel_says_has_a_name(#[case] line: &str, #[case] kind: FailureKind) {
        let found = Console::default().take(format!("{line}\n").as_bytes());
        assert_eq!(found.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [kind]);
    }

    #[test]
    fn ordinary_lines_are_kept_and_mean_nothing() {
        let mut console = Console::default();
        let text = "[    0.0] Linux version 6.1.0\r\n[    0.1] \x1b[31mx86/fpu: enabled\x1b[0m\n\nlast";
        assert!(console.take(text.as_bytes()).is_empty());
        assert_eq!(console.tail(), ["[    0.0] Linux version 6.1.0", "[    0.1] x86/fpu: enabled", "last"]);
    }

    #[test]
    fn only_the_end_is_kept() {
        let mut console = Console::default();
        for number in 0..200 {
            console.take(format!("line {number}\n").as_bytes());
        }
        assert_eq!(console.tail().len(), TAIL);
        assert_eq!(console.tail().last().map(String::as_str), Some("line 199"));
    }
}
