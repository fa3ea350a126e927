//! Whether a condition holds for a capture.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::MinimizeError;
use crate::condition::Condition;
use crate::pool::Pool;
use crate::run::{self, Plan};

/// Whatever can be asked of a capture.
pub trait Probe {
    /// Whether the condition holds for this capture.
    ///
    /// # Errors
    /// Neither yes nor no can be said.
    fn holds(&mut self, capture: &Path) -> Result<bool, MinimizeError>;
}

/// Runs a capture through the programs and asks what was seen.
pub struct Replayed<'a> {
    plan: Plan,
    condition: &'a Condition,
    pool: Pool,
    stop: &'a AtomicBool,
}

impl<'a> Replayed<'a> {
    /// Runs as `plan` says, its capture aside. A run that `stop` ends says no.
    #[must_use]
    pub fn new(plan: Plan, condition: &'a Condition, stop: &'a AtomicBool) -> Self {
        Self { plan: Plan { artefacts: None, record: None, ..plan }, condition, pool: Pool::default(), stop }
    }
}

impl Probe for Replayed<'_> {
    fn holds(&mut self, capture: &Path) -> Result<bool, MinimizeError> {
        capture.clone_into(&mut self.plan.capture);
        let document = run::run_with(&self.pool, &self.plan, self.stop, &mut |_| ()).map_err(Box::new)?;
        // Made of strings, numbers and string-keyed maps.
        let seen = serde_json::to_value(&document.observation).unwrap_or_default();
        Ok(self.condition.holds(&seen))
    }
}
