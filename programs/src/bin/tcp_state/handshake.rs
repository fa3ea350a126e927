//! How a connection begins and ends. The rules are in `bpflab_programs::tcp_state`.

use bpflab_programs::packet::{ACK, FIN, FlowKey, RST, SYN};
use bpflab_programs::tcp_state::{
    CLOSED, CLOSING, Connection, ESTABLISHED, FIN_ACKED, FIN_WAIT, HAS_ACK, HAS_FIN, HAS_SEQ, HAS_SYN, Half,
    KIND_CONNECTION, MIDSTREAM, NOBODY, Progress, RESET, SYN_RECEIVED, SYN_SENT,
};

use crate::acknowledgement;
use crate::segment::{Segment, masked};
use crate::sequence::{self, PLAUSIBLE, distance};

/// Takes a segment into account and returns the number of holes that had to be forgotten.
///
/// Everything from here on is inlined: kernels before 6.9 allow no function call while the lock is held.
#[inline(always)]
pub fn track(connection: &mut Connection, key: &FlowKey, direction: usize, segment: &Segment) -> u32 {
    let Connection { kind, key: own_key, progress, halves, .. } = connection;
    if *kind == 0 {
        *kind = KIND_CONNECTION;
        *own_key = *key;
        begin(progress, direction, segment);
    }
    progress.last_ns = segment.now;
    let from_client = direction == usize::from(progress.client);
    let halves = halves.as_mut_ptr();
    let (mine, other) = (masked::<1>(direction as u64), masked::<1>(direction as u64 ^ 1));
    // SAFETY: indices 0 and 1 of an array of two, never the same one.
    let (me, peer) = unsafe { (&mut *halves.add(mine), &mut *halves.add(other)) };

    if segment.has(RST) {
        if progress.state != CLOSED && progress.state != RESET && rst_counts(progress, me, peer, segment) {
            progress.state = RESET;
            progress.reset_by = direction as u8;
        }
        return 0;
    }
    if segment.has(SYN) && !syn(progress, me, peer, from_client, segment) {
        return 0;
    }
    let Some(forgotten) = sequence::track(progress, me, peer, segment) else { return 0 };
    let forgotten = segment.settle(forgotten.into()) as u32;
    if segment.has(ACK) {
        acknowledgement::track(me, peer, segment);
    }
    advance(progress, me, peer, from_client, segment);
    forgotten
}

/// Whether a SYN (without ACK) begins another connection than `old`.
#[inline(always)]
pub fn starts_new(old: &Connection, direction: usize, segment: &Segment) -> bool {
    // SAFETY: index 0 or 1 of an array of two.
    let me = unsafe { &*old.halves.as_ptr().add(masked::<1>(direction as u64)) };
    if me.flags & HAS_SYN != 0 && me.isn == segment.seq {
        return false;
    }
    match old.progress.state {
        CLOSED | RESET | MIDSTREAM => true,
        // A SYN of the other side is a simultaneous open.
        SYN_SENT => usize::from(old.progress.client) == direction,
        _ => me.flags & HAS_SEQ != 0 && distance(segment.seq, me.next) > 0,
    }
}

/// The first segment. Only what is not 0 is written: LLVM would clear the rest by a function call.
#[inline(always)]
fn begin(progress: &mut Progress, direction: usize, segment: &Segment) {
    let client = direction as u8;
    progress.reset_by = NOBODY;
    progress.first_ns = segment.now;
    (progress.state, progress.client) = match segment.flags & (SYN | ACK) {
        SYN => (SYN_SENT, client),
        flags if flags & SYN != 0 => (SYN_RECEIVED, client ^ 1),
        _ => (MIDSTREAM, client),
    };
}

/// Takes note of a SYN; false if it belongs to no attempt under way and must not move the numbers.
#[inline(always)]
fn syn(progress: &mut Progress, me: &mut Half, peer: &Half, from_client: bool, segment: &Segment) -> bool {
    let repeated = me.flags & HAS_SYN != 0 && me.isn == segment.seq;
    if !segment.has(ACK) {
        return first_syn(progress, me, from_client, repeated, segment.now);
    }
    if progress.state != SYN_SENT && progress.state != SYN_RECEIVED {
        return repeated;
    }
    if from_client {
        // The second step of a simultaneous open (RFC 9293 section 3.5, figure 7).
        return repeated;
    }
    if peer.flags & HAS_SYN != 0 {
        // It must answer the client's SYN, with or without the data that came with it (RFC 7413).
        let acknowledged = distance(segment.ack, peer.isn);
        if acknowledged < 1 || distance(segment.ack, peer.next) > 0 {
            return false;
        }
        if progress.syn_ack_ns == 0 {
            progress.syn_ack_ns = segment.now;
        }
        progress.last_syn_ack_ns = segment.now;
    }
    if me.flags & HAS_SYN != 0 && !repeated {
        // Another number than before: a server with SYN cookies (RFC 4987 section 3.6) remembers none.
        me.flags &= !(HAS_SEQ | HAS_SYN);
    }
    progress.state = SYN_RECEIVED;
    true
}

#[inline(always)]
fn first_syn(progress: &mut Progress, me: &Half, from_client: bool, repeated: bool, now: u64) -> bool {
    if me.flags & HAS_SYN == 0 {
        if from_client && progress.state == SYN_SENT {
            progress.syn_ns = now;
            return true;
        }
        // Both sides open at once (RFC 9293 section 3.5).
        let simultaneous = !from_client && progress.state == SYN_SENT;
        if simultaneous {
            progress.state = SYN_RECEIVED;
        }
        return simultaneous;
    }
    if repeated && from_client && progress.ack_ns == 0 {
        if progress.state == RESET {
            // Refused, and tried again with the same number.
            progress.state = SYN_SENT;
            progress.reset_by = NOBODY;
            progress.syn_ack_ns = 0;
        }
        if progress.syn_ack_ns == 0 {
            progress.syn_retries += 1;
            progress.syn_ns = now;
        }
    }
    repeated
}

/// Whether the peer could take a RST (RFC 9293 sections 3.10.7.3 and 3.10.7.4), as far as an observer can tell.
#[inline(always)]
fn rst_counts(progress: &Progress, me: &Half, peer: &Half, segment: &Segment) -> bool {
    if peer.flags & HAS_ACK != 0 {
        return (0..PLAUSIBLE).contains(&distance(segment.seq, peer.acked));
    }
    if me.flags & HAS_SEQ != 0 {
        return (1 - PLAUSIBLE..PLAUSIBLE).contains(&distance(segment.seq, me.next));
    }
    if peer.flags & HAS_SEQ != 0 && progress.state != MIDSTREAM {
        return segment.has(ACK) && (1..PLAUSIBLE).contains(&distance(segment.ack, peer.isn));
    }
    true
}

/// Moves the state on after the numbers have been noted.
#[inline(always)]
fn advance(progress: &mut Progress, me: &mut Half, peer: &mut Half, from_client: bool, segment: &Segment) {
    if segment.has(FIN) && me.flags & HAS_FIN == 0 {
        me.flags |= HAS_FIN;
        me.fin_end = segment.seq.wrapping_add(segment.len);
    }
    if peer.flags & HAS_FIN != 0 && me.flags & HAS_ACK != 0 && distance(me.acked, peer.fin_end) >= 0 {
        peer.flags |= FIN_ACKED;
    }
    if progress.state == RESET {
        return;
    }
    if progress.state == SYN_SENT || progress.state == SYN_RECEIVED {
        let (client, server) = if from_client { (&*me, &*peer) } else { (&*peer, &*me) };
        if established(client, server) {
            progress.state = ESTABLISHED;
            if from_client && progress.syn_ack_ns != 0 && !segment.has(SYN) {
                progress.ack_ns = segment.now;
            }
        }
    }
    let flags = me.flags & peer.flags;
    if flags & HAS_FIN != 0 {
        progress.state = if flags & FIN_ACKED != 0 { CLOSED } else { CLOSING };
    } else if (me.flags | peer.flags) & HAS_FIN != 0 {
        progress.state = FIN_WAIT;
    }
}

/// Whether each side has acknowledged the other's SYN. Where nothing of the server was seen the client's word counts.
#[inline(always)]
fn established(client: &Half, server: &Half) -> bool {
    if client.flags & HAS_ACK == 0 {
        return false;
    }
    if server.flags & HAS_SEQ == 0 {
        return true;
    }
    let server_opened = server.flags & HAS_SYN == 0 || distance(client.acked, server.isn) > 0;
    let client_opened =
        client.flags & HAS_SYN == 0 || (server.flags & HAS_ACK != 0 && distance(server.acked, client.isn) > 0);
    server_opened && client_opened
}
