//! Checksums of frames: checking them, telling offload from damage, and making them right.

use super::parse::{Ip, TCP, UDP, View};
use crate::checksum::{fold, is_right, of, of_udp, sum};

/// What a transport checksum is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Right, absent by rule (UDP over IPv4 with 0), or not to be judged.
    Fine,
    /// As a host leaves it for its network card: the sum over the pseudo-header alone, or 0 for TCP.
    Offload,
    /// Plainly wrong.
    Bad,
}

/// The sum over the pseudo-header (RFC 9293 section 3.1, RFC 768, RFC 8200 section 8.1).
fn pseudo(data: &[u8], ip: &Ip, protocol: u8, len: usize) -> u64 {
    sum(ip.address_bytes(data)) + u64::from(protocol) + ((len >> 16) + (len & 0xffff)) as u64
}

/// Whether the IPv4 header checksum is right; always for IPv6 and for headers that are not all there.
pub(super) fn ipv4_header_is_fine(data: &[u8], ip: &Ip) -> bool {
    match ipv4_header(data, ip) {
        Some(header) => is_right(sum(header)),
        None => true,
    }
}

fn ipv4_header<'a>(data: &'a [u8], ip: &Ip) -> Option<&'a [u8]> {
    if ip.v6 {
        return None;
    }
    let len = usize::from(*data.get(ip.start)? & 15) * 4;
    data.get(ip.start..ip.start + len).filter(|header| header.len() >= 20)
}

/// A TCP or UDP checksum: what it covers and where it is.
struct Covered {
    protocol: u8,
    start: usize,
    end: usize,
    /// Offset of the checksum.
    field: usize,
}

/// What is covered, if it is all in the frame and well-formed enough to be summed.
fn covered(data: &[u8], ip: &Ip) -> Option<Covered> {
    let (protocol, start) = ip.unfragmented()?;
    if !ip.is_complete(data) || ip.routed {
        return None;
    }
    let room = ip.end.checked_sub(start)?;
    match protocol {
        TCP if room >= 20 => Some(Covered { protocol, start, end: ip.end, field: start + 16 }),
        UDP if room >= 8 => {
            let len = usize::from(u16::from_be_bytes([data[start + 4], data[start + 5]]));
            (8..=room).contains(&len).then(|| Covered { protocol, start, end: start + len, field: start + 6 })
        }
        _ => None,
    }
}

/// Judges the TCP or UDP checksum of a frame.
pub(super) fn transport(data: &[u8], ip: &Ip) -> Verdict {
    let Some(Covered { protocol, start, end, field }) = covered(data, ip) else { return Verdict::Fine };
    let found = u16::from_be_bytes([data[field], data[field + 1]]);
    if protocol == UDP && found == 0 {
        // No checksum: allowed over IPv4 (RFC 768), and over IPv6 for tunnels (RFC 6935).
        return Verdict::Fine;
    }
    let pseudo_sum = pseudo(data, ip, protocol, end - start);
    if is_right(pseudo_sum + sum(&data[start..end])) {
        return Verdict::Fine;
    }
    // Linux leaves the folded sum of the pseudo-header (CHECKSUM_PARTIAL); cards that segment want it without the
    // length. 0 and 0xffff are the same number.
    let without_length = fold(pseudo(data, ip, protocol, 0));
    let zero = |sum: u16| sum == 0 || sum == 0xffff;
    let is = |sum: u16| found == sum || (zero(found) && zero(sum));
    if is(fold(pseudo_sum)) || is(without_length) || (protocol == TCP && found == 0) {
        return Verdict::Offload;
    }
    Verdict::Bad
}

/// Makes lengths left at 0 by offload, and the IPv4, TCP and UDP checksums right, as far as they are wrong and the
/// frame holds what they cover.
pub(super) fn repair(data: &mut [u8], view: &View) {
    let Some(ip) = &view.ip else { return };
    if ip.no_length && ip.is_complete(data) {
        set_length(data, ip, ip.end);
    }
    let fine = transport(data, ip) == Verdict::Fine;
    if !fine {
        set_transport(data, ip);
    }
    set_ipv4_header(data, ip);
}

/// Writes the length field of a packet that ends at `end`. Longer than a length field can say stays 0.
pub(super) fn set_length(data: &mut [u8], ip: &Ip, end: usize) {
    let (field, len) = if ip.v6 { (ip.start + 4, end - ip.start - 40) } else { (ip.start + 2, end - ip.start) };
    if let Ok(len) = u16::try_from(len) {
        data[field..field + 2].copy_from_slice(&len.to_be_bytes());
    }
}

/// Computes and writes the IPv4 header checksum.
pub(super) fn set_ipv4_header(data: &mut [u8], ip: &Ip) {
    if ipv4_header(data, ip).is_none() {
        return;
    }
    data[ip.start + 10..ip.start + 12].fill(0);
    let checksum = ipv4_header(data, ip).map_or(0, |header| of(sum(header)));
    data[ip.start + 10..ip.start + 12].copy_from_slice(&checksum.to_be_bytes());
}

/// Computes and writes the TCP or UDP checksum.
pub(super) fn set_transport(data: &mut [u8], ip: &Ip) {
    let Some(Covered { protocol, start, end, field }) = covered(data, ip) else { return };
    data[field..field + 2].fill(0);
    let total = pseudo(data, ip, protocol, end - start) + sum(&data[start..end]);
    let checksum = if protocol == UDP { of_udp(total) } else { of(total) };
    data[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn frame(v6: bool, tcp: bool, payload: &[u8]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let ip = if v6 { ethernet.ipv6([1; 16], [2; 16], 64) } else { ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64) };
        let mut out = Vec::new();
        if tcp {
            ip.tcp(1000, 80, 7, 100).write(&mut out, payload).unwrap();
        } else {
            ip.udp(1000, 53).write(&mut out, payload).unwrap();
        }
        out
    }

    fn each_kind() -> impl Iterator<Item = (bool, bool, Vec<u8>)> {
        [(false, false), (false, true), (true, false), (true, true)]
            .into_iter()
            .flat_map(|(v6, tcp)| [0, 1, 2, 3, 5, 1000].map(|len| (v6, tcp, frame(v6, tcp, &vec![0xa7; len]))))
    }

    #[test]
    fn checksums_made_by_etherparse_are_fine() {
        for (_, _, data) in each_kind() {
            let ip = View::of(&data).ip.unwrap();
            assert!(ipv4_header_is_fine(&data, &ip));
            assert_eq!(transport(&data, &ip), Verdict::Fine);
        }
    }

    #[test]
    fn every_flipped_bit_is_found_and_repaired_to_the_original() {
        for (v6, tcp, good) in each_kind() {
            let view = View::of(&good);
            let ip = view.ip.unwrap();
            let field = ip.transport.unwrap() + if tcp { 16 } else { 6 };
            for bit in 0..16 {
                let mut data = good.clone();
                data[field + bit / 8] ^= 1 << (bit % 8);
                assert_eq!(transport(&data, &ip), Verdict::Bad, "v6 {v6} tcp {tcp} bit {bit}");
                repair(&mut data, &view);
                assert_eq!(data, good);
            }
            if !v6 {
                let mut data = good.clone();
                data[ip.start + 8] -= 1;
                assert!(!ipv4_header_is_fine(&data, &ip));
            }
        }
    }

    #[test]
    fn a_pseudo_header_sum_is_offload_and_not_damage() {
        for (_, tcp, mut data) in each_kind() {
            let view = View::of(&data);
            let ip = view.ip.unwrap();
            let start = ip.transport.unwrap();
            let good = data.clone();
            let field = start + if tcp { 16 } else { 6 };
            let protocol = if tcp { TCP } else { UDP };
            for len in [ip.end - start, 0] {
                let partial = fold(pseudo(&data, &ip, protocol, len));
                data[field..field + 2].copy_from_slice(&partial.to_be_bytes());
                assert_eq!(transport(&data, &ip), Verdict::Offload);
                repair(&mut data, &view);
                assert_eq!(data, good);
            }
        }
    }

    #[test]
    fn what_cannot_be_judged_is_left_alone() {
        let good = frame(false, false, b"query");
        let mut none = good.clone();
        none[40..42].fill(0);
        let ip = View::of(&none).ip.unwrap();
        assert_eq!(transport(&none, &ip), Verdict::Fine, "UDP over IPv4 without checksum");
        let mut fragment = good.clone();
        fragment[20] = 0x20;
        fragment[40] ^= 1;
        assert_eq!(transport(&fragment, &View::of(&fragment).ip.unwrap()), Verdict::Fine, "first of several fragments");
        let cut = &good[..good.len() - 1];
        assert_eq!(transport(cut, &View::of(cut).ip.unwrap()), Verdict::Fine, "not all there");
    }

    #[test]
    fn a_length_of_zero_is_repaired_with_the_checksums() {
        for (v6, tcp, good) in each_kind() {
            let mut data = good.clone();
            let field = if v6 { 18 } else { 16 };
            data[field..field + 2].fill(0);
            let view = View::of(&data);
            if !v6 || good.len() > 54 {
                assert!(view.ip.unwrap().no_length);
                repair(&mut data, &view);
                assert_eq!(data, good, "v6 {v6} tcp {tcp}");
            }
        }
    }
}
