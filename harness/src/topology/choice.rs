//! The topology that a scenario or a command line asks for: a preset fitted to the capture, or one written out.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{InvalidTopology, Topology, XDP_MAX_MTU, presets};

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
            return Ok(Self { preset: Some(preset), custom: None });
        }
        let path = Path::new(argument);
        let text =
            std::fs::read_to_string(path).map_err(|source| ChoiceError::Read { path: path.to_owned(), source })?;
        let custom = toml::from_str(&text)
            .map_err(|source| ChoiceError::Invalid { path: path.to_owned(), source: Box::new(source) })?;
        Ok(Self { preset: None, custom: Some(custom) })
    }

    /// Checks what can be checked without the capture.
    ///
    /// # Errors
    /// Every problem of a topology written out.
    pub fn validate(&self) -> Result<(), InvalidTopology> {
        self.custom.as_ref().map_or(Ok(()), Topology::validate)
    }

    /// The topology for a capture whose conversations run between `clients` and `servers`. `mtu` is in bytes and holds
    /// for the presets; a topology written out has its own.
    #[must_use]
    pub fn resolve(&self, clients: &[IpAddr], servers: &[IpAddr], mtu: u32) -> Topology {
        match (&self.custom, self.preset.unwrap_or_default()) {
            (Some(custom), _) => custom.clone(),
            // A bridge is transparent to tags, which the MTU of an interface does not provide for.
            (None, Preset::Bridge) => presets::bridge().with_mtu((mtu + TWO_TAGS).min(XDP_MAX_MTU)),
            (None, Preset::Router) => presets::router_for(clients, servers).with_mtu(mtu),
            (None, Preset::Host) => presets::host(servers).with_mtu(mtu),
        }
    }
}
