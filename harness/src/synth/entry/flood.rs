//! Floods: single packets of one kind, as many as there are.

use etherparse::{IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpNumber, TcpOptionElement};

use super::super::SynthError;
use super::super::catalogue::{Entry, Family, Ip};
use super::super::packet::{Fragment, Template, Transport, flag};
use super::super::param::{Kind, Parameter};
use super::super::pool::Pool;
use super::super::rng::Rng;
use super::super::spec::Context;
use super::super::stream::{Generator, Made, Unit};
use super::{Common, both};
use crate::capture::{Frame, Side};

const PORT: Parameter =
    Parameter::count("port", "", (0, 65_535), "80", "port of the target; 0 is a random one per packet");
const SOURCE_PORT: Parameter =
    Parameter::count("source-port", "", (0, 65_535), "0", "port of the sender; 0 is a random one per packet");
const fn payload(default: &'static str) -> Parameter {
    Parameter::count("payload", "bytes", (0, 1_400), default, "payload of each packet, random and the same in all")
}
const TTL: Parameter = Parameter::count("ttl", "hops", (1, 255), "64", "time to live or hop limit");
const WINDOW: Parameter = Parameter::count("window", "bytes", (0, 65_535), "64240", "receive window, not scaled");
const OPTIONS: Parameter = Parameter::of(
    "options",
    Kind::Choice(&["none", "mss", "linux"]),
    "none",
    "TCP options: none, the segment size alone, or all that Linux sends",
);
const ID: Parameter = Parameter::count("id", "", (0, 65_535), "1", "identifier of the echo requests");

const TCP: &[Parameter] = &[PORT, SOURCE_PORT, payload("0"), TTL, WINDOW];
const SYN: &[Parameter] = &[PORT, SOURCE_PORT, payload("0"), TTL, WINDOW, OPTIONS];

const COMMON: Common = Common {
    family: Family::Flood,
    unit: "packets",
    ip: Ip::Any,
    spoofs: true,
    two_sided: false,
    rate: 10_000.0,
    count: |_| 10_000,
};

pub(super) const ENTRIES: &[Entry] = &[
    COMMON.entry(
        "syn-flood",
        "connection requests that are never completed, to fill the target's queue of half-open connections",
        "RFC 4987; CVE-1999-0116; hping3(8) -S --flood --rand-source",
        SYN,
        |context| tcp(context, flag::SYN),
    ),
    COMMON.entry(
        "ack-flood",
        "acknowledgements of connections that do not exist, each of which costs a look-up and an RST",
        "hping3(8) -A --flood --rand-source; RFC 9293 section 3.10.7.1",
        TCP,
        |context| tcp(context, flag::ACK),
    ),
    COMMON.entry(
        "rst-flood",
        "resets with guessed ports and sequence numbers, to tear down connections blindly",
        "RFC 5961 section 3; CVE-2004-0230; hping3(8) -R --flood",
        TCP,
        |context| tcp(context, flag::RST),
    ),
    COMMON.entry(
        "fin-flood",
        "ends of connections that do not exist",
        "hping3(8) -F -A --flood; RFC 9293 section 3.10.7.1",
        TCP,
        |context| tcp(context, flag::FIN | flag::ACK),
    ),
    COMMON.entry(
        "udp-flood",
        "datagrams to one or to random ports, which fill the link or cost an ICMP error each",
        "CVE-1999-0103; hping3(8) --udp --flood --rand-source",
        &[PORT, SOURCE_PORT, payload("512"), TTL],
        udp,
    ),
    COMMON.entry(
        "icmp-flood",
        "echo requests as fast as they go",
        "ping(8) -f; hping3(8) --icmp --flood; RFC 792, RFC 4443 section 4.1",
        &[ID, payload("56"), TTL],
        icmp,
    ),
    COMMON.entry(
        "fragment-flood",
        "fragments of packets that never become whole, to fill the target's reassembly queues",
        "CVE-2018-5391 (FragmentSmack); RFC 8900 section 3.7; hping3(8) -x --frag",
        &[
            Parameter::count(
                "size",
                "bytes",
                (8, 1_400),
                "512",
                "length of a fragment, rounded down to a multiple of 8",
            ),
            Parameter::count(
                "offset",
                "bytes",
                (0, 60_000),
                "0",
                "largest offset: each fragment has a random one up to this",
            ),
            TTL,
        ],
        fragments,
    ),
];

/// What differs from packet to packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Tcp { flags: u8, window: u16 },
    Udp,
    Echo { id: u16 },
    Fragment { units: u64 },
}

/// Single packets, patched from a template per version of IP.
struct Flood {
    templates: [Template; 2],
    sources: [Pool; 2],
    targets: [Pool; 2],
    /// Units per round over the targets: both versions of IP visit the same.
    turn: u64,
    ports: [u16; 2],
    ttl: u8,
    change: Change,
}

impl Flood {
    fn boxed(
        context: &Context<'_>,
        transport: impl Fn(bool) -> Transport<'static>,
        ports: [u16; 2],
        change: Change,
    ) -> Result<Box<dyn Generator>, SynthError> {
        let bytes = match change {
            Change::Fragment { .. } => context.params.size("size") / 8 * 8,
            _ => context.params.size("payload"),
        };
        let mut payload = Vec::new();
        Rng::new(0, 0).bytes(&mut payload, bytes);
        Ok(Box::new(Self {
            templates: both(context, transport, &payload),
            sources: context.sources.clone(),
            targets: context.targets.clone(),
            turn: context.versions().count() as u64,
            ports,
            ttl: context.params.count("ttl") as u8,
            change,
        }))
    }
}

impl Generator for Flood {
    fn begin(&mut self, _: &mut Unit) -> u64 {
        0
    }

    fn step(&mut self, unit: &mut Unit, frame: &mut Frame) -> Made {
        let version = usize::from(unit.v6);
        let rng = &mut unit.rng;
        let mut patch = self.templates[version].copy(&mut frame.data);
        let source = self.sources[version].pick(rng);
        patch.addresses(source, self.targets[version].nth(unit.index / self.turn)).ttl(self.ttl);
        // The whole range but the ports of privileged servers, as hping3 does.
        let mut port = |fixed| if fixed == 0 { rng.between(1_024, 65_535) as u16 } else { fixed };
        let (from, to) = (port(self.ports[0]), port(self.ports[1]));
        match self.change {
            Change::Tcp { flags, window } => {
                patch.ident(rng.next_u16()).ports(from, to).flags(flags).l4_16(14, window).l4_32(4, rng.next_u32());
                if flags & flag::ACK != 0 {
                    patch.l4_32(8, rng.next_u32());
                }
            }
            Change::Udp => {
                patch.ident(rng.next_u16()).ports(from, to);
            }
            Change::Echo { id } => {
                patch.ident(rng.next_u16()).l4_16(4, id).l4_16(6, unit.index as u16);
            }
            Change::Fragment { units } => {
                let offset = rng.below(units + 1) as u16;
                if unit.v6 {
                    patch.extension16(2, offset << 3 | 1).extension16(4, rng.next_u16()).extension16(6, rng.next_u16());
                } else {
                    patch.ident(rng.next_u16()).ip16(6, 0x2000 | offset);
                }
            }
        }
        patch.finish();
        frame.side = Side::Client;
        Made::LAST
    }
}

fn tcp(context: &Context<'_>, flags: u8) -> Result<Box<dyn Generator>, SynthError> {
    use TcpOptionElement::{MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale};
    static SIZE: [TcpOptionElement; 2] = [MaximumSegmentSize(1460), MaximumSegmentSize(1440)];
    static LINUX: [[TcpOptionElement; 5]; 2] = [
        [MaximumSegmentSize(1460), SelectiveAcknowledgementPermitted, Timestamp(1_000_000, 0), Noop, WindowScale(7)],
        [MaximumSegmentSize(1440), SelectiveAcknowledgementPermitted, Timestamp(1_000_000, 0), Noop, WindowScale(7)],
    ];
    let params = &context.params;
    let options = if flags == flag::SYN { params.text("options") } else { String::new() };
    let transport = |v6| {
        let version = usize::from(v6);
        Transport::Tcp(match options.as_str() {
            "linux" => &LINUX[version],
            "mss" => std::slice::from_ref(&SIZE[version]),
            _ => &[],
        })
    };
    let ports = [params.port("source-port"), params.port("port")];
    Flood::boxed(context, transport, ports, Change::Tcp { flags, window: params.count("window") as u16 })
}

fn udp(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let ports = [context.params.port("source-port"), context.params.port("port")];
    Flood::boxed(context, |_| Transport::Udp, ports, Change::Udp)
}

fn icmp(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let header = IcmpEchoHeader { id: 0, seq: 0 };
    let transport = move |v6| {
        if v6 {
            Transport::Icmp6(Icmpv6Type::EchoRequest(header))
        } else {
            Transport::Icmp4(Icmpv4Type::EchoRequest(header))
        }
    };
    Flood::boxed(context, transport, [1; 2], Change::Echo { id: context.params.count("id") as u16 })
}

fn fragments(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let fragment = Some(Fragment { offset: 0, more: true });
    let units = context.params.count("offset") / 8;
    Flood::boxed(context, |_| Transport::Raw(IpNumber::UDP, fragment), [1; 2], Change::Fragment { units })
}
