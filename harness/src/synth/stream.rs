//! Units of traffic over time: each begins when the shape says so and goes on by itself; frames come out in order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::pool::Address;
use super::ports::Lease;
use super::rng::Rng;
use super::shape::Schedule;
use super::spoil::spoil;
use crate::capture::{Frame, Side};

/// A unit of traffic: a packet, or an exchange of several. What it is to do next is in here, so that a unit takes as
/// little memory however much it sends.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    /// Number of the unit, from 0.
    pub(super) index: u64,
    pub(super) v6: bool,
    /// Random numbers of this unit alone.
    pub(super) rng: Rng,
    /// Time of the frame that is being made, ns since the first unit's beginning.
    pub(super) now_ns: u64,
    /// Frames or decisions so far.
    pub(super) step: u32,
    /// What the generator chose at the beginning: a script, a size.
    pub(super) choice: u32,
    /// Whether the initiator is on the server's side.
    pub(super) flipped: bool,
    /// Who speaks first and who answers.
    pub(super) ends: [Address; 2],
    pub(super) ports: [u16; 2],
    /// The first of the ports is to be given back.
    pub(super) lease: Option<Lease>,
    pub(super) tcp: Tcp,
}

/// Where both ends of a TCP connection are: the first who opened it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tcp {
    /// Next sequence number to be sent.
    pub(super) next: [u32; 2],
    /// What the other end last acknowledged or will: the next number expected from it.
    pub(super) seen: [u32; 2],
    /// Difference between the clock of timestamps and time.
    pub(super) clock: [u32; 2],
    /// The timestamp to echo.
    pub(super) echo: [u32; 2],
    /// Next identification of IPv4.
    pub(super) ident: [u16; 2],
    /// Bytes of the current message that are sent.
    pub(super) sent: u64,
    /// Full segments that the receiver has not acknowledged.
    pub(super) unacknowledged: u8,
    /// The segment is due for which an acknowledgement was held back.
    pub(super) acknowledge: bool,
}

/// What making a frame came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Made {
    /// Whether the frame is to be sent; not so for the other side of a conversation of which one side is wanted.
    pub(super) sent: bool,
    /// When this unit goes on, ns after this frame; nothing if that was all.
    pub(super) next_ns: Option<u64>,
}

impl Made {
    /// The only or last frame of a unit.
    pub(super) const LAST: Self = Self { sent: true, next_ns: None };
}

/// Makes the frames of an entry.
pub(super) trait Generator: Send {
    /// Chooses what distinguishes a unit. Says how long after its time in the schedule it really begins, ns.
    fn begin(&mut self, unit: &mut Unit) -> u64;

    /// Makes the next frame of a unit: its bytes and its side. The rest of `frame` is filled in by the caller.
    fn step(&mut self, unit: &mut Unit, frame: &mut Frame) -> Made;
}

/// Frames of one declaration. Nothing is kept of those that are past; a unit under way takes some 200 bytes, however much it
/// sends.
pub struct Synth {
    generator: Box<dyn Generator>,
    schedule: Schedule,
    /// Beginning of the next unit.
    upcoming: Option<u64>,
    begun: u64,
    versions: Versions,
    seed: u64,
    /// Units under way, by the time of their next frame and then by their number: the slot of each.
    active: BinaryHeap<Reverse<(u64, u64, u32)>>,
    units: Vec<Unit>,
    free: Vec<u32>,
    /// Added to every time, ns since 1970.
    base_ns: u64,
    spoil: bool,
    number: u64,
}

/// Versions of IP in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Versions {
    V4,
    V6,
    /// Even units IPv4, odd ones IPv6.
    Both,
}

/// What a stream is made of.
pub(super) struct Parts {
    pub(super) generator: Box<dyn Generator>,
    pub(super) schedule: Schedule,
    pub(super) versions: Versions,
    pub(super) seed: u64,
    pub(super) base_ns: u64,
    pub(super) spoil: bool,
}

impl Synth {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { generator, mut schedule, versions, seed, base_ns, spoil } = parts;
        let upcoming = schedule.next();
        Self {
            generator,
            schedule,
            upcoming,
            begun: 0,
            versions,
            seed,
            active: BinaryHeap::new(),
            units: Vec::new(),
            free: Vec::new(),
            base_ns,
            spoil,
            number: 0,
        }
    }

    /// Units that have begun so far.
    #[must_use]
    pub const fn begun(&self) -> u64 {
        self.begun
    }

    /// Moves all times so that the first possible one is `base_ns`, ns since 1970. Meant for a stream of which nothing has
    /// been taken yet.
    #[must_use]
    pub const fn starting_at(mut self, base_ns: u64) -> Self {
        self.base_ns = base_ns;
        self
    }

    /// Puts the next frame into `frame`, reusing its buffer; says whether there was one.
    pub fn next_into(&mut self, frame: &mut Frame) -> bool {
        loop {
            let slot = match (self.upcoming, self.active.peek()) {
                (None, None) => return false,
                (Some(start), Some(Reverse((time, _, _)))) if start > *time => self.resume(),
                (None, Some(_)) => self.resume(),
                (Some(start), _) => match self.begin(start) {
                    Some(slot) => Some(slot),
                    None => continue,
                },
            };
            let Some(slot) = slot else { return false };
            let unit = &mut self.units[slot as usize];
            let made = self.generator.step(unit, frame);
            let time_ns = unit.now_ns;
            match made.next_ns {
                Some(after) => {
                    unit.now_ns = time_ns.saturating_add(after);
                    self.active.push(Reverse((unit.now_ns, unit.index, slot)));
                }
                None => self.free.push(slot),
            }
            if made.sent {
                self.number += 1;
                frame.number = self.number;
                frame.time_ns = self.base_ns.saturating_add(time_ns);
                if self.spoil {
                    spoil(&mut frame.data);
                }
                frame.wire_len = u32::try_from(frame.data.len()).unwrap_or(u32::MAX);
                return true;
            }
        }
    }

    fn resume(&mut self) -> Option<u32> {
        self.active.pop().map(|Reverse((_, _, slot))| slot)
    }

    /// Begins the next unit. Its slot, if its first frame is due before any other's.
    fn begin(&mut self, start: u64) -> Option<u32> {
        self.upcoming = self.schedule.next();
        let index = self.begun;
        self.begun += 1;
        let v6 = match self.versions {
            Versions::V4 => false,
            Versions::V6 => true,
            Versions::Both => index % 2 == 1,
        };
        let unit = Unit {
            index,
            v6,
            rng: Rng::new(self.seed, index),
            now_ns: start,
            step: 0,
            choice: 0,
            flipped: false,
            ends: [Address::NONE; 2],
            ports: [0; 2],
            lease: None,
            tcp: Tcp::default(),
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.units[slot as usize] = unit;
                slot
            }
            None => {
                self.units.push(unit);
                (self.units.len() - 1) as u32
            }
        };
        let unit = &mut self.units[slot as usize];
        match self.generator.begin(unit) {
            0 => Some(slot),
            after => {
                unit.now_ns = start.saturating_add(after);
                self.active.push(Reverse((unit.now_ns, index, slot)));
                None
            }
        }
    }
}

impl Iterator for Synth {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let mut frame = Frame::default();
        self.next_into(&mut frame).then_some(frame)
    }
}

/// Which side sends, for the end of a unit that does.
pub(super) const fn side(unit: &Unit, end: usize) -> Side {
    if (end == 0) != unit.flipped { Side::Client } else { Side::Server }
}
