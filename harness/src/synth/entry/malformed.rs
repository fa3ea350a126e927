//! Packets that no sound stack sends.

use super::super::SynthError;
use super::super::catalogue::{Entry, Family, Ip};
use super::super::packet::{ETHERNET, Template, Transport, flag};
use super::super::param::{Kind, Parameter};
use super::super::spec::Context;
use super::super::spoil::spoil;
use super::super::stream::{Generator, Made};
use super::packets::{Ends, packets, random};
use super::{Common, both, port};

pub(super) const COMMON: Common = Common {
    family: Family::Malformed,
    unit: "packets",
    ip: Ip::Any,
    spoofs: false,
    two_sided: false,
    rate: 100.0,
    count: |_| 100,
};

pub(super) const ENTRIES: &[Entry] = &[
    COMMON.entry(
        "land",
        "a SYN whose source is its own target, address and port",
        "CVE-1999-0016; hping3(8) -S -a TARGET -s PORT -p PORT",
        &[port("80")],
        land,
    ),
    Common {
        ip: Ip::Only4("the header of IPv6 has a fixed length; ipv6-extension-chain is about what follows it"),
        ..COMMON
    }
    .entry(
        "bad-ihl",
        "a header length that is less than a header, or more than the packet",
        "RFC 791 section 3.1; isic(1) -I",
        &[Parameter::count(
            "ihl",
            "words of 32 bits",
            (0, 15),
            "4",
            "header length that the packet says; 5 would be right",
        )],
        bad_ihl,
    ),
    COMMON.entry(
        "bad-length",
        "a length in IP or UDP that is not that of the packet",
        "RFC 791 section 3.1, RFC 8200 section 3, RFC 768; isic(1), udpsic(1)",
        &[
            Parameter::of("field", Kind::Choice(&["ip", "udp"]), "ip", "whose length it is"),
            Parameter::of("error", Kind::Choice(&["longer", "shorter"]), "longer", "in which direction it is wrong"),
            Parameter::count("by", "bytes", (1, 1_000), "8", "by how much"),
        ],
        bad_length,
    ),
    COMMON.entry(
        "bad-offset",
        "a TCP data offset that is less than a header, or more than the segment",
        "RFC 9293 section 3.1; tcpsic(1)",
        &[Parameter::count(
            "offset",
            "words of 32 bits",
            (0, 15),
            "4",
            "data offset that the segment says; 5 would be right",
        )],
        bad_offset,
    ),
    COMMON.entry(
        "bad-flags",
        "combinations of TCP flags that mean nothing",
        "RFC 9293 section 3.10.7; Handley, Paxson, Kreibich: Network Intrusion Detection, 2001",
        &[
            port("80"),
            Parameter::of(
                "flags",
                Kind::Choice(&["cycle", "syn-fin", "syn-rst", "fin-rst", "all", "none"]),
                "cycle",
                "which; cycle is all of them in turn",
            ),
        ],
        bad_flags,
    ),
    COMMON.entry(
        "bad-checksum",
        "a checksum that is wrong: the packet is to be dropped without a word",
        "RFC 1071; RFC 9293 section 3.1, RFC 768, RFC 791; hping3(8) -b",
        &[
            Parameter::of("field", Kind::Choice(&["tcp", "udp", "ip"]), "tcp", "whose checksum is wrong"),
            Parameter::count("payload", "bytes", (0, 1_400), "32", "payload of each packet"),
        ],
        bad_checksum,
    ),
    Common { ip: Ip::Only6("IPv4 has no extension headers"), ..COMMON }.entry(
        "ipv6-extension-chain",
        "extension headers one behind the other before the transport",
        "RFC 8200 section 4; RFC 8504 section 5.3; RFC 7045; RFC 9098",
        &[
            port("80"),
            Parameter::count("headers", "", (1, 100), "8", "how many headers"),
            Parameter::of(
                "kind",
                Kind::Choice(&["destination", "hop-by-hop", "mixed"]),
                "destination",
                "destination options; hop-by-hop options, which may stand first alone; or both with routing headers",
            ),
            Parameter::count(
                "padding",
                "bytes",
                (4, 244),
                "4",
                "PadN option of each header, made up to a multiple of 8",
            ),
        ],
        extension_chain,
    ),
];

fn tcp_templates(context: &Context<'_>, payload: &[u8]) -> [Template; 2] {
    both(context, |_| Transport::Tcp(&[]), payload)
}

fn land(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let (templates, ends, port) = (tcp_templates(context, &[]), Ends::of(context), context.params.port("port"));
    Ok(packets(move |unit, frame| {
        let [_, target] = ends.choose(unit);
        let mut patch = templates[usize::from(unit.v6)].copy(&mut frame.data);
        patch.addresses(target, target).ports(port, port).ident(unit.rng.next_u16()).flags(flag::SYN);
        patch.l4_32(4, unit.rng.next_u32()).l4_16(14, 1_024).finish();
        Made::LAST
    }))
}

fn bad_ihl(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let ihl = context.params.count("ihl") as u16;
    if ihl == 5 {
        return Err(context.contradiction("an `ihl` of 5 is right"));
    }
    let (templates, ends) = (both(context, |_| Transport::Udp, &[0x69; 8]), Ends::of(context));
    Ok(packets(move |unit, frame| {
        let [source, target] = ends.choose(unit);
        let mut patch = templates[0].copy(&mut frame.data);
        patch.addresses(source, target).ident(unit.rng.next_u16()).ports(unit.rng.between(1_024, 65_535) as u16, 53);
        // The checksum is that of the 20 bytes that are there.
        patch.ip16(0, (0x40 | ihl) << 8).finish();
        Made::LAST
    }))
}

fn bad_length(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    const PAYLOAD: usize = 32;
    let params = &context.params;
    let (longer, by, of_ip) =
        (params.text("error") == "longer", params.count("by") as u16, params.text("field") == "ip");
    let (templates, ends) = (both(context, |_| Transport::Udp, &[0x6c; PAYLOAD]), Ends::of(context));
    let wrong = move |length: u16| if longer { length + by } else { length.saturating_sub(by) };
    Ok(packets(move |unit, frame| {
        let [source, target] = ends.choose(unit);
        let datagram = PAYLOAD as u16 + 8;
        let mut patch = templates[usize::from(unit.v6)].copy(&mut frame.data);
        patch.addresses(source, target).ident(unit.rng.next_u16()).ports(unit.rng.between(1_024, 65_535) as u16, 53);
        match (of_ip, unit.v6) {
            (true, true) => patch.ip16(4, wrong(datagram)),
            (true, false) => patch.ip16(2, wrong(datagram + 20)),
            (false, _) => patch.l4_16(4, wrong(datagram)),
        };
        patch.finish();
        Made::LAST
    }))
}

fn bad_offset(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let offset = context.params.count("offset") as u16;
    if offset == 5 {
        return Err(context.contradiction("an `offset` of 5 is right"));
    }
    let (templates, ends) = (tcp_templates(context, &[0x6f; 8]), Ends::of(context));
    Ok(packets(move |unit, frame| {
        let [source, target] = ends.choose(unit);
        let mut patch = templates[usize::from(unit.v6)].copy(&mut frame.data);
        patch.addresses(source, target).ident(unit.rng.next_u16()).ports(unit.rng.between(1_024, 65_535) as u16, 80);
        patch.l4_32(4, unit.rng.next_u32()).l4_16(12, offset << 12 | u16::from(flag::ACK)).finish();
        Made::LAST
    }))
}

fn bad_flags(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    use flag::{ACK, FIN, PSH, RST, SYN, URG};
    const KINDS: [(&str, u8); 5] = [
        ("syn-fin", SYN | FIN),
        ("syn-rst", SYN | RST),
        ("fin-rst", FIN | RST),
        ("all", FIN | SYN | RST | PSH | ACK | URG),
        ("none", 0),
    ];
    let (asked, port) = (context.params.text("flags"), context.params.port("port"));
    let (templates, ends, turn) = (tcp_templates(context, &[]), Ends::of(context), context.versions().count() as u64);
    let only = KINDS.iter().find(|(name, _)| *name == asked).map(|(_, flags)| *flags);
    Ok(packets(move |unit, frame| {
        let [source, target] = ends.choose(unit);
        let flags = only.unwrap_or(KINDS[(unit.index / turn % KINDS.len() as u64) as usize].1);
        let mut patch = templates[usize::from(unit.v6)].copy(&mut frame.data);
        patch.addresses(source, target).ident(unit.rng.next_u16()).ports(unit.rng.between(1_024, 65_535) as u16, port);
        patch.l4_32(4, unit.rng.next_u32()).flags(flags).l4_16(14, 1_024).finish();
        Made::LAST
    }))
}

fn bad_checksum(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let (field, bytes) = (context.params.text("field"), context.params.size("payload"));
    let of_ip = field == "ip";
    if of_ip && context.versions().any(|v6| v6) {
        return Err(context.contradiction("the header of IPv6 has no checksum: `field` is tcp or udp"));
    }
    let transport = |_| if field == "tcp" { Transport::Tcp(&[]) } else { Transport::Udp };
    let (templates, ends, is_tcp) = (both(context, transport, &random(bytes)), Ends::of(context), field == "tcp");
    Ok(packets(move |unit, frame| {
        let [source, target] = ends.choose(unit);
        let mut patch = templates[usize::from(unit.v6)].copy(&mut frame.data);
        patch.addresses(source, target).ident(unit.rng.next_u16()).ports(unit.rng.between(1_024, 65_535) as u16, 80);
        if is_tcp {
            patch.l4_32(4, unit.rng.next_u32()).flags(flag::ACK | flag::PSH).l4_16(14, 1_024);
        }
        patch.finish();
        if of_ip {
            frame.data[ETHERNET + 10] ^= 0x5a;
        } else {
            spoil(&mut frame.data);
        }
        Made::LAST
    }))
}

/// Numbers of extension headers (RFC 8200 section 4.1), and of TCP.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;
const TCP: u8 = 6;

fn extension_chain(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let kinds: Vec<u8> = match (params.text("kind").as_str(), params.size("headers")) {
        ("hop-by-hop", headers) => vec![HOP_BY_HOP; headers],
        ("destination", headers) => vec![DESTINATION; headers],
        (_, headers) => (0..headers).map(|n| if n == 0 { HOP_BY_HOP } else { [ROUTING, DESTINATION][n % 2] }).collect(),
    };
    // Next header and length, then the option PadN with its own two bytes.
    let length = (2 + params.size("padding").max(4)).next_multiple_of(8);
    let mut chain = Vec::new();
    for (at, kind) in kinds.iter().enumerate() {
        let next = kinds.get(at + 1).copied().unwrap_or(TCP);
        let start = chain.len();
        chain.extend_from_slice(&[next, (length / 8 - 1) as u8]);
        // A routing header of type 253 (RFC 3692) with nothing left is passed over (RFC 8200 section 4.4).
        let rest: &[u8] = if *kind == ROUTING { &[253, 0] } else { &[1, (length - 4) as u8] };
        chain.extend_from_slice(rest);
        chain.resize(start + length, 0);
    }
    if chain.len() > 1_400 {
        return Err(context.contradiction(format!("a chain of {} bytes does not fit into a packet", chain.len())));
    }
    let first = kinds.first().copied().unwrap_or(TCP);
    let (templates, ends, port) = (tcp_templates(context, &[]), Ends::of(context), params.port("port"));
    let payload_length = chain.len() as u16 + 20;
    Ok(packets(move |unit, frame| {
        let [source, target] = ends.choose(unit);
        let mut patch = templates[1].copy(&mut frame.data);
        patch.addresses(source, target).ports(unit.rng.between(1_024, 65_535) as u16, port).flags(flag::SYN);
        patch.l4_32(4, unit.rng.next_u32()).l4_16(14, 1_024).finish();
        // Between IPv6 and TCP.
        let (length, at) = (frame.data.len(), ETHERNET + 40);
        frame.data.resize(length + chain.len(), 0);
        frame.data.copy_within(at..length, at + chain.len());
        frame.data[at..at + chain.len()].copy_from_slice(&chain);
        frame.data[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&payload_length.to_be_bytes());
        frame.data[ETHERNET + 6] = first;
        Made::LAST
    }))
}
