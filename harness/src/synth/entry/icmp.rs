//! Messages of and about IP: redirects, packet sizes, lifetimes.

use std::net::IpAddr;

use etherparse::{Icmpv4Type, Icmpv6Type};

use super::super::SynthError;
use super::super::catalogue::{Entry, Family, Ip};
use super::super::conversation::{Conversation, Plain};
use super::super::packet::{ETHERNET, Template, Transport};
use super::super::param::{Kind, Parameter};
use super::super::pool::Address;
use super::super::script::{SERVER, Script};
use super::super::spec::Context;
use super::super::stream::{Generator, Made, Unit};
use super::link::NEIGHBOUR;
use super::packets::{Ends, packets};
use super::{Common, RTT, both, port, setting};

const COMMON: Common = Common {
    family: Family::Icmp,
    unit: "packets",
    ip: Ip::Any,
    spoofs: false,
    two_sided: false,
    rate: 100.0,
    count: |_| 100,
};

const DESTINATION: Parameter = Parameter::of(
    "destination",
    Kind::Address,
    "auto",
    "where the target is said to send its packets; auto is an address for documentation",
);

pub(super) const ENTRIES: &[Entry] = &[
    COMMON.entry(
        "ttl-expiry",
        "datagrams that end at the first router, which must answer each with ICMP",
        "traceroute(1); RFC 1812 section 5.3.1; hping3(8) -2 -t 1 --flood",
        &[
            Parameter::count("ttl", "hops", (1, 255), "1", "time to live or hop limit"),
            Parameter::count("port", "", (1, 65_000), "33434", "port of the first; the next 30 follow in turn"),
            Parameter::count("payload", "bytes", (0, 1_400), "32", "payload of each packet"),
        ],
        ttl_expiry,
    ),
    COMMON.entry(
        "icmp-redirect",
        "a router's word that another router, the attacker, is the better way",
        "RFC 792, RFC 4861 section 8; hping3(8) -C 5 -K 1; redir6 of thc-ipv6; CVE-1999-0265",
        &[
            DESTINATION,
            Parameter::of(
                "router",
                Kind::Address,
                "auto",
                "router that is impersonated; auto is the sender, or fe80::1",
            ),
            Parameter::of("gateway", Kind::Address, "auto", "the better way; auto is the sender"),
        ],
        redirect,
    ),
    COMMON.entry(
        "frag-needed",
        "forged word that packets are too large, to make the target send small ones",
        "RFC 1191 section 4, RFC 8201; RFC 5927 section 7 (blind performance-degrading attack); CVE-2004-1060",
        &[
            Parameter::count("mtu", "bytes", (0, 65_535), "576", "largest packet that is said to fit"),
            DESTINATION,
            port("80"),
        ],
        frag_needed,
    ),
    Common { two_sided: true, unit: "connections", rate: 10.0, count: |_| 10, ..COMMON }.entry(
        "pmtu-black-hole",
        "connections that open and ask, and whose full-size answer never arrives, nor any word why",
        "RFC 2923 section 2.1; RFC 4821 section 1; retransmission as in RFC 6298 section 5.5",
        &[
            port("80"),
            Parameter::count("retries", "", (0, 15), "5", "how often the answer is sent again"),
            Parameter::count(
                "timeout",
                "ms",
                (1, 60_000),
                "200",
                "time before the first retry, which doubles each time",
            ),
            RTT,
        ],
        black_hole,
    ),
];

/// An address that is nobody's: RFC 5737, RFC 3849.
fn documentation(v6: bool) -> IpAddr {
    if v6 { IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99]) } else { IpAddr::from([203, 0, 113, 99]) }
}

fn ttl_expiry(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let (ttl, port) = (params.count("ttl") as u8, params.port("port"));
    let templates = both(context, |_| Transport::Udp, &vec![0x40; params.size("payload")]);
    let ends = Ends::of(context);
    Ok(packets(move |unit, frame| {
        let [source, target] = ends.choose(unit);
        let mut patch = templates[usize::from(unit.v6)].copy(&mut frame.data);
        patch.addresses(source, target).ident(unit.rng.next_u16()).ttl(ttl);
        patch.ports(unit.rng.between(32_768, 60_999) as u16, port + (unit.index % 30) as u16).finish();
        Made::LAST
    }))
}

/// What an error message is about: a packet that the target is said to have sent, headers and the first bytes.
struct Quoted {
    templates: [Template; 2],
    destinations: [Address; 2],
    port: u16,
    scratch: Vec<u8>,
}

impl Quoted {
    fn new(context: &Context<'_>, port: u16) -> Result<Self, SynthError> {
        let mut destinations = [documentation(false), documentation(true)].map(Address::from);
        for v6 in context.versions() {
            destinations[usize::from(v6)] = context.address("destination", v6, documentation(v6))?;
        }
        let templates = both(context, |_| Transport::Tcp(&[]), &[]);
        Ok(Self { templates, destinations, port, scratch: Vec::new() })
    }

    /// IP header and the first 8 bytes of TCP (RFC 792); all of a small packet in IPv6 (RFC 4443 section 2.4).
    fn of(&mut self, unit: &mut Unit, target: Address) -> &[u8] {
        let version = usize::from(unit.v6);
        let mut patch = self.templates[version].copy(&mut self.scratch);
        patch.addresses(target, self.destinations[version]).ident(unit.rng.next_u16());
        patch.ports(self.port, unit.rng.between(32_768, 60_999) as u16).flags(super::super::packet::flag::ACK);
        patch.l4_32(4, unit.rng.next_u32()).l4_32(8, unit.rng.next_u32()).l4_16(14, 502).finish();
        &self.scratch[ETHERNET..if unit.v6 { self.scratch.len() } else { ETHERNET + 28 }]
    }
}

fn redirect(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let mut routers = [None; 2];
    let mut gateways = [Address::NONE; 2];
    let sender = |v6: bool| context.hosts.address(&context.hosts.client, v6).unwrap_or_else(|| documentation(v6));
    for v6 in context.versions() {
        // A redirect of IPv6 counts only from a link-local address (RFC 4861 section 8.1).
        let link_local = IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1]);
        routers[usize::from(v6)] = match (context.params.address("router"), v6) {
            (None, false) => None,
            _ => Some(context.address("router", v6, link_local)?),
        };
        gateways[usize::from(v6)] = context.address("gateway", v6, sender(v6))?;
    }
    let mut quoted = Quoted::new(context, 80)?;
    let mut gateway = [0; 4];
    gateway.copy_from_slice(&gateways[0].bytes()[..4]);
    // Redirect for a host (RFC 792); type 137 (RFC 4861 section 4.5).
    let v4 = Icmpv4Type::Unknown { type_u8: 5, code_u8: 1, bytes5to8: gateway };
    let v6 = Icmpv6Type::Unknown { type_u8: 137, code_u8: 0, bytes5to8: [0; 4] };
    let templates = both(context, |six| if six { Transport::Icmp6(v6) } else { Transport::Icmp4(v4.clone()) }, &[]);
    let (ends, mut scratch) = (Ends::of(context), Vec::new());
    Ok(packets(move |unit, frame| {
        let version = usize::from(unit.v6);
        let [source, target] = ends.choose(unit);
        scratch.clear();
        if unit.v6 {
            scratch.extend_from_slice(gateways[1].bytes());
            scratch.extend_from_slice(quoted.destinations[1].bytes());
            // Option Redirected Header (section 4.6.3), in units of 8 bytes.
            let about = quoted.of(unit, target);
            let units = (about.len() + 8).div_ceil(8);
            scratch.extend_from_slice(&[4, units as u8, 0, 0, 0, 0, 0, 0]);
            scratch.extend_from_slice(about);
            scratch.resize(32 + units * 8, 0);
        } else {
            scratch.extend_from_slice(quoted.of(unit, target));
        }
        let mut patch = templates[version].copy(&mut frame.data);
        patch.addresses(routers[version].unwrap_or(source), target).ident(unit.rng.next_u16()).payload(&scratch);
        if unit.v6 {
            patch.ttl(NEIGHBOUR);
        }
        patch.finish();
        Made::LAST
    }))
}

fn frag_needed(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let mtu = context.params.count("mtu") as u16;
    let [high, low] = mtu.to_be_bytes();
    let mut quoted = Quoted::new(context, context.params.port("port"))?;
    // Fragmentation needed and DF set (RFC 1191 section 4), packet too big (RFC 4443 section 3.2).
    let v4 = Icmpv4Type::Unknown { type_u8: 3, code_u8: 4, bytes5to8: [0, 0, high, low] };
    let v6 = Icmpv6Type::Unknown { type_u8: 2, code_u8: 0, bytes5to8: [0, 0, high, low] };
    let templates = both(context, |six| if six { Transport::Icmp6(v6) } else { Transport::Icmp4(v4.clone()) }, &[]);
    let ends = Ends::of(context);
    Ok(packets(move |unit, frame| {
        let [source, target] = ends.choose(unit);
        let about = quoted.of(unit, target);
        let mut patch = templates[usize::from(unit.v6)].copy(&mut frame.data);
        patch.addresses(source, target).payload(about).finish();
        Made::LAST
    }))
}

fn black_hole(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let mut script = Script::tcp(params.port("port"), params.us("rtt"));
    script.client(|fill| {
        fill.text("GET /large HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
    });
    script.settle();
    script.stuck(SERVER, 100_000, params.ms("timeout"), params.count("retries") as u32);
    Ok(Box::new(Conversation::new(setting(context), vec![script], Plain)))
}
