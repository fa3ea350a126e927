//! Addresses, bytes and numbers as text, both ways.

use std::net::{Ipv4Addr, Ipv6Addr};

/// `0x` and two digits per byte.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Vec::with_capacity(2 + 2 * bytes.len());
    text.extend_from_slice(b"0x");
    for byte in bytes {
        text.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    // Digits and an x.
    String::from_utf8(text).unwrap_or_default()
}

/// The bytes of [`hex`]; nothing if it is not that. Underscores, colons and spaces between bytes are allowed.
pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
    let digits: Vec<u8> = digits.bytes().filter(|byte| !matches!(byte, b'_' | b' ' | b':')).collect();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// Six bytes as an Ethernet address.
pub(super) fn mac(bytes: &[u8]) -> String {
    let octets: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    octets.join(":")
}

/// The bytes of an Ethernet address, with colons or dashes.
pub(super) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut octets = [0; 6];
    let mut parts = text.split([':', '-']);
    for octet in &mut octets {
        let part = parts.next().filter(|part| matches!(part.len(), 1 | 2))?;
        *octet = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(octets)
}

/// 4 bytes as an IPv4 address, 16 as an IPv6 address; bytes for any other number.
pub(super) fn ip(bytes: &[u8]) -> String {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Ipv4Addr::from(bytes).to_string();
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(bytes) => Ipv6Addr::from(bytes).to_string(),
        Err(_) => hex(bytes),
    }
}

/// 16 bytes that hold either kind of address: IPv4 in the first four with zeros behind, or mapped into IPv6.
pub(super) fn any_ip(bytes: &[u8]) -> String {
    let Ok(all) = <[u8; 16]>::try_from(bytes) else { return hex(bytes) };
    let address = Ipv6Addr::from(all);
    let (first, rest) = all.split_at(4);
    if first != [0; 4] && rest.iter().all(|byte| *byte == 0) { ip(first) } else { address.to_string() }
}

/// The bytes of what [`any_ip`] writes.
pub(super) fn parse_any_ip(text: &str) -> Option<[u8; 16]> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&address.octets());
        return Some(bytes);
    }
    text.parse::<Ipv6Addr>().ok().map(|address| address.octets())
}

/// The characters before the first NUL byte; nothing if they are not printable.
pub(super) fn printable(bytes: &[u8]) -> Option<&str> {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    std::str::from_utf8(text).ok().filter(|text| !text.chars().any(char::is_control))
}

/// A number as it is written in a scenario: decimal, or `0x`, `0o`, `0b`, with underscores.
pub(super) fn parse_number(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let plain: String = digits.chars().filter(|digit| *digit != '_').collect();
    let (radix, plain) = match plain.get(..2) {
        Some("0x" | "0X") => (16, &plain[2..]),
        Some("0o") => (8, &plain[2..]),
        Some("0b") => (2, &plain[2..]),
        _ => (10, plain.as_str()),
    };
    // `from_str_radix` would take a second sign.
    if !plain.starts_with(|digit: char| digit.is_digit(radix)) {
        return None;
    }
    let number = i128::from_str_radix(plain, radix).ok()?;
    Some(if negative { -number } else { number })
}

/// Nanoseconds in the largest unit of which there is at least one, with up to three digits behind the point.
pub(super) fn duration(ns: i128) -> String {
    let (unit, name) = match ns.unsigned_abs() {
        0 => return "0s".to_owned(),
        1..1_000 => (1, "ns"),
        1_000..1_000_000 => (1_000, "us"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    let thousandths = ns.unsigned_abs() * 1000 / unit;
    let (whole, rest) = (thousandths / 1000, thousandths % 1000);
    let sign = if ns < 0 { "-" } else { "" };
    let fraction = format!(".{rest:03}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{sign}{whole}{fraction}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_base_are_read_and_nothing_else() {
        for (text, number) in [("0", 0), ("-12", -12), ("0x1f", 31), ("1_000", 1000), ("0b101", 5), ("-0x10", -16)] {
            assert_eq!(parse_number(text), Some(number), "{text}");
        }
        for text in ["", "-", "0x", "+1", "--1", "0x+1", "10.0.0.1", "1e3", "one", "\u{e9}1"] {
            assert_eq!(parse_number(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_go_both_ways() {
        assert_eq!(parse_mac("02-00-0:0:00:1"), Some([2, 0, 0, 0, 0, 1]));
        for text in ["02:00:00:00:00", "02:00:00:00:00:01:02", "zz:00:00:00:00:01", "002:0:0:0:0:1", ""] {
            assert_eq!(parse_mac(text), None, "{text}");
        }
        for text in ["10.0.0.1", "::ffff:10.0.0.1", "2001:db8::", "::", "::1"] {
            // 2001:db8:: has twelve zero bytes behind its first four: the one case that cannot be told apart.
            let expected = if text == "2001:db8::" { "32.1.13.184" } else { text };
            assert_eq!(any_ip(&parse_any_ip(text).unwrap()), expected);
        }
        assert_eq!(unhex("0x0a:0b_0C").as_deref(), Some(&[10, 11, 12][..]));
        assert_eq!((unhex("0x0"), unhex("0a"), unhex("0xzz")), (None, None, None));
    }

    #[test]
    fn durations_are_short() {
        let said: Vec<String> = [0, 999, 1000, 1_500_000, -2_000_000_000].into_iter().map(duration).collect();
        assert_eq!(said, ["0s", "999ns", "1us", "1.5ms", "-2s"]);
    }
}
