//! Wrong checksums on purpose.

use etherparse::{TcpHeader, UdpHeader};

/// Makes the checksum of the transport wrong, or that of IPv4 where there is no other: by flipping bits that leave neither
/// zero nor the sum of the pseudo-header alone, but for one in 65 536.
pub(super) fn spoil(frame: &mut [u8]) {
    let mut at = 12;
    while let Some([0x81 | 0x88, _]) = frame.get(at..at + 2) {
        at += 4;
    }
    let field = match frame.get(at..at + 2) {
        Some([0x08, 0x00]) => {
            let ip = at + 2;
            let (Some(first), Some(fragment), Some(protocol)) =
                (frame.get(ip), frame.get(ip + 6..ip + 8), frame.get(ip + 9))
            else {
                return;
            };
            let l4 = ip + usize::from(first & 15) * 4;
            let whole = fragment[0] & 0x3f == 0 && fragment[1] == 0;
            transport_field(*protocol).filter(|_| whole).map_or(ip + 10, |field| l4 + field)
        }
        Some([0x86, 0xdd]) => match frame.get(at + 8).and_then(|next| transport_field(*next)) {
            Some(field) => at + 42 + field,
            None => return,
        },
        _ => return,
    };
    if let Some(bytes) = frame.get_mut(field..field + 2) {
        let wrong = u16::from_be_bytes([bytes[0], bytes[1]]) ^ 0x5a5a;
        // UDP without a checksum would be right again.
        bytes.copy_from_slice(&(if wrong == 0 { 0x5a5b } else { wrong }).to_be_bytes());
    }
}

/// Offset of the checksum in TCP, UDP, ICMP and ICMPv6.
fn transport_field(protocol: u8) -> Option<usize> {
    match protocol {
        6 => Some(TcpHeader::MIN_LEN - 4),
        17 => Some(UdpHeader::LEN - 2),
        1 | 58 => Some(2),
        _ => None,
    }
}
