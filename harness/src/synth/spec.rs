//! A declaration of traffic, as in a scenario or on the command line, and the stream that it means.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::catalogue::{self, Entry, Ip};
use super::param::{Params, Value};
use super::place::{Hosts, Place};
use super::pool::Pool;
use super::rng::Rng;
use super::shape::{Extent, Schedule, Shape};
use super::stream::{Parts, Synth, Versions};
use super::{START_NS, SynthError};
use crate::topology::Mac;

/// Versions of IP: `4`, `6` or `"both"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(try_from = "IpText")]
pub enum IpVersions {
    /// IPv4.
    #[default]
    #[serde(rename = "4")]
    #[cfg_attr(feature = "cli", value(name = "4"))]
    V4,
    /// IPv6.
    #[serde(rename = "6")]
    #[cfg_attr(feature = "cli", value(name = "6"))]
    V6,
    /// Both in turn, unit by unit.
    #[serde(rename = "both")]
    #[cfg_attr(feature = "cli", value(name = "both"))]
    Both,
}

/// A version of IP as it may be written: a number, or a text.
#[derive(Deserialize)]
#[serde(untagged, expecting = "`ip` is 4, 6 or \"both\"")]
enum IpText {
    Number(u64),
    Text(String),
}

impl TryFrom<IpText> for IpVersions {
    type Error = String;

    fn try_from(text: IpText) -> Result<Self, String> {
        let text = match text {
            IpText::Number(number) => number.to_string(),
            IpText::Text(text) => text,
        };
        match text.as_str() {
            "4" => Ok(Self::V4),
            "6" => Ok(Self::V6),
            "both" => Ok(Self::Both),
            _ => Err(format!("`ip` is 4, 6 or \"both\", not `{text}`")),
        }
    }
}

/// Checksums of what is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Checksums {
    /// Right, but in entries that are about wrong ones.
    #[default]
    Valid,
    /// That of TCP, UDP or ICMP is wrong; that of IPv4 where a packet has no other.
    Wrong,
}

/// MAC addresses of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Macs {
    /// Of all that is on the client's side.
    pub client: Mac,
    /// Of all that is on the server's side.
    pub server: Mac,
}

impl Default for Macs {
    fn default() -> Self {
        Self { client: Mac([2, 0, 0, 0, 0, 1]), server: Mac([2, 0, 0, 0, 0, 2]) }
    }
}

/// Traffic of one entry of the catalogue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The entry.
    pub name: String,
    /// The same seed gives the same bytes, everywhere.
    #[serde(default, skip_serializing_if = "is_default")]
    pub seed: u64,
    /// Version of IP; IPv4 if left out, or the only one that the entry has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpVersions>,
    /// Parameters of the entry that are not at their defaults.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, Value>,
    /// Units a second: packets of a flood, connections of a brute force, as the entry says. The entry's own if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// How the beginnings of units are spread.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shape: Shape,
    /// How many units; the entry's own if this and `duration_s` are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// For how long units begin, s; what has begun is not cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_s: Option<f64>,
    /// When the first unit begins, s after the beginning of the traffic.
    #[serde(default, skip_serializing_if = "is_default")]
    pub start_s: f64,
    /// Where units come from: addresses, networks to take (spoof) addresses from, hosts. Chosen at random per unit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Place>,
    /// Where units go to: addresses, networks, hosts. One after the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Place>,
    /// Whether checksums are right.
    #[serde(default, skip_serializing_if = "is_default")]
    pub checksums: Checksums,
    /// MAC addresses of the two ends.
    #[serde(default, skip_serializing_if = "is_default")]
    pub macs: Macs,
    /// Of a conversation only the frames of the end that starts it: for a live other end.
    #[serde(default, skip_serializing_if = "is_default")]
    pub one_sided: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Networks that sources are taken from where an entry spoofs them and none are named: RFC 2544 appendix C.2.2, RFC 3849.
const SPOOFED: [&str; 2] = ["198.18.0.0/15", "2001:db8::/32"];

/// What an entry's generator is made of.
pub(super) struct Context<'a> {
    pub(super) entry: &'static str,
    pub(super) params: Params,
    /// Of the client's side and the server's.
    pub(super) macs: [[u8; 6]; 2],
    /// By version of IP.
    pub(super) sources: [Pool; 2],
    pub(super) targets: [Pool; 2],
    pub(super) hosts: &'a Hosts,
    /// Mean time between beginnings, ns.
    pub(super) interval_ns: u64,
    pub(super) one_sided: bool,
}

impl Spec {
    /// The entry at its defaults.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            seed: 0,
            ip: None,
            params: BTreeMap::new(),
            rate: None,
            shape: Shape::default(),
            count: None,
            duration_s: None,
            start_s: 0.0,
            sources: Vec::new(),
            targets: Vec::new(),
            checksums: Checksums::default(),
            macs: Macs::default(),
            one_sided: false,
        }
    }

    /// Its entry of the catalogue.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn entry(&self) -> Result<&'static Entry, SynthError> {
        catalogue::find(&self.name)
    }

    /// The stream, between the default hosts.
    ///
    /// # Errors
    /// Whatever is wrong with the declaration.
    pub fn frames(&self) -> Result<Synth, SynthError> {
        self.frames_among(&Hosts::default())
    }

    /// The stream between `hosts`. Times begin at [`START_NS`].
    ///
    /// # Errors
    /// Whatever is wrong with the declaration.
    pub fn frames_among(&self, hosts: &Hosts) -> Result<Synth, SynthError> {
        let entry = self.entry()?;
        let versions = self.versions(entry)?;
        let params = Params::read(entry.name, entry.parameters, &self.params)?;
        if matches!(self.shape, Shape::Ramp { .. }) && self.rate.is_some() {
            let problem = "a ramp has rates of its own: leave `rate` out".to_owned();
            return Err(SynthError::Declaration { problem });
        }
        if !(self.start_s.is_finite() && (0.0..1e9).contains(&self.start_s)) {
            let problem = format!("`start_s` of {} is out of range: 0 to 10^9 s", self.start_s);
            return Err(SynthError::Declaration { problem });
        }
        let extent = match (self.count, self.duration_s) {
            (Some(_), Some(_)) => {
                let problem = "`count` and `duration_s` exclude each other: name one of them".to_owned();
                return Err(SynthError::Declaration { problem });
            }
            (None, Some(seconds)) => Extent::Duration(seconds),
            (Some(count), None) => Extent::Count(count),
            (None, None) => Extent::Count((entry.count)(&params)),
        };
        let rate = self.rate.unwrap_or(entry.rate);
        let schedule = Schedule::new(self.shape, rate, extent, Rng::new(self.seed, u64::MAX))?;
        let macs = self.macs()?;
        let interval_ns = schedule.interval_ns();
        let (sources, targets) = (self.sources(entry, hosts, versions)?, self.targets(hosts, versions)?);
        let one_sided = self.one_sided;
        let context = Context { entry: entry.name, params, macs, sources, targets, hosts, interval_ns, one_sided };
        let generator = (entry.make)(&context)?;
        let base_ns = START_NS + self.start_ns();
        let spoil = self.checksums == Checksums::Wrong;
        Ok(Synth::new(Parts { generator, schedule, versions, seed: self.seed, base_ns, spoil }))
    }

    /// `start_s` in ns.
    pub(super) fn start_ns(&self) -> u64 {
        (self.start_s * 1e9) as u64
    }

    fn versions(&self, entry: &Entry) -> Result<Versions, SynthError> {
        let only = |has, why: &str| SynthError::Version { entry: entry.name.to_owned(), has, why: why.to_owned() };
        match (entry.ip, self.ip) {
            (Ip::Only4(why), Some(IpVersions::V6 | IpVersions::Both)) => Err(only(4, why)),
            (Ip::Only6(why), Some(IpVersions::V4 | IpVersions::Both)) => Err(only(6, why)),
            (Ip::Only6(_), _) | (Ip::Any, Some(IpVersions::V6)) => Ok(Versions::V6),
            (Ip::Any, Some(IpVersions::Both)) => Ok(Versions::Both),
            _ => Ok(Versions::V4),
        }
    }

    fn macs(&self) -> Result<[[u8; 6]; 2], SynthError> {
        let Macs { client, server } = self.macs;
        let problem = match () {
            () if !client.is_unicast() => format!("the client's MAC address {client} is no host's"),
            () if !server.is_unicast() => format!("the server's MAC address {server} is no host's"),
            () if client == server => format!("client and server have the same MAC address {client}"),
            () => return Ok([client.0, server.0]),
        };
        Err(SynthError::Declaration { problem })
    }

    fn sources(&self, entry: &Entry, hosts: &Hosts, versions: Versions) -> Result<[Pool; 2], SynthError> {
        let default = if entry.spoofs {
            SPOOFED.iter().map(|net| net.parse()).collect::<Result<_, _>>()?
        } else {
            vec![Place::Host(hosts.client.clone())]
        };
        pools(if self.sources.is_empty() { &default } else { &self.sources }, hosts, versions)
    }

    fn targets(&self, hosts: &Hosts, versions: Versions) -> Result<[Pool; 2], SynthError> {
        let default = [Place::Host(hosts.server.clone())];
        for target in &self.targets {
            hosts.check_target(target)?;
        }
        pools(if self.targets.is_empty() { &default } else { &self.targets }, hosts, versions)
    }
}

/// The addresses of `places` by version, some of each version that is needed.
fn pools(places: &[Place], hosts: &Hosts, versions: Versions) -> Result<[Pool; 2], SynthError> {
    let mut pools = [Pool::default(), Pool::default()];
    for (v6, version) in [(false, Versions::V4), (true, Versions::V6)] {
        if versions != version && versions != Versions::Both {
            continue;
        }
        let pool = Pool::of(places, hosts, v6)?;
        if pool.is_empty() {
            let place = places.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let problem = format!("has no address of IPv{}", if v6 { 6 } else { 4 });
            return Err(SynthError::Place { place, problem });
        }
        pools[usize::from(v6)] = pool;
    }
    Ok(pools)
}

impl Context<'_> {
    /// Two parameters that exclude each other.
    pub(super) fn contradiction(&self, problem: impl Into<String>) -> SynthError {
        SynthError::Contradiction { entry: self.entry.to_owned(), problem: problem.into() }
    }

    /// Versions of IP that are made.
    pub(super) fn versions(&self) -> impl Iterator<Item = bool> + use<> {
        let has = [&self.targets[0], &self.targets[1]].map(|pool| !pool.is_empty());
        [false, true].into_iter().filter(move |v6| has[usize::from(*v6)])
    }

    /// The targets of that version, or where that is one address the hosts of its network: 254 of IPv4 and as many as
    /// needed of IPv6. Without the first source.
    pub(super) fn neighbourhood(&self, v6: bool) -> Pool {
        let version = usize::from(v6);
        self.targets[version].neighbours().without(self.sources[version].nth(0))
    }

    /// The first target of that version.
    pub(super) fn target(&self, v6: bool) -> super::pool::Address {
        self.targets[usize::from(v6)].nth(0)
    }

    /// An address parameter in the version of IP that is made; `otherwise` for `auto`.
    pub(super) fn address(&self, name: &str, v6: bool, otherwise: IpAddr) -> Result<super::pool::Address, SynthError> {
        match self.params.address(name) {
            None => Ok(otherwise.into()),
            Some(address) if address.is_ipv6() == v6 => Ok(address.into()),
            Some(address) => Err(self.contradiction(format!("`{name}` {address} is of the other version of IP"))),
        }
    }
}
