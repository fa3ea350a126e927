//! From the section that a program stands in to what `BPF_PROG_LOAD` wants to know of it; as aya does it when it loads
//! one.

use aya_obj::ProgramSection;
use aya_obj::btf::BtfKind;
use aya_obj::generated::{bpf_attach_type, bpf_prog_type};

use crate::kernel;

/// `BPF_F_SLEEPABLE` of `include/uapi/linux/bpf.h`.
const SLEEPABLE: u32 = 1 << 4;
/// `BPF_F_XDP_HAS_FRAGS`.
const XDP_HAS_FRAGS: u32 = 1 << 5;
/// `BPF_CGROUP_INET_INGRESS`, which is 0: what kinds without an attach type have.
const NONE: bpf_attach_type = bpf_attach_type::BPF_CGROUP_INET_INGRESS;

/// How a program is loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) program: bpf_prog_type,
    pub(crate) attach: bpf_attach_type,
    pub(crate) flags: u32,
    /// For a program that belongs to a place in the kernel: what stands before the place's name in BTF, and as what.
    pub(crate) target: Option<(&'static str, BtfKind)>,
}

impl Kind {
    const fn new(program: bpf_prog_type, attach: bpf_attach_type) -> Self {
        Self { program, attach, flags: 0, target: None }
    }

    const fn sleepable(self, sleepable: bool) -> Self {
        Self { flags: if sleepable { SLEEPABLE } else { 0 }, ..self }
    }

    const fn at(self, prefix: &'static str, kind: BtfKind) -> Self {
        Self { target: Some((prefix, kind)), ..self }
    }

    /// The type in the kernel's BTF of the tracepoint or function `target`; 0 where the kind has none.
    pub(crate) fn btf_id(&self, target: &str) -> Result<u32, String> {
        let Some((prefix, kind)) = self.target else { return Ok(0) };
        let btf = kernel::aya_btf().map_err(|error| crate::error::chain(&error))?;
        let id = btf.id_by_type_name_kind(&format!("{prefix}{target}"), kind);
        id.map_err(|_| "the kernel has none of that name".to_owned())
    }
}

/// How a program of `section` is loaded.
///
/// # Errors
/// Why it cannot be loaded by itself, as a sentence.
pub(crate) fn kind(section: &ProgramSection) -> Result<Kind, String> {
    use ProgramSection as S;
    use bpf_attach_type as a;
    use bpf_prog_type as p;
    Ok(match section {
        S::KProbe | S::KRetProbe => Kind::new(p::BPF_PROG_TYPE_KPROBE, NONE),
        S::UProbe { sleepable } | S::URetProbe { sleepable } => {
            Kind::new(p::BPF_PROG_TYPE_KPROBE, NONE).sleepable(*sleepable)
        }
        S::TracePoint => Kind::new(p::BPF_PROG_TYPE_TRACEPOINT, NONE),
        S::RawTracePoint => Kind::new(p::BPF_PROG_TYPE_RAW_TRACEPOINT, NONE),
        S::PerfEvent => Kind::new(p::BPF_PROG_TYPE_PERF_EVENT, NONE),
        S::SocketFilter => Kind::new(p::BPF_PROG_TYPE_SOCKET_FILTER, NONE),
        S::SchedClassifier => Kind::new(p::BPF_PROG_TYPE_SCHED_CLS, NONE),
        S::Xdp { frags, attach_type } => Kind {
            flags: if *frags { XDP_HAS_FRAGS } else { 0 },
            ..Kind::new(p::BPF_PROG_TYPE_XDP, (*attach_type).into())
        },
        S::SkMsg => Kind::new(p::BPF_PROG_TYPE_SK_MSG, a::BPF_SK_MSG_VERDICT),
        S::SkSkbStream { .. } => Kind::new(p::BPF_PROG_TYPE_SK_SKB, NONE),
        S::SkLookup => Kind::new(p::BPF_PROG_TYPE_SK_LOOKUP, a::BPF_SK_LOOKUP),
        S::SkReuseport { attach_type } => Kind::new(p::BPF_PROG_TYPE_SK_REUSEPORT, (*attach_type).into()),
        S::SockOps => Kind::new(p::BPF_PROG_TYPE_SOCK_OPS, a::BPF_CGROUP_SOCK_OPS),
        S::CgroupSkb { attach_type } => Kind::new(p::BPF_PROG_TYPE_CGROUP_SKB, attach_type.map_or(NONE, Into::into)),
        S::CgroupSock { attach_type } => Kind::new(p::BPF_PROG_TYPE_CGROUP_SOCK, (*attach_type).into()),
        S::CgroupSockAddr { attach_type } => Kind::new(p::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, (*attach_type).into()),
        S::CgroupSockopt { attach_type } => Kind::new(p::BPF_PROG_TYPE_CGROUP_SOCKOPT, (*attach_type).into()),
        S::CgroupSysctl => Kind::new(p::BPF_PROG_TYPE_CGROUP_SYSCTL, a::BPF_CGROUP_SYSCTL),
        S::CgroupDevice => Kind::new(p::BPF_PROG_TYPE_CGROUP_DEVICE, a::BPF_CGROUP_DEVICE),
        S::LircMode2 => Kind::new(p::BPF_PROG_TYPE_LIRC_MODE2, a::BPF_LIRC_MODE2),
        S::FlowDissector => Kind::new(p::BPF_PROG_TYPE_FLOW_DISSECTOR, a::BPF_FLOW_DISSECTOR),
        S::BtfTracePoint => Kind::new(p::BPF_PROG_TYPE_TRACING, a::BPF_TRACE_RAW_TP).at("btf_trace_", BtfKind::Typedef),
        S::FEntry { sleepable } => {
            Kind::new(p::BPF_PROG_TYPE_TRACING, a::BPF_TRACE_FENTRY).sleepable(*sleepable).at("", BtfKind::Func)
        }
        S::FExit { sleepable } => {
            Kind::new(p::BPF_PROG_TYPE_TRACING, a::BPF_TRACE_FEXIT).sleepable(*sleepable).at("", BtfKind::Func)
        }
        S::Iter { sleepable } => {
            Kind::new(p::BPF_PROG_TYPE_TRACING, a::BPF_TRACE_ITER).sleepable(*sleepable).at("bpf_iter_", BtfKind::Func)
        }
        S::Lsm { sleepable } => {
            Kind::new(p::BPF_PROG_TYPE_LSM, a::BPF_LSM_MAC).sleepable(*sleepable).at("bpf_lsm_", BtfKind::Func)
        }
        S::LsmCgroup => Kind::new(p::BPF_PROG_TYPE_LSM, a::BPF_LSM_CGROUP).at("bpf_lsm_", BtfKind::Func),
        S::Extension => return Err("an extension is loaded for another program, of which nothing is known".to_owned()),
    })
}
