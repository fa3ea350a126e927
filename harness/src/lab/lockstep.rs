//! Programs of a lockstep lab as the runner takes them.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::hook::Hook;
use crate::object::ObjectError;
use crate::observation::Observation;
use crate::subject::Packets;
use crate::suite::{Attach, Loaded, Observer, Programs, WatchedHost};

/// A program that packets meet.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) object: String,
    pub(super) program: String,
    pub(super) hook: Hook,
    pub(super) fd: Arc<OwnedFd>,
    pub(super) kind: &'static str,
    pub(super) attach: u32,
}

/// What programs did to packets, by object, in the order in which their first program was attached; shared by the parts
/// of a run, which has one thread.
#[derive(Clone, Debug, Default)]
pub(super) struct Log(Arc<Mutex<Vec<(String, Packets)>>>);

impl Log {
    pub(super) fn new(steps: &[Step]) -> Self {
        let mut objects: Vec<(String, Packets)> = Vec::new();
        for step in steps {
            if !objects.iter().any(|(object, _)| *object == step.object) {
                objects.push((step.object.clone(), Packets::default()));
            }
        }
        Self(Arc::new(Mutex::new(objects)))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(String, Packets)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self) -> Vec<(String, Packets)> {
        std::mem::take(&mut *self.lock())
    }
}

/// One program: each takes part by itself, so that they run in the order in which they were attached.
pub(super) struct Player {
    step: Step,
    log: Log,
}

impl Player {
    pub(super) fn new(step: &Step, log: &Log) -> Self {
        Self { step: step.clone(), log: log.clone() }
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
        let mut objects = self.log.lock();
        if let Some((_, packets)) = objects.iter_mut().find(|(object, _)| *object == self.step.object) {
            packets.saw(&self.step.program, verdict, before, after);
        }
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
