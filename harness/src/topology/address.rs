//! Hardware addresses and interface addresses, as text in a scenario and as bytes in a request.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is not the address it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {expected}")]
pub struct AddressError {
    text: String,
    expected: &'static str,
}

/// An Ethernet hardware address, in transmission order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether an interface may carry it: neither a group address (I/G bit, IEEE 802-2014 section 8.2.2) nor zero.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError { text: text.to_owned(), expected: "a hardware address like 02:00:00:00:00:01" };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit()));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(wrong)?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// An address with the length of its network's prefix: `10.71.1.1/24`, `fd71:1::1/64`. Written without a length it is
/// the whole address (`/32`, `/128`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    /// The address, host bits included.
    pub address: IpAddr,
    /// Bits of the network part.
    pub length: u8,
}

impl Prefix {
    /// An address with a prefix length; a length beyond the address's size becomes that size.
    #[must_use]
    pub fn new(address: impl Into<IpAddr>, length: u8) -> Self {
        let address = address.into();
        Self { address, length: length.min(bits(address)) }
    }

    /// The single address, `/32` or `/128`.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: bits(address) }
    }

    /// The whole of IPv4, `0.0.0.0/0`.
    pub const ALL_V4: Self = Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 0 };
    /// The whole of IPv6, `::/0`.
    pub const ALL_V6: Self = Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), length: 0 };

    /// The network: the same prefix with all host bits zero.
    #[must_use]
    pub fn network(self) -> Self {
        let address = match self.address {
            IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & mask_v4(self.length)).into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & mask_v6(self.length)).into(),
        };
        Self { address, length: self.length }
    }

    /// Whether `address` is of this network.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && Self { address, length: self.length }.network().address == self.network().address
    }

    /// Whether a host can have this address: not the unspecified one, no group address, and in IPv4 neither the
    /// network's own address nor its broadcast address (RFC 1122 section 3.2.1.3; `/31` has neither, RFC 3021).
    #[must_use]
    pub fn is_host_address(self) -> bool {
        if self.address.is_unspecified() || self.address.is_multicast() {
            return false;
        }
        let IpAddr::V4(address) = self.address else { return true };
        let host = address.to_bits() & !mask_v4(self.length);
        !address.is_broadcast() && (self.length >= 31 || (host != 0 && host != !mask_v4(self.length)))
    }
}

const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask_v4(length: u8) -> u32 {
    u32::MAX.checked_shl(32_u32.saturating_sub(length.into())).unwrap_or(0)
}

fn mask_v6(length: u8) -> u128 {
    u128::MAX.checked_shl(128_u32.saturating_sub(length.into())).unwrap_or(0)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Prefix {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError {
            text: text.to_owned(),
            expected: "an address with a prefix length like 10.0.0.1/24 or fd00::1/64",
        };
        let Some((address, length)) = text.split_once('/') else {
            return text.parse().map(Self::host).map_err(|_| wrong());
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let length: u8 = length.parse().map_err(|_| wrong())?;
        if length > bits(address) { Err(wrong()) } else { Ok(Self { address, length }) }
    }
}

impl TryFrom<String> for Prefix {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn hardware_addresses_are_read_and_written() {
        let mac: Mac = "02:00:5e:0A:ff:01".parse().unwrap();
        assert_eq!(mac.0, [2, 0, 0x5e, 10, 255, 1]);
        assert_eq!(mac.to_string(), "02:00:5e:0a:ff:01");
        for wrong in
            ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "+2:00:00:00:00:01", "02-00-00-00-00-01"]
        {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
        assert!(!Mac([1, 0, 0x5e, 0, 0, 1]).is_unicast());
    }

    #[test]
    fn prefixes_contain_their_network_only() {
        assert!(prefix("10.71.1.1/24").contains("10.71.1.200".parse().unwrap()));
        assert!(!prefix("10.71.1.1/24").contains("10.71.2.1".parse().unwrap()));
        assert!(!prefix("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(prefix("::/0").contains("2001:db8::1".parse().unwrap()));
        assert_eq!(prefix("fd71:1::2/64").network(), prefix("fd71:1::/64"));
        assert_eq!(prefix("10.0.0.1"), prefix("10.0.0.1/32"));
        for wrong in ["10.0.0.1/33", "fd00::/129", "10.0.0/8", "10.0.0.1/", "/24", "10.0.0.1/24/3"] {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn network_and_broadcast_addresses_are_no_hosts() {
        for wrong in ["10.0.0.0/24", "10.0.0.255/24", "224.0.0.1/24", "ff02::1/64", "0.0.0.0/0", "::/64"] {
            assert!(!prefix(wrong).is_host_address(), "{wrong}");
        }
        for right in ["10.0.0.0/31", "10.0.0.255/32", "10.0.0.255/16", "fd00::/64"] {
            assert!(prefix(right).is_host_address(), "{right}");
        }
    }
}
