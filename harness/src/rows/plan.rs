//! Types of BTF compiled to plans: what lies where, and how it is read and written.
//!
//! A plan is a tree that refers to no BTF any more. It is made once per map and used for every element, by
//! [`super::Decoder`] and [`super::Encoder`] alike, so that both agree on every type. All bounds are settled here: a plan
//! never reaches beyond its [`Plan::size`], and has at most [`MAX_VALUES`] values.

use std::sync::Arc;

use serde_json::{Map, Value};

/// Values that one element may decode to; a type with more is refused.
pub const MAX_VALUES: u64 = 1 << 22;

/// A compiled type.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What it is.
    pub(super) shape: Shape,
    /// Its bytes.
    pub(super) size: usize,
    /// Whether its integers are big-endian.
    pub(super) big: bool,
    /// Whether it was made from types, which a plan of bytes alone does not show.
    pub(super) from_types: bool,
}

impl Plan {
    /// Bytes without a type, shown as they are.
    #[must_use]
    pub fn bytes(size: usize) -> Self {
        Self::of(Shape::Hex { len: size }, false)
    }

    /// A number of this machine's byte order, of 1, 2, 4 or 8 bytes; bytes for any other size.
    #[must_use]
    pub fn number(size: usize) -> Self {
        let big = cfg!(target_endian = "big");
        match size {
            1 | 2 | 4 | 8 => Self::of(Shape::Int { size, signed: false, big }, true),
            _ => Self::bytes(size),
        }
    }

    /// Bytes that it describes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// A shape in this machine's byte order.
    pub(super) fn of(shape: Shape, from_types: bool) -> Self {
        let size = shape.size();
        Self { shape, size, big: cfg!(target_endian = "big"), from_types }
    }

    /// Whether it says more than how many bytes there are.
    #[must_use]
    pub fn is_typed(&self) -> bool {
        self.from_types || self.size == 0 || !matches!(self.shape, Shape::Hex { .. })
    }
}

/// How the bytes of a value are to be read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    /// An integer of 1, 2, 4, 8 or 16 bytes.
    Int { size: usize, signed: bool, big: bool },
    /// A truth value of 1, 2, 4 or 8 bytes.
    Bool { size: usize, big: bool },
    /// A number with names.
    Enum { size: usize, big: bool, names: Arc<Names> },
    /// Some bits of a struct, see [`Bits`].
    Bits(Bits),
    /// A floating point number of 4 or 8 bytes.
    Float { size: usize, big: bool },
    /// A number that is read in hexadecimal: an address in memory.
    HexInt { size: usize, big: bool },
    /// Characters up to the first NUL byte.
    Text { len: usize },
    /// Bytes.
    Hex { len: usize },
    /// An Ethernet address.
    Mac,
    /// An IPv4 address as it stands in a packet.
    Ipv4,
    /// An IPv6 address as it stands in a packet.
    Ipv6,
    /// 16 bytes that hold an IPv6 address, or an IPv4 address in the first four or in the last four (`::ffff:0:0/96`).
    AnyIp,
    /// The key of a longest-prefix match: a length of 4 bytes, then an address of 4 or 16.
    Prefix { address: usize, big: bool, names: Box<[String; 2]> },
    /// Elements of one type.
    Array { element: Box<Shape>, len: usize, stride: usize },
    /// Members, in order; those of anonymous structs and unions among them.
    Struct(Box<Struct>),
}

/// A struct or union.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Struct {
    /// Its members.
    pub members: Vec<Member>,
    /// Its bytes.
    pub size: usize,
    /// The decoded form with nothing in it: copying it is cheaper than hashing each name anew.
    pub template: Map<String, Value>,
}

impl Struct {
    pub fn new(members: Vec<Member>, size: usize) -> Self {
        let visible = members.iter().filter(|member| !member.hidden);
        let template = visible.map(|member| (member.name.clone(), Value::Null)).collect();
        Self { members, size, template }
    }
}

/// A member of a struct or union.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member {
    /// Its name, unique in its struct.
    pub name: String,
    /// Where it starts, in bytes from the start of the struct. For [`Shape::Bits`] the bytes that hold the bits start
    /// there.
    pub offset: usize,
    /// What it is.
    pub shape: Shape,
    /// Whether rows leave it out.
    pub hidden: bool,
}

/// A bitfield.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bits {
    /// First bit, from the least significant one in little-endian bytes and from the most significant one in
    /// big-endian bytes, as BTF counts; 0 to 7.
    pub first: u32,
    /// Width in bits, 1 to 64.
    pub bits: u32,
    /// Whether the number is in two's complement.
    pub signed: bool,
    /// Whether it is a truth value.
    pub truth: bool,
    /// Byte order.
    pub big: bool,
    /// Names of its values.
    pub names: Option<Arc<Names>>,
}

impl Bits {
    /// Bytes that hold any of its bits.
    pub fn bytes(&self) -> usize {
        (self.first + self.bits).div_ceil(8) as usize
    }

    /// How far the bits are from the least significant one of the number that [`Bits::bytes`] form.
    pub fn shift(&self) -> u32 {
        if self.big { self.bytes() as u32 * 8 - self.first - self.bits } else { self.first }
    }

    /// Ones for each of its bits, not shifted.
    pub fn mask(&self) -> u64 {
        u64::MAX >> (64 - self.bits)
    }
}

/// The values of an enum.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Names {
    /// By value; the first of several names of one value comes first.
    by_value: Vec<(i64, String)>,
    /// Whether values are signed.
    pub signed: bool,
}

impl Names {
    pub fn new(mut by_value: Vec<(i64, String)>, signed: bool) -> Self {
        by_value.sort_by_key(|(value, _)| *value);
        Self { by_value, signed }
    }

    /// The name of a value.
    pub fn name(&self, value: i64) -> Option<&str> {
        let at = self.by_value.partition_point(|(known, _)| *known < value);
        self.by_value.get(at).filter(|(known, _)| *known == value).map(|(_, name)| name.as_str())
    }

    /// The value of a name.
    pub fn value(&self, name: &str) -> Option<i64> {
        self.by_value.iter().find(|(_, known)| known == name).map(|(value, _)| *value)
    }

    /// All names.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.by_value.iter().map(|(_, name)| name.as_str())
    }
}

impl Shape {
    /// Bytes that it takes; for a bitfield those that hold any of its bits.
    pub fn size(&self) -> usize {
        match self {
            Self::Int { size, .. }
            | Self::Bool { size, .. }
            | Self::Enum { size, .. }
            | Self::Float { size, .. }
            | Self::HexInt { size, .. } => *size,
            Self::Struct(composite) => composite.size,
            Self::Bits(bits) => bits.bytes(),
            Self::Text { len } | Self::Hex { len } => *len,
            Self::Mac => 6,
            Self::Ipv4 => 4,
            Self::Ipv6 | Self::AnyIp => 16,
            Self::Prefix { address, .. } => 4 + address,
            Self::Array { len, stride, .. } => len.saturating_mul(*stride),
        }
    }

    /// Values that it decodes to.
    pub fn values(&self) -> u64 {
        match self {
            Self::Array { element, len, .. } => (*len as u64).saturating_mul(element.values()).saturating_add(1),
            Self::Struct(composite) => {
                composite.members.iter().fold(1, |sum, member| sum.saturating_add(member.shape.values()))
            }
            _ => 1,
        }
    }

    /// What stands for it in messages.
    pub fn describe(&self) -> String {
        match self {
            Self::Int { size, signed: false, .. } => format!("unsigned integer of {size} bytes"),
            Self::Int { size, .. } => format!("signed integer of {size} bytes"),
            Self::Bool { .. } => "true or false".to_owned(),
            Self::Enum { size, .. } => format!("enum value or integer of {size} bytes"),
            Self::Bits(bits) => format!("integer of {} bits", bits.bits),
            Self::Float { .. } => "number".to_owned(),
            Self::HexInt { size, .. } => format!("number of {size} bytes like \"0x1f\""),
            Self::Text { len } => format!("text of up to {len} bytes"),
            Self::Hex { len } => format!("{len} bytes like \"0x{}\"", "00".repeat((*len).min(4))),
            Self::Mac => "Ethernet address like \"02:00:00:00:00:01\"".to_owned(),
            Self::Ipv4 => "IPv4 address like \"10.0.0.1\"".to_owned(),
            Self::Ipv6 => "IPv6 address like \"2001:db8::1\"".to_owned(),
            Self::AnyIp => "IPv4 or IPv6 address".to_owned(),
            Self::Prefix { address: 4, .. } => "prefix like \"10.0.0.0/8\"".to_owned(),
            Self::Prefix { .. } => "prefix like \"2001:db8::/32\"".to_owned(),
            Self::Array { len, .. } => format!("array of {len}"),
            Self::Struct(_) => "table of members".to_owned(),
        }
    }
}
