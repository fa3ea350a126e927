//! What came of packets that were sent.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;

use super::LabError;
use super::table::from_value;
use crate::capture::Side;
use crate::observation::{Ledger, Observation};
use crate::snapshot::{self, Rules};

/// A frame at a far end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The end at which it arrived: for a frame that was sent by the client and forwarded, the server's.
    pub side: Side,
    /// The frame, from its destination address on; of a frame on the wire its first 4096 bytes.
    pub data: Vec<u8>,
}

/// What came of packets that were sent. `Display` is the canonical text, the same on every kernel that behaves the same:
/// `insta::assert_snapshot!(outcome)`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The account of every packet, drops by program and flow, and of each object its programs, its maps and events as far
    /// as [`super::Lab::observe`] asked for them.
    pub observation: Observation,
    /// Frames that arrived: on the wire at the far ends, in lockstep those that every program let pass. In the order of
    /// their arrival.
    pub received: Vec<Received>,
    /// What a reader must know to judge the numbers.
    pub notes: Vec<String>,
}

impl Outcome {
    /// The account of every packet.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.observation.ledger
    }

    /// How many packets a program has ended, by the kernel's name of the verdict (`XDP_DROP`). Packets that it let pass
    /// are not among them.
    #[must_use]
    pub fn ended_by(&self, program: &str) -> BTreeMap<&str, u64> {
        let mut ended = BTreeMap::new();
        for drop in self.observation.drops.iter().filter(|drop| drop.place == program && drop.by != "kernel") {
            *ended.entry(drop.reason.as_str()).or_default() += drop.packets;
        }
        ended
    }

    /// The events of a ring of an observed object since the outcome before, as values of any type that serde makes of
    /// the events' own; none for a ring that is not observed.
    ///
    /// # Errors
    /// [`LabError::Type`] for an event that is no `T`.
    pub fn events<T: DeserializeOwned>(&self, map: &str) -> Result<Vec<T>, LabError> {
        let rings = self.observation.objects.iter().flat_map(|object| &object.events).filter(|ring| ring.map == map);
        rings.flat_map(|ring| &ring.events).map(|event| from_value(map, "event", event.clone())).collect()
    }

    /// The canonical text without some sections, or with texts replaced.
    #[must_use]
    pub fn text(&self, rules: &Rules) -> String {
        snapshot::render(&self.observation, rules)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text(&Rules::default()))
    }
}
