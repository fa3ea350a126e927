//! Which ports are open in a network namespace, by the kernel's own tables (proc_net(5)).

use std::io;

use super::spec::Proto;

/// Whether a socket listens on a port (TCP) or is bound to it (UDP), at any address, in the calling thread's network
/// namespace.
pub(super) fn is_open(proto: Proto, port: u16) -> io::Result<bool> {
    let tables = match proto {
        Proto::Tcp => ["tcp", "tcp6"],
        Proto::Udp => ["udp", "udp6"],
    };
    for table in tables {
        match std::fs::read_to_string(format!("/proc/thread-self/net/{table}")) {
            Ok(text) if has(&text, proto, port) => return Ok(true),
            // A kernel without IPv6.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(false)
}

/// Whether a table has the port in the state that counts: the second column is the local address and port, the fourth
/// the state, all in hexadecimal.
fn has(table: &str, proto: Proto, port: u16) -> bool {
    // `TCP_LISTEN`, and `TCP_CLOSE`, which stands for a socket that is bound and not connected.
    let wanted = match proto {
        Proto::Tcp => "0A",
        Proto::Udp => "07",
    };
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next().and_then(|local| local.rsplit_once(':')).map(|(_, port)| port);
        let is_port = local.and_then(|text| u16::from_str_radix(text, 16).ok()) == Some(port);
        is_port && fields.nth(1) == Some(wanted)
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn the_kernels_table_is_understood() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
            \x20  0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1\n\
            \x20  1: 0100007F:1F90 0100007F:A000 01 00000000:00000000 00:00000000 00000000     0        0 1\n";
        assert!(has(table, Proto::Tcp, 80));
        // A connection is not open for others.
        assert!(!has(table, Proto::Tcp, 8080));
        assert!(!has(table, Proto::Udp, 80));
        for broken in ["", "x", "x\n0", "x\n0: 1 2", "x\n0: :0050 2 0A"] {
            _ = has(broken, Proto::Tcp, 80);
        }
    }

    #[test]
    fn sockets_of_this_thread_are_found() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        assert!(is_open(Proto::Tcp, tcp.local_addr().unwrap().port()).unwrap());
        assert!(is_open(Proto::Udp, udp.local_addr().unwrap().port()).unwrap());
        // Port 0 is never anybody's.
        assert!(!is_open(Proto::Tcp, 0).unwrap());
    }
}
