//! Waiting for many descriptors at once (`epoll(7)`).

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use super::check;

/// Most events of one wait.
const EVENTS: usize = 256;

/// A set of descriptors that are waited for. A descriptor leaves it by being closed.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// An empty set.
    ///
    /// # Errors
    /// `EMFILE` and the like.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        check(fd)?;
        // SAFETY: the descriptor was just returned and belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds a descriptor. An event comes each time that it becomes readable or writable, not for as long as it is:
    /// whoever is told reads and writes until there is nothing more to be had.
    ///
    /// # Errors
    /// `EEXIST`, `EPERM` for files.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let events = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET).cast_unsigned();
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: both descriptors are open, and the event is read during the call only.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event) })
    }

    /// Waits for at most `timeout`, rounded up to milliseconds, and puts the tokens of what is ready into `ready`.
    ///
    /// # Errors
    /// None that a program could handle. A signal ends the wait early.
    pub fn wait(&self, timeout: Duration, ready: &mut Vec<u64>) -> io::Result<()> {
        ready.clear();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let milliseconds = timeout.as_micros().div_ceil(1000).try_into().unwrap_or(libc::c_int::MAX);
        // SAFETY: there is room for as many events as are announced.
        let count =
            unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), EVENTS as libc::c_int, milliseconds) };
        match check(count) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                let count = usize::try_from(count).unwrap_or_default();
                ready.extend(events[..count].iter().map(|event| event.u64));
                Ok(())
            }
        }
    }
}

/// Lets the process have at least so many open files, as far as root may.
///
/// # Errors
/// `EPERM` without `CAP_SYS_RESOURCE`, above the hard limit.
pub fn allow_open_files(files: u64) -> io::Result<()> {
    // SAFETY: all-zero is a valid `rlimit`.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is written within its size.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur >= files {
        return Ok(());
    }
    limit.rlim_cur = files;
    limit.rlim_max = limit.rlim_max.max(files);
    // SAFETY: the structure is read within its size.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })
}
