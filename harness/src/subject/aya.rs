//! Objects made ready by aya's reader of objects.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;

use aya::maps::MapData;
use aya_obj::{EbpfSectionKind, Map};

use super::{Code, Keep, Prepared, SubjectMap, SubjectOptions};
use crate::error::chain;
use crate::kernel;
use crate::object::elf::Elf;
use crate::sys::{self, MapHandle, map_kind};

pub(super) fn prepare(bytes: &[u8], elf: &Elf, options: &SubjectOptions) -> Result<Prepared, String> {
    let mut parsed = aya_obj::Object::parse(bytes).map_err(|error| chain(&error))?;
    let features = aya::features();
    let types = match features.btf() {
        Some(features) => parsed.fixup_and_sanitize_btf(features).map_err(|error| chain(&error))?,
        None => None,
    };
    // A kernel that does not take the types takes most programs without.
    let btf = types.map(aya::Btf::to_bytes).and_then(|types| sys::load_btf(&types).ok()).map(Arc::new);
    if parsed.has_btf_relocations() {
        let types = kernel::aya_btf().map_err(|error| chain(&error))?;
        parsed.relocate_btf(types).map_err(|error| chain(&error))?;
    }
    let mut declared: Vec<(String, Map)> = std::mem::take(&mut parsed.maps).into_iter().collect();
    declared.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut maps = Vec::new();
    for (name, map) in &mut declared {
        let handle = make(name, map, btf.as_ref().map(|fd| fd.as_fd()), elf, options)?;
        maps.push(SubjectMap { name: name.clone(), handle });
    }
    let sections = parsed.functions.keys().map(|(section, _)| *section).collect();
    let with_fds: Vec<_> = declared
        .iter()
        .zip(&maps)
        .map(|((name, map), made)| (name.as_str(), made.handle.fd().as_raw_fd(), map))
        .collect();
    parsed.relocate_maps(with_fds.into_iter(), &sections).map_err(|error| chain(&error))?;
    parsed.relocate_calls(&sections).map_err(|error| chain(&error))?;
    parsed.sanitize_functions(features);
    Ok(Prepared { maps, code: code(&parsed, btf.as_ref(), elf, options), keep: Keep::Nothing })
}

/// Makes one map, with its first content.
fn make(
    name: &str,
    map: &mut Map,
    btf: Option<std::os::fd::BorrowedFd<'_>>,
    elf: &Elf,
    options: &SubjectOptions,
) -> Result<MapHandle, String> {
    let failed = |error: &(dyn std::error::Error + 'static)| format!("map {name}: {}", chain(error));
    if [map_kind::ARRAY_OF_MAPS, map_kind::HASH_OF_MAPS].contains(&map.map_type()) {
        return Err(format!("map {name}: a map of maps has no pattern for the maps in it that aya can make"));
    }
    if let Some((_, entries)) = options.max_entries.iter().find(|(of, _)| of == name) {
        map.set_max_entries(*entries);
    }
    if map.map_type() == map_kind::RINGBUF {
        map.set_value_size(0);
    }
    options.patch(elf, name, map.data_mut());
    let data = MapData::create(map.clone(), name, btf).map_err(|error| failed(&error))?;
    let handle = MapHandle::new(data.fd().as_fd()).map_err(|error| failed(&error))?;
    if !map.data().is_empty() {
        handle.update(Some(&[0; 4]), map.data(), 0).map_err(|error| failed(&error))?;
    }
    if map.section_kind() == EbpfSectionKind::Rodata {
        handle.freeze().map_err(|error| failed(&error))?;
    }
    Ok(handle)
}

fn code(
    parsed: &aya_obj::Object,
    btf: Option<&Arc<std::os::fd::OwnedFd>>,
    elf: &Elf,
    options: &SubjectOptions,
) -> BTreeMap<String, Code> {
    let mut code = BTreeMap::new();
    for (name, program) in &parsed.programs {
        let Some(function) = parsed.functions.get(&program.function_key()) else { continue };
        let Some(Ok(section)) = elf.program(name).map(|known| known.kind()) else { continue };
        if !options.wants(name) {
            continue;
        }
        let size = |size: usize| u32::try_from(size).unwrap_or_default();
        code.insert(
            name.clone(),
            Code {
                kind: section.kind,
                target: section.target.map(str::to_owned),
                instructions: function.instructions.clone(),
                functions: (function.func_info.func_info_bytes(), size(function.func_info_rec_size)),
                lines: (function.line_info.line_info_bytes(), size(function.line_info_rec_size)),
                btf: btf.cloned(),
                license: program.license.clone(),
            },
        );
    }
    code
}
