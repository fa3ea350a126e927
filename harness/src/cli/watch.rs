//! Watching: what was selected runs again whenever something that it depends on changes.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::{Exit, Failure, signals};
use crate::error::chain;
use crate::invoker;
use crate::subject::source;

/// How often files are looked at. Looking works on every file system, and where the writer is another machine.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Folders of a checkout that the binary is built from.
const SOURCES: [&str; 4] = ["programs/src", "programs/Cargo.toml", "harness/src", "harness/build.rs"];
/// Endings of files that runs write beside scenarios.
const WRITTEN: [&str; 1] = ["new"];

/// When a file was changed, and how long it is.
type Stamp = (SystemTime, u64);

/// A checkout that this binary was built in, so that it can be built anew.
struct Checkout {
    root: PathBuf,
    profile: String,
}

/// Runs `round`, and again after each change in `folders`, in this binary, or in the sources that it was built from,
/// until interrupted; the last round's exit code counts.
///
/// # Errors
/// Those of the first round; of the later ones they are printed, since the next change may mend them.
pub fn watch(folders: &[PathBuf], mut round: impl FnMut() -> Result<Exit, Failure>) -> Result<Exit, Failure> {
    let binary = std::env::current_exe().map_err(|error| Failure::unavailable(&error))?;
    let checkout = Checkout::of(&binary);
    let sources: Vec<PathBuf> =
        checkout.iter().flat_map(|checkout| SOURCES.map(|path| checkout.root.join(path))).collect();
    let mut exit = round()?;
    let mut known = Known::of(folders, &sources, &binary);
    eprintln!("bpflab: watching {}; ^C ends it", listed(folders.iter().chain(&sources)));
    loop {
        if signals::stop_flag().load(Ordering::Relaxed) {
            return Ok(exit);
        }
        std::thread::sleep(LOOK_EVERY);
        let now = Known::of(folders, &sources, &binary);
        let Some(changed) = known.change(&now) else { continue };
        // What is being written is left until it rests.
        let rests = || {
            std::thread::sleep(LOOK_EVERY);
            Known::of(folders, &sources, &binary) == now
        };
        if !rests() {
            continue;
        }
        eprintln!("bpflab: {} changed", changed.display());
        if let (true, Some(checkout)) = (known.sources != now.sources, &checkout) {
            known = now;
            if checkout.build() {
                return Err(again(&binary));
            }
            continue;
        }
        if known.binary != now.binary {
            return Err(again(&binary));
        }
        known = now;
        match round() {
            Ok(done) => exit = done,
            Err(failure) => {
                eprintln!("bpflab: {}", failure.message);
                exit = failure.exit;
            }
        }
    }
}

/// All that is watched, as it was at one time.
#[derive(PartialEq, Eq)]
struct Known {
    folders: BTreeMap<PathBuf, Stamp>,
    sources: BTreeMap<PathBuf, Stamp>,
    binary: BTreeMap<PathBuf, Stamp>,
}

impl Known {
    fn of(folders: &[PathBuf], sources: &[PathBuf], binary: &Path) -> Self {
        let all = |paths: &[PathBuf]| {
            let mut stamps = BTreeMap::new();
            paths.iter().for_each(|path| look(path, &mut stamps));
            stamps
        };
        Self { folders: all(folders), sources: all(sources), binary: all(&[binary.to_owned()]) }
    }

    /// The first file that is new, gone or other in `now`.
    fn change(&self, now: &Self) -> Option<PathBuf> {
        let pairs = [(&self.folders, &now.folders), (&self.sources, &now.sources), (&self.binary, &now.binary)];
        pairs.into_iter().find_map(|(before, now)| {
            let other = now.iter().find(|(path, stamp)| before.get(*path) != Some(stamp));
            other.or_else(|| before.iter().find(|(path, _)| !now.contains_key(*path))).map(|(path, _)| path.clone())
        })
    }
}

/// A file that goes away while it is looked at is gone. An object that a run compiles is no input: its source is.
fn look(path: &Path, stamps: &mut BTreeMap<PathBuf, Stamp>) {
    let Ok(meta) = std::fs::metadata(path) else { return };
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            look(&entry.path(), stamps);
        }
    } else if path.extension().is_none_or(|ending| WRITTEN.iter().all(|written| ending != *written))
        && !source::is_compiled(path)
    {
        let changed = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        stamps.insert(path.to_owned(), (changed, meta.len()));
    }
}

fn listed<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> String {
    paths.filter(|path| path.exists()).map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl Checkout {
    /// The checkout whose `target/PROFILE` has `binary`, if it is this project's.
    fn of(binary: &Path) -> Option<Self> {
        let profile = binary.parent()?;
        let root = profile.parent()?.parent()?;
        let is_ours = SOURCES.iter().all(|path| root.join(path).exists());
        let profile = profile.file_name()?.to_str()?.to_owned();
        // Cargo's name for what it puts in `debug`.
        let profile = if profile == "debug" { "dev".to_owned() } else { profile };
        is_ours.then(|| Self { root: root.to_owned(), profile })
    }

    /// Builds the binary, as whoever called sudo: what root builds only root can build again. Says whether that worked;
    /// what the compiler had to say is on the terminal.
    fn build(&self) -> bool {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(&self.root).args(["build", "--quiet", "--bin", "bpflab", "--profile", &self.profile]);
        if let Some((uid, gid)) = invoker::owner() {
            cargo.uid(uid).gid(gid);
        }
        if let Some(home) = invoker::home() {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let own = std::iter::once(home.join(".cargo/bin"));
            cargo.env("PATH", std::env::join_paths(own.chain(std::env::split_paths(&path))).unwrap_or(path));
            cargo.env("HOME", home);
        }
        match cargo.status() {
            Ok(status) if status.success() => true,
            Ok(_) => {
                eprintln!("bpflab: it does not build; waiting for the next change");
                false
            }
            Err(error) => {
                eprintln!("bpflab: cannot start cargo: {}", chain(&error));
                false
            }
        }
    }
}

/// Goes on as the binary that stands at `binary` now; comes back only if that cannot be.
fn again(binary: &Path) -> Failure {
    // The name of a binary that was replaced says so.
    let name = binary.to_string_lossy();
    let binary = Path::new(name.trim_end_matches(" (deleted)"));
    Failure::unavailable(&Command::new(binary).args(std::env::args_os().skip(1)).exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_changed_and_removed_files_are_changes_and_pending_snapshots_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dns/answers.toml");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "a").unwrap();
        let see = || Known::of(&[folder.path().to_owned()], &[], Path::new("/nonexistent"));
        let before = see();
        assert_eq!(before.change(&see()), None);
        std::fs::write(file.with_extension("snap.new"), "b").unwrap();
        assert_eq!(before.change(&see()), None);
        std::fs::write(&file, "other").unwrap();
        assert_eq!(before.change(&see()), Some(file.clone()));
        let snapshot = file.with_extension("snap");
        std::fs::write(&snapshot, "c").unwrap();
        assert_eq!(see().change(&before), Some(file.clone()));
        let before = see();
        std::fs::remove_file(&snapshot).unwrap();
        assert_eq!(before.change(&see()), Some(snapshot));
        let before = see();
        std::fs::write(folder.path().join("fw.bpf.o"), "d").unwrap();
        assert!(before.change(&see()).is_some());
        std::fs::write(folder.path().join("fw.bpf.c"), "e").unwrap();
        let before = see();
        std::fs::write(folder.path().join("fw.bpf.o"), "other").unwrap();
        assert_eq!(before.change(&see()), None, "what a run compiles is no change");
    }

    #[test]
    fn a_checkout_is_found_from_its_binary() {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("target/debug/bpflab");
        assert!(Checkout::of(&binary).is_none());
        for path in SOURCES {
            std::fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        let found = Checkout::of(&binary).unwrap();
        assert_eq!((found.root.as_path(), found.profile.as_str()), (folder.path(), "dev"));
        assert!(Checkout::of(Path::new("/usr/bin/bpflab")).is_none());
    }
}
