//! `bpflab matrix --test-binary`: the tests of any project as the trials of a matrix.

use std::path::PathBuf;

use super::args::MatrixArgs;
use super::guests::{environment, in_text, working_folder};
use super::{Exit, Failure};
use crate::vm::protocol::{GuestCommand, TestBinary, TrialName};
use crate::vm::test_binary;

/// Test binaries and those of their tests that are to run.
#[derive(Debug, Default)]
pub struct Chosen {
    /// The binaries.
    pub binaries: Vec<TestBinary>,
    /// Their tests, binary by binary, in the order of their lists.
    pub tests: Vec<TrialName>,
}

impl Chosen {
    /// Asks the binaries of `args` for their tests; those that the pattern names are chosen: the one of that name, else
    /// those whose name contains it, or matches it as a glob.
    pub fn of(args: &MatrixArgs) -> Result<Self, Failure> {
        let programs = args.test_binary.iter().map(|path| {
            let path = std::path::absolute(path).map_err(|error| Failure::invalid(&error))?;
            in_text(&path).map(|()| path)
        });
        let programs = programs.collect::<Result<Vec<PathBuf>, Failure>>()?;
        let folder = working_folder()?;
        let environment = environment(&args.bring.env, &folder)?;
        let limit_ms = args.guests.timeout.saturating_mul(1_000);
        let mut chosen = Self::default();
        for (program, name) in programs.iter().zip(test_binary::names(&programs)) {
            let command = GuestCommand {
                program: program.clone(),
                arguments: args.test_args.clone(),
                environment: environment.clone(),
                folder: folder.clone(),
                limit_ms,
            };
            let tests = test_binary::list(&command).map_err(|error| Failure::invalid(&error))?;
            chosen.tests.extend(tests.iter().map(|test| test_binary::trial(&name, test)));
            chosen.binaries.push(TestBinary { name, command });
        }
        if let Some(pattern) = &args.pattern {
            chosen.narrow(pattern)?;
        }
        Ok(chosen)
    }

    fn narrow(&mut self, pattern: &str) -> Result<(), Failure> {
        if self.tests.iter().any(|test| test.scenario == pattern) {
            self.tests.retain(|test| test.scenario == pattern);
            return Ok(());
        }
        let glob = glob::Pattern::new(pattern).map_err(|error| Failure {
            exit: Exit::Invalid,
            message: format!("the pattern `{pattern}` is no glob: {error}"),
        })?;
        self.tests.retain(|test| test.scenario.contains(pattern) || glob.matches(&test.scenario));
        Ok(())
    }

    /// Says that there is nothing to run.
    pub fn nothing(&self, pattern: Option<&str>) -> Exit {
        let pattern = pattern.map_or_else(String::new, |pattern| format!(" by `{pattern}`"));
        let names: Vec<&str> = self.binaries.iter().map(|binary| binary.name.as_str()).collect();
        eprintln!("bpflab: no test of {} is selected{pattern}", names.join(", "));
        Exit::Nothing
    }
}
