use super::*;
use crate::object::{Clock, LoadOptions, suite};
use crate::suite::Analyzer as _;
use crate::suite::flows::Flows;
use crate::suite::tcp_state::TcpState;

/// Logs as kernels print them: 5.10 with three functions, 6.18 with one, 7.3 with two.
const OLD: &str = "verification time 136549 usec\nstack depth 64+0+32\nprocessed 411 insns (limit 1000000) \
                   max_states_per_insn 2 total_states 19 peak_states 19 mark_read 5\n";
const MIDDLE: &str = "verification time 4021 usec\nstack depth 336\nprocessed 80268 insns (limit 1000000) \
                      max_states_per_insn 11 total_states 1890 peak_states 730 mark_read 0\n";
const NEW: &str = "verification time 13675 usec\nstack depth max 80\nsubprog 0 (a stack of) main insns_self 4 \
                   insns_total 7 stack 16\nsubprog 1 (<unknown>) static insns_self 3 insns_total 3 stack 48\nprocessed \
                   7 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0\n";

#[test]
fn statistics_of_every_form_are_read() {
    let parse = |log: &str| Statistics::parse(log).map(|found| (found.instructions, found.stack_bytes));
    assert_eq!(parse(OLD), Ok((411, 96)));
    assert_eq!(parse(MIDDLE), Ok((80_268, 336)));
    // The deepest chain is rounded up; the functions' own numbers are 16 and 48.
    assert_eq!(parse(NEW), Ok((7, 64)));
    assert_eq!(parse("stack depth max 80\nprocessed 7 insns (limit 1000000)\n"), Ok((7, 80)));
    // What stands before the end is not meant.
    assert_eq!(parse(&format!("processed 1 insns\nstack depth 8\n{MIDDLE}")), Ok((80_268, 336)));
}

#[test]
fn what_is_missing_from_a_log_is_said() {
    let error = |log: &str| Statistics::parse(log).unwrap_err();
    assert_eq!(error(""), "the verifier's log has no line `processed`");
    assert_eq!(error("processed 7 insns\n"), "the verifier's log has no line `stack depth`");
    assert_eq!(error("stack depth 8\nprocessed many insns\n"), "the verifier's log has no number in `many insns`");
    for stack in ["", "8+", "-8", "8+4294967295", "about 8", "max "] {
        let log = format!("stack depth {stack}\nprocessed 7 insns\n");
        assert!(error(&log).starts_with("the verifier's log has no "), "{stack}");
    }
}

#[test]
fn of_a_refusal_the_last_words_are_kept() {
    let log = format!("R1 invalid mem access 'scalar'\n{NEW}");
    let error = io::Error::from_raw_os_error(13);
    assert_eq!(refusal(&error, &log), "Permission denied (os error 13): R1 invalid mem access 'scalar'");
    assert_eq!(refusal(&error, NEW), "Permission denied (os error 13)");
}

fn entry<'a>(costs: &'a [ProgramCost], program: &str) -> &'a ProgramCost {
    costs.iter().find(|cost| cost.program == program).unwrap()
}

/// What the kernel says that verifying a program took which aya loaded; nothing before 5.16 (aba64c7da983).
fn verified_by_aya(object: &mut Object, program: &str, tracing: Option<&str>) -> Option<u64> {
    let tracing = tracing.map(|target| (target, kernel::aya_btf().unwrap()));
    object.load_program(program, tracing).unwrap();
    let info = object.ebpf.program(program).unwrap().info().unwrap();
    info.verified_instruction_count().map(u64::from)
}

#[test]
fn the_kernel_counts_as_many_instructions_for_what_aya_loads() {
    // The clocks are globals that the verifier folds: other ones are other programs.
    let mut counts = Vec::new();
    for clock in [Clock::Virtual, Clock::Capture] {
        let mut flows = Flows::load(clock, &Default::default()).unwrap();
        let mut tcp = TcpState::load(clock, &Default::default()).unwrap();
        let traced = [("sock_state", "inet_sock_set_state")];
        for (object, elf, programs) in [
            (flows.object_mut(), suite::FLOWS, [("flows_xdp", None), ("flows_ingress", None)]),
            (tcp.object_mut(), suite::TCP_STATE, [("tcp_state_ingress", None), (traced[0].0, Some(traced[0].1))]),
        ] {
            let costs = measure(object, elf, &traced, &|_| true).unwrap();
            for (program, tracing) in programs {
                let measured = entry(&costs, program);
                assert_eq!(measured.reason, None, "{program}");
                if let Some(verified) = verified_by_aya(object, program, tracing) {
                    assert_eq!(measured.instructions, verified, "{program} by the {clock:?} clock");
                }
                counts.push(measured.instructions);
            }
        }
    }
    assert_ne!(counts[..4], counts[4..], "what is measured is what is set");
}

#[test]
fn a_program_without_a_place_has_a_reason_and_so_has_one_that_is_nowhere() {
    let object = Object::load("drops", suite::DROPS, &LoadOptions::default()).unwrap();
    let reason = |targets: &[(&str, &str)]| {
        let costs = measure(&object, suite::DROPS, targets, &|program| program == "kfree_skb").unwrap();
        costs[0].reason.clone().unwrap()
    };
    assert_eq!(reason(&[]), "it is attached to nothing on this kernel");
    assert_eq!(reason(&[("kfree_skb", "no_such")]), "no_such: the kernel has none of that name");
    // Of several candidates the first that the kernel takes counts.
    let mut drops = crate::suite::drops::Drops::load(Clock::Capture, &Default::default()).unwrap();
    let targets = [("kfree_skb", "no_such"), ("kfree_skb", "kfree_skb")];
    let costs = measure(drops.object_mut(), suite::DROPS, &targets, &|_| true).unwrap();
    assert_eq!(entry(&costs, "kfree_skb").reason, None);
}

#[test]
fn code_of_another_object_is_an_error() {
    let object = Object::load("drops", suite::DROPS, &LoadOptions::default()).unwrap();
    let error = measure(&object, suite::TCP_STATE, &[], &|_| true).unwrap_err();
    assert_eq!(error.to_string(), "cannot relocate object drops to measure it");
    assert!(measure(&object, b"no ELF", &[], &|_| true).is_err());
    let costs = unavailable("drops", suite::DROPS, "no types");
    assert_eq!(entry(&costs, "kfree_skb").reason.as_deref(), Some("no types"));
}
