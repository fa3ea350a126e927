//! The `protocols` object in the kernel, packet by packet through `BPF_PROG_TEST_RUN`.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::process::Command;

use aya::programs::tc::{self, NlOptions, TcAttachOptions};
use aya::programs::{ProgramFd, SchedClassifier, TcAttachType};
use bpflab::object::Clock;
use bpflab::observation::Observation;
use bpflab::suite::Analyzer as _;
use bpflab::suite::protocols::{Protocols, ProtocolsSettings};
use bpflab::sys;
use etherparse::{PacketBuilder, TcpHeader};
use netns_rs::NetNs;

const CLIENT: ([u8; 4], u16) = ([10, 0, 0, 1], 40_000);
const WEB: ([u8; 4], u16) = ([10, 0, 0, 2], 80);
const DNS: ([u8; 4], u16) = ([10, 0, 0, 2], 53);
const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 1;
const RST: u8 = 4;
/// `TC_ACT_UNSPEC`, as the unsigned number that the kernel returns.
const PASS: u32 = u32::MAX;
/// Start of the capture: any time will do.
const START_NS: u64 = 1_700_000_000_000_000_000;

/// The object with its program loaded, and the capture's time.
struct Lab {
    protocols: Protocols,
    program: ProgramFd,
    now_ns: u64,
}

impl Lab {
    fn new(settings: &ProtocolsSettings) -> Self {
        Self::with_clock(Clock::Virtual, settings)
    }

    fn with_clock(clock: Clock, settings: &ProtocolsSettings) -> Self {
        let mut protocols = Protocols::load(clock, settings).expect("load the object");
        let program = protocols.object_mut().load_program("protocols_ingress", None).expect("load the program");
        Self { protocols, program, now_ns: START_NS }
    }

    /// Runs one frame, 1 ms after the one before, without draining.
    fn run(&mut self, frame: &[u8]) {
        self.now_ns += 1_000_000;
        self.protocols.object().set_clock(self.now_ns);
        let result = sys::test_run(self.program.as_fd(), frame, None, 1).expect("run the program");
        assert_eq!(result.verdict, PASS);
    }

    fn finish(mut self) -> Observation {
        let mut observation = Observation::default();
        self.protocols.finish(START_NS, &mut observation).expect("finish");
        observation
    }
}

/// Runs frames, draining after each, and returns what was seen. No losses.
fn observe(frames: &[Vec<u8>]) -> Observation {
    let mut lab = Lab::new(&ProtocolsSettings::default());
    for frame in frames {
        lab.run(frame);
        lab.protocols.drain().expect("drain");
    }
    let observation = lab.finish();
    assert!(observation.losses.is_empty(), "{:?}", observation.losses);
    observation
}

fn tcp(from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(from.1, to.1, seq, 64_240);
    header.acknowledgment_number = ack;
    (header.syn, header.ack) = (flags & SYN != 0, flags & ACK != 0);
    (header.fin, header.rst) = (flags & FIN != 0, flags & RST != 0);
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(from.0, to.0, 64);
    let mut frame = Vec::new();
    builder.tcp_header(header).write(&mut frame, payload).expect("build a packet");
    frame
}

fn udp(from: ([u8; 4], u16), to: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(from.0, to.0, 64);
    let mut frame = Vec::new();
    builder.udp(from.1, to.1).write(&mut frame, payload).expect("build a packet");
    frame
}

/// SYN and SYN-ACK: the client's bytes begin at 1001, the server's at 5001.
fn handshake(server: ([u8; 4], u16)) -> Vec<Vec<u8>> {
    vec![tcp(CLIENT, server, SYN, 1000, 0, b""), tcp(server, CLIENT, SYN | ACK, 5000, 1001, b"")]
}

/// A ClientHello record for `example.org` that offers TLS 1.3 and 1.2, `h2` and `http/1.1`.
fn client_hello() -> Vec<u8> {
    let mut extensions = vec![0, 0, 0, 16, 0, 14, 0, 0, 11];
    extensions.extend(b"example.org");
    extensions.extend([0, 16, 0, 14, 0, 12, 2]);
    extensions.extend(b"h2\x08http/1.1");
    extensions.extend([0, 43, 0, 5, 4, 3, 4, 3, 3]);
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 4, 0x13, 0x01, 0xc0, 0x2f, 1, 0]);
    body.extend(u16::try_from(extensions.len()).expect("short").to_be_bytes());
    body.extend(extensions);
    record(1, &body)
}

/// A ServerHello record that chooses TLS 1.3 and TLS_AES_128_GCM_SHA256.
fn server_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0x13, 0x01, 0, 0, 6, 0, 43, 0, 2, 3, 4]);
    record(2, &body)
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).expect("short");
    let mut record = vec![22, 3, 1];
    record.extend((len + 4).to_be_bytes());
    record.extend([kind, 0]);
    record.extend(len.to_be_bytes());
    record.extend(body);
    record
}

/// A message with one question: ID, flags, ANCOUNT, name in wire form, type A, class IN.
fn dns(id: u16, flags: u16, answers: u16, name: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    for field in [id, flags, 1, answers, 0, 0] {
        message.extend(field.to_be_bytes());
    }
    message.extend(name);
    message.extend([0, 1, 0, 1]);
    for _ in 0..answers {
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    }
    message
}

#[test]
fn a_hello_in_three_segments_out_of_order() {
    let (hello, answer) = (client_hello(), server_hello());
    let (one, rest) = hello.split_at(20);
    let (two, three) = rest.split_at(30);
    let seen = observe(
        &[
            handshake(WEB),
            vec![
                // Times: 3 ms the third part, 4 ms the second, 5 ms the first, 6 ms the answer.
                tcp(CLIENT, WEB, ACK, 1051, 5001, three),
                tcp(CLIENT, WEB, ACK, 1021, 5001, two),
                tcp(CLIENT, WEB, ACK, 1001, 5001, one),
                tcp(WEB, CLIENT, ACK, 5001, 1001, &answer),
                // A spurious retransmission is no second handshake.
                tcp(CLIENT, WEB, ACK, 1001, 5001, one),
            ],
        ]
        .concat(),
    );
    let [tls] = seen.tls.as_slice() else { panic!("{:?}", seen.tls) };
    assert_eq!((tls.client.as_str(), tls.server.as_str()), ("10.0.0.1:40000", "10.0.0.2:80"));
    assert_eq!(tls.sni.as_deref(), Some("example.org"));
    assert_eq!(tls.alpn.as_deref(), Some("h2,http/1.1"));
    assert_eq!(tls.version.as_deref(), Some("TLS 1.3"));
    assert_eq!(tls.cipher.as_deref(), Some("TLS_AES_128_GCM_SHA256"));
    // From the segment with the first byte (5 ms) to the answer (6 ms).
    assert_eq!(tls.latency_us, Some(1000.0));
    assert_eq!(tls.cut, None);
}

#[test]
fn pipelined_requests_in_one_segment() {
    let requests = b"GET /a HTTP/1.1\r\nHost: one\r\n\r\nHEAD /b HTTP/1.1\r\nHost: two\r\n\r\n";
    let responses = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 404 No\r\nContent-Length: 9\r\n\r\n";
    let seen = observe(
        &[
            handshake(WEB),
            vec![tcp(CLIENT, WEB, ACK, 1001, 5001, requests), tcp(WEB, CLIENT, ACK, 5001, 1062, responses)],
        ]
        .concat(),
    );
    let read: Vec<_> =
        seen.http.iter().map(|http| (http.method.as_str(), http.path.as_str(), http.status, http.pipelined)).collect();
    assert_eq!(read, [("GET", "/a", Some(200), false), ("HEAD", "/b", Some(404), true)]);
    assert_eq!(seen.http[1].exchange, 2);
    assert_eq!(seen.http[1].host.as_deref(), Some("two"));
    assert!(seen.http.iter().all(|http| http.latency_us == Some(1000.0) && http.cut.is_none()), "{:?}", seen.http);
}

#[test]
fn two_dns_messages_on_one_tcp_connection() {
    let framed =
        |message: Vec<u8>| [u16::try_from(message.len()).expect("short").to_be_bytes().to_vec(), message].concat();
    let queries =
        [framed(dns(1, 0x0100, 0, b"\x01a\x04test\x00")), framed(dns(2, 0x0100, 0, b"\x01b\x04test\x00"))].concat();
    let answers =
        [framed(dns(2, 0x8183, 0, b"\x01b\x04test\x00")), framed(dns(1, 0x8180, 2, b"\x01a\x04test\x00"))].concat();
    let (head, tail) = queries.split_at(30);
    let seen = observe(
        &[
            handshake(DNS),
            vec![
                tcp(CLIENT, DNS, ACK, 1001, 5001, head),
                tcp(CLIENT, DNS, ACK, 1031, 5001, tail),
                tcp(DNS, CLIENT, ACK, 5001, 1053, &answers),
            ],
        ]
        .concat(),
    );
    let read: Vec<_> = seen
        .dns
        .iter()
        .map(|dns| (dns.name.as_str(), dns.transport.as_str(), dns.rcode.as_deref(), dns.answers, dns.latency_us))
        .collect();
    // A query has 2 + 12 + 8 + 4 = 26 bytes: the second begins in the first segment, 2 ms before the answers.
    assert_eq!(
        read,
        [("a.test", "tcp", Some("NOERROR"), 2, Some(2000.0)), ("b.test", "tcp", Some("NXDOMAIN"), 0, Some(2000.0))]
    );
}

#[test]
fn dns_over_udp_with_a_repeated_query_and_one_without_answer() {
    let (query, answer) = (dns(7, 0x0100, 0, b"\x07Example\x00"), dns(7, 0x8180, 1, b"\x07eXample\x00"));
    let lonely = dns(8, 0x0100, 0, b"\x04none\x00");
    let seen = observe(&[
        udp(CLIENT, DNS, &query),
        udp(CLIENT, DNS, &query),
        udp(CLIENT, DNS, &lonely),
        udp(DNS, CLIENT, &answer),
        // No DNS: another port, and a header with a reserved bit set.
        udp(CLIENT, ([10, 0, 0, 2], 5353), &query),
        udp(CLIENT, DNS, &dns(9, 0x0140, 0, b"\x01x\x00")),
    ]);
    let [first, second] = seen.dns.as_slice() else { panic!("{:?}", seen.dns) };
    assert_eq!((first.name.as_str(), first.kind.as_str(), first.retransmissions), ("example", "A", 1));
    // From the first query, 3 packets before the answer.
    assert_eq!((first.rcode.as_deref(), first.latency_us), (Some("NOERROR"), Some(3000.0)));
    assert_eq!((second.name.as_str(), second.rcode.as_deref(), second.latency_us), ("none", None, None));
}

#[test]
fn what_a_cut_packet_lacks_is_said() {
    let request = b"GET /a HTTP/1.1\r\nHost: one\r\nX-Long: yes\r\n\r\n";
    let mut cut = tcp(CLIENT, WEB, ACK, 1001, 5001, request);
    // The last 10 bytes were not captured: the IP header still announces them.
    cut.truncate(cut.len() - 10);
    let response = tcp(WEB, CLIENT, ACK, 5001, 1045, b"HTTP/1.1 204 No Content\r\n\r\n");
    let seen = observe(&[handshake(WEB), vec![cut, response]].concat());
    let [http] = seen.http.as_slice() else { panic!("{:?}", seen.http) };
    assert_eq!((http.method.as_str(), http.path.as_str(), http.host.as_deref()), ("GET", "/a", Some("one")));
    assert_eq!(http.status, Some(204));
    assert_eq!(http.cut.as_deref(), Some("request: 10 bytes missing: the packet was cut"));
}

#[test]
fn a_cut_inside_a_body_of_known_length_is_harmless() {
    let response = [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".to_vec(), vec![b'x'; 1000]].concat();
    let mut cut = tcp(WEB, CLIENT, ACK, 5001, 1022, &response);
    cut.truncate(300);
    let after = 5001 + u32::try_from(response.len()).expect("short");
    let seen = observe(
        &[
            handshake(WEB),
            vec![
                tcp(CLIENT, WEB, ACK, 1001, 5001, b"GET /a HTTP/1.1\r\n\r\n"),
                cut,
                tcp(CLIENT, WEB, ACK, 1020, after, b"GET /b HTTP/1.1\r\n\r\n"),
                tcp(WEB, CLIENT, ACK, after, 1039, b"HTTP/1.1 204 No\r\n\r\n"),
            ],
        ]
        .concat(),
    );
    let read: Vec<_> = seen.http.iter().map(|http| (http.path.as_str(), http.status, http.cut.as_deref())).collect();
    assert_eq!(read, [("/a", Some(200), None), ("/b", Some(204), None)]);
}

#[test]
fn a_full_ring_is_counted_and_said() {
    let mut lab = Lab::new(&ProtocolsSettings { ring_bytes: 4096, ..ProtocolsSettings::default() });
    for frame in handshake(WEB) {
        lab.run(&frame);
    }
    lab.run(&tcp(CLIENT, WEB, ACK, 1001, 5001, b"GET /a HTTP/1.1\r\n\r\n"));
    // Records take 200 or 1608 bytes with their headers: the request and two parts of the response fit into 4096.
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5000\r\n";
    lab.run(&tcp(WEB, CLIENT, ACK, 5001, 1020, head));
    let mut seq = 5001 + u32::try_from(head.len()).expect("short");
    for _ in 0..4 {
        lab.run(&tcp(WEB, CLIENT, ACK, seq, 1020, &[b'x'; 1400]));
        seq += 1400;
    }
    lab.protocols.drain().expect("drain");
    // Once there is room again, the hole is known to lie inside the chunk of 0x5000 bytes and is harmless; but the chunk
    // has not ended.
    lab.run(&tcp(WEB, CLIENT, ACK, seq, 1020, &[b'x'; 100]));
    let seen = lab.finish();
    let [http] = seen.http.as_slice() else { panic!("{:?}", seen.http) };
    assert_eq!((http.path.as_str(), http.status), ("/a", Some(200)));
    assert!(seen.losses["protocols.EVENTS"] >= 2, "{:?}", seen.losses);
    assert!(http.cut.as_deref().is_some_and(|cut| cut.contains("before the last chunk")), "{:?}", http.cut);
}

#[test]
fn an_answer_lost_in_a_full_ring_is_said_where_nothing_follows() {
    let mut lab = Lab::new(&ProtocolsSettings { ring_bytes: 4096, ..ProtocolsSettings::default() });
    lab.run(&tcp(CLIENT, WEB, ACK, 1001, 5001, b"GET /a HTTP/1.1\r\n\r\n"));
    for index in 0..20 {
        lab.run(&udp(CLIENT, DNS, &dns(index, 0x0100, 0, b"\x04fill\x00")));
    }
    lab.run(&tcp(WEB, CLIENT, ACK, 5001, 1020, b"HTTP/1.1 200 OK\r\n\r\n"));
    let seen = lab.finish();
    let [http] = seen.http.as_slice() else { panic!("{:?}", seen.http) };
    assert_eq!(http.status, None);
    assert_eq!(http.cut.as_deref(), Some("response: bytes missing: the ring was full"));
}

#[test]
fn connections_that_do_not_fit_are_counted() {
    let mut lab = Lab::new(&ProtocolsSettings { max_streams: 1, ..ProtocolsSettings::default() });
    for port in [40_001, 40_002] {
        lab.run(&tcp((CLIENT.0, port), WEB, ACK, 1001, 5001, b"GET /a HTTP/1.1\r\n\r\n"));
    }
    let seen = lab.finish();
    assert_eq!((seen.http.len(), seen.losses["protocols.STREAMS"]), (1, 1));
}

#[test]
fn the_capture_s_time_orders_what_two_interfaces_bring_at_once() {
    // A response that a second processor handed over before the request.
    let mut lab = Lab::with_clock(Clock::Capture, &ProtocolsSettings::default());
    for frame in handshake(WEB) {
        lab.run(&frame);
    }
    lab.run(&tcp(CLIENT, WEB, ACK, 1001, 5001, b"GET /a HTTP/1.1\r\n\r\n"));
    lab.now_ns += 10_000_000;
    lab.run(&tcp(WEB, CLIENT, ACK, 5001, 1039, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 204 No\r\n\r\n"));
    // Back to 2 ms after the first request.
    lab.now_ns -= 10_000_000;
    lab.run(&tcp(CLIENT, WEB, ACK, 1020, 5001, b"GET /b HTTP/1.1\r\n\r\n"));
    let seen = lab.finish();
    let read: Vec<_> = seen.http.iter().map(|http| (http.path.as_str(), http.status, http.latency_us)).collect();
    assert_eq!(read, [("/a", Some(200), Some(11_000.0)), ("/b", Some(204), Some(9000.0))]);
}

#[test]
fn the_same_ports_used_again_are_another_connection() {
    let request = |seq| tcp(CLIENT, WEB, ACK, seq, 5001, b"GET /a HTTP/1.1\r\n\r\n");
    let seen = observe(&[
        tcp(CLIENT, WEB, SYN, 1000, 0, b""),
        request(1001),
        // A new SYN without the end of the first; then the second is reset.
        tcp(CLIENT, WEB, SYN, 9_000_000, 0, b""),
        request(9_000_001),
        tcp(WEB, CLIENT, RST | ACK, 5001, 9_000_020, b""),
        // Late copies of a closed connection's segment.
        request(9_000_001),
        tcp(CLIENT, WEB, FIN | ACK, 9_000_020, 5001, b""),
    ]);
    let read: Vec<_> = seen.http.iter().map(|http| (http.exchange, http.status)).collect();
    assert_eq!(read, [(1, None), (1, None)]);
}

/// A namespace that is gone at the end of the test, whatever its outcome.
struct Namespace(Option<NetNs>);

impl Namespace {
    fn new() -> Self {
        Self(Some(NetNs::new(format!("protocols-test-{}", std::process::id())).expect("make a namespace")))
    }

    fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.as_ref().expect("a namespace").run(|_| work()).expect("enter the namespace")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(netns) = self.0.take() {
            let _ = netns.remove();
        }
    }
}

/// Talks to a server on `lo`, whose segments have up to 64 kB: two exchanges, the first with a chunked body of 300 kB.
fn exchange_on_lo() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("an address");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut request = [0; 38];
        stream.read_exact(&mut request).expect("read the requests");
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").expect("write");
        let chunk = [b"c350\r\n".to_vec(), vec![b'x'; 50_000], b"\r\n".to_vec()].concat();
        stream.write_all(&chunk.repeat(6)).expect("write the body");
        stream.write_all(b"0\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").expect("write the end");
    });
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.write_all(b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n").expect("write the requests");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("read the responses");
    assert!(all.len() > 300_000);
    server.join().expect("the server");
}

#[test]
fn segments_of_64_kb_are_handed_over_in_parts() {
    let mut protocols = Protocols::load(Clock::Kernel, &ProtocolsSettings::default()).expect("load the object");
    protocols.object_mut().load_program("protocols_ingress", None).expect("load the program");
    let namespace = Namespace::new();
    namespace.run(|| {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("run ip");
        assert!(up.success());
        tc::qdisc_add_clsact("lo").expect("add clsact");
        let program = protocols.object_mut().ebpf.program_mut("protocols_ingress");
        let program: &mut SchedClassifier = program.expect("a program").try_into().expect("a tc program");
        let options = TcAttachOptions::Netlink(NlOptions::default());
        program.attach_with_options("lo", TcAttachType::Ingress, options).expect("attach");
        exchange_on_lo();
    });
    let mut seen = Observation::default();
    protocols.finish(0, &mut seen).expect("finish");
    assert!(seen.losses.is_empty(), "{:?}", seen.losses);
    let read: Vec<_> = seen.http.iter().map(|http| (http.path.as_str(), http.status, http.cut.as_deref())).collect();
    // Had one byte of the body been lost, the second response would not be found.
    assert_eq!(read, [("/a", Some(200), None), ("/b", Some(404), None)]);
}

/// Replays a capture of this repository.
fn replay(name: &str) -> Observation {
    let mut lab = Lab::new(&ProtocolsSettings::default());
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../pcaps").join(name);
    let mut capture = pcap::Capture::from_file_with_precision(path, pcap::Precision::Nano).expect("open the capture");
    while let Ok(packet) = capture.next_packet() {
        // The clock is irrelevant here: latencies are compared elsewhere.
        lab.run(packet.data);
        lab.protocols.drain().expect("drain");
    }
    lab.finish()
}

#[test]
fn real_captures_read_as_another_dissector_reads_them() {
    // The expected values are those of tshark 4.0 on the same files.
    let seen = replay("tls12.pcap");
    let tls = &seen.tls[0];
    assert_eq!((tls.sni.as_deref(), tls.alpn.as_deref()), (Some("www.bpflab.example"), Some("http/1.1")));
    assert_eq!(tls.version.as_deref(), Some("TLS 1.2"));
    assert_eq!(tls.cipher.as_deref(), Some("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"));
    let seen = replay("tls13.pcap");
    assert_eq!(seen.tls.len(), 1);
    assert_eq!(seen.tls[0].version.as_deref(), Some("TLS 1.3"));
    let seen = replay("http-keepalive.pcap");
    let read: Vec<_> = seen.http.iter().map(|http| (http.method.as_str(), http.path.as_str(), http.status)).collect();
    assert_eq!(
        read,
        [
            ("GET", "/", Some(200)),
            ("GET", "/style.css", Some(200)),
            ("GET", "/missing", Some(404)),
            ("HEAD", "/", Some(200)),
            ("GET", "/", Some(304))
        ]
    );
    let seen = replay("dns-tcp-fallback.pcap");
    let read: Vec<_> = seen.dns.iter().map(|dns| (dns.transport.as_str(), dns.answers, dns.truncated)).collect();
    assert_eq!(read, [("udp", 4, true), ("tcp", 8, false)]);
    // Other protocols stay other protocols.
    for name in ["ssh.pcap", "redis.pcapng", "postgres.pcap", "nmap-syn.pcap"] {
        let seen = replay(name);
        assert!(seen.http.is_empty() && seen.tls.is_empty() && seen.dns.is_empty(), "{name}: {seen:?}");
    }
}

#[test]
fn time_per_packet() {
    let mut lab = Lab::new(&ProtocolsSettings::default());
    for program in aya::programs::loaded_programs().flatten() {
        if program.name_as_str().is_some_and(|name| name.starts_with("protocols_ingre")) {
            println!(
                "verifier: {:?} instructions of {:?} bytes",
                program.verified_instruction_count(),
                program.size_translated()
            );
        }
    }
    let measure = |lab: &Lab, name: &str, frame: &[u8]| {
        let best = (0..5)
            .map(|_| sys::test_run(lab.program.as_fd(), frame, None, 20_000).expect("run").duration_ns)
            .min()
            .unwrap_or(0);
        println!("{name}: {best} ns");
    };
    measure(&lab, "TCP without payload", &tcp(CLIENT, WEB, ACK, 1, 1, b""));
    measure(&lab, "UDP on another port", &udp(CLIENT, ([10, 0, 0, 2], 4000), &[0; 400]));
    let other = tcp(CLIENT, ([10, 0, 0, 2], 6379), ACK, 2, 1, &[b'*'; 400]);
    measure(&lab, "TCP payload of no interest, SYN not seen", &other);
    measure(&lab, "SYN", &tcp(CLIENT, ([10, 0, 0, 2], 6379), SYN, 1, 1, b""));
    measure(&lab, "TCP payload of no interest", &other);
    // The ring is full most of the time: no reader takes part in these.
    lab.run(&tcp(CLIENT, WEB, ACK, 1001, 5001, b"GET /a HTTP/1.1\r\n\r\n"));
    measure(&lab, "HTTP, 19 bytes (ring full)", &tcp(CLIENT, WEB, ACK, 1001, 5001, b"GET /a HTTP/1.1\r\n\r\n"));
    for (name, frame) in [
        ("DNS query into the ring", udp(CLIENT, DNS, &dns(1, 0x0100, 0, b"\x04fill\x00"))),
        ("HTTP body of 1400 bytes into the ring", tcp(WEB, CLIENT, ACK, 5001, 1020, &[b'x'; 1400])),
    ] {
        let mut total = 0;
        for _ in 0..20 {
            lab.protocols.drain().expect("drain");
            total += sys::test_run(lab.program.as_fd(), &frame, None, 1000).expect("run").duration_ns;
        }
        println!("{name}: {} ns", total / 20);
    }
}
