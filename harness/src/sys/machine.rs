//! Resource limits, and whether virtual machines can be run.

use std::io;
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
