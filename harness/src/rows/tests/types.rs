//! What every kind of type decodes to.

use serde_json::{Value, json};

use super::super::{Decoder, Format, Hints, PlanError};
use super::*;

/// `number` in `size` bytes of that order.
fn put(bytes: &mut [u8], at: usize, size: usize, big: bool, number: u64) {
    let all = if big { number.to_be_bytes() } else { number.to_le_bytes() };
    bytes[at..at + size].copy_from_slice(if big { &all[8 - size..] } else { &all[..size] });
}

/// The bytes of [`everything`] with a known value in each member.
fn sample(big: bool) -> Vec<u8> {
    let mut bytes = vec![0; 96];
    // Beyond 2^53, where a floating point number would round.
    put(&mut bytes, 0, 8, big, (1 << 53) + 1);
    put(&mut bytes, 8, 2, big, 0x1122);
    put(&mut bytes, 10, 2, big, 0x3344);
    put(&mut bytes, 12, 4, big, u64::from(u32::MAX));
    bytes[16..20].copy_from_slice(&[10, 0, 0, 1]);
    bytes[20..24].copy_from_slice(&[0, 0, 1, 0]);
    bytes[24..26].copy_from_slice(&[0x1f, 0x90]);
    bytes[26..32].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
    bytes[32..35].copy_from_slice(&[0xde, 0xad, 1]);
    bytes[35] = 1;
    put(&mut bytes, 36, 4, big, u64::from((-5_i32).cast_unsigned()));
    for (index, number) in [1, 2, 3, 4].into_iter().enumerate() {
        put(&mut bytes, 40 + 2 * index, 2, big, number);
    }
    // f1 = 5, f2 = 17, f3 = -3, f4 = 0x123456789a, f5 = 300: from the least significant bit upwards in little-endian
    // bytes, from the most significant one downwards in big-endian bytes.
    let fields: [(u32, u64); 5] = [(3, 5), (5, 17), (7, 0x7d), (40, 0x12_3456_789a), (9, 300)];
    let (mut word, mut used) = (0_u64, 0);
    for (bits, value) in fields {
        word |= value << if big { 64 - used - bits } else { used };
        used += bits;
    }
    put(&mut bytes, 48, 8, big, word);
    put(&mut bytes, 56, 8, big, 0x1234_5678_9abc_def0);
    put(&mut bytes, 64, 8, big, 2.5_f64.to_bits());
    put(&mut bytes, 72, 8, big, 0xffff_8880_0000_0000);
    bytes[80..84].copy_from_slice(&[192, 0, 2, 1]);
    put(&mut bytes, 84, 4, big, u64::from(u32::MAX));
    put(&mut bytes, 88, 8, big, u64::MAX);
    bytes
}

#[test]
fn every_kind_of_member_is_read_in_both_byte_orders() {
    for big in [false, true] {
        let (btf, id) = everything(big);
        let decoder = Decoder::new(&btf, id).unwrap();
        // The word holds the halves: the first is its lower part in little-endian bytes only.
        let word = if big { 0x1122_3344 } else { 0x3344_1122 };
        let expected = json!({
            "packets": 9_007_199_254_740_993_u64,
            "word": word, "low": 0x1122, "high": 0x3344,
            "proto": "P_NEG",
            "saddr": "10.0.0.1",
            // No address by its name: a number, whose bytes are in network order.
            "mark": 256,
            "port": 8080,
            "mac": "02:00:00:00:00:07",
            "bytes": "0xdead01",
            "flag": true,
            "neg": -5,
            "grid": [[1, 2], [3, 4]],
            "flags": { "f1": 5, "f2": 17, "f3": -3, "f4": 0x12_3456_789a_u64, "f5": 300 },
            "w": "W_BIG",
            "d": 2.5,
            "p": "0xffff888000000000",
            "to": "192.0.2.1",
            "last": u32::MAX,
            "pad": u64::MAX,
        });
        assert_eq!(decoder.decode(&sample(big)), expected, "big-endian: {big}");
        assert_eq!(decoder.size(), 96);
        // Fewer bytes than the type has are shown as they are, more behind it as a member of their own.
        assert_eq!(decoder.decode(&[1, 2]), json!("0x0102"));
        let longer = [sample(big), vec![7, 8]].concat();
        assert_eq!(decoder.decode_prefix(&longer, 0)["(rest)"], "0x0708");
        assert!(decoder.decode_prefix(&longer, 2).get("(rest)").is_none());
    }
}

#[test]
fn unknown_enum_values_stay_numbers_and_text_ends_at_nul() {
    let mut t = Types::new(false);
    let char_ = t.int("char", 1, 1 << 24);
    let text = t.array(char_, 8);
    let small = t.enumeration("small", 1, true, &[("A", 1), ("MINUS", u32::MAX)]);
    let plain = t.enumeration("plain", 4, false, &[("TOP", u32::MAX)]);
    let signed_chars = t.int("signed char", 1, 1 << 24);
    let list = t.array(signed_chars, 2);
    let btf = t.btf();
    let read = |id: u32, bytes: &[u8]| Decoder::new(&btf, id).unwrap().decode(bytes);
    assert_eq!(read(small, &[0xff]), "MINUS");
    assert_eq!(read(small, &[2]), 2);
    assert_eq!(read(small, &[0xfe]), -2);
    assert_eq!(read(plain, &[0xff; 4]), "TOP");
    assert_eq!(read(plain, &[0xfe, 0xff, 0xff, 0xff]), 0xffff_fffe_u32);
    assert_eq!(read(text, b"eth0\0xyz"), "eth0");
    assert_eq!(read(text, b"12345678"), "12345678");
    assert_eq!(read(text, b"\x01\x02\0\0\0\0\0\0"), "0x0102000000000000");
    assert_eq!(read(text, &[0; 8]), "");
    assert_eq!(read(list, &[0xff, 1]), json!([-1, 1]));
}

#[test]
fn bitfields_of_the_older_encoding_are_narrow_integers() {
    for big in [false, true] {
        let mut t = Types::new(big);
        let three = t.add("three", INT, 4, &[3]);
        let five = t.add("five", INT, 4, &[1 << 24 | 5]);
        let old = t.structure("old", 4, &[("a", three, 0), ("b", five, 3)]);
        let btf = t.btf();
        // a = 6, b = -2 (0b11110).
        let byte = if big { 0b1101_1110 } else { 0b1111_0110 };
        let decoder = Decoder::new(&btf, old).unwrap();
        assert_eq!(decoder.decode(&[byte, 0, 0, 0]), json!({ "a": 6, "b": -2 }));
    }
}

#[test]
fn rust_types_are_read_like_those_of_c() {
    let mut t = Types::new(false);
    let u32_ = t.int("u32", 4, 0);
    let u8_ = t.int("u8", 1, 0);
    let unit = t.add("()", INT, 0, &[0]);
    let four = t.array(u8_, 4);
    let sixteen = t.array(u8_, 16);
    let v4 = t.structure("Ipv4Addr", 4, &[("octets", four, 0)]);
    let v6 = t.structure("Ipv6Addr", 16, &[("octets", sixteen, 0)]);
    let port = t.structure("Port", 4, &[("__0", u32_, 0)]);
    let dropped = t.structure("ManuallyDrop_3C_u32_3E_", 4, &[("value", port, 0)]);
    let maybe = t.union("MaybeUninit_3C_u32_3E_", 4, &[("uninit", unit, 0), ("value", dropped, 0)]);
    let global = t.structure("Global_3C_u32_3E_", 4, &[("value", maybe, 0)]);
    let lpm = t.structure("Key_3C_u32_3E_", 8, &[("prefix_len", u32_, 0), ("data", four, 32)]);
    let all = t.structure(
        "all",
        40,
        &[
            ("src", v4, 0),
            ("dst", v6, 32),
            ("port", port, 160),
            ("global", global, 192),
            ("route", lpm, 224),
            ("ip", four, 288),
        ],
    );
    let btf = t.btf();
    let mut bytes = vec![10, 0, 0, 1];
    bytes.extend(std::net::Ipv6Addr::LOCALHOST.octets());
    bytes.extend([80, 0, 0, 0, 7, 0, 0, 0, 24, 0, 0, 0, 192, 0, 2, 0, 127, 0, 0, 1]);
    let expected = json!({
        "src": "10.0.0.1", "dst": "::1", "port": 80, "global": 7, "route": "192.0.2.0/24", "ip": "127.0.0.1"
    });
    assert_eq!(Decoder::new(&btf, all).unwrap().decode(&bytes), expected);
    // 33 bits are no prefix of an IPv4 address.
    let odd = Decoder::new(&btf, lpm).unwrap().decode(&[33, 0, 0, 0, 1, 2, 3, 4]);
    assert_eq!(odd, json!({ "prefix_len": 33, "data": "1.2.3.4" }));
}

/// What `format` makes of member `path` of [`everything`].
fn formatted(path: &str, format: Format) -> Result<Value, PlanError> {
    let (btf, id) = everything(false);
    let hints = Hints { format: [(path.to_owned(), format)].into(), ..Hints::default() };
    let decoded = Decoder::with_formats(&btf, id, "value", &hints.formats())?.decode(&sample(false));
    let name = path.rsplit('.').next().unwrap_or_default();
    Ok(decoded.get(name).cloned().unwrap_or(Value::Null))
}

#[test]
fn formats_read_the_bytes_and_not_the_number() {
    let said = |path: &str, format| formatted(path, format).unwrap();
    assert_eq!(said("value.neg", Format::Ipv4), "251.255.255.255");
    assert_eq!(said("value.mark", Format::Ipv4), "0.0.1.0");
    assert_eq!(said("value.saddr", Format::Number), 0x0a00_0001);
    assert_eq!(said("value.saddr", Format::Hex), "0x0a000001");
    assert_eq!(said("value.packets", Format::Hex), "0x20000000000001");
    assert_eq!(said("value.proto", Format::Number), -1);
    assert_eq!(said("value.bytes", Format::List), json!([0xde, 0xad, 1]));
    assert_eq!(said("value.low", Format::Be16), 0x2211);
    assert_eq!(said("value.flag", Format::Number), 1);
    assert_eq!(said("value.pad", Format::Drop), Value::Null);
    // By element, where the whole has another size.
    assert_eq!(said("value.grid", Format::Be16), json!([[256, 512], [768, 1024]]));
    let refused = formatted("value.packets", Format::Ipv4).unwrap_err().to_string();
    assert_eq!(refused, "cannot format value.packets as ipv4: it has 8 bytes");
    let (btf, id) = everything(false);
    let hints = Hints { format: [("value.flags.*".to_owned(), Format::Mac)].into(), ..Hints::default() };
    assert!(Decoder::with_formats(&btf, id, "value", &hints.formats()).is_err(), "a bitfield is no address");
}
