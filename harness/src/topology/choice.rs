//! The topology that a scenario or a command line asks for: a preset fitted to the capture, or one written out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{DEFAULT_MTU, EndSpec, Impairment, InvalidTopology, Problem, Topology, XDP_MAX_MTU, presets};

/// Bytes of two VLAN tags.
const TWO_TAGS: u32 = 8;

/// A preset by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// The device under test is a transparent bridge: every frame that enters one side leaves by the other.
    #[default]
    Bridge,
    /// It routes between two subnets, with routes to the captured addresses.
    Router,
    /// It is the end host that has the captured server's addresses.
    Host,
}

/// Which topology to build.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopologyChoice {
    /// One of the presets; `bridge` if nothing is said.
    pub preset: Option<Preset>,
    /// Hosts and links written out, with a client, a device under test and a server.
    pub custom: Option<Topology>,
    /// Impairment by `HOST.INTERFACE`, in place of what the topology has there; `HOST` stands for the end of its first
    /// link.
    #[serde(default)]
    pub impair: BTreeMap<String, Impairment>,
}

/// Why a topology could not be chosen.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// The argument is neither a preset nor a readable file.
    #[error("cannot read topology {}: not a preset (bridge, router, host), and no such file", path.display())]
    Read {
        /// The argument.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a topology.
    #[error("cannot understand topology {}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The cause, with line and column.
        #[source]
        source: Box<toml::de::Error>,
    },
}

impl TopologyChoice {
    /// What `--topology` names: a preset or a TOML file.
    ///
    /// # Errors
    /// A file that cannot be read or understood.
    pub fn from_argument(argument: &str) -> Result<Self, ChoiceError> {
        let presets = [("bridge", Preset::Bridge), ("router", Preset::Router), ("host", Preset::Host)];
        if let Some((_, preset)) = presets.into_iter().find(|(name, _)| *name == argument) {
            return Ok(Self { preset: Some(preset), ..Self::default() });
        }
        let path = Path::new(argument);
        let text =
            std::fs::read_to_string(path).map_err(|source| ChoiceError::Read { path: path.to_owned(), source })?;
        let custom = toml::from_str(&text)
            .map_err(|source| ChoiceError::Invalid { path: path.to_owned(), source: Box::new(source) })?;
        Ok(Self { custom: Some(custom), ..Self::default() })
    }

    /// The same choice, with a preset where it names nothing.
    #[must_use]
    pub fn or_preset(&self, preset: Preset) -> Self {
        let mut choice = self.clone();
        if choice.custom.is_none() {
            choice.preset.get_or_insert(preset);
        }
        choice
    }

    /// Checks what can be checked without the capture.
    ///
    /// # Errors
    /// Every problem of a topology written out, and of what is impaired.
    pub fn validate(&self) -> Result<(), InvalidTopology> {
        let topology = self.resolve(&[], &[], DEFAULT_MTU);
        let unknown: Vec<Problem> = (self.impair.keys())
            .filter(|place| end_of(&topology, place).is_none())
            .map(|place| Problem {
                place: format!("impair '{place}'"),
                problem: format!("there is no such end of a link; there are {}", ends(&topology).join(", ")),
            })
            .collect();
        if unknown.is_empty() { topology.validate() } else { Err(InvalidTopology { problems: unknown }) }
    }

    /// The topology for a capture whose conversations run between `clients` and `servers`. `mtu` is in bytes and holds
    /// for the presets; a topology written out has its own.
    #[must_use]
    pub fn resolve(&self, clients: &[IpAddr], servers: &[IpAddr], mtu: u32) -> Topology {
        let mut topology = match (&self.custom, self.preset.unwrap_or_default()) {
            (Some(custom), _) => custom.clone(),
            // A bridge is transparent to tags, which the MTU of an interface does not provide for.
            (None, Preset::Bridge) => presets::bridge().with_mtu((mtu + TWO_TAGS).min(XDP_MAX_MTU)),
            (None, Preset::Router) => presets::router_for(clients, servers).with_mtu(mtu),
            (None, Preset::Host) => presets::host(servers).with_mtu(mtu),
        };
        for (place, impairment) in &self.impair {
            // Validated: a name that is not there impairs nothing.
            let end = end_of(&topology, place).map(|end| (end.host.clone(), end.interface.clone()));
            if let Some(end) = end.and_then(|(host, interface)| topology.end_mut(&host, &interface)) {
                end.impair = Some(impairment.clone());
            }
        }
        topology
    }

    /// Features of the kernel without which the topology cannot be built, by name.
    #[must_use]
    pub fn features(&self) -> BTreeSet<&'static str> {
        self.resolve(&[], &[], DEFAULT_MTU).features()
    }
}

impl Topology {
    /// Features of the kernel without which it cannot be built, by name.
    #[must_use]
    pub fn features(&self) -> BTreeSet<&'static str> {
        let impaired = self.links.iter().flat_map(|link| &link.ends).filter_map(|end| end.impair.as_ref());
        impaired
            .flat_map(|impair| [("netem", impair.needs_netem()), ("tbf", impair.needs_tbf())])
            .filter_map(|(feature, needed)| needed.then_some(feature))
            .collect()
    }
}

/// What `HOST.INTERFACE` or `HOST` means.
fn end_of<'a>(topology: &'a Topology, place: &str) -> Option<&'a EndSpec> {
    match place.split_once('.') {
        Some((host, interface)) => topology.end(host, interface),
        None => topology.links.iter().flat_map(|link| &link.ends).find(|end| end.host == place),
    }
}

fn ends(topology: &Topology) -> Vec<String> {
    let ends = topology.links.iter().flat_map(|link| &link.ends);
    ends.map(|end| format!("{}.{}", end.host, end.interface)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(text: &str) -> TopologyChoice {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_presets_links_are_impaired_by_name() {
        let router = choice("preset = \"router\"\nimpair.dut = { loss = { percent = 1 } }");
        router.validate().unwrap();
        let topology = router.resolve(&[], &[], 1500);
        assert!(topology.end("dut", "eth0").unwrap().impair.is_some());
        assert!(topology.end("dut", "eth1").unwrap().impair.is_none());
        assert_eq!(router.features(), BTreeSet::from(["netem"]));
        let burst = choice("impair.\"dut.eth1\".rate = { bits-per-second = 8000, burst-bytes = 2000 }");
        assert_eq!(burst.features(), BTreeSet::from(["tbf"]));
    }

    #[test]
    fn an_end_that_is_not_there_is_named_with_those_that_are() {
        let error = choice("impair.\"dut.eth7\" = { loss = { percent = 1 } }").validate().unwrap_err().to_string();
        assert!(error.contains("impair 'dut.eth7': there is no such end of a link; there are client.eth0, dut.eth0"));
        let error = choice("impair.dut = { seed = 1 }").validate().unwrap_err().to_string();
        assert!(error.contains("host 'dut', interface 'eth0', impair: asks for nothing"), "{error}");
    }
}
