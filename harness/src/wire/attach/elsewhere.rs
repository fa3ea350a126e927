//! Hooks that are not on a packet's way through an interface: tracepoints, functions, control groups, sockets.

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use super::{Attached, Named, attach_tcx, attach_traced, load};
use crate::cgroup::OwnGroup;
use crate::hook::{Hook, HookKind};
use crate::kernel::tracefs;
use crate::suite::Programs;
use crate::sys::{self, PerfEvent, TcDirection, TcxPosition};
use crate::topology::Network;
use crate::wire::WireError;
use crate::wire::place::{Place, Port};

mod symbol;

const SK_LOOKUP: u32 = 36;
const FLOW_DISSECTOR: u32 = 17;

/// Loads a program and attaches it to a hook that is not clsact or XDP.
pub(super) fn attach(
    object: &mut dyn Programs,
    program: &str,
    hook: &Hook,
    network: &Network,
    place: &Place,
) -> Result<Vec<Attached>, WireError> {
    let typed =
        matches!(hook.kind, HookKind::TpBtf | HookKind::Fentry | HookKind::Fexit | HookKind::FmodRet | HookKind::Lsm);
    let target = hook.at.as_deref().filter(|_| typed);
    let loaded = load(object, program, hook, target)?;
    let named = Named { object: object.object_name(), program, fd: loaded.fd.as_fd() };
    let failed = |source| named.failed(hook, source);
    let needs_place = || {
        hook.at.as_deref().ok_or_else(|| WireError::Placeless { hook: hook.to_string(), program: program.to_owned() })
    };
    let one =
        |attached: io::Result<std::os::fd::OwnedFd>| attached.map(|fd| vec![Attached::Descriptor(fd)]).map_err(failed);
    match hook.kind {
        HookKind::TpBtf | HookKind::Fentry | HookKind::Fexit | HookKind::FmodRet | HookKind::Lsm => {
            Ok(vec![attach_traced(named, &hook.to_string())?])
        }
        HookKind::RawTracepoint => one(name(needs_place()?).and_then(|name| sys::open_raw_tracepoint(named.fd, &name))),
        HookKind::Tracepoint => one(tracefs::tracepoint(needs_place()?)
            .and_then(|id| sys::attach_perf_event(named.fd, PerfEvent::Tracepoint(id)))),
        HookKind::Kprobe | HookKind::Kretprobe => one(kprobe(named, needs_place()?, hook.kind == HookKind::Kretprobe)),
        HookKind::Uprobe | HookKind::Uretprobe => one(uprobe(named, needs_place()?, hook.kind == HookKind::Uretprobe)),
        HookKind::TcxIngress | HookKind::TcxEgress => {
            let ingress = hook.kind == HookKind::TcxIngress;
            let direction = if ingress { TcDirection::Ingress } else { TcDirection::Egress };
            let link = |port: &Port| attach_tcx(named, port, direction, TcxPosition::Last).map(Attached::Descriptor);
            ports(hook, network, place)?.iter().map(link).collect()
        }
        HookKind::SocketFilter => ports(hook, network, place)?
            .iter()
            .map(|port| {
                let socket = || sys::attach_socket_filter(named.fd, port.ifindex);
                super::within(named, port, "a packet socket", socket).map(Attached::Descriptor)
            })
            .collect(),
        HookKind::SkLookup | HookKind::FlowDissector => {
            let host = network.host(hook.at.as_deref().unwrap_or(&place.host))?;
            let netns = host.namespace_fd().map_err(failed)?;
            let attach = if hook.kind == HookKind::SkLookup { SK_LOOKUP } else { FLOW_DISSECTOR };
            one(sys::link_to_descriptor(named.fd, netns.as_fd(), attach))
        }
        HookKind::Cgroup => cgroup(named, hook.at.as_deref(), loaded.attach).map_err(failed),
        _ => Ok(Vec::new()),
    }
}

/// The interfaces that a hook means: one of any host, or those of the device under test.
fn ports(hook: &Hook, network: &Network, place: &Place) -> Result<Vec<Port>, WireError> {
    let all = || place.links().map(|(_, link)| link.dut.clone()).collect();
    let Some(at) = hook.at.as_deref() else { return Ok(all()) };
    match at.split_once('.') {
        Some((host, interface)) => Ok(vec![Port::of(network.host(host)?, interface)?]),
        None if at == place.host || at == "dut" => Ok(all()),
        None => {
            let known = place.links().map(|(_, link)| format!("{}.{}", link.dut.host, link.dut.name)).collect();
            Err(WireError::NoPlace { hook: hook.to_string(), known })
        }
    }
}

/// Attaches a program to the control group at a path, or to one of this process's own.
///
/// The attach type is the one that it was loaded for: the kernel refuses any other
/// (`bpf_prog_attach_check_attach_type`).
fn cgroup(program: Named<'_>, at: Option<&str>, attach: u32) -> io::Result<Vec<Attached>> {
    let own = if at.is_none() { Some(OwnGroup::enter()?) } else { None };
    let path = at.map(Path::new).or(own.as_ref().map(|own| own.path())).unwrap_or(Path::new("/"));
    let group = std::fs::File::open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("control group {}: {error}", path.display())))?;
    let link = sys::link_to_descriptor(program.fd, group.as_fd(), attach)?;
    // The link goes before the group.
    Ok(own.map(Attached::Group).into_iter().chain([Attached::Descriptor(link)]).collect())
}

fn name(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a name with a zero byte"))
}

/// The event source of that name: its number, and the bit that asks for returns.
fn source(name: &str) -> io::Result<(u32, u32)> {
    let folder = Path::new("/sys/bus/event_source/devices").join(name);
    let read = |file: &str| {
        std::fs::read_to_string(folder.join(file)).map_err(|error| {
            let what = format!("this kernel has no {name}s (no {}): {error}", folder.display());
            io::Error::new(io::ErrorKind::Unsupported, what)
        })
    };
    let number = read("type")?.trim().parse().map_err(io::Error::other)?;
    // `config:0`.
    let bit =
        read("format/retprobe")?.trim().rsplit(':').next().unwrap_or_default().parse().map_err(io::Error::other)?;
    Ok((number, bit))
}

/// A function of the kernel, with `+offset` perhaps.
fn kprobe(program: Named<'_>, at: &str, returns: bool) -> io::Result<std::os::fd::OwnedFd> {
    let (function, offset) = symbol::split_offset(at)?;
    let (pmu, bit) = source("kprobe")?;
    let of = name(function)?;
    let retprobe_bit = returns.then_some(bit);
    let event = PerfEvent::Probe { pmu, retprobe_bit, of: &of, offset, process: None };
    sys::attach_perf_event(program.fd, event)
}

/// A function of a file, `path:symbol+offset`; of all processes if `all:` stands in front.
fn uprobe(program: Named<'_>, at: &str, returns: bool) -> io::Result<std::os::fd::OwnedFd> {
    let (at, process) = match at.strip_prefix("all:") {
        Some(rest) => (rest, None),
        None => (at, Some(std::process::id().cast_signed())),
    };
    let place = symbol::find(at)?;
    let (pmu, bit) = source("uprobe")?;
    let of = name(&place.path)?;
    let retprobe_bit = returns.then_some(bit);
    sys::attach_perf_event(program.fd, PerfEvent::Probe { pmu, retprobe_bit, of: &of, offset: place.offset, process })
}
