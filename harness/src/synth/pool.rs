//! Addresses to choose from.

use std::net::IpAddr;

use super::SynthError;
use super::place::{Hosts, Place, bits};
use super::rng::Rng;
use crate::topology::Prefix;

/// An address of either version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    bytes: [u8; 16],
    pub(super) v6: bool,
}

impl Address {
    pub(super) const NONE: Self = Self { bytes: [0; 16], v6: false };

    /// Network byte order: 4 or 16 bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        if self.v6 { &self.bytes } else { &self.bytes[..4] }
    }

    /// The address as a number.
    pub(super) fn bits(self) -> u128 {
        if self.v6 {
            u128::from_be_bytes(self.bytes)
        } else {
            u128::from(u32::from_be_bytes([self.bytes[0], self.bytes[1], self.bytes[2], self.bytes[3]]))
        }
    }

    fn from_bits(bits: u128, v6: bool) -> Self {
        if v6 {
            return Self { bytes: bits.to_be_bytes(), v6 };
        }
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&(bits as u32).to_be_bytes());
        Self { bytes, v6 }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::from_bits(address.to_bits().into(), false),
            IpAddr::V6(address) => Self::from_bits(address.to_bits(), true),
        }
    }
}

/// Addresses of one version to choose from.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool(Vec<Range>);

#[derive(Clone, Copy, Debug)]
struct Range {
    first: Address,
    /// Addresses from the first on, at most 2^63.
    count: u64,
}

impl Range {
    /// The hosts of a network: without the addresses that mean the network and all of its hosts (RFC 922), where it has
    /// more than two (RFC 3021). A network of IPv6 gives its first 2^32 addresses but that of the routers (RFC 4291
    /// section 2.6.1).
    fn of(prefix: Prefix) -> Self {
        let v6 = prefix.address.is_ipv6();
        let host_bits = bits(prefix.address) - usize::from(prefix.length).min(bits(prefix.address));
        let mask = u128::MAX.checked_shl(host_bits as u32).unwrap_or(0);
        let address = Address::from(prefix.address);
        if host_bits == 0 {
            return Self { first: address, count: 1 };
        }
        let all = 1_u64 << host_bits.min(32);
        let (skipped, count) = match (host_bits, v6) {
            (1, _) => (0, all),
            (_, true) => (1, all - 1),
            (_, false) => (1, all - 2),
        };
        Self { first: Address::from_bits((address.bits() & mask) + skipped, v6), count }
    }
}

impl Pool {
    /// The addresses of `places` that are of that version.
    pub(super) fn of(places: &[Place], hosts: &Hosts, v6: bool) -> Result<Self, SynthError> {
        let mut ranges = Vec::new();
        for place in places {
            match place {
                Place::Net(prefix) => ranges.push(Range::of(*prefix)),
                Place::Host(name) => {
                    let own = hosts.named(name)?.iter().find(|prefix| prefix.address.is_ipv6() == v6);
                    ranges.extend(own.map(|prefix| Range { first: prefix.address.into(), count: 1 }));
                }
            }
        }
        ranges.retain(|range| range.first.v6 == v6);
        Ok(Self(ranges))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many addresses there are; at most `u64::MAX`.
    pub(super) fn len(&self) -> u64 {
        self.0.iter().fold(0, |sum, range| sum.saturating_add(range.count))
    }

    /// The n-th address, beginning again after the last.
    pub(super) fn nth(&self, n: u64) -> Address {
        let mut rest = n % self.len().max(1);
        for range in &self.0 {
            if rest < range.count {
                return Address::from_bits(range.first.bits() + u128::from(rest), range.first.v6);
            }
            rest -= range.count;
        }
        Address::NONE
    }

    /// The hosts of the network of 24 or 64 bits around the first address.
    pub(super) fn widened(&self) -> Self {
        let host = |range: &Range| {
            let bits = range.first.bits();
            let address: IpAddr = if range.first.v6 {
                std::net::Ipv6Addr::from_bits(bits).into()
            } else {
                std::net::Ipv4Addr::from_bits(bits as u32).into()
            };
            Range::of(Prefix::new(address, if range.first.v6 { 64 } else { 24 }))
        };
        Self(self.0.first().map(host).into_iter().collect())
    }

    /// The pool itself, or where it is one address the hosts of its network.
    pub(super) fn neighbours(&self) -> Self {
        if self.len() == 1 { self.widened() } else { self.clone() }
    }

    /// Without one address.
    pub(super) fn without(&self, address: Address) -> Self {
        let mut ranges = Vec::new();
        for range in &self.0 {
            let (first, bits) = (range.first.bits(), address.bits());
            if range.first.v6 != address.v6 || bits < first || bits - first >= u128::from(range.count) {
                ranges.push(*range);
                continue;
            }
            let before = (bits - first) as u64;
            ranges.push(Range { first: range.first, count: before });
            let after = range.count - before - 1;
            ranges.push(Range { first: Address::from_bits(bits + 1, address.v6), count: after });
        }
        ranges.retain(|range| range.count > 0);
        Self(ranges)
    }

    /// Without the first `count` addresses of the first range.
    pub(super) fn skipping(mut self, count: u64) -> Self {
        if let Some(range) = self.0.first_mut() {
            let count = count.min(range.count);
            range.first = Address::from_bits(range.first.bits() + u128::from(count), range.first.v6);
            range.count -= count;
        }
        self
    }

    /// Whether some address is in both.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let ends = |range: &Range| (range.first.bits(), range.first.bits() + u128::from(range.count.saturating_sub(1)));
        self.0.iter().any(|one| {
            other.0.iter().any(|two| {
                let ((first, last), (from, to)) = (ends(one), ends(two));
                one.first.v6 == two.first.v6 && one.count > 0 && two.count > 0 && first <= to && from <= last
            })
        })
    }

    /// One of the addresses.
    pub(super) fn pick(&self, rng: &mut Rng) -> Address {
        match &self.0[..] {
            [range] if range.count == 1 => range.first,
            _ => self.nth(rng.below(self.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(places: &[&str], v6: bool) -> Vec<String> {
        let places: Vec<Place> = places.iter().map(|text| text.parse().unwrap()).collect();
        let pool = Pool::of(&places, &Hosts::default(), v6).unwrap();
        (0..pool.len().min(9)).map(|n| text(pool.nth(n))).collect()
    }

    fn text(address: Address) -> String {
        let bits = address.bits();
        if address.v6 {
            std::net::Ipv6Addr::from(bits).to_string()
        } else {
            std::net::Ipv4Addr::from(bits as u32).to_string()
        }
    }

    #[test]
    fn networks_give_their_hosts() {
        assert_eq!(pool(&["192.0.2.4/30", "192.0.2.9"], false), ["192.0.2.5", "192.0.2.6", "192.0.2.9"]);
        assert_eq!(pool(&["192.0.2.4/31"], false), ["192.0.2.4", "192.0.2.5"]);
        assert_eq!(pool(&["2001:db8::/126", "192.0.2.9"], true), ["2001:db8::1", "2001:db8::2", "2001:db8::3"]);
        assert_eq!(pool(&["server"], true), ["fd71::2"]);
        assert_eq!(pool(&["0.0.0.0/0", "::/0"], false)[0], "0.0.0.1");
    }

    #[test]
    fn an_address_is_left_out_of_any_place_in_a_pool() {
        let places = ["192.0.2.0/29".parse().unwrap()];
        let pool = Pool::of(&places, &Hosts::default(), false).unwrap();
        for (left_out, rest) in
            [("192.0.2.1", "2 3 4 5 6"), ("192.0.2.4", "1 2 3 5 6"), ("192.0.2.6", "1 2 3 4 5"), ("::1", "1 2 3 4 5 6")]
        {
            let pool = pool.without(left_out.parse::<IpAddr>().unwrap().into());
            let all: Vec<String> = (0..pool.len()).map(|n| text(pool.nth(n))[8..].to_owned()).collect();
            assert_eq!(all.join(" "), rest, "{left_out}");
        }
    }

    #[test]
    fn hosts_that_do_not_exist_are_refused() {
        let hosts = Hosts::default();
        let places = ["sever".parse().unwrap()];
        let error = Pool::of(&places, &hosts, false).unwrap_err().to_string();
        assert_eq!(error, "`sever` is no host of the topology; did you mean `server`?");
    }
}
