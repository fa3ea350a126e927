//! Programs detached for good.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use super::bpf::bpf_fd;
use super::element::bpf;
use super::info::{BPF_OBJ_GET_INFO_BY_FD, InfoAttr};
use super::thread::monotonic_ns;

const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
/// `PERF_EVENT_IOC_DISABLE`.
const DISABLE: libc::c_ulong = 0x2401;
/// Longest wait for others to let a link go: a child executes its program within milliseconds.
const LIMIT_NS: u64 = 2_000_000_000;

/// Closes what a program is attached by (a link, a perf event, a socket), and returns when the kernel has detached it.
///
/// Closing alone is not enough in a process with threads: a child that another thread has just forked has copies of all
/// descriptors until it executes its program, and for as long the program stays attached. Attached anew meanwhile, it
/// would see everything twice.
pub fn detach(attached: OwnedFd) {
    // SAFETY: the command takes no pointer. An event stops for all who have it; links and sockets do not know the command.
    unsafe { libc::ioctl(attached.as_raw_fd(), DISABLE as _, 0) };
    let link = link_id(attached.as_fd());
    drop(attached);
    let Ok(id) = link else { return };
    let deadline = monotonic_ns() + LIMIT_NS;
    while is_there(id) && monotonic_ns() < deadline {
        std::thread::yield_now();
    }
}

/// The number of a link (`struct bpf_link_info`).
///
/// # Errors
/// The kernel's: `EINVAL` for what is no BPF object.
fn link_id(link: BorrowedFd<'_>) -> io::Result<u32> {
    // Kind, number, program, padding, and what there is of each kind: pointers to text that is not asked for, among it.
    let mut info = [0_u32; 16];
    let mut attr = InfoAttr {
        fd: link.as_raw_fd().cast_unsigned(),
        len: size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: `info` has the length that is stated, takes any bytes, and outlives the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info[1])
}

/// Whether a link of that number is still attached, or is told to be.
fn is_there(id: u32) -> bool {
    let mut attr = [id, 0, 0, 0];
    // SAFETY: a number and flags (0), by value.
    unsafe { bpf_fd(BPF_LINK_GET_FD_BY_ID, &mut attr) }.is_ok()
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read as _, Write as _};
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;
    use crate::sys::{ProgramKind, load_trivial_program, open_raw_tracepoint};

    /// `BPF_PROG_TYPE_RAW_TRACEPOINT`.
    const RAW_TRACEPOINT: ProgramKind = ProgramKind { program: 17, attach: 0, btf_id: 0 };

    /// A child that has been forked and does not execute its program before `go` has a byte.
    fn slow_child(go: PipeReader) -> (std::thread::JoinHandle<()>, PipeReader) {
        let (forked, mut tell) = std::io::pipe().unwrap();
        let thread = std::thread::spawn(move || {
            let mut command = Command::new("true");
            let mut go = go;
            // SAFETY: the closure reads and writes pipes, and allocates nothing.
            unsafe {
                command.pre_exec(move || {
                    tell.write_all(b"!")?;
                    _ = go.read(&mut [0])?;
                    Ok(())
                });
            }
            assert!(command.status().unwrap().success());
        });
        (thread, forked)
    }

    #[test]
    fn a_program_is_detached_although_a_child_has_its_link_for_a_while() {
        let program = load_trivial_program(RAW_TRACEPOINT, 0).unwrap();
        let link = open_raw_tracepoint(program.as_fd(), c"kfree_skb").unwrap();
        let id = link_id(link.as_fd()).unwrap();
        let (go, mut hold) = std::io::pipe().unwrap();
        let (child, mut forked) = slow_child(go);
        forked.read_exact(&mut [0]).unwrap();
        // The child lets go some time after the first look, which finds the link.
        let release = std::thread::spawn(move || {
            assert!(is_there(id));
            hold.write_all(b"!").unwrap();
        });
        detach(link);
        assert!(!is_there(id));
        release.join().unwrap();
        child.join().unwrap();
    }

    #[test]
    fn what_is_no_link_is_closed() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        detach(reader.into());
        assert_eq!(writer.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
