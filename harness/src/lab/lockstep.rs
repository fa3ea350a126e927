//! Programs of a lockstep lab as the runner takes them.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::outcome::Received;
use crate::capture::Side;
use crate::hook::Hook;
use crate::object::ObjectError;
use crate::observation::Observation;
use crate::subject::Packets;
use crate::suite::{Attach, Loaded, Observer, Programs, WatchedHost};

/// A program that packets meet.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) object: String,
    pub(super) program: String,
    pub(super) hook: Hook,
    pub(super) fd: OwnedFd,
    pub(super) kind: &'static str,
    pub(super) attach: u32,
}

/// What programs did to packets.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// By object, in the order in which their first program was attached.
    pub(super) packets: Vec<(String, Packets)>,
    pub(super) received: Vec<Received>,
    /// Number of programs on the way, and how many of them have let the current packet pass.
    steps: usize,
    passed: usize,
    side: Option<Side>,
}

/// The log as the runner's parts share it; the runner has one thread.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedLog(Arc<Mutex<Log>>);

impl SharedLog {
    pub(super) fn new(steps: &[Step]) -> Self {
        let mut log = Log { steps: steps.len(), ..Log::default() };
        for step in steps {
            if !log.packets.iter().any(|(object, _)| *object == step.object) {
                log.packets.push((step.object.clone(), Packets::default()));
            }
        }
        Self(Arc::new(Mutex::new(log)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A packet begins its way.
    pub(super) fn begin(&self, side: Side, frame: &[u8]) {
        let mut log = self.lock();
        (log.side, log.passed) = (Some(side.opposite()), 0);
        if log.steps == 0 {
            log.arrive(frame);
        }
    }

    pub(super) fn take(&self) -> Log {
        std::mem::take(&mut *self.lock())
    }
}

impl Log {
    fn arrive(&mut self, data: &[u8]) {
        if let Some(side) = self.side {
            self.received.push(Received { side, data: data.to_vec() });
        }
    }

    fn saw(&mut self, step: &Step, verdict: &'static str, before: (u64, &[u8]), after: &[u8]) {
        if let Some((_, packets)) = self.packets.iter_mut().find(|(object, _)| *object == step.object) {
            packets.saw(&step.program, verdict, before, after);
        }
        // The runner lets no other program see a packet that was not let pass.
        self.passed += usize::from(passes(verdict));
        if self.passed == self.steps {
            self.arrive(after);
        }
    }
}

fn passes(verdict: &str) -> bool {
    matches!(verdict, "XDP_PASS" | "TC_ACT_UNSPEC" | "TC_ACT_OK" | "TC_ACT_RECLASSIFY" | "TC_ACT_PIPE")
}

/// One program: each takes part by itself, so that they run in the order in which they were attached.
pub(super) struct Player {
    step: Step,
    log: SharedLog,
}

impl Player {
    pub(super) fn new(step: &Step, log: &SharedLog) -> std::io::Result<Self> {
        let Step { object, program, hook, fd, kind, attach } = step;
        let step = Step {
            object: object.clone(),
            program: program.clone(),
            hook: hook.clone(),
            fd: fd.try_clone()?,
            kind,
            attach: *attach,
        };
        Ok(Self { step, log: log.clone() })
    }
}

impl Programs for Player {
    fn object_name(&self) -> &str {
        &self.step.object
    }

    fn load(&mut self, program: &str, _target: Option<&str>) -> Result<Loaded, ObjectError> {
        let Step { object, fd, kind, attach, .. } = &self.step;
        let failed = |source: std::io::Error| ObjectError::Map {
            object: object.clone(),
            map: format!("(descriptor of program {program})"),
            source: source.into(),
        };
        Ok(Loaded { fd: fd.as_fd().try_clone_to_owned().map_err(failed)?, kind, attach: *attach })
    }
}

impl Observer for Player {
    fn attaches(&self) -> Vec<Attach> {
        vec![Attach { program: self.step.program.clone(), hook: self.step.hook.clone() }]
    }

    fn programs(&mut self) -> &mut dyn Programs {
        self
    }

    /// The test's programs read the kernel's clock.
    fn set_clock(&self, _time_ns: u64) {}

    fn changes_packets(&self) -> bool {
        true
    }

    fn packet(&mut self, _program: &str, verdict: &'static str, before: (u64, &[u8]), after: &[u8]) {
        self.log.lock().saw(&self.step, verdict, before, after);
    }

    fn watch(&mut self, _hosts: &[WatchedHost]) -> Result<(), ObjectError> {
        Ok(())
    }

    fn reset(&mut self) -> Result<(), ObjectError> {
        Ok(())
    }

    fn drain(&mut self) -> Result<(), ObjectError> {
        Ok(())
    }

    fn finish(&mut self, _start_ns: u64, _observation: &mut Observation) -> Result<(), ObjectError> {
        Ok(())
    }
}
