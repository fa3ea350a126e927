//! Load without ill will.

use super::super::SynthError;
use super::super::catalogue::{Entry, Family, Ip};
use super::super::conversation::{Conversation, Plain};
use super::super::packet::{Transport, flag};
use super::super::param::{Kind, Parameter};
use super::super::script::{CLIENT, SERVER, Script};
use super::super::spec::Context;
use super::super::stream::{Generator, Made, Unit};
use super::packets::packets;
use super::{Common, RTT, both, port, setting};

const COMMON: Common = Common {
    family: Family::Load,
    unit: "connections",
    ip: Ip::Any,
    spoofs: false,
    two_sided: true,
    rate: 100.0,
    count: |_| 1_000,
};

const BANDWIDTH: Parameter =
    Parameter::count("bandwidth", "Mbit/s", (1, 400_000), "1000", "speed at which full segments follow each other");

pub(super) const ENTRIES: &[Entry] = &[
    Common {
        count: |_| 1,
        rate: 1.0,
        ..COMMON
    }
    .entry(
            "large-flow",
            "one TCP transfer in one direction",
            "iperf3(1) -n; curl(1) of a large file",
            &[
                port("5201"),
                Parameter::count("bytes", "bytes", (1, 1_000_000_000_000), "10000000", "payload of the transfer"),
                Parameter::of("direction", Kind::Choice(&["up", "down"]), "down", "to the server or to the client"),
                BANDWIDTH,
                RTT,
            ],
            large,
    ),
    Common {
        spoofs: true,
        two_sided: false,
        rate: 100_000.0,
        count: |params| params.count("flows"),
        unit: "packets",
        ..COMMON
    }
    .entry(
            "many-flows",
            "packets of a million flows in turn, each five-tuple once before any comes again",
            "RFC 2544 section 12; TRex's `flows` profiles; cache and map exhaustion",
            &[
                Parameter::count("flows", "flows", (1, 100_000_000), "1000000", "different five-tuples"),
                Parameter::of(
                    "protocol",
                    Kind::Choice(&["udp", "tcp", "mixed"]),
                    "udp",
                    "of the flows; mixed is both in turn",
                ),
                Parameter::count("payload", "bytes", (0, 1_400), "18", "payload of each packet"),
                port("9"),
            ],
            many,
    ),
    COMMON.entry(
        "mice-elephants",
        "many short transfers and a few long ones, which carry most of the bytes",
        "Guo, Matta: The War between Mice and Elephants, 2001; Benson, Akella, Maltz: Network Traffic Characteristics of Data Centers in the Wild, 2010",
        &[
            port("80"),
            Parameter::count("elephants", "per mille", (0, 1_000), "10", "share of the long transfers"),
            Parameter::count("mouse", "bytes", (1, 1_000_000), "4000", "payload of a short one"),
            Parameter::count("elephant", "bytes", (1, 10_000_000_000), "1000000", "payload of a long one"),
            BANDWIDTH,
            RTT,
        ],
        mice,
    ),
];

/// A transfer in one direction, at so many Mbit/s.
fn transfer(context: &Context<'_>, from: usize, bytes: u64) -> Script {
    let params = &context.params;
    let mut script = Script::tcp(params.port("port"), params.us("rtt"));
    // A full frame has 1514 bytes; a bit at 1 Mbit/s takes 1000 ns.
    script.segment_gap_ns = (1_514 * 8 * 1_000 / params.count("bandwidth")).max(1);
    if from == SERVER {
        script.client(|fill| {
            fill.text("GET /file HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
        });
    }
    script.bulk(from, bytes).close(CLIENT);
    script
}

fn large(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let from = if context.params.text("direction") == "up" { CLIENT } else { SERVER };
    let script = transfer(context, from, context.params.count("bytes"));
    Ok(Box::new(Conversation::new(setting(context), vec![script], Plain)))
}

fn mice(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let scripts =
        vec![transfer(context, SERVER, params.count("mouse")), transfer(context, SERVER, params.count("elephant"))];
    let elephants = params.count("elephants");
    let choose = move |unit: &mut Unit| usize::from(unit.rng.fork(5).below(1_000) < elephants);
    Ok(Box::new(Conversation::new(setting(context), scripts, choose)))
}

/// First of the ports that are used, and how many: all but those below 1024.
const PORTS: (u64, u64) = (1_024, 64_512);

fn many(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let (flows, port, protocol) = (params.count("flows"), params.port("port"), params.text("protocol"));
    let turn = context.versions().count() as u64;
    for v6 in context.versions() {
        let tuples = context.sources[usize::from(v6)].len().saturating_mul(PORTS.1);
        if tuples < flows.div_ceil(turn) {
            return Err(context
                .contradiction(format!("{flows} flows need more sources: these have {tuples} addresses and ports")));
        }
    }
    let payload = vec![0x66; params.size("payload")];
    let tcp = both(context, |_| Transport::Tcp(&[]), &payload);
    let udp = both(context, |_| Transport::Udp, &payload);
    let (sources, targets) = (context.sources.clone(), context.targets.clone());
    Ok(packets(move |unit, frame| {
        let version = usize::from(unit.v6);
        // With both versions of IP each has every other flow; an odd number of flows leaves the last one to IPv4.
        let (round, flow) = (unit.index / flows, unit.index % flows);
        let n = flow / turn;
        // Addresses change first, ports after: as with many clients.
        let addresses = sources[version].len().min(flows.div_ceil(turn));
        let (source, from) = (sources[version].nth(n % addresses), PORTS.0 + n / addresses % PORTS.1);
        let is_tcp = match protocol.as_str() {
            "tcp" => true,
            "mixed" => n % 2 == 1,
            _ => false,
        };
        let template = if is_tcp { &tcp[version] } else { &udp[version] };
        let mut patch = template.copy(&mut frame.data);
        patch.addresses(source, targets[version].nth(n)).ports(from as u16, port).ident(unit.index as u16);
        if is_tcp {
            let flags = if round == 0 { flag::SYN } else { flag::ACK };
            patch.flags(flags).l4_32(4, (n as u32).wrapping_mul(0x9e37_79b9).wrapping_add(round as u32)).l4_16(14, 502);
        }
        patch.finish();
        Made::LAST
    }))
}
