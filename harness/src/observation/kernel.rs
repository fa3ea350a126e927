//! What the kernel says or does of its own: its sockets, its drops, its answers.

use serde::{Deserialize, Serialize};

/// Which part of the machine gave a packet up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropClass {
    /// The verdict of an XDP or tc program.
    Verdict,
    /// A rule of the packet filter.
    Netfilter,
    /// A queueing discipline on the way out.
    Qdisc,
    /// A socket whose receive buffer, or the memory of its protocol, was full.
    SocketBuffer,
    /// Any other part of the kernel, or one that cannot be told.
    #[default]
    Other,
}

impl DropClass {
    /// As in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Verdict => "verdict",
            Self::Netfilter => "netfilter",
            Self::Qdisc => "qdisc",
            Self::SocketBuffer => "socket_buffer",
            Self::Other => "other",
        }
    }
}

/// ICMP errors that the device under test sent of its own, as they left it: rate limits and rules have had their say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IcmpError {
    /// `icmp` or `icmpv6`.
    pub proto: String,
    /// Type (RFC 792, RFC 4443).
    #[serde(rename = "type")]
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// What type and code mean: `port unreachable`.
    pub meaning: String,
    /// `proto source > destination` of the packet that the error quotes.
    pub flow: String,
    /// Reasons of the drops of that flow, or their places on a kernel without reasons, the most frequent first; empty
    /// where `drops` has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped_for: Vec<String>,
    /// How many.
    pub packets: u64,
}

/// What the kernel says of one of its TCP sockets, as of the last time that it took in or sent a segment or changed its
/// state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KernelSocket {
    /// Host of the topology that owns the socket.
    pub host: String,
    /// Local address and port.
    pub local: String,
    /// Remote address and port.
    pub remote: String,
    /// State by the kernel's name without prefix (`ESTABLISHED`).
    pub state: String,
    /// Smoothed round-trip time (RFC 6298), µs; the kernel keeps it in eighths (`srtt_us`, include/linux/tcp.h).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub srtt_us: Option<f64>,
    /// Congestion window, segments.
    pub cwnd: u64,
    /// The largest that was seen.
    pub cwnd_max: u64,
    /// Receive window as of the last segment sent, bytes; none before the handshake is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_window: Option<u64>,
    /// Shift of that window in the segment (RFC 7323).
    pub window_scale: u8,
    /// Segments sent again (`tcpi_total_retrans`).
    pub retransmissions: u64,
    /// How often the kernel told of one (`tcp:tcp_retransmit_skb`).
    pub retransmit_events: u64,
    /// RSTs that ended it.
    pub resets_received: u64,
    /// RSTs that it sent in answer.
    pub resets_sent: u64,
}

/// A property of a connection in which the path's view and a socket's differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disagreement {
    /// Host of the topology that owns the socket.
    pub host: String,
    /// Its local address and port.
    pub local: String,
    /// Its remote address and port.
    pub remote: String,
    /// `state`, `retransmissions`, `receive window`, `round trip`.
    pub property: String,
    /// What an observer on the path concludes.
    pub wire: String,
    /// What the kernel says.
    pub kernel: String,
}
