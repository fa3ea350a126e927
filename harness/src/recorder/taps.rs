//! The packet rings at both ends of the recorded links, read until the recording ends.

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::join::Sighting;
use crate::sys::{self, PacketRing, RingPacket};

/// Bytes that a recording takes in memory; frames that go beyond are counted as lost. Equal frames, and the same frame
/// at several places, are kept once.
pub const MOST_BYTES: usize = 512 << 20;
/// Longest wait for packets before the reader looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest wait for the last packets, whose number is known.
const LAST_LIMIT: Duration = Duration::from_secs(2);

/// One end of a link that is listened to.
#[derive(Debug)]
pub(super) struct Tap {
    ring: PacketRing,
    /// Position of the link.
    pub(super) link: usize,
    /// Whether it is the end that is not the device under test's.
    pub(super) far: bool,
    /// Frames that passed, missed ones included.
    passed: u64,
    /// Frames that the ring had no room for.
    missed: u64,
    /// Frames that were read, and of those the ones that there was no room for in memory.
    read: u64,
    full: u64,
}

impl Tap {
    pub(super) fn new(ring: PacketRing, link: usize, far: bool) -> Self {
        Self { ring, link, far, passed: 0, missed: 0, read: 0, full: 0 }
    }

    /// Frames that are not in memory.
    pub(super) fn lost(&self) -> u64 {
        self.missed + self.full
    }

    /// Whether all that has passed was read.
    fn is_done(&self) -> bool {
        self.passed <= self.missed + self.read
    }
}

/// Frames in memory, each different one once.
#[derive(Debug, Default)]
pub(super) struct Store {
    known: HashSet<Arc<[u8]>>,
    bytes: usize,
}

impl Store {
    /// The bytes of a frame as they are kept; nothing if there is no room for one more.
    pub(super) fn keep(&mut self, data: &[u8]) -> Option<Arc<[u8]>> {
        let known = self.known.get(data);
        let cost = size_of::<Sighting>() + if known.is_some() { 0 } else { data.len() };
        if self.bytes + cost > MOST_BYTES {
            return None;
        }
        self.bytes += cost;
        Some(known.map(Arc::clone).unwrap_or_else(|| {
            let kept: Arc<[u8]> = data.into();
            self.known.insert(Arc::clone(&kept));
            kept
        }))
    }
}

/// What the taps have taken.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) taps: Vec<Tap>,
    pub(super) sightings: Vec<Sighting>,
    pub(super) store: Store,
}

/// Reads the rings until it is told to stop and all that was counted has been read.
pub(super) fn listen(taps: Vec<Tap>, stop: &AtomicBool) -> Taken {
    let mut taken = Taken { taps, ..Taken::default() };
    let mut deadline = None;
    loop {
        // Asked before reading, so that what passes in between is read once more.
        let stopping = stop.load(Ordering::Relaxed);
        let Taken { taps, sightings, store } = &mut taken;
        for tap in taps.iter_mut() {
            // The kernel forgets what it has told.
            if let Ok((passed, missed)) = tap.ring.statistics() {
                tap.passed += passed;
                tap.missed += missed;
            }
            let Tap { ring, link, far, read, full, .. } = tap;
            ring.read(&mut |packet| {
                *read += 1;
                match sighting(*link, *far, &packet, store) {
                    Some(sighting) => sightings.push(sighting),
                    None => *full += 1,
                }
            });
        }
        if stopping {
            let is_last = *deadline.get_or_insert_with(|| Instant::now() + LAST_LIMIT) <= Instant::now();
            if is_last || taps.iter().all(Tap::is_done) {
                return taken;
            }
        }
        let sockets: Vec<_> = taps.iter().map(|tap| tap.ring.as_fd()).collect();
        // An error here is no reason to lose what has come: the next look says more.
        if sys::wait_readable(&sockets, LOOK_EVERY).is_err() {
            std::thread::yield_now();
        }
    }
}

/// The frame, with the tag that the kernel took out put back behind the addresses (IEEE 802.1Q section 9.5).
fn sighting(link: usize, far: bool, packet: &RingPacket<'_>, store: &mut Store) -> Option<Sighting> {
    let mut wire_len = packet.wire_len;
    let data = match packet.vlan.filter(|_| packet.data.len() >= 12) {
        None => store.keep(packet.data)?,
        Some(tag) => {
            let mut data = packet.data.to_vec();
            data.splice(12..12, tag);
            wire_len += 4;
            store.keep(&data)?
        }
    };
    // What leaves the far end comes in here.
    let outgoing = packet.outgoing != far;
    let first = packet.outgoing;
    Some(Sighting { outgoing, first, ..Sighting::new(link, packet.time_ns, wire_len, data) })
}
