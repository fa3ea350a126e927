//! The questions that the lab asks: where a member lies, what an enum's values are called, what a function takes.

use std::collections::BTreeMap;

use super::{Btf, BtfError, Kind, Type};

/// References followed from one type to the next before a chain counts as endless. Real ones have under ten.
const MAX_CHAIN: usize = 64;
/// Members visited by one search through anonymous structs; `struct net` and all that it embeds have about a thousand.
const MAX_VISITS: u32 = 100_000;
/// Anonymous structs and unions within each other; the kernel has at most a handful.
const MAX_NESTING: u32 = 32;

/// A member found by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Type of the member.
    pub ty: u32,
    /// Offset in bits from the start of the outermost struct.
    pub bit_offset: u32,
    /// Width in bits of a bitfield, 0 for any other member.
    pub bits: u32,
}

impl Btf {
    /// Byte offset of a member from the start of the first type of `path`: `sock.__sk_common.skc_daddr`.
    ///
    /// The path goes through nested structs and unions by name and through anonymous ones without one, never through
    /// a pointer.
    ///
    /// # Errors
    /// [`BtfError::NoType`], [`BtfError::NoMember`] with the step that failed, [`BtfError::Bitfield`].
    pub fn offset(&self, path: &str) -> Result<u32, BtfError> {
        let field = self.field(path)?;
        if field.bits != 0 || field.bit_offset % 8 != 0 {
            return Err(BtfError::Bitfield(path.to_owned()));
        }
        Ok(field.bit_offset / 8)
    }

    /// Whether [`Btf::field`] would find that member.
    #[must_use]
    pub fn has_field(&self, path: &str) -> bool {
        self.field(path).is_ok()
    }

    /// The member at `path`, bitfields included; as [`Btf::offset`].
    ///
    /// # Errors
    /// [`BtfError::NoType`], [`BtfError::NoMember`].
    pub fn field(&self, path: &str) -> Result<Field, BtfError> {
        let (root, members) = path.split_once('.').unwrap_or((path, ""));
        let mut missing = BtfError::NoType(root.to_owned());
        // A kernel may have several structs of one name (local to C files); the first that has the member is meant.
        for id in self.named(root) {
            let Some(ty) = self.resolve(id).filter(|ty| matches!(ty.kind, Kind::Struct | Kind::Union)) else {
                continue;
            };
            match self.descend(ty, root, members, path) {
                Ok(field) => return Ok(field),
                Err(error) => missing = error,
            }
        }
        Err(missing)
    }

    fn descend(&self, root: Type, name: &str, members: &str, path: &str) -> Result<Field, BtfError> {
        let mut field = Field { ty: root.id, bit_offset: 0, bits: 0 };
        let mut parent = name.len();
        for member in members.split('.') {
            let mut visits = MAX_VISITS;
            let found = self
                .resolve(field.ty)
                // An empty step would find the first anonymous member.
                .filter(|_| !member.is_empty())
                .and_then(|ty| self.member(ty, member, MAX_NESTING, &mut visits));
            let Some(found) = found else {
                let parent = path.get(..parent).unwrap_or(path).to_owned();
                return Err(BtfError::NoMember { path: path.to_owned(), member: member.to_owned(), parent });
            };
            field = Field { bit_offset: field.bit_offset.saturating_add(found.bit_offset), ..found };
            parent += 1 + member.len();
        }
        Ok(field)
    }

    /// A member of `ty` itself or of an anonymous struct or union in it.
    fn member(&self, ty: Type, name: &str, nesting: u32, visits: &mut u32) -> Option<Field> {
        for member in self.members(ty) {
            *visits = visits.checked_sub(1)?;
            let found = self.string(member.name);
            if found == name {
                let field = Field { ty: member.ty, bit_offset: member.bit_offset, bits: member.bits };
                return Some(self.with_old_bitfield(field));
            }
            if found.is_empty()
                && nesting > 0
                && let Some(inner) = self.resolve(member.ty)
                && let Some(field) = self.member(inner, name, nesting - 1, visits)
            {
                return Some(Field { bit_offset: field.bit_offset.saturating_add(member.bit_offset), ..field });
            }
        }
        None
    }

    /// Structs without `kind_flag` express a bitfield by an integer narrower than its size.
    fn with_old_bitfield(&self, field: Field) -> Field {
        match self.resolve(field.ty) {
            Some(Type { kind: Kind::Int { bits, .. }, size, .. })
                if field.bits == 0 && u64::from(bits) < u64::from(size) * 8 =>
            {
                Field { bits: u32::from(bits), ..field }
            }
            _ => field,
        }
    }

    /// The type behind typedefs and qualifiers; nothing if that is `void`, missing or endless.
    #[must_use]
    pub fn resolve(&self, id: u32) -> Option<Type> {
        let mut ty = self.ty(id)?;
        for _ in 0..MAX_CHAIN {
            match ty.kind {
                Kind::Typedef(target) | Kind::Qualified(target) => ty = self.ty(target)?,
                _ => return Some(ty),
            }
        }
        None
    }

    /// Size of a type in bytes; nothing for functions, `void`, forward declarations and broken references. A pointer
    /// counts 8 bytes: BPF is a 64-bit machine.
    #[must_use]
    pub fn size(&self, id: u32) -> Option<u64> {
        let (mut elements, mut ty) = (1_u64, self.resolve(id)?);
        for _ in 0..MAX_CHAIN {
            let size = match ty.kind {
                Kind::Int { .. } | Kind::Struct | Kind::Union | Kind::Enum { .. } | Kind::Float | Kind::Section => {
                    ty.size
                }
                Kind::Ptr(_) => 8,
                Kind::Variable(target) => {
                    ty = self.resolve(target)?;
                    continue;
                }
                Kind::Array { element, len } => {
                    elements = elements.checked_mul(u64::from(len))?;
                    ty = self.resolve(element)?;
                    continue;
                }
                _ => return None,
            };
            return elements.checked_mul(u64::from(size));
        }
        None
    }

    /// A type as C writes it: `struct flow`, `__u32`, `char[16]`, `struct sock *`. Types of Rust have their own names.
    #[must_use]
    pub fn type_name(&self, id: u32) -> String {
        self.type_name_within(id, MAX_CHAIN)
    }

    fn type_name_within(&self, id: u32, depth: usize) -> String {
        let (Some(ty), Some(depth)) = (self.ty(id), depth.checked_sub(1)) else { return "void".to_owned() };
        let name = self.string(ty.name);
        let tagged = |keyword: &str| match name {
            "" => keyword.to_owned(),
            // What is no identifier of C comes from Rust, which has no such keywords.
            name if name.contains(['<', ':', '(']) => name.to_owned(),
            name => format!("{keyword} {name}"),
        };
        match ty.kind {
            Kind::Struct | Kind::Forward => tagged("struct"),
            Kind::Union => tagged("union"),
            Kind::Enum { .. } => tagged("enum"),
            Kind::Ptr(target) => format!("{} *", self.type_name_within(target, depth)),
            Kind::Array { element, len } => format!("{}[{len}]", self.type_name_within(element, depth)),
            Kind::Qualified(target) => self.type_name_within(target, depth),
            Kind::Prototype => "function".to_owned(),
            _ => name.to_owned(),
        }
    }

    /// Size in bytes of a type by name, or of a member by path.
    ///
    /// # Errors
    /// As [`Btf::field`], and [`BtfError::Broken`] for a type without a size.
    pub fn size_of(&self, path: &str) -> Result<u64, BtfError> {
        let id = if path.contains('.') {
            self.field(path)?.ty
        } else {
            self.type_by_name(path).ok_or_else(|| BtfError::NoType(path.to_owned()))?.id
        };
        self.size(id).ok_or_else(|| BtfError::Broken(path.to_owned()))
    }

    /// The type of that name: a definition rather than a forward declaration, a type rather than a function or
    /// variable.
    #[must_use]
    pub fn type_by_name(&self, name: &str) -> Option<Type> {
        let rank = |ty: &Type| match ty.kind {
            Kind::Forward => 1,
            Kind::Function(_) | Kind::Variable(_) | Kind::Section | Kind::Other => 2,
            _ => 0,
        };
        self.named(name).filter_map(|id| self.ty(id)).min_by_key(rank)
    }

    /// The values of an enum and their names as the kernel's source spells them; nothing if there is no such enum.
    /// Where two names share a value, the first is kept.
    #[must_use]
    pub fn enum_names(&self, name: &str) -> Option<BTreeMap<i64, String>> {
        let ids = self.named(name).filter_map(|id| self.resolve(id));
        let ty = ids.into_iter().find(|ty| matches!(ty.kind, Kind::Enum { .. }))?;
        let mut names = BTreeMap::new();
        for (name, value) in self.values(ty) {
            names.entry(value).or_insert_with(|| self.string(name).to_owned());
        }
        Some(names)
    }

    /// How many arguments a BTF-typed program at tracepoint `name` gets; nothing if the kernel has no such tracepoint.
    ///
    /// The kernel describes them as `typedef void (*btf_trace_<name>)(void *, ...)`, whose first parameter is not
    /// passed on.
    #[must_use]
    pub fn tracepoint_args(&self, name: &str) -> Option<usize> {
        let typedef = format!("btf_trace_{name}");
        let pointer = self.named(&typedef).find_map(|id| self.resolve(id))?;
        let Kind::Ptr(target) = pointer.kind else { return None };
        let prototype = self.resolve(target).filter(|ty| ty.kind == Kind::Prototype)?;
        self.params(prototype).count().checked_sub(1)
    }

    /// Whether BTF describes a function of that name. A program can be attached to it only if the function is also
    /// still there by that name (see the kernel's symbols).
    #[must_use]
    pub fn has_function(&self, name: &str) -> bool {
        self.named(name).filter_map(|id| self.ty(id)).any(|ty| matches!(ty.kind, Kind::Function(_)))
    }
}
