//! A runner's processes as one: started together, ended together.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How often a process that was told to end is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long processes may take to end by themselves after they were asked to.
const PATIENCE: Duration = Duration::from_secs(2);

/// A child and all its descendants, which are killed when this is dropped.
#[derive(Debug)]
pub struct ProcessGroup {
    child: Child,
    ended: Option<ExitStatus>,
    /// Keeps the child's input open.
    _input: Option<mpsc::Sender<()>>,
}

impl ProcessGroup {
    /// Starts `command` in a process group of its own, with nothing to read; what it prints goes to `log`.
    ///
    /// # Errors
    /// The system's, e.g. where there is no such program.
    pub fn start(command: &mut Command, log: &File) -> std::io::Result<Self> {
        let child =
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?).process_group(0).spawn()?;
        Ok(Self { child, ended: None, _input: None })
    }

    /// As [`Self::start`], but the child reads `input`, whose end it does not see as long as this lives, and what it
    /// writes to its standard output goes to `out`.
    ///
    /// # Errors
    /// The system's.
    pub fn start_with(command: &mut Command, input: Vec<u8>, out: File, log: &File) -> std::io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(out).stderr(log.try_clone()?).process_group(0).spawn()?;
        let (keep, dropped) = mpsc::channel::<()>();
        if let Some(mut pipe) = child.stdin.take() {
            // It may be more than a pipe holds. Who does not read it to its end is told by what is missing.
            std::thread::spawn(move || {
                let _ = pipe.write_all(&input);
                let _ = dropped.recv();
            });
        }
        Ok(Self { child, ended: None, _input: Some(keep) })
    }

    /// How the child ended, if it has.
    ///
    /// # Errors
    /// The system's.
    pub fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Waits for the child's end until `deadline`; says whether it came.
    pub fn wait_until(&mut self, deadline: Instant) -> bool {
        loop {
            if !matches!(self.ended(), Ok(None)) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Ends the child and its descendants: asked first, then killed.
    pub fn end(&mut self) {
        if matches!(self.ended(), Ok(None)) {
            self.signal(libc::SIGTERM);
            self.wait_until(Instant::now() + PATIENCE);
        }
        // Descendants may outlive the child, and hold the group's number as long as they do.
        self.signal(libc::SIGKILL);
        if self.ended.is_none() {
            let _ = self.child.wait();
        }
    }

    fn signal(&self, signal: i32) {
        if let Ok(group) = i32::try_from(self.child.id()) {
            crate::sys::signal_group(group, signal);
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.end();
    }
}
