//! Maps and events by their types.

use std::any::type_name;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::LabError;
use crate::rows::{
    Aliases, DEFAULT_PAGES, EventRows, Hints, MapRows, ReadOptions, RowsError, Source, TypedEvents, TypedMap,
};

/// A map whose entries are read and written by their types.
///
/// Keys and values are whatever serde makes of the map's types: numbers, texts for enums and addresses, tables for
/// structs, lists for arrays. Give [`serde_json::Value`] where any will do, a type of your own with `Deserialize` where
/// not; members that it does not name are passed over. Without types they are texts of bytes in hexadecimal.
/// In the map of a section (`.bss`, `.data`) the keys are the names of the variables.
#[derive(Debug)]
pub struct Table {
    object: String,
    map: TypedMap,
}

impl Table {
    pub(super) fn open(object: &str, fd: BorrowedFd<'_>, source: Source<'_>, hints: &Hints) -> Result<Self, LabError> {
        let map = TypedMap::open(fd, source, hints).map_err(LabError::rows(object, source.name))?;
        Ok(Self { object: object.to_owned(), map })
    }

    /// Its entries in order, per-CPU numbers summed. A map without keys (a queue) has the key `null`, which is `()`.
    ///
    /// # Errors
    /// [`LabError::Map`]; [`LabError::Type`] for an entry that is no `K` or `V`.
    pub fn rows<K: DeserializeOwned, V: DeserializeOwned>(&self) -> Result<Vec<(K, V)>, LabError> {
        let rows = self.read()?.rows;
        rows.into_iter()
            .map(|row| Ok((self.take("key", row.key.unwrap_or_default())?, self.take("value", row.value)?)))
            .collect()
    }

    /// Its contents as they stand in a snapshot ([`crate::rows::render`] makes the text), with what a reader has to
    /// know of them.
    ///
    /// # Errors
    /// [`LabError::Map`].
    pub fn read(&self) -> Result<MapRows, LabError> {
        self.map.read(ReadOptions::default(), &mut Aliases::default()).map_err(|error| self.failed(error))
    }

    /// The value at a key, a per-CPU value as a list of each possible CPU's; nothing if there is none.
    ///
    /// # Errors
    /// [`LabError::Map`] for a key that does not fit, [`LabError::Type`].
    pub fn get<V: DeserializeOwned>(&self, key: impl Serialize) -> Result<Option<V>, LabError> {
        let key = self.give("key", &key)?;
        let found = self.map.get(&key).map_err(|error| self.failed(error))?;
        found.map(|value| self.take("value", value)).transpose()
    }

    /// Writes an entry, on every CPU where CPUs have values of their own. A map without keys takes `()`.
    ///
    /// # Errors
    /// [`LabError::Map`] for a key or value that does not fit, and what the kernel refuses.
    pub fn set(&self, key: impl Serialize, value: impl Serialize) -> Result<(), LabError> {
        let (key, value) = (self.give("key", &key)?, self.give("value", &value)?);
        let key = (!key.is_null()).then_some(&key);
        self.map.set(key, &value).map_err(|error| self.failed(error))
    }

    /// Deletes an entry and says whether there was one.
    ///
    /// # Errors
    /// As [`Table::set`].
    pub fn delete(&self, key: impl Serialize) -> Result<bool, LabError> {
        let key = self.give("key", &key)?;
        self.map.delete(&key).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: RowsError) -> LabError {
        LabError::map(&self.object, self.map.name(), error)
    }

    fn take<T: DeserializeOwned>(&self, part: &str, value: Value) -> Result<T, LabError> {
        from_value(self.map.name(), part, value)
    }

    fn give<T: Serialize>(&self, part: &str, value: &T) -> Result<Value, LabError> {
        let failed = |source| LabError::Type {
            map: self.map.name().to_owned(),
            what: format!("{part} of Rust type {}", type_name::<T>()),
            expected: "value of a row",
            source,
        };
        serde_json::to_value(value).map_err(failed)
    }
}

/// A part of a map as a Rust value.
pub(super) fn from_value<T: DeserializeOwned>(map: &str, part: &str, value: Value) -> Result<T, LabError> {
    let what = format!("{part} {value}");
    let map = map.to_owned();
    serde_json::from_value(value).map_err(|source| LabError::Type { map, what, expected: type_name::<T>(), source })
}

/// Longest wait for a ring's word that there is an event: programs may send without one (`BPF_RB_NO_WAKEUP`).
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The events of a ring buffer or perf event array, by their type.
#[derive(Debug)]
pub struct Events {
    object: String,
    map: String,
    events: TypedEvents,
}

impl Events {
    pub(super) fn open(object: &str, fd: BorrowedFd<'_>, source: Source<'_>, hints: &Hints) -> Result<Self, LabError> {
        let events = TypedEvents::open(fd, source, hints, DEFAULT_PAGES);
        let events = events.map_err(LabError::rows(object, source.name))?;
        Ok(Self { object: object.to_owned(), map: source.name.to_owned(), events })
    }

    /// The events since the last call, as values of any type that serde makes of the events' own, see [`Table`]. Does
    /// not wait: [`Events::wait_for`] does.
    ///
    /// # Errors
    /// [`LabError::Type`] for an event that is no `T`.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Vec<T>, LabError> {
        let rows = self.rows();
        rows.events.into_iter().map(|event| from_value(&self.map, "event", event)).collect()
    }

    /// The events since the last call as they stand in a snapshot, with the number of lost ones.
    #[must_use]
    pub fn rows(&mut self) -> EventRows {
        self.drain();
        self.events.take(&mut Aliases::default())
    }

    /// Waits for events until there are at least `count` since the last call, and takes them all.
    ///
    /// # Errors
    /// [`LabError::InVain`] after `limit`, which leaves the events where they are; as [`Events::take`].
    pub fn wait_for<T: DeserializeOwned>(&mut self, count: usize, limit: Duration) -> Result<Vec<T>, LabError> {
        let deadline = Instant::now() + limit;
        loop {
            self.drain();
            let pending = self.events.pending();
            if pending.len() >= count {
                return self.take();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let last = pending.last().map_or_else(String::new, |event| format!(", the last of them {event}"));
                let seen = format!("{} of {count} events of map {}{last}", pending.len(), self.map);
                return Err(LabError::InVain { waited: limit, seen });
            }
            let waited = self.events.wait(left.min(LOOK_AGAIN).max(Duration::from_millis(1)));
            waited.map_err(|error| LabError::map(&self.object, &self.map, error))?;
        }
    }

    pub(super) fn drain(&mut self) {
        self.events.drain();
    }

    pub(super) fn take_rows(&mut self, aliases: &mut Aliases) -> EventRows {
        self.drain();
        self.events.take(aliases)
    }
}

impl Table {
    pub(super) fn inner(&self) -> &TypedMap {
        &self.map
    }

    pub(super) fn read_with(&self, aliases: &mut Aliases) -> Result<MapRows, LabError> {
        self.map.read(ReadOptions::default(), aliases).map_err(|error| self.failed(error))
    }
}
