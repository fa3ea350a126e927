//! A control group of this process's own, for programs that are attached to control groups: whatever else runs on the
//! machine is not in it. Sockets belong to the group of the process that makes them, so it is entered before they are
//! made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What the names of the lab's groups begin with; the number of a process follows.
const PREFIX: &str = "bpflab-";

/// The group, entered. Once the last holder is gone the process is back where it was, and the group is removed.
#[derive(Debug)]
pub struct OwnGroup {
    path: PathBuf,
    /// Where the process was.
    before: PathBuf,
}

static CURRENT: Mutex<Weak<OwnGroup>> = Mutex::new(Weak::new());

impl OwnGroup {
    /// Enters the group, which is made if this process is not in it yet.
    ///
    /// # Errors
    /// Where no control groups of version 2 are mounted, or the process cannot be moved.
    pub fn enter() -> io::Result<Arc<Self>> {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = current.upgrade() {
            return Ok(group);
        }
        let before = own()?;
        reap(&before);
        let path = before.join(format!("{PREFIX}{}", std::process::id()));
        let named =
            |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()));
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(named("make control group", error));
            }
            _ => {}
        }
        if let Err(error) = enter(&path) {
            let _ = fs::remove_dir(&path);
            return Err(named("enter control group", error));
        }
        let group = Arc::new(Self { path, before });
        *current = Arc::downgrade(&group);
        Ok(group)
    }

    /// The group's folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for OwnGroup {
    fn drop(&mut self) {
        // Nobody enters meanwhile: the lock is held until the process is out again.
        let _current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = enter(&self.before);
        let _ = fs::remove_dir(&self.path);
    }
}

fn enter(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())
}

/// Removes groups of processes that are gone. A group with a process in it cannot be removed.
fn reap(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The control group (version 2) of this process.
fn own() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_, path, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then_some(path)
    });
    let Some(mount) = mount else {
        let message = "no control groups of version 2 are mounted (mount -t cgroup2 none FOLDER mounts them)";
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    };
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    Ok(Path::new(mount).join(own.trim_start_matches('/')))
}
