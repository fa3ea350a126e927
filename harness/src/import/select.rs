//! Which packets are imported: a filter, times, flows, a number.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::anonymise::Tuple;

/// A time in a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Nanoseconds since 1970-01-01 00:00 UTC.
    Absolute(u64),
    /// Nanoseconds since the capture's first packet.
    Relative(u64),
}

impl Moment {
    /// In nanoseconds since 1970, of a capture that begins at `first_ns`.
    #[must_use]
    pub fn at(self, first_ns: u64) -> u64 {
        match self {
            Self::Absolute(ns) => ns,
            Self::Relative(ns) => first_ns.saturating_add(ns),
        }
    }
}

/// Nanoseconds of a decimal number of `unit` nanoseconds.
fn decimal(text: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let mut total = u128::from(whole.parse::<u64>().ok()?) * u128::from(unit);
    let mut place = u128::from(unit);
    for digit in fraction.bytes() {
        place /= 10;
        total += place * u128::from(digit - b'0');
    }
    u64::try_from(total).ok()
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = |month: u64| match month {
        2 => 28 + u64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1970..=2554).contains(&year) || !(1..=12).contains(&month) || !(1..=length(month)).contains(&day) {
        return None;
    }
    let years: u64 = (1970..year).map(|year| 365 + u64::from(leap(year))).sum();
    Some(years + (1..month).map(length).sum::<u64>() + day - 1)
}

/// `2026-11-23T10:00:00.5Z`, with `Z` or an offset (RFC 3339 section 5.6).
fn date(text: &str) -> Option<u64> {
    let (day, rest) = text.split_once(['T', 't', ' '])?;
    let number = |text: &str, len: usize| {
        (text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse::<u64>().ok())?
    };
    let mut parts = day.split('-');
    let (year, month, date) = (number(parts.next()?, 4)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let zone = rest.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = rest.split_at(zone);
    let clock = |text: &str| {
        let (hour, minute) = text.split_once(':')?;
        let (hour, minute) = (number(hour, 2)?, number(minute, 2)?);
        (hour < 24 && minute < 60).then_some(hour * 3600 + minute * 60)
    };
    let (clock_part, seconds) = time.rsplit_once(':')?;
    let seconds = decimal(seconds, 1_000_000_000).filter(|ns| *ns < 61_000_000_000)?;
    let since = days(year, month, date)? * 86_400 + clock(clock_part)?;
    let offset = match zone.split_at(1) {
        ("Z" | "z", "") => 0,
        ("+", offset) => -clock(offset)?.cast_signed(),
        ("-", offset) => clock(offset)?.cast_signed(),
        _ => return None,
    };
    if parts.next().is_some() {
        return None;
    }
    since.checked_add_signed(offset)?.checked_mul(1_000_000_000)?.checked_add(seconds)
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let relative = |text: &str| {
            let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
            let unit = match &text[end..] {
                "" | "s" => 1_000_000_000,
                "ms" => 1_000_000,
                "us" => 1000,
                "ns" => 1,
                "m" | "min" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                _ => return None,
            };
            decimal(&text[..end], unit)
        };
        let found = match text.strip_prefix('+') {
            Some(rest) => relative(rest).map(Self::Relative),
            None => decimal(text, 1_000_000_000).or_else(|| date(text)).map(Self::Absolute),
        };
        found.ok_or_else(|| {
            format!(
                "`{text}` is no time: `+1.5s`, `+200ms`, `+2m` from the first packet, `2026-11-23T10:00:00Z`, or seconds \
                 since 1970"
            )
        })
    }
}

/// A flow to select, in both directions: `A:port-B:port`. A port that is left out or `*` is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSpec {
    a: (IpAddr, Option<u16>),
    b: (IpAddr, Option<u16>),
}

fn end(text: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some((address.ip(), Some(address.port())));
    }
    let text = text.strip_suffix(":*").unwrap_or(text);
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    text.parse().ok().map(|address| (address, None))
}

impl FromStr for FlowSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ends = text.split_once('-').and_then(|(a, b)| end(a.trim()).zip(end(b.trim())));
        let (a, b) = ends
            .ok_or_else(|| format!("`{text}` is no flow: `10.0.0.1:40000-10.0.0.2:80`, `[fd00::1]:*-[fd00::2]:53`"))?;
        Ok(Self { a, b })
    }
}

impl FlowSpec {
    fn matches(&self, tuple: &Tuple) -> bool {
        let is = |(address, port): (IpAddr, Option<u16>), end: SocketAddr| {
            address == end.ip() && port.is_none_or(|port| tuple.has_ports && port == end.port())
        };
        (is(self.a, tuple.source) && is(self.b, tuple.destination))
            || (is(self.b, tuple.source) && is(self.a, tuple.destination))
    }
}

/// Which packets are wanted.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// A pcap filter expression.
    pub filter: Option<String>,
    /// No packet before this time.
    pub from: Option<Moment>,
    /// No packet after this time.
    pub to: Option<Moment>,
    /// Packets of these flows, and ICMP errors about them; all if there is none.
    pub flows: Vec<FlowSpec>,
    /// Only so many packets.
    pub limit: Option<u64>,
}

/// A fragment's datagram: ends without ports, protocol, identification.
type Datagram = (IpAddr, IpAddr, u8, u32);

fn datagram(tuple: &Tuple) -> Option<Datagram> {
    tuple.fragment.map(|id| (tuple.source.ip(), tuple.destination.ip(), tuple.protocol, id))
}

/// Most datagrams that are remembered for their later fragments.
const MAX_DATAGRAMS: usize = 1 << 20;

/// Later fragments have no ports: which of them belong to wanted flows is known by the first ones.
#[derive(Debug, Default)]
pub(super) struct FlowSelector {
    flows: Vec<FlowSpec>,
    datagrams: HashSet<Datagram>,
}

impl FlowSelector {
    pub(super) fn new(selection: &Selection) -> Self {
        Self { flows: selection.flows.clone(), datagrams: HashSet::new() }
    }

    /// Whether fragments must be looked at before packets are selected.
    pub(super) fn must_learn(&self) -> bool {
        !self.flows.is_empty()
    }

    pub(super) fn learn(&mut self, tuples: &[Tuple]) {
        for tuple in tuples.iter().filter(|tuple| tuple.has_ports) {
            if let Some(datagram) = datagram(tuple)
                && self.datagrams.len() < MAX_DATAGRAMS
                && self.flows.iter().any(|flow| flow.matches(tuple))
            {
                self.datagrams.insert(datagram);
            }
        }
    }

    pub(super) fn wants(&self, tuples: &[Tuple]) -> bool {
        self.flows.is_empty()
            || tuples.iter().any(|tuple| {
                self.flows.iter().any(|flow| flow.matches(tuple))
                    || datagram(tuple).is_some_and(|datagram| self.datagrams.contains(&datagram))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_from_the_first_packet() {
        let ns = |text: &str| text.parse::<Moment>();
        assert_eq!(ns("+1.5"), Ok(Moment::Relative(1_500_000_000)));
        assert_eq!(ns("+200ms"), Ok(Moment::Relative(200_000_000)));
        assert_eq!(ns("+2m"), Ok(Moment::Relative(120_000_000_000)));
        assert_eq!(ns("1700000000.25"), Ok(Moment::Absolute(1_700_000_000_250_000_000)));
        // 2023-11-14 22:13:20 UTC is 1700000000.
        assert_eq!(ns("2023-11-14T22:13:20Z"), Ok(Moment::Absolute(1_700_000_000_000_000_000)));
        assert_eq!(ns("2023-11-14 23:13:20.000000001+01:00"), Ok(Moment::Absolute(1_700_000_000_000_000_001)));
        assert_eq!(ns("2024-02-29T00:00:00Z"), Ok(Moment::Absolute(1_709_164_800_000_000_000)), "a leap day");
        for wrong in [
            "",
            "+",
            "tomorrow",
            "2023-02-29T00:00:00Z",
            "2023-11-14T22:13:20",
            "-5",
            "+5y",
            "1e9",
            "2023-11-14T25:00:00Z",
        ] {
            assert!(ns(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_later_fragment_belongs_to_the_flow_of_the_first() {
        let tuple = |fragment, has_ports| Tuple {
            protocol: 17,
            source: if has_ports { "10.0.0.1:4000" } else { "10.0.0.1:0" }.parse().unwrap(),
            destination: if has_ports { "10.0.0.2:53" } else { "10.0.0.2:0" }.parse().unwrap(),
            fragment: Some(fragment),
            has_ports,
        };
        let flows = vec!["10.0.0.1:4000-10.0.0.2:53".parse().unwrap()];
        let mut selector = FlowSelector::new(&Selection { flows, ..Selection::default() });
        assert!(!selector.wants(&[tuple(7, false)]));
        selector.learn(&[tuple(7, true)]);
        assert!(selector.wants(&[tuple(7, true)]) && selector.wants(&[tuple(7, false)]));
        assert!(!selector.wants(&[tuple(8, false)]), "another datagram");
    }

    #[test]
    fn a_flow_matches_both_directions_and_any_port_where_none_is_given() {
        let tuple = |a: &str, b: &str, has_ports| Tuple {
            protocol: 6,
            source: a.parse().unwrap(),
            destination: b.parse().unwrap(),
            fragment: None,
            has_ports,
        };
        let flow: FlowSpec = "10.0.0.1:40000-10.0.0.2:80".parse().unwrap();
        assert!(flow.matches(&tuple("10.0.0.1:40000", "10.0.0.2:80", true)));
        assert!(flow.matches(&tuple("10.0.0.2:80", "10.0.0.1:40000", true)));
        assert!(!flow.matches(&tuple("10.0.0.1:80", "10.0.0.2:40000", true)));
        let any: FlowSpec = "10.0.0.1:*-10.0.0.2".parse().unwrap();
        assert!(any.matches(&tuple("10.0.0.2:0", "10.0.0.1:0", false)));
        let v6: FlowSpec = "[fd00::1]:53-fd00::2".parse().unwrap();
        assert!(v6.matches(&tuple("[fd00::2]:9", "[fd00::1]:53", true)));
        assert!("10.0.0.1:80".parse::<FlowSpec>().is_err());
        assert!("a:1-b:2".parse::<FlowSpec>().is_err());
    }
}
