//! Saved guests: booted once for each kernel and kept in the cache.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::super::kernels::{Image, Lock, Pruned, bytes, folders};
use super::super::kvm::{self, Acceleration};
use super::super::process::ProcessGroup;
use super::super::runner::{Runner, RunnerError, Setting, failed, make, quoted};
use super::boot::Boot;
use super::machine::{self, Disks, Memory};
use super::payload::{DISK_BYTES, file_system};
use super::qmp::Monitor;
use super::{GUESTS, initramfs};
use crate::invoker;

/// Part of each key; raised when something changes that is in none of the other parts.
const FORMAT: &str = "2";
/// A saved guest that nobody restored for so long is not kept.
const IDLE_LIMIT: Duration = Duration::from_secs(14 * 24 * 3600);

/// A saved guest: a folder with its disks and its state.
#[derive(Clone, Debug)]
pub struct Saved {
    folder: PathBuf,
}

impl Saved {
    /// The saved guest of kernel `image`; boots and saves it if there is none. What it prints meanwhile is kept in
    /// `logs`.
    ///
    /// # Errors
    /// See [`RunnerError`]; nothing is left in the cache then.
    pub fn ensure(image: &Image, setting: &Setting, logs: &Path, stop: &AtomicBool) -> Result<Self, RunnerError> {
        let guests = setting.cache.join(GUESTS);
        let key = key(image, setting)?;
        let saved = Self { folder: guests.join(&key) };
        if saved.touch() {
            return Ok(saved);
        }
        let _lock = Lock::take(&guests.join("locks").join(&key), &mut |_| ())?;
        // Somebody else may have made it meanwhile.
        if saved.touch() {
            return Ok(saved);
        }
        let work = guests.join("work").join(&key);
        let _ = std::fs::remove_dir_all(&work);
        std::fs::create_dir_all(&work).map_err(failed(&work))?;
        let made = Self { folder: work.clone() }.make(image, setting, logs, stop);
        let made = made.and_then(|()| std::fs::rename(&work, &saved.folder).map_err(failed(&saved.folder)));
        if made.is_err() {
            let _ = std::fs::remove_dir_all(&work);
        }
        invoker::give(&guests, invoker::owner());
        made.map(|()| saved)
    }

    /// Removes the saved guest of kernel `image`, which was restored and did not speak. Says whether there was one.
    pub fn forget(image: &Image, setting: &Setting) -> bool {
        let folder = key(image, setting).map(|key| setting.cache.join(GUESTS).join(key));
        folder.is_ok_and(|folder| std::fs::remove_dir_all(folder).is_ok())
    }

    /// What a machine has that goes on as this guest, with the disk of a run.
    pub fn disks(&self, payload: &Path, memory: Memory) -> Disks {
        Disks {
            initramfs: self.folder.join("initramfs.img"),
            modules: self.folder.join("modules.img"),
            payload: payload.to_owned(),
            memory: (self.folder.join("memory"), memory),
        }
    }

    /// Makes `qemu`, which was started with `-incoming defer` and is reached at `monitor`, go on where this guest was
    /// saved.
    ///
    /// # Errors
    /// QEMU's.
    pub fn restore(&self, monitor: &Path, qemu: &mut ProcessGroup) -> std::io::Result<()> {
        let mut monitor = Monitor::connect(monitor, qemu)?;
        monitor.leave_memory_out()?;
        let uri = format!("exec:cat {}", quoted(&self.state()));
        monitor.call("migrate-incoming", &json!({ "uri": uri })).map(drop)
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Whether it is there; remembers that it was used.
    fn touch(&self) -> bool {
        let Ok(state) = File::options().append(true).open(self.state()) else { return false };
        // Only pruning wants to know.
        let _ = state.set_modified(SystemTime::now());
        true
    }

    fn make(&self, image: &Image, setting: &Setting, logs: &Path, stop: &AtomicBool) -> Result<(), RunnerError> {
        let blank = self.folder.join("blank.img");
        make(&blank)?.set_len(DISK_BYTES).map_err(failed(&blank))?;
        let disks = self.disks(&blank, Memory::Kept);
        initramfs::write(image, &disks.initramfs)?;
        match &image.modules {
            Some(modules) => file_system(modules, &disks.modules, room_for(bytes(modules)))?,
            None => make(&disks.modules)?.set_len(1 << 20).map_err(failed(&disks.modules))?,
        }
        let mut boot = Boot::start(image, setting, &disks, logs)?;
        boot.wait(stop)?;
        boot.save(&self.state())?;
        let _ = std::fs::remove_file(blank);
        Ok(())
    }
}

/// Removes saved guests that were not restored for two weeks, or, with `all`, every one; `cache` is the lab's.
///
/// # Errors
/// [`RunnerError::Folder`] for what cannot be removed.
pub fn prune(cache: &Path, all: bool) -> Result<Vec<Pruned>, RunnerError> {
    let guests = cache.join(GUESTS);
    let mut pruned = Vec::new();
    let (saved, work) = (folders(&guests), folders(&guests.join("work")));
    for folder in saved.iter().chain(&work) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let used = std::fs::metadata(folder.join("state")).and_then(|state| state.modified()).ok();
        let is_idle = used.is_none_or(|used| used.elapsed().is_ok_and(|idle| idle > IDLE_LIMIT));
        let why = match (&*name, all, is_idle) {
            ("locks" | "work", ..) => continue,
            _ if work.contains(folder) => "a run ended without removing it",
            (_, true, _) => "all was to go",
            (_, false, true) => "it was not restored for two weeks",
            (_, false, false) => continue,
        };
        // Who has the lock is at work on it.
        let Some(_lock) = Lock::try_take(&guests.join("locks").join(&*name))? else { continue };
        let bytes = bytes(folder);
        std::fs::remove_dir_all(folder).map_err(failed(folder))?;
        pruned.push(Pruned { what: format!("saved guest {name}"), why, bytes });
    }
    Ok(pruned)
}

/// What a state depends on: the kernel, what it boots with, and the machine, for which QEMU's version stands, too.
fn key(image: &Image, setting: &Setting) -> Result<String, RunnerError> {
    let mut hash = Sha256::new();
    let modules = image.modules.as_deref().unwrap_or(Path::new(""));
    let fixed = machine::fixed(setting).join(" ");
    let (qemu, busybox) = (Runner::Fast.tool("qemu-system-x86_64")?, Runner::Fast.tool("busybox")?);
    // With KVM a guest sees this machine's processor.
    let processor = match &setting.acceleration {
        Acceleration::Kvm => processor(),
        Acceleration::Emulation(_) => String::new(),
    };
    for part in [
        FORMAT,
        env!("CARGO_PKG_VERSION"),
        &image.sha256,
        &kvm::identity(&modules.join("modules.dep")),
        initramfs::INIT,
        machine::COMMAND_LINE,
        &fixed,
        &kvm::identity(&qemu),
        &kvm::identity(&busybox),
        &processor,
    ] {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    let release: String = image
        .release
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || ".-+".contains(letter) { letter } else { '_' })
        .collect();
    Ok(format!("{release}_{}", &format!("{:x}", hash.finalize())[..16]))
}

/// The processor's model and features.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let wanted = |line: &&str| line.starts_with("model name") || line.starts_with("flags");
    text.lines().filter(wanted).take(2).collect()
}

/// Bytes of a file system that files of `bytes` fit into, with its own tables.
const fn room_for(bytes: u64) -> u64 {
    (bytes + bytes / 4 + (32 << 20)).next_multiple_of(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pruning_takes_what_is_idle_or_broken_and_leaves_what_is_used_or_locked() {
        let cache = tempfile::tempdir().unwrap();
        let guests = cache.path().join(GUESTS);
        let add = |name: &str, age: Duration| {
            let folder = guests.join(name);
            std::fs::create_dir_all(&folder).unwrap();
            let state = File::create(folder.join("state")).unwrap();
            state.set_modified(SystemTime::now() - age).unwrap();
        };
        let (day, month) = (Duration::from_secs(86_400), Duration::from_secs(30 * 86_400));
        add("used", day);
        add("idle", month);
        add("locked", month);
        add("work/killed", day);
        std::fs::create_dir_all(guests.join("stateless")).unwrap();
        let lock = Lock::try_take(&guests.join("locks/locked")).unwrap();
        assert!(lock.is_some());
        let names = |pruned: Vec<Pruned>| pruned.into_iter().map(|gone| gone.what).collect::<Vec<_>>();
        let pruned = names(prune(cache.path(), false).unwrap());
        assert_eq!(pruned, ["saved guest idle", "saved guest stateless", "saved guest killed"]);
        drop(lock);
        assert_eq!(names(prune(cache.path(), true).unwrap()), ["saved guest locked", "saved guest used"]);
        assert!(prune(&cache.path().join("nowhere"), true).unwrap().is_empty());
    }

    #[test]
    fn paths_are_quoted_for_the_shell() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
