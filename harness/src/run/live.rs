//! A run in live mode: a capture played against the kernel's own sockets.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::stage::{self, Progress};
use super::tee::Tee;
use super::{Plan, RunError, Step};
use crate::apps::{self, AppsOutcome, Servers};
use crate::capture::Frame;
use crate::live::{self, Script};
use crate::observation::Observation;
use crate::recorder::Recording;
use crate::report::Document;
use crate::suite::{Observer, Watch};
use crate::topology::{Network, Prefix, Preset, Role, RouteSpec, Topology, TopologyChoice, TopologyError, presets};

pub(super) fn run(
    plan: &Plan,
    analyzers: &mut [Box<dyn Observer>],
    offered: &mut Tee,
    stop: &AtomicBool,
    step: &mut dyn FnMut(Step<'_>),
    document: &mut Document,
) -> Result<Option<Recording>, RunError> {
    let mut frames: Vec<Frame> = Vec::new();
    let mut frame = Frame::default();
    while offered.next_into(&mut frame)? {
        frames.push(frame.clone());
    }
    let script = Script::new(&frames, plan.live.dut);
    drop(frames);
    let topology = topology(plan, &script)?;
    document.topology = Some(topology.name.clone());
    let played = topology.hosts.iter().find(|host| host.role == Role::Client).map(|host| host.name.clone());
    let of = script.flows() as u64;
    let mut applications = AppsOutcome::default();
    let act = |network: &Network, progress: &mut Progress<'_>| {
        let folder = plan.artefacts.as_ref().map(|folder| Ok(Outputs::Kept(folder.join("apps"))));
        let folder = folder
            .unwrap_or_else(|| tempfile::tempdir().map(Outputs::Temporary))
            .map_err(|source| RunError::Artefact { path: std::env::temp_dir(), source })?;
        let mut at = |at: apps::Progress<'_>| progress.at(Step::App { at });
        let servers = Servers::start::<RunError>(network, &plan.apps, folder.path(), stop, &mut at)?;
        let mut at = |done| progress.at(Step::Flows { done, of });
        let played = live::play::<RunError>(network, &script, &plan.live, stop, &mut at);
        applications = servers.end();
        played
    };
    let record = plan.record.is_some();
    let watch = Watch::AllBut(played.as_deref());
    let (seen, recording) = stage::play(&topology, watch, analyzers, record, step, act)?;
    let dut = plan.live.dut.text();
    document.engine = format!("packet sockets as the recorded {}, real sockets as the {dut}", other(dut));
    for (kind, count) in script.others() {
        document.notes.push(format!("{count} packets are not played: {kind}"));
    }
    document.notes.extend(applications.notes);
    document.apps = applications.apps;
    document.observation = Observation { live: Some(seen), ..Observation::default() };
    Ok(recording)
}

/// Where applications' outputs are.
enum Outputs {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Outputs {
    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}

fn other(dut: &str) -> &'static str {
    if dut == "server" { "client" } else { "server" }
}

/// The topology that was written out, or an end host with the addresses of the live end, from which all others are behind
/// the played one; impaired as was asked.
fn topology(plan: &Plan, script: &Script) -> Result<Topology, TopologyError> {
    let addresses = script.addresses();
    let choice = TopologyChoice { preset: Some(Preset::Host), ..plan.topology.clone() };
    choice.validate()?;
    let mut topology = choice.resolve(&[], &addresses.live, plan.options.mtu);
    if choice.custom.is_some() {
        return Ok(topology);
    }
    let gateways: Vec<_> = topology.end(presets::CLIENT, "eth0").map_or_else(Vec::new, |end| end.addresses.clone());
    let own = gateways.clone();
    // An address of the topology's own networks would be looked for on the link.
    let inside = addresses.played.into_iter().filter(|address| {
        own.iter().any(|prefix| prefix.contains(*address)) && !own.iter().any(|prefix| prefix.address == *address)
    });
    let routes: Vec<RouteSpec> = inside
        .filter_map(|address| {
            let gateway = gateways.iter().find(|gateway| gateway.address.is_ipv4() == address.is_ipv4())?;
            Some(RouteSpec::via(Prefix::host(address), gateway.address))
        })
        .collect();
    if let Some(dut) = topology.host_mut(presets::DUT) {
        dut.routes.extend(routes);
    }
    Ok(topology)
}
