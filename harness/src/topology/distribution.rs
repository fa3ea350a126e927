//! Tables of delay distributions for `netem`, computed from the distributions' formulas.
//!
//! The kernel picks an entry at random and delays a packet by mean + jitter * entry / 8192 (net/sched/sch_netem.c,
//! `tabledist`, `NETEM_DIST_SCALE`). A table is thus a distribution's quantile function at equal steps, scaled to mean 0
//! and standard deviation 1, and ends at four standard deviations, where 16 bits do.

use super::impair::Distribution;

/// Entries of a table: a power of two, since the kernel takes a remainder. Four times as many are allowed
/// (`NETEM_DIST_MAX`), which netlink's 16-bit lengths would hold as well; these are as many as tc(8) has.
const ENTRIES: u32 = 4096;
/// `NETEM_DIST_SCALE`: an entry of this size is one standard deviation.
const SCALE: f64 = 8192.0;
/// Shape of the Pareto distribution: the smallest whole number with a finite variance.
const PARETO_SHAPE: f64 = 3.0;

/// The table of a distribution; none for the one that the kernel has by itself.
pub(super) fn table(distribution: Distribution) -> Option<Vec<i16>> {
    let normal = |quantiles: &mut Normal, part| quantiles.at(part);
    let mut quantiles = Normal::default();
    let deviation: Box<dyn FnMut(f64) -> f64> = match distribution {
        Distribution::Uniform => return None,
        Distribution::Normal => Box::new(move |part| normal(&mut quantiles, part)),
        Distribution::Pareto => Box::new(pareto),
        Distribution::ParetoNormal => {
            Box::new(move |part| 0.25f64.mul_add(normal(&mut quantiles, part), 0.75 * pareto(part)))
        }
    };
    let middle = |entry: u32| (f64::from(entry) + 0.5) / f64::from(ENTRIES);
    #[allow(clippy::cast_possible_truncation, reason = "such a conversion ends at the type's bounds, as is wanted")]
    Some((0..ENTRIES).map(middle).map(deviation).map(|deviation| (deviation * SCALE).round() as i16).collect())
}

/// Quantile of the Pareto distribution with scale 1, (1 - part)^(-1/a), less its mean a/(a-1) and over its standard
/// deviation, the root of a/((a-1)^2 (a-2)).
fn pareto(part: f64) -> f64 {
    const A: f64 = PARETO_SHAPE;
    let (mean, variance) = (A / (A - 1.0), A / ((A - 1.0).powi(2) * (A - 2.0)));
    ((1.0 - part).powf(-1.0 / A) - mean) / variance.sqrt()
}

/// Quantiles of the normal distribution, asked for in rising order.
struct Normal {
    last: f64,
}

impl Default for Normal {
    fn default() -> Self {
        Self { last: -3.5 }
    }
}

impl Normal {
    /// By Newton's method from the last quantile on: the distribution function is smooth, and its derivative known.
    fn at(&mut self, part: f64) -> f64 {
        let mut x = self.last;
        for _ in 0..50 {
            let step = (distribution_function(x) - part) / density(x);
            // Far out the density is small and steps are long.
            x -= step.clamp(-0.5, 0.5);
            if step.abs() < 1e-9 {
                break;
            }
        }
        self.last = x;
        x
    }
}

fn density(x: f64) -> f64 {
    (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

/// Of the normal distribution, by the series 1/2 + density(x) (x + x^3/3 + x^5/(3*5) + ...) (Abramowitz and Stegun,
/// Handbook of Mathematical Functions, 26.2.11).
fn distribution_function(x: f64) -> f64 {
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    while term.abs() > 1e-15 {
        odd += 2.0;
        term *= x * x / odd;
        sum += term;
    }
    density(x).mul_add(sum, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and standard deviation, in standard deviations.
    fn moments(table: &[i16]) -> (f64, f64) {
        let count = f64::from(ENTRIES);
        let values = || table.iter().map(|entry| f64::from(*entry) / SCALE);
        let mean = values().sum::<f64>() / count;
        (mean, (values().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt())
    }

    #[track_caller]
    fn near(found: f64, expected: f64, within: f64) {
        assert!((found - expected).abs() < within, "{found} is not within {within} of {expected}");
    }

    #[test]
    fn the_normal_table_is_that_of_the_books() {
        let table = table(Distribution::Normal).unwrap();
        let (mean, deviation) = moments(&table);
        near(mean, 0.0, 1e-4);
        near(deviation, 1.0, 2e-3);
        // 84.13 %, 97.72 % and 0.135 % of all are below 1, 2 and -3 standard deviations.
        for (part, expected) in [(0.8413, 1.0), (0.9772, 2.0), (0.001_35, -3.0)] {
            let entry = (part * f64::from(ENTRIES)) as usize;
            near(f64::from(table[entry]) / SCALE, expected, 0.05);
        }
        assert!(table.iter().zip(table.iter().rev()).all(|(low, high)| (low + high).abs() <= 1));
    }

    #[test]
    fn pareto_is_early_as_a_rule_and_very_late_at_times() {
        let table = table(Distribution::Pareto).unwrap();
        // The median of (1 - u)^(-1/3) is the cube root of 2.
        near(f64::from(table[2048]) / SCALE, (2f64.cbrt() - 1.5) / 0.75f64.sqrt(), 1e-3);
        near(f64::from(table[0]) / SCALE, -0.5 / 0.75f64.sqrt(), 1e-3);
        assert_eq!(table[4095], i16::MAX);
        // Of a variable cut at c, here 1.5 + 4 sqrt(0.75), the mean is 3/2 - 1/(2 c^2), and that of its square 3 - 2/c.
        let cut = 4.0f64.mul_add(0.75f64.sqrt(), 1.5);
        let cut_mean = 1.5 - 0.5 / cut.powi(2);
        let (mean, deviation) = moments(&table);
        near(mean, (cut_mean - 1.5) / 0.75f64.sqrt(), 1e-3);
        near(deviation, (3.0 - 2.0 / cut - cut_mean.powi(2)).sqrt() / 0.75f64.sqrt(), 1e-3);
    }

    #[test]
    fn every_table_rises() {
        assert_eq!(table(Distribution::Uniform), None);
        for distribution in [Distribution::Normal, Distribution::Pareto, Distribution::ParetoNormal] {
            let table = table(distribution).unwrap();
            assert_eq!(table.len(), 4096);
            assert!(table.is_sorted(), "{distribution:?}");
        }
    }
}
