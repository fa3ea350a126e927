//! Single elements of maps, and many at once, as raw bytes.
//!
//! The functions check the lengths of their buffers against nothing: the caller has them from
//! [`map_info`](super::map_info). What would let the kernel write beyond a buffer is checked by
//! [`MapHandle`], which is how the rest of the crate gets at elements.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use super::info::{MapInfo, map_info};

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
pub(super) const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
pub(super) const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
const BPF_MAP_FREEZE: libc::c_long = 22;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
pub(super) const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// `union bpf_attr` as the commands for single elements read it (`include/uapi/linux/bpf.h`).
#[repr(C)]
#[derive(Default)]
pub(super) struct ElementAttr {
    pub(super) map_fd: u32,
    pub(super) padding: u32,
    pub(super) key: u64,
    /// The value, or where the next key is written.
    pub(super) value: u64,
    pub(super) flags: u64,
}

/// The same for the commands for many elements (struct `batch`).
#[repr(C)]
#[derive(Default)]
pub(super) struct BatchAttr {
    pub(super) in_batch: u64,
    pub(super) out_batch: u64,
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) count: u32,
    pub(super) map_fd: u32,
    pub(super) elem_flags: u64,
    pub(super) flags: u64,
}

/// Issues a `bpf` command that returns nothing but success.
///
/// # Safety
/// `attr` is laid out as the command reads it, and every pointer in it is valid for what the command does with it.
pub(super) unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<()> {
    // SAFETY: the caller's; the size is that of `attr`.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The key after `key`, or the first; `false` if there is none. Both have the map's key size.
pub(super) fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd().cast_unsigned(),
        key: key.map_or(0, |key| key.as_ptr() as u64),
        value: next.as_mut_ptr() as u64,
        ..ElementAttr::default()
    };
    // SAFETY: both buffers have the map's key size, by the callers in this module and its parent, and outlive the call.
    match unsafe { bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) } {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Number of possible CPUs: a per-CPU value has one part for each, present or not.
///
/// # Errors
/// Where `/sys/devices/system/cpu/possible` cannot be read.
fn possible_cpus() -> io::Result<usize> {
    aya::util::nr_cpus().map_err(|(path, error)| io::Error::new(error.kind(), format!("{path}: {error}")))
}

/// A map by its descriptor, with the sizes that every access is checked against.
#[derive(Debug)]
pub struct MapHandle {
    fd: OwnedFd,
    info: MapInfo,
    cpus: usize,
}

impl MapHandle {
    /// Takes a descriptor of its own for the map behind `fd`.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` if `fd` is no map.
    pub fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Self::from_fd(fd.try_clone_to_owned()?)
    }

    /// Takes over a map's descriptor.
    ///
    /// # Errors
    /// As [`MapHandle::new`].
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let info = map_info(fd.as_fd())?;
        Ok(Self { fd, info, cpus: possible_cpus()? })
    }

    /// What the kernel says of the map.
    #[must_use]
    pub fn info(&self) -> &MapInfo {
        &self.info
    }

    /// The descriptor.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Possible CPUs: parts of a per-CPU value.
    #[must_use]
    pub fn cpus(&self) -> usize {
        self.cpus
    }

    /// Bytes of a key as system calls exchange it.
    #[must_use]
    pub fn key_len(&self) -> usize {
        self.info.key_size as usize
    }

    /// Bytes of a value as system calls exchange it: for per-CPU kinds a part per possible CPU, each rounded up to 8
    /// bytes; for maps that hold descriptors 4 (`kernel/bpf/syscall.c`, `bpf_map_value_size`).
    #[must_use]
    pub fn value_len(&self) -> usize {
        let size = self.info.value_size as usize;
        if self.info.is_per_cpu() {
            return size.next_multiple_of(8).saturating_mul(self.cpus);
        }
        if self.info.holds_descriptors() { 4 } else { size }
    }

    fn check(&self, key: Option<&[u8]>, value: Option<usize>) -> io::Result<()> {
        let key_fits = key.is_none_or(|key| key.len() == self.key_len());
        if key_fits && value.is_none_or(|value| value == self.value_len()) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "key or value is not of the map's size"))
    }

    fn element(&self, key: Option<&[u8]>, value: u64, flags: u64) -> ElementAttr {
        let key = key.map_or(0, |key| key.as_ptr() as u64);
        ElementAttr { map_fd: self.fd.as_raw_fd().cast_unsigned(), padding: 0, key, value, flags }
    }

    /// The value of `key`; nothing if the map does not have it.
    ///
    /// # Errors
    /// The kernel's: `EOPNOTSUPP` or `ENOTSUPP` (524) for a kind that cannot be looked up; `InvalidInput` for a key of
    /// another size.
    pub fn lookup(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.check(Some(key), None)?;
        let mut value = vec![0; self.value_len()];
        self.read(BPF_MAP_LOOKUP_ELEM, Some(key), &mut value).map(|found| found.then_some(value))
    }

    /// Takes the next element out of a queue or stack; nothing if it is empty.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pop(&self) -> io::Result<Option<Vec<u8>>> {
        if self.info.key_size != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "only queues and stacks are popped"));
        }
        let mut value = vec![0; self.value_len()];
        self.read(BPF_MAP_LOOKUP_AND_DELETE_ELEM, None, &mut value).map(|found| found.then_some(value))
    }

    fn read(&self, command: libc::c_long, key: Option<&[u8]>, value: &mut [u8]) -> io::Result<bool> {
        self.check(key, Some(value.len()))?;
        let mut attr = self.element(key, value.as_mut_ptr() as u64, 0);
        // SAFETY: key and value have the sizes that the kernel exchanges for this map, by `check`; both outlive the call.
        match unsafe { bpf(command, &mut attr) } {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sets an element, or adds one to a queue, stack or bloom filter (no key).
    ///
    /// # Errors
    /// The kernel's: `E2BIG` for a full map or an index beyond the array, `EPERM` for a frozen one; `InvalidInput` for
    /// sizes that are not the map's.
    pub fn update(&self, key: Option<&[u8]>, value: &[u8], flags: u64) -> io::Result<()> {
        if key.is_none() && self.info.key_size != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the map needs a key"));
        }
        self.check(key, Some(value.len()))?;
        let mut attr = self.element(key, value.as_ptr() as u64, flags);
        // SAFETY: as in `read`; the kernel only reads both.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) }
    }

    /// Deletes an element; `false` if it was not there.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` for arrays.
    pub fn delete(&self, key: &[u8]) -> io::Result<bool> {
        self.check(Some(key), None)?;
        let mut attr = self.element(Some(key), 0, 0);
        // SAFETY: the key has the map's key size and outlives the call.
        match unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attr) } {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes the key after `key`, or the first, to `next`; `false` if there is none. After a key that is not there a
    /// hash map starts again at its first.
    ///
    /// # Errors
    /// The kernel's: `EINVAL`, `EOPNOTSUPP` or `ENOTSUPP` (524) for a kind that cannot be listed.
    pub fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
        self.check(key, None)?;
        self.check(Some(next), None)?;
        next_key(self.fd(), key, next)
    }

    /// Makes the map read-only for system calls (since 5.2: 87df15de441b).
    ///
    /// # Errors
    /// The kernel's.
    pub fn freeze(&self) -> io::Result<()> {
        let mut attr = [self.fd.as_raw_fd().cast_unsigned(), 0];
        // SAFETY: BPF_MAP_FREEZE reads the descriptor alone.
        unsafe { bpf(BPF_MAP_FREEZE, &mut attr) }
    }

    /// Begins to read many elements by each call (`BPF_MAP_LOOKUP_BATCH`, since 5.6: cb4d03ab499d for arrays,
    /// 057996380a42 for hashes).
    #[must_use]
    pub fn batches(&self, count: usize) -> Batches<'_> {
        // The token is a bucket's number for hashes and a key for all others.
        let token = vec![0; self.key_len().max(size_of::<u32>())];
        let mut batches = Batches {
            map: self,
            token: token.clone(),
            next: token,
            started: false,
            ended: false,
            count: 0,
            keys: Vec::new(),
            values: Vec::new(),
        };
        batches.resize(count.clamp(1, u32::MAX as usize));
        batches
    }
}

/// Elements of a map, many at a time.
#[derive(Debug)]
pub struct Batches<'a> {
    map: &'a MapHandle,
    token: Vec<u8>,
    next: Vec<u8>,
    started: bool,
    ended: bool,
    count: usize,
    keys: Vec<u8>,
    values: Vec<u8>,
}

impl Batches<'_> {
    fn resize(&mut self, count: usize) {
        self.count = count;
        self.keys.resize(count.saturating_mul(self.map.key_len()), 0);
        self.values.resize(count.saturating_mul(self.map.value_len()), 0);
    }

    /// The keys and values of the next elements, each a multiple of [`MapHandle::key_len`] and
    /// [`MapHandle::value_len`]; nothing after the last.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` or `ENOTSUPP` (524) where it knows no batches for this kind of map.
    pub fn read(&mut self) -> io::Result<Option<(&[u8], &[u8])>> {
        while !self.ended {
            let mut attr = BatchAttr {
                in_batch: if self.started { self.token.as_ptr() as u64 } else { 0 },
                out_batch: self.next.as_mut_ptr() as u64,
                keys: self.keys.as_mut_ptr() as u64,
                values: self.values.as_mut_ptr() as u64,
                count: u32::try_from(self.count).unwrap_or(u32::MAX),
                map_fd: self.map.fd.as_raw_fd().cast_unsigned(),
                ..BatchAttr::default()
            };
            // SAFETY: room for `count` keys and values of the sizes that the kernel exchanges for this map (`resize`),
            // and for a token; all outlive the call.
            match unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) } {
                Ok(()) => {}
                // The last ones; `count` says how many.
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.ended = true,
                // A bucket with more elements than there is room for: nothing was read, the token stays.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && self.count < 1 << 24 => {
                    self.resize(self.count * 2);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            self.started = true;
            std::mem::swap(&mut self.token, &mut self.next);
            let read = (attr.count as usize).min(self.count);
            if read != 0 {
                let (keys, values) = (read * self.map.key_len(), read * self.map.value_len());
                return Ok(Some((&self.keys[..keys], &self.values[..values])));
            }
        }
        Ok(None)
    }
}
