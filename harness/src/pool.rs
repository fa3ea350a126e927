//! Loaded objects that wait for their next run.
//!
//! Verifying the suite's programs takes longer than most runs, above all in an emulated guest. Many runs in one process
//! therefore share what they load: an analyzer goes back to the pool after its run, and the next run with the same object,
//! settings and clock takes it out again, emptied. What differs from run to run (namespaces, interfaces) is in maps, so
//! the programs stay the same; no link outlives a run, so nothing happens to a waiting object.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::object::Clock;
use crate::suite::{Family, Observer};

/// Most objects that wait. Each holds its maps' memory, of which the largest is a ring of 8 MiB.
const MOST: usize = 24;

/// What an analyzer was loaded with: two of one key are interchangeable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    family: Family,
    clock: Clock,
    settings: String,
}

impl Key {
    /// The key of an object loaded with these settings.
    #[must_use]
    pub fn new(family: Family, clock: Clock, settings: &impl Serialize) -> Self {
        // Settings are plain structs.
        let settings = serde_json::to_string(settings).unwrap_or_default();
        Self { family, clock, settings }
    }
}

/// The objects that wait; the one used last is the last to go where there are too many.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<Vec<(Key, Box<dyn Observer>)>>,
}

impl Pool {
    /// The pool of this process, for runs that follow each other.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: Pool = Pool { idle: Mutex::new(Vec::new()) };
        &SHARED
    }

    /// An analyzer of that key, as new: one that waits, or else the one that `load` gives.
    ///
    /// It is emptied now rather than when it was given back: by then a program that a detached tracepoint still ran on
    /// another CPU has long ended. One that cannot be emptied is let go.
    ///
    /// # Errors
    /// Those of `load`.
    pub fn take<E>(
        &self,
        key: &Key,
        load: impl FnOnce() -> Result<Box<dyn Observer>, E>,
    ) -> Result<Box<dyn Observer>, E> {
        while let Some(mut analyzer) = self.remove(key) {
            if analyzer.reset().is_ok() {
                return Ok(analyzer);
            }
        }
        load()
    }

    fn remove(&self, key: &Key) -> Option<Box<dyn Observer>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let index = idle.iter().rposition(|(of, _)| of == key)?;
        Some(idle.remove(index).1)
    }

    /// Takes an analyzer of that key, whose programs are detached.
    pub fn give_back(&self, key: Key, analyzer: Box<dyn Observer>) {
        let surplus = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push((key, analyzer));
            (idle.len() > MOST).then(|| idle.remove(0))
        };
        // Unloading waits for the kernel: not under the lock.
        drop(surplus);
    }

    /// Lets all objects that wait go: what is taken next is fresh.
    pub fn clear(&self) {
        let waiting = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        drop(waiting);
    }

    /// Number of objects that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
