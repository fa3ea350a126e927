//! What runs among hosts after a break-in.

use super::super::SynthError;
use super::super::catalogue::{Entry, Family, Ip};
use super::super::conversation::{Choose, Conversation};
use super::super::param::{Kind, Parameter};
use super::super::pool::Pool;
use super::super::script::{CLIENT, Fill, Script};
use super::super::spec::Context;
use super::super::stream::{Generator, Unit};
use super::application::tls;
use super::{Common, RTT, port, setting};

const COMMON: Common = Common {
    family: Family::Hosts,
    unit: "connections",
    ip: Ip::Any,
    spoofs: false,
    two_sided: true,
    rate: 2.0,
    count: |params| params.count("hosts") - 1,
};

pub(super) const ENTRIES: &[Entry] = &[
    Common { unit: "beacons", rate: 1.0 / 60.0, count: |_| 60, ..COMMON }.entry(
        "beaconing",
        "a host that asks its command server for work again and again, in almost equal intervals",
        "MITRE ATT&CK T1071.001 and T1029; sleep and jitter as in Cobalt Strike's beacon",
        &[
            port("443"),
            Parameter::count("jitter", "%", (0, 99), "10", "largest delay of a beacon, in parts of the interval"),
            Parameter::of("protocol", Kind::Choice(&["tls", "http"]), "tls", "what it looks like"),
            Parameter::count("answer", "bytes", (0, 100_000), "128", "data that comes back"),
            RTT,
        ],
        beaconing,
    ),
    COMMON.entry(
        "lateral-movement",
        "file sharing sessions from host to host: each host that is reached tries the next ones",
        "MITRE ATT&CK T1021.002; MS-SMB2 section 2.2.3 and 2.2.5",
        &[
            port("445"),
            Parameter::count(
                "hosts",
                "hosts",
                (2, 10_000),
                "16",
                "hosts, on both sides of the device under test in turn",
            ),
            Parameter::count("fan-out", "hosts", (1, 100), "2", "hosts that each host tries"),
            Parameter::count("payload", "bytes", (0, 1_000_000), "4096", "data that is copied to each"),
            RTT,
        ],
        lateral,
    ),
];

/// Beacons come late by a random part of the interval.
struct Jitter {
    most_ns: u64,
}

impl Choose for Jitter {
    fn choose(&mut self, _: &mut Unit) -> usize {
        0
    }

    fn delay_ns(&mut self, unit: &mut Unit) -> u64 {
        unit.rng.fork(4).below(self.most_ns + 1)
    }
}

fn beaconing(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let answer = params.size("answer");
    let mut script = Script::tcp(params.port("port"), params.us("rtt"));
    if params.text("protocol") == "http" {
        script.client(|fill| {
            fill.text("GET /updates?id=")
                .word(16)
                .text(" HTTP/1.1\r\nHost: cdn.example.com\r\nUser-Agent: Mozilla/5.0\r\n\r\n");
        });
        script.server(move |fill| {
            fill.text(&format!("HTTP/1.1 200 OK\r\nContent-Length: {answer}\r\n\r\n")).word(answer);
        });
    } else {
        script.client(|fill| tls::client_hello(fill, "cdn.example.com")).server(tls::server_flight);
        script.client(|fill| tls::application_data(fill, 200));
        script.server(move |fill| {
            // A record holds at most 2^14 bytes.
            let mut rest = answer;
            while rest > 0 {
                tls::application_data(fill, rest.min(16_384));
                rest -= rest.min(16_384);
            }
            fill.bytes(&[23, 3, 3, 0, 17]).random(17);
        });
    }
    script.close(CLIENT);
    let most_ns = (u128::from(context.interval_ns) * u128::from(params.count("jitter")) / 100) as u64;
    Ok(Box::new(Conversation::new(setting(context), vec![script], Jitter { most_ns })))
}

/// A header of SMB 2 (MS-SMB2 section 2.2.1.2) behind the length of the message (section 2.1), then its body.
fn smb(fill: &mut Fill<'_>, command: u16, response: bool, message: u64, body: &[u8]) {
    fill.u32(64 + body.len() as u32).bytes(b"\xfeSMB").bytes(&64_u16.to_le_bytes()).bytes(&[0; 6]);
    fill.bytes(&command.to_le_bytes()).bytes(&1_u16.to_le_bytes()).bytes(&[u8::from(response), 0, 0, 0, 0, 0, 0, 0]);
    fill.bytes(&message.to_le_bytes()).bytes(&[0; 32]).bytes(body);
}

/// Host number n: on the client's side if n is even. Each side has addresses of its own.
struct Path {
    hosts: u64,
    fan_out: u64,
    turn: u64,
    sides: [[Pool; 2]; 2],
}

impl Choose for Path {
    /// Connection k reaches host k + 1, from the host that tries it: host k / fan-out.
    fn choose(&mut self, unit: &mut Unit) -> usize {
        let reached = unit.index / self.turn % (self.hosts - 1) + 1;
        let mut from = (reached - 1) / self.fan_out;
        // Two on one side do not cross the device under test: the one before it tries instead.
        if from % 2 == reached % 2 {
            from = if from == 0 { reached - 1 } else { from - 1 };
        }
        let version = usize::from(unit.v6);
        let host = |n: u64| self.sides[(n % 2) as usize][version].nth(n / 2);
        unit.ends = [host(from), host(reached)];
        unit.flipped = from % 2 == 1;
        0
    }
}

fn lateral(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let payload = params.count("payload");
    let mut script = Script::tcp(params.port("port"), params.us("rtt"));
    // Negotiate, session setup, tree connect, create, write, close (MS-SMB2 section 2.2.1.2).
    for (message, (command, length)) in (0_u64..).zip([(0_u16, 110_usize), (1, 220), (3, 60), (5, 120)]) {
        script.client(move |fill| {
            let mut body = Vec::new();
            fill.rng.bytes(&mut body, length);
            smb(fill, command, false, message, &body);
        });
        script.server(move |fill| {
            let mut body = Vec::new();
            fill.rng.bytes(&mut body, length / 2);
            smb(fill, command, true, message, &body);
        });
    }
    if payload > 0 {
        script.bulk(CLIENT, payload);
    }
    script.client(|fill| smb(fill, 6, false, 4, &[24; 24])).server(|fill| smb(fill, 6, true, 4, &[60; 60]));
    script.close(CLIENT);
    let (hosts, fan_out) = (params.count("hosts"), params.count("fan-out"));
    let mut sides = [&context.sources, &context.targets].map(|pools| {
        [0, 1].map(|version| if pools[version].is_empty() { Pool::default() } else { pools[version].neighbours() })
    });
    // With one network on both sides, the two must not have the same hosts.
    let [near, far] = &mut sides;
    for (near, far) in near.iter().zip(far) {
        if near.meets(far) {
            *far = std::mem::take(far).skipping(hosts.div_ceil(2));
        }
    }
    let turn = context.versions().count() as u64;
    for v6 in context.versions() {
        let available = sides.iter().map(|side| side[usize::from(v6)].len()).min().unwrap_or(0);
        if available < hosts.div_ceil(2) {
            return Err(context.contradiction(format!(
                "{hosts} hosts do not fit: a side has {available} addresses; name larger networks as `sources` and `targets`"
            )));
        }
    }
    Ok(Box::new(Conversation::new(setting(context), vec![script], Path { hosts, fan_out, turn, sides })))
}
