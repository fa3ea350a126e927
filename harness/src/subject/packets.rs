//! What programs under test did to packets: verdicts by class, and which fields they changed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};

use crate::observation::{Change, ChangedField, VerdictCount};

/// Most kinds of change that are told apart.
const MOST_CHANGES: usize = 1000;

/// Collects while packets run.
#[derive(Debug, Default)]
pub(crate) struct Packets {
    /// By program, verdict and class.
    verdicts: BTreeMap<String, BTreeMap<(&'static str, Class), u64>>,
    /// By program, class, and the names of the fields.
    changes: BTreeMap<(String, Class, Vec<String>), Change>,
}

impl Packets {
    /// Takes note of one run.
    pub(crate) fn saw(&mut self, program: &str, verdict: &'static str, before: (u64, &[u8]), after: &[u8]) {
        let (number, before) = before;
        let class = Class::of(before);
        if !self.verdicts.contains_key(program) {
            self.verdicts.insert(program.to_owned(), BTreeMap::new());
        }
        if let Some(counts) = self.verdicts.get_mut(program) {
            *counts.entry((verdict, class)).or_default() += 1;
        }
        if before == after {
            return;
        }
        let fields = changed_fields(before, after);
        let names = fields.iter().map(|field| field.field.clone()).collect();
        let key = (program.to_owned(), class, names);
        if let Some(change) = self.changes.get_mut(&key) {
            change.packets += 1;
        } else if self.changes.len() < MOST_CHANGES {
            let (program, class) = (program.to_owned(), class.to_string());
            self.changes.insert(key, Change { program, class, packets: 1, first: number, fields });
        }
    }

    /// Verdicts by program, and changes in the order of their first packet.
    pub(crate) fn finish(self) -> (BTreeMap<String, Vec<VerdictCount>>, Vec<Change>) {
        let count = |((verdict, class), packets): ((&str, Class), u64)| VerdictCount {
            verdict: verdict.to_owned(),
            class: class.to_string(),
            packets,
        };
        let verdicts = self.verdicts.into_iter();
        let verdicts = verdicts.map(|(program, counts)| {
            let mut counts: Vec<VerdictCount> = counts.into_iter().map(count).collect();
            counts.sort();
            (program, counts)
        });
        let mut changes: Vec<Change> = self.changes.into_values().collect();
        changes.sort_by(|one, other| (one.first, &one.program).cmp(&(other.first, &other.program)));
        (verdicts.collect(), changes)
    }
}

/// What kind of packet one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Class {
    vlan: bool,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Named(&'static str),
    /// The lower port, which is the service's as a rule.
    Udp(u16),
    /// Version, type.
    Icmp(&'static str, u8),
    /// Version, protocol.
    Protocol(&'static str, u8),
    Ethertype(u16),
}

impl Class {
    fn of(frame: &[u8]) -> Self {
        let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else {
            return Self { vlan: false, kind: Kind::Named("short") };
        };
        Self { vlan: !packet.link_exts.is_empty(), kind: Kind::of(&packet, frame) }
    }
}

impl Kind {
    fn of(packet: &LaxSlicedPacket<'_>, frame: &[u8]) -> Self {
        match (&packet.net, &packet.transport) {
            (Some(LaxNetSlice::Arp(_)), _) => Self::Named("arp"),
            (_, Some(TransportSlice::Tcp(tcp))) => Self::Named(match (tcp.rst(), tcp.syn(), tcp.ack(), tcp.fin()) {
                (true, ..) => "tcp rst",
                (_, true, false, _) => "tcp syn",
                (_, true, true, _) => "tcp syn-ack",
                (.., true) => "tcp fin",
                _ if !tcp.payload().is_empty() => "tcp data",
                _ => "tcp ack",
            }),
            (_, Some(TransportSlice::Udp(udp))) => Self::Udp(udp.source_port().min(udp.destination_port())),
            (_, Some(TransportSlice::Icmpv4(icmp))) => match icmp.type_u8() {
                8 => Self::Named("icmp echo request"),
                0 => Self::Named("icmp echo reply"),
                kind => Self::Icmp("icmp", kind),
            },
            (_, Some(TransportSlice::Icmpv6(icmp))) => match icmp.type_u8() {
                128 => Self::Named("icmpv6 echo request"),
                129 => Self::Named("icmpv6 echo reply"),
                kind => Self::Icmp("icmpv6", kind),
            },
            (Some(LaxNetSlice::Ipv4(ip)), _) if ip.payload().fragmented => Self::Named("ipv4 fragment"),
            (Some(LaxNetSlice::Ipv4(ip)), _) => Self::Protocol("ipv4", ip.header().protocol().0),
            (Some(LaxNetSlice::Ipv6(ip)), _) if ip.payload().fragmented => Self::Named("ipv6 fragment"),
            (Some(LaxNetSlice::Ipv6(ip)), _) => Self::Protocol("ipv6", ip.payload().ip_number.0),
            (None, _) => match frame.get(12..14) {
                Some(&[high, low]) => Self::Ethertype(u16::from_be_bytes([high, low])),
                _ => Self::Named("short"),
            },
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.vlan {
            out.write_str("vlan ")?;
        }
        match self.kind {
            Kind::Named(name) => out.write_str(name),
            Kind::Udp(port) => write!(out, "udp {port}"),
            Kind::Icmp(version, kind) => write!(out, "{version} {kind}"),
            Kind::Protocol(version, number) => write!(out, "{version} protocol {number}"),
            Kind::Ethertype(number) => write!(out, "ethertype 0x{number:04x}"),
        }
    }
}

/// What kind of packet it is: `arp`, `icmp echo request`, `tcp syn`, `tcp data`, `udp 53`, `ipv6 fragment`, ...
#[must_use]
pub fn class(frame: &[u8]) -> String {
    Class::of(frame).to_string()
}

/// Fields of a packet by name, in the order of the packet.
fn fields(frame: &[u8]) -> Vec<(&'static str, String)> {
    let mut fields = Vec::new();
    let mac = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    if let (Some(destination), Some(source)) = (frame.get(..6), frame.get(6..12)) {
        fields.push(("ethernet.destination", mac(destination)));
        fields.push(("ethernet.source", mac(source)));
    }
    let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else {
        fields.push(("bytes", hex(frame.get(12..).unwrap_or(frame))));
        return fields;
    };
    for tag in packet.link_exts.iter().filter_map(|ext| match ext {
        etherparse::LaxLinkExtSlice::Vlan(vlan) => Some(vlan),
        _ => None,
    }) {
        fields.push(("vlan.id", tag.vlan_identifier().value().to_string()));
        fields.push(("vlan.priority", tag.priority_code_point().value().to_string()));
    }
    match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => ipv4(&mut fields, &ip.header()),
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            fields.push(("ipv6.traffic_class", format!("0x{:02x}", header.traffic_class())));
            fields.push(("ipv6.flow_label", format!("0x{:05x}", header.flow_label().value())));
            fields.push(("ipv6.payload_length", header.payload_length().to_string()));
            fields.push(("ipv6.next_header", header.next_header().0.to_string()));
            fields.push(("ipv6.hop_limit", header.hop_limit().to_string()));
            fields.push(("ipv6.source", Ipv6Addr::from(header.source()).to_string()));
            fields.push(("ipv6.destination", Ipv6Addr::from(header.destination()).to_string()));
        }
        Some(LaxNetSlice::Arp(arp)) => fields.push(("arp", hex(arp.slice()))),
        None => fields.push(("bytes", hex(frame.get(12..).unwrap_or_default()))),
    }
    transport(&mut fields, &packet);
    fields
}

fn ipv4(fields: &mut Vec<(&'static str, String)>, header: &etherparse::Ipv4HeaderSlice<'_>) {
    fields.push(("ipv4.tos", format!("0x{:02x}", header.dcp().value() << 2 | header.ecn().value())));
    fields.push(("ipv4.total_length", header.total_len().to_string()));
    fields.push(("ipv4.identification", header.identification().to_string()));
    let flags = [(header.dont_fragment(), "DF"), (header.more_fragments(), "MF")];
    let flags: Vec<&str> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
    fields.push(("ipv4.flags", flags.join(" ")));
    fields.push(("ipv4.fragment_offset", header.fragments_offset().value().to_string()));
    fields.push(("ipv4.ttl", header.ttl().to_string()));
    fields.push(("ipv4.protocol", header.protocol().0.to_string()));
    fields.push(("ipv4.checksum", format!("0x{:04x}", header.header_checksum())));
    fields.push(("ipv4.source", Ipv4Addr::from(header.source()).to_string()));
    fields.push(("ipv4.destination", Ipv4Addr::from(header.destination()).to_string()));
    if !header.options().is_empty() {
        fields.push(("ipv4.options", hex(header.options())));
    }
}

fn transport(fields: &mut Vec<(&'static str, String)>, packet: &LaxSlicedPacket<'_>) {
    let payload: &[u8] = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            fields.push(("tcp.source_port", tcp.source_port().to_string()));
            fields.push(("tcp.destination_port", tcp.destination_port().to_string()));
            fields.push(("tcp.sequence", tcp.sequence_number().to_string()));
            fields.push(("tcp.acknowledgement", tcp.acknowledgment_number().to_string()));
            fields.push(("tcp.flags", format!("0x{:02x}", tcp.slice()[13])));
            fields.push(("tcp.window", tcp.window_size().to_string()));
            fields.push(("tcp.checksum", format!("0x{:04x}", tcp.checksum())));
            fields.push(("tcp.options", hex(tcp.options())));
            tcp.payload()
        }
        Some(TransportSlice::Udp(udp)) => {
            fields.push(("udp.source_port", udp.source_port().to_string()));
            fields.push(("udp.destination_port", udp.destination_port().to_string()));
            fields.push(("udp.length", udp.length().to_string()));
            fields.push(("udp.checksum", format!("0x{:04x}", udp.checksum())));
            udp.payload()
        }
        Some(TransportSlice::Icmpv4(icmp)) => icmp.slice(),
        Some(TransportSlice::Icmpv6(icmp)) => icmp.slice(),
        Some(_) | None => {
            packet.net.as_ref().and_then(LaxNetSlice::ip_payload_ref).map_or(&[][..], |payload| payload.payload)
        }
    };
    if !payload.is_empty() {
        fields.push(("payload", hex(payload)));
    }
}

/// Bytes of a field that are shown.
const SHOWN: usize = 24;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The fields in which two packets differ, `length` first.
#[must_use]
pub fn changed_fields(before: &[u8], after: &[u8]) -> Vec<ChangedField> {
    let mut changed = Vec::new();
    if before.len() != after.len() {
        changed.push(ChangedField {
            field: "length".to_owned(),
            before: Some(before.len().to_string()),
            after: Some(after.len().to_string()),
        });
    }
    let (before, after) = (fields(before), fields(after));
    // The n-th field of a name is compared with the n-th of that name: VLAN tags repeat theirs.
    let nth = |fields: &[(&'static str, String)], name: &str, n: usize| {
        fields.iter().filter(|(field, _)| *field == name).nth(n).map(|(_, value)| value.clone())
    };
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, value) in &before {
        let n = seen.entry(name).or_default();
        let other = nth(&after, name, *n);
        *n += 1;
        if other.as_ref() != Some(value) {
            changed.push(pair(name, Some(value), other.as_ref()));
        }
    }
    let mut had: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, value) in &after {
        let n = had.entry(name).or_default();
        *n += 1;
        if *n > seen.get(name).copied().unwrap_or_default() {
            changed.push(pair(name, None, Some(value)));
        }
    }
    changed
}

fn pair(field: &str, before: Option<&String>, after: Option<&String>) -> ChangedField {
    // Long values are shown from where they begin to differ.
    let common = match (before, after) {
        (Some(before), Some(after)) => {
            before.bytes().zip(after.bytes()).take_while(|(one, other)| one == other).count()
        }
        _ => 0,
    };
    let cut = |text: &String| {
        if text.len() <= 2 * SHOWN {
            return text.clone();
        }
        let start = common.saturating_sub(4) / 2 * 2;
        let end = (start + 2 * SHOWN).min(text.len());
        let (head, tail) = (if start > 0 { "..." } else { "" }, if end < text.len() { "..." } else { "" });
        format!("{head}{}{tail}", &text[start..end])
    };
    ChangedField { field: field.to_owned(), before: before.map(cut), after: after.map(cut) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn tcp(ttl: u8, port: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        builder
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], ttl)
            .tcp(40_000, port, 1, 1000)
            .ack(1)
            .write(&mut frame, payload)
            .unwrap();
        frame
    }

    #[test]
    fn changed_fields_are_named_with_both_values() {
        let (before, after) = (tcp(64, 80, b"hello"), tcp(63, 80, b"hello"));
        let changed: Vec<String> = changed_fields(&before, &after).into_iter().map(|field| field.field).collect();
        assert_eq!(changed, ["ipv4.ttl", "ipv4.checksum"]);
        let longer = changed_fields(&before, &tcp(64, 80, b"hello world"));
        assert_eq!((longer[0].field.as_str(), longer[0].after.as_deref()), ("length", Some("65")));
        assert!(changed_fields(&before, &before).is_empty());
    }

    #[test]
    fn packets_fall_into_classes() {
        assert_eq!(class(&tcp(64, 80, b"x")), "tcp data");
        assert_eq!(class(&tcp(64, 80, b"")), "tcp ack");
        assert_eq!(class(&[0; 14]), "ethertype 0x0000");
        assert_eq!(class(&[0; 5]), "short");
        let mut vlan = tcp(64, 80, b"");
        vlan.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
        assert_eq!(class(&vlan), "vlan tcp ack");
    }

    #[test]
    fn bytes_of_any_kind_are_compared_without_panic() {
        let mut bytes: Vec<u8> = (0..=255).collect();
        for len in 0..256 {
            bytes.rotate_left(7);
            let _ = (class(&bytes[..len]), changed_fields(&bytes[..len], &bytes[len / 2..]));
        }
    }
}
