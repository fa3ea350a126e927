//! Ways of running a guest. Each starts one and hands over its streams; everything else is common to them.

use std::path::{Path, PathBuf};

use super::kvm::Acceleration;
use super::protocol::Request;
use super::supervise::Guest;
use super::vng;
use crate::kernel::probe::tools;
use crate::vm::kernels::Image;

/// The runners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Runner {
    /// virtme-ng: boots a guest whose root is this machine's, read-only.
    #[default]
    Vng,
}

impl std::fmt::Display for Runner {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Vng => "vng",
        })
    }
}

/// What all guests of a run have in common.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Memory of each guest, MiB.
    pub memory_mib: u32,
    /// How they run.
    pub acceleration: Acceleration,
    /// The binary that runs in the guest: this one.
    pub binary: PathBuf,
    /// Folder of the scenarios, absolute.
    pub scenarios: PathBuf,
    /// The lab's cache.
    pub cache: PathBuf,
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

    /// Starts a guest that serves `request` on the kernel `image`; its files are kept in `folder`.
    ///
    /// # Errors
    /// See [`RunnerError`].
    pub fn start(
        self,
        image: &Image,
        request: &Request,
        setting: &Setting,
        folder: &Path,
    ) -> Result<Guest, RunnerError> {
        match self {
            Self::Vng => vng::start(image, request, setting, folder),
        }
    }
}

/// Writes a file of the run.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), RunnerError> {
    std::fs::write(path, bytes).map_err(|source| RunnerError::Folder { path: path.to_owned(), source })
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
