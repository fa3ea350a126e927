//! Transactions of applications: a client that asks and a server that answers, correctly.

mod messages;
pub(super) mod tls;

use super::super::SynthError;
use super::super::catalogue::{Entry, Family, Ip};
use super::super::conversation::{Conversation, Plain};
use super::super::param::{Kind, Parameter};
use super::super::script::{CLIENT, Script};
use super::super::spec::Context;
use super::super::stream::Generator;
use super::{Common, RTT, dns, port, setting};

const fn requests(meaning: &'static str) -> Parameter {
    Parameter::count("requests", "", (1, 10_000), "1", meaning)
}
const THINK: Parameter =
    Parameter::count("think", "us", (0, 60_000_000), "500", "time that the server takes to answer");
const NAME: Parameter = Parameter::of("name", Kind::Name { max: 200 }, "www.example.com", "name of the server");

const COMMON: Common = Common {
    family: Family::Application,
    unit: "connections",
    ip: Ip::Any,
    spoofs: false,
    two_sided: true,
    rate: 100.0,
    count: |_| 100,
};

pub(super) const ENTRIES: &[Entry] = &[
    COMMON.entry(
        "http-transactions",
        "GET requests and their answers on a connection each",
        "RFC 9112; curl(1)",
        &[
            port("80"),
            requests("requests on each connection, which is kept alive"),
            Parameter::count("response", "bytes", (0, 1_000_000), "1024", "length of the content of an answer"),
            NAME,
            THINK,
            RTT,
        ],
        http,
    ),
    Common { unit: "queries", ..COMMON }.entry(
        "dns-transactions",
        "queries for addresses and their answers",
        "RFC 1035, RFC 3596; dig(1)",
        &[
            port("53"),
            NAME,
            Parameter::of("type", Kind::Choice(&["A", "AAAA"]), "A", "record type that is asked for"),
            RTT,
        ],
        queries,
    ),
    COMMON.entry(
        "tls-hello",
        "TLS 1.3 handshakes with a server name, and some encrypted data",
        "RFC 8446 section 4.1.2 and 4.1.3, RFC 6066 section 3; openssl-s_client(1)",
        &[
            port("443"),
            NAME,
            Parameter::count("data", "bytes", (1, 16_000), "512", "application data that each side sends"),
            THINK,
            RTT,
        ],
        hello,
    ),
    COMMON.entry(
        "mqtt-transactions",
        "a client that connects to a broker, publishes and disconnects",
        "MQTT 3.1.1 section 3.1 to 3.4 and 3.14 (OASIS); mosquitto_pub(1) -q 1",
        &[
            port("1883"),
            requests("messages that are published on each connection"),
            Parameter::count("payload", "bytes", (1, 1_000), "32", "length of a message"),
            THINK,
            RTT,
        ],
        mqtt,
    ),
    Common { unit: "requests", ..COMMON }.entry(
        "coap-transactions",
        "confirmable GET requests with piggybacked answers",
        "RFC 7252 section 3 and 5.2.1; coap-client(5)",
        &[
            port("5683"),
            Parameter::count("payload", "bytes", (0, 1_000), "16", "length of the content of an answer"),
            RTT,
        ],
        coap,
    ),
    COMMON.entry(
        "modbus-transactions",
        "reads of holding registers over Modbus/TCP",
        "MODBUS Application Protocol V1.1b3 section 6.3; MODBUS Messaging on TCP/IP V1.0b section 3.1.3",
        &[
            port("502"),
            requests("reads on each connection"),
            Parameter::count("registers", "", (1, 125), "10", "registers of each read"),
            Parameter::count("interval", "ms", (0, 600_000), "0", "time between two reads"),
            THINK,
            RTT,
        ],
        modbus,
    ),
    COMMON.entry(
        "redis-transactions",
        "SET and GET of a key on a connection each",
        "Redis serialization protocol (RESP2); redis-benchmark(1)",
        &[
            port("6379"),
            requests("pairs of SET and GET on each connection"),
            Parameter::count("value", "bytes", (1, 100_000), "64", "length of the value"),
            THINK,
            RTT,
        ],
        redis,
    ),
    COMMON.entry(
        "postgresql-transactions",
        "a session: start-up without a password, simple queries with one row each, end",
        "PostgreSQL documentation, chapter Frontend/Backend Protocol (version 3.0); pgbench(1) -S",
        &[port("5432"), requests("queries of each session"), THINK, RTT],
        postgresql,
    ),
];

/// A connection with `requests` rounds, which the client closes.
fn rounds(
    context: &Context<'_>,
    first: impl Fn(&mut Script),
    round: impl Fn(&mut Script, u64),
    last: impl Fn(&mut Script),
) -> Box<dyn Generator> {
    let params = &context.params;
    let mut script = Script::tcp(params.port("port"), params.us("rtt"));
    first(&mut script);
    for number in 0..params.count("requests") {
        round(&mut script, number);
    }
    last(&mut script);
    script.close(CLIENT);
    Box::new(Conversation::new(setting(context), vec![script], Plain))
}

fn http(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let (name, length, think) = (params.text("name"), params.size("response"), params.us("think"));
    Ok(rounds(
        context,
        |_| (),
        |script, number| {
            let name = name.clone();
            script.client(move |fill| {
                fill.text(&format!(
                    "GET /{number} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n"
                ));
            });
            script.pause(think).server(move |fill| {
                fill.text(&format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n"));
                let end = fill.out.len() + length;
                fill.out.resize(end, b'x');
            });
        },
        |_| (),
    ))
}

fn queries(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let (name, kind) = (params.text("name"), dns::type_number(&params.text("type")));
    let mut script = Script::new(params.port("port"), params.us("rtt"));
    let asked = name.clone();
    script.ask(move |fill| dns::query(fill, &dns::Name::Fixed(&asked), kind, Some(1_232)));
    // Addresses for documentation (RFC 5737, RFC 3849).
    let address: &[u8] =
        if kind == 28 { &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 80] } else { &[192, 0, 2, 80] };
    script.answer(move |fill| dns::answer(fill, &dns::Name::Fixed(&name), kind, dns::NO_ERROR, Some(address)));
    Ok(Box::new(Conversation::new(setting(context), vec![script], Plain)))
}

fn hello(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let (name, data, think) = (params.text("name"), params.size("data"), params.us("think"));
    let mut script = Script::tcp(params.port("port"), params.us("rtt"));
    script.client(move |fill| tls::client_hello(fill, &name)).pause(think).server(tls::server_flight);
    // Change of cipher for old boxes on the way (RFC 8446 appendix D.4), and the encrypted end of the handshake.
    script.client(|fill| {
        fill.bytes(&[20, 3, 3, 0, 1, 1]);
        tls::application_data(fill, 53);
    });
    script.client(move |fill| tls::application_data(fill, data));
    script.pause(think).server(move |fill| tls::application_data(fill, data)).close(CLIENT);
    Ok(Box::new(Conversation::new(setting(context), vec![script], Plain)))
}

fn mqtt(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let (length, think) = (context.params.size("payload"), context.params.us("think"));
    Ok(rounds(
        context,
        |script| {
            script.client(messages::mqtt_connect).pause(think).server(|fill| {
                fill.bytes(&[0x20, 2, 0, 0]);
            });
        },
        |script, number| {
            let id = number as u16 + 1;
            script.client(move |fill| messages::mqtt_publish(fill, id, length));
            script.pause(think).server(move |fill| {
                fill.bytes(&[0x40, 2]).u16(id);
            });
        },
        |script| {
            script.client(|fill| {
                fill.bytes(&[0xe0, 0]);
            });
        },
    ))
}

fn coap(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let length = params.size("payload");
    let mut script = Script::new(params.port("port"), params.us("rtt"));
    script.ask(messages::coap_get).answer(move |fill| messages::coap_content(fill, length));
    Ok(Box::new(Conversation::new(setting(context), vec![script], Plain)))
}

fn modbus(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let (registers, interval, think) = (params.count("registers") as u16, params.ms("interval"), params.us("think"));
    Ok(rounds(
        context,
        |_| (),
        |script, number| {
            if number > 0 {
                script.pause(interval);
            }
            let id = number as u16;
            script.client(move |fill| messages::modbus_read(fill, id, registers));
            script.pause(think).server(move |fill| messages::modbus_registers(fill, id, registers));
        },
        |_| (),
    ))
}

fn redis(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let (length, think) = (context.params.size("value"), context.params.us("think"));
    Ok(rounds(
        context,
        |_| (),
        |script, number| {
            script.client(move |fill| {
                fill.text(&format!("*3\r\n$3\r\nSET\r\n$9\r\nkey:{number:05}\r\n${length}\r\n"));
                let end = fill.out.len() + length;
                fill.out.resize(end, b'v');
                fill.text("\r\n");
            });
            script.pause(think).server(|fill| {
                fill.text("+OK\r\n");
            });
            script.client(move |fill| {
                fill.text(&format!("*2\r\n$3\r\nGET\r\n$9\r\nkey:{number:05}\r\n"));
            });
            script.pause(think).server(move |fill| {
                fill.text(&format!("${length}\r\n"));
                let end = fill.out.len() + length;
                fill.out.resize(end, b'v');
                fill.text("\r\n");
            });
        },
        |_| (),
    ))
}

fn postgresql(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let think = context.params.us("think");
    Ok(rounds(
        context,
        |script| {
            script.client(messages::postgresql_startup).pause(think).server(messages::postgresql_ready);
        },
        |script, number| {
            script.client(move |fill| messages::postgresql_query(fill, number));
            script.pause(think).server(messages::postgresql_row);
        },
        |script| {
            script.client(|fill| {
                fill.bytes(b"X").u32(4);
            });
        },
    ))
}
