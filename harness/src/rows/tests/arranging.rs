//! Sums, ranges, order, numbering, names and text.

use serde_json::{Value, json};

use super::super::{
    Aliases, EventRows, HintError, Hints, MapRows, PerCpu, RawValue, Row, arrange, arrange_events, render,
    render_events,
};

fn hints(toml: &str) -> Hints {
    let hints: Hints = toml::from_str(toml).unwrap();
    hints.check().unwrap();
    hints
}

fn rows(toml: &str, elements: &[(Value, Value)]) -> (Vec<Row>, u64) {
    let elements = elements.iter().map(|(key, value)| (Some(key.clone()), RawValue::One(value.clone())));
    arrange(elements, &hints(toml), &mut Aliases::default())
}

fn text(rows: (Vec<Row>, u64)) -> String {
    render(&MapRows { map: "m".into(), kind: "hash".into(), typed: true, note: None, rows: rows.0, more: rows.1 })
}

#[test]
fn rows_are_sorted_by_key_unless_hints_say_otherwise() {
    let elements = [
        (json!("10.0.0.10"), json!({ "n": 1, "ns": 5 })),
        (json!("10.0.0.9"), json!({ "n": 2, "ns": 5 })),
        (json!("10.0.0.8"), json!({ "n": 2, "ns": 7 })),
    ];
    let plain = "10.0.0.8         -> n=2 ns=7\n10.0.0.9         -> n=2 ns=5\n10.0.0.10        -> n=1 ns=5\n";
    assert_eq!(text(rows("", &elements)), plain);
    let top = text(rows("sort = [\"-value.n\", \"value.ns\"]\nlimit = 2", &elements));
    assert_eq!(top, "10.0.0.9 -> n=2 ns=5\n10.0.0.8 -> n=2 ns=7\n# 1 more rows\n");
}

#[test]
fn identities_are_numbered_by_appearance_and_have_no_part_in_the_order() {
    let toml = "alias = { \"key.pid\" = \"pid\", \"value.parent\" = \"pid\" }\nrename = { \"value.n\" = \"packets\" }";
    let run = |a: u64, b: u64| {
        text(rows(
            toml,
            &[
                (json!({ "pid": a, "port": 2 }), json!({ "n": 1, "parent": b })),
                (json!({ "pid": b, "port": 1 }), json!({ "n": 2, "parent": 1 })),
            ],
        ))
    };
    let expected = "pid=pid#1 port=1 -> packets=2 parent=pid#2\npid=pid#3 port=2 -> packets=1 parent=pid#1\n";
    // Whichever process has the higher number.
    assert_eq!((run(100, 200), run(200, 100)), (expected.to_owned(), expected.to_owned()));
}

#[test]
fn numbers_become_ranges_and_durations() {
    let toml = "buckets = { \"value.a\" = \"decades\", \"value.b\" = \"powers_of_two\", \"value.c\" = [10, 100] }\n\
                format = { \"value.a\" = \"duration_ns\", \"value.d\" = \"duration_ns\" }";
    let value = |a: u64, b: u64, c: u64| json!({ "a": a, "b": b, "c": c, "d": 1_500 });
    let said = |key: u64, a, b, c| (json!(key), value(a, b, c));
    let text = text(rows(toml, &[said(1, 0, 0, 9), said(2, 1_234_567, 5, 10), said(3, u64::MAX, u64::MAX, 100)]));
    let expected = "1        -> a=0s b=0 c=0..10 d=1.5us\n\
                    2        -> a=1ms..10ms b=4..8 c=10..100 d=1.5us\n\
                    3        -> a=10000000000s.. b=9223372036854775808.. c=100.. d=1.5us\n";
    assert_eq!(text, expected);
}

#[test]
fn per_cpu_values_are_summed_where_they_are_numbers() {
    let cpus = |values: &[Value], how: Option<PerCpu>| {
        let hints = Hints { per_cpu: how, ..Hints::default() };
        let elements = [(Some(json!(0)), RawValue::PerCpu(values.to_vec()))];
        arrange(elements, &hints, &mut Aliases::default()).0.remove(0).value
    };
    assert_eq!(cpus(&[json!(1), json!(2)], None), 3);
    assert_eq!(cpus(&[json!(1), json!(2)], Some(PerCpu::List)), json!([1, 2]));
    // More than 64 bits hold, and below zero.
    assert_eq!(cpus(&[json!(u64::MAX), json!(1)], None), "18446744073709551616");
    assert_eq!(cpus(&[json!(-3), json!(1)], None), -2);
    let named = |n: u64, comm: &str| json!({ "n": n, "list": [n, 0], "comm": comm });
    assert_eq!(cpus(&[named(1, "a"), named(2, "a")], None), json!({ "n": 3, "list": [3, 0], "comm": "a" }));
    assert_eq!(cpus(&[named(1, "a"), named(2, "b")], None), json!([named(1, "a"), named(2, "b")]));
    let summed = json!({ "n": 3, "list": [3, 0], "comm": ["a", "b"] });
    assert_eq!(cpus(&[named(1, "a"), named(2, "b")], Some(PerCpu::Sum)), summed);
}

#[test]
fn a_limit_bounds_what_is_kept_and_the_rows_are_those_of_all() {
    // 50,000 elements in falling order, of which the ten smallest are wanted.
    let elements = (0..50_000_u64).rev().map(|n| (Some(json!(n)), RawValue::One(json!(n * 2))));
    let (rows, more) = arrange(elements, &hints("limit = 10"), &mut Aliases::default());
    let keys: Vec<u64> = rows.iter().filter_map(|row| row.key.as_ref()?.as_u64()).collect();
    assert_eq!((keys, more), ((0..10).collect(), 49_990));
}

#[test]
fn events_keep_their_order_and_ambiguous_text_is_quoted() {
    let events = [json!({ "pid": 9, "comm": "a b", "tag": "12" }), json!({ "pid": 8, "comm": "", "tag": "x=y" })];
    let hints = hints("alias = { \"event.pid\" = \"pid\" }");
    let (events, more) = arrange_events(events, &hints, &mut Aliases::default());
    let rows = EventRows { map: "m".into(), typed: true, note: None, lost: Some(3), events, more };
    assert_eq!(
        render_events(&rows),
        "pid=pid#1 comm=\"a b\" tag=\"12\"\npid=pid#2 comm=\"\" tag=\"x=y\"\n# 3 events lost: the buffer was full\n"
    );
}

#[test]
fn untyped_rows_and_nested_values_are_plain() {
    let row = Row { key: Some(json!("0x01")), value: json!({ "a": { "b": [1, { "c": null }] }, "d": true }) };
    let map = MapRows {
        map: "m".into(),
        kind: "hash".into(),
        typed: false,
        note: Some("one\ntwo".into()),
        rows: vec![row],
        more: 0,
    };
    assert_eq!(
        render(&map),
        "# rows as bytes: no types for them\n# one\n# two\n0x01     -> a={b=[1 {c=(none)}]} d=true\n"
    );
}

#[test]
fn wrong_hints_are_told() {
    let refused = |toml: &str| match toml::from_str::<Hints>(toml) {
        Ok(hints) => hints.check().unwrap_err().to_string(),
        Err(error) => error.message().to_owned(),
    };
    assert!(refused("formatt = {}").contains("unknown field `formatt`"));
    assert!(refused("format = { \"key\" = \"ipv5\" }").contains("unknown variant `ipv5`"));
    assert_eq!(
        refused("format = { \"saddr\" = \"ipv4\" }"),
        "hint format: \"saddr\" is no path: it must begin with key, value or event"
    );
    assert!(refused("buckets = { \"value\" = [5, 5] }").contains("bounds must rise"));
    assert!(refused("alias = { \"value\" = \"a b\" }").contains("a name has no dots"));
    assert!(matches!(hints("sort = \"-value\"").check(), Ok::<(), HintError>(())));
}
