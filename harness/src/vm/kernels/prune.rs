//! Removing what nobody needs any more.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::cache::folders;
use super::entry::{Entry, bytes, file_name};
use super::fetch::remove;
use super::lock::Lock;
use super::{Cache, KernelError, KernelList, Source};

/// Something that was removed from the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// What it was: a kernel's version, or a folder.
    pub what: String,
    /// Why it went.
    pub why: &'static str,
    /// Bytes that it took.
    pub bytes: u64,
}

impl Cache {
    /// Removes kernels that no kernel of the list means, or for which there is a newer one; what killed runs left
    /// behind; lists of packages that no kernel needs. With `all`, everything. What another process works on stays.
    ///
    /// # Errors
    /// [`KernelError::Write`] for what cannot be removed.
    pub fn prune(&self, list: &KernelList, all: bool) -> Result<Vec<Pruned>, KernelError> {
        let mut pruned = Vec::new();
        let used: Vec<PathBuf> =
            list.kernels.iter().filter_map(|kernel| self.newest(&kernel.source)).map(|entry| entry.folder).collect();
        for folder in folders(&self.entries_folder()) {
            let entry = Entry::read(&folder);
            let listed = |entry: &Entry| list.kernels.iter().any(|kernel| entry.origin.serves(&kernel.source));
            let why = match &entry {
                _ if all => "all was to go",
                None => "it has no record",
                Some(entry) if !listed(entry) => "no kernel of the list means it",
                Some(_) if used.contains(&folder) => continue,
                Some(_) => "there is a newer one",
            };
            let what = entry.map_or_else(|| folder.display().to_string(), |entry| entry.origin.to_string());
            self.discard(&folder, what, why, &mut pruned)?;
        }
        self.prune_lists(list, all, &mut pruned)?;
        for folder in folders(&self.root.join("work")) {
            let Some(_lock) = self.unlocked(&folder)? else { continue };
            let what = folder.display().to_string();
            pruned.push(Pruned { what, why: "a run ended without removing it", bytes: bytes(&folder) });
            remove(&folder)?;
        }
        self.give_folders();
        Ok(pruned)
    }

    /// Lists belong to the suites that start their folder's name.
    fn prune_lists(&self, list: &KernelList, all: bool, pruned: &mut Vec<Pruned>) -> Result<(), KernelError> {
        let wanted = |name: &str| {
            list.kernels.iter().any(|kernel| match &kernel.source {
                Source::Debian { suites, .. } => file_name(&suites.join("+")) == name,
                _ => false,
            })
        };
        for folder in folders(&self.root.join("apt")) {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let suites = name.rsplit_once('-').map_or(name.as_str(), |(suites, _)| suites);
            if !all && wanted(suites) {
                continue;
            }
            let why = if all { "all was to go" } else { "no kernel of the list needs these lists" };
            if let Some(_lock) = Lock::try_take(&self.lock(suites))? {
                self.discard(&folder, folder.display().to_string(), why, pruned)?;
            }
        }
        Ok(())
    }

    /// The lock under which `folder` is worked on, if nobody has it.
    fn unlocked(&self, folder: &Path) -> Result<Option<Lock>, KernelError> {
        Lock::try_take(&self.lock(&folder.file_name().unwrap_or_default().to_string_lossy()))
    }

    /// Out of the way in one step, so that nobody meets it half removed; what is left if this is interrupted, the next
    /// call finds among the working folders.
    fn discard(
        &self,
        folder: &Path,
        what: String,
        why: &'static str,
        pruned: &mut Vec<Pruned>,
    ) -> Result<(), KernelError> {
        let key = format!("prune-{}", std::process::id());
        let Some(_lock) = Lock::try_take(&self.lock(&key))? else { return Ok(()) };
        let aside = self.work(&key);
        std::fs::create_dir_all(&aside).map_err(KernelError::writing(&aside))?;
        let bytes = bytes(folder);
        std::fs::rename(folder, aside.join("gone")).map_err(KernelError::writing(folder))?;
        let removed = remove(&aside);
        let _ = std::fs::remove_file(self.lock(&key));
        removed?;
        pruned.push(Pruned { what, why, bytes });
        Ok(())
    }
}
