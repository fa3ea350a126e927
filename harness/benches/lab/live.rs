//! Live replay: many recorded connections against the kernel's own sockets.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use bpflab::capture;
use bpflab::live::{Dut, LiveOptions};
use bpflab::object::Clock;
use bpflab::run::{self, Plan};
use bpflab::scenario::Mode;
use bpflab::scenario::spec::Programs;
use bpflab::synth::{self, Hosts, Spec};
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

/// A capture of so many connections.
fn transactions(folder: &Path) -> Result<(PathBuf, u64), Box<dyn Error>> {
    let path = folder.join("transactions.pcapng");
    let spec = Spec { count: Some(CONNECTIONS), rate: Some(A_SECOND), ..Spec::new("http-transactions") };
    let written = synth::write(&[spec], &Hosts::default(), None, &path, &mut |_| true)?;
    Ok((path, written.frames))
}
