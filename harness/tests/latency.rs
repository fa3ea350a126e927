//! Packets' way to real sockets: exact counts at every stage that this kernel measures, times in the queue against the
//! test's own clock, fill against what the kernel says of its sockets.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use bpflab::observation::{self, Observation, StageTimes};
use bpflab::suite::latency::{Latency, LatencySettings, ProbeKind, Stage};
use bpflab::suite::{Analyzer as _, WatchedHost};
use bpflab::sys;
use bpflab::topology::{Host, Network, presets};

const PATIENCE: Duration = Duration::from_secs(20);
const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 71, 1, 2));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd71, 1, 0, 0, 0, 0, 0, 2));

/// A client and a server (the host under test), of which the server is watched.
struct Lab {
    network: Network,
    latency: Latency,
}

impl Lab {
    fn new(settings: &LatencySettings) -> Self {
        let start = Instant::now();
        let mut latency = Latency::load(settings).unwrap();
        println!("loaded, attached and proven in {:?}", start.elapsed());
        for probe in latency.probes() {
            println!("{:9} {:27} {:?} {:?}", probe.stage, probe.packets, probe.by, probe.reason);
        }
        let network = Network::build(&presets::host(&[])).unwrap();
        let server = network.host(presets::DUT).unwrap();
        latency
            .watch(&[WatchedHost {
                name: "server".to_owned(),
                netns: server.netns_inode(),
                silent: 0,
                interfaces: Vec::new(),
            }])
            .unwrap();
        Self { network, latency }
    }

    fn client(&self) -> &Host {
        self.network.host(presets::CLIENT).unwrap()
    }

    fn server(&self) -> &Host {
        self.network.host(presets::DUT).unwrap()
    }

    fn seen(&mut self) -> (observation::Latency, Observation) {
        let mut observation = Observation::default();
        self.latency.finish(0, &mut observation).unwrap();
        (observation.latency.clone().unwrap(), observation)
    }

    /// What was seen once `done` holds; the deadline only turns a hang into a failure.
    fn wait(&mut self, done: impl Fn(&observation::Latency) -> bool) -> (observation::Latency, Observation) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.seen();
            if done(&seen.0) {
                return seen;
            }
            assert!(Instant::now() < deadline, "not seen in time: {:#?}", seen.0.stages);
            std::thread::yield_now();
        }
    }

    /// Waits until the application's data is on the queue: as the sockets of the server say themselves.
    fn wait_queued(&self, file: &'static str, port: u16, bytes: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.rx_queue(file, port) < bytes {
            assert!(Instant::now() < deadline, "{} of {bytes}", self.rx_queue(file, port));
            std::thread::yield_now();
        }
    }

    /// The greatest `rx_queue` of the server's sockets at a port: for TCP the unread bytes, for UDP the queue's memory.
    fn rx_queue(&self, file: &'static str, port: u16) -> u64 {
        self.server().run(move || {
            let table = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
            let row = |line: &str| {
                let fields: Vec<&str> = line.split_ascii_whitespace().collect();
                let local = u16::from_str_radix(fields[1].rsplit_once(':')?.1, 16).ok()?;
                let received = u64::from_str_radix(fields[4].split_once(':')?.1, 16).ok()?;
                (local == port).then_some(received)
            };
            table.lines().skip(1).filter_map(row).max().unwrap_or(0)
        })
    }

    fn udp(&self, address: IpAddr) -> (UdpSocket, UdpSocket) {
        let receiver = self.server().run(move || UdpSocket::bind((address, 0)).unwrap());
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let to = receiver.local_addr().unwrap();
        let sender = self.client().run(move || {
            let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.connect(to).unwrap();
            socket
        });
        sender.set_read_timeout(Some(PATIENCE)).unwrap();
        (sender, receiver)
    }

    fn tcp(&self, address: IpAddr) -> (TcpStream, TcpStream) {
        let listener = self.server().run(move || TcpListener::bind((address, 0)).unwrap());
        let to: SocketAddr = listener.local_addr().unwrap();
        let sender = self.client().run(move || TcpStream::connect_timeout(&to, PATIENCE).unwrap());
        let (receiver, _) = listener.accept().unwrap();
        for stream in [&sender, &receiver] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_nodelay(true).unwrap();
        }
        (sender, receiver)
    }

    /// Packets of a kind at a stage.
    fn places<'a>(&self, packets: &'a str) -> Vec<(&'static str, &'a str)> {
        let at = |stage, of| self.latency.measures(stage, of).then_some((stage, packets));
        let (transport, fallback) = match packets {
            "tcp" => ("tcp over ipv4", at("transport", "tcp at established sockets")),
            _ => ("udp over ipv4", None),
        };
        [
            at("driver", "all"),
            at("receive", "all"),
            at("ip", "ipv4"),
            at("transport", transport).or(fallback),
            at("queued", packets),
            at("read", packets),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn rows<'a>(seen: &'a observation::Latency, packets: &str) -> Vec<&'a StageTimes> {
    seen.stages.iter().filter(|row| row.packets == packets && row.stage != "total").collect()
}

fn count(seen: &observation::Latency, stage: &str, packets: &str) -> u64 {
    rows(seen, packets).iter().filter(|row| row.stage == stage).map(|row| row.count).sum()
}

/// Exactly `count` packets at each measured stage, one after the other, timed to the last one.
fn check(lab: &Lab, seen: &observation::Latency, packets: &str, count: u64) {
    let rows = rows(seen, packets);
    let stages: Vec<(&str, u64)> = rows.iter().map(|row| (row.stage.as_str(), row.count)).collect();
    let expected: Vec<(&str, u64)> = lab.places(packets).into_iter().map(|(stage, _)| (stage, count)).collect();
    assert_eq!(stages, expected, "{packets}: {:#?}", seen.probes);
    assert!(expected.len() >= 4, "every kernel measures four of them: {:#?}", seen.probes);
    for pair in rows.windows(2) {
        assert_eq!(pair[1].since.as_deref(), Some(pair[0].stage.as_str()));
    }
    for row in &rows[1..] {
        assert_eq!((row.samples, row.log2.iter().sum::<u64>()), (count, count), "{row:#?}");
        assert!(row.min_ns <= row.p50_ns && row.p50_ns <= row.p90_ns && row.p90_ns <= row.p99_ns, "{row:#?}");
        assert!(row.p99_ns <= Some(row.max_ns), "{row:#?}");
    }
    let total = seen.stages.iter().find(|row| row.packets == packets && row.stage == "total").unwrap();
    assert_eq!((total.count, total.since.as_deref()), (count, Some("driver")));
}

/// What the kernel holds back on purpose, and for how long, by the clock of the programs.
const HELD: Duration = Duration::from_millis(30);

fn hold() -> u64 {
    let start = sys::monotonic_ns();
    while sys::monotonic_ns() < start + HELD.as_nanos() as u64 {
        sys::sleep_until(start + HELD.as_nanos() as u64);
    }
    sys::monotonic_ns() - start
}

fn datagrams_wait(settings: &LatencySettings, address: IpAddr, file: &'static str) {
    const COUNT: u64 = 20;
    let mut lab = Lab::new(settings);
    let (sender, receiver) = lab.udp(address);
    for _ in 0..COUNT {
        sender.send(&[7; 100]).unwrap();
    }
    let port = receiver.local_addr().unwrap().port();
    lab.wait(|seen| count(seen, "queued", "udp") == COUNT);
    let memory = lab.rx_queue(file, port);
    let held = hold();
    for _ in 0..COUNT {
        assert_eq!(receiver.recv(&mut [0; 200]).unwrap(), 100);
    }
    let (seen, all) = lab.wait(|seen| count(seen, "read", "udp") == COUNT);
    if address.is_ipv4() {
        check(&lab, &seen, "udp", COUNT);
    }
    let read = rows(&seen, "udp").into_iter().find(|row| row.stage == "read").unwrap();
    println!("held {held} ns, in the queue {:?} to {} ns, of {memory} bytes", read.min_ns, read.max_ns);
    assert!(read.min_ns >= Some(held), "held {held} ns: {read:#?}");
    // Nothing below the bucket of `held` either: 2^n is above all of bucket n.
    assert!(read.log2.iter().enumerate().all(|(bucket, count)| *count == 0 || 1_u64 << bucket > held), "{read:#?}");
    let [queue] = seen.queues.as_slice() else { panic!("one socket: {:#?}", seen.queues) };
    assert_eq!((queue.queued, queue.read, queue.refused, queue.max_payload), (COUNT, COUNT, 0, COUNT * 100));
    assert_eq!((queue.proto.as_str(), queue.local.clone()), ("udp", receiver.local_addr().unwrap().to_string()));
    assert_eq!(queue.max_memory, memory);
    assert!(queue.limit >= memory);
    assert!(all.losses.is_empty(), "{:?}", all.losses);
    let flow = format!("udp {} > {}", with_address(&sender), receiver.local_addr().unwrap());
    assert!(seen.flows.iter().all(|row| row.flow.as_ref() == Some(&flow)), "{flow}: {:#?}", seen.flows);
    assert!(seen.stages.iter().all(|row| row.host == "server"));
    lab.network.close().unwrap();
}

fn with_address(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().unwrap()
}

#[test]
fn datagrams_wait_for_their_reader() {
    datagrams_wait(&LatencySettings::default(), V4, "udp");
}

#[test]
fn datagrams_of_ipv6_wait_for_their_reader() {
    datagrams_wait(&LatencySettings::default(), V6, "udp6");
}

fn segments_wait(settings: &LatencySettings, address: IpAddr, file: &'static str) {
    // As many as the initial congestion window lets go at once (RFC 6928), so that each write is a segment.
    const COUNT: u64 = 10;
    let mut lab = Lab::new(settings);
    let (mut sender, mut receiver) = lab.tcp(address);
    for _ in 0..COUNT {
        sender.write_all(&[7; 100]).unwrap();
    }
    let port = receiver.local_addr().unwrap().port();
    lab.wait_queued(file, port, COUNT * 100);
    lab.wait(|seen| count(seen, "queued", "tcp") == COUNT);
    let held = hold();
    receiver.read_exact(&mut [0; COUNT as usize * 100]).unwrap();
    let (seen, all) = lab.wait(|seen| count(seen, "read", "tcp") == COUNT);
    if address.is_ipv4() {
        check(&lab, &seen, "tcp", COUNT);
    }
    let read = rows(&seen, "tcp").into_iter().find(|row| row.stage == "read").unwrap();
    println!("held {held} ns, in the queue {:?} to {} ns", read.min_ns, read.max_ns);
    assert!(read.min_ns >= Some(held), "held {held} ns: {read:#?}");
    let [queue] = seen.queues.as_slice() else { panic!("one endpoint: {:#?}", seen.queues) };
    assert_eq!((queue.queued, queue.read, queue.max_payload), (COUNT, COUNT, COUNT * 100));
    assert_eq!((queue.proto.as_str(), queue.local.clone()), ("tcp", receiver.local_addr().unwrap().to_string()));
    assert!(queue.max_memory >= COUNT * 100 && queue.max_memory <= queue.limit, "{queue:#?}");
    assert!(all.losses.is_empty(), "{:?}", all.losses);
    lab.network.close().unwrap();
}

#[test]
fn segments_wait_for_their_reader() {
    segments_wait(&LatencySettings::default(), V4, "tcp");
}

#[test]
fn segments_of_ipv6_wait_for_their_reader() {
    segments_wait(&LatencySettings::default(), V6, "tcp6");
}

#[test]
fn kprobes_see_the_same_as_fentry() {
    // Where there are none either, tracepoints do.
    let kinds = vec![ProbeKind::Tracepoint, ProbeKind::Kprobe];
    let settings = LatencySettings { kinds, ..LatencySettings::default() };
    datagrams_wait(&settings, V4, "udp");
    segments_wait(&settings, V4, "tcp");
}

#[test]
fn requests_are_counted_exactly_while_they_are_answered() {
    const COUNT: u64 = 100;
    let mut lab = Lab::new(&LatencySettings::default());
    let (client, server) = lab.udp(V4);
    let (mut tcp_client, mut tcp_server) = lab.tcp(V4);
    let serving = lab.server().spawn(move || {
        let mut message = [0; 64];
        for _ in 0..COUNT {
            let (len, from) = server.recv_from(&mut message).unwrap();
            server.send_to(&message[..len], from).unwrap();
        }
        for _ in 0..COUNT {
            tcp_server.read_exact(&mut message).unwrap();
            tcp_server.write_all(&message).unwrap();
        }
    });
    let mut message = [1; 64];
    for _ in 0..COUNT {
        client.send(&message).unwrap();
        assert_eq!(client.recv(&mut message).unwrap(), 64);
    }
    for _ in 0..COUNT {
        tcp_client.write_all(&message).unwrap();
        tcp_client.read_exact(&mut message).unwrap();
    }
    serving.unwrap().join().unwrap();
    let (seen, mut all) = lab.wait(|seen| count(seen, "read", "tcp") == COUNT);
    check(&lab, &seen, "tcp", COUNT);
    // Where only the socket tells of a datagram, a reader that is awake may be quicker than the tale; it is said then.
    let unfollowed = all.losses.remove("latency.unfollowed").unwrap_or(0);
    assert_eq!(count(&seen, "receive", "udp"), COUNT);
    assert_eq!((count(&seen, "queued", "udp"), count(&seen, "read", "udp")), (COUNT - unfollowed, COUNT - unfollowed));
    assert!(all.losses.is_empty(), "{:?}", all.losses);
    lab.network.close().unwrap();
}

#[test]
fn a_closed_writer_still_reads() {
    // After the server has closed its own direction, its socket is no longer established.
    let mut lab = Lab::new(&LatencySettings::default());
    let (mut client, mut server) = lab.tcp(V4);
    server.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    client.write_all(&[7; 100]).unwrap();
    server.read_exact(&mut [0; 100]).unwrap();
    if lab.latency.measures("transport", "tcp at other sockets") {
        let (seen, _) = lab.wait(|seen| count(seen, "read", "tcp") == 1);
        check(&lab, &seen, "tcp", 1);
    } else {
        // Without a probe there it is not followed to the socket.
        let (seen, _) = lab.wait(|seen| count(seen, "receive", "tcp") == 1);
        assert_eq!(count(&seen, "read", "tcp"), 0);
    }
    lab.network.close().unwrap();
}

#[test]
fn a_full_queue_refuses_and_the_fill_says_how_full() {
    const COUNT: u64 = 2000;
    let mut lab = Lab::new(&LatencySettings::default());
    let (sender, receiver) = lab.udp(V4);
    for _ in 0..COUNT {
        sender.send(&[7; 1400]).unwrap();
    }
    let full = |seen: &observation::Latency| seen.queues.iter().map(|queue| queue.queued + queue.refused).sum::<u64>();
    let (seen, _) = lab.wait(|seen| full(seen) == COUNT);
    let queue = &seen.queues[0];
    println!("{queue:?}");
    assert!(queue.refused > 0 && queue.queued > 0 && queue.read == 0, "{queue:#?}");
    assert!(queue.max_memory > queue.limit / 2, "{queue:#?}");
    assert_eq!(queue.max_payload, queue.queued * 1400);
    assert_eq!(count(&seen, "queued", "udp"), queue.queued);
    drop(receiver);
    lab.network.close().unwrap();
}

#[test]
fn only_the_stages_that_were_asked_for_are_measured() {
    let mut lab =
        Lab::new(&LatencySettings { stages: vec![Stage::Driver, Stage::Receive], ..LatencySettings::default() });
    let (sender, receiver) = lab.udp(V4);
    sender.send(&[7; 100]).unwrap();
    receiver.recv(&mut [0; 100]).unwrap();
    let (seen, _) = lab.wait(|seen| count(seen, "receive", "udp") == 1);
    let stages: Vec<&str> = rows(&seen, "udp").iter().map(|row| row.stage.as_str()).collect();
    assert_eq!(stages, ["driver", "receive"]);
    assert!(
        seen.probes.iter().all(|probe| ["driver", "receive"].contains(&probe.stage.as_str())),
        "{:#?}",
        seen.probes
    );
    assert!(seen.queues.is_empty());
    lab.network.close().unwrap();
}
