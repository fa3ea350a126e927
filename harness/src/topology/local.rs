//! Sockets of a host, which take packets in.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;

use serde::{Deserialize, Serialize};

use crate::sys;

/// A UDP socket that is bound before the first packet comes. Nobody reads it while frames are being sent; when all of
/// them are on their way, what it holds is read, so that how much it has taken depends on its buffer alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SocketSpec {
    /// One of the host's addresses.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// What is asked for by `SO_RCVBUF`, bytes; the kernel doubles it for its own use, and has a least size of about two
    /// kilobytes (`__sock_set_rcvbuf`, net/core/sock.c). The kernel's default if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_buffer: Option<u32>,
}

impl SocketSpec {
    /// Opens the socket in the calling thread's network namespace.
    pub(crate) fn open(&self) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(SocketAddr::new(self.address, self.port))?;
        socket.set_nonblocking(true)?;
        if let Some(bytes) = self.receive_buffer {
            sys::set_receive_buffer(socket.as_fd(), bytes)?;
        }
        Ok(socket)
    }
}

/// Reads all that a socket holds and counts the datagrams. An error ends the reading like an empty queue.
pub(crate) fn read_out(socket: &UdpSocket) -> u64 {
    let mut count = 0;
    while socket.recv(&mut [0]).is_ok() {
        count += 1;
    }
    count
}
