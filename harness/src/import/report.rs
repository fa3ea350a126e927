//! What an import did, in words: what was replaced, what could still identify someone, what was left out.

use std::fmt::Write as _;

use serde::Serialize;

use super::anonymise::{Counts, Macs, Payload, Policy, Replace};
use super::output::Written;

/// Version of [`Report`] as JSON. It grows when a field changes its meaning or goes.
pub const VERSION: u32 = 1;

/// Packets of the capture by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Packets {
    /// In the file.
    pub read: u64,
    /// Written.
    pub written: u64,
    /// Not matched by the filter.
    pub filtered_out: u64,
    /// Before or after the times asked for.
    pub other_times: u64,
    /// Of other flows.
    pub other_flows: u64,
    /// After the limit was reached.
    pub beyond_limit: u64,
    /// Of link types that Ethernet cannot carry.
    pub not_ethernet: u64,
    /// Written, and captured in part only.
    pub truncated: u64,
}

/// Something that was left out, or that could still tell who it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// What.
    pub what: String,
    /// Why it matters, or why it is so.
    pub why: String,
}

fn remark(what: impl Into<String>, why: impl Into<String>) -> Remark {
    Remark { what: what.into(), why: why.into() }
}

/// What an import did.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// The files written. The original is named nowhere.
    pub files: Vec<Written>,
    /// Packets.
    pub packets: Packets,
    /// The policy, unless nothing was to be replaced.
    pub policy: Option<Policy>,
    /// What was replaced how often.
    pub counts: Counts,
    /// What could still identify someone.
    pub remaining: Vec<Remark>,
    /// What was left out of the files.
    pub dropped: Vec<Remark>,
}

/// What is known of a capture that no policy changes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub tcp: bool,
    pub vlan: bool,
}

/// What could still identify someone.
pub(super) fn remaining(policy: Option<&Policy>, counts: &Counts, seen: Seen) -> Vec<Remark> {
    let Some(policy) = policy else {
        return vec![remark("everything", "nothing was anonymised: addresses, names and payload are the original's")];
    };
    let mut list = vec![
        remark(
            "times",
            "each packet's date and the gaps between packets are the original's: logs of the same time match",
        ),
        remark("lengths", "sizes and their order can tell a page, a file or a keystroke"),
        remark("ports and protocols", "an unusual service can tell whose network it is"),
        remark("TTLs, identifications, windows", "they tell operating systems and distances"),
    ];
    if seen.tcp {
        list.push(remark(
            "TCP sequence numbers and timestamps",
            "they match other captures of the same connections, and tell how long a host has been up",
        ));
    }
    if seen.vlan {
        list.push(remark("VLAN identifiers", "they are a network's own numbers"));
    }
    if policy.addresses == Replace::Keep {
        list.push(remark("IP addresses", "kept by the policy"));
    } else {
        list.push(remark(
            "the structure of addresses",
            "common prefixes stay common (Crypto-PAn), private and link-local ranges stay so: who knows some of the hosts \
             can tell neighbours",
        ));
    }
    match policy.macs {
        Macs::Keep => list.push(remark("MAC addresses", "kept by the policy")),
        Macs::KeepVendor => list.push(remark("vendors of MAC addresses", "kept by the policy")),
        Macs::Replace => {}
    }
    if policy.names == Replace::Keep {
        list.push(remark("names in DNS, HTTP and TLS", "kept by the policy"));
    } else if policy.keep_tld {
        list.push(remark("top-level domains", "kept by the policy; countries among them"));
    }
    if policy.http == Replace::Keep {
        list.push(remark("HTTP targets and headers", "kept by the policy, cookies and credentials among them"));
    }
    for header in &policy.keep_headers {
        list.push(remark(format!("HTTP header {header}"), "kept by the policy"));
    }
    if counts.changed.contains_key("tls_hellos") {
        list.push(remark("TLS versions, ciphers and extensions", "what a hello offers tells which program it is"));
    }
    if policy.payload == Payload::Keep && counts.changed.contains_key("payload_bytes_kept") {
        let bytes = counts.changed["payload_bytes_kept"];
        list.push(remark(
            format!("{bytes} bytes of payload"),
            "kept by the policy: bodies, certificates and protocols that were not read may say anything",
        ));
    }
    list
}

/// What was left out.
pub(super) fn dropped(packets: &Packets, counts: &Counts) -> Vec<Remark> {
    let mut list = vec![remark(
        "names and descriptions of interfaces, hardware, comments, name tables",
        "the files hold packets and times only",
    )];
    if packets.not_ethernet > 0 {
        list.push(remark(
            format!("{} packets", packets.not_ethernet),
            "of a link type that cannot be turned into Ethernet",
        ));
    }
    for (kind, what) in [
        ("unread_bytes", "bytes that should have been read and could not be (holes, cut headers, later fragments)"),
        ("dns_data_zeroed", "DNS records whose data is not read"),
        ("dhcp_options_zeroed", "DHCP options that are not read"),
        ("ip_options_zeroed", "IP options that are not read"),
        ("tcp_options_zeroed", "TCP options that are not read"),
        ("neighbour_options_zeroed", "neighbour discovery options that are not read"),
        ("tls_client_data_zeroed", "extensions of ClientHellos (tickets, keys)"),
        ("tls_server_data_zeroed", "extensions of ServerHellos"),
        ("ppp_control_zeroed", "PPP control packets"),
        ("pppoe_discovery_zeroed", "PPPoE discovery packets"),
    ] {
        if let Some(count) = counts.changed.get(kind) {
            list.push(remark(format!("{count} {what}"), "not kept, whatever the policy: they cannot be told harmless"));
        }
    }
    list
}

/// What was replaced, in one sentence, for `scrubbed` of a provenance table; empty if nothing was.
pub(super) fn scrubbed(policy: Option<&Policy>) -> String {
    let Some(policy) = policy else { return String::new() };
    let mut replaced = Vec::new();
    if policy.addresses == Replace::Replace {
        replaced.push("IP addresses (Crypto-PAn, prefixes preserved)");
    }
    match policy.macs {
        Macs::Replace => replaced.push("MAC addresses"),
        Macs::KeepVendor => replaced.push("MAC addresses but for vendors"),
        Macs::Keep => {}
    }
    if policy.names == Replace::Replace {
        replaced.push("names in DNS, HTTP and TLS");
    }
    if policy.http == Replace::Replace {
        replaced.push("HTTP targets and header values");
    }
    let payload = match policy.payload {
        Payload::Keep => "other payload kept",
        Payload::Zero => "other payload zeroed",
        Payload::Random => "other payload random",
    };
    let replaced = if replaced.is_empty() { "no names or addresses".to_owned() } else { replaced.join(", ") };
    format!("replaced by bpflab import: {replaced}; {payload}; times, lengths and ports kept")
}

/// The table for a scenario, of one file.
pub(super) fn provenance(written: &Written, policy: Option<&Policy>, origin: &str, licence: &str) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    format!(
        "# To paste into the scenario that uses {}. All four are needed.\n\
         [provenance]\n\
         origin = {}    # where and how it was taken\n\
         licence = {}    # terms under which it may be shared\n\
         scrubbed = {}\n\
         sha256 = {}\n",
        written.path.file_name().unwrap_or_default().to_string_lossy().replace(char::is_control, "?"),
        quoted(origin),
        quoted(licence),
        quoted(&scrubbed(policy)),
        quoted(&written.sha256),
    )
}

impl Report {
    /// The report as one JSON document.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Made of strings, numbers and string-keyed maps.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// The report for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        for file in &self.files {
            let _ = writeln!(out, "written    {}: {} packets, {} bytes", file.path.display(), file.packets, file.bytes);
        }
        let packets = &self.packets;
        let _ = writeln!(out, "packets    {} read, {} written{}", packets.read, packets.written, packets.others());
        if self.policy.is_some() {
            let _ = writeln!(out, "\nReplaced");
            let addresses = &self.counts.addresses;
            for (kind, count) in addresses.iter().filter(|(_, count)| **count > 0) {
                let _ = writeln!(out, "  {count:>9}  different {kind} addresses");
            }
            for (kind, count) in self.counts.changed.iter().filter(|(_, count)| **count > 0) {
                let _ = writeln!(out, "  {count:>9}  {}", kind.replace('_', " "));
            }
        }
        if !self.counts.unknown.is_empty() {
            let payload = match self.policy.as_ref().map(|policy| policy.payload) {
                Some(Payload::Zero) => "zeroed",
                Some(Payload::Random) => "made random",
                _ => "kept",
            };
            let _ = writeln!(out, "\nPayload that no rule reads (bodies, certificates, other protocols): {payload}");
            for (name, unknown) in &self.counts.unknown {
                let _ = writeln!(out, "  {name}: {} packets, {} bytes", unknown.packets, unknown.bytes);
            }
        }
        for (title, remarks) in [("Could still identify someone", &self.remaining), ("Left out", &self.dropped)] {
            let _ = writeln!(out, "\n{title}");
            for Remark { what, why } in remarks {
                let _ = writeln!(out, "  {what}: {why}");
            }
        }
        out
    }
}

impl Packets {
    fn others(&self) -> String {
        [
            (self.filtered_out, "not matched by the filter"),
            (self.other_times, "of other times"),
            (self.other_flows, "of other flows"),
            (self.beyond_limit, "beyond the limit"),
            (self.not_ethernet, "not convertible to Ethernet"),
            (self.truncated, "of those written are truncated"),
        ]
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!(", {count} {what}"))
        .collect()
    }
}
