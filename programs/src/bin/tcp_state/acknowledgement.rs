//! What a segment's acknowledgement and window say. The rules are in `bpflab_programs::tcp_state`.

use bpflab_programs::packet::{FIN, SYN};
use bpflab_programs::tcp_state::{HAS_ACK, HAS_KARN, HAS_SEQ, HAS_TS, HAS_WINDOW, Half, PROBING, TIMED};

use crate::segment::Segment;
use crate::sequence::{PLAUSIBLE, distance, timed};

/// Takes note of the acknowledgement and window of a segment that `me` sent, with ACK and without RST.
#[inline(always)]
pub fn track(me: &mut Half, peer: &mut Half, segment: &Segment) {
    let known = me.flags & HAS_ACK != 0;
    let before = if known { me.acked } else { segment.ack };
    let progress = distance(segment.ack, before);
    if !(1 - PLAUSIBLE..PLAUSIBLE).contains(&progress) {
        return;
    }
    if known && progress == 0 && me.flags & HAS_WINDOW != 0 && segment.payload == 0 && !segment.has(SYN | FIN) {
        repeated(me, peer, segment);
    }
    if !known || progress > 0 {
        me.flags |= HAS_ACK;
        me.acked = segment.ack;
        measure(peer, before, segment);
    }
    if !segment.has(SYN) && progress >= 0 {
        me.flags |= HAS_WINDOW;
        me.window = segment.window;
    }
    if segment.window == 0 && !segment.has(SYN | FIN) {
        me.zero_windows += 1;
    }
}

/// A segment without data that acknowledges nothing new: duplicate, or window update.
#[inline(always)]
fn repeated(me: &mut Half, peer: &Half, segment: &Segment) {
    if segment.window != me.window {
        me.window_updates += u32::from(segment.window != 0);
        return;
    }
    let outstanding = peer.flags & HAS_SEQ != 0 && distance(peer.next, segment.ack) > 0;
    // A keep-alive; the segment is known to have come with its number below `next`.
    let keep_alive = distance(segment.seq, me.next) == -1;
    if outstanding && !keep_alive {
        me.duplicate_acks += 1;
    }
}

/// Ends the measurements that an acknowledgement covers; `before` is the previous one.
#[inline(always)]
fn measure(peer: &mut Half, before: u32, segment: &Segment) {
    if peer.flags & PROBING != 0 {
        peer.flags &= !PROBING;
        if distance(segment.ack, peer.next) == 1 {
            // The receiver took the probe's byte after all.
            peer.next = segment.ack;
            peer.payload += 1;
        }
    }
    let mut at_ns = 0;
    let mut tsval = 0u32;
    for index in 0..TIMED {
        let timed = timed(&mut peer.timed, index);
        if timed.at_ns == 0 || distance(segment.ack, timed.end) < 0 {
            continue;
        }
        if timed.end == segment.ack {
            (at_ns, tsval) = (timed.at_ns, timed.tsval);
        }
        timed.at_ns = 0;
    }
    (at_ns, tsval) = (segment.settle(at_ns), segment.settle(tsval.into()) as u32);
    let once = if segment.has_ts && peer.flags & HAS_TS != 0 {
        distance(segment.tsecr, tsval) <= 0
    } else {
        peer.flags & HAS_KARN == 0 || distance(before, peer.karn) >= 0
    };
    if at_ns == 0 || !once {
        return;
    }
    let rtt = segment.now.saturating_sub(at_ns);
    if peer.rtt_samples == 0 || rtt < peer.rtt_min_ns {
        peer.rtt_min_ns = rtt;
    }
    peer.rtt_max_ns = peer.rtt_max_ns.max(rtt);
    peer.rtt_sum_ns += rtt;
    peer.rtt_samples += 1;
}
