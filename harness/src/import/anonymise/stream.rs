//! TCP streams: what stands at each offset of a direction and what replaces it.
//!
//! A capture is read twice. The first time each direction's bytes are put in order and parsed, whatever segments they
//! came in, and the replacement of every line and message is kept with its offset. The second time each segment takes
//! what belongs to its offsets. So a header that is cut in two by a segment's end is replaced as a whole, and a
//! retransmission carries the same bytes again. Bytes that differ from those that were parsed (a forged overlap, say)
//! are never kept.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::Tools;
use super::parser::{Parser, Requests};

/// Bytes of one direction that wait for others before them.
const MAX_WAITING: usize = 1 << 20;
/// Bytes that wait in all directions together.
const MAX_ALL_WAITING: usize = 64 << 20;
/// Connections that are told apart, about 600 bytes each: a flood has one per packet.
const MAX_CONNECTIONS: usize = 1 << 20;
/// Bytes of replacements that are kept in all.
const MAX_KEPT: usize = 512 << 20;

/// What becomes of bytes from an offset on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The payload policy decides.
    Policy,
    /// They are not kept, whatever the policy says: something was expected there that could not be read.
    Scrub,
    /// They were these, and become those.
    Patch { from: Box<[u8]>, to: Box<[u8]> },
}

/// Offsets of one direction and their fates: each holds until the next begins.
#[derive(Debug, Default)]
pub(super) struct Fates(Vec<(u64, Fate)>);

impl Fates {
    pub(super) fn push(&mut self, start: u64, fate: Fate) {
        let same = self.0.last().is_some_and(|(_, last)| *last == fate && !matches!(fate, Fate::Patch { .. }));
        if !same {
            self.0.push((start, fate));
        }
    }
}

/// Writes new bytes for old ones, which stand at an offset of the stream.
type Rewrite<'a> = dyn FnMut(u64, &[u8], &mut [u8]) + 'a;

/// What happened to a segment's bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    pub policy: usize,
    pub scrubbed: usize,
    pub patched: usize,
}

/// Position in a direction: 32 bits of sequence number, carried on beyond 4 GiB.
#[derive(Debug, Default)]
struct Position {
    base: Option<u32>,
    high: u64,
}

impl Position {
    /// Offset of a sequence number; negative before the stream's begin.
    fn offset(&mut self, sequence: u32) -> i64 {
        let base = *self.base.get_or_insert(sequence);
        let near = base.wrapping_add(self.high as u32);
        let offset = self.high.cast_signed() + i64::from(sequence.wrapping_sub(near).cast_signed());
        self.high = self.high.max(u64::try_from(offset).unwrap_or(0));
        offset
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Direction {
    position: Position,
    /// The stream was seen from its SYN on.
    from_start: bool,
    next: u64,
    waiting: BTreeMap<u64, Vec<u8>>,
    waiting_bytes: usize,
    parser: Parser,
    fates: Fates,
}

/// A connection: two directions, and what they know of each other.
#[derive(Debug, Default)]
struct Connection {
    directions: [Direction; 2],
    requests: Requests,
}

/// The two ends, lower first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pair {
    low: (IpAddr, u16),
    high: (IpAddr, u16),
}

/// Connections of the same ends one after the other, and the one that the second reading is at.
#[derive(Debug, Default)]
struct Successive {
    connections: Vec<Connection>,
    current: usize,
    /// There were more than can be told apart: nothing of these ends is kept.
    over: bool,
}

/// A TCP segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub source: (IpAddr, u16),
    pub destination: (IpAddr, u16),
    pub sequence: u32,
    pub syn: bool,
}

/// All connections of a capture.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pairs: HashMap<Pair, Successive>,
    connections: usize,
    waiting: usize,
    kept: usize,
}

fn pair(segment: &Segment) -> (Pair, usize) {
    let (a, b) = (segment.source, segment.destination);
    if a <= b { (Pair { low: a, high: b }, 0) } else { (Pair { low: b, high: a }, 1) }
}

/// Moves on to the connection that a segment is of: a SYN with another sequence number begins another.
fn enter(successive: &mut Successive, segment: &Segment, side: usize) {
    let current = successive.connections.get(successive.current);
    let base = current.and_then(|connection| connection.directions[side].position.base);
    if segment.syn && base.is_some_and(|base| base != segment.sequence.wrapping_add(1)) {
        successive.current += 1;
    }
}

/// Offset of a segment's first byte of data.
fn data_offset(direction: &mut Direction, segment: &Segment) -> i64 {
    // A SYN takes a number of its own, before those of its data (RFC 9293 section 3.4).
    direction.position.offset(segment.sequence.wrapping_add(u32::from(segment.syn)))
}

impl Streams {
    /// First reading: takes in a segment's data.
    pub(super) fn learn(&mut self, segment: &Segment, data: &[u8], tools: &mut Tools) {
        let (pair, side) = pair(segment);
        if self.connections == MAX_CONNECTIONS && !self.pairs.contains_key(&pair) {
            return;
        }
        let successive = self.pairs.entry(pair).or_default();
        enter(successive, segment, side);
        if successive.current == successive.connections.len() {
            successive.over |= self.connections == MAX_CONNECTIONS;
            if !successive.over {
                successive.connections.push(Connection::default());
                self.connections += 1;
            }
        }
        let Some(Connection { directions, requests }) = successive.connections.get_mut(successive.current) else {
            return;
        };
        let direction = &mut directions[side];
        direction.from_start |= segment.syn;
        let offset = data_offset(direction, segment);
        // Bytes before the begin are keep-alives of captures that begin in the middle; nothing is known of them.
        let skip = usize::try_from(-offset.min(0)).unwrap_or(usize::MAX).min(data.len());
        let (offset, data) = (u64::try_from(offset).unwrap_or(0), &data[skip..]);
        let known = usize::try_from(direction.next.saturating_sub(offset)).unwrap_or(usize::MAX);
        if data.len() <= known || direction.parser.is_over() {
            return;
        }
        let ports = (segment.source.1, segment.destination.1);
        let mut feed = |direction: &mut Direction, data: &[u8]| {
            let first = direction.from_start;
            let kept = direction.parser.feed(data, first, ports, &mut direction.fates, requests, tools);
            self.kept += kept;
            if self.kept > MAX_KEPT {
                direction.parser.give_up(&mut direction.fates);
            }
            direction.next += data.len() as u64;
        };
        if offset <= direction.next {
            feed(direction, &data[known..]);
            while let Some(entry) = direction.waiting.first_entry().filter(|entry| *entry.key() <= direction.next) {
                let (start, data) = entry.remove_entry();
                direction.waiting_bytes -= data.len();
                self.waiting -= data.len();
                let known = usize::try_from(direction.next - start).unwrap_or(usize::MAX);
                if known < data.len() {
                    feed(direction, &data[known..]);
                }
            }
            return;
        }
        if direction.waiting_bytes + data.len() > MAX_WAITING || self.waiting + data.len() > MAX_ALL_WAITING {
            // A hole that is not going to be filled.
            self.waiting -= direction.waiting_bytes;
            direction.waiting_bytes = 0;
            direction.waiting.clear();
            direction.parser.give_up(&mut direction.fates);
            return;
        }
        let place = direction.waiting.entry(offset).or_default();
        if place.len() < data.len() {
            direction.waiting_bytes += data.len() - place.len();
            self.waiting += data.len() - place.len();
            *place = data.to_vec();
        }
    }

    /// Ends the first reading: what still waits was never completed.
    pub(super) fn settle(&mut self) {
        for successive in self.pairs.values_mut() {
            successive.current = 0;
            for direction in successive.connections.iter_mut().flat_map(|connection| &mut connection.directions) {
                direction.parser.settle(!direction.waiting.is_empty(), &mut direction.fates);
                direction.waiting.clear();
                direction.position.high = 0;
            }
        }
    }

    /// Second reading: writes what replaces a segment's data into `to`, which holds zeros. `policy` is called for what
    /// the payload policy decides, with the offset in the stream; it gets old bytes and the place for new ones.
    pub(super) fn write(&mut self, segment: &Segment, from: &[u8], to: &mut [u8], policy: &mut Rewrite<'_>) -> Written {
        let mut written = Written::default();
        let (pair, side) = pair(segment);
        let found = self.pairs.get_mut(&pair).filter(|successive| !successive.over);
        let connection = found.and_then(|successive| {
            enter(successive, segment, side);
            successive.connections.get_mut(successive.current)
        });
        let Some(direction) = connection.map(|connection| &mut connection.directions[side]) else {
            written.scrubbed = from.len();
            return written;
        };
        let offset = data_offset(direction, segment);
        let skip = usize::try_from(-offset.min(0)).unwrap_or(usize::MAX).min(from.len());
        written.scrubbed = skip;
        let (start, from, to) = (u64::try_from(offset).unwrap_or(0), &from[skip..], &mut to[skip..]);
        let end = start + from.len() as u64;
        let fates = &direction.fates.0;
        let mut at = start;
        let mut index = fates.partition_point(|(begin, _)| *begin <= at);
        while at < end {
            let until = fates.get(index).map_or(end, |(begin, _)| *begin).min(end);
            let place = (at - start) as usize..(until - start) as usize;
            let (old, new) = (&from[place.clone()], &mut to[place]);
            match index.checked_sub(1).map(|before| &fates[before]) {
                Some((begin, Fate::Patch { from, to })) => {
                    let skip = (at - begin) as usize;
                    for (position, (old, new)) in old.iter().zip(new).enumerate() {
                        if from.get(skip + position) == Some(old) {
                            *new = to[skip + position];
                            written.patched += 1;
                        } else {
                            written.scrubbed += 1;
                        }
                    }
                }
                Some((_, Fate::Policy)) => {
                    policy(at, old, new);
                    written.policy += old.len();
                }
                Some((_, Fate::Scrub)) | None => written.scrubbed += old.len(),
            }
            at = until;
            index += 1;
        }
        written
    }
}
