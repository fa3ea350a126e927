//! The map that probes count in.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::kernel;
use crate::sys::{MappedArray, WordArray};

/// A map of counters could not be made or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} the map of {slots} coverage counters")]
pub struct CoverageMapError {
    /// `make`, `read` or `clear`.
    pub operation: &'static str,
    /// How many counters it has.
    pub slots: u32,
    /// The kernel's error.
    #[source]
    pub source: io::Error,
}

/// Counters of 64 bits, all in one element of an array, since only the first element of an array can be reached by
/// instructions without a call.
///
/// It must live until the programs that count in it are loaded; they keep the map after that.
#[derive(Debug)]
pub struct CoverageMap {
    words: WordArray,
    /// The counters as memory; where they cannot be mapped they are looked up.
    mapped: Option<MappedArray<u64>>,
    slots: u32,
}

impl CoverageMap {
    /// Makes `slots` counters, zeros.
    ///
    /// # Errors
    /// [`CoverageMapError`] with the kernel's: `E2BIG` for more than fit into a value (half a million before 5.11),
    /// `EPERM`, `ENOMEM`.
    pub fn new(slots: u32) -> Result<Self, CoverageMapError> {
        kernel::make_room_for_maps();
        let failed = |source| CoverageMapError { operation: "make", slots, source };
        let len = slots.max(1) as usize;
        let make = |mappable| WordArray::new("coverage", len, mappable);
        if let Ok(words) = make(true)
            && let Ok(mapped) = MappedArray::new(words.map().as_fd(), len)
        {
            return Ok(Self { words, mapped: Some(mapped), slots });
        }
        Ok(Self { words: make(false).map_err(failed)?, mapped: None, slots })
    }

    /// How many counters there are.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Whether the counters are read as memory, without a system call.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        self.mapped.is_some()
    }

    /// What was counted up to now.
    ///
    /// # Errors
    /// [`CoverageMapError`], only where the counters could not be mapped.
    pub fn read(&self) -> Result<Hits, CoverageMapError> {
        let Some(mapped) = &self.mapped else {
            let failed = |source| CoverageMapError { operation: "read", slots: self.slots, source };
            let mut counts = self.words.read().map_err(failed)?;
            counts.truncate(self.slots as usize);
            return Ok(Hits(counts));
        };
        Ok(Hits((0..self.slots as usize).map(|slot| mapped.counter(slot, 0)).collect()))
    }

    /// Sets all counters to zero. What programs count meanwhile may be lost.
    ///
    /// # Errors
    /// [`CoverageMapError`].
    pub fn clear(&self) -> Result<(), CoverageMapError> {
        let Some(mapped) = &self.mapped else {
            let failed = |source| CoverageMapError { operation: "clear", slots: self.slots, source };
            return self.words.clear().map_err(failed);
        };
        (0..mapped.len()).for_each(|slot| mapped.set(slot, 0));
        Ok(())
    }
}

impl AsFd for CoverageMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.words.map().as_fd()
    }
}

impl AsRawFd for CoverageMap {
    fn as_raw_fd(&self) -> RawFd {
        self.words.map().as_raw_fd()
    }
}

/// The values of counters, by slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hits(pub Vec<u64>);

impl Hits {
    /// The value of a counter; 0 for one that is not there.
    #[must_use]
    pub fn of(&self, slot: u32) -> u64 {
        self.0.get(slot as usize).copied().unwrap_or(0)
    }

    /// What was counted since `earlier` was read of the same map. A flag that was set then is 0.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.0.iter().copied().chain(std::iter::repeat(0));
        Self(self.0.iter().zip(before).map(|(now, before)| now.wrapping_sub(before)).collect())
    }
}
