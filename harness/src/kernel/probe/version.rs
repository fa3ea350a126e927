//! Kernel releases as numbers, and ranges of them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A kernel release: up to three numbers, `6.18.44`.
///
/// Comparisons look at as many numbers as the shorter one has, so that `6.12` means the whole series: 6.12.107 is
/// neither before nor after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    numbers: [u32; 3],
    /// How many of `numbers` were given, at least 1.
    given: usize,
}

impl Version {
    /// A series.
    #[must_use]
    pub const fn series(major: u32, minor: u32) -> Self {
        Self { numbers: [major, minor, 0], given: 2 }
    }

    /// The numbers that a release starts with: 5.10.0 of `5.10.0-46-amd64`.
    #[must_use]
    pub fn of_release(release: &str) -> Option<Self> {
        let end = release.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(release.len());
        release.get(..end)?.trim_end_matches('.').parse().ok()
    }

    /// Where this release stands to `other`, by the numbers that both have.
    #[must_use]
    pub fn against(&self, other: &Self) -> Ordering {
        let common = self.given.min(other.given);
        self.numbers[..common].cmp(&other.numbers[..common])
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("`{text}` is not a kernel version such as 5.18 or 6.12.107");
        let mut version = Self { numbers: [0; 3], given: 0 };
        for number in text.split('.') {
            let place = version.numbers.get_mut(version.given).ok_or_else(invalid)?;
            if number.is_empty() || !number.bytes().all(|digit| digit.is_ascii_digit()) {
                return Err(invalid());
            }
            *place = number.parse().map_err(|_| invalid())?;
            version.given += 1;
        }
        Ok(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.numbers[..self.given].iter().map(u32::to_string).collect();
        out.write_str(&numbers.join("."))
    }
}

/// A side of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    AtLeast,
    After,
    AtMost,
    Before,
    Exactly,
}

/// The operators, longest first.
const BOUNDS: [(&str, Bound); 5] =
    [(">=", Bound::AtLeast), ("<=", Bound::AtMost), (">", Bound::After), ("<", Bound::Before), ("=", Bound::Exactly)];

/// Kernel releases that a scenario runs on: `>=5.18`, `>=5.10, <6.12`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionRange(Vec<(Bound, Version)>);

impl VersionRange {
    /// Whether `version` satisfies every bound.
    #[must_use]
    pub fn contains(&self, version: &Version) -> bool {
        self.0.iter().all(|(bound, limit)| {
            let order = version.against(limit);
            match bound {
                Bound::AtLeast => order.is_ge(),
                Bound::After => order.is_gt(),
                Bound::AtMost => order.is_le(),
                Bound::Before => order.is_lt(),
                Bound::Exactly => order.is_eq(),
            }
        })
    }
}

impl FromStr for VersionRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bounds = text.split(',').map(str::trim).map(|part| {
            let found = BOUNDS.iter().find_map(|(sign, bound)| Some((*bound, part.strip_prefix(sign)?)));
            let (bound, version) = found
                .ok_or_else(|| format!("`{part}` does not start with one of >= <= > < = (as in `>=5.18, <6.12`)"))?;
            Ok((bound, version.trim().parse()?))
        });
        bounds.collect::<Result<_, String>>().map(Self)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bounds: Vec<String> = self
            .0
            .iter()
            .map(|(bound, version)| {
                let sign = BOUNDS.iter().find(|(_, known)| known == bound).map_or("", |(sign, _)| sign);
                format!("{sign}{version}")
            })
            .collect();
        out.write_str(&bounds.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("6.18.44-fc", "6.18.44")]
    #[case("5.10.0-46-amd64", "5.10.0")]
    #[case("7.0-rc3", "7.0")]
    #[case("6.1.0+", "6.1.0")]
    fn a_release_starts_with_its_numbers(#[case] release: &str, #[case] version: &str) {
        assert_eq!(Version::of_release(release).unwrap().to_string(), version);
    }

    #[test]
    fn what_is_no_release_is_refused() {
        for text in ["", "unknown", "6..1", "6.1.2.3", "-1", "99999999999", "+6.1"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
        assert_eq!(Version::of_release("unknown"), None);
    }

    #[rstest]
    #[case(">=5.18", "5.18.0", true)]
    #[case(">=5.18", "5.9.1", false)] // by number, not by text
    #[case(">=5.18", "6.1", true)]
    #[case("<=6.12", "6.12.107", true)] // a series is all of its releases
    #[case(">6.12", "6.12.107", false)]
    #[case("=6.12", "6.12.1", true)]
    #[case("=6.12.2", "6.12.1", false)]
    #[case(">=5.10, <6.12", "6.12.0", false)]
    #[case(">=5.10,<6.12", "6.1.99", true)]
    fn a_range_contains(#[case] range: &str, #[case] version: &str, #[case] expected: bool) {
        let range: VersionRange = range.parse().unwrap();
        assert_eq!(range.contains(&version.parse().unwrap()), expected);
    }

    #[test]
    fn ranges_are_written_as_they_are_read() {
        let range: VersionRange = " >= 5.10 ,<6.12".parse().unwrap();
        assert_eq!(range.to_string(), ">=5.10, <6.12");
        assert!("5.18".parse::<VersionRange>().unwrap_err().contains("does not start with"));
        assert!(">=".parse::<VersionRange>().unwrap_err().contains("not a kernel version"));
        assert!("".parse::<VersionRange>().is_err());
    }
}
