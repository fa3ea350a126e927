//! Type records: their sizes, for finding the next one, and their contents.

use super::{Btf, MAX_TYPES};

/// Bytes of `struct btf_type`, which starts every record.
const TYPE: usize = 12;

/// Kinds of type (`BTF_KIND_*`).
mod kind {
    pub const INT: u32 = 1;
    pub const PTR: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FWD: u32 = 7;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const FLOAT: u32 = 16;
    pub const DECL_TAG: u32 = 17;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

/// How an integer is to be read (`BTF_INT_ENCODING`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntKind {
    /// Unsigned.
    Unsigned,
    /// Two's complement.
    Signed,
    /// A character.
    Char,
    /// A truth value.
    Bool,
}

/// What a type is, without what follows its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An integer of `bits` bits.
    Int {
        /// How to read it.
        kind: IntKind,
        /// Width in bits, which may be less than its size.
        bits: u8,
    },
    /// A pointer to that type.
    Ptr(u32),
    /// An array of `len` elements.
    Array {
        /// Type of an element.
        element: u32,
        /// Number of elements.
        len: u32,
    },
    /// A struct; see [`Btf::members`].
    Struct,
    /// A union; see [`Btf::members`].
    Union,
    /// An enum of up to 4 bytes, or of 8; see [`Btf::values`].
    Enum {
        /// Whether its values are signed.
        signed: bool,
    },
    /// A struct, union or enum that is declared only.
    Forward,
    /// A typedef of that type.
    Typedef(u32),
    /// A type behind `const`, `volatile`, `restrict` or a type tag.
    Qualified(u32),
    /// A function with that prototype.
    Function(u32),
    /// A prototype; see [`Btf::params`].
    Prototype,
    /// A variable of that type.
    Variable(u32),
    /// A section of variables.
    Section,
    /// A floating point number.
    Float,
    /// A kind that this reader does not know, or a tag of a declaration.
    Other,
}

/// A type's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type {
    /// Its identifier.
    pub id: u32,
    /// Offset of its name in the string section, see [`Btf::string`].
    pub name: u32,
    /// What it is.
    pub kind: Kind,
    /// Size in bytes of integers, floats, structs, unions, enums and sections; 0 for all others, see
    /// [`Btf::size`].
    pub size: u32,
    /// Number of members, values or parameters.
    vlen: u32,
    /// Offset of what follows the record.
    extra: usize,
    /// `kind_flag`: member offsets carry bitfield sizes, enum values are signed.
    flag: bool,
    /// Whether values are 64-bit wide (`BTF_KIND_ENUM64`).
    wide: bool,
}

/// A member of a struct or union.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Offset of its name in the string section; the name of an anonymous member is empty.
    pub name: u32,
    /// Its type.
    pub ty: u32,
    /// Offset in bits from the start of the struct.
    pub bit_offset: u32,
    /// Width in bits of a bitfield, 0 for any other member.
    pub bits: u32,
}

/// A variable's place in a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionVariable {
    /// The variable (of [`Kind::Variable`]).
    pub variable: u32,
    /// Offset in bytes from the start of the section; 0 for all in an object file, where the symbol table has it and
    /// the loader fills it in.
    pub offset: u32,
    /// Its size in bytes.
    pub size: u32,
}

/// The 32-bit word at `offset`, in the blob's byte order.
pub(super) fn word(bytes: &[u8], offset: usize, big: bool) -> Option<u32> {
    let word: [u8; 4] = bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?;
    Some(if big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) })
}

/// `vlen` of `btf_type.info`: 24 bits since Linux 7.2, 16 before, when the other eight were always 0.
fn vlen(info: u32) -> u32 {
    info & 0x00ff_ffff
}

/// Kind of `btf_type.info`: 7 bits since Linux 7.2, 5 before, when the other two were always 0.
fn kind_of(info: u32) -> u32 {
    (info >> 24) & 0x7f
}

/// What follows a record of that kind: bytes once, and bytes per element.
fn extra(kind: u32, layout: &[u8]) -> Option<(usize, usize)> {
    Some(match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => (4, 0),
        kind::ARRAY => (12, 0),
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => (0, 12),
        kind::ENUM | kind::FUNC_PROTO => (0, 8),
        kind::PTR
        | kind::FWD
        | kind::TYPEDEF
        | kind::VOLATILE
        | kind::CONST
        | kind::RESTRICT
        | kind::FUNC
        | kind::FLOAT
        | kind::TYPE_TAG => (0, 0),
        // A kind newer than this reader: `struct btf_layout` (info_sz, elem_sz, flags: 4 bytes) says how long it is.
        newer => match layout.get(newer as usize * 4..)? {
            [info, element, ..] if newer > kind::ENUM64 => (usize::from(*info), usize::from(*element)),
            _ => return None,
        },
    })
}

/// Offsets of all records; else what is wrong and where.
pub(super) fn records(types: &[u8], layout: &[u8], big: bool) -> Result<Vec<u32>, (&'static str, usize)> {
    // A record and what follows it take 24 bytes on average.
    let mut records = Vec::with_capacity(types.len() / 24);
    let mut at = 0;
    while at < types.len() {
        let info = word(types, at + 4, big).ok_or(("type cut off", at))?;
        let (once, each) = extra(kind_of(info), layout).ok_or(("unknown kind of type", at))?;
        let len = TYPE + once + each * vlen(info) as usize;
        if len > types.len() - at {
            return Err(("type cut off", at));
        }
        if records.len() == MAX_TYPES {
            return Err(("too many types", at));
        }
        records.push(u32::try_from(at).map_err(|_| ("type section too long", at))?);
        at += len;
    }
    Ok(records)
}

impl Btf {
    /// The record of type `id`; nothing for 0 (`void`) and for an identifier that the blob does not have.
    #[must_use]
    pub fn ty(&self, id: u32) -> Option<Type> {
        let record = *self.records.get((id as usize).checked_sub(1)?)? as usize;
        let word = |offset: usize| self.word(record + offset);
        let (name, info, size_or_type) = (word(0)?, word(4)?, word(8)?);
        let flag = info >> 31 != 0;
        let kind = match kind_of(info) {
            kind::INT => int(word(TYPE)?),
            kind::PTR => Kind::Ptr(size_or_type),
            kind::ARRAY => Kind::Array { element: word(TYPE)?, len: word(TYPE + 8)? },
            kind::STRUCT => Kind::Struct,
            kind::UNION => Kind::Union,
            kind::ENUM | kind::ENUM64 => Kind::Enum { signed: flag },
            kind::FWD => Kind::Forward,
            kind::TYPEDEF => Kind::Typedef(size_or_type),
            kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => Kind::Qualified(size_or_type),
            kind::FUNC => Kind::Function(size_or_type),
            kind::FUNC_PROTO => Kind::Prototype,
            kind::VAR => Kind::Variable(size_or_type),
            kind::DATASEC => Kind::Section,
            kind::FLOAT => Kind::Float,
            _ => Kind::Other,
        };
        let sized = matches!(
            kind,
            Kind::Int { .. } | Kind::Struct | Kind::Union | Kind::Enum { .. } | Kind::Section | Kind::Float
        );
        Some(Type {
            id,
            name,
            kind,
            size: if sized { size_or_type } else { 0 },
            vlen: vlen(info),
            extra: record + TYPE,
            flag,
            wide: kind_of(info) == kind::ENUM64,
        })
    }

    fn word(&self, offset: usize) -> Option<u32> {
        word(&self.types, offset, self.big)
    }

    /// The members of a struct or union, in order; none for any other type.
    pub fn members(&self, ty: Type) -> impl Iterator<Item = Member> + '_ {
        let count = if matches!(ty.kind, Kind::Struct | Kind::Union) { ty.vlen as usize } else { 0 };
        (0..count).map_while(move |index| {
            let at = ty.extra + index * 12;
            let (name, member, offset) = (self.word(at)?, self.word(at + 4)?, self.word(at + 8)?);
            let (bit_offset, bits) = if ty.flag { (offset & 0x00ff_ffff, offset >> 24) } else { (offset, 0) };
            Some(Member { name, ty: member, bit_offset, bits })
        })
    }

    /// Names (offsets of strings) and values of an enum, in order; none for any other type. A value of an unsigned
    /// 64-bit enum above `i64::MAX` wraps.
    pub fn values(&self, ty: Type) -> impl Iterator<Item = (u32, i64)> + '_ {
        let count = if matches!(ty.kind, Kind::Enum { .. }) { ty.vlen as usize } else { 0 };
        let stride = if ty.wide { 12 } else { 8 };
        (0..count).map_while(move |index| {
            let at = ty.extra + index * stride;
            let low = self.word(at + 4)?;
            let value = if ty.wide {
                (u64::from(self.word(at + 8)?) << 32 | u64::from(low)).cast_signed()
            } else if ty.flag {
                i64::from(low.cast_signed())
            } else {
                i64::from(low)
            };
            Some((self.word(at)?, value))
        })
    }

    /// The variables of a section, in order; none for any other type.
    pub fn variables(&self, ty: Type) -> impl Iterator<Item = SectionVariable> + '_ {
        let count = if ty.kind == Kind::Section { ty.vlen as usize } else { 0 };
        (0..count).map_while(move |index| {
            let at = ty.extra + index * 12;
            let (variable, offset, size) = (self.word(at)?, self.word(at + 4)?, self.word(at + 8)?);
            Some(SectionVariable { variable, offset, size })
        })
    }

    /// Names (offsets of strings) and types of a prototype's parameters; none for any other type.
    pub fn params(&self, ty: Type) -> impl Iterator<Item = (u32, u32)> + '_ {
        let count = if ty.kind == Kind::Prototype { ty.vlen as usize } else { 0 };
        (0..count).map_while(move |index| {
            let at = ty.extra + index * 8;
            Some((self.word(at)?, self.word(at + 4)?))
        })
    }
}

/// An integer, from the word that follows its record: encoding, offset (never used) and width, a byte each.
fn int(word: u32) -> Kind {
    let kind = match word >> 24 {
        1 => IntKind::Signed,
        2 => IntKind::Char,
        4 => IntKind::Bool,
        _ => IntKind::Unsigned,
    };
    Kind::Int { kind, bits: (word & 0xff) as u8 }
}
