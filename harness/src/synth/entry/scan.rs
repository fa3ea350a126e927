//! Scans: probes and what targets answer.

use super::super::SynthError;
use super::super::catalogue::{Entry, Family, Ip};
use super::super::conversation::Conversation;
use super::super::packet::flag;
use super::super::param::{Kind, Parameter, Params};
use super::super::script::{CLIENT, Options, SERVER, Script, Segment};
use super::super::spec::Context;
use super::super::stream::{Generator, Unit};
use super::{Common, RTT, setting};

const fn ports(default: &'static str) -> Parameter {
    Parameter::of("ports", Kind::Ports, default, "ports that are probed, of each target")
}
const fn open(default: &'static str) -> Parameter {
    Parameter::of("open", Kind::Ports, default, "those of them that are open; all others are closed")
}
const FILTERED: Parameter = Parameter::of("filtered", Kind::Ports, "none", "those of them that never answer");
const ORDER: Parameter = Parameter::of(
    "order",
    Kind::Choice(&["random", "ascending"]),
    "random",
    "order of the ports; each once, whatever the order",
);

const TCP: &[Parameter] = &[ports("1-1000"), open("22,80,443"), FILTERED, ORDER, RTT];

const COMMON: Common = Common {
    family: Family::Scan,
    unit: "probes",
    ip: Ip::Any,
    spoofs: false,
    two_sided: true,
    rate: 1_000.0,
    count: |params: &Params| params.ports("ports").len() as u64,
};

pub(super) const ENTRIES: &[Entry] = &[
    COMMON.entry(
        "syn-scan",
        "half-open scan: a SYN to each port, an RST after a SYN-ACK",
        "nmap(1) -sS; CAPEC-287",
        TCP,
        |context| scan(context, &Probe::SYN),
    ),
    COMMON.entry(
        "connect-scan",
        "a whole TCP connection to each port, ended by an RST as soon as it is open",
        "nmap(1) -sT; CAPEC-301",
        TCP,
        |context| scan(context, &Probe { connect: true, ..Probe::SYN }),
    ),
    COMMON.entry(
        "fin-scan",
        "a FIN without connection to each port: closed ones answer with RST, open ones not at all",
        "nmap(1) -sF; RFC 9293 section 3.10.7.1; CAPEC-302",
        TCP,
        |context| scan(context, &Probe::flags(flag::FIN)),
    ),
    COMMON.entry("null-scan", "a segment without any flag to each port", "nmap(1) -sN; CAPEC-304", TCP, |context| {
        scan(context, &Probe::flags(0))
    }),
    COMMON.entry(
        "xmas-scan",
        "a segment with FIN, PSH and URG to each port",
        "nmap(1) -sX; CAPEC-303",
        TCP,
        |context| scan(context, &Probe::flags(flag::FIN | flag::PSH | flag::URG)),
    ),
    COMMON.entry(
        "udp-scan",
        "an empty datagram to each port: closed ones are told by ICMP, open ones answer or keep silent",
        "nmap(1) -sU; CAPEC-308",
        &[ports("1-1000"), open("53,123"), FILTERED, ORDER, RTT],
        udp,
    ),
    Common { rate: 1.0 / 15.0, ..COMMON }.entry(
        "slow-scan",
        "a SYN scan so slow that rates over minutes do not show it",
        "nmap(1) -sS -T1: a probe every 15 s",
        &[ports("1-100"), open("22,80"), FILTERED, ORDER, RTT],
        |context| scan(context, &Probe::SYN),
    ),
    Common { rate: 5_000.0, ..COMMON }.entry(
        "vertical-sweep",
        "all ports of one host after another",
        "nmap(1) -sS -r -p-; Staniford, Hoagland, McAlerney: Practical Automated Detection of Stealthy Portscans, 2002",
        &[
            ports("1-65535"),
            open("22,80,443"),
            FILTERED,
            Parameter::of("order", Kind::Choice(&["random", "ascending"]), "ascending", "order of the ports"),
            RTT,
        ],
        |context| scan(context, &Probe::SYN),
    ),
    Common {
        count: |params| params.count("hosts") * params.ports("ports").len() as u64,
        rate: 5_000.0,
        ..COMMON
    }
    .entry(
            "horizontal-sweep",
            "one port or a few of many hosts",
            "zmap(1); masscan(8); Staniford, Hoagland, McAlerney: Practical Automated Detection of Stealthy Portscans, 2002",
            &[
                Parameter::count(
                    "hosts",
                    "hosts",
                    (1, 65_536),
                    "254",
                    "hosts that are probed, in the target's network if one address is given",
                ),
                ports("445"),
                Parameter::count("live", "%", (0, 100), "10", "share of the hosts that answer"),
                open("445"),
                RTT,
            ],
            sweep,
    ),
];

/// What is sent first.
#[derive(Clone, Copy, Debug)]
struct Probe {
    flags: u8,
    options: Options,
    /// The connection is opened, not broken off.
    connect: bool,
}

impl Probe {
    const SYN: Self = Self { flags: flag::SYN, options: Options::SizeAlone, connect: false };

    const fn flags(flags: u8) -> Self {
        Self { flags, options: Options::None, connect: false }
    }

    /// Scripts for a port that is open, closed, and silent.
    fn scripts(&self, rtt_ns: u64) -> Vec<Script> {
        let first = |connect: bool| {
            let mut script = Script::new(0, rtt_ns);
            let options = if connect { Options::Opening } else { self.options };
            let window = if connect { None } else { Some(1_024) };
            script.segment(0, Segment { options, window, ..Segment::new(CLIENT, self.flags) });
            script
        };
        let way = rtt_ns / 2;
        let mut open = first(self.connect);
        if self.connect {
            open = Script::tcp(0, rtt_ns);
            open.segment(50_000, Segment::new(CLIENT, flag::RST | flag::ACK));
        } else if self.flags == flag::SYN {
            let options = Options::SizeAlone;
            open.segment(way, Segment { options, ..Segment::new(SERVER, flag::SYN | flag::ACK) });
            // From the kernel of the scanner, which knows of no connection.
            open.segment(way, Segment { window: Some(0), ..Segment::new(CLIENT, flag::RST) });
        }
        let mut closed = first(self.connect);
        closed.segment(way, Segment { window: Some(0), ..Segment::new(SERVER, flag::RST | flag::ACK) });
        vec![open, closed, first(self.connect)]
    }
}

const OPEN: usize = 0;
const CLOSED: usize = 1;
const SILENT: usize = 2;

/// Ports in the order in which they are probed, each with what it is.
struct Ports {
    list: Vec<(u16, usize)>,
    /// Units per port: both versions of IP probe the same.
    turn: u64,
    /// Whether the scanner has one port, as one that makes its own packets.
    source_port: Option<u16>,
}

impl Ports {
    fn of(context: &Context<'_>) -> Result<Self, SynthError> {
        let params = &context.params;
        let (open, filtered) = (params.ports("open"), params.ports("filtered"));
        if let Some(port) = open.iter().find(|port| filtered.contains(port)) {
            return Err(context.contradiction(format!("port {port} is both `open` and `filtered`")));
        }
        let state = |port: u16| match () {
            () if open.contains(&port) => OPEN,
            () if filtered.contains(&port) => SILENT,
            () => CLOSED,
        };
        let mut list: Vec<(u16, usize)> = params.ports("ports").into_iter().map(|port| (port, state(port))).collect();
        if list.is_empty() {
            return Err(context.contradiction("`ports` is empty: there is nothing to probe"));
        }
        if params.text("order") == "random" {
            // Fisher and Yates' shuffle. The order is part of the scan, not of a unit: the same for every seed.
            let mut rng = super::super::rng::Rng::new(0, list.len() as u64);
            for last in (1..list.len()).rev() {
                list.swap(last, rng.below(last as u64 + 1) as usize);
            }
        }
        Ok(Self { list, turn: context.versions().count() as u64, source_port: None })
    }

    fn choose(&self, unit: &mut Unit, targets: &[super::super::pool::Pool; 2]) -> usize {
        let n = unit.index / self.turn;
        let (port, state) = self.list[(n % self.list.len() as u64) as usize];
        unit.ends[1] = targets[usize::from(unit.v6)].nth(n / self.list.len() as u64);
        unit.ports[1] = port;
        if let Some(port) = self.source_port {
            unit.ports[0] = port;
        }
        state
    }
}

/// The port that a scanner which makes its own packets takes for all of them: another one for each kind of scan, so that
/// scans of one target are flows of their own.
fn scanner_port(context: &Context<'_>) -> u16 {
    let kind = context.entry.bytes().fold(0, |kind: u64, byte| kind << 5 ^ kind >> 59 ^ u64::from(byte));
    super::super::rng::Rng::new(0, kind).between(40_000, 60_000) as u16
}

fn scan(context: &Context<'_>, probe: &Probe) -> Result<Box<dyn Generator>, SynthError> {
    let mut ports = Ports::of(context)?;
    ports.source_port = (!probe.connect).then(|| scanner_port(context));
    let is_syn = probe.flags == flag::SYN;
    let targets = context.targets.clone();
    let choose = move |unit: &mut Unit| match ports.choose(unit, &targets) {
        // To a port that is open, a segment without SYN, ACK or RST is nothing (RFC 9293 section 3.10.7.2).
        OPEN if !is_syn => SILENT,
        state => state,
    };
    Ok(Box::new(Conversation::new(setting(context), probe.scripts(context.params.us("rtt")), choose)))
}

fn udp(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let mut ports = Ports::of(context)?;
    ports.source_port = Some(scanner_port(context));
    let rtt_ns = context.params.us("rtt");
    let asked = || {
        let mut script = Script::new(0, rtt_ns);
        script.ask(|_| ());
        script
    };
    let (mut open, mut closed) = (asked(), asked());
    open.answer(|fill| {
        fill.random(16);
    });
    closed.refuse();
    let targets = context.targets.clone();
    let choose = move |unit: &mut Unit| ports.choose(unit, &targets);
    Ok(Box::new(Conversation::new(setting(context), vec![open, closed, asked()], choose)))
}

fn sweep(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let (hosts, live) = (params.count("hosts"), params.count("live"));
    let (ports, open) = (params.ports("ports"), params.ports("open"));
    if ports.is_empty() {
        return Err(context.contradiction("`ports` is empty: there is nothing to probe"));
    }
    let turn = context.versions().count() as u64;
    let targets = [false, true].map(|v6| context.neighbourhood(v6));
    let port = scanner_port(context);
    let choose = move |unit: &mut Unit| {
        let n = unit.index / turn;
        let host = n / ports.len() as u64 % hosts;
        unit.ends[1] = targets[usize::from(unit.v6)].nth(host);
        unit.ports = [port, ports[(n % ports.len() as u64) as usize]];
        // Whether a host answers is the host's own matter, whatever the port.
        let mut rng = super::super::rng::Rng::new(live, host);
        match () {
            () if rng.below(100) >= live => SILENT,
            () if open.contains(&unit.ports[1]) => OPEN,
            () => CLOSED,
        }
    };
    Ok(Box::new(Conversation::new(setting(context), Probe::SYN.scripts(params.us("rtt")), choose)))
}
