//! Reports: pure functions from a [`Document`] to text. Nothing here looks at the machine.

pub mod inspect;
pub mod matrix;
mod page;
pub mod terminal;

use serde::{Deserialize, Serialize};

use crate::apps::AppOutcome;
use crate::coverage::ProgramCoverage;
use crate::observation::Observation;

/// Version of the JSON document; raised when a key changes its meaning or goes away.
pub const VERSION: u32 = 1;

/// The capture, as the survey found it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CaptureSummary {
    /// Path as given.
    pub file: String,
    /// `pcap` or `pcapng`, with byte order and resolution.
    pub format: String,
    /// Link types by name.
    pub link_types: Vec<String>,
    /// Packets in the file.
    pub packets: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// From the first packet to the last, seconds.
    pub duration_s: f64,
    /// SHA-256 of the file, lower-case hexadecimal.
    pub sha256: String,
    /// What was unusual and what was done about it.
    pub findings: Vec<FindingSummary>,
}

/// One thing that is unusual about a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingSummary {
    /// Stable name of the kind.
    pub kind: String,
    /// Packets concerned.
    pub count: u64,
    /// Number of the first of them, from 1; absent where it concerns the file.
    pub first_packet: Option<u64>,
    /// How many of them were not offered because of it.
    pub refused: u64,
    /// A sentence: what it is, and what was done.
    pub message: String,
}

/// The kernel that ran the programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelSummary {
    /// `uname -r`.
    pub release: String,
    /// `uname -m`.
    pub machine: String,
}

/// How well the frames kept to their schedule (wire mode).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PacingSummary {
    /// Sending took so long, seconds.
    pub elapsed_s: f64,
    /// Frames a second.
    pub rate_pps: f64,
    /// Mean lateness behind the schedule, µs; 0 at top speed.
    pub mean_late_us: f64,
    /// Largest lateness, µs.
    pub max_late_us: f64,
}

/// The whole answer of one replay, as `--json` prints it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// [`VERSION`].
    pub version: u32,
    /// The capture.
    pub capture: CaptureSummary,
    /// The kernel.
    pub kernel: KernelSummary,
    /// `lockstep` or `wire`.
    pub mode: String,
    /// Why this mode.
    pub mode_reason: String,
    /// What sent the frames.
    pub engine: String,
    /// Clock of the analysis: `capture` or `kernel`.
    pub clock: String,
    /// Name of the topology, absent in lockstep.
    pub topology: Option<String>,
    /// Everything seen.
    #[serde(flatten)]
    pub observation: Observation,
    /// What became of the applications that made the traffic, in the order of the scenario.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apps: Vec<AppOutcome>,
    /// What programs under test reached, if that was counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub coverage: Vec<ProgramCoverage>,
    /// Schedule keeping, absent in lockstep.
    pub pacing: Option<PacingSummary>,
    /// What the reader must know to judge the numbers: withheld frames, missing probes, an interrupted run.
    pub notes: Vec<String>,
}

impl Document {
    /// The document as pretty JSON with a final newline.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings, numbers and string-keyed maps: serialising cannot fail.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

impl From<&crate::wire::Pacing> for PacingSummary {
    fn from(pacing: &crate::wire::Pacing) -> Self {
        Self {
            elapsed_s: pacing.elapsed_s,
            rate_pps: pacing.rate_pps,
            mean_late_us: pacing.mean_late_us,
            max_late_us: pacing.max_late_us,
        }
    }
}
