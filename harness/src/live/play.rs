//! One loop over everything: the played end's packets, the live end's sockets, and the times at which either acts.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::forward::Targets;
use super::packet::Packet;
use super::peer::{Patience, Peer};
use super::responder::{self, Responder, Wait};
use super::script::Script;
use super::{Dut, LiveError, LiveOptions, counters, outcome};
use crate::observation::live::Live;
use crate::sys::{self, Epoll};
use crate::topology::{Host, Network, Role};

mod application;
mod open;
mod send;

/// Room for frames of the live end that wait to be read: over 10,000 of the largest.
const RECEIVE_ROOM: i32 = 64 << 20;
/// Longest wait before the stop flag is looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A connection that finds its ends in use tries again after so long.
const AGAIN_NS: u64 = 2_000_000;
/// Files that are open beside the sockets.
const OTHER_FILES: u64 = 512;

/// Tokens of what is waited for: conversations by their number, then these.
const WIRE: u64 = u64::MAX;
const LISTENER: u64 = 1 << 40;
const DATAGRAMS: u64 = 1 << 41;
/// And the application's side of each.
const RELAY: u64 = 1 << 42;

/// What is set at the device under test, so that many connections at once are no attack to it.
const SETTINGS: [(&str, &str); 8] = [
    ("net.core.somaxconn", "65535"),
    ("net.ipv4.tcp_max_syn_backlog", "65535"),
    ("net.ipv4.tcp_syncookies", "0"),
    ("net.ipv4.tcp_invalid_ratelimit", "0"),
    ("net.ipv4.tcp_challenge_ack_limit", "2147483647"),
    ("net.ipv4.icmp_ratelimit", "0"),
    ("net.ipv6.icmp.ratelimit", "0"),
    // Asked for, if the other end asks first; and to ask where the recorded end did.
    ("net.ipv4.tcp_ecn", "2"),
];

/// Plays `script` against the device under test of `network`, which has the addresses of the live end.
///
/// `on_progress` is told how many conversations are over, now and then. `stop` ends it early; what was not over then has
/// failed.
///
/// # Errors
/// See [`LiveError`], and the errors of `on_progress`.
pub fn play<E: From<LiveError>>(
    network: &Network,
    script: &Script,
    options: &LiveOptions,
    stop: &AtomicBool,
    on_progress: &mut dyn FnMut(u64) -> Result<(), E>,
) -> Result<Live, E> {
    let mut run = Run::new(network, script, options)?;
    let dut = dut(network)?;
    let before = counters::read(dut);
    run.open()?;
    let mut told = 0;
    while run.over < script.flows.len() && !stop.load(Ordering::Relaxed) {
        run.turn()?;
        if run.over != told {
            told = run.over;
            on_progress(told as u64)?;
        }
    }
    for index in 0..script.flows.len() {
        run.end(index, Some("it was stopped"));
    }
    run.drain()?;
    let counters = counters::risen(&before, &counters::read(dut));
    Ok(outcome::tell_all(script, &run.states, options.dut, counters))
}

fn dut(network: &Network) -> Result<&Host, LiveError> {
    network.with_role(Role::Dut).ok_or_else(|| lacks(network, "no host is the device under test"))
}

fn lacks(network: &Network, problem: impl Into<String>) -> LiveError {
    LiveError::Topology { topology: network.topology().name.clone(), problem: problem.into() }
}

/// Where a conversation stands.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) peer: Peer,
    pub(super) responder: Responder,
    /// When something last happened.
    last_ns: u64,
    over: bool,
    /// Bare acknowledgements that the capture does not have.
    pub(super) tails: u64,
    pub(super) failure: Option<String>,
    connecting: bool,
    /// The application that answers, as it was written.
    pub(super) forwarded_to: Option<String>,
    /// To it, where datagrams are.
    relay: Option<UdpSocket>,
}

struct Run<'a> {
    network: &'a Network,
    script: &'a Script,
    options: &'a LiveOptions,
    patience: Patience,
    targets: Targets<'a>,
    start_ns: u64,
    states: Vec<State>,
    /// Conversations by their ends: protocol, live end, played end. The first is the one that is going on.
    known: HashMap<(bool, SocketAddr, SocketAddr), VecDeque<usize>>,
    times: BinaryHeap<Reverse<(u64, usize)>>,
    epoll: Epoll,
    wire: OwnedFd,
    sender: OwnedFd,
    /// Hardware addresses: of the device under test, of the played end.
    macs: [[u8; 6]; 2],
    listeners: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
    /// By live end.
    datagram_of: HashMap<SocketAddr, usize>,
    outgoing: Vec<Vec<u8>>,
    over: usize,
    ready: Vec<u64>,
}

impl<'a> Run<'a> {
    /// Whether the one before it between the same ends is over.
    fn is_first(&self, index: usize) -> bool {
        self.known.get(&self.key(index)).and_then(VecDeque::front) == Some(&index)
    }

    fn key(&self, index: usize) -> (bool, SocketAddr, SocketAddr) {
        let flow = &self.script.flows[index];
        (flow.tcp, flow.live(self.options.dut), flow.played(self.options.dut))
    }

    fn begin(&mut self, index: usize) {
        let due_ns = self.plan(self.script.flows[index].start_ns);
        self.states[index].last_ns = due_ns.max(sys::monotonic_ns());
        self.times.push(Reverse((due_ns, index)));
    }

    /// When something recorded at `time_ns` is to happen.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "52 bits of ns are 52 days"
    )]
    fn plan(&self, time_ns: u64) -> u64 {
        let recorded = time_ns.saturating_sub(self.script.first_ns);
        self.start_ns + self.options.factor().map_or(0, |speed| (recorded as f64 / speed) as u64)
    }

    /// Waits for the next thing to happen, and lets everything that it concerns go on.
    fn turn(&mut self) -> Result<(), LiveError> {
        let now = sys::monotonic_ns();
        let next = self.times.peek().map_or(u64::MAX, |Reverse((due, _))| *due);
        let wait = Duration::from_nanos(next.saturating_sub(now)).min(LOOK_EVERY);
        let mut ready = std::mem::take(&mut self.ready);
        self.epoll.wait(wait, &mut ready).map_err(LiveError::system("wait for sockets"))?;
        for token in &ready {
            match *token {
                WIRE => self.receive()?,
                token if token >= RELAY => self.serve_application((token - RELAY) as usize)?,
                token if token >= DATAGRAMS => self.read_datagrams((token - DATAGRAMS) as usize)?,
                token if token >= LISTENER => self.accept((token - LISTENER) as usize)?,
                token => self.serve(token as usize)?,
            }
        }
        self.ready = ready;
        let now = sys::monotonic_ns();
        while let Some(Reverse((due, index))) = self.times.peek().copied().filter(|Reverse((due, _))| *due <= now) {
            let _ = due;
            self.times.pop();
            self.serve(index)?;
        }
        self.flush()
    }

    /// Reads what the live end sent.
    fn receive(&mut self) -> Result<(), LiveError> {
        let mut room = vec![0; 65_550];
        loop {
            let frame = sys::receive_frame(self.wire.as_fd(), &mut room);
            let Some(frame) = frame.map_err(LiveError::system("read what the live end sends"))? else { return Ok(()) };
            let Ok(packet) = Packet::read(frame) else { continue };
            let key = (packet.tcp, packet.from, packet.to);
            let Some(index) = self.known.get(&key).and_then(VecDeque::front).copied() else { continue };
            let live = self.live_side();
            let now = sys::monotonic_ns();
            self.touch(index, now);
            let (flow, state) = (&self.script.flows[index], &mut self.states[index]);
            match (packet.tcp, packet.refuses) {
                (true, _) => state.peer.receive(&packet, flow.played_isn, live, now),
                (false, false) => state.peer.received += 1,
                (false, true) => state.peer.refused += 1,
            }
            self.serve(index)?;
        }
    }

    /// Something has happened in a conversation. Where the played end is done, what an application still says is no reason
    /// to listen forever.
    fn touch(&mut self, index: usize, now: u64) {
        let state = &mut self.states[index];
        if state.forwarded_to.is_none() || !state.peer.is_done(&self.script.flows[index]) {
            state.last_ns = state.last_ns.max(now);
        }
    }

    fn live_side(&self) -> usize {
        usize::from(self.options.dut == Dut::Server)
    }

    fn accept(&mut self, listener: usize) -> Result<(), LiveError> {
        let live = self.listeners[listener].local_addr().map_err(LiveError::system("accept connections"))?;
        while let Ok((stream, from)) = self.listeners[listener].accept() {
            let key = (true, responder::plain(live), responder::plain(from));
            let Some(index) = self.known.get(&key).and_then(VecDeque::front).copied() else { continue };
            stream.set_nonblocking(true).map_err(LiveError::system("accept a connection"))?;
            self.adopt(index, stream)?;
            self.serve(index)?;
        }
        Ok(())
    }

    fn adopt(&mut self, index: usize, stream: std::net::TcpStream) -> Result<(), LiveError> {
        self.epoll.add(stream.as_fd(), index as u64).map_err(LiveError::system("wait for a connection"))?;
        self.states[index].responder.take(stream);
        self.reach_application(index)?;
        Ok(())
    }

    fn read_datagrams(&mut self, socket: usize) -> Result<(), LiveError> {
        let mut room = vec![0; 65_536];
        let Ok(live) = self.datagrams[socket].local_addr() else { return Ok(()) };
        while let Ok((len, from)) = self.datagrams[socket].recv_from(&mut room) {
            let key = (false, responder::plain(live), responder::plain(from));
            let Some(index) = self.known.get(&key).and_then(VecDeque::front).copied() else { continue };
            let state = &mut self.states[index];
            state.responder.datagram(&self.script.flows[index], &room[..len]);
            state.last_ns = sys::monotonic_ns();
            self.times.push(Reverse((0, index)));
            self.forward_datagram(index, &room[..len])?;
        }
        Ok(())
    }

    /// Lets both ends of a conversation do what they can now, and looks whether it is over.
    fn serve(&mut self, index: usize) -> Result<(), LiveError> {
        if self.states[index].over || !self.is_first(index) {
            return Ok(());
        }
        let now = sys::monotonic_ns();
        self.connect(index, now)?;
        self.respond(index, now);
        self.send(index, now);
        // What the played end sent may be what the responder waits for only once it has come: the socket tells.
        let patience = self.patience.whole_ns;
        if self.is_complete(index) {
            self.end(index, None);
        } else if now >= self.states[index].last_ns + patience * 2 {
            self.end(index, Some("nothing happened any more"));
        } else {
            // A reminder: dropped when it is served early.
            self.remind(index, self.states[index].last_ns + patience * 2);
        }
        Ok(())
    }

    fn remind(&mut self, index: usize, at_ns: u64) {
        self.times.push(Reverse((at_ns, index)));
    }

    /// Opens the live client's connection when its time has come.
    fn connect(&mut self, index: usize, now: u64) -> Result<(), LiveError> {
        let flow = &self.script.flows[index];
        if self.options.dut == Dut::Server || !flow.tcp || self.states[index].connecting {
            return Ok(());
        }
        let due = self.plan(flow.start_ns);
        if now < due {
            self.remind(index, due);
            return Ok(());
        }
        self.states[index].connecting = true;
        let (address, room, server, fast_open) = (flow.client, flow.receive_buffer, flow.server, flow.fast_open);
        let opened = dut(self.network)?.run(move || {
            let socket = responder::client(address, room, fast_open)?;
            match socket.connect(&server.into()) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
                _ => Ok(socket),
            }
        });
        match opened {
            Ok(socket) => {
                self.states[index].last_ns = now;
                self.adopt(index, socket.into())
            }
            // The connection before it between the same ends is not quite gone.
            Err(error) if is_taken(&error) && now < self.states[index].last_ns + self.patience.whole_ns => {
                self.states[index].connecting = false;
                self.remind(index, now + AGAIN_NS);
                Ok(())
            }
            Err(error) => {
                self.states[index].failure = Some(format!("its socket cannot connect from {address}: {error}"));
                self.end(index, None);
                Ok(())
            }
        }
    }

    fn respond(&mut self, index: usize, now: u64) {
        let flow = &self.script.flows[index];
        let mut responder = std::mem::take(&mut self.states[index].responder);
        let plan = |time_ns| self.plan(time_ns);
        let before = (responder.read, responder.written);
        let is_forwarded = self.states[index].forwarded_to.is_some();
        let wait = if is_forwarded {
            // Datagrams go through as they come.
            responder.relay(flow);
            Wait::Nothing
        } else if flow.tcp {
            responder.advance(flow, now, &plan)
        } else {
            let live = flow.live(self.options.dut);
            match self.datagram_of.get(&live) {
                Some(socket) => {
                    responder.answer(flow, &self.datagrams[*socket], flow.played(self.options.dut), now, &plan)
                }
                None => Wait::Nothing,
            }
        };
        let moved = before != (responder.read, responder.written);
        self.states[index].responder = responder;
        if moved {
            self.touch(index, now);
        }
        let state = &mut self.states[index];
        if let Wait::Until(due) = wait {
            state.last_ns = state.last_ns.max(due.min(now + 1));
            self.keep_alive(index, due);
        }
    }

    /// A conversation that waits for its own time is not dead.
    fn keep_alive(&mut self, index: usize, due: u64) {
        let state = &mut self.states[index];
        state.last_ns = state.last_ns.max(due);
        self.times.push(Reverse((due, index)));
    }

    /// Waits until nothing is under way in impaired queues any more: the last packets are seen by whoever watches the links.
    fn drain(&self) -> Result<(), LiveError> {
        let deadline = sys::monotonic_ns() + 2 * self.patience.round_trip_ns;
        for link in &self.network.topology().links {
            for end in link.ends.iter().filter(|end| end.impair.is_some()) {
                let host = self.network.host(&end.host)?;
                while host.queue_counters(&end.interface)?.waiting > 0 && sys::monotonic_ns() < deadline {
                    std::thread::yield_now();
                }
            }
        }
        Ok(())
    }

    fn is_complete(&self, index: usize) -> bool {
        let (flow, state) = (&self.script.flows[index], &self.states[index]);
        if state.forwarded_to.is_some() && state.responder.error.is_some() {
            return true;
        }
        if flow.tcp && state.forwarded_to.is_some() {
            let is_as_recorded = state.peer.end.text() == flow.end.text();
            return state.peer.is_broken_off()
                || (state.peer.is_done(flow) && is_as_recorded && state.responder.read >= flow.reads.len() as u64);
        }
        if flow.is_closed {
            return state.peer.packets == flow.steps.len() as u64 && state.peer.refused > 0;
        }
        if !flow.tcp {
            return state.peer.packets == flow.steps.len() as u64
                && (state.responder.is_done(flow) || state.forwarded_to.is_some())
                && state.responder.read == flow.asked
                && state.peer.received >= flow.datagrams.len() as u64;
        }
        let no_socket_expected = self.options.dut == Dut::Server && !flow.end.was_answered();
        let responded = state.responder.is_done(flow) || no_socket_expected;
        let has_ended = if flow.is_ignored(self.options.dut) {
            // The kernel is not silent, unless it drops what comes.
            state.peer.received > 0
        } else {
            state.responder.read >= flow.reads.len() as u64 && state.peer.end.text() == flow.end.text()
        };
        state.peer.is_done(flow) && responded && has_ended
    }

    /// Books a conversation, and lets the next one between its ends begin.
    fn end(&mut self, index: usize, failure: Option<&str>) {
        if self.states[index].over {
            return;
        }
        let state = &mut self.states[index];
        state.over = true;
        if let Some(failure) = failure {
            state.failure.get_or_insert_with(|| failure.to_owned());
        }
        self.over += 1;
        let key = self.key(index);
        let next = self.known.get_mut(&key).and_then(|flows| {
            flows.pop_front();
            flows.front().copied()
        });
        if self.states[index].forwarded_to.is_some() {
            // Nobody is left to talk to: an application need not wait for the end of all.
            self.states[index].responder.close(&self.script.flows[index]);
            self.states[index].relay = None;
        }
        if let Some(next) = next {
            // Its ports are needed again. Other sockets stay until the counters are read, of which closing is no part.
            self.states[index].responder.close(&self.script.flows[index]);
            self.begin(next);
        }
    }
}

/// Whether an address is in use.
fn is_taken(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE))
}
