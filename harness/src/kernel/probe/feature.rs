//! What a kernel may be able to do: one table, which says how to find out, since when it must be there, and what its
//! lack costs.

use std::cmp::Ordering;

use aya::maps::MapType;

use super::{Answer, Build, Version, machine, run};

/// When a feature came, and whether a newer kernel may still be without it.
#[derive(Clone, Copy, Debug)]
pub struct Since {
    /// First release that has it.
    pub version: Version,
    /// The commit that brought it.
    pub commit: &'static str,
}

/// Something that a kernel, or this machine, may be able to do.
#[derive(Debug)]
pub struct Feature {
    /// Its name in scenarios.
    pub name: &'static str,
    /// Whether the lab can do nothing at all without it.
    pub essential: bool,
    /// Since when the kernel has it; nothing for what is not the kernel's to have (rights, mounts).
    pub since: Option<Since>,
    /// What may keep it out of a kernel of any version: a build option, or where it is kept otherwise. A lack is then
    /// no contradiction to `since`.
    pub config: Option<&'static str>,
    /// What is lost without it.
    pub costs: &'static str,
    /// How to get it.
    pub get: &'static str,
    /// The program that it takes, beside the kernel.
    pub tool: Option<&'static str>,
    /// Finds out.
    pub(super) probe: fn() -> Answer,
}

impl PartialEq for Feature {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Feature {}

const fn since(major: u32, minor: u32, commit: &'static str) -> Option<Since> {
    Some(Since { version: Version::series(major, minor), commit })
}

/// A newer kernel than the running one, as the way to get a feature.
const NEWER: &str = "a newer kernel (the VM matrix has some)";

/// All features, in the order in which `doctor` shows them.
pub static FEATURES: [Feature; 25] = [
    Feature {
        name: "root",
        essential: true,
        since: None,
        config: None,
        costs: "everything: programs, namespaces and interfaces need it",
        get: "run as root (`sudo`); in a container, with `--privileged` or `--cap-add SYS_ADMIN,NET_ADMIN,NET_RAW`",
        tool: None,
        probe: machine::root,
    },
    Feature {
        name: "bpf",
        essential: true,
        since: since(4, 8, "6a773a15a1e8"),
        config: Some("CONFIG_BPF_SYSCALL"),
        costs: "everything",
        get: "a kernel built with CONFIG_BPF_SYSCALL=y; in a container, one that allows the bpf system call",
        tool: None,
        probe: run::bpf,
    },
    Feature {
        name: "xdp-test-run",
        essential: true,
        since: since(4, 12, "1cf1cae963c2"),
        config: Some("CONFIG_NET"),
        costs: "lockstep mode",
        get: NEWER,
        tool: None,
        probe: run::xdp_test_run,
    },
    Feature {
        name: "ring-buffer",
        essential: true,
        since: since(5, 8, "457f44363a88"),
        config: None,
        costs: "every program that reports events: protocols, tcp_state, recorded frames",
        get: NEWER,
        tool: None,
        probe: || run::map(MapType::RingBuf),
    },
    Feature {
        name: "btf",
        essential: false,
        since: since(5, 4, "341dfcf8d78e"),
        config: Some("CONFIG_DEBUG_INFO_BTF"),
        costs: "kernel drops with reason and place, socket states, and so wire mode",
        get: "a kernel built with CONFIG_DEBUG_INFO_BTF=y (Debian's are), and /sys mounted",
        tool: None,
        probe: run::btf,
    },
    Feature {
        name: "bpf-jit",
        essential: false,
        since: since(3, 0, "0a14842f5a3c"),
        config: Some("CONFIG_BPF_JIT"),
        costs: "speed: programs are interpreted, about ten times slower",
        get: "`sysctl net.core.bpf_jit_enable=1`, or a kernel built with CONFIG_BPF_JIT=y",
        tool: None,
        probe: machine::jit,
    },
    Feature {
        name: "xdp-native-veth",
        essential: false,
        since: since(4, 19, "948d4f214fde"),
        config: Some("CONFIG_VETH"),
        costs: "wire mode",
        get: "a kernel built with CONFIG_VETH; `modprobe veth`",
        tool: None,
        probe: run::xdp_native_veth,
    },
    Feature {
        name: "tc-clsact",
        essential: false,
        since: since(4, 5, "1f211a1b929c"),
        config: Some("CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS"),
        costs: "wire mode",
        get: "a kernel built with CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS; `modprobe cls_bpf sch_ingress`",
        tool: None,
        probe: run::tc_clsact,
    },
    Feature {
        name: "drop-reasons",
        essential: false,
        since: since(5, 17, "c504e5c2f964"),
        config: None,
        costs: "the kernel's reasons of drops; the places remain",
        get: NEWER,
        tool: None,
        probe: || run::kfree_skb_args(3),
    },
    Feature {
        name: "drop-rx-socket",
        essential: false,
        since: since(6, 11, "c53795d48ee8"),
        config: None,
        costs: "certainty about which host dropped a packet that a socket had already taken",
        get: NEWER,
        tool: None,
        probe: || run::kfree_skb_args(4),
    },
    Feature {
        name: "xdp-live-frames",
        essential: false,
        since: since(5, 18, "b530e9e1063e"),
        config: None,
        costs: "the fastest injector; frames are sent by packet socket instead",
        get: NEWER,
        tool: None,
        probe: run::xdp_live_frames,
    },
    Feature {
        name: "tcx",
        essential: false,
        since: since(6, 6, "e420bed02507"),
        config: Some("CONFIG_NET_XGRESS"),
        costs: "scenarios with tcx programs; tc programs are attached by clsact",
        get: NEWER,
        tool: None,
        probe: run::tcx,
    },
    Feature {
        name: "kprobes",
        essential: false,
        since: since(4, 17, "e12f03d7031a"),
        config: Some("CONFIG_KPROBE_EVENTS"),
        costs: "programs at kernel functions",
        get: "a kernel built with CONFIG_KPROBE_EVENTS=y (the VM matrix has some)",
        tool: None,
        probe: run::kprobes,
    },
    Feature {
        name: "fentry",
        essential: false,
        since: since(5, 5, "fec56f5890d9"),
        config: Some("CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS"),
        costs: "BTF-typed programs at kernel functions",
        get: "a kernel built with CONFIG_FUNCTION_TRACER=y and CONFIG_DYNAMIC_FTRACE=y (the VM matrix has some)",
        tool: None,
        probe: run::fentry,
    },
    Feature {
        name: "netem",
        essential: false,
        since: since(2, 6, "1da177e4c3f4"),
        config: Some("CONFIG_NET_SCH_NETEM"),
        costs: "delay, loss, reordering, duplicates, corruption and rates on links",
        get: "a kernel built with CONFIG_NET_SCH_NETEM; `modprobe sch_netem`",
        tool: None,
        probe: run::netem,
    },
    Feature {
        name: "netem-seed",
        essential: false,
        since: since(6, 6, "4072d97ddc44"),
        config: Some("CONFIG_NET_SCH_NETEM"),
        costs: "the same losses, delays and duplicates in every run",
        get: NEWER,
        tool: None,
        probe: run::netem_seed,
    },
    Feature {
        name: "tbf",
        essential: false,
        since: since(2, 6, "1da177e4c3f4"),
        config: Some("CONFIG_NET_SCH_TBF"),
        costs: "rates with bursts on links",
        get: "a kernel built with CONFIG_NET_SCH_TBF; `modprobe sch_tbf`",
        tool: None,
        probe: run::tbf,
    },
    Feature {
        name: "nftables",
        essential: false,
        since: since(3, 13, "96518518cc41"),
        config: Some("CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET, and the program nft"),
        costs: "scenarios with rules of the packet filter",
        get: "`apt install nftables`, and a kernel built with CONFIG_NF_TABLES; `modprobe nf_tables`",
        tool: Some("nft"),
        probe: run::nftables,
    },
    Feature {
        name: "bloom-filter",
        essential: false,
        since: since(5, 16, "9330986c0300"),
        config: None,
        costs: "scenarios with bloom filter maps",
        get: NEWER,
        tool: None,
        probe: || run::map(MapType::BloomFilter),
    },
    Feature {
        name: "user-ring-buffer",
        essential: false,
        since: since(6, 1, "583c1f420173"),
        config: None,
        costs: "scenarios with user ring buffers",
        get: NEWER,
        tool: None,
        probe: || run::map(MapType::UserRingBuf),
    },
    Feature {
        name: "arena",
        essential: false,
        since: since(6, 9, "317460317a02"),
        config: Some("CONFIG_MMU and a 64-bit JIT"),
        costs: "scenarios with arenas",
        get: NEWER,
        tool: None,
        probe: || run::map(MapType::Arena),
    },
    Feature {
        name: "bpffs",
        essential: false,
        since: None,
        config: None,
        costs: "objects that pin their maps or programs by name",
        get: "`mount -t bpf bpf /sys/fs/bpf`",
        tool: None,
        probe: machine::bpffs,
    },
    Feature {
        name: "tracefs",
        essential: false,
        since: None,
        config: None,
        costs: "tracepoint programs that are not BTF-typed",
        get: "a kernel built with CONFIG_EVENT_TRACING",
        tool: None,
        probe: machine::tracefs,
    },
    Feature {
        name: "cgroup2",
        essential: false,
        since: None,
        config: None,
        costs: "cgroup programs",
        get: "`mount -t cgroup2 cgroup2 /sys/fs/cgroup`",
        tool: None,
        probe: machine::cgroup2,
    },
    Feature {
        name: "kvm",
        essential: false,
        since: None,
        config: None,
        costs: "speed of the VM matrix: guests are emulated, about ten times slower",
        get: "a machine with /dev/kvm that this user may open (nested virtualisation, group kvm)",
        tool: None,
        probe: run::kvm,
    },
];

impl Feature {
    /// The feature of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        FEATURES.iter().find(|feature| feature.name == name)
    }

    /// What is wrong if this feature is missing on `kernel`: a declaration that does not hold, and so a failure rather
    /// than a reason to skip. Nothing if the kernel is older than the feature, or was or may have been built without it.
    #[must_use]
    pub fn contradiction(&self, kernel: &Version, build: Build<'_>) -> Option<String> {
        let since = self.since.filter(|since| kernel.against(&since.version) != Ordering::Less)?;
        let missing = format!("declared since {} ({}), missing on {kernel}", since.version, since.commit);
        match (self.config, build) {
            (None, _) => Some(missing),
            (Some(_), Build::Unknown) => None,
            (Some(_), Build::Listed(lacks)) if lacks.contains_key(self.name) => None,
            (Some(config), Build::Listed(_)) => Some(format!(
                "{missing}; {config} decides about it, and the list of kernels does not say that this one `lacks` it"
            )),
        }
    }

    /// What is remarkable if this feature is there on `kernel`: nothing, unless the kernel is older than the feature.
    #[must_use]
    pub fn early(&self, kernel: &Version) -> Option<String> {
        let since = self.since?;
        (kernel.against(&since.version) == Ordering::Less).then(|| {
            format!("declared since {} ({}): a backport, or a probe that is fooled", since.version, since.commit)
        })
    }
}
