//! Mutations of frames. Most change a field that the parser looks at, so that few of a million are wasted on payload.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// Longest frame offered: a test run takes a page without its headroom.
const MAX_LEN: usize = 2048;
/// Shortest: a test run takes no less than an Ethernet header.
const MIN_LEN: usize = 14;

/// Values that mean something in some field: versions with header lengths, protocols, extension headers.
const TELLING: [u8; 24] =
    [0, 1, 2, 4, 5, 6, 8, 17, 20, 40, 43, 44, 47, 50, 51, 58, 59, 60, 132, 0x45, 0x4f, 0x60, 0x7f, 0xff];
const ETHERTYPES: [[u8; 2]; 10] = [
    [0x08, 0x00],
    [0x86, 0xdd],
    [0x08, 0x06],
    [0x81, 0x00],
    [0x88, 0xa8],
    [0x91, 0x00],
    [0x88, 0x47],
    [0x88, 0x48],
    [0x05, 0xff],
    [0x06, 0x00],
];

/// The frame that `seed` makes of `corpus`.
pub fn mutated(seed: u64, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut frame = corpus.choose(&mut rng).expect("the corpus is not empty").clone();
    for _ in 0..rng.random_range(0..5) {
        match rng.random_range(0..14) {
            0 => flip(&mut frame, &mut rng),
            1 => truncate(&mut frame, &mut rng),
            2 => extend(&mut frame, &mut rng),
            3 => tag(&mut frame, &mut rng),
            4 => untag(&mut frame),
            5 => ethertype(&mut frame, &mut rng),
            6 => splice(&mut frame, corpus, &mut rng),
            7 => extension(&mut frame, &mut rng),
            8 => header_length(&mut frame, &mut rng),
            9 | 10 => length(&mut frame, &mut rng),
            _ => field(&mut frame, &mut rng),
        }
    }
    if rng.random_ratio(3, 4) {
        checksum(&mut frame);
    }
    frame.truncate(MAX_LEN);
    frame
}

/// One bit, in the headers more often than not.
fn flip(frame: &mut [u8], rng: &mut SmallRng) {
    let end = if rng.random_ratio(4, 5) { frame.len().min(90) } else { frame.len() };
    frame[rng.random_range(0..end)] ^= 1 << rng.random_range(0..8);
}

fn truncate(frame: &mut Vec<u8>, rng: &mut SmallRng) {
    let end = frame.len().min(120);
    frame.truncate(rng.random_range(MIN_LEN..=end.max(MIN_LEN)));
}

fn extend(frame: &mut Vec<u8>, rng: &mut SmallRng) {
    let more = rng.random_range(1..64);
    frame.extend((0..more).map(|_| rng.random::<u8>()));
}

fn tag(frame: &mut Vec<u8>, rng: &mut SmallRng) {
    let [high, low] = ETHERTYPES[rng.random_range(3..6)];
    frame.splice(12..12, [high, low, rng.random(), rng.random()]);
}

fn untag(frame: &mut Vec<u8>) {
    if frame.len() >= MIN_LEN + 4 {
        frame.drain(12..16);
    }
}

fn ethertype(frame: &mut [u8], rng: &mut SmallRng) {
    let at = network(frame) - 2;
    if let Some(field) = frame.get_mut(at..at + 2) {
        field.copy_from_slice(ETHERTYPES.choose(rng).expect("not empty"));
    }
}

/// A piece of another frame over, or in place of the rest of, this one.
fn splice(frame: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut SmallRng) {
    let other = corpus.choose(rng).expect("not empty");
    let from = rng.random_range(0..other.len());
    let at = rng.random_range(MIN_LEN..=frame.len());
    if rng.random() {
        frame.truncate(at);
        frame.extend(&other[from..]);
    } else {
        let len = rng.random_range(0..=(other.len() - from).min(frame.len() - at));
        frame[at..at + len].copy_from_slice(&other[from..from + len]);
    }
}

/// An extension header put behind an IPv6 header, whose payload length grows with it.
fn extension(frame: &mut Vec<u8>, rng: &mut SmallRng) {
    let at = network(frame);
    let Some(&[version, _, _, _, high, low, next, ..]) = frame.get(at..at + 40) else { return };
    if version >> 4 != 6 {
        return;
    }
    let kind = [0, 43, 44, 51, 60].choose(rng).copied().unwrap_or(60);
    // A 4-byte field that is options, or the offset and flags of a fragment; the length counts beyond 8 bytes.
    let header = [next, rng.random_range(0..3), 0, rng.random_range(0..3), 0, 0, 0, rng.random()];
    let words = if kind == 44 { 0 } else { usize::from(header[1]) };
    let rest = if kind == 51 { words * 4 } else { words * 8 };
    frame.splice(at + 40..at + 40, header.into_iter().chain(std::iter::repeat_n(0, rest)));
    let len = u16::from_be_bytes([high, low]).wrapping_add(8).wrapping_add(u16::try_from(rest).unwrap_or(0));
    frame[at + 4..at + 6].copy_from_slice(&len.to_be_bytes());
    frame[at + 6] = kind;
}

/// A length field of IP or of UDP: a little off, or far.
fn length(frame: &mut [u8], rng: &mut SmallRng) {
    let at = network(frame);
    let at = at + [2, 4, 24, 44].choose(rng).copied().unwrap_or(2);
    let Some(field) = frame.get_mut(at..at + 2) else { return };
    let old = u16::from_be_bytes([field[0], field[1]]);
    let new = match rng.random_range(0..4) {
        0 => rng.random(),
        1 => [0, 7, 8, 19, 20, 39, 40, 0xffff].choose(rng).copied().unwrap_or(0),
        _ => old.wrapping_add_signed(rng.random_range(-24..=24)),
    };
    field.copy_from_slice(&new.to_be_bytes());
}

/// The header length of IPv4, or the data offset of TCP.
fn header_length(frame: &mut [u8], rng: &mut SmallRng) {
    let at = network(frame);
    match frame.get(at).map(|first| first >> 4) {
        Some(4) if rng.random() => frame[at] = 0x40 | rng.random_range(0..16),
        Some(version @ (4 | 6)) => {
            let ip_len = if version == 4 { usize::from(frame[at] & 0x0f) * 4 } else { 40 };
            if let Some(byte) = frame.get_mut(at + ip_len + 12) {
                *byte = rng.random();
            }
        }
        _ => {}
    }
}

/// A byte of the IP or transport header, to a value that means something.
fn field(frame: &mut [u8], rng: &mut SmallRng) {
    let at = network(frame);
    let at = at + rng.random_range(0..64);
    if let Some(byte) = frame.get_mut(at) {
        *byte = if rng.random() { TELLING.choose(rng).copied().unwrap_or(0) } else { rng.random() };
    }
}

/// Sets the header checksum right if there is an IPv4 header, so that not all edited packets fail on it.
fn checksum(frame: &mut [u8]) {
    let at = network(frame);
    let Some(first) = frame.get(at) else { return };
    let end = at + usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || end < at + 20 || end > frame.len() {
        return;
    }
    frame[at + 10..at + 12].fill(0);
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&frame[at..end]).ones_complement();
    frame[at + 10..at + 12].copy_from_slice(&sum.to_ne_bytes());
}

/// Offset of what follows the VLAN tags.
fn network(frame: &[u8]) -> usize {
    let mut at = 14;
    while at < 22 && matches!(frame.get(at - 2..at), Some([0x81, 0] | [0x88, 0xa8] | [0x91, 0])) {
        at += 4;
    }
    at
}
