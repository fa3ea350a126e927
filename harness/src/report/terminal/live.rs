//! Recorded conversations that were played against the kernel.

use super::{Page, both};
use crate::observation::live::{Fate, Live, LiveFlow};

/// The kernel's counters that say most of what happened to its connections (names of nstat(8)).
const COUNTERS: [&str; 16] = [
    "TcpPassiveOpens",
    "TcpActiveOpens",
    "TcpEstabResets",
    "TcpOutRsts",
    "TcpRetransSegs",
    "TcpInErrs",
    "TcpExtTCPSACKReorder",
    "TcpExtTCPDSACKOldSent",
    "TcpExtTCPOFOQueue",
    "TcpExtTCPLossProbes",
    "TcpExtTCPTimeouts",
    "TcpExtTCPToZeroWindowAdv",
    "TcpExtTCPFromZeroWindowAdv",
    "TcpExtTCPAbortOnData",
    "UdpInDatagrams",
    "UdpNoPorts",
];

/// What became of the conversations, those that were not simply replayed first, and the kernel's counters.
pub(super) fn section(page: &mut Page, live: &Live) {
    let fates: Vec<String> = live.fates.iter().map(|(fate, count)| format!("{count} {}", fate.text())).collect();
    let summary = format!(
        "the kernel is the {}; {} conversations: {}; {} ended as recorded",
        live.dut,
        live.flows.len(),
        fates.join(", "),
        live.as_recorded
    );
    page.heading("Live", &summary);
    let mut flows: Vec<&LiveFlow> = live.flows.iter().collect();
    flows.sort_by_key(|flow| match flow.fate {
        Fate::Failed => 0,
        Fate::Refused => 1,
        Fate::Adapted => 2,
        Fate::Replayed => 3,
    });
    let rows: Vec<Vec<String>> = flows.into_iter().map(row).collect();
    let names =
        ["proto", "client", "server", "fate", "recorded end", "live end", "bytes recorded >/<", "at the socket >/<"];
    page.table(&[&names[..], &["remarks"]].concat(), &rows);
    let counters: Vec<String> =
        COUNTERS.iter().filter_map(|name| live.counters.get(*name).map(|count| format!("{name} {count}"))).collect();
    if !counters.is_empty() {
        page.line(format!("  kernel counters: {}", counters.join(", ")));
    }
}

/// Who answered, and what was different.
fn remarks(flow: &LiveFlow) -> String {
    let application = flow.forwarded_to.iter().map(|to| format!("answered by {to}"));
    application.chain(flow.reasons.iter().cloned()).collect::<Vec<_>>().join("; ")
}

fn row(flow: &LiveFlow) -> Vec<String> {
    vec![
        flow.proto.clone(),
        flow.client.clone(),
        flow.server.clone(),
        flow.fate.text().to_owned(),
        flow.recorded_end.clone(),
        flow.live_end.clone(),
        both(flow.recorded_bytes),
        both(flow.socket_bytes),
        remarks(flow),
    ]
}
