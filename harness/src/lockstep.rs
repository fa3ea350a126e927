//! Lockstep mode: each packet through `BPF_PROG_TEST_RUN`, one after the other, under a virtual clock that reads the
//! capture's timestamps.
//!
//! Nothing is sent and nothing sleeps, so a run is the same to the byte each time and as fast as its packets can be
//! run. The kernel's own stack takes no part: a packet that every program lets pass counts as delivered.

mod audience;

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::capture::{CaptureError, Frame};
use crate::hook::HookKind;
use crate::object::ObjectError;
use crate::observation::{Drop, DropClass, Ledger};
use crate::suite::{self, Loaded, Observer};
use crate::sys;

pub use audience::{Audience, Outcome, Passage, Said};

/// Packets between two looks at the analyzers' rings: few enough for the smallest ring, many enough to cost nothing.
const DRAIN_EVERY: u64 = 64;

/// Verdicts by number (`enum xdp_action` in `include/uapi/linux/bpf.h`).
const XDP_VERDICTS: [&str; 5] = ["XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"];
const XDP_PASS: u32 = 2;
/// `TC_ACT_*` by number (`include/uapi/linux/pkt_cls.h`).
const TC_VERDICTS: [&str; 9] = [
    "TC_ACT_OK",
    "TC_ACT_RECLASSIFY",
    "TC_ACT_SHOT",
    "TC_ACT_PIPE",
    "TC_ACT_STOLEN",
    "TC_ACT_QUEUED",
    "TC_ACT_REPEAT",
    "TC_ACT_REDIRECT",
    "TC_ACT_TRAP",
];
/// The tc verdict after which the packet goes on without the programs that would come next at the same hook.
const TC_OK: u32 = 0;
/// tc verdicts that end a packet's way: `SHOT`, `STOLEN`, `REDIRECT` and `TRAP`. All others but `OK` let the next program
/// decide (`cls_bpf_exec_opcode`, net/sched/cls_bpf.c).
const TC_ENDS: [u32; 4] = [2, 4, 7, 8];

/// Reason given to a frame that `BPF_PROG_TEST_RUN` does not take.
const UNRUNNABLE: &str = "REFUSED_BY_TEST_RUN";

/// Why a lockstep run ended early.
#[derive(Debug, thiserror::Error)]
pub enum LockstepError {
    /// A frame could not be read.
    #[error("cannot read the next frame")]
    Capture(#[from] CaptureError),
    /// An object failed.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The kernel refused to run a program at all.
    #[error("cannot run program {program} over packet {packet} ({len} bytes)")]
    TestRun {
        /// Name of the program.
        program: String,
        /// Number of the packet in the capture.
        packet: u64,
        /// Its length in bytes.
        len: usize,
        /// The kernel's error.
        #[source]
        source: std::io::Error,
    },
}

/// What a lockstep run adds to the analyzers' own findings.
#[derive(Debug, Default)]
pub struct LockstepOutcome {
    /// The account of every packet.
    pub ledger: Ledger,
    /// Packets that a verdict ended, one row per program, verdict and flow.
    pub drops: Vec<Drop>,
    /// Whether the run was stopped from outside.
    pub interrupted: bool,
}

/// The kinds of hook that a packet meets in this mode, in its order. The generic and the driver's XDP are the same here,
/// and so are both ways of attaching to tc.
const ORDER: [&[HookKind]; 5] = [
    &[HookKind::Xdp, HookKind::XdpGeneric],
    &[HookKind::TcxIngress],
    &[HookKind::TcIngress],
    &[HookKind::TcxEgress],
    &[HookKind::TcEgress],
];

struct Step {
    hook: HookKind,
    program: String,
    fd: OwnedFd,
    /// Whose it is.
    observer: usize,
    /// Whether the next program must see what this one left of the packet.
    changes: bool,
}

/// Programs of one direction at tc are one chain, however they were attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Xdp,
    In,
    Out,
}

impl Step {
    fn direction(&self) -> Direction {
        match self.hook {
            HookKind::TcIngress | HookKind::TcxIngress => Direction::In,
            HookKind::TcEgress | HookKind::TcxEgress => Direction::Out,
            _ => Direction::Xdp,
        }
    }
}

/// The programs of `observers` that see packets, in the order in which a packet meets them.
fn steps(observers: &mut [Box<dyn Observer>]) -> Result<Vec<Step>, ObjectError> {
    let mut steps = Vec::new();
    for hooks in ORDER {
        for (number, observer) in observers.iter_mut().enumerate() {
            let changes = observer.changes_packets();
            for attach in observer.attaches().into_iter().filter(|attach| hooks.contains(&attach.hook.kind)) {
                let Loaded { fd, kind, .. } = observer.programs().load(&attach.program, None)?;
                if !attach.hook.kind.takes().contains(&kind) {
                    return Err(ObjectError::Missing {
                        object: observer.programs().object_name().to_owned(),
                        what: format!("program {} for {}: that one is of kind {kind}", attach.program, attach.hook),
                    });
                }
                steps.push(Step { hook: attach.hook.kind, program: attach.program, fd, observer: number, changes });
            }
        }
    }
    Ok(steps)
}

/// Runs every frame that `next` yields through the programs of `observers`; `next` says false at the end.
///
/// `progress` is told the number of packets done, every few packets; `stop` ends the run after the packet under way.
///
/// # Errors
/// A frame that cannot be read, a program that cannot be loaded or run.
pub fn replay(
    observers: &mut [Box<dyn Observer>],
    next: &mut dyn FnMut(&mut Frame) -> Result<bool, CaptureError>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<LockstepOutcome, LockstepError> {
    replay_to(observers, next, &mut |_, _| Ok(()), stop, progress)
}

/// Takes a packet that passed: the frame, and its bytes as the programs left it.
pub type Deliver<'a> = dyn FnMut(&Frame, &[u8]) -> Result<(), CaptureError> + 'a;

struct Receiver<'a, 'b>(&'a mut Deliver<'b>);

impl Audience for Receiver<'_, '_> {
    fn delivered(&mut self, frame: &Frame, left: &[u8]) -> Result<(), CaptureError> {
        (self.0)(frame, left)
    }
}

/// As [`replay`]; every packet that passes is given to `deliver`: the frame, and its bytes as the programs left it.
///
/// # Errors
/// As [`replay`], and those of `deliver`.
pub fn replay_to(
    observers: &mut [Box<dyn Observer>],
    next: &mut dyn FnMut(&mut Frame) -> Result<bool, CaptureError>,
    deliver: &mut Deliver<'_>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<LockstepOutcome, LockstepError> {
    replay_before(observers, next, &mut Receiver(deliver), stop, progress)
}

/// As [`replay`], with an audience.
///
/// # Errors
/// As [`replay`], and those of the audience.
pub fn replay_before(
    observers: &mut [Box<dyn Observer>],
    next: &mut dyn FnMut(&mut Frame) -> Result<bool, CaptureError>,
    audience: &mut dyn Audience,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64),
) -> Result<LockstepOutcome, LockstepError> {
    let steps = steps(observers)?;
    let mut outcome = LockstepOutcome::default();
    let mut ended: BTreeMap<(usize, &str, String), u64> = BTreeMap::new();
    let mut frame = Frame::default();
    let mut buffers = Buffers::default();
    while next(&mut frame)? {
        if stop.load(Ordering::Relaxed) {
            outcome.interrupted = true;
            break;
        }
        for observer in observers.iter() {
            observer.set_clock(frame.time_ns);
        }
        outcome.ledger.offered += 1;
        let end = run_packet(&steps, observers, &frame, &mut buffers)?;
        match end {
            End::Passed => {
                outcome.ledger.delivered += 1;
                audience.delivered(&frame, buffers.left().unwrap_or(&frame.data))?;
            }
            End::Verdict(step, verdict) => {
                outcome.ledger.consumed += 1;
                let by = format!("{verdict} by {}", steps[step].program);
                *outcome.ledger.consumed_by.entry(by).or_default() += 1;
                *ended.entry((step, verdict, crate::flow_name::of(&frame.data))).or_default() += 1;
            }
            End::Unrunnable => {
                outcome.ledger.dropped += 1;
                *outcome.ledger.dropped_by.entry(UNRUNNABLE.to_owned()).or_default() += 1;
            }
        }
        if audience.listens() {
            suite::drain(observers)?;
            let events: Vec<String> = observers.iter_mut().flat_map(|observer| observer.news()).collect();
            tell(audience, &steps, &frame, end, &buffers, &events)?;
        }
        if outcome.ledger.offered.is_multiple_of(DRAIN_EVERY) {
            suite::drain(observers)?;
            progress(outcome.ledger.offered);
        }
    }
    suite::drain(observers)?;
    progress(outcome.ledger.offered);
    outcome.drops = ended
        .into_iter()
        .map(|((step, verdict, flow), packets)| Drop {
            by: if verdict.starts_with("XDP") { "xdp" } else { "tc" }.to_owned(),
            reason: verdict.to_owned(),
            class: DropClass::Verdict,
            place: steps[step].program.clone(),
            host: "dut".to_owned(),
            flow,
            packets,
        })
        .collect();
    Ok(outcome)
}

/// Tells the audience of a packet's way.
fn tell(
    audience: &mut dyn Audience,
    steps: &[Step],
    frame: &Frame,
    end: End,
    buffers: &Buffers,
    events: &[String],
) -> Result<(), CaptureError> {
    let outcome = match end {
        End::Passed => Outcome::Passed,
        End::Verdict(_, verdict) => Outcome::Ended { verdict },
        End::Unrunnable => Outcome::Unrunnable,
    };
    let ends = |step: usize| matches!(end, End::Verdict(last, _) if last == step);
    let said = |(step, verdict): &(usize, &'static str)| {
        let Step { program, changes, .. } = &steps[*step];
        Said { program, verdict, ends: ends(*step), under_test: *changes }
    };
    let verdicts: Vec<Said<'_>> = buffers.verdicts.iter().map(said).collect();
    audience.packet(frame, &Passage { verdicts: &verdicts, outcome, left: buffers.left(), events })
}

/// How a packet's way through the programs ended.
#[derive(Clone, Copy)]
enum End {
    Passed,
    /// By which step, and with what.
    Verdict(usize, &'static str),
    Unrunnable,
}

/// Packets as programs left them. A program may make a packet longer, by what the kernel allows it in front
/// (`XDP_PACKET_HEADROOM`, 256 bytes) and behind (to the end of the page).
#[derive(Debug, Default)]
struct Buffers {
    current: Vec<u8>,
    /// Bytes of the packet in `current`.
    len: usize,
    next: Vec<u8>,
    /// Whether the packet is in `current`, rather than as it was.
    changed: bool,
    /// What the steps have said of it.
    verdicts: Vec<(usize, &'static str)>,
}

impl Buffers {
    /// The packet's bytes, where a program may have changed them.
    fn left(&self) -> Option<&[u8]> {
        self.changed.then(|| &self.current[..self.len])
    }
}

/// Most bytes that a program adds to a packet.
const GROWTH: usize = 4096;

/// Runs one packet through the programs until one ends it.
fn run_packet(
    steps: &[Step],
    observers: &mut [Box<dyn Observer>],
    frame: &Frame,
    buffers: &mut Buffers,
) -> Result<End, LockstepError> {
    buffers.verdicts.clear();
    buffers.changed = false;
    // The hook whose other programs do not see the packet any more.
    let mut decided = None;
    for (index, step) in steps.iter().enumerate() {
        if decided == Some(step.direction()) {
            continue;
        }
        let Buffers { current, len, next, changed, verdicts } = buffers;
        let packet: &[u8] = if *changed { &current[..*len] } else { &frame.data };
        let out = step.changes.then(|| {
            if next.len() < packet.len() + GROWTH {
                next.resize(packet.len() + GROWTH, 0);
            }
            next.as_mut_slice()
        });
        let run = match sys::test_run(step.fd.as_fd(), packet, out, 1) {
            Ok(run) => run,
            // The kernel takes no tc frame without a byte behind the Ethernet header, nor one over about a page
            // (net/bpf/test_run.c, bpf_test_init and convert___skb_to_skb): a property of the packet, not a failure.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE)) => {
                return Ok(End::Unrunnable);
            }
            Err(source) => {
                let (program, packet) = (step.program.clone(), frame.number);
                return Err(LockstepError::TestRun { program, packet, len: frame.data.len(), source });
            }
        };
        let verdict = ends(step.hook, run.verdict);
        let named = verdict.unwrap_or_else(|| passes(step.hook, run.verdict));
        verdicts.push((index, named));
        if step.changes {
            let left = &next[..next.len().min(run.len_out as usize)];
            observers[step.observer].packet(&step.program, named, (frame.number, packet), left);
            *len = left.len();
            std::mem::swap(current, next);
            *changed = true;
        }
        if let Some(verdict) = verdict {
            return Ok(End::Verdict(index, verdict));
        }
        if run.verdict == TC_OK && step.direction() != Direction::Xdp {
            decided = Some(step.direction());
        }
    }
    Ok(End::Passed)
}

/// The name of a verdict that lets a packet pass.
fn passes(hook: HookKind, verdict: u32) -> &'static str {
    match hook {
        HookKind::Xdp | HookKind::XdpGeneric => "XDP_PASS",
        _ if verdict == u32::MAX => "TC_ACT_UNSPEC",
        _ => TC_VERDICTS.get(verdict as usize).copied().unwrap_or("TC_ACT_OK"),
    }
}

/// The name of a verdict that ends a packet's way, or nothing for one that lets it pass.
fn ends(hook: HookKind, verdict: u32) -> Option<&'static str> {
    match hook {
        HookKind::Xdp | HookKind::XdpGeneric if verdict == XDP_PASS => None,
        // The kernel treats an unknown action as XDP_ABORTED (net/core/filter.c, bpf_warn_invalid_xdp_action).
        HookKind::Xdp | HookKind::XdpGeneric => {
            Some(XDP_VERDICTS.get(verdict as usize).copied().unwrap_or("XDP_ABORTED"))
        }
        _ if TC_ENDS.contains(&verdict) => TC_VERDICTS.get(verdict as usize).copied(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_that_end_a_packet_are_named_and_the_others_pass() {
        assert_eq!(ends(HookKind::Xdp, 2), None);
        assert_eq!(ends(HookKind::Xdp, 1), Some("XDP_DROP"));
        assert_eq!(ends(HookKind::Xdp, 77), Some("XDP_ABORTED"));
        assert_eq!(ends(HookKind::TcIngress, u32::MAX), None);
        assert_eq!(ends(HookKind::TcIngress, 0), None);
        assert_eq!(ends(HookKind::TcIngress, 2), Some("TC_ACT_SHOT"));
    }
}
