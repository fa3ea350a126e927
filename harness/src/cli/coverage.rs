//! Coverage of several runs, added up and written out.

use std::fs;
use std::path::{Path, PathBuf};

use super::Failure;
use crate::coverage::{ProgramCoverage, Report, render};
use crate::run::RunError;

/// What was reached so far.
pub struct Coverage {
    folder: PathBuf,
    report: Report,
}

impl Coverage {
    /// Nothing yet; the folder is made at the end.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), report: Report::default() }
    }

    /// Adds what a run left in a file, if it left one.
    pub fn add(&mut self, file: &Path) -> Result<(), Failure> {
        let Ok(text) = fs::read_to_string(file) else { return Ok(()) };
        let report = render::from_json(&text).map_err(|error| Failure::unavailable(&error))?;
        self.extend(report.programs)
    }

    /// Adds what programs reached.
    pub fn extend(&mut self, programs: Vec<ProgramCoverage>) -> Result<(), Failure> {
        let mut programs = programs.into_iter();
        programs.try_for_each(|program| self.report.add(program).map_err(|error| Failure::unavailable(&error)))
    }

    /// Writes the files, and prints the summary with their place on standard error.
    pub fn finish(self) -> Result<(), Failure> {
        let Self { folder, report } = self;
        if report.programs.is_empty() {
            eprintln!("no coverage: no program under test was run");
            return Ok(());
        }
        let summary = render::summary(&report);
        let source = |name: &str| fs::read_to_string(name).ok();
        let files = [
            ("summary.txt", summary.clone()),
            ("annotated.txt", render::annotated(&report, &source)),
            ("lcov.info", render::lcov(&report, "bpflab")),
            ("coverage.json", render::json(&report)),
        ];
        fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
        for (name, text) in files {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|error| failed(&path, error))?;
        }
        eprint!("{summary}");
        eprintln!("source with counts, lcov tracefile and JSON are in {}", folder.display());
        Ok(())
    }
}

fn failed(path: &Path, source: std::io::Error) -> Failure {
    Failure::invalid(&RunError::Artefact { path: path.to_owned(), source })
}
