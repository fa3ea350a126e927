//! Arbitrary and damaged input through every parser: nothing may panic, loop, or hold more than it is allowed.

use bpflab_programs::packet::{ACK, FAMILY_IPV4, FIN, FlowKey, RST, SYN};
use bpflab_programs::protocols::{
    DNS, Event, HTTP, NOTE_ENDED, NOTE_FORGET, NOTE_START, PREFIX, TLS, UNDECIDED, recognise,
};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::assembler::{Assembler, MAX_WEIGHT};
use super::dns;
use super::http::Http1;
use super::stream::{Cause, Direction, HELD_PER_DIRECTION, Hole, Segment};
use super::tls::{ClientHello, Handshake, ServerHello};

/// Inputs per parser.
const INPUTS: usize = 200_000;

/// Valid messages to damage.
const SEEDS: &[&[u8]] = &[
    b"GET /a HTTP/1.1\r\nHost: one\r\nContent-Length: 3\r\n\r\nabcHEAD /b HTTP/1.1\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip,\r\n chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n",
    b"CONNECT a:443 HTTP/1.1\r\n\r\n\x16\x03\x01\x00\x05",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\n\nuntil the end",
    b"\x12\x34\x81\x80\0\x01\0\x02\0\0\0\x01\x03www\x07example\x03com\0\0\x01\0\x01\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x02\xc0\x10\xc0\x10\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x04\0\0\x29\x04\xd0\x01\0\0\0\0\0",
    b"\0\x1d\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01",
    b"\x16\x03\x01\0\x40\x01\0\0\x3c\x03\x03AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\0\0\x02\x13\x01\x01\0\0\x11\0\0\0\x06\0\x04\0\0\x01a\0\x2b\0\x03\x02\x03\x04",
    b"\x16\x03\x03\0\x32\x02\0\0\x2e\x03\x03AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\0\x13\x01\0\0\x06\0\x2b\0\x02\x03\x04",
];

/// A damaged seed, or noise.
fn input(random: &mut SmallRng) -> Vec<u8> {
    if random.random_ratio(1, 5) {
        let len = random.random_range(0..200);
        return (0..len).map(|_| random.random()).collect();
    }
    let mut bytes = SEEDS[random.random_range(0..SEEDS.len())].to_vec();
    for _ in 0..random.random_range(0..4) {
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..4) {
            0 => bytes[at] = random.random(),
            1 => bytes[at] ^= 1 << random.random_range(0..8),
            2 => bytes.truncate(at.max(1)),
            _ => bytes.insert(at, random.random()),
        }
    }
    bytes
}

#[test]
fn message_parsers_take_anything() {
    let mut random = SmallRng::seed_from_u64(1);
    let mut read = [0_usize; 3];
    for _ in 0..INPUTS {
        let bytes = input(&mut random);
        read[0] += usize::from(dns::parse(&bytes, random.random()).is_some());
        read[1] += usize::from(bytes.get(9..).and_then(ClientHello::parse).is_some());
        read[2] += usize::from(bytes.get(9..).and_then(ServerHello::parse).is_some());
        let mut prefix = [0; PREFIX];
        let len = bytes.len().min(PREFIX);
        prefix[..len].copy_from_slice(&bytes[..len]);
        let _ = recognise(&prefix, u32::try_from(len).unwrap_or(0));
    }
    // Not all of it is rejected at once, or the test would prove little.
    assert!(read.iter().all(|&count| count > 1000), "{read:?}");
}

#[test]
fn stream_parsers_take_anything_in_any_pieces() {
    let mut random = SmallRng::seed_from_u64(2);
    let mut exchanges = 0;
    for _ in 0..INPUTS / 4 {
        let (mut http, mut tls) = (Http1::new(0), Handshake::new(0));
        let mut framer = dns::Framer::default();
        for time_ns in 0..8 {
            let (direction, bytes) = (random.random_range(0..2), input(&mut random));
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(random.random_range(1..=rest.len()));
                rest = after;
                let _ = http.bytes(direction, piece, time_ns);
                let _ = tls.bytes(direction, piece, time_ns);
                framer.bytes(piece, time_ns, &mut |_, _| ());
            }
            if random.random_ratio(1, 8) {
                let hole = Hole { len: random.random_range(0..100), cause: Cause::NotSeen };
                let _ = http.hole(direction, hole);
                let _ = tls.hole(direction, hole);
            }
        }
        http.finish("the test ended");
        tls.finish("the test ended");
        exchanges += http.take_done().len();
    }
    assert!(exchanges > INPUTS / 20, "{exchanges}");
}

#[test]
fn every_byte_of_a_stream_comes_exactly_once() {
    let mut random = SmallRng::seed_from_u64(3);
    for round in 0..INPUTS / 100 {
        let text: Vec<u8> = (0..random.random_range(1..2000)).map(|_| random.random()).collect();
        let start: u32 = if round % 2 == 0 { random.random() } else { u32::MAX - 500 };
        let (mut direction, mut seen, mut holes) = (Direction::default(), Vec::new(), 0);
        direction.start(start);
        let mut sink = |piece: super::stream::Piece<'_>| match piece {
            super::stream::Piece::Bytes(bytes, _) => seen.extend_from_slice(bytes),
            super::stream::Piece::Hole(_) => holes += 1,
        };
        // Overlapping pieces at random, then the whole in order: whatever was missing comes in the end.
        let mut order: Vec<(usize, usize)> = (0..50)
            .map(|_| {
                let from = random.random_range(0..text.len());
                (from, random.random_range(from..text.len()))
            })
            .collect();
        order.push((0, text.len()));
        for (from, to) in order {
            let bytes = &text[from..to];
            let seq = start.wrapping_add(u32::try_from(from).unwrap_or(0));
            let wire_len = u32::try_from(bytes.len()).unwrap_or(0);
            direction.push(Segment { seq, bytes, wire_len, time_ns: 0 }, Cause::NotSeen, &mut sink);
            assert!(direction.held_bytes() <= HELD_PER_DIRECTION);
        }
        assert_eq!((seen, holes, direction.held_bytes()), (text, 0, 0), "round {round}");
    }
}

#[test]
fn the_assembler_takes_any_events() {
    let mut random = SmallRng::seed_from_u64(4);
    let mut assembler = Assembler::default();
    for time_ns in 0..u64::try_from(INPUTS).unwrap_or(0) {
        let bytes = input(&mut random);
        let proto = if random.random_ratio(1, 8) { 17 } else { 6 };
        let mut key = FlowKey { a_port: 1, b_port: 53, family: FAMILY_IPV4, proto, ..FlowKey::default() };
        key.a[3] = random.random_range(0..50);
        let len = u32::try_from(bytes.len()).unwrap_or(0);
        let flag = |random: &mut SmallRng, flag: u8, of: u32| if random.random_ratio(1, of) { flag } else { 0 };
        let event = Event {
            key,
            time_ns,
            seq: random.random_range(0..2000),
            ack: random.random_range(0..2000),
            payload_len: len + if random.random_ratio(1, 10) { random.random_range(0..5000) } else { 0 },
            captured_len: len,
            start: random.random_range(0..3),
            lost: random.random_range(0..2),
            direction: random.random(),
            tcp_flags: flag(&mut random, ACK, 1)
                | flag(&mut random, FIN, 20)
                | flag(&mut random, RST, 50)
                | flag(&mut random, SYN, 50),
            protocol: [UNDECIDED, DNS, HTTP, TLS][random.random_range(0..4)],
            notes: flag(&mut random, NOTE_START, 2)
                | flag(&mut random, NOTE_FORGET, 100)
                | flag(&mut random, NOTE_ENDED, 100),
            reserved: 0,
        };
        let _ = assembler.event(&event, &bytes);
        assert!(assembler.weight() <= MAX_WEIGHT);
    }
    let messages = assembler.finish(|_| 1);
    assert_eq!(assembler.weight(), 0);
    assert!(messages.dns.len() > 1000 && messages.http.len() > 1000 && messages.tls.len() > 100);
}
