//! What a test is told when it asks for what is not there.

use std::time::Duration;

use bpflab::lab::{self, EbpfObject as _, Hook, Lab, LabError, NamedEbpf, Packet, Subject, eventually, presets};
use bpflab::object::suite;
use bpflab::require;
use rstest::rstest;

fn door() -> Subject {
    Subject::open(lab::compile(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/library/door.bpf.c")).unwrap()).unwrap()
}

/// As the test harness prints an error that a test ends with.
fn told<T>(result: Result<T, LabError>) -> String {
    format!("{:?}", result.err().expect("an error"))
}

#[test]
fn programs_and_maps_are_named_with_the_nearest_that_there_are() {
    let mut door = door();
    assert_eq!(told(door.run_packet("dor", vec![0; 60])), "object door has no program dor; did you mean door?");
    assert_eq!(told(door.typed_map("blokced")), "object door has no map blokced; did you mean blocked?");
    let mut verdicts = NamedEbpf::load("verdicts", suite::VERDICTS).unwrap();
    let error = told(verdicts.run_packet("drop_od", vec![0; 60]));
    assert_eq!(error, "object verdicts has no program drop_od; did you mean drop_odd?");
    assert_eq!(told(verdicts.typed_map("SEGMENT")), "object verdicts has no map SEGMENT; did you mean SEGMENTS?");
    assert!(told(NamedEbpf::load("none", b"text")).contains("none"));
}

#[rstest]
#[case(0, "it is shorter than an Ethernet header (14 bytes)")]
#[case(13, "it is shorter than an Ethernet header (14 bytes)")]
fn a_packet_that_is_too_short_is_refused(#[case] len: usize, #[case] why: &str) {
    let error = told(door().run_packet("door", vec![0; len]));
    assert_eq!(error, format!("cannot run program door over a packet of {len} bytes: {why}"));
}

#[test]
fn a_packet_that_is_too_long_is_refused() {
    let error = told(door().run_packet("relabel", vec![0; 1 << 20]));
    assert!(
        error.starts_with("cannot run program relabel over a packet of 1048576 bytes: it does not take"),
        "{error}"
    );
    assert!(told(door().run_packet("door", Packet::new([0; 60]).rx_queue(1))).contains("a receive queue is one of"));
}

#[test]
fn a_program_of_another_kind_is_refused() {
    let mut door = door();
    let error = told(door.run_packet("not_for_packets", vec![0; 60]));
    assert!(
        error.starts_with("cannot run program not_for_packets of object door over a packet: it is of kind tracepoint")
    );
    let mut lab = Lab::lockstep().unwrap();
    let error = told(lab.attach(&mut door, "relabel", Hook::xdp()));
    assert_eq!(error, "cannot attach program relabel of object door to xdp: it is of kind tc");
    let error = told(lab.attach(&mut door, "headers", Hook::new(lab::HookKind::SocketFilter)));
    assert!(error.starts_with("cannot attach program headers to socket-filter in lockstep"), "{error}");
    assert_eq!(told(lab.host("dut").map(|_| ())), "there is no host dut in lockstep: use a wire lab");
}

#[test]
fn a_place_that_is_not_there_is_refused() -> Result<(), LabError> {
    require!("mode:wire");
    let (mut door, mut lab) = (door(), Lab::wire(&presets::router())?);
    let error = told(lab.attach(&mut door, "door", Hook::xdp().at("dut.eth7")));
    assert!(error.contains("dut.eth7") && error.contains("it has dut.eth0, dut.eth1"), "{error}");
    assert_eq!(told(lab.host("sever").map(|_| ())), "there is no host sever in the network");
    let error = told(Packet::new([0; 60]).on(lab.host("dut")?, "eth7"));
    assert!(error.starts_with("cannot look at it on host dut, interface eth7"), "{error}");
    // What was refused has left nothing: the program still finds its place.
    lab.attach(&mut door, "door", Hook::xdp())?;
    assert!(told(lab.attach(&mut door, "door", Hook::xdp())).contains("wire mode runs one XDP program"));
    let error = told(lab.send([vec![0; 9000]]));
    assert!(error.contains("9000 bytes"), "{error}");
    assert!(told(lab.replay("no-such.pcap")).contains("no-such.pcap"));
    assert_eq!(lab.send([vec![0xff; 60]])?.ledger().offered, 1, "the lab is still good");
    lab.close()
}

#[test]
fn entries_must_fit_their_types() {
    let door = door();
    let blocked = door.typed_map("blocked").unwrap();
    assert!(told(blocked.set(70_000, 0)).contains("70000"));
    assert!(told(blocked.set(1, "many")).contains("many"));
    blocked.set(1, 0).unwrap();
    let error = told(blocked.rows::<u16, String>());
    assert!(error.starts_with("cannot take value 0 of map blocked for a alloc::string::String: "), "{error}");
    assert!(
        told(door.aya_map::<aya::maps::Array<_, u64>>("blocked")).starts_with("cannot use map blocked of object door")
    );
    assert!(told(door.events("blocked").map(|_| ())).contains("blocked"));
}

#[test]
fn waiting_in_vain_says_what_was_seen_last() {
    let limit = Duration::from_millis(20);
    let error = told(eventually(limit, || Err::<(), _>("two packets")));
    assert_eq!(error, "waited 20ms in vain; last seen: \"two packets\"");
    assert!(told(eventually(limit, || false)).ends_with("last seen: false"));
    assert_eq!(eventually(limit, || Some(7)).unwrap(), 7);
    let lookout = lab::compile(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/library/lookout.bpf.c")).unwrap();
    let mut openings = Subject::open(lookout).unwrap().events("openings").unwrap();
    let error = told(openings.wait_for::<serde_json::Value>(1, limit));
    assert_eq!(error, "waited 20ms in vain; last seen: 0 of 1 events of map openings");
}
