//! A guest that is booted to be saved.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::console::Console;
use super::super::kernels::Image;
use super::super::process::ProcessGroup;
use super::super::runner::{RunnerError, Setting, make, open, quoted};
use super::machine::{self, Disks};
use super::qmp::Monitor;

/// An emulated guest boots in 5 s on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// Writing a state to disk takes a fifth of a second on an idle machine.
const SAVE_LIMIT: Duration = Duration::from_secs(120);
/// How often a guest is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Bytes a second that a state may be written at; QEMU's own limit is meant for networks.
const SAVE_RATE: u64 = 100_000_000_000;
/// What `vm/init` writes when it waits for the request.
const READY: &str = "ready\n";

/// A guest on its way to being saved.
pub struct Boot {
    processes: ProcessGroup,
    sockets: tempfile::TempDir,
    said: File,
    text: String,
    printed: File,
    console: Console,
    log: PathBuf,
}

impl Boot {
    /// Starts it; what it prints goes to files in `logs`.
    pub fn start(image: &Image, setting: &Setting, disks: &Disks, logs: &Path) -> Result<Self, RunnerError> {
        let (console, said, log) = (logs.join("boot.log"), logs.join("boot.out"), logs.join("boot-qemu.log"));
        make(&console)?;
        let out = make(&said)?;
        let mut command = machine::command(image, setting, disks, &console)?;
        let sockets = machine::monitored(&mut command)?;
        let processes = machine::start(&mut command, out, Vec::new(), &make(&log)?)?;
        let (said, printed) = (open(said)?, open(console)?);
        Ok(Self { processes, sockets, said, text: String::new(), printed, console: Console::default(), log })
    }

    /// Waits until the guest says that it is ready, or `stop` is set.
    pub fn wait(&mut self, stop: &AtomicBool) -> Result<(), RunnerError> {
        let deadline = Instant::now() + BOOT_LIMIT;
        loop {
            // Looked at before the streams: what was written before the end is still read.
            let ended = self.processes.ended();
            let mut printed = Vec::new();
            let read = self.printed.read_to_end(&mut printed).and_then(|_| self.said.read_to_string(&mut self.text));
            let signs = self.console.take(&printed);
            if self.text.ends_with(READY) {
                return Ok(());
            }
            if stop.load(Ordering::Relaxed) {
                return Err(RunnerError::Interrupted);
            }
            let why = match (ended, read) {
                _ if !signs.is_empty() => signs[0].1.clone(),
                (_, Err(error)) => format!("its output cannot be read: {error}"),
                (Err(error), _) => format!("QEMU's end is not known: {error}"),
                (Ok(Some(status)), _) if status.signal() == Some(libc::SIGBUS) => {
                    "there is no room for its memory in the cache: the disk is full".to_owned()
                }
                (Ok(Some(status)), _) => format!("QEMU ended ({status}){}", self.complaint()),
                (Ok(None), _) if Instant::now() > deadline => {
                    format!("it was not ready after {} s", BOOT_LIMIT.as_secs())
                }
                (Ok(None), Ok(_)) => {
                    std::thread::sleep(LOOK_EVERY);
                    continue;
                }
            };
            return Err(RunnerError::Boot { why, console: self.console.tail() });
        }
    }

    /// What QEMU itself had to say.
    fn complaint(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().last().map_or_else(String::new, |line| format!(": {line}"))
    }

    /// Writes the guest's state to file `state` and ends it. It is not stopped before: QEMU remembers whether it ran.
    pub fn save(&mut self, state: &Path) -> Result<(), RunnerError> {
        let saved = self.try_save(state);
        saved.map_err(|source| RunnerError::Save { path: state.to_owned(), source })
    }

    fn try_save(&mut self, state: &Path) -> io::Result<()> {
        let mut monitor = Monitor::connect(&machine::socket(&self.sockets), &mut self.processes)?;
        monitor.leave_memory_out()?;
        monitor.call("migrate-set-parameters", &json!({ "max-bandwidth": SAVE_RATE }))?;
        let to = format!("exec:cat > {}", quoted(state));
        monitor.call("migrate", &json!({ "uri": to }))?;
        let deadline = Instant::now() + SAVE_LIMIT;
        let bytes = loop {
            let progress = monitor.call("query-migrate", &json!({}))?;
            match progress["status"].as_str() {
                Some("completed") => break progress["ram"]["transferred"].as_u64().unwrap_or_default(),
                Some("failed" | "cancelled") => {
                    let why = progress["error-desc"].as_str().unwrap_or("QEMU does not say why");
                    return Err(io::Error::other(why.to_owned()));
                }
                _ if Instant::now() > deadline => return Err(io::ErrorKind::TimedOut.into()),
                _ => std::thread::sleep(LOOK_EVERY),
            }
        };
        // Its end is also the end of the program that writes the file.
        monitor.call("quit", &json!({}))?;
        self.processes.wait_until(deadline);
        let written = std::fs::metadata(state)?.len();
        if written < bytes {
            return Err(io::Error::new(io::ErrorKind::StorageFull, format!("{written} of {bytes} bytes were written")));
        }
        Ok(())
    }
}
