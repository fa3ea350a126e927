//! Whole frames: what is left of the original, and whether it is still a packet.

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::checksum;

const CLIENT: [u8; 4] = [203, 0, 113, 77];
const SERVER: [u8; 4] = [198, 51, 100, 9];

fn key() -> Key {
    Key::new([0x5a; 32])
}

/// Anonymises the frames of a capture.
fn all(policy: &Policy, frames: &[Vec<u8>]) -> (Vec<Vec<u8>>, Counts) {
    let mut anonymiser = Anonymiser::new(&key(), policy);
    frames.iter().for_each(|frame| anonymiser.learn(frame));
    anonymiser.settle();
    let written = frames
        .iter()
        .map(|frame| {
            let mut to = Vec::new();
            anonymiser.rewrite(frame, &mut to);
            assert_eq!(to.len(), frame.len());
            to
        })
        .collect();
    (written, anonymiser.counts())
}

fn ethernet() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2([0, 0x1b, 0x21, 1, 2, 3], [0, 0x1b, 0x21, 4, 5, 6])
}

fn tcp(sequence: u32, syn: bool, payload: &[u8]) -> Vec<u8> {
    let builder = ethernet().ipv4(CLIENT, SERVER, 64).tcp(40000, 80, sequence, 1000);
    let builder = if syn { builder.syn() } else { builder.ack(1) };
    let mut out = Vec::new();
    builder.write(&mut out, payload).unwrap();
    out
}

fn from_server(sequence: u32, syn: bool, payload: &[u8]) -> Vec<u8> {
    let builder = ethernet().ipv4(SERVER, CLIENT, 64).tcp(80, 40000, sequence, 1000).ack(1);
    let builder = if syn { builder.syn() } else { builder };
    let mut out = Vec::new();
    builder.write(&mut out, payload).unwrap();
    out
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    ethernet().ipv4(CLIENT, SERVER, 64).udp(40000, port).write(&mut out, payload).unwrap();
    out
}

fn contains(frame: &[u8], text: &[u8]) -> bool {
    frame.windows(text.len()).any(|window| window == text)
}

/// Whether IPv4 header and transport checksums are right.
fn checksums_are_right(frame: &[u8]) -> bool {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4") };
    let header = ip.header().to_header();
    let transport = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            tcp.calc_checksum_ipv4(header.source, header.destination).unwrap() == tcp.checksum()
        }
        Some(TransportSlice::Udp(udp)) => {
            let expected = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
            udp.checksum() == expected
        }
        _ => panic!("no transport"),
    };
    header.calc_header_checksum() == header.header_checksum && transport
}

#[test]
fn a_header_split_over_two_segments_leaks_nothing_in_any_cut() {
    let request = b"GET /secret/plan HTTP/1.1\r\nHost: www.acme.example\r\nCookie: session=topsecret\r\n\r\n";
    let secrets: [&[u8]; 7] = [b"secret", b"plan", b"acme", b"www", b"session", b"topse", b"ecret"];
    let policy = Policy { payload: Payload::Keep, ..Policy::default() };
    let mut whole: Option<Vec<u8>> = None;
    for cut in 1..request.len() {
        let frames = [
            tcp(99, true, b""),
            tcp(100, false, &request[..cut]),
            // Out of order and again: the rest before it is due, then a retransmission of all.
            tcp(100 + cut as u32, false, &request[cut..]),
            tcp(100, false, request),
        ];
        for order in [[0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 2, 1]] {
            let (written, _) = all(&policy, &order.map(|at| frames[at].clone()));
            let find = |number: usize| &written[order.iter().position(|at| *at == number).unwrap()];
            let joined = [&find(1)[54..], &find(2)[54..]].concat();
            assert_eq!(joined, find(3)[54..], "cut at {cut}, order {order:?}");
            assert!(joined.starts_with(b"GET /") && joined.ends_with(b"\r\n\r\n"));
            for secret in secrets {
                assert!(!contains(&joined, secret), "cut at {cut}: {}", String::from_utf8_lossy(&joined));
            }
            assert_eq!(whole.get_or_insert_with(|| joined.clone()), &joined);
            assert!(written.iter().all(|frame| checksums_are_right(frame)));
        }
    }
}

#[test]
fn what_cannot_be_read_is_not_kept_even_where_payload_is() {
    let policy = Policy { payload: Payload::Keep, ..Policy::default() };
    // A hole before the end of a header; a stream that begins in the middle; a forged overlap.
    let hole =
        [tcp(99, true, b""), tcp(100, false, b"GET / HTTP/1.1\r\nCookie: sec"), tcp(140, false, b"ret=1\r\n\r\n")];
    let middle = [tcp(500, false, b"ret=1; Domain=acme.example\r\n\r\n")];
    let overlap =
        [tcp(99, true, b""), tcp(100, false, b"GET / HTTP/1.1\r\n\r\n"), tcp(104, false, b"secret HTTP/1.1\r\n")];
    for frames in [&hole[..], &middle, &overlap] {
        let (written, counts) = all(&policy, frames);
        let text = written.concat();
        for secret in [&b"sec"[..], b"ret=", b"acme"] {
            assert!(!contains(&text, secret), "{}", String::from_utf8_lossy(&text));
        }
        assert!(counts.changed["unread_bytes"] > 0);
    }
    // An unknown protocol from its first byte on is what the policy is about.
    let (written, counts) = all(&policy, &[tcp(99, true, b""), tcp(100, false, b"SSH-2.0-thing\r\n")]);
    assert!(contains(&written[1], b"SSH-2.0-thing"));
    assert_eq!(counts.unknown["tcp/80"].bytes, 15);
}

#[test]
fn the_second_answer_on_a_connection_is_found_behind_an_answer_to_head() {
    let policy = Policy { payload: Payload::Keep, ..Policy::default() };
    let answer = |sequence, text: &[u8]| from_server(sequence, text.is_empty(), text);
    let requests = b"HEAD /a HTTP/1.1\r\nHost: x.example\r\n\r\nGET /b HTTP/1.1\r\nHost: x.example\r\n\r\n";
    let first = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\nServer: secretd\r\n\r\n";
    let second = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nSet-Cookie: secret\r\n\r\nbodyHTTP/1.1 404 Not Found\r\nServer: secretd\r\n\r\n";
    let frames = [
        tcp(99, true, b""),
        answer(0, b""),
        tcp(100, false, requests),
        answer(1, first),
        answer(1 + first.len() as u32, second),
    ];
    let (written, _) = all(&policy, &frames);
    assert!(!contains(&written.concat(), b"secret"));
    assert!(contains(&written[4], b"\r\n\r\nbodyHTTP/1.1 404 Not Found\r\n"), "the body is payload, and kept");
    // Without the requests, nobody knows that the first answer has no body.
    let (blind, _) = all(&policy, &[frames[1].clone(), frames[3].clone(), frames[4].clone()]);
    assert!(!contains(&blind.concat(), b"secret") && !contains(&blind.concat(), b"body"));
}

/// Two directions of HTTP in random pieces, lost, doubled and out of order: whatever can be read or not, no header's
/// value and no path is kept, not even by a policy that keeps payload.
#[test]
fn no_loss_and_no_order_of_segments_lets_a_header_through() {
    let mut random = SmallRng::seed_from_u64(23);
    let request = |method: &str| {
        format!("{method} /secretpath HTTP/1.1\r\nHost: secrethost.example\r\nCookie: a=secretbiscuit\r\n\r\n")
    };
    let answer = |method: &str, body: &str| {
        let sent = if method == "HEAD" { "" } else { body };
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nSet-Cookie: secretbiscuit\r\n\r\n{sent}", body.len())
    };
    let policy = Policy { payload: Payload::Keep, ..Policy::default() };
    for round in 0..400 {
        let methods: Vec<&str> = (0..4).map(|_| ["GET", "HEAD", "PUT"][random.random_range(0..3)]).collect();
        let body = "body".repeat(random.random_range(0..60));
        let up: String = methods.iter().map(|method| request(method)).collect();
        let down: String = methods.iter().map(|method| answer(method, &body)).collect();
        let mut frames = vec![tcp(99, true, b""), from_server(299, true, b"")];
        let mut cut = |text: &[u8], make: &dyn Fn(u32, &[u8]) -> Vec<u8>, frames: &mut Vec<Vec<u8>>| {
            let mut at = 0;
            while at < text.len() {
                let len = random.random_range(1..60).min(text.len() - at);
                frames.push(make(at as u32, &text[at..at + len]));
                at += len;
            }
        };
        cut(up.as_bytes(), &|at, data| tcp(100 + at, false, data), &mut frames);
        cut(down.as_bytes(), &|at, data| from_server(300 + at, false, data), &mut frames);
        let mut sent = Vec::new();
        for frame in frames {
            // In most rounds something is missing, now and then a SYN.
            for _ in 0..[1, 1, 1, 1, 1, 1, 1, 2, round % 2, 1][random.random_range(0..10)] {
                sent.push(frame.clone());
            }
        }
        for _ in 0..round % 20 {
            let (a, b) = (random.random_range(0..sent.len()), random.random_range(0..sent.len()));
            sent.swap(a, b);
        }
        let (written, _) = all(&policy, &sent);
        for (frame, original) in written.iter().zip(&sent) {
            // Pieces of a secret of as many bytes as chance does not make.
            for secret in ["secretpath", "secrethost", "secretbiscuit"] {
                for piece in secret.as_bytes().windows(5) {
                    let leaked = contains(&original[54..], piece) && contains(&frame[54..], piece);
                    assert!(!leaked, "round {round}: {}", String::from_utf8_lossy(&frame[54..]));
                }
            }
        }
    }
}

#[test]
fn right_checksums_are_right_wrong_ones_wrong_and_offloaded_ones_offloaded() {
    for policy in [Payload::Zero, Payload::Random, Payload::Keep].map(|payload| Policy { payload, ..Policy::default() })
    {
        for len in [0, 1, 2, 33, 1000] {
            let payload: Vec<u8> = (0..len).map(|at| at as u8).collect();
            for good in [udp(9999, &payload), tcp(7, false, &payload)] {
                let field = if good[23] == 17 { 40 } else { 50 };
                let mut bad = good.clone();
                bad[field] ^= 0x55;
                bad[24] ^= 0x10;
                let mut none = good.clone();
                none[field..field + 2].fill(0);
                // A host leaves the folded sum of the pseudo-header to its network card.
                let mut partial = good.clone();
                let pseudo = |frame: &[u8]| {
                    let len = (frame.len() - 34) as u64;
                    checksum::fold(checksum::sum(&frame[26..34]) + u64::from(frame[23]) + len).to_be_bytes()
                };
                let sum = pseudo(&good);
                partial[field..field + 2].copy_from_slice(&sum);
                let (written, _) = all(&policy, &[good, bad, none, partial]);
                assert!(checksums_are_right(&written[0]));
                assert!(!checksums_are_right(&written[1]));
                assert_eq!(written[2][field..field + 2], [0, 0]);
                assert_eq!(written[3][field..field + 2], pseudo(&written[3]));
            }
        }
    }
}

#[test]
fn a_fragmented_datagram_keeps_its_checksum_over_all_fragments() {
    // One datagram of 8 + 40 bytes in three fragments, and the same again.
    let whole = udp(9999, &[0xab; 40]);
    let fragment = |range: std::ops::Range<usize>, more: bool| {
        let mut frame = whole[..34].to_vec();
        let offset = (range.start / 8) as u16 | if more { 0x2000 } else { 0 };
        frame[16..18].copy_from_slice(&(20 + range.len() as u16).to_be_bytes());
        frame[20..22].copy_from_slice(&offset.to_be_bytes());
        frame.extend_from_slice(&whole[34 + range.start..34 + range.end]);
        frame
    };
    let once = [fragment(0..16, true), fragment(16..32, true), fragment(32..48, false)];
    let frames: Vec<Vec<u8>> = once.iter().chain([&once[0], &once[2], &once[1]]).cloned().collect();
    for payload in [Payload::Random, Payload::Zero] {
        let (written, counts) = all(&Policy { payload, ..Policy::default() }, &frames);
        for order in [[0, 1, 2], [3, 5, 4]] {
            let data: Vec<u8> = order.iter().flat_map(|at| written[*at][34..].to_vec()).collect();
            let mut joined = written[order[0]][..34].to_vec();
            joined[16..18].copy_from_slice(&68_u16.to_be_bytes());
            joined[20..22].fill(0);
            joined[24..26].fill(0);
            joined.extend(data);
            let header = &joined[14..34];
            let checksum = checksum::of(checksum::sum(header));
            joined[24..26].copy_from_slice(&checksum.to_be_bytes());
            assert!(checksums_are_right(&joined), "{payload:?} {order:?}");
            assert!(!contains(&joined, &[0xab; 8]));
        }
        assert_eq!(counts.changed["later_fragments"], 4);
    }
}

#[test]
fn tunnels_and_quotations_are_rewritten_inside() {
    let inner = udp(53, b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04acme\x07example\0\0\x01\0\x01");
    let vxlan = udp(4789, &[&[8, 0, 0, 0, 0, 0, 7, 0][..], &inner].concat());
    let mut gre = Vec::new();
    let header = [&[0, 0, 8, 0][..], &inner[14..]].concat();
    ethernet().ipv4(CLIENT, SERVER, 64).write(&mut gre, etherparse::ip_number::GRE, &header).unwrap();
    let mut ipip = Vec::new();
    ethernet().ipv4(CLIENT, SERVER, 64).write(&mut ipip, etherparse::ip_number::IPV4, &inner[14..]).unwrap();
    let mut unreachable = Vec::new();
    let kind = etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
    ethernet().ipv4(SERVER, CLIENT, 64).icmpv4(kind).write(&mut unreachable, &inner[14..]).unwrap();
    let frames = [inner, vxlan, gre, ipip, unreachable];
    let (written, counts) = all(&Policy::default(), &frames);
    for (at, frame) in written.iter().enumerate() {
        for gone in [&CLIENT[..], &SERVER, b"acme", &[0x1b, 0x21, 1], &[0x1b, 0x21, 4]] {
            assert!(!contains(frame, gone), "frame {at} holds {gone:x?}");
        }
        assert!(contains(frame, b"\x07example\0\0\x01\0\x01"), "frame {at}: the inner message is still one");
    }
    assert!(written[..2].iter().all(|frame| checksums_are_right(frame)));
    assert_eq!(counts.changed["quoted_packets"], 1);
    let addresses = |frame: &[u8], at: usize| frame[at..at + 8].to_vec();
    let outer = addresses(&written[0], 26);
    assert!(
        [(1, 26), (1, 76), (2, 26), (2, 50), (3, 26), (3, 46), (4, 54)]
            .iter()
            .all(|(at, place)| { addresses(&written[*at], *place) == outer }),
        "the same addresses at all depths"
    );
    assert_eq!(tuples(&frames[4]).len(), 2, "an error belongs to the flow that it is about");
    assert_eq!(tuples(&frames[4])[1].undirected(), tuples(&frames[0])[0].undirected());
}

#[test]
fn arp_neighbours_and_dhcp_agree_with_the_headers() {
    let mac = [0, 0x1b, 0x21, 1, 2, 3];
    let mut arp = [&[0xff; 6][..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac, &CLIENT, &[0; 6], &SERVER].concat();
    arp.extend([0xee; 18]);
    let mut dhcp = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0];
    dhcp.extend([&CLIENT[..], &SERVER, &[0; 8], &mac, &[0; 10]].concat());
    dhcp.extend([b's'; 192]);
    dhcp.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 3, 50, 4]);
    dhcp.extend(CLIENT);
    dhcp.extend(*b"\x0c\x06laptop\x3d\x07\x01");
    dhcp.extend(mac);
    dhcp.extend(*b"\x3c\x04acme\xff");
    let frames = [arp, udp(67, &dhcp)];
    let (written, _) = all(&Policy::default(), &frames);
    let ids = (&written[0][6..12], &written[0][28..32]);
    assert_eq!(&written[0][22..28], ids.0, "ARP's sender is the frame's");
    assert_eq!(written[0][42..], [0; 18], "padding is not kept");
    let message = &written[1][42..];
    assert_eq!((&message[28..34], &message[12..16]), ids);
    assert!(
        contains(message, &[&[50, 4][..], ids.1].concat()) && contains(message, &[&[61, 7, 1][..], ids.0].concat())
    );
    for gone in [&b"laptop"[..], b"acme", b"ss", &CLIENT, &mac] {
        assert!(!contains(&written.concat(), gone));
    }
}

#[test]
fn a_server_name_becomes_what_dns_made_of_it() {
    let name = b"www.acme.example";
    let mut hello = vec![3, 3];
    hello.extend([0x77; 32]);
    hello.extend([0, 0, 2, 0x13, 1, 1, 0]);
    let mut extension = vec![0, 0, 0, name.len() as u8 + 5, 0, name.len() as u8 + 3, 0, 0, name.len() as u8];
    extension.extend(name);
    hello.extend((extension.len() as u16).to_be_bytes());
    hello.extend(extension);
    let mut record = vec![22, 3, 1, 0, hello.len() as u8 + 4, 1, 0, 0, hello.len() as u8];
    record.extend(&hello);
    let query = udp(53, b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x04acme\x07example\0\0\x01\0\x01");
    for cut in 1..record.len() {
        let frames = [
            tcp(99, true, b""),
            tcp(100, false, &record[..cut]),
            tcp(100 + cut as u32, false, &record[cut..]),
            query.clone(),
        ];
        let (written, _) = all(&Policy { payload: Payload::Keep, ..Policy::default() }, &frames);
        let joined = [&written[1][54..], &written[2][54..]].concat();
        let sni = &joined[joined.len() - name.len()..];
        assert!(!contains(sni, b"acme") && sni.ends_with(b".example"), "{}", String::from_utf8_lossy(sni));
        assert_eq!((&written[3][55..58], &written[3][59..63]), (&sni[..3], &sni[4..8]), "DNS and TLS agree");
        assert!(!contains(&joined, &[0x77; 8]), "the random is not kept");
    }
}

/// Damaged frames of every kind: no panic, the same length, the same bytes twice.
#[test]
fn hostile_frames_are_rewritten_without_harm() {
    let mut random = SmallRng::seed_from_u64(7);
    let dns = b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\x04acme\x07example\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\x01\x02\x03\x04";
    let mut seeds = vec![
        udp(53, dns),
        tcp(1, true, b""),
        tcp(2, false, b"GET /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
    ];
    seeds.push(udp(4789, &[&[8, 0, 0, 0, 0, 0, 7, 0][..], &udp(53, dns)].concat()));
    seeds.push(tcp(2, false, b"\x16\x03\x01\0\x05\x01\0\0\x01\0"));
    let mut v6 = Vec::new();
    ethernet().ipv6([0x20; 16], [0x30; 16], 64).icmpv6_echo_request(1, 2).write(&mut v6, &[7; 40]).unwrap();
    seeds.push(v6);
    for round in 0..300 {
        let mut frames = Vec::new();
        for _ in 0..20 {
            let mut frame = seeds[random.random_range(0..seeds.len())].clone();
            for _ in 0..random.random_range(0..6) {
                let at = random.random_range(0..frame.len());
                frame[at] = [0, 0xff, random.random(), frame[at] ^ (1 << random.random_range(0..8_u8))]
                    [random.random_range(0..4)];
            }
            if random.random_bool(0.2) {
                frame.truncate(random.random_range(0..frame.len()));
            }
            frames.push(frame);
        }
        let payload = [Payload::Zero, Payload::Random, Payload::Keep][round % 3];
        let policy = Policy { payload, ..Policy::default() };
        assert_eq!(all(&policy, &frames), all(&policy, &frames));
    }
}
