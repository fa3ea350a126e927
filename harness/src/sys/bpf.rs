//! The `bpf` system call, where aya does not reach: running programs over packets, and probing what the kernel takes.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// `union bpf_attr` as `BPF_PROG_TEST_RUN` reads it (`include/uapi/linux/bpf.h`, struct `test`).
#[repr(C)]
#[derive(Default)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

/// Runs a loaded program once over `frame` with a context: `context` is the program's `struct __sk_buff` or
/// `struct xdp_md` and is as the program left it afterwards; `out` receives the packet.
///
/// # Errors
/// As [`test_run`]; `EINVAL` for a context with a field that the kernel does not let a caller set, `ENODEV` for an
/// interface that is not in this thread's network namespace.
pub fn test_run_with_context(
    program: BorrowedFd<'_>,
    frame: &[u8],
    out: &mut [u8],
    context: &mut [u8],
) -> io::Result<TestRun> {
    let length = |bytes: usize| u32::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let context_len = length(context.len())?;
    let context = context.as_mut_ptr() as u64;
    run_test(&mut TestRunAttr {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        data_size_in: length(frame.len())?,
        data_in: frame.as_ptr() as u64,
        data_size_out: length(out.len())?,
        data_out: out.as_mut_ptr() as u64,
        repeat: 1,
        ctx_size_in: context_len,
        ctx_size_out: context_len,
        // The kernel has read it when it writes it.
        ctx_in: context,
        ctx_out: context,
        ..TestRunAttr::default()
    })
}

/// What one `BPF_PROG_TEST_RUN` reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// The program's return value: `XDP_*` or `TC_ACT_*`.
    pub verdict: u32,
    /// Bytes of the packet after the program ran.
    pub len_out: u32,
    /// Mean time of one run, ns.
    pub duration_ns: u32,
}

/// Runs a loaded program once over `frame` and returns its verdict; `out` receives the packet as the program left it.
///
/// # Errors
/// The kernel's: `EINVAL` for a frame shorter than an Ethernet header or longer than the kernel takes, `ENOSPC` if
/// `out` is too small, `EINTR` is retried.
pub fn test_run(program: BorrowedFd<'_>, frame: &[u8], out: Option<&mut [u8]>, repeat: u32) -> io::Result<TestRun> {
    let mut attr = TestRunAttr {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        data_size_in: u32::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        data_in: frame.as_ptr() as u64,
        repeat,
        ..TestRunAttr::default()
    };
    if let Some(out) = out {
        attr.data_size_out = u32::try_from(out.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        attr.data_out = out.as_mut_ptr() as u64;
    }
    run_test(&mut attr)
}

/// Every pointer of `attr` leads to a buffer of the length that it states, which its makers above see to.
fn run_test(attr: &mut TestRunAttr) -> io::Result<TestRun> {
    loop {
        // SAFETY: `attr` outlives the call and points at buffers whose lengths it states.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, std::ptr::from_mut(attr), size_of::<TestRunAttr>())
        };
        if result >= 0 {
            return Ok(TestRun { verdict: attr.retval, len_out: attr.data_size_out, duration_ns: attr.duration });
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

pub(super) const BPF_PROG_LOAD: libc::c_long = 5;
pub(super) const BPF_RAW_TRACEPOINT_OPEN: libc::c_long = 17;
pub(super) const BPF_LINK_CREATE: libc::c_long = 28;
/// `BPF_F_TEST_XDP_LIVE_FRAMES`
const LIVE_FRAMES: u32 = 1 << 1;

/// A program type and attach type of `include/uapi/linux/bpf.h`, with the BTF type that a tracing program belongs to.
#[derive(Clone, Copy, Debug)]
pub struct ProgramKind {
    /// `BPF_PROG_TYPE_*`.
    pub program: u32,
    /// `BPF_*` of `enum bpf_attach_type`, 0 where the type has none.
    pub attach: u32,
    /// BTF type of the kernel that a tracing program is attached to, else 0.
    pub btf_id: u32,
}

/// `union bpf_attr` as `BPF_PROG_LOAD` reads it, up to `attach_prog_fd`.
#[repr(C)]
#[derive(Default)]
pub(super) struct ProgLoadAttr {
    pub(super) prog_type: u32,
    pub(super) insn_cnt: u32,
    pub(super) insns: u64,
    pub(super) license: u64,
    pub(super) log_level: u32,
    pub(super) log_size: u32,
    pub(super) log_buf: u64,
    pub(super) kern_version: u32,
    pub(super) prog_flags: u32,
    pub(super) prog_name: [u8; 16],
    pub(super) prog_ifindex: u32,
    pub(super) expected_attach_type: u32,
    pub(super) prog_btf_fd: u32,
    pub(super) func_info_rec_size: u32,
    pub(super) func_info: u64,
    pub(super) func_info_cnt: u32,
    pub(super) line_info_rec_size: u32,
    pub(super) line_info: u64,
    pub(super) line_info_cnt: u32,
    pub(super) attach_btf_id: u32,
    pub(super) attach_prog_fd: u32,
    pub(super) reserved: u32,
}

/// Issues a `bpf` command that returns a new descriptor.
///
/// # Safety
/// `attr` is laid out as the command reads it, and every pointer in it is valid for the call.
pub(super) unsafe fn bpf_fd<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's; the size is that of `attr`.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Loads a program that returns `verdict` and does nothing else: enough to see whether the kernel takes its kind.
///
/// # Errors
/// The kernel's: `EINVAL` for a kind it does not know, `E2BIG` for an attribute it does not know, `EPERM`.
pub fn load_trivial_program(kind: ProgramKind, verdict: i32) -> io::Result<OwnedFd> {
    let [a, b, c, d] = verdict.to_ne_bytes();
    // `r0 = verdict; exit`: code, registers (0), offset (0), immediate.
    let instructions: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, a, b, c, d], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let mut attr = ProgLoadAttr {
        prog_type: kind.program,
        insn_cnt: 2,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        expected_attach_type: kind.attach,
        attach_btf_id: kind.btf_id,
        ..ProgLoadAttr::default()
    };
    attr.prog_name[..12].copy_from_slice(b"bpflab_probe");
    // SAFETY: laid out as BPF_PROG_LOAD reads it; instructions and licence outlive the call.
    unsafe { bpf_fd(BPF_PROG_LOAD, &mut attr) }
}

/// Attaches a program to an interface by a BPF link, which ends when it is dropped.
///
/// # Errors
/// The kernel's: `EINVAL` or `EOPNOTSUPP` where it, or the interface's driver, does not support that.
pub fn link_to_interface(program: BorrowedFd<'_>, ifindex: u32, attach: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = [program.as_raw_fd().cast_unsigned(), ifindex, attach, flags];
    // SAFETY: the first 16 bytes of `link_create`: program, interface, attach type, flags.
    unsafe { bpf_fd(BPF_LINK_CREATE, &mut attr) }
}

/// Attaches a tracing program (`tp_btf`, `fentry`) to what it was loaded for, until the result is dropped.
///
/// # Errors
/// The kernel's: `EINVAL`, `EOPNOTSUPP` or `ENOTSUPP` (524) where it does not support that.
pub fn attach_tracing(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // `raw_tracepoint`: pointer to a name (none: the program knows its tracepoint), program, padding.
    let mut attr = [0, 0, program.as_raw_fd().cast_unsigned(), 0_u32];
    // SAFETY: laid out as BPF_RAW_TRACEPOINT_OPEN reads it; there is no name to point to.
    unsafe { bpf_fd(BPF_RAW_TRACEPOINT_OPEN, &mut attr) }
}

/// Runs an XDP program over `frame` in the mode that sends what it lets pass (`BPF_F_TEST_XDP_LIVE_FRAMES`, since 5.18),
/// and returns the verdict that the kernel reports: 0 in that mode, whatever the program returns
/// (`Documentation/bpf/bpf_prog_run.rst`). Before 5.18 XDP test runs take any flag and heed none: they report the
/// program's own verdict.
///
/// # Errors
/// The kernel's: `EINVAL` for a frame that does not fit into a page with what the kernel keeps there.
pub fn test_run_live(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<u32> {
    run_live(program, frame, 1, 0)
}

/// Runs an XDP program `times` times in that mode, over frames that are as `frame` each time it begins, and takes up to
/// `batch` of them (0: the kernel's 64; at most 256) through the network at once.
///
/// # Errors
/// As [`test_run_live`]; `EINTR` when a signal came in between, with the program run fewer times: the program must count.
pub fn send_live(program: BorrowedFd<'_>, frame: &[u8], times: u32, batch: u32) -> io::Result<()> {
    run_live(program, frame, times, batch).map(|_| ())
}

fn run_live(program: BorrowedFd<'_>, frame: &[u8], repeat: u32, batch_size: u32) -> io::Result<u32> {
    /// `TestRunAttr` and the fields added in 5.18.
    #[repr(C)]
    #[derive(Default)]
    struct LiveAttr {
        run: TestRunAttr,
        flags: u32,
        cpu: u32,
        batch_size: u32,
        reserved: u32,
    }
    let mut attr = LiveAttr {
        run: TestRunAttr {
            prog_fd: program.as_raw_fd().cast_unsigned(),
            data_size_in: u32::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
            data_in: frame.as_ptr() as u64,
            repeat,
            ..TestRunAttr::default()
        },
        flags: LIVE_FRAMES,
        batch_size,
        ..LiveAttr::default()
    };
    // SAFETY: laid out as BPF_PROG_TEST_RUN reads it; the frame outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, std::ptr::from_mut(&mut attr), size_of::<LiveAttr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(attr.run.retval) }
}
