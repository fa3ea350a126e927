//! Definitions in the form of libbpf.

use super::super::{MapTypes, encode_global, event_type, map_types, variables};
use super::*;

#[test]
fn definitions_of_c_objects_are_read() {
    let mut t = Types::new(false);
    let int = t.int("int", 4, 1 << 24);
    let u16_ = t.int("u16", 2, 0);
    let address = t.structure("in_addr", 4, &[("s_addr", int, 0)]);
    let pointer = |t: &mut Types, to| t.add("", PTR, to, &[]);
    let number = |t: &mut Types, number| {
        let array = t.array(int, number);
        pointer(t, array)
    };
    let (hash, nested, entries, four) = (number(&mut t, 1), number(&mut t, 13), number(&mut t, 64), number(&mut t, 4));
    let (to_u16, to_address) = (pointer(&mut t, u16_), pointer(&mut t, address));
    // struct inner { type; key; value; }, and a map whose `values` are such, with `key_size` in place of a key's type.
    let inner = t.structure("inner", 24, &[("type", hash, 0), ("key", to_u16, 64), ("value", to_address, 128)]);
    let to_inner = pointer(&mut t, inner);
    let values = t.array(to_inner, 0);
    let outer = t.structure(
        "",
        24,
        &[("type", nested, 0), ("key_size", four, 64), ("max_entries", entries, 128), ("values", values, 192)],
    );
    let variable = t.add("nests", VAR, outer, &[1]);
    t.add(".maps", DATASEC | 1, 24, &[variable, 0, 24]);
    let found = map_types(&t.btf(), "nests").unwrap();
    let inner = MapTypes { key: Some(u16_), value: Some(address), kind: Some(1), ..MapTypes::default() };
    let expected = MapTypes {
        kind: Some(13),
        key_size: Some(4),
        max_entries: Some(64),
        inner: Some(Box::new(inner)),
        ..MapTypes::default()
    };
    assert_eq!(found, expected);
    assert_eq!(map_types(&t.btf(), "nest"), None);
}

#[test]
fn an_event_type_is_guessed_only_where_one_alone_can_be_meant() {
    let mut t = Types::new(false);
    let int = t.int("int", 4, 1 << 24);
    let event = t.structure("event", 4, &[("pid", int, 0)]);
    let other = t.structure("other", 4, &[("pid", int, 0)]);
    let qualified = t.add("", CONST, event, &[]);
    let (to_event, to_other) = (t.add("", PTR, qualified, &[]), t.add("", PTR, other, &[]));
    let (unused, limit) = (t.add("unused", VAR, to_event, &[1]), t.add("limit", VAR, int, &[1]));
    t.add(".bss", DATASEC | 2, 12, &[unused, 0, 8, limit, 8, 4]);
    let btf = t.btf();
    assert_eq!(event_type(&btf, "ring", None), Ok(Some(event)));
    assert_eq!(event_type(&btf, "ring", Some("struct other")), Ok(Some(other)));
    assert!(event_type(&btf, "ring", Some("struct none")).is_err());
    let names: Vec<String> = variables(&btf).into_iter().map(|variable| variable.name).collect();
    assert_eq!(names, ["unused", "limit"]);
    assert_eq!(encode_global(&btf, "limit", &serde_json::json!(-2)).unwrap(), (-2_i32).to_le_bytes());
    let second = t.add("second", VAR, to_other, &[1]);
    t.add(".data", DATASEC | 1, 8, &[second, 0, 8]);
    assert_eq!(event_type(&t.btf(), "ring", None), Ok(None), "two could be meant");
}
