//! Parameters of catalogue entries: what there is, what a value may be, and the values of a declaration.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::SynthError;
use super::error::nearest;

/// A parameter's value as written in a scenario or on the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
    Whole(i64),
    /// Another number.
    Number(f64),
    /// A text.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => flag.fmt(out),
            Self::Whole(number) => number.fmt(out),
            Self::Number(number) => number.fmt(out),
            Self::Text(text) => write!(out, "`{text}`"),
        }
    }
}

impl From<&str> for Value {
    /// As on the command line: a number or a flag where it reads like one.
    fn from(text: &str) -> Self {
        if let Ok(flag) = text.parse() {
            return Self::Flag(flag);
        }
        if let Ok(number) = text.parse() {
            return Self::Whole(number);
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Self::Number(number),
            _ => Self::Text(text.to_owned()),
        }
    }
}

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A whole number, bounds included.
    Count {
        /// Least.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// Port numbers: `22,80,8000-8010`, or `none`.
    Ports,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A DNS name of at most so many bytes.
    Name {
        /// Largest length.
        max: usize,
    },
    /// An IP address, or `auto`.
    Address,
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { min, max } => write!(out, "{min} to {max}"),
            Self::Ports => out.write_str("ports as 22,80,8000-8010, or none"),
            Self::Choice(words) => write!(out, "one of {}", words.join(", ")),
            Self::Name { max } => write!(out, "a DNS name of at most {max} bytes"),
            Self::Address => out.write_str("an IP address, or auto"),
        }
    }
}

/// A parameter of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Parameter {
    /// As written in a scenario or after `--set`.
    pub name: &'static str,
    /// Unit of its value; empty where it has none.
    pub unit: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// What it is if nothing is said.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

impl Parameter {
    pub(super) const fn count(
        name: &'static str,
        unit: &'static str,
        (min, max): (u64, u64),
        default: &'static str,
        meaning: &'static str,
    ) -> Self {
        Self { name, unit, kind: Kind::Count { min, max }, default, meaning }
    }

    pub(super) const fn of(name: &'static str, kind: Kind, default: &'static str, meaning: &'static str) -> Self {
        Self { name, unit: "", kind, default, meaning }
    }
}

/// A value that has been read.
#[derive(Clone, Debug, PartialEq)]
enum Known {
    Count(u64),
    Text(String),
    Ports(Vec<u16>),
    Address(Option<IpAddr>),
}

impl Kind {
    fn read(self, value: &Value) -> Option<Known> {
        let text = || match value {
            Value::Text(text) => text.clone(),
            other => other.to_string(),
        };
        match self {
            Self::Count { min, max } => {
                let number = match value {
                    Value::Whole(number) => u64::try_from(*number).ok()?,
                    _ => return None,
                };
                (min..=max).contains(&number).then_some(Known::Count(number))
            }
            Self::Ports => ports(&text()).map(Known::Ports),
            Self::Choice(words) => words.contains(&text().as_str()).then(|| Known::Text(text())),
            Self::Name { max } => is_name(&text(), max).then(|| Known::Text(text())),
            Self::Address if text() == "auto" => Some(Known::Address(None)),
            Self::Address => text().parse().ok().map(|address| Known::Address(Some(address))),
        }
    }
}

/// `22,80,8000-8010`, in the order given; `none` is the empty list.
fn ports(text: &str) -> Option<Vec<u16>> {
    let mut ports = Vec::new();
    if text == "none" {
        return Some(ports);
    }
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = first.trim().parse().ok().zip(last.trim().parse().ok())?;
        // A port that is named twice is scanned twice: bounded all the same.
        if first > last || ports.len() > usize::from(u16::MAX) {
            return None;
        }
        ports.extend(first..=last);
    }
    Some(ports)
}

/// Labels of 1 to 63 letters, digits, hyphens and underscores (RFC 1035 section 2.3.4).
fn is_name(text: &str, max: usize) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    text.len() <= max && text.split('.').all(is_label)
}

/// The values of all parameters of an entry.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Params(BTreeMap<&'static str, Known>);

impl Params {
    /// The values given, defaults for the rest.
    pub(super) fn read(
        entry: &str,
        known: &'static [Parameter],
        given: &BTreeMap<String, Value>,
    ) -> Result<Self, SynthError> {
        for name in given.keys() {
            if !known.iter().any(|parameter| parameter.name == name) {
                let names: Vec<&str> = known.iter().map(|parameter| parameter.name).collect();
                return Err(SynthError::Parameter {
                    entry: entry.to_owned(),
                    name: name.clone(),
                    nearest: nearest(name, names.iter().copied()),
                    known: if names.is_empty() { "none".to_owned() } else { names.join(", ") },
                });
            }
        }
        let read = |parameter: &'static Parameter| {
            let value = given.get(parameter.name).cloned().unwrap_or_else(|| Value::from(parameter.default));
            let expected = || match parameter.unit {
                "" => parameter.kind.to_string(),
                unit => format!("{} ({unit})", parameter.kind),
            };
            let value = parameter.kind.read(&value).ok_or_else(|| SynthError::Value {
                entry: entry.to_owned(),
                name: parameter.name.to_owned(),
                expected: expected(),
                found: value.to_string(),
            })?;
            Ok((parameter.name, value))
        };
        known.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    // Every entry is made at its defaults by a test, so that a name which it does not have is found there.

    pub(super) fn count(&self, name: &str) -> u64 {
        match self.0.get(name) {
            Some(Known::Count(number)) => *number,
            other => no_such(name, other),
        }
    }

    pub(super) fn text(&self, name: &str) -> String {
        match self.0.get(name) {
            Some(Known::Text(text)) => text.clone(),
            other => no_such(name, other),
        }
    }

    pub(super) fn ports(&self, name: &str) -> Vec<u16> {
        match self.0.get(name) {
            Some(Known::Ports(ports)) => ports.clone(),
            other => no_such(name, other),
        }
    }

    /// Nothing for `auto`.
    pub(super) fn address(&self, name: &str) -> Option<IpAddr> {
        match self.0.get(name) {
            Some(Known::Address(address)) => *address,
            other => no_such(name, other),
        }
    }

    pub(super) fn port(&self, name: &str) -> u16 {
        self.count(name) as u16
    }

    pub(super) fn size(&self, name: &str) -> usize {
        self.count(name) as usize
    }

    /// A parameter in milliseconds, as ns.
    pub(super) fn ms(&self, name: &str) -> u64 {
        self.count(name) * 1_000_000
    }

    /// A parameter in microseconds, as ns.
    pub(super) fn us(&self, name: &str) -> u64 {
        self.count(name) * 1_000
    }
}

/// An entry that asks for a parameter which it does not declare is a mistake of this crate, not of its user.
fn no_such<T: Default>(name: &str, found: Option<&Known>) -> T {
    debug_assert!(false, "no parameter {name} of that kind: {found:?}");
    T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Parameter] = &[
        Parameter::count("port", "", (0, 65535), "80", "p"),
        Parameter::count("payload", "bytes", (0, 1400), "0", "p"),
        Parameter::of("open", Kind::Ports, "22,80", "o"),
        Parameter::of("name", Kind::Name { max: 50 }, "example.com", "n"),
    ];

    fn read(name: &str, value: &str) -> Result<Params, SynthError> {
        Params::read("x", KNOWN, &BTreeMap::from([(name.to_owned(), Value::from(value))]))
    }

    #[test]
    fn what_is_not_given_has_its_default() {
        let params = read("port", "443").unwrap();
        assert_eq!((params.port("port"), params.count("payload")), (443, 0));
        assert_eq!(params.ports("open"), [22, 80]);
    }

    #[test]
    fn unknown_names_get_a_suggestion() {
        let text = read("prot", "1").unwrap_err().to_string();
        assert_eq!(text, "`x` has no parameter `prot`; did you mean `port`?; it has port, payload, open, name");
    }

    #[test]
    fn a_value_out_of_range_is_told_with_the_range() {
        let text = read("payload", "1401").unwrap_err().to_string();
        assert_eq!(text, "parameter `payload` of `x` is 0 to 1400 (bytes), not 1401");
        for (name, value) in [("port", "-1"), ("port", "http"), ("port", "1.5"), ("open", "9-1"), ("open", "70000")] {
            assert!(read(name, value).is_err(), "{name} {value}");
        }
        for name in ["", "a..b", "a b", &"a".repeat(64)] {
            assert!(read("name", name).is_err(), "{name}");
        }
    }

    #[test]
    fn ports_are_lists_and_ranges() {
        assert_eq!(ports("1-3,9").unwrap(), [1, 2, 3, 9]);
        assert_eq!(ports("none").unwrap(), [0_u16; 0]);
        assert_eq!(ports("0-65535").unwrap().len(), 65536);
        assert!(ports(&["0-65535"; 3].join(",")).is_none());
    }
}
