//! From what the ledger's programs noted about a packet to where it ended. Pure; the maps are elsewhere.

use bpflab_programs::ledger::{Fate, LEFT_CLIENT};

use crate::kernel::reasons::UNKNOWN;
use crate::sys::TcDirection;

/// Whether a drop with a reason of this name can be a tc program's verdict: the kernel says so (Linux 5.17 and later),
/// or it says nothing.
pub(super) fn may_be_verdict(reason: &str) -> bool {
    reason == UNKNOWN || reason == "NOT_SPECIFIED" || reason.starts_with("TC_")
}

/// What was attached at one interface of the device under test, as far as it decides how a fate is read.
#[derive(Clone, Debug, Default)]
pub(super) struct AtSide {
    /// The XDP program under test.
    pub(super) xdp: Option<String>,
    /// The tc ingress programs in their order, those of tcx first.
    pub(super) ingress: Vec<String>,
    /// How many of them are of tcx.
    pub(super) ingress_tcx: usize,
    /// The tc egress programs in their order, those of tcx first.
    pub(super) egress: Vec<String>,
    /// How many of them are of tcx.
    pub(super) egress_tcx: usize,
}

impl AtSide {
    /// The tc programs of a direction, and how many of them are of tcx.
    pub(super) fn chain(&mut self, direction: TcDirection) -> (&mut Vec<String>, &mut usize) {
        match direction {
            TcDirection::Ingress => (&mut self.ingress, &mut self.ingress_tcx),
            TcDirection::Egress => (&mut self.egress, &mut self.egress_tcx),
        }
    }
}

/// The same of both sides.
#[derive(Clone, Debug, Default)]
pub(super) struct Programs(pub(super) [AtSide; 2]);

/// Where a packet ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End<'a> {
    /// It left the device under test; sides as in `Fate::left`.
    Left(u8),
    /// A program ended it.
    Verdict { hook: &'static str, verdict: &'static str, program: &'a str },
    /// The device under test took it in.
    Local,
    /// The kernel gave it up.
    Dropped {
        reason: u32,
        location: u64,
        /// The side by whose queue it was about to leave; sides as in `Fate::left`, 0 for none.
        queue: u8,
    },
    /// Not known yet.
    Open(Progress),
}

/// How far a packet came whose end is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// It was sent, but XDP at the device under test has not seen it.
    Sent,
    /// XDP saw it, tc did not, and no program could have ended it.
    Xdp,
    /// It passed tc ingress; the kernel holds it (in a queue of a socket, neighbour or reassembly).
    Stack,
    /// A tc program changed its mark, so that it could not be followed any further.
    Remarked,
}

impl std::fmt::Display for Progress {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Sent => "sent, but not seen by XDP at the device under test",
            Self::Xdp => "seen by XDP, but not by tc ingress",
            Self::Stack => "held by the kernel after tc ingress",
            Self::Remarked => "lost sight of after a tc program changed its mark",
        })
    }
}

/// Where the packet of `fate` ended. Meant for a packet that nothing is busy with: the NAPI poll that took it in is over.
/// `is_verdict` tells whether a drop's reason can be a tc program's verdict, `is_queue` whether a reason and a place are
/// those of a queueing discipline.
///
/// A program that returns `TC_ACT_OK` ends the chain of tc programs like one that drops, but the packet goes on; so a
/// chain cut short says nothing by itself, and what happened afterwards decides.
///
/// `side` is the one that the packet came from.
pub(super) fn end<'a>(
    fate: &Fate,
    side: usize,
    programs: &'a Programs,
    is_verdict: impl Fn(u32) -> bool,
    is_queue: impl Fn(u32, u64) -> bool,
) -> End<'a> {
    if fate.left != 0 {
        // tc comes before the queue. Of a packet that left by both sides it is not known which copy was dropped.
        let queued = fate.left.is_power_of_two() && fate.dropped != 0 && is_queue(fate.reason, fate.location);
        return if queued {
            End::Dropped { reason: fate.reason, location: fate.location, queue: fate.left }
        } else {
            End::Left(fate.left)
        };
    }
    if fate.seen_xdp == 0 {
        return End::Open(Progress::Sent);
    }
    if fate.seen_egress != 0
        && let Some(program) = programs.0[egress_side(fate)].egress.get(usize::from(fate.egress_passed))
    {
        return match (fate.dropped, fate.consumed) {
            (0, 0) => End::Left(fate.seen_egress),
            (0, _) => End::Verdict { hook: "tc egress", verdict: "TC_ACT_STOLEN", program },
            _ => End::Verdict { hook: "tc egress", verdict: "TC_ACT_SHOT", program },
        };
    }
    if fate.seen_tc == 0 {
        return before_tc(fate, &programs.0[side]);
    }
    let cut_by = programs.0[side].ingress.get(usize::from(fate.tc_passed));
    match (fate.dropped, fate.consumed, cut_by) {
        (0, 0, Some(program)) => End::Verdict { hook: "tc", verdict: "TC_ACT_REDIRECT", program },
        (0, 0, None) if fate.remarked != 0 => End::Open(Progress::Remarked),
        (0, 0, None) => End::Open(Progress::Stack),
        (0, _, _) => End::Local,
        (_, _, Some(program)) if is_verdict(fate.reason) => {
            End::Verdict { hook: "tc", verdict: "TC_ACT_SHOT", program }
        }
        _ => End::Dropped { reason: fate.reason, location: fate.location, queue: 0 },
    }
}

/// The side by which a packet was about to leave.
fn egress_side(fate: &Fate) -> usize {
    usize::from(fate.seen_egress & LEFT_CLIENT == 0)
}

fn before_tc<'a>(fate: &Fate, programs: &'a AtSide) -> End<'a> {
    if fate.dropped != 0 {
        return End::Dropped { reason: fate.reason, location: fate.location, queue: 0 };
    }
    let Some(program) = &programs.xdp else { return End::Open(Progress::Xdp) };
    // By 1 + `enum xdp_action`. Sending a packet back is the one verdict that leaves no trace of its own.
    let verdict = match fate.xdp_verdict {
        1 => "XDP_ABORTED",
        2 => "XDP_DROP",
        5 => "XDP_REDIRECT",
        _ => "XDP_TX",
    };
    End::Verdict { hook: "xdp", verdict, program }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs() -> Programs {
        let side = AtSide {
            xdp: Some("x".into()),
            ingress: vec!["a".into(), "b".into()],
            egress: vec!["e".into()],
            ..AtSide::default()
        };
        Programs([side.clone(), side])
    }

    /// On a kernel where 2 is `NOT_SPECIFIED`, 3 `NO_SOCKET` and 73 `TC_INGRESS`.
    fn is_verdict(reason: u32) -> bool {
        may_be_verdict(match reason {
            2 => "NOT_SPECIFIED",
            3 => "NO_SOCKET",
            73 => "TC_INGRESS",
            _ => UNKNOWN,
        })
    }

    /// Where 9 is `QDISC_DROP`.
    fn is_queue(reason: u32, _location: u64) -> bool {
        reason == 9
    }

    const PASSED: Fate = Fate {
        seen_xdp: 1,
        seen_tc: 1,
        tc_passed: 2,
        xdp_verdict: 0,
        seen_egress: 0,
        egress_passed: 0,
        left: 0,
        dropped: 0,
        consumed: 0,
        remarked: 0,
        reserved: [0; 2],
        reason: 0,
        location: 0,
    };

    #[track_caller]
    fn check(fate: Fate, expected: End<'_>) {
        assert_eq!(end(&fate, 0, &programs(), is_verdict, is_queue), expected);
    }

    fn verdict(hook: &'static str, verdict: &'static str, program: &'static str) -> End<'static> {
        End::Verdict { hook, verdict, program }
    }

    #[test]
    fn what_left_has_left_even_if_a_clone_was_dropped() {
        check(Fate { left: 2, dropped: 1, reason: 3, ..PASSED }, End::Left(2));
    }

    #[test]
    fn a_queue_may_drop_what_has_left() {
        check(Fate { left: 2, dropped: 1, reason: 9, ..PASSED }, End::Dropped { reason: 9, location: 0, queue: 2 });
        // Both copies left, and one of them is gone: the packet has arrived, as far as is known.
        check(Fate { left: 3, dropped: 1, reason: 9, ..PASSED }, End::Left(3));
    }

    #[test]
    fn xdp_verdicts() {
        let seen = Fate { seen_tc: 0, tc_passed: 0, ..PASSED };
        check(Fate { xdp_verdict: 2, ..seen }, verdict("xdp", "XDP_DROP", "x"));
        check(Fate { xdp_verdict: 1, ..seen }, verdict("xdp", "XDP_ABORTED", "x"));
        check(Fate { xdp_verdict: 5, ..seen }, verdict("xdp", "XDP_REDIRECT", "x"));
        check(seen, verdict("xdp", "XDP_TX", "x"));
        check(Fate { dropped: 1, reason: 2, ..seen }, End::Dropped { reason: 2, location: 0, queue: 0 });
        let none = Programs::default();
        assert_eq!(end(&seen, 0, &none, is_verdict, is_queue), End::Open(Progress::Xdp));
    }

    #[test]
    fn a_shot_packet_is_a_verdict_and_names_the_program() {
        let cut = Fate { tc_passed: 1, dropped: 1, ..PASSED };
        check(Fate { reason: 73, ..cut }, verdict("tc", "TC_ACT_SHOT", "b"));
        check(Fate { reason: 0, ..cut }, verdict("tc", "TC_ACT_SHOT", "b"));
        check(Fate { tc_passed: 0, reason: 2, ..cut }, verdict("tc", "TC_ACT_SHOT", "a"));
        // TC_ACT_OK cut the chain; the stack dropped the packet for a reason of its own.
        check(Fate { reason: 3, ..cut }, End::Dropped { reason: 3, location: 0, queue: 0 });
        // The same reason after all programs have passed it is the kernel's.
        check(Fate { dropped: 1, reason: 2, ..PASSED }, End::Dropped { reason: 2, location: 0, queue: 0 });
    }

    #[test]
    fn egress_programs_end_packets_or_cut_the_chain_with_ok() {
        let out = Fate { seen_egress: 2, ..PASSED };
        check(out, End::Left(2));
        check(Fate { dropped: 1, ..out }, verdict("tc egress", "TC_ACT_SHOT", "e"));
        check(Fate { egress_passed: 1, left: 2, ..out }, End::Left(2));
    }

    #[test]
    fn what_the_stack_holds_is_open() {
        check(PASSED, End::Open(Progress::Stack));
        check(Fate { remarked: 1, ..PASSED }, End::Open(Progress::Remarked));
        check(Fate { consumed: 1, ..PASSED }, End::Local);
        check(Fate::default(), End::Open(Progress::Sent));
    }
}
