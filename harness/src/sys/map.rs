//! Emptying maps by their raw elements, whatever types those have.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::element::{
    BPF_MAP_DELETE_ELEM, BPF_MAP_UPDATE_BATCH, BPF_MAP_UPDATE_ELEM, BatchAttr, ElementAttr, bpf, next_key,
};
use super::info::map_info;

/// Sizes of a map: bytes of a key, bytes of a value, elements.
fn sizes(map: BorrowedFd<'_>) -> io::Result<(usize, usize, u32)> {
    let info = map_info(map)?;
    Ok((info.key_size as usize, info.value_size as usize, info.max_entries))
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
