//! `bpflab report`: the pages of results that exist already, and what every command does with a result.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Exit, Failure};
use crate::record::{FailureKind, GuestFailure, KernelRun, Matrix, Outcome};
use crate::report::matrix::{self, Grid, html, junit, terminal};

/// Letters in a line where standard output is no terminal.
const WIDTH: usize = 120;

/// `bpflab report`.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ReportCommand,
}

/// The commands on results.
#[derive(Debug, clap::Subcommand)]
pub enum ReportCommand {
    /// Join the results of runs that had one kernel each, and judge them as a whole.
    Merge(MergeArgs),
    /// Print the page of a result.
    Show(ShowArgs),
}

/// `bpflab report merge`.
#[derive(Debug, clap::Args)]
pub struct MergeArgs {
    /// Results as JSON, in any order.
    #[arg(required = true, value_name = "FILES")]
    pub files: Vec<PathBuf>,
    /// The files to write.
    #[command(flatten)]
    pub outputs: OutputArgs,
    /// What makes the command fail.
    #[command(flatten)]
    pub exit_on: ExitOn,
    /// Names of the kernels that must be there, separated by commas: one without a result is a lab failure.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub expect: Vec<String>,
    /// Print the summary alone.
    #[arg(short, long)]
    pub quiet: bool,
}

/// `bpflab report show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The result as JSON.
    pub file: PathBuf,
    /// The files to write.
    #[command(flatten)]
    pub outputs: OutputArgs,
    /// One line for each family in which nothing failed.
    #[arg(long)]
    pub fold: bool,
}

/// Files that a result is written to.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct OutputArgs {
    /// Write the result as JSON.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write the page as one HTML file.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the result as JUnit XML.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}

/// What makes a command on a matrix fail.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct ExitOn {
    /// What makes the exit code other than 0, separated by commas.
    #[arg(
        long = "exit-on",
        value_enum,
        value_delimiter = ',',
        value_name = "OUTCOMES",
        default_values = ["failed", "lab-failure"]
    )]
    pub causes: Vec<Cause>,
}

impl Default for ExitOn {
    fn default() -> Self {
        Self { causes: vec![Cause::Failed, Cause::LabFailure] }
    }
}

impl ExitOn {
    /// Whether `cause` counts. Beside `never`, nothing does.
    #[must_use]
    pub fn counts(&self, cause: Cause) -> bool {
        self.causes.contains(&cause) && !self.causes.contains(&Cause::Never)
    }
}

/// What may make a command on a matrix fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Cause {
    /// A failed trial, a rise in verifier cost, a trial that no kernel of the list can run: exit code 1.
    Failed,
    /// A lab failure, a guest failure, a trial without a record, or nothing that ran at all: exit code 69.
    LabFailure,
    /// A trial that differs as declared: exit code 1.
    Differs,
    /// An unsupported trial: exit code 1.
    Unsupported,
    /// Nothing: exit code 0 whatever the result says.
    Never,
}

/// The exit code for `matrix`. A failure outweighs a lab failure.
#[must_use]
pub fn exit(matrix: &Matrix, on: &ExitOn) -> Exit {
    let totals = Grid::new(matrix).totals();
    let rises = matrix.kernels.iter().any(|run| !run.cost_rises.is_empty());
    let failed = totals.of(Outcome::Failed) > 0 || rises || !matrix.problems.is_empty();
    let guests = matrix.kernels.iter().any(|run| !run.failures.is_empty());
    let lab = totals.of(Outcome::LabFailure) > 0 || totals.missing > 0 || guests || totals.judged() == 0;
    if failed && on.counts(Cause::Failed)
        || totals.of(Outcome::Differs) > 0 && on.counts(Cause::Differs)
        || totals.of(Outcome::Unsupported) > 0 && on.counts(Cause::Unsupported)
    {
        return Exit::Failed;
    }
    if lab && on.counts(Cause::LabFailure) { Exit::Unavailable } else { Exit::Passed }
}

/// A page that cannot be written.
#[derive(Debug, Error)]
#[error("writing {}", path.display())]
struct WriteError {
    path: PathBuf,
    source: std::io::Error,
}

/// Writes the files that `args` name: each whole or not at all.
///
/// # Errors
/// The first file that cannot be written; exit code 2.
pub fn write_outputs(matrix: &Matrix, args: &OutputArgs) -> Result<(), Failure> {
    type Render = fn(&Matrix) -> String;
    let pages = [
        (&args.output, matrix::to_json as Render),
        (&args.html, html::render as Render),
        (&args.junit, junit::render as Render),
    ];
    for (path, render) in pages {
        if let Some(path) = path {
            replace(path, &render(matrix))
                .map_err(|source| Failure::invalid(&WriteError { path: path.clone(), source }))?;
        }
    }
    Ok(())
}

/// Puts `text` in place of the file by a rename, so that no reader meets half a file. What is no regular file, such as a
/// terminal or a pipe, is written to.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return std::fs::write(path, text);
    }
    // A link keeps pointing to its file.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // As any new file: what the umask leaves.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.prefix(".bpflab-").tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.persist(&path)?;
    Ok(())
}

/// The layout that fits standard output.
#[must_use]
pub fn layout(fold: bool) -> terminal::Layout {
    let width = console::Term::stdout().size_checked().map_or(WIDTH, |(_, columns)| usize::from(columns));
    terminal::Layout { colours: console::colors_enabled(), width, fold }
}

/// Prints `text`; a reader that left early is no error.
pub fn print(text: &str) {
    drop(std::io::stdout().write_all(text.as_bytes()));
}

/// Runs `bpflab report`.
///
/// # Errors
/// Files that are no results, contradict each other, or cannot be written: exit code 2.
pub fn report(args: &ReportArgs) -> Result<Exit, Failure> {
    match &args.command {
        ReportCommand::Merge(args) => merge(args),
        ReportCommand::Show(args) => show(args),
    }
}

fn merge(args: &MergeArgs) -> Result<Exit, Failure> {
    let mut parts = args.files.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
    let missing =
        args.expect.iter().filter(|name| !parts.iter().flat_map(|part| &part.kernels).any(|run| run.name == **name));
    let missing: Vec<KernelRun> = missing.map(|name| absent(name)).collect();
    parts.push(Matrix { kernels: missing, ..Matrix::default() });
    let whole = matrix::merge(parts).map_err(|error| Failure::invalid(&error))?;
    write_outputs(&whole, &args.outputs)?;
    if args.quiet {
        print(&format!("{}\n", terminal::summary(&whole)));
    } else {
        print(&terminal::render(&whole, layout(false)));
    }
    Ok(exit(&whole, &args.exit_on))
}

/// A kernel whose job left no result: it must not go missing from the page as if it had never been asked for.
fn absent(name: &str) -> KernelRun {
    let failure = GuestFailure {
        kind: FailureKind::Unavailable,
        trial: None,
        message: "it is expected, and none of the files has its result".to_owned(),
        console: Vec::new(),
    };
    KernelRun { name: name.to_owned(), failures: vec![failure], ..KernelRun::default() }
}

fn show(args: &ShowArgs) -> Result<Exit, Failure> {
    let matrix = read(&args.file)?;
    write_outputs(&matrix, &args.outputs)?;
    print(&terminal::render(&matrix, layout(args.fold)));
    Ok(Exit::Passed)
}

fn read(file: &Path) -> Result<Matrix, Failure> {
    matrix::read(file).map_err(|error| Failure::invalid(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::matrix::sample;

    fn on(causes: &[Cause]) -> ExitOn {
        ExitOn { causes: causes.to_vec() }
    }

    /// The sample with only its newest kernel, on which all passed.
    fn well() -> Matrix {
        let mut matrix = sample::matrix();
        matrix.kernels.drain(..2);
        matrix.kernels[0].cost_rises.clear();
        matrix
    }

    #[test]
    fn a_failure_outweighs_a_lab_failure() {
        let mut matrix = sample::matrix();
        assert_eq!(exit(&matrix, &ExitOn::default()), Exit::Failed);
        assert_eq!(exit(&matrix, &on(&[Cause::LabFailure])), Exit::Unavailable);
        assert_eq!(exit(&matrix, &on(&[Cause::Never])), Exit::Passed);
        assert_eq!(exit(&matrix, &on(&[Cause::Failed, Cause::Never])), Exit::Passed);
        // Without the failed trial the rise in cost is left, without that one the panic.
        for run in &mut matrix.kernels {
            run.records[2].result = Outcome::Passed;
        }
        assert_eq!(exit(&matrix, &ExitOn::default()), Exit::Failed);
        matrix.kernels[2].cost_rises.clear();
        assert_eq!(exit(&matrix, &ExitOn::default()), Exit::Unavailable);
        assert_eq!(exit(&matrix, &on(&[Cause::Differs])), Exit::Failed);
        assert_eq!(exit(&matrix, &on(&[Cause::Unsupported])), Exit::Failed);
    }

    #[test]
    fn what_is_well_passes_and_what_never_ran_does_not() {
        let mut matrix = well();
        let all = on(&[Cause::Failed, Cause::LabFailure, Cause::Differs, Cause::Unsupported]);
        assert_eq!(exit(&matrix, &all), Exit::Passed);
        matrix.problems.push("a/b [wire] ran on no kernel: kernel >=99".to_owned());
        assert_eq!(exit(&matrix, &all), Exit::Failed);
        matrix.problems.clear();
        matrix.kernels[0].failures.push(sample::panic());
        assert_eq!(exit(&matrix, &all), Exit::Unavailable);
        assert_eq!(exit(&Matrix::default(), &ExitOn::default()), Exit::Unavailable);
        let mut matrix = well();
        for record in &mut matrix.kernels[0].records {
            record.result = Outcome::Unsupported;
        }
        assert_eq!(exit(&matrix, &ExitOn::default()), Exit::Unavailable);
    }

    #[test]
    fn a_kernel_that_gave_no_record_of_a_trial_has_not_passed() {
        let mut matrix = well();
        let mut other = matrix.kernels[0].clone();
        other.name = "next".to_owned();
        other.records.pop();
        matrix.kernels.push(other);
        assert_eq!(exit(&matrix, &ExitOn::default()), Exit::Unavailable);
    }

    #[test]
    fn a_page_replaces_the_file_and_keeps_what_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.html");
        replace(&path, "one").unwrap();
        replace(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        replace(Path::new("/dev/null"), "nothing").unwrap();
        assert!(!Path::new("/dev/null").metadata().unwrap().is_file(), "the device is still one");
        assert!(replace(&folder.path().join("no/page.html"), "").is_err());
    }
}
