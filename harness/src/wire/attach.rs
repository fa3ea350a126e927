//! Programs at the hooks of a network, attached in a fixed order and detached in the reverse one.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use aya::programs::tc::{TcError, qdisc_add_clsact};

use super::WireError;
use super::account::Programs as Names;
use super::place::{Place, Port};
use crate::cgroup::OwnGroup;
use crate::hook::{Hook, HookKind};
use crate::suite::{Loaded, Programs};
use crate::sys::{self, TcDirection, TcFilter, TcxPosition};
use crate::topology::Network;

mod alone;
mod elsewhere;

pub use alone::XdpAlone;

/// First priority of the programs under test; the ledger's own come before, between and after them. tc runs the filter
/// with the lowest number first.
const FIRST_PRIORITY: u16 = 100;
/// Distance of two programs' priorities.
const PRIORITY_STEP: u16 = 10;
/// Most programs per direction: more would meet the priorities of the ledger's last programs.
const MOST_PROGRAMS: usize = 1000;
/// Every filter of the lab's has a priority of its own, and this handle.
const HANDLE: u32 = 1;

/// Attach types of BPF links (`enum bpf_attach_type`).
const XDP: u32 = 37;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;

/// Whether XDP runs in the driver or behind it (`XDP_FLAGS_*` of `include/uapi/linux/if_link.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum XdpMode {
    #[default]
    Driver,
    Generic,
}

impl XdpMode {
    const fn flags(self) -> u32 {
        match self {
            Self::Generic => 1 << 1,
            Self::Driver => 1 << 2,
        }
    }
}

/// An attached program: dropping it detaches it.
#[derive(Debug)]
#[allow(dead_code, reason = "held to be dropped")]
pub(super) enum Attached {
    /// A link, an event, a socket.
    Descriptor(OwnedFd),
    Filter(TcFilter),
    /// The control group that a program is attached to.
    Group(Arc<OwnGroup>),
}

/// Attached programs; the last attached is the first to go.
#[derive(Debug, Default)]
pub(super) struct Stack(Vec<Attached>);

impl Stack {
    pub(super) fn push(&mut self, attached: Attached) {
        self.0.push(attached);
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        while let Some(attached) = self.0.pop() {
            if let Attached::Descriptor(descriptor) = attached {
                sys::detach(descriptor);
            }
        }
    }
}

/// A program with the name of its object, for messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub(super) object: &'a str,
    pub(super) program: &'a str,
    pub(super) fd: BorrowedFd<'a>,
}

impl Named<'_> {
    fn failed(&self, hook: &dyn std::fmt::Display, source: std::io::Error) -> WireError {
        let (object, program) = (self.object.to_owned(), self.program.to_owned());
        WireError::Attach { object, program, hook: hook.to_string(), source }
    }
}

fn at(port: &Port, hook: &str) -> String {
    format!("{hook} of interface {} of host {}", port.name, port.host)
}

/// Runs `attach` in the port's network namespace and names what failed.
fn within<L: Send>(
    program: Named<'_>,
    port: &Port,
    hook: &str,
    attach: impl FnOnce() -> std::io::Result<L> + Send,
) -> Result<L, WireError> {
    let attached = port.netns.run(attach).map_err(|source| WireError::System {
        operation: format!("enter the network namespace of host {}", port.host),
        source,
    })?;
    attached.map_err(|source| program.failed(&at(port, hook), source))
}

/// Attaches an XDP program: an interface that cannot run it in that mode is an error, never a silent fallback.
pub(super) fn attach_xdp(program: Named<'_>, port: &Port, mode: XdpMode) -> Result<Attached, WireError> {
    let hook = if mode == XdpMode::Driver { "native XDP" } else { "generic XDP" };
    let link = || sys::link_to_interface(program.fd, port.ifindex, XDP, mode.flags());
    within(program, port, hook, link).map(Attached::Descriptor)
}

/// Attaches a tc program by netlink, whatever newer way the kernel has: only priorities give one order on all kernels.
pub(super) fn attach_tc(
    program: Named<'_>,
    port: &Port,
    direction: TcDirection,
    priority: u16,
) -> Result<Attached, WireError> {
    let filter = || TcFilter::attach(program.fd, program.program, port.ifindex, direction, priority, HANDLE);
    within(program, port, direction_name(direction), filter).map(Attached::Filter)
}

/// Attaches a tc program by a link, before all of clsact.
pub(super) fn attach_tcx(
    program: Named<'_>,
    port: &Port,
    direction: TcDirection,
    position: TcxPosition<'_>,
) -> Result<OwnedFd, WireError> {
    let (attach, hook) = match direction {
        TcDirection::Ingress => (TCX_INGRESS, "tcx ingress"),
        TcDirection::Egress => (TCX_EGRESS, "tcx egress"),
    };
    within(program, port, hook, || sys::link_tcx(program.fd, port.ifindex, attach, position))
}

/// Attaches a program to the BTF-typed tracepoint that it was loaded for, which sees all namespaces.
pub(super) fn attach_traced(program: Named<'_>, target: &str) -> Result<Attached, WireError> {
    let attached = sys::attach_tracing(program.fd).map_err(|source| program.failed(&target, source));
    attached.map(Attached::Descriptor)
}

const fn direction_name(direction: TcDirection) -> &'static str {
    match direction {
        TcDirection::Ingress => "tc ingress",
        TcDirection::Egress => "tc egress",
    }
}

/// An XDP program under test at one interface of the device under test.
#[derive(Debug)]
pub(super) struct UnderTest {
    pub(super) object: String,
    pub(super) program: String,
    pub(super) fd: OwnedFd,
    pub(super) mode: XdpMode,
}

/// The programs under test.
///
/// At each interface of the device under test a packet meets, in this order: the XDP program, the tc ingress programs as
/// they were attached, and on its way out the tc egress programs as they were attached. The lab's own programs come
/// before, between and after them during a replay.
#[derive(Debug)]
pub struct Attachments {
    place: Place,
    pub(super) programs: Names,
    /// By side.
    pub(super) xdp: [Option<UnderTest>; 2],
    /// Links of tcx programs by side, in the order of [`AtSide`]'s names: at ingress, at egress.
    pub(super) tcx: [[Vec<OwnedFd>; 2]; 2],
    /// tc programs at the far end's ingress.
    answers: usize,
    attached: Stack,
}

impl Attachments {
    /// Makes the device under test of `network` ready for programs; attaches none.
    ///
    /// # Errors
    /// [`WireError::Topology`] if it is not one for wire mode, [`WireError::System`].
    pub fn new(network: &Network) -> Result<Self, WireError> {
        let place = Place::of(network)?;
        for (_, link) in place.links() {
            add_hooks(&link.dut)?;
        }
        Ok(Self {
            place,
            programs: Names::default(),
            xdp: [None, None],
            tcx: Default::default(),
            answers: 0,
            attached: Stack::default(),
        })
    }

    /// Loads a program and attaches it.
    ///
    /// # Errors
    /// [`WireError::Object`] for a program that cannot be loaded or is of another kind, [`WireError::Attach`],
    /// [`WireError::NoPlace`] for a hook at something that the network does not have.
    pub fn attach(
        &mut self,
        object: &mut dyn Programs,
        program: &str,
        hook: &Hook,
        network: &Network,
    ) -> Result<(), WireError> {
        match hook.kind {
            HookKind::Xdp => self.xdp_at(object, program, hook, XdpMode::Driver),
            HookKind::XdpGeneric => self.xdp_at(object, program, hook, XdpMode::Generic),
            HookKind::TcIngress => self.tc(object, program, hook, TcDirection::Ingress),
            HookKind::TcEgress => self.tc(object, program, hook, TcDirection::Egress),
            HookKind::TcxIngress if self.sides(hook).is_ok() => self.tcx(object, program, hook, TcDirection::Ingress),
            HookKind::TcxEgress if self.sides(hook).is_ok() => self.tcx(object, program, hook, TcDirection::Egress),
            _ => {
                let attached = elsewhere::attach(object, program, hook, network, &self.place)?;
                attached.into_iter().for_each(|one| self.attached.push(one));
                Ok(())
            }
        }
    }

    /// Puts an XDP program behind the lab's own at every interface of the device under test. It finds 16 bytes of
    /// metadata in front of the packet, and may add its own before them.
    ///
    /// # Errors
    /// [`WireError::SecondXdp`] if there is one already, [`WireError::Object`].
    pub fn xdp(&mut self, object: &mut dyn Programs, program: &str) -> Result<(), WireError> {
        self.xdp_at(object, program, &Hook::xdp(), XdpMode::Driver)
    }

    /// Attaches a tc program at ingress of every interface of the device under test, after those already there.
    ///
    /// # Errors
    /// [`WireError::Object`], [`WireError::System`].
    pub fn tc_ingress(&mut self, object: &mut dyn Programs, program: &str) -> Result<(), WireError> {
        self.tc(object, program, &Hook::tc_ingress(), TcDirection::Ingress)
    }

    /// Attaches a tc program at egress of every interface of the device under test, after those already there.
    ///
    /// # Errors
    /// [`WireError::Object`], [`WireError::System`].
    pub fn tc_egress(&mut self, object: &mut dyn Programs, program: &str) -> Result<(), WireError> {
        self.tc(object, program, &Hook::tc_egress(), TcDirection::Egress)
    }

    fn xdp_at(
        &mut self,
        object: &mut dyn Programs,
        program: &str,
        hook: &Hook,
        mode: XdpMode,
    ) -> Result<(), WireError> {
        let sides = self.sides(hook)?;
        for side in &sides {
            if let Some(first) = &self.xdp[*side] {
                return Err(WireError::SecondXdp { first: first.program.clone(), second: program.to_owned() });
            }
        }
        let Loaded { fd, .. } = load(object, program, hook, None)?;
        for side in sides {
            let copied = fd.try_clone().map_err(|source| WireError::System {
                operation: format!("keep the descriptor of program {program}"),
                source,
            })?;
            let object = object.object_name().to_owned();
            self.xdp[side] = Some(UnderTest { object, program: program.to_owned(), fd: copied, mode });
            self.programs.0[side].xdp = Some(program.to_owned());
        }
        Ok(())
    }

    fn tc(
        &mut self,
        object: &mut dyn Programs,
        program: &str,
        hook: &Hook,
        direction: TcDirection,
    ) -> Result<(), WireError> {
        let sides = self.sides(hook)?;
        let Loaded { fd, .. } = load(object, program, hook, None)?;
        for (side, link) in self.place.links().filter(|(side, _)| sides.contains(side)) {
            let (names, tcx) = self.programs.0[side].chain(direction);
            if names.len() == MOST_PROGRAMS {
                return Err(WireError::TooMany { hook: direction_name(direction), most: MOST_PROGRAMS });
            }
            let priority = program_priority(names.len() - *tcx);
            let named = Named { object: object.object_name(), program, fd: fd.as_fd() };
            self.attached.push(attach_tc(named, &link.dut, direction, priority)?);
            names.push(program.to_owned());
        }
        Ok(())
    }

    fn tcx(
        &mut self,
        object: &mut dyn Programs,
        program: &str,
        hook: &Hook,
        direction: TcDirection,
    ) -> Result<(), WireError> {
        let sides = self.sides(hook)?;
        let Loaded { fd, .. } = load(object, program, hook, None)?;
        for (side, link) in self.place.links().filter(|(side, _)| sides.contains(side)) {
            let named = Named { object: object.object_name(), program, fd: fd.as_fd() };
            let attached = attach_tcx(named, &link.dut, direction, TcxPosition::Last)?;
            let (names, count) = self.programs.0[side].chain(direction);
            names.insert(*count, program.to_owned());
            *count += 1;
            self.tcx[side][direction as usize].push(attached);
        }
        Ok(())
    }

    /// The sides of the device under test's interfaces that a hook means.
    fn sides(&self, hook: &Hook) -> Result<Vec<usize>, WireError> {
        let ports: Vec<(usize, &Port)> = self.place.links().map(|(side, link)| (side, &link.dut)).collect();
        let place = hook.at.as_deref().unwrap_or(&self.place.host);
        let (host, interface) = place.split_once('.').map_or((place, None), |(host, rest)| (host, Some(rest)));
        let fits = |port: &Port| {
            (host == port.host || host == "dut") && interface.is_none_or(|interface| interface == port.name)
        };
        let sides: Vec<usize> = ports.iter().filter(|(_, port)| fits(port)).map(|(side, _)| *side).collect();
        if sides.is_empty() {
            let known = ports.iter().map(|(_, port)| format!("{}.{}", port.host, port.name)).collect();
            return Err(WireError::NoPlace { hook: hook.to_string(), known });
        }
        Ok(sides)
    }
}

/// Loads a program for a hook, and sees to it that the hook takes it.
fn load(object: &mut dyn Programs, program: &str, hook: &Hook, target: Option<&str>) -> Result<Loaded, WireError> {
    let loaded = object.load(program, target)?;
    let takes = hook.kind.takes();
    if takes.contains(&loaded.kind) || hook.kind == HookKind::None {
        return Ok(loaded);
    }
    Err(WireError::Kind {
        object: object.object_name().to_owned(),
        program: program.to_owned(),
        kind: loaded.kind,
        hook: hook.to_string(),
    })
}

/// As the hooks of a network do it, for programs that no network has.
pub(crate) fn load_for(object: &mut dyn Programs, program: &str, hook: &Hook) -> Result<Loaded, WireError> {
    load(object, program, hook, None)
}

/// The priority of the n-th program under test, from 0.
#[allow(clippy::cast_possible_truncation, reason = "bounded by MOST_PROGRAMS")]
pub(super) const fn program_priority(number: usize) -> u16 {
    FIRST_PRIORITY + number as u16 * PRIORITY_STEP
}

/// The priority between the n-th program under test and the next.
pub(super) const fn step_priority(number: usize) -> u16 {
    program_priority(number) + PRIORITY_STEP / 2
}

/// Gives an interface its hooks for tc programs.
fn add_hooks(port: &Port) -> Result<(), WireError> {
    let operation = || format!("add a clsact queueing discipline to interface {} of host {}", port.name, port.host);
    let added = port.netns.run(|| qdisc_add_clsact(&port.name));
    match added.map_err(|source| WireError::System { operation: operation(), source })? {
        // Left by an earlier run in the same network.
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        Err(error) => Err(WireError::System { operation: operation(), source: std::io::Error::other(error) }),
        Ok(()) => Ok(()),
    }
}
