//! Sends frames in one global order without losing one.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::WireError;
use super::place::{Link, Place, Port};
use super::replayer::{Arena, Metering, Replayer, Room, Sender};
use crate::sys::{self, SEND_BATCH, Urgent};

/// Most frames sent and not yet seen by XDP. The ring between the two ends of a veth holds 256 (`VETH_RING_SIZE`,
/// drivers/net/veth.c) and drops what finds it full; half of it leaves room for what the far end's stack sends itself.
const MOST_OUTSTANDING: u64 = 128;
/// A sleeper wakes up late, by timers and by whoever has the CPU, and on a CPU that has to wake up as well; so much of a
/// wait is spent looking at the clock.
const SPIN_NS: u64 = 500_000;
/// Most that a frame is sent ahead of its time, so that it arrives when it is due: a call that took longer was held up.
const MOST_LEAD_NS: u64 = 150_000;
/// A link that was idle for less is as fast as one that was not.
const IDLE_NS: u64 = 125_000;
/// Who never sleeps for so long is no longer given precedence: the kernel takes 50 ms of each second from a real-time
/// thread that does not let go (`sched_rt_runtime_us`), all at once.
const AWAKE_NS: u64 = 500_000_000;
/// Moment that a thread with precedence leaves to others while it waits for what they do.
const PAUSE_NS: u64 = 20_000;
/// Longest sleep before the stop flag is looked at again.
const NAP_NS: u64 = 20_000_000;

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

/// Live frames, for batches.
pub(super) struct Live {
    sender: Sender,
    arena: Arena,
    largest: usize,
    // The maps of both.
    _replayer: Replayer,
}

impl Live {
    /// `largest` is what a live frame holds.
    pub(super) fn new(place: &Place, largest: usize) -> Result<Self, WireError> {
        // 64 frames of less than a page fill a quarter of a chunk.
        let mut replayer = Replayer::load(Room { slots: SEND_BATCH as u32, chunks: 1 }, Metering::default())?;
        let sender = replayer.sender(place, largest)?;
        Ok(Self { sender, arena: replayer.arena()?, largest, _replayer: replayer })
    }

    /// Sends the frames, all of which fit.
    fn send(&self, side: usize, frames: &[Outgoing<'_>]) -> Result<(), WireError> {
        let mut part = self.arena.whole();
        for frame in frames {
            self.arena.put(&mut part, side, frame.data);
        }
        self.sender.select(part.filled());
        self.sender.send(u32::try_from(frames.len()).unwrap_or(u32::MAX))
    }
}

/// How long frames take to the far end of the link, ns, as the calls that send them tell: the far end's XDP runs within
/// them. The longer the link was idle, the less of what they need is still in the caches, and they take several times as
/// long; a frame that is sent as much earlier arrives when it is due.
#[derive(Clone, Copy, Debug, Default)]
struct Lead {
    /// By how long nothing was sent: less than [`IDLE_NS`], less than twice that, and so on.
    after: [Option<u64>; 9],
}

impl Lead {
    fn class(&self, idle_ns: u64) -> usize {
        let doublings = (idle_ns / IDLE_NS).checked_ilog2().map_or(0, |log| log as usize + 1);
        doublings.min(self.after.len() - 1)
    }

    /// What is known of as long a rest, or of the longest shorter one.
    fn ns(&self, idle_ns: u64) -> u64 {
        self.after[..=self.class(idle_ns)].iter().rev().find_map(|known| *known).unwrap_or_default()
    }

    /// Takes in how long a call took. One that was held up counts less than one that was not.
    fn learn(&mut self, idle_ns: u64, took_ns: u64) {
        let took_ns = took_ns.min(MOST_LEAD_NS);
        let known = &mut self.after[self.class(idle_ns)];
        *known = Some(match *known {
            Some(known) if took_ns > known => known + (took_ns - known) / 8,
            Some(known) => known - (known - took_ns) / 4,
            None => took_ns,
        });
    }
}

/// A packet socket at each far end, and live frames if they are wanted.
pub(super) struct Injector<'a> {
    sockets: [Option<Socket>; 2],
    live: Option<Live>,
    /// Precedence for a paced replay, and since when the thread has not slept.
    urgent: Option<Urgent>,
    awake_since_ns: u64,
    lead: Lead,
    /// When the last frame was sent.
    sent_ns: u64,
    /// Frames that live frames do not hold.
    pub(super) by_socket: u64,
    last_side: usize,
    deadline_ns: u64,
    stop: &'a AtomicBool,
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
        Ok(Self {
            sockets,
            live: None,
            urgent: None,
            awake_since_ns: 0,
            lead: Lead::default(),
            sent_ns: 0,
            by_socket: 0,
            last_side: 0,
            deadline_ns,
            stop,
        })
    }

    /// Sends by live frames from now on what fits into them.
    pub(super) fn use_live(&mut self, live: Live) {
        self.live = Some(live);
    }

    /// Lets others run for a moment. Yielding makes no way for ordinary threads, where this one has precedence.
    pub(super) fn pause(&self) {
        match self.urgent {
            Some(_) => sys::sleep_until(sys::monotonic_ns() + PAUSE_NS),
            None => std::thread::yield_now(),
        }
    }

    /// Gives the calling thread, which must be the one that sends, precedence over others.
    pub(super) fn be_punctual(&mut self) {
        self.urgent = Some(Urgent::new());
        self.awake_since_ns = sys::monotonic_ns();
        self.sent_ns = self.awake_since_ns;
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

    /// Sends frames on one side, at most [`SEND_BATCH`] of them, once there is room for them and everything sent on the
    /// other side has been seen.
    pub(super) fn send(&mut self, receiver: &impl Receiver, side: usize, frames: &[Outgoing<'_>]) -> Sent {
        if side != self.last_side {
            let went = self.wait_seen(receiver, self.last_side, 0, Some(self.stop));
            if went != Went::Well {
                return Sent { frames: 0, went: Ok(went) };
            }
            self.last_side = side;
        }
        let went = self.wait_seen(receiver, side, MOST_OUTSTANDING - SEND_BATCH as u64, Some(self.stop));
        if went != Went::Well {
            return Sent { frames: 0, went: Ok(went) };
        }
        let frames = &frames[..frames.len().min(SEND_BATCH)];
        if self.urgent.is_none() {
            return self.send_now(receiver, side, frames);
        }
        let before = sys::monotonic_ns();
        let sent = self.send_now(receiver, side, frames);
        let after = sys::monotonic_ns();
        if frames.len() == 1 {
            self.lead.learn(before - self.sent_ns, after - before);
        }
        self.sent_ns = after;
        sent
    }

    fn send_now(&mut self, receiver: &impl Receiver, side: usize, frames: &[Outgoing<'_>]) -> Sent {
        let (stop, deadline_ns) = (self.stop, self.deadline_ns);
        let Some(socket) = &mut self.sockets[side] else { return Sent { frames: 0, went: Ok(Went::Well) } };
        for (number, frame) in (socket.sent..).zip(frames) {
            receiver.announce(side, number, frame);
        }
        if let Some(live) = &self.live {
            // What the interface does not take is refused by the socket.
            let fits = |frame: &Outgoing<'_>| {
                (14..=live.largest.min(socket.port.largest_frame(frame.data))).contains(&frame.data.len())
            };
            if frames.iter().all(fits) {
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

    /// Waits until a frame that is sent now arrives when the monotonic clock reads `due_ns`.
    pub(super) fn wait_until(&mut self, due_ns: u64) -> Went {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Went::Stopped;
            }
            let now = sys::monotonic_ns();
            if now + self.lead.ns(due_ns.saturating_sub(self.sent_ns)) >= due_ns {
                return Went::Well;
            }
            match (due_ns - now).checked_sub(SPIN_NS) {
                Some(long) if long > 0 => {
                    sys::sleep_until(now + long.min(NAP_NS));
                    self.awake_since_ns = sys::monotonic_ns();
                }
                _ => {
                    if now - self.awake_since_ns > AWAKE_NS {
                        self.urgent = None;
                    }
                    std::hint::spin_loop();
                }
            }
        }
    }
}
