//! Order of Debian package versions, as in Debian policy 5.6.12: epoch, upstream version, revision.

use std::cmp::Ordering;

/// Compares two versions. `~` sorts before everything, even before the end: `7.3~rc7` is older than `7.3`.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (parts(a), parts(b));
    a.0.cmp(&b.0).then_with(|| part(a.1, b.1)).then_with(|| part(a.2, b.2))
}

fn parts(version: &str) -> (u64, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch.parse().unwrap_or(0), upstream, revision)
}

/// Stretches of non-digits and of digits in turn.
fn part(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        let order =
            text(take(&mut a, false), take(&mut b, false)).then_with(|| number(take(&mut a, true), take(&mut b, true)));
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

fn take<'a>(text: &mut &'a [u8], digits: bool) -> &'a [u8] {
    let end = text.iter().position(|c| c.is_ascii_digit() != digits).unwrap_or(text.len());
    let (head, tail) = text.split_at(end);
    *text = tail;
    head
}

/// Byte by byte: `~`, the end, letters, all else.
fn text(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |text: &[u8], at: usize| match text.get(at) {
        Some(b'~') => -1,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => i32::from(*c),
        Some(c) => i32::from(*c) + 256,
    };
    (0..a.len().max(b.len()))
        .map(|at| rank(a, at).cmp(&rank(b, at)))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// Of any length; leading zeros do not count.
fn number(a: &[u8], b: &[u8]) -> Ordering {
    let strip = |text: &[u8]| text.iter().skip_while(|c| **c == b'0').copied().collect::<Vec<u8>>();
    let (a, b) = (strip(a), strip(b));
    a.len().cmp(&b.len()).then_with(|| a.cmp(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("6.12.9-1", "6.12.10-1")]
    #[case("7.3~rc7-1~exp1", "7.3-1")]
    #[case("7.3~rc7-1~exp1", "7.3~rc10-1~exp1")]
    #[case("7.3.4-1~bpo13+1", "7.3.4-1")]
    #[case("5.10.223-1", "5.10.223-1+b1")]
    #[case("9.9-9", "1:0.1-1")]
    #[case("1.0a", "1.0+")]
    #[case("1.0", "1.0a")]
    fn older_comes_first(#[case] older: &str, #[case] newer: &str) {
        assert_eq!(compare(older, newer), Ordering::Less);
        assert_eq!(compare(newer, older), Ordering::Greater);
        assert_eq!(compare(older, older), Ordering::Equal);
        // dpkg has the last word where it is there.
        if let Ok(status) = std::process::Command::new("dpkg").args(["--compare-versions", older, "lt", newer]).status()
        {
            assert!(status.success(), "dpkg disagrees on {older} < {newer}");
        }
    }

    #[test]
    fn leading_zeros_and_length_do_not_count() {
        assert_eq!(compare("1.007", "1.7"), Ordering::Equal);
        assert_eq!(compare("1.18446744073709551617", "1.18446744073709551616"), Ordering::Greater);
    }
}
