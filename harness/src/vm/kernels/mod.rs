//! Kernels to run scenarios on: the list of them, where each comes from, and the cache that keeps them.
//!
//! A kernel is fetched once: packages come to a working folder, are checked against signed lists, unpacked, indexed and
//! described by a record; then the folder is renamed into its place. What stands in its place is therefore whole; each
//! use checks the image's sum all the same.

mod apt;
mod bzimage;
mod cache;
mod entry;
mod error;
mod fetch;
mod list;
mod local;
mod lock;
mod mirror;
mod prune;
#[cfg(test)]
mod tests;
mod tool;
mod unpack;
mod version;

use std::path::PathBuf;
use std::time::Duration;

pub(super) use cache::folders;
pub use cache::{Cache, Row, State, lab_cache};
pub(super) use entry::bytes;
pub use entry::{Entry, File, Origin};
pub use error::KernelError;
pub use list::{Kernel, KernelList, Source};
pub(super) use lock::Lock;
pub use prune::Pruned;
pub(super) use tool::Tool;

/// A kernel that can be booted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Image {
    /// Its name in the list.
    pub name: String,
    /// Its release, as `uname -r` prints it.
    pub release: String,
    /// Package and exact version, or what else it is.
    pub version: String,
    /// SHA-256 of the image, in hexadecimal.
    pub sha256: String,
    /// The bootable image; in the cache it stands in `boot`, beside `lib/modules`.
    pub vmlinuz: PathBuf,
    /// Its `lib/modules/RELEASE`, with `modules.dep`; none if all that guests need is built in.
    pub modules: Option<PathBuf>,
}

/// What is being done to get a kernel.
#[derive(Debug)]
pub enum Step<'a> {
    /// It is in the cache.
    Cached {
        /// Package and version, or upstream version.
        version: &'a str,
    },
    /// What the cache has is not what was put there; it is removed.
    Damaged {
        /// Package and version, or upstream version.
        version: &'a str,
        /// What is wrong with it.
        reason: &'a str,
    },
    /// Another process is at work on the same suites.
    Waiting,
    /// Lists of packages are being fetched.
    Lists {
        /// Base URL of the mirror.
        mirror: &'a str,
        /// The suites.
        suites: &'a [String],
    },
    /// The newest version is known, and is not in the cache.
    Resolved {
        /// Package and version, or upstream version.
        version: &'a str,
    },
    /// Files are coming.
    Download {
        /// How much of them, from 0 to 100.
        percent: f64,
        /// Bytes in all.
        bytes: u64,
    },
    /// Files have come, and are being unpacked and indexed.
    Unpack,
}

/// What of this machine is used, apart from programs.
#[derive(Clone, Debug)]
struct Host {
    /// apt's configuration.
    apt: PathBuf,
    /// Names this machine's release.
    os_release: PathBuf,
    /// Keyrings of packages.
    keyrings: PathBuf,
    /// Root of the file system, for the running kernel.
    root: PathBuf,
    /// How long a mirror may keep silent.
    timeout: Duration,
    /// Folders to look for programs, as in `PATH`; those of this process if none are given.
    path: Option<String>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            apt: "/etc/apt".into(),
            os_release: "/etc/os-release".into(),
            keyrings: "/usr/share/keyrings".into(),
            root: "/".into(),
            timeout: Duration::from_secs(15),
            path: None,
        }
    }
}
