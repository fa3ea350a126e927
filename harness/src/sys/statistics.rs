//! The kernel's own account of programs.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use aya_obj::generated::bpf_prog_info;

use super::bpf::bpf_fd;

const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_ENABLE_STATS: libc::c_long = 32;

/// Has the kernel count runs of programs and their time while the result lives (since 5.8: d46edd671a14). It costs every
/// run on the machine about 20 ns.
///
/// # Errors
/// The kernel's: `EINVAL` where it cannot, `EPERM`.
pub fn enable_statistics() -> io::Result<OwnedFd> {
    // `BPF_STATS_RUN_TIME` is 0.
    let mut attr = [0_u32];
    // SAFETY: `enable_stats` is one integer.
    unsafe { bpf_fd(BPF_ENABLE_STATS, &mut attr) }
}

/// How often a program ran while statistics were on, and ns of all those runs.
///
/// # Errors
/// The kernel's.
pub fn program_runs(program: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    #[repr(C)]
    struct Attr {
        fd: u32,
        len: u32,
        info: u64,
    }
    // SAFETY: plain integers and addresses, for which zeros are valid.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attr = Attr {
        fd: program.as_raw_fd().cast_unsigned(),
        len: size_of::<bpf_prog_info>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `info` has the length that is stated, asks for none of the arrays, and outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, std::ptr::from_mut(&mut attr), size_of::<Attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok((info.run_cnt, info.run_time_ns)) }
}
