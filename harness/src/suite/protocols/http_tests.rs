//! HTTP/1.x exchanges: what ends a body, what ends the reading, and what is said about it.

use super::http::{Exchange, Http1, MAX_HEAD, Progress};
use super::stream::{Cause, Hole};

const HOLE: Hole = Hole { len: 10, cause: Cause::NotSeen };

/// Feeds `(direction, text)` one after the other, 1 ns apart, each also byte by byte: the result must be the same.
fn run(pieces: &[(usize, &str)]) -> Vec<Exchange> {
    let (mut whole, mut bytes) = (Http1::new(0), Http1::new(0));
    for (time_ns, (direction, text)) in (0..).zip(pieces) {
        let progress = whole.bytes(*direction, text.as_bytes(), time_ns);
        let mut last = Progress::More;
        for byte in text.as_bytes() {
            last = bytes.bytes(*direction, &[*byte], time_ns);
        }
        let kind = std::mem::discriminant::<Progress>;
        assert_eq!(kind(&progress), kind(&last), "{text:?}");
    }
    whole.finish("the capture ended");
    bytes.finish("the capture ended");
    let exchanges = whole.take_done();
    assert_eq!(exchanges, bytes.take_done());
    exchanges
}

fn summary(exchanges: &[Exchange]) -> Vec<(&str, Option<u16>, bool, Option<&str>)> {
    exchanges.iter().map(|e| (e.path.as_str(), e.status, e.pipelined, e.cut.as_deref())).collect()
}

#[test]
fn bodies_end_where_rfc_9112_section_6_3_says() {
    let exchanges = run(&[
        (0, "POST /length HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\nhello"),
        (1, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
        (
            0,
            "POST /chunked HTTP/1.1\nTransfer-Encoding:\n chunked\nContent-Length: 9\n\n3;x\r\nabc\r\n0\r\nA: b\r\n\r\n",
        ),
        (1, "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n"),
        (0, "HEAD /head HTTP/1.1\r\n\r\n"),
        (1, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"),
        (0, "GET /close HTTP/1.0\r\n\r\n"),
        (1, "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 500 is part of the body"),
    ]);
    assert_eq!(
        summary(&exchanges),
        [
            ("/length", Some(200), false, None),
            ("/chunked", Some(304), false, None),
            ("/head", Some(200), false, None),
            ("/close", Some(200), false, None)
        ]
    );
    assert_eq!((exchanges[3].number, exchanges[3].version.as_str()), (4, "1.0"));
    assert!(exchanges.iter().all(|exchange| exchange.latency_ns == Some(1)));
}

#[test]
fn interim_responses_are_passed_over() {
    let exchanges = run(&[
        (0, "PUT /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"),
        (1, "HTTP/1.1 100 Continue\r\n\r\n"),
        (0, "ab"),
        (1, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"),
    ]);
    assert_eq!(summary(&exchanges), [("/a", Some(201), false, None)]);
    // From the request at 0 to the final response at 3.
    assert_eq!(exchanges[0].latency_ns, Some(3));
}

#[test]
fn a_tunnel_ends_the_reading() {
    let mut http = Http1::new(0);
    assert_eq!(http.bytes(0, b"CONNECT a:443 HTTP/1.1\r\n\r\nearly", 1), Progress::More);
    let progress = http.bytes(1, b"HTTP/1.1 200 OK\r\n\r\nlate", 2);
    assert_eq!(progress, Progress::Tunnel(vec![(0, b"early".to_vec(), 1), (1, b"late".to_vec(), 2)]));
    // A refusal does not: what the client sent are requests.
    let exchanges = run(&[
        (0, "CONNECT a:443 HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n"),
        (1, "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\nHTTP/1.1 204 No\r\n\r\n"),
    ]);
    assert_eq!(summary(&exchanges), [("a:443", Some(403), false, None), ("/b", Some(204), false, None)]);
}

#[test]
fn other_protocols_are_not_http() {
    // HTTP/0.9, the preface of HTTP/2, RTSP, an inline command of Redis.
    for text in ["GET /\r\n", "PRI * HTTP/2.0\r\n\r\n", "OPTIONS rtsp://h RTSP/1.0\r\n", "GET key\r\n"] {
        let mut http = Http1::new(0);
        assert_eq!(http.bytes(0, text.as_bytes(), 0), Progress::Foreign, "{text:?}");
    }
}

#[test]
fn garbage_and_holes_are_said() {
    let exchanges = run(&[(0, "GET /a HTTP/1.1\r\n\r\n"), (1, "no response\r\n\r\n"), (0, "GET /b HTTP/1.1\r\n\r\n")]);
    assert_eq!(
        summary(&exchanges),
        [
            ("/a", None, false, Some("response: no HTTP/1.x status line")),
            ("/b", None, false, Some("response not read: no HTTP/1.x status line"))
        ]
    );
    let mut http = Http1::new(0);
    let _ = http.bytes(0, b"GET /a HTTP/1.1\r\nHost: one\r\nX", 0);
    assert_eq!(http.hole(0, HOLE), Progress::More);
    http.finish("the capture ended");
    let exchanges = http.take_done();
    assert_eq!(summary(&exchanges), [("/a", None, false, Some("request: 10 bytes missing: no packet held them"))]);
    assert_eq!(exchanges[0].host.as_deref(), Some("one"));
}

#[test]
fn an_unfinished_body_and_a_lost_request_are_said() {
    let exchanges = run(&[(0, "GET /a HTTP/1.1\r\n\r\n"), (1, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")]);
    let cut = Some("response: the capture ended 6 bytes before the end of the body");
    assert_eq!(summary(&exchanges), [("/a", Some(200), false, cut)]);
    let exchanges = run(&[(1, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")]);
    assert_eq!(summary(&exchanges), [("", Some(200), false, Some("the request was not seen"))]);
}

#[test]
fn heads_are_bounded() {
    let mut http = Http1::new(0);
    assert_eq!(http.bytes(0, b"GET / HTTP/1.1\r\n", 0), Progress::More);
    for _ in 0..2000 {
        let _ = http.bytes(0, b"X-Field: 0123456789012345678901234567890123456789\r\n", 0);
        assert!(http.buffered() <= MAX_HEAD + 512);
    }
    http.finish("the capture ended");
    assert_eq!(summary(&http.take_done()), [("/", None, false, Some("request: a head of more than 65536 bytes"))]);
}
