//! A connection as the path saw it, against the sockets at its ends. Pure.
//!
//! The two views are of different places, and both may be right: a segment that is lost behind the observer was sent as
//! far as that one knows. A disagreement is therefore no failure, but what to look at first.

use crate::observation::{Connection, Disagreement, Handshake, KernelSocket, Rtt, Tcp};

/// How far a smoothed round trip may lie outside of the single ones that the observer measured, as a factor and in µs
/// beside it: hosts take their time, too, and each side measures other segments.
const RTT_FACTOR: f64 = 2.0;
const RTT_SLACK_US: f64 = 10_000.0;
/// The greatest value of the window field (RFC 9293 section 3.1).
const WIDEST: u64 = 65_535;

/// Which end of a connection a socket is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// Every property in which a socket and its connection disagree. `real_time` says whether the times of both are of one
/// clock; without it round trips are not compared.
pub(super) fn disagreements(tcp: &Tcp, sockets: &[KernelSocket], real_time: bool) -> Vec<Disagreement> {
    let mut all = Vec::new();
    for socket in sockets {
        // Of several connections with the same ports, the socket is that of the last.
        let found = tcp.connections.iter().rev().find_map(|connection| Some((connection, side(connection, socket)?)));
        let Some((connection, side)) = found else { continue };
        let mut differs = |property: &str, wire: Option<String>, kernel: String| {
            all.extend(wire.map(|wire| Disagreement {
                host: socket.host.clone(),
                local: socket.local.clone(),
                remote: socket.remote.clone(),
                property: property.to_owned(),
                wire,
                kernel,
            }));
        };
        differs("state", state(connection, socket), socket.state.clone());
        differs("retransmissions", retransmissions(connection, side, socket), socket.retransmissions.to_string());
        let window = socket.receive_window.map_or_else(String::new, |bytes| format!("{bytes} bytes"));
        differs("receive window", window_of(connection, side, socket), window);
        if real_time {
            let handshakes = tcp.handshakes.iter().rev();
            let handshake = handshakes.into_iter().find(|one| same_ends(one, connection));
            let srtt = socket.srtt_us.map_or_else(String::new, |us| format!("{us:.0} us"));
            differs("round trip", round_trip(connection, handshake, side, socket), srtt);
        }
    }
    all
}

fn side(connection: &Connection, socket: &KernelSocket) -> Option<Side> {
    if (&socket.local, &socket.remote) == (&connection.client, &connection.server) {
        Some(Side::Client)
    } else if (&socket.local, &socket.remote) == (&connection.server, &connection.client) {
        Some(Side::Server)
    } else {
        None
    }
}

fn same_ends(handshake: &Handshake, connection: &Connection) -> bool {
    (&handshake.client, &handshake.server) == (&connection.client, &connection.server)
}

/// The path's state, if no socket of such a connection could be in the kernel's. A socket that waits for stray segments
/// (TIME_WAIT) is a `CLOSE`d one to the kernel, which keeps a smaller thing in its place.
fn state(connection: &Connection, socket: &KernelSocket) -> Option<String> {
    let possible: &[&str] = match connection.state.as_str() {
        "syn_sent" => &["SYN_SENT", "SYN_RECV", "CLOSE"],
        "syn_received" => &["SYN_SENT", "SYN_RECV", "ESTABLISHED"],
        "established" => &["ESTABLISHED"],
        "fin_wait" => &["FIN_WAIT1", "FIN_WAIT2", "CLOSE_WAIT", "TIME_WAIT", "CLOSE"],
        "closing" => &["FIN_WAIT1", "FIN_WAIT2", "CLOSING", "LAST_ACK", "TIME_WAIT", "CLOSE"],
        "closed" | "reset" => &["TIME_WAIT", "CLOSE"],
        // Joined midstream: whatever the socket says.
        _ => return None,
    };
    (!possible.contains(&socket.state.as_str())).then(|| connection.state.clone())
}

fn retransmissions(connection: &Connection, side: Side, socket: &KernelSocket) -> Option<String> {
    let seen = match side {
        Side::Client => connection.retransmissions.a_to_b,
        Side::Server => connection.retransmissions.b_to_a,
    };
    (seen != socket.retransmissions).then(|| seen.to_string())
}

/// The window that the path saw announced last, if it is not the one that the socket has announced last. The scale is
/// the socket's: an observer may have missed the handshake.
fn window_of(connection: &Connection, side: Side, socket: &KernelSocket) -> Option<String> {
    let seen = match side {
        Side::Client => connection.client_window?,
        Side::Server => connection.server_window?,
    };
    let announced = (socket.receive_window? >> socket.window_scale).min(WIDEST);
    (u64::from(seen) != announced).then(|| format!("{} bytes", u64::from(seen) << socket.window_scale))
}

/// The round trips that the path saw, if the smoothed one of the socket is not among them. It is no shorter than the
/// part beyond the observer, and no longer than that and the part on this side together.
fn round_trip(
    connection: &Connection,
    handshake: Option<&Handshake>,
    side: Side,
    socket: &KernelSocket,
) -> Option<String> {
    let srtt = socket.srtt_us?;
    let (beyond, here) = match side {
        Side::Client => (connection.rtt_to_server, connection.rtt_to_client),
        Side::Server => (connection.rtt_to_client, connection.rtt_to_server),
    };
    let (far, near) = handshake.map_or((0.0, 0.0), |one| match side {
        Side::Client => (one.syn_to_syn_ack_us, one.syn_ack_to_ack_us),
        Side::Server => (one.syn_ack_to_ack_us, one.syn_to_syn_ack_us),
    });
    let longest = |rtt: Rtt, handshake: f64| rtt.max_us.max(handshake);
    let shortest = match (beyond.samples, handshake) {
        (0, None) => return None,
        (0, Some(_)) => far,
        (_, None) => beyond.min_us,
        (_, Some(_)) => beyond.min_us.min(far),
    };
    let most = longest(beyond, far) + longest(here, near);
    let sound = srtt * RTT_FACTOR + RTT_SLACK_US >= shortest && srtt <= most * RTT_FACTOR + RTT_SLACK_US;
    (!sound).then(|| format!("{shortest:.0} to {most:.0} us"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::PerDirection;

    fn connection() -> Connection {
        Connection {
            client: "10.0.0.1:40000".to_owned(),
            server: "10.0.0.2:80".to_owned(),
            state: "established".to_owned(),
            retransmissions: PerDirection { a_to_b: 2, b_to_a: 0 },
            client_window: Some(501),
            server_window: Some(509),
            rtt_to_server: Rtt { samples: 3, min_us: 50_000.0, mean_us: 60_000.0, max_us: 70_000.0 },
            ..Connection::default()
        }
    }

    fn client() -> KernelSocket {
        KernelSocket {
            host: "client".to_owned(),
            local: "10.0.0.1:40000".to_owned(),
            remote: "10.0.0.2:80".to_owned(),
            state: "ESTABLISHED".to_owned(),
            srtt_us: Some(60_000.0),
            receive_window: Some(501 << 7),
            window_scale: 7,
            retransmissions: 2,
            ..KernelSocket::default()
        }
    }

    /// Property, the path's value, the kernel's.
    fn found(connection: Connection, socket: KernelSocket) -> Vec<[String; 3]> {
        let tcp = Tcp { connections: vec![connection], ..Tcp::default() };
        let all = disagreements(&tcp, &[socket], true);
        all.into_iter().map(|one| [one.property, one.wire, one.kernel]).collect()
    }

    #[test]
    fn views_that_fit_say_nothing() {
        assert!(found(connection(), client()).is_empty());
        // What is less than one step of the scale is not announced.
        assert!(found(connection(), KernelSocket { receive_window: Some((501 << 7) + 127), ..client() }).is_empty());
        let server = KernelSocket {
            local: "10.0.0.2:80".to_owned(),
            remote: "10.0.0.1:40000".to_owned(),
            receive_window: Some(509 << 7),
            retransmissions: 0,
            srtt_us: None,
            ..client()
        };
        assert!(found(connection(), server).is_empty());
        // A socket of which the path saw nothing.
        assert!(found(connection(), KernelSocket { local: "10.0.0.9:1".to_owned(), ..client() }).is_empty());
    }

    #[test]
    fn each_property_is_compared() {
        let expect = |socket, row: [&str; 3]| assert_eq!(found(connection(), socket), [row.map(str::to_owned)]);
        expect(KernelSocket { state: "CLOSE".to_owned(), ..client() }, ["state", "established", "CLOSE"]);
        expect(KernelSocket { retransmissions: 3, ..client() }, ["retransmissions", "2", "3"]);
        let row = ["receive window", "64128 bytes", "64000 bytes"];
        expect(KernelSocket { receive_window: Some(64_000), ..client() }, row);
        // 10 ms doubled, with 10 ms beside, are still less than 50; and more than twice 70 and 10 ms is too much.
        expect(KernelSocket { srtt_us: Some(10_000.0), ..client() }, ["round trip", "50000 to 70000 us", "10000 us"]);
        expect(KernelSocket { srtt_us: Some(150_001.0), ..client() }, ["round trip", "50000 to 70000 us", "150001 us"]);
    }

    #[test]
    fn times_of_two_clocks_are_not_compared() {
        let tcp = Tcp { connections: vec![connection()], ..Tcp::default() };
        assert!(disagreements(&tcp, &[KernelSocket { srtt_us: Some(1.0), ..client() }], false).is_empty());
    }

    #[test]
    fn a_closed_connection_has_closed_sockets() {
        for (wire, kernel, agree) in [
            ("closed", "CLOSE", true),
            ("reset", "ESTABLISHED", false),
            ("fin_wait", "CLOSE_WAIT", true),
            ("fin_wait", "ESTABLISHED", false),
            ("midstream", "LAST_ACK", true),
        ] {
            let connection = Connection { state: wire.to_owned(), ..connection() };
            let socket = KernelSocket { state: kernel.to_owned(), ..client() };
            assert_eq!(found(connection, socket).is_empty(), agree, "{wire} {kernel}");
        }
    }
}
