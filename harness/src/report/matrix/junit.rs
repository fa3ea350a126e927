//! The page as JUnit XML, for the test views of CI systems.
//!
//! One suite per kernel and one case per trial. The class is `KERNEL.FAMILY`, so that the same trial on two kernels is
//! two cases for every reader (they tell cases apart by class and name). Every case has at most one of `failure`,
//! `error` and `skipped`, and the counts are those of the elements below.

use std::fmt::Write as _;

use super::grid::{Cell, Column, Grid, Row};
use super::text::{escape, line, plain};
use crate::record::{GuestFailure, Matrix, Outcome};

/// Renders `matrix`.
#[must_use]
pub fn render(matrix: &Matrix) -> String {
    let grid = Grid::new(matrix);
    let mut suites: Vec<Suite> =
        grid.columns.iter().enumerate().map(|(column, kernel)| suite(&grid, column, kernel)).collect();
    if !matrix.problems.is_empty() {
        let mut list = Suite::new("list of kernels");
        for problem in &matrix.problems {
            let name = problem.split_once(" ran on no kernel").map_or(problem.as_str(), |(trial, _)| trial);
            list.case("problems", name, 0, Verdict::Failure("never runs", problem.clone()), None);
        }
        suites.push(list);
    }
    let sum = |of: fn(&Suite) -> usize| suites.iter().map(of).sum::<usize>();
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        text,
        "<testsuites name=\"bpflab\" tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{:.3}\">",
        sum(|suite| suite.tests),
        sum(|suite| suite.failures),
        sum(|suite| suite.errors),
        sum(|suite| suite.skipped),
        matrix.wall_s
    );
    suites.iter().for_each(|suite| suite.write(&mut text));
    text.push_str("</testsuites>\n");
    text
}

/// What a case says beside its name.
enum Verdict {
    Passed,
    /// Kind and text.
    Failure(&'static str, String),
    /// Kind and text.
    Error(&'static str, String),
    Skipped(String),
}

#[derive(Default)]
struct Suite {
    name: String,
    properties: Vec<(&'static str, String)>,
    cases: String,
    tests: usize,
    failures: usize,
    errors: usize,
    skipped: usize,
    time_ms: u64,
}

impl Suite {
    fn new(name: &str) -> Self {
        Self { name: line(name), ..Self::default() }
    }

    fn case(&mut self, class: &str, name: &str, time_ms: u64, verdict: Verdict, out: Option<String>) {
        self.tests += 1;
        self.time_ms = self.time_ms.saturating_add(time_ms);
        let _ = write!(
            self.cases,
            "    <testcase classname=\"{}\" name=\"{}\" time=\"{}\"",
            attribute(class),
            attribute(name),
            seconds(time_ms)
        );
        let element = match verdict {
            Verdict::Passed => None,
            Verdict::Failure(kind, text) => {
                self.failures += 1;
                Some(("failure", kind, text))
            }
            Verdict::Error(kind, text) => {
                self.errors += 1;
                Some(("error", kind, text))
            }
            Verdict::Skipped(text) => {
                self.skipped += 1;
                Some(("skipped", "", text))
            }
        };
        if element.is_none() && out.is_none() {
            self.cases.push_str("/>\n");
            return;
        }
        self.cases.push_str(">\n");
        match element {
            // The schema that readers share gives a skipped case a message and nothing else.
            Some((tag @ "skipped", _, text)) => {
                let _ = writeln!(self.cases, "      <{tag} message=\"{}\"/>", attribute(&text));
            }
            Some((tag, kind, text)) => {
                let message = attribute(plain(&text).trim().lines().next().unwrap_or(kind));
                let _ = writeln!(
                    self.cases,
                    "      <{tag} type=\"{}\" message=\"{message}\">{}</{tag}>",
                    attribute(kind),
                    escape(text.trim_end())
                );
            }
            None => {}
        }
        if let Some(out) = out {
            let _ = writeln!(self.cases, "      <system-out>{}</system-out>", escape(out.trim_end()));
        }
        self.cases.push_str("    </testcase>\n");
    }

    fn write(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{}\">",
            attribute(&self.name),
            self.tests,
            self.failures,
            self.errors,
            self.skipped,
            seconds(self.time_ms)
        );
        let properties: Vec<_> = self.properties.iter().filter(|(_, value)| !value.is_empty()).collect();
        if !properties.is_empty() {
            text.push_str("    <properties>\n");
            for (name, value) in properties {
                let _ = writeln!(text, "      <property name=\"{name}\" value=\"{}\"/>", attribute(value));
            }
            text.push_str("    </properties>\n");
        }
        text.push_str(&self.cases);
        text.push_str("  </testsuite>\n");
    }
}

/// Milliseconds as the seconds of a `time` attribute.
fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// In an attribute, XML readers turn line ends into spaces; so it is done here, for all alike.
fn attribute(text: &str) -> String {
    escape(&line(text))
}

fn suite(grid: &Grid<'_>, column: usize, kernel: &Column<'_>) -> Suite {
    let run = kernel.run;
    let mut suite = Suite::new(&run.name);
    suite.properties = [
        ("release", &run.release),
        ("version", &run.version),
        ("sha256", &run.sha256),
        ("runner", &run.runner),
        ("acceleration", &run.acceleration),
    ]
    .map(|(name, value)| (name, value.clone()))
    .to_vec();
    let mut told: Vec<&GuestFailure> = Vec::new();
    for row in &grid.rows {
        let cell = &row.cells[column];
        let verdict = verdict(cell);
        if let (Verdict::Error(..), Some(failure)) = (&verdict, cell.failure) {
            told.push(failure);
        }
        let time = cell.record.map_or(0, |record| record.duration_ms);
        suite.case(&class(&run.name, row), &row.trial(), time, verdict, declared(cell));
    }
    let untold = run.failures.iter().filter(|failure| !told.iter().any(|other| std::ptr::eq(*other, *failure)));
    for (number, failure) in untold.enumerate() {
        let name = format!("guest failure {}", number + 1);
        let verdict = Verdict::Error(failure.kind.text(), guest_text(failure));
        suite.case(&format!("{}.guest", run.name), &name, 0, verdict, None);
    }
    if !(run.costs.is_empty() && run.cost_rises.is_empty()) {
        let verdict = match run.cost_rises.as_slice() {
            [] => Verdict::Passed,
            rises => Verdict::Failure("verifier cost", rises.join("\n")),
        };
        suite.case(&format!("{}.verifier", run.name), "verifier cost", 0, verdict, None);
    }
    suite
}

fn class(kernel: &str, row: &Row<'_>) -> String {
    format!("{kernel}.{}", row.family())
}

fn verdict(cell: &Cell<'_>) -> Verdict {
    let reasons = || cell.reasons().join("\n");
    match cell.outcome() {
        Some(Outcome::Passed | Outcome::Differs) => Verdict::Passed,
        Some(Outcome::Failed) => Verdict::Failure("failed", reasons()),
        Some(Outcome::Unsupported | Outcome::Skipped) => Verdict::Skipped(cell.reasons().join("; ")),
        Some(Outcome::LabFailure) => match cell.failure {
            Some(failure) => Verdict::Error(failure.kind.text(), format!("{}\n{}", guest_text(failure), reasons())),
            None => Verdict::Error("lab failure", reasons()),
        },
        None => Verdict::Error("no record", "the guest gave no record of this trial".to_owned()),
    }
}

fn guest_text(failure: &GuestFailure) -> String {
    let during = failure.trial.as_ref().map_or_else(String::new, |trial| format!(" during {trial}"));
    format!("{}{during}: {}\n{}", failure.kind.text(), failure.message, failure.console.join("\n"))
}

/// Why a case that differs from other kernels is a pass.
fn declared(cell: &Cell<'_>) -> Option<String> {
    let variant = cell.record.filter(|record| record.result == Outcome::Differs)?.variant.as_ref()?;
    Some(format!("differs as declared for {} ({}): {}", variant.kernel, variant.name, variant.reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::matrix::sample;

    /// Checks that tags nest and close and that every ampersand is a reference; all tags, in order.
    fn tags(xml: &str) -> Vec<String> {
        let mut open: Vec<String> = Vec::new();
        let mut all = Vec::new();
        let (_, mut rest) = xml.split_once("?>").unwrap();
        while let Some((text, tag)) = rest.split_once('<') {
            assert!(!text.contains('>') && !text.replace("&amp;", "").contains("&<"), "{text}");
            let (tag, after) = tag.split_once('>').unwrap();
            let name = tag.trim_matches('/').split(' ').next().unwrap().to_owned();
            if tag.starts_with('/') {
                assert_eq!(open.pop().as_ref(), Some(&name));
            } else {
                all.push(tag.to_owned());
                if !tag.ends_with('/') {
                    open.push(name);
                }
            }
            rest = after;
        }
        assert!(open.is_empty(), "{open:?}");
        for reference in xml.split('&').skip(1) {
            let name = reference.split(';').next().unwrap();
            assert!(["amp", "lt", "gt", "quot", "#39"].contains(&name), "&{name}");
        }
        assert!(xml.chars().all(|letter| letter == '\n' || letter >= ' '), "a character that XML does not have");
        all
    }

    #[test]
    fn each_kernel_is_a_suite_and_each_trial_a_case() {
        let xml = render(&sample::matrix());
        let tags = tags(&xml);
        // Six trials on each of three kernels; verifier cost on the two that have any.
        assert_eq!(
            tags[0],
            "testsuites name=\"bpflab\" tests=\"20\" failures=\"3\" errors=\"2\" skipped=\"1\" time=\"83.250\""
        );
        assert!(tags.contains(
            &"testsuite name=\"5.10\" tests=\"6\" failures=\"1\" errors=\"2\" skipped=\"1\" time=\"0.480\"".to_owned()
        ));
        let cases = tags.iter().filter(|tag| tag.starts_with("testcase ")).count();
        assert_eq!(cases, 20);
        for expected in [
            "<testcase classname=\"5.10.flows\" name=\"flows/counted [lockstep]\" time=\"0.120\"/>",
            "<skipped message=\"kernel &gt;=6.1: this is 5.10.0-46-amd64\"/>",
            "<failure type=\"failed\" message=\"drops.0.packets: expected 1, found 2\">drops.0.packets",
            "<error type=\"kernel panic\" message=\"kernel panic during tcp/breaks [wire]: Kernel panic",
            "[    9.1] sysrq: Trigger a crash\n",
            "<error type=\"no record\"",
            "<system-out>differs as declared for &lt;6.2 (before-6.2): reasons came with commit c504e5c2f964</system-out>",
            "<failure type=\"verifier cost\" message=\"flows/flows_xdp takes 1300",
        ] {
            assert!(xml.contains(expected), "no {expected} in\n{xml}");
        }
    }

    #[test]
    fn nothing_that_a_guest_says_breaks_the_file() {
        let mut matrix = sample::matrix();
        sample::make_hostile(&mut matrix);
        let xml = render(&matrix);
        let tags = tags(&xml);
        assert!(tags.iter().all(|tag| !tag.starts_with("script")));
        assert!(xml.contains("]]&gt;&lt;/script&gt;"));
    }

    #[test]
    fn a_guest_failure_outside_all_trials_and_a_problem_are_cases_of_their_own() {
        let mut matrix = sample::matrix();
        matrix.kernels[0].failures[0].trial = None;
        matrix.problems = vec!["a/b [wire] ran on no kernel: kernel >=99".to_owned()];
        let xml = render(&matrix);
        tags(&xml);
        assert!(xml.contains("<testcase classname=\"5.10.guest\" name=\"guest failure 1\" time=\"0.000\">\n      <error type=\"kernel panic\""));
        assert!(xml.contains(
            "<testcase classname=\"problems\" name=\"a/b [wire]\" time=\"0.000\">\n      <failure type=\"never runs\""
        ));
    }
}
