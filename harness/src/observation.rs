//! Everything a run saw, typed. Collectors fill it, snapshots and reports render it; it knows neither.
//!
//! Times are microseconds; `*_us` fields are fractions of the capture's own resolution, kept to the nanosecond.

mod kernel;
pub mod live;
mod under_test;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use kernel::{Disagreement, DropClass, IcmpError, KernelSocket};
pub use under_test::{Change, ChangedField, ProgramSeen, UnderTest, VerdictCount};

/// A pair of counts, one per direction of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerDirection {
    /// From `a`, the endpoint that spoke first, to `b`.
    pub a_to_b: u64,
    /// From `b` to `a`.
    pub b_to_a: u64,
}

/// Where every offered packet ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Frames handed to the topology (or to test-run).
    pub offered: u64,
    /// Arrived at the far end (wire), or passed every program (lockstep).
    pub delivered: u64,
    /// Given up by the kernel.
    pub dropped: u64,
    /// Ended by a program's verdict, or taken in by the device under test itself.
    pub consumed: u64,
    /// Everything else. Not 0 means that the lab lost track, and is reported as such.
    pub unaccounted: u64,
    /// `dropped` by reason.
    #[serde(default)]
    pub dropped_by: BTreeMap<String, u64>,
    /// `consumed` by verdict.
    #[serde(default)]
    pub consumed_by: BTreeMap<String, u64>,
    /// Packets that the device under test made itself, not part of `offered`.
    #[serde(default)]
    pub generated: u64,
    /// Packets that arrived once more, as copies made by an impaired link: not part of `delivered`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub duplicated: u64,
}

/// What one hook saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// `xdp`, `tc_ingress`, `tc_egress`.
    pub hook: String,
    /// Packets.
    pub packets: u64,
    /// Bytes, Ethernet header included.
    pub bytes: u64,
}

/// One conversation. `a` is the endpoint that sent the first packet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `arp`, `gre`, ..., or `ip-N`, `eth-0xNNNN`.
    pub proto: String,
    /// `address:port`, `[address]:port`, an address, or a MAC address.
    pub a: String,
    /// The other endpoint.
    pub b: String,
    /// VLAN identifiers, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<u16>,
    /// Packets per direction.
    pub packets: PerDirection,
    /// Bytes per direction, Ethernet header included.
    pub bytes: PerDirection,
    /// Fragments among them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fragments: u64,
    /// `gre`, `vxlan`, `mpls` where the flow carries a tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encapsulation: Option<String>,
    /// Start, from the first packet of the run.
    pub start_us: f64,
    /// From the flow's first packet to its last.
    pub duration_us: f64,
}

/// A TCP handshake seen whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Handshake {
    /// The client, `address:port`.
    pub client: String,
    /// The server.
    pub server: String,
    /// SYN to SYN-ACK to ACK: `syn_to_syn_ack_us + syn_ack_to_ack_us`.
    pub rtt_us: f64,
    /// Network and server between the observer and the server.
    pub syn_to_syn_ack_us: f64,
    /// Network and client between the observer and the client.
    pub syn_ack_to_ack_us: f64,
    /// SYNs sent before the answer, beyond the first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub syn_retries: u64,
}

/// Round-trip times seen by matching data with acknowledgements, µs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rtt {
    /// Number of samples.
    pub samples: u64,
    /// Smallest.
    pub min_us: f64,
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Largest.
    pub max_us: f64,
}

/// One TCP connection as an observer on the path sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// The side that sent the SYN, or the first packet where no SYN was seen.
    pub client: String,
    /// The other side.
    pub server: String,
    /// `syn_sent`, `syn_received`, `established`, `fin_wait`, `closing`, `closed`, `reset`, `midstream`.
    pub state: String,
    /// `client` or `server`: who sent the RST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_by: Option<String>,
    /// Payload bytes without retransmissions, client to server and back.
    pub payload: PerDirection,
    /// Segments whose bytes had been seen before.
    pub retransmissions: PerDirection,
    /// Segments that filled a hole and were not sent again.
    pub out_of_order: PerDirection,
    /// Duplicate acknowledgements (RFC 5681 section 2).
    pub duplicate_acks: PerDirection,
    /// Segments that announced a window of 0.
    pub zero_windows: PerDirection,
    /// Window updates: same acknowledgement, other window, no data.
    pub window_updates: PerDirection,
    /// Round trips from the observer to the server and back, and to the client and back.
    pub rtt_to_server: Rtt,
    /// As `rtt_to_server`, towards the client.
    pub rtt_to_client: Rtt,
    /// Window that the client announced last, as it stands in the segment; none before its handshake is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_window: Option<u16>,
    /// The server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_window: Option<u16>,
}

/// A change of a kernel socket's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Transition {
    /// Host of the topology that owns the socket.
    pub host: String,
    /// Local address and port.
    pub local: String,
    /// Remote address and port.
    pub remote: String,
    /// State before, by the kernel's name without prefix (`SYN_SENT`).
    pub from: String,
    /// State after.
    pub to: String,
}

/// TCP health of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tcp {
    /// Segments with SYN and without ACK.
    pub syn: u64,
    /// Segments with SYN and ACK.
    pub syn_ack: u64,
    /// Segments with RST.
    pub rst: u64,
    /// Segments with FIN.
    pub fin: u64,
    /// See [`Connection`]; sums over all connections and directions.
    pub retransmissions: u64,
    /// Segments that arrived late but only once.
    pub out_of_order: u64,
    /// Duplicate acknowledgements.
    pub duplicate_acks: u64,
    /// Announcements of a zero window.
    pub zero_windows: u64,
    /// Window updates.
    pub window_updates: u64,
    /// Connections whose SYN was never answered by an established connection nor refused.
    pub half_open: u64,
    /// Handshakes seen whole, in order of their SYN.
    pub handshakes: Vec<Handshake>,
    /// All connections, in order of their first packet.
    pub connections: Vec<Connection>,
    /// The kernel's own sockets (wire mode), in the order of events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_transitions: Vec<Transition>,
    /// What the kernel says of its sockets; empty unless `sockets` ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernel_sockets: Vec<KernelSocket>,
    /// Where that and the path's view differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disagreements: Vec<Disagreement>,
}

/// Packets dropped for one reason at one place, or by one verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// `kernel` or the hook whose program decided.
    pub by: String,
    /// The kernel's name of the reason (`NO_SOCKET`), or the verdict (`XDP_DROP`).
    pub reason: String,
    /// Which part of the machine that was.
    #[serde(default)]
    pub class: DropClass,
    /// Function that gave the packet up, or program that decided.
    pub place: String,
    /// Host of the topology.
    pub host: String,
    /// `proto source > destination` of the packets.
    pub flow: String,
    /// How many.
    pub packets: u64,
}

/// A DNS transaction, or the half of one that was seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Dns {
    /// Who asked.
    pub client: String,
    /// Who was asked.
    pub server: String,
    /// `udp` or `tcp`.
    pub transport: String,
    /// Name in the question, in lower case and without the final dot; `.` is the root.
    pub name: String,
    /// `A`, `AAAA`, ... or `TYPEn` (RFC 3597).
    #[serde(rename = "type")]
    pub kind: String,
    /// `NOERROR`, `NXDOMAIN`, ... ; absent without an answer.
    pub rcode: Option<String>,
    /// From the query to its answer; absent where one is missing.
    pub latency_us: Option<f64>,
    /// Answer records.
    pub answers: u64,
    /// The answer was cut to fit (TC bit).
    pub truncated: bool,
    /// EDNS UDP payload size of the query (RFC 6891), absent without OPT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edns_size: Option<u16>,
    /// `NOTIFY`, `UPDATE`, ...; absent for a standard query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opcode: Option<String>,
    /// How often the query was sent again before its answer came.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retransmissions: u64,
    /// What could not be read, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
}

/// An HTTP/1.x exchange, or the half of one that was seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Http {
    /// Who asked.
    pub client: String,
    /// Who answered.
    pub server: String,
    /// Method of the request.
    pub method: String,
    /// `Host` header, absent if the request had none.
    pub host: Option<String>,
    /// Request target as sent.
    pub path: String,
    /// `1.0` or `1.1`, of the request.
    pub version: String,
    /// Status code; absent without an answer.
    pub status: Option<u16>,
    /// From the first byte of the request to the first of the final response.
    pub latency_us: Option<f64>,
    /// Position of the exchange on its connection, from 1.
    pub exchange: u64,
    /// The request was sent before the previous response had come.
    pub pipelined: bool,
    /// What could not be read, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
}

/// A TLS handshake's two hellos, as far as seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tls {
    /// Who sent the ClientHello.
    pub client: String,
    /// Who sent the ServerHello.
    pub server: String,
    /// Server name (RFC 6066), absent if not sent.
    pub sni: Option<String>,
    /// Protocol chosen, or offered where no choice is visible (RFC 7301; TLS 1.3 encrypts the choice).
    pub alpn: Option<String>,
    /// Version of the session: `TLS 1.3`; the highest offered without a ServerHello.
    pub version: Option<String>,
    /// Cipher suite by its IANA name; absent without a ServerHello.
    pub cipher: Option<String>,
    /// From ClientHello to ServerHello.
    pub latency_us: Option<f64>,
    /// The server asked for another ClientHello (HelloRetryRequest, RFC 8446 section 4.1.4).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retried: bool,
    /// What could not be read, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
}

/// What measured a stage of the kernel's receive path, or why nothing did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageProbe {
    /// `driver`, `receive`, `ip`, `transport`, `queued`, `read`.
    pub stage: String,
    /// Which packets: `all`, `ipv4`, `tcp over ipv6`, `udp`, ...
    pub packets: String,
    /// `fentry ip_rcv_core`, `tracepoint netif_receive_skb`, ...; absent if it was not measured.
    pub by: Option<String>,
    /// Why it was not measured, or not by what would have been better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How long packets took from one stage to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTimes {
    /// Host of the topology.
    pub host: String,
    /// `proto source > destination`; absent in the sums over all flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<String>,
    /// `udp`, `tcp` (with payload), `tcp-control` (without), `other`.
    pub packets: String,
    /// As [`StageProbe::stage`], or `total`: from the packet's first stage to its read.
    pub stage: String,
    /// The stage from which the times count; absent where the packets were seen first.
    pub since: Option<String>,
    /// Packets.
    pub count: u64,
    /// Arithmetic mean, ns; like everything below, absent or 0 without `since`.
    pub mean_ns: u64,
    /// Shortest, ns.
    pub min_ns: Option<u64>,
    /// Median by nearest rank, ns.
    pub p50_ns: Option<u64>,
    /// 90th percentile, ns.
    pub p90_ns: Option<u64>,
    /// 99th percentile, ns.
    pub p99_ns: Option<u64>,
    /// Longest, ns.
    pub max_ns: u64,
    /// How many single times the percentiles are made of; less than `count` where the losses say so.
    pub samples: u64,
    /// Packets by the binary logarithm of their time: entry `n` counts those from `2^(n-1)` to under `2^n` ns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log2: Vec<u64>,
}

/// How full the receive queues of a local endpoint got.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiveQueue {
    /// Host of the topology.
    pub host: String,
    /// `tcp`, `udp`.
    pub proto: String,
    /// Local address and port; the connections that a TCP server has accepted are taken together.
    pub local: String,
    /// Packets that were put on the queue.
    pub queued: u64,
    /// Packets that the application has read.
    pub read: u64,
    /// Datagrams that a full queue refused.
    pub refused: u64,
    /// Most payload that waited on one socket, bytes.
    pub max_payload: u64,
    /// Most memory that one socket's queue took (`sk_rmem_alloc`), bytes.
    pub max_memory: u64,
    /// The limit of that memory at the time (`sk_rcvbuf`), bytes.
    pub limit: u64,
}

/// Packets' way through the kernel's receive path. The time between `queued` and `read` is the time in the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// What measured each stage.
    pub probes: Vec<StageProbe>,
    /// Times over all flows, by host, kind and stage.
    pub stages: Vec<StageTimes>,
    /// Times by flow as well.
    pub flows: Vec<StageTimes>,
    /// Receive queues, by host and endpoint.
    pub queues: Vec<ReceiveQueue>,
}

/// Everything a run saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The account of every packet.
    pub ledger: Ledger,
    /// What each hook saw.
    pub hooks: Vec<Hook>,
    /// Flows, in order of their first packet.
    pub flows: Vec<Flow>,
    /// TCP health; absent if `tcp_state` did not run.
    pub tcp: Option<Tcp>,
    /// Drops by reason and place, most first.
    pub drops: Vec<Drop>,
    /// ICMP errors sent in answer, by flow.
    #[serde(default)]
    pub icmp_errors: Vec<IcmpError>,
    /// Malformed packets by what is wrong; a packet may count more than once.
    pub malformed: BTreeMap<String, u64>,
    /// DNS transactions, in order of their first message.
    pub dns: Vec<Dns>,
    /// HTTP exchanges, in order of their first message.
    pub http: Vec<Http>,
    /// TLS handshakes, in order of their first message.
    pub tls: Vec<Tls>,
    /// Times through the kernel; absent if `latency` did not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// Recorded conversations played against the kernel's sockets; absent in other modes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<live::Live>,
    /// Objects under test, in the order of the scenario.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<UnderTest>,
    /// What was not seen because a map or ring was full: `object.map` and count. All zeros are left out.
    pub losses: BTreeMap<String, u64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}
