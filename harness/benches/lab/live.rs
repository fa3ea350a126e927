//! Live replay: many recorded connections against the kernel's own sockets.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use bpflab::capture::{self, Frame, Writer};
use bpflab::live::{Dut, LiveOptions};
use bpflab::object::Clock;
use bpflab::run::{self, Plan};
use bpflab::scenario::Mode;
use bpflab::scenario::spec::Programs;
use bpflab::synth::Spec;
use bpflab::topology::TopologyChoice;
use bpflab::wire::{EngineChoice, Speed};

use crate::report::Report;

/// Connections in the capture, how many begin in a second, and how long all of them may take, s.
const CONNECTIONS: u64 = 10_000;
const A_SECOND: f64 = 2_000.0;
const SECONDS: f64 = 30.0;
/// The share that must end as recorded.
const AS_RECORDED: f64 = 0.999;
/// Counters that show what the kernel did.
const COUNTERS: [&str; 6] =
    ["TcpPassiveOpens", "TcpActiveOpens", "TcpInSegs", "TcpOutSegs", "TcpRetransSegs", "TcpEstabResets"];

/// Plays a capture of HTTP transactions at its own pace, each end against the kernel.
pub fn run(report: &mut Report) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let (capture, frames) = transactions(folder.path())?;
    report.heading(&format!("Live replay of {CONNECTIONS} recorded connections, {frames} frames"))?;
    for dut in [Dut::Server, Dut::Client] {
        let plan = Plan {
            capture: capture.clone(),
            options: capture::Options::default(),
            mode: Some(Mode::Live),
            programs: Programs::of(&[]),
            topology: TopologyChoice::default(),
            speed: Speed::Top,
            engine: EngineChoice::Auto,
            clock: Clock::Kernel,
            live: LiveOptions { dut, ..LiveOptions::default() },
            apps: Vec::new(),
            artefacts: None,
            record: None,
        };
        let start = Instant::now();
        let document = run::run(&plan, &AtomicBool::new(false), &mut |_| ())?;
        let seconds = start.elapsed().as_secs_f64();
        let live = document.observation.live.ok_or("nothing was played")?;
        #[allow(clippy::cast_precision_loss, reason = "a share")]
        let share = live.as_recorded as f64 / live.flows.len().max(1) as f64;
        let name = dut.text();
        report.line(&format!("  kernel as the {name}: {seconds:.1} s, {} ended as recorded", live.as_recorded))?;
        let counters =
            COUNTERS.iter().filter_map(|name| live.counters.get(*name).map(|count| format!("{name} {count}")));
        report.line(&format!("    {}", counters.collect::<Vec<_>>().join(", ")))?;
        report.ratio(&format!("live_{name}_time"), "30 s, against the time taken", &[SECONDS / seconds], 1.0)?;
        report.ratio(&format!("live_{name}_as_recorded"), "share that ended as recorded", &[share], AS_RECORDED)?;
    }
    Ok(())
}

/// A capture of so many connections, no two of which have the same ends.
fn transactions(folder: &Path) -> Result<(PathBuf, u64), Box<dyn Error>> {
    let path = folder.join("transactions.pcapng");
    // A few more than needed, since the catalogue takes ports at random.
    let spec = Spec { count: Some(CONNECTIONS * 3 / 2), rate: Some(A_SECOND), ..Spec::new("http-transactions") };
    let mut stream = spec.frames()?;
    let mut kept: Vec<Frame> = Vec::new();
    let mut begun: BTreeSet<(u16, u32)> = BTreeSet::new();
    let mut ports: BTreeSet<u16> = BTreeSet::new();
    let mut frame = Frame::default();
    while stream.next_into(&mut frame) {
        let Some([port, number]) = client(&frame.data) else { continue };
        let port = u16::try_from(port)?;
        let (is_syn, seq) = (frame.data.get(47) == Some(&2), number);
        if is_syn && begun.len() < usize::try_from(CONNECTIONS)? && ports.insert(port) {
            begun.insert((port, seq));
        } else if is_syn {
            // Another connection of the same port, or one too many: none of its packets is kept.
            continue;
        }
        if ports.contains(&port) {
            kept.push(frame.clone());
        }
    }
    let mut writer = Writer::create(&path)?;
    for frame in &kept {
        writer.write(frame.time_ns, &frame.data, frame.wire_len)?;
    }
    writer.finish()?;
    Ok((path, kept.len() as u64))
}

/// Port of the client and sequence number of an IPv4 TCP segment without options in its IP header.
fn client(frame: &[u8]) -> Option<[u32; 2]> {
    let [source, target] =
        [frame.get(34..36)?, frame.get(36..38)?].map(|port| u32::from(port[0]) << 8 | u32::from(port[1]));
    let number = u32::from_be_bytes(frame.get(38..42)?.try_into().ok()?);
    Some([if source > target { source } else { target }, number])
}
