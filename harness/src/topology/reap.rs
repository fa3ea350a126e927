//! What runs that were killed left behind: names of network namespaces whose process is gone.
//!
//! Everything else a run makes (links, addresses, threads, attached programs) lives in its namespaces and ends with
//! them; a namespace ends when its name is removed and its last process is gone.

use std::io;
use std::sync::Once;

use super::error::TopologyError;
use super::namespace::{self, Owner};

/// A namespace's name that nobody will remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    name: String,
    owner: Owner,
}

impl Leftover {
    /// The namespace's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process that made it, which runs no more.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.owner.pid
    }
}

/// Everything that killed runs left. A name that this lab did not give is never among it, nor one whose process still
/// runs, nor one made in another PID namespace, whose processes cannot be seen.
///
/// # Errors
/// [`TopologyError::Leftovers`] where the directory of names or `/proc` cannot be read.
pub fn leftovers() -> Result<Vec<Leftover>, TopologyError> {
    let failed = |source| TopologyError::Leftovers { directory: namespace::DIRECTORY, source };
    let mut found = Vec::new();
    for name in namespace::names().map_err(failed)? {
        let Some(owner) = namespace::owner_of(&name) else { continue };
        if owner.is_alive().map_err(failed)? == Some(false) {
            found.push(Leftover { name, owner });
        }
    }
    Ok(found)
}

/// Removes a leftover; one that somebody else removed meanwhile is no error.
///
/// # Errors
/// [`TopologyError::Kernel`]: `EPERM` without root.
pub fn remove(leftover: &Leftover) -> Result<(), TopologyError> {
    namespace::remove(&leftover.name).map_err(|source: io::Error| TopologyError::Kernel {
        operation: format!("remove network namespace {}", leftover.name),
        host: namespace::host_of(&leftover.name).to_owned(),
        interface: None,
        source,
    })
}

/// Removes all leftovers, the first time it is called in a process. What cannot be removed does no harm to what is
/// built next, so nothing is said about it here.
pub(crate) fn once() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        for leftover in leftovers().unwrap_or_default() {
            _ = remove(&leftover);
        }
    });
}
