//! What concerns the calling thread: its namespace, its CPU, its time.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::check;

/// Moves the calling thread into a network namespace. A thread that has done this should end with its work, not be
/// used for anything else.
///
/// # Errors
/// `EINVAL` if the descriptor is no network namespace, `EPERM`.
pub fn enter_netns(netns: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a plain system call on a valid descriptor; it changes this thread only.
    check(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// The CPUs that the calling thread may use, restored when this is dropped.
#[derive(Debug)]
pub struct Pinned {
    before: libc::cpu_set_t,
    /// The CPU that the thread stays on meanwhile.
    pub cpu: usize,
    // The guard must be dropped by the thread that it pins.
    thread: std::marker::PhantomData<*const ()>,
}

impl Pinned {
    /// Keeps the calling thread on the CPU that it is on.
    ///
    /// # Errors
    /// The kernel's; none is known for a CPU that the thread runs on.
    pub fn here() -> io::Result<Self> {
        let size = size_of::<libc::cpu_set_t>();
        // SAFETY: all-zero is a valid, empty set.
        let (mut before, mut only): (libc::cpu_set_t, libc::cpu_set_t) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        // SAFETY: the set is valid for the stated size; pid 0 is the calling thread.
        check(unsafe { libc::sched_getaffinity(0, size, &raw mut before) })?;
        // SAFETY: no precondition.
        let cpu = unsafe { libc::sched_getcpu() };
        check(cpu)?;
        let cpu = cpu.cast_unsigned() as usize;
        // SAFETY: CPU_SET ignores numbers beyond the set.
        unsafe { libc::CPU_SET(cpu, &mut only) };
        // SAFETY: as above.
        check(unsafe { libc::sched_setaffinity(0, size, &raw const only) })?;
        Ok(Self { before, cpu, thread: std::marker::PhantomData })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: the set that the kernel reported. A failure leaves the thread pinned, which costs speed only.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const self.before) };
    }
}

/// Precedence of the calling thread over all ordinary ones (`SCHED_FIFO`), and exact timers; both are as before when this
/// is dropped. Whoever has it must sleep most of the time: others on its CPU wait as long as it does not.
///
/// Not a nice value: that counts within a control group or session only.
#[derive(Debug)]
pub struct Urgent {
    policy: libc::c_int,
    slack: libc::c_int,
    // The guard must be dropped by the thread that it favours.
    thread: std::marker::PhantomData<*const ()>,
}

impl Urgent {
    /// Favours the calling thread, as far as the kernel lets it: without `CAP_SYS_NICE` its timers are exact all the same.
    #[must_use]
    pub fn new() -> Self {
        let first = libc::sched_param { sched_priority: 1 };
        // SAFETY: plain system calls with a valid parameter; 0 is the calling thread. 50 us are the kernel's usual slack.
        unsafe {
            let policy = libc::sched_getscheduler(0);
            let slack = libc::prctl(libc::PR_GET_TIMERSLACK, 0, 0, 0, 0);
            libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const first);
            libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0);
            Self { policy, slack, thread: std::marker::PhantomData }
        }
    }
}

impl Default for Urgent {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        // Of a thread that was a real-time one before, the priority is not known: it becomes the least.
        let priority = libc::c_int::from(matches!(self.policy, libc::SCHED_FIFO | libc::SCHED_RR));
        let before = libc::sched_param { sched_priority: priority };
        // SAFETY: as above. A failure leaves the thread favoured.
        unsafe {
            libc::sched_setscheduler(0, self.policy.max(0), &raw const before);
            libc::prctl(libc::PR_SET_TIMERSLACK, self.slack.max(1), 0, 0, 0);
        }
    }
}

/// Waits until one of `files` can be read, at most `limit`; an interruption by a signal ends the wait early.
///
/// # Errors
/// The kernel's: `EINVAL` for more files than the process may open.
pub fn wait_readable(files: &[BorrowedFd<'_>], limit: std::time::Duration) -> io::Result<()> {
    let wanted = |file: &BorrowedFd<'_>| libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut polled: Vec<libc::pollfd> = files.iter().map(wanted).collect();
    let count = libc::nfds_t::try_from(polled.len()).unwrap_or(libc::nfds_t::MAX);
    let limit = libc::c_int::try_from(limit.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: as many entries as are stated, which outlive the call.
    match check(unsafe { libc::poll(polled.as_mut_ptr(), count, limit) }) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        other => other,
    }
}

/// `CLOCK_MONOTONIC` in ns: the clock of `bpf_ktime_get_ns`.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on every Linux and the result is valid for writes.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Sleeps until `CLOCK_MONOTONIC` reads `deadline_ns`, or a signal comes.
pub fn sleep_until(deadline_ns: u64) {
    let deadline = libc::timespec {
        tv_sec: (deadline_ns / 1_000_000_000).cast_signed(),
        tv_nsec: (deadline_ns % 1_000_000_000).cast_signed(),
    };
    // SAFETY: the request is valid and no remainder is wanted.
    unsafe {
        libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &raw const deadline, std::ptr::null_mut())
    };
}

/// Waits until every softirq that was running on any CPU has ended: `MEMBARRIER_CMD_GLOBAL` waits for an RCU grace
/// period (`synchronize_rcu`), and code with bottom halves off is an RCU reader.
///
/// # Errors
/// `EINVAL` on a kernel with `nohz_full` CPUs, `ENOSYS` without membarrier.
pub fn wait_for_softirqs() -> io::Result<()> {
    // SAFETY: a plain system call without pointers.
    check(unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) } as libc::c_int)
}

/// Moves the calling thread into a new, empty network namespace, which is gone when the thread has ended and its
/// sockets are closed.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` without `CONFIG_NET_NS`, `ENOSPC` with too many namespaces.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: affects the calling thread only and has no precondition.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
