//! The maps of an object as plain stores, to be emptied for its next use.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::{Map, MapData};

use crate::sys;

/// How a map is emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Its elements are deleted.
    Hash,
    /// Its elements are set to zeros.
    Array,
    /// The same, on every possible CPU.
    PerCpuArray,
    /// Constants do not change, and a ring's reader empties it.
    Nothing,
    /// Not known how.
    Unknown,
}

/// One map. It is at hand whoever takes it out of its object.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) name: String,
    pub(super) fd: OwnedFd,
    kind: Kind,
}

impl Store {
    /// Takes note of a map.
    pub(super) fn of(name: &str, map: &Map) -> io::Result<Self> {
        let data = data(map);
        let kind = match map {
            Map::RingBuf(_) => Kind::Nothing,
            _ if name.starts_with(".rodata") => Kind::Nothing,
            // What they held before the first run is only in the ELF.
            _ if name.starts_with(".data") => Kind::Unknown,
            Map::HashMap(_) | Map::LruHashMap(_) | Map::PerCpuHashMap(_) | Map::PerCpuLruHashMap(_) => Kind::Hash,
            Map::Array(_) => Kind::Array,
            Map::PerCpuArray(_) => Kind::PerCpuArray,
            _ => Kind::Unknown,
        };
        Ok(Self { name: name.to_owned(), fd: data.fd().as_fd().try_clone_to_owned()?, kind })
    }

    /// Makes the map as it was when it was made. No program may be running.
    pub(super) fn clear(&self) -> io::Result<()> {
        let fd = self.fd.as_fd();
        match self.kind {
            Kind::Hash => sys::delete_all(fd),
            Kind::Array => sys::zero_array(fd),
            Kind::PerCpuArray => {
                let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
                sys::zero_per_cpu_array(fd, cpus)
            }
            Kind::Nothing => Ok(()),
            Kind::Unknown => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "it is not known how to empty a map of this type"))
            }
        }
    }
}

/// What every kind of map has.
pub(crate) fn data(map: &Map) -> &MapData {
    match map {
        Map::Array(data)
        | Map::ArrayOfMaps(data)
        | Map::BloomFilter(data)
        | Map::CgroupArray(data)
        | Map::CgroupStorage(data)
        | Map::CgrpStorage(data)
        | Map::CpuMap(data)
        | Map::DevMap(data)
        | Map::DevMapHash(data)
        | Map::HashMap(data)
        | Map::HashOfMaps(data)
        | Map::InodeStorage(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuCgroupStorage(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuLruHashMap(data)
        | Map::PerfEventArray(data)
        | Map::ProgramArray(data)
        | Map::Queue(data)
        | Map::ReusePortSockArray(data)
        | Map::RingBuf(data)
        | Map::SockHash(data)
        | Map::SockMap(data)
        | Map::SkStorage(data)
        | Map::Stack(data)
        | Map::StackTraceMap(data)
        | Map::Unsupported(data)
        | Map::XskMap(data) => data,
    }
}
