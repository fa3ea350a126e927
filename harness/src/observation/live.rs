//! What live replay made of recorded conversations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How a recorded conversation could be played against the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// As recorded: every packet of the played end was sent, every byte arrived, it ended as recorded.
    #[default]
    Replayed,
    /// To its recorded end, with differences that are named.
    Adapted,
    /// Not at all.
    Refused,
    /// It did not come to its recorded end.
    Failed,
}

impl Fate {
    /// In lower case.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Adapted => "adapted",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// One recorded conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveFlow {
    /// `tcp` or `udp`; what else was recorded is `other`.
    pub proto: String,
    /// Who began it, `address:port`.
    pub client: String,
    /// The other end.
    pub server: String,
    /// What became of it.
    pub fate: Fate,
    /// What was different, or why it was not played, or not to its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// How it ended in the capture: `closed`, `reset by client`, `refused`, `half-open`, `half-closed by server`, `open`;
    /// `datagrams` for UDP.
    pub recorded_end: String,
    /// How it ended now.
    pub live_end: String,
    /// Payload bytes in the capture, client to server and back.
    pub recorded_bytes: super::PerDirection,
    /// Payload bytes that went through the kernel's socket.
    pub socket_bytes: super::PerDirection,
    /// Packets of the played end that were sent.
    pub sent: u64,
    /// Packets of the live end that came.
    pub received: u64,
    /// The real application that answered in the place of the recorded server, as it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarded_to: Option<String>,
}

/// A capture played against the kernel's own sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// Which end of the conversations the device under test was: `client` or `server`.
    pub dut: String,
    /// Conversations by what became of them.
    pub fates: BTreeMap<Fate, u64>,
    /// Conversations that ended as recorded, of those that were played.
    pub as_recorded: u64,
    /// All of them, in the order of their first packets.
    pub flows: Vec<LiveFlow>,
    /// The kernel's own counters of the device under test, as `nstat` names them, and by how much each rose.
    pub counters: BTreeMap<String, u64>,
}
