//! What a user may choose about a capture: which packets, and what becomes of the unusual ones.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::CaptureError;

/// What becomes of frames over the MTU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Oversize {
    /// None of them reaches the run.
    Refuse,
    /// TCP is cut into segments as a network card would; everything else is refused.
    #[default]
    Segment,
}

/// What becomes of frames of which the capture holds only the beginning (snaplen).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Truncated {
    /// They are offered as captured, shorter than they were.
    #[default]
    Keep,
    /// They never reach the run.
    Refuse,
    /// They are filled with zeros to their original length, and their checksums are made right.
    Pad,
}

/// What becomes of wrong checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Checksums {
    /// They stay as captured.
    #[default]
    Keep,
    /// IPv4, TCP and UDP checksums are made right, and an IPv4 total length of 0 with them.
    Repair,
}

/// Which end of the wire a frame enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The client's end.
    Client,
    /// The server's end.
    Server,
}

impl Side {
    /// The other end.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// A network in CIDR notation. A bare address is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    address: IpAddr,
    prefix: u8,
}

impl Net {
    /// Whether `address` is of this network. IPv4 addresses are never in an IPv6 network, nor the reverse.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (net, address, bits) = match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(address)) => (u128::from(net.to_bits()), u128::from(address.to_bits()), 32),
            (IpAddr::V6(net), IpAddr::V6(address)) => (net.to_bits(), address.to_bits(), 128),
            _ => return false,
        };
        let host_bits = bits - u32::from(self.prefix);
        (net ^ address).checked_shr(host_bits).unwrap_or(0) == 0
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| format!("`{text}` is not an IP network (10.0.0.0/8)"))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(prefix) => prefix
                .parse()
                .ok()
                .filter(|prefix| *prefix <= bits)
                .ok_or_else(|| format!("`{text}` has no prefix length between 0 and {bits}"))?,
        };
        Ok(Self { address, prefix })
    }
}

/// How the side of each frame is found.
///
/// Written as `auto`, `endpoint`, `mac` or `client-nets=10.0.0.0/8,2001:db8::/32`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SidesPolicy {
    /// By endpoint, unless that leaves frames between two endpoints of the same side and MAC addresses do not.
    #[default]
    Auto,
    /// By MAC address: the one that sends first is the client's, and partners are on opposite sides.
    Mac,
    /// By IP address: who starts a conversation is the client, and partners are on opposite sides.
    Endpoint,
    /// Addresses in these networks are clients, all others servers.
    ClientNets(Vec<Net>),
}

impl fmt::Display for SidesPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Mac => f.write_str("mac"),
            Self::Endpoint => f.write_str("endpoint"),
            Self::ClientNets(nets) => {
                f.write_str("client-nets=")?;
                for (position, net) in nets.iter().enumerate() {
                    write!(f, "{}{net}", if position == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

impl FromStr for SidesPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "mac" => Ok(Self::Mac),
            "endpoint" => Ok(Self::Endpoint),
            _ => {
                let nets = text.strip_prefix("client-nets=").ok_or_else(|| {
                    format!("`{text}` is not one of auto, endpoint, mac, client-nets=NETWORK[,NETWORK...]")
                })?;
                nets.split(',').map(|net| net.trim().parse()).collect::<Result<_, _>>().map(Self::ClientNets)
            }
        }
    }
}

impl TryFrom<String> for SidesPolicy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<SidesPolicy> for String {
    fn from(policy: SidesPolicy) -> Self {
        policy.to_string()
    }
}

/// Which packets of a capture are offered, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// pcap filter expression; packets that do not match are left out.
    pub filter: Option<String>,
    /// At most this many packets of the capture, after the filter.
    pub limit: Option<u64>,
    /// Largest IP packet of the wire, bytes. A frame may have 14 more, and 4 more per VLAN tag.
    pub mtu: u32,
    /// See [`Oversize`].
    pub oversize: Oversize,
    /// See [`Truncated`].
    pub truncated: Truncated,
    /// See [`Checksums`].
    pub checksums: Checksums,
    /// See [`SidesPolicy`].
    pub sides: SidesPolicy,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            filter: None,
            limit: None,
            mtu: 1500,
            oversize: Oversize::default(),
            truncated: Truncated::default(),
            checksums: Checksums::default(),
            sides: SidesPolicy::default(),
        }
    }
}

impl Options {
    pub(super) fn validate(&self) -> Result<(), CaptureError> {
        match self.mtu {
            68..=65535 => Ok(()),
            mtu => Err(CaptureError::Mtu { mtu }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_its_own_addresses_only() {
        let net: Net = "10.1.0.0/16".parse().unwrap();
        assert!(net.contains("10.1.255.255".parse().unwrap()));
        assert!(!net.contains("10.2.0.0".parse().unwrap()));
        assert!(!net.contains("::ffff:10.1.0.1".parse().unwrap()), "families do not mix");
        assert!("0.0.0.0/0".parse::<Net>().unwrap().contains("8.8.8.8".parse().unwrap()));
        assert!("::/0".parse::<Net>().unwrap().contains("2001:db8::1".parse().unwrap()));
        assert!("192.0.2.1".parse::<Net>().unwrap().contains("192.0.2.1".parse().unwrap()));
        for bad in ["10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "x"] {
            assert!(bad.parse::<Net>().is_err(), "{bad}");
        }
    }

    #[test]
    fn policies_read_back_as_written() {
        for text in ["auto", "mac", "endpoint", "client-nets=10.0.0.0/8,2001:db8::/32"] {
            assert_eq!(text.parse::<SidesPolicy>().unwrap().to_string(), text);
        }
        assert!("client-nets=".parse::<SidesPolicy>().is_err());
        assert!("left".parse::<SidesPolicy>().unwrap_err().contains("client-nets=NETWORK"));
    }

    #[test]
    fn unknown_keys_are_refused() {
        let options: Options = toml::from_str("oversize = \"refuse\"\nmtu = 9000\nsides = \"mac\"").unwrap();
        assert_eq!(
            options,
            Options { oversize: Oversize::Refuse, mtu: 9000, sides: SidesPolicy::Mac, ..Options::default() }
        );
        assert!(toml::from_str::<Options>("oversized = \"refuse\"").is_err());
        assert!(Options { mtu: 67, ..Options::default() }.validate().is_err());
    }
}
