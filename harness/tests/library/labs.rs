//! What labs do beyond the examples: order of programs, state between packets, requirements.

use std::time::Duration;

use bpflab::lab::{self, EbpfObject as _, Hook, Lab, LabError, NamedEbpf, Side, Subject, eventually, missing, presets};
use bpflab::object::suite;
use bpflab::require;
use etherparse::PacketBuilder;
use rstest::rstest;

fn object(name: &str) -> Subject {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/library");
    Subject::open(lab::compile(format!("{folder}/{name}.bpf.c")).unwrap()).unwrap()
}

fn lab(mode: &str) -> Lab {
    if mode == "wire" { Lab::wire(&presets::bridge()).unwrap() } else { Lab::lockstep().unwrap() }
}

/// Datagrams have 42 bytes of headers.
fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    builder.ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).udp(4000, port).write(&mut frame, payload).unwrap();
    frame
}

#[rstest]
fn packets_meet_the_programs_of_two_objects_in_order(#[values("lockstep", "wire")] mode: &str) {
    let (mut door, mut lab) = (object("door"), lab(mode));
    let mut verdicts = NamedEbpf::load("verdicts", suite::VERDICTS).unwrap();
    lab.attach(&mut door, "door", Hook::xdp().at("dut.eth0")).unwrap();
    lab.attach(&mut verdicts, "shot_udp", Hook::tc_egress()).unwrap();
    door.typed_map("blocked").unwrap().set(53, 0).unwrap();
    let mut other = datagram(80, b"");
    // A protocol that neither program knows.
    other[23] = 253;
    let outcome = lab.send([datagram(53, b""), datagram(80, b""), other.clone()]).unwrap();
    let ledger = outcome.ledger();
    assert_eq!((ledger.offered, ledger.consumed, ledger.delivered, ledger.unaccounted), (3, 2, 1, 0), "{outcome}");
    assert_eq!(outcome.ended_by("door"), [("XDP_DROP", 1)].into());
    assert_eq!(outcome.ended_by("shot_udp"), [("TC_ACT_SHOT", 1)].into());
    assert_eq!(outcome.received.len(), 1);
    assert_eq!((outcome.received[0].side, &outcome.received[0].data), (Side::Server, &other));
    let text = "ledger\n  offered 3 = delivered 1 + dropped 0 + consumed 2 + unaccounted 0\n  \
                consumed: TC_ACT_SHOT by shot_udp 1\n  consumed: XDP_DROP by door 1\n";
    assert!(outcome.to_string().starts_with(text), "{outcome}");
    lab.close().unwrap();
}

#[rstest]
fn state_stays_between_packets_and_is_observed(#[values("lockstep", "wire")] mode: &str) {
    let (mut door, mut lab) = (object("door"), lab(mode));
    lab.attach(&mut door, "door", Hook::xdp().at("dut.eth0")).unwrap();
    lab.observe(&door).unwrap();
    let blocked = door.typed_map("blocked").unwrap();
    assert_eq!(lab.send([datagram(7, b"")]).unwrap().ledger().delivered, 1);
    blocked.set(7, 0).unwrap();
    let outcome = lab.send([datagram(7, b""), datagram(7, b"x")]).unwrap();
    assert_eq!((outcome.ledger().offered, outcome.ledger().consumed), (2, 2));
    assert_eq!(blocked.get::<u64>(7).unwrap(), Some(2));
    let maps = &outcome.observation.objects[0].maps;
    assert_eq!(maps.iter().map(|map| map.map.as_str()).collect::<Vec<_>>(), ["blocked", "sources"]);
    assert_eq!(maps[0].rows[0].value, 2);
    // Nothing is attached at the other side.
    assert_eq!(lab.send_from(Side::Server, [datagram(7, b"")]).unwrap().ledger().delivered, u64::from(mode == "wire"));
}

#[test]
fn what_is_behind_a_frame_is_kept_as_the_program_left_it() {
    let mut lab = lab("lockstep");
    let frames = [datagram(1, b"one"), datagram(2, b"two")];
    let outcome = lab.send(frames.clone()).unwrap();
    assert!(outcome.received.iter().map(|frame| &frame.data).eq(&frames), "no program, every frame");
}

#[test]
fn a_ring_is_waited_for() -> Result<(), LabError> {
    require!("mode:wire");
    let (mut lookout, mut lab) = (object("lookout"), Lab::wire(&presets::router())?);
    let mut openings = lookout.events("openings")?;
    lab.attach(&mut lookout, "lookout", Hook::tc_ingress().at("dut.eth0"))?;
    let (_near, _far) = lab.tcp("client", "server", 8080)?;
    let opened: Vec<serde_json::Value> = openings.wait_for(1, Duration::from_secs(5))?;
    assert_eq!((opened.len(), &opened[0]["port"]), (1, &8080.into()));
    assert_eq!(lab.address("server")?.to_string(), "10.71.2.2");
    // A datagram that a program drops is never read, and the wait ends.
    let socket = lab.udp("client", 0)?;
    socket.set_nonblocking(true).unwrap();
    let waited = eventually(Duration::from_millis(20), || socket.recv(&mut [0; 1]).map_err(|error| error.kind()));
    assert!(format!("{:?}", waited.unwrap_err()).ends_with("last seen: WouldBlock"));
    lab.close()
}

#[test]
fn what_is_missing_is_named_and_what_is_no_requirement_is_refused() {
    assert_eq!(missing(&["kernel >=5.4"]).unwrap(), None);
    let lacks = missing(&["kernel >=99.0", "tool:no-such-program"]).unwrap().unwrap();
    assert!(lacks.contains("kernel >=99.0") && lacks.contains("no-such-program"), "{lacks}");
    let error = missing(&["kernle >=5"]).unwrap_err().to_string();
    assert!(error.starts_with("cannot require \"kernle >=5\""), "{error}");
}

#[test]
fn tests_of_both_forms_end_early() {
    fn plain() {
        require!("kernel >=99.0");
        panic!("not ended");
    }
    fn fallible() -> Result<(), LabError> {
        require!("kernel >=99.0");
        panic!("not ended");
    }
    plain();
    fallible().unwrap();
}
