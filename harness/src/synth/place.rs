//! Where traffic comes from and where it goes: addresses, networks, and hosts by name.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SynthError;
use super::error::nearest;
use super::rng::Rng;
use crate::topology::Prefix;

/// An end of traffic: an address, a network (`198.18.0.0/15`) out of which addresses are taken, or a host by its name in
/// the topology (`server`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Place {
    /// An address or network.
    Net(Prefix),
    /// A host.
    Host(String),
}

impl FromStr for Place {
    type Err = SynthError;

    fn from_str(text: &str) -> Result<Self, SynthError> {
        let is_name =
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        match text.parse() {
            Ok(prefix) => Ok(Self::Net(prefix)),
            Err(_) if is_name && !text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Self::Host(text.to_owned())),
            Err(_) => {
                let problem =
                    "is neither an address, nor a network such as 198.18.0.0/15, nor a host's name".to_owned();
                Err(SynthError::Place { place: text.to_owned(), problem })
            }
        }
    }
}

impl TryFrom<String> for Place {
    type Error = SynthError;

    fn try_from(text: String) -> Result<Self, SynthError> {
        text.parse()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(prefix) if usize::from(prefix.length) == bits(prefix.address) => prefix.address.fmt(out),
            Self::Net(prefix) => prefix.fmt(out),
            Self::Host(name) => out.write_str(name),
        }
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

const fn bits(address: IpAddr) -> usize {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The hosts that traffic may name, and the addresses that it goes between if nothing is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    /// Addresses with their networks, by host.
    pub addresses: BTreeMap<String, Vec<Prefix>>,
    /// The host that traffic comes from.
    pub client: String,
    /// The host that it goes to.
    pub server: String,
}

impl Default for Hosts {
    /// Client and server of the topology `bridge`: `10.71.0.1` and `10.71.0.2`, `fd71::1` and `fd71::2`.
    fn default() -> Self {
        let addresses = |last: u8| {
            let v6 = std::net::Ipv6Addr::new(0xfd71, 0, 0, 0, 0, 0, 0, last.into());
            vec![Prefix::new(IpAddr::from([10, 71, 0, last]), 24), Prefix::new(v6, 64)]
        };
        let [client, server] = ["client", "server"].map(str::to_owned);
        Self { addresses: [(client.clone(), addresses(1)), (server.clone(), addresses(2))].into(), client, server }
    }
}

impl Hosts {
    /// The address of that version which a host has first.
    pub(super) fn address(&self, host: &str, v6: bool) -> Option<IpAddr> {
        let all = self.addresses.get(host)?;
        all.iter().map(|prefix| prefix.address).find(|address| address.is_ipv6() == v6)
    }

    fn named(&self, name: &str) -> Result<&[Prefix], SynthError> {
        let found = self.addresses.get(name).filter(|addresses| !addresses.is_empty());
        found.map(Vec::as_slice).ok_or_else(|| SynthError::Place {
            place: name.to_owned(),
            problem: match (self.addresses.contains_key(name), nearest(name, self.addresses.keys().map(String::as_str)))
            {
                (true, _) => "has no IP address in the topology".to_owned(),
                (_, Some(nearest)) => format!("is no host of the topology; did you mean `{nearest}`?"),
                (_, None) => format!("is no host of the topology, which has {}", self.list()),
            },
        })
    }

    /// Checks that a target exists: as a host, as an address, or on a network that a host is connected to.
    pub(super) fn check_target(&self, place: &Place) -> Result<(), SynthError> {
        let Place::Net(target) = place else {
            return Ok(());
        };
        let connected = |prefix: &Prefix| prefix.contains(target.address) && target.length >= prefix.length;
        if self.addresses.values().flatten().any(connected) {
            return Ok(());
        }
        Err(SynthError::Place {
            place: place.to_string(),
            problem: format!("is no target in the topology, which has {}", self.list()),
        })
    }

    fn list(&self) -> String {
        let host = |(name, addresses): (&String, &Vec<Prefix>)| {
            let addresses: Vec<String> = addresses.iter().map(|prefix| prefix.address.to_string()).collect();
            format!("{name} ({})", if addresses.is_empty() { "no address".to_owned() } else { addresses.join(", ") })
        };
        self.addresses.iter().map(host).collect::<Vec<_>>().join(", ")
    }
}

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

    fn bits(self) -> u128 {
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
    fn places_read_back_as_written() {
        for text in ["10.0.0.1", "10.0.0.0/8", "server", "2001:db8::/32"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        for text in ["", "10.0.0", "10.0.0.0/33", "a b", "12"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    #[test]
    fn targets_that_do_not_exist_are_refused() {
        let hosts = Hosts::default();
        let check = |text: &str| hosts.check_target(&text.parse().unwrap()).map_err(|error| error.to_string());
        assert_eq!(check("10.71.0.77"), Ok(()));
        assert_eq!(check("10.71.0.0/24"), Ok(()));
        let error = check("203.0.113.9").unwrap_err();
        assert!(
            error.starts_with("`203.0.113.9` is no target in the topology, which has client (10.71.0.1"),
            "{error}"
        );
        assert!(check("10.71.0.0/16").is_err());
        let places = ["sever".parse().unwrap()];
        let error = Pool::of(&places, &hosts, false).unwrap_err().to_string();
        assert_eq!(error, "`sever` is no host of the topology; did you mean `server`?");
    }
}
