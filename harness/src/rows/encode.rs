//! Values to bytes, by a [`Plan`]: the inverse of [`super::Decoder`].

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Map, Value};

use super::compile::{PlanError, compile};
use super::hints::Formats;
use super::plan::{Bits, Member, Names, Plan, Shape, Struct};
use super::text;
use crate::kernel::btf::Btf;
use crate::scenario::hint::closest;

/// Why a value cannot be written as a type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// It is not what the type takes.
    #[error("cannot write {path} of {what}: expected {expected}, found {found}")]
    Value {
        /// What is written: `map blocked`.
        what: String,
        /// Path of the member: `key.saddr`.
        path: String,
        /// What the type takes.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A struct has no such member.
    #[error("cannot write {path} of {what}: there is no member {member}{hint}")]
    Unknown {
        /// What is written.
        what: String,
        /// Path of the struct.
        path: String,
        /// The member.
        member: String,
        /// The nearest one that there is, or all.
        hint: String,
    },
    /// Two members of a union want different bytes.
    #[error("cannot write {path} of {what}: it shares bytes with another member that was given, and differs from it")]
    Conflict {
        /// What is written.
        what: String,
        /// Path of the second member.
        path: String,
    },
    /// The type itself cannot be used.
    #[error("cannot write {what}")]
    Type {
        /// What is written.
        what: String,
        /// Why.
        #[source]
        source: PlanError,
    },
}

/// Writes `value` as type `id`; `what` (`map blocked`, `global limit`) is how errors name the whole.
///
/// # Errors
/// [`EncodeError`].
pub fn encode(btf: &Btf, id: u32, what: &str, value: &Value) -> Result<Vec<u8>, EncodeError> {
    Encoder::new(btf, id, what, "value")?.encode(value)
}

/// Writes values of one type.
///
/// Numbers may be text in any base (`"0x1f"`) and are checked for their range; enum values are names or numbers;
/// addresses, prefixes and bytes are text as [`super::Decoder`] shows them; numbers in network order are given as
/// numbers. Members that are not given are zero.
#[derive(Clone, Debug)]
pub struct Encoder {
    plan: Plan,
    what: String,
    root: String,
}

impl Encoder {
    /// Compiles type `id`. Errors name what is written as `what`, and paths in it begin with `root` (`key`, `value`).
    ///
    /// # Errors
    /// [`EncodeError::Type`].
    pub fn new(btf: &Btf, id: u32, what: &str, root: &str) -> Result<Self, EncodeError> {
        Self::with_formats(btf, id, what, root, &Formats::default())
    }

    /// The same with formats: a `__u32` of format `ipv4` takes `"10.0.0.1"`.
    ///
    /// # Errors
    /// [`EncodeError::Type`].
    pub fn with_formats(btf: &Btf, id: u32, what: &str, root: &str, formats: &Formats) -> Result<Self, EncodeError> {
        let compiled = compile(btf, id, root, formats);
        let plan = compiled.map_err(|source| EncodeError::Type { what: what.to_owned(), source })?;
        Ok(Self::from_plan(plan, what, root))
    }

    /// Writes by a plan that there already is.
    #[must_use]
    pub fn from_plan(plan: Plan, what: &str, root: &str) -> Self {
        Self { plan, what: what.to_owned(), root: root.to_owned() }
    }

    /// Bytes of a value.
    #[must_use]
    pub fn size(&self) -> usize {
        self.plan.size()
    }

    /// The bytes of `value`.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn encode(&self, value: &Value) -> Result<Vec<u8>, EncodeError> {
        self.encode_over(vec![0; self.plan.size], value)
    }

    /// Writes `value` over bytes that there already are: members that are not given stay.
    ///
    /// # Errors
    /// [`EncodeError`]; bytes of another size than the type's are one.
    pub fn encode_over(&self, bytes: Vec<u8>, value: &Value) -> Result<Vec<u8>, EncodeError> {
        let mut writer = Writer { given: vec![0; bytes.len()], bytes, what: &self.what };
        if writer.bytes.len() != self.plan.size {
            let found = format!("{} bytes", writer.bytes.len());
            return Err(writer.wrong(&self.root, format!("{} bytes", self.plan.size), found));
        }
        writer.shape(&self.plan.shape, 0, &self.root, value)?;
        Ok(writer.bytes)
    }
}

/// Bytes under way.
struct Writer<'a> {
    bytes: Vec<u8>,
    /// Ones for the bits that were given, to notice members of a union that disagree.
    given: Vec<u8>,
    what: &'a str,
}

/// A given value in a message, cut short.
fn shown(value: &Value) -> String {
    let kind = match value {
        Value::Null => return "nothing".to_owned(),
        Value::Bool(_) => "",
        Value::Number(_) => "number ",
        Value::String(_) => "text ",
        Value::Array(list) => return format!("list of {}", list.len()),
        Value::Object(_) => "table ",
    };
    let text = value.to_string();
    let cut: String = text.chars().take(60).collect();
    format!("{kind}{cut}{}", if cut.len() < text.len() { "..." } else { "" })
}

/// The integer that a number or text stands for.
fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Number(number) => number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)),
        Value::String(text) => text::parse_number(text),
        _ => None,
    }
}

impl Writer<'_> {
    fn wrong(&self, path: &str, expected: String, found: String) -> EncodeError {
        EncodeError::Value { what: self.what.to_owned(), path: path.to_owned(), expected, found }
    }

    fn put(&mut self, at: usize, new: &[u8], path: &str) -> Result<(), EncodeError> {
        let mask = vec![0xff; new.len()];
        self.put_bits(at, new, &mask, path)
    }

    /// Writes the bits of `new` that `mask` has. All ranges lie within the plan's size, by the compiler.
    fn put_bits(&mut self, at: usize, new: &[u8], mask: &[u8], path: &str) -> Result<(), EncodeError> {
        let targets = self.bytes.iter_mut().zip(&mut self.given).skip(at);
        for ((old, given), (new, mask)) in targets.zip(new.iter().zip(mask)) {
            if (*old ^ new) & *given & mask != 0 {
                return Err(EncodeError::Conflict { what: self.what.to_owned(), path: path.to_owned() });
            }
            *old = *old & !mask | new & mask;
            *given |= mask;
        }
        Ok(())
    }

    /// Writes the low bytes of a number.
    fn number(&mut self, at: usize, size: usize, big: bool, number: u128, path: &str) -> Result<(), EncodeError> {
        let (big_bytes, little_bytes) = (number.to_be_bytes(), number.to_le_bytes());
        self.put(at, if big { &big_bytes[16 - size..] } else { &little_bytes[..size] }, path)
    }

    fn shape(&mut self, shape: &Shape, at: usize, path: &str, value: &Value) -> Result<(), EncodeError> {
        let number = |writer: &Self| writer.ranged(shape, path, value);
        match shape {
            Shape::Int { size, big, .. } | Shape::Bool { size, big } | Shape::HexInt { size, big } => {
                let number = number(self)?;
                self.number(at, *size, *big, number, path)
            }
            Shape::Enum { size, big, names } => {
                let number = self.named(shape, names, path, value)?;
                self.number(at, *size, *big, number, path)
            }
            Shape::Bits(bits) => self.bits(shape, bits, at, path, value),
            Shape::Float { size, big } => {
                let raw = float(*size, value).ok_or_else(|| self.wrong(path, shape.describe(), shown(value)))?;
                self.number(at, *size, *big, u128::from(raw), path)
            }
            Shape::Prefix { address, big, names } => {
                if let Value::Object(members) = value {
                    return self.prefix_members(*address, *big, names, at, path, members);
                }
                let (len, data) =
                    prefix(*address, value).ok_or_else(|| self.wrong(path, shape.describe(), shown(value)))?;
                self.number(at, 4, *big, u128::from(len), path)?;
                self.put(at + 4, &data, path)
            }
            Shape::Array { element, len, stride } => self.array(shape, element, *len, *stride, at, path, value),
            Shape::Struct(composite) => self.composite(composite, at, path, value),
            Shape::Text { .. } | Shape::Hex { .. } | Shape::Mac | Shape::Ipv4 | Shape::Ipv6 | Shape::AnyIp => {
                let bytes = bytes(shape, value).ok_or_else(|| self.wrong(path, shape.describe(), shown(value)))?;
                self.put(at, &bytes, path)
            }
        }
    }

    /// A number that the shape has room for, in two's complement.
    fn ranged(&self, shape: &Shape, path: &str, value: &Value) -> Result<u128, EncodeError> {
        let (bits, signed) = match shape {
            Shape::Int { size, signed, .. } => (*size as u32 * 8, *signed),
            Shape::Bits(bits) => (bits.bits, bits.signed || bits.names.as_ref().is_some_and(|names| names.signed)),
            Shape::Enum { size, names, .. } => (*size as u32 * 8, names.signed),
            other => (other.size() as u32 * 8, false),
        };
        let truth = matches!(shape, Shape::Bool { .. }) || matches!(shape, Shape::Bits(bits) if bits.truth);
        if let Value::Bool(value) = value
            && truth
        {
            return Ok(u128::from(*value));
        }
        // Beyond `i128`, only in hexadecimal.
        if let Value::String(text) = value
            && bits == 128
            && let Some(digits) = text.strip_prefix("0x")
            && digits.len() <= 32
            && let Ok(number) = u128::from_str_radix(digits, 16)
        {
            return Ok(number);
        }
        let Some(number) = integer(value) else {
            let mut expected = shape.describe();
            if matches!(value, Value::String(text) if text.parse::<Ipv4Addr>().is_ok()) && bits == 32 {
                expected += " (format \"ipv4\" would make it an address in network order)";
            }
            return Err(self.wrong(path, expected, shown(value)));
        };
        // Compilers before clang 16 do not say whether an enum is signed: either is taken.
        let named = matches!(shape, Shape::Enum { .. }) || matches!(shape, Shape::Bits(bits) if bits.names.is_some());
        let (min, max) = match (signed, bits) {
            (false, 1..=64) if named => (-(1_i128 << (bits - 1)), (1_i128 << bits) - 1),
            (true, 128) => (i128::MIN, i128::MAX),
            (true, _) => (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1),
            (false, 127..) => (0, i128::MAX),
            (false, _) => (0, (1_i128 << bits) - 1),
        };
        if number < min || number > max {
            let expected = format!("{} ({min} to {max})", shape.describe());
            return Err(self.wrong(path, expected, shown(value)));
        }
        Ok(number.cast_unsigned())
    }

    /// The number of an enum value by name, or by number.
    fn named(&self, shape: &Shape, names: &Names, path: &str, value: &Value) -> Result<u128, EncodeError> {
        let Value::String(name) = value else { return self.ranged(shape, path, value) };
        if let Some(number) = names.value(name) {
            return Ok(i128::from(number).cast_unsigned());
        }
        if integer(value).is_some() {
            return self.ranged(shape, path, value);
        }
        let near = closest(name, names.all()).map_or_else(String::new, |near| format!(" such as \"{near}\""));
        Err(self.wrong(path, format!("{}{near}", shape.describe()), shown(value)))
    }

    fn bits(&mut self, shape: &Shape, bits: &Bits, at: usize, path: &str, value: &Value) -> Result<(), EncodeError> {
        let number = match &bits.names {
            Some(names) => self.named(shape, names, path, value)?,
            None => self.ranged(shape, path, value)?,
        };
        let mask = u128::from(bits.mask());
        let (number, mask) = ((number & mask) << bits.shift(), mask << bits.shift());
        let size = bits.bytes();
        if bits.big {
            self.put_bits(at, &number.to_be_bytes()[16 - size..], &mask.to_be_bytes()[16 - size..], path)
        } else {
            self.put_bits(at, &number.to_le_bytes()[..size], &mask.to_le_bytes()[..size], path)
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one variant")]
    fn array(
        &mut self,
        shape: &Shape,
        element: &Shape,
        len: usize,
        stride: usize,
        at: usize,
        path: &str,
        value: &Value,
    ) -> Result<(), EncodeError> {
        match value {
            Value::Array(list) if list.len() == len => {
                let mut each = list.iter().enumerate();
                each.try_for_each(|(index, value)| {
                    self.shape(element, at + index * stride, &format!("{path}[{index}]"), value)
                })
            }
            _ => Err(self.wrong(path, format!("{} ({})", shape.describe(), element.describe()), shown(value))),
        }
    }

    fn composite(&mut self, composite: &Struct, at: usize, path: &str, value: &Value) -> Result<(), EncodeError> {
        let Value::Object(members) = value else {
            let names = composite.members.iter().map(|member| member.name.as_str());
            let expected = format!("table with {}", names.collect::<Vec<_>>().join(", "));
            return Err(self.wrong(path, expected, shown(value)));
        };
        for (name, value) in members {
            let member = self.member(&composite.members, name, path)?;
            self.shape(&member.shape, at + member.offset, &format!("{path}.{name}"), value)?;
        }
        Ok(())
    }

    fn member<'m>(&self, members: &'m [Member], name: &str, path: &str) -> Result<&'m Member, EncodeError> {
        members.iter().find(|member| member.name == name).ok_or_else(|| {
            let names = || members.iter().map(|member| member.name.as_str());
            let hint = match closest(name, names()) {
                Some(near) => format!("; did you mean {near}?"),
                None => format!("; it has {}", names().collect::<Vec<_>>().join(", ")),
            };
            let (what, path) = (self.what.to_owned(), path.to_owned());
            EncodeError::Unknown { what, path, member: name.to_owned(), hint }
        })
    }

    /// A prefix given as the struct that it is.
    fn prefix_members(
        &mut self,
        address: usize,
        big: bool,
        names: &[String; 2],
        at: usize,
        path: &str,
        members: &Map<String, Value>,
    ) -> Result<(), EncodeError> {
        let member = |name: &String, offset, shape| Member { name: name.clone(), offset, shape, hidden: false };
        let data = if address == 4 { Shape::Ipv4 } else { Shape::Ipv6 };
        let len = Shape::Int { size: 4, signed: false, big };
        let parts = Struct::new(vec![member(&names[0], 0, len), member(&names[1], 4, data)], 4 + address);
        self.composite(&parts, at, path, &Value::Object(members.clone()))
    }
}

/// Length and address of a prefix; an address alone is a prefix of its full length.
fn prefix(address: usize, value: &Value) -> Option<(u32, Vec<u8>)> {
    let text = value.as_str()?;
    let bits = address as u32 * 8;
    let (data, len) = match text.split_once('/') {
        Some((data, len)) => (data, len.parse().ok().filter(|len| *len <= bits)?),
        None => (text, bits),
    };
    Some((len, ip(address, data)?))
}

fn ip(len: usize, text: &str) -> Option<Vec<u8>> {
    match len {
        4 => text.parse::<Ipv4Addr>().ok().map(|address| address.octets().to_vec()),
        16 => text.parse::<Ipv6Addr>().ok().map(|address| address.octets().to_vec()),
        _ => None,
    }
}

/// The bytes of a value of a shape that is nothing but bytes.
fn bytes(shape: &Shape, value: &Value) -> Option<Vec<u8>> {
    let len = shape.size();
    let text = match value {
        Value::String(text) => text,
        Value::Array(list) if matches!(shape, Shape::Hex { .. } | Shape::Text { .. }) && list.len() == len => {
            return list.iter().map(|byte| u8::try_from(integer(byte)?).ok()).collect();
        }
        // An address in network order is also the number that its bytes form.
        Value::Number(_) if *shape == Shape::Ipv4 => {
            return Some(u32::try_from(integer(value)?).ok()?.to_be_bytes().to_vec());
        }
        _ => return None,
    };
    if let Shape::Text { .. } = shape
        && text.len() <= len
        && !text.contains('\0')
    {
        let mut bytes = text.clone().into_bytes();
        bytes.resize(len, 0);
        return Some(bytes);
    }
    if let Some(bytes) = text::unhex(text).filter(|bytes| bytes.len() == len) {
        return Some(bytes);
    }
    match shape {
        Shape::Text { .. } => None,
        Shape::AnyIp => text::parse_any_ip(text).map(|bytes| bytes.to_vec()),
        // Six bytes of a program that does not call them an address may still be one.
        Shape::Mac | Shape::Hex { len: 6 } => text::parse_mac(text).map(|bytes| bytes.to_vec()),
        _ => ip(len, text),
    }
}

fn float(size: usize, value: &Value) -> Option<u64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => {
            if let Some(raw) = text.strip_prefix("nan(").and_then(|rest| rest.strip_suffix(')')) {
                return u64::try_from(text::parse_number(raw)?)
                    .ok()
                    .filter(|raw| size == 8 || *raw <= u64::from(u32::MAX));
            }
            text.parse().ok()?
        }
        _ => return None,
    };
    Some(if size == 4 { u64::from((number as f32).to_bits()) } else { number.to_bits() })
}
