//! Coverage for people and programs: pure functions of a [`Report`].

mod annotated;
mod lcov;
mod summary;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::report::{BranchCoverage, ProgramCoverage, Report, VERSION};

pub use annotated::annotated;
pub use lcov::lcov;
pub use summary::summary;

/// The JSON that was read is no report.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// It is no JSON, or lacks what a report has.
    #[error("cannot read a coverage report")]
    Form(#[source] serde_json::Error),
    /// It was written by another version of the lab.
    #[error("cannot read a coverage report of version {0}: this is version {VERSION}")]
    Version(u64),
}

/// The form of the JSON.
#[derive(Serialize, Deserialize)]
struct Document<P> {
    version: u32,
    programs: P,
}

/// The report as JSON, with its version. What is not known is `null`.
#[must_use]
pub fn json(report: &Report) -> String {
    let document = Document { version: VERSION, programs: &report.programs };
    // Numbers, texts and lists of them: there is nothing that could not be written.
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

/// Reads what [`json`] wrote.
///
/// # Errors
/// [`JsonError`].
pub fn from_json(text: &str) -> Result<Report, JsonError> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(JsonError::Form)?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version != u64::from(VERSION) => Err(JsonError::Version(version)),
        _ => {
            let document: Document<Vec<ProgramCoverage>> = serde_json::from_value(value).map_err(JsonError::Form)?;
            Ok(Report { programs: document.programs })
        }
    }
}

/// A line of a file, of all programs that have it.
#[derive(Default)]
struct FileLine<'a> {
    text: &'a str,
    /// The sum of the programs' hits; nothing if no program knows.
    hits: Option<u64>,
    instructions: u32,
    reached: u32,
}

/// A file, of all programs that have lines of it.
#[derive(Default)]
struct File<'a> {
    lines: BTreeMap<u32, FileLine<'a>>,
    /// Functions by line and name, with their hits.
    functions: BTreeMap<(u32, &'a str), u64>,
    /// Conditional jumps by line.
    branches: BTreeMap<u32, Vec<&'a BranchCoverage>>,
}

/// The files that the programs were compiled from, by name. Files whose lines were left out of the report are not among
/// them.
fn files(report: &Report) -> BTreeMap<&str, File<'_>> {
    let mut files: BTreeMap<&str, File<'_>> = BTreeMap::new();
    for program in &report.programs {
        for line in &program.lines {
            let found = files.entry(&line.file).or_default().lines.entry(line.line).or_default();
            found.text = if found.text.is_empty() { &line.text } else { found.text };
            found.hits = match (found.hits, line.hits) {
                (Some(one), Some(other)) => Some(one.saturating_add(other)),
                (one, other) => one.or(other),
            };
            found.instructions = found.instructions.saturating_add(line.instructions);
            found.reached = found.reached.saturating_add(line.reached);
        }
        for function in &program.functions {
            let (Some(file), Some(line)) = (&function.file, function.line) else { continue };
            if let Some(file) = files.get_mut(file.as_str()) {
                let hits = file.functions.entry((line, &function.name)).or_default();
                *hits = hits.saturating_add(function.hits.unwrap_or(0));
            }
        }
        for branch in &program.branches {
            let (Some(file), Some(line)) = (&branch.file, branch.line) else { continue };
            if let Some(file) = files.get_mut(file.as_str()) {
                file.branches.entry(line).or_default().push(branch);
            }
        }
    }
    files
}

/// A text of the object without what would end a line: objects are anybody's.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests;
