//! `bpflab kernels`: what the list has, what the cache has, and getting the one into the other.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar};

use super::args::{KernelsArgs, KernelsCommand};
use super::{Exit, Failure};
use crate::vm::fast;
use crate::vm::kernels::{Cache, Image, KernelError, KernelList, State, Step, lab_cache};

/// The bar turns at this rate, so that a person sees life between two steps.
const TICK: Duration = Duration::from_millis(100);

/// How a failure to get a kernel is told, and which exit code it takes.
pub fn failure(error: &KernelError) -> Failure {
    if error.is_input() { Failure::invalid(error) } else { Failure::unavailable(error) }
}

/// Runs one of the commands.
pub fn kernels(args: &KernelsArgs) -> Result<Exit, Failure> {
    let list = KernelList::read(&args.kernels).map_err(|error| failure(&error))?;
    let cache = Cache::open().map_err(|error| failure(&error))?;
    match &args.command {
        KernelsCommand::List { json } => Ok(show(&cache, &list, *json)),
        KernelsCommand::Fetch { names, mirror, refresh } => fetch(&cache, &list, names, mirror.as_deref(), *refresh),
        KernelsCommand::Prune { all } => prune(&cache, &list, *all),
    }
}

fn show(cache: &Cache, list: &KernelList, json: bool) -> Exit {
    let rows = cache.list(list);
    if json {
        let document = serde_json::json!({ "version": 1, "cache": cache.root(), "kernels": rows });
        println!("{document:#}");
        return Exit::Passed;
    }
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for row in rows {
        let name = console::style(format!("{:<width$}", row.name)).bold();
        match row.state {
            State::Cached { release, version, sha256, bytes, .. } => {
                println!("{name}  {release}  {}, sha256 {sha256}\n{:width$}  {version}", HumanBytes(bytes), "");
            }
            State::Local { release, sha256 } => {
                println!("{name}  {release}  sha256 {sha256}\n{:width$}  {}", "", row.source)
            }
            State::Missing => {
                println!("{name}  not cached: `bpflab kernels fetch {}`\n{:width$}  {}", row.name, "", row.source)
            }
            State::Unusable { reason } => println!("{name}  unusable: {reason}\n{:width$}  {}", "", row.source),
        }
    }
    Exit::Passed
}

/// One kernel that cannot be had does not keep the others from being fetched. The worst exit code counts: what is wrong
/// with the list before what is wrong here.
fn fetch(
    cache: &Cache,
    list: &KernelList,
    names: &[String],
    mirror: Option<&str>,
    refresh: bool,
) -> Result<Exit, Failure> {
    let chosen = list.select(names).map_err(|error| failure(&error))?;
    let mut exit = Exit::Passed;
    for kernel in chosen {
        let mut progress = KernelProgress::new(&kernel.name);
        let begun = Instant::now();
        let mut step = |step: Step<'_>| progress.step(&step);
        let result =
            if refresh { cache.refresh(kernel, mirror, &mut step) } else { cache.ensure(kernel, mirror, &mut step) };
        progress.finish();
        match result {
            Ok(image) => print(&image, begun.elapsed()),
            Err(error) => {
                let failed = failure(&error);
                eprintln!("bpflab: {}: {}", kernel.name, failed.message);
                exit = if exit == Exit::Invalid { exit } else { failed.exit };
            }
        }
    }
    Ok(exit)
}

fn print(image: &Image, took: Duration) {
    let Image { name, release, version, sha256, .. } = image;
    println!("{name:<8} {release}  {version}  sha256 {}  {:.1} s", &sha256[..12.min(sha256.len())], took.as_secs_f64());
}

fn prune(cache: &Cache, list: &KernelList, all: bool) -> Result<Exit, Failure> {
    let mut pruned = cache.prune(list, all).map_err(|error| failure(&error))?;
    let lab = lab_cache().map_err(|error| failure(&error))?;
    pruned.extend(fast::prune(&lab, all).map_err(|error| Failure::unavailable(&error))?);
    if pruned.is_empty() {
        println!("nothing to remove");
    }
    for gone in pruned {
        println!("removed {}, {}: {}", gone.what, HumanBytes(gone.bytes), gone.why);
    }
    Ok(Exit::Passed)
}

/// Shows how a kernel is had, on standard error: one moving line on a terminal, else a line per step.
pub struct KernelProgress {
    name: String,
    bar: Option<ProgressBar>,
}

impl KernelProgress {
    /// For the kernel of that name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
        if let Some(bar) = &bar {
            bar.enable_steady_tick(TICK);
        }
        Self { name: name.to_owned(), bar }
    }

    /// Takes in one step.
    pub fn step(&mut self, step: &Step<'_>) {
        let text = match step {
            Step::Cached { version } => format!("{version} is in the cache"),
            Step::Damaged { version, reason } => {
                return self.keep(&format!("{version} in the cache is damaged: {reason}"));
            }
            Step::Waiting => "waiting for another process that fetches from the same suites".to_owned(),
            Step::Lists { mirror, suites } => format!("fetching the lists of {} from {mirror}", suites.join(", ")),
            Step::Resolved { version } => format!("fetching {version}"),
            Step::Unpack => "unpacking".to_owned(),
            Step::Download { percent, bytes } => {
                if let Some(bar) = &self.bar {
                    bar.set_message(format!("{}: {percent:.0} % of {}", self.name, HumanBytes(*bytes)));
                }
                return;
            }
        };
        match &self.bar {
            Some(bar) => bar.set_message(format!("{}: {text}", self.name)),
            None => eprintln!("{}: {text}", self.name),
        }
    }

    /// A line that stays on a terminal too.
    fn keep(&self, text: &str) {
        let line = format!("{}: {text}", self.name);
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Removes the moving line.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
