//! File systems mounted where nobody else sees them.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::check;

/// Runs `work` on a thread of its own, in a mount namespace of its own, with the file system `kind` mounted on an empty
/// folder, whose path it is given. The mount goes with the thread; descriptors opened there stay usable.
///
/// # Errors
/// The kernel's: `EPERM` without root, `ENODEV` for a file system that it does not have.
pub fn with_private_mount<R: Send>(kind: &str, work: impl FnOnce(&Path) -> io::Result<R> + Send) -> io::Result<R> {
    let folder = tempfile::tempdir()?;
    let path = folder.path();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount".to_owned()).spawn_scoped(scope, || {
            mount(kind, path)?;
            work(path)
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn mount(kind: &str, path: &Path) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let kind = CString::new(kind).map_err(invalid)?;
    let path = CString::new(path.as_os_str().as_bytes()).map_err(invalid)?;
    let none = std::ptr::null();
    // SAFETY: no pointers; the new namespace is this thread's alone.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    // Nothing that is mounted here may appear elsewhere.
    // SAFETY: strings that end with a zero byte, and null where the call allows it.
    check(unsafe { libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) })?;
    // SAFETY: as above.
    check(unsafe { libc::mount(kind.as_ptr(), path.as_ptr(), kind.as_ptr(), 0, none.cast()) })
}
