use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;

use aya::programs::ProgramFd;
use etherparse::{IpFragOffset, IpHeaders, IpNumber, Ipv4Header, PacketBuilder};

use super::*;
use crate::sys::test_run;

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const CLIENT: [u8; 4] = [10, 0, 0, 9];
const SERVER: [u8; 4] = [10, 0, 0, 2];
/// Time of each test's first packet: 2023-11-14, so that a mix-up with the kernel's clock would show.
const START: u64 = 1_700_000_000_000_000_000;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;

/// The object with one of its programs, fed packet by packet.
struct Lab {
    flows: Flows,
    program: ProgramFd,
}

impl Lab {
    fn new(program: &str, settings: FlowsSettings, max_flows: usize) -> Self {
        let mut flows = Flows::load_sized(Clock::Virtual, &settings, max_flows).expect("the object loads");
        let program = flows.object.load_program(program, None).expect("the program loads");
        Self { flows, program }
    }

    fn xdp() -> Self {
        Self::new("flows_xdp", FlowsSettings::default(), 1024)
    }

    /// Runs one packet at `at_us` after the start and returns the verdict.
    fn feed(&self, at_us: u64, frame: &[u8]) -> u32 {
        self.flows.object.set_clock(START + at_us * 1000);
        test_run(self.program.as_fd(), frame, None, 1).expect("the program runs").verdict
    }

    fn finish(mut self) -> Observation {
        let mut observation = Observation::default();
        self.flows.finish(START, &mut observation).expect("the maps can be read");
        observation
    }
}

/// A UDP datagram of `payload` bytes: 42 bytes of headers on top.
fn udp(payload: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, SERVER_MAC)
        .ipv4(CLIENT, SERVER, 64)
        .udp(5000, 53)
        .write(&mut frame, &vec![0; payload])
        .expect("memory does not fail");
    frame
}

/// Its answer.
fn udp_answer(payload: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(SERVER_MAC, CLIENT_MAC)
        .ipv4(SERVER, CLIENT, 64)
        .udp(53, 5000)
        .write(&mut frame, &vec![0; payload])
        .expect("memory does not fail");
    frame
}

/// One fragment of a UDP datagram from client to server: 34 bytes of headers and `part`, which starts at 8-byte block
/// `offset` of the IP payload.
fn fragment(offset: u16, more: bool, id: u16, part: &[u8]) -> Vec<u8> {
    let mut ip = Ipv4Header::new(0, 64, IpNumber::UDP, CLIENT, SERVER).expect("the payload is small");
    ip.identification = id;
    ip.dont_fragment = false;
    ip.more_fragments = more;
    ip.fragment_offset = IpFragOffset::try_new(offset).expect("below 8192");
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, SERVER_MAC)
        .ip(IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default()))
        .write(&mut frame, IpNumber::UDP, part)
        .expect("memory does not fail");
    frame
}

/// A UDP header that announces `len` bytes.
fn udp_header(len: u16) -> Vec<u8> {
    [5000_u16, 53, len, 0].iter().flat_map(|field| field.to_be_bytes()).collect()
}

#[test]
fn a_flow_is_told_from_the_side_that_spoke_first() {
    let lab = Lab::xdp();
    assert_eq!(lab.feed(0, &udp(10)), XDP_PASS);
    lab.feed(1_500, &udp_answer(100));
    lab.feed(2_250, &udp(20));
    let seen = lab.finish();
    assert_eq!(
        seen.flows,
        [observation::Flow {
            proto: "udp".to_owned(),
            // 10.0.0.9 sent first, though 10.0.0.2 is the lower address.
            a: "10.0.0.9:5000".to_owned(),
            b: "10.0.0.2:53".to_owned(),
            packets: PerDirection { a_to_b: 2, b_to_a: 1 },
            // 42 + 10 and 42 + 20; 42 + 100.
            bytes: PerDirection { a_to_b: 114, b_to_a: 142 },
            start_us: 0.0,
            duration_us: 2_250.0,
            ..observation::Flow::default()
        }]
    );
    // Only the XDP program is loaded, so only that hook is told.
    assert_eq!(seen.hooks, [observation::Hook { hook: "xdp".to_owned(), packets: 3, bytes: 256 }]);
    assert!(seen.malformed.is_empty() && seen.losses.is_empty());
}

#[test]
fn flows_come_in_order_of_their_first_packet() {
    let lab = Lab::xdp();
    for (at_us, last) in [(0, 7), (10, 3), (20, 5)] {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(CLIENT_MAC, SERVER_MAC)
            .ipv4(Ipv4Addr::new(10, 0, 0, last).octets(), SERVER, 64)
            .icmpv4_echo_request(1, 1)
            .write(&mut frame, &[])
            .expect("memory does not fail");
        lab.feed(at_us, &frame);
    }
    let seen = lab.finish();
    let order: Vec<_> = seen.flows.iter().map(|flow| (flow.a.as_str(), flow.start_us)).collect();
    assert_eq!(order, [("10.0.0.7", 0.0), ("10.0.0.3", 10.0), ("10.0.0.5", 20.0)]);
    assert!(seen.flows.iter().all(|flow| flow.proto == "icmp" && flow.b == "10.0.0.2"));
}

#[test]
fn fragments_belong_to_the_flow_of_their_first_one() {
    let lab = Lab::xdp();
    // One datagram of 8 + 40 bytes in three parts of 16, identification 7.
    let first = [udp_header(48), vec![0; 8]].concat();
    lab.feed(0, &fragment(0, true, 7, &first));
    lab.feed(1, &fragment(2, true, 7, &[0; 16]));
    lab.feed(2, &fragment(4, false, 7, &[0; 16]));
    // A later fragment of a datagram whose first one never came.
    lab.feed(3, &fragment(2, false, 8, &[0; 16]));
    let seen = lab.finish();
    let [whole, orphan] = seen.flows.as_slice() else { panic!("two flows, not {:#?}", seen.flows) };
    assert_eq!((whole.a.as_str(), whole.fragments), ("10.0.0.9:5000", 3));
    // Each frame is 14 + 20 + 16 bytes.
    assert_eq!((whole.packets.a_to_b, whole.bytes.a_to_b), (3, 150));
    assert_eq!((orphan.a.as_str(), orphan.b.as_str(), orphan.fragments), ("10.0.0.9", "10.0.0.2", 1));
    assert!(seen.malformed.is_empty(), "a first fragment may announce more than it holds: {:?}", seen.malformed);
}

#[test]
fn vlans_separate_flows() {
    let lab = Lab::xdp();
    let plain = udp(0);
    let tagged = [&plain[..12], &[0x81, 0, 0, 100], &plain[12..]].concat();
    let double = [&plain[..12], &[0x88, 0xa8, 0, 200, 0x81, 0, 0, 100], &plain[12..]].concat();
    for frame in [&plain, &tagged, &double, &double] {
        lab.feed(0, frame);
    }
    let mut seen = lab.finish();
    seen.flows.sort_by_key(|flow| flow.vlans.len());
    let told: Vec<_> = seen.flows.iter().map(|flow| (flow.vlans.as_slice(), flow.bytes.a_to_b)).collect();
    // Tags count: 42, 42 + 4, and twice 42 + 8.
    assert_eq!(told, [(&[][..], 42), (&[100][..], 46), (&[200, 100][..], 100)]);
}

#[test]
fn malformed_packets_are_counted_by_what_is_wrong() {
    let lab = Lab::xdp();
    let mut checksum = udp(0);
    checksum[24] ^= 0xff;
    let mut length = udp(4);
    // UDP length 200 in a datagram of 12 bytes.
    length[39] = 200;
    // Another time to live spoils the IP header's checksum too.
    let mut both = length.clone();
    both[22] -= 1;
    for frame in [&checksum, &length, &both, &udp(4)] {
        assert_eq!(lab.feed(0, frame), XDP_PASS, "counted, not dropped");
    }
    let seen = lab.finish();
    let told: Vec<_> = seen.malformed.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(told, [("bad_ipv4_checksum", 2), ("bad_udp_length", 2)]);
    assert_eq!(seen.flows[0].packets.a_to_b, 4, "malformed packets stay in their flow");
}

#[test]
fn malformed_packets_are_dropped_on_demand() {
    let settings = FlowsSettings { drop_malformed: true, ..FlowsSettings::default() };
    let lab = Lab::new("flows_xdp", settings, 16);
    let mut bad = udp(0);
    bad[24] ^= 0xff;
    assert_eq!((lab.feed(0, &bad), lab.feed(1, &udp(0))), (XDP_DROP, XDP_PASS));
    let settings = FlowsSettings { drop_malformed: true, account_at_tc: true };
    let lab = Lab::new("flows_ingress", settings, 16);
    assert_eq!((lab.feed(0, &bad), lab.feed(1, &udp(0))), (TC_ACT_SHOT, TC_ACT_UNSPEC));
}

#[test]
fn tc_accounts_where_there_is_no_xdp() {
    let settings = FlowsSettings { account_at_tc: true, ..FlowsSettings::default() };
    let lab = Lab::new("flows_ingress", settings, 16);
    assert_eq!(lab.flows.programs(), PROGRAMS_WITHOUT_XDP);
    assert_eq!(lab.feed(0, &udp(10)), TC_ACT_UNSPEC);
    let seen = lab.finish();
    assert_eq!((seen.flows.len(), seen.flows[0].bytes.a_to_b), (1, 52));
    assert_eq!(seen.hooks, [observation::Hook { hook: "tc_ingress".to_owned(), packets: 1, bytes: 52 }]);

    // With XDP in front, tc ingress counts the packet but leaves it to XDP to account it.
    let lab = Lab::new("flows_ingress", FlowsSettings::default(), 16);
    assert_eq!(lab.flows.programs(), PROGRAMS);
    lab.feed(0, &udp(10));
    let seen = lab.finish();
    assert_eq!((seen.flows.len(), seen.hooks[0].packets), (0, 1));
}

#[test]
fn a_full_map_is_told() {
    let lab = Lab::new("flows_xdp", FlowsSettings::default(), 2);
    for port in 0..5_u16 {
        let mut frame = udp(0);
        frame[34..36].copy_from_slice(&(1000 + port).to_be_bytes());
        lab.feed(port.into(), &frame);
    }
    // The first two flows have a place and keep it.
    lab.feed(9, &[&udp(0)[..34], &1000_u16.to_be_bytes(), &udp(0)[36..]].concat());
    let seen = lab.finish();
    assert_eq!(seen.losses.iter().collect::<Vec<_>>(), [(&"flows.FLOWS".to_owned(), &3)]);
    let told: Vec<_> = seen.flows.iter().map(|flow| (flow.a.as_str(), flow.packets.a_to_b)).collect();
    assert_eq!(told, [("10.0.0.9:1000", 2), ("10.0.0.9:1001", 1)]);
    assert_eq!(seen.hooks[0].packets, 6, "hooks count what flows could not");
}

#[test]
fn no_packet_is_lost_between_processors() {
    const EACH: u64 = 5_000;
    let lab = Lab::xdp();
    std::thread::scope(|scope| {
        for frame in [udp(10), udp_answer(20), udp(10)] {
            let program = lab.program.as_fd();
            let run = move || test_run(program, &frame, None, 1).expect("the program runs").verdict;
            scope.spawn(move || (0..EACH).for_each(|_| assert_eq!(run(), XDP_PASS)));
        }
    });
    let seen = lab.finish();
    // Two threads sent one way (52 bytes each time), one the other (62 bytes), over one entry of the map.
    let flow = &seen.flows[0];
    let (out, back) = if flow.a.starts_with("10.0.0.9") {
        ((flow.packets.a_to_b, flow.bytes.a_to_b), (flow.packets.b_to_a, flow.bytes.b_to_a))
    } else {
        ((flow.packets.b_to_a, flow.bytes.b_to_a), (flow.packets.a_to_b, flow.bytes.a_to_b))
    };
    assert_eq!((out, back), ((2 * EACH, 2 * EACH * 52), (EACH, EACH * 62)));
}

#[test]
fn times_that_go_backwards_stay_readable() {
    let lab = Lab::xdp();
    lab.feed(100, &udp(0));
    lab.feed(40, &udp(0));
    let flows = lab.flows;
    // The run's first packet by order was at 100, the second lies before it.
    let told = flows.flows(START + 100_000).expect("the map can be read");
    assert_eq!((told[0].start_us, told[0].duration_us), (0.0, 0.0));
}

#[test]
fn an_unknown_setting_is_refused() {
    let settings: FlowsSettings = toml::from_str("drop_malformed = true").expect("one key may be left out");
    assert_eq!(settings, FlowsSettings { drop_malformed: true, account_at_tc: false });
    let error = toml::from_str::<FlowsSettings>("drop_mallformed = true").expect_err("no such key").to_string();
    assert!(error.contains("unknown field `drop_mallformed`"), "{error}");
}
