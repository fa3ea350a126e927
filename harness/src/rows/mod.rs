//! Contents of any map and events of any ring as readable rows, and entries of maps from readable values.
//!
//! Everything goes through descriptors and types: a map of any object, loaded by whomever, is opened as a
//! [`TypedMap`] with what is known of it (its [`Source`]) and read as [`MapRows`]; a ring or perf event array is opened
//! as [`TypedEvents`]. The types are those that the kernel has for the map, else those of the object's own BTF. Without
//! either, rows are bytes in hexadecimal and say so.
//!
//! [`Decoder`] and [`Encoder`] are the two directions of one compiled plan per type. [`Hints`] are what a scenario says of
//! formats, order and identities; [`arrange`] applies them, and [`render`] makes the text that is reviewed.
//!
//! ```text
//! descriptor -> raw elements -> Decoder (formats) -> arrange (sums, ranges, order, numbering) -> MapRows -> render
//! ```

mod arrange;
mod compile;
mod decode;
mod definition;
mod encode;
mod events;
mod hints;
mod listing;
mod map;
mod names;
mod order;
mod plan;
mod render;
mod text;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use arrange::{Aliases, Arranger, DEFAULT_LIMIT, RawValue, arrange, arrange_events};
pub use compile::PlanError;
pub use decode::{Decoder, REST};
pub use definition::{MapTypes, Variable, encode_global, event_type, map_types, variables};
pub use encode::{EncodeError, Encoder, encode};
pub use events::{DEFAULT_PAGES, EventReader, TypedEvents};
pub use hints::{Buckets, Format, Formats, HintError, Hints, PerCpu, Power, Zeros};
pub use listing::kind_name;
pub use map::{ReadOptions, Source, TypedMap};
pub use plan::{MAX_VALUES, Plan};
pub use render::{render, render_events};

/// An element of a map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its key: the name of a variable for sections, `outer` and `inner` for maps in maps, the place for queues and
    /// stacks.
    pub key: Option<Value>,
    /// Its value.
    pub value: Value,
}

/// The contents of a map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MapRows {
    /// The map's name.
    pub map: String,
    /// Its kind, see [`kind_name`].
    pub kind: String,
    /// Whether keys and values were decoded by types; else they are bytes.
    pub typed: bool,
    /// What a reader has to know, one sentence a line: why there are no rows, what is not shown.
    pub note: Option<String>,
    /// The rows, in order.
    pub rows: Vec<Row>,
    /// How many more there are than the limit allows.
    pub more: u64,
}

/// The events of a ring or perf event array.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRows {
    /// The map's name.
    pub map: String,
    /// Whether events were decoded by a type; else they are bytes.
    pub typed: bool,
    /// What a reader has to know.
    pub note: Option<String>,
    /// Events that found their buffer full; nothing for rings, of which the kernel does not count them.
    pub lost: Option<u64>,
    /// The events, in the order of their arrival unless hints sort them.
    pub events: Vec<Value>,
    /// How many more there were than is kept.
    pub more: u64,
}

/// Why a map could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// The kernel refused.
    #[error("cannot {operation} map {map}")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// The map.
        map: String,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
    /// Events cannot be read.
    #[error("cannot read events of map {map}")]
    Events {
        /// The map.
        map: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A type that was asked for cannot be decoded, or a format does not fit it.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A hint is wrong.
    #[error(transparent)]
    Hint(#[from] HintError),
    /// An entry does not fit its type.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A key is missing, or given for a map without keys.
    #[error("cannot write to map {map}: {}", if *.wanted { "an entry needs a key" } else { "its entries have no key" })]
    Key {
        /// The map.
        map: String,
        /// Whether the map has keys.
        wanted: bool,
    },
    /// The map holds programs, maps or the like, which no value stands for.
    #[error("cannot write to map {0}: it holds descriptors of programs or maps, which a loader puts there")]
    Descriptors(String),
}

impl RowsError {
    fn map(operation: &'static str, map: &str, source: std::io::Error) -> Self {
        Self::Map { operation, map: map.to_owned(), source }
    }

    fn events(map: &str, source: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Self::Events { map: map.to_owned(), source }
    }
}
