//! `--impair`: impairment in one line.

use std::str::FromStr;

use crate::topology::Impairment;
use crate::topology::impair::{Chance, Delay, Distribution, GilbertElliott, Loss, Millis, Percent, Rate, Reorder};

/// `HOST[.INTERFACE]:loss=1%,delay=20ms,...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImpairArg {
    /// The end of a link whose outgoing packets are impaired.
    pub place: String,
    /// How.
    pub impairment: Impairment,
}

/// What may be written, for messages and help.
pub const HELP: &str = "Impair what leaves an interface of the topology: `dut.eth1:loss=1%,delay=20ms`; of several \
    interfaces by several options. Words: loss, loss-correlation, gilbert-elliott=P%/R%[/BAD%[/GOOD%]], delay, jitter, \
    delay-correlation, distribution (uniform, normal, pareto, paretonormal), reorder, reorder-gap, reorder-correlation, \
    duplicate, duplicate-correlation, corrupt, corrupt-correlation, rate (10mbit), burst (bytes), limit (packets), seed";

impl FromStr for ImpairArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (place, words) = text
            .split_once(':')
            .filter(|(place, words)| !place.is_empty() && !words.is_empty())
            .ok_or("it is written HOST[.INTERFACE]:WHAT=HOW,... as in dut.eth1:loss=1%,delay=20ms")?;
        let mut parts = Parts::default();
        for word in words.split(',') {
            let (key, value) = word.split_once('=').ok_or_else(|| format!("`{word}` is not written WHAT=HOW"))?;
            parts.set(key.trim(), value.trim()).map_err(|problem| format!("{key}={value}: {problem}"))?;
        }
        let impairment = parts.join()?;
        match impairment.problems().as_slice() {
            [] => Ok(Self { place: place.to_owned(), impairment }),
            problems => Err(problems.join("; ")),
        }
    }
}

/// The words as they come; what belongs together may stand apart.
#[derive(Default)]
struct Parts {
    loss: Option<Loss>,
    loss_correlation: Percent,
    delay: Option<Delay>,
    jitter: Option<Millis>,
    delay_correlation: Percent,
    distribution: Option<Distribution>,
    reorder: Option<Percent>,
    reorder_gap: Option<u32>,
    reorder_correlation: Percent,
    duplicate: Option<Percent>,
    duplicate_correlation: Percent,
    corrupt: Option<Percent>,
    corrupt_correlation: Percent,
    rate: Option<u64>,
    burst: Option<u32>,
    limit: Option<u32>,
    seed: Option<u64>,
}

impl Parts {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "loss" => self.loss = Some(Loss { percent: Some(percent(value)?), ..Loss::default() }),
            "loss-correlation" => self.loss_correlation = percent(value)?,
            "gilbert-elliott" => {
                self.loss = Some(Loss { gilbert_elliott: Some(gilbert_elliott(value)?), ..Loss::default() });
            }
            "delay" => self.delay = Some(Delay { ms: time(value)?, ..Delay::default() }),
            "jitter" => self.jitter = Some(time(value)?),
            "delay-correlation" => self.delay_correlation = percent(value)?,
            "distribution" => self.distribution = Some(distribution(value)?),
            "reorder" => self.reorder = Some(percent(value)?),
            "reorder-gap" => self.reorder_gap = Some(number(value)?),
            "reorder-correlation" => self.reorder_correlation = percent(value)?,
            "duplicate" => self.duplicate = Some(percent(value)?),
            "duplicate-correlation" => self.duplicate_correlation = percent(value)?,
            "corrupt" => self.corrupt = Some(percent(value)?),
            "corrupt-correlation" => self.corrupt_correlation = percent(value)?,
            "rate" => self.rate = Some(rate(value)?),
            "burst" => self.burst = Some(number(value)?),
            "limit" => self.limit = Some(number(value)?),
            "seed" => self.seed = Some(number(value)?),
            _ => {
                return Err("no such word; there are loss, delay, jitter, distribution, reorder, duplicate, corrupt, \
                             rate, burst, limit, seed and more, see `bpflab replay --help`"
                    .to_owned());
            }
        }
        Ok(())
    }

    fn join(self) -> Result<Impairment, String> {
        let orphan = |orphan: bool, word: &str, of: &str| {
            if orphan { Err(format!("{word} without {of}")) } else { Ok(()) }
        };
        orphan(self.loss.is_none() && !self.loss_correlation.is_zero(), "loss-correlation", "loss")?;
        let alone = self.jitter.is_some() || self.distribution.is_some() || !self.delay_correlation.is_zero();
        orphan(self.delay.is_none() && alone, "jitter, delay-correlation or distribution", "delay")?;
        orphan(self.burst.is_some() && self.rate.is_none(), "burst", "rate")?;
        let reorders = self.reorder.is_some() || self.reorder_gap.is_some();
        orphan(!reorders && !self.reorder_correlation.is_zero(), "reorder-correlation", "reorder")?;
        let all = Percent::new(100.0)?;
        Ok(Impairment {
            loss: self.loss.map(|loss| Loss { correlation_percent: self.loss_correlation, ..loss }),
            delay: self.delay.map(|delay| Delay {
                jitter_ms: self.jitter.unwrap_or_default(),
                correlation_percent: self.delay_correlation,
                distribution: self.distribution.unwrap_or_default(),
                ..delay
            }),
            reorder: reorders.then(|| Reorder {
                percent: self.reorder.unwrap_or(all),
                gap: self.reorder_gap.unwrap_or(1),
                correlation_percent: self.reorder_correlation,
            }),
            duplicate: self
                .duplicate
                .map(|percent| Chance { percent, correlation_percent: self.duplicate_correlation }),
            corrupt: self.corrupt.map(|percent| Chance { percent, correlation_percent: self.corrupt_correlation }),
            rate: self.rate.map(|bits_per_second| Rate { bits_per_second, burst_bytes: self.burst }),
            limit_packets: self.limit,
            seed: self.seed,
        })
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "it is a whole number".to_owned())
}

/// `1%`, `1`.
fn percent(text: &str) -> Result<Percent, String> {
    let number: f64 = text.trim_end_matches('%').parse().map_err(|_| "it is a part such as 1%".to_owned())?;
    Percent::new(number)
}

/// `20ms`, `1.5s`, `300us`.
fn time(text: &str) -> Result<Millis, String> {
    let units = [("us", 1e-3), ("ms", 1.0), ("s", 1e3)];
    let (number, scale) = units
        .iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))
        .ok_or("it is a time such as 20ms, 1.5s or 300us")?;
    let number: f64 = number.parse().map_err(|_| "it is a time such as 20ms, 1.5s or 300us".to_owned())?;
    Millis::new(number * scale)
}

/// `10mbit`; of bits a second.
fn rate(text: &str) -> Result<u64, String> {
    let units = [("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000), ("bit", 1)];
    let wrong = || "it is a rate such as 512kbit, 10mbit or 1gbit".to_owned();
    let (number, scale) =
        units.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale))).ok_or_else(wrong)?;
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale)).ok_or_else(wrong)
}

fn distribution(text: &str) -> Result<Distribution, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

/// `P%/R%`, `P%/R%/BAD%`, `P%/R%/BAD%/GOOD%`.
fn gilbert_elliott(text: &str) -> Result<GilbertElliott, String> {
    let parts = text.split('/').map(percent).collect::<Result<Vec<_>, _>>()?;
    let (all, none) = (Percent::new(100.0)?, Percent::default());
    let (p_percent, r_percent, bad, good) = match parts.as_slice() {
        [p, r] => (*p, *r, all, none),
        [p, r, bad] => (*p, *r, *bad, none),
        [p, r, bad, good] => (*p, *r, *bad, *good),
        _ => return Err("it is written P%/R%[/LOST-IN-BAD%[/LOST-IN-GOOD%]]".to_owned()),
    };
    Ok(GilbertElliott { p_percent, r_percent, lost_in_bad_percent: bad, lost_in_good_percent: good })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_what_a_scenario_would_say() {
        let read: ImpairArg =
            "dut.eth1:gilbert-elliott=1%/10%/75%,delay=20ms,jitter=500us,distribution=normal,reorder=5%,rate=10mbit,burst=16000,seed=7"
                .parse()
                .unwrap();
        let expected: Impairment = toml::from_str(
            r#"
            loss = { gilbert-elliott = { p-percent = 1, r-percent = 10, lost-in-bad-percent = 75 } }
            delay = { ms = 20, jitter-ms = 0.5, distribution = "normal" }
            reorder = { percent = 5 }
            rate = { bits-per-second = 10000000, burst-bytes = 16000 }
            seed = 7
            "#,
        )
        .unwrap();
        assert_eq!(read, ImpairArg { place: "dut.eth1".to_owned(), impairment: expected });
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, problem) in [
            ("loss=1%", "it is written HOST[.INTERFACE]:"),
            ("dut:", "it is written HOST[.INTERFACE]:"),
            ("dut:loss", "`loss` is not written WHAT=HOW"),
            ("dut:los=1%", "los=1%: no such word"),
            ("dut:loss=x%", "loss=x%: it is a part such as 1%"),
            ("dut:loss=120%", "120 % is not in 0 to 100 %"),
            ("dut:delay=20", "it is a time such as"),
            ("dut:delay=61s", "61000 ms is not in"),
            ("dut:rate=1MB", "it is a rate such as"),
            ("dut:rate=99999999999gbit", "it is a rate such as"),
            ("dut:jitter=1ms,loss=1%", "without delay"),
            ("dut:burst=2000,loss=1%", "burst without rate"),
            ("dut:reorder=5%", "reordering needs a delay"),
            ("dut:delay=1ms,jitter=1ms,distribution=gauss", "unknown variant `gauss`"),
            ("dut:gilbert-elliott=1%", "it is written P%/R%"),
        ] {
            let error = text.parse::<ImpairArg>().unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
