//! Units of timestamps.

use std::fmt;

use serde::{Serialize, Serializer};

const NS_PER_S: u64 = 1_000_000_000;

/// The unit that timestamps count, as a fraction of a second (`if_tsresol` of pcapng).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Ten to the minus this.
    Decimal(u8),
    /// Two to the minus this.
    Binary(u8),
}

impl Resolution {
    /// From the option's octet: the highest bit chooses the base.
    pub(super) fn from_octet(octet: u8) -> Self {
        if octet & 0x80 == 0 { Self::Decimal(octet) } else { Self::Binary(octet & 0x7f) }
    }

    /// Nanoseconds since 1970 of a count of units and an offset in seconds, rounded down. The flag says that the time
    /// is out of range and was set to the nearest possible: 1970 or 2554.
    pub(super) fn to_ns(self, ticks: u64, offset_s: i64) -> (u64, bool) {
        let wide = u128::from(ticks);
        let ns = match self {
            Self::Decimal(digits @ 0..=9) => wide * 10_u128.pow(9 - u32::from(digits)),
            // 64 bits hold less than 10^20.
            Self::Decimal(digits) => wide / 10_u128.pow(u32::from(digits - 9).min(20)),
            // Below 2^94 before the shift.
            Self::Binary(bits) => (wide * u128::from(NS_PER_S)) >> bits,
        };
        let ns = ns.cast_signed() + i128::from(offset_s) * i128::from(NS_PER_S);
        match u64::try_from(ns) {
            Ok(ns) => (ns, false),
            Err(_) => (if ns < 0 { 0 } else { u64::MAX }, true),
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decimal(0) => f.write_str("seconds"),
            Self::Decimal(3) => f.write_str("milliseconds"),
            Self::Decimal(6) => f.write_str("microseconds"),
            Self::Decimal(9) => f.write_str("nanoseconds"),
            Self::Decimal(digits) => write!(f, "10^-{digits} s"),
            Self::Binary(bits) => write!(f, "2^-{bits} s"),
        }
    }
}

impl Serialize for Resolution {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resolution_becomes_nanoseconds() {
        assert_eq!(Resolution::Decimal(6).to_ns(1_500_000, 0), (1_500_000_000, false));
        assert_eq!(Resolution::Decimal(9).to_ns(7, 2), (2_000_000_007, false));
        assert_eq!(Resolution::Decimal(0).to_ns(3, -1), (2_000_000_000, false));
        assert_eq!(Resolution::Decimal(12).to_ns(1_999, 0), (1, false), "picoseconds are rounded down");
        assert_eq!(Resolution::Decimal(127).to_ns(u64::MAX, 0), (0, false));
        assert_eq!(Resolution::from_octet(0x8a).to_ns(1536, 0), (1_500_000_000, false), "1536 / 2^10 s");
        assert_eq!(Resolution::Binary(127).to_ns(u64::MAX, 0), (0, false));
    }

    #[test]
    fn times_out_of_range_are_set_to_the_nearest_and_flagged() {
        assert_eq!(Resolution::Decimal(0).to_ns(u64::MAX, i64::MAX), (u64::MAX, true));
        assert_eq!(Resolution::Decimal(6).to_ns(1, -5), (0, true), "before 1970");
        assert_eq!(Resolution::Binary(0).to_ns(u64::MAX, i64::MIN), (u64::MAX, true));
    }
}
