//! One direction of a TCP connection put back in order: late segments are held, bytes seen before are dropped, and
//! what never came is named as a hole.
//!
//! Positions are counted from the first byte of the stream in 64 bits; a sequence number means the position nearest
//! to the expected one (RFC 9293 section 3.4), so that a wrap needs no care.

use std::collections::BTreeMap;
use std::fmt;

/// Bytes that one direction may hold back (its bookkeeping of `OVERHEAD` per segment included).
pub const HELD_PER_DIRECTION: usize = 256 * 1024;
/// What a held segment costs beside its bytes.
const OVERHEAD: usize = 96;
/// No receiver offers a window beyond this (RFC 7323 section 2.3), so a byte further ahead belongs to no stream.
const FURTHEST_AHEAD: i64 = 1 << 30;

/// Why bytes are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No packet brought them.
    NotSeen,
    /// The packet that held them was cut, by the capture's snapshot length or by the program's limit.
    Cut,
    /// The program could not hand them over because its ring was full.
    RingFull,
    /// The packets after them grew beyond what may be held back.
    HeldTooMuch,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSeen => "no packet held them",
            Self::Cut => "the packet was cut",
            Self::RingFull => "the ring was full",
            Self::HeldTooMuch => "too much was waiting for them",
        })
    }
}

/// A stretch of a stream that never came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Bytes; 0 if their number is not known.
    pub len: u64,
    /// Why.
    pub cause: Cause,
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.len {
            0 => write!(f, "bytes missing: {}", self.cause),
            len => write!(f, "{len} bytes missing: {}", self.cause),
        }
    }
}

/// What a stream delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The next bytes, and the time of the packet that brought them, ns.
    Bytes(&'a [u8], u64),
    /// The next bytes are missing.
    Hole(Hole),
}

/// The payload of one segment, or one part of it.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Sequence number of the first byte.
    pub seq: u32,
    /// The bytes that were captured.
    pub bytes: &'a [u8],
    /// Bytes on the wire; what `bytes` lacks of it was cut.
    pub wire_len: u32,
    /// Time of the packet, ns.
    pub time_ns: u64,
}

#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    wire_len: u64,
    time_ns: u64,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Direction {
    /// Sequence number of the next byte, once known.
    next: Option<u32>,
    /// Position of that byte.
    position: u64,
    /// Segments beyond it, by position.
    held: BTreeMap<u64, Held>,
    held_bytes: usize,
}

/// Receives what a stream delivers.
pub type Sink<'a> = &'a mut dyn FnMut(Piece<'_>);

impl Direction {
    /// Says which byte is the first, unless that is known already.
    pub fn start(&mut self, seq: u32) {
        self.next.get_or_insert(seq);
    }

    /// Sequence number of the next byte, if known.
    #[must_use]
    pub fn next_seq(&self) -> Option<u32> {
        self.next
    }

    /// Memory that is held back.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Whether segments are held back because earlier bytes have not come.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes a segment in and delivers what is in order now. `cause` names the reason for a hole, should the segment
    /// make one inevitable.
    pub fn push(&mut self, segment: Segment<'_>, cause: Cause, sink: Sink<'_>) {
        let next = *self.next.get_or_insert(segment.seq);
        let ahead = i64::from(segment.seq.wrapping_sub(next).cast_signed());
        let wire_len = u64::from(segment.wire_len).max(segment.bytes.len() as u64);
        if wire_len == 0 || ahead > FURTHEST_AHEAD {
            return;
        }
        if ahead <= 0 {
            self.deliver(segment.bytes, wire_len, ahead.unsigned_abs(), segment.time_ns, sink);
            self.deliver_held(sink);
            return;
        }
        let position = self.position + ahead.unsigned_abs();
        if self.held.get(&position).is_some_and(|held| held.wire_len >= wire_len) {
            return;
        }
        let held = Held { bytes: segment.bytes.to_vec(), wire_len, time_ns: segment.time_ns };
        self.held_bytes += held.bytes.len() + OVERHEAD;
        if let Some(shorter) = self.held.insert(position, held) {
            self.held_bytes -= shorter.bytes.len() + OVERHEAD;
        }
        if self.held_bytes > HELD_PER_DIRECTION {
            let cause = if cause == Cause::NotSeen { Cause::HeldTooMuch } else { cause };
            while self.held_bytes > HELD_PER_DIRECTION / 2 {
                self.skip(cause, sink);
            }
        }
    }

    /// The other side has acknowledged everything before `ack`: what is missing before it and before a held segment
    /// has passed unseen.
    pub fn acknowledged(&mut self, ack: u32, cause: Cause, sink: Sink<'_>) {
        while let (Some(next), Some((&first, _))) = (self.next, self.held.first_key_value()) {
            let ahead = i64::from(ack.wrapping_sub(next).cast_signed());
            if ahead <= 0 || self.position + ahead.unsigned_abs() < first {
                return;
            }
            self.skip(cause, sink);
        }
    }

    /// Delivers everything that is held, with the holes between: nothing more will come.
    pub fn flush(&mut self, cause: Cause, sink: Sink<'_>) {
        while !self.held.is_empty() {
            self.skip(cause, sink);
        }
    }

    /// Forgets the segments that are held back: nobody reads them.
    pub fn drop_held(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
    }

    /// Gives up on what is missing before the first held segment.
    fn skip(&mut self, cause: Cause, sink: Sink<'_>) {
        if let Some((&first, _)) = self.held.first_key_value() {
            let len = first - self.position;
            if len > 0 {
                self.advance(len);
                sink(Piece::Hole(Hole { len, cause }));
            }
            self.deliver_held(sink);
        }
    }

    fn deliver_held(&mut self, sink: Sink<'_>) {
        while let Some(entry) = self.held.first_entry() {
            if *entry.key() > self.position {
                return;
            }
            let (position, held) = entry.remove_entry();
            self.held_bytes -= held.bytes.len() + OVERHEAD;
            self.deliver(&held.bytes, held.wire_len, self.position - position, held.time_ns, sink);
        }
    }

    /// Delivers a segment whose first `old` bytes have been delivered before.
    fn deliver(&mut self, bytes: &[u8], wire_len: u64, old: u64, time_ns: u64, sink: Sink<'_>) {
        if old >= wire_len {
            return;
        }
        let new = usize::try_from(old).ok().and_then(|old| bytes.get(old..)).unwrap_or_default();
        if !new.is_empty() {
            self.advance(new.len() as u64);
            sink(Piece::Bytes(new, time_ns));
        }
        let missing = wire_len - old - new.len() as u64;
        if missing > 0 {
            self.advance(missing);
            sink(Piece::Hole(Hole { len: missing, cause: Cause::Cut }));
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "sequence numbers count modulo 2^32")]
    fn advance(&mut self, len: u64) {
        self.position += len;
        self.next = self.next.map(|next| next.wrapping_add(len as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs segments `(seq, text, wire length or 0 for the text's)` through a stream that starts at `start`.
    fn run(start: u32, segments: &[(u32, &str, u32)]) -> String {
        let mut direction = Direction::default();
        direction.start(start);
        let mut seen = String::new();
        let mut sink = |piece: Piece<'_>| match piece {
            Piece::Bytes(bytes, _) => seen.push_str(&String::from_utf8_lossy(bytes)),
            Piece::Hole(hole) => seen.push_str(&format!("<{} {:?}>", hole.len, hole.cause)),
        };
        for &(seq, text, wire) in segments {
            let wire_len = if wire == 0 { u32::try_from(text.len()).unwrap_or(0) } else { wire };
            let segment = Segment { seq, bytes: text.as_bytes(), wire_len, time_ns: 0 };
            direction.push(segment, Cause::NotSeen, &mut sink);
        }
        direction.flush(Cause::NotSeen, &mut sink);
        assert_eq!(direction.held_bytes(), 0);
        seen
    }

    #[test]
    fn segments_out_of_order_come_in_order() {
        assert_eq!(run(100, &[(103, "def", 0), (106, "gh", 0), (100, "abc", 0)]), "abcdefgh");
    }

    #[test]
    fn retransmitted_and_overlapping_bytes_come_once() {
        // The second segment repeats "bc" and adds "d"; the third lies wholly before the expected byte.
        assert_eq!(run(100, &[(100, "abc", 0), (101, "bcd", 0), (100, "abc", 0), (104, "e", 0)]), "abcde");
        // Two held segments overlap each other: 102..105 and 104..107.
        assert_eq!(run(100, &[(104, "efg", 0), (102, "cde", 0), (100, "ab", 0)]), "abcdefg");
        // A longer retransmission replaces a shorter held segment.
        assert_eq!(run(100, &[(102, "c", 0), (102, "cde", 0), (100, "ab", 0)]), "abcde");
    }

    #[test]
    fn sequence_numbers_wrap() {
        // 4 bytes from 2^32 - 2 end at 2.
        assert_eq!(run(u32::MAX - 1, &[(2, "efg", 0), (u32::MAX - 1, "abcd", 0)]), "abcdefg");
    }

    #[test]
    fn holes_are_named() {
        assert_eq!(run(100, &[(100, "ab", 0), (105, "fg", 0)]), "ab<3 NotSeen>fg");
        // A segment of 10 bytes of which 2 were captured.
        assert_eq!(run(100, &[(100, "ab", 10), (110, "kl", 0)]), "ab<8 Cut>kl");
        // A retransmission whose captured part is old leaves only the cut.
        assert_eq!(run(100, &[(100, "abcd", 0), (102, "cd", 6)]), "abcd<4 Cut>");
    }

    #[test]
    fn a_byte_beyond_every_window_is_ignored() {
        assert_eq!(run(0, &[(0, "a", 0), ((1 << 30) + 2, "x", 0), (1, "b", 0)]), "ab");
    }

    #[test]
    fn memory_is_bounded() {
        let mut direction = Direction::default();
        direction.start(0);
        let bytes = vec![7; 1000];
        let (mut delivered, mut holes) = (0_usize, Vec::new());
        for index in 0..10_000_u32 {
            // Every second kilobyte never comes.
            let segment = Segment { seq: 1000 + index * 2000, bytes: &bytes, wire_len: 1000, time_ns: 0 };
            direction.push(segment, Cause::NotSeen, &mut |piece| match piece {
                Piece::Bytes(bytes, _) => delivered += bytes.len(),
                Piece::Hole(hole) => holes.push(hole),
            });
            assert!(direction.held_bytes() <= HELD_PER_DIRECTION);
        }
        assert!(delivered > 9_000_000, "{delivered}");
        assert!(holes.iter().all(|hole| *hole == Hole { len: 1000, cause: Cause::HeldTooMuch }));
    }

    #[test]
    fn an_acknowledgement_beyond_a_held_segment_ends_the_wait() {
        let mut direction = Direction::default();
        direction.start(100);
        let mut seen = Vec::new();
        let mut sink = |piece: Piece<'_>| {
            seen.push(match piece {
                Piece::Bytes(bytes, _) => String::from_utf8_lossy(bytes).into_owned(),
                Piece::Hole(hole) => hole.to_string(),
            });
        };
        direction.push(Segment { seq: 110, bytes: b"kl", wire_len: 2, time_ns: 0 }, Cause::NotSeen, &mut sink);
        direction.acknowledged(105, Cause::NotSeen, &mut sink);
        direction.acknowledged(112, Cause::NotSeen, &mut sink);
        assert_eq!(seen, ["10 bytes missing: no packet held them", "kl"]);
    }
}
