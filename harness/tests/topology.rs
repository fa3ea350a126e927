//! Topologies in real network namespaces. They need root, and nothing else of the machine.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aya::programs::{Xdp, XdpMode};
use bpflab::topology::{
    EndSpec, Host, HostSpec, LinkCounters, LinkSpec, Network, Offload, Prefix, RouteKind, RouteSpec, Topology,
    VlanProtocol, VlanSpec, XDP_MAX_MTU, presets, reap, verify,
};

/// Longest wait for a packet that must come: a failing test ends, a working one never waits that long.
const LIMIT: Duration = Duration::from_secs(20);

/// The interfaces of the presets with three hosts, in the order in which a packet of the client meets them.
const PATH: [(&str, &str); 4] = [("client", "eth0"), ("dut", "eth0"), ("dut", "eth1"), ("server", "eth0")];

fn build(topology: &Topology) -> Network {
    let network = Network::build(topology).unwrap_or_else(|error| panic!("{}: {}", topology.name, chain(&error)));
    assert_eq!(verify(&network).unwrap(), [], "{}", topology.name);
    network
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn host<'a>(network: &'a Network, name: &str) -> &'a Host {
    network.host(name).unwrap()
}

/// A socket in a host.
fn socket(host: &Host, address: IpAddr) -> UdpSocket {
    let socket = host.run(move || UdpSocket::bind(SocketAddr::new(address, 0))).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// Sends `count` datagrams of 100 bytes from one host to another, and each one back before the next one.
fn exchange(one: (&Host, IpAddr), two: (&Host, IpAddr), count: u8) {
    let (near, far) = (socket(one.0, one.1), socket(two.0, two.1));
    let mut buffer = [0; 200];
    for number in 0..count {
        near.send_to(&[number; 100], far.local_addr().unwrap()).unwrap();
        let (length, from) = far.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&[number; 100][..], near.local_addr().unwrap()));
        far.send_to(&buffer[..length], from).unwrap();
        let (length, from) = near.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&[number; 100][..], far.local_addr().unwrap()));
    }
}

fn assert_counters(network: &Network, rx_packets: u64, tx_packets: u64) {
    for (name, interface) in PATH {
        let LinkCounters { rx_packets: rx, tx_packets: tx, rx_dropped, tx_dropped, .. } =
            host(network, name).counters(interface).unwrap();
        // What comes from the client goes out at the dut's second interface.
        let expected =
            if interface == "eth1" || name == "client" { (rx_packets, tx_packets) } else { (tx_packets, rx_packets) };
        assert_eq!((rx, tx, rx_dropped, tx_dropped), (expected.0, expected.1, 0, 0), "{name} {interface}");
    }
}

/// Names of network namespaces of hosts of that name, by whomever made.
fn namespaces_of(host: &str) -> Vec<String> {
    let names = std::fs::read_dir("/run/netns").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("bpflab-") && name.ends_with(&format!("-{host}"))).collect()
}

fn paths(network: &Network) -> Vec<PathBuf> {
    network.hosts().iter().map(Host::namespace_path).collect()
}

#[test]
fn every_preset_is_built_as_described_and_closed() {
    for name in presets::NAMES {
        let network = build(&presets::named(name).unwrap());
        let paths = paths(&network);
        assert!(paths.iter().all(|path| path.exists()), "{paths:?}");
        network.close().unwrap();
        assert!(!paths.iter().any(|path| path.exists()), "{paths:?}");
    }
}

#[test]
fn a_host_is_its_own_namespace() {
    use std::os::unix::fs::MetadataExt as _;
    let network = build(&presets::router());
    let mut inodes: Vec<u32> = network.hosts().iter().map(Host::netns_inode).collect();
    for host in network.hosts() {
        let inode = host.run(|| std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino());
        assert_eq!(u64::from(host.netns_inode()), inode);
        let inode =
            host.spawn(|| std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino()).unwrap().join().unwrap();
        assert_eq!(u64::from(host.netns_inode()), inode);
    }
    inodes.push(std::fs::metadata("/proc/self/ns/net").unwrap().ino().try_into().unwrap());
    inodes.sort_unstable();
    inodes.dedup();
    assert_eq!(inodes.len(), 4, "three hosts and this process");
    // A panic of a closure is its caller's, and the host goes on.
    let dut = host(&network, "dut");
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| dut.run(|| panic!("of the closure"))));
    assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"of the closure"));
    assert_eq!(dut.mac("eth1").unwrap().to_string(), "02:62:70:66:01:01");
    assert!(dut.ifindex("eth7").unwrap_err().is_missing());
    network.close().unwrap();
}

#[test]
fn datagrams_cross_the_bridge_and_nothing_else_does() {
    let network = build(&presets::bridge());
    let (client, server) = (host(&network, "client"), host(&network, "server"));
    assert_counters(&network, 0, 0);
    exchange((client, address("10.71.0.1")), (server, address("10.71.0.2")), 10);
    exchange((client, address("fd71::1")), (server, address("fd71::2")), 10);
    assert_counters(&network, 20, 20);
    network.close().unwrap();
}

#[test]
fn datagrams_cross_the_router_and_nothing_else_does() {
    let network = build(&presets::router());
    let (client, server) = (host(&network, "client"), host(&network, "server"));
    assert_counters(&network, 0, 0);
    exchange((client, address("10.71.1.1")), (server, address("10.71.2.2")), 10);
    exchange((client, address("fd71:1::1")), (server, address("fd71:2::2")), 10);
    assert_counters(&network, 20, 20);
    network.close().unwrap();
}

/// 1000 errors of each family as fast as they come: by default the kernel answers about six in a row, then one a second.
#[test]
fn every_datagram_to_a_closed_port_has_its_icmp_error() {
    let network = build(&presets::router());
    for (near, far) in [("10.71.1.1", "10.71.2.2"), ("fd71:1::1", "fd71:2::2")] {
        let socket = socket(host(&network, "client"), address(near));
        socket.connect(SocketAddr::new(address(far), 9)).unwrap();
        for number in 0..1000 {
            socket.send(b"anybody?").unwrap();
            let error = socket.recv(&mut [0; 10]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{far} number {number}");
        }
    }
    assert_counters(&network, 2000, 2000);
    network.close().unwrap();
}

#[test]
fn a_stream_crosses_in_frames_that_fit_the_mtu() {
    let network = build(&presets::router().with_mtu(1400));
    let (client, server) = (host(&network, "client"), host(&network, "server"));
    for (index, to) in ["10.71.2.2", "fd71:2::2"].into_iter().enumerate() {
        let listener = server.run(move || TcpListener::bind((address(to), 0))).unwrap();
        let to = listener.local_addr().unwrap();
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[index]).collect();
        let expected = sent.clone();
        let sending = client.spawn(move || TcpStream::connect(to).unwrap().write_all(&sent).unwrap()).unwrap();
        let mut received = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
        sending.join().unwrap();
        assert!(received == expected, "{to}");
    }
    let counters = server.counters("eth0").unwrap();
    // 2 MB in segments of at most 1400 - 20 - 20 bytes is at least 1471 of them.
    assert!(counters.rx_packets > 1471 && counters.rx_bytes / counters.rx_packets <= 1414, "{counters:?}");
    network.close().unwrap();
}

#[test]
fn captured_addresses_are_routed_and_answered() {
    let (left, right) = (["192.0.2.1", "2001:db8:1::1"].map(address), ["198.51.100.1", "2001:db8:2::1"].map(address));
    let mut topology = presets::router_for(&left, &right);
    for (name, addresses) in [("client", left), ("server", right)] {
        topology.end_mut(name, "eth0").unwrap().addresses.extend(addresses.map(Prefix::host));
    }
    let network = build(&topology);
    for (one, two) in left.into_iter().zip(right) {
        exchange((host(&network, "client"), one), (host(&network, "server"), two), 3);
    }
    assert_counters(&network, 6, 6);
    network.close().unwrap();

    let network = build(&presets::host(&right));
    for (near, far) in ["10.71.1.1", "fd71:1::1"].map(address).into_iter().zip(right) {
        exchange((host(&network, "client"), near), (host(&network, "dut"), far), 3);
    }
    network.close().unwrap();
}

#[test]
fn with_arp_neighbours_find_each_other() {
    for topology in [presets::bridge(), presets::router()] {
        let network = build(&Topology { arp: true, ..topology });
        let (client, server) = (host(&network, "client"), host(&network, "server"));
        let v6 = |host: &Host| {
            host.addresses("eth0").unwrap().iter().find(|prefix| prefix.address.is_ipv6()).unwrap().address
        };
        let v4 = |host: &Host| {
            host.addresses("eth0").unwrap().iter().find(|prefix| prefix.address.is_ipv4()).unwrap().address
        };
        exchange((client, v4(client)), (server, v4(server)), 3);
        exchange((client, v6(client)), (server, v6(server)), 3);
        // Beside the datagrams at least an ARP answer and a neighbour advertisement.
        let received = client.counters("eth0").unwrap().rx_packets;
        assert!(received >= 8, "{received}");
        network.close().unwrap();
    }
}

#[test]
fn routes_of_every_kind_do_what_they_say() {
    let mut topology = presets::router();
    let route = |to: &str, kind| RouteSpec { to: to.parse().unwrap(), via: None, interface: None, kind };
    topology.host_mut("dut").unwrap().routes = vec![
        route("192.0.2.1/32", RouteKind::Unreachable),
        route("192.0.2.2/32", RouteKind::Prohibit),
        route("192.0.2.3/32", RouteKind::Blackhole),
        route("2001:db8::1/128", RouteKind::Unreachable),
        route("2001:db8::2/128", RouteKind::Prohibit),
        route("2001:db8::3/128", RouteKind::Blackhole),
        RouteSpec::via("198.51.100.0/24".parse().unwrap(), address("10.71.2.2")),
    ];
    // Every address of a prefix is the server's own, and none is configured.
    topology.host_mut("server").unwrap().routes.extend([
        route("198.51.100.0/24", RouteKind::Local),
        RouteSpec { interface: Some("eth0".to_owned()), ..route("2001:db8:1::/64", RouteKind::Local) },
        RouteSpec { interface: Some("eth0".to_owned()), ..route("203.0.113.0/24", RouteKind::Unicast) },
    ]);
    let network = build(&topology);
    let (client, server) = (host(&network, "client"), host(&network, "server"));
    // Of these the sender hears nothing: "unreachable" is no error to a datagram socket, a black hole says nothing.
    for (from, to) in [
        ("10.71.1.1", "192.0.2.1"),
        ("10.71.1.1", "192.0.2.3"),
        ("fd71:1::1", "2001:db8::1"),
        ("fd71:1::1", "2001:db8::3"),
    ] {
        socket(client, address(from)).send_to(b"?", SocketAddr::new(address(to), 9)).unwrap();
    }
    for (from, to, expected) in
        [("10.71.1.1", "192.0.2.2", libc::EHOSTUNREACH), ("fd71:1::1", "2001:db8::2", libc::EACCES)]
    {
        let socket = socket(client, address(from));
        socket.connect(SocketAddr::new(address(to), 9)).unwrap();
        socket.send(b"?").unwrap();
        assert_eq!(socket.recv(&mut [0; 1]).unwrap_err().raw_os_error(), Some(expected), "{to}");
    }
    exchange((client, address("10.71.1.1")), (server, address("198.51.100.77")), 2);
    // Sent: two unreachable, two swallowed, two prohibited, two exchanged. Answered: all but those swallowed.
    let deadline = Instant::now() + LIMIT;
    while client.counters("eth0").unwrap().rx_packets < 6 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    let counters = client.counters("eth0").unwrap();
    assert_eq!((counters.tx_packets, counters.rx_packets), (8, 6));
    network.close().unwrap();
}

/// Frames that a bridge of default settings would answer, learn from, filter or keep.
fn awkward_frames() -> Vec<Vec<u8>> {
    let mut headers: Vec<[[u8; 6]; 2]> = Vec::new();
    let elsewhere = [0x02, 0, 0, 0, 0, 0x11];
    // Reserved group addresses but pause frames': spanning tree, link aggregation, 802.1X, LLDP, ...
    headers.extend((0..16).filter(|last| *last != 1).map(|last| [[1, 0x80, 0xc2, 0, 0, last], elsewhere]));
    // Broadcast, IPv4 and IPv6 groups, an unknown station.
    headers.extend(
        [[0xff; 6], [1, 0, 0x5e, 0, 0, 251], [0x33, 0x33, 0, 0, 0, 1], [2, 0, 0, 0, 0, 0x22]].map(|to| [to, elsewhere]),
    );
    // The same station first as a source, then as a destination from the same side: one that learns keeps the second.
    headers.extend([[[2, 0, 0, 0, 0, 0x33], elsewhere], [elsewhere, [2, 0, 0, 0, 0, 0x33]], [elsewhere, elsewhere]]);
    let mut frames: Vec<Vec<u8>> =
        headers.iter().map(|header| [header.concat(), vec![0x08, 0x00, 0x4f]].concat()).collect();
    // An IGMP query and an MLD query, which snooping would act on; Ethertypes of VLAN, QinQ, MPLS, LLDP; a length field.
    for ethertype in [[0x81, 0x00], [0x88, 0xa8], [0x88, 0x47], [0x88, 0xcc], [0x00, 0x10], [0x86, 0xdd], [0x08, 0x06]]
    {
        frames.push([&[2, 0, 0, 0, 0, 0x22, 2, 0, 0, 0, 0, 0x11][..], &ethertype, &[0, 7, 0x08, 0x00]].concat());
    }
    for (number, frame) in frames.iter_mut().enumerate() {
        frame.resize(60 + number * 17, number as u8);
    }
    frames
}

#[test]
fn any_frame_crosses_the_bridge_unchanged() {
    let network = build(&presets::bridge());
    let frames = awkward_frames();
    let open = || {
        pcap::Capture::from_device("eth0").unwrap().immediate_mode(true).timeout(1000).snaplen(65535).open().unwrap()
    };
    for (from, to) in [("client", "server"), ("server", "client")] {
        let mut receiver = host(&network, to).run(open);
        let mut sender = host(&network, from).run(open);
        for (number, frame) in frames.iter().enumerate() {
            sender.sendpacket(frame.as_slice()).unwrap();
            let deadline = Instant::now() + LIMIT;
            let received = loop {
                match receiver.next_packet() {
                    Ok(packet) => break packet.data.to_vec(),
                    Err(pcap::Error::TimeoutExpired) if Instant::now() < deadline => {}
                    Err(error) => panic!("frame {number}, {frame:02x?}: {error}"),
                }
            };
            assert_eq!(received, *frame, "frame {number} from {from}");
        }
    }
    let count = frames.len() as u64;
    assert_counters(&network, count, count);
    network.close().unwrap();
}

#[test]
fn offloads_are_off_and_can_be_turned_on() {
    let mut topology = presets::bridge();
    topology.end_mut("server", "eth0").unwrap().offloads = vec![Offload::Gro];
    let network = build(&topology);
    let (dut, server) = (host(&network, "dut"), host(&network, "server"));
    assert_eq!(dut.offloads("eth0").unwrap(), [].into());
    assert_eq!(server.offloads("eth0").unwrap(), [Offload::Gro].into());
    dut.set_offload("eth0", Offload::TxChecksum, true).unwrap();
    assert_eq!(dut.offloads("eth0").unwrap(), [Offload::TxChecksum].into());
    let [found] = verify(&network).unwrap().try_into().unwrap();
    assert_eq!(found.to_string(), "dut eth0: offloads is {TxChecksum}, not {}");
    dut.set_offload("eth0", Offload::TxChecksum, false).unwrap();
    assert_eq!(verify(&network).unwrap(), []);
    let statistics = dut.ethtool_stats("eth1").unwrap();
    assert_eq!(statistics["peer_ifindex"], u64::from(server.ifindex("eth0").unwrap()));
    assert_eq!(statistics["rx_queue_0_xdp_packets"], 0, "{statistics:?}");
    network.close().unwrap();
}

#[test]
fn a_native_program_attaches_at_the_largest_mtu() {
    let network = build(&presets::bridge().with_mtu(XDP_MAX_MTU));
    let dut = host(&network, "dut");
    let indexes = ["eth0", "eth1"].map(|name| dut.ifindex(name).unwrap());
    dut.run(move || {
        let mut object = aya::Ebpf::load(bpflab::object::suite::BASELINE).unwrap();
        let program: &mut Xdp = object.program_mut("empty").unwrap().try_into().unwrap();
        program.load().unwrap();
        for index in indexes {
            program.attach_to_if_index(index, XdpMode::Driver).unwrap();
        }
    });
    network.close().unwrap();
}

#[test]
fn parameters_and_their_deviations_are_found() {
    let mut topology = presets::router();
    let dut = topology.host_mut("dut").unwrap();
    dut.sysctls.insert("net.ipv4.conf.eth0.rp_filter".to_owned(), "2".to_owned());
    let network = build(&topology);
    let dut = host(&network, "dut");
    assert_eq!(dut.sysctl("net.ipv4.conf.eth0.rp_filter").unwrap(), "2");
    assert_eq!(host(&network, "client").sysctl("net.ipv4.ip_forward").unwrap(), "0");
    dut.set_sysctl("net.ipv4.ip_forward", "0").unwrap();
    let [found] = verify(&network).unwrap().try_into().unwrap();
    assert_eq!(found.to_string(), "dut: sysctl is 0, not net.ipv4.ip_forward = 1");
    assert!(dut.sysctl("net.ipv4.no_such_thing").unwrap_err().is_missing());
    network.close().unwrap();
}

/// Two hosts with two tags on their link, the outer of the service kind.
fn stacked() -> Topology {
    let tagged = |name: &str, last: u8| HostSpec {
        name: name.to_owned(),
        vlans: vec![
            VlanSpec {
                name: "eth0.7".to_owned(),
                parent: "eth0".to_owned(),
                id: 7,
                protocol: VlanProtocol::Service,
                addresses: vec![Prefix::new([10, 7, 0, last], 24)],
            },
            VlanSpec {
                name: "eth0.7.8".to_owned(),
                parent: "eth0.7".to_owned(),
                id: 8,
                protocol: VlanProtocol::Customer,
                addresses: vec![
                    Prefix::new([10, 8, 0, last], 24),
                    Prefix::new([0xfd08, 0, 0, 0, 0, 0, 0, last.into()], 64),
                ],
            },
        ],
        ..HostSpec::default()
    };
    Topology {
        name: "stacked".to_owned(),
        hosts: vec![tagged("tagged-left", 1), tagged("tagged-right", 2)],
        links: vec![LinkSpec {
            ends: ["tagged-left", "tagged-right"].map(|host| EndSpec::new(host, "eth0", &[])),
            mtu: 1500,
        }],
        ..Topology::default()
    }
}

#[test]
fn tagged_datagrams_cross_or_the_kernel_has_no_vlan_interfaces() {
    let topology = stacked();
    match Network::build(&topology) {
        Ok(network) => {
            assert_eq!(verify(&network).unwrap(), []);
            let (left, right) = (host(&network, "tagged-left"), host(&network, "tagged-right"));
            for (near, far) in [("10.7.0.1", "10.7.0.2"), ("10.8.0.1", "10.8.0.2"), ("fd08::1", "fd08::2")] {
                exchange((left, address(near)), (right, address(far)), 5);
            }
            let count = |host: &Host, interface| host.counters(interface).unwrap().rx_packets;
            assert_eq!((count(left, "eth0"), count(left, "eth0.7"), count(left, "eth0.7.8")), (15, 15, 10));
            network.close().unwrap();
        }
        Err(error) => {
            assert!(error.is_unsupported(), "{}", chain(&error));
            let expected = "cannot make a VLAN interface on host tagged-left, interface eth0.7 (the running kernel does not support it)";
            assert!(error.to_string().replace("right", "left") == expected, "{error}");
            assert!(
                !Path::new("/proc/net/vlan").exists(),
                "the kernel has VLAN interfaces, and yet: {}",
                chain(&error)
            );
        }
    }
    assert_eq!((namespaces_of("tagged-left"), namespaces_of("tagged-right")), (vec![], vec![]));
}

#[test]
fn of_a_failed_build_nothing_is_left() {
    let mut topology = presets::router();
    for (host, name) in topology.hosts.iter_mut().zip(["undone-a", "undone-b", "undone-c"]) {
        let old = std::mem::replace(&mut host.name, name.to_owned());
        topology
            .links
            .iter_mut()
            .flat_map(|link| &mut link.ends)
            .filter(|end| end.host == old)
            .for_each(|end| end.host = name.to_owned());
    }
    // The same route twice: nothing is wrong with either, and only the kernel knows that it has one already.
    let route = RouteSpec::via("192.0.2.0/24".parse().unwrap(), address("10.71.2.2"));
    topology.hosts[1].routes = vec![route.clone(), route];
    let error = Network::build(&topology).unwrap_err();
    assert_eq!(
        chain(&error),
        "cannot add route to 192.0.2.0/24 via 10.71.2.2 on host undone-b: File exists (os error 17)"
    );
    topology.hosts[1].routes.clear();
    topology.hosts[2].sysctls.insert("net.ipv4.no_such_thing".to_owned(), "1".to_owned());
    let error = Network::build(&topology).unwrap_err();
    assert_eq!(
        chain(&error),
        "cannot set net.ipv4.no_such_thing on host undone-c: No such file or directory (os error 2)"
    );
    for host in ["undone-a", "undone-b", "undone-c"] {
        assert_eq!(namespaces_of(host), [""; 0]);
    }
}

/// Set for the process that [`what_a_killed_process_leaves_is_found_and_removed`] kills.
const VICTIM: &str = "BPFLAB_TEST_VICTIM";

/// As a process of its own it says what it built, and then waits for its end.
#[test]
fn a_network_ends_with_its_value() {
    let network = build(&presets::router());
    let paths = paths(&network);
    if std::env::var_os(VICTIM).is_some() {
        let names: Vec<_> = network.hosts().iter().map(Host::namespace).collect();
        println!("\nbuilt {}", names.join(" "));
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    }
    drop(network);
    assert!(!paths.iter().any(|path| path.exists()), "{paths:?}");
}

#[test]
fn what_a_killed_process_leaves_is_found_and_removed() {
    // The first network of a process removes leftovers: not the ones that this test looks for.
    let network = build(&presets::host(&[]));
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_network_ends_with_its_value", "--nocapture"])
        .env(VICTIM, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map(Result::unwrap);
    let built = lines.find_map(|line| line.strip_prefix("built ").map(str::to_owned)).unwrap();
    let names: Vec<&str> = built.split(' ').collect();
    assert_eq!(names.len(), 3);
    let found = || reap::leftovers().unwrap().into_iter().filter(|one| one.pid() == victim.id()).collect::<Vec<_>>();
    assert_eq!(found(), [], "while it runs");
    let path = |name: &str| Path::new("/run/netns").join(name);
    assert!(names.iter().all(|name| path(name).exists()));

    victim.kill().unwrap();
    victim.wait().unwrap();
    let left = reap::leftovers().unwrap();
    for name in &names {
        // Another test's process that starts now removes it too.
        assert!(left.iter().any(|leftover| leftover.name() == *name) || !path(name).exists(), "{name} in {left:?}");
    }
    left.iter().filter(|leftover| leftover.pid() == victim.id()).for_each(|leftover| reap::remove(leftover).unwrap());
    assert!(!names.iter().any(|name| path(name).exists()), "{names:?}");
    assert_eq!(verify(&network).unwrap(), [], "one that lives is left alone");
    network.close().unwrap();
}

#[test]
fn twenty_networks_side_by_side() {
    std::thread::scope(|scope| {
        for number in 0..20 {
            scope.spawn(move || {
                let bridge = number % 2 == 0;
                let network = build(&if bridge { presets::bridge() } else { presets::router() });
                let (client, server) = (host(&network, "client"), host(&network, "server"));
                for (near, far) in if bridge {
                    [("10.71.0.1", "10.71.0.2"), ("fd71::1", "fd71::2")]
                } else {
                    [("10.71.1.1", "10.71.2.2"), ("fd71:1::1", "fd71:2::2")]
                } {
                    exchange((client, address(near)), (server, address(far)), 5);
                }
                assert_counters(&network, 10, 10);
                network.close().unwrap();
            });
        }
    });
}
