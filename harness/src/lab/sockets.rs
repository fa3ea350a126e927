//! Real sockets on the hosts of a lab.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::{Lab, LabError};
use crate::topology::Host;

/// Longest that connecting, accepting, and a single read or write of these sockets waits; the test may set another.
const PATIENCE: Duration = Duration::from_secs(5);

impl Lab {
    /// The first IPv4 address of a host, or its first IPv6 address if it has no other.
    ///
    /// # Errors
    /// As [`Lab::host`]; [`LabError::Socket`] for a host without addresses.
    pub fn address(&self, host: &str) -> Result<IpAddr, LabError> {
        address(self.host(host)?)
    }

    /// A UDP socket on a host, at its own address and that port (0: any). It gives up after five seconds of silence.
    ///
    /// # Errors
    /// As [`Lab::address`]; [`LabError::Socket`].
    pub fn udp(&self, host: &str, port: u16) -> Result<UdpSocket, LabError> {
        let host = self.host(host)?;
        let address = SocketAddr::new(address(host)?, port);
        let bound = host.run(move || {
            let socket = UdpSocket::bind(address)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))?;
            Ok(socket)
        });
        bound.map_err(|source| failed(host, format!("open a UDP socket at {address}"), source))
    }

    /// A TCP connection from one host to a port of another: the end of the first, and of the second. Both give up after
    /// five seconds of silence.
    ///
    /// # Errors
    /// As [`Lab::address`]; [`LabError::Socket`] for a connection that does not come about within five seconds, as where a
    /// program drops its packets.
    pub fn tcp(&self, from: &str, to: &str, port: u16) -> Result<(TcpStream, TcpStream), LabError> {
        let (client, server) = (self.host(from)?, self.host(to)?);
        let address = SocketAddr::new(address(server)?, port);
        let listener = server.run(move || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let listener = listener.map_err(|source| failed(server, format!("listen at {address}"), source))?;
        let at = listener.local_addr().map_err(|source| failed(server, format!("listen at {address}"), source))?;
        let near = client.run(move || TcpStream::connect_timeout(&at, PATIENCE));
        let near = near.map_err(|source| failed(client, format!("connect to {at}"), source))?;
        let far = accept(&listener).map_err(|source| failed(server, format!("accept at {at}"), source))?;
        for (host, stream) in [(client, &near), (server, &far)] {
            let set = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
            set.map_err(|source| failed(host, "limit the patience of a socket".to_owned(), source))?;
        }
        Ok((near, far))
    }
}

fn address(host: &Host) -> Result<IpAddr, LabError> {
    let mut addresses = Vec::new();
    for link in host.links()?.into_iter().filter(|link| link.name != "lo") {
        addresses.extend(host.addresses(&link.name)?.into_iter().map(|prefix| prefix.address));
    }
    let link_local = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    addresses.retain(|address| !link_local(address));
    let first = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    first.copied().ok_or_else(|| failed(host, "find an address".to_owned(), ErrorKind::AddrNotAvailable.into()))
}

/// A connection whose handshake is over on the other side is there, or a moment away.
fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                crate::sys::wait_readable(&[std::os::fd::AsFd::as_fd(listener)], Duration::from_millis(100))?;
            }
            Err(error) => return Err(error),
        }
    }
}

fn failed(host: &Host, operation: String, source: io::Error) -> LabError {
    LabError::Socket { operation, host: host.name().to_owned(), source }
}
