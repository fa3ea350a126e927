//! Committed figures of verifier cost, and what may rise above them.
//!
//! One file has the figures of every program on every kernel of the list, one program a line, so that a change shows in
//! a review. Instructions and stack are the same in each run on the same kernel; the time that a load takes is not, and
//! has no figure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::record::{Matrix, ProgramCost};
use crate::scenario::hint::{self, Complaint};

/// What a program may take more than its figure says, percent.
pub const ALLOWED_RISE: u64 = 20;

/// What stands above the figures.
const HEADER: &str = "\
# What each program costs the verifier, by kernel of kernels.toml and object: instructions processed, and bytes of
# stack. `bpflab matrix` fails where a program takes over 20 % more; `bpflab matrix --accept-costs` writes this file.
";

/// What one program may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// Instructions that the verifier processes.
    pub instructions: u64,
    /// Bytes of stack; see [`ProgramCost::stack_bytes`].
    pub stack_bytes: u32,
}

/// By object, then program.
type OfKernel = BTreeMap<String, BTreeMap<String, Figure>>;

/// All figures, by the kernel's name in the list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Figures {
    kernels: BTreeMap<String, OfKernel>,
}

/// Why the file of figures cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FiguresError {
    /// It cannot be read.
    #[error("cannot read the figures of verifier cost {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It holds something else.
    #[error(transparent)]
    Form(#[from] Complaint),
    /// It cannot be written.
    #[error("cannot write the figures of verifier cost {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl Figures {
    /// Reads the figures in file `path`; a file that does not exist has none.
    ///
    /// # Errors
    /// [`FiguresError::Read`], [`FiguresError::Form`] with line and column.
    pub fn read(path: &Path) -> Result<Self, FiguresError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(toml::from_str(&text).map_err(|error| hint::explain(path, &text, &error))?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(FiguresError::Read { path: path.to_owned(), source }),
        }
    }

    /// Writes the figures to file `path`, whole or not at all.
    ///
    /// # Errors
    /// [`FiguresError::Write`].
    pub fn write(&self, path: &Path) -> Result<(), FiguresError> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let replace = || {
            let mut file = tempfile::Builder::new().prefix(".bpflab-").tempfile_in(folder)?;
            file.write_all(self.to_text().as_bytes())?;
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt as _;
                file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
            }
            file.persist(path).map_err(|error| error.error)
        };
        replace().map(drop).map_err(|source| FiguresError::Write { path: path.to_owned(), source })
    }

    /// The file's text: sorted, one program a line.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = HEADER.to_owned();
        for (kernel, objects) in &self.kernels {
            for (object, programs) in objects {
                let _ = writeln!(text, "\n[{}.{}]", key(kernel), key(object));
                for (program, Figure { instructions, stack_bytes }) in programs {
                    let program = key(program);
                    let _ =
                        writeln!(text, "{program} = {{ instructions = {instructions}, stack_bytes = {stack_bytes} }}");
                }
            }
        }
        text
    }

    /// Puts what was measured on `kernel` in place of its figures. A program that could not be loaded has none.
    pub fn accept(&mut self, kernel: &str, costs: &[ProgramCost]) {
        let mut objects = OfKernel::new();
        for cost in costs.iter().filter(|cost| cost.reason.is_none()) {
            let figure = Figure { instructions: cost.instructions, stack_bytes: cost.stack_bytes };
            objects.entry(cost.object.clone()).or_default().insert(cost.program.clone(), figure);
        }
        self.kernels.insert(kernel.to_owned(), objects);
    }

    /// Judges the costs of all kernels of `matrix` on which they were measured.
    pub fn judge(&self, matrix: &mut Matrix) {
        for run in matrix.kernels.iter_mut().filter(|run| !run.costs.is_empty()) {
            run.cost_rises = self.rises(&run.name, &run.costs);
        }
    }

    /// What is wrong with the costs that were measured on `kernel`, each as a sentence: rises beyond what is allowed,
    /// programs without a figure, figures without a program.
    #[must_use]
    pub fn rises(&self, kernel: &str, costs: &[ProgramCost]) -> Vec<String> {
        let accept = format!("`bpflab matrix --accept-costs --kernel {kernel}`");
        let Some(figures) = self.kernels.get(kernel) else {
            let measured = costs.iter().filter(|cost| cost.reason.is_none()).count();
            let sentence =
                format!("no cost is committed for {kernel}, where {measured} programs were measured: {accept} does");
            return vec![sentence];
        };
        let figure_of = |cost: &ProgramCost| figures.get(&cost.object)?.get(&cost.program);
        let mut sentences = Vec::new();
        for cost in costs {
            let name = format!("{}/{}", cost.object, cost.program);
            match (figure_of(cost), &cost.reason) {
                (Some(figure), None) => sentences.extend(above(&name, kernel, figure, cost)),
                (None, Some(_)) => {}
                (Some(_), Some(reason)) => {
                    sentences
                        .push(format!("{name} has a committed cost on {kernel}, and was not measured there: {reason}"));
                }
                (None, None) => {
                    let ProgramCost { instructions, stack_bytes, .. } = cost;
                    sentences.push(format!(
                        "{name} has no committed cost on {kernel}, where it takes {instructions} instructions and \
                         {stack_bytes} bytes of stack: {accept} commits it"
                    ));
                }
            }
        }
        let is_there =
            |object: &str, program: &str| costs.iter().any(|cost| cost.object == object && cost.program == program);
        for (object, programs) in figures {
            for program in programs.keys().filter(|program| !is_there(object, program)) {
                sentences.push(format!(
                    "{object}/{program} has a committed cost on {kernel}, and there is no such program: {accept} \
                     removes it"
                ));
            }
        }
        sentences
    }
}

/// The rises of one program.
fn above(name: &str, kernel: &str, figure: &Figure, cost: &ProgramCost) -> impl Iterator<Item = String> {
    let pairs = [
        (cost.instructions, figure.instructions, "instructions"),
        (cost.stack_bytes.into(), figure.stack_bytes.into(), "bytes of stack"),
    ];
    let rises = pairs.into_iter().filter(|(measured, committed, _)| is_rise(*measured, *committed));
    rises.map(move |(measured, committed, what)| {
        let more = match committed {
            0 => "more than".to_owned(),
            _ => format!("{} % more than", (measured - committed).saturating_mul(100) / committed),
        };
        format!("{name} takes {measured} {what} on {kernel}, {more} the committed {committed}")
    })
}

/// Whether `measured` is over 20 % more than `committed`.
fn is_rise(measured: u64, committed: u64) -> bool {
    u128::from(measured) * 100 > u128::from(committed) * u128::from(100 + ALLOWED_RISE)
}

/// A key of TOML: bare where it may be, else in quotes. A dot would part it.
fn key(name: &str) -> String {
    let is_bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if is_bare { name.to_owned() } else { toml::Value::String(name.to_owned()).to_string() }
}

#[cfg(test)]
mod tests;
