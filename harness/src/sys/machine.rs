//! Resource limits, and whether virtual machines can be run.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// Makes a virtual machine with one virtual CPU and throws both away.
///
/// # Errors
/// The kernel's, e.g. `EINVAL` where the processor's virtualisation is present but cannot be used.
pub fn try_kvm(kvm: BorrowedFd<'_>) -> io::Result<()> {
    const KVM_CREATE_VM: libc::c_ulong = 0xae01;
    const KVM_CREATE_VCPU: libc::c_ulong = 0xae41;
    let create = |fd: BorrowedFd<'_>, request: libc::c_ulong| {
        // SAFETY: both requests take a number (machine type, CPU number) and return a new descriptor.
        let fd = unsafe { libc::ioctl(fd.as_raw_fd(), request, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nothing else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    let machine = create(kvm, KVM_CREATE_VM)?;
    create(machine.as_fd(), KVM_CREATE_VCPU).map(drop)
}

/// Lifts this process's limit on locked memory, which kernels before 5.11 count maps and programs against.
///
/// # Errors
/// `EPERM` without `CAP_SYS_RESOURCE`.
pub fn lift_memlock() -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the structure outlives the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sets the system's clock (`CLOCK_REALTIME`), ns since the UNIX epoch.
///
/// # Errors
/// `EPERM` without `CAP_SYS_TIME`.
pub fn set_clock(time_ns: u64) -> io::Result<()> {
    let time = libc::timespec {
        tv_sec: (time_ns / 1_000_000_000).cast_signed(),
        tv_nsec: (time_ns % 1_000_000_000).cast_signed(),
    };
    // SAFETY: the structure outlives the call.
    super::check(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) })
}

/// Mixes `seed` into the kernel's random numbers and makes it draw on them at once: two virtual machines that were
/// restored from one state would give the same numbers otherwise.
///
/// # Errors
/// The kernel's; `EPERM` without `CAP_SYS_ADMIN`.
pub fn reseed_random(seed: &[u8]) -> io::Result<()> {
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    let mut random = std::fs::File::options().write(true).open("/dev/urandom")?;
    random.write_all(seed)?;
    // SAFETY: the request takes no argument.
    super::check(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) })
}

/// Sends `signal` to one process; one that is gone needs none.
pub fn signal_process(process: i32, signal: i32) {
    if process > 1 {
        // SAFETY: a plain system call without pointers.
        unsafe { libc::kill(process, signal) };
    }
}

/// Makes a process that is started by `command` die when the thread that starts it has ended (`PR_SET_PDEATHSIG`, see
/// prctl(2)): nothing outlives a lab that is killed. What it starts itself does not inherit this.
pub fn end_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;
    // SAFETY: the closure makes one system call between fork and exec, without memory of its own.
    unsafe {
        command.pre_exec(|| {
            let signal = libc::SIGKILL as libc::c_ulong;
            super::check(libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0))
        });
    }
}

/// Sends `signal` to every process of a group; a group that is gone needs none.
pub fn signal_group(group: i32, signal: i32) {
    if group > 1 {
        // SAFETY: a plain system call without pointers.
        unsafe { libc::killpg(group, signal) };
    }
}
