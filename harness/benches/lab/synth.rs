//! Traffic made from the catalogue: how fast frames are made, and how fast they become a capture.

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use bpflab::capture::{Frame, Writer};
use bpflab::synth::Spec;

use crate::report::{Report, median, rate};

/// A flood, a million flows, a scan with its answers, transactions, and what takes longest to make.
const ENTRIES: [&str; 6] =
    ["syn-flood", "many-flows", "syn-scan", "http-transactions", "dns-tunnel", "dns-amplification"];

/// Prints and records frames a second of each entry: made alone, and written to a pcapng file.
pub fn run(report: &mut Report, rounds: usize, frames: u64) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("synth.pcapng");
    report.heading("Synthesis")?;
    for name in ENTRIES {
        let (mut made, mut written) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            made.push(measure(name, frames, &mut |frame| {
                black_box(frame);
                Ok(())
            })?);
            let mut writer = Writer::create(&path)?;
            let write = &mut |frame: &Frame| Ok(writer.write(frame.time_ns, &frame.data, frame.wire_len)?);
            written.push(measure(name, frames, write)?);
            writer.finish()?;
        }
        for (rates, what, key) in [(made, "made", "made"), (written, "to a pcapng file", "written")] {
            let rate = median(&rates);
            report.line(&format!("  {:<44} {rate:>9.0}   frames/s", format!("{name}, {what}")))?;
            report.value(&format!("synth_{}_{key}_per_second", name.replace('-', "_")), rate);
        }
    }
    Ok(())
}

/// Whoever is given the frames.
type Take<'a> = dyn FnMut(&Frame) -> Result<(), Box<dyn Error>> + 'a;

/// Frames a second, each of which goes to `take`.
fn measure(name: &str, frames: u64, take: &mut Take<'_>) -> Result<f64, Box<dyn Error>> {
    let mut stream = Spec { count: Some(frames), ..Spec::new(name) }.frames()?;
    let (mut frame, mut count) = (Frame::default(), 0);
    let start = Instant::now();
    while count < frames && stream.next_into(&mut frame) {
        take(&frame)?;
        count += 1;
    }
    Ok(rate(count, start.elapsed().as_secs_f64()))
}
