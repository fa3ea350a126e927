//! The maps of an object as plain stores, to be emptied for its next use.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::{Map, MapData};

use crate::sys;

/// How a map is emptied.
#[derive(Debug)]
enum Kind {
    /// Its elements are deleted; bytes of a key.
    Hash(usize),
    /// Its elements are set to zeros; bytes of a value.
    Array(usize),
    /// The same, on every possible CPU.
    PerCpuArray(usize),
}

/// One map. It can be emptied whoever takes it out of its object.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) name: String,
    fd: OwnedFd,
    kind: Kind,
    entries: u32,
}

/// Takes note of a map; nothing for one that needs no emptying: constants do not change, and a ring's reader empties it.
pub(super) fn store(name: &str, map: &Map) -> io::Result<Option<Store>> {
    let unknown = || io::Error::new(io::ErrorKind::Unsupported, "it is not known how to empty a map of this type");
    let (kind, data): (fn(usize, usize) -> Kind, &MapData) = match map {
        _ if name.starts_with(".rodata") => return Ok(None),
        // What they held before the first run is only in the ELF.
        _ if name.starts_with(".data") => return Err(unknown()),
        Map::RingBuf(_) => return Ok(None),
        Map::HashMap(data) | Map::LruHashMap(data) | Map::PerCpuHashMap(data) | Map::PerCpuLruHashMap(data) => {
            (|key, _| Kind::Hash(key), data)
        }
        Map::Array(data) => (|_, value| Kind::Array(value), data),
        Map::PerCpuArray(data) => (|_, value| Kind::PerCpuArray(value), data),
        _ => return Err(unknown()),
    };
    let info = data.info().map_err(io::Error::other)?;
    let size = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
    let fd = data.fd().as_fd().try_clone_to_owned()?;
    let kind = kind(size(info.key_size()), size(info.value_size()));
    Ok(Some(Store { name: name.to_owned(), fd, kind, entries: info.max_entries() }))
}

impl Store {
    /// Makes the map as it was when it was made. No program may be running.
    pub(super) fn clear(&self) -> io::Result<()> {
        let fd = self.fd.as_fd();
        match self.kind {
            Kind::Hash(key_size) => sys::delete_all(fd, key_size),
            Kind::Array(value_size) => sys::zero_array(fd, value_size, self.entries),
            Kind::PerCpuArray(value_size) => {
                let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
                sys::zero_per_cpu_array(fd, value_size, self.entries, cpus)
            }
        }
    }
}
