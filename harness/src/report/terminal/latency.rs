//! Packets' way through the kernel's receive path.

use super::{Page, bytes, time};
use crate::observation::{Latency, StageTimes};

/// What measured each stage, the times, the queues.
pub(super) fn section(page: &mut Page, latency: &Latency) {
    let measured = latency.probes.iter().filter(|probe| probe.by.is_some()).count();
    page.heading(
        "Latency",
        &format!("through the kernel's receive path; {measured} of {} places measured", latency.probes.len()),
    );
    let rows: Vec<Vec<String>> = latency
        .probes
        .iter()
        .filter_map(|probe| Some(vec![probe.stage.clone(), probe.packets.clone(), probe.by.clone()?]))
        .collect();
    // All of them: what has measured a time is part of the time.
    let layout = std::mem::replace(&mut page.layout.rows, usize::MAX);
    page.table(&["stage", "packets", "measured by"], &rows);
    page.layout.rows = layout;
    // Many places are not measured for one reason.
    let mut lacks: Vec<(&str, Vec<String>)> = Vec::new();
    for probe in latency.probes.iter().filter(|probe| probe.by.is_none()) {
        let (place, why) = (format!("{} of {}", probe.stage, probe.packets), probe.reason.as_deref().unwrap_or("-"));
        match lacks.iter_mut().find(|(known, _)| *known == why) {
            Some((_, places)) => places.push(place),
            None => lacks.push((why, vec![place])),
        }
    }
    for (why, places) in lacks {
        let text = page.warn(&format!("not measured: {}: {why}", places.join(", ")));
        page.line(format!("  {text}"));
    }
    for (title, times) in [("all flows", &latency.stages), ("by flow", &latency.flows)] {
        // Where packets are seen first there is no time yet; how many there are, the sums say.
        let rows: Vec<Vec<String>> =
            times.iter().filter(|row| row.flow.is_none() || row.since.is_some()).map(stage_row).collect();
        if rows.is_empty() {
            continue;
        }
        page.line(format!("  {title}"));
        page.table(&["host", "packets", "stage", "since", "count", "p50", "p90", "p99", "max"], &rows);
    }
    if latency.queues.is_empty() {
        return;
    }
    page.line("  receive queues");
    let rows: Vec<Vec<String>> = latency
        .queues
        .iter()
        .map(|queue| {
            vec![
                queue.host.clone(),
                format!("{} {}", queue.proto, queue.local),
                queue.queued.to_string(),
                queue.read.to_string(),
                queue.refused.to_string(),
                bytes(queue.max_payload),
                format!("{} of {}", bytes(queue.max_memory), bytes(queue.limit)),
            ]
        })
        .collect();
    page.table(&["host", "socket", "queued", "read", "refused", "most payload", "most memory"], &rows);
}

fn stage_row(times: &StageTimes) -> Vec<String> {
    let short = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), short_time);
    vec![
        times.host.clone(),
        times.flow.as_ref().map_or_else(|| times.packets.clone(), |flow| format!("{flow} ({})", times.packets)),
        times.stage.clone(),
        times.since.clone().unwrap_or_else(|| "-".to_owned()),
        times.count.to_string(),
        short(times.p50_ns),
        short(times.p90_ns),
        short(times.p99_ns),
        short(times.since.as_ref().map(|_| times.max_ns)),
    ]
}

/// A time within the kernel, where a microsecond is long.
fn short_time(ns: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
    let us = ns as f64 / 1e3;
    if us < 100.0 { format!("{us:.2} us") } else { time(us) }
}
