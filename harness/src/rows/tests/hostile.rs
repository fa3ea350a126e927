//! Damaged and malicious types: an error or a value, never a panic, never minutes or gigabytes.

use super::super::{Decoder, Encoder, PlanError};
use super::*;

fn refusal(t: &Types, id: u32) -> String {
    Decoder::new(&t.btf(), id).unwrap_err().to_string()
}

#[test]
fn types_that_hold_themselves_end() {
    let mut t = Types::new(false);
    t.add("ping", TYPEDEF, 2, &[]);
    t.add("pong", TYPEDEF, 1, &[]);
    let own = t.structure("own", 8, &[("me", 3, 0)]);
    let anonymous = t.structure("anonymous", 8, &[("", 4, 0), ("", 4, 0)]);
    let row = t.add("", ARRAY, 0, &[5, 1, 2]);
    assert!(refusal(&t, 1).contains("no complete type"));
    assert!(refusal(&t, own).contains("endlessly"));
    assert!(refusal(&t, anonymous).contains("endlessly"));
    assert!(refusal(&t, row).contains("endlessly"));
    assert!(refusal(&t, 99).contains("no complete type 99"));
}

#[test]
fn doubling_types_are_refused_before_they_explode() {
    let mut t = Types::new(false);
    let mut last = t.int("unsigned int", 4, 0);
    // A union of two unions of two ...: 2^30 members in 4 bytes.
    for _ in 0..30 {
        last = t.union("u", 4, &[("a", last, 0), ("b", last, 0)]);
    }
    assert!(matches!(Decoder::new(&t.btf(), last), Err(PlanError::TooBig { .. })));
    // Arrays of arrays that multiply to 2^64 elements, and one of 2^32 elements without bytes.
    let byte = t.int("unsigned short", 2, 0);
    let many = t.array(byte, u32::MAX);
    let more = t.array(many, u32::MAX);
    assert!(refusal(&t, more).contains("values"));
    let empty = t.structure("empty", 0, &[]);
    let nothing = t.array(empty, u32::MAX);
    assert_eq!(Decoder::new(&t.btf(), nothing).unwrap().decode(&[]), serde_json::json!([]));
    let char_ = t.int("char", 1, 1 << 24);
    let long = t.array(char_, u32::MAX);
    assert!(refusal(&t, long).contains("bytes, more than"));
}

#[test]
fn members_beyond_their_struct_are_refused() {
    let mut t = Types::new(false);
    let u32_ = t.int("unsigned int", 4, 0);
    let past = t.structure("past", 4, &[("a", u32_, 0), ("b", u32_, 32)]);
    let across = t.structure("across", 6, &[("a", u32_, 24)]);
    let odd = t.structure("odd", 8, &[("a", u32_, 3)]);
    let bits = t.bitfields("bits", 4, &[("a", u32_, 8 << 24 | 30)]);
    let wide = t.bitfields("wide", 16, &[("a", u32_, 200 << 24)]);
    let huge = t.add("huge", INT, 77, &[8]);
    assert_eq!(refusal(&t, past), "cannot decode value.b: BTF puts it beyond the 4 bytes of what holds it");
    assert!(refusal(&t, across).contains("beyond"));
    // An integer that does not begin at a byte is a bitfield of all its bits, which fits here.
    assert!(Decoder::new(&t.btf(), odd).is_ok());
    assert!(refusal(&t, bits).contains("beyond"));
    assert!(refusal(&t, wide).contains("a bitfield of"));
    assert!(refusal(&t, huge).contains("integer of 77 bytes"));
}

#[test]
fn damaged_blobs_never_panic() {
    let (whole, id) = blob();
    let bytes = [0xa5; 4096];
    for at in 24..whole.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut blob = whole.clone();
            blob[at] = value;
            let Ok(btf) = Btf::parse(&blob) else { continue };
            for id in [id, id - 2] {
                if let Ok(decoder) = Decoder::new(&btf, id) {
                    let decoded = decoder.decode(&bytes[..decoder.size().min(bytes.len())]);
                    let encoder = Encoder::new(&btf, id, "map m", "value").unwrap();
                    let _ = encoder.encode(&decoded);
                }
            }
        }
    }
}

/// A blob with something of each kind, and the number of its outermost struct.
fn blob() -> (Vec<u8>, u32) {
    let mut t = Types::new(false);
    let u32_ = t.int("unsigned int", 4, 0);
    let u8_ = t.int("unsigned char", 1, 0);
    let list = t.array(u8_, 6);
    let be = t.named("__be32", u32_);
    let choice = t.enumeration("choice", 4, false, &[("A", 0), ("B", 1)]);
    let inner = t.bitfields("inner", 8, &[("x", u32_, 3 << 24), ("y", u32_, 29 << 24 | 3), ("z", be, 32)]);
    let both = t.union("", 8, &[("i", inner, 0), ("c", choice, 0)]);
    let outer = t.structure("outer", 16, &[("", both, 0), ("mac", list, 64), ("last", u8_, 120)]);
    (t.blob.build(), outer)
}
