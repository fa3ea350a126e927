//! Verdicts by name.

use std::fmt;

/// What a program decided about a packet. `Display` gives the kernel's own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// `XDP_ABORTED`, and any number that is none of the others: the kernel treats both alike.
    XdpAborted,
    /// `XDP_DROP`.
    XdpDrop,
    /// `XDP_PASS`.
    XdpPass,
    /// `XDP_TX`.
    XdpTx,
    /// `XDP_REDIRECT`.
    XdpRedirect,
    /// `TC_ACT_UNSPEC`.
    TcUnspec,
    /// `TC_ACT_OK`.
    TcOk,
    /// `TC_ACT_RECLASSIFY`.
    TcReclassify,
    /// `TC_ACT_SHOT`.
    TcShot,
    /// `TC_ACT_PIPE`.
    TcPipe,
    /// `TC_ACT_STOLEN`.
    TcStolen,
    /// `TC_ACT_QUEUED`.
    TcQueued,
    /// `TC_ACT_REPEAT`.
    TcRepeat,
    /// `TC_ACT_REDIRECT`.
    TcRedirect,
    /// `TC_ACT_TRAP`.
    TcTrap,
    /// A control group's program lets the packet pass (1).
    Allow,
    /// A control group's program drops the packet (0).
    Deny,
    /// A socket filter lets the socket have so many bytes of the packet, 0 none of it.
    Keep(u32),
    /// A flow dissector knew the packet (`BPF_OK`).
    Dissected,
    /// A flow dissector refused the packet (`BPF_DROP`).
    DissectorDrop,
    /// A flow dissector left the packet to the kernel's own (`BPF_FLOW_DISSECTOR_CONTINUE`, Linux 6.1).
    DissectorContinue,
    /// A number without a name.
    Other(u32),
}

/// Verdicts of XDP and tc by number (`enum xdp_action` in `include/uapi/linux/bpf.h`, `include/uapi/linux/pkt_cls.h`).
const XDP: [Verdict; 5] =
    [Verdict::XdpAborted, Verdict::XdpDrop, Verdict::XdpPass, Verdict::XdpTx, Verdict::XdpRedirect];
const TC: [Verdict; 9] = [
    Verdict::TcOk,
    Verdict::TcReclassify,
    Verdict::TcShot,
    Verdict::TcPipe,
    Verdict::TcStolen,
    Verdict::TcQueued,
    Verdict::TcRepeat,
    Verdict::TcRedirect,
    Verdict::TcTrap,
];

impl Verdict {
    /// What `number` means as the result of a program of that kind ([`crate::object::section::Kind::name`]).
    #[must_use]
    pub fn of(kind: &str, number: u32) -> Self {
        match (kind, number) {
            ("xdp", _) => XDP.get(number as usize).copied().unwrap_or(Self::XdpAborted),
            ("tc" | "tcx" | "action", u32::MAX) => Self::TcUnspec,
            ("tc" | "tcx" | "action", _) => TC.get(number as usize).copied().unwrap_or(Self::Other(number)),
            // At egress bit 1 says that the network is congested (BPF_PROG_CGROUP_INET_EGRESS_RUN_ARRAY, bpf-cgroup.h).
            ("cgroup_skb", 0..=3) => {
                if number & 1 == 1 {
                    Self::Allow
                } else {
                    Self::Deny
                }
            }
            ("socket_filter", _) => Self::Keep(number),
            ("flow_dissector", 0) => Self::Dissected,
            ("flow_dissector", 2) => Self::DissectorDrop,
            ("flow_dissector", 129) => Self::DissectorContinue,
            _ => Self::Other(number),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::XdpAborted => "XDP_ABORTED",
            Self::XdpDrop => "XDP_DROP",
            Self::XdpPass => "XDP_PASS",
            Self::XdpTx => "XDP_TX",
            Self::XdpRedirect => "XDP_REDIRECT",
            Self::TcUnspec => "TC_ACT_UNSPEC",
            Self::TcOk => "TC_ACT_OK",
            Self::TcReclassify => "TC_ACT_RECLASSIFY",
            Self::TcShot => "TC_ACT_SHOT",
            Self::TcPipe => "TC_ACT_PIPE",
            Self::TcStolen => "TC_ACT_STOLEN",
            Self::TcQueued => "TC_ACT_QUEUED",
            Self::TcRepeat => "TC_ACT_REPEAT",
            Self::TcRedirect => "TC_ACT_REDIRECT",
            Self::TcTrap => "TC_ACT_TRAP",
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Keep(bytes) => return write!(out, "keep {bytes} bytes"),
            Self::Dissected => "BPF_OK",
            Self::DissectorDrop => "BPF_DROP",
            Self::DissectorContinue => "BPF_FLOW_DISSECTOR_CONTINUE",
            Self::Other(number) => return write!(out, "{number}"),
        })
    }
}
