//! What a scenario file may say. Every key is documented here; an unknown one is an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::variant::{self, Variant};
use super::{Expectation, ScenarioError, hint};
use crate::apps::{self, AppSpec};
use crate::capture::{Checksums, Oversize, SidesPolicy, Truncated};
use crate::condition::Condition;
use crate::kernel::probe::{Requirement, RunMode};
use crate::live::LiveOptions;
use crate::object::Clock;
use crate::snapshot;
use crate::subject::Setup;
use crate::suite::{
    Family, drops::DropsSettings, flows::FlowsSettings, latency::LatencySettings, protocols::ProtocolsSettings,
    sockets::SocketsSettings, tcp_state::TcpStateSettings,
};
use crate::synth;
use crate::topology::{DEFAULT_MTU, Preset, TopologyChoice};
use crate::wire::Speed;

/// How traffic meets the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Packet by packet through `BPF_PROG_TEST_RUN`, under the capture's clock.
    Lockstep,
    /// Across veth links, through the kernel's own stack.
    Wire,
    /// Against the kernel's own sockets.
    Live,
}

impl From<Mode> for RunMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Lockstep => Self::Lockstep,
            Mode::Wire => Self::Wire,
            Mode::Live => Self::Live,
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Lockstep => "lockstep",
            Self::Wire => "wire",
            Self::Live => "live",
        })
    }
}

/// One scenario.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// One line: what this shows.
    pub purpose: String,
    /// Modes it runs in, each a test of its own; lockstep and wire if left out.
    #[serde(default = "both_modes")]
    pub modes: Vec<Mode>,
    /// What it needs beyond what its modes need. Unmet: reported as unsupported, with the reason.
    #[serde(default)]
    pub requires: Vec<Requirement>,
    /// Where packets come from.
    pub traffic: Traffic,
    /// Hosts and links of wire mode.
    #[serde(default)]
    pub topology: TopologyChoice,
    /// Programs of the suite with their settings, all of them but `latency` and `sockets` if left out; or a list of
    /// objects under test.
    #[serde(default, deserialize_with = "programs")]
    pub programs: Programs,
    /// Facts that must hold in every mode, by path into the observation (`tcp.handshakes.0.rtt_us`).
    #[serde(default)]
    pub expect: BTreeMap<String, Expectation>,
    /// Conditions over the observation that must hold in every mode (see [`crate::condition`]).
    #[serde(default)]
    pub holds: Vec<Condition>,
    /// What the snapshot shows.
    #[serde(default)]
    pub snapshot: SnapshotRules,
    /// Where the capture comes from; needed for one that stands beside the scenario (those in `pcaps/` have an index).
    pub provenance: Option<Provenance>,
}

impl Scenario {
    /// The hosts that made-up traffic goes between.
    #[must_use]
    pub fn hosts(&self) -> synth::Hosts {
        synth::Hosts::from(&self.topology.resolve(&[], &[], DEFAULT_MTU))
    }
}

fn both_modes() -> Vec<Mode> {
    vec![Mode::Lockstep, Mode::Wire]
}

/// Where packets come from and how they are sent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// A capture, looked for beside the scenario and then in `pcaps/`.
    pub capture: Option<PathBuf>,
    /// Single frames written out, instead of a capture.
    #[serde(default)]
    pub frames: Vec<Frames>,
    /// Real applications on hosts of the topology, instead of a capture; in live mode. On the preset `router` unless the
    /// topology says otherwise. Beside a capture: servers that answer its clients, by `live.forward`.
    #[serde(default)]
    pub apps: Vec<AppSpec>,
    /// Traffic of the catalogue (`bpflab synth --list`), alone or, from its first packet on, over the capture.
    #[serde(default)]
    pub synth: Vec<synth::Spec>,
    /// Only packets that match this pcap filter expression.
    pub filter: Option<String>,
    /// Only the first packets, after the filter.
    pub limit: Option<u64>,
    /// Which end each packet enters.
    #[serde(default)]
    pub sides: SidesPolicy,
    /// What happens to frames over the MTU.
    #[serde(default)]
    pub oversize: Oversize,
    /// What happens to frames that the capture cut.
    #[serde(default)]
    pub truncated: Truncated,
    /// What happens to wrong checksums.
    #[serde(default)]
    pub checksums: Checksums,
    /// Largest IP packet, bytes.
    pub mtu: Option<u32>,
    /// Pace in wire mode; as fast as possible if left out.
    #[serde(default)]
    pub speed: Speed,
    /// How live mode plays the capture: which end the kernel is, pace, deadline.
    #[serde(default)]
    pub live: LiveOptions,
    /// Clock of the analysis in wire mode; the capture's if left out.
    pub clock: Option<Clock>,
}

impl Traffic {
    /// Whether applications make all of it.
    #[must_use]
    pub fn is_of_applications(&self) -> bool {
        !self.apps.is_empty() && self.capture.is_none() && self.frames.is_empty() && self.synth.is_empty()
    }
}

/// A frame written out in hexadecimal, sent one or more times.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frames {
    /// The frame from its destination MAC address on; white space is ignored.
    pub hex: String,
    /// How often it is sent.
    #[serde(default = "one")]
    pub repeat: u32,
    /// Time since the frame before it, µs.
    #[serde(default = "millisecond")]
    pub after_us: u64,
}

fn one() -> u32 {
    1
}

fn millisecond() -> u64 {
    1_000
}

impl Frames {
    /// The bytes of the frame.
    ///
    /// # Errors
    /// What is not hexadecimal, as a sentence.
    pub fn bytes(&self) -> Result<Vec<u8>, String> {
        let digits: Vec<char> = self.hex.chars().filter(|digit| !digit.is_whitespace()).collect();
        if !digits.len().is_multiple_of(2) {
            return Err(format!("a frame has an odd number of hexadecimal digits ({})", digits.len()));
        }
        digits
            .chunks_exact(2)
            .map(|pair| {
                let text: String = pair.iter().collect();
                u8::from_str_radix(&text, 16).map_err(|_| format!("`{text}` in a frame is not hexadecimal"))
            })
            .collect()
    }
}

/// The programs that a run loads: those of the suite with their settings, and objects under test.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Programs {
    /// Per-flow accounting and malformed packets.
    pub flows: Option<FlowsSettings>,
    /// TCP connections.
    pub tcp_state: Option<TcpStateSettings>,
    /// Kernel drops.
    pub drops: Option<DropsSettings>,
    /// DNS, HTTP and TLS.
    pub protocols: Option<ProtocolsSettings>,
    /// The kernel's view of its TCP sockets (wire mode), compared with `tcp_state`.
    pub sockets: Option<SocketsSettings>,
    /// Times through the kernel's receive path (wire mode).
    pub latency: Option<LatencySettings>,
    /// Objects under test, in the order in which packets meet their programs, after those of the suite.
    #[serde(default)]
    pub objects: Vec<Setup>,
}

/// `programs` of a scenario: a table of them, or a list of objects under test and nothing else.
fn programs<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Programs, D::Error> {
    struct Either;
    impl<'de> serde::de::Visitor<'de> for Either {
        type Value = Programs;

        fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            out.write_str("a table of the suite's programs, or a list of objects")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Programs, A::Error> {
            Programs::deserialize(serde::de::value::MapAccessDeserializer::new(map))
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, list: A) -> Result<Programs, A::Error> {
            let objects = Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(list))?;
            Ok(Programs { objects, ..Programs::of(&[]) })
        }
    }
    deserializer.deserialize_any(Either)
}

impl Default for Programs {
    fn default() -> Self {
        Self::of(&Family::DEFAULT)
    }
}

impl Programs {
    /// The named families with their default settings.
    #[must_use]
    pub fn of(families: &[Family]) -> Self {
        Self {
            flows: families.contains(&Family::Flows).then(FlowsSettings::default),
            tcp_state: families.contains(&Family::TcpState).then(TcpStateSettings::default),
            drops: families.contains(&Family::Drops).then(DropsSettings::default),
            protocols: families.contains(&Family::Protocols).then(ProtocolsSettings::default),
            sockets: families.contains(&Family::Sockets).then(SocketsSettings::default),
            latency: families.contains(&Family::Latency).then(LatencySettings::default),
            objects: Vec::new(),
        }
    }
}

/// Where a capture comes from, and on which terms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Where and how it was taken.
    pub origin: String,
    /// Terms under which it may be shared.
    pub licence: String,
    /// Whether addresses and payloads of third parties were replaced, or why there was no need.
    pub scrubbed: String,
    /// SHA-256 of the file, lower-case hexadecimal.
    pub sha256: String,
}

impl Provenance {
    /// The names of fields that are still empty.
    #[must_use]
    pub fn unfilled(&self) -> Vec<&'static str> {
        let fields = [("origin", &self.origin), ("licence", &self.licence), ("scrubbed", &self.scrubbed)];
        fields.into_iter().filter(|(_, text)| text.trim().is_empty()).map(|(name, _)| name).collect()
    }
}

/// What a scenario's snapshot shows.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRules {
    /// Sections left out.
    #[serde(default)]
    pub omit: Vec<String>,
    /// Redactions: literal texts and what stands for them.
    #[serde(default)]
    pub replace: Vec<Replacement>,
    /// Why wire mode has a snapshot of its own. Left out, both modes must give the same text.
    pub wire_differs: Option<String>,
    /// Kernels that answer otherwise, each with its reason and a snapshot of its own.
    #[serde(default)]
    pub variants: Vec<Variant>,
}

/// One redaction.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replacement {
    /// Literal text to look for.
    pub from: String,
    /// What stands for it.
    pub to: String,
}

impl SnapshotRules {
    /// The rules in the renderer's form.
    #[must_use]
    pub fn rules(&self) -> snapshot::Rules {
        snapshot::Rules {
            omit: self.omit.clone(),
            real_stacks: false,
            replace: self.replace.iter().map(|one| (one.from.clone(), one.to.clone())).collect(),
        }
    }
}

/// Reads and validates the text of a scenario file.
///
/// # Errors
/// [`ScenarioError::Invalid`] with line, column and the nearest valid key; [`ScenarioError::Inconsistent`].
pub fn parse(file: &Path, text: &str) -> Result<Scenario, ScenarioError> {
    let scenario: Scenario = toml::from_str(text).map_err(|error| hint::explain(file, text, &error))?;
    validate(&scenario).map_err(|message| ScenarioError::Inconsistent { path: file.to_owned(), message })?;
    Ok(scenario)
}

fn validate(scenario: &Scenario) -> Result<(), String> {
    if scenario.purpose.trim().is_empty() {
        return Err("`purpose` is empty: say in one line what the scenario shows".to_owned());
    }
    if scenario.modes.is_empty() {
        return Err("`modes` is empty: name `lockstep`, `wire`, `live`, or several of them".to_owned());
    }
    let Traffic { capture, frames, synth, apps, .. } = &scenario.traffic;
    match (capture.is_some(), !frames.is_empty(), !synth.is_empty()) {
        (false, false, false) if apps.is_empty() => {
            return Err("`traffic` names neither a `capture` nor `frames` nor `synth` nor `apps`".to_owned());
        }
        (false, false, false) => {}
        _ if !apps.is_empty() && scenario.traffic.live.forward.is_empty() => {
            return Err("`traffic` names `apps` beside other traffic, none of which goes to them: keep one, or say \
                        `live.forward`"
                .to_owned());
        }
        (true, true, _) => return Err("`traffic` names both a `capture` and `frames`: keep one".to_owned()),
        (_, true, true) => return Err("`traffic` names both `frames` and `synth`: keep one".to_owned()),
        _ => {}
    }
    scenario.traffic.live.validate().map_err(|message| format!("`traffic.live`: {message}"))?;
    for frame in &scenario.traffic.frames {
        frame.bytes()?;
    }
    validate_apps(scenario)?;
    for section in &scenario.snapshot.omit {
        if !snapshot::SECTIONS.contains(&section.as_str()) {
            return Err(format!(
                "`snapshot.omit` names `{section}`, which is no section; sections are {}",
                snapshot::SECTIONS.join(", ")
            ));
        }
    }
    if scenario.snapshot.wire_differs.is_some() && !both_modes().iter().all(|mode| scenario.modes.contains(mode)) {
        return Err("`snapshot.wire_differs` needs both `lockstep` and `wire` in `modes`".to_owned());
    }
    if let Some(condition) = scenario.holds.iter().find(|condition| condition.differing_kernels().is_some()) {
        return Err(format!("`holds` is about one kernel, and `{}` compares two", condition.text()));
    }
    variant::validate(&scenario.snapshot.variants, &scenario.modes)?;
    scenario.topology.validate().map_err(|error| error.to_string())?;
    let hosts = scenario.hosts();
    for one in synth {
        one.frames_among(&hosts).map_err(|error| format!("`traffic.synth`: {error}"))?;
    }
    Ok(())
}

/// Applications talk to the kernel's own stacks, at both ends.
fn validate_apps(scenario: &Scenario) -> Result<(), String> {
    let traffic = &scenario.traffic;
    if traffic.apps.is_empty() {
        return Ok(());
    }
    if scenario.modes != [Mode::Live] {
        return Err("`traffic.apps` run in live mode alone: say `modes = [\"live\"]`".to_owned());
    }
    // A topology that is wrong is told by its own check.
    let is_alone = traffic.is_of_applications();
    let choice = scenario.topology.or_preset(if is_alone { Preset::Router } else { Preset::Host });
    choice.validate().map_err(|error| error.to_string())?;
    let mut problems = apps::problems(&traffic.apps, &choice.resolve(&[], &[], DEFAULT_MTU));
    problems.extend(if is_alone { apps::problem_alone(&traffic.apps) } else { apps::problem_beside(&traffic.apps) });
    if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        parse(Path::new("s.toml"), text).unwrap_err().to_string()
    }

    const SOUND: &str = "purpose = \"p\"\n[traffic]\ncapture = \"a.pcap\"\n";

    #[test]
    fn a_short_scenario_runs_everything_in_both_modes() {
        let scenario = parse(Path::new("s.toml"), SOUND).unwrap();
        assert_eq!(scenario.modes, [Mode::Lockstep, Mode::Wire]);
        assert!(scenario.programs.flows.is_some() && scenario.programs.protocols.is_some());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place_and_the_nearest_one() {
        let text = error("purpose = \"p\"\n[traffic]\ncapture = \"a.pcap\"\nfliter = \"tcp\"\n");
        assert!(text.starts_with("s.toml:4:1: unknown field `fliter`"), "{text}");
        assert!(text.ends_with("did you mean `filter`?"), "{text}");
    }

    #[test]
    fn a_wrong_type_is_named_with_its_place() {
        let text = error("purpose = 3\n[traffic]\ncapture = \"a.pcap\"\n");
        assert!(text.starts_with("s.toml:1:11: invalid type: integer `3`, expected a string"), "{text}");
    }

    #[test]
    fn parts_that_do_not_fit_are_said() {
        assert!(error("purpose = \"p\"\n[traffic]\n").contains("neither a `capture` nor `frames`"));
        let both = "purpose = \"p\"\n[[traffic.frames]]\nhex = \"0a\"\n[[traffic.synth]]\nname = \"land\"\n";
        assert!(error(both).contains("both `frames` and `synth`"));
        let name = error("purpose = \"p\"\n[[traffic.synth]]\nname = \"syn-flod\"\n");
        assert!(name.contains("did you mean `syn-flood`?"), "{name}");
        let host = error("purpose = \"p\"\n[[traffic.synth]]\nname = \"land\"\ntargets = [\"sever\"]\n");
        assert!(host.contains("did you mean `server`?"), "{host}");
        assert!(error(&format!("{SOUND}[snapshot]\nomit = [\"flow\"]\n")).contains("no section"));
        let odd = error("purpose = \"p\"\n[[traffic.frames]]\nhex = \"0a b\"\n");
        assert!(odd.contains("odd number"), "{odd}");
    }
}
