//! Progress for people: a bar on a terminal, plain lines otherwise, nothing when quiet.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::apps;
use crate::record::Outcome;
use crate::run::Step;
use crate::vm::matrix;

/// Without a terminal, one line per so much time: enough to see that a long run lives.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows the steps of a run on standard error.
pub struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    last_line: Instant,
}

impl Progress {
    /// A display that fits standard error; silent if `quiet`.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(ProgressBar::new_spinner);
        Self { bar, quiet, last_line: Instant::now() }
    }

    /// Takes in one step.
    pub fn step(&mut self, step: &Step<'_>) {
        let text = match step {
            Step::Survey { file } => format!("reading {}", file.display()),
            Step::Chosen { mode, .. } => format!("{mode} mode"),
            Step::Load { object } => format!("loading {object}"),
            Step::Build { topology } => format!("building topology {topology}"),
            Step::Frames { done, of } => return self.frames(*done, *of),
            Step::Flows { done, of } => format!("{done} of {of} conversations are over"),
            Step::App { at: apps::Progress::Waiting } => return,
            Step::App { at: apps::Progress::Started(app) } => format!("{app} runs"),
            Step::App { at: apps::Progress::Ready(app) } => format!("{app} is ready"),
            Step::App { at: apps::Progress::Ended(app) } => format!("{app} has ended"),
            Step::Collect => "reading maps".to_owned(),
        };
        if let Some(bar) = &self.bar {
            bar.set_message(text);
            bar.tick();
        }
    }

    fn frames(&mut self, done: u64, of: u64) {
        if let Some(bar) = &self.bar {
            if bar.length() != Some(of) {
                bar.set_length(of);
                // The template is a constant; should it ever be wrong, the default style serves.
                if let Ok(style) =
                    ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} packets {per_sec} {eta}")
                {
                    bar.set_style(style);
                }
            }
            bar.set_position(done);
        } else if !self.quiet && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            eprintln!("{done} of {of} packets");
        }
    }

    /// Removes the bar.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Shows how many of something are done, on standard error, where it is not known how many there will be.
pub struct Counter {
    bar: Option<ProgressBar>,
    quiet: bool,
    what: &'static str,
    last_line: Instant,
}

impl Counter {
    /// A display that fits standard error; silent if `quiet`.
    #[must_use]
    pub fn new(quiet: bool, what: &'static str) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(ProgressBar::new_spinner);
        if let Some(bar) = &bar
            // The template is a constant; should it ever be wrong, the default style serves.
            && let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} {msg} {per_sec}")
        {
            bar.set_style(style);
            bar.set_message(what);
        }
        Self { bar, quiet, what, last_line: Instant::now() }
    }

    /// So many are done.
    pub fn show(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if !self.quiet && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            eprintln!("{done} {}", self.what);
        }
    }

    /// Removes the display.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Shows what the guests of a matrix do, on standard error: a line per kernel on a terminal, plain lines otherwise.
pub struct MatrixProgress {
    bars: Option<MultiProgress>,
    kernels: Mutex<BTreeMap<String, KernelLine>>,
    trials: usize,
    quiet: bool,
}

/// What is shown of one kernel.
#[derive(Default)]
struct KernelLine {
    bar: Option<ProgressBar>,
    counts: BTreeMap<Outcome, u64>,
}

impl MatrixProgress {
    /// A display that fits standard error; silent if `quiet`.
    #[must_use]
    pub fn new(quiet: bool, trials: usize) -> Self {
        let bars = (!quiet && std::io::stderr().is_terminal()).then(MultiProgress::new);
        Self { bars, kernels: Mutex::default(), trials, quiet }
    }

    /// Takes in one step of kernel `kernel`.
    pub fn step(&self, kernel: &str, step: &matrix::Step<'_>) {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let line = kernels.entry(kernel.to_owned()).or_default();
        match step {
            matrix::Step::Start { trials } => self.say(line, kernel, &format!("starting a guest for {trials} trials")),
            matrix::Step::Booted { release, after } => {
                self.say(line, kernel, &format!("{release} booted in {:.1} s", after.as_secs_f64()));
            }
            matrix::Step::Trial(trial) => {
                if let Some(bar) = &line.bar {
                    bar.set_message(trial.to_string());
                }
            }
            matrix::Step::Record(record) => {
                *line.counts.entry(record.result).or_default() += 1;
                if let Some(bar) = &line.bar {
                    bar.inc(1);
                }
                if matches!(record.result, Outcome::Failed | Outcome::LabFailure) {
                    self.say(line, kernel, &format!("{}: {}", record.result.text(), record.trial()));
                }
            }
            matrix::Step::Failure(failure) => {
                self.say(line, kernel, &format!("{}: {}", failure.kind.text(), failure.message));
            }
            matrix::Step::Finished(_) => {
                let counts = line.counts.iter().map(|(outcome, count)| format!("{count} {}", outcome.text()));
                let counts = counts.collect::<Vec<_>>().join(", ");
                self.say(line, kernel, &if counts.is_empty() { "nothing ran".to_owned() } else { counts });
                if let Some(bar) = line.bar.take() {
                    bar.finish();
                }
            }
        }
    }

    fn say(&self, line: &mut KernelLine, kernel: &str, text: &str) {
        if let Some(bars) = &self.bars {
            let bar = line.bar.get_or_insert_with(|| {
                let bar = bars.add(ProgressBar::new(self.trials as u64).with_prefix(kernel.to_owned()));
                // The template is a constant; should it ever be wrong, the default style serves.
                if let Ok(style) = ProgressStyle::with_template("{prefix:<8} {bar:24} {pos:>3}/{len:<3} {msg}") {
                    bar.set_style(style);
                }
                bar
            });
            bar.set_message(text.to_owned());
        } else if !self.quiet {
            eprintln!("{kernel}: {text}");
        }
    }

    /// Leaves the lines as they are.
    pub fn finish(&self) {
        if let Some(bars) = &self.bars {
            let _ = bars.clear();
        }
    }
}
