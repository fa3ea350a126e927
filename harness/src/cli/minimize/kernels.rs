//! Whether the snapshot of a capture differs between two kernels, by guests.

use std::path::{Path, PathBuf};

use super::{MinimizeArgs, artefact, scenario, unlimited};
use crate::cli::{Failure, matrix};
use crate::minimize::{MinimizeError, Probe};
use crate::record::Outcome;
use crate::run::Plan;
use crate::scenario::trial::Trial;
use crate::vm::runner::Runner;

/// Runs captures as a scenario on two kernels.
pub(super) struct Kernels<'a> {
    args: &'a MinimizeArgs,
    names: [String; 2],
    /// Folder of the scenario.
    root: PathBuf,
}

impl<'a> Kernels<'a> {
    pub(super) fn new(args: &'a MinimizeArgs, plan: &Plan, names: [&str; 2], folder: &Path) -> Result<Self, Failure> {
        let root = folder.join("scenarios");
        std::fs::create_dir_all(&root).map_err(artefact(&root))?;
        for setup in &plan.programs.objects {
            let copy = root.join(setup.object.file_name().unwrap_or_default());
            std::fs::copy(&setup.object, &copy).map_err(artefact(&copy))?;
        }
        let file = root.join("candidate.toml");
        let table = scenario::table(&unlimited(plan), "candidate.pcapng", "a candidate")?;
        std::fs::write(&file, scenario::text(&table)).map_err(artefact(&file))?;
        Ok(Self { args, names: names.map(str::to_owned), root })
    }

    /// What the kernels saw, one text each.
    fn texts(&self) -> Result<Vec<String>, String> {
        let trials = Trial::all(&self.root).map_err(|error| crate::error::chain(&error))?;
        let runner = self.args.guests.runner.unwrap_or(Runner::Fast);
        let ran = matrix::on_kernels(&trials, &self.root, &self.names, &self.args.guests, runner);
        let ran = ran.map_err(|failure| failure.message)?;
        let mut texts = Vec::new();
        for kernel in &ran.kernels {
            let record = kernel.records.first();
            let text =
                record.filter(|record| record.result != Outcome::LabFailure).and_then(|record| record.snapshot.clone());
            texts.push(text.ok_or_else(|| {
                let why = record.map_or_else(Vec::new, |record| record.reasons.clone());
                let guest = kernel.failures.iter().map(|failure| failure.message.clone());
                format!(
                    "{} gives no answer: {}",
                    kernel.name,
                    why.into_iter().chain(guest).collect::<Vec<_>>().join("; ")
                )
            })?);
        }
        Ok(texts)
    }
}

impl Probe for Kernels<'_> {
    fn holds(&mut self, capture: &Path) -> Result<bool, MinimizeError> {
        // The packets alone: where they were kept and how says nothing.
        let copy = self.root.join("candidate.pcapng");
        std::fs::copy(capture, &copy)
            .map_err(|error| MinimizeError::Kernels(format!("cannot write {}: {error}", copy.display())))?;
        let texts = self.texts().map_err(MinimizeError::Kernels)?;
        Ok(texts.windows(2).any(|pair| pair[0] != pair[1]))
    }
}
