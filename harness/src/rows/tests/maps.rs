//! Real maps of every kind that can be made without a program.

use std::os::fd::{AsFd as _, OwnedFd};

use serde_json::{Value, json};

use super::super::text::hex;
use super::super::{Aliases, Hints, MapRows, ReadOptions, RowsError, Source, TypedMap, render};
use super::*;
use crate::sys::{MapHandle, MapSpec, create_map, load_btf, map_kind as kind};

/// `BPF_F_NO_PREALLOC`
const NO_PREALLOC: u32 = 1;

fn make(kind: u32, key_size: u32, value_size: u32, max_entries: u32) -> OwnedFd {
    crate::kernel::make_room_for_maps();
    let flags = if kind == kind::LPM_TRIE { NO_PREALLOC } else { 0 };
    create_map(&MapSpec { kind, key_size, value_size, max_entries, flags, name: "rows_test", ..MapSpec::default() })
        .unwrap()
}

fn open(fd: &OwnedFd) -> TypedMap {
    TypedMap::open(fd.as_fd(), Source { name: "m", ..Source::default() }, &Hints::default()).unwrap()
}

fn read(map: &TypedMap) -> MapRows {
    map.read(ReadOptions::default(), &mut Aliases::default()).unwrap()
}

/// A map of that kind with the kernel's own copy of the types; key and value by their types' numbers.
fn typed(t: &Types, kind: u32, (key, key_size): (u32, u32), (value, value_size): (u32, u32)) -> OwnedFd {
    crate::kernel::make_room_for_maps();
    let types = load_btf(&t.blob.build()).unwrap();
    let flags = if kind == kind::LPM_TRIE { NO_PREALLOC } else { 0 };
    let spec = MapSpec { kind, key_size, value_size, max_entries: 4, flags, name: "rows_test", ..MapSpec::default() };
    create_map(&MapSpec { types: Some((types.as_fd(), key, value)), ..spec }).unwrap()
}

#[test]
fn entries_are_written_and_read_by_the_types_that_the_kernel_has() {
    let mut t = Types::native();
    let u32_ = t.int("u32", 4, 0);
    let u16_ = t.int("u16", 2, 0);
    let be32 = t.named("__be32", u32_);
    let proto = t.enumeration("proto", 4, false, &[("TCP", 6), ("UDP", 17)]);
    let key = t.structure("key", 8, &[("saddr", be32, 0), ("port", u16_, 32), ("pad", u16_, 48)]);
    let value = t.structure("value", 8, &[("proto", proto, 0), ("packets", u32_, 32)]);
    for kind in [kind::HASH, kind::LRU_HASH] {
        let fd = typed(&t, kind, (key, 8), (value, 8));
        let map = open(&fd);
        assert!(map.is_typed());
        let at = |address: &str| json!({ "saddr": address, "port": 80 });
        map.set(Some(&at("10.0.0.10")), &json!({ "proto": "TCP", "packets": 3 })).unwrap();
        map.set(Some(&at("10.0.0.9")), &json!({ "proto": 18 })).unwrap();
        assert_eq!(
            render(&read(&map)),
            "saddr=10.0.0.9 port=80 pad=0     -> proto=18 packets=0\n\
             saddr=10.0.0.10 port=80 pad=0    -> proto=TCP packets=3\n"
        );
        assert_eq!(map.get(&at("10.0.0.10")).unwrap().unwrap()["packets"], 3);
        assert!(map.delete(&at("10.0.0.9")).unwrap() && !map.delete(&at("10.0.0.9")).unwrap());
        assert_eq!((map.get(&at("10.0.0.9")).unwrap(), read(&map).rows.len()), (None, 1));
        let error = map.set(Some(&json!({ "saddr": "x" })), &json!({})).unwrap_err();
        assert!(matches!(error, RowsError::Encode(_)), "{error}");
        assert!(matches!(map.set(None, &json!({})), Err(RowsError::Key { wanted: true, .. })));
        let wrong = Hints { sort: vec!["-value.packet".into()], ..Hints::default() };
        let refused = TypedMap::open(fd.as_fd(), Source { name: "m", ..Source::default() }, &wrong).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "hint sort: \"-value.packet\" matches nothing in m; did you mean \"value.packets\"?"
        );
    }
}

#[test]
fn maps_without_types_are_bytes_and_say_so() {
    let map = open(&make(kind::HASH, 2, 4, 8));
    map.set(Some(&json!("0x0102")), &json!("0x0a000001")).unwrap();
    let rows = read(&map);
    assert!(!rows.typed);
    assert_eq!(render(&rows), "# rows as bytes: no types for them\n0x0102   -> 0x0a000001\n");
    let said = map.set(Some(&json!("0x01")), &json!("0x0a000001")).unwrap_err().to_string();
    assert_eq!(said, "cannot write key of map m: expected 2 bytes like \"0x0000\", found text \"0x01\"");
}

#[test]
fn hints_give_bytes_a_type() {
    let fd = make(kind::HASH, 4, 8, 8);
    let hints: Hints =
        toml::from_str("format = { \"key\" = \"ipv4\", \"value\" = \"number\" }\nsort = \"-value\"").unwrap();
    let map = TypedMap::open(fd.as_fd(), Source { name: "m", ..Source::default() }, &hints).unwrap();
    map.set(Some(&json!("10.0.0.1")), &json!(7)).unwrap();
    map.set(Some(&json!("10.0.0.2")), &json!(9)).unwrap();
    assert_eq!(render(&read(&map)), "10.0.0.2 -> 9\n10.0.0.1 -> 7\n");
}

#[test]
fn per_cpu_kinds_show_the_sum_of_all_cpus() {
    let mut t = Types::native();
    let u32_ = t.int("u32", 4, 0);
    for kind in [kind::PERCPU_ARRAY, kind::PERCPU_HASH, kind::LRU_PERCPU_HASH] {
        let fd = typed(&t, kind, (u32_, 4), (u32_, 4));
        let map = open(&fd);
        let cpus = aya::util::nr_cpus().unwrap() as u64;
        // Set on every CPU; the parts are rounded up to 8 bytes, of which the value has 4.
        map.set(Some(&json!(1)), &json!(5)).unwrap();
        let rows = read(&map);
        let expected = Value::from(5 * cpus);
        assert!(rows.rows.iter().any(|row| row.key == Some(json!(1)) && row.value == expected), "{rows:?}");
        assert_eq!(map.get(&json!(1)).unwrap(), Some(Value::Array(vec![json!(5); cpus as usize])));
    }
}

#[test]
fn prefixes_of_a_trie_are_rows() {
    let mut t = Types::native();
    let u32_ = t.int("u32", 4, 0);
    let u8_ = t.int("u8", 1, 0);
    let four = t.array(u8_, 4);
    let key = t.structure("lpm", 8, &[("prefixlen", u32_, 0), ("data", four, 32)]);
    let fd = typed(&t, kind::LPM_TRIE, (key, 8), (u32_, 4));
    let map = open(&fd);
    for (prefix, value) in [("10.0.0.0/8", 1), ("0.0.0.0/0", 2), ("10.1.0.0/16", 3)] {
        map.set(Some(&json!(prefix)), &json!(value)).unwrap();
    }
    assert_eq!(render(&read(&map)), "0.0.0.0/0        -> 2\n10.0.0.0/8       -> 1\n10.1.0.0/16      -> 3\n");
}

#[test]
fn maps_in_maps_are_descended() {
    let mut t = Types::native();
    let u32_ = t.int("u32", 4, 0);
    let inner = typed(&t, kind::HASH, (u32_, 4), (u32_, 4));
    open(&inner).set(Some(&json!(5)), &json!(50)).unwrap();
    open(&inner).set(Some(&json!(6)), &json!(60)).unwrap();
    let empty = typed(&t, kind::HASH, (u32_, 4), (u32_, 4));
    for kind in [kind::ARRAY_OF_MAPS, kind::HASH_OF_MAPS] {
        let spec = MapSpec { kind, key_size: 4, value_size: 4, max_entries: 4, ..MapSpec::default() };
        let fd = create_map(&MapSpec { inner: Some(inner.as_fd()), ..spec }).unwrap();
        let handle = MapHandle::new(fd.as_fd()).unwrap();
        for (index, inner) in [(1_u32, &inner), (3, &empty)] {
            let descriptor = std::os::fd::AsRawFd::as_raw_fd(inner);
            handle.update(Some(&index.to_ne_bytes()), &descriptor.to_ne_bytes(), 0).unwrap();
        }
        let rows = read(&open(&fd));
        // Only an array's keys need no types to be numbers.
        let indexed = kind == kind::ARRAY_OF_MAPS;
        let key = |key: u32| if indexed { json!(key) } else { json!(hex(&key.to_ne_bytes())) };
        let keys: Vec<_> = rows.rows.iter().map(|row| (row.key.clone().unwrap(), row.value.clone())).collect();
        let expected = [
            (json!({ "outer": key(1), "inner": 5 }), json!(50)),
            (json!({ "outer": key(1), "inner": 6 }), json!(60)),
            (json!({ "outer": key(3) }), Value::Null),
        ];
        assert_eq!(keys, expected);
        assert_eq!(rows.typed, indexed);
        assert!(matches!(open(&fd).set(Some(&json!(1)), &json!(2)), Err(RowsError::Descriptors(_))));
    }
}

#[test]
fn arrays_hide_their_zeros_only_where_they_are_long() {
    let (short, long) = (make(kind::ARRAY, 4, 8, 3), make(kind::ARRAY, 4, 8, 100));
    for fd in [&short, &long] {
        open(fd).set(Some(&json!(2)), &json!("0x0100000000000000")).unwrap();
    }
    assert_eq!(read(&open(&short)).rows.len(), 3);
    let rows = read(&open(&long));
    assert_eq!((rows.rows.len(), rows.note.as_deref()), (1, Some("99 elements that are all zeros are not shown")));
    let hints: Hints = toml::from_str("zeros = \"show\"").unwrap();
    let map = TypedMap::open(long.as_fd(), Source { name: "m", ..Source::default() }, &hints).unwrap();
    assert_eq!(read(&map).rows.len(), 100);
}

#[test]
fn sections_are_a_row_per_variable() {
    // As libbpf makes `.data`: an array of one, whose value is the section.
    let mut t = Types::native();
    let u32_ = t.int("u32", 4, 0);
    let count = t.structure("count", 8, &[("packets", u32_, 0), ("bytes", u32_, 32)]);
    // Linkage 1: global.
    let total = t.add("total", VAR, count, &[1]);
    let limit = t.add("limit", VAR, u32_, &[1]);
    let section = t.add(".data", DATASEC | 2, 12, &[total, 0, 8, limit, 8, 4]);
    let types = load_btf(&t.blob.build()).unwrap();
    let spec = MapSpec { kind: kind::ARRAY, key_size: 4, value_size: 12, max_entries: 1, ..MapSpec::default() };
    let fd = create_map(&MapSpec { name: "obj.data", types: Some((types.as_fd(), 0, section)), ..spec }).unwrap();
    let hints: Hints = toml::from_str("format = { \"value.limit\" = \"hex\" }").unwrap();
    let map = TypedMap::open(fd.as_fd(), Source { name: "obj.data", ..Source::default() }, &hints).unwrap();
    map.set(Some(&json!("limit")), &json!(255)).unwrap();
    map.set(Some(&json!("total")), &json!({ "packets": 2 })).unwrap();
    let rows = read(&map);
    assert!(rows.typed);
    assert_eq!(render(&rows), "limit    -> 0xff\ntotal    -> packets=2 bytes=0\n");
    let said = map.set(Some(&json!("totl")), &json!(1)).unwrap_err().to_string();
    assert_eq!(said, "cannot write value of map obj.data: there is no member totl; did you mean total?");
}

#[test]
fn queues_and_stacks_are_popped_only_when_told() {
    for (kind, first) in [(kind::QUEUE, "0x01"), (kind::STACK, "0x02")] {
        let map = open(&make(kind, 0, 1, 4));
        map.set(None, &json!("0x01")).unwrap();
        map.set(None, &json!("0x02")).unwrap();
        let rows = read(&map);
        assert_eq!(rows.rows.len(), 0);
        assert!(rows.note.unwrap().contains("taking its elements out"));
        let popped = map.read(ReadOptions { pop: true }, &mut Aliases::default()).unwrap();
        assert_eq!((popped.rows.len(), &popped.rows[0].value), (2, &json!(first)));
        let again = map.read(ReadOptions { pop: true }, &mut Aliases::default()).unwrap();
        assert_eq!(again.rows.len(), 0);
    }
}

#[test]
fn kinds_that_cannot_be_listed_say_why() {
    let page = 4096;
    for (kind, key, value, entries) in [
        (kind::BLOOM_FILTER, 0, 4, 8),
        (kind::RINGBUF, 0, 0, page),
        (kind::PERF_EVENT_ARRAY, 4, 4, 8),
        (kind::CGROUP_ARRAY, 4, 4, 8),
        (kind::XSKMAP, 4, 4, 8),
        (kind::SOCKMAP, 4, 4, 8),
    ] {
        let spec = MapSpec { kind, key_size: key, value_size: value, max_entries: entries, ..MapSpec::default() };
        // A kernel may lack some of them.
        let Ok(fd) = create_map(&spec) else { continue };
        let rows = read(&open(&fd));
        assert!(rows.rows.is_empty() && rows.note.is_some(), "{rows:?}");
    }
}

#[test]
fn maps_of_devices_programs_and_cpus_show_what_the_kernel_gives() {
    let program = crate::sys::load_trivial_program(
        // BPF_PROG_TYPE_XDP
        crate::sys::ProgramKind { program: 6, attach: 0, btf_id: 0 },
        2,
    )
    .unwrap();
    let jumps = make(kind::PROG_ARRAY, 4, 4, 4);
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&program).to_ne_bytes();
    MapHandle::new(jumps.as_fd()).unwrap().update(Some(&2_u32.to_ne_bytes()), &descriptor, 0).unwrap();
    assert_eq!(render(&read(&open(&jumps))), "2        -> bpflab_probe\n");
    let devices = open(&make(kind::DEVMAP, 4, 4, 4));
    // The loopback interface.
    devices.set(Some(&json!(3)), &json!({ "ifindex": 1 })).unwrap();
    assert_eq!(render(&read(&devices)), "3        -> ifindex=1\n");
    let cpus = open(&make(kind::CPUMAP, 4, 4, 1));
    cpus.set(Some(&json!(0)), &json!({ "qsize": 192 })).unwrap();
    assert_eq!(render(&read(&cpus)), "0        -> qsize=192\n");
}

#[test]
fn a_million_entries_are_read_by_batches() {
    const ENTRIES: u32 = 1_000_000;
    let fd = make(kind::HASH, 4, 8, ENTRIES);
    let handle = MapHandle::new(fd.as_fd()).unwrap();
    for key in 0..ENTRIES {
        handle.update(Some(&key.to_ne_bytes()), &u64::from(key).to_ne_bytes(), 0).unwrap();
    }
    let hints: Hints =
        toml::from_str("format = { \"key\" = \"number\", \"value\" = \"number\" }\nsort = \"-value\"\nlimit = 3")
            .unwrap();
    let map = TypedMap::open(fd.as_fd(), Source { name: "m", ..Source::default() }, &hints).unwrap();
    let rows = read(&map);
    assert_eq!(rows.more, 999_997);
    assert_eq!(render(&rows), "999999   -> 999999\n999998   -> 999998\n999997   -> 999997\n# 999997 more rows\n");
}
