//! The map that probes count in.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::kernel;
use crate::sys::{self, MapHandle, MapSpec, MappedArray, map_kind};

/// `BPF_F_MMAPABLE`, since 5.5 (fc9702273e2e).
const MMAPABLE: u32 = 1 << 10;

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
/// instructions without a call (`array_map_direct_value_addr` in `kernel/bpf/arraymap.c`).
///
/// It must live until the programs that count in it are loaded; they keep the map after that.
#[derive(Debug)]
pub struct CoverageMap {
    map: MapHandle,
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
        let len = slots.max(1);
        let value_size = len.checked_mul(8).ok_or_else(|| failed(io::Error::from_raw_os_error(libc::E2BIG)))?;
        let make = |flags| {
            let spec = MapSpec {
                kind: map_kind::ARRAY,
                key_size: 4,
                value_size,
                max_entries: 1,
                flags,
                name: "coverage",
                inner: None,
                types: None,
            };
            sys::create_map(&spec).and_then(MapHandle::from_fd)
        };
        if let Ok(map) = make(MMAPABLE)
            && let Ok(mapped) = MappedArray::new(map.fd(), len as usize)
        {
            return Ok(Self { map, mapped: Some(mapped), slots });
        }
        Ok(Self { map: make(0).map_err(failed)?, mapped: None, slots })
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
            let value = self.map.lookup(&0_u32.to_ne_bytes()).map_err(failed)?.unwrap_or_default();
            let words = value.chunks_exact(8).map_while(|word| Some(u64::from_ne_bytes(word.try_into().ok()?)));
            return Ok(Hits(words.take(self.slots as usize).collect()));
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
            return self.map.update(Some(&0_u32.to_ne_bytes()), &vec![0; self.map.value_len()], 0).map_err(failed);
        };
        (0..mapped.len()).for_each(|slot| mapped.set(slot, 0));
        Ok(())
    }
}

impl AsFd for CoverageMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.fd()
    }
}

impl AsRawFd for CoverageMap {
    fn as_raw_fd(&self) -> RawFd {
        self.map.fd().as_raw_fd()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_and_cleared_as_memory_and_by_system_calls_alike() {
        let mut map = CoverageMap::new(600).unwrap();
        assert!(map.is_mapped());
        map.mapped.as_ref().unwrap().set(511, 7);
        let mapped = map.read().unwrap();
        map.mapped = None;
        assert_eq!(map.read().unwrap(), mapped);
        assert_eq!((mapped.0.len(), mapped.of(511), mapped.of(510), mapped.of(600)), (600, 7, 0, 0));
        map.clear().unwrap();
        assert_eq!(map.read().unwrap(), Hits(vec![0; 600]));
        assert_eq!(mapped.since(&Hits(vec![0; 511])).of(511), 7);
        assert_eq!(CoverageMap::new(0).unwrap().read().unwrap(), Hits::default());
        let error = CoverageMap::new(u32::MAX).unwrap_err();
        assert_eq!(error.to_string(), "cannot make the map of 4294967295 coverage counters");
    }
}
