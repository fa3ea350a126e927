//! The cache: which kernels it has, and how one is had.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::entry::{Entry, file_name};
use super::{Host, Image, Kernel, KernelError, KernelList, Source, Step, fetch, local, version};
use crate::invoker;

/// How old lists of packages may be for the newest package to be read from them. A run over several kernels fetches
/// the lists of a suite once.
const LISTS_AGE: Duration = Duration::from_secs(1800);

/// Kernels on disk. All operations are safe beside those of other processes.
#[derive(Clone, Debug)]
pub struct Cache {
    pub(super) root: PathBuf,
    pub(super) host: Host,
    /// Whom its files are to belong to, if not this process's user.
    owner: Option<(u32, u32)>,
}

/// A kernel of the list, and what the cache has of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Where it comes from.
    pub source: String,
    /// Whether it could be booted at once.
    #[serde(flatten)]
    pub state: State,
}

/// Whether a kernel could be booted at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// It is in the cache, and whole.
    Cached {
        /// Release, as `uname -r` prints it.
        release: String,
        /// Package and exact version, or upstream version.
        version: String,
        /// SHA-256 of the image, in hexadecimal.
        sha256: String,
        /// Bytes on disk.
        bytes: u64,
        /// When it came: seconds since 1970-01-01 00:00 UTC.
        fetched: u64,
    },
    /// It is a file of this machine.
    Local {
        /// Release, as `uname -r` prints it.
        release: String,
        /// SHA-256 of the image, in hexadecimal.
        sha256: String,
    },
    /// It is to be fetched.
    Missing,
    /// It is there, and cannot be used.
    Unusable {
        /// Why not.
        reason: String,
    },
}

/// Folder of everything that the lab keeps between runs: `BPFLAB_CACHE`, else `bpflab` in the user's cache folder. Under
/// sudo that is the folder of who called sudo.
///
/// # Errors
/// [`KernelError::NoHome`].
pub fn lab_cache() -> Result<PathBuf, KernelError> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let chosen = folder("BPFLAB_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("bpflab")))
        .or_else(|| invoker::home().map(|home| home.join(".cache/bpflab")))
        .ok_or(KernelError::NoHome)?;
    std::path::absolute(&chosen).map_err(KernelError::reading(chosen))
}

impl Cache {
    /// The user's cache. Nothing is made yet.
    ///
    /// # Errors
    /// [`KernelError::NoHome`].
    pub fn open() -> Result<Self, KernelError> {
        Ok(Self::at(lab_cache()?.join("kernels"), Host::default(), invoker::owner()))
    }

    pub(super) fn at(root: PathBuf, host: Host, owner: Option<(u32, u32)>) -> Self {
        Self { root, host, owner }
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The kernel, ready to be booted: from the cache if it has one that fits and is whole, without a look at the
    /// network; else fetched, from `mirror` or from the one that this machine's apt sources name.
    ///
    /// # Errors
    /// See [`KernelError`]. The cache is left as it was, or with the damaged entry gone.
    pub fn ensure(
        &self,
        kernel: &Kernel,
        mirror: Option<&str>,
        step: &mut dyn FnMut(Step<'_>),
    ) -> Result<Image, KernelError> {
        if let Some(entry) = self.newest(&kernel.source) {
            match entry.damage() {
                None => {
                    step(Step::Cached { version: &entry.origin.to_string() });
                    return Ok(entry.image(&kernel.name));
                }
                Some(reason) => step(Step::Damaged { version: &entry.origin.to_string(), reason: &reason }),
            }
        }
        self.get(kernel, mirror, LISTS_AGE, step)
    }

    /// As [`Self::ensure`], but what the mirror has now decides: the newest that fits is fetched unless it is cached.
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn refresh(
        &self,
        kernel: &Kernel,
        mirror: Option<&str>,
        step: &mut dyn FnMut(Step<'_>),
    ) -> Result<Image, KernelError> {
        self.get(kernel, mirror, Duration::ZERO, step)
    }

    fn get(
        &self,
        kernel: &Kernel,
        mirror: Option<&str>,
        age: Duration,
        step: &mut dyn FnMut(Step<'_>),
    ) -> Result<Image, KernelError> {
        let entry = match &kernel.source {
            Source::Image { vmlinuz, modules } => return local::image(&kernel.name, vmlinuz, modules.as_deref()),
            Source::Running => return local::running(&kernel.name, &crate::kernel::release(), &self.host),
            Source::Debian { suites, package } => fetch::debian(self, suites, package, mirror, age, step)?,
            Source::Upstream { version } => fetch::upstream(self, version, step)?,
        };
        Ok(entry.image(&kernel.name))
    }

    /// What the cache has of each kernel of the list.
    #[must_use]
    pub fn list(&self, list: &KernelList) -> Vec<Row> {
        let row = |kernel: &Kernel| Row {
            name: kernel.name.clone(),
            source: kernel.source.to_string(),
            state: self.state(kernel),
        };
        list.kernels.iter().map(row).collect()
    }

    fn state(&self, kernel: &Kernel) -> State {
        if matches!(kernel.source, Source::Image { .. } | Source::Running) {
            return match self.get(kernel, None, LISTS_AGE, &mut |_| {}) {
                Ok(image) => State::Local { release: image.release, sha256: image.sha256 },
                Err(error) => State::Unusable { reason: error.to_string() },
            };
        }
        let Some(entry) = self.newest(&kernel.source) else { return State::Missing };
        match entry.damage() {
            Some(reason) => State::Unusable { reason },
            None => State::Cached {
                version: entry.origin.to_string(),
                release: entry.release,
                sha256: entry.vmlinuz_sha256,
                bytes: entry.bytes,
                fetched: entry.fetched,
            },
        }
    }

    /// The newest entry that serves `source`, whole or not.
    pub(super) fn newest(&self, source: &Source) -> Option<Entry> {
        let entries = self.entries().into_iter().filter(|entry| entry.origin.serves(source));
        entries.max_by(|a, b| version::compare(a.origin.version(), b.origin.version()))
    }

    /// All entries that have a record.
    pub(super) fn entries(&self) -> Vec<Entry> {
        folders(&self.entries_folder()).iter().filter_map(|folder| Entry::read(folder)).collect()
    }

    pub(super) fn entries_folder(&self) -> PathBuf {
        self.root.join("entries")
    }

    /// Where the process that holds the lock of `key` may work. What is there when it takes the lock is a killed
    /// process's.
    pub(super) fn work(&self, key: &str) -> PathBuf {
        self.root.join("work").join(file_name(key))
    }

    pub(super) fn lock(&self, key: &str) -> PathBuf {
        self.root.join("locks").join(file_name(key))
    }

    /// Gives everything at and below `path` to who called sudo.
    pub(super) fn give(&self, path: &Path) {
        invoker::give(path, self.owner);
    }

    /// Gives the cache's own folders, without what is in them, and the locks.
    pub(super) fn give_folders(&self) {
        let Some((uid, gid)) = self.owner else { return };
        let names = ["entries", "work", "apt"].map(|name| self.root.join(name));
        for folder in
            self.root.parent().into_iter().chain([self.root.as_path()]).chain(names.iter().map(PathBuf::as_path))
        {
            let _ = std::os::unix::fs::lchown(folder, Some(uid), Some(gid));
        }
        self.give(&self.root.join("locks"));
    }
}

/// The folders in `folder`, by name.
pub fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}
