//! Ways of running a guest. Each starts one and hands over its streams; everything else is common to them.

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tempfile::TempPath;

use super::kvm::Acceleration;
use super::protocol::Request;
use super::supervise::Guest;
use super::{fast, vng};
use crate::kernel::probe::{Requirement, tools};
use crate::scenario::trial::Trial;
use crate::vm::kernels::{Image, KernelError};

/// The runners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Runner {
    /// virtme-ng: boots a guest whose root is this machine's, read-only.
    #[default]
    Vng,
    /// QEMU directly: restores a guest that was booted and saved before.
    Fast,
}

impl std::fmt::Display for Runner {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Vng => "vng",
            Self::Fast => "fast",
        })
    }
}

/// What all guests of a run have in common.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Memory of each guest, MiB.
    pub memory_mib: u32,
    /// Processors of each guest.
    pub cpus: NonZero<u32>,
    /// How they run.
    pub acceleration: Acceleration,
    /// The binary that runs in the guest: this one.
    pub binary: PathBuf,
    /// Folder of the scenarios, absolute, if there are any.
    pub scenarios: Option<PathBuf>,
    /// Folders that guests must see, absolute.
    pub shown: Vec<PathBuf>,
    /// A folder that a guest may write to, absolute; the `vng` runner alone has it.
    pub share: Option<PathBuf>,
    /// The lab's cache.
    pub cache: PathBuf,
    /// The disk that guests find the run's files on, if the runner needs one: see [`Runner::prepare`].
    pub payload: Option<Arc<TempPath>>,
}

/// What trials or a command need beside the folder of the scenarios.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Files and folders with all that is in them, absolute.
    pub files: Vec<PathBuf>,
    /// Programs that must be there, absolute.
    pub programs: Vec<PathBuf>,
    /// Programs that are there if this machine has them, by name.
    pub tools: Vec<String>,
    /// Folders that must be there, empty if nothing else puts a file into them; absolute.
    pub folders: Vec<PathBuf>,
}

impl Needs {
    /// Captures and objects that lie elsewhere, and required tools.
    #[must_use]
    pub fn of(trials: &[Trial]) -> Self {
        let captures = trials.iter().filter_map(|trial| trial.found.capture(&trial.root));
        // A scenario whose object is missing says so itself.
        let objects = trials.iter().flat_map(Trial::objects).filter(|object| object.is_file());
        let files = captures.chain(objects).collect();
        let required = trials.iter().flat_map(|trial| &trial.found.scenario.requires);
        let tools = required.filter_map(Requirement::tool).map(str::to_owned);
        Self { files, tools: tools.collect(), ..Self::default() }
    }
}

/// Why a guest could not be started.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// A program that the runner calls is not there.
    #[error("the {runner} runner needs {tool}, which is not installed: {get}")]
    Tool {
        /// The runner.
        runner: Runner,
        /// The program.
        tool: String,
        /// How to get it.
        get: String,
    },
    /// A file of the run could not be made.
    #[error("cannot write {}", path.display())]
    Folder {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A program must run without libraries.
    #[error("{} needs libraries, which a guest does not have before its disks: `apt install busybox-static`", path.display())]
    NotStatic {
        /// The program.
        path: PathBuf,
    },
    /// The cache cannot be locked, or a tool did not do its work.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A guest that is to be saved did not come so far.
    #[error("the kernel could not be booted to be saved: {why}")]
    Boot {
        /// What was seen.
        why: String,
        /// The last lines of the guest's console.
        console: Vec<String>,
    },
    /// A guest's state could not be saved.
    #[error("cannot save a guest in {}", path.display())]
    Save {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The run was interrupted meanwhile.
    #[error("interrupted while a guest was booted to be saved")]
    Interrupted,
    /// [`Runner::prepare`] was not called.
    #[error("the run's files were not put on a disk")]
    NoPayload,
    /// The runner's process could not be started.
    #[error("cannot start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl Runner {
    /// The programs that the runner calls, with what they are for.
    #[must_use]
    pub const fn tools(self) -> &'static [&'static str] {
        match self {
            Self::Vng => &["vng", "qemu-system-x86_64", "virtiofsd", "depmod", "file"],
            Self::Fast => &["qemu-system-x86_64", "busybox", "mke2fs", "ldd", "xz", "zstd"],
        }
    }

    /// Checks that the runner's programs are there.
    ///
    /// # Errors
    /// [`RunnerError::Tool`] for the first that is not.
    pub fn check(self) -> Result<(), RunnerError> {
        self.tools().iter().try_for_each(|tool| self.tool(tool).map(drop))
    }

    /// Where program `tool` is.
    ///
    /// # Errors
    /// [`RunnerError::Tool`].
    pub fn tool(self, tool: &str) -> Result<PathBuf, RunnerError> {
        tools::find(tool).ok_or_else(|| RunnerError::Tool {
            runner: self,
            tool: tool.to_owned(),
            get: tools::how_to_get(tool),
        })
    }

    /// Starts a guest that serves `request` on the kernel `image`; its files are kept in `folder`. Once `stop` is set, what
    /// takes long is given up.
    ///
    /// # Errors
    /// See [`RunnerError`].
    pub fn start(
        self,
        image: &Image,
        request: &Request,
        setting: &Setting,
        folder: &Path,
        stop: &AtomicBool,
    ) -> Result<Guest, RunnerError> {
        match self {
            Self::Vng => vng::start(image, request, setting, folder),
            Self::Fast => fast::start(image, request, setting, folder, stop),
        }
    }

    /// Makes in `folder` what all guests of a run have in common, once, and notes it in `setting`.
    ///
    /// # Errors
    /// See [`RunnerError`].
    pub fn prepare(self, setting: &mut Setting, needs: &Needs, folder: &Path) -> Result<(), RunnerError> {
        match self {
            // The guest sees this machine's files as they are.
            Self::Vng => {}
            Self::Fast => setting.payload = Some(Arc::new(fast::payload(setting, needs, folder)?)),
        }
        Ok(())
    }

    /// A guest on the kernel `image` did not say a word: what was kept of its like is removed. Says whether there was
    /// anything, that is, whether another one may do better.
    #[must_use]
    pub fn forget(self, image: &Image, setting: &Setting) -> bool {
        match self {
            Self::Vng => false,
            Self::Fast => fast::Saved::forget(image, setting),
        }
    }
}

/// What to make of an error at `path`.
pub(super) fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> RunnerError {
    let path = path.to_owned();
    |source| RunnerError::Folder { path, source }
}

/// A path as a shell reads it.
pub(super) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// Writes a file of the run.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), RunnerError> {
    std::fs::write(path, bytes).map_err(|source| RunnerError::Folder { path: path.to_owned(), source })
}

/// Opens a file of the run.
pub(super) fn open(path: PathBuf) -> Result<std::fs::File, RunnerError> {
    std::fs::File::open(&path).map_err(|source| RunnerError::Folder { path, source })
}

/// Makes a file of the run, empty, to be followed while others write to it.
pub(super) fn make(path: &Path) -> Result<std::fs::File, RunnerError> {
    std::fs::File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(path)
        .map_err(|source| RunnerError::Folder { path: path.to_owned(), source })
}
