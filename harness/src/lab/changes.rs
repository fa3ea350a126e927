//! What a run changed in the maps of an object.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::object::{EbpfObject, ring};
use super::{LabError, Table};
use crate::rows::{Hints, Row, Zeros};

/// An entry of a map that a run made, changed or deleted.
#[derive(Clone, Debug, PartialEq)]
pub struct MapChange {
    /// The map; that of a data section is the section's.
    pub map: String,
    /// The entry's key: in a section the variable's name, in a map of maps `outer` and `inner`. `null` without keys.
    pub key: Value,
    /// Its value before, per-CPU numbers summed; absent for a new entry.
    pub before: Option<Value>,
    /// Its value after; absent for a deleted one.
    pub after: Option<Value>,
}

impl fmt::Display for MapChange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<Value>| value.as_ref().map_or_else(|| "none".to_owned(), Value::to_string);
        write!(out, "map {} at {}: {} -> {}", self.map, self.key, text(&self.before), text(&self.after))
    }
}

/// One map's elements at one time.
enum Contents {
    /// As bytes, so that only what differs need be decoded.
    Raw(BTreeMap<Vec<u8>, Vec<u8>>),
    /// As rows by the text of their key: maps of maps, whose own elements are but numbers of maps.
    Rows(BTreeMap<String, Row>),
}

/// The maps of an object at one time. Constants, rings and what the kernel does not list are left out; so are queues and
/// stacks, which can be read only by emptying them.
pub(super) struct State(Vec<(Table, Contents)>);

impl State {
    pub(super) fn of<O: EbpfObject + ?Sized>(object: &O) -> Result<Self, LabError> {
        let mut maps = Vec::new();
        for (name, fd) in object.maps_by_name() {
            if ring(fd) || name.starts_with(".rodata") || name == ".kconfig" {
                continue;
            }
            let hints = Hints { zeros: Some(Zeros::Show), limit: Some(usize::MAX), ..Hints::default() };
            let table = Table::open(object.object_name(), fd, object.source(&name), &hints)?;
            if let Some(contents) = contents(object.object_name(), &table)? {
                maps.push((table, contents));
            }
        }
        maps.sort_by(|(one, _), (other, _)| one.inner().name().cmp(other.inner().name()));
        Ok(Self(maps))
    }

    /// What has changed since.
    pub(super) fn changes(self, object: &str) -> Result<Vec<MapChange>, LabError> {
        let mut changes = Vec::new();
        for (table, before) in self.0 {
            let after = contents(object, &table)?;
            match (before, after) {
                (Contents::Raw(before), Some(Contents::Raw(after))) => raw(&table, &before, &after, &mut changes),
                (Contents::Rows(before), Some(Contents::Rows(after))) => {
                    rows(table.inner().name(), before, after, &mut changes);
                }
                _ => {}
            }
        }
        Ok(changes)
    }
}

fn contents(object: &str, table: &Table) -> Result<Option<Contents>, LabError> {
    let raw = table.inner().raw().map_err(LabError::rows(object, table.inner().name()))?;
    if let Some(raw) = raw {
        return Ok(Some(Contents::Raw(raw)));
    }
    if !table.inner().holds_maps() {
        return Ok(None);
    }
    Ok(Some(Contents::Rows(by_key(table.read()?.rows))))
}

fn by_key(rows: Vec<Row>) -> BTreeMap<String, Row> {
    rows.into_iter().map(|row| (row.key.as_ref().map_or_else(String::new, Value::to_string), row)).collect()
}

fn raw(
    table: &Table,
    before: &BTreeMap<Vec<u8>, Vec<u8>>,
    after: &BTreeMap<Vec<u8>, Vec<u8>>,
    changes: &mut Vec<MapChange>,
) {
    let decoded = |key: &[u8], value: Option<&Vec<u8>>| {
        by_key(value.map_or_else(Vec::new, |value| table.inner().rows_of(key, value)))
    };
    let new = after.keys().filter(|key| !before.contains_key(*key));
    for key in before.keys().chain(new) {
        let (old, now) = (before.get(key), after.get(key));
        if old != now {
            rows(table.inner().name(), decoded(key, old), decoded(key, now), changes);
        }
    }
}

fn rows(map: &str, mut before: BTreeMap<String, Row>, after: BTreeMap<String, Row>, changes: &mut Vec<MapChange>) {
    let mut change = |key: Option<Value>, before: Option<Value>, after: Option<Value>| {
        if before != after {
            changes.push(MapChange { map: map.to_owned(), key: key.unwrap_or_default(), before, after });
        }
    };
    for (text, row) in after {
        change(row.key, before.remove(&text).map(|row| row.value), Some(row.value));
    }
    for row in before.into_values() {
        change(row.key, Some(row.value), None);
    }
}
