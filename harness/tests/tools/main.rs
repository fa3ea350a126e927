//! The catalogue against the real tools: the suite gives both the same verdict.
//!
//! The target is an end host with a listening port among closed ones. nmap, hping3 and slowhttptest run against it in the
//! client's namespace, and the kernel answers. Scans of the catalogue have both sides, so that its idea of what a kernel
//! answers is tested, too; floods have one, and are sent to the same target.

mod target;

use bpflab::synth::{Place, Spec, Value};
use rstest::rstest;
use target::{OPEN, PORTS, Target, unanswered_conversations, verdict_of_conversations};

/// As nmap is told to leave out everything but the scan: no ping, no names, no second try.
const QUIET: [&str; 5] = ["-Pn", "-n", "--max-retries", "0", "-p"];
/// An address that is nobody's. What answers it goes to the client, which drops it.
const SPOOFED: &str = "198.51.100.7";

#[rstest]
fn a_scan_by_nmap_is_judged_as_the_catalogues(
    #[values(
        ("-sS", "syn-scan"),
        ("-sT", "connect-scan"),
        ("-sF", "fin-scan"),
        ("-sN", "null-scan"),
        ("-sX", "xmas-scan"),
        ("-sU", "udp-scan")
    )]
    (flag, name): (&str, &str),
    #[values(4, 6)] version: u8,
) {
    let mut target = Target::new(version);
    let ports = format!("{}-{}", PORTS.start(), PORTS.end());
    let address = target.address().to_string();
    let family: &[&str] = if version == 6 { &["-6"] } else { &[] };
    let said = target.tool("nmap", &[&[flag], &QUIET[..], &[ports.as_str(), address.as_str()], family].concat());
    assert!(said.contains(&format!("{OPEN}/")), "{said}");
    let mut scan = Spec::new(name);
    scan.params.insert("ports".to_owned(), Value::Text(ports));
    // A socket that does not know what an empty datagram means says nothing.
    let open = if name == "udp-scan" { "filtered" } else { "open" };
    scan.params.insert("open".to_owned(), Value::Text("none".to_owned()));
    scan.params.insert(open.to_owned(), Value::Text(OPEN.to_string()));
    scan.ip = Some(if version == 4 { bpflab::synth::IpVersions::V4 } else { bpflab::synth::IpVersions::V6 });
    assert_eq!(verdict_of_conversations(&scan), target.verdict(), "catalogue (left) against tool: {said}");
}

#[rstest]
#[case("syn-flood", &["-S"])]
#[case("ack-flood", &["-A"])]
#[case("rst-flood", &["-R"])]
#[case("fin-flood", &["-F", "-A"])]
#[case("udp-flood", &["-2"])]
#[case("icmp-flood", &["-1"])]
fn a_flood_by_hping3_is_judged_as_the_catalogues(#[case] name: &str, #[case] flags: &[&str]) {
    const PACKETS: u64 = 50;
    let mut target = Target::new(4);
    let (address, port, count) = (target.address().to_string(), OPEN.to_string(), PACKETS.to_string());
    let limits = ["-n", "-q", "-i", "u1000", "-a", SPOOFED, "-c", &count, "-p", &port, &address];
    target.tool("hping3", &[flags, &limits].concat());
    let by_tool = target.verdict();
    let mut flood = Spec::new(name);
    flood.count = Some(PACKETS);
    flood.sources = vec![SPOOFED.parse::<Place>().unwrap()];
    flood.targets = vec![address.parse::<Place>().unwrap()];
    if name != "icmp-flood" {
        flood.params.insert("port".to_owned(), Value::Whole(OPEN.into()));
    }
    let mut target = Target::new(4);
    target.send(&flood);
    assert_eq!(target.verdict(), by_tool, "catalogue (left) against hping3");
}

#[test]
fn slow_headers_by_slowhttptest_are_judged_as_the_catalogues() {
    const CONNECTIONS: u64 = 5;
    let mut target = Target::new(4);
    let (url, count) = (format!("http://{}:{OPEN}/", target.address()), CONNECTIONS.to_string());
    // Three seconds with a header line in each; 100 connections a second.
    let slow = ["-H", "-c", &count, "-r", "100", "-i", "1", "-l", "3", "-p", "1", "-u", &url];
    let said = target.tool("slowhttptest", &slow);
    let mut by_tool = target.unanswered();
    let mut slowloris = Spec::new("slowloris");
    slowloris.count = Some(CONNECTIONS);
    slowloris.params.insert("port".to_owned(), Value::Whole(OPEN.into()));
    // Beside its connections it looks each second whether the service is still there.
    for count in by_tool.values_mut() {
        assert!(*count >= CONNECTIONS, "{said}");
        *count = CONNECTIONS;
    }
    assert_eq!(unanswered_conversations(&slowloris), by_tool, "catalogue (left) against slowhttptest: {said}");
}
