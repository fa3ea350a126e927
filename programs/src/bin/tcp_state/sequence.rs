//! What a segment's sequence numbers say: new, sent again, late, or missing. The rules are in
//! `bpflab_programs::tcp_state`.

use bpflab_programs::packet::{ACK, FIN, SYN};
use bpflab_programs::tcp_state::{
    DEFAULT_RTT_NS, HAS_ACK, HAS_FIN, HAS_KARN, HAS_SEQ, HAS_SYN, HAS_TS, HAS_WINDOW, HOLES, Half, Hole, PROBING,
    Progress, TIMED, Timed,
};

use crate::segment::{Segment, masked};

/// Numbers this far apart cannot belong to the same window, the largest of which is 65,535 << 14 (RFC 7323 section 2.3).
pub const PLAUSIBLE: i32 = 1 << 30;
/// What may have been sent before the first segment seen, and overtaken by it: as much as fits a window without scale.
const BEFORE: u32 = 0xffff;

/// How far `to` lies after `from`, modulo 2^32 (RFC 9293 section 3.4); negative if before.
#[inline(always)]
pub fn distance(to: u32, from: u32) -> i32 {
    to.wrapping_sub(from).cast_signed()
}

/// Takes note of a segment's numbers. Nothing if they cannot belong to the connection; otherwise how many holes had
/// to be forgotten.
#[inline(always)]
pub fn track(progress: &Progress, me: &mut Half, peer: &Half, segment: &Segment) -> Option<u32> {
    if segment.has_ts {
        me.flags |= HAS_TS;
    }
    if me.flags & HAS_SEQ == 0 {
        first(me, segment);
        return Some(0);
    }
    let from = distance(segment.seq, me.next);
    if !(1 - PLAUSIBLE..PLAUSIBLE).contains(&from) {
        return None;
    }
    if segment.has(SYN) && segment.has(ACK) && me.flags & HAS_ACK == 0 {
        // A simultaneous open: the SYN again, now with the acknowledgement of the other one.
        return Some(0);
    }
    if segment.payload == 1 && segment.len == 1 && (from == 0 || from == -1) && probe(me, peer, from) {
        return Some(0);
    }
    if from < 0 {
        return Some(if segment.len == 0 { 0 } else { late(progress, me, segment, from) });
    }
    let mut forgotten = 0;
    if from > 0 {
        forgotten = open(me, segment, hole(me.next, segment.seq, segment));
    }
    me.flags &= !PROBING;
    me.next = segment.seq.wrapping_add(segment.len);
    me.payload += u64::from(segment.payload);
    time(me, segment);
    Some(forgotten)
}

/// The first segment of a direction.
#[inline(always)]
fn first(me: &mut Half, segment: &Segment) {
    me.flags |= HAS_SEQ;
    me.isn = segment.seq;
    me.next = segment.seq.wrapping_add(segment.len);
    me.payload += u64::from(segment.payload);
    if segment.has(SYN) {
        me.flags |= HAS_SYN;
    } else {
        // Without the SYN nobody knows what came before.
        open(me, segment, hole(segment.seq.wrapping_sub(BEFORE), segment.seq, segment));
        time(me, segment);
    }
}

/// Whether a segment with one byte, at `next` or before it, is a zero-window probe or a keep-alive.
#[inline(always)]
fn probe(me: &mut Half, peer: &Half, from: i32) -> bool {
    if from == 0 {
        let closed = peer.flags & HAS_WINDOW != 0 && peer.window == 0;
        if closed {
            me.flags |= PROBING;
        }
        return closed;
    }
    peer.flags & HAS_ACK != 0 && peer.acked == me.next
}

/// A segment that begins before `next`, at the negative distance `from`.
#[inline(always)]
fn late(progress: &Progress, me: &mut Half, segment: &Segment, from: i32) -> u32 {
    let to = from.wrapping_add(segment.len.cast_signed());
    let filled = fill(me, segment, from, to);
    let rtt = progress.handshake_rtt_ns().unwrap_or(DEFAULT_RTT_NS);
    let newer = segment.has_ts && filled.has_ts != 0 && distance(segment.tsval, filled.tsval) > 0;
    let overtaken = filled.at_ns != 0 && segment.now.saturating_sub(filled.at_ns) <= rtt && !newer;
    if overtaken {
        me.out_of_order += 1;
    } else {
        me.retransmissions += 1;
    }
    let mut new = filled.numbers.wrapping_add(to.max(0));
    if segment.has(FIN) && me.flags & HAS_FIN == 0 && new > 0 {
        new -= 1;
    }
    me.payload += u64::from(new.cast_unsigned());
    if to > 0 {
        me.next = me.next.wrapping_add(to.cast_unsigned());
    }
    karn(me, segment);
    filled.forgotten
}

/// What a late segment filled.
struct Filled {
    /// Missing numbers that it brought.
    numbers: i32,
    /// When the hole that it lies in wholly was opened, 0 if it does not.
    at_ns: u64,
    /// TSval of the segment that opened that hole.
    tsval: u32,
    /// Whether that one had timestamps.
    has_ts: u32,
    /// Holes that had to be forgotten.
    forgotten: u32,
}

/// Takes the numbers between two distances from `next` out of the holes.
#[inline(always)]
fn fill(me: &mut Half, segment: &Segment, from: i32, to: i32) -> Filled {
    let mut filled = Filled { numbers: 0, at_ns: 0, tsval: 0, has_ts: 0, forgotten: 0 };
    let next = me.next;
    let mut rest = Hole::default();
    for index in 0..HOLES {
        let hole = hole_at(&mut me.holes, index);
        if hole.start == hole.end {
            continue;
        }
        let (start, end) = (distance(hole.start, next), distance(hole.end, next));
        let overlap = to.min(end).wrapping_sub(from.max(start));
        if overlap <= 0 {
            continue;
        }
        filled.numbers = filled.numbers.wrapping_add(overlap);
        if from >= start && to <= end {
            (filled.at_ns, filled.tsval, filled.has_ts) = (hole.at_ns, hole.tsval, hole.has_ts);
        }
        if from > start && to < end {
            rest = Hole { start: next.wrapping_add(to.cast_unsigned()), ..*hole };
        }
        if from > start {
            hole.end = next.wrapping_add(from.cast_unsigned());
        } else if to < end {
            hole.start = next.wrapping_add(to.cast_unsigned());
        } else {
            hole.end = hole.start;
        }
    }
    filled.numbers = segment.settle(u64::from(filled.numbers.cast_unsigned())) as i32;
    filled.at_ns = segment.settle(filled.at_ns);
    if rest.start != rest.end {
        filled.forgotten = open(me, segment, rest);
    }
    filled
}

/// An element of the holes. Its index is bounded here: what LLVM makes of a loop over the elements themselves is beyond
/// the verifier of 5.10.
#[inline(always)]
fn hole_at(holes: &mut [Hole; HOLES], index: usize) -> &mut Hole {
    const { assert!(HOLES == 4, "an index is two bits") };
    // SAFETY: the index is below 4.
    unsafe { &mut *holes.as_mut_ptr().add(masked::<3>(index as u64)) }
}

/// An element of what is being measured, as [`hole_at`].
#[inline(always)]
pub fn timed(timed: &mut [Timed; TIMED], index: usize) -> &mut Timed {
    const { assert!(TIMED == 8, "an index is three bits") };
    // SAFETY: the index is below 8.
    unsafe { &mut *timed.as_mut_ptr().add(masked::<7>(index as u64)) }
}

#[inline(always)]
fn hole(start: u32, end: u32, segment: &Segment) -> Hole {
    Hole { at_ns: segment.now, start, end, tsval: segment.tsval, has_ts: u32::from(segment.has_ts) }
}

/// Remembers a hole, in place of the oldest if there is no room; 1 if that one had to be forgotten.
#[inline(always)]
fn open(me: &mut Half, segment: &Segment, new: Hole) -> u32 {
    let mut chosen = 0;
    // A free hole counts as opened at 0, which is before every other.
    let mut chosen_at = u64::MAX;
    for index in 0..HOLES {
        let hole = hole_at(&mut me.holes, index);
        let at_ns = if hole.start == hole.end { 0 } else { hole.at_ns };
        if at_ns < chosen_at {
            chosen_at = segment.settle(at_ns);
            chosen = segment.settle(index as u64);
        }
    }
    *hole_at(&mut me.holes, chosen as usize) = new;
    segment.settle(u64::from(chosen_at != 0)) as u32
}

/// Awaits the acknowledgement of a segment with new data or FIN, if there is room.
#[inline(always)]
fn time(me: &mut Half, segment: &Segment) {
    if segment.len == 0 || segment.has(SYN) {
        return;
    }
    for index in 0..TIMED {
        let timed = timed(&mut me.timed, index);
        if timed.at_ns == 0 {
            *timed = Timed { at_ns: segment.now, end: me.next, tsval: segment.tsval };
            return;
        }
    }
}

/// Karn's rule after a segment that was late or sent again: what is under way measures no round trip, unless an echoed
/// timestamp will tell which transmission was answered.
#[inline(always)]
fn karn(me: &mut Half, segment: &Segment) {
    me.flags |= HAS_KARN;
    me.karn = me.next;
    for index in 0..TIMED {
        let timed = timed(&mut me.timed, index);
        if !(segment.has_ts && distance(segment.tsval, timed.tsval) > 0) {
            timed.at_ns = 0;
        }
    }
}
