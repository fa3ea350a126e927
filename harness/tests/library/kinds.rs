//! Single packets through every kind of program that runs over them, with what the kernel is to say of a packet.

use bpflab::lab::{self, EbpfObject as _, Hook, Lab, LabError, NamedEbpf, Packet, Subject, Verdict, presets};
use bpflab::object::suite;
use bpflab::require;
use etherparse::PacketBuilder;

fn door() -> Subject {
    Subject::open(lab::compile(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/library/door.bpf.c")).unwrap()).unwrap()
}

fn datagram(port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    builder.ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).udp(4000, port).write(&mut frame, b"ping").unwrap();
    frame
}

#[test]
fn a_tc_program_sees_the_mark_and_sets_it() {
    let mut door = door();
    let run = door.run_packet("relabel", datagram(53)).unwrap();
    assert_eq!((run.verdict, run.mark), (Verdict::TcUnspec, Some(0)));
    let run = door.run_packet("relabel", Packet::new(datagram(53)).mark(7).priority(3)).unwrap();
    assert_eq!((run.verdict, run.mark, run.priority), (Verdict::TcOk, Some(53), Some(3)));
    assert_eq!(run.to_string(), "TC_ACT_OK", "neither packet nor maps changed");
}

#[test]
fn programs_of_sockets_and_control_groups_decide_too() {
    let mut door = door();
    assert_eq!(door.run_packet("udp_alone", datagram(53)).unwrap().verdict, Verdict::Allow);
    let mut other = datagram(53);
    other[23] = 6;
    assert_eq!(door.run_packet("udp_alone", other).unwrap().verdict, Verdict::Deny);
    let run = door.run_packet("headers", datagram(53)).unwrap();
    assert_eq!((run.verdict, run.output), (Verdict::Keep(28), datagram(53)));
    let run = door.run_packet("refuse", datagram(53)).unwrap();
    assert_eq!(run.verdict, Verdict::DissectorDrop);
    // struct bpf_flow_keys of include/uapi/linux/bpf.h, 56 bytes; the first is the network header's place, behind the
    // Ethernet header.
    assert_eq!((run.output.len(), &run.output[..2]), (56, &14_u16.to_ne_bytes()[..]));
}

#[test]
fn a_packet_may_be_on_an_interface_of_a_host() -> Result<(), LabError> {
    // XDP programs are told of an interface since commit 47316f4a3053.
    require!("mode:wire", "kernel >=5.14");
    let (mut door, mut lab) = (door(), Lab::wire(&presets::router())?);
    lab.attach(&mut door, "door", Hook::xdp())?;
    let on_eth0 = Packet::new(datagram(53)).on(lab.host("dut")?, "eth0")?;
    assert_eq!(door.run_packet("door", &on_eth0)?.verdict, Verdict::XdpPass);
    let error = door.run_packet("door", on_eth0.clone().rx_queue(99)).unwrap_err().to_string();
    assert!(error.contains("one that has that receive queue"), "a veth of the lab has one queue: {error}");
    assert_eq!(door.run_packet("relabel", on_eth0.mark(1))?.verdict, Verdict::TcOk);
    lab.close()
}

#[test]
fn an_object_of_aya_runs_by_itself_and_with_its_name() {
    // Frames by their length modulo 4; the maps are those of the other programs of the object.
    let frame = |len| vec![0_u8; len];
    let mut named = NamedEbpf::load("verdicts", suite::VERDICTS).unwrap();
    let verdicts = [60, 61, 62, 63].map(|len| named.run_packet("each_verdict", frame(len)).unwrap().verdict);
    assert_eq!(verdicts, [Verdict::XdpPass, Verdict::XdpDrop, Verdict::XdpTx, Verdict::XdpAborted]);

    let mut plain = aya::Ebpf::load(suite::VERDICTS).unwrap();
    let large =
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4([1; 4], [2; 4], 64).tcp(1, 2, 3, 4);
    let mut segment = Vec::new();
    large.write(&mut segment, &[0; 1000]).unwrap();
    let run = plain.run_packet("shot_large_segments", &segment).unwrap();
    assert_eq!(run.to_string(), "TC_ACT_UNSPEC\nmap SEGMENTS at 0: 0 -> 1");
    let segments: aya::maps::Array<_, u64> = plain.aya_map("SEGMENTS").unwrap();
    assert_eq!(segments.get(&0, 0).unwrap(), 1);
    // A program that the test has loaded by itself is not loaded again.
    let xdp: &mut aya::programs::Xdp = plain.program_mut("drop_odd").unwrap().try_into().unwrap();
    xdp.load().unwrap();
    assert_eq!(plain.run_packet("drop_odd", frame(61)).unwrap().verdict, Verdict::XdpDrop);
}
