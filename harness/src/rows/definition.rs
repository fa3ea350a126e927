//! Types of maps and variables as an object's own BTF has them.
//!
//! A map made by a loader may have no types: the kernel takes none for rings, device and CPU maps, and loaders set none
//! for sections of variables. The definitions in the object still have them.

use std::collections::BTreeMap;

use super::compile::{PlanError, variable};
use super::encode::{EncodeError, Encoder};
use super::hints::Formats;
use crate::kernel::btf::{Btf, Kind, Type};

/// Sections whose variables are no data of the program.
const NO_DATA: [&str; 4] = [".maps", ".ksyms", "license", "version"];

/// What the definition of a map says, as far as it says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapTypes {
    /// Type of a key.
    pub key: Option<u32>,
    /// Type of a value; for rings of Rust objects, of an event.
    pub value: Option<u32>,
    /// The maps in a map of maps.
    pub inner: Option<Box<MapTypes>>,
    /// `BPF_MAP_TYPE_*`.
    pub kind: Option<u32>,
    /// Bytes of a key.
    pub key_size: Option<u32>,
    /// Bytes of a value.
    pub value_size: Option<u32>,
    /// Most elements.
    pub max_entries: Option<u32>,
    /// `BPF_F_*`.
    pub map_flags: Option<u32>,
}

/// The definition of map `map` in the section `.maps`, in the form of libbpf (`__type`, `__uint`, `__array`), which
/// aya-ebpf's `#[btf_map]` has as well; nothing if there is none.
#[must_use]
pub fn map_types(btf: &Btf, map: &str) -> Option<MapTypes> {
    let section = section(btf, ".maps")?;
    let placed =
        btf.variables(section).find_map(|placed| variable(btf, placed.variable).filter(|(name, _)| *name == map));
    definition(btf, placed?.1, true)
}

fn definition(btf: &Btf, ty: u32, outermost: bool) -> Option<MapTypes> {
    let ty = btf.resolve(ty).filter(|ty| ty.kind == Kind::Struct)?;
    let mut types = MapTypes::default();
    for member in btf.members(ty) {
        match btf.string(member.name) {
            // `()` of Rust has no bytes, and `void` no type.
            "key" => types.key = target(btf, member.ty).filter(|id| btf.size(*id).is_some_and(|size| size != 0)),
            "value" => types.value = target(btf, member.ty).filter(|id| btf.size(*id).is_some_and(|size| size != 0)),
            "type" => types.kind = number(btf, member.ty),
            "key_size" => types.key_size = number(btf, member.ty),
            "value_size" => types.value_size = number(btf, member.ty),
            "max_entries" => types.max_entries = number(btf, member.ty),
            "map_flags" => types.map_flags = number(btf, member.ty),
            // An array of pointers to the inner definition; of a program array, to functions.
            "values" if outermost => {
                types.inner = match btf.resolve(member.ty)?.kind {
                    Kind::Array { element, .. } => {
                        target(btf, element).and_then(|inner| definition(btf, inner, false)).map(Box::new)
                    }
                    _ => None,
                };
            }
            _ => {}
        }
    }
    Some(types)
}

fn target(btf: &Btf, pointer: u32) -> Option<u32> {
    match btf.resolve(pointer)?.kind {
        Kind::Ptr(target) => Some(target),
        _ => None,
    }
}

/// `__uint(name, number)`: a pointer to an array of that length.
fn number(btf: &Btf, pointer: u32) -> Option<u32> {
    match btf.resolve(target(btf, pointer)?)?.kind {
        Kind::Array { len, .. } => Some(len),
        _ => None,
    }
}

/// The section of that name.
pub(super) fn section(btf: &Btf, name: &str) -> Option<Type> {
    btf.named(name).filter_map(|id| btf.ty(id)).find(|ty| ty.kind == Kind::Section)
}

/// The section that a map of variables holds: the map is called like it, or has the object's name before it
/// (`firewall.bss`).
pub(super) fn section_of(btf: &Btf, map: &str) -> Option<Type> {
    let dots = map.match_indices('.').map(|(at, _)| at);
    dots.filter_map(|at| section(btf, &map[at..])).next()
}

/// A global variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its section: `.rodata`, `.data`, `.bss`, or one that the program names.
    pub section: String,
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: u32,
    /// Its place in the section, in bytes; 0 for all where only the symbol table has it.
    pub offset: u32,
    /// Its size in bytes.
    pub size: u32,
}

/// All global variables of an object.
#[must_use]
pub fn variables(btf: &Btf) -> Vec<Variable> {
    let sections = (1..=btf.len() as u32).filter_map(|id| btf.ty(id)).filter(|ty| ty.kind == Kind::Section);
    let data = sections.filter(|section| !NO_DATA.contains(&btf.string(section.name)));
    data.flat_map(|section| {
        btf.variables(section).filter_map(move |placed| {
            let (name, ty) = variable(btf, placed.variable)?;
            let (section, name) = (btf.string(section.name).to_owned(), name.to_owned());
            Some(Variable { section, name, ty, offset: placed.offset, size: placed.size })
        })
    })
    .collect()
}

/// Writes a value of a scenario as the bytes of global `name`, for a loader to set before it loads.
///
/// # Errors
/// [`EncodeError`]; for a variable that the object does not have [`EncodeError::Unknown`] with the nearest name.
pub fn encode_global(btf: &Btf, name: &str, value: &serde_json::Value) -> Result<Vec<u8>, EncodeError> {
    let all = variables(btf);
    let Some(found) = all.iter().find(|variable| variable.name == name) else {
        let near = crate::scenario::hint::closest(name, all.iter().map(|variable| variable.name.as_str()));
        let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
        let what = "the object's globals".to_owned();
        return Err(EncodeError::Unknown { what, path: name.to_owned(), member: name.to_owned(), hint });
    };
    Encoder::with_formats(btf, found.ty, &format!("global {name}"), "value", &Formats::default())?.encode(value)
}

/// The type of a ring's events: the one that is named, else that of the ring's definition, else the one type that the
/// object can mean. Rings of C objects have no type, so such objects keep theirs by a pointer that nothing uses
/// (`const struct event *unused __attribute__((unused));`): if there is exactly one such pointer, it is meant.
///
/// # Errors
/// [`PlanError::NoEvent`] if the named type does not exist.
pub fn event_type(btf: &Btf, map: &str, named: Option<&str>) -> Result<Option<u32>, PlanError> {
    if let Some(named) = named {
        let name = ["struct ", "union ", "enum "].iter().find_map(|kind| named.strip_prefix(kind)).unwrap_or(named);
        let found = btf.type_by_name(name.trim()).filter(|ty| btf.size(ty.id).is_some());
        return match found {
            Some(ty) => Ok(Some(ty.id)),
            None => Err(PlanError::NoEvent { name: named.to_owned(), map: map.to_owned() }),
        };
    }
    let defined = map_types(btf, map).and_then(|types| types.value);
    Ok(defined.or_else(|| kept_by_pointer(btf)))
}

fn kept_by_pointer(btf: &Btf) -> Option<u32> {
    let mut found = BTreeMap::new();
    for variable in variables(btf) {
        if let Some(pointed) = target(btf, variable.ty)
            && let Some(ty) = btf.resolve(pointed)
            && ty.kind == Kind::Struct
        {
            found.insert(ty.id, ());
        }
    }
    match found.len() {
        1 => found.into_keys().next(),
        _ => None,
    }
}
