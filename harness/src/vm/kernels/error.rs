//! Why a kernel could not be had.

use std::path::PathBuf;
use std::time::Duration;

use crate::scenario::hint::Complaint;

/// Why a kernel could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The list of kernels is wrong.
    #[error(transparent)]
    List(Complaint),
    /// The list of kernels could not be read.
    #[error("cannot read the list of kernels {}: `--kernels` names another", path.display())]
    NoList {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// No kernel of the list has that name.
    #[error("no kernel is called `{name}`{hint}; the list has {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The nearest name, or empty.
        hint: String,
        /// All names.
        known: String,
    },
    /// A file or folder could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file or folder of the cache could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// There is no place for the cache.
    #[error("no home folder is known for the cache: set HOME, XDG_CACHE_HOME or BPFLAB_CACHE")]
    NoHome,
    /// The cache's path cannot be written into apt's configuration.
    #[error("the cache's path {} has a character that apt's configuration cannot hold: set BPFLAB_CACHE", path.display())]
    Path {
        /// The cache's folder.
        path: PathBuf,
    },
    /// Another process has held a part of the cache for too long.
    #[error("another process has held {} for {} seconds: wait for it, or end it", path.display(), waited.as_secs())]
    Busy {
        /// The lock's file.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A program is not installed.
    #[error("no program {tool} in PATH: {get}")]
    ToolMissing {
        /// The program.
        tool: &'static str,
        /// How to get it.
        get: &'static str,
    },
    /// A program could not be started.
    #[error("cannot start {tool}")]
    Start {
        /// The program.
        tool: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A program failed in a way that has no name of its own here.
    #[error("{tool} could not {doing}: {said}")]
    Tool {
        /// The program.
        tool: &'static str,
        /// What it was to do.
        doing: String,
        /// Its complaints.
        said: String,
    },
    /// A program did not end in time.
    #[error("{tool} did not {doing} within {} seconds and was ended", limit.as_secs())]
    Slow {
        /// The program.
        tool: &'static str,
        /// What it was to do.
        doing: String,
        /// The time it had.
        limit: Duration,
    },
    /// No mirror is known.
    #[error("this machine's apt sources name no Debian mirror: name one by --mirror or BPFLAB_MIRROR")]
    NoMirror,
    /// The text given as a mirror is not one.
    #[error("`{mirror}` is not a mirror: it is a URL without blanks, such as http://HOST/debian")]
    BadMirror {
        /// What was given.
        mirror: String,
    },
    /// The mirror does not answer.
    #[error("mirror {mirror} does not answer: {said}; check the network, or name another by --mirror or BPFLAB_MIRROR")]
    MirrorSilent {
        /// Its URL.
        mirror: String,
        /// apt's words.
        said: String,
    },
    /// The mirror does not have the suite.
    #[error(
        "mirror {mirror} has no suite `{suite}`: correct the kernel's `suites`, or name a Debian mirror that has it by --mirror or BPFLAB_MIRROR"
    )]
    UnknownSuite {
        /// Its URL.
        mirror: String,
        /// The suite.
        suite: String,
    },
    /// No key of this machine has signed what the mirror has.
    #[error(
        "the lists of {mirror} are not signed by a key of this machine: {said}; install a newer debian-archive-keyring, or name another mirror"
    )]
    Signature {
        /// Its URL.
        mirror: String,
        /// apt's words.
        said: String,
    },
    /// What came is not what was signed.
    #[error(
        "what {mirror} sent has the wrong checksum and was thrown away: {said}; try again later, or name another mirror by --mirror or BPFLAB_MIRROR"
    )]
    Checksum {
        /// The URL.
        mirror: String,
        /// What is wrong.
        said: String,
    },
    /// The lists name a file that the mirror does not have.
    #[error(
        "mirror {mirror} does not have what its lists name: {said}; try again later, or name another by --mirror or BPFLAB_MIRROR"
    )]
    Gone {
        /// Its URL.
        mirror: String,
        /// apt's words.
        said: String,
    },
    /// The suites have no such package.
    #[error("no package `{package}` in {suites}{near}")]
    NoPackage {
        /// Name or pattern.
        package: String,
        /// The suites.
        suites: String,
        /// What they have instead, or empty.
        near: String,
    },
    /// There is no room.
    #[error("no space left for {} ({doing}): make room there (`bpflab kernels prune`), or set BPFLAB_CACHE to another disk", folder.display())]
    DiskFull {
        /// The folder.
        folder: PathBuf,
        /// What needed it.
        doing: String,
    },
    /// There is no kernel in what was unpacked, or none at the named place.
    #[error("no bootable kernel in {origin}: {reason}")]
    NoImage {
        /// Package or file.
        origin: String,
        /// What was looked for.
        reason: String,
    },
    /// There are no modules for a kernel.
    #[error("kernel {release} of {origin} has no modules: {reason}")]
    NoModules {
        /// Its release.
        release: String,
        /// Package or file.
        origin: String,
        /// What was looked for, and what to do.
        reason: String,
    },
}

impl KernelError {
    /// From the error of writing `path`; a full disk has a name of its own.
    pub(super) fn writing(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                let doing = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                Self::DiskFull { folder: path.parent().unwrap_or(&path).to_owned(), doing: format!("write {doing}") }
            }
            _ => Self::Write { path, source },
        }
    }

    /// From the error of reading `path`.
    pub(super) fn reading(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, source }
    }

    /// Whether what was asked for is wrong, rather than this machine or the mirror.
    #[must_use]
    pub fn is_input(&self) -> bool {
        matches!(
            self,
            Self::List(_)
                | Self::NoList { .. }
                | Self::Unknown { .. }
                | Self::UnknownSuite { .. }
                | Self::NoPackage { .. }
                | Self::BadMirror { .. }
                | Self::NoImage { .. }
                | Self::NoModules { .. }
        )
    }
}
