//! Emptying maps by their raw elements, whatever types those have.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// The first fields of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// `union bpf_attr` as `BPF_OBJ_GET_INFO_BY_FD` reads it.
#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// Sizes of a map: bytes of a key, bytes of a value, elements.
fn sizes(map: BorrowedFd<'_>) -> io::Result<(usize, usize, u32)> {
    let mut info = MapInfo::default();
    let mut attr = InfoAttr {
        fd: map.as_raw_fd().cast_unsigned(),
        len: size_of::<MapInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `info` has the length that is stated, and outlives the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok((info.key_size as usize, info.value_size as usize, info.max_entries))
}

/// `union bpf_attr` as the commands for single elements read it (`include/uapi/linux/bpf.h`).
#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    /// The value, or where the next key is written.
    value: u64,
    flags: u64,
}

/// The same for the commands for many elements (struct `batch`).
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Issues a `bpf` command that returns nothing but success.
///
/// # Safety
/// `attr` is laid out as the command reads it, and every pointer in it is valid for what the command does with it.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<()> {
    // SAFETY: the caller's; the size is that of `attr`.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The key after `key`, or the first; `false` if there is none.
fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd().cast_unsigned(),
        key: key.map_or(0, |key| key.as_ptr() as u64),
        value: next.as_mut_ptr() as u64,
        ..ElementAttr::default()
    };
    // SAFETY: both buffers have the map's key size, by `delete_all`, and outlive the call.
    match unsafe { bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) } {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes every element of a hash map. Nobody else may change it meanwhile.
///
/// # Errors
/// The kernel's.
pub fn delete_all(map: BorrowedFd<'_>) -> io::Result<()> {
    let (key_size, ..) = sizes(map)?;
    let (mut key, mut next) = (vec![0_u8; key_size], vec![0_u8; key_size]);
    let mut more = next_key(map, None, &mut key)?;
    while more {
        // Before this one goes: after a key that is not there the kernel starts again at the first bucket.
        more = next_key(map, Some(&key), &mut next)?;
        let mut attr =
            ElementAttr { map_fd: map.as_raw_fd().cast_unsigned(), key: key.as_ptr() as u64, ..ElementAttr::default() };
        // SAFETY: the key has the map's key size and outlives the call.
        match unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attr) } {
            // An LRU map may have evicted it.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::mem::swap(&mut key, &mut next),
        }
    }
    Ok(())
}

/// Sets every element of an array to zeros, by one call (`BPF_MAP_UPDATE_BATCH`, since 5.6: aa2e93b8e58e).
///
/// # Errors
/// The kernel's: `EPERM` for a frozen array, `ENOTSUPP` (524) for a map that takes no batches.
pub fn zero_array(map: BorrowedFd<'_>) -> io::Result<()> {
    let (_, value_size, entries) = sizes(map)?;
    let keys: Vec<u32> = (0..entries).collect();
    let values = vec![0_u8; value_size * keys.len()];
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: entries,
        map_fd: map.as_raw_fd().cast_unsigned(),
        ..BatchAttr::default()
    };
    // SAFETY: as many keys of 4 bytes and values of the map's size as the count says; they outlive the call.
    unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }
}

/// Sets every element of a per-CPU array to zeros on each of `cpus` possible CPUs.
///
/// # Errors
/// The kernel's.
pub fn zero_per_cpu_array(map: BorrowedFd<'_>, cpus: usize) -> io::Result<()> {
    let (_, value_size, entries) = sizes(map)?;
    // The kernel reads a value per possible CPU, each rounded up to 8 bytes (kernel/bpf/syscall.c, bpf_map_value_size).
    let values = vec![0_u64; value_size.div_ceil(8) * cpus];
    for key in 0..entries {
        let mut attr = ElementAttr {
            map_fd: map.as_raw_fd().cast_unsigned(),
            key: std::ptr::from_ref(&key) as u64,
            value: values.as_ptr() as u64,
            ..ElementAttr::default()
        };
        // SAFETY: a key of 4 bytes, and a value of the map's size for each possible CPU; both outlive the call.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) }?;
    }
    Ok(())
}
