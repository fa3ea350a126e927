//! Fragments that do not fit together.

use super::super::SynthError;
use super::super::catalogue::Entry;
use super::super::packet::{Patch, flag};
use super::super::param::Parameter;
use super::super::spec::Context;
use super::super::stream::{Generator, Made};
use super::malformed::COMMON;
use super::packets::{Cutter, packets, random};
use super::port;

pub(super) const ENTRIES: &[Entry] = &[
    COMMON.entry(
        "teardrop",
        "a second fragment that lies inside the first (two packets a unit)",
        "CVE-1999-0015; CVE-1999-0258 (bonk)",
        &[
            port("53"),
            Parameter::count("first", "bytes", (16, 1_200), "40", "length of the first fragment, a multiple of 8"),
            Parameter::count("offset", "bytes", (8, 1_192), "24", "offset of the second, a multiple of 8"),
            Parameter::count("second", "bytes", (1, 1_200), "4", "length of the second"),
        ],
        teardrop,
    ),
    COMMON.entry(
        "overlapping-fragments",
        "two fragments that disagree about the bytes that both have (two packets a unit)",
        "RFC 1858 section 4; RFC 5722; Ptacek, Newsham: Insertion, Evasion, and Denial of Service, 1998",
        &[
            port("53"),
            Parameter::count("size", "bytes", (16, 1_200), "64", "length of the first fragment, a multiple of 8"),
            Parameter::count("overlap", "bytes", (8, 1_192), "16", "bytes that both have, a multiple of 8"),
        ],
        overlapping,
    ),
    COMMON.entry(
        "tiny-fragments",
        "a SYN whose flags are in the second fragment (two packets a unit)",
        "RFC 1858 section 3; RFC 3128; RFC 7112 for IPv6; nmap(1) -f",
        &[port("80")],
        tiny,
    ),
    COMMON.entry(
        "ping-of-death",
        "a last fragment that would end beyond the largest packet",
        "CVE-1999-0128; CVE-2013-3183 for IPv6",
        &[Parameter::count("size", "bytes", (24, 1_400), "1000", "length of the fragment, which begins at 65528")],
        ping_of_death,
    ),
];

/// A multiple of 8, or why not.
fn eighths(context: &Context<'_>, name: &str) -> Result<usize, SynthError> {
    let bytes = context.params.size(name);
    match bytes % 8 {
        0 => Ok(bytes),
        _ => {
            Err(context.contradiction(format!("`{name}` of {bytes} is no multiple of 8, and fragments begin at those")))
        }
    }
}

/// Time between the packets of one unit, ns.
const NEXT: Made = Made { sent: true, next_ns: Some(10_000) };

fn teardrop(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let (first, offset, second) =
        (eighths(context, "first")?, eighths(context, "offset")?, context.params.size("second"));
    if offset + second > first {
        return Err(context.contradiction(format!(
            "a second fragment from {offset} to {} does not lie inside a first of {first} bytes",
            offset + second
        )));
    }
    let port = context.params.port("port");
    let mut cutter = Cutter::new(context, false, &random(first - 8));
    Ok(packets(move |unit, frame| {
        let from = unit.rng.fork(3).between(1_024, 65_535) as u16;
        unit.step += 1;
        let (range, made) = if unit.step == 1 { (0..first, NEXT) } else { (offset..offset + second, Made::LAST) };
        let start = range.start;
        cutter.fragment(
            unit,
            frame,
            (range, start, start == 0),
            |patch| {
                patch.ports(from, port);
            },
            |_| (),
        );
        made
    }))
}

fn overlapping(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let (size, overlap) = (eighths(context, "size")?, eighths(context, "overlap")?);
    if overlap >= size {
        return Err(context.contradiction("`overlap` is not less than `size`"));
    }
    let port = context.params.port("port");
    let mut cutter = Cutter::new(context, false, &random(2 * size - overlap - 8));
    Ok(packets(move |unit, frame| {
        let from = unit.rng.fork(3).between(1_024, 65_535) as u16;
        unit.step += 1;
        let first = unit.step == 1;
        let start = if first { 0 } else { size - overlap };
        let change = |bytes: &mut [u8]| {
            if !first {
                bytes[..overlap].iter_mut().for_each(|byte| *byte = !*byte);
            }
        };
        cutter.fragment(
            unit,
            frame,
            (start..start + size, start, first),
            |patch| {
                patch.ports(from, port);
            },
            change,
        );
        if first { NEXT } else { Made::LAST }
    }))
}

fn tiny(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let port = context.params.port("port");
    let mut cutter = Cutter::new(context, true, &[]);
    Ok(packets(move |unit, frame| {
        let mut rng = unit.rng.fork(3);
        let (from, seq) = (rng.between(1_024, 65_535) as u16, rng.next_u32());
        unit.step += 1;
        let (range, made) = if unit.step == 1 { (0..8, NEXT) } else { (8..20, Made::LAST) };
        let header = |patch: &mut Patch<'_>| {
            patch.ports(from, port).l4_32(4, seq).flags(flag::SYN).l4_16(14, 1_024);
        };
        let start = range.start;
        cutter.fragment(unit, frame, (range, start, start == 0), header, |_| ());
        made
    }))
}

fn ping_of_death(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    // 8191 units of 8 bytes is the largest offset there is.
    const OFFSET: usize = 65_528;
    let size = context.params.size("size");
    let mut cutter = Cutter::new(context, false, &random(size));
    Ok(packets(move |unit, frame| {
        cutter.fragment(unit, frame, (8..8 + size, OFFSET, false), |_| (), |_| ());
        Made::LAST
    }))
}
