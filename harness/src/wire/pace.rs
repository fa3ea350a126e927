//! When each frame is due, and how well that was kept.

use serde::{Deserialize, Serialize};

/// How fast frames are sent.
///
/// Written as text: `top`, `1x` (as captured), `10x`, `0.5x`, or a number of frames a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Speed {
    /// As fast as frames can be sent without losing one.
    #[default]
    Top,
    /// With the capture's own gaps, divided by this factor: 1 is as captured.
    Scaled(f64),
    /// So many frames a second, evenly.
    Rate(f64),
}

/// A text that is not a speed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a speed; expected top, a factor such as 1x or 0.5x, or a number of frames a second")]
pub struct SpeedError(String);

impl std::str::FromStr for Speed {
    type Err = SpeedError;

    fn from_str(text: &str) -> Result<Self, SpeedError> {
        if text == "top" {
            return Ok(Self::Top);
        }
        let (number, make): (&str, fn(f64) -> Self) = match text.strip_suffix('x') {
            Some(factor) => (factor, Self::Scaled),
            None => (text, Self::Rate),
        };
        match number.parse::<f64>() {
            Ok(number) if number.is_normal() && number > 0.0 => Ok(make(number)),
            _ => Err(SpeedError(text.to_owned())),
        }
    }
}

impl std::fmt::Display for Speed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Top => out.write_str("top"),
            Self::Scaled(factor) => write!(out, "{factor}x"),
            Self::Rate(rate) => write!(out, "{rate}"),
        }
    }
}

impl TryFrom<String> for Speed {
    type Error = SpeedError;

    fn try_from(text: String) -> Result<Self, SpeedError> {
        text.parse()
    }
}

impl From<Speed> for String {
    fn from(speed: Speed) -> Self {
        speed.to_string()
    }
}

/// When frames are due, in ns since the start. Each time is computed from the start and not from the frame before, so
/// that rounding and lateness do not add up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    speed: Speed,
    first_ns: Option<u64>,
    frames: u64,
}

impl Schedule {
    pub(super) const fn new(speed: Speed) -> Self {
        Self { speed, first_ns: None, frames: 0 }
    }

    /// When the next frame is due, given its time in the capture; nothing at top speed. A frame that the capture dates
    /// before its first one is due at once.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "52 bits of ns are 52 days, and a float saturates when cast"
    )]
    pub(super) fn due(&mut self, time_ns: u64) -> Option<u64> {
        let first_ns = *self.first_ns.get_or_insert(time_ns);
        let number = self.frames;
        self.frames += 1;
        match self.speed {
            Speed::Top => None,
            Speed::Scaled(factor) => Some((time_ns.saturating_sub(first_ns) as f64 / factor).round() as u64),
            Speed::Rate(rate) => Some((number as f64 * 1e9 / rate).round() as u64),
        }
    }
}

/// How well the schedule was kept.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pacing {
    /// What was asked for.
    pub speed: Speed,
    /// Frames sent.
    pub frames: u64,
    /// When the schedule has the last frame sent, s after the first; nothing at top speed.
    pub asked_s: Option<f64>,
    /// When it was sent, s after the first (at top speed: until the last had arrived at the device under test).
    pub elapsed_s: f64,
    /// Frames a second that the schedule asks for, nothing at top speed.
    pub asked_pps: Option<f64>,
    /// Frames a second that were sent.
    pub rate_pps: f64,
    /// Mean lateness behind the schedule, µs; 0 at top speed.
    pub mean_late_us: f64,
    /// Largest lateness, µs.
    pub max_late_us: f64,
}

/// Adds up lateness as frames are sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Keeping {
    frames: u64,
    late_ns: u128,
    max_late_ns: u64,
    last_due_ns: Option<u64>,
    last_sent_ns: u64,
}

impl Keeping {
    /// A frame that was due at `due_ns` has been sent at `sent_ns`, both from the start.
    pub(super) fn sent(&mut self, due_ns: Option<u64>, sent_ns: u64) {
        self.frames += 1;
        self.last_sent_ns = sent_ns;
        if let Some(due_ns) = due_ns {
            let late = sent_ns.saturating_sub(due_ns);
            self.late_ns += u128::from(late);
            self.max_late_ns = self.max_late_ns.max(late);
            self.last_due_ns = self.last_due_ns.max(Some(due_ns));
        }
    }

    /// The summary; `end_ns` is when sending ended, from the start.
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    pub(super) fn summary(&self, speed: Speed, end_ns: u64) -> Pacing {
        let elapsed_s = if speed == Speed::Top { end_ns } else { self.last_sent_ns } as f64 / 1e9;
        let asked_s = self.last_due_ns.map(|due| due as f64 / 1e9);
        // The first frame is sent at 0: n frames span n - 1 gaps.
        let gaps = if speed == Speed::Top { self.frames } else { self.frames.saturating_sub(1) } as f64;
        let rate = |seconds: f64| if seconds > 0.0 { gaps / seconds } else { 0.0 };
        Pacing {
            speed,
            frames: self.frames,
            asked_s,
            elapsed_s,
            asked_pps: asked_s.map(rate),
            rate_pps: rate(elapsed_s),
            mean_late_us: if self.frames == 0 { 0.0 } else { self.late_ns as f64 / self.frames as f64 / 1e3 },
            max_late_us: self.max_late_ns as f64 / 1e3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_read_and_written_as_on_the_command_line() {
        for (text, speed) in [
            ("top", Speed::Top),
            ("1x", Speed::Scaled(1.0)),
            ("0.5x", Speed::Scaled(0.5)),
            ("2500", Speed::Rate(2500.0)),
        ] {
            assert_eq!(text.parse::<Speed>().unwrap(), speed);
            assert_eq!(speed.to_string(), text);
        }
        for text in ["", "x", "0x", "-1x", "fast", "NaN", "infx", "0", "1e999"] {
            assert!(text.parse::<Speed>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_captures_gaps_are_kept_and_scaled() {
        let times = [5_000, 6_000, 1_005_000, 4_000, 3_000_005_000];
        let due = |speed| {
            let mut schedule = Schedule::new(speed);
            times.map(|time| schedule.due(time))
        };
        assert_eq!(due(Speed::Top), [None; 5]);
        // The fourth frame is dated before the first: due at once.
        assert_eq!(due(Speed::Scaled(1.0)), [0, 1_000, 1_000_000, 0, 3_000_000_000].map(Some));
        assert_eq!(due(Speed::Scaled(10.0)), [0, 100, 100_000, 0, 300_000_000].map(Some));
        assert_eq!(due(Speed::Scaled(0.5)), [0, 2_000, 2_000_000, 0, 6_000_000_000].map(Some));
        assert_eq!(due(Speed::Rate(1000.0)), [0, 1_000_000, 2_000_000, 3_000_000, 4_000_000].map(Some));
    }

    #[test]
    fn a_rate_that_divides_no_nanosecond_does_not_drift() {
        let mut schedule = Schedule::new(Speed::Rate(3.0));
        let last = (0..=3_000_000).map(|_| schedule.due(0)).last().flatten();
        assert_eq!(last, Some(1_000_000_000_000_000), "three million thirds of a second");
    }

    #[test]
    fn lateness_is_against_the_schedule() {
        // A clock that wakes 1, 3 and 2 µs late for frames due every ms.
        let mut keeping = Keeping::default();
        for (due, sent) in [(0, 1_000), (1_000_000, 1_003_000), (2_000_000, 2_002_000)] {
            keeping.sent(Some(due), sent);
        }
        let pacing = keeping.summary(Speed::Scaled(1.0), 9_000_000);
        assert_eq!((pacing.mean_late_us, pacing.max_late_us), (2.0, 3.0));
        assert_eq!((pacing.asked_s, pacing.asked_pps), (Some(0.002), Some(1000.0)));
        assert_eq!(pacing.elapsed_s, 0.002_002);
    }
}
