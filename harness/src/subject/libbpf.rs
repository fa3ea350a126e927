//! Objects made ready by libbpf.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Arc;

use super::{Code, Keep, Prepared, SubjectMap, SubjectOptions};
use crate::object::elf::Elf;
use crate::sys::{LibbpfMap, LibbpfObject, MapHandle, map_kind};

/// `struct bpf_func_info` and `struct bpf_line_info` of libbpf's own.
const FUNCTION: u32 = 8;
const LINE: u32 = 16;

pub(super) fn prepare(name: &str, bytes: &[u8], elf: &Elf, options: &SubjectOptions) -> Result<Prepared, String> {
    let mut object = LibbpfObject::open(name, bytes).map_err(|error| error.to_string())?;
    for program in object.programs() {
        let program_name = program.name();
        // Programs of sections that nobody can load alone would fail them all.
        let loadable = elf.program(&program_name).is_some_and(|known| known.kind().is_ok());
        program.set_wanted(loadable && options.wants(&program_name));
    }
    for mut map in object.maps() {
        settle(&mut map, elf, options).map_err(|error| format!("map {}: {error}", map.name()))?;
    }
    object.prepare().map_err(|error| error.to_string())?;
    let mut maps = Vec::new();
    for map in object.maps() {
        let name = map_name(&map);
        // Maps of struct_ops are made by attaching.
        let Some(fd) = map.fd() else { continue };
        let handle = MapHandle::from_fd(fd).map_err(|error| format!("map {name}: {error}"))?;
        maps.push(SubjectMap { name, handle });
    }
    let btf = object.btf().map(Arc::new);
    let license = CString::new(elf.license.clone().unwrap_or_default()).unwrap_or_default();
    let mut code = BTreeMap::new();
    for program in object.programs() {
        let name = program.name();
        let Some(Ok(section)) = elf.program(&name).map(|known| known.kind()) else { continue };
        if !options.wants(&name) {
            continue;
        }
        let relocated = program.code();
        code.insert(
            name,
            Code {
                kind: section.kind,
                target: section.target.map(str::to_owned),
                instructions: relocated.instructions,
                functions: (relocated.functions, FUNCTION),
                lines: (relocated.lines, LINE),
                btf: btf.clone(),
                license: license.clone(),
            },
        );
    }
    Ok(Prepared { maps, code, keep: Keep::Libbpf(object) })
}

/// Sets a map's size and first content, and keeps it out of the file system.
fn settle(map: &mut LibbpfMap<'_>, elf: &Elf, options: &SubjectOptions) -> Result<(), crate::sys::LibbpfError> {
    map.unpin();
    let name = map_name(map);
    match map.kind() {
        map_kind::RINGBUF => map.set_sizes(0, 0)?,
        map_kind::PERF_EVENT_ARRAY => map.set_sizes(4, 4)?,
        _ => {}
    }
    if let Some((_, entries)) = options.max_entries.iter().find(|(of, _)| *of == name) {
        map.set_max_entries(*entries)?;
    }
    if map.is_internal()
        && let Some(content) = map.initial_value()
    {
        options.patch(elf, &name, content);
    }
    Ok(())
}

/// The name that the object gives to a map. libbpf calls data sections `OBJECT.SECTION`.
fn map_name(map: &LibbpfMap<'_>) -> String {
    let name = map.name();
    if !map.is_internal() {
        return name;
    }
    let sections = [".rodata", ".data", ".bss", ".kconfig", ".struct_ops", ".arena", ".addr_space"];
    sections.iter().filter_map(|section| name.find(section)).min().map_or(name.clone(), |at| name[at..].to_owned())
}
