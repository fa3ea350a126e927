//! Objects under test for a terminal.

use super::Page;
use crate::observation::{Change, UnderTest};
use crate::rows::{EventRows, MapRows, render, render_events};

/// One object: what its programs decided and changed, its maps, its events, what it printed.
pub(super) fn section(page: &mut Page, object: &UnderTest) {
    page.heading(&format!("Object {}", object.object), &format!("maps made by {}", object.loader));
    object.notes.iter().for_each(|note| {
        let note = page.warn(note);
        page.line(format!("  {note}"));
    });
    programs(page, object);
    object.changes.iter().for_each(|change| changed(page, change));
    object.maps.iter().for_each(|map| rows(page, map));
    object.events.iter().for_each(|ring| events(page, ring));
    if !object.printed.is_empty() {
        page.line("");
        page.line(format!("  printed by programs, {} lines", object.printed.len()));
        let shown = object.printed.len().min(page.layout.rows);
        object.printed[..shown].iter().for_each(|line| page.line(format!("    {line}")));
        more(page, object.printed.len() - shown);
    }
}

fn programs(page: &mut Page, object: &UnderTest) {
    let dash = || "-".to_owned();
    let mut table = Vec::new();
    for program in &object.programs {
        let head = [
            program.program.clone(),
            program.hook.clone(),
            program.runs.map_or_else(dash, |runs| runs.to_string()),
            program.mean_ns.map_or_else(dash, |ns| format!("{ns} ns")),
        ];
        if program.verdicts.is_empty() {
            table.push([&head[..], &[dash(), dash(), dash()]].concat());
        }
        for (index, count) in program.verdicts.iter().enumerate() {
            let head = if index == 0 { head.to_vec() } else { vec![String::new(); head.len()] };
            table.push([head, vec![count.verdict.clone(), count.class.clone(), count.packets.to_string()]].concat());
        }
    }
    page.table(&["program", "hook", "runs", "mean", "verdict", "packets of class", "packets"], &table);
}

fn changed(page: &mut Page, change: &Change) {
    page.line("");
    let Change { program, class, packets, first, .. } = change;
    page.line(format!("  {program} changed {packets} packets ({class}), packet {first} first"));
    for field in &change.fields {
        let absent = || "absent".to_owned();
        let (before, after) = (field.before.clone().unwrap_or_else(absent), field.after.clone().unwrap_or_else(absent));
        page.line(format!("    {:<24} {before} -> {after}", field.field));
    }
}

fn rows(page: &mut Page, map: &MapRows) {
    page.line("");
    page.line(format!("  map {} ({}), {} rows", map.map, map.kind, map.rows.len()));
    let shown = MapRows { rows: map.rows.iter().take(page.layout.rows).cloned().collect(), ..map.clone() };
    render(&shown).lines().for_each(|line| page.line(format!("    {line}")));
    more(page, map.rows.len() - shown.rows.len());
}

fn events(page: &mut Page, ring: &EventRows) {
    page.line("");
    page.line(format!("  events {}, {} of them", ring.map, ring.events.len()));
    let shown = EventRows { events: ring.events.iter().take(page.layout.rows).cloned().collect(), ..ring.clone() };
    render_events(&shown).lines().for_each(|line| page.line(format!("    {line}")));
    more(page, ring.events.len() - shown.events.len());
}

fn more(page: &mut Page, count: usize) {
    if count > 0 {
        page.line(format!("    ... and {count} more (--rows 0 shows all, --json has them)"));
    }
}
