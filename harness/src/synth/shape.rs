//! When units of traffic begin: rate and shape.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SynthError;
use super::rng::Rng;

/// How the beginnings of units are spread over time.
///
/// Written as `constant`, `poisson`, `ramp=FROM..TO` or `microburst=SIZE@GAP` (`ramp=100..5000`, `microburst=32@5us`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Shape {
    /// Evenly: the n-th begins n / rate seconds after the first.
    #[default]
    Constant,
    /// With independent exponential gaps, of mean 1 / rate (a Poisson process).
    Poisson,
    /// The rate grows or shrinks evenly from one to the other, both in units a second.
    Ramp {
        /// Rate at the beginning.
        from: f64,
        /// Rate at the end.
        to: f64,
    },
    /// Groups: units of a group follow each other by `gap_ns`, and groups begin so often that the mean rate is kept.
    Microburst {
        /// Units of a group.
        size: u32,
        /// Time between two units of a group, ns.
        gap_ns: u64,
    },
}

/// A text that is not a shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a shape; expected constant, poisson, ramp=FROM..TO (units a second) or microburst=SIZE@GAP (as 32@5us)"
)]
pub struct ShapeError(String);

impl FromStr for Shape {
    type Err = ShapeError;

    fn from_str(text: &str) -> Result<Self, ShapeError> {
        let wrong = || ShapeError(text.to_owned());
        match text.split_once('=') {
            None if text == "constant" => Ok(Self::Constant),
            None if text == "poisson" => Ok(Self::Poisson),
            Some(("ramp", rates)) => {
                let rate = |text: &str| text.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate >= 0.0);
                let (from, to) = rates.split_once("..").ok_or_else(wrong)?;
                let (from, to) = rate(from).zip(rate(to)).ok_or_else(wrong)?;
                if from + to > 0.0 { Ok(Self::Ramp { from, to }) } else { Err(wrong()) }
            }
            Some(("microburst", burst)) => {
                let (size, gap) = burst.split_once('@').ok_or_else(wrong)?;
                let size = size.parse().ok().filter(|size| *size > 0).ok_or_else(wrong)?;
                Ok(Self::Microburst { size, gap_ns: nanoseconds(gap).ok_or_else(wrong)? })
            }
            _ => Err(wrong()),
        }
    }
}

/// A whole number with `ns`, `us`, `ms` or `s`.
fn nanoseconds(text: &str) -> Option<u64> {
    let units = [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];
    let (number, factor) = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))?;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

impl fmt::Display for Shape {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => out.write_str("constant"),
            Self::Poisson => out.write_str("poisson"),
            Self::Ramp { from, to } => write!(out, "ramp={from}..{to}"),
            Self::Microburst { size, gap_ns } => write!(out, "microburst={size}@{gap_ns}ns"),
        }
    }
}

impl TryFrom<String> for Shape {
    type Error = ShapeError;

    fn try_from(text: String) -> Result<Self, ShapeError> {
        text.parse()
    }
}

impl From<Shape> for String {
    fn from(shape: Shape) -> Self {
        shape.to_string()
    }
}

/// How many units there are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Extent {
    /// So many.
    Count(u64),
    /// As many as begin within so many seconds.
    Duration(f64),
}

/// Latest time of a beginning: 2^62 ns are 146 years.
const LATEST_NS: f64 = (1_u64 << 62) as f64;

/// The beginnings of units, ns after the first possible one, in order.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    shape: Shape,
    /// Units a second.
    rate: f64,
    count: u64,
    /// No unit begins at this time or later, ns.
    end_ns: f64,
    next: u64,
    /// Of a Poisson process: the last beginning, ns.
    last_ns: f64,
    rng: Rng,
}

impl Schedule {
    /// `rate` is in units a second and positive; it means nothing to a ramp.
    pub(super) fn new(shape: Shape, rate: f64, extent: Extent, rng: Rng) -> Result<Self, SynthError> {
        if !(rate.is_normal() && rate > 0.0) {
            return Err(SynthError::Rate { rate });
        }
        let (mut count, end_ns) = match extent {
            Extent::Count(count) => (count, f64::INFINITY),
            Extent::Duration(seconds) if seconds.is_finite() && seconds > 0.0 => (u64::MAX, seconds * 1e9),
            Extent::Duration(seconds) => return Err(SynthError::Duration { seconds }),
        };
        if let (Shape::Ramp { from, to }, Extent::Duration(seconds)) = (shape, extent) {
            count = ((from + to) / 2.0 * seconds) as u64;
        }
        if let Shape::Microburst { size, gap_ns } = shape {
            if let Extent::Duration(seconds) = extent {
                // A last burst that begins in time may be cut short: the mean rate is kept.
                count = (rate * seconds).ceil() as u64;
            }
            let (needs, period_ns) = (f64::from(size) * gap_ns as f64, f64::from(size) * 1e9 / rate);
            if needs > period_ns {
                return Err(SynthError::Burst { size, gap_ns, rate });
            }
        }
        Ok(Self { shape, rate, count, end_ns, next: 0, last_ns: 0.0, rng })
    }

    /// Mean time between two beginnings, ns.
    pub(super) fn interval_ns(&self) -> u64 {
        let rate = match self.shape {
            Shape::Ramp { from, to } => (from + to) / 2.0,
            _ => self.rate,
        };
        (1e9 / rate).min(LATEST_NS) as u64
    }

    /// When unit `n` begins, ns. Each time is computed from `n` alone, so that no error adds up.
    fn time(&mut self, n: u64) -> f64 {
        let count = n as f64;
        match self.shape {
            Shape::Constant => count * 1e9 / self.rate,
            Shape::Poisson if n == 0 => 0.0,
            Shape::Poisson => self.last_ns + self.rng.exponential() * 1e9 / self.rate,
            // After t seconds `from t + slope t^2 / 2` units have begun: solved for t, in a form that holds for a slope
            // of zero as well.
            Shape::Ramp { from, to } => {
                let total =
                    if self.end_ns.is_finite() { self.end_ns / 1e9 * (from + to) / 2.0 } else { self.count as f64 };
                let seconds = 2.0 * total / (from + to);
                let slope = (to - from) / seconds;
                let root = (from * from + 2.0 * slope * count).max(0.0).sqrt();
                if from + root > 0.0 { 2.0 * count / (from + root) * 1e9 } else { 0.0 }
            }
            Shape::Microburst { size, gap_ns } => {
                let size = u64::from(size);
                ((n / size) * size) as f64 * 1e9 / self.rate + (n % size) as f64 * gap_ns as f64
            }
        }
    }
}

impl Iterator for Schedule {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.next >= self.count {
            return None;
        }
        let time_ns = self.time(self.next);
        if time_ns >= self.end_ns || time_ns > LATEST_NS {
            self.count = 0;
            return None;
        }
        (self.next, self.last_ns) = (self.next + 1, time_ns);
        Some(time_ns as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(shape: &str, rate: f64, extent: Extent) -> Vec<u64> {
        Schedule::new(shape.parse().unwrap(), rate, extent, Rng::new(1, 0)).unwrap().collect()
    }

    #[test]
    fn shapes_read_back_as_written() {
        for text in ["constant", "poisson", "ramp=100..5000", "ramp=0..2.5", "microburst=32@5000ns"] {
            assert_eq!(text.parse::<Shape>().unwrap().to_string(), text);
        }
        for text in
            ["", "ramp", "ramp=1", "ramp=-1..2", "ramp=0..0", "ramp=nan..1", "microburst=0@1us", "microburst=3@5"]
        {
            assert!(text.parse::<Shape>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_constant_rate_does_not_drift() {
        let times = times("constant", 3.0, Extent::Count(3_000_001));
        assert_eq!((times[1], times[3_000_000]), (333_333_333, 1_000_000_000_000_000));
        // Those that begin before the end: at 0, 0.1, ... 0.9 s.
        assert_eq!(super::tests::times("constant", 10.0, Extent::Duration(1.0)).len(), 10);
    }

    #[test]
    fn a_ramp_begins_and_ends_at_its_rates() {
        // From 100 to 300 a second over 10 s: 2000 units, with gaps from 10 ms to a third of that.
        for extent in [Extent::Duration(10.0), Extent::Count(2_000)] {
            let times = times("ramp=100..300", 1.0, extent);
            assert_eq!(times.len(), 2_000);
            let gap = |n: usize| times[n] - times[n - 1];
            assert!((9_800_000..10_000_000).contains(&gap(1)), "{}", gap(1));
            assert!((3_300_000..3_400_000).contains(&gap(1_999)), "{}", gap(1_999));
            assert!(times.is_sorted() && times[1_999] < 10_000_000_000);
        }
        let flat = times("ramp=50..50", 1.0, Extent::Count(3));
        assert_eq!(flat, [0, 20_000_000, 40_000_000]);
        let down = times("ramp=10..0", 1.0, Extent::Count(20));
        assert!(down.is_sorted() && down.len() == 20, "{down:?}");
    }

    #[test]
    fn bursts_keep_the_mean_rate() {
        let times = times("microburst=4@1us", 1_000.0, Extent::Count(9));
        assert_eq!(times, [0, 1_000, 2_000, 3_000, 4_000_000, 4_001_000, 4_002_000, 4_003_000, 8_000_000]);
        let shape = Shape::Microburst { size: 4, gap_ns: 2_000_000 };
        assert!(
            Schedule::new(shape, 1_000.0, Extent::Count(1), Rng::new(1, 0)).is_err(),
            "4 x 2 ms do not fit into 4 ms"
        );
    }

    #[test]
    fn a_poisson_process_has_the_rate_and_the_spread_asked_for() {
        let times = times("poisson", 1_000.0, Extent::Duration(10.0));
        // Mean 10 000, standard deviation 100.
        assert!((9_600..10_400).contains(&times.len()), "{}", times.len());
        // A share of 1 / e of the gaps is longer than their mean: 36.8 %, standard deviation 0.5 %.
        let longer = times.windows(2).filter(|pair| pair[1] - pair[0] > 1_000_000).count();
        assert!((34..40).contains(&(longer * 100 / times.len())), "{longer}");
    }

    #[test]
    fn rates_and_durations_that_mean_nothing_are_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Schedule::new(Shape::Constant, rate, Extent::Count(1), Rng::new(1, 0)).is_err());
        }
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Schedule::new(Shape::Constant, 1.0, Extent::Duration(seconds), Rng::new(1, 0)).is_err());
        }
    }
}
