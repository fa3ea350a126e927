//! From the program's connections to the observation's.

use bpflab_programs::packet::FlowKey;
use bpflab_programs::tcp_state::{
    CLOSED, CLOSING, Connection, ESTABLISHED, FIN_WAIT, HAS_WINDOW, Half, MIDSTREAM, RESET, SYN_RECEIVED, SYN_SENT,
    Totals,
};

use crate::observation::{self, Handshake, PerDirection, Rtt, Tcp};
use crate::suite::format::endpoint;

/// TCP health from the totals and all connections, which are in order of their first packet.
pub(super) fn report(totals: &Totals, connections: &[Connection]) -> Tcp {
    let mut tcp = Tcp {
        syn: totals.syn,
        syn_ack: totals.syn_ack,
        rst: totals.rst,
        fin: totals.fin,
        half_open: connections.iter().filter(|connection| half_open(connection)).count() as u64,
        handshakes: connections.iter().filter_map(handshake).collect(),
        connections: connections.iter().map(describe).collect(),
        ..Tcp::default()
    };
    for half in connections.iter().flat_map(|connection| &connection.halves) {
        tcp.retransmissions += u64::from(half.retransmissions);
        tcp.out_of_order += u64::from(half.out_of_order);
        tcp.duplicate_acks += u64::from(half.duplicate_acks);
        tcp.zero_windows += u64::from(half.zero_windows);
        tcp.window_updates += u64::from(half.window_updates);
    }
    tcp
}

/// A connection seen from its client: endpoints and halves in the order client, server.
struct Sides<'a> {
    names: [String; 2],
    halves: [&'a Half; 2],
    client: u8,
}

impl<'a> Sides<'a> {
    fn of(connection: &'a Connection) -> Self {
        let Connection { key, progress, halves: [a, b], .. } = connection;
        let FlowKey { family, .. } = *key;
        let first = endpoint(family, &key.a, Some(key.a_port));
        let second = endpoint(family, &key.b, Some(key.b_port));
        if progress.client == 0 {
            Self { names: [first, second], halves: [a, b], client: 0 }
        } else {
            Self { names: [second, first], halves: [b, a], client: 1 }
        }
    }

    fn each(&self, count: impl Fn(&Half) -> u64) -> PerDirection {
        PerDirection { a_to_b: count(self.halves[0]), b_to_a: count(self.halves[1]) }
    }
}

/// Whether a SYN was seen, but neither the rest of the handshake nor a RST.
fn half_open(connection: &Connection) -> bool {
    matches!(connection.progress.state, SYN_SENT | SYN_RECEIVED) && connection.progress.syn_ns != 0
}

fn handshake(connection: &Connection) -> Option<Handshake> {
    let progress = &connection.progress;
    let rtt_ns = progress.handshake_rtt_ns()?;
    let [client, server] = Sides::of(connection).names;
    Some(Handshake {
        client,
        server,
        rtt_us: microseconds(rtt_ns),
        syn_to_syn_ack_us: microseconds(progress.syn_ack_ns.saturating_sub(progress.syn_ns)),
        syn_ack_to_ack_us: microseconds(progress.ack_ns.saturating_sub(progress.last_syn_ack_ns)),
        syn_retries: progress.syn_retries.into(),
    })
}

fn describe(connection: &Connection) -> observation::Connection {
    let sides = Sides::of(connection);
    let reset_by = connection.progress.reset_by;
    observation::Connection {
        state: state_name(connection.progress.state).to_owned(),
        reset_by: (reset_by <= 1).then(|| if reset_by == sides.client { "client" } else { "server" }.to_owned()),
        payload: sides.each(|half| half.payload),
        retransmissions: sides.each(|half| half.retransmissions.into()),
        out_of_order: sides.each(|half| half.out_of_order.into()),
        duplicate_acks: sides.each(|half| half.duplicate_acks.into()),
        zero_windows: sides.each(|half| half.zero_windows.into()),
        window_updates: sides.each(|half| half.window_updates.into()),
        rtt_to_server: rtt(sides.halves[0]),
        rtt_to_client: rtt(sides.halves[1]),
        client_window: window(sides.halves[0]),
        server_window: window(sides.halves[1]),
        client: sides.names[0].clone(),
        server: sides.names[1].clone(),
    }
}

const fn state_name(state: u8) -> &'static str {
    match state {
        SYN_SENT => "syn_sent",
        SYN_RECEIVED => "syn_received",
        ESTABLISHED => "established",
        FIN_WAIT => "fin_wait",
        CLOSING => "closing",
        CLOSED => "closed",
        RESET => "reset",
        MIDSTREAM => "midstream",
        _ => "unknown",
    }
}

fn window(half: &Half) -> Option<u16> {
    (half.flags & HAS_WINDOW != 0).then_some(half.window)
}

fn rtt(half: &Half) -> Rtt {
    if half.rtt_samples == 0 {
        return Rtt::default();
    }
    #[allow(clippy::cast_precision_loss, reason = "a sum of round trips is far below 2^52 ns")]
    let mean_us = half.rtt_sum_ns as f64 / f64::from(half.rtt_samples) / 1000.0;
    Rtt {
        samples: half.rtt_samples.into(),
        min_us: microseconds(half.rtt_min_ns),
        mean_us,
        max_us: microseconds(half.rtt_max_ns),
    }
}

#[allow(clippy::cast_precision_loss, reason = "a span of time within a capture is far below 2^52 ns (52 days)")]
fn microseconds(ns: u64) -> f64 {
    ns as f64 / 1000.0
}
