//! `bpflab minimize`: the smallest capture that still shows what was seen, as a file or as a scenario.

mod kernels;
mod scenario;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser as _;
use indicatif::{ProgressBar, ProgressStyle};

use super::args::{Args, Command, GuestOptions, ReplayArgs, SCENARIOS, ThroughArgs};
use super::{Exit, Failure, replay};
use crate::capture::{Frame, Frames, Survey, Writer};
use crate::condition::Condition;
use crate::minimize::{self, Limits, Minimal, MinimizeError, Probe, Progress, Replayed};
use crate::run::{Plan, RunError};
use crate::scenario::Mode;

/// Version of what `--json` prints; raised when a key changes its meaning or goes away.
const VERSION: u32 = 1;

/// `bpflab minimize`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("into").required(true).multiple(true).args(["output", "scenario"])))]
pub struct MinimizeArgs {
    /// The capture.
    pub capture: PathBuf,
    /// What must go on to hold, over the names of `bpflab replay --json`: `drops["TCP_CSUM"] > 0`,
    /// `tcp.retransmissions >= 3 and not http`, `flows[proto == "udp" and packets > 10]`, `malformed contains "land"`; or
    /// `differs("5.10", "7.x")`: the snapshot differs between two kernels of the list.
    #[arg(long = "while", value_name = "CONDITION")]
    pub condition: String,
    /// How packets meet the programs.
    #[arg(long, value_enum, default_value_t = Mode::Lockstep)]
    pub mode: Mode,
    /// Write the smallest capture to this file.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Make a scenario of it, `family/behaviour`, with a pending snapshot.
    #[arg(long, value_name = "NAME")]
    pub scenario: Option<String>,
    /// Folder of the scenarios.
    #[arg(long, default_value = SCENARIOS, value_name = "FOLDER")]
    pub scenarios: PathBuf,
    /// Give up after so many seconds, with what was found until then.
    #[arg(long, value_name = "SECONDS")]
    pub budget: Option<u64>,
    /// What packets meet, and which are looked at.
    #[command(flatten)]
    pub through: ThroughArgs,
    /// What guests are, where kernels are compared.
    #[command(flatten)]
    pub guests: GuestOptions,
    /// Print what was done as JSON.
    #[arg(long)]
    pub json: bool,
    /// No progress on standard error.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Makes the capture as small as the condition lets it.
pub fn minimize(args: &MinimizeArgs) -> Result<Exit, Failure> {
    let condition = Condition::parse(&args.condition).map_err(|error| Failure::invalid(&error))?;
    let plan = replay::plan(&as_replay(args), &args.capture)?;
    if let Some(name) = &args.scenario {
        scenario::check_name(&args.scenarios, name)?;
    }
    let frames = frames(&plan)?;
    let folder = tempfile::tempdir().map_err(|error| Failure::unavailable(&error))?;
    let stop = super::signals::stop_flag();
    let mut probe: Box<dyn Probe + '_> = match condition.differing_kernels() {
        Some(names) => Box::new(kernels::Kernels::new(args, &plan, names, folder.path())?),
        None => Box::new(Replayed::new(unlimited(&plan), &condition, stop)),
    };
    let start = Instant::now();
    // A run on the wire may turn out one way or the other.
    let tries = if plan.mode == Some(Mode::Lockstep) { 1 } else { 2 };
    let deadline = args.budget.map(|seconds| start + Duration::from_secs(seconds));
    let limits = Limits { deadline, stop, tries };
    let mut display = Display::new(args.quiet);
    let all = frames.len();
    let found = minimize::minimize(&args.capture, frames, folder.path(), &mut *probe, limits, &mut |progress| {
        display.show(progress);
    });
    display.finish();
    let found = found.map_err(|error| failure(&error))?;
    let took = start.elapsed();
    if let Some(path) = &args.output {
        write(path, &found.frames)?;
    }
    report(args, &found, all, took);
    if let Some(name) = &args.scenario {
        scenario::make(args, &condition, &plan, name, &found.frames)?;
    }
    Ok(if found.complete { Exit::Passed } else { Exit::Failed })
}

/// The choices of `bpflab replay`, all others as they are there.
fn as_replay(args: &MinimizeArgs) -> ReplayArgs {
    let parsed = Args::try_parse_from(["bpflab", "replay", "-"]);
    let Ok(Args { command: Command::Replay(mut replay) }) = parsed else {
        unreachable!("a replay of standard input is a sound command")
    };
    replay.mode = Some(args.mode);
    replay.through = args.through.clone();
    replay
}

/// The plan for captures that are made of what it chose: nothing is chosen again.
fn unlimited(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    (plan.options.filter, plan.options.limit) = (None, None);
    plan
}

fn frames(plan: &Plan) -> Result<Vec<Frame>, Failure> {
    let survey = Survey::of(&plan.capture, &plan.options).map_err(|error| Failure::invalid(&error))?;
    let frames = Frames::open(&plan.capture, &plan.options, &survey).map_err(|error| Failure::invalid(&error))?;
    frames.collect::<Result<_, _>>().map_err(|error| Failure::invalid(&error))
}

fn write(path: &Path, frames: &[Frame]) -> Result<(), Failure> {
    let write = || {
        let mut writer = Writer::create(path)?;
        frames.iter().try_for_each(|frame| writer.write(frame.time_ns, &frame.data, frame.wire_len))?;
        writer.finish()
    };
    write().map_err(|error| Failure::invalid(&error))
}

fn failure(error: &MinimizeError) -> Failure {
    match error {
        MinimizeError::Run(error) => replay::failure(error, None),
        MinimizeError::Kernels(_) => Failure::unavailable(error),
        // The condition is the question, and the answer is no.
        MinimizeError::HoldsNot { .. } | MinimizeError::Unsteady { .. } | MinimizeError::Rewritten { .. } => {
            Failure { exit: Exit::Failed, message: error.to_string() }
        }
        MinimizeError::Capture(_) => Failure::invalid(error),
    }
}

fn report(args: &MinimizeArgs, found: &Minimal, all: usize, took: Duration) {
    if args.json {
        let value = serde_json::json!({
            "version": VERSION,
            "capture": args.capture,
            "condition": args.condition,
            "packets_before": all,
            "packets": found.frames.len(),
            "bytes": found.frames.iter().map(|frame| frame.data.len()).sum::<usize>(),
            "stages": found.stages,
            "complete": found.complete,
            "seconds": took.as_secs_f64(),
            "output": args.output,
        });
        println!("{value:#}");
        return;
    }
    println!("condition  {}", args.condition);
    println!("{:13} {:>9} {:>9} {:>7}", "", "before", "after", "probes");
    for stage in &found.stages {
        println!("{:13} {:>9} {:>9} {:>7}", stage.stage.to_string(), stage.before, stage.after, stage.probes);
    }
    if !found.complete {
        println!("ended before it was done: what is left may be made smaller still");
    }
    let bytes: usize = found.frames.iter().map(|frame| frame.data.len()).sum();
    let into = args.output.as_ref().map_or_else(String::new, |path| format!(" in {}", path.display()));
    println!("{} of {all} packets, {bytes} bytes{into}; took {:.1} s", found.frames.len(), took.as_secs_f64());
}

/// A bar on a terminal, plain lines otherwise.
struct Display {
    bar: Option<ProgressBar>,
    quiet: bool,
    last: Instant,
}

impl Display {
    fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new_spinner();
            // The template is a constant; should it ever be wrong, the default style serves.
            ProgressStyle::with_template("{spinner} {msg} {elapsed}").map(|style| bar.set_style(style)).ok();
            bar
        });
        Self { bar, quiet, last: Instant::now() }
    }

    fn show(&mut self, Progress { stage, before, now, probes }: Progress) {
        let text = format!("{stage}: {now} of {before} left, {probes} probes");
        if let Some(bar) = &self.bar {
            bar.set_message(text);
            bar.tick();
        } else if !self.quiet && self.last.elapsed() >= Duration::from_secs(5) {
            self.last = Instant::now();
            eprintln!("{text}");
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// As [`Failure::invalid`], for a file that could not be written.
fn artefact(path: &Path) -> impl FnOnce(std::io::Error) -> Failure + use<> {
    let path = path.to_owned();
    move |source| Failure::invalid(&RunError::Artefact { path, source })
}
