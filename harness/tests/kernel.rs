//! What the probes find on the running kernel, and that they leave nothing behind.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bpflab::kernel::btf::Btf;
use bpflab::kernel::probe::{Found, Requirement, RunMode, Version, contradictions, doctor, unmet};

fn requirement(text: &str) -> Requirement {
    text.parse().unwrap()
}

/// The file names in a folder; none if there is no such folder.
fn names(folder: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn this_machine_can_run_both_modes() {
    // What these tests need themselves: root and a kernel with BTF.
    assert_eq!(unmet(&Requirement::of_mode(RunMode::Lockstep)), []);
    assert_eq!(unmet(&Requirement::of_mode(RunMode::Wire)), []);
}

#[test]
fn no_feature_is_missing_that_the_release_promises() {
    assert_eq!(contradictions(), []);
}

#[test]
fn what_is_missing_is_said_once_with_the_way_to_get_it() {
    let tool = requirement("tool:no-such-tool");
    let missing = unmet(&[tool.clone(), requirement("tool:sh"), tool]);
    let [only] = missing.as_slice() else { panic!("{missing:?}") };
    assert_eq!(only.to_string(), "tool:no-such-tool: no program no-such-tool in PATH (`apt install no-such-tool`)");
    assert!(only.certain && only.contradiction.is_none());

    let missing =
        unmet(&[requirement("kernel <5"), requirement("kernel >=5.10"), requirement("tracepoint:skb/no_such")]);
    let [kernel, tracepoint] = missing.as_slice() else { panic!("{missing:?}") };
    assert_eq!(kernel.to_string(), format!("kernel <5: this is {}", bpflab::kernel::release()));
    assert_eq!(tracepoint.reason, "the kernel has no tracepoint of that name");
}

#[test]
fn a_mode_as_a_requirement_is_all_that_it_needs() {
    assert_eq!(unmet(&[requirement("mode:wire"), requirement("mode:lockstep"), requirement("root")]), []);
}

/// Whether a program of a probe is loaded; another process's probes may be under way.
fn probe_program_is_loaded() -> bool {
    aya::programs::loaded_programs().flatten().any(|program| program.name_as_str() == Some("bpflab_probe"))
}

#[test]
fn the_doctor_tries_everything_and_leaves_nothing() {
    let descriptors = names("/proc/self/fd").len();
    let checks = doctor();
    assert!(names("/sys/class/net").is_disjoint(&["probe", "peer"].map(str::to_owned).into()));
    // The test's other threads may hold a few of their own for a moment; a leak per probe would be dozens.
    assert!(names("/proc/self/fd").len() < descriptors + 10);
    let deadline = Instant::now() + Duration::from_secs(10);
    while probe_program_is_loaded() {
        assert!(Instant::now() < deadline, "a probe's program is still loaded");
        std::thread::yield_now();
    }

    let found = |name: &str| checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("{name}")).found;
    for essential in checks.iter().filter(|check| check.essential) {
        assert_eq!(essential.found, Found::Found, "{essential:?}");
    }
    for name in ["btf", "xdp-native-veth", "tc-clsact", "tracepoint:skb/kfree_skb", "bpf-linker", "libpcap"] {
        assert_eq!(found(name), Found::Found, "{name}");
    }
    assert!(checks.iter().all(|check| !check.detail.is_empty() && !check.costs.is_empty() && !check.get.is_empty()));
    let distinct: BTreeSet<&str> = checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(distinct.len(), checks.len(), "every check has its own name");
}

#[test]
fn probes_agree_with_what_the_kernel_says_of_itself() {
    let has = |text: &str| unmet(&[requirement(text)]).is_empty();
    let btf = Btf::kernel().unwrap();
    assert_eq!(has("drop-reasons"), btf.enum_names("skb_drop_reason").is_some());
    // These functions are the features; a kernel built without them has no such function.
    let release = Version::of_release(&bpflab::kernel::release()).unwrap();
    let at_least = |major, minor| release.against(&Version::series(major, minor)).is_ge();
    assert_eq!(has("kprobes"), std::path::Path::new("/sys/bus/event_source/devices/kprobe").exists());
    assert_eq!(has("netem"), btf.has_function("netem_enqueue") || module_exists("sch_netem"));
    assert_eq!(has("xdp-live-frames"), at_least(5, 18));
    assert_eq!(has("bloom-filter"), at_least(5, 16));
    assert_eq!(has("tcx"), btf.has_function("tcx_link_attach"));
}

fn module_exists(name: &str) -> bool {
    let folder = format!("/lib/modules/{}/modules.dep", bpflab::kernel::release());
    std::fs::read_to_string(folder).is_ok_and(|modules| modules.contains(&format!("/{name}.ko")))
}
