//! Paced replay against each of tcpreplay's timers: how far the gaps between frames, as they arrive, are from those of
//! the capture.

use std::error::Error;
use std::path::Path;

use bpflab::capture::Frame;
use bpflab::kernel::probe::{self, Requirement};
use bpflab::scenario::Mode;
use bpflab::topology::{Network, presets};
use bpflab::wire::{BareLink, BareOptions, Speed};

use crate::Effort;
use crate::report::{Report, median};
use crate::wire::{tcpreplay_with, write};

/// The timers of tcpreplay 4.4; its fourth, `ioport`, is not built into Debian's.
const TIMERS: [&str; 3] = ["gtod", "nano", "select"];
/// Longest gap: seconds of silence would make the benchmark long, and nothing harder.
const LONGEST_NS: u64 = 20_000_000;
/// How much smaller the error must be than tcpreplay's best.
const WANTED: f64 = 2.0;
/// Most drift, as a part of the duration.
const MOST_DRIFT: f64 = 0.001;

/// What one replay came to.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// 50th and 99th percentile of the gaps' errors, us.
    median_us: f64,
    p99_us: f64,
    /// Error of the whole duration, as a part of it.
    drift: f64,
}

/// Prints and records the comparison.
pub fn run(report: &mut Report, captures: &[Vec<Frame>], effort: Effort) -> Result<(), Box<dyn Error>> {
    let unmet = probe::unmet(&Requirement::of_mode(Mode::Wire));
    if !unmet.is_empty() {
        let lacks: Vec<String> = unmet.iter().map(ToString::to_string).collect();
        report.heading(&format!("Pacing: left out, this machine cannot run it: {}", lacks.join("; ")))?;
        return Ok(());
    }
    let frames = schedule(captures);
    let due: Vec<u64> = frames.iter().map(|frame| frame.time_ns).collect();
    let duration = (due[due.len() - 1] - due[0]) as f64 / 1e9;
    report.heading(&format!(
        "Pacing: the gaps of the committed captures, at most {} ms each: {} frames in {duration:.2} s; arrival by native XDP",
        LONGEST_NS / 1_000_000,
        frames.len()
    ))?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("frames.pcapng");
    write(&file, &frames)?;
    let network = Network::build(&presets::bridge())?;
    let result = rounds(report, &network, &frames, &due, &file, effort.rounds + 2);
    network.close()?;
    folder.close()?;
    result
}

/// All captures one after the other, the times in whole us, as most captures have them.
fn schedule(captures: &[Vec<Frame>]) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    let mut now_ns = 1_700_000_000_000_000_000;
    for capture in captures {
        let mut before = None;
        for frame in capture.iter().filter(|frame| (14..=crate::wire::LARGEST).contains(&frame.data.len())) {
            let gap = before.map_or(LONGEST_NS, |before| frame.time_ns.saturating_sub(before)).min(LONGEST_NS);
            before = Some(frame.time_ns);
            now_ns += gap / 1_000 * 1_000;
            frames.push(Frame { time_ns: now_ns, ..frame.clone() });
        }
    }
    frames
}

fn rounds(
    report: &mut Report,
    network: &Network,
    frames: &[Frame],
    due: &[u64],
    file: &Path,
    rounds: usize,
) -> Result<(), Box<dyn Error>> {
    let options = BareOptions { times: u32::try_from(frames.len())?, ..BareOptions::default() };
    let (mut ours, mut theirs) = (Vec::new(), vec![Vec::new(); TIMERS.len()]);
    for _ in 0..rounds {
        let link = BareLink::new(network, options)?;
        link.send_paced(frames, Speed::Scaled(1.0))?;
        ours.push(kept(due, &link)?);
        drop(link);
        for (timer, kept_by) in TIMERS.iter().zip(&mut theirs) {
            let link = BareLink::new(network, options)?;
            if tcpreplay_with(network, &link, file, vec![format!("--timer={timer}")])?.is_none() {
                break;
            }
            kept_by.push(kept(due, &link)?);
        }
    }
    let our = row(report, "pacing_lab", "lab", &ours)?;
    let drift = median(&ours.iter().map(|kept| kept.drift.abs()).collect::<Vec<_>>());
    let mut best: Option<(usize, f64)> = None;
    for (index, kept_by) in theirs.iter().enumerate().filter(|(_, kept_by)| !kept_by.is_empty()) {
        let timer = TIMERS[index];
        let p99 = row(report, &format!("pacing_tcpreplay_{timer}"), &format!("tcpreplay --timer={timer}"), kept_by)?;
        if best.is_none_or(|(_, least)| p99 < least) {
            best = Some((index, p99));
        }
    }
    let verdict = if drift < MOST_DRIFT { "met" } else { "MISSED" };
    report.line(&format!(
        "  drift of the lab {:.5} %   (target < {:.1} %: {verdict})",
        drift * 100.0,
        MOST_DRIFT * 100.0
    ))?;
    let Some((index, _)) = best else {
        report.line("  tcpreplay: tool not found (Debian package tcpreplay); the comparison is left out")?;
        return Ok(());
    };
    let ratios: Vec<f64> = ours.iter().zip(&theirs[index]).map(|(our, their)| their.p99_us / our.p99_us).collect();
    report.value("pacing_best_timer", TIMERS[index]);
    report.value("pacing_p99_us", our);
    report.ratio("pacing_ratio", "p99 of tcpreplay's best timer / the lab's", &ratios, WANTED)?;
    Ok(())
}

/// Errors of what arrived at a link, of which every frame must have.
fn kept(due: &[u64], link: &BareLink) -> Result<Kept, Box<dyn Error>> {
    if link.arrived() < due.len() as u64 {
        return Err(format!("{} of {} frames arrived", link.arrived(), due.len()).into());
    }
    let times = link.times(due.len())?;
    let gaps =
        |times: &[u64]| times.windows(2).map(|pair| pair[1].saturating_sub(pair[0]) as f64).collect::<Vec<f64>>();
    let mut errors: Vec<f64> =
        gaps(&times).iter().zip(gaps(due)).map(|(got, wanted)| (got - wanted).abs() / 1e3).collect();
    errors.sort_by(f64::total_cmp);
    let span = |times: &[u64]| (times[times.len() - 1] - times[0]) as f64;
    Ok(Kept {
        median_us: errors[errors.len() / 2],
        p99_us: errors[errors.len() * 99 / 100],
        drift: (span(&times) - span(due)) / span(due),
    })
}

/// One row of medians over the rounds; returns that of the 99th percentiles.
fn row(report: &mut Report, name: &str, what: &str, rounds: &[Kept]) -> Result<f64, Box<dyn Error>> {
    let of = |of: &dyn Fn(&Kept) -> f64| median(&rounds.iter().map(of).collect::<Vec<f64>>());
    let (half, p99, drift) = (of(&|kept| kept.median_us), of(&|kept| kept.p99_us), of(&|kept| kept.drift));
    report.line(&format!(
        "  {what:<44} gap error: median {half:>7.1} us, p99 {p99:>8.1} us; drift {:>8.5} %",
        drift * 100.0
    ))?;
    report.value(&format!("{name}_p99_us"), p99);
    report.value(&format!("{name}_median_us"), half);
    report.value(&format!("{name}_drift"), drift);
    Ok(p99)
}
