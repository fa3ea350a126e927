//! The kernel's view of real TCP sockets against that of an observer between them: client and server are hosts of their
//! own, and the router between them observes, loses what it is told to, or is lied to.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use bpflab::object::{Clock, LoadOptions, Object, suite as objects};
use bpflab::observation::{KernelSocket, Observation, Tcp};
use bpflab::suite::sockets::{Sockets, SocketsSettings};
use bpflab::suite::tcp_state::{TcpState, TcpStateSettings};
use bpflab::suite::{self, Observer, WatchedHost};
use bpflab::sys::bytes_of;
use bpflab::topology::{Host, Network, presets};
use bpflab::wire::Attachments;
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

const PATIENCE: Duration = Duration::from_secs(20);
/// The server's address in the preset `router`.
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 71, 2, 2));
const SERVER_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xfd71, 2, 0, 0, 0, 0, 0, 2));
/// Payload of a full segment: MTU 1500, 20 bytes of IPv4, 32 of TCP with timestamps.
const SEGMENT: usize = 1448;

/// Where the router loses segments.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    Nowhere,
    BeforeTheObserver,
    BehindTheObserver,
}

struct Lab {
    // Dropped in this order: links, programs, namespaces.
    _attachments: Attachments,
    analyzers: Vec<Box<dyn Observer>>,
    _lossy: Object,
    network: Network,
}

impl Lab {
    /// A router that loses those of the segments with at least 1000 bytes whose bits are set in `lose`, by order.
    fn new(loss: Loss, lose: u64) -> Self {
        let network = Network::build(&presets::router()).unwrap();
        let mut attachments = Attachments::new(&network).unwrap();
        let options = LoadOptions { globals: vec![("LOSE", bytes_of(&lose), true)], ..LoadOptions::default() };
        let mut lossy = Object::load("lossy", objects::VERDICTS, &options).unwrap();
        if loss == Loss::BeforeTheObserver {
            attachments.tc_ingress(&mut lossy, "shot_large_segments").unwrap();
        }
        let state = TcpState::load(Clock::Kernel, &TcpStateSettings::default()).unwrap();
        let sockets = Sockets::load(Clock::Kernel, &SocketsSettings::default()).unwrap();
        let mut analyzers: Vec<Box<dyn Observer>> = vec![Box::new(state), Box::new(sockets)];
        suite::attach(&mut analyzers, suite::Watch::BetweenFarEnds, &mut attachments, &network).unwrap();
        if loss == Loss::BehindTheObserver {
            attachments.tc_egress(&mut lossy, "shot_large_segments").unwrap();
        }
        let watched = [presets::CLIENT, presets::SERVER].map(|name| {
            let netns = network.host(name).unwrap().netns_inode();
            WatchedHost { name: name.to_owned(), netns, silent: 0, interfaces: Vec::new() }
        });
        for analyzer in &mut analyzers {
            analyzer.watch(&watched).unwrap();
        }
        Self { _attachments: attachments, analyzers, _lossy: lossy, network }
    }

    fn host(&self, name: &str) -> &Host {
        self.network.host(name).unwrap()
    }

    fn connect(&self, server: IpAddr) -> (TcpStream, TcpStream) {
        let listener = self.host(presets::SERVER).run(move || TcpListener::bind((server, 0)).unwrap());
        let to: SocketAddr = listener.local_addr().unwrap();
        let client = self.host(presets::CLIENT).run(move || TcpStream::connect_timeout(&to, PATIENCE).unwrap());
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            stream.set_nodelay(true).unwrap();
        }
        (client, server)
    }

    fn seen(&mut self) -> Observation {
        let mut observation = Observation::default();
        for analyzer in &mut self.analyzers {
            analyzer.finish(0, &mut observation).unwrap();
        }
        observation
    }

    /// What was seen once `done` holds; the deadline only turns a hang into a failure.
    fn wait(&mut self, done: impl Fn(&Tcp) -> bool) -> Tcp {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.seen();
            assert!(seen.losses.is_empty(), "{:?}", seen.losses);
            let tcp = seen.tcp.unwrap();
            if done(&tcp) {
                return tcp;
            }
            assert!(Instant::now() < deadline, "not seen in time: {tcp:#?}");
            std::thread::yield_now();
        }
    }

    fn wait_closed(&mut self) -> Tcp {
        let closed = |socket: &KernelSocket| socket.state == "CLOSE";
        self.wait(|tcp| {
            tcp.connections.iter().all(|connection| connection.state == "closed")
                && tcp.kernel_sockets.len() == 2
                && tcp.kernel_sockets.iter().all(closed)
        })
    }
}

fn socket<'a>(tcp: &'a Tcp, host: &str) -> &'a KernelSocket {
    let mut found = tcp.kernel_sockets.iter().filter(|socket| socket.host == host);
    let (Some(socket), None) = (found.next(), found.next()) else { panic!("one socket on {host}: {tcp:#?}") };
    socket
}

/// Host, property, the path's value, the kernel's.
fn rows(tcp: &Tcp) -> Vec<[&str; 4]> {
    tcp.disagreements.iter().map(|one| [&one.host, &one.property, &one.wire, &one.kernel].map(String::as_str)).collect()
}

/// Sends `segments` full segments, closes from the client's side, and reads everything.
fn transfer(lab: &Lab, segments: usize, server: IpAddr) {
    let (mut client, mut server) = lab.connect(server);
    let sending = std::thread::spawn(move || {
        client.write_all(&vec![7; segments * SEGMENT]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    });
    let mut received = Vec::new();
    server.read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), segments * SEGMENT);
    drop(server);
    sending.join().unwrap();
}

#[test]
fn segments_lost_behind_the_observer_are_sent_again_and_both_views_agree() {
    // The third and the seventh of 30: what follows them tells the client of both.
    let mut lab = Lab::new(Loss::BehindTheObserver, 1 << 2 | 1 << 6);
    transfer(&lab, 30, SERVER);
    let tcp = lab.wait_closed();
    let (client, server) = (socket(&tcp, presets::CLIENT), socket(&tcp, presets::SERVER));
    println!("{client:?}\n{server:?}\n{:?}", tcp.connections);
    // At least one segment for each that was lost; whatever else the client sent again passed the observer, too.
    assert!(client.retransmissions >= 2, "{client:#?}");
    assert_eq!(client.retransmit_events, client.retransmissions);
    assert_eq!(tcp.connections[0].retransmissions.a_to_b, client.retransmissions);
    assert_eq!(server.retransmissions, 0);
    // The initial window is 10 segments (RFC 6928), and a loss makes it smaller than what it was.
    assert!(client.cwnd_max >= 10 && client.cwnd > 0 && client.cwnd <= client.cwnd_max, "{client:#?}");
    assert!(client.srtt_us.is_some_and(|us| us > 0.0), "{client:#?}");
    assert!(server.receive_window.is_some_and(|bytes| bytes >= SEGMENT as u64), "{server:#?}");
    assert_eq!((client.resets_received, client.resets_sent), (0, 0));
    assert!(rows(&tcp).is_empty(), "{:#?}", tcp.disagreements);
    lab.network.close().unwrap();
}

#[test]
fn both_views_agree_without_loss_and_over_ipv6() {
    for server in [SERVER, SERVER_V6] {
        let mut lab = Lab::new(Loss::Nowhere, 0);
        transfer(&lab, 100, server);
        let tcp = lab.wait_closed();
        // A busy machine may answer so late that something is sent again; then both know.
        assert_eq!(
            socket(&tcp, presets::CLIENT).retransmissions,
            tcp.connections[0].retransmissions.a_to_b,
            "{tcp:#?}"
        );
        assert_eq!(socket(&tcp, presets::SERVER).remote, tcp.connections[0].client);
        assert!(rows(&tcp).is_empty(), "{:#?}", tcp.disagreements);
        lab.network.close().unwrap();
    }
}

#[test]
fn a_segment_lost_before_the_observer_is_news_to_it_alone() {
    // One segment, and nothing after it by which the observer could tell that something is missing.
    let mut lab = Lab::new(Loss::BeforeTheObserver, 1);
    let (mut client, mut server) = lab.connect(SERVER);
    client.write_all(&[7; SEGMENT]).unwrap();
    server.read_exact(&mut [0; SEGMENT]).unwrap();
    // The acknowledgement has come: nothing more will be sent again.
    let answered = |socket: &KernelSocket| socket.host == presets::CLIENT && socket.srtt_us.is_some();
    server.write_all(b"done").unwrap();
    client.read_exact(&mut [0; 4]).unwrap();
    let tcp = lab.wait(|tcp| {
        tcp.kernel_sockets.iter().any(answered) && tcp.connections[0].payload.b_to_a == 4 && rows(tcp).len() == 1
    });
    let kernel = socket(&tcp, presets::CLIENT).retransmissions;
    assert!(kernel >= 1, "{tcp:#?}");
    assert_eq!(rows(&tcp), [[presets::CLIENT, "retransmissions", "0", &kernel.to_string()]]);
    drop((client, server));
    lab.network.close().unwrap();
}

#[test]
fn a_forged_reset_ends_the_connection_for_the_observer_alone() {
    let mut lab = Lab::new(Loss::Nowhere, 0);
    let mut link = lab.host(presets::CLIENT).run(|| {
        let link = pcap::Capture::from_device("eth0").unwrap().immediate_mode(true).timeout(1000);
        link.open().unwrap()
    });
    let (mut client, mut server) = lab.connect(SERVER);
    client.write_all(b"data").unwrap();
    server.read_exact(&mut [0; 4]).unwrap();
    lab.wait(|tcp| tcp.connections.first().is_some_and(|connection| connection.payload.a_to_b == 4));
    // Within the server's window, but not the number that it expects next: it asks whether the RST is meant (RFC 5961
    // section 3.2), while the observer, which sees no more than that the number is possible, believes it.
    let forged = forged_reset(&mut link, 1000);
    link.sendpacket(forged).unwrap();
    let tcp = lab.wait(|tcp| tcp.connections[0].state == "reset");
    let expected = [presets::CLIENT, presets::SERVER].map(|host| [host, "state", "reset", "ESTABLISHED"]);
    let found = rows(&tcp);
    assert!(expected.iter().all(|row| found.contains(row)), "{found:#?}");
    assert_eq!(tcp.connections[0].reset_by.as_deref(), Some("client"));
    assert_eq!(socket(&tcp, presets::SERVER).resets_received, 0);
    // The kernel was right: both ends still talk to each other.
    server.write_all(b"still").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    drop((client, server));
    lab.network.close().unwrap();
}

/// A RST `ahead` numbers after what the client sent last, of which the link has a copy.
fn forged_reset(link: &mut pcap::Capture<pcap::Active>, ahead: u32) -> Vec<u8> {
    loop {
        let packet = link.next_packet().unwrap();
        let sliced = SlicedPacket::from_ethernet(packet.data).unwrap();
        let (Some(TransportSlice::Tcp(tcp)), Some(etherparse::NetSlice::Ipv4(ip))) = (&sliced.transport, &sliced.net)
        else {
            continue;
        };
        if tcp.payload().is_empty() {
            continue;
        }
        let header = ip.header();
        let (source, destination) = (packet.data[6..12].try_into().unwrap(), packet.data[..6].try_into().unwrap());
        let after = tcp.sequence_number() + u32::try_from(tcp.payload().len()).unwrap();
        let builder = PacketBuilder::ethernet2(source, destination)
            .ipv4(header.source(), header.destination(), 64)
            .tcp(tcp.source_port(), tcp.destination_port(), after.wrapping_add(ahead), 0)
            .rst();
        let mut frame = Vec::new();
        builder.write(&mut frame, &[]).unwrap();
        return frame;
    }
}
