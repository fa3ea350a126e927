//! What was seen of TCP connections, on their segments.
//!
//! The observation counts; which segments the counts are about is found out here by the rules of the program that counts
//! (`tcp_state`), for as many of them as it counted. What it counted beyond those is told apart.

use std::collections::{BTreeSet, HashMap};

use super::events::Notes;
use super::packet::{Packet, Segment};
use crate::observation::{Connection, Handshake, Tcp};

/// Places what is known of connections. The n-th of two ends is taken for the n-th in the recording.
pub(super) fn place(notes: &mut Notes<'_>, tcp: &Tcp) {
    let mut known: HashMap<(&str, &str), usize> = HashMap::new();
    for handshake in &tcp.handshakes {
        let number = known.entry((&handshake.client, &handshake.server)).or_default();
        placed_handshake(notes, handshake, *number);
        *number += 1;
    }
    known.clear();
    for connection in &tcp.connections {
        let number = known.entry((&connection.client, &connection.server)).or_default();
        placed_connection(notes, connection, *number);
        *number += 1;
    }
}

fn placed_handshake(notes: &mut Notes<'_>, handshake: &Handshake, nth: usize) {
    let Handshake { client, server, rtt_us, syn_to_syn_ack_us, syn_ack_to_ack_us, syn_retries } = handshake;
    let retries = if *syn_retries > 0 { format!(", after {syn_retries} repeated SYNs") } else { String::new() };
    let text = format!(
        "tcp: handshake takes {rtt_us:.0} us, {syn_to_syn_ack_us:.0} of them the server's side and {syn_ack_to_ack_us:.0} \
         the client's{retries}"
    );
    let flow = format!("tcp {client} > {server}");
    notes.place_nth(&flow, nth, |packet| packet.tcp.is_some_and(|tcp| tcp.syn && !tcp.ack), text);
}

fn placed_connection(notes: &mut Notes<'_>, connection: &Connection, nth: usize) {
    let Connection { client, server, state, reset_by, payload, .. } = connection;
    let there = format!("tcp {client} > {server}");
    let back = format!("tcp {server} > {client}");
    let bytes = format!("{} payload bytes there, {} back", payload.a_to_b, payload.b_to_a);
    let opens = |packet: &Packet| packet.tcp.is_some_and(|tcp| tcp.syn && !tcp.ack);
    let text = format!("tcp: connection ends as {state}, {bytes}");
    if state == "midstream" || !notes.has(&there, opens) {
        // Its beginning was not seen.
        notes.place_nth(&there, nth, |_| true, text);
    } else {
        notes.place_nth(&there, nth, opens, text);
    }
    if let Some(side) = reset_by {
        let flow = if side == "server" { &back } else { &there };
        let is_reset = |packet: &Packet| packet.tcp.is_some_and(|tcp| tcp.rst);
        notes.place_nth(flow, 0, is_reset, format!("tcp: reset by {side}"));
    }
    let counts = |way: fn(crate::observation::PerDirection) -> u64| Counts {
        retransmissions: way(connection.retransmissions),
        out_of_order: way(connection.out_of_order),
        duplicate_acks: way(connection.duplicate_acks),
        zero_windows: way(connection.zero_windows),
        window_updates: way(connection.window_updates),
    };
    segments(notes, [&there, &back], counts(|both| both.a_to_b));
    segments(notes, [&back, &there], counts(|both| both.b_to_a));
}

/// How many segments of a direction are still to be found.
struct Counts {
    retransmissions: u64,
    out_of_order: u64,
    duplicate_acks: u64,
    zero_windows: u64,
    window_updates: u64,
}

/// What a direction has shown so far.
#[derive(Default)]
struct Shown {
    starts: BTreeSet<u32>,
    /// The number behind the last byte.
    end: Option<u32>,
    acknowledged: Option<(u32, u16)>,
    /// The number behind the last byte of the other direction.
    peer_end: Option<u32>,
}

impl Shown {
    /// Takes in a segment of the other direction.
    fn took(&mut self, packet: &Packet) {
        let Some(tcp) = packet.tcp.filter(|tcp| !tcp.rst) else { return };
        let len = taken(packet, tcp);
        if len > 0 {
            self.peer_end = further(self.peer_end, tcp.sequence.wrapping_add(len));
        }
    }
}

/// The sequence numbers that a segment takes: one a byte, and one each for SYN and FIN (RFC 9293 section 3.4).
fn taken(packet: &Packet, tcp: Segment) -> u32 {
    let len = u32::try_from(packet.payload.len()).unwrap_or(u32::MAX);
    len.saturating_add(u32::from(tcp.syn)).saturating_add(u32::from(tcp.fin))
}

/// The later of two numbers.
fn further(known: Option<u32>, end: u32) -> Option<u32> {
    Some(known.filter(|known| before(end, *known)).unwrap_or(end))
}

/// Goes through a direction's segments and says what each is; `flow` is the direction and the other.
fn segments(notes: &mut Notes<'_>, [flow, back]: [&str; 2], mut counts: Counts) {
    let all = [
        counts.retransmissions,
        counts.out_of_order,
        counts.duplicate_acks,
        counts.zero_windows,
        counts.window_updates,
    ];
    if all.iter().all(|count| *count == 0) {
        return;
    }
    let mut shown = Shown::default();
    let mut answered = notes.positions(back).into_iter().peekable();
    for position in notes.positions(flow) {
        while let Some(earlier) = answered.next_if(|earlier| *earlier < position) {
            shown.took(&notes.packets[earlier]);
        }
        let packet = &notes.packets[position];
        let Some(tcp) = packet.tcp.filter(|tcp| !tcp.rst) else { continue };
        let len = taken(packet, tcp);
        let mut is = |left: &mut u64, text: &str| {
            if *left > 0 {
                *left -= 1;
                notes.note(position, format!("tcp: {text}"));
            }
        };
        if len > 0 {
            let is_behind = shown.end.is_some_and(|end| before(tcp.sequence, end));
            // A segment that is sent again begins where it began, as a rule; what is cut otherwise is not found.
            if !shown.starts.insert(tcp.sequence) {
                is(&mut counts.retransmissions, "retransmission");
            } else if is_behind {
                is(&mut counts.out_of_order, "out of order");
            }
            shown.end = further(shown.end, tcp.sequence.wrapping_add(len));
        }
        if tcp.window == 0 && !tcp.syn && !tcp.fin {
            is(&mut counts.zero_windows, "zero window");
        }
        if len == 0 && tcp.ack {
            // What acknowledges all that there is, is no duplicate.
            let is_open = |number: u32| shown.peer_end.is_some_and(|end| before(number, end));
            match shown.acknowledged.filter(|(number, _)| *number == tcp.acknowledgement) {
                Some((number, window)) if window == tcp.window && is_open(number) => {
                    is(&mut counts.duplicate_acks, "duplicate acknowledgement");
                }
                Some((_, window)) if window != tcp.window && tcp.window != 0 => {
                    is(&mut counts.window_updates, "window update");
                }
                _ => {}
            }
        }
        if tcp.ack {
            shown.acknowledged = Some((tcp.acknowledgement, tcp.window));
        }
    }
    let left = [
        (counts.retransmissions, "retransmissions"),
        (counts.out_of_order, "segments out of order"),
        (counts.duplicate_acks, "duplicate acknowledgements"),
        (counts.zero_windows, "zero windows"),
        (counts.window_updates, "window updates"),
    ];
    for (count, what) in left.into_iter().filter(|(count, _)| *count > 0) {
        notes.unplaced(format!("{flow}: {count} {what} are on no packet here"));
    }
}

/// Whether a number is before another (RFC 9293 section 3.4: modulo 2^32).
fn before(one: u32, other: u32) -> bool {
    one.wrapping_sub(other) > u32::MAX / 2
}
