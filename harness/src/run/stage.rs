//! Hosts with programs attached, and the kernel's own stack at their ends: what live mode plays on.

use std::sync::Arc;

use crate::cgroup::OwnGroup;
use crate::hook::HookKind;
use crate::kernel::probe::{self, Requirement};
use crate::recorder::{Knowledge, Recorder, Recording};
use crate::suite::{self, Observer, Watch};
use crate::sys;
use crate::topology::{Network, Topology};
use crate::wire::{Attachments, WireError};

use super::{RunError, Step};

/// Builds `topology`, attaches the programs without the ledger's (sockets, not the lab, end the packets), and lets `act`
/// do whatever makes traffic; it is told what to call between pieces of work, so that rings are read before they fill.
/// When it returns, the programs are detached and the hosts removed. What passed the links meanwhile is handed over if
/// `record` asks for it.
pub(super) fn play<T>(
    topology: &Topology,
    watch: Watch<'_>,
    analyzers: &mut [Box<dyn Observer>],
    record: bool,
    step: &mut dyn FnMut(Step<'_>),
    act: impl FnOnce(&Network, &mut Progress<'_>) -> Result<T, RunError>,
) -> Result<(T, Option<Recording>), RunError> {
    check(topology)?;
    let _group = own_group(analyzers)?;
    step(Step::Build { topology: &topology.name });
    let network = Network::build(topology)?;
    let result: Result<_, RunError> = (|| {
        let mut attachments = Attachments::new(&network)?;
        suite::attach(analyzers, watch, &mut attachments, &network)?;
        let alone = attachments.attach_xdp_alone()?;
        attachments.keep_segments(&network)?;
        let recorder = if record { Some(Recorder::start(&network)?) } else { None };
        let done = act(&network, &mut Progress { analyzers: &mut *analyzers, step });
        // What a program has begun on another CPU ends before its maps are read.
        _ = sys::wait_for_softirqs();
        let xdp = attachments.interfaces().into_values().filter_map(|(name, program)| Some((name, program?)));
        let knowledge = Knowledge { xdp: xdp.collect(), ..Knowledge::default() };
        let recording = recorder.map(|recorder| recorder.stop(knowledge));
        suite::drain(analyzers)?;
        drop(alone);
        Ok((done?, recording))
    })();
    let closed = network.close();
    let done = result?;
    closed?;
    Ok(done)
}

/// How far live traffic has come.
pub(super) struct Progress<'a> {
    analyzers: &'a mut [Box<dyn Observer>],
    step: &'a mut dyn FnMut(Step<'_>),
}

impl Progress<'_> {
    /// Shows progress and takes in events.
    pub(super) fn at(&mut self, step: Step<'_>) -> Result<(), RunError> {
        (self.step)(step);
        Ok(suite::drain(self.analyzers)?)
    }
}

/// Whether this kernel has what the links ask for.
pub(super) fn check(topology: &Topology) -> Result<(), RunError> {
    let unmet = probe::unmet(&Requirement::of_features(topology.features()));
    if unmet.is_empty() { Ok(()) } else { Err(RunError::Unmet(unmet)) }
}

/// A control group of this process's own, where a program is attached to one: sockets belong to the group that they are
/// made in.
pub(super) fn own_group(analyzers: &[Box<dyn Observer>]) -> Result<Option<Arc<OwnGroup>>, WireError> {
    let needs_group = |observer: &dyn Observer| {
        observer.attaches().iter().any(|attach| attach.hook.kind == HookKind::Cgroup && attach.hook.at.is_none())
    };
    if !analyzers.iter().any(|observer| needs_group(observer.as_ref())) {
        return Ok(None);
    }
    let failed = |source| WireError::System { operation: "enter a control group of its own".to_owned(), source };
    OwnGroup::enter().map(Some).map_err(failed)
}
