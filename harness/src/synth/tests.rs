use std::collections::{BTreeMap, HashMap, HashSet};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::capture::{Frame, Side};

/// Frames of an entry that are looked at.
const MOST: usize = 1_000;

fn versions(entry: &Entry) -> &'static [IpVersions] {
    match entry.ip {
        Ip::Any => &[IpVersions::V4, IpVersions::V6, IpVersions::Both],
        Ip::Only4(_) => &[IpVersions::V4],
        Ip::Only6(_) => &[IpVersions::V6],
    }
}

/// Every entry at its defaults, in every version of IP that it has.
fn each() -> impl Iterator<Item = (&'static Entry, IpVersions, Spec)> {
    catalogue().flat_map(|entry| {
        versions(entry).iter().map(move |ip| (entry, *ip, Spec { ip: Some(*ip), seed: 1, ..Spec::new(entry.name) }))
    })
}

/// Entries whose frames are wrong on purpose, as etherparse sees them.
const UNSOUND: [&str; 4] = ["bad-ihl", "bad-length", "bad-offset", "bad-checksum"];

#[test]
fn names_are_unique_and_every_entry_says_what_it_is() {
    let mut names = HashSet::new();
    for entry in catalogue() {
        assert!(names.insert(entry.name), "{}", entry.name);
        assert!(entry.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'));
        assert!(!entry.what.is_empty() && !entry.source.is_empty() && !entry.unit.is_empty() && entry.rate > 0.0);
        assert!(entry.default_count().unwrap() > 0);
        let mut parameters = HashSet::new();
        for parameter in entry.parameters {
            assert!(parameters.insert(parameter.name), "{} {}", entry.name, parameter.name);
            assert!(!parameter.meaning.is_empty());
        }
    }
    assert!(names.len() >= 50, "{}", names.len());
}

#[test]
fn every_frame_parses_and_its_checksums_are_right() {
    for (entry, ip, spec) in each() {
        for frame in spec.frames().unwrap().take(MOST) {
            let faults = testing::faults(&frame.data);
            assert_eq!(faults.is_empty(), !UNSOUND.contains(&entry.name), "{} {ip:?}: {faults:?}", entry.name);
            assert_eq!(frame.wire_len as usize, frame.data.len());
            assert!(frame.data.len() <= LONGEST_FRAME, "{} has a frame of {} bytes", entry.name, frame.data.len());
        }
    }
}

#[test]
fn frames_are_numbered_and_in_order_and_sides_follow_mac_addresses() {
    for (entry, ip, spec) in each() {
        let Macs { client, server } = spec.macs;
        let mut last = 0;
        for (number, frame) in (1..).zip(spec.frames().unwrap().take(MOST)) {
            let what = || format!("{} {ip:?} frame {number}", entry.name);
            assert_eq!(frame.number, number, "{}", what());
            assert!(frame.time_ns >= last.max(START_NS), "{}", what());
            last = frame.time_ns;
            let source = if frame.side == Side::Client { client } else { server };
            assert_eq!(frame.data[6..12], source.0, "{}", what());
            assert!(entry.two_sided || frame.side == Side::Client, "{}", what());
        }
    }
}

#[test]
fn as_many_units_begin_as_asked_for_and_when() {
    for (entry, ip, spec) in each() {
        for count in [1, 7, 64] {
            let spec = Spec { count: Some(count), rate: Some(1_000.0), ..spec.clone() };
            let mut stream = spec.frames().unwrap();
            let frames = stream.by_ref().count() as u64;
            assert_eq!(stream.begun(), count, "{} {ip:?}", entry.name);
            assert!(frames >= count, "{} {ip:?}", entry.name);
            if entry.unit == "packets" && !entry.what.contains("two packets a unit") {
                assert_eq!(frames, count, "{} {ip:?}", entry.name);
                let times: Vec<u64> = spec.frames().unwrap().map(|frame| frame.time_ns - START_NS).collect();
                assert!(times.iter().zip(0..).all(|(time, n)| *time == n * 1_000_000), "{}", entry.name);
            }
        }
        assert_eq!(Spec { count: Some(0), ..spec }.frames().unwrap().count(), 0);
    }
}

#[test]
fn versions_of_ip_are_those_asked_for() {
    for (entry, ip, spec) in each() {
        let mut counts = [0, 0];
        // The second unit of a large flow begins after some ten thousand frames.
        for frame in (Spec { count: Some(64), ..spec }).frames().unwrap().take(20_000) {
            let mut at = 12;
            while matches!(frame.data[at..at + 2], [0x81, 0] | [0x88, 0xa8]) {
                at += 4;
            }
            counts[usize::from(frame.data[at..at + 2] == [0x86, 0xdd])] += 1;
        }
        let expected = match ip {
            IpVersions::V4 => counts[1] == 0,
            IpVersions::V6 => counts[0] == 0,
            IpVersions::Both => counts[0] > 0 && counts[1] > 0,
        };
        assert!(expected, "{} {ip:?}: {counts:?}", entry.name);
    }
}

/// What a receiver knows of one direction of a connection.
#[derive(Default)]
struct Direction {
    next: Option<u32>,
    acknowledged: Option<u32>,
}

/// Two-sided conversations are such that every segment begins where the one before it in its direction ended (or repeats
/// what was sent), and acknowledges nothing that was not sent.
#[test]
fn sequence_and_acknowledgement_numbers_fit_together() {
    for (entry, ip, spec) in each().filter(|(entry, ..)| entry.two_sided) {
        let mut connections: HashMap<Vec<u8>, [Direction; 2]> = HashMap::new();
        for frame in spec.frames().unwrap().take(20_000) {
            let parsed = SlicedPacket::from_ethernet(&frame.data).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = &parsed.transport else { continue };
            let (source, destination) = match &parsed.net {
                Some(NetSlice::Ipv4(ip)) => (ip.header().source().to_vec(), ip.header().destination().to_vec()),
                Some(NetSlice::Ipv6(ip)) => (ip.header().source().to_vec(), ip.header().destination().to_vec()),
                _ => continue,
            };
            let ends = [(source, tcp.source_port()), (destination, tcp.destination_port())];
            let from = usize::from(ends[0] > ends[1]);
            let key =
                [&ends[from], &ends[1 - from]].iter().flat_map(|(a, p)| [&a[..], &p.to_be_bytes()].concat()).collect();
            if tcp.syn() && !tcp.ack() {
                connections.remove(&key);
            }
            let connection: &mut [Direction; 2] = connections.entry(key).or_default();
            let (seq, what) = (tcp.sequence_number(), format!("{} {ip:?} frame {}", entry.name, frame.number));
            let length = tcp.payload().len() as u32 + u32::from(tcp.syn()) + u32::from(tcp.fin());
            if let Some(next) = connection[from].next {
                // An RST that answers a SYN has a sequence number of zero.
                let repeats = next.wrapping_sub(seq) <= 1_500 && seq != next;
                assert!(seq == next || repeats, "{what}: begins at {seq} instead of {next}");
            }
            let end = seq.wrapping_add(length);
            let known = connection[from].next.unwrap_or(end);
            connection[from].next = Some(if end.wrapping_sub(known) < 1 << 31 { end } else { known });
            if tcp.ack() {
                let ack = tcp.acknowledgment_number();
                if let Some(sent) = connection[1 - from].next {
                    assert!(sent.wrapping_sub(ack) < 1 << 31, "{what}: acknowledges {ack} of {sent}");
                }
                if let Some(before) = connection[from].acknowledged {
                    assert!(ack.wrapping_sub(before) < 1 << 31, "{what}: acknowledges {ack} after {before}");
                }
                connection[from].acknowledged = Some(ack);
            }
        }
    }
}

#[test]
fn one_side_alone_is_that_side_of_the_whole() {
    for (entry, ip, spec) in each().filter(|(entry, ..)| entry.two_sided) {
        // Whose frames are those of the one who asks, whatever the side.
        if entry.name == "lateral-movement" {
            continue;
        }
        let whole: Vec<(u64, Vec<u8>)> = spec
            .frames()
            .unwrap()
            .take(MOST)
            .filter(|frame| frame.side == Side::Client)
            .map(|frame| (frame.time_ns, frame.data))
            .collect();
        let alone = Spec { one_sided: true, ..spec }.frames().unwrap().take(whole.len());
        for (frame, (time_ns, data)) in alone.zip(&whole) {
            assert_eq!((frame.time_ns, &frame.data), (*time_ns, data), "{} {ip:?}", entry.name);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_one_others() {
    for (entry, ip, spec) in each() {
        let digest = |spec: &Spec| digest(spec, MOST);
        assert_eq!(digest(&spec), digest(&spec), "{} {ip:?}", entry.name);
        // Of these nothing is random.
        let fixed = ["arp-spoofing", "ndp-spoofing", "vlan-hopping", "many-flows"];
        if !fixed.contains(&entry.name) {
            assert_ne!(digest(&spec), digest(&Spec { seed: 2, ..spec.clone() }), "{} {ip:?}", entry.name);
        }
    }
}

fn digest(spec: &Spec, most: usize) -> String {
    let mut hash = Sha256::new();
    let mut stream = spec.frames().unwrap();
    let mut frame = Frame::default();
    for _ in 0..most {
        if !stream.next_into(&mut frame) {
            break;
        }
        hash.update(frame.time_ns.to_be_bytes());
        hash.update([frame.side as u8]);
        hash.update(&frame.data);
    }
    hash.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

/// A difference here changes what every scenario that uses the entry sees.
#[test]
fn bytes_stay_the_same_from_version_to_version() {
    let lines: Vec<String> =
        each().map(|(entry, ip, spec)| format!("{} {ip:?} {}", entry.name, digest(&spec, MOST))).collect();
    insta::assert_snapshot!("digests", lines.join("\n"));
}

/// Addresses and ports of a frame of TCP or UDP, the client's first.
fn tuple(frame: &Frame) -> Vec<u8> {
    let v6 = frame.data[12] == 0x86;
    let (addresses, ports) =
        if v6 { (&frame.data[22..54], &frame.data[54..58]) } else { (&frame.data[26..34], &frame.data[34..38]) };
    let ends = |bytes: &[u8]| {
        let (from, to) = bytes.split_at(bytes.len() / 2);
        if frame.side == Side::Client { [from, to].concat() } else { [to, from].concat() }
    };
    [ends(addresses), ends(ports)].concat()
}

#[test]
fn no_two_of_ten_thousand_conversations_have_the_same_addresses_and_ports() {
    for name in ["http-transactions", "ssh-brute-force", "connect-scan", "dns-tunnel", "mice-elephants"] {
        for ip in [IpVersions::V4, IpVersions::Both] {
            let spec = Spec { ip: Some(ip), rate: Some(20_000.0), count: Some(10_000), seed: 5, ..Spec::new(name) };
            let tuples: HashSet<Vec<u8>> = spec.frames().unwrap().map(|frame| tuple(&frame)).collect();
            assert_eq!(tuples.len(), 10_000, "{name} {ip:?}");
        }
    }
}

/// 60 000 conversations are more than there are ports (28 232): the same one comes again when the one before is over.
#[test]
fn ports_come_again_when_their_conversation_is_over() {
    let spec = Spec { rate: Some(20_000.0), count: Some(60_000), ..Spec::new("http-transactions") };
    let whole = Spec { count: Some(1), ..spec.clone() }.frames().unwrap().count();
    let mut frames: HashMap<Vec<u8>, usize> = HashMap::new();
    for frame in spec.frames().unwrap() {
        let is_syn = frame.data[47] == packet::flag::SYN;
        let count = frames.entry(tuple(&frame)).or_default();
        assert!(!is_syn || count.is_multiple_of(whole), "frame {}: {count} of {whole} before", frame.number);
        *count += 1;
    }
    assert_eq!((frames.len(), frames.values().sum::<usize>()), (28_232, 60_000 * whole));
}

#[test]
fn wrong_checksums_are_wrong_in_every_frame_that_has_one() {
    for (entry, ip, spec) in each().filter(|(entry, ..)| !UNSOUND.contains(&entry.name)) {
        let skipped = ["arp-spoofing", "ipv6-extension-chain"];
        for frame in (Spec { checksums: Checksums::Wrong, ..spec }).frames().unwrap().take(100) {
            let faults = testing::faults(&frame.data);
            let fragment = SlicedPacket::from_ethernet(&frame.data)
                .is_ok_and(|parsed| matches!(&parsed.net, Some(NetSlice::Ipv6(ip)) if ip.is_payload_fragmented()));
            let expected = !skipped.contains(&entry.name) && !fragment;
            assert_eq!(faults.iter().any(|fault| fault.contains("checksum")), expected, "{} {ip:?}", entry.name);
        }
    }
}

#[test]
fn a_million_flows_are_a_million_five_tuples() {
    for ip in [IpVersions::V4, IpVersions::Both] {
        let mut stream = Spec { ip: Some(ip), ..Spec::new("many-flows") }.frames().unwrap();
        let mut frame = Frame::default();
        let mut seen = HashSet::new();
        while stream.next_into(&mut frame) {
            // Addresses, protocol and ports, whatever the version.
            let tuple = if frame.data[12] == 0x08 { &frame.data[23..38] } else { &frame.data[20..58] };
            let tuple: Vec<u8> =
                if frame.data[12] == 0x08 { [&tuple[..1], &tuple[3..]].concat() } else { tuple.to_vec() };
            assert!(seen.insert(tuple), "frame {}", frame.number);
        }
        assert_eq!(seen.len(), 1_000_000);
    }
}

#[test]
fn spoofed_sources_are_of_their_network_and_targets_come_in_turn() {
    let spec = Spec {
        sources: vec!["198.51.100.0/24".parse().unwrap()],
        targets: vec!["10.71.0.2".parse().unwrap(), "10.71.0.3".parse().unwrap()],
        count: Some(500),
        ..Spec::new("udp-flood")
    };
    let mut sources = HashSet::new();
    for (n, frame) in spec.frames().unwrap().enumerate() {
        assert_eq!(frame.data[26..29], [198, 51, 100]);
        assert!(!matches!(frame.data[29], 0 | 255));
        sources.insert(frame.data[29]);
        assert_eq!(frame.data[33], 2 + (n % 2) as u8);
    }
    // 500 draws of 254: some 35 are never drawn.
    assert!(sources.len() > 180, "{}", sources.len());
}

#[test]
fn what_cannot_be_is_said() {
    let error = |spec: Spec| spec.frames().err().expect("an error").to_string();
    assert_eq!(
        error(Spec::new("syn-flod")),
        "there is no traffic `syn-flod` in the catalogue; did you mean `syn-flood`?"
    );
    assert_eq!(
        error(Spec::new("x")),
        "there is no traffic `x` in the catalogue; `bpflab synth --list` names what there is"
    );
    let arp = Spec { ip: Some(IpVersions::V6), ..Spec::new("arp-spoofing") };
    assert_eq!(error(arp), "`arp-spoofing` is of IPv4 alone: IPv6 has no ARP; ndp-spoofing is the like of it");
    let both = Spec { count: Some(1), duration_s: Some(1.0), ..Spec::new("land") };
    assert!(error(both).contains("exclude each other"));
    let ramp = Spec { rate: Some(1.0), shape: "ramp=1..2".parse().unwrap(), ..Spec::new("land") };
    assert!(error(ramp).contains("leave `rate` out"));
    let lost = Spec { targets: vec!["192.0.2.1".parse().unwrap()], ..Spec::new("land") };
    assert!(error(lost).starts_with("`192.0.2.1` is no target in the topology"));
    let other = Spec { sources: vec!["2001:db8::1".parse().unwrap()], ..Spec::new("syn-flood") };
    assert_eq!(error(other), "`2001:db8::1` has no address of IPv4");
    let macs = Macs { client: crate::topology::Mac([2; 6]), server: crate::topology::Mac([2; 6]) };
    assert!(error(Spec { macs, ..Spec::new("land") }).contains("same MAC address"));
}

#[test]
fn declarations_are_read_and_written() {
    let text = r#"
        name = "syn-flood"
        seed = 7
        ip = "both"
        params = { port = 443, options = "linux" }
        rate = 5000
        shape = "microburst=32@5us"
        duration_s = 2
        start_s = 0.5
        sources = ["198.51.100.0/24", "2001:db8:1::/64"]
        targets = ["server"]
        checksums = "wrong"
        macs = { client = "02:00:00:00:00:0a", server = "02:00:00:00:00:0b" }
    "#;
    let spec: Spec = toml::from_str(text).unwrap();
    assert_eq!(toml::from_str::<Spec>(&toml::to_string(&spec).unwrap()).unwrap(), spec);
    let frames: Vec<Frame> = spec.frames().unwrap().collect();
    assert_eq!(frames.len(), 10_000);
    assert_eq!(frames[0].time_ns, START_NS + 500_000_000);
    for (text, ip) in [("4", IpVersions::V4), ("6", IpVersions::V6), ("\"6\"", IpVersions::V6)] {
        assert_eq!(toml::from_str::<Spec>(&format!("name = \"land\"\nip = {text}")).unwrap().ip, Some(ip));
    }
    let five = toml::from_str::<Spec>("name = \"land\"\nip = 5\n").unwrap_err().to_string();
    assert!(five.contains("not `5`"), "{five}");
    let wrong = toml::from_str::<Spec>("name = \"land\"\nrat = 5\n").unwrap_err().to_string();
    assert!(wrong.contains("unknown field `rat`"), "{wrong}");
}

#[test]
fn streams_are_merged_by_time() {
    let flood = Spec { count: Some(100), rate: Some(1_000.0), ..Spec::new("udp-flood") };
    let scan = Spec { start_s: 0.02, ..Spec::new("syn-scan") };
    let [one, two] = [&flood, &scan].map(|spec| spec.frames().unwrap());
    let total = one.count() + two.count();
    let mut merged = merge(vec![
        Box::new(flood.frames().unwrap()) as Box<dyn FrameSource<Error = _>>,
        Box::new(scan.frames().unwrap()),
    ]);
    let (mut frame, mut times) = (Frame::default(), Vec::new());
    while merged.next_into(&mut frame).unwrap() {
        times.push(frame.time_ns);
        assert_eq!(frame.number as usize, times.len());
    }
    assert!(times.is_sorted());
    assert_eq!(times.len(), total);
}

/// Parameters at random within and around their ranges: frames or an error, never a panic or a frame too large.
#[test]
fn any_parameters_give_frames_or_an_error() {
    let mut rng = rng::Rng::new(11, 0);
    let mut made = 0;
    for round in 0..4_000_u64 {
        let all: Vec<&Entry> = catalogue().collect();
        let entry = all[rng.below(all.len() as u64) as usize];
        let mut params = BTreeMap::new();
        for parameter in entry.parameters {
            if rng.below(3) > 0 {
                continue;
            }
            let value = match parameter.kind {
                Kind::Count { min, max } => {
                    let numbers = [
                        min,
                        max,
                        max.min(min + 9),
                        rng.between(min, max.min(100_000).max(min)),
                        max.saturating_add(1),
                    ];
                    Value::Whole(numbers[rng.below(5) as usize] as i64)
                }
                Kind::Ports => Value::from(["none", "1", "1-65535", "80,443", "x"][rng.below(5) as usize]),
                Kind::Choice(words) => Value::from(words[rng.below(words.len() as u64) as usize]),
                Kind::Name { max } => Value::Text("ab.".repeat(max.min(120) / 3) + "c"),
                Kind::Address => Value::from(["auto", "10.71.0.9", "fd71::9", "x"][rng.below(4) as usize]),
            };
            params.insert(parameter.name.to_owned(), value);
        }
        let ip = [None, Some(IpVersions::V4), Some(IpVersions::V6), Some(IpVersions::Both)][rng.below(4) as usize];
        let spec = Spec { ip, params, seed: round, count: Some(20), ..Spec::new(entry.name) };
        let Ok(stream) = spec.frames() else { continue };
        made += 1;
        for frame in stream.take(300) {
            assert!((14..=LONGEST_FRAME).contains(&frame.data.len()), "{spec:?}: {} bytes", frame.data.len());
            let faults = testing::faults(&frame.data);
            let longer = ["bad-ihl", "bad-length", "bad-offset", "bad-checksum", "ipv6-extension-chain"];
            assert!(faults.is_empty() || longer.contains(&entry.name), "{spec:?}: {faults:?}");
        }
    }
    // Most of what is drawn is sound.
    assert!(made > 1_000, "{made}");
}
