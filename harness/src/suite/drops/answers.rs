//! ICMP errors: what they say, and of which drops.

use std::collections::BTreeMap;

use bpflab_programs::drops::AnswerKey;
use bpflab_programs::packet::FAMILY_IPV6;

use crate::kernel::reasons::UNKNOWN;
use crate::observation::{Drop, IcmpError};
use crate::suite::format;

/// The errors by flow, with the reasons (or places) of the flow's drops, which are in order of their number.
pub(super) fn report(answers: &BTreeMap<AnswerKey, u64>, drops: &[Drop]) -> Vec<IcmpError> {
    let mut errors: Vec<IcmpError> = answers.iter().map(|(key, packets)| describe(key, *packets, drops)).collect();
    errors.sort_by(|one, other| (&one.flow, one.kind, one.code).cmp(&(&other.flow, other.kind, other.code)));
    errors
}

fn describe(key: &AnswerKey, packets: u64, drops: &[Drop]) -> IcmpError {
    let ports = format::has_ports(key.family, key.proto);
    let end = |address, port| format::endpoint(key.family, address, ports.then_some(port));
    let proto = format::proto_name(key.family, key.proto, 0);
    let flow = format!("{proto} {} > {}", end(&key.src, key.src_port), end(&key.dst, key.dst_port));
    let mut dropped_for: Vec<String> = Vec::new();
    for drop in drops.iter().filter(|drop| drop.flow == flow) {
        let why = if drop.reason == UNKNOWN { &drop.place } else { &drop.reason };
        if !dropped_for.contains(why) {
            dropped_for.push(why.clone());
        }
    }
    let (proto, meaning) = if key.family == FAMILY_IPV6 {
        ("icmpv6", meaning6(key.kind, key.code))
    } else {
        ("icmp", meaning4(key.kind, key.code))
    };
    let (proto, meaning) = (proto.to_owned(), meaning.to_owned());
    IcmpError { proto, kind: key.kind, code: key.code, meaning, flow, dropped_for, packets }
}

/// RFC 792, RFC 1122 section 3.2.2.1, RFC 1812 section 5.2.7.1.
const fn meaning4(kind: u8, code: u8) -> &'static str {
    match (kind, code) {
        (3, 0) => "net unreachable",
        (3, 1) => "host unreachable",
        (3, 2) => "protocol unreachable",
        (3, 3) => "port unreachable",
        (3, 4) => "fragmentation needed",
        (3, 5) => "source route failed",
        (3, 9 | 10 | 13) => "administratively prohibited",
        (3, _) => "destination unreachable",
        (4, _) => "source quench",
        (5, _) => "redirect",
        (11, 0) => "time to live exceeded",
        (11, _) => "reassembly time exceeded",
        _ => "parameter problem",
    }
}

/// RFC 4443 section 3.
const fn meaning6(kind: u8, code: u8) -> &'static str {
    match (kind, code) {
        (1, 0) => "no route",
        (1, 1) => "administratively prohibited",
        (1, 3) => "address unreachable",
        (1, 4) => "port unreachable",
        (1, 5) => "source address failed policy",
        (1, 6) => "reject route",
        (1, _) => "destination unreachable",
        (2, _) => "packet too big",
        (3, 0) => "hop limit exceeded",
        (3, _) => "reassembly time exceeded",
        _ => "parameter problem",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpflab_programs::packet::FAMILY_IPV4;

    fn drop(reason: &str, flow: &str) -> Drop {
        Drop { reason: reason.to_owned(), flow: flow.to_owned(), packets: 1, ..Drop::default() }
    }

    #[test]
    fn an_error_names_its_flow_and_what_was_dropped() {
        let mut key = AnswerKey { family: FAMILY_IPV4, proto: 17, kind: 3, code: 3, dst_port: 9, ..<_>::default() };
        key.src[..4].copy_from_slice(&[10, 0, 0, 1]);
        key.dst[..4].copy_from_slice(&[10, 0, 0, 2]);
        key.src_port = 5;
        let flow = "udp 10.0.0.1:5 > 10.0.0.2:9";
        let drops = [drop("NO_SOCKET", flow), drop("NO_SOCKET", flow), drop("IP_CSUM", "udp 10.0.0.1:6 > 10.0.0.2:9")];
        let [error] = report(&BTreeMap::from([(key, 2)]), &drops).try_into().unwrap();
        assert_eq!((error.flow.as_str(), error.meaning.as_str(), error.packets), (flow, "port unreachable", 2));
        assert_eq!(error.dropped_for, ["NO_SOCKET"]);
        // A kernel without reasons: where it was dropped says more.
        let drops = [Drop { place: "__udp4_lib_rcv".to_owned(), ..drop(UNKNOWN, flow) }];
        let [error] = report(&BTreeMap::from([(key, 2)]), &drops).try_into().unwrap();
        assert_eq!(error.dropped_for, ["__udp4_lib_rcv"]);
    }

    #[test]
    fn types_of_both_protocols_have_meanings() {
        assert_eq!((meaning4(11, 0), meaning6(3, 0)), ("time to live exceeded", "hop limit exceeded"));
        assert_eq!((meaning4(3, 4), meaning6(2, 0)), ("fragmentation needed", "packet too big"));
    }
}
