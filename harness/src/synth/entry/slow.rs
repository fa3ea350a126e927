//! Slow attacks: connections held open at little cost.

use super::super::SynthError;
use super::super::catalogue::{Entry, Family, Ip};
use super::super::conversation::{Conversation, Plain};
use super::super::packet::flag;
use super::super::param::Parameter;
use super::super::script::{CLIENT, Options, SERVER, Script, Segment};
use super::super::spec::Context;
use super::super::stream::Generator;
use super::{Common, RTT, port, setting};

const COMMON: Common = Common {
    family: Family::SlowRate,
    unit: "connections",
    ip: Ip::Any,
    spoofs: false,
    two_sided: true,
    rate: 50.0,
    count: |_| 200,
};

pub(super) const ENTRIES: &[Entry] = &[
    COMMON.entry(
        "slowloris",
        "HTTP requests whose header never ends: another line now and then",
        "slowhttptest(1) -H; CVE-2007-6750",
        &[
            port("80"),
            Parameter::count("interval", "ms", (1, 600_000), "10000", "time between two header lines"),
            Parameter::count("lines", "", (1, 1_000), "6", "header lines after the first part of the request"),
            RTT,
        ],
        slowloris,
    ),
    COMMON.entry(
        "slow-read",
        "a response that is fetched through a tiny window, most of the time closed",
        "slowhttptest(1) -X; CVE-2008-4609; RFC 9293 section 3.8.6.1 (zero-window probes)",
        &[
            port("80"),
            Parameter::count("window", "bytes", (1, 1_400), "256", "window that the client opens each time"),
            Parameter::count("reads", "", (1, 1_000), "4", "how often it opens the window"),
            Parameter::count("interval", "ms", (1, 600_000), "5000", "time between two openings"),
            RTT,
        ],
        slow_read,
    ),
];

fn slowloris(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let mut script = Script::tcp(params.port("port"), params.us("rtt"));
    script.client(|fill| {
        fill.text("GET /?").word(8).text(" HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: Mozilla/5.0\r\n");
    });
    script.settle();
    for _ in 0..params.count("lines") {
        script.pause(params.ms("interval"));
        script
            .client(|fill| {
                fill.text("X-").word(6).text(": ").word(10).text("\r\n");
            })
            .settle();
    }
    Ok(Box::new(Conversation::new(setting(context), vec![script], Plain)))
}

fn slow_read(context: &Context<'_>) -> Result<Box<dyn Generator>, SynthError> {
    let params = &context.params;
    let (rtt, window) = (params.us("rtt"), params.count("window"));
    let mut script = Script::new(params.port("port"), rtt);
    // Without window scale, so that a window is the number of bytes.
    let plain = |from, flags| Segment { window: Some(64_240), ..Segment::new(from, flags) };
    let opening = |from, flags| Segment { options: Options::SizeAlone, ..plain(from, flags) };
    let narrow = |bytes: u64| Segment { window: Some(bytes as u16), ..Segment::new(CLIENT, flag::ACK) };
    script.options = Options::None;
    script.window = [window as u16, 64_240];
    script.segment(0, Segment { window: Some(window as u16), ..opening(CLIENT, flag::SYN) });
    script.segment(rtt / 2, opening(SERVER, flag::SYN | flag::ACK));
    script.segment(rtt / 2, narrow(window));
    script.client(|fill| {
        fill.text("GET /large HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
    });
    script.segment(rtt / 2, plain(SERVER, flag::ACK));
    script.forget();
    for read in 0..params.count("reads") {
        if read > 0 {
            script.pause(params.ms("interval"));
            script.segment(0, narrow(window));
        }
        script.bulk(SERVER, window).forget();
        script.segment(rtt / 2, narrow(0));
        // The server asks whether the window is still closed: a segment of no length before the next number
        // (`tcp_xmit_probe_skb`, net/ipv4/tcp_output.c).
        script.segment(params.ms("interval") / 2, Segment { back: 1, ..plain(SERVER, flag::ACK) });
        script.segment(rtt / 2, narrow(0));
    }
    script.segment(params.ms("interval"), Segment::new(CLIENT, flag::RST | flag::ACK));
    Ok(Box::new(Conversation::new(setting(context), vec![script], Plain)))
}
