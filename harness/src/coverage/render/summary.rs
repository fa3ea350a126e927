//! A few lines for a terminal.

use std::fmt::Write as _;

use super::clean;
use crate::coverage::report::{ProgramCoverage, Report};

/// For each program how much of it was reached, and which lines never were, by file:
///
/// ```text
/// flows/flows_xdp  runs 560, instructions 1233 of 2336 (52.7 %), lines 107 of 134 (79.8 %), branches 163 of 432 (37.7 %)
///   never reached: src/flows.rs 12-15, 20
/// ```
///
/// Lines between which nothing was reached stand as a range. A program without line information has none.
#[must_use]
pub fn summary(report: &Report) -> String {
    let mut text = String::new();
    for program in &report.programs {
        write_program(&mut text, program);
    }
    text
}

fn write_program(text: &mut String, program: &ProgramCoverage) {
    let _ = write!(text, "{}/{}  runs ", clean(&program.object), clean(&program.program));
    let _ = match program.runs() {
        Some(runs) => write!(text, "{runs}"),
        None => write!(text, "unknown"),
    };
    let instructions = (program.instructions as usize, program.reached as usize);
    let totals =
        [("instructions", instructions), ("lines", program.line_totals()), ("branches", program.branch_totals())];
    for (what, (all, reached)) in totals.into_iter().filter(|(_, (all, _))| *all > 0) {
        let _ = write!(text, ", {what} {reached} of {all} ({})", percent(reached, all));
    }
    text.push('\n');
    let unknown = program.blocks.iter().filter(|block| block.hits.is_none()).count();
    if unknown > 0 {
        let _ = writeln!(text, "  not known: {unknown} of {} blocks have no probe", program.blocks.len());
    }
    let flags = program.blocks.iter().filter(|block| block.hits.is_some() && !block.exact).count();
    if flags > 0 {
        let _ = writeln!(
            text,
            "  not counted: of {flags} of {} blocks only whether they were reached",
            program.blocks.len()
        );
    }
    let never = never_reached(program);
    if !never.is_empty() {
        let _ = writeln!(text, "  never reached: {}", never.join("; "));
    }
}

/// A part of a whole, rounded down, so that only all is 100.0 %.
fn percent(part: usize, all: usize) -> String {
    let tenths = part as u64 * 1000 / all.max(1) as u64;
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// For each file its lines that were never reached.
fn never_reached(program: &ProgramCoverage) -> Vec<String> {
    let mut files = Vec::new();
    for lines in program.lines.chunk_by(|one, other| one.file == other.file) {
        let mut ranges: Vec<String> = Vec::new();
        for run in lines.chunk_by(|one, other| is_missed(one) == is_missed(other)) {
            if let ([first, .., last], true) = (run, is_missed(&run[0])) {
                ranges.push(format!("{}-{}", first.line, last.line));
            } else if is_missed(&run[0]) {
                ranges.push(run[0].line.to_string());
            }
        }
        if !ranges.is_empty() {
            files.push(format!("{} {}", clean(&lines[0].file), ranges.join(", ")));
        }
    }
    files
}

/// Whether a line is known not to have been reached.
fn is_missed(line: &crate::coverage::report::LineCoverage) -> bool {
    line.reached == 0 && line.hits.is_some()
}
