//! Source with counts beside it.

use std::fmt::Write as _;

use super::{File, FileLine, clean, files};
use crate::coverage::report::Report;

/// Every file with how often each of its lines was reached, by all programs together, as `gcov` writes it:
///
/// ```text
///        560:   41: if (bounds(data, 14) > end)
///      #####:   42:     return XDP_DROP;
///        12*:   43: return a && b;
///          -:   44:
/// ```
///
/// `#####` was never reached, `-` has no code, `?` has no probe; with `*` only part of the line's code was reached.
///
/// The text comes from the object itself, which has that of every line with code. `source` gives the text of a file by
/// the name that the compiler used: where there is one and it has the same lines, it is shown whole; where it differs,
/// that is said and the object's is shown.
#[must_use]
pub fn annotated(report: &Report, source: &dyn Fn(&str) -> Option<String>) -> String {
    let mut text = String::new();
    for (name, file) in files(report) {
        let found = source(name);
        let whole = found.as_deref().filter(|found| is_same(&file, found));
        let note = if found.is_some() && whole.is_none() { " (the file has changed since)" } else { "" };
        let _ = writeln!(text, "{}{note}", clean(name));
        match whole {
            Some(whole) => {
                for (line, number) in whole.lines().zip(1..) {
                    write_line(&mut text, file.lines.get(&number), number, line);
                }
            }
            None => write_known(&mut text, &file),
        }
        text.push('\n');
    }
    text
}

/// Whether the lines of `source` are those that were compiled.
fn is_same(file: &File<'_>, source: &str) -> bool {
    let lines: Vec<&str> = source.lines().collect();
    let same = |(number, line): (&u32, &FileLine<'_>)| {
        let found = lines.get((*number as usize).saturating_sub(1));
        found.is_some_and(|found| line.text.is_empty() || found.trim() == line.text.trim())
    };
    file.lines.iter().all(same)
}

/// The lines with code alone; a gap between them is three dots.
fn write_known(text: &mut String, file: &File<'_>) {
    let mut last = None;
    for (number, line) in &file.lines {
        if last.is_some_and(|last| last + 1 < *number) {
            let _ = writeln!(text, "{:>11}", "...");
        }
        write_line(text, Some(line), *number, line.text);
        last = Some(*number);
    }
}

fn write_line(text: &mut String, line: Option<&FileLine<'_>>, number: u32, source: &str) {
    let count = match line {
        None => "-".to_owned(),
        Some(FileLine { hits: None, .. }) => "?".to_owned(),
        Some(FileLine { reached: 0, .. }) => "#####".to_owned(),
        Some(FileLine { hits: Some(hits), instructions, reached, .. }) => {
            format!("{hits}{}", if reached < instructions { "*" } else { "" })
        }
    };
    let _ = writeln!(text, "{}", format!("{count:>11}:{number:>5}: {}", clean(source)).trim_end());
}
