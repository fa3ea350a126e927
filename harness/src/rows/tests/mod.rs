//! Hand-made types in both byte orders, real maps, real objects.

mod arranging;
mod definitions;
mod events;
mod hostile;
mod maps;
mod objects;
mod types;
mod writing;

use crate::kernel::btf::Btf;
use crate::kernel::btf::blob::{Blob, ENUM, INT, SIGNED};

const PTR: u32 = 2 << 24;
const ARRAY: u32 = 3 << 24;
const TYPEDEF: u32 = 8 << 24;
const CONST: u32 = 10 << 24;
const VAR: u32 = 14 << 24;
const DATASEC: u32 = 15 << 24;
const FLOAT: u32 = 16 << 24;
const ENUM64: u32 = 19 << 24;
const BOOL: u32 = 4 << 24;

/// Builds types one by one; each method returns the new type's number.
struct Types {
    blob: Blob,
    count: u32,
}

impl Types {
    fn new(big: bool) -> Self {
        Self { blob: Blob::new(big), count: 0 }
    }

    /// In this machine's byte order, for the kernel.
    fn native() -> Self {
        Self::new(cfg!(target_endian = "big"))
    }

    fn add(&mut self, name: &str, info: u32, size_or_type: u32, extra: &[u32]) -> u32 {
        self.blob.record(name, info, size_or_type, extra);
        self.count += 1;
        self.count
    }

    /// `encoding` is 0, `1 << 24` (signed) or [`BOOL`].
    fn int(&mut self, name: &str, size: u32, encoding: u32) -> u32 {
        self.add(name, INT, size, &[encoding | (size * 8)])
    }

    fn array(&mut self, element: u32, len: u32) -> u32 {
        // The index type is read by nobody here, but the kernel wants an integer.
        self.add("", ARRAY, 0, &[element, 1, len])
    }

    fn named(&mut self, name: &str, ty: u32) -> u32 {
        self.add(name, TYPEDEF, ty, &[])
    }

    /// Members by name, type and bit offset.
    fn structure(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        self.blob.composite(4, name, size, false, members);
        self.count += 1;
        self.count
    }

    /// With `kind_flag`: offsets carry bitfield widths in their upper 8 bits.
    fn bitfields(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        self.blob.composite(4, name, size, true, members);
        self.count += 1;
        self.count
    }

    fn union(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        self.blob.composite(5, name, size, false, members);
        self.count += 1;
        self.count
    }

    fn enumeration(&mut self, name: &str, size: u32, signed: bool, values: &[(&str, u32)]) -> u32 {
        let extra: Vec<u32> = values.iter().flat_map(|(name, value)| [self.blob.name(name), *value]).collect();
        let flag = if signed { SIGNED } else { 0 };
        self.add(name, flag | ENUM | values.len() as u32, size, &extra)
    }

    fn btf(&self) -> Btf {
        Btf::parse(&self.blob.build()).unwrap()
    }
}

/// The types of one struct with a member of everything, and the struct's number: 96 bytes, every bit of which belongs to
/// some member.
fn everything(big: bool) -> (Btf, u32) {
    let mut t = Types::new(big);
    let u32_ = t.int("unsigned int", 4, 0);
    let i32_ = t.int("int", 4, 1 << 24);
    let u16_ = t.int("unsigned short", 2, 0);
    let u8_ = t.int("unsigned char", 1, 0);
    let u64_ = t.int("unsigned long long", 8, 0);
    let be32 = t.named("__be32", u32_);
    let be16 = t.named("__be16", u16_);
    let mac = t.array(u8_, 6);
    let bytes = t.array(u8_, 3);
    let grid_row = t.array(u16_, 2);
    let grid = t.array(grid_row, 2);
    let proto = t.enumeration("proto", 4, true, &[("P_NONE", 0), ("P_TCP", 6), ("P_NEG", u32::MAX)]);
    let wide = {
        let extra = [t.blob.name("W_SMALL"), 1, 0, t.blob.name("W_BIG"), 0x9abc_def0, 0x1234_5678];
        t.add("wide", ENUM64 | 2, 8, &extra)
    };
    let halves = t.structure("", 4, &[("low", u16_, 0), ("high", u16_, 16)]);
    let word = t.union("", 4, &[("word", u32_, 0), ("", halves, 0)]);
    let pointer = t.add("", PTR, u64_, &[]);
    let addr = t.structure("in_addr", 4, &[("s_addr", be32, 0)]);
    let qualified = t.add("", CONST, addr, &[]);
    let bool_ = t.int("_Bool", 1, BOOL);
    let double = t.add("double", FLOAT, 8, &[]);
    let flags = t.bitfields(
        "flags",
        8,
        // 3 and 5 bits, 7 signed ones, 40 that begin within a byte, 9 more.
        &[
            ("f1", u32_, 3 << 24),
            ("f2", u32_, 5 << 24 | 3),
            ("f3", i32_, 7 << 24 | 8),
            ("f4", u64_, 40 << 24 | 15),
            ("f5", u32_, 9 << 24 | 55),
        ],
    );
    let all = t.structure(
        "everything",
        96,
        &[
            ("packets", u64_, 0),
            ("", word, 64),
            ("proto", proto, 96),
            ("saddr", be32, 128),
            ("mark", be32, 160),
            ("port", be16, 192),
            ("mac", mac, 208),
            ("bytes", bytes, 256),
            ("flag", bool_, 280),
            ("neg", i32_, 288),
            ("grid", grid, 320),
            ("flags", flags, 384),
            ("w", wide, 448),
            ("d", double, 512),
            ("p", pointer, 576),
            ("to", qualified, 640),
            ("last", u32_, 672),
            ("pad", u64_, 704),
        ],
    );
    (t.btf(), all)
}
