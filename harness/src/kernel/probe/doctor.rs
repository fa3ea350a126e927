//! What this machine has and lacks, for a person who wants to know.

use serde::Serialize;

use super::feature::FEATURES;
use super::{Answer, Requirement, Version, answer_of, machine, tools};

/// Oldest kernel that the lab is made for.
const OLDEST: Version = Version::series(5, 10);

/// Whether something is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    /// It is there.
    Found,
    /// It is not.
    Missing,
    /// That could not be found out.
    CouldNotTell,
}

/// One prerequisite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is, by the name that scenarios use where they can require it.
    pub name: String,
    /// Whether it is there.
    pub found: Found,
    /// What was found, or why not.
    pub detail: String,
    /// What is lost without it.
    pub costs: String,
    /// How to get it.
    pub get: String,
    /// Whether the lab can do nothing at all without it.
    pub essential: bool,
}

impl Check {
    fn new(name: &str, answer: Answer, costs: &str, get: &str) -> Self {
        let (found, detail) = match answer {
            Answer::Yes(detail) => (Found::Found, detail),
            Answer::No(reason) => (Found::Missing, reason),
            Answer::CouldNotTell(reason) => (Found::CouldNotTell, reason),
        };
        let (name, costs, get) = (name.to_owned(), costs.to_owned(), get.to_owned());
        Self { name, found, detail, costs, get, essential: false }
    }
}

/// Every prerequisite of the lab, the most important first. Takes up to a second, since most are tried.
#[must_use]
pub fn doctor() -> Vec<Check> {
    let mut checks = vec![kernel()];
    for feature in &FEATURES {
        let answer = answer_of(&Requirement::Feature(feature));
        let mut check = Check::new(feature.name, answer, feature.costs, feature.get);
        if check.found == Found::Found
            && let Some(early) = super::running().and_then(|kernel| feature.early(&kernel))
        {
            check.detail = format!("{} ({early})", check.detail);
        }
        checks.push(Check { essential: feature.essential, ..check });
    }
    checks.extend(tracepoints());
    checks.push(Check::new(
        "memlock",
        machine::memlock(),
        "maps of any size, and so everything, on kernels before 5.11",
        "run as root, or `ulimit -l unlimited` before the lab is started",
    ));
    checks.extend(environment());
    checks
}

fn kernel() -> Check {
    let release = crate::kernel::release();
    let answer = match Version::of_release(&release) {
        Some(version) if version.against(&OLDEST).is_ge() => Answer::Yes(release),
        Some(_) => Answer::No(format!("{release} is older than {OLDEST}")),
        None => Answer::CouldNotTell(format!("`{release}` is not a release")),
    };
    let check = Check::new("kernel", answer, "everything: the programs use what 5.10 has", "a kernel of 5.10 or newer");
    Check { essential: true, ..check }
}

/// The tracepoints that the suite's programs are attached to.
fn tracepoints() -> impl Iterator<Item = Check> {
    let costs = |name: &str| match name {
        "kfree_skb" => "kernel drops, and so wire mode",
        "consume_skb" => "the account of packets that the device under test took in, and so wire mode",
        _ => "the kernel's own TCP states, and so wire mode",
    };
    Requirement::of_mode(super::RunMode::Wire).into_iter().filter_map(move |requirement| match &requirement {
        Requirement::Tracepoint { name, .. } => {
            let get = "a kernel built with CONFIG_DEBUG_INFO_BTF=y and CONFIG_BPF_EVENTS=y";
            Some(Check::new(&requirement.to_string(), answer_of(&requirement), costs(name), get))
        }
        _ => None,
    })
}

/// What the lab's other parts call.
fn environment() -> Vec<Check> {
    let tool = |name: &str, costs: &str| {
        let get = tools::how_to_get(name);
        Check::new(name, tools::tool(name), costs, &get)
    };
    vec![
        tool("vng", "the VM matrix by virtme-ng"),
        tool("qemu-system-x86_64", "the VM matrix"),
        tool("virtiofsd", "shared folders of the VM matrix's guests"),
        tool("busybox", "restored guests (`--runner fast`)"),
        tool("mke2fs", "restored guests (`--runner fast`)"),
        Check::new(
            "bpf-linker",
            tools::tool("bpf-linker"),
            "building the lab's programs from source",
            "`cargo install bpf-linker`",
        ),
        Check::new(
            "nightly rustc",
            tools::nightly(),
            "building the lab's programs from source",
            "`rustup toolchain install nightly --component rust-src`",
        ),
        Check::new("libpcap", tools::libpcap(), "building the lab from source", "`apt install libpcap-dev`"),
        tool("clang", "scenarios whose programs are C sources, which need libbpf-dev for its headers as well"),
        tool("tcpdump", "recording captures by hand"),
        tool("tshark", "comparing the lab's reports with another reader's"),
    ]
}
