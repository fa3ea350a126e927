//! What can be listed of each kind of map, and how.

use std::io;

use super::plan::{Member, Plan, Shape, Struct};
use crate::sys::{MapHandle, MapInfo, map_kind as kind};

/// Elements read by one call.
const BATCH: usize = 4096;
/// Bytes of values read by one call.
const BATCH_BYTES: usize = 4 << 20;

/// Name of a kind of map, as `bpftool` and the kernel's documentation spell it.
#[must_use]
pub fn kind_name(kind: u32) -> String {
    const NAMES: [&str; 34] = [
        "unspecified",
        "hash",
        "array",
        "prog_array",
        "perf_event_array",
        "percpu_hash",
        "percpu_array",
        "stack_trace",
        "cgroup_array",
        "lru_hash",
        "lru_percpu_hash",
        "lpm_trie",
        "array_of_maps",
        "hash_of_maps",
        "devmap",
        "sockmap",
        "cpumap",
        "xskmap",
        "sockhash",
        "cgroup_storage",
        "reuseport_sockarray",
        "percpu_cgroup_storage",
        "queue",
        "stack",
        "sk_storage",
        "devmap_hash",
        "struct_ops",
        "ringbuf",
        "inode_storage",
        "task_storage",
        "bloom_filter",
        "user_ringbuf",
        "cgrp_storage",
        "arena",
    ];
    NAMES.get(kind as usize).map_or_else(|| format!("kind {kind}"), |name| (*name).to_owned())
}

/// Why a map of this kind has no rows; nothing if it may have some.
pub(super) fn why_no_rows(info: &MapInfo) -> Option<&'static str> {
    Some(match info.kind {
        kind::PERF_EVENT_ARRAY | kind::RINGBUF => "events are read as a stream, not as rows",
        kind::USER_RINGBUF => "programs read what user space writes here: there is nothing to read from this side",
        kind::BLOOM_FILTER => "a bloom filter cannot be listed, only asked whether it may hold a value",
        kind::SK_STORAGE => "storage of sockets is found by a socket's descriptor and cannot be listed",
        kind::INODE_STORAGE => "storage of inodes is found by a file's descriptor and cannot be listed",
        kind::TASK_STORAGE => "storage of tasks is found by a process's descriptor and cannot be listed",
        kind::CGRP_STORAGE => "storage of cgroups is found by a cgroup's descriptor and cannot be listed",
        kind::ARENA => "an arena is memory without elements",
        kind::CGROUP_ARRAY => "the kernel does not show which cgroups are in a cgroup array",
        kind::XSKMAP => "the kernel does not show which AF_XDP sockets are in the map",
        kind::SOCKMAP | kind::REUSEPORT_SOCKARRAY if info.value_size != 8 => {
            "the kernel shows the sockets in this map only where its values have 8 bytes"
        }
        _ => return None,
    })
}

/// Whether the kernel makes all elements of such a map at once, with values of zeros.
pub(super) fn is_array(kind: u32) -> bool {
    matches!(kind, kind::ARRAY | kind::PERCPU_ARRAY)
}

/// The key's plan where the kind of map decides it.
pub(super) fn key_plan(info: &MapInfo) -> Option<Plan> {
    let indexed = matches!(
        info.kind,
        kind::ARRAY
            | kind::PERCPU_ARRAY
            | kind::PROG_ARRAY
            | kind::PERF_EVENT_ARRAY
            | kind::STACK_TRACE
            | kind::CGROUP_ARRAY
            | kind::ARRAY_OF_MAPS
            | kind::DEVMAP
            | kind::DEVMAP_HASH
            | kind::SOCKMAP
            | kind::CPUMAP
            | kind::XSKMAP
            | kind::REUSEPORT_SOCKARRAY
            | kind::STRUCT_OPS
    );
    match (info.kind, info.key_size) {
        (_, 4) if indexed => Some(Plan::number(4)),
        (kind::CGROUP_STORAGE | kind::PERCPU_CGROUP_STORAGE, 8) => Some(Plan::number(8)),
        // `struct bpf_cgroup_storage_key`, with 4 bytes of padding.
        (kind::CGROUP_STORAGE | kind::PERCPU_CGROUP_STORAGE, 16) => {
            Some(fields(&[("cgroup_inode_id", 8), ("attach_type", 4)], 16))
        }
        _ => None,
    }
}

/// The value's plan where the kind of map decides it.
pub(super) fn value_plan(info: &MapInfo) -> Option<Plan> {
    match (info.kind, info.value_size) {
        // `struct bpf_devmap_val`, `struct bpf_cpumap_val`: what is written is a program's descriptor, what is read its
        // number.
        (kind::DEVMAP | kind::DEVMAP_HASH, 4) => Some(fields(&[("ifindex", 4)], 4)),
        (kind::DEVMAP | kind::DEVMAP_HASH, 8) => Some(fields(&[("ifindex", 4), ("program", 4)], 8)),
        (kind::CPUMAP, 4) => Some(fields(&[("qsize", 4)], 4)),
        (kind::CPUMAP, 8) => Some(fields(&[("qsize", 4), ("program", 4)], 8)),
        (kind::PROG_ARRAY, _) => Some(Plan::number(4)),
        // A cookie.
        (kind::SOCKMAP | kind::SOCKHASH | kind::REUSEPORT_SOCKARRAY, 8) => Some(Plan::number(8)),
        (kind::STACK_TRACE, size) if size % 8 == 0 => {
            let big = cfg!(target_endian = "big");
            let element = Box::new(Shape::HexInt { size: 8, big });
            Some(Plan::of(Shape::Array { element, len: size as usize / 8, stride: 8 }, true))
        }
        _ => None,
    }
}

/// A struct of numbers, one behind the other.
fn fields(members: &[(&str, usize)], size: usize) -> Plan {
    let big = cfg!(target_endian = "big");
    let mut offset = 0;
    let members = members.iter().map(|(name, size)| {
        let shape = Shape::Int { size: *size, signed: false, big };
        let member = Member { name: (*name).to_owned(), offset, shape, hidden: false };
        offset += size;
        member
    });
    let members = members.collect();
    Plan::of(Shape::Struct(Box::new(Struct::new(members, size))), true)
}

/// Whether an error means that the kernel does not do this for such a map, rather than that something went wrong.
/// `ENOTSUPP` (524) is the kernel's own and has no name here.
fn unsupported(error: &io::Error) -> bool {
    const ENOTSUPP: i32 = 524;
    matches!(error.raw_os_error(), Some(ENOTSUPP | libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSPC | libc::EPERM))
}

/// How the listing of a map went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    /// All elements were seen.
    All,
    /// Keys were, but the kernel does not show the values: those were empty.
    Keys,
    /// The kernel lists nothing of such a map.
    Nothing,
}

/// Calls `each` with key and value of every element; a value is what [`MapHandle::value_len`] says, or empty.
///
/// While programs change the map, an element may be missed or, in a hash map, be seen twice.
pub(super) fn each(map: &MapHandle, each: &mut dyn FnMut(&[u8], &[u8])) -> io::Result<Listed> {
    let batched = matches!(
        map.info().kind,
        kind::HASH
            | kind::ARRAY
            | kind::LRU_HASH
            | kind::PERCPU_HASH
            | kind::LRU_PERCPU_HASH
            | kind::PERCPU_ARRAY
            | kind::LPM_TRIE
    );
    if batched && let Some(listed) = by_batches(map, each)? {
        return Ok(listed);
    }
    one_by_one(map, each)
}

/// Nothing if the kernel knows no batches for this map (before 5.6; per-CPU arrays before 5.13).
fn by_batches(map: &MapHandle, each: &mut dyn FnMut(&[u8], &[u8])) -> io::Result<Option<Listed>> {
    let (key_len, value_len) = (map.key_len(), map.value_len());
    if key_len == 0 || value_len == 0 {
        return Ok(None);
    }
    let entries = (map.info().max_entries as usize).max(1);
    let mut batches = map.batches(BATCH.min(BATCH_BYTES / value_len).clamp(1, entries));
    let mut started = false;
    loop {
        match batches.read() {
            Ok(Some((keys, values))) => {
                started = true;
                keys.chunks_exact(key_len)
                    .zip(values.chunks_exact(value_len))
                    .for_each(|(key, value)| each(key, value));
            }
            Ok(None) => return Ok(Some(Listed::All)),
            Err(error) if !started && unsupported(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

fn one_by_one(map: &MapHandle, each: &mut dyn FnMut(&[u8], &[u8])) -> io::Result<Listed> {
    let (mut key, mut next) = (vec![0; map.key_len()], vec![0; map.key_len()]);
    let mut more = match map.next_key(None, &mut next) {
        Ok(more) => more,
        Err(error) if unsupported(&error) => return Ok(Listed::Nothing),
        Err(error) => return Err(error),
    };
    let mut listed = Listed::All;
    // A hash whose keys are deleted all the time starts again and again; nobody waits for that to end.
    let mut left = u64::from(map.info().max_entries) * 2 + 1024;
    while more && left > 0 {
        left -= 1;
        std::mem::swap(&mut key, &mut next);
        match map.lookup(&key) {
            Ok(Some(value)) => each(&key, &value),
            // Deleted since, or an empty place of an array.
            Ok(None) => {}
            Err(error) if unsupported(&error) => {
                listed = Listed::Keys;
                each(&key, &[]);
            }
            Err(error) => return Err(error),
        }
        more = map.next_key(Some(&key), &mut next)?;
    }
    Ok(listed)
}
