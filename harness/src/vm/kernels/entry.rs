//! What the cache holds: one folder per kernel, with a record of what it is and where it came from.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Image, KernelError, Source};

/// The record's name in its folder.
const RECORD: &str = "entry.json";
/// Form of the record; others are not read.
const FORMAT: u32 = 1;

/// The record of a kernel in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Form of the record.
    format: u32,
    /// Where it came from.
    pub origin: Origin,
    /// Release, as `uname -r` prints it.
    pub release: String,
    /// The bootable image, from the entry's folder on.
    vmlinuz: PathBuf,
    /// The modules, from the entry's folder on.
    modules: PathBuf,
    /// SHA-256 of the image, in hexadecimal.
    pub vmlinuz_sha256: String,
    /// The files it was made from.
    pub files: Vec<File>,
    /// When it came: seconds since 1970-01-01 00:00 UTC.
    pub fetched: u64,
    /// Bytes of all files of the entry.
    pub bytes: u64,
    /// Where it stands; not part of the record.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// Where a kernel of the cache came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A Debian package and those it needs.
    Debian {
        /// The suites that it was the newest of.
        suites: Vec<String>,
        /// The image's package.
        package: String,
        /// Its version.
        version: String,
    },
    /// An upstream release that virtme-ng fetched.
    Upstream {
        /// Its tag.
        version: String,
    },
}

/// A file that an entry was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its name.
    pub name: String,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Debian { package, version, .. } => write!(out, "{package} {version}"),
            Self::Upstream { version } => write!(out, "upstream {version}"),
        }
    }
}

impl Origin {
    /// Name of the entry's folder: the same for the same origin, fit for a file name.
    pub fn id(&self) -> String {
        let text = match self {
            Self::Debian { suites, package, version } => format!("{}_{package}_{version}", suites.join("+")),
            Self::Upstream { version } => format!("upstream_{version}"),
        };
        file_name(&text)
    }

    /// Whether `source` may mean this. Which is the newest of several, `super::version` says.
    pub fn serves(&self, source: &Source) -> bool {
        match (self, source) {
            (Self::Debian { suites, package, version }, Source::Debian { suites: wanted, package: pattern }) => {
                let (pattern, pinned) = pattern.split_once('=').map_or((pattern.as_str(), None), |(a, b)| (a, Some(b)));
                suites == wanted
                    && pinned.is_none_or(|pinned| pinned == version)
                    && glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(package))
            }
            (Self::Upstream { version }, Source::Upstream { version: wanted }) => version == wanted,
            _ => false,
        }
    }

    /// The version alone, for the order of entries that serve the same source.
    pub fn version(&self) -> &str {
        match self {
            Self::Debian { version, .. } | Self::Upstream { version } => version,
        }
    }
}

/// `text` with what does not fit into a file name replaced.
pub fn file_name(text: &str) -> String {
    text.replace(|c: char| !(c.is_ascii_alphanumeric() || "._-+~".contains(c)), "%")
}

impl Entry {
    /// The same entry at another place.
    pub fn moved(self, folder: PathBuf) -> Self {
        Self { folder, ..self }
    }

    /// Describes the kernel that stands in `folder`, and writes the record there.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub fn record(
        folder: &Path,
        origin: Origin,
        unpacked: super::unpack::Unpacked,
        files: Vec<File>,
    ) -> Result<Self, KernelError> {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let entry = Self {
            format: FORMAT,
            origin,
            release: unpacked.release,
            vmlinuz_sha256: sha256(&folder.join(&unpacked.vmlinuz))?,
            vmlinuz: unpacked.vmlinuz,
            modules: unpacked.modules,
            files,
            fetched: since.map_or(0, |since| since.as_secs()),
            bytes: bytes(folder),
            folder: folder.to_owned(),
        };
        let path = folder.join(RECORD);
        let text = serde_json::to_string_pretty(&entry).unwrap_or_default();
        let write = || {
            let mut file = fs::File::create(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(KernelError::writing(&path))?;
        Ok(entry)
    }

    /// Reads the record in `folder`; none if there is no whole one.
    pub fn read(folder: &Path) -> Option<Self> {
        let text = fs::read_to_string(folder.join(RECORD)).ok()?;
        let entry: Self = serde_json::from_str(&text).ok()?;
        let inside = [&entry.vmlinuz, &entry.modules].iter().all(|path| path.is_relative());
        (entry.format == FORMAT && inside).then(|| Self { folder: folder.to_owned(), ..entry })
    }

    /// What is wrong with the entry, if something is: the image has another sum, or the modules have no index.
    pub fn damage(&self) -> Option<String> {
        match sha256(&self.folder.join(&self.vmlinuz)) {
            Err(error) => return Some(error.to_string()),
            Ok(sum) if sum != self.vmlinuz_sha256 => {
                return Some(format!("its image has the sha256 {sum}, recorded is {}", self.vmlinuz_sha256));
            }
            Ok(_) => {}
        }
        let index = self.folder.join(&self.modules).join("modules.dep");
        let there = fs::metadata(&index).is_ok_and(|meta| meta.len() > 0);
        (!there).then(|| format!("{} is missing or empty", index.display()))
    }

    /// The entry as the kernel called `name`.
    pub fn image(&self, name: &str) -> Image {
        Image {
            name: name.to_owned(),
            release: self.release.clone(),
            version: self.origin.to_string(),
            sha256: self.vmlinuz_sha256.clone(),
            vmlinuz: self.folder.join(&self.vmlinuz),
            modules: Some(self.folder.join(&self.modules)),
        }
    }
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// [`KernelError::Read`].
pub fn sha256(path: &Path) -> Result<String, KernelError> {
    let mut file = fs::File::open(path).map_err(KernelError::reading(path))?;
    let (mut sum, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer).map_err(KernelError::reading(path))? {
            0 => return Ok(format!("{:x}", sum.finalize())),
            length => sum.update(&buffer[..length]),
        }
    }
}

/// Bytes of all files below `folder`.
pub fn bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
