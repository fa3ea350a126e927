//! What was seen of an object under test.

use serde::{Deserialize, Serialize};

use crate::rows::{EventRows, MapRows};

/// An object under test after a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UnderTest {
    /// Its name.
    pub object: String,
    /// The library that made its maps.
    pub loader: String,
    /// Its programs that took part.
    pub programs: Vec<ProgramSeen>,
    /// Packets that a program changed, the first of each kind of change; lockstep mode.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// Its maps, rings left out.
    pub maps: Vec<MapRows>,
    /// Its rings and perf event arrays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EventRows>,
    /// What programs printed meanwhile (`bpf_printk`), if that was asked for: which of them the kernel does not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub printed: Vec<String>,
    /// What is not known, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A program under test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramSeen {
    /// Its name.
    pub program: String,
    /// Where it was attached.
    pub hook: String,
    /// What it decided, by verdict and class of packet; lockstep mode.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<VerdictCount>,
    /// How often it ran, by the kernel's statistics, if those were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<u64>,
    /// Mean time of a run, ns, by the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_ns: Option<u64>,
}

/// How many packets of a class had a verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VerdictCount {
    /// `XDP_DROP`, `TC_ACT_OK`, ...
    pub verdict: String,
    /// `tcp syn`, `udp 53`, `arp request`, ...
    pub class: String,
    /// How many.
    pub packets: u64,
}

/// Packets that a program changed in the same fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The program.
    pub program: String,
    /// Class of the packets, as in [`VerdictCount`].
    pub class: String,
    /// How many.
    pub packets: u64,
    /// Number of the first in the capture.
    pub first: u64,
    /// What was changed in the first.
    pub fields: Vec<ChangedField>,
}

/// A field of a packet that a program changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedField {
    /// `ethernet.destination`, `ipv4.ttl`, `tcp.checksum`, `payload`, `length`, ...
    pub field: String,
    /// Its value before; absent where the packet had no such field.
    pub before: Option<String>,
    /// Its value after; absent where it has none any more.
    pub after: Option<String>,
}
