//! A link with nothing but a counter at its far end: how fast, and how evenly, frames can be sent at all. For
//! benchmarks, which let other senders into the same link.

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use bpflab_programs::replayer::{FAR, Moment};

use super::attach::{Named, Stack, XdpMode, attach_xdp};
use super::engine::{Engine, largest_live_frame};
use super::flood::{End, Pipe, Traffic};
use super::inject::{Injector, Outgoing, Receiver, TRAIN, Went};
use super::live_frames::LiveFrames;
use super::pace::Schedule;
use super::place::{Place, disable_gro};
use super::punctual::begun_ns;
use super::replayer::{Metering, Meters, Replayer, Room, Sender};
use super::source::{Size, Source};
use super::{Repeat, Speed, WireError};
use crate::capture::Frame;
use crate::suite::Programs;
use crate::sys::{self, Pinned, SEND_BATCH};
use crate::topology::Network;

/// What the counter of a [`BareLink`] notes beside the number of frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct BareOptions {
    /// Room for frames that [`BareLink::flood`] sends.
    pub room: Size,
    /// Arrival times of the first frames, as many as this.
    pub times: u32,
    /// Byte of each frame at which its number stands (32 bits, big endian; not byte 0), and how many numbers there are:
    /// from 0 on, and from 0 again after the last.
    pub sequence: Option<(u32, u64)>,
}

/// The link between the client and the device under test, where an XDP program counts and swallows what arrives.
pub struct BareLink {
    // Detached before the maps go.
    _attached: Stack,
    sender: Option<Sender>,
    place: Place,
    meters: Meters,
    replayer: Replayer,
}

impl Receiver for BareLink {
    fn announce(&self, _side: usize, _number: u64, _frame: &Outgoing<'_>) {}

    fn withdraw(&self, _side: usize, _number: u64) {}

    fn seen(&self, _side: usize) -> u64 {
        self.arrived()
    }
}

fn system(operation: &str) -> impl FnOnce(std::io::Error) -> WireError {
    let operation = operation.to_owned();
    move |source| WireError::System { operation, source }
}

impl BareLink {
    /// Attaches the counter to the device under test's interface towards the client.
    ///
    /// # Errors
    /// [`WireError::Topology`], [`WireError::Object`], [`WireError::Network`].
    pub fn new(network: &Network, options: BareOptions) -> Result<Self, WireError> {
        let place = Place::of(network)?;
        let BareOptions { room, times, sequence } = options;
        let room = Room::of(room.frames, room.bytes, u64::MAX / 2);
        let mut replayer = Replayer::load(room, Metering { times, sequence })?;
        let mut attached = Stack::default();
        let sink = "sink_client";
        let loaded = Programs::load(&mut replayer.object, sink, None)?;
        let named = Named { object: replayer.object.name(), program: sink, fd: loaded.fd.as_fd() };
        attached.push(attach_xdp(named, &place.client.dut, XdpMode::Driver)?);
        disable_gro(network, &place)?;
        let meters = replayer.meters()?;
        Ok(Self { _attached: attached, sender: None, place, meters, replayer })
    }

    /// Frames that have arrived, whoever sent them.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.meters.frames(FAR)
    }

    /// Frames that arrived with another number than the one after that of the frame before.
    #[must_use]
    pub fn disordered(&self) -> u64 {
        self.meters.get(FAR).disordered
    }

    /// When the first `count` frames arrived, ns of the monotonic clock.
    ///
    /// # Errors
    /// The map of times could not be read.
    pub fn times(&self, count: usize) -> Result<Vec<u64>, WireError> {
        Ok(self.replayer.times(count)?)
    }

    /// Sends `frames` from the client by packet sockets, as fast as they can be sent without losing one, and returns how
    /// long it took until the last had arrived. Frames from others are not expected meanwhile.
    ///
    /// # Errors
    /// [`WireError::Refused`]; [`WireError::System`] if frames are lost.
    pub fn send(&self, frames: &[Vec<u8>]) -> Result<Duration, WireError> {
        let stop = AtomicBool::new(false);
        let mut injector = Injector::open(&self.place, Duration::from_secs(2), &stop)?;
        let _pinned = Pinned::here().map_err(system("keep the sending thread on one CPU"))?;
        injector.start_at(0, self.arrived());
        let start = sys::monotonic_ns();
        for batch in frames.chunks(SEND_BATCH) {
            let mut outgoing = [Outgoing { number: 0, time_ns: 0, slot: 0, data: &[] }; SEND_BATCH];
            for ((number, to), data) in (0..).zip(&mut outgoing).zip(batch) {
                *to = Outgoing { number, data, ..*to };
            }
            let went = injector.send(self, 0, &outgoing[..batch.len()]).went?;
            arrive(went).map_err(system("send frames without losing one"))?;
        }
        arrive(injector.wait_seen(self, 0, 0, None)).map_err(system("receive every frame"))?;
        Ok(Duration::from_nanos(sys::monotonic_ns() - start))
    }

    /// Sends `frames` from the client at `speed`, each when it is due, and waits until the last has arrived. This is how
    /// [`replay`](super::replay()) paces, without the account of each packet.
    ///
    /// # Errors
    /// As [`BareLink::send`].
    pub fn send_paced(&self, frames: &[Frame], speed: Speed) -> Result<(), WireError> {
        let stop = AtomicBool::new(false);
        let mut injector = Injector::open(&self.place, Duration::from_secs(2), &stop)?;
        let _pinned = Pinned::here().map_err(system("keep the sending thread on one CPU"))?;
        injector.be_punctual();
        injector.start_at(0, self.arrived());
        if let Ok(largest) = largest_live_frame() {
            injector.use_live(LiveFrames::when_due(&self.place, largest)?);
        }
        let mut schedule = Schedule::new(speed);
        let due: Vec<u64> = frames.iter().map(|frame| schedule.due(frame.time_ns).unwrap_or_default()).collect();
        let (mut next, mut start) = (0, None);
        while next < frames.len() {
            let near = |pair: &&[u64]| pair[1].saturating_sub(pair[0]) <= injector.near_ns();
            let end = next + (1 + due[next..].windows(2).take_while(near).count()).min(TRAIN);
            let start_ns = *start.get_or_insert_with(|| injector.soon_ns());
            let outgoing: Vec<Outgoing<'_>> = frames[next..end]
                .iter()
                .map(|frame| Outgoing { number: frame.number, time_ns: frame.time_ns, slot: 0, data: &frame.data })
                .collect();
            let mut moments: Vec<Moment> =
                due[next..end].iter().map(|due| Moment { due_ns: start_ns + due, ..Moment::default() }).collect();
            let sent = injector.send_when_due(self, 0, &outgoing, &mut moments);
            arrive(sent.went?).map_err(system("send frames without losing one"))?;
            if next == 0 {
                start = Some(begun_ns(start_ns, &moments));
            }
            next = end;
        }
        arrive(injector.wait_seen(self, 0, 0, None)).map_err(system("receive every frame"))
    }

    /// Puts `frames` into the kernel's memory, for [`BareLink::flood`].
    ///
    /// # Errors
    /// [`WireError::Engine`] where the kernel has no live frames, or a frame is too long for one, or there is no room.
    pub fn load(&mut self, frames: &[Frame]) -> Result<(), WireError> {
        let unusable = |why: String| WireError::Engine { engine: Engine::LiveFrames, why };
        let largest = largest_live_frame().map_err(unusable)?;
        let arena = self.replayer.arena()?;
        let mut part = arena.whole();
        for frame in frames {
            if frame.data.len() > largest || !arena.put(&mut part, 0, &frame.data) {
                return Err(unusable(format!("a frame of {} bytes does not fit", frame.data.len())));
            }
        }
        let sender = self.replayer.sender(&self.place, largest)?;
        sender.select(part.filled());
        self.sender = Some(sender);
        Ok(())
    }

    /// Sends the next `count` of the frames loaded, by live frames, beginning anew after the last, and returns how long
    /// it took until the last had arrived.
    ///
    /// # Errors
    /// [`WireError::System`] if nothing was loaded, or frames are lost.
    pub fn flood(&self, count: u32) -> Result<Duration, WireError> {
        let nothing = || system("send frames that were not loaded")(std::io::ErrorKind::InvalidInput.into());
        let sender = self.sender.as_ref().ok_or_else(nothing)?;
        let _pinned = Pinned::here().map_err(system("keep the sending thread on one CPU"))?;
        let before = self.arrived();
        let start = Instant::now();
        sender.send(count)?;
        self.wait_arrived(before + u64::from(count))?;
        Ok(start.elapsed())
    }

    /// Sends from the client, by live frames, what `source` gives, once through, on a thread of its own; this one reads the
    /// next frames meanwhile, into the memory that [`BareOptions::room`] made; what was loaded there is gone. Returns how many
    /// there were and how long it took until the last had arrived.
    ///
    /// # Errors
    /// As [`BareLink::load`]; [`WireError::Frames`]; [`WireError::System`] if frames are lost.
    pub fn stream(&mut self, source: &mut dyn Source) -> Result<(u64, Duration), WireError> {
        let unusable = |why: String| WireError::Engine { engine: Engine::LiveFrames, why };
        let largest = largest_live_frame().map_err(unusable)?;
        let (stop, sent, arrived) = (AtomicBool::new(false), AtomicU64::new(0), self.arrived());
        self.sender = None;
        let sender = self.replayer.sender(&self.place, largest)?;
        let before = sender.account().frames[0];
        let start = Instant::now();
        let pipe = Pipe {
            sender,
            arena: &self.replayer.arena()?,
            meters: self.replayer.meters()?,
            first_meter: FAR,
            place: &self.place,
            deadline: Duration::from_secs(2),
            largest,
            end: End { stop: &stop, repeat: Repeat::Times(1), start },
            sent: &sent,
        };
        let streamed = pipe.stream(&mut Traffic::new(source, &self.place), &mut |_| Ok(()))?;
        let count = streamed.account.frames[0] - before;
        self.wait_arrived(arrived + count)?;
        Ok((count, start.elapsed()))
    }

    fn wait_arrived(&self, wanted: u64) -> Result<(), WireError> {
        let start = Instant::now();
        while self.arrived() < wanted {
            if start.elapsed() > Duration::from_secs(10) {
                return Err(system("receive every live frame")(std::io::ErrorKind::TimedOut.into()));
            }
            std::thread::yield_now();
        }
        Ok(())
    }
}

fn arrive(went: Went) -> std::io::Result<()> {
    if went == Went::Well { Ok(()) } else { Err(std::io::ErrorKind::TimedOut.into()) }
}
