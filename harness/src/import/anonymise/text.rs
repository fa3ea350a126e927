//! Replacements for text, always of the same length: names of hosts, words, addresses in words.

use std::net::{IpAddr, Ipv4Addr};

use super::identity::Identities;
use super::key::Key;
use super::policy::{Policy, Replace};

/// Last labels of names that say nothing about whose they are, beside the two letters of countries: the generic ones in
/// wide use, and those of RFC 6761, RFC 6762, RFC 8375 and RFC 9476.
const COMMON_TLDS: [&str; 30] = [
    "com",
    "net",
    "org",
    "edu",
    "gov",
    "mil",
    "int",
    "info",
    "biz",
    "name",
    "pro",
    "app",
    "dev",
    "cloud",
    "online",
    "site",
    "xyz",
    "top",
    "arpa",
    "in-addr",
    "ip6",
    "example",
    "invalid",
    "localhost",
    "local",
    "test",
    "home",
    "lan",
    "internal",
    "alt",
];

/// Labels that name kinds of services, not hosts (RFC 2782, RFC 6763).
const SERVICE_LABELS: [&str; 6] = ["_tcp", "_udp", "_dns-sd", "_services", "_http", "_https"];

/// Bytes that part words. Everything else, bytes that are no ASCII among it, is of a word.
const MARKS: &[u8] = b" \t\r\n\"'(),/:;<=>?@[]{}&.*!#$^|+~\\`";

/// Makes replacements for text.
pub(super) struct Words {
    key: Key,
    names: Replace,
    keep_tld: bool,
}

/// Whether `word` is one of `vocabulary`, in any case.
pub(super) fn known(word: &[u8], vocabulary: &[&str]) -> bool {
    vocabulary.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()))
}

impl Words {
    pub(super) fn new(key: &Key, policy: &Policy) -> Self {
        Self { key: key.derive("words"), names: policy.names, keep_tld: policy.keep_tld }
    }

    /// Replaces a word by letters that are made of it, in whatever case; digits alone become digits. Capitals stay where
    /// they were.
    pub(super) fn word(&self, from: &[u8], out: &mut [u8]) {
        let digits = from.iter().all(u8::is_ascii_digit);
        let lower = from.to_ascii_lowercase();
        for attempt in 0..16_u8 {
            self.key.stream(&[b"word", &[attempt], &lower], 0, out);
            for (at, (byte, original)) in out.iter_mut().zip(from).enumerate() {
                *byte = match (digits, at) {
                    // Of no more digits than it was: no zero in front.
                    (true, 0) if from.len() > 1 => b'1' + *byte % 9,
                    (true, _) => b'0' + *byte % 10,
                    (false, _) if original.is_ascii_uppercase() => b'A' + *byte % 26,
                    (false, _) => b'a' + *byte % 26,
                };
            }
            if out != from {
                return;
            }
        }
    }

    /// Replaces bytes of a value that is not text, the same value always by the same bytes.
    pub(super) fn opaque(&self, from: &[u8], out: &mut [u8]) {
        self.key.stream(&[b"opaque", from], 0, out);
    }

    /// Replaces every word of a text but those of `vocabulary`, and numbers unless `numbers` stay. IPv4 addresses among
    /// them become what stands for them as far as its length allows.
    pub(super) fn text(&self, from: &[u8], out: &mut [u8], vocabulary: &[&str], numbers: bool, ids: &mut Identities) {
        let mut at = 0;
        while at < from.len() {
            if MARKS.contains(&from[at]) {
                out[at] = from[at];
                at += 1;
                continue;
            }
            if let Some((address, len)) = quad(&from[at..]) {
                self.quad_text(address, &from[at..at + len], &mut out[at..at + len], ids);
                at += len;
                continue;
            }
            let len = from[at..].iter().position(|byte| MARKS.contains(byte)).unwrap_or(from.len() - at);
            let (word, place) = (&from[at..at + len], &mut out[at..at + len]);
            if known(word, vocabulary) || (numbers && word.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-')) {
                place.copy_from_slice(word);
            } else {
                self.word(word, place);
            }
            at += len;
        }
    }

    /// Replaces an IPv4 address in dotted quads by the one that stands for it if that is as long, otherwise number by
    /// number by others of as many digits.
    fn quad_text(&self, address: Ipv4Addr, from: &[u8], out: &mut [u8], ids: &mut Identities) {
        let IpAddr::V4(mapped) = ids.ip(IpAddr::V4(address)) else { return };
        let text = mapped.to_string();
        if text.len() == from.len() {
            out.copy_from_slice(text.as_bytes());
            return;
        }
        let mut at = 0;
        for (position, digits) in from.split(|byte| *byte == b'.').enumerate() {
            if position > 0 {
                out[at] = b'.';
                at += 1;
            }
            let (before, octet) = (&address.octets()[..position], address.octets()[position]);
            self.octet(before, octet, mapped.octets()[position], &mut out[at..at + digits.len()]);
            at += digits.len();
        }
    }

    /// Writes `mapped` if it has as many digits as there is room, otherwise a number of so many digits that is made of
    /// the octet and those before it.
    fn octet(&self, before: &[u8], octet: u8, mapped: u8, out: &mut [u8]) {
        let text = mapped.to_string();
        if text.len() == out.len() {
            out.copy_from_slice(text.as_bytes());
            return;
        }
        let random = self.key.prf(&[b"octet", before, &[octet]])[0];
        let number = match out.len() {
            1 => random % 10,
            2 => 10 + random % 90,
            _ => 100 + random % 156,
        };
        let text = number.to_string();
        // Numbers with zeros in front are longer than any octet.
        out.fill(b'0');
        let from = out.len().saturating_sub(text.len());
        for (place, digit) in out[from..].iter_mut().zip(text.bytes()) {
            *place = digit;
        }
    }

    /// Replaces the labels of a host's name, which `labels` finds in `from`: each by a word made of it. A well-known last
    /// label stays if the policy says so; the labels of reverse names become those of the address that stands for theirs,
    /// as far as their lengths allow.
    pub(super) fn name(&self, labels: &[std::ops::Range<usize>], from: &[u8], out: &mut [u8], ids: &mut Identities) {
        let label = |back: usize| labels.len().checked_sub(back).map(|at| &from[labels[at].clone()]);
        let is = |back, text: &str| label(back).is_some_and(|label| label.eq_ignore_ascii_case(text.as_bytes()));
        let reverse = if is(1, "arpa") && is(2, "in-addr") {
            self.reverse_v4(&labels[..labels.len() - 2], from, out, ids)
        } else if is(1, "arpa") && is(2, "ip6") {
            self.reverse_v6(&labels[..labels.len() - 2], from, out, ids)
        } else {
            0
        };
        for (at, range) in labels.iter().enumerate().skip(reverse) {
            let text = &from[range.clone()];
            let last = at + 1 == labels.len() && labels.len() > 1;
            let zone = at + 2 >= labels.len() && is(1, "arpa") && known(text, &["in-addr", "ip6"]);
            let country = text.len() == 2 && text.iter().all(u8::is_ascii_alphabetic);
            let common = self.keep_tld && last && (country || known(text, &COMMON_TLDS));
            let stays = self.names == Replace::Keep || zone || common || known(text, &SERVICE_LABELS);
            if stays {
                out[range.clone()].copy_from_slice(text);
            } else {
                self.word(text, &mut out[range.clone()]);
            }
        }
    }

    /// The labels before `in-addr.arpa`, last octet first (RFC 1035 section 3.5). Returns how many were written.
    fn reverse_v4(
        &self,
        labels: &[std::ops::Range<usize>],
        from: &[u8],
        out: &mut [u8],
        ids: &mut Identities,
    ) -> usize {
        let octet = |range: &std::ops::Range<usize>| std::str::from_utf8(&from[range.clone()]).ok()?.parse::<u8>().ok();
        let Some(reversed) = labels.iter().map(octet).collect::<Option<Vec<u8>>>().filter(|list| list.len() <= 4)
        else {
            return 0;
        };
        let mut octets = [0; 4];
        for (place, octet) in octets.iter_mut().zip(reversed.iter().rev()) {
            *place = *octet;
        }
        let mapped = ids.v4(u32::from_be_bytes(octets)).to_be_bytes();
        for (back, range) in labels.iter().rev().enumerate() {
            self.octet(&octets[..back], octets[back], mapped[back], &mut out[range.clone()]);
        }
        labels.len()
    }

    /// The labels before `ip6.arpa`, one hexadecimal digit each, last first (RFC 3596 section 2.5).
    fn reverse_v6(
        &self,
        labels: &[std::ops::Range<usize>],
        from: &[u8],
        out: &mut [u8],
        ids: &mut Identities,
    ) -> usize {
        let digit = |range: &std::ops::Range<usize>| match &from[range.clone()] {
            [digit] => char::from(*digit).to_digit(16),
            _ => None,
        };
        let Some(digits) = labels.iter().rev().map(digit).collect::<Option<Vec<u32>>>().filter(|list| list.len() <= 32)
        else {
            return 0;
        };
        let shift = |at: usize| 124 - 4 * at;
        let address = digits.iter().enumerate().fold(0, |sum, (at, digit)| sum | (u128::from(*digit) << shift(at)));
        let mapped = ids.v6(address);
        for (at, range) in labels.iter().rev().enumerate() {
            let digit = (mapped >> shift(at)) as u8 & 15;
            out[range.start] = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
        }
        labels.len()
    }

    /// Replaces `host`, `host:port`, an IPv4 address, or one of IPv6 in brackets. The port stays.
    pub(super) fn host(&self, from: &[u8], out: &mut [u8], ids: &mut Identities) {
        let is_port = |text: &[u8]| !text.is_empty() && text.len() <= 5 && text.iter().all(u8::is_ascii_digit);
        let colon = from.iter().rposition(|byte| *byte == b':').filter(|at| is_port(&from[at + 1..]));
        let len = match from.first() {
            Some(b'[') => return self.text(from, out, &[], false, ids),
            _ => colon.unwrap_or(from.len()),
        };
        out[len..].copy_from_slice(&from[len..]);
        let (from, out) = (&from[..len], &mut out[..len]);
        if quad(from).is_some_and(|(_, len)| len == from.len())
            || from.iter().any(|byte| *byte != b'.' && MARKS.contains(byte))
        {
            return self.text(from, out, &[], false, ids);
        }
        let mut labels = Vec::new();
        let mut start = 0;
        for end in (0..=from.len()).filter(|at| from.get(*at).is_none_or(|byte| *byte == b'.')) {
            if end > start {
                labels.push(start..end);
            }
            if end < from.len() {
                out[end] = b'.';
            }
            start = end + 1;
        }
        self.name(&labels, from, out, ids);
    }

    /// Replaces what a URL or a path names: the host by [`Words::host`], every other word.
    pub(super) fn url(&self, from: &[u8], out: &mut [u8], ids: &mut Identities) {
        let scheme = from.windows(3).position(|three| three == b"://");
        let Some(scheme) = scheme.filter(|at| known(&from[..*at], &["http", "https", "ws", "wss"])) else {
            return self.text(from, out, &[], false, ids);
        };
        let start = scheme + 3;
        let ends = |byte: &u8| matches!(byte, b'/' | b'?' | b'#' | b' ' | b',' | b';' | b'"' | b'\'' | b'\r' | b'\n');
        let end = from[start..].iter().position(ends).map_or(from.len(), |len| start + len);
        // User information stands before the host (RFC 3986 section 3.2.1).
        let host = from[start..end].iter().rposition(|byte| *byte == b'@').map_or(start, |at| start + at + 1);
        out[..start].copy_from_slice(&from[..start]);
        self.text(&from[start..host], &mut out[start..host], &[], false, ids);
        self.host(&from[host..end], &mut out[host..end], ids);
        self.text(&from[end..], &mut out[end..], &[], false, ids);
    }
}

/// The IPv4 address that a text begins with, and its length.
fn quad(text: &[u8]) -> Option<(Ipv4Addr, usize)> {
    let len = text.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.').unwrap_or(text.len());
    if !(7..=16).contains(&len) {
        return None;
    }
    // A sentence may end with it.
    let len = if text[len - 1] == b'.' { len - 1 } else { len };
    std::str::from_utf8(&text[..len]).ok()?.parse().ok().map(|address| (address, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Made {
        words: Words,
        ids: Identities,
    }

    impl Made {
        fn new(policy: &Policy) -> Self {
            let key = Key::new([3; 32]);
            Self { words: Words::new(&key, policy), ids: Identities::new(&key, policy) }
        }

        fn host(&mut self, text: &str) -> String {
            let mut out = vec![0; text.len()];
            self.words.host(text.as_bytes(), &mut out, &mut self.ids);
            String::from_utf8(out).unwrap()
        }

        fn url(&mut self, text: &str) -> String {
            let mut out = vec![0; text.len()];
            self.words.url(text.as_bytes(), &mut out, &mut self.ids);
            String::from_utf8(out).unwrap()
        }
    }

    #[test]
    fn a_name_keeps_its_shape_its_port_and_its_well_known_end() {
        let mut made = Made::new(&Policy::default());
        let name = made.host("www.bpflab.example:8080");
        assert!(name.ends_with(".example:8080") && name.len() == 23 && name.matches('.').count() == 2, "{name}");
        assert!(!name.contains("www") && !name.contains("bpflab"), "{name}");
        assert_eq!(
            made.host("WWW.bpflab.example").to_lowercase(),
            made.host("www.bpflab.example"),
            "case is no difference"
        );
        assert_eq!(made.host("mail.bpflab.example")[5..], made.host("www.bpflab.example")[4..], "one domain");
        assert!(!made.host("host.acme").contains("acme"), "an end that nobody else has");
        assert_ne!(made.host("intranet"), "intranet", "a lone label is a host");
        let mut whole = Made::new(&Policy { keep_tld: false, ..Policy::default() });
        assert!(!whole.host("a.example").ends_with("example"));
        let mut kept = Made::new(&Policy { names: Replace::Keep, ..Policy::default() });
        assert_eq!(kept.host("www.bpflab.example"), "www.bpflab.example");
    }

    #[test]
    fn reverse_names_follow_their_addresses() {
        let mut made = Made::new(&Policy::default());
        let address: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
        let reverse =
            |address: u128| (0..32).map(|at| format!("{:x}.", (address >> (4 * at)) & 15)).collect::<String>();
        let mapped = made.ids.v6(address.to_bits());
        assert_eq!(made.host(&(reverse(address.to_bits()) + "ip6.arpa")), reverse(mapped) + "ip6.arpa");
        let v4 = made.host("1.0.66.10.in-addr.arpa");
        assert!(v4.ends_with(".10.in-addr.arpa") && !v4.starts_with("1.0.66"), "{v4}");
        let octets: Vec<&str> = v4.split('.').collect();
        assert!(octets[..4].iter().zip([1, 1, 2, 2]).all(|(octet, len)| octet.len() == len), "{v4}");
        let zone = made.host("66.10.in-addr.arpa");
        assert!(v4.ends_with(&zone), "{zone} is not the zone of {v4}");
    }

    #[test]
    fn urls_lose_their_words_and_keep_their_marks() {
        let mut made = Made::new(&Policy::default());
        let url = made.url("https://alice:hunter@www.bpflab.example:8443/secret/plan.html?user=bob&id=12345#x");
        for gone in ["alice", "hunter", "bpflab", "secret", "plan", "user", "bob", "12345"] {
            assert!(!url.contains(gone), "{gone} in {url}");
        }
        assert!(url.starts_with("https://") && url.contains(":8443/") && url.len() == 81, "{url}");
        let marks = |text: &str| text.chars().filter(|c| "/:?=&@#".contains(*c)).collect::<String>();
        assert_eq!(marks(&url), "://:@://?=&=#");
        let path = made.url("/10.66.0.1/x");
        assert!(!path.contains("10.66.0.1") && path.len() == 12);
    }
}
