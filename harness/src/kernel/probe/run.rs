//! The probes: each does the real thing once, in the smallest form, and leaves nothing behind.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::MapType;

use super::net::Veth;
use super::{Answer, machine};
use crate::kernel::btf::{Btf, BtfError, Kind};
use crate::kernel::nft;
use crate::sys::{self, PerfEvent, ProgramKind};

/// `BPF_PROG_TYPE_KPROBE`
const KPROBE: u32 = 2;
/// `BPF_PROG_TYPE_SCHED_CLS`
const SCHED_CLS: u32 = 3;
/// `BPF_PROG_TYPE_XDP`
const XDP: u32 = 6;
/// `BPF_PROG_TYPE_TRACING`
const TRACING: u32 = 26;
/// `BPF_TRACE_RAW_TP`
const TRACE_RAW_TP: u32 = 23;
/// `BPF_TRACE_FENTRY`
const TRACE_FENTRY: u32 = 24;
/// `BPF_XDP`
const ATTACH_XDP: u32 = 37;
/// `BPF_TCX_INGRESS`
const ATTACH_TCX: u32 = 46;
/// `XDP_FLAGS_DRV_MODE`
const NATIVE: u32 = 1 << 2;
/// `XDP_PASS`
const PASS: i32 = 2;
/// `XDP_DROP`
const DROP: i32 = 1;
/// `ENOTSUPP`, which the kernel returns although it is not meant for userspace.
const ENOTSUPP: i32 = 524;
/// Function that every kernel with IPv4 has, probed and traced by name.
const FUNCTION: &str = "ip_rcv";
/// Number of the kprobe PMU.
const KPROBE_PMU: &str = "/sys/bus/event_source/devices/kprobe/type";

/// What went wrong in a probe, and whether that was the feature itself.
#[derive(Debug)]
pub struct Trouble {
    doing: String,
    source: io::Error,
    /// The feature was not even reached.
    setup: bool,
}

impl Trouble {
    /// The feature refused.
    pub fn new(doing: impl Into<String>, source: io::Error) -> Self {
        Self { doing: doing.into(), source, setup: false }
    }

    /// Something before the feature failed.
    pub fn setup(doing: impl Into<String>, source: io::Error) -> Self {
        Self { doing: doing.into(), source, setup: true }
    }

    /// A refusal of the feature itself, for a reason that lies in the kernel, is a `no`; a lack of rights, memory or
    /// time, and trouble on the way there, tell nothing about the kernel.
    fn answer(self) -> Answer {
        let reason = format!("cannot {}: {}", self.doing, self.source);
        let missing_rights = || !machine::missing_capabilities().is_empty();
        match self.source.raw_os_error() {
            _ if self.setup => Answer::CouldNotTell(reason),
            Some(libc::EPERM | libc::EACCES) if missing_rights() => Answer::CouldNotTell(reason),
            Some(
                libc::EPERM
                | libc::EACCES
                | libc::EINVAL
                | libc::ENOENT
                | libc::EOPNOTSUPP
                | libc::E2BIG
                | libc::ENOSYS
                | libc::ENODEV
                | libc::ESRCH
                | ENOTSUPP,
            ) => Answer::No(reason),
            _ => Answer::CouldNotTell(reason),
        }
    }
}

/// The answer of a probe that either went through or did not.
fn answer(result: Result<String, Trouble>) -> Answer {
    result.map_or_else(Trouble::answer, Answer::Yes)
}

/// Whether programs can be loaded at all.
pub fn bpf() -> Answer {
    answer(load(XDP, 0, PASS).map(|_program| "a program was loaded".to_owned()))
}

fn load(program: u32, attach: u32, verdict: i32) -> Result<OwnedFd, Trouble> {
    crate::kernel::make_room_for_maps();
    sys::load_trivial_program(ProgramKind { program, attach, btf_id: 0 }, verdict)
        .map_err(|source| Trouble::new("load a program", source))
}

pub fn xdp_test_run() -> Answer {
    answer(load(XDP, 0, PASS).and_then(|program| {
        let run = sys::test_run(program.as_fd(), &[0; 64], None, 1);
        let run = run.map_err(|source| Trouble::new("run a program over a frame", source))?;
        if run.verdict == PASS.cast_unsigned() {
            Ok("a program was run over a frame".to_owned())
        } else {
            let wrong = format!("it returned {} instead of {PASS}", run.verdict);
            Err(Trouble::new("trust the verdict of a program", io::Error::other(wrong)))
        }
    }))
}

pub fn xdp_live_frames() -> Answer {
    // The program drops what it sees, so that no frame goes anywhere. That it was run says nothing: a kernel that does
    // not know the flag ignores it. Only a run without live frames reports the program's verdict.
    answer(load(XDP, 0, DROP).and_then(|program| match sys::test_run_live(program.as_fd(), &[0; 64]) {
        Ok(verdict) if verdict == DROP.cast_unsigned() => {
            let ignored = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
            Err(Trouble::new("run a live frame: the kernel ran a copy and ignored the flag", ignored))
        }
        Ok(_) => Ok("a live frame was run".to_owned()),
        Err(source) => Err(Trouble::new("run a live frame", source)),
    }))
}

pub fn xdp_native_veth() -> Answer {
    answer(Veth::with(|veth| {
        let program = load(XDP, ATTACH_XDP, PASS)?;
        let link = sys::link_to_interface(program.as_fd(), veth.ifindex, ATTACH_XDP, NATIVE);
        link.map(|_link| "a program was attached natively to a veth interface".to_owned())
            .map_err(|source| Trouble::new("attach an XDP program natively to a veth interface", source))
    }))
}

pub fn tc_clsact() -> Answer {
    answer(Veth::with(|veth| {
        let program = load(SCHED_CLS, 0, 0)?;
        veth.filter_ingress(program.as_fd())?;
        Ok("a program was attached to clsact".to_owned())
    }))
}

pub fn tcx() -> Answer {
    answer(Veth::with(|veth| {
        let program = load(SCHED_CLS, 0, 0)?;
        let link = sys::link_to_interface(program.as_fd(), veth.ifindex, ATTACH_TCX, 0);
        link.map(|_link| "a program was attached by tcx".to_owned())
            .map_err(|source| Trouble::new("attach a program by tcx", source))
    }))
}

pub fn nftables() -> Answer {
    // A table of both families with a hook: what rules are put in.
    const RULES: &str = "table inet probe { chain forward { type filter hook forward priority 0; }; }";
    match Veth::with(|_| Ok(nft::load_rules(RULES))) {
        Ok(Ok(())) => Answer::Yes("a table with a hook was made".to_owned()),
        // nft says in words why it failed; without rights not even the namespace would have been made.
        Ok(Err(error)) => Answer::No(format!("cannot load a rule: {error}")),
        Err(trouble) => trouble.answer(),
    }
}

pub fn netem() -> Answer {
    answer(Veth::with(|veth| veth.add_netem().map(|()| "netem was added to an interface".to_owned())))
}

pub fn netem_seed() -> Answer {
    answer(Veth::with(|veth| {
        veth.add_netem()?;
        if veth.netem_has_seed()? {
            return Ok("netem told its seed".to_owned());
        }
        let ignored = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        Err(Trouble::new("give netem a seed: the kernel knows none", ignored))
    }))
}

pub fn tbf() -> Answer {
    answer(Veth::with(|veth| veth.add_tbf().map(|()| "tbf was added to an interface".to_owned())))
}

/// Whether maps of that type can be made.
pub fn map(kind: MapType) -> Answer {
    crate::kernel::make_room_for_maps();
    match aya::sys::is_map_supported(kind) {
        Ok(true) => Answer::Yes("a map of this type was made".to_owned()),
        Ok(false) => Answer::No("the kernel refuses maps of this type".to_owned()),
        Err(error) => {
            // A lack of memory, and whatever the library does not expect, says nothing about the type; a lack of
            // rights is told apart by `Trouble`.
            let trouble = Trouble::new("make a map of this type", error.io_error);
            match trouble.answer() {
                Answer::No(reason) | Answer::CouldNotTell(reason) => Answer::CouldNotTell(reason),
                yes @ Answer::Yes(_) => yes,
            }
        }
    }
}

pub fn btf() -> Answer {
    match Btf::kernel() {
        Ok(btf) => Answer::Yes(format!("{} types", btf.len())),
        Err(BtfError::Missing(error)) if error.kind() == io::ErrorKind::NotFound => {
            Answer::No(format!("{} does not exist", crate::kernel::btf::KERNEL_BTF))
        }
        Err(error) => Answer::CouldNotTell(chain(&error)),
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

/// Whether a BTF-typed program can be attached to tracepoint `name`.
pub fn tracepoint(name: &str) -> Answer {
    let Ok(btf) = Btf::kernel() else {
        return Answer::CouldNotTell("the kernel shows no BTF, by which tracepoints are found".to_owned());
    };
    let typedef = format!("btf_trace_{name}");
    let Some(btf_id) = btf.named(&typedef).find(|id| matches!(btf.ty(*id), Some(ty) if is_typedef(ty.kind))) else {
        return Answer::No("the kernel has no tracepoint of that name".to_owned());
    };
    let args = btf.tracepoint_args(name).unwrap_or_default();
    answer(trace(TRACE_RAW_TP, btf_id).map(|()| format!("a program was attached; {args} arguments")))
}

fn is_typedef(kind: Kind) -> bool {
    matches!(kind, Kind::Typedef(_))
}

/// Loads a tracing program for a BTF type and attaches it for a moment.
fn trace(attach: u32, btf_id: u32) -> Result<(), Trouble> {
    let program = sys::load_trivial_program(ProgramKind { program: TRACING, attach, btf_id }, 0)
        .map_err(|source| Trouble::new("load a tracing program", source))?;
    sys::attach_tracing(program.as_fd()).map(drop).map_err(|source| Trouble::new("attach a tracing program", source))
}

pub fn fentry() -> Answer {
    let Ok(btf) = Btf::kernel() else {
        return Answer::CouldNotTell("the kernel shows no BTF, by which functions are found".to_owned());
    };
    let function =
        btf.named(FUNCTION).find(|id| matches!(btf.ty(*id), Some(ty) if matches!(ty.kind, Kind::Function(_))));
    let Some(btf_id) = function else {
        return Answer::CouldNotTell(format!("the kernel's BTF has no function {FUNCTION} to try it on"));
    };
    answer(trace(TRACE_FENTRY, btf_id).map(|()| format!("a program was attached to {FUNCTION}")))
}

pub fn kprobes() -> Answer {
    let pmu = match std::fs::read_to_string(KPROBE_PMU) {
        Ok(pmu) => pmu,
        Err(error) if error.kind() == io::ErrorKind::NotFound && std::path::Path::new("/sys/bus").exists() => {
            return Answer::No(format!("{KPROBE_PMU} does not exist"));
        }
        Err(error) => return Answer::CouldNotTell(format!("cannot read {KPROBE_PMU}: {error}")),
    };
    let Ok(pmu) = pmu.trim().parse() else {
        return Answer::CouldNotTell(format!("{KPROBE_PMU} holds no number"));
    };
    let name = CString::new(FUNCTION).unwrap_or_default();
    answer(load(KPROBE, 0, 0).and_then(|_program| {
        let probe = PerfEvent::Probe { pmu, retprobe_bit: None, of: &name, offset: 0, process: None };
        let probe = sys::open_perf_event(probe);
        probe
            .map(|_probe| format!("a probe was set on {FUNCTION}"))
            .map_err(|source| Trouble::new(format!("set a probe on {FUNCTION}"), source))
    }))
}

/// Whether `kfree_skb` passes at least that many arguments.
pub fn kfree_skb_args(at_least: usize) -> Answer {
    let Ok(btf) = Btf::kernel() else {
        return Answer::CouldNotTell("the kernel shows no BTF, by which tracepoints are described".to_owned());
    };
    match btf.tracepoint_args("kfree_skb") {
        Some(args) if args >= at_least => Answer::Yes(format!("kfree_skb has {args} arguments")),
        Some(args) => Answer::No(format!("kfree_skb has {args} arguments, {at_least} are needed")),
        None => Answer::No("the kernel has no tracepoint kfree_skb".to_owned()),
    }
}

/// Whether `/dev/kvm` makes machines. That a whole guest boots is only known by booting one.
pub fn kvm() -> Answer {
    let device = match std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(device) => device,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Answer::No("/dev/kvm does not exist".to_owned());
        }
        Err(error) => return Answer::No(format!("/dev/kvm is present but cannot be opened: {error}")),
    };
    match sys::try_kvm(device.as_fd()) {
        Ok(()) => Answer::Yes("present and makes virtual CPUs (a boot is tried when it comes to it)".to_owned()),
        Err(error) => Answer::No(format!("/dev/kvm is present but broken: no virtual CPU can be made: {error}")),
    }
}
