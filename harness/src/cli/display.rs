//! Progress for people: a bar on a terminal, plain lines otherwise, nothing when quiet.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::run::Step;

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
