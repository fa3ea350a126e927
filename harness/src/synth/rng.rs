//! Random numbers that are the same on every machine and in every version of this crate.

/// `SplitMix64` (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014, figure 15): 64 bits of
/// state, a period of 2^64. Not for secrets.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

/// The odd number nearest to 2^64 divided by the golden ratio.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The mixing function: a bijection of 64-bit numbers.
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The numbers of `stream` under `seed`: each stream is a sequence of its own.
    pub(super) const fn new(seed: u64, stream: u64) -> Self {
        Self(mix(mix(seed.wrapping_add(GAMMA)) ^ stream.wrapping_mul(GAMMA)))
    }

    /// A generator for one purpose, which takes nothing from this one.
    pub(super) const fn fork(&self, purpose: u64) -> Self {
        Self(mix(self.0 ^ mix(purpose.wrapping_add(GAMMA))))
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// The upper 32 bits of a number.
    pub(super) const fn next_u32(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }

    /// The upper 16 bits of a number.
    pub(super) const fn next_u16(&mut self) -> u16 {
        (self.next() >> 48) as u16
    }

    /// A number below `end`, 0 if that is 0. By multiplication (Lemire: Fast Random Integer Generation in an Interval,
    /// 2019) without rejection: a number's share is off by less than `end` / 2^64.
    pub(super) const fn below(&mut self, end: u64) -> u64 {
        ((self.next() as u128 * end as u128) >> 64) as u64
    }

    /// A number from `first` to `last`.
    pub(super) const fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first).saturating_add(1))
    }

    /// A number in [0, 1), a multiple of 2^-53.
    pub(super) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// An exponentially distributed number with mean 1.
    pub(super) fn exponential(&mut self) -> f64 {
        -ln(1.0 - self.fraction())
    }

    /// Random bytes at the end of `out`.
    pub(super) fn bytes(&mut self, out: &mut Vec<u8>, count: usize) {
        let start = out.len();
        out.resize(start + count, 0);
        let mut eights = out[start..].chunks_exact_mut(8);
        for eight in &mut eights {
            eight.copy_from_slice(&self.next().to_le_bytes());
        }
        let rest = eights.into_remainder();
        if !rest.is_empty() {
            rest.copy_from_slice(&self.next().to_le_bytes()[..rest.len()]);
        }
    }

    /// Random characters of `alphabet`, of 1 to 256, at the end of `out`. Four of each number: a character's share is off
    /// by less than 1 in 256.
    pub(super) fn characters<const N: usize>(&mut self, out: &mut Vec<u8>, alphabet: &[u8; N], count: usize) {
        let start = out.len();
        out.resize(start + count, 0);
        let pick = |part: u64| alphabet[(((part & 0xffff) as usize) * N) >> 16];
        let mut fours = out[start..].chunks_exact_mut(4);
        for four in &mut fours {
            let number = self.next();
            four.copy_from_slice(&[pick(number), pick(number >> 16), pick(number >> 32), pick(number >> 48)]);
        }
        let rest = fours.into_remainder();
        if !rest.is_empty() {
            let number = self.next();
            for (at, byte) in rest.iter_mut().enumerate() {
                *byte = pick(number >> (16 * at));
            }
        }
    }
}

/// Natural logarithm of a positive normal number. The one of the standard library may differ in the last bit from machine
/// to machine; this one uses only operations that IEEE 754 rounds exactly.
fn ln(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i32 - 1023;
    let mut fraction = f64::from_bits(bits & MANTISSA | 1023 << 52);
    if fraction > std::f64::consts::SQRT_2 {
        fraction /= 2.0;
        exponent += 1;
    }
    // ln(m) = 2 artanh((m - 1) / (m + 1)). The argument is below 0.172, so the 12th term is below 10^-18.
    let z = (fraction - 1.0) / (fraction + 1.0);
    let series = (0..12).rev().fold(0.0, |sum, n| sum * (z * z) + 1.0 / f64::from(2 * n + 1));
    f64::from(exponent) * std::f64::consts::LN_2 + 2.0 * z * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_published_generator() {
        // First outputs of the reference implementation with state 0 (prng.di.unimi.it/splitmix64.c).
        let mut rng = Rng(0);
        assert_eq!([rng.next(), rng.next()], [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4]);
    }

    #[test]
    fn streams_and_forks_differ() {
        let first = |mut rng: Rng| rng.next();
        let all = [Rng::new(1, 0), Rng::new(1, 1), Rng::new(2, 0), Rng::new(1, 0).fork(0), Rng::new(1, 0).fork(1)];
        let mut numbers = all.map(first).to_vec();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 5);
    }

    #[test]
    fn the_logarithm_agrees_with_the_standard_library() {
        let mut rng = Rng::new(7, 7);
        for _ in 0..100_000 {
            let x = 1.0 - rng.fraction();
            assert!((ln(x) - x.ln()).abs() <= 1e-15 * x.ln().abs().max(1.0), "{x}");
        }
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn numbers_stay_within_their_bounds() {
        let mut rng = Rng::new(3, 3);
        let mut seen = [0_u32; 6];
        for _ in 0..6_000 {
            seen[rng.between(0, 5) as usize] += 1;
        }
        // Mean 1000, standard deviation 29.
        assert!(seen.iter().all(|count| (850..1150).contains(count)), "{seen:?}");
        assert_eq!((rng.below(0), rng.between(4, 4)), (0, 4));
        // Sum of 10 000 exponential numbers: mean 10 000, standard deviation 100.
        let sum: f64 = (0..10_000).map(|_| rng.exponential()).sum();
        assert!((9_600.0..10_400.0).contains(&sum), "{sum}");
    }
}
