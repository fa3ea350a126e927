//! Hand-made blobs, damaged blobs, and the running kernel.

use super::blob::{Blob, ENUM, INT, SIGNED};
use super::*;

/// Types 1 `unsigned int`, 2 `u64` (a typedef of it, the width does not matter here), 3 an anonymous union of `a` and
/// `b`, 4 an anonymous struct that holds the union at byte 4, 5 `struct outer` with the struct at byte 8, 6 a pointer
/// to it, 7 `reason`, 8 a prototype with three parameters, 9 a pointer to it, 10 its typedef, 11 a function.
fn sample(big: bool) -> Vec<u8> {
    let mut blob = Blob::new(big);
    blob.record("unsigned int", INT, 4, &[32]).record("u64", 8 << 24, 1, &[]);
    blob.composite(5, "", 4, false, &[("a", 1, 0), ("b", 2, 0)]);
    blob.composite(4, "", 8, false, &[("head", 1, 0), ("", 3, 32)]);
    // kind_flag: `flags` is 3 bits wide at bit 5 of the struct.
    blob.composite(
        4,
        "outer",
        24,
        true,
        &[("flags", 1, 3 << 24 | 5), ("", 4, 64), ("named", 4, 128), ("next", 6, 192)],
    );
    blob.record("", 2 << 24, 5, &[]);
    let values: Vec<u32> = [("NONE", 0), ("ONE", 1), ("UNO", 1), ("MINUS", u32::MAX)]
        .iter()
        .flat_map(|(n, v)| [blob.name(n), *v])
        .collect();
    blob.record("reason", SIGNED | ENUM | 4, 4, &values);
    blob.record("", 13 << 24 | 3, 0, &[0, 0, 0, 6, 0, 1]);
    blob.record("", 2 << 24, 8, &[]).record("btf_trace_event", 8 << 24, 9, &[]).record("work", 12 << 24, 8, &[]);
    blob.build()
}

#[test]
fn finds_members_enums_and_signatures_in_both_byte_orders() {
    for big in [false, true] {
        let btf = Btf::parse(&sample(big)).unwrap();
        assert_eq!(btf.len(), 11);
        // outer's anonymous struct at 8, its anonymous union at 4 in it.
        assert_eq!(btf.offset("outer.b").unwrap(), 12);
        assert_eq!(btf.offset("outer.named.a").unwrap(), 20);
        assert_eq!(btf.offset("outer.next").unwrap(), 24);
        assert_eq!(btf.size_of("outer").unwrap(), 24);
        assert_eq!(btf.size_of("outer.b").unwrap(), 4);
        assert_eq!(btf.size_of("outer.next").unwrap(), 8);
        let field = btf.field("outer.flags").unwrap();
        assert_eq!((field.bit_offset, field.bits), (5, 3));
        // The first of two names of one value, and a negative value because the enum is signed.
        let names: Vec<_> = btf.enum_names("reason").unwrap().into_iter().collect();
        assert_eq!(names, [(-1, "MINUS".to_owned()), (0, "NONE".to_owned()), (1, "ONE".to_owned())]);
        assert_eq!(btf.tracepoint_args("event"), Some(2));
        assert_eq!(btf.tracepoint_args("work"), None);
        assert!(btf.has_function("work") && !btf.has_function("outer"));
    }
}

#[test]
fn says_what_is_missing() {
    let btf = Btf::parse(&sample(false)).unwrap();
    let said = |path: &str| btf.offset(path).unwrap_err().to_string();
    assert_eq!(said("inner.a"), "BTF has no type inner");
    assert_eq!(said("outer"), "BTF has no member  in outer (looking for outer)");
    assert_eq!(said("outer.named.c"), "BTF has no member c in outer.named (looking for outer.named.c)");
    assert_eq!(said("outer.next.flags"), "BTF has no member flags in outer.next (looking for outer.next.flags)");
    assert_eq!(said("outer.flags"), "outer.flags is a bitfield and has no byte offset");
    assert!(btf.has_field("outer.flags") && !btf.has_field("outer.flag"));
    assert!(btf.enum_names("outer").is_none() && btf.tracepoint_args("nothing").is_none());
    let missing = Btf::from_file(Path::new("/nonexistent/btf")).unwrap_err();
    assert!(missing.to_string().contains("CONFIG_DEBUG_INFO_BTF=y"), "{missing}");
}

#[test]
fn old_bitfields_are_integers_narrower_than_their_size() {
    let mut blob = Blob::new(false);
    blob.record("bit", INT, 4, &[1]).composite(4, "s", 4, false, &[("one", 1, 0)]);
    let btf = Btf::parse(&blob.build()).unwrap();
    assert!(matches!(btf.offset("s.one"), Err(BtfError::Bitfield(_))));
}

#[test]
fn skips_a_newer_kind_whose_layout_is_given() {
    let mut blob = Blob::new(false);
    // Kind 20 with two elements of 4 bytes after one word; then a type that must still be found.
    blob.record("", 20 << 24 | 2, 0, &[1, 2, 3]).record("found", 16 << 24, 8, &[]);
    let mut layout = vec![0; 20 * 4];
    layout.extend([4, 4, 0, 0]);
    let btf = Btf::parse(&blob.build_with(32, &layout)).unwrap();
    assert_eq!((btf.len(), btf.size_of("found").unwrap()), (2, 8));
    let without = Btf::parse(&blob.build()).unwrap_err();
    assert_eq!(without.to_string(), "cannot read BTF: unknown kind of type at byte 24");
}

#[test]
fn endless_references_end() {
    let mut blob = Blob::new(false);
    // 1 and 2 are typedefs of each other, 3 holds itself twice without a name, 4 is an array of itself.
    blob.record("ping", 8 << 24, 2, &[]).record("pong", 8 << 24, 1, &[]);
    blob.composite(4, "self", 8, false, &[("", 3, 0), ("", 3, 32), ("x", 1, 0)]);
    blob.record("row", 3 << 24, 0, &[4, 1, 2]);
    let btf = Btf::parse(&blob.build()).unwrap();
    assert!(btf.offset("ping.x").is_err());
    assert!(matches!(btf.size_of("row"), Err(BtfError::Broken(_))));
    assert!(matches!(btf.size_of("ping"), Err(BtfError::Broken(_))));
    assert!(btf.offset("self.y").is_err());
}

#[test]
fn damaged_blobs_are_refused_or_read_but_never_panic() {
    let whole = sample(false);
    for len in 0..whole.len() {
        assert!(Btf::parse(&whole[..len]).is_err(), "cut at {len}");
    }
    // Every byte in turn set to values that make lengths, kinds and references absurd.
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut blob = whole.clone();
            blob[at] = value;
            if let Ok(btf) = Btf::parse(&blob) {
                let _ = (btf.offset("outer.named.a"), btf.size_of("outer.next"), btf.enum_names("reason"));
                let _ = (btf.tracepoint_args("event"), btf.has_function("work"));
                for id in 0..=btf.len() as u32 + 1 {
                    let _ = (btf.ty(id), btf.size(id));
                }
            }
        }
    }
}

#[test]
fn reads_the_running_kernel() {
    let btf = Btf::kernel().unwrap();
    assert!(std::ptr::eq(btf, Btf::kernel().unwrap()), "parsed once");
    assert!(btf.has_field("sk_buff.len"));
    // Plausible ranges around what kernels 5.10 to 7.3 have.
    for (path, range) in [
        ("sk_buff.head", 150..260),
        ("sk_buff.network_header", 150..260),
        ("sk_buff.transport_header", 150..260),
        ("sk_buff.dev", 8..64),
        ("sk_buff.sk", 8..64),
        ("sock.__sk_common.skc_daddr", 0..1),
        ("sock.__sk_common.skc_rcv_saddr", 4..5),
        ("sock.__sk_common.skc_net.net", 32..128),
        ("net.ns.inum", 64..512),
        ("net_device.ifindex", 100..512),
        ("net_device.nd_net.net", 100..2048),
        ("tcp_sock.srtt_us", 1000..3000),
    ] {
        let offset = btf.offset(path).unwrap();
        assert!(range.contains(&offset), "{path} at {offset}");
    }
    assert_eq!(btf.size_of("sock.__sk_common.skc_daddr").unwrap(), 4);
    assert!(matches!(btf.offset("sk_buff.pkt_type"), Err(BtfError::Bitfield(_))));
    if let Some(reasons) = btf.enum_names("skb_drop_reason") {
        assert!(reasons.values().any(|name| name == "SKB_DROP_REASON_NO_SOCKET"));
        assert!(btf.tracepoint_args("kfree_skb") >= Some(3));
    }
    assert!(btf.has_function("ip_rcv") && !btf.has_function("sk_buff"));
}
