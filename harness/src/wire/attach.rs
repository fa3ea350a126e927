//! Programs at the hooks of the device under test, attached in a fixed order and detached in the reverse one.

use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, qdisc_add_clsact};
use aya::programs::tp_btf::BtfTracePointLink;
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{Program, ProgramError, ProgramFd, TcAttachType};

use super::WireError;
use super::account::Programs;
use super::place::{Namespace, Place, Port};
use crate::kernel;
use crate::object::Object;
use crate::topology::Network;

/// First priority of the programs under test; the ledger's own come before, between and after them. tc runs the filter
/// with the lowest number first.
const FIRST_PRIORITY: u16 = 100;
/// Distance of two programs' priorities.
const PRIORITY_STEP: u16 = 10;
/// Most programs per direction: more would meet the priorities of the ledger's last programs.
const MOST_PROGRAMS: usize = 1000;

/// An attached program. Dropping it detaches it, in the namespace that it is attached in: a tc filter is addressed by
/// interface index, which means something else elsewhere.
#[derive(Debug)]
pub(super) struct Attached {
    link: Option<Link>,
    netns: Option<Namespace>,
}

#[derive(Debug)]
#[allow(dead_code, reason = "held to be dropped")]
enum Link {
    Xdp(XdpLink),
    Tc(SchedClassifierLink),
    Tracepoint(BtfTracePointLink),
}

impl Drop for Attached {
    fn drop(&mut self) {
        let link = self.link.take();
        if let Some(netns) = &self.netns {
            // Without a thread the link is dropped here: at worst the filter stays until its namespace goes.
            let _ = netns.run(|| drop(link));
        }
    }
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
            drop(attached);
        }
    }
}

/// Direction of a tc hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "tc ingress",
            Self::Egress => "tc egress",
        }
    }
}

/// Runs `attach` in the port's namespace and names what failed.
fn within<L: Send>(
    object: &mut Object,
    program: &str,
    hook: &str,
    port: &Port,
    attach: impl FnOnce(&mut Object) -> Result<L, AttachFailure> + Send,
) -> Result<L, WireError> {
    let operation = format!("attach at {hook} of interface {} of host {}", port.name, port.host);
    let result = port.netns.run(|| attach(object)).map_err(|source| WireError::System {
        operation: format!("enter the network namespace of host {}", port.host),
        source,
    })?;
    Ok(result.map_err(|failure| match failure {
        AttachFailure::Kind(kind) => object.missing(format!("{kind} program {program}")),
        AttachFailure::Program(source) => object.program_error(&operation, program, source),
    })?)
}

enum AttachFailure {
    /// The program is of another kind.
    Kind(&'static str),
    Program(ProgramError),
}

impl From<ProgramError> for AttachFailure {
    fn from(error: ProgramError) -> Self {
        Self::Program(error)
    }
}

/// Attaches an XDP program in the driver: an interface that cannot is an error, never a silent fallback.
pub(super) fn attach_xdp(object: &mut Object, program: &str, port: &Port) -> Result<Attached, WireError> {
    object.load_program(program, None)?;
    let link = within(object, program, "native XDP", port, |object| {
        let Some(Program::Xdp(xdp)) = object.ebpf.program_mut(program) else { return Err(AttachFailure::Kind("XDP")) };
        let id = xdp.attach_to_if_index(port.ifindex, XdpMode::Driver)?;
        Ok(xdp.take_link(id)?)
    })?;
    Ok(Attached { link: Some(Link::Xdp(link)), netns: Some(port.netns.clone()) })
}

/// Attaches a tc program by netlink, whatever newer way the kernel has: only priorities give one order on all kernels.
pub(super) fn attach_tc(
    object: &mut Object,
    program: &str,
    port: &Port,
    direction: Direction,
    priority: u16,
) -> Result<Attached, WireError> {
    object.load_program(program, None)?;
    let link = within(object, program, direction.name(), port, |object| {
        let Some(Program::SchedClassifier(tc)) = object.ebpf.program_mut(program) else {
            return Err(AttachFailure::Kind("tc"));
        };
        let side = match direction {
            Direction::Ingress => TcAttachType::Ingress,
            Direction::Egress => TcAttachType::Egress,
        };
        let options = TcAttachOptions::Netlink(NlOptions { priority, ..NlOptions::default() });
        let id = tc.attach_with_options(&port.name, side, options)?;
        Ok(tc.take_link(id)?)
    })?;
    Ok(Attached { link: Some(Link::Tc(link)), netns: Some(port.netns.clone()) })
}

/// Attaches a program to a BTF-typed tracepoint, which sees all namespaces.
pub(super) fn attach_tracepoint(object: &mut Object, program: &str, target: &str) -> Result<Attached, WireError> {
    object.load_program(program, Some((target, kernel::aya_btf()?)))?;
    let operation = format!("attach at tracepoint {target}");
    let missing = object.missing(format!("BTF tracepoint program {program}"));
    let Some(Program::BtfTracePoint(tracepoint)) = object.ebpf.program_mut(program) else { return Err(missing.into()) };
    let link = tracepoint.attach().and_then(|id| tracepoint.take_link(id));
    let link = link.map_err(|source| object.program_error(&operation, program, source))?;
    Ok(Attached { link: Some(Link::Tracepoint(link)), netns: None })
}

/// The programs under test at the device under test.
///
/// At each of its interfaces a packet meets, in this order: the XDP program, the tc ingress programs as they were
/// attached, and on its way out the tc egress programs as they were attached. The lab's own programs come before,
/// between and after them during a replay.
#[derive(Debug)]
pub struct Attachments {
    place: Place,
    pub(super) programs: Programs,
    pub(super) xdp: Option<(String, ProgramFd)>,
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
        Ok(Self { place, programs: Programs::default(), xdp: None, attached: Stack::default() })
    }

    /// Puts an XDP program behind the lab's own at every interface of the device under test. It finds 16 bytes of
    /// metadata in front of the packet, and may add its own before them.
    ///
    /// # Errors
    /// [`WireError::SecondXdp`] if there is one already, [`WireError::Object`].
    pub fn xdp(&mut self, object: &mut Object, program: &str) -> Result<(), WireError> {
        if let Some(first) = &self.programs.xdp {
            return Err(WireError::SecondXdp { first: first.clone(), second: program.to_owned() });
        }
        let fd = object.load_program(program, None)?;
        if !matches!(object.ebpf.program(program), Some(Program::Xdp(_))) {
            return Err(object.missing(format!("XDP program {program}")).into());
        }
        self.xdp = Some((object.name().to_owned(), fd));
        self.programs.xdp = Some(program.to_owned());
        Ok(())
    }

    /// Attaches a tc program at ingress of every interface of the device under test, after those already there.
    ///
    /// # Errors
    /// [`WireError::Object`], [`WireError::System`].
    pub fn tc_ingress(&mut self, object: &mut Object, program: &str) -> Result<(), WireError> {
        self.tc(object, program, Direction::Ingress)
    }

    /// Attaches a tc program at egress of every interface of the device under test, after those already there.
    ///
    /// # Errors
    /// [`WireError::Object`], [`WireError::System`].
    pub fn tc_egress(&mut self, object: &mut Object, program: &str) -> Result<(), WireError> {
        self.tc(object, program, Direction::Egress)
    }

    /// Attaches a program to a BTF-typed tracepoint. It sees what happens in every network namespace.
    ///
    /// # Errors
    /// [`WireError::Object`].
    pub fn tracepoint(&mut self, object: &mut Object, program: &str, target: &str) -> Result<(), WireError> {
        self.attached.push(attach_tracepoint(object, program, target)?);
        Ok(())
    }

    fn tc(&mut self, object: &mut Object, program: &str, direction: Direction) -> Result<(), WireError> {
        let names = match direction {
            Direction::Ingress => &mut self.programs.ingress,
            Direction::Egress => &mut self.programs.egress,
        };
        if names.len() == MOST_PROGRAMS {
            return Err(WireError::TooMany { hook: direction.name(), most: MOST_PROGRAMS });
        }
        let priority = program_priority(names.len());
        for (_, link) in self.place.links() {
            self.attached.push(attach_tc(object, program, &link.dut, direction, priority)?);
        }
        names.push(program.to_owned());
        Ok(())
    }
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
