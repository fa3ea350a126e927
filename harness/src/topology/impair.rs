//! What a link does to packets on their way out of one of its ends: loss, delay, reordering, duplication, corruption, a
//! rate. Pure data; `netem` turns it into what the kernel takes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest delay, ms: every wait of the lab must end.
pub const MOST_DELAY_MS: u32 = 60_000;
/// Largest jitter, ms: the kernel keeps it in 31 bits of nanoseconds (net/sched/sch_netem.c, `tabledist`).
pub const MOST_JITTER_MS: u32 = 2_147;
/// Smallest rate, bits a second: the kernel counts bytes a second.
pub const LEAST_RATE: u64 = 8;

/// Impairment of one direction of a link, by the queueing discipline `netem`, a rate with bursts by `tbf`. What is not
/// given does not happen.
///
/// The device under test's programs at tc egress see a packet before it is impaired, and XDP at the other end of the
/// link afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Impairment {
    /// Packets that are lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
    /// Time that each packet takes longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
    /// Packets that overtake the delayed ones; needs a delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reorder: Option<Reorder>,
    /// Packets that are sent twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate: Option<Chance>,
    /// Packets of which one bit is flipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<Chance>,
    /// How fast packets leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Packets that wait at the same time at most; what comes then is dropped. 1000 if left out, as in tc-netem(8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_packets: Option<u32>,
    /// Makes the kernel decide alike in every run: on Linux 6.6 and later (`TCA_NETEM_PRNG_SEED`, 4072d97ddc44). Older
    /// kernels decide anew each time; a scenario that cannot do with that requires `netem-seed`. Which bit is flipped is
    /// never repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// Which packets are lost: each with a probability of its own, or in bursts. One of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Loss {
    /// Part of the packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<Percent>,
    /// How much each decision depends on the one before.
    #[serde(default, skip_serializing_if = "Percent::is_zero")]
    pub correlation_percent: Percent,
    /// Two states with a loss of their own each (Gilbert 1960, Elliott 1963).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gilbert_elliott: Option<GilbertElliott>,
}

/// The model of Gilbert and Elliott: a good and a bad state, and how likely a packet is lost in each. Before each packet
/// the state may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GilbertElliott {
    /// `p`: from the good state to the bad one.
    pub p_percent: Percent,
    /// `r`: from the bad state to the good one.
    pub r_percent: Percent,
    /// `1-h`: lost in the bad state; all if left out.
    #[serde(default = "Percent::all")]
    pub lost_in_bad_percent: Percent,
    /// `1-k`: lost in the good state.
    #[serde(default)]
    pub lost_in_good_percent: Percent,
}

/// How much longer packets take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Delay {
    /// Mean, ms.
    pub ms: Millis,
    /// Standard deviation, of `uniform` the largest deviation, ms. A packet that is delayed less may overtake others.
    #[serde(default, skip_serializing_if = "Millis::is_zero")]
    pub jitter_ms: Millis,
    /// How much each packet's deviation depends on the one before.
    #[serde(default, skip_serializing_if = "Percent::is_zero")]
    pub correlation_percent: Percent,
    /// How deviations are distributed.
    #[serde(default)]
    pub distribution: Distribution,
}

/// How delays deviate from their mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Evenly between mean - jitter and mean + jitter: the kernel's own, without a table.
    #[default]
    Uniform,
    /// The normal distribution.
    Normal,
    /// The Pareto distribution of shape 3: most packets a little early, few very late.
    Pareto,
    /// A quarter of the normal deviation and three quarters of the Pareto one, at the same quantile.
    ParetoNormal,
}

/// Packets that are sent at once while others wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Reorder {
    /// Part of the packets whose turn it is; all if left out.
    #[serde(default = "Percent::all")]
    pub percent: Percent,
    /// It is every such packet's turn: 1, any packet's, if left out.
    #[serde(default = "one")]
    pub gap: u32,
    /// How much each decision depends on the one before.
    #[serde(default, skip_serializing_if = "Percent::is_zero")]
    pub correlation_percent: Percent,
}

const fn one() -> u32 {
    1
}

/// A part of the packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Chance {
    /// The part.
    pub percent: Percent,
    /// How much each decision depends on the one before.
    #[serde(default, skip_serializing_if = "Percent::is_zero")]
    pub correlation_percent: Percent,
}

/// A rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rate {
    /// Bits a second, Ethernet headers counted.
    pub bits_per_second: u64,
    /// Bytes that may leave at once after a pause (the queueing discipline `tbf`). Without it each packet takes the time
    /// that it takes at this rate (`netem`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst_bytes: Option<u32>,
}

/// A part of a whole, in steps of a millionth of a percent.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Percent {
    millionths: u32,
}

impl Percent {
    const ALL: u32 = 100_000_000;

    /// So many percent.
    ///
    /// # Errors
    /// A number outside 0 to 100, as a sentence.
    pub fn new(percent: f64) -> Result<Self, String> {
        if !(0.0..=100.0).contains(&percent) {
            return Err(format!("{percent} % is not in 0 to 100 %"));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 100 millions, see above")]
        Ok(Self { millionths: (percent * 1e6).round() as u32 })
    }

    const fn all() -> Self {
        Self { millionths: Self::ALL }
    }

    /// Whether it is nothing.
    #[must_use]
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub const fn is_zero(&self) -> bool {
        self.millionths == 0
    }

    /// As the kernel has probabilities: 2^32 - 1 is certain.
    pub(super) fn to_kernel(self) -> u32 {
        let scaled =
            (u64::from(self.millionths) * u64::from(u32::MAX) + u64::from(Self::ALL / 2)) / u64::from(Self::ALL);
        u32::try_from(scaled).unwrap_or(u32::MAX)
    }

    /// What is left of the whole.
    pub(super) const fn rest(self) -> Self {
        Self { millionths: Self::ALL - self.millionths }
    }
}

impl TryFrom<f64> for Percent {
    type Error = String;

    fn try_from(percent: f64) -> Result<Self, String> {
        Self::new(percent)
    }
}

impl From<Percent> for f64 {
    fn from(percent: Percent) -> Self {
        Self::from(percent.millionths) / 1e6
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}%", f64::from(*self))
    }
}

impl fmt::Debug for Percent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// A time in ms, to the nanosecond.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Millis {
    ns: u64,
}

impl Millis {
    /// So many ms.
    ///
    /// # Errors
    /// A number outside 0 to [`MOST_DELAY_MS`], as a sentence.
    pub fn new(ms: f64) -> Result<Self, String> {
        if !(0.0..=f64::from(MOST_DELAY_MS)).contains(&ms) {
            return Err(format!("{ms} ms is not in 0 to {MOST_DELAY_MS} ms"));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 6e10, see above")]
        Ok(Self { ns: (ms * 1e6).round() as u64 })
    }

    /// In ns.
    #[must_use]
    pub const fn ns(self) -> u64 {
        self.ns
    }

    /// Whether it is none.
    #[must_use]
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub const fn is_zero(&self) -> bool {
        self.ns == 0
    }
}

impl TryFrom<f64> for Millis {
    type Error = String;

    fn try_from(ms: f64) -> Result<Self, String> {
        Self::new(ms)
    }
}

impl From<Millis> for f64 {
    fn from(time: Millis) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "at most 6e10, far below 2^53")]
        let ns = time.ns as Self;
        ns / 1e6
    }
}

impl fmt::Debug for Millis {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ms", f64::from(*self))
    }
}

impl Impairment {
    /// Whether it asks for anything that `netem` does.
    #[must_use]
    pub fn needs_netem(&self) -> bool {
        self.loss.is_some()
            || self.delay.is_some()
            || self.reorder.is_some()
            || self.duplicate.is_some()
            || self.corrupt.is_some()
            || self.limit_packets.is_some()
            || self.rate.is_some_and(|rate| rate.burst_bytes.is_none())
    }

    /// Whether it asks for a rate with bursts, which `tbf` does.
    #[must_use]
    pub fn needs_tbf(&self) -> bool {
        self.rate.is_some_and(|rate| rate.burst_bytes.is_some())
    }

    /// The longest that a packet waits because of its delay, ns: tables end at four standard deviations
    /// (`NETEM_DIST_SCALE`), and deviations below the mean take nothing away from nothing.
    #[must_use]
    pub fn longest_delay_ns(&self) -> u64 {
        self.delay.map_or(0, |delay| delay.ms.ns() + 4 * delay.jitter_ms.ns())
    }

    /// Everything that does not fit together.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut say = |text: &str| problems.push(text.to_owned());
        if !self.needs_netem() && !self.needs_tbf() {
            say("asks for nothing: give loss, delay, duplicate, corrupt, rate or limit-packets");
        }
        if let Some(loss) = &self.loss {
            match (loss.percent.is_some(), loss.gilbert_elliott.is_some()) {
                (false, false) => say("loss needs `percent` or `gilbert-elliott`"),
                (true, true) => say("loss has `percent` and `gilbert-elliott`: keep one"),
                (false, true) if !loss.correlation_percent.is_zero() => {
                    say("loss by `gilbert-elliott` has no correlation: its states are the correlation");
                }
                _ => {}
            }
        }
        match &self.delay {
            Some(delay) if delay.jitter_ms.ns() > u64::from(MOST_JITTER_MS) * 1_000_000 => {
                problems.push(format!("jitter is over {MOST_JITTER_MS} ms, the most that the kernel takes"));
            }
            Some(delay) if delay.jitter_ms.is_zero() && delay.distribution != Distribution::Uniform => {
                say("delay has a distribution without a jitter");
            }
            _ => {}
        }
        problems.extend(self.reorder_problem());
        problems.extend(self.rate_problem());
        if self.limit_packets == Some(0) {
            problems.push("a limit of 0 packets lets nothing pass".to_owned());
        }
        if self.seed.is_some() && !self.needs_netem() {
            problems.push("a seed without anything to decide".to_owned());
        }
        problems
    }

    fn reorder_problem(&self) -> Option<String> {
        let reorder = self.reorder?;
        if self.delay.is_none_or(|delay| delay.ms.is_zero()) {
            return Some("reordering needs a delay that the others have".to_owned());
        }
        (reorder.gap == 0).then(|| "a gap of 0 packets: it is 1 or more".to_owned())
    }

    fn rate_problem(&self) -> Option<String> {
        /// The largest frame of a link with the largest MTU, with a VLAN tag: `tbf` drops what is over its burst.
        const LEAST_BURST: u32 = 1518;
        let rate = self.rate?;
        if rate.bits_per_second < LEAST_RATE {
            return Some(format!("a rate of {} bit/s: it is {LEAST_RATE} or more", rate.bits_per_second));
        }
        let burst = rate.burst_bytes.filter(|burst| *burst < LEAST_BURST)?;
        Some(format!("a burst of {burst} bytes lets no full frame pass: it is {LEAST_BURST} or more"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Impairment, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn everything_is_read_from_text_and_written_alike() {
        let text = r#"
            loss = { gilbert-elliott = { p-percent = 1, r-percent = 10.5, lost-in-bad-percent = 70 } }
            delay = { ms = 20, jitter-ms = 0.25, correlation-percent = 25, distribution = "paretonormal" }
            reorder = { percent = 25, gap = 5 }
            duplicate = { percent = 1 }
            corrupt = { percent = 0.1, correlation-percent = 3 }
            rate = { bits-per-second = 1000000, burst-bytes = 16000 }
            limit-packets = 100
            seed = 7
        "#;
        let read = read(text).unwrap();
        assert_eq!(read.problems(), [""; 0]);
        let delay = read.delay.unwrap();
        assert_eq!((delay.ms.ns(), delay.jitter_ms.ns()), (20_000_000, 250_000));
        assert_eq!(read.longest_delay_ns(), 21_000_000);
        let again: Impairment = toml::from_str(&toml::to_string(&read).unwrap()).unwrap();
        assert_eq!(again, read);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        for (text, problem) in [
            ("", "asks for nothing"),
            ("seed = 1", "asks for nothing"),
            ("loss = {}", "loss needs `percent` or"),
            ("loss = { percent = 1, gilbert-elliott = { p-percent = 1, r-percent = 1 } }", "keep one"),
            ("delay = { ms = 1, jitter-ms = 2148 }", "jitter is over 2147 ms"),
            ("delay = { ms = 1, distribution = \"normal\" }", "a distribution without a jitter"),
            ("reorder = { percent = 5 }", "reordering needs a delay"),
            ("delay = { ms = 1 }\nreorder = { gap = 0 }", "a gap of 0"),
            ("rate = { bits-per-second = 7 }", "a rate of 7 bit/s"),
            ("rate = { bits-per-second = 8000, burst-bytes = 1000 }", "lets no full frame pass"),
            ("limit-packets = 0", "lets nothing pass"),
        ] {
            let found = read(text).unwrap().problems();
            assert!(found.iter().any(|found| found.contains(problem)), "{text}: {found:?}");
        }
    }

    #[test]
    fn numbers_out_of_range_and_unknown_words_are_named() {
        for (text, problem) in [
            ("loss = { percent = 101 }", "101 % is not in 0 to 100 %"),
            ("loss = { percent = -1 }", "-1 % is not in"),
            ("loss = { percent = nan }", "NaN % is not in"),
            ("delay = { ms = 60001 }", "60001 ms is not in 0 to 60000 ms"),
            ("delay = { ms = 1, distribution = \"gauss\" }", "unknown variant `gauss`"),
            ("los = { percent = 1 }", "unknown field `los`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn probabilities_are_the_kernels() {
        let kernel = |percent| Percent::new(percent).unwrap().to_kernel();
        assert_eq!((kernel(0.0), kernel(100.0)), (0, u32::MAX));
        // Half of 2^32 - 1, rounded.
        assert_eq!(kernel(50.0), 0x8000_0000);
        assert_eq!(Percent::new(30.0).unwrap().rest(), Percent::new(70.0).unwrap());
    }
}
