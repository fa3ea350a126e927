//! `--record` and `bpflab record`: what is in the file, read back.

use std::fs::File;
use std::path::Path;

use bpflab::capture::{Options, Survey};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::section_header::SectionHeaderOption;
use pcap_file::pcapng::{Block, PcapNgReader};

use crate::scenarios::{add, lab_with};
use crate::support::{Lab, keepalive, ledger, pcap};

/// Drops ARP at XDP and says so by a ring; everything else passes.
const NO_ARP: &str = r#"
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct dropped {
	__u32 len;
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
	__type(value, struct dropped);
} dropped_log SEC(".maps");

SEC("xdp")
int no_arp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	struct dropped *event;

	if ((void *)(ethernet + 1) > end || ethernet->h_proto != bpf_htons(ETH_P_ARP))
		return XDP_PASS;
	event = bpf_ringbuf_reserve(&dropped_log, sizeof(*event), 0);
	if (event) {
		event->len = end - data;
		bpf_ringbuf_submit(event, 0);
	}
	return XDP_DROP;
}

SEC("xdp")
int drop_all(struct xdp_md *ctx)
{
	return XDP_DROP;
}

SEC("xdp")
int lower_ttl(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u8 *frame = data;

	if (data + 34 > end || frame[12] != 8 || frame[13] != 0)
		return XDP_PASS;
	frame[22] = 9;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
"#;

/// A frame of a recording.
#[derive(Debug)]
struct Frame {
    interface: String,
    /// Whether the device under test sent it.
    out: bool,
    len: usize,
    comments: Vec<String>,
}

/// The frames of a recording, and the comment of its section.
fn read(path: &Path) -> (Vec<Frame>, String) {
    // The lab's own reader takes it, and finds nothing odd.
    let survey = Survey::of(path, &Options::default()).unwrap();
    let mut reader = PcapNgReader::new(File::open(path).unwrap()).unwrap();
    let comment = reader.section().options.iter().find_map(|option| match option {
        SectionHeaderOption::Comment(text) => Some(text.to_string()),
        _ => None,
    });
    let mut frames = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap() {
            let mut frame = Frame {
                interface: survey.interfaces[packet.interface_id as usize].name.clone().unwrap(),
                out: false,
                len: packet.data.len(),
                comments: Vec::new(),
            };
            for option in packet.options {
                match option {
                    EnhancedPacketOption::Flags(flags) => frame.out = flags & 3 == 2,
                    EnhancedPacketOption::Comment(text) => frame.comments.push(text.to_string()),
                    _ => {}
                }
            }
            frames.push(frame);
        }
    }
    assert_eq!(frames.len() as u64, survey.packets);
    (frames, comment.unwrap())
}

/// How many frames of an interface there are in a direction.
fn count(frames: &[Frame], interface: &str, out: bool) -> usize {
    frames.iter().filter(|frame| frame.interface == interface && frame.out == out).count()
}

/// How many frames have a comment that begins like that.
fn commented(frames: &[Frame], begins: &str) -> usize {
    frames.iter().filter(|frame| frame.comments.iter().any(|comment| comment.starts_with(begins))).count()
}

fn lab() -> Lab {
    let lab = Lab::new();
    lab.write("filter.c", NO_ARP);
    lab
}

#[test]
fn on_the_wire_what_xdp_drops_is_there_with_its_verdict() {
    let lab = lab();
    let options = "--mode wire --topology router --object filter.c --attach xdp:no_arp --record out.pcapng";
    let document = lab.document(&keepalive(), options);
    // The two packets of ARP are dropped, the 18 of TCP forwarded.
    assert_eq!(ledger(&document), [20, 18, 0, 2, 0]);
    let (frames, about) = read(&lab.path().join("out.pcapng"));
    // Of the 20, the client sends 11; each frame is on its link once.
    let counts = [("dut.eth0", false), ("dut.eth0", true), ("dut.eth1", false), ("dut.eth1", true)];
    assert_eq!(counts.map(|(interface, out)| count(&frames, interface, out)), [11, 8, 9, 10]);
    let dropped: Vec<&Frame> = frames.iter().filter(|frame| frame.len == 42).collect();
    assert_eq!(dropped.len(), 2);
    for frame in dropped {
        assert_eq!(frame.comments, ["verdict: XDP_DROP by no_arp"]);
    }
    assert!(about.contains("20 packets offered: 18 delivered, 0 dropped, 2 consumed"), "{about}");
    // Which packets the events of a ring are about, a link does not tell.
    assert!(about.contains("filter.dropped_log: 2 events"), "{about}");
}

#[test]
fn in_lockstep_verdicts_and_events_are_on_their_packets() {
    let lab = lab();
    let options = "--mode lockstep --object filter.c --attach xdp:no_arp --record out.pcapng";
    let document = lab.document(&keepalive(), options);
    assert_eq!(ledger(&document), [20, 18, 0, 2, 0]);
    let (frames, about) = read(&lab.path().join("out.pcapng"));
    assert_eq!([count(&frames, "client", false), count(&frames, "server", false), frames.len()], [11, 9, 20]);
    for frame in &frames {
        let expected: &[&str] = if frame.len == 42 {
            &["verdict: XDP_DROP by no_arp", "event: filter.dropped_log {\"len\":42}"]
        } else {
            &["verdict: XDP_PASS by no_arp"]
        };
        assert_eq!(frame.comments, expected);
    }
    assert!(!about.contains("filter.dropped_log"), "{about}");
    // The suite's own programs say what they saw; that they let packets pass is not worth a word.
    lab.document(&keepalive(), "--mode lockstep --record out.pcapng");
    let (frames, _) = read(&lab.path().join("out.pcapng"));
    assert_eq!([commented(&frames, "verdict"), commented(&frames, "http: "), frames.len()], [0, 5, 20]);
}

#[test]
fn what_xdp_changes_is_there_before_and_behind() {
    let lab = lab();
    for (mode, [before, behind]) in [
        ("wire --topology router", ["dut.eth0", "dut.eth0 behind XDP"]),
        ("lockstep", ["client", "client behind the programs"]),
    ] {
        let options = format!("--mode {mode} --object filter.c --attach xdp:lower_ttl --record out.pcapng");
        lab.replay(&keepalive(), &options).passed();
        let (frames, _) = read(&lab.path().join("out.pcapng"));
        // The client's ten packets of TCP.
        let changed = frames.iter().filter(|frame| frame.interface == before && !frame.out);
        let changed = changed.filter(|frame| frame.comments.iter().any(|comment| comment.contains("ipv4.ttl 64 > 9")));
        assert_eq!([changed.count(), count(&frames, behind, false)], [10, 10], "{mode}");
    }
}

#[test]
fn what_xdp_drops_of_live_traffic_is_there() {
    let lab = lab();
    let options = "--live dut=server --deadline 0.2 --object filter.c --attach xdp:drop_all --record out.pcapng";
    lab.replay(&pcap("closed-port.pcap"), options);
    let (frames, _) = read(&lab.path().join("out.pcapng"));
    let unseen = "not seen behind XDP: drop_all dropped it, sent it back or redirected it";
    assert!(!frames.is_empty());
    assert_eq!([commented(&frames, unseen), count(&frames, "dut.eth0", false)], [frames.len(); 2]);
    // What passes has no such word, and what the device under test answers is there.
    lab.replay(&keepalive(), "--live dut=server --record out.pcapng").passed();
    let (frames, _) = read(&lab.path().join("out.pcapng"));
    assert_eq!(commented(&frames, "not seen"), 0);
    assert!(count(&frames, "dut.eth0", true) >= 8);
    assert_eq!([commented(&frames, "http: "), commented(&frames, "live: ")], [5, 1]);
}

#[test]
fn a_command_s_traffic_is_recorded() {
    let lab = Lab::new();
    // To a port that nobody listens on: the server answers with an ICMP error, across the router.
    let command = "exec 3<>/dev/udp/{host.server}/9; echo hello >&3";
    lab.bpflab(["record", "-o", "out.pcapng", "--", "bash", "-c", command]).passed();
    let (frames, about) = read(&lab.path().join("out.pcapng"));
    assert!(about.contains("live mode, topology router"), "{about}");
    let counts = [("dut.eth0", false), ("dut.eth1", true), ("dut.eth1", false), ("dut.eth0", true)];
    assert_eq!(counts.map(|(interface, out)| count(&frames, interface, out)), [1; 4]);
    // The server's own links are not recorded: its drop is on the packet as it leaves towards it.
    let dropped: Vec<&Frame> =
        frames.iter().filter(|frame| frame.comments.iter().any(|comment| comment.starts_with("drop: "))).collect();
    let [dropped] = dropped.as_slice() else { panic!("{frames:?}") };
    assert_eq!((dropped.interface.as_str(), dropped.out), ("dut.eth1", true));
}

#[test]
fn a_scenario_is_recorded_alone_and_to_a_file_that_can_be_written() {
    let lab = lab_with("arp/asked", "");
    add(&lab, "arp/asked-twice", "");
    lab.bpflab(["run", "arp/asked", "--record", "out.pcapng"]).passed();
    let (frames, about) = read(&lab.path().join("out.pcapng"));
    assert_eq!([count(&frames, "client", false), count(&frames, "server", false), frames.len()], [1, 1, 2]);
    assert!(about.contains("lockstep mode"), "{about}");
    let several =
        ["--record many.pcapng", "2 are selected", "arp/asked-twice [lockstep], arp/asked [lockstep]", "--mode"];
    lab.bpflab(["run", "arp", "--record", "many.pcapng"]).refused(&several);
    let nowhere = ["cannot write recording none/out.pcapng", "No such file or directory"];
    lab.bpflab(["run", "arp/asked", "--record", "none/out.pcapng"]).refused(&nowhere);
    lab.replay(&keepalive(), "--mode lockstep --record none/out.pcapng").refused(&nowhere);
    assert!(!lab.path().join("many.pcapng").exists());
    // A capture is not written over by its own recording.
    let copy = lab.write("x.pcap", std::fs::read(keepalive()).unwrap());
    lab.replay(&copy, "--mode lockstep --record x.pcap").refused(&["it is the capture that is replayed"]);
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(keepalive()).unwrap());
    // A run that fails leaves no empty file.
    lab.replay("missing.pcap".as_ref(), "--record new.pcapng").refused(&["missing.pcap"]);
    assert!(!lab.path().join("new.pcapng").exists());
}
