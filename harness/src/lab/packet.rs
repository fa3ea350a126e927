//! One program, one packet.

use std::fmt;
use std::os::fd::AsFd as _;

use super::changes::{MapChange, State};
use super::object::EbpfObject;
use super::{LabError, Verdict};
use crate::observation::ChangedField;
use crate::subject::changed_fields;
use crate::sys;
use crate::topology::{Host, TopologyError};
use crate::wire::Namespace;

/// Bytes of an Ethernet header, less than which the kernel does not run (`bpf_test_init`, net/bpf/test_run.c).
const ETHERNET: usize = 14;
/// Most bytes that a program adds to a packet: what it may put in front (256) and behind (to the end of the page).
const GROWTH: usize = 4096;
/// `struct __sk_buff` and `struct xdp_md` of `include/uapi/linux/bpf.h`: their bytes, and where the fields stand that a
/// caller may set.
const SK_BUFF: usize = 192;
const MARK: usize = 8;
const PRIORITY: usize = 32;
const IFINDEX: usize = 40;
const XDP_MD: usize = 24;
const DATA_END: usize = 4;
const INGRESS_IFINDEX: usize = 12;
const RX_QUEUE: usize = 16;

/// A packet for one run: an Ethernet frame, also for programs that see it from the network header on, and what the kernel
/// is to say of it. A frame as it is will do, too: `object.run_packet("main", &frame[..])`.
#[derive(Clone, Debug, Default)]
pub struct Packet {
    frame: Vec<u8>,
    mark: u32,
    priority: u32,
    rx_queue: u32,
    interface: Option<Arrival>,
}

#[derive(Clone, Debug)]
struct Arrival {
    ifindex: u32,
    namespace: Namespace,
}

impl Packet {
    /// A frame, from its destination address on and without check sequence.
    #[must_use]
    pub fn new(frame: impl Into<Vec<u8>>) -> Self {
        Self { frame: frame.into(), ..Self::default() }
    }

    /// The packet's mark (`skb->mark`), which XDP programs do not see.
    #[must_use]
    pub fn mark(self, mark: u32) -> Self {
        Self { mark, ..self }
    }

    /// The packet's priority (`skb->priority`), which XDP programs do not see.
    #[must_use]
    pub fn priority(self, priority: u32) -> Self {
        Self { priority, ..self }
    }

    /// The receive queue, from 0, for XDP programs; needs [`Packet::on`].
    #[must_use]
    pub fn rx_queue(self, rx_queue: u32) -> Self {
        Self { rx_queue, ..self }
    }

    /// The interface of a host (see [`super::Lab::host`]) that the packet is on: `ingress_ifindex` of an XDP program
    /// (Linux 5.14), else `ifindex`. The interface must have XDP receive queues for one: those of the presets' devices under
    /// test do. Without it the packet is on the loopback interface.
    ///
    /// # Errors
    /// [`LabError::Topology`] if the host has no such interface.
    pub fn on(self, host: &Host, interface: &str) -> Result<Self, LabError> {
        let ifindex = host.ifindex(interface)?;
        let namespace = Namespace::of(host).map_err(|source| TopologyError::Kernel {
            operation: "keep its network namespace".to_owned(),
            host: host.name().to_owned(),
            interface: None,
            source,
        })?;
        Ok(Self { interface: Some(Arrival { ifindex, namespace }), ..self })
    }

    /// The context that the program of that kind is given; none where it is the kernel's own.
    fn context(&self, kind: &str) -> Vec<u8> {
        let ifindex = self.interface.as_ref().map_or(0, |arrival| arrival.ifindex);
        let (size, fields) = match kind {
            // No context was taken before Linux 5.14 (commit 47316f4a3053): none is given unless it says something.
            "xdp" if ifindex == 0 && self.rx_queue == 0 => return Vec::new(),
            "xdp" => {
                let len = u32::try_from(self.frame.len()).unwrap_or(u32::MAX);
                (XDP_MD, [(DATA_END, len), (INGRESS_IFINDEX, ifindex), (RX_QUEUE, self.rx_queue)])
            }
            // bpf_prog_test_run_flow_dissector takes one and ignores nothing: the fields must be 0.
            "flow_dissector" => return Vec::new(),
            _ => (SK_BUFF, [(MARK, self.mark), (PRIORITY, self.priority), (IFINDEX, ifindex)]),
        };
        let mut context = vec![0; size];
        for (place, value) in fields {
            context[place..place + 4].copy_from_slice(&value.to_ne_bytes());
        }
        context
    }
}

impl From<Vec<u8>> for Packet {
    fn from(frame: Vec<u8>) -> Self {
        Self::new(frame)
    }
}

impl From<&Vec<u8>> for Packet {
    fn from(frame: &Vec<u8>) -> Self {
        Self::new(frame.clone())
    }
}

impl From<&[u8]> for Packet {
    fn from(frame: &[u8]) -> Self {
        Self::new(frame)
    }
}

impl<const N: usize> From<&[u8; N]> for Packet {
    fn from(frame: &[u8; N]) -> Self {
        Self::new(&frame[..])
    }
}

impl From<&Packet> for Packet {
    fn from(packet: &Packet) -> Self {
        packet.clone()
    }
}

/// What one program made of one packet. `Display` is a text for snapshots.
#[derive(Clone, Debug, PartialEq)]
pub struct PacketRun {
    /// What it decided.
    pub verdict: Verdict,
    /// The packet as the program left it; of a flow dissector, the `struct bpf_flow_keys` that it filled.
    pub output: Vec<u8>,
    /// The fields of the packet that it changed, in the order of the packet.
    pub fields: Vec<ChangedField>,
    /// What changed in the maps of its object, by map and key.
    pub maps: Vec<MapChange>,
    /// The packet's mark afterwards; absent for XDP programs and flow dissectors.
    pub mark: Option<u32>,
    /// The packet's priority afterwards, likewise.
    pub priority: Option<u32>,
}

impl PacketRun {
    /// What changed in one map.
    pub fn changes_of<'a>(&'a self, map: &'a str) -> impl Iterator<Item = &'a MapChange> {
        self.maps.iter().filter(move |change| change.map == map)
    }
}

impl fmt::Display for PacketRun {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.verdict)?;
        for field in &self.fields {
            let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
            write!(out, "\nfield {}: {} -> {}", field.field, text(&field.before), text(&field.after))?;
        }
        for change in &self.maps {
            write!(out, "\n{change}")?;
        }
        Ok(())
    }
}

const KINDS: [&str; 7] = ["xdp", "tc", "tcx", "action", "cgroup_skb", "socket_filter", "flow_dissector"];

/// Runs a program of an object over a packet.
pub(super) fn run<O: EbpfObject>(object: &mut O, program: &str, packet: &Packet) -> Result<PacketRun, LabError> {
    let loaded = object.load(program, None)?;
    if !KINDS.contains(&loaded.kind) {
        let (object, program) = (object.object_name().to_owned(), program.to_owned());
        return Err(LabError::NoPacketProgram { object, program, kind: loaded.kind });
    }
    let len = packet.frame.len();
    let refused =
        |reason: &str, source| LabError::Packet { program: program.to_owned(), len, reason: reason.to_owned(), source };
    if len < ETHERNET {
        return Err(refused("it is shorter than an Ethernet header (14 bytes)", None));
    }
    let before = State::of(object)?;
    let mut output = vec![0; len + GROWTH];
    let mut context = packet.context(loaded.kind);
    let mut test_run = || {
        if context.is_empty() {
            sys::test_run(loaded.fd.as_fd(), &packet.frame, Some(&mut output), 1)
        } else {
            sys::test_run_with_context(loaded.fd.as_fd(), &packet.frame, &mut output, &mut context)
        }
    };
    let done = match &packet.interface {
        Some(arrival) => arrival.namespace.run(test_run).and_then(|done| done),
        None => test_run(),
    };
    let done = done.map_err(|source| refused(why(loaded.kind, packet, &source), Some(source)))?;
    output.truncate(done.len_out as usize);
    if matches!(loaded.kind, "cgroup_skb" | "socket_filter")
        && let Some(header) = output.first_chunk_mut::<ETHERNET>()
    {
        // The kernel puts zeros before what such a program cannot see (bpf_prog_test_run_skb, net/bpf/test_run.c).
        header.copy_from_slice(&packet.frame[..ETHERNET]);
    }
    let field = |place: usize| {
        let bytes = (context.len() == SK_BUFF).then(|| context[place..].first_chunk().copied()).flatten();
        bytes.map(u32::from_ne_bytes)
    };
    Ok(PacketRun {
        verdict: Verdict::of(loaded.kind, done.verdict),
        fields: if loaded.kind == "flow_dissector" { Vec::new() } else { changed_fields(&packet.frame, &output) },
        maps: before.changes(object.object_name())?,
        mark: field(MARK),
        priority: field(PRIORITY),
        output,
    })
}

/// What the kernel's refusal means.
fn why(kind: &str, packet: &Packet, error: &std::io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EINVAL) if kind == "xdp" && packet.interface.is_some() => {
            "the kernel takes an interface for XDP since Linux 5.14, and one that has that receive queue for XDP"
        }
        Some(libc::EINVAL) if kind == "xdp" && packet.rx_queue != 0 => "a receive queue is one of an interface",
        Some(libc::EINVAL) if kind != "xdp" && packet.frame.len() <= ETHERNET => {
            "there is nothing behind its Ethernet header, which the kernel does not take"
        }
        Some(libc::EINVAL | libc::EMSGSIZE | libc::ENOMEM) => {
            "it does not take one of this length, or not without the headers that its ethertype promises"
        }
        Some(libc::EPERM) => "this takes root",
        _ => "the kernel refused",
    }
}
