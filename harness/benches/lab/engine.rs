//! The kernel's live frames against tcpreplay, on one link, into one native XDP counter that checks the order.

use std::error::Error;
use std::sync::atomic::AtomicBool;

use bpflab::capture::{Frame, Side};
use bpflab::kernel::probe::{self, Requirement};
use bpflab::topology::{Network, presets};
use bpflab::wire::{self, Attachments, BareLink, BareOptions, EngineChoice, Size, WireOptions};

use crate::Effort;
use crate::report::{Report, median, rate};
use crate::wire::{Round, tcpreplay, write};

/// Byte at which each frame has its number: the last four of its source address, which nothing on the link reads.
const NUMBER_AT: usize = 8;
/// Ratio that the engine must reach.
const WANTED: f64 = 8.0;

/// Prints and records the comparison, over the frames of the committed captures and over a million flows.
pub fn run(report: &mut Report, captures: &[Vec<Frame>], effort: Effort) -> Result<(), Box<dyn Error>> {
    let needs = ["mode:wire", "xdp-live-frames"].map(str::parse::<Requirement>);
    let needs = needs.into_iter().collect::<Result<Vec<_>, _>>()?;
    let unmet = probe::unmet(&needs);
    if !unmet.is_empty() {
        let lacks: Vec<String> = unmet.iter().map(ToString::to_string).collect();
        report.heading(&format!("Line-rate engine: left out, this machine cannot run it: {}", lacks.join("; ")))?;
        return Ok(());
    }
    let mut captured = crate::frames::repeated(captures, 1_000);
    captured.retain(|frame| (14..=crate::wire::LARGEST).contains(&frame.data.len()));
    compare(report, "captures", "frames of the committed captures", captured, effort)?;
    compare(report, "flows", "one million five-tuples, 64 bytes each", flows(), effort)?;
    accounted(report, captures, effort)
}

/// UDP over IPv4 from a million pairs of address and port: 65 536 source addresses, 16 ports each.
fn flows() -> Vec<Frame> {
    let frame = |number: u32| {
        let mut data = vec![0; 64];
        data[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
        data[14..24].copy_from_slice(&[0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, 17]);
        let [_, high, middle, low] = number.to_be_bytes();
        data[26..34].copy_from_slice(&[10, 0, middle, low, 10, 1, 0, 1]);
        data[34..40].copy_from_slice(&[0x40, high, 0, 53, 0, 30]);
        let sum: u32 = data[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        data[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
        Frame { number: u64::from(number) + 1, time_ns: u64::from(number), wire_len: 64, data, side: Side::Client }
    };
    (0..1_000_000).map(frame).collect()
}

fn compare(
    report: &mut Report,
    name: &str,
    what: &str,
    mut frames: Vec<Frame>,
    effort: Effort,
) -> Result<(), Box<dyn Error>> {
    for (number, frame) in (0_u32..).zip(&mut frames) {
        frame.data[NUMBER_AT..NUMBER_AT + 4].copy_from_slice(&number.to_be_bytes());
    }
    let count = frames.len();
    let bytes: u64 = frames.iter().map(|frame| frame.data.len() as u64).sum();
    let longest = frames.iter().map(|frame| frame.data.len()).max().unwrap_or_default();
    let room = Size { frames: count as u64, bytes, longest };
    let sequence = Some((NUMBER_AT as u32, count as u64));
    let network = Network::build(&presets::bridge())?;
    let mut link = BareLink::new(&network, BareOptions { room, sequence, times: 0 })?;
    link.load(&frames)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("frames.pcapng");
    write(&file, &frames)?;
    // Whole rounds over the frames, so that the next round begins with the first.
    let times = [effort.bare_frames.div_ceil(count), (4 * effort.bare_frames).div_ceil(count)];
    report.heading(&format!(
        "Line-rate engine: {what}, {} bytes on average; every frame counted and its order checked by native XDP",
        bytes / count as u64
    ))?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        let (before, disordered) = (link.arrived(), link.disordered());
        let sent = u32::try_from(count * times[1])?;
        let seconds = link.flood(sent)?.as_secs_f64();
        let (arrived, disordered) = (link.arrived() - before, link.disordered() - disordered);
        ours.push((Round { sent: sent.into(), arrived, seconds }, disordered));
        let disordered = link.disordered();
        match tcpreplay(&network, &link, &file, times[0])? {
            Some(round) => theirs.push((round, link.disordered() - disordered)),
            None => break,
        }
    }
    drop(link);
    network.close()?;
    folder.close()?;
    row(report, &format!("engine_{name}"), "lab (live frames)", &ours)?;
    if theirs.is_empty() {
        report.line("  tcpreplay: tool not found (Debian package tcpreplay); the comparison is left out")?;
        return Ok(());
    }
    row(report, &format!("engine_{name}_tcpreplay"), "tcpreplay --topspeed --preload-pcap", &theirs)?;
    let speed = |(round, _): &(Round, u64)| rate(round.sent, round.seconds);
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(our, their)| speed(our) / speed(their)).collect();
    report.ratio(&format!("engine_{name}_ratio"), "ratio, median of rounds", &ratios, WANTED)?;
    Ok(())
}

fn row(report: &mut Report, name: &str, what: &str, rounds: &[(Round, u64)]) -> Result<(), Box<dyn Error>> {
    let speeds: Vec<f64> = rounds.iter().map(|(round, _)| rate(round.sent, round.seconds)).collect();
    let speed = median(&speeds);
    let sum = |of: &dyn Fn(&(Round, u64)) -> u64| rounds.iter().map(of).sum::<u64>();
    let (sent, arrived) = (sum(&|(round, _)| round.sent), sum(&|(round, _)| round.arrived));
    let disordered = sum(&|(_, disordered)| *disordered);
    report.line(&format!(
        "  {what:<44} {speed:>9.0} packets/s  sent {sent}, arrived {arrived}, out of order {disordered}"
    ))?;
    report.value(&format!("{name}_packets_per_s"), speed);
    report.value(&format!("{name}_sent"), sent);
    report.value(&format!("{name}_arrived"), arrived);
    report.value(&format!("{name}_out_of_order"), disordered);
    Ok(())
}

/// Replays that account for each frame, by either engine: what live frames bring there.
fn accounted(report: &mut Report, captures: &[Vec<Frame>], effort: Effort) -> Result<(), Box<dyn Error>> {
    let mut frames = crate::frames::repeated(captures, effort.frames);
    frames.retain(|frame| (14..=crate::wire::LARGEST).contains(&frame.data.len()));
    report
        .heading(&format!("Replay with an account of each packet, no program under test: {} frames", frames.len()))?;
    let mut speeds = [Vec::new(), Vec::new()];
    for _ in 0..effort.rounds.min(5) {
        for (engine, speeds) in [EngineChoice::Sendmmsg, EngineChoice::LiveFrames].into_iter().zip(&mut speeds) {
            let network = Network::build(&presets::bridge())?;
            let mut attachments = Attachments::new(&network)?;
            let options = WireOptions { engine, ..WireOptions::default() };
            let (frames, stop) = (crate::lockstep::infallible(&frames), AtomicBool::new(false));
            let outcome = wire::replay(&network, &mut attachments, frames, &options, &stop, &mut |_| Ok(()))?;
            if outcome.ledger.unaccounted > 0 {
                return Err(format!("{} frames are unaccounted for", outcome.ledger.unaccounted).into());
            }
            speeds.push(outcome.pacing.rate_pps);
            drop(attachments);
            network.close()?;
        }
    }
    for (name, speeds) in ["sendmmsg", "live_frames"].into_iter().zip(&speeds) {
        report.line(&format!("  {name:<44} {:>9.0} packets/s", median(speeds)))?;
        report.value(&format!("engine_accounted_{name}_packets_per_s"), median(speeds));
    }
    Ok(())
}
