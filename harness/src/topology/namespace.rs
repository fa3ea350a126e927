//! Named network namespaces: made, entered, removed; and names that say whose they are.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use netns_rs::{Env, NetNs};

/// Where names of network namespaces are, as for ip-netns(8).
pub(crate) const DIRECTORY: &str = "/run/netns";
const PREFIX: &str = "bpflab";

/// The directory, which must be a mount point of its own before the first namespace is bound to a name in it: it is
/// made so by the provided `init`.
struct Unprepared;

impl Env for Unprepared {
    fn persist_dir(&self) -> PathBuf {
        DIRECTORY.into()
    }
}

/// The directory, already prepared.
#[derive(Debug)]
pub(crate) struct Prepared(());

impl Env for Prepared {
    fn persist_dir(&self) -> PathBuf {
        DIRECTORY.into()
    }

    fn init(&self) -> netns_rs::Result<()> {
        Ok(())
    }
}

/// Makes the directory a mount point with shared propagation, once. Two processes that did it at the same time would
/// mount twice, and names made between the two mounts could not be removed: hence the lock on the directory.
fn prepare() -> io::Result<Prepared> {
    static DONE: Mutex<bool> = Mutex::new(false);
    let mut done = DONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !*done {
        std::fs::create_dir_all(DIRECTORY)?;
        let directory = File::open(DIRECTORY)?;
        directory.lock()?;
        Unprepared.init().map_err(to_io)?;
        *done = true;
    }
    Ok(Prepared(()))
}

/// The kernel's error with the library's words, which name the path.
fn to_io(error: netns_rs::Error) -> io::Error {
    use netns_rs::Error as E;
    let kind = match &error {
        E::CreateNsDirError(cause) | E::CreateNsError(cause) | E::OpenNsError(_, cause) => cause.kind(),
        E::CloseNsError(errno)
        | E::MountError(_, errno)
        | E::UnmountError(_, errno)
        | E::UnshareError(errno)
        | E::SetnsError(errno) => io::Error::from(*errno).kind(),
        E::JoinThreadError(_) => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// Who made a namespace: enough to tell a living owner from a later process with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Process number, in the PID namespace `pid_namespace`.
    pub(crate) pid: u32,
    /// Clock ticks from boot to the process's start (proc_pid_stat(5), field 22).
    pub(crate) start: u64,
    /// Inode of the PID namespace in which the number means something.
    pub(crate) pid_namespace: u64,
}

impl Owner {
    /// This process.
    pub(crate) fn this() -> io::Result<Self> {
        let pid = std::process::id();
        let start = start_of(pid)?.ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { pid, start, pid_namespace: own_pid_namespace()? })
    }

    /// Whether the process still runs; `None` if it cannot be seen from here.
    pub(crate) fn is_alive(self) -> io::Result<Option<bool>> {
        if self.pid_namespace != own_pid_namespace()? {
            return Ok(None);
        }
        Ok(Some(start_of(self.pid)? == Some(self.start)))
    }
}

fn own_pid_namespace() -> io::Result<u64> {
    Ok(std::fs::metadata("/proc/self/ns/pid")?.ino())
}

/// When a process started, or nothing if there is none of that number or only what is left for its parent to see.
fn start_of(pid: u32) -> io::Result<Option<u64>> {
    let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        // ESRCH: it ended between opening and reading.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // The second field is the program's name in parentheses, which may itself have spaces and parentheses.
    let fields =
        stat.rsplit_once(')').map(|(_, fields)| fields.split_ascii_whitespace()).ok_or(io::ErrorKind::InvalidData)?;
    let fields: Vec<&str> = fields.collect();
    if matches!(fields.first(), Some(&("Z" | "X"))) && !has_threads(pid) {
        return Ok(None);
    }
    let start = fields.get(22 - 3).and_then(|field| field.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some(start))
}

/// Whether other threads of a process run on, whose first thread has ended.
fn has_threads(pid: u32) -> bool {
    std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() > 1)
}

/// `bpflab-<pid>-<start, hex>-<pid namespace, hex>-<network>-<host>`.
pub(crate) fn name(owner: Owner, network: u64, host: &str) -> String {
    format!("{PREFIX}-{}-{:x}-{:x}-{network}-{host}", owner.pid, owner.start, owner.pid_namespace)
}

/// Whose a name is; nothing if this lab did not give it.
pub(crate) fn owner_of(name: &str) -> Option<Owner> {
    let mut parts = name.splitn(6, '-');
    if parts.next()? != PREFIX {
        return None;
    }
    let owner = Owner {
        pid: parts.next()?.parse().ok()?,
        start: u64::from_str_radix(parts.next()?, 16).ok()?,
        pid_namespace: u64::from_str_radix(parts.next()?, 16).ok()?,
    };
    let (network, host) = (parts.next()?.parse().ok()?, parts.next()?);
    // Only the exact form that `name` gives, so that nothing of a similar name is ever taken for ours.
    (self::name(owner, network, host) == name).then_some(owner)
}

/// The host's part of a name that this lab gave.
pub(crate) fn host_of(name: &str) -> &str {
    name.splitn(6, '-').nth(5).unwrap_or(name)
}

/// The number of the next network of this process.
pub(crate) fn next_network() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A named network namespace; the name ends with this value, the namespace with its last user.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    inode: u32,
    /// Nothing once removed.
    inner: Option<NetNs<Prepared>>,
}

impl Namespace {
    /// Makes a namespace of that name.
    pub(crate) fn create(name: String) -> io::Result<Self> {
        let env = prepare()?;
        let inner = NetNs::new_with_env(&name, env).map_err(|error| {
            // Should the namespace exist and only not be opened, its name must not stay.
            _ = remove(&name);
            to_io(error)
        })?;
        let mut this = Self { name, inode: 0, inner: Some(inner) };
        let inode = this.file()?.metadata()?.ino();
        this.inode = u32::try_from(inode).map_err(io::Error::other)?;
        Ok(this)
    }

    /// Moves the calling thread into the namespace.
    pub(crate) fn enter(&self) -> io::Result<()> {
        self.inner.as_ref().ok_or(io::ErrorKind::NotFound)?.enter().map_err(to_io)
    }

    fn file(&self) -> io::Result<&File> {
        Ok(self.inner.as_ref().ok_or(io::ErrorKind::NotFound)?.file())
    }

    pub(crate) fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        Ok(self.file()?.as_fd())
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    pub(crate) fn inode(&self) -> u32 {
        self.inode
    }

    /// Removes the name; nothing happens the second time.
    pub(crate) fn remove(&mut self) -> io::Result<()> {
        if self.inner.take().is_none() { Ok(()) } else { remove(&self.name) }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        _ = self.remove();
    }
}

/// Removes a name, whether a namespace is bound to it or only the file was made.
pub(crate) fn remove(name: &str) -> io::Result<()> {
    let path = Path::new(DIRECTORY).join(name);
    let unbound = match NetNs::get_from_env(name, Prepared(())) {
        Ok(bound) => bound.remove().map_err(to_io),
        Err(error) => Err(to_io(error)),
    };
    // The library ignores what becomes of the file. Of a name that is still bound this says EBUSY, whose cause is what
    // unbinding said.
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(unbound.err().unwrap_or(error)),
    }
}

/// All names in the directory; none where it does not exist.
pub(crate) fn names() -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_owner() {
        let owner = Owner { pid: 4711, start: 0x1f00, pid_namespace: 0xf000_0001 };
        let text = name(owner, 3, "edge-router");
        assert_eq!(text, "bpflab-4711-1f00-f0000001-3-edge-router");
        assert_eq!(owner_of(&text), Some(owner));
        for other in
            ["", "bpflab", "bpflab-1-2-3-4", "bpflab-x-1-1-0-a", "bpflab-01-1-1-0-a", "bpflab2-1-1-1-0-a", "cni-1"]
        {
            assert_eq!(owner_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_process_lives_while_its_start_is_the_same() {
        let this = Owner::this().unwrap();
        assert_eq!(this.is_alive().unwrap(), Some(true));
        assert_eq!(Owner { start: this.start + 1, ..this }.is_alive().unwrap(), Some(false));
        assert_eq!(Owner { pid_namespace: this.pid_namespace + 1, ..this }.is_alive().unwrap(), None);
        // Larger than any process number (PID_MAX_LIMIT is 2^22).
        assert_eq!(Owner { pid: 1 << 23, ..this }.is_alive().unwrap(), Some(false));
    }
}
