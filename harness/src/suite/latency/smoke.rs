//! Packets that prove probes: sent through a throw-away pair of namespaces, from the driver to a socket's reader.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use super::probes::describe;
use crate::sys::{self, ProgramKind};
use crate::topology::{Host, Network, presets};

/// How long a packet may take through a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(10);
/// `BPF_PROG_TYPE_XDP`.
const XDP: u32 = 6;
/// `BPF_XDP`.
const ATTACH_XDP: u32 = 37;
/// `XDP_FLAGS_DRV_MODE`.
const NATIVE: u32 = 1 << 2;
/// `XDP_PASS`.
const PASS: i32 = 2;

/// A client and a server whose interface takes packets by NAPI, in lists, as those of wire mode do.
pub(super) struct Smoke {
    network: Network,
    /// Held to stay attached: it makes the server's interface use NAPI.
    _xdp: Option<OwnedFd>,
    /// The server's addresses.
    addresses: Vec<SocketAddr>,
}

impl Smoke {
    /// Makes the namespaces.
    pub(super) fn new() -> Result<Self, String> {
        let network = Network::build(&presets::host(&[])).map_err(|error| describe(&error))?;
        let server = network.host(presets::DUT).map_err(|error| describe(&error))?;
        // Without it packets take the way of an interface without NAPI, and still arrive.
        let xdp = pass_everything(server).ok();
        let addresses: [SocketAddr; 2] =
            [(Ipv4Addr::new(10, 71, 1, 2), 0).into(), (Ipv6Addr::new(0xfd71, 1, 0, 0, 0, 0, 0, 2), 0).into()];
        let has_ipv6 = server.run(|| UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok());
        let addresses = addresses.into_iter().filter(|address| address.is_ipv4() || has_ipv6).collect();
        Ok(Self { network, _xdp: xdp, addresses })
    }

    /// Inode number of the server's namespace.
    pub(super) fn netns(&self) -> Result<u32, String> {
        Ok(self.network.host(presets::DUT).map_err(|error| describe(&error))?.netns_inode())
    }

    /// Sends a datagram and a TCP message to each address of the server, and reads them there.
    pub(super) fn round(&self) -> Result<(), String> {
        let host = |name| self.network.host(name).map_err(|error| describe(&error));
        let (client, server) = (host(presets::CLIENT)?, host(presets::DUT)?);
        for address in self.addresses.iter().copied() {
            datagram(client, server, address).map_err(|error| format!("a datagram to {}: {error}", address.ip()))?;
            message(client, server, address).map_err(|error| format!("a connection to {}: {error}", address.ip()))?;
        }
        Ok(())
    }

    /// Removes the namespaces.
    pub(super) fn close(self) -> Result<(), String> {
        self.network.close().map_err(|error| describe(&error))
    }
}

fn pass_everything(server: &Host) -> io::Result<OwnedFd> {
    crate::kernel::make_room_for_maps();
    let kind = ProgramKind { program: XDP, attach: ATTACH_XDP, btf_id: 0 };
    let program = sys::load_trivial_program(kind, PASS)?;
    let ifindex = server.ifindex("eth0").map_err(io::Error::other)?;
    server.run(move || sys::link_to_interface(program.as_fd(), ifindex, ATTACH_XDP, NATIVE))
}

/// Any port of the address family.
fn any(address: SocketAddr) -> SocketAddr {
    let unspecified = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(unspecified, 0)
}

fn datagram(client: &Host, server: &Host, address: SocketAddr) -> io::Result<()> {
    let receiver = server.run(move || UdpSocket::bind(address))?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    let sender = client.run(move || UdpSocket::bind(any(address)))?;
    sender.send_to(b"smoke", receiver.local_addr()?)?;
    receiver.recv(&mut [0; 16]).map(|_len| ())
}

/// Accepts a connection that the client takes for made: the last segment of the handshake may be under way.
fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::yield_now();
            }
            Err(error) => return Err(error),
        }
    }
}

fn message(client: &Host, server: &Host, address: SocketAddr) -> io::Result<()> {
    let listener = server.run(move || TcpListener::bind(address))?;
    let address = listener.local_addr()?;
    // The kernel answers for the listener: the connection is complete before it is accepted.
    let mut sender = client.run(move || TcpStream::connect_timeout(&address, PATIENCE))?;
    let mut receiver = accept(&listener)?;
    receiver.set_nonblocking(false)?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    sender.write_all(b"smoke")?;
    receiver.read_exact(&mut [0; 5])
}
