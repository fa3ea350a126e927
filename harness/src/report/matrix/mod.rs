//! The result pages of the kernel matrix: pure functions of a [`Matrix`], all made from the same [`Grid`].
//!
//! [`terminal`] is the page that people read first, [`html`] the one with the texts side by side, [`junit`] the one for
//! CI's test views; the [`Matrix`] itself, as JSON, is the one that loses nothing. [`merge()`] joins the parts of a run
//! that had one kernel per job.

mod details;
mod grid;
pub mod html;
pub mod junit;
mod merge;
#[cfg(test)]
pub(crate) mod sample;
pub mod terminal;
mod text;

use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

pub use grid::{Cell, Column, Counts, Grid, Row};
pub use merge::{MergeError, merge, problems_of};

use crate::record::{MATRIX_VERSION, Matrix, RECORD_VERSION};

/// Why a file is no result that can be shown.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It holds something else.
    #[error("{} is no result of a kernel matrix", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Where it departs from one.
        source: serde_json::Error,
    },
    /// Another version of bpflab wrote it.
    #[error("{} has {what} of version {found}, and this bpflab reads version {known}: run the same one everywhere", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// `a result` or `records`.
        what: &'static str,
        /// Its version.
        found: u32,
        /// The version that this command reads.
        known: u32,
    },
    /// Two of its kernels have the same name.
    #[error("{} has two kernels of the name `{kernel}`", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// The name.
        kernel: String,
    },
}

/// What every version of a result has: enough to refuse an unknown one by its version, not by a missing key.
#[derive(Deserialize)]
struct Head {
    version: u32,
    kernels: Vec<HeadKernel>,
}

#[derive(Deserialize)]
struct HeadKernel {
    #[serde(default)]
    records: Vec<HeadRecord>,
}

#[derive(Deserialize)]
struct HeadRecord {
    version: u32,
}

/// Reads a result that `bpflab` wrote as JSON.
///
/// # Errors
/// [`ReadError`]: no file, none of this kind, another version, or a kernel that it has twice.
pub fn read(path: &Path) -> Result<Matrix, ReadError> {
    let text = std::fs::read(path).map_err(|source| ReadError::Read { path: path.to_owned(), source })?;
    let foreign = |source| ReadError::Foreign { path: path.to_owned(), source };
    let head: Head = serde_json::from_slice(&text).map_err(foreign)?;
    let version = |what, found, known| ReadError::Version { path: path.to_owned(), what, found, known };
    if head.version != MATRIX_VERSION {
        return Err(version("a result", head.version, MATRIX_VERSION));
    }
    let mut records = head.kernels.iter().flat_map(|kernel| &kernel.records);
    if let Some(record) = records.find(|record| record.version != RECORD_VERSION) {
        return Err(version("records", record.version, RECORD_VERSION));
    }
    let matrix: Matrix = serde_json::from_slice(&text).map_err(foreign)?;
    for (position, run) in matrix.kernels.iter().enumerate() {
        if matrix.kernels[..position].iter().any(|other| other.name == run.name) {
            return Err(ReadError::Twice { path: path.to_owned(), kernel: run.name.clone() });
        }
    }
    Ok(matrix)
}

/// `matrix` as JSON with a final newline; [`read`] takes it back.
#[must_use]
pub fn to_json(matrix: &Matrix) -> String {
    // Strings, numbers and string-keyed maps: serialising cannot fail.
    let mut text = serde_json::to_string_pretty(matrix).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Matrix, ReadError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("matrix.json");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    fn refusal(text: &str) -> String {
        crate::error::chain(&read_text(text).unwrap_err())
    }

    #[test]
    fn a_result_is_read_back_as_it_was_written() {
        let matrix = sample::matrix();
        let text = to_json(&matrix);
        assert_eq!(to_json(&read_text(&text).unwrap()), text);
    }

    #[test]
    fn what_is_no_result_is_refused_by_what_it_is() {
        let text = to_json(&sample::matrix());
        assert!(refusal("").contains("is no result of a kernel matrix: EOF"));
        assert!(refusal("{\"version\": 1}").contains("missing field `kernels`"));
        let newer = text.replacen("\"version\": 1", "\"version\": 7", 1);
        assert!(refusal(&newer).contains("has a result of version 7, and this bpflab reads version 1"));
        let records = text.replacen(&format!("\"version\": {RECORD_VERSION},\n"), "\"version\": 99,\n", 1);
        assert!(refusal(&records).contains("has records of version 99"));
        assert!(
            refusal(&text.replacen("\"name\": \"6.1\"", "\"name\": \"5.10\"", 1))
                .contains("two kernels of the name `5.10`")
        );
        let missing = crate::error::chain(&read(Path::new("no/such.json")).unwrap_err());
        assert_eq!(missing, "reading no/such.json: No such file or directory (os error 2)");
    }
}
