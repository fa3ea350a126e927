//! The kernel's live frames against tcpreplay, on one link, into one native XDP counter that checks the order.

use std::error::Error;
use std::sync::atomic::AtomicBool;

use bpflab::capture::{Frame, Options, Survey};
use bpflab::kernel::probe::{self, Requirement};
use bpflab::synth::{self, Hosts, Spec, Value};
use bpflab::topology::{Network, presets};
use bpflab::wire::{
    self, Attachments, BareLink, BareOptions, EngineChoice, OfCapture, OfSynth, Size, Source, SourceError, WireOptions,
};

use crate::Effort;
use crate::report::{Report, median, rate};
use crate::wire::{Round, tcpreplay, write};

/// Byte at which each frame has its number: the last four of its source address, which nothing on the link reads.
const NUMBER_AT: usize = 8;
/// Entries of the catalogue that are sent while they are made, and how many frames of each.
const FED: [(&str, u64); 3] = [("syn-flood", 1_000_000), ("udp-flood", 250_000), ("many-flows", 1_000_000)];
/// Memory of what is sent while it is made or read, bytes.
const FEED_BYTES: u64 = 32 << 20;
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
    compare(report, "flows", "one million five-tuples, 64 bytes each", flows()?, effort)?;
    fed(report, effort)?;
    accounted(report, captures, effort)
}

/// A million flows of the catalogue, a datagram of 64 bytes each.
fn flows() -> Result<Vec<Frame>, Box<dyn Error>> {
    let params = [("payload".to_owned(), Value::Whole(22))].into();
    Ok(Spec { params, ..Spec::new("many-flows") }.frames()?.collect())
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

/// A source whose frames say their number, from 0 on.
struct Numbered<'a> {
    source: &'a mut dyn Source,
    next: u32,
}

impl Source for Numbered<'_> {
    fn size(&self) -> Size {
        self.source.size()
    }

    fn next_into(&mut self, frame: &mut Frame) -> Result<bool, SourceError> {
        let is_one = self.source.next_into(frame)?;
        if is_one {
            frame.data[NUMBER_AT..NUMBER_AT + 4].copy_from_slice(&self.next.to_be_bytes());
            self.next += 1;
        }
        Ok(is_one)
    }

    fn rewind(&mut self) -> Result<(), SourceError> {
        self.next = 0;
        self.source.rewind()
    }
}

/// What the engine reaches when frames are made, or read, by one CPU while the other sends, and with the same frames in
/// memory.
fn fed(report: &mut Report, effort: Effort) -> Result<(), Box<dyn Error>> {
    report.heading("Line-rate engine: frames made or read while they are sent, and the same out of memory")?;
    let folder = tempfile::tempdir()?;
    for (name, count) in FED {
        let spec = Spec { count: Some(count), ..Spec::new(name) };
        let file = folder.path().join(name);
        synth::write(std::slice::from_ref(&spec), &Hosts::default(), None, &file, &mut |_| true)?;
        let options = Options::default();
        let survey = Survey::of(&file, &options)?;
        let mut made = OfSynth::new(std::slice::from_ref(&spec), &Hosts::default())?;
        let mut read = OfCapture::new(&file, &options, &survey)?;
        let network = Network::build(&presets::bridge())?;
        let sequence = Some((NUMBER_AT as u32, count));
        let room = Size { frames: FEED_BYTES / 64, bytes: FEED_BYTES, longest: survey.longest };
        let mut link = BareLink::new(&network, BareOptions { room, sequence, times: 0 })?;
        let (mut by_maker, mut by_reader) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds.min(5) {
            by_maker.push(feed(&mut link, &mut made)?);
            by_reader.push(feed(&mut link, &mut read)?);
        }
        drop(link);
        let room = Size { frames: count, bytes: survey.will_offer_bytes, longest: survey.longest };
        let mut link = BareLink::new(&network, BareOptions { room, sequence, times: 0 })?;
        link.load(&numbered(&mut made)?)?;
        let mut out_of_memory = Vec::new();
        for _ in 0..effort.rounds.min(5) {
            let (before, disordered) = (link.arrived(), link.disordered());
            let seconds = link.flood(u32::try_from(count)?)?.as_secs_f64();
            let round = Round { sent: count, arrived: link.arrived() - before, seconds };
            out_of_memory.push((round, link.disordered() - disordered));
        }
        drop(link);
        network.close()?;
        let key = name.replace('-', "_");
        for (rounds, how) in [(by_maker, "made"), (by_reader, "read"), (out_of_memory, "memory")] {
            let what = match how {
                "memory" => format!("{name}, out of memory"),
                how => format!("{name}, {how} while sent"),
            };
            row(report, &format!("engine_fed_{key}_{how}"), &what, &rounds)?;
        }
    }
    folder.close()?;
    Ok(())
}

/// Streams a source once through the link: what came of it, and how many frames were out of order.
fn feed(link: &mut BareLink, source: &mut dyn Source) -> Result<(Round, u64), Box<dyn Error>> {
    source.rewind().map_err(|error| error as Box<dyn Error>)?;
    let (before, disordered) = (link.arrived(), link.disordered());
    let (sent, elapsed) = link.stream(&mut Numbered { source, next: 0 })?;
    let round = Round { sent, arrived: link.arrived() - before, seconds: elapsed.as_secs_f64() };
    Ok((round, link.disordered() - disordered))
}

/// All frames of a source, numbered.
fn numbered(source: &mut dyn Source) -> Result<Vec<Frame>, Box<dyn Error>> {
    let mut source = Numbered { source, next: 0 };
    source.rewind().map_err(|error| error as Box<dyn Error>)?;
    let (mut frames, mut frame) = (Vec::new(), Frame::default());
    while source.next_into(&mut frame).map_err(|error| error as Box<dyn Error>)? {
        frames.push(frame.clone());
    }
    Ok(frames)
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
