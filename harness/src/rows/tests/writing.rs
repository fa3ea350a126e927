//! Values to bytes, and back.

use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};
use serde_json::{Value, json};

use super::super::{Decoder, Encoder, Format, Hints, encode};
use super::*;

fn refused(value: Value) -> String {
    let (btf, id) = everything(false);
    encode(&btf, id, "map blocked", &value).unwrap_err().to_string()
}

#[test]
fn what_was_decoded_is_encoded_to_the_same_bytes() {
    // Every bit of the type belongs to a member, so random bytes come back as they were; two thousand of them reach all
    // enum values, truth values and numbers that are none by their first bytes.
    for big in [false, true] {
        let (btf, id) = everything(big);
        let (decoder, encoder) = (Decoder::new(&btf, id).unwrap(), Encoder::new(&btf, id, "map m", "value").unwrap());
        let mut random = SmallRng::seed_from_u64(7);
        let mut bytes = [0; 96];
        for round in 0..2000 {
            random.fill_bytes(&mut bytes);
            if round % 2 == 0 {
                // Small numbers, and infinities.
                for byte in &mut bytes {
                    *byte = if *byte < 128 { 0 } else { *byte % 8 };
                }
                bytes[64..72].copy_from_slice(&[0xff; 8]);
            }
            let decoded = decoder.decode(&bytes);
            let encoded = encoder.encode(&decoded).unwrap_or_else(|error| panic!("{error}: {decoded}"));
            assert_eq!(encoded, bytes, "{decoded}");
        }
    }
}

#[test]
fn values_are_taken_as_people_write_them() {
    let (btf, id) = everything(false);
    let value = json!({
        "packets": "0x10",
        "proto": 6,
        "saddr": "10.0.0.1",
        "mark": 256,
        "port": "8_080",
        "mac": "02-00-00-00-00-07",
        "bytes": [1, 2, 3],
        "flags": { "f3": -64, "f1": 7 },
        "w": "W_SMALL",
        "d": 1,
    });
    let bytes = encode(&btf, id, "map m", &value).unwrap();
    let decoded = Decoder::new(&btf, id).unwrap().decode(&bytes);
    assert_eq!(decoded["packets"], 16);
    assert_eq!(decoded["proto"], "P_TCP");
    assert_eq!(&bytes[16..26], [10, 0, 0, 1, 0, 0, 1, 0, 0x1f, 0x90], "network order");
    assert_eq!((&decoded["mac"], &decoded["bytes"]), (&json!("02:00:00:00:00:07"), &json!("0x010203")));
    assert_eq!(decoded["flags"], json!({ "f1": 7, "f2": 0, "f3": -64, "f4": 0, "f5": 0 }));
    // What is not given is zero.
    assert_eq!((&decoded["neg"], &decoded["to"]), (&json!(0), &json!("0.0.0.0")));
}

#[test]
fn errors_name_map_member_what_was_expected_and_found() {
    assert_eq!(
        refused(json!({ "port": 65_536 })),
        "cannot write value.port of map blocked: expected unsigned integer of 2 bytes (0 to 65535), found number 65536"
    );
    assert_eq!(
        refused(json!({ "last": "10.0.0.1" })),
        "cannot write value.last of map blocked: expected unsigned integer of 4 bytes (format \"ipv4\" would make it an \
         address in network order), found text \"10.0.0.1\""
    );
    assert_eq!(
        refused(json!({ "portt": 1 })),
        "cannot write value of map blocked: there is no member portt; did you mean port?"
    );
    assert_eq!(
        refused(json!({ "proto": "P_TPC" })),
        "cannot write value.proto of map blocked: expected enum value or integer of 4 bytes such as \"P_TCP\", found text \
         \"P_TPC\""
    );
    for (value, path) in [
        (json!({ "flags": { "f1": 8 } }), "value.flags.f1"),
        (json!({ "flags": { "f3": 64 } }), "value.flags.f3"),
        (json!({ "grid": [[1, 2], [3, "x"]] }), "value.grid[1][1]"),
        (json!({ "grid": [[1, 2]] }), "value.grid"),
        (json!({ "mac": "02:00:00:00:00" }), "value.mac"),
        (json!({ "saddr": "10.0.0.256" }), "value.saddr"),
        (json!({ "bytes": "0x0102" }), "value.bytes"),
        (json!({ "packets": -1 }), "value.packets"),
        (json!({ "packets": 1.5 }), "value.packets"),
        (json!({ "flag": "yes" }), "value.flag"),
        (json!({ "neg": null }), "value.neg"),
        (json!([1, 2]), "value"),
        // `low` and `word` share two bytes and want 1 and 2 in them.
        (json!({ "word": 1, "low": 2 }), "value.low"),
    ] {
        let said = refused(value);
        assert!(said.starts_with(&format!("cannot write {path} of map blocked: ")), "{said}");
    }
}

#[test]
fn prefixes_and_formats_are_written_too() {
    let mut t = Types::new(false);
    let u32_ = t.int("unsigned int", 4, 0);
    let u8_ = t.int("unsigned char", 1, 0);
    let (four, sixteen) = (t.array(u8_, 4), t.array(u8_, 16));
    let v4 = t.structure("v4", 8, &[("prefixlen", u32_, 0), ("data", four, 32)]);
    let v6 = t.structure("v6", 20, &[("prefixlen", u32_, 0), ("addr", sixteen, 32)]);
    let host = t.structure("host", 8, &[("addr", u32_, 0), ("mark", u32_, 32)]);
    let btf = t.btf();
    let write = |id, value| encode(&btf, id, "map m", &value);
    assert_eq!(write(v4, json!("10.0.0.0/8")).unwrap(), [8, 0, 0, 0, 10, 0, 0, 0]);
    assert_eq!(write(v4, json!("10.0.0.1")).unwrap(), [32, 0, 0, 0, 10, 0, 0, 1]);
    assert_eq!(write(v4, json!({ "prefixlen": 8, "data": "10.0.0.0" })).unwrap(), [8, 0, 0, 0, 10, 0, 0, 0]);
    assert_eq!(write(v6, json!("2001:db8::/32")).unwrap()[..8], [32, 0, 0, 0, 0x20, 1, 0x0d, 0xb8]);
    let refused = write(v4, json!("10.0.0.0/33")).unwrap_err().to_string();
    assert_eq!(refused, "cannot write value of map m: expected prefix like \"10.0.0.0/8\", found text \"10.0.0.0/33\"");
    let hints = Hints { format: [("key.addr".to_owned(), Format::Ipv4)].into(), ..Hints::default() };
    let encoder = Encoder::with_formats(&btf, host, "map m", "key", &hints.formats()).unwrap();
    assert_eq!(encoder.encode(&json!({ "addr": "10.0.0.1", "mark": 1 })).unwrap(), [10, 0, 0, 1, 1, 0, 0, 0]);
}
