//! An object file for a terminal.

use super::page::{Layout, Page};
use crate::subject::inspect::{GlobalView, Inspection, MapView, ProgramView};

/// Renders what an object is.
#[must_use]
pub fn render(inspection: &Inspection, layout: Layout) -> String {
    let mut page = Page::new(layout);
    header(&mut page, inspection);
    programs(&mut page, &inspection.programs);
    maps(&mut page, &inspection.maps);
    globals(&mut page, &inspection.globals);
    page.text
}

fn header(page: &mut Page, inspection: &Inspection) {
    let types = match (inspection.types, inspection.lines) {
        (true, true) => "types and source lines (BTF)",
        (true, false) => "types (BTF), no source lines",
        (false, _) => "no types: maps are shown as bytes; compile with -g",
    };
    page.field("object", format!("{}, {} bytes, {types}", inspection.object, inspection.bytes));
    let license = inspection
        .license
        .as_deref()
        .map_or_else(|| page.warn("none: helpers that are for GPL programs are refused"), str::to_owned);
    page.field("licence", license);
    let needs = &inspection.needs;
    let first = needs.first_kernel.as_deref().unwrap_or("5.10 or older");
    let since: Vec<String> = needs.since.iter().map(|(what, since)| format!("{what} ({since})")).collect();
    let since = if since.is_empty() { String::new() } else { format!(": {}", since.join(", ")) };
    page.field("kernel", format!("Linux {first} by what its code names{since}"));
    if !needs.helpers.is_empty() {
        page.field("helpers", needs.helpers.join(", "));
    }
    if !needs.externs.is_empty() {
        page.field("externs", needs.externs.join(", "));
    }
    let mut traits = Vec::new();
    if needs.core_relocations > 0 {
        traits.push(format!("{} relocations against the kernel's types (CO-RE)", needs.core_relocations));
    }
    if needs.functions > 0 {
        traits.push(format!("{} functions that programs call", needs.functions));
    }
    if needs.tail_calls {
        traits.push("tail calls".to_owned());
    }
    if !traits.is_empty() {
        page.field("code", traits.join(", "));
    }
    if let Some(kernel) = &inspection.kernel {
        let loader = inspection.loader.map_or_else(|| "none".to_owned(), |loader| loader.to_string());
        page.field("loaded", format!("on {kernel}, maps made by {loader}"));
    }
    if let Some(problem) = &inspection.problem {
        let problem = page.bad(problem);
        page.field("problem", problem);
    }
}

fn programs(page: &mut Page, programs: &[ProgramView]) {
    page.heading("Programs", &programs.len().to_string());
    if programs.is_empty() {
        return;
    }
    let dash = || "-".to_owned();
    let rows: Vec<Vec<String>> = programs
        .iter()
        .map(|program| {
            let loads = match program.loads {
                Some(true) => "yes".to_owned(),
                Some(false) => page.bad("no"),
                None => "-".to_owned(),
            };
            vec![
                program.program.clone(),
                program.section.clone(),
                program.kind.unwrap_or("-").to_owned(),
                program.target.clone().unwrap_or_else(dash),
                program.relocated.unwrap_or(program.instructions).to_string(),
                loads,
                program.verified.map_or_else(dash, |count| count.to_string()),
                program.stack_bytes.map_or_else(dash, |bytes| bytes.to_string()),
                program.load_us.map_or_else(dash, |us| format!("{us} us")),
            ]
        })
        .collect();
    let titles =
        ["program", "section", "kind", "target", "instructions", "loads", "verified", "stack bytes", "load time"];
    page.table(&titles, &rows);
    for program in programs {
        if let Some(reason) = &program.reason {
            let name = page.bad(&program.program);
            page.line("");
            page.line(format!("  {name}: {}", reason.replace('\n', "\n    ")));
        }
    }
}

fn maps(page: &mut Page, maps: &[MapView]) {
    page.heading("Maps", &maps.len().to_string());
    if maps.is_empty() {
        return;
    }
    let typed = |name: &Option<String>, size: Option<u32>| match (name, size) {
        (Some(name), Some(size)) => format!("{name} ({size} B)"),
        (Some(name), None) => name.clone(),
        (None, Some(size)) => format!("{size} B"),
        (None, None) => "-".to_owned(),
    };
    let rows: Vec<Vec<String>> = maps
        .iter()
        .map(|map| {
            vec![
                map.map.clone(),
                map.kind.clone(),
                typed(&map.key, map.key_size),
                typed(&map.value, map.value_size),
                map.max_entries.map_or_else(|| "-".to_owned(), |entries| entries.to_string()),
                map.filled.iter().map(|(slot, of)| format!("{slot}: {of}")).collect::<Vec<_>>().join(", "),
            ]
        })
        .collect();
    page.table(&["map", "type", "key", "value", "entries", "filled by the object"], &rows);
}

fn globals(page: &mut Page, globals: &[GlobalView]) {
    if globals.is_empty() {
        return;
    }
    page.heading("Globals", &globals.len().to_string());
    let rows: Vec<Vec<String>> = globals
        .iter()
        .map(|global| {
            let initial = global.initial.as_deref().unwrap_or("0");
            let initial = if initial.len() > 32 { format!("{}...", &initial[..32]) } else { initial.to_owned() };
            vec![
                global.global.clone(),
                global.section.clone(),
                global.ty.clone().unwrap_or_else(|| "-".to_owned()),
                format!("{} B", global.size),
                initial,
            ]
        })
        .collect();
    page.table(&["global", "section", "type", "size", "at first (bytes)"], &rows);
}
