//! Packet sockets that send frames as they are.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};

use super::check;

/// A raw packet socket that sends on interface `ifindex` of the calling thread's network namespace and receives
/// nothing. Frames bypass the queueing discipline (`PACKET_QDISC_BYPASS`) and go to the driver at once; no other packet
/// socket sees them there (`__dev_direct_xmit`, net/core/dev.c).
///
/// # Errors
/// `EPERM` without `CAP_NET_RAW`, `ENODEV`.
pub fn packet_sender(ifindex: u32) -> io::Result<OwnedFd> {
    let socket = queued_packet_sender(ifindex)?;
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
    Ok(socket)
}

/// As [`packet_sender`], but frames take the way of all others: through the queueing discipline with its impairments, and
/// past whoever listens there.
///
/// # Errors
/// As [`packet_sender`].
pub fn queued_packet_sender(ifindex: u32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; protocol 0 binds the socket to no incoming packets.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: the descriptor was just returned and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // Room for a batch of the largest frames; past the administrator's limit, which root may.
    set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 8 << 20)?;
    // SAFETY: all-zero is a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET.cast_unsigned() as u16;
    address.sll_ifindex = ifindex.cast_signed();
    // SAFETY: the address is valid for its stated size.
    check(unsafe {
        libc::bind(fd, std::ptr::from_ref(&address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    })?;
    Ok(socket)
}

/// A raw packet socket that receives every frame which arrives on interface `ifindex` of the calling thread's network
/// namespace, and none that leaves. `buffer` is the room for frames that wait, bytes; what finds it full is lost.
///
/// # Errors
/// As [`packet_sender`].
pub fn packet_receiver(ifindex: u32, buffer: i32) -> io::Result<OwnedFd> {
    /// `ETH_P_ALL` in network byte order.
    const ALL: u16 = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: a plain system call; protocol 0 receives nothing until the socket is bound.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    check(fd)?;
    // SAFETY: the descriptor was just returned and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, buffer)?;
    // SAFETY: all-zero is a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET.cast_unsigned() as u16;
    address.sll_protocol = ALL;
    address.sll_ifindex = ifindex.cast_signed();
    // SAFETY: the address is valid for its stated size.
    check(unsafe {
        libc::bind(fd, std::ptr::from_ref(&address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    })?;
    Ok(socket)
}

/// The next frame that a [`packet_receiver`] has, as much of it as `room` takes; nothing if none waits.
///
/// # Errors
/// `ENETDOWN`.
pub fn receive_frame<'a>(socket: BorrowedFd<'_>, room: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    loop {
        // SAFETY: the kernel writes within the room.
        let len = unsafe { libc::recv(socket.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), libc::MSG_DONTWAIT) };
        if let Ok(len) = usize::try_from(len) {
            return Ok(room.get(..len));
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            error => return Err(error),
        }
    }
}

/// Lets a TCP socket's SYN wait for the first data, and go with it (`TCP_FASTOPEN_CONNECT`, RFC 7413).
///
/// # Errors
/// `ENOPROTOOPT` before Linux 4.11; `EOPNOTSUPP` where `net.ipv4.tcp_fastopen` forbids it to clients.
pub fn send_data_with_syn(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)
}

fn set_option(socket: &impl AsRawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value is an int of the stated size.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
}

/// Asks for a socket's receive buffer of `bytes` (`SO_RCVBUF`), which the kernel doubles and bounds.
///
/// # Errors
/// `EINVAL` for more than 2^31 - 1 bytes.
pub fn set_receive_buffer(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)
}

/// Most frames that one [`send_frames`] takes.
pub const SEND_BATCH: usize = 64;

/// Sends frames in one system call (`sendmmsg`), at most [`SEND_BATCH`] of them, and returns how many the kernel took:
/// all, or those before the first that it refused.
///
/// # Errors
/// Why the first of them was refused: `EMSGSIZE` over the interface's MTU, `ENOBUFS` or `EAGAIN` for want of room,
/// `ENETDOWN`. `EINTR` is retried.
pub fn send_frames(socket: BorrowedFd<'_>, frames: &[&[u8]]) -> io::Result<usize> {
    let count = frames.len().min(SEND_BATCH);
    // SAFETY: all-zero is a valid `iovec` and a valid `mmsghdr`.
    let (mut vectors, mut headers): ([libc::iovec; SEND_BATCH], [libc::mmsghdr; SEND_BATCH]) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    for ((frame, vector), header) in frames.iter().zip(&mut vectors).zip(&mut headers) {
        // The kernel only reads what a sent vector points at.
        *vector = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
        header.msg_hdr.msg_iov = vector;
        header.msg_hdr.msg_iovlen = 1;
    }
    loop {
        // SAFETY: `count` headers, each with one vector over a slice that outlives the call.
        let sent = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as libc::c_uint, libc::MSG_DONTWAIT)
        };
        match usize::try_from(sent) {
            Ok(sent) => return Ok(sent),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
