//! The live end: real sockets, each of which does what the recorded end's application did.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::relay::{Broken, Relay, is_early, reset};
use super::script::{Flow, What};

use crate::sys;

/// Bytes that are read at once.
const ROOM: usize = 64 << 10;
/// Connections that may wait to be accepted: as many as are recorded at once, within what the kernel counts by.
const BACKLOG: i32 = 65_535;

/// Opens a listening socket in the calling thread's network namespace.
pub(super) fn listen(address: SocketAddr, receive_buffer: Option<u32>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    if let Some(bytes) = receive_buffer {
        // Those that it accepts have the same.
        socket.set_recv_buffer_size(bytes as usize)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Opens a socket in the calling thread's network namespace that is bound to `address`, and not connected yet. With
/// `fast_open` connecting it sends nothing: the SYN goes with what is written first.
pub(super) fn client(address: SocketAddr, receive_buffer: Option<u32>, fast_open: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes as usize)?;
    }
    if fast_open {
        sys::send_data_with_syn(socket.as_fd())?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// As [`client`], for datagrams.
pub(super) fn datagrams(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Several conversations of one client begin at the same port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// One end of a conversation.
#[derive(Debug, Default)]
pub(super) struct Responder {
    stream: Option<TcpStream>,
    /// The application that answers instead.
    relay: Option<Relay>,
    action: usize,
    paused: bool,
    /// Bytes of the stream, or datagrams.
    pub(super) read: u64,
    pub(super) written: u64,
    /// Bytes, of datagrams too.
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    /// Other bytes came than were recorded.
    pub(super) differs: bool,
    /// The first byte that an application answered otherwise than recorded.
    pub(super) answers_differ: Option<u64>,
    ended: bool,
    finished: bool,
    pub(super) error: Option<String>,
}

/// What a responder waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing: all its actions are done.
    Nothing,
    /// A time.
    Until(u64),
    /// Its socket.
    Socket,
}

impl Responder {
    /// Takes its socket.
    pub(super) fn take(&mut self, stream: TcpStream) {
        // What is written goes out at once, as it was recorded.
        _ = stream.set_nodelay(true);
        // Urgent bytes are bytes of the stream (RFC 6093 section 4).
        _ = SockRef::from(&stream).set_out_of_band_inline(true);
        self.stream = Some(stream);
    }

    /// Lets an application answer.
    pub(super) fn forward(&mut self, relay: Relay) {
        self.relay = Some(relay);
    }

    /// The application cannot be had: the connection is broken off.
    pub(super) fn fail(&mut self, problem: String) {
        self.error.get_or_insert(problem);
        if let Some(stream) = self.stream.take() {
            reset(&stream);
        }
    }

    /// Moves bytes between the live end and its application.
    pub(super) fn relay(&mut self, flow: &Flow) {
        let (Some(stream), Some(relay)) = (&self.stream, &mut self.relay) else { return };
        let (read, written, differs, answers) =
            (&mut self.read, &mut self.written, &mut self.differs, &mut self.answers_differ);
        let mut received = |bytes: &[u8]| {
            *differs |= other_from(&flow.reads, *read, bytes).is_some();
            *read += bytes.len() as u64;
        };
        let mut answered = |bytes: &[u8]| {
            *answers = answers.or_else(|| other_from(&flow.writes, *written, bytes));
            *written += bytes.len() as u64;
        };
        let pumped = relay.pump(stream, &mut received, &mut answered);
        (self.read_bytes, self.written_bytes) = (self.read, self.written);
        let is_over = relay.is_over();
        match pumped {
            Ok(()) if !is_over => return,
            Ok(()) => {}
            Err(Broken::Live) => relay.reset(),
            Err(Broken::App(error)) => {
                reset(stream);
                // Breaking off is an answer, too; not being there is none.
                if !matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) {
                    self.error.get_or_insert_with(|| format!("its application cannot be reached: {error}"));
                }
            }
        }
        (self.stream, self.relay) = (None, None);
    }

    /// Takes in a datagram of the application.
    pub(super) fn answered(&mut self, flow: &Flow, bytes: &[u8]) {
        self.answers_differ = self.answers_differ.or_else(|| other_from(&flow.writes, self.written_bytes, bytes));
        self.written += 1;
        self.written_bytes += bytes.len() as u64;
    }

    /// Reads and writes as far as the socket and the script let it.
    pub(super) fn advance(&mut self, flow: &Flow, now_ns: u64, plan: &dyn Fn(u64) -> u64) -> Wait {
        loop {
            if !self.paused {
                self.read(flow);
            }
            let Some(action) = flow.actions.get(self.action) else { break };
            let due_ns = plan(action.time_ns);
            if now_ns < due_ns {
                return Wait::Until(due_ns);
            }
            if self.read < action.after && !self.ended {
                return Wait::Socket;
            }
            if !self.act(flow, &action.what) {
                return Wait::Socket;
            }
            self.action += 1;
        }
        if self.ended && self.finished {
            // Both directions are over: nothing holds the socket any more.
            self.stream = None;
        }
        Wait::Nothing
    }

    /// Whether the action is done.
    fn act(&mut self, flow: &Flow, what: &What) -> bool {
        let Some(stream) = &mut self.stream else { return !flow.tcp || self.error.is_some() || self.finished };
        match what {
            What::Pause => self.paused = true,
            What::Resume => self.paused = false,
            What::Finish => {
                self.finished = true;
                _ = stream.shutdown(std::net::Shutdown::Write);
            }
            What::Reset => {
                reset(stream);
                self.stream = None;
                self.finished = true;
            }
            What::Write(end) | What::Urgent(end) => {
                let is_urgent = matches!(what, What::Urgent(_));
                while self.written < *end {
                    let (from, to) = (position(self.written), position(*end));
                    let Some(bytes) = flow.writes.get(from..to) else { return true };
                    // Of what is sent as urgent, the last byte is (tcp(7)).
                    let wrote =
                        if is_urgent { SockRef::from(&*stream).send_out_of_band(bytes) } else { stream.write(bytes) };
                    match wrote {
                        Ok(count) => {
                            self.written += count as u64;
                            self.written_bytes = self.written;
                        }
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Err(error) if is_early(&error) => return false,
                        Err(error) => {
                            self.error
                                .get_or_insert_with(|| format!("its socket does not take what it writes: {error}"));
                            return true;
                        }
                    }
                }
            }
        }
        true
    }

    /// Reads all that there is, and holds it against the capture.
    fn read(&mut self, flow: &Flow) {
        let Some(stream) = self.stream.as_mut().filter(|_| !self.ended) else { return };
        let mut room = [0; ROOM];
        loop {
            match stream.read(&mut room) {
                Ok(0) => {
                    self.ended = true;
                    return;
                }
                Ok(count) => {
                    self.differs |= other_from(&flow.reads, self.read, &room[..count]).is_some();
                    self.read += count as u64;
                    self.read_bytes = self.read;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_early(&error) => return,
                // A reset is an end as well.
                Err(_) => {
                    self.ended = true;
                    return;
                }
            }
        }
    }

    /// Takes in a datagram.
    pub(super) fn datagram(&mut self, flow: &Flow, bytes: &[u8]) {
        self.differs |= other_from(&flow.reads, self.read_bytes, bytes).is_some();
        self.read += 1;
        self.read_bytes += bytes.len() as u64;
    }

    /// Sends the datagrams that are due.
    pub(super) fn answer(
        &mut self,
        flow: &Flow,
        socket: &UdpSocket,
        to: SocketAddr,
        now_ns: u64,
        plan: &dyn Fn(u64) -> u64,
    ) -> Wait {
        while let Some(action) = flow.actions.get(self.action) {
            let due_ns = plan(action.time_ns);
            if now_ns < due_ns {
                return Wait::Until(due_ns);
            }
            if self.read < action.after {
                return Wait::Socket;
            }
            let start = self.action.checked_sub(1).map_or(0, |before| flow.datagrams[before]);
            let bytes = &flow.writes[start..flow.datagrams[self.action]];
            match socket.send_to(bytes, to) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Wait::Socket,
                Err(error) => {
                    self.error.get_or_insert_with(|| format!("its socket does not send: {error}"));
                }
                Ok(_) => {
                    self.written += 1;
                    self.written_bytes += bytes.len() as u64;
                }
            }
            self.action += 1;
        }
        Wait::Nothing
    }

    /// Whether everything recorded was done.
    pub(super) fn is_done(&self, flow: &Flow) -> bool {
        self.action >= flow.actions.len()
    }

    /// Lets its socket go: with an RST where the capture does not have its end.
    pub(super) fn close(&mut self, flow: &Flow) {
        self.relay = None;
        if let Some(stream) = self.stream.take().filter(|_| !flow.end.is_over()) {
            reset(&stream);
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "positions in memory")]
const fn position(at: u64) -> usize {
    at as usize
}

/// The first byte at which what comes at `at` is not what was recorded there.
fn other_from(recorded: &[u8], at: u64, bytes: &[u8]) -> Option<u64> {
    let rest = recorded.get(position(at)..).unwrap_or_default();
    let same = rest.iter().zip(bytes).take_while(|(recorded, got)| recorded == got).count();
    (same < bytes.len()).then_some(at + same as u64)
}

/// An address that packets of a socket can come from.
pub(super) fn plain(address: SocketAddr) -> SocketAddr {
    // Flow labels and scopes are of no account.
    match address.ip() {
        IpAddr::V4(_) => address,
        IpAddr::V6(ip) => SocketAddr::new(ip.into(), address.port()),
    }
}
