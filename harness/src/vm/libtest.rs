//! What Rust's test harness prints, and those that answer to the same options (libtest, libtest-mimic; rstest is the
//! former): the list of tests, and what the run of a single one says.
//!
//! Each test runs in a process of its own, with `--exact --nocapture --test-threads=1`. So whatever the process wrote is
//! the test's, the order of both outputs is kept, and what the harness says of the test is the last of it: a test may
//! print what it likes before.

use crate::record::Outcome;

use super::protocol::Ending;

/// Begins a line by which a test says that this kernel cannot show what it tests; behind it stands why. The test has to
/// pass all the same: for who does not know the line it has.
pub const UNSUPPORTED: &str = "bpflab: unsupported:";

/// How the harness begins its last line.
const RESULT: &str = "test result: ";

/// The names in what `--list --format terse` prints: `NAME: test` a line, benchmarks left out.
///
/// # Errors
/// The first line that is neither, and so comes from no test harness.
pub fn names(list: &str) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for line in list.lines().filter(|line| !line.trim().is_empty()) {
        match line.rsplit_once(": ") {
            Some((name, "test")) => names.push(name.to_owned()),
            Some((_, "benchmark")) => {}
            _ => return Err(line.chars().take(120).flat_map(char::escape_default).collect()),
        }
    }
    Ok(names)
}

/// What became of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How it ended.
    pub outcome: Outcome,
    /// Why, for all but passed ones; of a failed one the last reason is what it wrote.
    pub reasons: Vec<String>,
}

/// Judges test `name`, whose process wrote `output` and ended so.
#[must_use]
pub fn judge(name: &str, output: &[u8], ending: &Ending) -> Verdict {
    let text = String::from_utf8_lossy(output);
    let text = console::strip_ansi_codes(&text).replace("\r\n", "\n");
    let said = Said::of(name, &text);
    let verdict = |outcome, why: String| Verdict { outcome, reasons: vec![why] };
    let failed = |why: Option<String>| {
        let wrote = said.body.trim().to_owned();
        Verdict {
            outcome: Outcome::Failed,
            reasons: why.into_iter().chain((!wrote.is_empty()).then_some(wrote)).collect(),
        }
    };
    match (ending, said.counts) {
        (Ending::NotFound(why) | Ending::NotStarted(why), _) => {
            verdict(Outcome::LabFailure, format!("the test binary cannot be started: {why}"))
        }
        (Ending::TimedOut, _) => failed(Some("it did not end in time and was killed".to_owned())),
        (Ending::Signalled(number), _) => {
            let signal = signal_hook::low_level::signal_name(*number).unwrap_or("unknown");
            failed(Some(format!("signal {number} ({signal}) ended it")))
        }
        (Ending::Exited(code), None) => {
            failed(Some(format!("its process ended with exit code {code} before the harness said how the test ended")))
        }
        (Ending::Exited(_), Some(Counts { passed: 0, failed: 0, ignored: 0 })) => {
            verdict(Outcome::LabFailure, "the test binary ran no test of this name".to_owned())
        }
        (Ending::Exited(_), Some(Counts { failed: 1.., .. })) => failed(said.panic()),
        (Ending::Exited(0), Some(Counts { passed: 0, .. })) => verdict(Outcome::Skipped, said.why_ignored()),
        (Ending::Exited(0), Some(_)) => match said.unsupported() {
            Some(why) => verdict(Outcome::Unsupported, why),
            None => Verdict { outcome: Outcome::Passed, reasons: Vec::new() },
        },
        (Ending::Exited(code), Some(_)) => {
            failed(Some(format!("the harness says that it passed, but its process ended with exit code {code}")))
        }
    }
}

/// The numbers of the harness's last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    /// From `ok. 1 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s`.
    fn of(line: &str) -> Option<Self> {
        let (_, numbers) = line.strip_prefix(RESULT)?.split_once(". ")?;
        let number = |what: &str| {
            let mut parts = numbers.split("; ").filter_map(|part| part.split_once(' '));
            parts.find(|(_, name)| *name == what).and_then(|(number, _)| number.parse().ok())
        };
        Some(Self { passed: number("passed")?, failed: number("failed")?, ignored: number("ignored")? })
    }
}

/// What a process wrote, with the harness's part told apart from the test's.
struct Said<'a> {
    counts: Option<Counts>,
    /// The harness's word on an ignored test.
    ignored: Option<&'a str>,
    /// The test's own.
    body: String,
}

impl<'a> Said<'a> {
    fn of(name: &str, text: &'a str) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.iter().rposition(|line| Counts::of(line).is_some());
        let counts = last.and_then(|last| Counts::of(lines[last]));
        let start = format!("test {name} ... ");
        let lines = &lines[..last.unwrap_or(lines.len())];
        let ignored = lines.iter().rev().find_map(|line| line.strip_prefix(&start)?.strip_prefix("ignored"));
        // What the harness says in between; a test that says the same loses a line of its own, and nothing else.
        let failure = [format!("    {name}"), "failures:".to_owned(), "FAILED".to_owned(), "running 1 test".to_owned()];
        let own = lines.iter().map(|line| line.strip_prefix(&start).unwrap_or(line));
        let own = own.filter(|line| !failure.iter().any(|other| other == line));
        let body = own.collect::<Vec<_>>().join("\n");
        Self { counts, ignored, body }
    }

    /// The first panic: where, and its message's first line.
    fn panic(&self) -> Option<String> {
        let mut lines = self.body.lines();
        let (_, place) = lines
            .find(|line| line.starts_with("thread '") && line.contains(" panicked at "))?
            .split_once(" panicked at ")?;
        let message = lines.next().unwrap_or_default();
        Some(format!("panicked at {place} {message}").trim().to_owned())
    }

    /// libtest says `ignored, WHY`, libtest-mimic `ignored (WHY)`.
    fn why_ignored(&self) -> String {
        let why = self.ignored.unwrap_or_default().trim();
        let why = why.strip_prefix(',').unwrap_or(why).trim();
        let why = why.strip_prefix('(').and_then(|why| why.strip_suffix(')')).unwrap_or(why);
        if why.is_empty() { "marked as ignored".to_owned() } else { format!("ignored: {why}") }
    }

    fn unsupported(&self) -> Option<String> {
        let why = self.body.lines().find_map(|line| line.trim_start().strip_prefix(UNSUPPORTED))?.trim();
        Some(if why.is_empty() { "the test gives no reason".to_owned() } else { why.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const PASSED: &str =
        "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 4 filtered out; finished in 0.00s";
    const FAILED: &str =
        "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 4 filtered out; finished in 0.00s";
    const IGNORED: &str =
        "test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s";
    const NOTHING: &str =
        "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 5 filtered out; finished in 0.00s";

    fn run(middle: &str, result: &str) -> String {
        format!("\nrunning 1 test\ntest a::b ... {middle}\n{result}\n\n")
    }

    fn of(text: &str) -> Verdict {
        judge("a::b", text.as_bytes(), &Ending::Exited(i32::from(text.contains(FAILED)) * 101))
    }

    fn reasons(verdict: &Verdict) -> Vec<&str> {
        verdict.reasons.iter().map(String::as_str).collect()
    }

    #[test]
    fn names_may_hold_what_they_like() {
        let list = "a::b: test\n[wire] dns: test: test\nwith space, \"quote\" \u{1f980}: test\nfast: benchmark\n\n";
        assert_eq!(names(list).unwrap(), ["a::b", "[wire] dns: test", "with space, \"quote\" \u{1f980}"]);
        assert_eq!(names("").unwrap(), [""; 0]);
        assert_eq!(names("Usage: x [--list]\n").unwrap_err(), "Usage: x [--list]");
        assert_eq!(names("a: test\n\u{1b}[0mlogin\n").unwrap_err(), "\\u{1b}[0mlogin");
    }

    #[test]
    fn outcomes_are_those_of_the_harness() {
        assert_eq!(of(&run("ok\n", PASSED)), Verdict { outcome: Outcome::Passed, reasons: Vec::new() });
        assert_eq!(of(&run("hello\nok\n", PASSED)).outcome, Outcome::Passed);
        assert_eq!(
            of(&run("\u{1b}[32mok\u{1b}[0m\n", &PASSED.replace("ok", "\u{1b}[32mok\u{1b}[m"))).outcome,
            Outcome::Passed
        );
        assert_eq!(of(&run("ok\n", NOTHING)).outcome, Outcome::LabFailure);
    }

    #[rstest]
    #[case("ignored\n", "marked as ignored")]
    #[case("ignored, needs 6.1\n", "ignored: needs 6.1")]
    #[case("ignored (no netem)\n", "ignored: no netem")]
    fn an_ignored_test_is_skipped_with_its_reason(#[case] middle: &str, #[case] why: &str) {
        let verdict = of(&run(middle, IGNORED));
        assert_eq!((verdict.outcome, reasons(&verdict)), (Outcome::Skipped, vec![why]));
    }

    #[test]
    fn a_failure_has_its_panic_and_all_that_was_written() {
        let middle = "before\n\nthread 'a::b' (41) panicked at src/lib.rs:10:9:\nleft is not right\nnote: run with \
                      `RUST_BACKTRACE=1`\nFAILED\n\nfailures:\n\nfailures:\n    a::b\n";
        let verdict = of(&run(middle, FAILED));
        assert_eq!(verdict.outcome, Outcome::Failed);
        assert_eq!(verdict.reasons[0], "panicked at src/lib.rs:10:9: left is not right");
        let wrote = "before\n\nthread 'a::b' (41) panicked at src/lib.rs:10:9:\nleft is not right\nnote: run with \
                     `RUST_BACKTRACE=1`";
        assert_eq!(verdict.reasons[1..], [wrote]);
        // libtest-mimic has the message behind a heading.
        let verdict = of(&run("FAILED\n\nfailures:\n\n---- a::b ----\nno answer\n\n\nfailures:\n    a::b\n", FAILED));
        assert_eq!(reasons(&verdict), ["---- a::b ----\nno answer"]);
    }

    #[test]
    fn what_a_test_prints_is_not_taken_for_the_harness() {
        let lies = format!("x\ntest a::b ... ok\n{PASSED}\n{}: it passed\nFAILED\n", UNSUPPORTED.trim_end_matches(':'));
        assert_eq!(of(&run(&lies, FAILED)).outcome, Outcome::Failed);
        assert_eq!(judge("a::b", run(&lies, "").as_bytes(), &Ending::Signalled(6)).outcome, Outcome::Failed);
        let verdict = of(&run(&format!("{FAILED}\nok\n"), PASSED));
        assert_eq!(verdict.outcome, Outcome::Failed, "the exit code counts, too");
        let passed = judge("a::b", run(&format!("{FAILED}\nok\n"), PASSED).as_bytes(), &Ending::Exited(0));
        assert_eq!(passed.outcome, Outcome::Passed);
        let ignored = of(&run("test a::b ... ignored, not so\nok\n", PASSED));
        assert_eq!(ignored.outcome, Outcome::Passed);
    }

    #[rstest]
    #[case("bpflab: unsupported: no TCX before 6.6\nok\n", "no TCX before 6.6")]
    #[case("first\n  bpflab: unsupported:\nok\n", "the test gives no reason")]
    fn a_test_that_passes_may_say_that_it_is_unsupported(#[case] middle: &str, #[case] why: &str) {
        let verdict = of(&run(middle, PASSED));
        assert_eq!((verdict.outcome, reasons(&verdict)), (Outcome::Unsupported, vec![why]));
        assert_eq!(of(&run(middle, FAILED)).outcome, Outcome::Failed);
    }

    #[test]
    fn a_test_that_ends_its_process_or_never_ends_has_failed() {
        let begun = b"\nrunning 1 test\ntest a::b ... half\xff\xfe";
        let reasons = |ending| judge("a::b", begun, &ending).reasons;
        assert_eq!(reasons(Ending::Signalled(libc::SIGABRT)), ["signal 6 (SIGABRT) ended it", "half\u{fffd}\u{fffd}"]);
        assert!(reasons(Ending::Exited(0))[0].contains("exit code 0 before the harness"));
        assert!(reasons(Ending::TimedOut)[0].contains("did not end in time"));
        let verdict = judge("a::b", run("ok\n", PASSED).as_bytes(), &Ending::Exited(3));
        assert!(verdict.reasons[0].contains("says that it passed, but its process ended with exit code 3"));
        let verdict = judge("a::b", b"", &Ending::NotFound("No such file".to_owned()));
        assert_eq!(verdict.outcome, Outcome::LabFailure);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let text = run("ok\n", PASSED);
        let mut state = 1u64;
        for round in 0..2_000 {
            let mut bytes = text.clone().into_bytes();
            for _ in 0..=round % 8 {
                // A linear congruential generator: the same bytes each time.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let place = (state >> 33) as usize % bytes.len();
                bytes[place] = (state >> 25) as u8;
                bytes.truncate(bytes.len() - (state >> 60) as usize);
            }
            let _ = judge("a::b", &bytes, &Ending::Exited(0));
            let _ = names(&String::from_utf8_lossy(&bytes));
        }
    }
}
