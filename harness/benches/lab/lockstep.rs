//! Lockstep mode with the whole suite, against what the kernel's test-run costs without any of it.

use std::convert::Infallible;
use std::error::Error;
use std::os::fd::AsFd as _;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use aya::programs::ProgramFd;
use bpflab::capture::Frame;
use bpflab::hook::HookKind;
use bpflab::object::{Clock, LoadOptions, Object, suite};
use bpflab::suite::Observer;
use bpflab::suite::drops::{Drops, DropsSettings};
use bpflab::suite::flows::{Flows, FlowsSettings};
use bpflab::suite::protocols::{Protocols, ProtocolsSettings};
use bpflab::suite::tcp_state::{TcpState, TcpStateSettings};
use bpflab::{lockstep, sys};

use crate::Effort;
use crate::report::{Report, median, rate};

/// All analyzers of the suite, new.
pub fn analyzers(clock: Clock) -> Result<Vec<Box<dyn Observer>>, Box<dyn Error>> {
    Ok(vec![
        Box::new(Flows::load(clock, &FlowsSettings::default())?),
        Box::new(TcpState::load(clock, &TcpStateSettings::default())?),
        Box::new(Protocols::load(clock, &ProtocolsSettings::default())?),
        Box::new(Drops::load(clock, &DropsSettings::default())?),
    ])
}

/// The object of the programs to compare with.
pub fn baseline() -> Result<Object, Box<dyn Error>> {
    Ok(Object::load("baseline", suite::BASELINE, &LoadOptions::default())?)
}

/// Loads the programs that see packets, as a replay would, and counts those of XDP and those of tc.
fn load_programs(analyzers: &mut [Box<dyn Observer>]) -> Result<(usize, usize), Box<dyn Error>> {
    let (mut xdp, mut tc) = (0, 0);
    for analyzer in analyzers {
        for attach in analyzer.attaches() {
            match attach.hook.kind {
                HookKind::Xdp => xdp += 1,
                HookKind::TcIngress | HookKind::TcEgress => tc += 1,
                _ => continue,
            }
            analyzer.programs().load(&attach.program, None)?;
        }
    }
    Ok((xdp, tc))
}

/// Empty programs of the same kinds, in the same order.
fn bare(programs: &[ProgramFd], frames: &[Frame]) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    for frame in frames {
        for program in programs {
            sys::test_run(program.as_fd(), &frame.data, None, 1)?;
        }
    }
    Ok(start.elapsed().as_secs_f64())
}

/// The lab's lockstep mode over the same frames; every one must go through every program.
fn lab(frames: &[Frame]) -> Result<f64, Box<dyn Error>> {
    let mut analyzers = analyzers(Clock::Virtual)?;
    load_programs(&mut analyzers)?;
    let mut rest = frames.iter();
    let start = Instant::now();
    let outcome = lockstep::replay(
        &mut analyzers,
        &mut |to| {
            let Some(frame) = rest.next() else { return Ok(false) };
            to.data.clear();
            to.data.extend_from_slice(&frame.data);
            (to.number, to.time_ns, to.wire_len, to.side) = (frame.number, frame.time_ns, frame.wire_len, frame.side);
            Ok(true)
        },
        &AtomicBool::new(false),
        &mut |_| {},
    )?;
    let seconds = start.elapsed().as_secs_f64();
    if outcome.ledger.delivered != frames.len() as u64 {
        return Err(format!("not every frame went through every program: {:?}", outcome.ledger).into());
    }
    Ok(seconds)
}

/// Frames that the kernel takes for test-run at both hooks; a frame without a byte behind its header is none.
fn runnable(frames: Vec<Frame>, programs: &[ProgramFd]) -> Vec<Frame> {
    let runs = |frame: &Frame| programs.iter().all(|fd| sys::test_run(fd.as_fd(), &frame.data, None, 1).is_ok());
    frames.into_iter().filter(runs).collect()
}

/// Prints and records the comparison.
pub fn run(report: &mut Report, captures: &[Vec<Frame>], effort: Effort) -> Result<(), Box<dyn Error>> {
    let mut object = baseline()?;
    let (empty, empty_tc) = (object.load_program("empty", None)?, object.load_program("empty_tc", None)?);
    let (xdp, tc) = load_programs(&mut analyzers(Clock::Virtual)?)?;
    let clone = |fd: &ProgramFd| fd.try_clone();
    let programs = std::iter::repeat_n(&empty, xdp)
        .chain(std::iter::repeat_n(&empty_tc, tc))
        .map(clone)
        .collect::<Result<Vec<_>, _>>()?;
    let all = crate::frames::repeated(captures, effort.frames);
    let offered = all.len();
    let frames = runnable(all, &[empty, empty_tc]);
    let runs = (frames.len() * programs.len()) as u64;
    bare(&programs, &frames[..frames.len() / 10])?;
    let (mut bare_rates, mut lab_rates) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        bare_rates.push(rate(runs, bare(&programs, &frames)?));
        lab_rates.push(rate(runs, lab(&frames)?));
    }
    let ratios: Vec<f64> = lab_rates.iter().zip(&bare_rates).map(|(lab, bare)| lab / bare).collect();
    report.heading(&format!(
        "1. Lockstep: {} frames of {} captures x {} programs ({xdp} XDP, {tc} tc), {} rounds ({} frames that test-run does not take left out)",
        frames.len(),
        captures.len(),
        programs.len(),
        effort.rounds,
        offered - frames.len(),
    ))?;
    let (bare, lab) = (median(&bare_rates), median(&lab_rates));
    let per_packet = programs.len() as f64;
    report.line(&format!(
        "  test-run of empty programs                   {bare:>9.0} runs/s  {:>7.0} packets/s",
        bare / per_packet
    ))?;
    report.line(&format!(
        "  lockstep mode, all analyzers                 {lab:>9.0} runs/s  {:>7.0} packets/s",
        lab / per_packet
    ))?;
    report.value("lockstep_bare_runs_per_s", bare);
    report.value("lockstep_lab_runs_per_s", lab);
    report.ratio("lockstep_ratio", "ratio, median of rounds", &ratios, 0.80)?;
    Ok(())
}

/// Frames as [`bpflab::wire::replay`] takes them, without failure.
pub fn infallible(frames: &[Frame]) -> impl Iterator<Item = Result<Frame, Infallible>> {
    frames.iter().cloned().map(Ok)
}
