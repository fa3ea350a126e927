//! Sends frames in one global order without losing one.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::WireError;
use super::live_frames::LiveFrames;
use super::place::{Link, Place, Port};
use super::punctual::Punctual;
use crate::sys::{self, SEND_BATCH};

/// Most frames sent and not yet seen by XDP. The ring between the two ends of a veth holds 256 (`VETH_RING_SIZE`,
/// drivers/net/veth.c) and drops what finds it full; half of it leaves room for what the far end's stack sends itself.
const MOST_OUTSTANDING: u64 = 128;
/// Moment that a thread with precedence leaves to others while it waits for what they do.
const PAUSE_NS: u64 = 20_000;
/// Most frames that the kernel sends by one call, each when it is due. It lets the receiver run after each; were that put
/// off, they would have room together with those before them.
pub(super) const TRAIN: usize = 128;

/// How an attempt to wait or send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    /// As meant.
    Well,
    /// The stop flag was set.
    Stopped,
    /// The device under test has seen nothing for longer than the deadline: frames were lost on the way to it.
    Stalled,
}

/// What was sent of a batch.
#[derive(Debug)]
pub(super) struct Sent {
    /// So many of its frames, from the first on.
    pub(super) frames: usize,
    /// Why not all of them.
    pub(super) went: Result<Went, WireError>,
}

/// What sees the frames at the device under test.
pub(super) trait Receiver {
    /// Tells it of the `number`-th frame of a side, from 0, before that is sent.
    fn announce(&self, side: usize, number: u64, frame: &Outgoing<'_>);
    /// Takes back what was announced from the `number`-th frame on.
    fn withdraw(&self, side: usize, number: u64);
    /// How many frames it has seen on a side.
    fn seen(&self, side: usize) -> u64;
}

/// A frame as it is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) number: u64,
    pub(super) time_ns: u64,
    pub(super) slot: u32,
    pub(super) data: &'a [u8],
}

#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    port: Port,
    sent: u64,
}

/// A packet socket at each far end, and live frames if they are wanted.
pub(super) struct Injector<'a> {
    sockets: [Option<Socket>; 2],
    pub(super) live: Option<LiveFrames>,
    pub(super) punctual: Punctual,
    /// Frames that live frames do not hold.
    pub(super) by_socket: u64,
    last_side: usize,
    deadline_ns: u64,
    pub(super) stop: &'a AtomicBool,
}

impl<'a> Injector<'a> {
    pub(super) fn open(place: &Place, deadline: Duration, stop: &'a AtomicBool) -> Result<Self, WireError> {
        let open = |link: &Link| -> Result<Socket, WireError> {
            let port = link.far.clone();
            let fd = port.netns.run(|| sys::packet_sender(port.ifindex)).and_then(|fd| fd);
            let fd = fd.map_err(|source| WireError::System {
                operation: format!("open a packet socket on interface {}", port.name),
                source,
            })?;
            Ok(Socket { fd, port, sent: 0 })
        };
        let sockets = [Some(open(&place.client)?), place.server.as_ref().map(open).transpose()?];
        let deadline_ns = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        Ok(Self { sockets, live: None, punctual: Punctual::default(), by_socket: 0, last_side: 0, deadline_ns, stop })
    }

    /// Sends by live frames from now on what fits into them.
    pub(super) fn use_live(&mut self, live: LiveFrames) {
        self.live = Some(live);
    }

    /// Lets others run for a moment. Yielding makes no way for ordinary threads, where this one has precedence.
    pub(super) fn pause(&self) {
        if self.punctual.is_urgent() {
            sys::sleep_until(sys::monotonic_ns() + PAUSE_NS);
        } else {
            std::thread::yield_now();
        }
    }

    /// Gives the calling thread, which must be the one that sends, precedence over others.
    pub(super) fn be_punctual(&mut self) {
        self.punctual = Punctual::new();
    }

    /// Counts from `number` on a side, where others have sent before.
    pub(super) fn start_at(&mut self, side: usize, number: u64) {
        if let Some(socket) = &mut self.sockets[side] {
            socket.sent = number;
        }
    }

    /// Frames sent on a side.
    pub(super) fn sent(&self, side: usize) -> u64 {
        self.sockets[side].as_ref().map_or(0, |socket| socket.sent)
    }

    /// The interface that a side's frames leave by.
    pub(super) fn port(&self, side: usize) -> Option<&Port> {
        Some(&self.sockets[side].as_ref()?.port)
    }

    /// Tells the receiver of frames that follow those sent.
    pub(super) fn announce(&self, receiver: &impl Receiver, side: usize, frames: &[Outgoing<'_>]) {
        for (number, frame) in (self.sent(side)..).zip(frames) {
            receiver.announce(side, number, frame);
        }
    }

    /// Counts frames as sent.
    pub(super) fn count(&mut self, side: usize, frames: usize) {
        if let Some(socket) = &mut self.sockets[side] {
            socket.sent += frames as u64;
        }
    }

    /// Sends frames on one side, at most [`SEND_BATCH`] of them, once there is room for them and everything sent on the
    /// other side has been seen.
    pub(super) fn send(&mut self, receiver: &impl Receiver, side: usize, frames: &[Outgoing<'_>]) -> Sent {
        let went = self.make_room(receiver, side);
        if went != Went::Well {
            return Sent { frames: 0, went: Ok(went) };
        }
        let frames = &frames[..frames.len().min(SEND_BATCH)];
        self.send_now(receiver, side, frames)
    }

    /// Waits until there is room for [`SEND_BATCH`] frames and everything sent on the other side has been seen.
    pub(super) fn make_room(&mut self, receiver: &impl Receiver, side: usize) -> Went {
        if side != self.last_side {
            let went = self.wait_seen(receiver, self.last_side, 0, Some(self.stop));
            if went != Went::Well {
                return went;
            }
            self.last_side = side;
        }
        self.wait_seen(receiver, side, MOST_OUTSTANDING - SEND_BATCH as u64, Some(self.stop))
    }

    /// Sends frames, at most [`SEND_BATCH`], for which there is room.
    pub(super) fn send_now(&mut self, receiver: &impl Receiver, side: usize, frames: &[Outgoing<'_>]) -> Sent {
        let (stop, deadline_ns) = (self.stop, self.deadline_ns);
        self.announce(receiver, side, frames);
        let Some(socket) = &mut self.sockets[side] else { return Sent { frames: 0, went: Ok(Went::Well) } };
        if let Some(live) = &self.live {
            if !live.is_timed && frames.iter().all(|frame| live.fits(&socket.port, frame)) {
                let went = live.send(side, frames);
                socket.sent += frames.len() as u64;
                return Sent { frames: frames.len(), went: went.map(|()| Went::Well) };
            }
            self.by_socket += frames.len() as u64;
        }
        let mut data: [&[u8]; SEND_BATCH] = [&[]; SEND_BATCH];
        for (to, frame) in data.iter_mut().zip(frames) {
            *to = frame.data;
        }
        let (mut done, mut give_up) = (0, None);
        let went = loop {
            if done == frames.len() {
                return Sent { frames: done, went: Ok(Went::Well) };
            }
            match sys::send_frames(socket.fd.as_fd(), &data[done..frames.len()]) {
                Ok(sent) => {
                    done += sent;
                    socket.sent += sent as u64;
                    give_up = None;
                }
                // The driver or the socket has no room just now.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN)) => {
                    let now = sys::monotonic_ns();
                    if stop.load(Ordering::Relaxed) {
                        break Ok(Went::Stopped);
                    }
                    if now > *give_up.get_or_insert(now.saturating_add(deadline_ns)) {
                        break Ok(Went::Stalled);
                    }
                    std::thread::yield_now();
                }
                Err(source) => {
                    break Err(WireError::Refused {
                        packet: frames[done].number,
                        len: frames[done].data.len(),
                        largest: socket.port.largest_frame(frames[done].data),
                        interface: socket.port.name.clone(),
                        source,
                    });
                }
            }
        };
        receiver.withdraw(side, socket.sent);
        Sent { frames: done, went }
    }

    /// Waits until XDP has seen all frames of a side but `but`, or `stop` is set. Frames that are handled in between show as progress and
    /// renew the deadline.
    ///
    /// The counter is read while softirqs cannot be half-way through on this CPU, where veth's NAPI instances run
    /// because this thread sends from it: what XDP has counted has also been through tc and the stack.
    pub(super) fn wait_seen(&self, receiver: &impl Receiver, side: usize, but: u64, stop: Option<&AtomicBool>) -> Went {
        let sent = self.sent(side);
        let mut last = receiver.seen(side);
        if sent.saturating_sub(last) <= but {
            return Went::Well;
        }
        let mut give_up = sys::monotonic_ns().saturating_add(self.deadline_ns);
        loop {
            self.pause();
            let seen = receiver.seen(side);
            if sent.saturating_sub(seen) <= but {
                return Went::Well;
            }
            if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return Went::Stopped;
            }
            let now = sys::monotonic_ns();
            if seen != last {
                (last, give_up) = (seen, now.saturating_add(self.deadline_ns));
            } else if now > give_up {
                return Went::Stalled;
            }
        }
    }
}
