//! The suite's own objects: their maps are read by the same path as anybody's.

use std::collections::BTreeMap;

use aya::Pod;
use aya::maps::{HashMap, MapData};
use bpflab_programs::flows::{Flow, HookCount};
use bpflab_programs::packet::FlowKey;
use bpflab_programs::{drops, protocols};
use serde_json::{Value, json};

use super::super::{
    Aliases, Decoder, Encoder, Hints, MapTypes, ReadOptions, Source, TypedMap, encode_global, event_type, map_types,
    render, variables,
};
use crate::kernel::btf::Btf;
use crate::object::{LoadOptions, Object, suite};
use crate::sys::{self, bytes_of, read_pod};

/// The types in an object file.
pub(super) fn types(elf: &[u8]) -> Btf {
    let object = aya_obj::Object::parse(elf).unwrap();
    Btf::parse(&object.btf.unwrap().to_bytes()).unwrap()
}

fn key() -> FlowKey {
    let mut key = FlowKey { a_port: 1000, b_port: 80, vlan: 0xffff, proto: 6, ..FlowKey::default() };
    key.a[..4].copy_from_slice(&[10, 0, 0, 1]);
    key.b[..4].copy_from_slice(&[10, 0, 0, 2]);
    key
}

#[test]
fn a_loaded_map_reads_what_the_typed_side_wrote() {
    let object = Object::load("flows", suite::FLOWS, &LoadOptions::default()).unwrap();
    let flow = Flow { packets: [3, (1 << 53) + 1], bytes: [180, 120], tcp_flags: [2, 0x12], ..Flow::default() };
    let data = MapData::from_fd(object.map_fd("FLOWS").unwrap().try_clone_to_owned().unwrap()).unwrap();
    let mut flows: HashMap<_, FlowKey, Flow> = aya::maps::Map::from_map_data(data).unwrap().try_into().unwrap();
    flows.insert(key(), flow, 0).unwrap();
    let hints: Hints = toml::from_str(
        "format = { \"key.[ab]\" = \"ip\", \"key.reserved\" = \"drop\", \"value.*_ns\" = \"drop\", \
         \"value.tcp_flags\" = \"list\" }",
    )
    .unwrap();
    let source = Source { name: "FLOWS", ..Source::default() };
    let map = TypedMap::open(object.map_fd("FLOWS").unwrap(), source, &hints).unwrap();
    let rows = map.read(ReadOptions::default(), &mut Aliases::default()).unwrap();
    assert_eq!(
        render(&rows),
        "a=10.0.0.1 b=10.0.0.2 a_port=1000 b_port=80 vlan=65535 inner_vlan=0 ethertype=0 family=0 proto=6 -> \
         packets=[3 9007199254740993] bytes=[180 120] fragments=0 tcp_flags=[2 18] encap=0 first_direction=0\n"
    );
    // And the other way round: what is written by name is what the typed side reads.
    let written = json!({ "packets": [7, 0], "encap": 1 });
    map.set(rows.rows[0].key.as_ref(), &written).unwrap();
    assert_eq!(flows.get(&key(), 0).unwrap(), Flow { packets: [7, 0], encap: 1, ..Flow::default() });
}

/// Decodes and encodes random-looking bytes of `T` as type `id`, and compares with the type's own idea of them.
fn round_trip<T: Pod + PartialEq + std::fmt::Debug>(btf: &Btf, id: u32) -> (T, Value) {
    let decoder = Decoder::new(btf, id).unwrap();
    assert_eq!(decoder.size(), size_of::<T>());
    let bytes: Vec<u8> = (0..size_of::<T>()).map(|at| (at * 37 % 251) as u8).collect();
    let decoded = decoder.decode(&bytes);
    let encoded = Encoder::new(btf, id, "map m", "value").unwrap().encode(&decoded).unwrap();
    let value: T = read_pod(&encoded).unwrap();
    assert_eq!(bytes_of(&value), bytes);
    (value, decoded)
}

#[test]
fn the_types_of_the_suite_go_both_ways() {
    let btf = types(suite::FLOWS);
    let (key, value) = of(&btf, "FLOWS");
    let (typed, decoded): (FlowKey, _) = round_trip(&btf, key);
    assert_eq!(decoded["a_port"], typed.a_port);
    assert_eq!(decoded["proto"], typed.proto);
    let (typed, decoded): (Flow, _) = round_trip(&btf, value);
    assert_eq!(decoded["packets"], json!(typed.packets));
    assert_eq!(decoded["last_ns"], typed.last_ns);
    let (typed, decoded): (HookCount, _) = round_trip(&btf, of(&btf, "HOOKS").1);
    assert_eq!(decoded["bytes"], typed.bytes);
    let btf = types(suite::DROPS);
    let (key, value) = of(&btf, "DROPS");
    let (typed, decoded): (drops::DropKey, _) = round_trip(&btf, key);
    assert_eq!((&decoded["location"], &decoded["reason"]), (&json!(typed.location), &json!(typed.reason)));
    let (typed, decoded): (drops::DropCount, _) = round_trip(&btf, value);
    assert_eq!(decoded["packets"], typed.packets);
}

/// Types of key and value of a map that has both.
fn of(btf: &Btf, map: &str) -> (u32, u32) {
    match map_types(btf, map) {
        Some(MapTypes { key: Some(key), value: Some(value), .. }) => (key, value),
        other => panic!("{map}: {other:?}"),
    }
}

#[test]
fn definitions_say_what_the_kernel_does_not_keep() {
    let btf = types(suite::PROTOCOLS);
    let events = map_types(&btf, "EVENTS").unwrap();
    // BPF_MAP_TYPE_RINGBUF without a key, with the type of its events.
    assert_eq!((events.kind, events.key, events.value_size), (Some(27), None, Some(0)));
    assert_eq!(events.max_entries, Some(protocols::RING_BYTES as u32));
    let event = event_type(&btf, "EVENTS", None).unwrap();
    assert_eq!(event, events.value);
    assert_eq!(event_type(&btf, "EVENTS", Some("struct Event")).unwrap(), event);
    let missing = event_type(&btf, "EVENTS", Some("struct Evnt")).unwrap_err().to_string();
    assert_eq!(missing, "cannot decode the events of EVENTS: BTF has no type struct Evnt");
    let (typed, decoded): (protocols::Event, _) = round_trip(&btf, event.unwrap());
    assert_eq!((&decoded["seq"], &decoded["key"]["a_port"]), (&json!(typed.seq), &json!(typed.key.a_port)));
    assert!(map_types(&btf, "NOTHING").is_none());
}

#[test]
fn globals_are_found_encoded_and_shown() {
    let btf = types(suite::PROTOCOLS);
    let names: BTreeMap<String, String> =
        variables(&btf).into_iter().map(|variable| (variable.name, variable.section)).collect();
    assert_eq!(names["CLOCK_SOURCE"], ".rodata");
    assert_eq!(encode_global(&btf, "CLOCK_SOURCE", &json!(7)).unwrap(), 7_u32.to_ne_bytes());
    let error = encode_global(&btf, "CLOCK_SORCE", &json!(7)).unwrap_err().to_string();
    assert!(error.ends_with("did you mean CLOCK_SOURCE?"), "{error}");
    // The kernel has no types for the section: those of the object and the places of its symbols.
    let source = 3_u32;
    let options = LoadOptions { globals: vec![("CLOCK_SOURCE", bytes_of(&source), true)], ..LoadOptions::default() };
    let object = Object::load("protocols", suite::PROTOCOLS, &options).unwrap();
    let fd = object.map_fd(".rodata").unwrap();
    let bytes = sys::MapHandle::new(fd).unwrap().lookup(&[0; 4]).unwrap().unwrap();
    // 16 bytes of ports and 4 of the other, in the order of the linker's choice.
    let offsets: BTreeMap<String, u64> = if bytes[..4] == source.to_ne_bytes() {
        [("CLOCK_SOURCE".to_owned(), 0), ("DNS_PORTS".to_owned(), 4)].into()
    } else {
        [("DNS_PORTS".to_owned(), 0), ("CLOCK_SOURCE".to_owned(), 16)].into()
    };
    let source = Source { name: ".rodata", object: Some(&btf), offsets: Some(&offsets) };
    let map = TypedMap::open(fd, source, &Hints::default()).unwrap();
    let rows = map.read(ReadOptions::default(), &mut Aliases::default()).unwrap();
    assert!(rows.typed, "{rows:?}");
    assert_eq!(rows.rows[0].key, Some(json!("CLOCK_SOURCE")));
    let without = Source { offsets: None, ..source };
    let rows = TypedMap::open(fd, without, &Hints::default()).unwrap();
    let rows = rows.read(ReadOptions::default(), &mut Aliases::default()).unwrap();
    assert!(!rows.typed && rows.note.unwrap().contains("places of variables are not known"));
}
