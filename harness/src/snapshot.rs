//! The canonical text of an observation: what a reviewer reads and a later run is held against.
//!
//! Ordering, numbering and redaction live here and nowhere else. Ephemeral ports become `#1`, `#2`, ... by first
//! appearance, raw times become buckets, and everything that only says on which machine the run took place is left
//! out, so the text is the same on every kernel that behaves the same.

mod objects;

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::observation::live::{Fate, Live, LiveFlow};
use crate::observation::{
    Connection, Disagreement, DropClass, Flow, IcmpError, Latency, Observation, PerDirection, Rtt, StageTimes, Tcp,
};

/// Ports from here on are numbered by appearance: the range Linux takes ephemeral ports from
/// (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: u16 = 32_768;

/// What a scenario leaves out of its snapshot, and which flows it lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Sections left out, by the name of their heading.
    pub omit: Vec<String>,
    /// Whether real stacks and applications made the packets: then times, and the counts that depend on how segments
    /// happened to be cut and acknowledged, are left out.
    pub real_stacks: bool,
    /// Literal texts and what stands for them, applied last.
    pub replace: Vec<(String, String)>,
}

/// Names the sections that [`Rules::omit`] may hold.
pub const SECTIONS: [&str; 13] = [
    "ledger",
    "live",
    "hooks",
    "flows",
    "tcp",
    "drops",
    "icmp",
    "malformed",
    "dns",
    "http",
    "tls",
    "objects",
    "latency",
];

/// Renders `observation` under `rules`.
#[must_use]
pub fn render(observation: &Observation, rules: &Rules) -> String {
    let mut names = Names { real_stacks: rules.real_stacks, ..Names::default() };
    let mut text = String::new();
    for section in SECTIONS.iter().filter(|name| !rules.omit.iter().any(|omitted| omitted == *name)) {
        let lines = match *section {
            "ledger" if rules.real_stacks => Vec::new(),
            "ledger" => ledger(observation),
            "live" => observation.live.as_ref().map_or_else(Vec::new, |live| live_lines(live, &mut names)),
            "hooks" if rules.real_stacks => Vec::new(),
            "hooks" => hooks(observation),
            "flows" => observation.flows.iter().map(|flow| flow_line(flow, &mut names)).collect(),
            "tcp" => observation.tcp.as_ref().map_or_else(Vec::new, |tcp| match rules.real_stacks {
                true => tcp.connections.iter().map(|connection| connection_line(connection, &mut names)).collect(),
                false => tcp_lines(tcp, &mut names),
            }),
            "drops" => drops(observation, &mut names),
            "icmp" => observation.icmp_errors.iter().map(|error| icmp_line(error, &mut names)).collect(),
            "malformed" => observation.malformed.iter().map(|(kind, count)| format!("{kind}: {count}")).collect(),
            "dns" => dns(observation, &mut names),
            "http" => http(observation, &mut names),
            "tls" => tls(observation, &mut names),
            "objects" => observation.objects.iter().flat_map(objects::lines).collect(),
            _ => observation.latency.as_ref().map_or_else(Vec::new, |latency| latency_lines(latency, &mut names)),
        };
        if !lines.is_empty() {
            let _ = writeln!(text, "{section}");
            for line in lines {
                let _ = writeln!(text, "  {line}");
            }
        }
    }
    if !observation.losses.is_empty() {
        // A loss changes what the other sections mean, so no rule can hide it.
        text.push_str("losses\n");
        for (place, count) in &observation.losses {
            let _ = writeln!(text, "  {place}: {count}");
        }
    }
    rules.replace.iter().fold(text, |text, (from, to)| text.replace(from, to))
}

/// Numbers ephemeral ports by first appearance.
#[derive(Default)]
struct Names {
    /// See [`Rules::real_stacks`].
    real_stacks: bool,
    ports: HashMap<String, usize>,
}

impl Names {
    /// `endpoint` with an ephemeral port replaced by its number. The same port of two addresses is two identities.
    fn endpoint(&mut self, endpoint: &str) -> String {
        let Some((address, port)) = split_port(endpoint) else { return endpoint.to_owned() };
        if port < EPHEMERAL {
            return endpoint.to_owned();
        }
        let next = self.ports.len() + 1;
        let number = *self.ports.entry(endpoint.to_owned()).or_insert(next);
        format!("{address}:#{number}")
    }

    /// The decade of a time, where it says something about what was tested.
    fn time(&self, us: Option<f64>) -> &'static str {
        if self.real_stacks && us.is_some() { "some time" } else { bucket(us) }
    }

    /// A `proto a > b` line of the drop table.
    fn flow(&mut self, flow: &str) -> String {
        flow.split(' ').map(|word| self.endpoint(word)).collect::<Vec<_>>().join(" ")
    }
}

/// What became of each conversation. What was adapted depends on what the kernel sent when, and is told by the report.
fn live_lines(live: &Live, names: &mut Names) -> Vec<String> {
    let line = |flow: &LiveFlow| {
        let [client, server] = [&flow.client, &flow.server].map(|end| names.endpoint(end));
        let end = match flow.live_end == flow.recorded_end {
            true => flow.live_end.clone(),
            false => format!("{} instead of {}", flow.live_end, flow.recorded_end),
        };
        let bytes = format!("bytes {}/{}", flow.socket_bytes.a_to_b, flow.socket_bytes.b_to_a);
        let reasons = match flow.fate {
            Fate::Refused | Fate::Failed => format!(": {}", flow.reasons.join("; ")),
            Fate::Replayed | Fate::Adapted => String::new(),
        };
        let fate = if flow.fate == Fate::Adapted { Fate::Replayed } else { flow.fate }.text();
        format!("{} {client} > {server}: {fate}, {end}, {bytes}{reasons}", flow.proto)
    };
    live.flows.iter().map(line).collect()
}

/// Splits `10.0.0.1:80` or `[::1]:80`; a MAC address or a bare IPv6 address has no port.
fn split_port(endpoint: &str) -> Option<(&str, u16)> {
    let (address, port) = endpoint.rsplit_once(':')?;
    if !address.ends_with(']') && address.contains(':') {
        return None;
    }
    Some((address, port.parse().ok()?))
}

/// The decade a time falls in; `-` where there is none.
fn bucket(us: Option<f64>) -> &'static str {
    match us {
        None => "-",
        Some(us) if us < 100.0 => "<100us",
        Some(us) if us < 1_000.0 => "<1ms",
        Some(us) if us < 10_000.0 => "<10ms",
        Some(us) if us < 100_000.0 => "<100ms",
        Some(us) if us < 1_000_000.0 => "<1s",
        Some(us) if us < 10_000_000.0 => "<10s",
        Some(_) => ">=10s",
    }
}

fn ledger(observation: &Observation) -> Vec<String> {
    let ledger = &observation.ledger;
    let mut lines = vec![format!(
        "offered {} = delivered {} + dropped {} + consumed {} + unaccounted {}",
        ledger.offered, ledger.delivered, ledger.dropped, ledger.consumed, ledger.unaccounted
    )];
    lines.extend(ledger.dropped_by.iter().map(|(reason, count)| format!("dropped: {reason} {count}")));
    lines.extend(ledger.consumed_by.iter().map(|(verdict, count)| format!("consumed: {verdict} {count}")));
    if ledger.generated > 0 {
        lines.push(format!("generated by the device under test: {}", ledger.generated));
    }
    if ledger.duplicated > 0 {
        lines.push(format!("copies made by an impaired link: {}", ledger.duplicated));
    }
    lines
}

fn hooks(observation: &Observation) -> Vec<String> {
    observation
        .hooks
        .iter()
        .map(|hook| format!("{}: {} packets, {} bytes", hook.hook, hook.packets, hook.bytes))
        .collect()
}

fn both(counts: PerDirection) -> String {
    format!("{}/{}", counts.a_to_b, counts.b_to_a)
}

fn flow_line(flow: &Flow, names: &mut Names) -> String {
    let mut line = format!("{} {} > {}", flow.proto, names.endpoint(&flow.a), names.endpoint(&flow.b));
    if !names.real_stacks {
        let _ = write!(line, ": packets {}, bytes {}", both(flow.packets), both(flow.bytes));
    }
    if !flow.vlans.is_empty() {
        let tags: Vec<String> = flow.vlans.iter().map(u16::to_string).collect();
        let _ = write!(line, ", vlan {}", tags.join("."));
    }
    if flow.fragments > 0 {
        let _ = write!(line, ", fragments {}", flow.fragments);
    }
    if let Some(tunnel) = &flow.encapsulation {
        let _ = write!(line, ", {tunnel}");
    }
    line
}

fn tcp_lines(tcp: &Tcp, names: &mut Names) -> Vec<String> {
    if tcp.connections.is_empty() && tcp.kernel_transitions.is_empty() && tcp.kernel_sockets.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![
        format!("segments: syn {}, syn_ack {}, rst {}, fin {}", tcp.syn, tcp.syn_ack, tcp.rst, tcp.fin),
        format!(
            "health: retransmissions {}, out_of_order {}, duplicate_acks {}, zero_windows {}, window_updates {}, half_open {}",
            tcp.retransmissions,
            tcp.out_of_order,
            tcp.duplicate_acks,
            tcp.zero_windows,
            tcp.window_updates,
            tcp.half_open
        ),
    ];
    for handshake in &tcp.handshakes {
        lines.push(format!(
            "handshake {} > {}: {}{}",
            names.endpoint(&handshake.client),
            names.endpoint(&handshake.server),
            names.time(Some(handshake.rtt_us)),
            if handshake.syn_retries > 0 { format!(", syn retries {}", handshake.syn_retries) } else { String::new() },
        ));
    }
    lines.extend(tcp.connections.iter().map(|connection| connection_line(connection, names)));
    lines.extend(tcp.kernel_transitions.iter().map(|change| {
        format!(
            "kernel {}: {} > {}: {} -> {}",
            change.host,
            names.endpoint(&change.local),
            names.endpoint(&change.remote),
            change.from,
            change.to
        )
    }));
    lines.extend(tcp.kernel_sockets.iter().map(|socket| {
        let (local, remote) = (names.endpoint(&socket.local), names.endpoint(&socket.remote));
        // Windows and times are the machine's.
        format!(
            "socket {} {local} > {remote}: {}, retransmissions {}",
            socket.host, socket.state, socket.retransmissions
        )
    }));
    lines.extend(tcp.disagreements.iter().map(|one| {
        let (local, remote) = (names.endpoint(&one.local), names.endpoint(&one.remote));
        let Disagreement { host, property, wire, kernel, .. } = one;
        let values = match property.as_str() {
            "state" | "retransmissions" => format!(" {wire} on the wire, {kernel} at the socket"),
            _ => String::new(),
        };
        format!("disagreement {host} {local} > {remote}: {property}{values}")
    }));
    lines
}

fn connection_line(connection: &Connection, names: &mut Names) -> String {
    let mut line = format!(
        "connection {} > {}: {}",
        names.endpoint(&connection.client),
        names.endpoint(&connection.server),
        connection.state
    );
    if let Some(side) = &connection.reset_by {
        let _ = write!(line, " by {side}");
    }
    if names.real_stacks {
        return line;
    }
    let _ = write!(line, ", payload {}", both(connection.payload));
    let counts = [
        ("retransmissions", connection.retransmissions),
        ("out_of_order", connection.out_of_order),
        ("duplicate_acks", connection.duplicate_acks),
        ("zero_windows", connection.zero_windows),
        ("window_updates", connection.window_updates),
    ];
    for (name, count) in counts.into_iter().filter(|(_, count)| *count != PerDirection::default()) {
        let _ = write!(line, ", {name} {}", both(count));
    }
    for (name, rtt) in [("rtt to server", connection.rtt_to_server), ("rtt to client", connection.rtt_to_client)] {
        if rtt.samples > 0 {
            let _ = write!(line, ", {name} {}", rtt_text(rtt));
        }
    }
    line
}

fn rtt_text(rtt: Rtt) -> String {
    format!("{} ({} samples)", bucket(Some(rtt.mean_us)), rtt.samples)
}

fn drops(observation: &Observation, names: &mut Names) -> Vec<String> {
    let mut lines: Vec<String> = observation
        .drops
        .iter()
        // The kernel's function differs with inlining from one kernel to the next; the reason does not.
        .map(|drop| {
            let place = if drop.by == "kernel" { String::new() } else { format!(" by {}", drop.place) };
            let class = match drop.class {
                DropClass::Verdict | DropClass::Other => String::new(),
                class => format!(" ({})", class.name()),
            };
            format!("{}{class} on {}{place}: {} x {}", drop.reason, drop.host, names.flow(&drop.flow), drop.packets)
        })
        .collect();
    lines.sort();
    lines
}

/// What an error was sent for is in the drops, by flow.
fn icmp_line(error: &IcmpError, names: &mut Names) -> String {
    let IcmpError { proto, kind, code, meaning, packets, .. } = error;
    format!("{proto} {kind}/{code} ({meaning}) for {} x {packets}", names.flow(&error.flow))
}

fn dns(observation: &Observation, names: &mut Names) -> Vec<String> {
    observation
        .dns
        .iter()
        .map(|dns| {
            let mut line = format!(
                "{} {} > {}: {} {} {}, answers {}, {}",
                dns.transport,
                names.endpoint(&dns.client),
                names.endpoint(&dns.server),
                dns.name,
                dns.kind,
                dns.rcode.as_deref().unwrap_or("unanswered"),
                dns.answers,
                names.time(dns.latency_us)
            );
            if dns.truncated {
                line.push_str(", truncated");
            }
            if let Some(size) = dns.edns_size {
                let _ = write!(line, ", edns {size}");
            }
            line
        })
        .collect()
}

fn http(observation: &Observation, names: &mut Names) -> Vec<String> {
    observation
        .http
        .iter()
        .map(|http| {
            let mut line = format!(
                "{} > {} #{}: {} {}{} HTTP/{} {}, {}",
                names.endpoint(&http.client),
                names.endpoint(&http.server),
                http.exchange,
                http.method,
                http.host.as_deref().unwrap_or("-"),
                http.path,
                http.version,
                http.status.map_or_else(|| "unanswered".to_owned(), |status| status.to_string()),
                names.time(http.latency_us)
            );
            if http.pipelined {
                line.push_str(", pipelined");
            }
            if let Some(cut) = &http.cut {
                let _ = write!(line, ", cut: {cut}");
            }
            line
        })
        .collect()
}

fn tls(observation: &Observation, names: &mut Names) -> Vec<String> {
    observation
        .tls
        .iter()
        .map(|tls| {
            let mut line = format!(
                "{} > {}: sni {}, alpn {}, {}, {}, {}",
                names.endpoint(&tls.client),
                names.endpoint(&tls.server),
                tls.sni.as_deref().unwrap_or("-"),
                tls.alpn.as_deref().unwrap_or("-"),
                tls.version.as_deref().unwrap_or("-"),
                tls.cipher.as_deref().unwrap_or("-"),
                names.time(tls.latency_us)
            );
            if let Some(cut) = &tls.cut {
                let _ = write!(line, ", cut: {cut}");
            }
            line
        })
        .collect()
}

/// Counts alone: which probes a kernel has is the kernel's affair, and a time is the machine's, whose decade changes
/// with its load. Other sections' times are the capture's.
fn latency_lines(latency: &Latency, names: &mut Names) -> Vec<String> {
    let mut lines = Vec::new();
    let same = |one: &StageTimes, other: &StageTimes| {
        (&one.host, &one.flow, &one.packets) == (&other.host, &other.flow, &other.packets)
    };
    for way in latency.stages.chunk_by(same).chain(latency.flows.chunk_by(same)) {
        let Some(StageTimes { host, flow, packets, .. }) = way.first() else { continue };
        let of = flow.as_ref().map_or_else(|| packets.clone(), |flow| format!("{packets} flow {}", names.flow(flow)));
        let steps: Vec<String> = way.iter().enumerate().map(|(index, step)| stage_step(way, index, step)).collect();
        lines.push(format!("{host} {of}: {}", steps.join(", ")));
    }
    lines.extend(latency.queues.iter().map(|queue| {
        let local = names.endpoint(&queue.local);
        let counts = format!("queued {}, read {}, refused {}", queue.queued, queue.read, queue.refused);
        format!("{} queue {} {local}: {counts}", queue.host, queue.proto)
    }));
    lines
}

/// `receive 3`, and `since driver` where that is not the step before it.
fn stage_step(way: &[StageTimes], index: usize, step: &StageTimes) -> String {
    let before = index.checked_sub(1).and_then(|before| way.get(before)).map(|before| &before.stage);
    match &step.since {
        Some(since) if before != Some(since) => format!("{} {} since {since}", step.stage, step.count),
        _ => format!("{} {}", step.stage, step.count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation;

    #[test]
    fn ephemeral_ports_are_numbered_by_first_appearance_and_others_kept() {
        let mut names = Names::default();
        assert_eq!(names.endpoint("10.0.0.1:80"), "10.0.0.1:80");
        assert_eq!(names.endpoint("10.0.0.1:40000"), "10.0.0.1:#1");
        assert_eq!(names.endpoint("[fd00::1]:40000"), "[fd00::1]:#2");
        assert_eq!(names.endpoint("10.0.0.1:40000"), "10.0.0.1:#1");
        assert_eq!(names.endpoint("02:00:00:00:00:01"), "02:00:00:00:00:01");
        assert_eq!(names.endpoint("fd00::9999"), "fd00::9999");
        assert_eq!(names.flow("tcp 10.0.0.1:40000 > 10.0.0.2:80"), "tcp 10.0.0.1:#1 > 10.0.0.2:80");
    }

    #[test]
    fn times_fall_into_decades() {
        assert_eq!(bucket(None), "-");
        assert_eq!(bucket(Some(99.9)), "<100us");
        assert_eq!(bucket(Some(100.0)), "<1ms");
        assert_eq!(bucket(Some(10_000_000.0)), ">=10s");
    }

    #[test]
    fn drops_name_their_class_where_it_is_told_apart() {
        let drop = |reason: &str, class, place: &str| observation::Drop {
            by: "kernel".to_owned(),
            reason: reason.to_owned(),
            class,
            place: place.to_owned(),
            host: "dut".to_owned(),
            flow: "udp 10.0.0.1:40000 > 10.0.0.2:53".to_owned(),
            packets: 2,
        };
        let error = observation::IcmpError {
            proto: "icmp".to_owned(),
            kind: 3,
            code: 3,
            meaning: "port unreachable".to_owned(),
            flow: "udp 10.0.0.1:40000 > 10.0.0.2:53".to_owned(),
            dropped_for: vec!["NO_SOCKET".to_owned()],
            packets: 2,
        };
        let observation = Observation {
            drops: vec![
                drop("NO_SOCKET", DropClass::Other, "udp_rcv"),
                drop("SOCKET_RCVBUFF", DropClass::SocketBuffer, "udp_queue_rcv_one_skb"),
            ],
            icmp_errors: vec![error],
            ..Observation::default()
        };
        let rules = Rules { omit: vec!["ledger".to_owned()], ..Rules::default() };
        let expected = "drops
  NO_SOCKET on dut: udp 10.0.0.1:#1 > 10.0.0.2:53 x 2
  SOCKET_RCVBUFF (socket_buffer) on dut: udp 10.0.0.1:#1 > 10.0.0.2:53 x 2
icmp
  icmp 3/3 (port unreachable) for udp 10.0.0.1:#1 > 10.0.0.2:53 x 2
";
        assert_eq!(render(&observation, &rules), expected);
    }

    #[test]
    fn a_way_through_the_kernel_is_one_line_without_times() {
        let step = |stage: &str, since: Option<&str>| observation::StageTimes {
            host: "dut".to_owned(),
            packets: "udp".to_owned(),
            stage: stage.to_owned(),
            since: since.map(str::to_owned),
            count: 3,
            max_ns: 1234,
            ..observation::StageTimes::default()
        };
        let stages = vec![step("driver", None), step("receive", Some("driver")), step("read", Some("queued"))];
        let flow = observation::StageTimes {
            flow: Some("udp 10.0.0.1:40000 > 10.0.0.2:53".to_owned()),
            ..step("driver", None)
        };
        let queue = observation::ReceiveQueue {
            host: "dut".to_owned(),
            proto: "udp".to_owned(),
            local: "10.0.0.2:53".to_owned(),
            queued: 3,
            max_memory: 768,
            ..observation::ReceiveQueue::default()
        };
        let latency = Latency { probes: Vec::new(), stages, flows: vec![flow], queues: vec![queue] };
        let expected = [
            "dut udp: driver 3, receive 3, read 3 since queued",
            "dut udp flow udp 10.0.0.1:#1 > 10.0.0.2:53: driver 3",
            "dut queue udp 10.0.0.2:53: queued 3, read 0, refused 0",
        ];
        assert_eq!(latency_lines(&latency, &mut Names::default()), expected);
    }

    #[test]
    fn losses_cannot_be_hidden() {
        let observation = Observation { losses: [("flows.FLOWS".to_owned(), 3)].into(), ..Observation::default() };
        let rules = Rules { omit: SECTIONS.map(str::to_owned).to_vec(), ..Rules::default() };
        assert_eq!(render(&observation, &rules), "losses\n  flows.FLOWS: 3\n");
    }
}
