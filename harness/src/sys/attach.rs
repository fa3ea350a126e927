//! Attaching loaded programs by their descriptors, whoever loaded them. What is attached is held by a descriptor, or by a
//! value that undoes it when dropped.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use super::bpf::{BPF_LINK_CREATE, BPF_RAW_TRACEPOINT_OPEN, bpf_fd};
use super::check;

/// Attaches a program to what `target` is (a cgroup, a network namespace) by a BPF link, which ends when it is dropped.
///
/// # Errors
/// The kernel's: `EINVAL` where it does not support that.
pub fn link_to_descriptor(program: BorrowedFd<'_>, target: BorrowedFd<'_>, attach: u32) -> io::Result<OwnedFd> {
    let mut attr = [program.as_raw_fd().cast_unsigned(), target.as_raw_fd().cast_unsigned(), attach, 0];
    // SAFETY: the first 16 bytes of `link_create`: program, target, attach type, flags.
    unsafe { bpf_fd(BPF_LINK_CREATE, &mut attr) }
}

/// Where a program goes among those at a tcx hook.
#[derive(Clone, Copy, Debug)]
pub enum TcxPosition<'a> {
    /// Before all others.
    First,
    /// After all others.
    Last,
    /// Right after the one of that link.
    After(BorrowedFd<'a>),
}

/// Attaches a tc program to an interface by a BPF link (since 6.6: 053c8e1f235d), which ends when it is dropped.
/// `attach` is `BPF_TCX_INGRESS` or `BPF_TCX_EGRESS`.
///
/// # Errors
/// The kernel's: `EINVAL` where it does not support that.
pub fn link_tcx(program: BorrowedFd<'_>, ifindex: u32, attach: u32, position: TcxPosition<'_>) -> io::Result<OwnedFd> {
    const BEFORE: u32 = 1 << 3;
    const AFTER: u32 = 1 << 4;
    const RELATIVE_TO_LINK: u32 = 1 << 13;
    /// `link_create` with its part for tcx.
    #[repr(C)]
    struct Attr {
        program: u32,
        ifindex: u32,
        attach: u32,
        flags: u32,
        relative: u32,
        padding: u32,
        revision: u64,
    }
    let (flags, relative) = match position {
        TcxPosition::First => (BEFORE, 0),
        TcxPosition::Last => (AFTER, 0),
        TcxPosition::After(link) => (AFTER | RELATIVE_TO_LINK, link.as_raw_fd().cast_unsigned()),
    };
    let program = program.as_raw_fd().cast_unsigned();
    let mut attr = Attr { program, ifindex, attach, flags, relative, padding: 0, revision: 0 };
    // SAFETY: laid out as BPF_LINK_CREATE reads it; it holds no pointer.
    unsafe { bpf_fd(BPF_LINK_CREATE, &mut attr) }
}

/// Attaches a raw tracepoint program to the tracepoint `name`, until the result is dropped.
///
/// # Errors
/// The kernel's: `ENOENT` for a tracepoint that it does not have.
pub fn open_raw_tracepoint(program: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    /// `union bpf_attr` as `BPF_RAW_TRACEPOINT_OPEN` reads it.
    #[repr(C)]
    struct Attr {
        name: u64,
        program: u32,
        padding: u32,
    }
    let program = program.as_raw_fd().cast_unsigned();
    let mut attr = Attr { name: name.as_ptr() as u64, program, padding: 0 };
    // SAFETY: laid out as the command reads it; the name outlives the call.
    unsafe { bpf_fd(BPF_RAW_TRACEPOINT_OPEN, &mut attr) }
}

/// A kernel event that a program can be attached to.
#[derive(Clone, Copy, Debug)]
pub enum PerfEvent<'a> {
    /// The tracepoint of that number (`/sys/kernel/tracing/events/*/*/id`).
    Tracepoint(u64),
    /// A function, at `offset` bytes from its start or at its return. `pmu` and `retprobe_bit` stand in
    /// `/sys/bus/event_source/devices/{kprobe,uprobe}/{type,format/retprobe}`.
    Probe {
        /// Number of the event source.
        pmu: u32,
        /// The bit that asks for the return, if that is meant.
        retprobe_bit: Option<u32>,
        /// Function of the kernel, or path of a file.
        of: &'a CStr,
        /// Bytes from the start of the function, or of the file.
        offset: u64,
        /// The process that is watched; none for the kernel, or for all.
        process: Option<i32>,
    },
}

const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;
/// `PERF_EVENT_IOC_SET_BPF` and `PERF_EVENT_IOC_ENABLE` (`include/uapi/linux/perf_event.h`).
const SET_BPF: libc::c_ulong = 0x4004_2408;
const ENABLE: libc::c_ulong = 0x2400;

/// `struct perf_event_attr` up to `config2` (`PERF_ATTR_SIZE_VER1`).
#[repr(C)]
#[derive(Default)]
struct PerfAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint: u32,
    name: u64,
    offset: u64,
}

/// Opens an event, until the result is dropped.
///
/// # Errors
/// The kernel's: `ENOENT` for a function that it does not know, `EINVAL` for one that cannot be probed, `EPERM`.
pub fn open_perf_event(event: PerfEvent<'_>) -> io::Result<OwnedFd> {
    let mut attr = PerfAttr { size: size_of::<PerfAttr>() as u32, sample_period: 1, ..PerfAttr::default() };
    let mut pid = -1;
    match event {
        PerfEvent::Tracepoint(id) => (attr.kind, attr.config) = (PERF_TYPE_TRACEPOINT, id),
        PerfEvent::Probe { pmu, retprobe_bit, of, offset, process } => {
            attr.kind = pmu;
            attr.config = retprobe_bit.map_or(0, |bit| 1 << bit);
            (attr.name, attr.offset) = (of.as_ptr() as u64, offset);
            pid = process.unwrap_or(-1);
        }
    }
    // A program at an event runs wherever it happens, whatever CPU the event was opened for.
    let cpu = if pid == -1 { 0 } else { -1 };
    // SAFETY: the attribute states its size, and the name outlives the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, std::ptr::from_ref(&attr), pid, cpu, -1, PERF_FLAG_FD_CLOEXEC)
    };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    check(fd)?;
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a program to an event on every CPU, until the result is dropped.
///
/// # Errors
/// As [`open_perf_event`]; `EINVAL` for a program of another kind.
pub fn attach_perf_event(program: BorrowedFd<'_>, event: PerfEvent<'_>) -> io::Result<OwnedFd> {
    let event = open_perf_event(event)?;
    let fd = event.as_raw_fd();
    // SAFETY: both commands take an integer, on a descriptor of a perf event.
    unsafe {
        check(libc::ioctl(fd, SET_BPF as _, program.as_raw_fd()))?;
        check(libc::ioctl(fd, ENABLE as _, 0))?;
    }
    Ok(event)
}

/// Makes `program` the filter of a new packet socket on an interface of the calling thread's network namespace, until the
/// socket is dropped. The filter sees what the interface receives and sends; nobody reads the socket.
///
/// # Errors
/// The kernel's.
pub fn attach_socket_filter(program: BorrowedFd<'_>, ifindex: u32) -> io::Result<OwnedFd> {
    let all = i32::from((libc::ETH_P_ALL as u16).to_be());
    // No protocol yet: nothing arrives before the filter is there.
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: a new descriptor that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let program = program.as_raw_fd();
    // SAFETY: the option is an integer of the size that is stated.
    check(unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_BPF,
            std::ptr::from_ref(&program).cast(),
            size_of::<i32>() as u32,
        )
    })?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: all as u16,
        sll_ifindex: ifindex.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: an address of the size that is stated.
    check(unsafe { libc::bind(fd, std::ptr::from_ref(&address).cast(), size_of::<libc::sockaddr_ll>() as u32) })?;
    Ok(socket)
}

/// Direction of a tc hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TcDirection {
    /// What the interface receives.
    Ingress,
    /// What it sends.
    Egress,
}

/// A tc filter that runs a program. Dropping it takes the filter away, from whatever thread.
#[derive(Debug)]
pub struct TcFilter {
    /// A netlink socket of the filter's own network namespace: interface numbers mean something else elsewhere.
    socket: OwnedFd,
    delete: Vec<u8>,
}

const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
/// `TCA_BPF_FLAG_ACT_DIRECT`: the program's return value is the verdict.
const ACT_DIRECT: u32 = 1;
/// `TC_H_CLSACT` with `TC_H_MIN_INGRESS` or `TC_H_MIN_EGRESS` (`include/uapi/linux/pkt_sched.h`).
const CLSACT: u32 = 0xffff_0000;

impl TcFilter {
    /// Adds a filter with direct action to an interface of the calling thread's network namespace, which must have a
    /// `clsact` queueing discipline. The filter with the lowest priority runs first.
    ///
    /// # Errors
    /// The kernel's: `EEXIST` if there is one of that priority and handle.
    pub fn attach(
        program: BorrowedFd<'_>,
        name: &str,
        ifindex: u32,
        direction: TcDirection,
        priority: u16,
        handle: u32,
    ) -> io::Result<Self> {
        let parent = CLSACT
            | match direction {
                TcDirection::Ingress => 0xfff2,
                TcDirection::Egress => 0xfff3,
            };
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
        check(fd)?;
        // SAFETY: a new descriptor that nothing else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut body = tc_message(ifindex, handle, parent, priority);
        let delete = netlink(RTM_DELTFILTER, 0, &body);
        let mut options = Vec::new();
        attribute(&mut options, TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
        attribute(&mut options, TCA_BPF_NAME, &[name.as_bytes(), b"\0"].concat());
        attribute(&mut options, TCA_BPF_FLAGS, &ACT_DIRECT.to_ne_bytes());
        attribute(&mut body, TCA_OPTIONS, &options);
        let create = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
        request(&socket, &netlink(RTM_NEWTFILTER, create, &body))?;
        Ok(Self { socket, delete })
    }
}

impl Drop for TcFilter {
    fn drop(&mut self) {
        // At worst it stays until its interface goes.
        let _ = request(&self.socket, &self.delete);
    }
}

/// `struct tcmsg` and the kind of filter.
fn tc_message(ifindex: u32, handle: u32, parent: u32, priority: u16) -> Vec<u8> {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    let info = u32::from(priority) << 16 | u32::from(protocol);
    let mut body = vec![0_u8; 4];
    for field in [ifindex, handle, parent, info] {
        body.extend(field.to_ne_bytes());
    }
    attribute(&mut body, TCA_KIND, b"bpf\0");
    body
}

fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend((value.len() as u16 + 4).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

fn netlink(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend((16 + body.len() as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// Sends a request and waits for its acknowledgement, which the kernel gives before the call returns.
fn request(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    // SAFETY: a buffer of that length; an unconnected netlink socket speaks to the kernel.
    let sent = unsafe { libc::send(fd, message.as_ptr().cast(), message.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answer = [0_u8; 4096];
    // SAFETY: a buffer of that length.
    let len = unsafe { libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0) };
    if len < 0 {
        return Err(io::Error::last_os_error());
    }
    // `struct nlmsghdr` (16 bytes), then `struct nlmsgerr`, which begins with a negative error number or 0.
    let error = answer[16..20].try_into().map(i32::from_ne_bytes).unwrap_or_default();
    if (len as usize) < 20 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-error)) }
}
