//! The report that a network engineer reads in a minute.

mod latency;
mod live;
mod objects;
mod sockets;

use super::Document;
pub use super::page::Layout;
use super::page::Page;
use crate::observation::{Connection, Observation, PerDirection, Tcp};

/// Renders `document`.
#[must_use]
pub fn render(document: &Document, layout: Layout) -> String {
    let mut page = Page::new(layout);
    header(&mut page, document);
    ledger(&mut page, document);
    if let Some(seen) = &document.observation.live {
        live::section(&mut page, seen);
    }
    flows(&mut page, &document.observation);
    if let Some(tcp) = &document.observation.tcp {
        tcp_section(&mut page, tcp);
    }
    drops(&mut page, document);
    icmp(&mut page, &document.observation);
    malformed(&mut page, &document.observation);
    dns(&mut page, &document.observation);
    http(&mut page, &document.observation);
    tls(&mut page, &document.observation);
    for object in &document.observation.objects {
        objects::section(&mut page, object);
    }
    if let Some(seen) = &document.observation.latency {
        latency::section(&mut page, seen);
    }
    page.text
}

/// A time in the unit that a person would choose.
fn time(us: f64) -> String {
    if us < 1_000.0 {
        format!("{us:.0} us")
    } else if us < 1_000_000.0 {
        format!("{:.2} ms", us / 1_000.0)
    } else {
        format!("{:.3} s", us / 1_000_000.0)
    }
}

fn optional_time(us: Option<f64>) -> String {
    us.map_or_else(|| "-".to_owned(), time)
}

fn bytes(count: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
    let exact = count as f64;
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{:.1} kB", exact / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", exact / 1e6),
        _ => format!("{:.1} GB", exact / 1e9),
    }
}

fn both(counts: PerDirection) -> String {
    format!("{} / {}", counts.a_to_b, counts.b_to_a)
}

/// The applications, with how they ended.
fn apps(page: &mut Page, document: &Document) {
    for (index, app) in document.apps.iter().enumerate() {
        let ready = app.ready_ms.map_or_else(String::new, |ms| format!(", ready after {ms} ms"));
        let text = format!("{} on {}{ready}, {} after {} ms", app.name, app.host, app.end, app.duration_ms);
        page.field(if index == 0 { "traffic" } else { "" }, text);
        if let Some(problem) = &app.problem {
            let text = page.bad(problem);
            page.field("", text);
        }
    }
}

fn header(page: &mut Page, document: &Document) {
    if document.apps.is_empty() {
        capture(page, document);
    } else {
        apps(page, document);
    }
    run_lines(page, document);
}

fn capture(page: &mut Page, document: &Document) {
    let capture = &document.capture;
    page.field(
        "capture",
        format!(
            "{} ({}, {}), {} packets, {}, {}",
            capture.file,
            capture.format,
            capture.link_types.join(" + "),
            capture.packets,
            bytes(capture.bytes),
            time(capture.duration_s * 1e6)
        ),
    );
    for finding in &capture.findings {
        let text = page.warn(&finding.message);
        page.field("", text);
    }
}

fn run_lines(page: &mut Page, document: &Document) {
    page.field("kernel", format!("{} {}", document.kernel.release, document.kernel.machine));
    let place = document.topology.as_ref().map_or_else(String::new, |name| format!(", topology {name}"));
    page.field("mode", format!("{}{place}: {}", document.mode, document.mode_reason));
    let pacing = document.pacing.map_or_else(String::new, |pacing| {
        let late = if pacing.max_late_us > 0.0 {
            format!(", late by {} on average, {} at most", time(pacing.mean_late_us), time(pacing.max_late_us))
        } else {
            String::new()
        };
        format!(", {} at {:.0} packets/s{late}", time(pacing.elapsed_s * 1e6), pacing.rate_pps)
    });
    page.field("engine", format!("{}{pacing}; times are the {}'s", document.engine, document.clock));
    for note in &document.notes {
        let text = page.warn(note);
        page.field("note", text);
    }
}

fn ledger(page: &mut Page, document: &Document) {
    let ledger = &document.observation.ledger;
    page.line("");
    let unaccounted = format!("unaccounted {}", ledger.unaccounted);
    let unaccounted = if ledger.unaccounted == 0 { unaccounted } else { page.bad(&unaccounted) };
    // Of what applications and sockets send, nobody knows the packets beforehand.
    if document.apps.is_empty() && document.observation.live.is_none() {
        page.field(
            "ledger",
            format!(
                "offered {} = delivered {} + dropped {} + consumed {} + {unaccounted}",
                ledger.offered, ledger.delivered, ledger.dropped, ledger.consumed
            ),
        );
    }
    for (what, counts) in [("dropped", &ledger.dropped_by), ("consumed", &ledger.consumed_by)] {
        for (reason, count) in counts {
            page.field("", format!("{what} {count} by {reason}"));
        }
    }
    if ledger.generated > 0 {
        page.field("", format!("{} packets made by the device under test itself", ledger.generated));
    }
    if ledger.duplicated > 0 {
        page.field("", format!("{} packets arrived once more: copies made by an impaired link", ledger.duplicated));
    }
    if !document.observation.hooks.is_empty() {
        let hooks: Vec<String> = document
            .observation
            .hooks
            .iter()
            .map(|hook| format!("{} {} ({})", hook.hook, hook.packets, bytes(hook.bytes)))
            .collect();
        page.field("seen at", hooks.join(", "));
    }
    let losses: Vec<String> =
        document.observation.losses.iter().map(|(place, count)| format!("{place} {count}")).collect();
    let text = if losses.is_empty() { "none".to_owned() } else { page.bad(&losses.join(", ")) };
    page.field("losses", text);
}

fn flows(page: &mut Page, observation: &Observation) {
    if observation.flows.is_empty() {
        return;
    }
    let mut flows: Vec<_> = observation.flows.iter().collect();
    flows.sort_by_key(|flow| std::cmp::Reverse(flow.bytes.a_to_b + flow.bytes.b_to_a));
    page.heading("Flows", &format!("{}, by bytes; a spoke first", flows.len()));
    let rows: Vec<Vec<String>> = flows
        .iter()
        .map(|flow| {
            let tags: Vec<String> = flow.vlans.iter().map(u16::to_string).collect();
            let vlan = if tags.is_empty() { String::new() } else { format!(" vlan {}", tags.join(".")) };
            let tunnel = flow.encapsulation.as_ref().map_or_else(String::new, |name| format!(" {name}"));
            vec![
                format!("{}{vlan}{tunnel}", flow.proto),
                flow.a.clone(),
                flow.b.clone(),
                both(flow.packets),
                format!("{} / {}", bytes(flow.bytes.a_to_b), bytes(flow.bytes.b_to_a)),
                time(flow.duration_us),
            ]
        })
        .collect();
    page.table(&["proto", "a", "b", "packets a>b / b>a", "bytes a>b / b>a", "lasted"], &rows);
}

fn tcp_section(page: &mut Page, tcp: &Tcp) {
    if tcp.connections.is_empty() && tcp.kernel_transitions.is_empty() && tcp.kernel_sockets.is_empty() {
        return;
    }
    page.heading(
        "TCP",
        &format!(
            "{} connections, {} handshakes seen whole, {} half-open; syn {}, syn-ack {}, fin {}, rst {}",
            tcp.connections.len(),
            tcp.handshakes.len(),
            tcp.half_open,
            tcp.syn,
            tcp.syn_ack,
            tcp.fin,
            tcp.rst
        ),
    );
    let troubles = [
        ("retransmissions", tcp.retransmissions),
        ("out of order", tcp.out_of_order),
        ("duplicate acks", tcp.duplicate_acks),
        ("zero windows", tcp.zero_windows),
    ];
    let text: Vec<String> = troubles
        .iter()
        .map(|(name, count)| {
            let text = format!("{name} {count}");
            if *count > 0 { page.warn(&text) } else { text }
        })
        .collect();
    page.line(format!("  {}", text.join(", ")));
    let mut connections: Vec<&Connection> = tcp.connections.iter().collect();
    // The ones in trouble first; the order of appearance otherwise.
    connections.sort_by_key(|connection| std::cmp::Reverse(trouble(connection)));
    let rows: Vec<Vec<String>> = connections
        .iter()
        .map(|connection| {
            let handshake = tcp
                .handshakes
                .iter()
                .find(|handshake| handshake.client == connection.client && handshake.server == connection.server);
            let state = connection
                .reset_by
                .as_ref()
                .map_or_else(|| connection.state.clone(), |side| format!("{} by {side}", connection.state));
            vec![
                connection.client.clone(),
                connection.server.clone(),
                state,
                optional_time(handshake.map(|handshake| handshake.rtt_us)),
                mean_rtt(connection),
                both(connection.retransmissions),
                both(connection.out_of_order),
                both(connection.duplicate_acks),
                both(connection.zero_windows),
            ]
        })
        .collect();
    if !rows.is_empty() {
        page.table(
            &["client", "server", "state", "handshake", "rtt", "retrans >/<", "ooo >/<", "dupack >/<", "zerowin >/<"],
            &rows,
        );
    }
    let rows: Vec<Vec<String>> = tcp
        .kernel_transitions
        .iter()
        .map(|change| {
            vec![
                change.host.clone(),
                change.local.clone(),
                change.remote.clone(),
                format!("{} -> {}", change.from, change.to),
            ]
        })
        .collect();
    if !rows.is_empty() {
        page.line("  states of the kernel's own sockets");
        page.table(&["host", "local", "remote", "change"], &rows);
    }
    sockets::section(page, tcp);
}

/// How much is wrong with a connection; only the order matters.
fn trouble(connection: &Connection) -> u64 {
    let sum = |counts: PerDirection| counts.a_to_b + counts.b_to_a;
    let reset = u64::from(connection.reset_by.is_some());
    reset
        + sum(connection.retransmissions)
        + sum(connection.out_of_order)
        + sum(connection.duplicate_acks)
        + sum(connection.zero_windows)
}

/// Mean round trip between client and server: the sum of both halves, where both were seen.
fn mean_rtt(connection: &Connection) -> String {
    let (server, client) = (connection.rtt_to_server, connection.rtt_to_client);
    match (server.samples, client.samples) {
        (0, 0) => "-".to_owned(),
        (_, 0) => format!("{} >", time(server.mean_us)),
        (0, _) => format!("{} <", time(client.mean_us)),
        _ => time(server.mean_us + client.mean_us),
    }
}

fn drops(page: &mut Page, document: &Document) {
    let drops = &document.observation.drops;
    if drops.is_empty() {
        let detail =
            if document.mode == "wire" { "none" } else { "no verdict ended a packet; kernel drops need wire mode" };
        page.heading("Drops", detail);
        return;
    }
    page.heading("Drops", "");
    let rows: Vec<Vec<String>> = drops
        .iter()
        .map(|drop| {
            vec![
                drop.packets.to_string(),
                drop.by.clone(),
                drop.reason.clone(),
                drop.class.name().replace('_', " "),
                drop.place.clone(),
                drop.host.clone(),
                drop.flow.clone(),
            ]
        })
        .collect();
    page.table(&["packets", "by", "reason", "class", "place", "host", "flow"], &rows);
}

fn icmp(page: &mut Page, observation: &Observation) {
    if observation.icmp_errors.is_empty() {
        return;
    }
    page.heading("ICMP errors", "sent by the device under test");
    let rows: Vec<Vec<String>> = observation
        .icmp_errors
        .iter()
        .map(|error| {
            vec![
                error.packets.to_string(),
                format!("{} {}/{}", error.proto, error.kind, error.code),
                error.meaning.clone(),
                error.flow.clone(),
                error.dropped_for.join(", "),
            ]
        })
        .collect();
    page.table(&["packets", "type/code", "meaning", "for flow", "dropped for"], &rows);
}

fn malformed(page: &mut Page, observation: &Observation) {
    if observation.malformed.is_empty() {
        return;
    }
    let text: Vec<String> = observation.malformed.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let text = page.warn(&text.join(", "));
    page.heading("Malformed", &text);
}

fn dns(page: &mut Page, observation: &Observation) {
    if observation.dns.is_empty() {
        return;
    }
    page.heading("DNS", &format!("{} transactions", observation.dns.len()));
    let rows: Vec<Vec<String>> = observation
        .dns
        .iter()
        .map(|dns| {
            let rcode = dns.rcode.clone().unwrap_or_else(|| page.warn("unanswered"));
            let cut = if dns.truncated { " truncated" } else { "" };
            vec![
                optional_time(dns.latency_us),
                format!("{}{cut}", rcode),
                dns.kind.clone(),
                dns.name.clone(),
                dns.transport.clone(),
                dns.client.clone(),
                dns.server.clone(),
            ]
        })
        .collect();
    page.table(&["latency", "answer", "type", "name", "over", "client", "server"], &rows);
}

fn http(page: &mut Page, observation: &Observation) {
    if observation.http.is_empty() {
        return;
    }
    page.heading("HTTP", &format!("{} exchanges", observation.http.len()));
    let rows: Vec<Vec<String>> = observation
        .http
        .iter()
        .map(|http| {
            let remarks: Vec<&str> =
                [http.pipelined.then_some("pipelined"), http.cut.as_deref()].into_iter().flatten().collect();
            vec![
                optional_time(http.latency_us),
                http.status.map_or_else(|| "unanswered".to_owned(), |status| status.to_string()),
                http.method.clone(),
                format!("{}{}", http.host.as_deref().unwrap_or("-"), http.path),
                http.client.clone(),
                remarks.join(", "),
            ]
        })
        .collect();
    page.table(&["latency", "status", "method", "host and path", "client", "remarks"], &rows);
}

fn tls(page: &mut Page, observation: &Observation) {
    if observation.tls.is_empty() {
        return;
    }
    page.heading("TLS", &format!("{} handshakes", observation.tls.len()));
    let text = |field: &Option<String>| field.clone().unwrap_or_else(|| "-".to_owned());
    let rows: Vec<Vec<String>> = observation
        .tls
        .iter()
        .map(|tls| {
            vec![
                optional_time(tls.latency_us),
                text(&tls.version),
                text(&tls.sni),
                text(&tls.alpn),
                text(&tls.cipher),
                tls.client.clone(),
                tls.server.clone(),
                tls.cut.clone().unwrap_or_default(),
            ]
        })
        .collect();
    page.table(&["latency", "version", "sni", "alpn", "cipher", "client", "server", "remarks"], &rows);
}
