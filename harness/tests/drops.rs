//! The kernel's drops, in namespaces of the test's own: exact counts, reasons, places, flows.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bpflab::kernel::btf::Btf;
use bpflab::object::Clock;
use bpflab::observation::{Drop, Observation};
use bpflab::suite::drops::{Drops, DropsSettings};
use bpflab::suite::{Analyzer, WatchedHost};
use etherparse::PacketBuilder;
use netns_rs::NetNs;

/// A namespace that is gone at the end of the test, whatever its outcome.
struct Namespace {
    netns: Option<NetNs>,
    name: String,
    inode: u32,
}

impl Namespace {
    /// With `lo` up and without IPv6, whose own packets would be counted.
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("droptest-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let netns = NetNs::new(&name).unwrap();
        let inode = std::os::unix::fs::MetadataExt::ino(&netns.file().metadata().unwrap());
        let namespace = Self { netns: Some(netns), name, inode: inode.try_into().unwrap() };
        namespace.run(|| {
            for conf in ["all", "default"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{conf}/disable_ipv6"), "1").unwrap();
            }
        });
        namespace.ip("link set lo up");
        namespace
    }

    fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        self.netns.as_ref().unwrap().run(|_| work()).unwrap()
    }

    fn ip(&self, command: &str) {
        let output = self.run(|| Command::new("ip").args(command.split(' ')).output().unwrap());
        assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn host(&self, name: &str) -> WatchedHost {
        WatchedHost { name: name.to_owned(), netns: self.inode, silent: 0, interfaces: Vec::new() }
    }
}

impl std::ops::Drop for Namespace {
    fn drop(&mut self) {
        if let Some(netns) = self.netns.take() {
            let _ = netns.remove();
        }
    }
}

fn watching(hosts: &[WatchedHost], settings: &DropsSettings) -> Drops {
    let mut drops = Drops::load(Clock::Kernel, settings).unwrap();
    drops.watch(hosts).unwrap();
    drops.object_mut().attach_tracepoint("kfree_skb", "kfree_skb").unwrap();
    drops
}

/// What was seen once `done` holds; the deadline only turns a hang into a failure.
fn collect(drops: &mut Drops, done: impl Fn(&[Drop]) -> bool) -> Observation {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut observation = Observation::default();
        drops.finish(0, &mut observation).unwrap();
        if done(&observation.drops) {
            return observation;
        }
        assert!(Instant::now() < deadline, "not seen in time: {:#?}", observation.drops);
        std::thread::yield_now();
    }
}

fn packets(drops: &[Drop]) -> u64 {
    drops.iter().map(|drop| drop.packets).sum()
}

/// `reason flow` and how many.
fn table(drops: &[Drop]) -> BTreeMap<String, u64> {
    drops.iter().map(|drop| (format!("{} {}", drop.reason, drop.flow), drop.packets)).collect()
}

/// The name that this kernel gives: `name`, or that of a kernel without reasons.
fn reason(name: &str) -> String {
    let known = Btf::kernel().unwrap().enum_names("skb_drop_reason").is_some();
    if known { name } else { "UNKNOWN" }.to_owned()
}

/// Sends `count` datagrams to a port of `lo` that nobody listens on; returns the port they came from.
fn knock(namespace: &Namespace, port: u16, count: u32) -> u16 {
    namespace.run(|| {
        // Not connected: the refusals that come back do not end the sending.
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for _ in 0..count {
            socket.send_to(b"knock", (Ipv4Addr::LOCALHOST, port)).unwrap();
        }
        socket.local_addr().unwrap().port()
    })
}

#[test]
fn datagrams_to_a_closed_port_are_counted_exactly() {
    let namespace = Namespace::new();
    let mut drops = watching(&[namespace.host("alone")], &DropsSettings::default());
    let port = knock(&namespace, 9, 1000);
    let seen = collect(&mut drops, |drops| packets(drops) >= 1000);
    let [drop] = seen.drops.as_slice() else { panic!("one kind of drop: {:#?}", seen.drops) };
    assert_eq!((drop.by.as_str(), drop.host.as_str(), drop.packets), ("kernel", "alone", 1000));
    assert_eq!(drop.reason, reason("NO_SOCKET"));
    assert_eq!(drop.flow, format!("udp 127.0.0.1:{port} > 127.0.0.1:9"));
    // The function has had several names: __udp4_lib_rcv, udp_rcv.
    assert!(drop.place.contains("udp"), "{}", drop.place);
    assert!(seen.losses.is_empty(), "{:?}", seen.losses);
    // 5 bytes of payload, UDP 8, IPv4 20, and the Ethernet header that lo has, too.
    let counts = drops.counts().unwrap();
    assert_eq!(counts.values().map(|count| count.bytes).collect::<Vec<_>>(), [1000 * (5 + 8 + 20 + 14)]);
}

#[test]
fn a_syn_to_a_closed_port_finds_no_socket() {
    let namespace = Namespace::new();
    let mut drops = watching(&[namespace.host("alone")], &DropsSettings::default());
    let refused = namespace.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 7)).unwrap_err());
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let to_port_7 = |drop: &&Drop| drop.flow.ends_with(" > 127.0.0.1:7");
    let seen = collect(&mut drops, |drops| drops.iter().any(|drop| to_port_7(&drop)));
    let syn: Vec<&Drop> = seen.drops.iter().filter(to_port_7).collect();
    assert_eq!(syn.len(), 1, "{:#?}", seen.drops);
    assert_eq!((syn[0].reason.clone(), syn[0].packets), (reason("NO_SOCKET"), 1));
    assert!(syn[0].flow.starts_with("tcp 127.0.0.1:"), "{}", syn[0].flow);
}

#[test]
fn drops_of_another_namespace_are_not_counted() {
    let (watched, other) = (Namespace::new(), Namespace::new());
    let mut drops = watching(&[watched.host("watched")], &DropsSettings::default());
    knock(&other, 9, 50);
    knock(&watched, 9, 3);
    let seen = collect(&mut drops, |drops| packets(drops) >= 3);
    assert_eq!(packets(&seen.drops), 3, "{:#?}", seen.drops);
    assert_eq!(seen.drops[0].host, "watched");
}

#[test]
fn each_of_two_watched_hosts_has_its_own_drops() {
    let (left, right) = (Namespace::new(), Namespace::new());
    let mut drops = watching(&[left.host("left"), right.host("right")], &DropsSettings::default());
    knock(&left, 9, 2);
    knock(&right, 9, 4);
    let seen = collect(&mut drops, |drops| packets(drops) >= 6);
    let hosts: Vec<_> = seen.drops.iter().map(|drop| (drop.host.as_str(), drop.packets)).collect();
    assert_eq!(hosts, [("right", 4), ("left", 2)], "most first");
}

#[test]
fn a_full_map_is_said() {
    let namespace = Namespace::new();
    let settings = DropsSettings { max_drops: std::num::NonZeroU32::MIN };
    let mut drops = watching(&[namespace.host("alone")], &settings);
    knock(&namespace, 9, 2);
    collect(&mut drops, |drops| packets(drops) == 2);
    knock(&namespace, 10, 3);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let seen = collect(&mut drops, |_| true);
        if seen.losses.get("drops.DROPS") == Some(&3) {
            assert_eq!(packets(&seen.drops), 2);
            break;
        }
        assert!(Instant::now() < deadline, "{seen:#?}");
    }
}

/// Two hosts on one wire; frames enter at `near` and arrive at `far`, which has 10.9.0.2/24.
struct Wire {
    near: Namespace,
    far: Namespace,
}

const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NEAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FAR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

impl Wire {
    fn new() -> Self {
        let wire = Self { near: Namespace::new(), far: Namespace::new() };
        wire.near.ip(&format!("link add near type veth peer name far netns {}", wire.far.name));
        wire.far.ip("link set far address 02:00:00:00:00:02");
        wire.far.ip("addr add 10.9.0.2/24 dev far");
        wire.far.ip("link set far up");
        wire.near.ip("link set near up");
        wire
    }

    /// Sends frames and says which of them the sender's own kernel took.
    fn send(&self, frames: &[Vec<u8>]) -> Vec<bool> {
        self.near.run(|| {
            let mut link = pcap::Capture::from_device("near").unwrap().open().unwrap();
            frames.iter().map(|frame| link.sendpacket(frame.as_slice()).is_ok()).collect()
        })
    }
}

/// An Ethernet frame with a UDP datagram of 4 bytes to a port that nobody listens on.
fn datagram(source_port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(NEAR_MAC, FAR_MAC).ipv4(NEAR.octets(), FAR.octets(), 64);
    let mut frame = Vec::new();
    builder.udp(source_port, 9).write(&mut frame, b"data").unwrap();
    frame
}

/// `frame` with VLAN tags (ethertype and TCI each) in front of its ethertype.
fn tagged(mut frame: Vec<u8>, tags: &[[u8; 4]]) -> Vec<u8> {
    frame.splice(12..12, tags.concat());
    frame
}

#[test]
fn broken_and_foreign_frames_have_their_reasons() {
    let wire = Wire::new();
    let mut drops = watching(&[wire.far.host("far")], &DropsSettings::default());

    let mut bad_udp_checksum = datagram(1);
    bad_udp_checksum[14 + 20 + 6] ^= 0xff;
    let mut bad_ip_checksum = datagram(2);
    bad_ip_checksum[14 + 10] ^= 0xff;
    let mut other_host = datagram(3);
    other_host[5] = 9;
    // The host has no VLAN 7. It takes the tag off before it finds that out, so the flow has none.
    let tagged = tagged(datagram(4), &[[0x81, 0x00, 0x00, 0x07]]);
    let mut lldp = vec![0x01, 0x80, 0xc2, 0, 0, 0x0e, 2, 0, 0, 0, 0, 1, 0x88, 0xcc];
    lldp.resize(60, 0);
    assert_eq!(wire.send(&[bad_udp_checksum, bad_ip_checksum, other_host, tagged, lldp]), [true; 5]);

    let seen = collect(&mut drops, |drops| packets(drops) >= 5);
    let found = table(&seen.drops);
    let flow = |port: u16| format!("udp 10.9.0.1:{port} > 10.9.0.2:9");
    let expected: BTreeMap<String, u64> = [
        format!("{} {}", reason("UDP_CSUM"), flow(1)),
        format!("{} {}", reason("IP_CSUM"), flow(2)),
        format!("{} {}", reason("OTHERHOST"), flow(3)),
        format!("{} {}", reason("OTHERHOST"), flow(4)),
        format!("{} eth-0x88cc 02:00:00:00:00:01 > 01:80:c2:00:00:0e", reason("UNHANDLED_PROTO")),
    ]
    .into_iter()
    .map(|text| (text, 1))
    .collect();
    assert_eq!(found, expected);
    assert!(seen.drops.iter().all(|drop| drop.place != "unknown"), "{:#?}", seen.drops);
}

#[test]
fn tags_in_the_data_of_a_packet_on_its_way_out_are_read() {
    let wire = Wire::new();
    // With the other end down there is nowhere to go.
    wire.far.ip("link set far down");
    let mut drops = watching(&[wire.near.host("near")], &DropsSettings::default());
    let one = tagged(datagram(1), &[[0x81, 0x00, 0x00, 0x07]]);
    // 802.1ad around 802.1Q, priority 5 (0xa000) in the outer TCI: the outer identifier is 8.
    let two = tagged(datagram(2), &[[0x88, 0xa8, 0xa0, 0x08], [0x81, 0x00, 0x00, 0x09]]);
    // Refused at once or taken and dropped by the driver: the sender learns of the other end's state a little later.
    let _taken = wire.send(&[datagram(3), one, two]);
    let seen = collect(&mut drops, |drops| packets(drops) >= 3);
    let mut flows: Vec<&str> = seen.drops.iter().map(|drop| drop.flow.as_str()).collect();
    flows.sort_unstable();
    let expected =
        ["udp 10.9.0.1:1 > 10.9.0.2:9 vlan 7", "udp 10.9.0.1:2 > 10.9.0.2:9 vlan 8", "udp 10.9.0.1:3 > 10.9.0.2:9"];
    assert_eq!(flows, expected);
}

#[test]
fn ipv6_flows_are_read_behind_extension_headers() {
    let wire = Wire::new();
    let mut drops = watching(&[wire.far.host("far")], &DropsSettings::default());
    let (source, destination) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (source, destination) else { panic!("two IPv6 addresses") };
    let builder = PacketBuilder::ethernet2(NEAR_MAC, FAR_MAC).ipv6(source.octets(), destination.octets(), 64);
    let mut plain = Vec::new();
    builder.udp(5, 9).write(&mut plain, b"data").unwrap();
    // The same behind destination options (60) and a fragment header (44) of a first fragment, 8 bytes each.
    let mut extended = plain.clone();
    extended[14 + 6] = 60;
    extended[14 + 5] += 16;
    extended[14 + 40 + 1] = 6;
    let options = [44, 0, 1, 4, 0, 0, 0, 0];
    let fragment = [17, 0, 0, 1, 0, 0, 0, 7];
    extended.splice(54..54, options.into_iter().chain(fragment));
    // The second datagram has another source port, so that the two are told apart.
    extended[14 + 40 + 16 + 1] = 6;
    assert_eq!(wire.send(&[plain, extended]), [true; 2]);

    let seen = collect(&mut drops, |drops| packets(drops) >= 2);
    // The host has IPv6 switched off.
    let expected = [5, 6].map(|port| (format!("{} udp [fd00::1]:{port} > [fd00::2]:9", reason("IPV6DISABLED")), 1));
    assert_eq!(table(&seen.drops), BTreeMap::from(expected));
}

#[test]
fn a_live_connection_drops_nothing() {
    use std::io::{Read as _, Write as _};
    let namespace = Namespace::new();
    let mut drops = watching(&[namespace.host("alone")], &DropsSettings::default());
    namespace.run(|| {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[7; 100_000]).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut received = Vec::new();
        server.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), 100_000);
        // UNIX sockets free their buffers through the same function; they are not packets.
        let (mut one, two) = std::os::unix::net::UnixStream::pair().unwrap();
        one.write_all(b"unread").unwrap();
        drop((two, one));
    });
    knock(&namespace, 9, 1);
    let seen = collect(&mut drops, |drops| packets(drops) >= 1);
    assert_eq!(packets(&seen.drops), 1, "{:#?}", seen.drops);
    assert!(seen.drops[0].flow.starts_with("udp "), "{:#?}", seen.drops);
}
