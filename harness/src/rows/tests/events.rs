//! Events of a ring and of perf buffers, sent by programs.

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use aya_obj::generated::bpf_insn;
use etherparse::PacketBuilder;

use super::super::{Aliases, Hints, Source, TypedEvents, render_events};
use super::objects::types;
use super::*;
use crate::object::{LoadOptions, Object, suite};
use crate::sys::{
    InstructionRecords, MapSpec, ProgramKind, ProgramLoad, create_map, load_program, map_kind as kind, test_run,
};

/// A query to port 53, which the program hands over whole.
fn query() -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let mut frame = Vec::new();
    builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(40_000, 53).write(&mut frame, &[0; 20]).unwrap();
    frame
}

#[test]
fn events_of_a_ring_have_the_type_of_its_definition() {
    let mut object = Object::load("protocols", suite::PROTOCOLS, &LoadOptions::default()).unwrap();
    let program = object.load_program("protocols_ingress", None).unwrap();
    let btf = types(suite::PROTOCOLS);
    let source = Source { name: "EVENTS", object: Some(&btf), offsets: None };
    let hints: Hints = toml::from_str(
        "format = { \"event.key.[ab]\" = \"ip\", \"event.time_ns\" = \"drop\" }\nalias = { \"event.key.a_port\" = \"port\" }",
    )
    .unwrap();
    let mut events = TypedEvents::open(object.map_fd("EVENTS").unwrap(), source, &hints, 1).unwrap();
    assert_eq!(events.drain(), 0);
    for _ in 0..2 {
        test_run(program.as_fd(), &query(), None, 1).unwrap();
    }
    assert_eq!(events.drain(), 2);
    let rows = events.finish(&mut Aliases::default());
    assert!(rows.typed && rows.lost.is_none() && rows.more == 0, "{rows:?}");
    let event = &rows.events[1];
    assert_eq!((&event["key"]["a"], &event["key"]["a_port"]), (&"10.0.0.1".into(), &"port#1".into()));
    assert_eq!((&event["payload_len"], &event["captured_len"]), (&20.into(), &20.into()));
    // The payload follows the header that the type describes.
    let rest = event["(rest)"].as_str().unwrap();
    assert!(rest.starts_with(&format!("0x{}", "00".repeat(20))), "{rest}");
    assert!(event.get("time_ns").is_none());
    // Without types, bytes.
    let plain = Source { name: "EVENTS", ..Source::default() };
    let mut events = TypedEvents::open(object.map_fd("EVENTS").unwrap(), plain, &Hints::default(), 1).unwrap();
    test_run(program.as_fd(), &query(), None, 1).unwrap();
    assert_eq!(events.drain(), 1);
    let rows = events.finish(&mut Aliases::default());
    assert!(!rows.typed && rows.events[0].as_str().unwrap().starts_with("0x"), "{rows:?}");
}

fn instruction(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> bpf_insn {
    bpf_insn { code, _bitfield_align_1: [], _bitfield_1: bpf_insn::new_bitfield_1(dst, src), off, imm }
}

/// An XDP program that sends the 8 bytes 7, 0, 0, ... to a perf event array and passes the packet.
fn sender(map: BorrowedFd<'_>) -> Vec<bpf_insn> {
    vec![
        instruction(0x7a, 10, 0, -8, 7),             // *(u64 *)(r10 - 8) = 7
        instruction(0x18, 2, 1, 0, map.as_raw_fd()), // r2 = map
        instruction(0, 0, 0, 0, 0),
        instruction(0x18, 3, 0, 0, -1), // r3 = BPF_F_CURRENT_CPU
        instruction(0, 0, 0, 0, 0),
        instruction(0xbf, 4, 10, 0, 0), // r4 = r10 - 8
        instruction(0x07, 4, 0, 0, -8),
        instruction(0xb7, 5, 0, 0, 8),  // r5 = 8
        instruction(0x85, 0, 0, 0, 25), // bpf_perf_event_output()
        instruction(0xb7, 0, 0, 0, 2),  // return XDP_PASS
        instruction(0x95, 0, 0, 0, 0),
    ]
}

#[test]
fn perf_events_are_read_of_all_cpus_and_losses_are_counted() {
    let cpus = aya::util::nr_cpus().unwrap() as u32;
    let spec =
        MapSpec { kind: kind::PERF_EVENT_ARRAY, key_size: 4, value_size: 4, max_entries: cpus, ..MapSpec::default() };
    let map = create_map(&spec).unwrap();
    let instructions = sender(map.as_fd());
    let load = ProgramLoad {
        // BPF_PROG_TYPE_XDP
        kind: ProgramKind { program: 6, attach: 0, btf_id: 0 },
        flags: 0,
        name: "rows_test",
        instructions: &instructions,
        license: c"GPL",
        btf: None,
        functions: InstructionRecords::default(),
        lines: InstructionRecords::default(),
    };
    let mut log = vec![0; 65_536];
    let program = load_program(&load, 1, &mut log).unwrap();
    let mut t = Types::native();
    let int = t.int("unsigned int", 4, 0);
    t.structure("event", 8, &[("pid", int, 0), ("zero", int, 32)]);
    let btf = t.btf();
    let hints: Hints = toml::from_str("event = \"struct event\"").unwrap();
    let source = Source { name: "m", object: Some(&btf), offsets: None };
    // A page holds at most 204 records of 20 bytes rounded up to 24, so 1000 do not fit.
    let mut events = TypedEvents::open(map.as_fd(), source, &hints, 1).unwrap();
    for _ in 0..3 {
        test_run(program.as_fd(), &query(), None, 1).unwrap();
    }
    assert_eq!(events.drain(), 3);
    let sent = 1000;
    for _ in 0..sent {
        test_run(program.as_fd(), &query(), None, 1).unwrap();
    }
    let mut read = events.drain();
    // The kernel tells of losses in front of the next event that fits.
    for _ in 0..64 {
        test_run(program.as_fd(), &query(), None, 1).unwrap();
    }
    read += events.drain();
    let rows = events.finish(&mut Aliases::default());
    assert_eq!(rows.events.len(), read + 3);
    assert!(rows.lost.unwrap() > 0, "{:?}", rows.lost);
    assert!(render_events(&rows).starts_with("pid=7 zero=0\npid=7 zero=0\n"));
}
