//! The lab's benchmarks: `cargo bench`, as root. `-- --quick` does fewer and shorter rounds, `-- --json` prints one JSON
//! object instead of the table, `-- --memory` includes the memory part in a quick run too, `-- --guests` measures guests of
//! the kernel matrix and nothing else, `-- --rows` the decoding of maps, `-- --synth` the making of traffic, `-- --engine` how
//! fast and how evenly frames are sent, `-- --live` live replay, each of them and nothing else.
//!
//! What is compared runs in alternating rounds (A B A B), and the median of the rounds' ratios counts, so that other
//! work on the machine falls on both.

mod engine;
mod frames;
mod guests;
mod live;
mod lockstep;
mod memory;
mod pacing;
mod programs;
mod report;
mod rows;
mod synth;
mod wire;

use std::error::Error;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::ExitCode;

use bpflab::kernel::probe::{self, Requirement};
use bpflab::scenario::Mode;

use crate::report::Report;

/// `EX_UNAVAILABLE` (sysexits.h): this machine cannot run it.
const UNAVAILABLE: u8 = 69;

/// Frames that are made in one round: a million flows are among them.
const SYNTH_FRAMES: u64 = 1_000_000;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// Rounds of everything that is compared.
    rounds: usize,
    /// Frames per round of lockstep mode and of the wire pipeline.
    frames: usize,
    /// Frames per round of the bare link.
    bare_frames: usize,
    /// Runs of a program over one frame.
    runs: u32,
    /// Whether the memory part is run.
    memory: bool,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().position(|arg| arg == memory::CHILD) {
        Some(at) => memory::child(args.get(at + 1).map_or("", String::as_str)),
        None => all(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            complain(&text);
            ExitCode::FAILURE
        }
    }
}

/// Arguments that are not known, as cargo's own `--bench`, are ignored.
fn all(args: &[String]) -> Result<ExitCode, Box<dyn Error>> {
    let has = |wanted: &str| args.iter().any(|arg| arg == wanted);
    // The owner of a process's own entry is its effective user.
    if std::fs::metadata("/proc/self")?.uid() != 0 {
        complain("the benchmarks load eBPF programs and make network namespaces: run them as root");
        return Ok(UNAVAILABLE.into());
    }
    let unmet = probe::unmet(&Requirement::of_mode(Mode::Lockstep));
    if !unmet.is_empty() {
        let lacks: Vec<String> = unmet.iter().map(ToString::to_string).collect();
        complain(&format!("this machine cannot run the benchmarks: {}", lacks.join("; ")));
        return Ok(UNAVAILABLE.into());
    }
    let effort = if has("--quick") {
        Effort { rounds: 5, frames: 20_000, bare_frames: 100_000, runs: 12_800, memory: has("--memory") }
    } else {
        Effort { rounds: 7, frames: 100_000, bare_frames: 500_000, runs: 100_000, memory: true }
    };
    let mut report = Report::new(has("--json"))?;
    if has("--guests") {
        guests::run(&mut report, effort.rounds)?;
        report.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    if has("--rows") {
        rows::run(&mut report, effort.rounds)?;
        report.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    if has("--live") {
        live::run(&mut report)?;
        report.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    if has("--synth") {
        synth::run(&mut report, effort.rounds, SYNTH_FRAMES)?;
        report.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    let captures = frames::captures()?;
    if has("--pacing") {
        pacing::run(&mut report, &captures, effort)?;
        report.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    if has("--engine") {
        engine::run(&mut report, &captures, effort)?;
        pacing::run(&mut report, &captures, effort)?;
        report.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    lockstep::run(&mut report, &captures, effort)?;
    programs::run(&mut report, effort)?;
    wire::run(&mut report, &captures, effort)?;
    engine::run(&mut report, &captures, effort)?;
    pacing::run(&mut report, &captures, effort)?;
    live::run(&mut report)?;
    rows::run(&mut report, effort.rounds)?;
    synth::run(&mut report, effort.rounds, SYNTH_FRAMES)?;
    if effort.memory {
        memory::run(&mut report)?;
    }
    report.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// One line on standard error; there is nobody to tell if that is closed.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "error: {text}");
}
