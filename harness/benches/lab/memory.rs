//! Peak memory of reading a capture that is larger than what reading it may take.

use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use bpflab::capture::{Frame, Frames, Options, Survey, Writer};
use etherparse::PacketBuilder;

use crate::report::{Report, rate};

/// Argument of the process that reads, followed by the file.
pub const CHILD: &str = "--read-capture";

const FILE_BYTES: u64 = 1_000_000_000;
const TARGET_MB: f64 = 200.0;

/// Writes a capture of full segments from so many clients that what is kept per address would show.
fn generate(path: &Path) -> Result<(), Box<dyn Error>> {
    let mut writer = Writer::create(path)?;
    let payload = [b'x'; 1_448];
    let (mut written, mut number) = (0, 0_u32);
    let mut frame = Vec::new();
    while written < FILE_BYTES {
        let [_, high, middle, low] = (number % 200_000).to_be_bytes();
        frame.clear();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, high, middle, low], [192, 0, 2, 1], 64)
            .tcp(40_000, 443, number, 64_000)
            .ack(1)
            .write(&mut frame, &payload)?;
        writer.write(1_700_000_000_000_000_000 + u64::from(number) * 10_000, &frame, 0)?;
        written += frame.len() as u64;
        number += 1;
    }
    Ok(writer.finish()?)
}

/// Goes through the capture as a run does and prints frames and peak resident memory in kB.
pub fn child(path: &str) -> Result<ExitCode, Box<dyn Error>> {
    let (path, options) = (Path::new(path), Options::default());
    let survey = Survey::of(path, &options)?;
    let mut frames = Frames::open(path, &options, &survey)?;
    let mut frame = Frame::default();
    let mut count = 0_u64;
    while frames.next_into(&mut frame)? {
        count += 1;
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in /proc/self/status")?;
    writeln!(std::io::stdout(), "{count} {}", peak.trim().trim_end_matches(" kB"))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints and records the peak, measured in a process of its own.
pub fn run(report: &mut Report) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("large.pcapng");
    generate(&path)?;
    let bytes = std::fs::metadata(&path)?.len();
    let start = Instant::now();
    let output = Command::new(std::env::current_exe()?).arg(CHILD).arg(&path).output()?;
    let seconds = start.elapsed().as_secs_f64();
    folder.close()?;
    if !output.status.success() {
        return Err(format!("reading the capture failed: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let (count, peak) = text.trim().split_once(' ').ok_or("no numbers from the reading process")?;
    let (count, peak): (u64, f64) = (count.parse()?, peak.parse()?);
    let (peak, megabytes) = (peak * 1024.0 / 1e6, rate(bytes, 1e6));
    let verdict = if peak < TARGET_MB { "met" } else { "MISSED" };
    report.heading(&format!("4. Memory: survey and frames of a capture of {megabytes:.0} MB, {count} frames"))?;
    report.line(&format!(
        "  peak resident memory (VmHWM)                 {peak:>9.1} MB (target < {TARGET_MB:.0} MB: {verdict}); both passes took {seconds:.1} s"
    ))?;
    report.value("memory_capture_mb", megabytes);
    report.value("memory_peak_mb", peak);
    report.value("memory_seconds", seconds);
    Ok(())
}
