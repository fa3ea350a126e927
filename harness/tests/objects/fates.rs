//! Programs that end every packet. Each packet is accounted for in both modes, under the name of who ended it.

use rstest::rstest;
use serde_json::Value;

use crate::support::Lab;

/// Packets of the capture.
const PACKETS: u64 = 16;

/// The account of a run with one program at one hook of the device under test.
fn ledger(mode: &str, attach: &str) -> (Value, Value) {
    let lab = Lab::new();
    let object = lab.of_repository("harness/tests/objects/fates.bpf.c");
    let ended = lab.replay(&object, &["--mode", mode, "--attach", attach, "--json"]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
    let document = ended.document();
    (document["ledger"].clone(), document["drops"].clone())
}

#[track_caller]
fn adds_up(ledger: &Value) {
    let number = |name: &str| ledger[name].as_u64().unwrap();
    assert_eq!(number("offered"), PACKETS, "{ledger}");
    assert_eq!(number("unaccounted"), 0, "{ledger}");
    assert_eq!(number("delivered") + number("dropped") + number("consumed"), PACKETS, "{ledger}");
}

#[rstest]
#[case::drop("xdp:xdp_drop", "XDP_DROP by xdp_drop")]
#[case::aborted("xdp:xdp_aborted", "XDP_ABORTED by xdp_aborted")]
#[case::unknown_verdict("xdp:xdp_unknown", "XDP_ABORTED by xdp_unknown")]
#[case::sent_back("xdp:xdp_back", "XDP_TX by xdp_back")]
#[case::to_no_interface("xdp:xdp_nowhere", "XDP_REDIRECT by xdp_nowhere")]
#[case::by_an_empty_map("xdp:xdp_empty_map", "XDP_DROP by xdp_empty_map")]
#[case::shot("tc-ingress:tc_shot", "TC_ACT_SHOT by tc_shot")]
#[case::shot_on_the_way_out("tc-egress:tc_shot", "TC_ACT_SHOT by tc_shot")]
#[case::stolen("tc-egress:tc_stolen", "TC_ACT_STOLEN by tc_stolen")]
fn a_packet_that_a_program_ends_is_its(
    #[values("lockstep", "wire")] mode: &str,
    #[case] attach: &str,
    #[case] expected: &str,
) {
    let (ledger, drops) = ledger(mode, attach);
    adds_up(&ledger);
    assert_eq!(ledger["consumed"], PACKETS, "{ledger}");
    assert_eq!(ledger["consumed_by"][expected], PACKETS, "{ledger}");
    let listed: u64 = drops.as_array().unwrap().iter().map(|drop| drop["packets"].as_u64().unwrap()).sum();
    assert_eq!(listed, PACKETS, "{drops}");
}

/// A test run only asks for the verdict. On the wire the kernel looks for the interface, finds none and drops.
#[rstest]
#[case::ingress("tc-ingress:tc_nowhere")]
#[case::egress("tc-egress:tc_nowhere")]
fn a_packet_redirected_to_no_interface_is_accounted_for(
    #[values("lockstep", "wire")] mode: &str,
    #[case] attach: &str,
) {
    let (ledger, _) = ledger(mode, attach);
    adds_up(&ledger);
    assert_eq!(ledger["delivered"], 0, "{ledger}");
}

/// At tc ingress a stolen packet and one that the host took in look the same to the kernel.
#[rstest]
fn a_packet_stolen_at_ingress_is_accounted_for(#[values("lockstep", "wire")] mode: &str) {
    let (ledger, _) = ledger(mode, "tc-ingress:tc_stolen");
    adds_up(&ledger);
}
