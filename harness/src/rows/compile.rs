//! From a type of BTF to a [`Plan`].
//!
//! The bytes of BTF are not trusted: nesting, the number of members and the number of values are bounded, and nothing is
//! taken into a plan that does not fit into the bytes of what holds it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::hints::Formats;
use super::names;
use super::plan::{Bits, MAX_VALUES, Member, Names, Plan, Shape, Struct};
use crate::kernel::btf::{Btf, IntKind, Kind, Type};

/// Types within each other; real ones have under ten.
const MAX_DEPTH: usize = 32;
/// Parts of a plan; a real one has at most some hundreds.
const MAX_PARTS: usize = 1 << 16;
/// Bytes of a type: more than any map's value has.
const MAX_SIZE: u64 = 1 << 28;
/// Typedefs and qualifiers behind one another.
const MAX_CHAIN: usize = 64;

/// Why a type cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The reference leads nowhere, or to itself.
    #[error("cannot decode {path}: BTF has no complete type {id} for it")]
    NoType {
        /// Path of the member.
        path: String,
        /// Number of the type.
        id: u32,
    },
    /// A kind of type without a value: a function, a section.
    #[error("cannot decode {path}: {what} has no value")]
    NoValue {
        /// Path of the member.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// A member that reaches beyond what holds it, or bits that no integer has.
    #[error("cannot decode {path}: BTF puts it beyond the {size} bytes of what holds it")]
    Beyond {
        /// Path of the member.
        path: String,
        /// Bytes of the struct.
        size: usize,
    },
    /// A number of a width that no machine has.
    #[error("cannot decode {path}: a {what} of {size} bytes")]
    Width {
        /// Path of the member.
        path: String,
        /// What it is.
        what: &'static str,
        /// Its bytes.
        size: u32,
    },
    /// Too deep, too many members, or too many values.
    #[error("cannot decode {path}: {what}")]
    TooBig {
        /// Path of the member.
        path: String,
        /// What there is too much of.
        what: String,
    },
    /// The type that a hint names for the events of a ring does not exist.
    #[error("cannot decode the events of {map}: BTF has no type {name}")]
    NoEvent {
        /// The name.
        name: String,
        /// The ring.
        map: String,
    },
    /// A hint that does not fit the type.
    #[error("cannot format {path} as {format}: it has {size} bytes")]
    Format {
        /// Path of the member.
        path: String,
        /// The format.
        format: &'static str,
        /// Its bytes.
        size: usize,
    },
}

/// Compiles type `id`; `root` is how paths of hints name the whole (`key`, `value`, `event`).
///
/// # Errors
/// [`PlanError`].
pub(super) fn compile(btf: &Btf, id: u32, root: &str, formats: &Formats) -> Result<Plan, PlanError> {
    let mut compiler = Compiler { btf, formats, parts: 0, big: btf.is_big_endian() };
    let shape = compiler.formatted(id, "", root, 0)?;
    finish(shape, btf.is_big_endian(), root, true)
}

/// Compiles bytes without a type, which a hint may give one.
///
/// # Errors
/// [`PlanError::Format`].
pub(super) fn compile_bytes(plan: Plan, root: &str, formats: &Formats) -> Result<Plan, PlanError> {
    let shape = match formats.find(root) {
        Some(format) => format.shape(plan.shape, plan.big, root)?,
        None => plan.shape,
    };
    finish(shape, plan.big, root, plan.from_types)
}

/// Compiles a section of variables as a struct. `offsets` places variables by name where BTF does not (see
/// [`crate::kernel::btf::SectionVariable::offset`]); a variable whose type cannot be decoded is bytes.
///
/// # Errors
/// [`PlanError`].
pub(super) fn compile_section(
    btf: &Btf,
    section: Type,
    offsets: &BTreeMap<String, u64>,
    size: usize,
    formats: &Formats,
) -> Result<Plan, PlanError> {
    let mut members = Vec::new();
    let mut taken = HashSet::new();
    for placed in btf.variables(section) {
        let Some((name, ty)) = variable(btf, placed.variable) else { continue };
        let offset = offsets.get(name).map_or(placed.offset as usize, |offset| *offset as usize);
        let len = placed.size as usize;
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(PlanError::Beyond { path: name.to_owned(), size });
        }
        let mut compiler = Compiler { btf, formats, parts: 0, big: btf.is_big_endian() };
        let path = format!("value.{name}");
        let shape = match compiler.formatted(ty, name, &path, 0) {
            Ok(shape) if shape.size() == len && shape.values() <= MAX_VALUES => shape,
            Err(error @ PlanError::Format { .. }) => return Err(error),
            _ => Shape::Hex { len },
        };
        if taken.insert(name.to_owned()) {
            members.push(Member { name: name.to_owned(), offset, shape, hidden: formats.drops(&path) });
        }
    }
    finish(Shape::Struct(Box::new(Struct::new(members, size))), btf.is_big_endian(), "value", true)
}

/// Name and type of a variable.
pub(super) fn variable(btf: &Btf, id: u32) -> Option<(&str, u32)> {
    let ty = btf.ty(id)?;
    let Kind::Variable(target) = ty.kind else { return None };
    Some((btf.string(ty.name), target))
}

fn finish(shape: Shape, big: bool, root: &str, from_types: bool) -> Result<Plan, PlanError> {
    let values = shape.values();
    if values > MAX_VALUES {
        return Err(too_big(root, format!("{values} values, more than {MAX_VALUES}")));
    }
    let size = shape.size();
    if size as u64 > MAX_SIZE {
        return Err(too_big(root, format!("{size} bytes, more than {MAX_SIZE}")));
    }
    Ok(Plan { shape, size, big, from_types })
}

fn too_big(path: &str, what: String) -> PlanError {
    PlanError::TooBig { path: path.to_owned(), what }
}

struct Compiler<'a> {
    btf: &'a Btf,
    formats: &'a Formats,
    parts: usize,
    big: bool,
}

impl Compiler<'_> {
    /// A type as its hint says, else as BTF says.
    fn formatted(&mut self, id: u32, name: &str, path: &str, depth: usize) -> Result<Shape, PlanError> {
        let shape = self.shape(id, name, path, depth)?;
        match self.formats.find(path) {
            Some(format) => format.shape(shape, self.big, path),
            None => Ok(shape),
        }
    }

    /// Follows typedefs and qualifiers; also says which byte order a typedef promised.
    fn resolve(&self, id: u32, path: &str) -> Result<(Type, Option<bool>), PlanError> {
        let missing = || PlanError::NoType { path: path.to_owned(), id };
        let (mut ty, mut order) = (self.btf.ty(id).ok_or_else(missing)?, None);
        for _ in 0..MAX_CHAIN {
            let (Kind::Typedef(target) | Kind::Qualified(target)) = ty.kind else { return Ok((ty, order)) };
            if matches!(ty.kind, Kind::Typedef(_)) {
                order = order.or_else(|| names::byte_order(self.btf.string(ty.name)));
            }
            ty = self.btf.ty(target).ok_or_else(missing)?;
        }
        Err(missing())
    }

    fn shape(&mut self, id: u32, name: &str, path: &str, depth: usize) -> Result<Shape, PlanError> {
        self.parts += 1;
        if depth > MAX_DEPTH || self.parts > MAX_PARTS {
            return Err(too_big(path, "its types are nested endlessly, or have too many members".to_owned()));
        }
        let (ty, order) = self.resolve(id, path)?;
        let no_value = |what| PlanError::NoValue { path: path.to_owned(), what };
        let big = order.unwrap_or(self.big);
        match ty.kind {
            Kind::Int { kind, bits } => int(ty, kind, bits, big, path).map(|shape| match shape {
                Shape::Int { size: 4, .. } if order == Some(true) && names::is_address(name) => Shape::Ipv4,
                shape => shape,
            }),
            Kind::Enum { .. } => {
                width(ty.size, &[1, 2, 4, 8], "enum", path)?;
                Ok(Shape::Enum { size: ty.size as usize, big, names: self.names(ty) })
            }
            Kind::Float => {
                width(ty.size, &[4, 8], "floating point number", path)?;
                Ok(Shape::Float { size: ty.size as usize, big })
            }
            Kind::Ptr(_) => Ok(Shape::HexInt { size: 8, big }),
            Kind::Array { element, len } => self.array(element, len, name, path, depth),
            Kind::Struct | Kind::Union => self.composite(ty, name, path, depth),
            Kind::Variable(target) => self.shape(target, name, path, depth + 1),
            Kind::Forward => Err(no_value("a struct that is declared only")),
            Kind::Function(_) | Kind::Prototype => Err(no_value("a function")),
            Kind::Section => Err(no_value("a section")),
            Kind::Typedef(_) | Kind::Qualified(_) | Kind::Other => Err(no_value("a type of an unknown kind")),
        }
    }

    fn names(&self, ty: Type) -> Arc<Names> {
        let signed = matches!(ty.kind, Kind::Enum { signed: true });
        let values = self.btf.values(ty).map(|(name, value)| (value, self.btf.string(name).to_owned()));
        Arc::new(Names::new(values.collect(), signed))
    }

    fn array(&mut self, element: u32, len: u32, name: &str, path: &str, depth: usize) -> Result<Shape, PlanError> {
        let (ty, order) = self.resolve(element, path)?;
        let len = len as usize;
        if let Kind::Int { kind, bits: 8 } = ty.kind
            && ty.size == 1
            && kind != IntKind::Bool
        {
            // clang marks `char` as signed, and its name tells it from `signed char`.
            let is_char = kind == IntKind::Char || self.btf.string(ty.name) == "char";
            match (is_char, kind, len) {
                (true, ..) => return Ok(Shape::Text { len }),
                (_, IntKind::Unsigned, 6) if names::is_mac(name) => return Ok(Shape::Mac),
                (_, IntKind::Unsigned, 4) if names::is_address(name) => return Ok(Shape::Ipv4),
                (_, IntKind::Unsigned, 16) if names::is_address(name) => return Ok(Shape::Ipv6),
                (_, IntKind::Unsigned, _) => return Ok(Shape::Hex { len }),
                _ => {}
            }
        }
        if order == Some(true) && ty.size == 4 && len == 4 && names::is_address(name) {
            return Ok(Shape::Ipv6);
        }
        let shape = self.shape(element, name, path, depth + 1)?;
        let stride = shape.size();
        // Elements without bytes are not worth showing, however many there are said to be.
        let len = if stride == 0 { 0 } else { len };
        Ok(Shape::Array { element: Box::new(shape), len, stride })
    }

    fn composite(&mut self, ty: Type, name: &str, path: &str, depth: usize) -> Result<Shape, PlanError> {
        let size = ty.size as usize;
        match (self.btf.string(ty.name), size) {
            ("in_addr" | "Ipv4Addr", 4) => return Ok(Shape::Ipv4),
            ("in6_addr" | "Ipv6Addr", 16) => return Ok(Shape::Ipv6),
            _ => {}
        }
        if let Some(inner) = self.wrapped(ty) {
            return self.shape(inner, name, path, depth + 1);
        }
        let mut into = Members { list: Vec::new(), taken: HashSet::new(), size };
        self.collect(ty, 0, path, depth, &mut into)?;
        Ok(match prefix(&into.list, size, self.big) {
            Some(prefix) => prefix,
            None => Shape::Struct(Box::new(Struct::new(into.list, size))),
        })
    }

    /// The type of the one member that a Rust wrapper or newtype has besides members without bytes.
    fn wrapped(&self, ty: Type) -> Option<u32> {
        let mut sized = self.btf.members(ty).filter(|member| self.btf.size(member.ty).is_some_and(|size| size != 0));
        let member = sized.next()?;
        let alone = sized.next().is_none() && member.bit_offset == 0 && member.bits == 0;
        let fills = self.btf.size(member.ty) == Some(u64::from(ty.size));
        let transparent = self.btf.string(member.name) == "__0" || names::is_wrapper(self.btf.string(ty.name));
        (alone && fills && transparent).then_some(member.ty)
    }

    /// Adds the members of `ty`, which starts `base` bits into what is collected; those of anonymous ones too.
    fn collect(&mut self, ty: Type, base: u64, path: &str, depth: usize, into: &mut Members) -> Result<(), PlanError> {
        for member in self.btf.members(ty) {
            let name = self.btf.string(member.name);
            let at = base + u64::from(member.bit_offset);
            if name.is_empty() {
                let (inner, _) = self.resolve(member.ty, path)?;
                if matches!(inner.kind, Kind::Struct | Kind::Union) && member.bits == 0 {
                    self.parts += 1;
                    if depth >= MAX_DEPTH || self.parts > MAX_PARTS {
                        return Err(too_big(path, "its types are nested endlessly".to_owned()));
                    }
                    self.collect(inner, at, path, depth + 1, into)?;
                }
                continue;
            }
            let path = format!("{path}.{name}");
            let shape = match self.bitfield(member.ty, member.bits, at, &path)? {
                Some(bits) => match self.formats.find(&path) {
                    Some(format) => format.shape(Shape::Bits(bits), self.big, &path)?,
                    None => Shape::Bits(bits),
                },
                None => self.formatted(member.ty, name, &path, depth + 1)?,
            };
            into.add(name, at, shape, self.formats.drops(&path), &path)?;
        }
        Ok(())
    }

    /// The bitfield at bit `at`, in the encoding of either age: the member's width (`kind_flag`), or an integer narrower
    /// than its size.
    fn bitfield(&self, ty: u32, width: u32, at: u64, path: &str) -> Result<Option<Bits>, PlanError> {
        let (ty, _) = self.resolve(ty, path)?;
        let full = u64::from(ty.size) * 8;
        let (width, signed, truth, names) = match ty.kind {
            Kind::Int { kind, bits } => {
                let width = if width == 0 { u32::from(bits) } else { width };
                (width, kind == IntKind::Signed, kind == IntKind::Bool, None)
            }
            Kind::Enum { signed } if width != 0 => (width, signed, false, Some(self.names(ty))),
            _ if width != 0 || !at.is_multiple_of(8) => {
                return Err(PlanError::NoValue { path: path.to_owned(), what: "a bitfield of no integer" });
            }
            _ => return Ok(None),
        };
        if u64::from(width) == full && at.is_multiple_of(8) {
            return Ok(None);
        }
        if width == 0 || width > 64 || u64::from(width) > full {
            return Err(PlanError::Width { path: path.to_owned(), what: "bitfield", size: width.div_ceil(8) });
        }
        let big = self.big;
        Ok(Some(Bits { first: (at % 8) as u32, bits: width, signed, truth, big, names }))
    }
}

/// The members of a struct so far.
struct Members {
    list: Vec<Member>,
    taken: HashSet<String>,
    size: usize,
}

impl Members {
    fn add(&mut self, name: &str, at: u64, shape: Shape, hidden: bool, path: &str) -> Result<(), PlanError> {
        let beyond = || PlanError::Beyond { path: path.to_owned(), size: self.size };
        let offset = usize::try_from(at / 8).map_err(|_| beyond())?;
        if offset.checked_add(shape.size()).is_none_or(|end| end > self.size) {
            return Err(beyond());
        }
        let mut unique = name.to_owned();
        let mut count = 1;
        while !self.taken.insert(unique.clone()) {
            count += 1;
            unique = format!("{name}#{count}");
        }
        self.list.push(Member { name: unique, offset, shape, hidden });
        Ok(())
    }
}

/// A longest-prefix key, by its shape: a length in bits, and an address after it.
fn prefix(members: &[Member], size: usize, big: bool) -> Option<Shape> {
    let [len, data] = members else { return None };
    let is_len = matches!(len.name.as_str(), "prefixlen" | "prefix_len")
        && matches!(len.shape, Shape::Int { size: 4, signed: false, .. })
        && len.offset == 0;
    let address = data.shape.size();
    let is_address = match &data.shape {
        Shape::Hex { len: 4 | 16 } | Shape::Ipv4 | Shape::Ipv6 | Shape::Int { size: 4, .. } => true,
        Shape::Array { element, len: 4, .. } => matches!(**element, Shape::Int { size: 4, .. }),
        _ => false,
    };
    (is_len && is_address && data.offset == 4 && size == 4 + address && !len.hidden && !data.hidden)
        .then(|| Shape::Prefix { address, big, names: Box::new([len.name.clone(), data.name.clone()]) })
}

fn width(size: u32, allowed: &[u32], what: &'static str, path: &str) -> Result<(), PlanError> {
    if allowed.contains(&size) { Ok(()) } else { Err(PlanError::Width { path: path.to_owned(), what, size }) }
}

fn int(ty: Type, kind: IntKind, bits: u8, big: bool, path: &str) -> Result<Shape, PlanError> {
    let size = ty.size as usize;
    // `()` of Rust.
    if size == 0 && bits == 0 {
        return Ok(Shape::Hex { len: 0 });
    }
    width(ty.size, &[1, 2, 4, 8, 16], "integer", path)?;
    Ok(match kind {
        IntKind::Bool if size <= 8 => Shape::Bool { size, big },
        _ => Shape::Int { size, signed: kind == IntKind::Signed, big },
    })
}
