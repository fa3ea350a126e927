//! The list of what can be made.

use serde::Serialize;

use super::SynthError;
use super::entry;
use super::error::nearest;
use super::param::{Parameter, Params};
use super::spec::Context;
use super::stream::Generator;

/// Kinds of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Many packets that cost the target more than the sender.
    Flood,
    /// Looking for hosts and open ports.
    Scan,
    /// Guessing passwords.
    BruteForce,
    /// Holding connections open at little cost.
    SlowRate,
    /// Abuse of the domain name system.
    Dns,
    /// Below IP.
    Link,
    /// Packets that no sound stack sends.
    Malformed,
    /// Messages of and about IP.
    Icmp,
    /// What runs among hosts after a break-in.
    Hosts,
    /// Load without ill will.
    Load,
    /// Transactions of applications.
    Application,
}

impl Family {
    /// All of them, in the order of the list.
    pub const ALL: [Self; 11] = [
        Self::Flood,
        Self::Scan,
        Self::BruteForce,
        Self::SlowRate,
        Self::Dns,
        Self::Link,
        Self::Malformed,
        Self::Icmp,
        Self::Hosts,
        Self::Load,
        Self::Application,
    ];

    /// Its heading.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Flood => "floods",
            Self::Scan => "scans",
            Self::BruteForce => "brute force",
            Self::SlowRate => "slow attacks",
            Self::Dns => "DNS",
            Self::Link => "link layer",
            Self::Malformed => "malformed packets",
            Self::Icmp => "ICMP and TTL",
            Self::Hosts => "among hosts",
            Self::Load => "load",
            Self::Application => "applications",
        }
    }
}

/// The versions of IP that an entry has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ip {
    /// Both.
    Any,
    /// IPv4 alone: why, and what there is for IPv6.
    Only4(&'static str),
    /// IPv6 alone: why, and what there is for IPv4.
    Only6(&'static str),
}

/// An entry of the catalogue.
#[derive(Clone, Copy, Serialize)]
pub struct Entry {
    /// Its name, in lower case with dashes.
    pub name: &'static str,
    /// What kind of traffic it is.
    pub family: Family,
    /// What it imitates, in a line.
    pub what: &'static str,
    /// Where that is described: a tool with its option, an RFC, a vulnerability, a paper.
    pub source: &'static str,
    /// What is counted by rate and count: packets, connections, ...
    pub unit: &'static str,
    /// Versions of IP.
    pub ip: Ip,
    /// Whether sources are taken from a network of many if none are named.
    pub spoofs: bool,
    /// Whether both sides of a conversation are made.
    pub two_sided: bool,
    /// Units a second if nothing is said.
    pub rate: f64,
    /// Parameters.
    pub parameters: &'static [Parameter],
    /// Units if nothing is said.
    #[serde(skip)]
    pub(super) count: fn(&Params) -> u64,
    #[serde(skip)]
    pub(super) make: fn(&Context<'_>) -> Result<Box<dyn Generator>, SynthError>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Entry").field("name", &self.name).field("family", &self.family).finish_non_exhaustive()
    }
}

impl Entry {
    /// Units at defaults.
    ///
    /// # Errors
    /// None for an entry of the catalogue.
    pub fn default_count(&self) -> Result<u64, SynthError> {
        Ok((self.count)(&Params::read(self.name, self.parameters, &std::collections::BTreeMap::new())?))
    }
}

/// Every entry, by family.
pub fn catalogue() -> impl Iterator<Item = &'static Entry> {
    entry::ALL.iter().copied().flatten()
}

/// The entry of that name.
pub(super) fn find(name: &str) -> Result<&'static Entry, SynthError> {
    catalogue().find(|entry| entry.name == name).ok_or_else(|| SynthError::Name {
        name: name.to_owned(),
        nearest: nearest(name, catalogue().map(|entry| entry.name)),
    })
}
