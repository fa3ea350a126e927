//! The way between the live end's socket and the application behind it.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Bytes that are under way in one direction at most: whoever writes more waits for whoever reads.
const ROOM: usize = 64 << 10;

/// Opens a connection to an application, from the calling thread's network namespace. It is not waited for.
pub(super) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    let stream = TcpStream::from(socket);
    _ = stream.set_nodelay(true);
    Ok(stream)
}

/// As [`connect`], for datagrams.
pub(super) fn datagrams(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

/// One direction: what was read and is still to be written.
#[derive(Debug, Default)]
struct Pipe {
    bytes: Vec<u8>,
    gone: usize,
    ended: bool,
    closed: bool,
}

/// Which of the two ends broke off.
#[derive(Debug)]
pub(super) enum Broken {
    Live,
    App(io::Error),
}

impl Pipe {
    /// Moves what can be moved now, and ends what has ended. `seen` is told what was read.
    fn pump(
        &mut self,
        mut from: &TcpStream,
        mut to: &TcpStream,
        seen: &mut dyn FnMut(&[u8]),
    ) -> Result<(), (bool, io::Error)> {
        loop {
            while self.gone < self.bytes.len() {
                match to.write(&self.bytes[self.gone..]) {
                    Ok(count) => self.gone += count,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if is_early(&error) => return Ok(()),
                    Err(error) => return Err((false, error)),
                }
            }
            (self.gone, _) = (0, self.bytes.clear());
            if self.ended {
                if !std::mem::replace(&mut self.closed, true) {
                    // Whoever is gone already needs no end.
                    _ = to.shutdown(Shutdown::Write);
                }
                return Ok(());
            }
            self.bytes.resize(ROOM, 0);
            let read = from.read(&mut self.bytes);
            self.bytes.truncate(*read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => self.ended = true,
                Ok(_) => seen(&self.bytes),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_early(&error) => return Ok(()),
                Err(error) => return Err((true, error)),
            }
        }
    }
}

/// A connection to an application.
#[derive(Debug)]
pub(super) struct Relay {
    app: TcpStream,
    to_app: Pipe,
    to_live: Pipe,
}

impl Relay {
    pub(super) fn new(app: TcpStream) -> Self {
        Self { app, to_app: Pipe::default(), to_live: Pipe::default() }
    }

    /// Moves bytes both ways as far as both ends let it, and tells of them: those that the live end received, and those
    /// that it is given to send.
    pub(super) fn pump(
        &mut self,
        live: &TcpStream,
        received: &mut dyn FnMut(&[u8]),
        answered: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Broken> {
        let whose = |live_reads: bool| {
            move |(reading, error)| if reading == live_reads { Broken::Live } else { Broken::App(error) }
        };
        self.to_app.pump(live, &self.app, received).map_err(whose(true))?;
        self.to_live.pump(&self.app, live, answered).map_err(whose(false))
    }

    /// Whether both directions have ended.
    pub(super) fn is_over(&self) -> bool {
        self.to_app.closed && self.to_live.closed
    }

    /// Breaks off the connection to the application, as the live end's was.
    pub(super) fn reset(&self) {
        reset(&self.app);
    }
}

impl AsFd for Relay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.app.as_fd()
    }
}

/// Makes closing a connection a reset.
pub(super) fn reset(stream: &TcpStream) {
    _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Whether there is nothing to be had now: no room, no data, no connection yet.
pub(super) fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (other, _) = listener.accept().unwrap();
        (one, other)
    }

    /// Pumps until `done`, at most for a while.
    fn pump(relay: &mut Relay, live: &TcpStream, done: &mut dyn FnMut() -> bool) -> Result<[Vec<u8>; 2], Broken> {
        let mut bytes = [Vec::new(), Vec::new()];
        let give_up = std::time::Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(std::time::Instant::now() < give_up);
            let [received, answered] = &mut bytes;
            relay.pump(live, &mut |new| received.extend_from_slice(new), &mut |new| answered.extend_from_slice(new))?;
            std::thread::yield_now();
        }
        Ok(bytes)
    }

    #[test]
    fn bytes_go_both_ways_and_ends_are_handed_on() {
        let ((mut client, live), (app, mut server)) = (pair(), pair());
        for stream in [&live, &app] {
            stream.set_nonblocking(true).unwrap();
        }
        let mut relay = Relay::new(app);
        let question = vec![7; 1 << 20];
        let asked = question.clone();
        let far = std::thread::spawn(move || {
            client.write_all(&asked).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            answer
        });
        let application = std::thread::spawn(move || {
            let mut got = Vec::new();
            server.read_to_end(&mut got).unwrap();
            server.write_all(b"answer").unwrap();
            got
        });
        let [received, answered] = pump(&mut relay, &live, &mut || far.is_finished()).unwrap();
        assert!(relay.is_over());
        assert_eq!((received.len(), application.join().unwrap().len()), (question.len(), question.len()));
        assert_eq!((&answered[..], &far.join().unwrap()[..]), (&b"answer"[..], &b"answer"[..]));
    }

    #[test]
    fn an_application_that_is_not_there_is_told_as_such() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let (_client, live) = pair();
        live.set_nonblocking(true).unwrap();
        match connect(address) {
            // Loopback refuses at once.
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
            Ok(app) => {
                let broken = pump(&mut Relay::new(app), &live, &mut || false).unwrap_err();
                assert!(matches!(broken, Broken::App(_)), "{broken:?}");
            }
        }
    }
}
