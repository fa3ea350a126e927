//! A command in a guest, as if it ran here: what it writes comes out while it runs, and how it ended is known.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::kernels::Image;
use super::kvm::{self, Acceleration};
use super::protocol::{Ending, GuestCommand, Message, PROTOCOL_VERSION, Request, Stream};
use super::runner::{Runner, RunnerError, Setting};
use super::supervise::{Life, Limits, supervise};

/// Guests that are started until one speaks: the second where KVM, or a saved guest, was of no use, the third for both.
const GUESTS: usize = 3;
/// From a command's limit on, until the guest says that it killed it.
const GRACE: Duration = Duration::from_secs(20);

/// A command, and the guest that runs it.
#[derive(Clone, Debug)]
pub struct Exec<'a> {
    /// The kernel.
    pub image: &'a Image,
    /// The runner.
    pub runner: Runner,
    /// The guest.
    pub setting: Setting,
    /// The command, with its limit.
    pub command: GuestCommand,
    /// How long the guest may take to its first message.
    pub boot: Duration,
    /// Where the guest's files are kept: request, console, messages.
    pub folder: &'a Path,
}

impl Exec<'_> {
    /// Runs the command; `on` is given what it writes. An error from there sets `stop`, which ends the guest.
    ///
    /// [`Life::ending`] says how the command ended; where there is none the guest did not live to say it, and
    /// [`Life::failures`] say why.
    ///
    /// # Errors
    /// See [`RunnerError`]: there was no guest.
    pub fn run(
        &mut self,
        stop: &AtomicBool,
        on: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<Life, RunnerError> {
        let mut guests = 0;
        loop {
            let life = self.live(stop, on)?;
            guests += 1;
            if life.release.is_some() || guests == GUESTS || stop.load(Ordering::Relaxed) || !self.may_do_better() {
                return Ok(life);
            }
        }
    }

    /// Whether another guest may speak where one did not: without KVM, or without what was saved.
    fn may_do_better(&mut self) -> bool {
        if self.setting.acceleration == Acceleration::Kvm
            && let Ok(qemu) = self.runner.tool("qemu-system-x86_64")
        {
            let why = "/dev/kvm passed its trial, but a guest did not boot by it";
            self.setting.acceleration = kvm::give_up(&self.setting.cache, &qemu, why);
            return true;
        }
        self.runner.forget(self.image, &self.setting)
    }

    fn live(
        &self,
        stop: &AtomicBool,
        on: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<Life, RunnerError> {
        let command = Some(self.command.clone());
        let request = Request { version: PROTOCOL_VERSION, command, ..Request::default() };
        let guest = self.runner.start(self.image, &request, &self.setting, self.folder, stop)?;
        // A command may be silent as long as it may run.
        let limit = Duration::from_millis(self.command.limit_ms).saturating_add(GRACE);
        let limits = Limits { boot: self.boot, silence: limit, exit: GRACE };
        // A guest whose clock stands still would not end a command that writes all the time.
        let mut latest = None;
        let mut overdue = false;
        let mut life = supervise(guest, &limits, stop, &mut |message| {
            let latest = latest.get_or_insert_with(|| Instant::now() + limit);
            let Message::Output { stream, content } = message else { return };
            let passed_on =
                BASE64_STANDARD.decode(content).map_err(io::Error::other).and_then(|bytes| on(*stream, &bytes));
            overdue |= Instant::now() > *latest;
            if passed_on.is_err() || overdue {
                stop.store(true, Ordering::Relaxed);
            }
        });
        if overdue && life.ending.is_none() {
            life.ending = Some(Ending::TimedOut);
        }
        Ok(life)
    }
}
