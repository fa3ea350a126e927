//! The domain name system: messages (RFC 1035), and what is done with them.

use super::super::SynthError;
use super::super::catalogue::{Entry, Family, Ip};
use super::super::conversation::{Conversation, Plain};
use super::super::param::{Kind, Parameter};
use super::super::script::{Fill, Script, Writer};
use super::super::spec::Context;
use super::super::stream::Generator;
use super::{Common, RTT, port, setting};

const COMMON: Common = Common {
    family: Family::Dns,
    unit: "queries",
    ip: Ip::Any,
    spoofs: false,
    two_sided: true,
    rate: 1_000.0,
    count: |_| 1_000,
};

const DOMAIN: Parameter =
    Parameter::of("domain", Kind::Name { max: 100 }, "example.com", "domain that the queries are about or below");

pub(super) const ENTRIES: &[Entry] = &[
    Common { spoofs: true, ..COMMON }.entry(
        "dns-amplification",
        "short queries for long answers, in the name of a victim, and the answers; one-sided: the queries alone",
        "CVE-2006-0987; US-CERT TA13-088A; RFC 5358",
        &[
            port("53"),
            DOMAIN,
            Parameter::of("type", Kind::Choice(&["ANY", "TXT", "DNSKEY"]), "ANY", "record type that is asked for"),
            Parameter::count("response", "bytes", (100, 1_400), "1232", "length of the DNS message that comes back"),
            RTT,
        ],
        amplification,
    ),
    Common { rate: 50.0, ..COMMON }.entry(
        "dns-tunnel",
        "data in both directions in names and NULL or TXT records",
        "iodine(8) -T; RFC 1035 section 3.3.10; MITRE ATT&CK T1071.004",
        &[
            port("53"),
            DOMAIN,
            Parameter::of("type", Kind::Choice(&["NULL", "TXT"]), "NULL", "record type that carries the data"),
            Parameter::count("up", "bytes", (1, 80), "60", "data in each query, before it is written in base 32"),
            Parameter::count("down", "bytes", (0, 1_000), "200", "data in each answer"),
            RTT,
        ],
        tunnel,
    ),
    Common { rate: 20.0, ..COMMON }.entry(
        "dns-exfiltration",
        "a file that leaves piece by piece in long names, each query answered with NXDOMAIN",
        "dnscat2; RFC 1035 section 2.3.4 (63 bytes a label, 255 a name); MITRE ATT&CK T1048.003",
        &[
            port("53"),
            DOMAIN,
            Parameter::count("length", "bytes", (30, 253), "240", "length of each name as text"),
            RTT,
        ],
        exfiltration,
    ),
    Common { spoofs: true, ..COMMON }.entry(
        "random-subdomain-flood",
        "queries for names that do not exist, below one domain, so that no cache answers (water torture)",
        "RFC 8020 section 4; Mirai's dns attack; dnsperf(1)",
        &[
            port("53"),
            DOMAIN,
            Parameter::count("label", "bytes", (1, 63), "12", "length of the random label"),
            Parameter::of(
                "answer",
                Kind::Choice(&["nxdomain", "servfail", "none"]),
                "nxdomain",
                "what the server answers",
            ),
            RTT,
        ],
        random_subdomain,
    ),
];

/// Record types (RFC 1035 section 3.2.2, RFC 3596, RFC 4034, RFC 8482 for ANY).
pub(super) fn type_number(name: &str) -> u16 {
    match name {
        "NULL" => 10,
        "TXT" => 16,
        "AAAA" => 28,
        "DNSKEY" => 48,
        "ANY" => 255,
        _ => 1,
    }
}

/// Response codes (RFC 1035 section 4.1.1).
pub(super) const NO_ERROR: u8 = 0;
pub(super) const SERVER_FAILURE: u8 = 2;
pub(super) const NO_SUCH_NAME: u8 = 3;

/// A header; the identifier is that of the unit. Recursion is desired, and available in answers.
fn header(fill: &mut Fill<'_>, response: Option<u8>, answers: u16, additional: u16) {
    let id = fill.shared as u16;
    let flags = match response {
        None => 0x0100,
        Some(code) => 0x8180 | u16::from(code),
    };
    fill.u16(id).u16(flags).u16(1).u16(answers).u16(0).u16(additional);
}

/// A name out of labels, without its end.
fn labels(fill: &mut Fill<'_>, name: &str) {
    for label in name.split('.') {
        fill.bytes(&[label.len() as u8]).text(label);
    }
}

/// The end of a question's name, then type and class.
fn question(fill: &mut Fill<'_>, name: &Name<'_>, kind: u16) {
    match name {
        Name::Fixed(name) => labels(fill, name),
        Name::Below { domain, length } => {
            random_labels(fill, length.saturating_sub(domain.len() + 1).max(1));
            labels(fill, domain);
        }
    }
    fill.bytes(&[0]).u16(kind).u16(1);
}

/// The name of a question.
pub(super) enum Name<'a> {
    /// As it is.
    Fixed(&'a str),
    /// Random labels before a domain, so many bytes in all as text; the same for all messages of a unit.
    Below {
        /// The domain.
        domain: &'a str,
        /// Bytes.
        length: usize,
    },
}

/// Random characters in labels of at most 63 bytes, `rest` bytes with the dots between them.
fn random_labels(fill: &mut Fill<'_>, mut rest: usize) {
    let mut rng = fill.unit.rng.fork(fill.shared);
    while rest > 0 {
        // A label of one byte less, rather than nothing left for the one behind the dot.
        let label = if rest == 64 { 62 } else { rest.min(63) };
        fill.bytes(&[label as u8]);
        rng.characters(fill.out, BASE32, label);
        rest = rest.saturating_sub(label + 1);
    }
}

/// EDNS with a buffer of so many bytes (RFC 6891 section 6.1.2): 11 bytes.
fn edns(fill: &mut Fill<'_>, size: u16) {
    fill.bytes(&[0]).u16(41).u16(size).u32(0).u16(0);
}

/// A record of the name in the question, which stands at offset 12, with a time to live of 60 s; without the `length` bytes
/// of its data.
fn record(fill: &mut Fill<'_>, kind: u16, length: usize) {
    fill.u16(0xc00c).u16(kind).u16(1).u32(60).u16(length as u16);
}

/// A TXT record of the name in the question: data in character strings of up to 255 bytes behind their lengths.
fn text_record(fill: &mut Fill<'_>, data: &[u8]) {
    record(fill, type_number("TXT"), data.len() + data.len().div_ceil(255));
    for piece in data.chunks(255) {
        fill.bytes(&[piece.len() as u8]).bytes(piece);
    }
}

/// A query.
pub(super) fn query(fill: &mut Fill<'_>, name: &Name<'_>, kind: u16, size: Option<u16>) {
    header(fill, None, 0, u16::from(size.is_some()));
    question(fill, name, kind);
    if let Some(size) = size {
        edns(fill, size);
    }
}

/// An answer with one record or none.
pub(super) fn answer(fill: &mut Fill<'_>, name: &Name<'_>, kind: u16, code: u8, data: Option<&[u8]>) {
    header(fill, Some(code), u16::from(data.is_some()), 0);
    question(fill, name, kind);
    if let Some(data) = data {
        record(fill, kind, data.len());
        fill.bytes(data);
    }
}

/// Letters that a name carries data in: base 32 without padding, in lower case (RFC 4648 section 6).
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn udp(
    context: &Context<'_>,
    ask: impl Fn(&mut Fill<'_>) + Send + 'static,
    answer: Option<Writer>,
) -> Box<dyn Generator> {
    let mut script = Script::new(context.params.port("port"), context.params.us("rtt"));
    script.ask(ask);
    if let Some(answer) = answer {
        script.answer(answer);
    }
    Box::new(Conversation::new(setting(context), vec![script], Plain))
}

fn amplification(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let (domain, kind, length) = (params.text("domain"), type_number(&params.text("type")), params.size("response"));
    let name = domain.clone();
    let respond = move |fill: &mut Fill<'_>| {
        header(fill, Some(NO_ERROR), 1, 0);
        question(fill, &Name::Fixed(&name), kind);
        // TXT is what ANY brings most of; a record has 12 bytes before its data. Strings of 255 bytes need one more each.
        let room = length.saturating_sub(fill.out.len() + 12);
        let mut text = Vec::new();
        fill.rng.characters(&mut text, BASE32, room - room.div_ceil(256));
        if kind == type_number("DNSKEY") {
            record(fill, kind, text.len());
            fill.bytes(&text);
        } else {
            text_record(fill, &text);
        }
    };
    if domain.len() + 30 > length {
        return Err(context.contradiction("`response` has no room for the question"));
    }
    Ok(udp(context, move |fill| query(fill, &Name::Fixed(&domain), kind, Some(4_096)), Some(Box::new(respond))))
}

fn tunnel(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let (domain, kind) = (params.text("domain"), type_number(&params.text("type")));
    let (up, down) = (params.size("up"), params.size("down"));
    // Five bits a character, and a dot after every 63.
    let characters = (up * 8).div_ceil(5);
    let length = characters + characters / 63 + 1 + domain.len();
    if length > 253 {
        return Err(context.contradiction(format!("`up` of {up} bytes makes a name of {length}, and 253 is the most")));
    }
    let name = domain.clone();
    let is_text = kind == type_number("TXT");
    let respond = move |fill: &mut Fill<'_>| {
        header(fill, Some(NO_ERROR), 1, 0);
        question(fill, &Name::Below { domain: &name, length }, kind);
        if is_text {
            let mut data = Vec::new();
            fill.rng.bytes(&mut data, down);
            text_record(fill, &data);
        } else {
            record(fill, kind, down);
            fill.random(down);
        }
    };
    let ask = move |fill: &mut Fill<'_>| {
        query(fill, &Name::Below { domain: &domain, length }, kind, Some(4_096));
    };
    Ok(udp(context, ask, Some(Box::new(respond))))
}

fn exfiltration(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let (domain, length) = (context.params.text("domain"), context.params.size("length"));
    if length < domain.len() + 2 {
        return Err(context.contradiction(format!("`length` of {length} has no room for a label before {domain}")));
    }
    let name = domain.clone();
    let respond = move |fill: &mut Fill<'_>| {
        answer(fill, &Name::Below { domain: &name, length }, 1, NO_SUCH_NAME, None);
    };
    let ask = move |fill: &mut Fill<'_>| {
        query(fill, &Name::Below { domain: &domain, length }, 1, None);
    };
    Ok(udp(context, ask, Some(Box::new(respond))))
}

fn random_subdomain(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let (domain, label) = (context.params.text("domain"), context.params.size("label"));
    let length = label + 1 + domain.len();
    let code = match context.params.text("answer").as_str() {
        "nxdomain" => Some(NO_SUCH_NAME),
        "servfail" => Some(SERVER_FAILURE),
        _ => None,
    };
    let name = domain.clone();
    let respond = code.map(|code| -> Writer {
        Box::new(move |fill| {
            answer(fill, &Name::Below { domain: &name, length }, 1, code, None);
        })
    });
    let ask = move |fill: &mut Fill<'_>| {
        query(fill, &Name::Below { domain: &domain, length }, 1, None);
    };
    Ok(udp(context, ask, respond))
}
