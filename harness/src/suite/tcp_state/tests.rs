//! Drives the program segment by segment. Numbers in these tests are chosen so that each follows from the lines above it:
//! the client's SYN is number 1000 and the server's 5000, so their first bytes are 1001 and 5001.

mod acknowledgement;
mod handshake;
mod options;
mod sequence;
mod sockets;

use std::os::fd::AsFd as _;

use aya::programs::ProgramFd;
use bpflab_programs::packet::{ACK, FIN, PSH, RST, SYN};
use etherparse::{PacketBuilder, TcpHeader, VlanId};

use super::{TcpState, TcpStateSettings};
use crate::object::Clock;
use crate::observation::{Connection, Observation, Tcp};
use crate::suite::Analyzer as _;
use crate::sys::test_run;

/// When each test begins, ns since the UNIX epoch.
const START_NS: u64 = 1_700_000_000_000_000_000;
/// What `TC_ACT_UNSPEC` (-1) looks like as the result of a test run.
const UNSPEC: u32 = u32::MAX;

/// How the segments of a test are carried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Ipv4,
    Ipv6,
    Vlan(u16),
}

/// One segment; see the methods for what each default is.
#[derive(Clone)]
struct Seg {
    from_client: bool,
    flags: u8,
    seq: u32,
    ack: u32,
    len: usize,
    window: u16,
    options: Vec<u8>,
    client_port: u16,
}

/// A segment of the client, without payload or options, window 1000.
fn client(flags: u8, seq: u32, ack: u32) -> Seg {
    Seg { from_client: true, flags, seq, ack, len: 0, window: 1000, options: Vec::new(), client_port: 40_000 }
}

/// The same of the server.
fn server(flags: u8, seq: u32, ack: u32) -> Seg {
    Seg { from_client: false, ..client(flags, seq, ack) }
}

impl Seg {
    fn len(self, len: usize) -> Self {
        Self { len, flags: self.flags | PSH, ..self }
    }

    fn window(self, window: u16) -> Self {
        Self { window, ..self }
    }

    /// RFC 7323 timestamps in the usual layout: NOP, NOP, option.
    fn ts(self, tsval: u32, tsecr: u32) -> Self {
        let mut options = vec![1, 1, 8, 10];
        options.extend(tsval.to_be_bytes());
        options.extend(tsecr.to_be_bytes());
        Self { options, ..self }
    }

    fn options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    fn port(self, client_port: u16) -> Self {
        Self { client_port, ..self }
    }
}

/// The loaded object and the clock.
struct Lab {
    state: TcpState,
    program: ProgramFd,
    carrier: Carrier,
}

impl Lab {
    fn new() -> Self {
        Self::with(&TcpStateSettings::default())
    }

    fn with(settings: &TcpStateSettings) -> Self {
        let mut state = TcpState::load(Clock::Virtual, settings).expect("the object loads");
        let program = state.object_mut().load_program("tcp_state_ingress", None).expect("the verifier accepts it");
        Self { state, program, carrier: Carrier::Ipv4 }
    }

    fn over(carrier: Carrier) -> Self {
        Self { carrier, ..Self::new() }
    }

    /// The program sees `segment`, `at_us` microseconds after the start.
    fn at(&mut self, at_us: u64, segment: Seg) -> &mut Self {
        self.state.object().set_clock(START_NS + at_us * 1000);
        let frame = frame(self.carrier, &segment);
        let run = test_run(self.program.as_fd(), &frame, None, 1).expect("the program runs");
        assert_eq!(run.verdict, UNSPEC, "the verdict is left to others");
        self
    }

    /// A handshake from 0 to 500 µs: 400 µs to the SYN-ACK, 100 µs to the ACK.
    fn handshake(&mut self) -> &mut Self {
        self.at(0, client(SYN, 1000, 0)).at(400, server(SYN | ACK, 5000, 1001)).at(500, client(ACK, 1001, 5001))
    }

    fn observe(&mut self) -> Observation {
        let mut observation = Observation::default();
        self.state.finish(START_NS, &mut observation).expect("the maps can be read");
        observation
    }

    fn tcp(&mut self) -> Tcp {
        self.observe().tcp.expect("there is a report")
    }

    /// The only connection.
    fn connection(&mut self) -> Connection {
        let mut connections = self.tcp().connections;
        assert_eq!(connections.len(), 1, "{connections:?}");
        connections.remove(0)
    }
}

/// Ethernet frame of a segment: client 10.0.0.1 or fd00::1, port 40000; server 10.0.0.2 or fd00::2, port 80.
fn frame(carrier: Carrier, segment: &Seg) -> Vec<u8> {
    let ports = [segment.client_port, 80];
    let [source, destination] = if segment.from_client { [0, 1] } else { [1, 0] };
    let mut header = TcpHeader::new(ports[source], ports[destination], segment.seq, segment.window);
    header.acknowledgment_number = segment.ack;
    header.syn = segment.flags & SYN != 0;
    header.ack = segment.flags & ACK != 0;
    header.fin = segment.flags & FIN != 0;
    header.rst = segment.flags & RST != 0;
    header.psh = segment.flags & PSH != 0;
    header.set_options_raw(&segment.options).expect("at most 40 bytes");

    let mac = |side: usize| [2, 0, 0, 0, 0, side as u8 + 1];
    let v4 = |side: usize| [10, 0, 0, side as u8 + 1];
    let v6 = |side: usize| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, side as u8 + 1];
    let ethernet = PacketBuilder::ethernet2(mac(source), mac(destination));
    let ip = match carrier {
        Carrier::Ipv4 => ethernet.ipv4(v4(source), v4(destination), 64),
        Carrier::Ipv6 => ethernet.ipv6(v6(source), v6(destination), 64),
        Carrier::Vlan(id) => {
            ethernet.single_vlan(VlanId::try_new(id).expect("12 bits")).ipv4(v4(source), v4(destination), 64)
        }
    };
    let mut frame = Vec::new();
    ip.tcp_header(header).write(&mut frame, &vec![b'x'; segment.len]).expect("a vector takes everything");
    frame
}

/// What `count` reads for client and server.
fn both(a_to_b: u64, b_to_a: u64) -> crate::observation::PerDirection {
    crate::observation::PerDirection { a_to_b, b_to_a }
}
