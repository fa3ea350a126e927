//! Hooks: where programs meet packets, or the kernel at work. A hook is data; attaching is [`crate::wire`]'s.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::object::section::Kind;

/// Kinds of hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookKind {
    /// XDP in the driver.
    Xdp,
    /// XDP behind the driver, on any interface.
    XdpGeneric,
    /// tc ingress (clsact).
    TcIngress,
    /// tc egress (clsact).
    TcEgress,
    /// tc ingress by a BPF link, before all of clsact (Linux 6.6).
    TcxIngress,
    /// tc egress by a BPF link (Linux 6.6).
    TcxEgress,
    /// A tracepoint, `category/name`.
    Tracepoint,
    /// A raw tracepoint.
    RawTracepoint,
    /// A raw tracepoint with typed arguments.
    TpBtf,
    /// The start of a function of the kernel.
    Kprobe,
    /// The return of a function of the kernel.
    Kretprobe,
    /// The start of a function of the kernel, with typed arguments.
    Fentry,
    /// The return of a function of the kernel, with typed arguments.
    Fexit,
    /// The return value of a function of the kernel.
    FmodRet,
    /// A security hook.
    Lsm,
    /// A function of a program or library, `path:symbol`; in this process unless `all:` stands in front.
    Uprobe,
    /// The return of such a function.
    Uretprobe,
    /// A control group: whatever the program is for (packets, addresses, sockets, options).
    Cgroup,
    /// The choice of a socket, in a host's network namespace.
    SkLookup,
    /// The flow dissector, in a host's network namespace.
    FlowDissector,
    /// A packet socket at an interface.
    SocketFilter,
    /// None: the program is loaded, for arrays of programs or for test runs.
    None,
}

impl HookKind {
    const NAMES: [(Self, &'static str); 22] = [
        (Self::Xdp, "xdp"),
        (Self::XdpGeneric, "xdp-generic"),
        (Self::TcIngress, "tc-ingress"),
        (Self::TcEgress, "tc-egress"),
        (Self::TcxIngress, "tcx-ingress"),
        (Self::TcxEgress, "tcx-egress"),
        (Self::Tracepoint, "tracepoint"),
        (Self::RawTracepoint, "raw-tracepoint"),
        (Self::TpBtf, "tp-btf"),
        (Self::Kprobe, "kprobe"),
        (Self::Kretprobe, "kretprobe"),
        (Self::Fentry, "fentry"),
        (Self::Fexit, "fexit"),
        (Self::FmodRet, "fmod-ret"),
        (Self::Lsm, "lsm"),
        (Self::Uprobe, "uprobe"),
        (Self::Uretprobe, "uretprobe"),
        (Self::Cgroup, "cgroup"),
        (Self::SkLookup, "sk-lookup"),
        (Self::FlowDissector, "flow-dissector"),
        (Self::SocketFilter, "socket-filter"),
        (Self::None, "none"),
    ];

    /// Its name in scenarios.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(kind, _)| *kind == self).map_or("none", |(_, name)| name)
    }

    /// The hook that a program of that kind goes to where nothing else is said; none for kinds that the lab does not
    /// attach.
    #[must_use]
    pub fn of_program(kind: &Kind, section: &str) -> Option<Self> {
        Some(match kind.name {
            "xdp" => Self::Xdp,
            "tc" | "action" if section.contains("egress") => Self::TcEgress,
            "tc" | "action" => Self::TcIngress,
            "tcx" if section.contains("egress") => Self::TcxEgress,
            "tcx" => Self::TcxIngress,
            "tracepoint" => Self::Tracepoint,
            "raw_tracepoint" => Self::RawTracepoint,
            "tp_btf" => Self::TpBtf,
            "kprobe" => Self::Kprobe,
            "kretprobe" => Self::Kretprobe,
            "fentry" => Self::Fentry,
            "fexit" => Self::Fexit,
            "fmod_ret" => Self::FmodRet,
            "lsm" => Self::Lsm,
            "uprobe" => Self::Uprobe,
            "uretprobe" => Self::Uretprobe,
            "sk_lookup" => Self::SkLookup,
            "flow_dissector" => Self::FlowDissector,
            "socket_filter" => Self::SocketFilter,
            "cgroup_skb" | "cgroup_sock" | "cgroup_sock_addr" | "cgroup_sockopt" | "cgroup_sysctl"
            | "cgroup_device" | "sock_ops" => Self::Cgroup,
            _ => return None,
        })
    }

    /// Kinds of program ([`Kind::name`]) that can be attached there.
    #[must_use]
    pub const fn takes(self) -> &'static [&'static str] {
        match self {
            Self::Xdp | Self::XdpGeneric => &["xdp"],
            Self::TcIngress | Self::TcEgress => &["tc", "tcx", "action"],
            Self::TcxIngress | Self::TcxEgress => &["tc", "tcx"],
            Self::Tracepoint => &["tracepoint"],
            Self::RawTracepoint => &["raw_tracepoint"],
            Self::TpBtf => &["tp_btf"],
            Self::Kprobe => &["kprobe"],
            Self::Kretprobe => &["kretprobe"],
            Self::Fentry => &["fentry"],
            Self::Fexit => &["fexit"],
            Self::FmodRet => &["fmod_ret"],
            Self::Lsm => &["lsm"],
            Self::Uprobe => &["uprobe"],
            Self::Uretprobe => &["uretprobe"],
            Self::Cgroup => &[
                "cgroup_skb",
                "cgroup_sock",
                "cgroup_sock_addr",
                "cgroup_sockopt",
                "cgroup_sysctl",
                "cgroup_device",
                "sock_ops",
            ],
            Self::SkLookup => &["sk_lookup"],
            Self::FlowDissector => &["flow_dissector"],
            Self::SocketFilter => &["socket_filter"],
            Self::None => &[],
        }
    }

    /// Whether packets of a replay meet it in the order of the interface's hooks.
    #[must_use]
    pub const fn is_on_path(self) -> bool {
        matches!(
            self,
            Self::Xdp | Self::XdpGeneric | Self::TcIngress | Self::TcEgress | Self::TcxIngress | Self::TcxEgress
        )
    }
}

impl fmt::Display for HookKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for HookKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((kind, _)) = Self::NAMES.iter().find(|(_, name)| *name == text) {
            return Ok(*kind);
        }
        let names = Self::NAMES.map(|(_, name)| name);
        let hint = crate::scenario::hint::closest(text, names);
        let hint =
            hint.map_or_else(|| format!("hooks are {}", names.join(", ")), |name| format!("did you mean {name}?"));
        Err(format!("there is no hook {text}; {hint}"))
    }
}

/// A hook of one kind at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The kind.
    pub kind: HookKind,
    /// The place: `HOST` or `HOST.INTERFACE` of the topology, the name of a tracepoint, function or symbol. What it is
    /// left out for depends on the kind: all interfaces of the device under test, or what the program's section says.
    pub at: Option<String>,
}

impl Hook {
    /// A hook where its kind goes by itself.
    #[must_use]
    pub const fn new(kind: HookKind) -> Self {
        Self { kind, at: None }
    }

    /// Native XDP on all interfaces of the device under test.
    #[must_use]
    pub const fn xdp() -> Self {
        Self::new(HookKind::Xdp)
    }

    /// tc ingress on all interfaces of the device under test.
    #[must_use]
    pub const fn tc_ingress() -> Self {
        Self::new(HookKind::TcIngress)
    }

    /// tc egress on all interfaces of the device under test.
    #[must_use]
    pub const fn tc_egress() -> Self {
        Self::new(HookKind::TcEgress)
    }

    /// A raw tracepoint with typed arguments.
    #[must_use]
    pub fn btf_tracepoint(name: &str) -> Self {
        Self { kind: HookKind::TpBtf, at: Some(name.to_owned()) }
    }

    /// The same hook at a place.
    #[must_use]
    pub fn at(self, place: &str) -> Self {
        Self { at: Some(place.to_owned()), ..self }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(place) => write!(out, "{} at {place}", self.kind),
            None => write!(out, "{}", self.kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_that_is_read_back() {
        for (kind, name) in HookKind::NAMES {
            assert_eq!(name.parse::<HookKind>().unwrap(), kind);
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
        }
        assert_eq!("xpd".parse::<HookKind>().unwrap_err(), "there is no hook xpd; did you mean xdp?");
    }

    #[test]
    fn a_programs_section_chooses_its_hook() {
        let of = |section: &str| {
            HookKind::of_program(&crate::object::section::parse(section).unwrap().kind, section).map(HookKind::name)
        };
        assert_eq!(of("tc/egress"), Some("tc-egress"));
        assert_eq!(of("tc"), Some("tc-ingress"));
        assert_eq!(of("sockops"), Some("cgroup"));
        assert_eq!(of("lwt_in"), None);
    }
}
