//! An end host under scan, and what the suite says of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use bpflab::capture::{self, Side, SidesPolicy};
use bpflab::object::Clock;
use bpflab::observation::Observation;
use bpflab::scenario::Mode;
use bpflab::scenario::spec::Programs;
use bpflab::suite::flows::{Flows, FlowsSettings};
use bpflab::suite::protocols::{Protocols, ProtocolsSettings};
use bpflab::suite::tcp_state::{TcpState, TcpStateSettings};
use bpflab::suite::{self, Family, Observer, Watch};
use bpflab::synth::{self, Hosts, Spec};
use bpflab::sys;
use bpflab::topology::{Network, presets};
use bpflab::wire::Attachments;

/// The ports that are scanned.
pub const PORTS: RangeInclusive<u16> = 7995..=8004;
/// The one of them at which there is a socket, for TCP and for UDP.
pub const OPEN: u16 = 8000;

/// Longest that a tool may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the suite says of the traffic, and how often: for each port what came and went, and how TCP ended.
pub type Verdict = BTreeMap<String, u64>;

pub struct Target {
    version: u8,
    // Dropped in this order: links, programs, sockets, namespaces.
    _attached: Box<dyn std::any::Any>,
    _attachments: Attachments,
    analyzers: Vec<Box<dyn Observer>>,
    _sockets: (TcpListener, UdpSocket),
    network: Network,
}

impl Target {
    pub fn new(version: u8) -> Self {
        let mut topology = presets::host(&[]);
        // A port that is closed answers each datagram, not one a second (net/ipv4/icmp.c).
        // And a SYN that is not followed up is answered once.
        let limits =
            [("net.ipv4.icmp_ratelimit", "0"), ("net.ipv6.icmp.ratelimit", "0"), ("net.ipv4.tcp_synack_retries", "0")];
        let limits = limits.map(|(name, value)| (name.to_owned(), value.to_owned()));
        topology.host_mut(presets::DUT).unwrap().sysctls.extend(limits);
        let network = Network::build(&topology).unwrap();
        let dut = network.host(presets::DUT).unwrap();
        let any: IpAddr = if version == 4 { [0; 4].into() } else { [0; 16].into() };
        let sockets = dut.run(move || (TcpListener::bind((any, OPEN)).unwrap(), UdpSocket::bind((any, OPEN)).unwrap()));
        let mut attachments = Attachments::new(&network).unwrap();
        let mut analyzers: Vec<Box<dyn Observer>> = vec![
            Box::new(Flows::load(Clock::Kernel, &FlowsSettings::default()).unwrap()),
            Box::new(TcpState::load(Clock::Kernel, &TcpStateSettings::default()).unwrap()),
            Box::new(Protocols::load(Clock::Kernel, &ProtocolsSettings::default()).unwrap()),
        ];
        suite::attach(&mut analyzers, Watch::AllBut(None), &mut attachments, &network).unwrap();
        let attached = Box::new(attachments.attach_xdp_alone().unwrap());
        attachments.keep_segments(&network).unwrap();
        Self { version, _attached: attached, _attachments: attachments, analyzers, _sockets: sockets, network }
    }

    /// The address that is scanned.
    pub fn address(&self) -> IpAddr {
        let end = self.network.topology().end(presets::DUT, "eth0").unwrap();
        let fits = |address: &IpAddr| address.is_ipv4() == (self.version == 4);
        end.addresses.iter().map(|prefix| prefix.address).find(fits).unwrap()
    }

    /// Runs a tool in the client's namespace until it ends by itself, and returns what it said.
    pub fn tool(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = self.network.host(presets::CLIENT).unwrap().run(move || command.spawn());
        let mut child = started.unwrap_or_else(|error| panic!("{program}: {error}"));
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
                panic!("{program} {arguments:?} does not end");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let output = child.wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// Sends traffic of the catalogue from the client's end, each packet to the target's hardware address.
    pub fn send(&self, spec: &Spec) {
        let client = self.network.host(presets::CLIENT).unwrap();
        let to = self.network.host(presets::DUT).unwrap().mac("eth0").unwrap();
        let index = client.ifindex("eth0").unwrap();
        let socket = client.run(move || sys::packet_sender(index)).unwrap();
        for frame in spec.frames_among(&Hosts::from(self.network.topology())).unwrap() {
            assert_eq!(frame.side, Side::Client);
            let mut data = frame.data;
            data[..6].copy_from_slice(&to.0);
            assert_eq!(sys::send_frames(socket.as_fd(), &[&data]).unwrap(), 1);
        }
    }

    /// Requests that were never answered.
    pub fn unanswered(&mut self) -> BTreeMap<String, u64> {
        unanswered(&self.observe())
    }

    /// What the suite says now.
    pub fn verdict(&mut self) -> Verdict {
        verdict(&self.observe())
    }

    fn observe(&mut self) -> Observation {
        let mut observation = Observation::default();
        for analyzer in &mut self.analyzers {
            analyzer.finish(0, &mut observation).unwrap();
        }
        assert!(observation.losses.is_empty(), "{:?}", observation.losses);
        observation
    }
}

fn port(endpoint: &str) -> &str {
    endpoint.rsplit_once(':').map_or("", |(_, port)| port)
}

/// Which port of the client a packet came from, how large it was and when it came is the tool's own affair.
fn verdict(observation: &Observation) -> Verdict {
    let mut verdict = Verdict::new();
    let mut note = |line: String, count: u64| *verdict.entry(line).or_default() += count;
    for flow in &observation.flows {
        note(format!("{} {}: packets {}/{}", flow.proto, port(&flow.b), flow.packets.a_to_b, flow.packets.b_to_a), 1);
    }
    for connection in &observation.tcp.as_ref().unwrap().connections {
        let reset = connection.reset_by.as_deref().map_or(String::new(), |by| format!(" by {by}"));
        note(format!("tcp {}: {}{reset}", port(&connection.server), connection.state), 1);
    }
    for (kind, count) in &observation.malformed {
        note(format!("malformed: {kind}"), *count);
    }
    verdict
}

fn unanswered(observation: &Observation) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for http in &observation.http {
        assert_eq!(http.status, None, "{http:?}");
        // Behind the question mark is what keeps a request from being answered out of a cache.
        let path = http.path.split('?').next().unwrap_or_default();
        *counts.entry(format!("{} {path} without an answer", http.method)).or_default() += 1;
    }
    counts
}

/// What the suite says of both sides of the catalogue's traffic, in lockstep.
fn observe_conversations(spec: &Spec) -> Observation {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("synth.pcapng");
    let mut writer = capture::Writer::create(&path).unwrap();
    for frame in synth::frames(spec).unwrap() {
        writer.write(frame.time_ns, &frame.data, frame.wire_len).unwrap();
    }
    writer.finish().unwrap();
    let programs = Programs::of(&[Family::Flows, Family::TcpState, Family::Protocols]);
    let plan = bpflab::run::Plan {
        capture: path,
        options: capture::Options { sides: SidesPolicy::Mac, ..capture::Options::default() },
        mode: Some(Mode::Lockstep),
        programs,
        topology: bpflab::topology::TopologyChoice::default(),
        speed: bpflab::wire::Speed::Top,
        clock: Clock::Capture,
        engine: bpflab::wire::EngineChoice::Auto,
        live: bpflab::live::LiveOptions::default(),
        apps: Vec::new(),
        artefacts: None,
        record: None,
    };
    bpflab::run::run(&plan, &AtomicBool::new(false), &mut |_| ()).unwrap().observation
}

/// As [`Target::verdict`], of both sides of the catalogue's traffic.
pub fn verdict_of_conversations(spec: &Spec) -> Verdict {
    verdict(&observe_conversations(spec))
}

/// As [`Target::unanswered`], of both sides of the catalogue's traffic.
pub fn unanswered_conversations(spec: &Spec) -> BTreeMap<String, u64> {
    unanswered(&observe_conversations(spec))
}
