//! Wire mode at top speed: the bare sender against tcpreplay on the same link, and the whole pipeline.

use std::error::Error;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::AtomicBool;

use bpflab::capture::{Frame, Writer};
use bpflab::kernel::probe::{self, Requirement};
use bpflab::object::Clock;
use bpflab::scenario::Mode;
use bpflab::suite;
use bpflab::topology::{Network, Role, presets};
use bpflab::wire::{self, Attachments, BareLink, BareOptions, WireOptions};

use crate::Effort;
use crate::report::{Report, median, rate};

/// The client's interface in every preset.
const INTERFACE: &str = "eth0";

/// Frames of one round through one sender.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    pub sent: u64,
    pub arrived: u64,
    pub seconds: f64,
}

/// Longest frame that every interface of a preset takes, whatever its tags: 1500 bytes behind the Ethernet header.
pub const LARGEST: usize = 1_514;

/// Prints and records both comparisons.
pub fn run(report: &mut Report, captures: &[Vec<Frame>], effort: Effort) -> Result<(), Box<dyn Error>> {
    let mut captures = captures.to_vec();
    for capture in &mut captures {
        capture.retain(|frame| frame.data.len() <= LARGEST);
    }
    captures.retain(|capture| !capture.is_empty());
    let captures = captures.as_slice();
    let unmet = probe::unmet(&Requirement::of_mode(Mode::Wire));
    if !unmet.is_empty() {
        let lacks: Vec<String> = unmet.iter().map(ToString::to_string).collect();
        report.heading(&format!("3. Wire: left out, this machine cannot run it: {}", lacks.join("; ")))?;
        return Ok(());
    }
    let network = Network::build(&presets::bridge())?;
    let bare = bare(report, captures, effort, &network);
    network.close()?;
    bare?;
    pipeline(report, captures, effort)
}

fn bare(report: &mut Report, captures: &[Vec<Frame>], effort: Effort, network: &Network) -> Result<(), Box<dyn Error>> {
    // tcpreplay goes over the file again and again, which must be no disadvantage: it loads the file beforehand.
    let once = crate::frames::repeated(captures, 1_000);
    let times = effort.bare_frames.div_ceil(once.len());
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("frames.pcapng");
    write(&file, &once)?;
    let frames: Vec<Vec<u8>> = once.iter().cycle().take(once.len() * times).map(|frame| frame.data.clone()).collect();
    let link = BareLink::new(network, BareOptions::default())?;
    report.heading(&format!(
        "3. Wire at top speed: {} frames per round (those of at most {LARGEST} bytes), {} rounds",
        frames.len(),
        effort.rounds
    ))?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        let before = link.arrived();
        let seconds = link.send(&frames)?.as_secs_f64();
        ours.push(Round { sent: frames.len() as u64, arrived: link.arrived() - before, seconds });
        match tcpreplay(network, &link, &file, times)? {
            Some(round) => theirs.push(round),
            None => break,
        }
    }
    drop(link);
    folder.close()?;
    row(report, "wire_lab", "lab (sendmmsg + qdisc bypass)", &ours)?;
    if theirs.is_empty() {
        report.line("  tcpreplay: tool not found (Debian package tcpreplay); the comparison is left out")?;
        return Ok(());
    }
    row(report, "wire_tcpreplay", "tcpreplay --topspeed -K", &theirs)?;
    let speed = |round: &Round| rate(round.sent, round.seconds);
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(our, their)| speed(our) / speed(their)).collect();
    report.ratio("wire_ratio", "ratio, median of rounds", &ratios, 1.30)?;
    Ok(())
}

fn row(report: &mut Report, name: &str, what: &str, rounds: &[Round]) -> Result<(), Box<dyn Error>> {
    let speeds: Vec<f64> = rounds.iter().map(|round| rate(round.sent, round.seconds)).collect();
    let speed = median(&speeds);
    let (sent, arrived): (u64, u64) =
        (rounds.iter().map(|round| round.sent).sum(), rounds.iter().map(|round| round.arrived).sum());
    report.line(&format!("  {what:<44} {speed:>9.0} packets/s  sent {sent}, arrived {arrived}"))?;
    report.value(&format!("{name}_packets_per_s"), speed);
    report.value(&format!("{name}_sent"), sent);
    report.value(&format!("{name}_arrived"), arrived);
    Ok(())
}

pub fn write(path: &Path, frames: &[Frame]) -> Result<(), Box<dyn Error>> {
    let mut writer = Writer::create(path)?;
    for frame in frames {
        writer.write(frame.time_ns, &frame.data, 0)?;
    }
    Ok(writer.finish()?)
}

/// One round of tcpreplay at top speed.
pub fn tcpreplay(
    network: &Network,
    link: &BareLink,
    file: &Path,
    times: usize,
) -> Result<Option<Round>, Box<dyn Error>> {
    tcpreplay_with(network, link, file, vec!["--topspeed".to_owned(), format!("--loop={times}")])
}

/// One round of tcpreplay in the client's namespace, by its own time of sending, which leaves out reading the file;
/// nothing if it is not installed.
pub fn tcpreplay_with(
    network: &Network,
    link: &BareLink,
    file: &Path,
    options: Vec<String>,
) -> Result<Option<Round>, Box<dyn Error>> {
    let client = network.with_role(Role::Client).ok_or("the topology has no client")?;
    let before = link.arrived();
    let path: PathBuf = file.to_owned();
    let run = client.run(move || {
        Command::new("tcpreplay").args(["--preload-pcap", "--intf1", INTERFACE]).args(options).arg(path).output()
    });
    let output: Output = match run {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        run => run?,
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (sent, seconds) = actual(&text).filter(|_| output.status.success()).ok_or_else(|| {
        format!("tcpreplay failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
    })?;
    Ok(Some(Round { sent, arrived: link.arrived() - before, seconds }))
}

/// `Actual: 1000 packets (123456 bytes) sent in 0.004321 seconds`.
fn actual(text: &str) -> Option<(u64, f64)> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Actual: "))?;
    let (packets, rest) = line.split_once(" packets")?;
    let seconds = rest.split_once(" sent in ")?.1.split_whitespace().next()?;
    Some((packets.parse().ok()?, seconds.parse().ok()?))
}

/// Topology, ledger and all analyzers.
fn pipeline(report: &mut Report, captures: &[Vec<Frame>], effort: Effort) -> Result<(), Box<dyn Error>> {
    let frames = crate::frames::repeated(captures, effort.frames);
    let mut speeds = Vec::new();
    let mut ledger = None;
    for _ in 0..effort.rounds.min(3) {
        let network = Network::build(&presets::bridge())?;
        let result = replay(&network, &frames);
        network.close()?;
        let outcome = result?;
        speeds.push(outcome.pacing.rate_pps);
        ledger = Some(outcome.ledger);
    }
    let (speed, ledger) = (median(&speeds), ledger.unwrap_or_default());
    report.line(&format!("  whole pipeline: bridge, ledger, all analyzers {speed:>8.0} packets/s"))?;
    report.line(&format!(
        "    ledger of the last round: offered {}, delivered {}, consumed {}, dropped {}, unaccounted {}",
        ledger.offered, ledger.delivered, ledger.consumed, ledger.dropped, ledger.unaccounted
    ))?;
    report.value("wire_pipeline_packets_per_s", speed);
    report.value("wire_pipeline_ledger", serde_json::to_value(&ledger)?);
    Ok(())
}

fn replay(network: &Network, frames: &[Frame]) -> Result<wire::WireOutcome, Box<dyn Error>> {
    let mut analyzers = crate::lockstep::analyzers(Clock::Capture)?;
    let mut attachments = Attachments::new(network)?;
    suite::attach(&mut analyzers, suite::Watch::BetweenFarEnds, &mut attachments, network)?;
    Ok(wire::replay(
        network,
        &mut attachments,
        crate::lockstep::infallible(frames),
        &WireOptions::default(),
        &AtomicBool::new(false),
        &mut |_| suite::drain(&mut analyzers),
    )?)
}
