//! What a scenario says about how rows are to be shown.
//!
//! Paths name members from `key`, `value` or `event` on: `key.saddr`, `value.ports`. The elements of an array have the
//! path of the array; the inner key of a map of maps is `key.inner`, its outer key `key.outer`; a variable of a section
//! is `value.<name>`. `*` stands for any part of one name, `**` for any number of names.

use std::collections::BTreeMap;

use glob::{MatchOptions, Pattern};
use serde::{Deserialize, Serialize};

use super::compile::PlanError;
use super::plan::{Plan, Shape};
use crate::scenario::hint::closest;

/// How a member is shown, and taken where entries are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// 4 bytes that are an address in network order, whatever their type.
    Ipv4,
    /// 16 bytes that are an address in network order.
    Ipv6,
    /// Either: 4 bytes, or 16 of which IPv4 takes the first four.
    Ip,
    /// 6 bytes that are an Ethernet address.
    Mac,
    /// A number in hexadecimal; anything else as bytes.
    Hex,
    /// Bytes up to the first NUL.
    String,
    /// A number of 2 bytes in network order.
    Be16,
    /// A number of 4 bytes in network order.
    Be32,
    /// A number of 8 bytes in network order.
    Be64,
    /// A plain number: instead of an enum's name, a truth value or bytes.
    Number,
    /// Bytes or text as a list of numbers.
    List,
    /// Nanoseconds in a unit that fits: `1.5ms`.
    DurationNs,
    /// Not at all.
    Drop,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Ip => "ip",
            Self::Mac => "mac",
            Self::Hex => "hex",
            Self::String => "string",
            Self::Be16 => "be16",
            Self::Be32 => "be32",
            Self::Be64 => "be64",
            Self::Number => "number",
            Self::List => "list",
            Self::DurationNs => "duration_ns",
            Self::Drop => "drop",
        }
    }

    /// What `shape` becomes. Arrays are formatted as a whole where that fits, else by element.
    pub(super) fn shape(self, shape: Shape, big: bool, path: &str) -> Result<Shape, PlanError> {
        let size = shape.size();
        let wrong = || PlanError::Format { path: path.to_owned(), format: self.name(), size };
        let network = |size| Shape::Int { size, signed: false, big: true };
        Ok(match (self, &shape) {
            (Self::Drop, _) => shape,
            (Self::DurationNs, Shape::Int { .. } | Shape::Bits(_)) => shape,
            (Self::Number, Shape::Bits(bits)) => {
                Shape::Bits(super::plan::Bits { truth: false, names: None, ..bits.clone() })
            }
            // The bytes around a bitfield are not its own.
            (_, Shape::Bits(_)) => return Err(wrong()),
            (Self::Ipv4 | Self::Ip, _) if size == 4 => Shape::Ipv4,
            (Self::Ipv6, _) if size == 16 => Shape::Ipv6,
            (Self::Ip, _) if size == 16 => Shape::AnyIp,
            (Self::Mac, _) if size == 6 => Shape::Mac,
            (Self::Be16, _) if size == 2 => network(2),
            (Self::Be32, _) if size == 4 => network(4),
            (Self::Be64, _) if size == 8 => network(8),
            (Self::Number, Shape::Enum { size, big, names }) => {
                Shape::Int { size: *size, signed: names.signed, big: *big }
            }
            (Self::Number, Shape::Int { .. }) => shape,
            (Self::Number, Shape::Ipv4) => network(4),
            (Self::Number, Shape::Hex { .. } | Shape::HexInt { .. } | Shape::Bool { .. } | Shape::Text { .. })
                if matches!(size, 1 | 2 | 4 | 8) =>
            {
                Shape::Int { size, signed: false, big }
            }
            (Self::Hex, Shape::Int { size, big, .. } | Shape::Enum { size, big, .. } | Shape::Bool { size, big }) => {
                Shape::HexInt { size: *size, big: *big }
            }
            (Self::Hex, Shape::HexInt { .. }) => shape,
            // An array of numbers is a list of hexadecimal numbers.
            (Self::Hex, Shape::Array { element, .. }) if matches!(**element, Shape::Int { .. }) => {
                return self.elements(shape, big, path);
            }
            (Self::Hex, _) => Shape::Hex { len: size },
            (Self::String, _) => Shape::Text { len: size },
            (Self::List, Shape::Array { .. }) => shape,
            (Self::List, _) => {
                let element = Box::new(Shape::Int { size: 1, signed: false, big });
                Shape::Array { element, len: size, stride: 1 }
            }
            (_, Shape::Array { .. }) => return self.elements(shape, big, path),
            _ => return Err(wrong()),
        })
    }

    fn elements(self, shape: Shape, big: bool, path: &str) -> Result<Shape, PlanError> {
        let Shape::Array { element, len, stride } = shape else { return Ok(shape) };
        Ok(Shape::Array { element: Box::new(self.shape(*element, big, path)?), len, stride })
    }
}

/// What becomes of a per-CPU value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PerCpu {
    /// One value with the sum of each number.
    Sum,
    /// A list with the value of each possible CPU.
    List,
}

/// Ranges that a number is replaced by, half-open as in Rust: `10..100` does not contain 100.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Buckets {
    /// By power.
    Power(Power),
    /// Between these bounds, in rising order.
    Bounds(Vec<u64>),
}

/// Powers that bound [`Buckets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// 1, 10, 100, ...
    Decades,
    /// 1, 2, 4, ...
    PowersOfTwo,
}

impl Buckets {
    /// The range that holds `number`: its first number, and the first one behind it, if there is one.
    pub(super) fn range(&self, number: u64) -> (u64, Option<u64>) {
        match self {
            Self::Power(power) => {
                let base: u64 = if *power == Power::Decades { 10 } else { 2 };
                let Some(log) = number.checked_ilog(base) else { return (0, Some(1)) };
                (base.pow(log), base.checked_pow(log + 1))
            }
            Self::Bounds(bounds) => {
                let above = bounds.partition_point(|bound| *bound <= number);
                (above.checked_sub(1).map_or(0, |below| bounds[below]), bounds.get(above).copied())
            }
        }
    }
}

/// Whether elements of arrays that hold nothing but zeros are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Zeros {
    /// All of them.
    Show,
    /// None.
    Drop,
}

/// How the rows of one map, or the events of one ring, are shown. All of it may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hints {
    /// Formats by path.
    pub format: BTreeMap<String, Format>,
    /// What becomes of per-CPU values; without it, values that hold numbers are summed and all others listed.
    pub per_cpu: Option<PerCpu>,
    /// Paths that rows are sorted by, `-` before one for falling order; then by key and by value.
    #[serde(deserialize_with = "one_or_many")]
    pub sort: Vec<String>,
    /// New names for members, by path; the name alone (`packets`), not a path.
    pub rename: BTreeMap<String, String>,
    /// Paths of identities that differ from run to run, and the name under which they are numbered by first appearance
    /// (`pid` gives `pid#1`).
    pub alias: BTreeMap<String, String>,
    /// Ranges that numbers are replaced by, by path.
    pub buckets: BTreeMap<String, Buckets>,
    /// Most rows; how many more there are is said.
    pub limit: Option<usize>,
    /// Whether elements of arrays that are all zeros are shown; without it, those of arrays of up to 16 are.
    pub zeros: Option<Zeros>,
    /// Type of the events of a ring, where its definition does not say: `struct event`.
    pub event: Option<String>,
}

/// A text stands for a list of one.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(path) => vec![path],
        OneOrMany::Many(paths) => paths,
    })
}

/// What is wrong with hints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HintError {
    /// A path that is not one.
    #[error("hint {hint}: {path:?} is no path: {reason}")]
    Pattern {
        /// Name of the hint: `format`.
        hint: &'static str,
        /// The path.
        path: String,
        /// Why.
        reason: String,
    },
    /// A path that leads nowhere in this map.
    #[error("hint {hint}: {path:?} matches nothing in {map}{near}")]
    Nothing {
        /// Name of the hint.
        hint: &'static str,
        /// The path.
        path: String,
        /// The map.
        map: String,
        /// The nearest path that there is.
        near: String,
    },
    /// Bounds that do not rise, or a name that is none.
    #[error("hint {hint}: {path:?}: {reason}")]
    Content {
        /// Name of the hint.
        hint: &'static str,
        /// The path.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
}

impl Hints {
    /// Checks what can be checked without a map.
    ///
    /// # Errors
    /// [`HintError::Pattern`], [`HintError::Content`].
    pub fn check(&self) -> Result<(), HintError> {
        for (hint, path) in self.paths() {
            let pattern = path.strip_prefix('-').filter(|_| hint == "sort").unwrap_or(path);
            compile_pattern(pattern).map_err(|reason| HintError::Pattern { hint, path: path.to_owned(), reason })?;
        }
        let content = |hint, path: &str, reason| Err(HintError::Content { hint, path: path.to_owned(), reason });
        for (path, buckets) in &self.buckets {
            match buckets {
                Buckets::Bounds(bounds) if bounds.is_empty() || !bounds.is_sorted_by(|a, b| a < b) => {
                    return content("buckets", path, "bounds must rise, and there must be at least one");
                }
                _ => {}
            }
        }
        for (hint, names) in [("rename", &self.rename), ("alias", &self.alias)] {
            for (path, name) in names {
                if name.is_empty() || name.contains(['.', ' ', '=']) {
                    return content(hint, path, "a name has no dots, spaces or equals signs, and is not empty");
                }
            }
        }
        Ok(())
    }

    /// Checks that every path matches something in `map`, whose plans are given with the names of their roots.
    ///
    /// # Errors
    /// [`HintError::Nothing`], and those of [`Hints::check`].
    pub(super) fn check_paths(&self, map: &str, plans: &[(&str, &Plan)]) -> Result<(), HintError> {
        self.check()?;
        let mut known = Vec::new();
        for (root, plan) in plans {
            collect(&plan.shape, root, &mut known);
        }
        for (hint, path) in self.paths() {
            let plain = path.strip_prefix('-').filter(|_| hint == "sort").unwrap_or(path);
            let Ok(pattern) = compile_pattern(plain) else { continue };
            if !known.iter().any(|path| matches(&pattern, path)) {
                let near = closest(plain, known.iter().map(String::as_str));
                let near = near.map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
                return Err(HintError::Nothing { hint, path: path.to_owned(), map: map.to_owned(), near });
            }
        }
        Ok(())
    }

    fn paths(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let format = self.format.keys().map(|path| ("format", path.as_str()));
        let sort = self.sort.iter().map(|path| ("sort", path.as_str()));
        let rename = self.rename.keys().map(|path| ("rename", path.as_str()));
        let alias = self.alias.keys().map(|path| ("alias", path.as_str()));
        let buckets = self.buckets.keys().map(|path| ("buckets", path.as_str()));
        format.chain(sort).chain(rename).chain(alias).chain(buckets)
    }

    /// The formats, ready to be asked.
    #[must_use]
    pub fn formats(&self) -> Formats {
        Formats(Matcher::new(&self.format))
    }
}

fn collect(shape: &Shape, path: &str, into: &mut Vec<String>) {
    into.push(path.to_owned());
    match shape {
        Shape::Array { element, .. } => {
            if let Shape::Struct(_) = **element {
                collect(element, path, into);
            }
        }
        Shape::Struct(composite) => {
            for member in &composite.members {
                collect(&member.shape, &format!("{path}.{}", member.name), into);
            }
        }
        Shape::Prefix { names, .. } => into.extend(names.iter().map(|name| format!("{path}.{name}"))),
        _ => {}
    }
}

/// Formats by path.
#[derive(Clone, Debug, Default)]
pub struct Formats(Matcher<Format>);

impl Formats {
    pub(super) fn find(&self, path: &str) -> Option<Format> {
        self.0.find(path).copied()
    }

    pub(super) fn drops(&self, path: &str) -> bool {
        self.find(path) == Some(Format::Drop)
    }
}

const SEPARATED: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

fn compile_pattern(path: &str) -> Result<Pattern, String> {
    let first = path.split('.').next().unwrap_or_default();
    if !matches!(first, "key" | "value" | "event") && !first.contains('*') {
        return Err("it must begin with key, value or event".to_owned());
    }
    Pattern::new(&path.replace('.', "/")).map_err(|error| error.msg.to_owned())
}

fn matches(pattern: &Pattern, path: &str) -> bool {
    pattern.matches_with(&path.replace('.', "/"), SEPARATED)
}

/// Things by path patterns; the most particular pattern counts: one without wildcards, else the longest.
#[derive(Clone, Debug)]
pub(super) struct Matcher<T>(Vec<(Pattern, T)>);

impl<T> Default for Matcher<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone> Matcher<T> {
    /// Patterns that are none match nothing: [`Hints::check`] complains about them.
    pub fn new(entries: &BTreeMap<String, T>) -> Self {
        let mut compiled: Vec<(Pattern, T)> =
            entries.iter().filter_map(|(path, thing)| Some((compile_pattern(path).ok()?, thing.clone()))).collect();
        compiled.sort_by_key(|(pattern, _)| (pattern.as_str().contains('*'), usize::MAX - pattern.as_str().len()));
        Self(compiled)
    }
}

impl<T> Matcher<T> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn find(&self, path: &str) -> Option<&T> {
        if self.is_empty() {
            return None;
        }
        self.0.iter().find(|(pattern, _)| matches(pattern, path)).map(|(_, thing)| thing)
    }
}
