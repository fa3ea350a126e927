//! Changes to frames that leave them what they are: lengths fit, right checksums stay right and wrong ones wrong.

use std::ops::Range;

use super::checksum::{self, Verdict};
use super::parse::{Ip, TCP, UDP, View};

/// Where the payload of a whole TCP segment or UDP datagram is in an Ethernet frame; nothing for other packets, fragments
/// and frames that do not hold all of their packet.
#[must_use]
pub fn payload(frame: &[u8]) -> Option<Range<usize>> {
    place(frame).map(|(_, range)| range)
}

fn place(frame: &[u8]) -> Option<(Ip, Range<usize>)> {
    let ip = View::of(frame).ip.filter(|ip| ip.is_complete(frame) && !ip.no_length && !ip.jumbo)?;
    let (protocol, start) = ip.unfragmented()?;
    let (header, end) = match protocol {
        TCP => (usize::from(frame.get(start + 12)? >> 4) * 4, ip.end),
        UDP => {
            let len = usize::from(u16::from_be_bytes([*frame.get(start + 4)?, *frame.get(start + 5)?]));
            (8, start + len)
        }
        _ => return None,
    };
    let is_sound = (protocol == UDP || header >= 20) && start + header <= end && end == ip.end;
    is_sound.then_some((ip, start + header..end))
}

/// The frame with only the first `keep` bytes of its payload. What stood behind the packet (padding) goes.
#[must_use]
pub fn cut(frame: &[u8], keep: usize) -> Option<Vec<u8>> {
    let (ip, range) = place(frame)?;
    let end = range.start + keep.min(range.len());
    let verdicts = verdicts(frame, &ip);
    let mut shorter = frame[..end].to_vec();
    checksum::set_length(&mut shorter, &ip, end);
    if let (UDP, start) = ip.unfragmented()? {
        let len = u16::try_from(end - start).ok()?;
        shorter[start + 4..start + 6].copy_from_slice(&len.to_be_bytes());
    }
    let ip = View::of(&shorter).ip?;
    set_checksums(&mut shorter, &ip, verdicts);
    Some(shorter)
}

/// The frame with other bytes in the place of its payload, as many as that has.
#[must_use]
pub fn refill(frame: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
    let (ip, range) = place(frame)?;
    let verdicts = verdicts(frame, &ip);
    let mut changed = frame.to_vec();
    changed.get_mut(range).filter(|room| room.len() == bytes.len())?.copy_from_slice(bytes);
    set_checksums(&mut changed, &ip, verdicts);
    Some(changed)
}

/// Of the IPv4 header, and of the transport.
fn verdicts(frame: &[u8], ip: &Ip) -> (bool, Verdict) {
    (checksum::ipv4_header_is_fine(frame, ip), checksum::transport(frame, ip))
}

/// Makes the checksums right, and then wrong again if they were.
fn set_checksums(frame: &mut [u8], ip: &Ip, (header, transport): (bool, Verdict)) {
    let Some((protocol, start)) = ip.unfragmented() else { return };
    let field = start + if protocol == TCP { 16 } else { 6 };
    let has_none = protocol == UDP && frame[field..field + 2] == [0, 0];
    if !has_none {
        checksum::set_transport(frame, ip);
        if transport != Verdict::Fine {
            frame[field] ^= 0x55;
        }
    }
    checksum::set_ipv4_header(frame, ip);
    if !header {
        frame[ip.start + 10] ^= 0x55;
    }
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

    fn kinds() -> impl Iterator<Item = (bool, bool)> {
        [(false, false), (false, true), (true, false), (true, true)].into_iter()
    }

    #[test]
    fn a_cut_frame_is_the_frame_with_less_payload() {
        for (v6, tcp) in kinds() {
            let whole = frame(v6, tcp, b"0123456789");
            assert_eq!(payload(&whole).unwrap().len(), 10);
            for keep in [0, 1, 9, 10, 11] {
                let expected = frame(v6, tcp, &b"0123456789"[..keep.min(10)]);
                assert_eq!(cut(&whole, keep).unwrap(), expected, "v6 {v6} tcp {tcp} keep {keep}");
            }
        }
    }

    #[test]
    fn other_bytes_have_right_checksums_and_wrong_ones_stay_wrong() {
        for (v6, tcp) in kinds() {
            let whole = frame(v6, tcp, b"0123456789");
            assert_eq!(refill(&whole, b"abcdefghij").unwrap(), frame(v6, tcp, b"abcdefghij"));
            assert_eq!(refill(&whole, b"short"), None);
            let mut wrong = whole.clone();
            let range = payload(&whole).unwrap();
            wrong[range.start] ^= 1;
            for changed in [refill(&wrong, &[0; 10]).unwrap(), cut(&wrong, 3).unwrap()] {
                let ip = View::of(&changed).ip.unwrap();
                assert_ne!(checksum::transport(&changed, &ip), Verdict::Fine);
                assert!(checksum::ipv4_header_is_fine(&changed, &ip));
            }
        }
    }

    #[test]
    fn what_is_not_a_whole_segment_or_datagram_is_left_alone() {
        let whole = frame(false, true, b"0123456789");
        assert_eq!(payload(&whole[..whole.len() - 1]), None, "cut by the capture");
        let mut fragment = whole.clone();
        fragment[20] = 0x20;
        assert_eq!(payload(&fragment), None);
        let mut short = whole;
        short[46] = 0x10;
        assert_eq!(payload(&short), None, "a header of 4 bytes");
        for len in 0..60 {
            assert_eq!(cut(&vec![0; len], 0), None);
        }
    }
}
