//! `replayer`: frames that the kernel itself puts on a link, and meters of what arrives.
//!
//! Userspace fills an arena with frames and lists them as [`Slot`]s. The program `replay`, run by `BPF_PROG_TEST_RUN`
//! with live frames (Linux 5.18), copies the next one into the frame that the kernel hands it and redirects that into a
//! link. The other programs count what arrives at the device under test and at the far ends.

use crate::pod;

/// Sides of the device under test: 0 faces the client, 1 the server.
pub const SIDES: usize = 2;
/// log2 of [`CHUNK_BYTES`].
pub const CHUNK_SHIFT: u32 = 20;
/// Bytes of one entry of `ARENA` in which frames may begin. An array's values had to be smaller than 4 MiB once
/// (`array_map_alloc_check`, kernel/bpf/arraymap.c), so the arena is in pieces.
pub const CHUNK_BYTES: usize = 1 << CHUNK_SHIFT;
/// Room behind them for a frame that begins at their end.
pub const SLACK_BYTES: usize = 4096;
/// An entry of `ARENA`.
pub type Chunk = [u8; CHUNK_BYTES + SLACK_BYTES];
/// Most bytes of a frame, whatever the kernel takes: live frames are in one page, with their bookkeeping.
pub const LARGEST: usize = 4095;
/// Frames begin at multiples of so many bytes.
pub const ALIGNMENT: usize = 8;
/// `XDP_PACKET_HEADROOM` and all, a test run takes no frame shorter than an Ethernet header (`ETH_HLEN`).
pub const SHORTEST: usize = 14;

/// A frame in the arena.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Where it begins: chunk times [`CHUNK_BYTES`] plus the byte in it, divided by [`ALIGNMENT`].
    pub place: u32,
    /// Its bytes.
    pub len: u16,
    /// The side that it is sent on.
    pub side: u16,
}

impl Slot {
    /// Number of its chunk.
    #[inline(always)]
    #[must_use]
    pub const fn chunk(self) -> u32 {
        self.place >> (CHUNK_SHIFT - ALIGNMENT.trailing_zeros())
    }

    /// Byte of the chunk at which it begins.
    #[inline(always)]
    #[must_use]
    pub const fn offset(self) -> u32 {
        (self.place & ((CHUNK_BYTES / ALIGNMENT - 1) as u32)) * ALIGNMENT as u32
    }
}

/// Value of `RUN`: what `replay` sends. Written by userspace between runs, by the program during one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Frames that were redirected to each side's link. That is not yet to say that the link took them.
    pub sent: [u64; SIDES],
    /// Bytes of those.
    pub bytes: [u64; SIDES],
    /// Frames that could not be made: the kernel's frame was too short.
    pub failed: u64,
    /// The slot whose turn it is.
    pub next: u32,
    /// The slot after the last: there it goes on with `first`.
    pub end: u32,
    /// The first slot.
    pub first: u32,
    /// Bytes of the frames that the kernel hands over.
    pub initial: u32,
}

/// How often the clock is looked at before a frame goes out late rather than never.
pub const MOST_LOOKS: u32 = 1 << 20;

/// When a frame of the arena goes out, ns of the monotonic clock.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Not before this.
    pub due_ns: u64,
    /// When its turn came.
    pub ready_ns: u64,
    /// When it went: if it was late, when its turn came.
    pub sent_ns: u64,
    /// When the other end was through with it; 0 if that was not seen.
    pub through_ns: u64,
}

/// What a meter has seen. One NAPI instance writes it, userspace reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames whose sequence number was not the one after that of the frame before; only where numbers are read.
    pub disordered: u64,
    /// The sequence number expected next.
    pub expected: u64,
}

/// Entries of `METERS`: where the device under test takes frames in, then the far ends; by side each.
pub const METERS: usize = 2 * SIDES;
/// First of the far ends' entries.
pub const FAR: usize = SIDES;

const _: () =
    assert!(size_of::<Slot>() == 8 && size_of::<Run>() == 56 && size_of::<Moment>() == 32 && size_of::<Meter>() == 32);
pod!(Slot, Run, Moment, Meter);
