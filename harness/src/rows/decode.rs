//! Bytes to values, by a [`Plan`].

use serde_json::{Number, Value};

use super::compile::{PlanError, compile};
use super::hints::Formats;
use super::plan::{Bits, Plan, Shape, Struct};
use super::text;
use crate::kernel::btf::Btf;

/// Where bytes that follow a typed value go (see [`Decoder::decode_prefix`]); no member can have that name.
pub const REST: &str = "(rest)";

/// Reads values of one type.
///
/// Integers are exact numbers, 128-bit ones above 64 bits hexadecimal text; enum values are names (or numbers, where no
/// name fits); addresses, text and bytes are text. Members of anonymous structs and unions stand among those of the
/// struct around them, and of unions all members are shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoder {
    plan: Plan,
}

impl Decoder {
    /// Compiles type `id`.
    ///
    /// # Errors
    /// [`PlanError`] for a type that has no value, or that is damaged or too big to be shown.
    pub fn new(btf: &Btf, id: u32) -> Result<Self, PlanError> {
        compile(btf, id, "value", &Formats::default()).map(Self::from)
    }

    /// The same, with formats for some of its members; `root` is how their paths name the whole (`key`, `value`,
    /// `event`).
    ///
    /// # Errors
    /// As [`Decoder::new`], and [`PlanError::Format`].
    pub fn with_formats(btf: &Btf, id: u32, root: &str, formats: &Formats) -> Result<Self, PlanError> {
        compile(btf, id, root, formats).map(Self::from)
    }

    /// Bytes of a value.
    #[must_use]
    pub fn size(&self) -> usize {
        self.plan.size()
    }

    /// The plan behind it.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The value that `bytes` begin with; too few bytes are shown as they are (`"0x..."`).
    #[must_use]
    pub fn decode(&self, bytes: &[u8]) -> Value {
        match bytes.get(..self.plan.size) {
            Some(bytes) => value(&self.plan.shape, bytes),
            None => Value::String(text::hex(bytes)),
        }
    }

    /// As [`Decoder::decode`], and what follows the value as bytes: in a struct as the member [`REST`], else beside it
    /// in a list. Up to `padding` bytes behind the value are not shown.
    #[must_use]
    pub fn decode_prefix(&self, bytes: &[u8], padding: usize) -> Value {
        let mut decoded = self.decode(bytes);
        let rest = bytes.get(self.plan.size..).unwrap_or_default();
        if rest.len() <= padding {
            return decoded;
        }
        let rest = Value::String(text::hex(rest));
        if let Value::Object(members) = &mut decoded {
            members.insert(REST.to_owned(), rest);
            return decoded;
        }
        Value::Array(vec![decoded, rest])
    }
}

impl From<Plan> for Decoder {
    fn from(plan: Plan) -> Self {
        Self { plan }
    }
}

/// The number that up to 16 bytes form.
pub(super) fn load(bytes: &[u8], big: bool) -> u128 {
    let step = |number: u128, byte: &u8| number << 8 | u128::from(*byte);
    if big { bytes.iter().fold(0, step) } else { bytes.iter().rev().fold(0, step) }
}

/// The same for up to 8 bytes, which is most of all that is decoded.
fn load_u64(bytes: &[u8], big: bool) -> u64 {
    let array = |bytes: &[u8]| -> Option<u64> {
        Some(match bytes.len() {
            1 => u64::from(bytes[0]),
            2 => u64::from(u16::from_le_bytes(bytes.try_into().ok()?)),
            4 => u64::from(u32::from_le_bytes(bytes.try_into().ok()?)),
            8 => u64::from_le_bytes(bytes.try_into().ok()?),
            _ => return None,
        })
    };
    match array(bytes) {
        Some(number) if big => number.swap_bytes() >> (64 - 8 * bytes.len()),
        Some(number) => number,
        None => load(bytes, big) as u64,
    }
}

/// Copies the sign bit, of a number of `bits` bits, upwards.
fn extend(number: u64, bits: u32) -> i64 {
    let unused = 64 - bits;
    (number << unused).cast_signed() >> unused
}

/// The value in `bytes`, which has exactly the shape's size.
fn value(shape: &Shape, bytes: &[u8]) -> Value {
    match shape {
        Shape::Int { size: 16, signed, big } => wide(load(bytes, *big), *signed),
        Shape::Int { signed: false, big, .. } => load_u64(bytes, *big).into(),
        Shape::Int { size, big, .. } => extend(load_u64(bytes, *big), *size as u32 * 8).into(),
        Shape::Bool { big, .. } => truth(load_u64(bytes, *big)),
        Shape::Enum { size, big, names } => named(names, load_u64(bytes, *big), *size as u32 * 8),
        Shape::Bits(bits) => bitfield(bits, bytes),
        Shape::Float { size, big } => float(load_u64(bytes, *big), *size),
        Shape::HexInt { big, .. } => Value::String(format!("{:#x}", load(bytes, *big))),
        Shape::Text { .. } => Value::String(match text::printable(bytes) {
            Some(text) => text.to_owned(),
            None => text::hex(bytes),
        }),
        Shape::Hex { .. } => Value::String(text::hex(bytes)),
        Shape::Mac => Value::String(text::mac(bytes)),
        Shape::Ipv4 | Shape::Ipv6 => Value::String(text::ip(bytes)),
        Shape::AnyIp => Value::String(text::any_ip(bytes)),
        Shape::Prefix { address, big, names } => prefix(*address, *big, names, bytes),
        Shape::Array { element, len, stride } => {
            let mut list = Vec::with_capacity(*len);
            // No element is empty: an array of such has no length.
            list.extend(bytes.chunks_exact((*stride).max(1)).map(|bytes| value(element, bytes)));
            Value::Array(list)
        }
        Shape::Struct(composite) => members(composite, bytes),
    }
}

fn members(composite: &Struct, bytes: &[u8]) -> Value {
    let mut map = composite.template.clone();
    let visible = composite.members.iter().filter(|member| !member.hidden);
    for (slot, member) in map.values_mut().zip(visible) {
        // The compiler has checked that every member lies within its struct.
        if let Some(bytes) = bytes.get(member.offset..member.offset + member.shape.size()) {
            *slot = value(&member.shape, bytes);
        }
    }
    Value::Object(map)
}

fn truth(number: u64) -> Value {
    match number {
        0 => Value::Bool(false),
        1 => Value::Bool(true),
        other => other.into(),
    }
}

fn named(names: &super::plan::Names, number: u64, bits: u32) -> Value {
    let signed = extend(number, bits);
    // As the reader of BTF has values: those of 64 bits wrap, smaller unsigned ones are positive.
    let key = if names.signed { signed } else { number.cast_signed() };
    match names.name(key) {
        Some(name) => Value::String(name.to_owned()),
        None if names.signed => signed.into(),
        None => number.into(),
    }
}

fn bitfield(bits: &Bits, bytes: &[u8]) -> Value {
    let number = (load(bytes, bits.big) >> bits.shift()) as u64 & bits.mask();
    if let Some(names) = &bits.names {
        return named(names, number, bits.bits);
    }
    if bits.truth {
        return truth(number);
    }
    if bits.signed { extend(number, bits.bits).into() } else { number.into() }
}

/// JSON has no number for what is none, and text is clearer than `null`.
fn float(raw: u64, size: usize) -> Value {
    let number = if size == 4 {
        let single = f32::from_bits(raw as u32);
        // The shortest text that is this number: 0.1 rather than 0.10000000149011612.
        single.to_string().parse().unwrap_or_else(|_| f64::from(single))
    } else {
        f64::from_bits(raw)
    };
    match Number::from_f64(number) {
        Some(number) => Value::Number(number),
        None if number.is_nan() => Value::String(format!("nan({raw:#x})")),
        None => Value::String(if number > 0.0 { "inf" } else { "-inf" }.to_owned()),
    }
}

fn wide(number: u128, signed: bool) -> Value {
    if signed && let Ok(number) = i64::try_from(number.cast_signed()) {
        return number.into();
    }
    match u64::try_from(number) {
        Ok(number) => number.into(),
        Err(_) => Value::String(format!("{number:#x}")),
    }
}

/// A prefix; a length that no address has is shown in numbers.
fn prefix(address: usize, big: bool, names: &[String; 2], bytes: &[u8]) -> Value {
    let (len, data) = bytes.split_at(4);
    let len = load_u64(len, big);
    if len <= address as u64 * 8 {
        return Value::String(format!("{}/{len}", text::ip(data)));
    }
    let mut map = serde_json::Map::new();
    map.insert(names[0].clone(), len.into());
    map.insert(names[1].clone(), Value::String(text::ip(data)));
    Value::Object(map)
}
