//! Where traffic comes from and where it goes: addresses, networks, and hosts by name.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SynthError;
use super::error::nearest;
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

pub(super) const fn bits(address: IpAddr) -> usize {
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

    pub(super) fn named(&self, name: &str) -> Result<&[Prefix], SynthError> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
