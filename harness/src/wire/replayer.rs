//! The object `replayer` in userspace: an arena of frames, and the program that the kernel runs to send them.
//!
//! The arena is an array map shared with the kernel, in which frames stand one behind the other, each as long as it is;
//! a list of slots says where. A run of the program sends the slots of a range in their order, from the last back to the
//! first, as often as it is called. Nothing is copied on the way but by the program itself, into the frame that goes out.
//!
//! What the kernel asks for (net/bpf/test_run.c, drivers/net/veth.c):
//! - A call costs as much as tens of frames (a page pool is made), so calls are long; and a program that is attached
//!   nowhere costs tens of milliseconds a call, since the XDP dispatcher is patched for it (`bpf_prog_change_xdp`). It is
//!   therefore parked at the loopback interface of a namespace of its own, which is down.
//! - The ring between the two ends of a veth holds 256 frames and drops what finds it full. The kernel hands over up to
//!   [`BATCH`] frames at a time and lets the receiver run in between.
//! - A frame that the other end does not take vanishes without any error: without NAPI there, or over its MTU. Hence what
//!   arrives is always counted.

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use aya::programs::ProgramFd;
use bpflab_programs::replayer::{ALIGNMENT, CHUNK_BYTES, CHUNK_SHIFT, Chunk, METERS, Meter, Moment, Run, Slot};

use super::WireError;
use super::place::Place;
use crate::object::{LoadOptions, Object, ObjectError, suite};
use crate::sys::{self, MapHandle, MappedArray, bytes_of};

/// Frames that the kernel passes on before it lets the receiver take them: a quarter of what the ring between two ends
/// of a veth holds (`VETH_RING_SIZE`), so that a receiver may fall behind a little.
const BATCH: u32 = 64;

/// Most chunks of a part that is sent while others are filled.
const PART_CHUNKS: u32 = 4;

/// How large the arena is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Frames.
    pub(super) slots: u32,
    /// Pieces of [`CHUNK_BYTES`].
    pub(super) chunks: u32,
}

impl Room {
    /// Room for so many frames of so many bytes together, but at most `most` bytes of them.
    pub(super) fn of(frames: u64, bytes: u64, most: u64) -> Self {
        // Each frame begins at a multiple of 8 bytes.
        let padded = bytes.saturating_add(frames.saturating_mul(ALIGNMENT as u64 - 1)).clamp(1, most.max(1));
        // Short frames need more slots: one for every 64 bytes of the arena will do for a few that are shorter.
        let slots = frames.clamp(2, most / 32 + 2);
        let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX / 2);
        Self { slots: number(slots), chunks: number(padded.div_ceil(CHUNK_BYTES as u64)).max(2) }
    }
}

/// What the meters of an object are to do beyond counting, at the client side's sink.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Metering {
    /// Arrival times kept, as many as this.
    pub(super) times: u32,
    /// Byte of each frame at which a sequence number stands (32 bits, big endian), and how many numbers there are.
    pub(super) sequence: Option<(u32, u64)>,
}

/// The loaded object, from which the parts are made that do the work.
pub(super) struct Replayer {
    pub(super) object: Object,
    room: Room,
    release: Release,
}

/// When frames of the arena go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Release {
    /// As fast as they can.
    AtOnce,
    /// Each when it is due.
    WhenDue,
}

/// What was counted where.
pub(super) struct Meters(MappedArray<Meter>);

impl Meters {
    /// What the meter of that number has counted.
    pub(super) fn get(&self, index: usize) -> Meter {
        self.0.get(index)
    }

    /// Frames that the meter of that number has counted.
    pub(super) fn frames(&self, index: usize) -> u64 {
        self.0.counter(index, 0)
    }
}

impl Replayer {
    /// Makes the object's maps; loads no program.
    pub(super) fn load(room: Room, metering: Metering) -> Result<Self, WireError> {
        Self::with(room, metering, Release::AtOnce)
    }

    /// As `load`, for frames of which each has its time.
    pub(super) fn when_due(room: Room) -> Result<Self, WireError> {
        Self::with(room, Metering::default(), Release::WhenDue)
    }

    fn with(room: Room, metering: Metering, release: Release) -> Result<Self, WireError> {
        let moments = if release == Release::WhenDue { room.slots } else { 1 };
        let (at, end) = metering.sequence.unwrap_or_default();
        let options = LoadOptions {
            globals: vec![
                ("NOTE_TIMES", bytes_of(&metering.times), true),
                ("TIMES_LEN", bytes_of(&metering.times), true),
                ("SEQUENCE_AT", bytes_of(&at), true),
                ("SEQUENCE_END", bytes_of(&end), true),
            ],
            max_entries: vec![
                ("ARENA", room.chunks),
                ("FRAMES", room.slots),
                ("MOMENTS", moments),
                ("TIMES", metering.times.max(1)),
            ],
            ..LoadOptions::default()
        };
        Ok(Self { object: Object::load("replayer", suite::REPLAYER, &options)?, room, release })
    }

    /// The meters.
    pub(super) fn meters(&self) -> Result<Meters, ObjectError> {
        Ok(Meters(self.object.mapped("SEEN", METERS)?))
    }

    /// Arrival times at the client side's sink, ns of the monotonic clock: those of the first `count` frames.
    pub(super) fn times(&self, count: usize) -> Result<Vec<u64>, ObjectError> {
        let times: MappedArray<u64> = self.object.mapped("TIMES", count.max(1))?;
        Ok((0..count).map(|index| times.get(index)).collect())
    }

    /// The room for frames, as one that may be filled by another thread than the one that sends.
    pub(super) fn arena(&self) -> Result<Arena, ObjectError> {
        Ok(Arena {
            slots: self.object.mapped("FRAMES", self.room.slots as usize)?,
            chunks: self.object.mapped("ARENA", self.room.chunks as usize)?,
            room: self.room,
        })
    }

    /// What sends frames of the arena to the far ends' interfaces of `place`. `largest` is what a live frame holds.
    pub(super) fn sender(&mut self, place: &Place, largest: usize) -> Result<Sender, WireError> {
        let (program, moments) = match self.release {
            Release::AtOnce => ("replay", None),
            Release::WhenDue => ("replay_when_due", Some(self.object.mapped("MOMENTS", self.room.slots as usize)?)),
        };
        let program = self.object.load_program(program, None)?;
        let failed = |operation: &str| {
            let operation = operation.to_owned();
            move |source| WireError::System { operation, source }
        };
        let links = MapHandle::new(self.object.map_fd("LINKS")?).map_err(failed("keep the map of links"))?;
        for (side, link) in place.links() {
            // `struct bpf_devmap_val`: the interface, and no program behind it. It is looked up in the caller's namespace.
            let value = [link.far.ifindex.to_ne_bytes(), [0; 4]].concat();
            let key = u32::try_from(side).unwrap_or_default().to_ne_bytes();
            let update = || links.update(Some(&key), &value, 0);
            let updated = link.far.netns.run(update).and_then(|updated| updated);
            updated.map_err(failed(&format!("redirect frames to interface {}", link.far.name)))?;
        }
        let parked = Parked::new(program.as_fd()).map_err(failed("park the replaying program at an interface"))?;
        let run: MappedArray<Run> = self.object.mapped("RUN", 1)?;
        Ok(Sender { program, run, moments, initial: vec![0; largest], _parked: parked })
    }
}

/// A program at an interface that never sees a packet.
struct Parked {
    _link: OwnedFd,
    _namespace: File,
}

impl Parked {
    fn new(program: BorrowedFd<'_>) -> std::io::Result<Self> {
        const LOOPBACK: u32 = 1;
        const XDP: u32 = 37;
        const GENERIC: u32 = 1 << 1;
        let park = || {
            sys::unshare_network()?;
            let namespace = File::open("/proc/thread-self/ns/net")?;
            let link = sys::link_to_interface(program, LOOPBACK, XDP, GENERIC)?;
            Ok(Self { _link: link, _namespace: namespace })
        };
        std::thread::scope(|scope| scope.spawn(park).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

/// Room for frames.
pub(super) struct Arena {
    slots: MappedArray<Slot>,
    chunks: MappedArray<Chunk>,
    room: Room,
}

/// A part of the arena that is being filled.
#[derive(Clone, Debug)]
pub(super) struct Part {
    slots: Range<u32>,
    chunks: Range<u32>,
    /// The next slot.
    slot: u32,
    /// The next frame's chunk and byte.
    chunk: u32,
    offset: usize,
}

impl Part {
    /// The slots that are filled.
    pub(super) fn filled(&self) -> Range<u32> {
        self.slots.start..self.slot
    }

    /// The same part, empty.
    pub(super) fn emptied(&self) -> Self {
        Self { slot: self.slots.start, chunk: self.chunks.start, offset: 0, ..self.clone() }
    }
}

impl Arena {
    /// All of it.
    pub(super) fn whole(&self) -> Part {
        self.part(0..self.room.slots, 0..self.room.chunks)
    }

    /// Parts of equal size, at least two, which together may be less than all of it: small ones, so that little time passes
    /// before the first is full and while the last is sent, and what was written is still in a cache when it is read.
    pub(super) fn parts(&self) -> impl Iterator<Item = Part> + use<'_> {
        const MOST: u32 = 8;
        let Room { slots, chunks } = self.room;
        let size = (chunks / MOST).clamp(1, PART_CHUNKS);
        let room = slots / (chunks / size);
        (0..(chunks / size).min(MOST)).map(move |n| self.part(n * room..(n + 1) * room, n * size..(n + 1) * size))
    }

    fn part(&self, slots: Range<u32>, chunks: Range<u32>) -> Part {
        Part { slot: slots.start, chunk: chunks.start, offset: 0, slots, chunks }
    }

    /// Adds a frame to a part, or says that it is full. A frame is `SHORTEST` to `LARGEST` bytes long.
    pub(super) fn put(&self, part: &mut Part, side: usize, frame: &[u8]) -> bool {
        if part.offset >= CHUNK_BYTES {
            (part.chunk, part.offset) = (part.chunk + 1, 0);
        }
        if part.slot >= part.slots.end || part.chunk >= part.chunks.end {
            return false;
        }
        self.chunks.write_bytes(part.chunk as usize, part.offset, frame);
        // Both within what `Room` allows: 2^17 places a chunk, and fewer than 2^15 chunks.
        let offset = u32::try_from(part.offset / ALIGNMENT).unwrap_or_default();
        let place = (part.chunk << (CHUNK_SHIFT - ALIGNMENT.trailing_zeros())) | offset;
        let (len, side) = (u16::try_from(frame.len()).unwrap_or(u16::MAX), u16::from(side != 0));
        self.slots.set(part.slot as usize, Slot { place, len, side });
        part.slot += 1;
        part.offset += frame.len().next_multiple_of(ALIGNMENT);
        true
    }
}

/// What has been sent so far, by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) frames: [u64; 2],
    pub(super) bytes: [u64; 2],
}

/// Sends what is in the arena.
pub(super) struct Sender {
    program: ProgramFd,
    run: MappedArray<Run>,
    /// Where each is sent when it is due.
    moments: Option<MappedArray<Moment>>,
    /// The longest frame that the kernel takes: each frame is cut from one of these.
    initial: Vec<u8>,
    _parked: Parked,
}

impl Sender {
    /// Chooses the slots that are sent from now on, from the first.
    pub(super) fn select(&self, slots: Range<u32>) {
        let initial = u32::try_from(self.initial.len()).unwrap_or(u32::MAX);
        let run = Run { next: slots.start, first: slots.start, end: slots.end, initial, ..self.run.get(0) };
        self.run.set(0, run);
    }

    /// What was sent of this object so far.
    pub(super) fn account(&self) -> Account {
        let Run { sent, bytes, .. } = self.run.get(0);
        Account { frames: sent, bytes }
    }

    /// Says when the frame of a slot is due, ns of the monotonic clock.
    pub(super) fn set_due(&self, slot: u32, due_ns: u64) {
        if let Some(moments) = &self.moments {
            moments.set(slot as usize, Moment { due_ns, ..Moment::default() });
        }
    }

    /// When the frame of a slot was sent.
    pub(super) fn moment(&self, slot: u32) -> Moment {
        self.moments.as_ref().map(|moments| moments.get(slot as usize)).unwrap_or_default()
    }

    /// Sends the next `count` frames, going on with the first after the last; where each is sent when it is due, those must
    /// be the last of what was selected.
    pub(super) fn send(&self, count: u32) -> Result<(), WireError> {
        let frames = |run: Run| run.sent[0] + run.sent[1];
        let before = self.run.get(0);
        let mut left = count;
        while left > 0 {
            let (runs, batch) = if self.moments.is_some() { (left + 1, 1) } else { (left, BATCH.min(left)) };
            let result = sys::send_live(self.program.as_fd(), &self.initial, runs, batch);
            let now = self.run.get(0);
            let failed = now.failed - before.failed;
            if failed > 0 {
                let source = std::io::Error::from_raw_os_error(libc::EMSGSIZE);
                return Err(WireError::System { operation: format!("make {failed} live frames"), source });
            }
            match result {
                // A signal came in between: what was sent is known.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(WireError::System { operation: "send live frames".to_owned(), source }),
                Ok(()) => {}
            }
            let sent = frames(now) - frames(before);
            left = count.saturating_sub(u32::try_from(sent).unwrap_or(u32::MAX));
        }
        Ok(())
    }
}
