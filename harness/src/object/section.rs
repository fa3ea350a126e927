//! From the name of the section that a program stands in to what the kernel must know of it, as libbpf and aya name
//! sections (`Documentation/bpf/libbpf/program_types.rst`).

use aya_obj::generated::{bpf_attach_type as attach, bpf_prog_type as kind};

use crate::kernel::probe::Version;

/// `BPF_F_SLEEPABLE` of `include/uapi/linux/bpf.h`.
const SLEEPABLE: u32 = 1 << 4;
/// `BPF_F_XDP_HAS_FRAGS`.
const XDP_HAS_FRAGS: u32 = 1 << 5;
/// Attach types that are newer than the loader's list (`enum bpf_attach_type`, since 6.6).
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
/// `BPF_PROG_TYPE_NETFILTER` (6.4) with `BPF_NETFILTER`.
const NETFILTER: (u32, u32) = (32, 45);
/// `BPF_TRACE_KPROBE_MULTI` (5.18), `BPF_TRACE_UPROBE_MULTI` (6.6), `BPF_TRACE_KPROBE_SESSION` (6.10).
const KPROBE_MULTI: u32 = 42;
const UPROBE_MULTI: u32 = 48;

/// What the part of a section's name behind the first slash means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nothing: where the program goes is said when it is attached.
    None,
    /// A tracepoint, `category/name`.
    Tracepoint,
    /// A tracepoint by name alone.
    RawTracepoint,
    /// A function of the kernel, with `+offset` perhaps.
    Function,
    /// `path:symbol`, with `+offset` perhaps.
    Symbol,
    /// A name in the kernel's types: what stands before it there, and whether it is a typedef rather than a function.
    Btf {
        /// `btf_trace_`, `bpf_lsm_`, `bpf_iter_`, or nothing.
        prefix: &'static str,
        /// A tracepoint's typedef.
        typedef: bool,
    },
}

/// A kind of program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// `BPF_PROG_TYPE_*`.
    pub program: u32,
    /// `BPF_*` of `enum bpf_attach_type` that the program is loaded for.
    pub attach: u32,
    /// `BPF_F_*` of program loads.
    pub flags: u32,
    /// Its name as the lab writes it: `xdp`, `tc`, `fentry`, ...
    pub name: &'static str,
    /// What its section's name goes on with.
    pub target: Target,
    /// First kernel that has it, if that is after 5.10.
    pub since: Option<(u32, u32)>,
}

impl Kind {
    const fn new(name: &'static str, program: kind, attach: attach) -> Self {
        Self { program: program as u32, attach: attach as u32, flags: 0, name, target: Target::None, since: None }
    }

    const fn at(self, target: Target) -> Self {
        Self { target, ..self }
    }

    const fn flags(self, flags: u32) -> Self {
        Self { flags, ..self }
    }

    const fn attach(self, attach: u32) -> Self {
        Self { attach, ..self }
    }

    const fn since(self, major: u32, minor: u32) -> Self {
        Self { since: Some((major, minor)), ..self }
    }

    /// Whether the kernel must know what it is attached to when it is loaded.
    #[must_use]
    pub const fn is_typed(&self) -> bool {
        matches!(self.target, Target::Btf { .. })
    }

    /// The first kernel that has it, if that is after 5.10.
    #[must_use]
    pub fn first_kernel(&self) -> Option<Version> {
        self.since.map(|(major, minor)| Version::series(major, minor))
    }
}

const NO_ATTACH: attach = attach::BPF_CGROUP_INET_INGRESS;
const XDP: Kind = Kind::new("xdp", kind::BPF_PROG_TYPE_XDP, attach::BPF_XDP);
const TC: Kind = Kind::new("tc", kind::BPF_PROG_TYPE_SCHED_CLS, NO_ATTACH);
const KPROBE: Kind = Kind::new("kprobe", kind::BPF_PROG_TYPE_KPROBE, NO_ATTACH).at(Target::Function);
const KRETPROBE: Kind = Kind { name: "kretprobe", ..KPROBE };
const UPROBE: Kind = Kind::new("uprobe", kind::BPF_PROG_TYPE_KPROBE, NO_ATTACH).at(Target::Symbol);
const URETPROBE: Kind = Kind { name: "uretprobe", ..UPROBE };
const TRACEPOINT: Kind = Kind::new("tracepoint", kind::BPF_PROG_TYPE_TRACEPOINT, NO_ATTACH).at(Target::Tracepoint);
const RAW_TRACEPOINT: Kind =
    Kind::new("raw_tracepoint", kind::BPF_PROG_TYPE_RAW_TRACEPOINT, NO_ATTACH).at(Target::RawTracepoint);
const FUNCTION: Target = Target::Btf { prefix: "", typedef: false };
const FENTRY: Kind = Kind::new("fentry", kind::BPF_PROG_TYPE_TRACING, attach::BPF_TRACE_FENTRY).at(FUNCTION);
const FEXIT: Kind = Kind::new("fexit", kind::BPF_PROG_TYPE_TRACING, attach::BPF_TRACE_FEXIT).at(FUNCTION);
const FMOD_RET: Kind = Kind::new("fmod_ret", kind::BPF_PROG_TYPE_TRACING, attach::BPF_MODIFY_RETURN).at(FUNCTION);
const LSM: Kind = Kind::new("lsm", kind::BPF_PROG_TYPE_LSM, attach::BPF_LSM_MAC)
    .at(Target::Btf { prefix: "bpf_lsm_", typedef: false });
const ITER: Kind = Kind::new("iter", kind::BPF_PROG_TYPE_TRACING, attach::BPF_TRACE_ITER)
    .at(Target::Btf { prefix: "bpf_iter_", typedef: false });
const TP_BTF: Kind = Kind::new("tp_btf", kind::BPF_PROG_TYPE_TRACING, attach::BPF_TRACE_RAW_TP)
    .at(Target::Btf { prefix: "btf_trace_", typedef: true });
const SOCK_ADDR: kind = kind::BPF_PROG_TYPE_CGROUP_SOCK_ADDR;

/// Kinds by the first part of their section's name; aya's own spellings come after libbpf's.
static KINDS: &[(&str, Kind)] = &[
    ("xdp", XDP),
    ("xdp.frags", XDP.flags(XDP_HAS_FRAGS).since(5, 18)),
    ("xdp/devmap", XDP.attach(attach::BPF_XDP_DEVMAP as u32)),
    ("xdp/cpumap", XDP.attach(attach::BPF_XDP_CPUMAP as u32)),
    ("xdp.frags/devmap", XDP.attach(attach::BPF_XDP_DEVMAP as u32).flags(XDP_HAS_FRAGS).since(5, 18)),
    ("xdp.frags/cpumap", XDP.attach(attach::BPF_XDP_CPUMAP as u32).flags(XDP_HAS_FRAGS).since(5, 18)),
    ("tc", TC),
    ("classifier", TC),
    ("action", Kind::new("action", kind::BPF_PROG_TYPE_SCHED_ACT, NO_ATTACH)),
    ("tcx/ingress", Kind { name: "tcx", ..TC.attach(TCX_INGRESS) }.since(6, 6)),
    ("tcx/egress", Kind { name: "tcx", ..TC.attach(TCX_EGRESS) }.since(6, 6)),
    ("kprobe", KPROBE),
    ("kretprobe", KRETPROBE),
    ("kprobe.multi", KPROBE.attach(KPROBE_MULTI).since(5, 18)),
    ("kretprobe.multi", KRETPROBE.attach(KPROBE_MULTI).since(5, 18)),
    ("ksyscall", KPROBE),
    ("kretsyscall", KRETPROBE),
    ("uprobe", UPROBE),
    ("uretprobe", URETPROBE),
    ("uprobe.s", UPROBE.flags(SLEEPABLE)),
    ("uretprobe.s", URETPROBE.flags(SLEEPABLE)),
    ("uprobe.multi", UPROBE.attach(UPROBE_MULTI).since(6, 6)),
    ("uretprobe.multi", URETPROBE.attach(UPROBE_MULTI).since(6, 6)),
    ("usdt", UPROBE),
    ("tracepoint", TRACEPOINT),
    ("tp", TRACEPOINT),
    ("raw_tracepoint", RAW_TRACEPOINT),
    ("raw_tp", RAW_TRACEPOINT),
    ("raw_tracepoint.w", Kind { program: kind::BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE as u32, ..RAW_TRACEPOINT }),
    ("raw_tp.w", Kind { program: kind::BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE as u32, ..RAW_TRACEPOINT }),
    ("tp_btf", TP_BTF),
    ("fentry", FENTRY),
    ("fentry.s", FENTRY.flags(SLEEPABLE)),
    ("fexit", FEXIT),
    ("fexit.s", FEXIT.flags(SLEEPABLE)),
    ("fmod_ret", FMOD_RET),
    ("fmod_ret.s", FMOD_RET.flags(SLEEPABLE)),
    ("lsm", LSM),
    ("lsm.s", LSM.flags(SLEEPABLE)),
    ("lsm_cgroup", LSM.attach(attach::BPF_LSM_CGROUP as u32).since(6, 0)),
    ("iter", ITER),
    ("iter.s", ITER.flags(SLEEPABLE)),
    ("syscall", Kind::new("syscall", kind::BPF_PROG_TYPE_SYSCALL, NO_ATTACH).flags(SLEEPABLE).since(5, 14)),
    ("perf_event", Kind::new("perf_event", kind::BPF_PROG_TYPE_PERF_EVENT, NO_ATTACH)),
    ("socket", Kind::new("socket_filter", kind::BPF_PROG_TYPE_SOCKET_FILTER, NO_ATTACH)),
    ("sk_lookup", Kind::new("sk_lookup", kind::BPF_PROG_TYPE_SK_LOOKUP, attach::BPF_SK_LOOKUP)),
    ("sk_reuseport", Kind::new("sk_reuseport", kind::BPF_PROG_TYPE_SK_REUSEPORT, attach::BPF_SK_REUSEPORT_SELECT)),
    (
        "sk_reuseport/migrate",
        Kind::new("sk_reuseport", kind::BPF_PROG_TYPE_SK_REUSEPORT, attach::BPF_SK_REUSEPORT_SELECT_OR_MIGRATE)
            .since(5, 14),
    ),
    ("sk_msg", Kind::new("sk_msg", kind::BPF_PROG_TYPE_SK_MSG, attach::BPF_SK_MSG_VERDICT)),
    ("sk_skb", Kind::new("sk_skb", kind::BPF_PROG_TYPE_SK_SKB, NO_ATTACH)),
    ("sk_skb/stream_parser", Kind::new("sk_skb", kind::BPF_PROG_TYPE_SK_SKB, attach::BPF_SK_SKB_STREAM_PARSER)),
    ("sk_skb/stream_verdict", Kind::new("sk_skb", kind::BPF_PROG_TYPE_SK_SKB, attach::BPF_SK_SKB_STREAM_VERDICT)),
    ("sk_skb/verdict", Kind::new("sk_skb", kind::BPF_PROG_TYPE_SK_SKB, attach::BPF_SK_SKB_VERDICT).since(5, 13)),
    ("sockops", Kind::new("sock_ops", kind::BPF_PROG_TYPE_SOCK_OPS, attach::BPF_CGROUP_SOCK_OPS)),
    ("flow_dissector", Kind::new("flow_dissector", kind::BPF_PROG_TYPE_FLOW_DISSECTOR, attach::BPF_FLOW_DISSECTOR)),
    ("netfilter", Kind { program: NETFILTER.0, attach: NETFILTER.1, name: "netfilter", ..TC }.since(6, 4)),
    ("lwt_in", Kind::new("lwt_in", kind::BPF_PROG_TYPE_LWT_IN, NO_ATTACH)),
    ("lwt_out", Kind::new("lwt_out", kind::BPF_PROG_TYPE_LWT_OUT, NO_ATTACH)),
    ("lwt_xmit", Kind::new("lwt_xmit", kind::BPF_PROG_TYPE_LWT_XMIT, NO_ATTACH)),
    ("lwt_seg6local", Kind::new("lwt_seg6local", kind::BPF_PROG_TYPE_LWT_SEG6LOCAL, NO_ATTACH)),
    ("cgroup/skb", Kind::new("cgroup_skb", kind::BPF_PROG_TYPE_CGROUP_SKB, NO_ATTACH)),
    ("cgroup_skb", Kind::new("cgroup_skb", kind::BPF_PROG_TYPE_CGROUP_SKB, NO_ATTACH)),
    ("cgroup_skb/ingress", Kind::new("cgroup_skb", kind::BPF_PROG_TYPE_CGROUP_SKB, attach::BPF_CGROUP_INET_INGRESS)),
    ("cgroup_skb/egress", Kind::new("cgroup_skb", kind::BPF_PROG_TYPE_CGROUP_SKB, attach::BPF_CGROUP_INET_EGRESS)),
    (
        "cgroup/sock_create",
        Kind::new("cgroup_sock", kind::BPF_PROG_TYPE_CGROUP_SOCK, attach::BPF_CGROUP_INET_SOCK_CREATE),
    ),
    ("cgroup/sock", Kind::new("cgroup_sock", kind::BPF_PROG_TYPE_CGROUP_SOCK, attach::BPF_CGROUP_INET_SOCK_CREATE)),
    (
        "cgroup/sock_release",
        Kind::new("cgroup_sock", kind::BPF_PROG_TYPE_CGROUP_SOCK, attach::BPF_CGROUP_INET_SOCK_RELEASE),
    ),
    (
        "cgroup/post_bind4",
        Kind::new("cgroup_sock", kind::BPF_PROG_TYPE_CGROUP_SOCK, attach::BPF_CGROUP_INET4_POST_BIND),
    ),
    (
        "cgroup/post_bind6",
        Kind::new("cgroup_sock", kind::BPF_PROG_TYPE_CGROUP_SOCK, attach::BPF_CGROUP_INET6_POST_BIND),
    ),
    ("cgroup/bind4", Kind::new("cgroup_sock_addr", SOCK_ADDR, attach::BPF_CGROUP_INET4_BIND)),
    ("cgroup/bind6", Kind::new("cgroup_sock_addr", SOCK_ADDR, attach::BPF_CGROUP_INET6_BIND)),
    ("cgroup/connect4", Kind::new("cgroup_sock_addr", SOCK_ADDR, attach::BPF_CGROUP_INET4_CONNECT)),
    ("cgroup/connect6", Kind::new("cgroup_sock_addr", SOCK_ADDR, attach::BPF_CGROUP_INET6_CONNECT)),
    ("cgroup/sendmsg4", Kind::new("cgroup_sock_addr", SOCK_ADDR, attach::BPF_CGROUP_UDP4_SENDMSG)),
    ("cgroup/sendmsg6", Kind::new("cgroup_sock_addr", SOCK_ADDR, attach::BPF_CGROUP_UDP6_SENDMSG)),
    ("cgroup/recvmsg4", Kind::new("cgroup_sock_addr", SOCK_ADDR, attach::BPF_CGROUP_UDP4_RECVMSG)),
    ("cgroup/recvmsg6", Kind::new("cgroup_sock_addr", SOCK_ADDR, attach::BPF_CGROUP_UDP6_RECVMSG)),
    ("cgroup/getpeername4", Kind::new("cgroup_sock_addr", SOCK_ADDR, attach::BPF_CGROUP_INET4_GETPEERNAME)),
    ("cgroup/getpeername6", Kind::new("cgroup_sock_addr", SOCK_ADDR, attach::BPF_CGROUP_INET6_GETPEERNAME)),
    ("cgroup/getsockname4", Kind::new("cgroup_sock_addr", SOCK_ADDR, attach::BPF_CGROUP_INET4_GETSOCKNAME)),
    ("cgroup/getsockname6", Kind::new("cgroup_sock_addr", SOCK_ADDR, attach::BPF_CGROUP_INET6_GETSOCKNAME)),
    ("cgroup/sysctl", Kind::new("cgroup_sysctl", kind::BPF_PROG_TYPE_CGROUP_SYSCTL, attach::BPF_CGROUP_SYSCTL)),
    ("cgroup/dev", Kind::new("cgroup_device", kind::BPF_PROG_TYPE_CGROUP_DEVICE, attach::BPF_CGROUP_DEVICE)),
    (
        "cgroup/getsockopt",
        Kind::new("cgroup_sockopt", kind::BPF_PROG_TYPE_CGROUP_SOCKOPT, attach::BPF_CGROUP_GETSOCKOPT),
    ),
    (
        "cgroup/setsockopt",
        Kind::new("cgroup_sockopt", kind::BPF_PROG_TYPE_CGROUP_SOCKOPT, attach::BPF_CGROUP_SETSOCKOPT),
    ),
];

/// A section's name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section<'a> {
    /// What it is loaded as.
    pub kind: Kind,
    /// What it is attached to, as far as the name says: a function, a tracepoint, `path:symbol`.
    pub target: Option<&'a str>,
}

/// Why a section's programs cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectionError {
    /// Something that is not loaded by itself.
    #[error("section {0} holds {1}")]
    NotAlone(String, &'static str),
    /// A name that nobody defines.
    #[error("section {0} names no kind of program")]
    Unknown(String),
}

/// What the section of that name holds. A question mark in front, which makes a program optional for libbpf, means
/// nothing here.
///
/// # Errors
/// [`SectionError`] for names that stand for nothing that can be loaded.
pub fn parse(name: &str) -> Result<Section<'_>, SectionError> {
    let plain = name.trim_start_matches('?');
    let alone = |what| Err(SectionError::NotAlone(name.to_owned(), what));
    match plain.split('/').next().unwrap_or_default() {
        "freplace" => return alone("a program that replaces a function of another one (freplace)"),
        "struct_ops" | "struct_ops.s" => return alone("functions of a table that the kernel calls (struct_ops)"),
        _ => {}
    }
    // The longest name that fits: `xdp/devmap` is not `xdp` with a target.
    let fits = |prefix: &str| plain == prefix || plain.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
    let found = KINDS.iter().filter(|(prefix, _)| fits(prefix)).max_by_key(|(prefix, _)| prefix.len());
    let Some((prefix, kind)) = found else { return Err(SectionError::Unknown(name.to_owned())) };
    let rest = plain[prefix.len()..].trim_start_matches('/');
    // For kinds without a target the rest is a name for the reader.
    let target = (!rest.is_empty() && kind.target != Target::None).then_some(rest);
    Ok(Section { kind: *kind, target })
}

/// Names of kinds that a program can be attached as, for messages.
#[must_use]
pub fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = KINDS.iter().map(|(_, kind)| kind.name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_decides_and_the_rest_is_the_target() {
        let parsed = parse("fentry/tcp_close").unwrap();
        assert_eq!((parsed.kind.name, parsed.target), ("fentry", Some("tcp_close")));
        assert_eq!(parse("xdp").unwrap().kind, XDP);
        assert_eq!(parse("xdp/devmap").unwrap().kind.attach, attach::BPF_XDP_DEVMAP as u32);
        assert_eq!(parse("tp/sched/sched_switch").unwrap().target, Some("sched/sched_switch"));
        assert_eq!(parse("tc").unwrap().target, None);
        assert_eq!(parse("tc/ingress").unwrap().kind.name, "tc");
        assert_eq!(parse("?xdp.frags").unwrap().kind.flags, XDP_HAS_FRAGS);
        assert_eq!(parse("xdpx"), Err(SectionError::Unknown("xdpx".to_owned())));
        assert!(parse("struct_ops/init").unwrap_err().to_string().contains("struct_ops"));
    }

    #[test]
    fn typed_programs_name_their_types_prefix() {
        assert!(parse("tp_btf/kfree_skb").unwrap().kind.is_typed());
        assert!(!parse("raw_tp/kfree_skb").unwrap().kind.is_typed());
    }
}
