use serde_json::json;

use super::*;

fn document() -> Value {
    json!({
        "ledger": { "offered": 10, "dropped_by": { "TCP_CSUM": 3 } },
        "drops": [
            { "reason": "TCP_CSUM", "place": "tcp_v4_rcv", "packets": 3 },
            { "reason": "NO_SOCKET", "place": "tcp_v4_rcv", "packets": 2 },
        ],
        "flows": [{ "proto": "udp", "packets": { "a_to_b": 12, "b_to_a": 1 } }],
        "malformed": { "land": 1 },
        "http": [],
        "tcp": {
            "retransmissions": 4,
            "handshakes": [{ "rtt_us": 12.5 }],
            "connections": [{ "state": "reset", "reset_by": "server", "retransmissions": { "a_to_b": 1, "b_to_a": 3 } }],
        },
        "tls": [],
    })
}

fn holds(text: &str) -> bool {
    let condition = Condition::parse(text).unwrap_or_else(|error| panic!("{error}"));
    condition.holds(&document())
}

#[test]
fn what_a_condition_says_is_what_the_document_has() {
    for text in [
        r#"drops["TCP_CSUM"] > 0"#,
        r#"drops["TCP_CSUM"] == 3"#,
        r#"drops["tcp_v4_rcv"] == 5"#,
        r#"len(drops["tcp_v4_rcv"]) == 2"#,
        r#"drops contains "NO_SOCKET""#,
        r#"drops[reason == "NO_SOCKET" and packets < 3]"#,
        "drops",
        "tcp.retransmissions >= 4",
        "tcp.handshakes.0.rtt_us > 12 and tcp.handshakes[0].rtt_us < 12.6",
        "tcp.connections[0].retransmissions == 4",
        r#"tcp.connections[reset_by == "server"][0].state == "reset""#,
        r#"tcp.connections[0].state contains "res""#,
        r#"malformed["land"] == 1 and malformed["frag"] == 0"#,
        r#"malformed contains "land" and not malformed contains "frag""#,
        r#"flows[proto == "udp" and packets > 12]"#,
        "flows == 1",
        "not http and not tls",
        "len(http) == 0",
        "http[0].status == null",
        "false or (true and ledger.offered == 10)",
        r#"ledger.dropped_by["TCP_CSUM"] >= 1"#,
        "tcp.half_open == 0",
        "ledger.offered > -1",
    ] {
        assert!(holds(text), "{text}");
    }
    for text in [
        r#"drops["XDP"] > 0"#,
        r#"drops contains "TCP""#,
        "http",
        "tcp.retransmissions < 4",
        "not (drops or http)",
        r#"flows[proto == "tcp"]"#,
        "tcp.handshakes[7].rtt_us > 0",
    ] {
        assert!(!holds(text), "{text}");
    }
}

#[test]
fn and_binds_tighter_than_or() {
    assert!(holds("true or false and false"));
    assert!(!holds("(true or false) and false"));
    assert!(holds("not false or false"));
}

#[test]
fn two_kernels_are_named_and_stand_alone() {
    let condition = Condition::parse(r#"differs("5.10", "7.x")"#).unwrap();
    assert_eq!(condition.differing_kernels(), Some(["5.10", "7.x"]));
    let error = Condition::parse(r#"drops and differs("5.10", "7.x")"#).unwrap_err().to_string();
    assert!(error.contains("stands alone"), "{error}");
    assert!(Condition::parse("differs(5.10)").unwrap_err().to_string().contains("names of two kernels"));
}

#[test]
fn a_mistake_is_shown_where_it_is() {
    for (text, place, message) in [
        (r#"drop["x"] > 0"#, "^^^^", "unknown name `drop`, did you mean `drops`?"),
        ("tcp.retransmision > 0", "    ^^^^^^^^^^^^^", "did you mean `retransmissions`?"),
        (r#"flows[prot == "tcp"]"#, "      ^^^^", "did you mean `proto`?"),
        ("drops > ", "        ^", "missing at the end"),
        ("drops >> 1", "       ^", "`>` cannot stand here"),
        ("drops = 1", "      ^", "equality is `==`"),
        (r#"drops["x"#, "      ^^", "has no end"),
        ("drops 1", "      ^", "should have ended here"),
        ("drops[0", "       ^", "`]` is missing"),
        ("http.status == 200", "     ^^^^^^", "each row of the list has a `status` of its own"),
        (r#"ledger.offered == "ten""#, "                  ^^^^^", "never equal"),
        (r#"tcp.connections[0].state > 3"#, "^^^^^^^^^^^^^^^^^^^^^^^^", "is not a number"),
        ("and drops", "^^^", "the first is missing"),
        ("drops & http", "      ^", "has no meaning"),
        ("", "^", "missing at the end"),
        ("drops[1.5]", "      ^^^", "a whole number"),
        ("ledger.offered[0]", "               ^", "only lists have positions"),
    ] {
        let error = Condition::parse(text).expect_err(text).to_string();
        let [first, shown, under] = error.lines().collect::<Vec<_>>()[..] else { panic!("{error}") };
        assert!(first.contains(message), "{error}");
        assert_eq!(shown.trim_start(), text.trim_end_matches('\n').trim_start(), "{error}");
        assert_eq!(&under[2..], place, "{error}");
    }
    assert!(Condition::parse(&"(".repeat(4000)).unwrap_err().to_string().contains("nested more than"));
    // As deep as a text of that length can be.
    assert!(Condition::parse(&("not ".repeat(1000) + "drops")).unwrap().holds(&document()));
    assert!(
        Condition::parse(&"drops or ".repeat(500)).unwrap_err().to_string().contains("4500 bytes; the most are 4096")
    );
}

#[test]
fn names_that_an_empty_observation_does_not_show_are_known() {
    let empty = serde_json::to_value(Observation::default()).unwrap();
    for text in ["tcp.kernel_sockets", "latency.stages", "http[0].pipelined", "flows[fragments > 0]", "objects[0].maps"]
    {
        assert!(!Condition::parse(text).unwrap_or_else(|error| panic!("{error}")).holds(&empty), "{text}");
    }
}
