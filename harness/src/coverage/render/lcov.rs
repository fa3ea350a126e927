//! Tracefiles of lcov (`man geninfo`), which many tools read.

use std::fmt::Write as _;

use super::{File, clean, files};
use crate::coverage::report::Report;

/// The report as a tracefile; `test` is its test name (`TN`), of which only letters, digits and underscores are kept.
///
/// Counts are those of all programs together. A line has the count of its most frequent block. The branches of a line
/// are its conditional jumps: each is a block of two branches, the first for jumping; one whose counts are not known is
/// left out.
#[must_use]
pub fn lcov(report: &Report, test: &str) -> String {
    let test: String = test.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    let mut text = String::new();
    for (name, file) in files(report) {
        let _ = writeln!(text, "TN:{test}\nSF:{}", clean(name));
        write_functions(&mut text, &file);
        write_branches(&mut text, &file);
        let known = file.lines.iter().filter_map(|(number, line)| Some((number, line.hits?)));
        let (mut found, mut hit) = (0, 0);
        for (number, hits) in known {
            let _ = writeln!(text, "DA:{number},{hits}");
            found += 1;
            hit += u32::from(hits > 0);
        }
        let _ = writeln!(text, "LF:{found}\nLH:{hit}\nend_of_record");
    }
    text
}

fn write_functions(text: &mut String, file: &File<'_>) {
    // Commas separate fields, and names of generic functions have some.
    let plain = |name: &str| clean(name).replace(',', ";");
    for (line, name) in file.functions.keys() {
        let _ = writeln!(text, "FN:{line},{}", plain(name));
    }
    for ((_, name), hits) in &file.functions {
        let _ = writeln!(text, "FNDA:{hits},{}", plain(name));
    }
    let hit = file.functions.values().filter(|hits| **hits > 0).count();
    let _ = writeln!(text, "FNF:{}\nFNH:{hit}", file.functions.len());
}

fn write_branches(text: &mut String, file: &File<'_>) {
    let (mut found, mut hit) = (0, 0);
    for (line, branches) in &file.branches {
        let known = branches.iter().filter_map(|branch| Some((branch.taken?, branch.not_taken?)));
        for (block, (taken, not_taken)) in known.enumerate() {
            for (branch, times) in [taken, not_taken].into_iter().enumerate() {
                // A dash says that the jump was never come to.
                let times_text = if taken == 0 && not_taken == 0 { "-".to_owned() } else { times.to_string() };
                let _ = writeln!(text, "BRDA:{line},{block},{branch},{times_text}");
                found += 1;
                hit += u32::from(times > 0);
            }
        }
    }
    let _ = writeln!(text, "BRF:{found}\nBRH:{hit}");
}
