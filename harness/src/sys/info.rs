//! What the kernel says of its maps and types, and how they are made or found by number.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use super::bpf::bpf_fd;
use super::element::bpf;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
pub(super) const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_BTF_GET_FD_BY_ID: libc::c_long = 19;
/// Bytes of the largest blob of types that is read; a kernel's own has under 10 MB.
const MAX_BTF: u32 = 64 << 20;

/// Kinds of maps (`enum bpf_map_type` of `include/uapi/linux/bpf.h`) that this crate treats in ways of their own.
pub mod map_kind {
    #![allow(missing_docs, reason = "the names are the kernel's")]
    pub const HASH: u32 = 1;
    pub const ARRAY: u32 = 2;
    pub const PROG_ARRAY: u32 = 3;
    pub const PERF_EVENT_ARRAY: u32 = 4;
    pub const PERCPU_HASH: u32 = 5;
    pub const PERCPU_ARRAY: u32 = 6;
    pub const STACK_TRACE: u32 = 7;
    pub const CGROUP_ARRAY: u32 = 8;
    pub const LRU_HASH: u32 = 9;
    pub const LRU_PERCPU_HASH: u32 = 10;
    pub const LPM_TRIE: u32 = 11;
    pub const ARRAY_OF_MAPS: u32 = 12;
    pub const HASH_OF_MAPS: u32 = 13;
    pub const DEVMAP: u32 = 14;
    pub const SOCKMAP: u32 = 15;
    pub const CPUMAP: u32 = 16;
    pub const XSKMAP: u32 = 17;
    pub const SOCKHASH: u32 = 18;
    pub const CGROUP_STORAGE: u32 = 19;
    pub const REUSEPORT_SOCKARRAY: u32 = 20;
    pub const PERCPU_CGROUP_STORAGE: u32 = 21;
    pub const QUEUE: u32 = 22;
    pub const STACK: u32 = 23;
    pub const SK_STORAGE: u32 = 24;
    pub const DEVMAP_HASH: u32 = 25;
    pub const STRUCT_OPS: u32 = 26;
    pub const RINGBUF: u32 = 27;
    pub const INODE_STORAGE: u32 = 28;
    pub const TASK_STORAGE: u32 = 29;
    pub const BLOOM_FILTER: u32 = 30;
    pub const USER_RINGBUF: u32 = 31;
    pub const CGRP_STORAGE: u32 = 32;
    pub const ARENA: u32 = 33;
}

/// `struct bpf_map_info` up to `btf_vmlinux_id`. Kernels that know less leave zeros.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MapInfo {
    /// `BPF_MAP_TYPE_*`, see [`map_kind`].
    pub kind: u32,
    /// The map's number.
    pub id: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value, on one CPU.
    pub value_size: u32,
    /// Most elements; bytes of a ring buffer.
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub map_flags: u32,
    name: [u8; 16],
    /// Interface of an offloaded map, else 0.
    pub ifindex: u32,
    /// Type of a `struct_ops` map's value among the kernel's own types, else 0.
    pub btf_vmlinux_value_type_id: u32,
    netns_dev: u64,
    netns_ino: u64,
    /// Number of the types that describe key and value, 0 if there are none.
    pub btf_id: u32,
    /// Type of a key, 0 if not described.
    pub btf_key_type_id: u32,
    /// Type of a value, 0 if not described.
    pub btf_value_type_id: u32,
    btf_vmlinux_id: u32,
}

impl MapInfo {
    /// The name, of which the kernel keeps 15 bytes.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.name.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    }

    /// Whether each CPU has values of its own.
    #[must_use]
    pub fn is_per_cpu(&self) -> bool {
        use map_kind::{LRU_PERCPU_HASH, PERCPU_ARRAY, PERCPU_CGROUP_STORAGE, PERCPU_HASH};
        matches!(self.kind, PERCPU_HASH | PERCPU_ARRAY | LRU_PERCPU_HASH | PERCPU_CGROUP_STORAGE)
    }

    /// Whether its values are descriptors of programs, maps, cgroups or perf events.
    #[must_use]
    pub fn holds_descriptors(&self) -> bool {
        use map_kind::{ARRAY_OF_MAPS, CGROUP_ARRAY, HASH_OF_MAPS, PERF_EVENT_ARRAY, PROG_ARRAY};
        matches!(self.kind, PROG_ARRAY | PERF_EVENT_ARRAY | CGROUP_ARRAY | ARRAY_OF_MAPS | HASH_OF_MAPS)
    }
}

/// `union bpf_attr` as `BPF_OBJ_GET_INFO_BY_FD` reads it.
#[repr(C)]
pub(super) struct InfoAttr {
    pub(super) fd: u32,
    pub(super) len: u32,
    pub(super) info: u64,
}

/// What the kernel says of a map.
///
/// # Errors
/// The kernel's: `EINVAL` or `EBADF` if `map` is no map.
pub fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut info = MapInfo::default();
    let mut attr = InfoAttr {
        fd: map.as_raw_fd().cast_unsigned(),
        len: size_of::<MapInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: `info` has the length that is stated, takes any bytes, and outlives the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

/// A descriptor of the map with that number.
///
/// # Errors
/// The kernel's: `ENOENT` if it is gone.
pub fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = [id, 0, 0, 0];
    // SAFETY: a number and flags (0), by value.
    unsafe { bpf_fd(BPF_MAP_GET_FD_BY_ID, &mut attr) }
}

/// The blob of types with that number, as it was loaded: `BPF_BTF_GET_FD_BY_ID` and its information.
///
/// # Errors
/// The kernel's: `ENOENT` if it is gone, `EPERM`; `InvalidData` if it is absurdly long.
pub fn btf_by_id(id: u32) -> io::Result<Vec<u8>> {
    /// `struct bpf_btf_info` as it was before it got a name (5.11).
    #[repr(C)]
    struct BtfInfo {
        blob: u64,
        size: u32,
        id: u32,
    }
    let mut by_id = [id, 0, 0, 0];
    // SAFETY: a number and flags (0), by value.
    let fd = unsafe { bpf_fd(BPF_BTF_GET_FD_BY_ID, &mut by_id) }?;
    let mut blob = Vec::new();
    // The first call asks for the size, the second for the bytes.
    for _ in 0..2 {
        let mut info = BtfInfo { blob: blob.as_mut_ptr() as u64, size: blob.len() as u32, id: 0 };
        let mut attr = InfoAttr {
            fd: fd.as_fd().as_raw_fd().cast_unsigned(),
            len: size_of::<BtfInfo>() as u32,
            info: std::ptr::from_mut(&mut info) as u64,
        };
        // SAFETY: `info` has the length that is stated, and the blob the size that `info` states; both outlive the call.
        unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
        if info.size > MAX_BTF {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} bytes of types", info.size)));
        }
        blob.resize(info.size as usize, 0);
    }
    Ok(blob)
}

/// A map to make.
#[derive(Clone, Copy, Debug, Default)]
pub struct MapSpec<'a> {
    /// `BPF_MAP_TYPE_*`, see [`map_kind`].
    pub kind: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Most elements; bytes of a ring buffer.
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
    /// Its name; the kernel keeps the first 15 bytes.
    pub name: &'a str,
    /// The pattern for the maps in a map of maps.
    pub inner: Option<BorrowedFd<'a>>,
    /// Loaded types, and those of key and value in them.
    pub types: Option<(BorrowedFd<'a>, u32, u32)>,
}

/// Makes a map.
///
/// # Errors
/// The kernel's: `EINVAL` for a kind or sizes that it does not take, `EPERM`, `ENOMEM`.
pub fn create_map(spec: &MapSpec<'_>) -> io::Result<OwnedFd> {
    /// `union bpf_attr` as `BPF_MAP_CREATE` reads it, up to `map_extra`.
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
        inner_map_fd: u32,
        numa_node: u32,
        name: [u8; 16],
        ifindex: u32,
        btf_fd: u32,
        btf_key_type_id: u32,
        btf_value_type_id: u32,
        btf_vmlinux_value_type_id: u32,
        map_extra: u64,
    }
    let mut attr = Attr {
        kind: spec.kind,
        key_size: spec.key_size,
        value_size: spec.value_size,
        max_entries: spec.max_entries,
        flags: spec.flags,
        inner_map_fd: spec.inner.map_or(0, |fd| fd.as_raw_fd().cast_unsigned()),
        ..Attr::default()
    };
    let kept = spec.name.len().min(attr.name.len() - 1);
    attr.name[..kept].copy_from_slice(&spec.name.as_bytes()[..kept]);
    if let Some((btf, key, value)) = spec.types {
        attr.btf_fd = btf.as_raw_fd().cast_unsigned();
        (attr.btf_key_type_id, attr.btf_value_type_id) = (key, value);
    }
    // SAFETY: laid out as BPF_MAP_CREATE reads it (72 bytes); it holds no pointer.
    unsafe { bpf_fd(BPF_MAP_CREATE, &mut attr) }
}

/// The name of the program with that number, of which the kernel keeps 15 bytes.
///
/// # Errors
/// The kernel's: `ENOENT` if it is gone.
pub fn program_name(id: u32) -> io::Result<String> {
    const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
    /// Offset of `name` in `struct bpf_prog_info`, and its length.
    const NAME: usize = 64;
    const NAME_LEN: usize = 16;
    let mut by_id = [id, 0, 0, 0];
    // SAFETY: a number and flags (0), by value.
    let fd = unsafe { bpf_fd(BPF_PROG_GET_FD_BY_ID, &mut by_id) }?;
    // Words, so that the fields before the name are aligned: pointers and counts of what is not asked for, all zero.
    let mut info = [0_u64; (NAME + NAME_LEN) / 8];
    let mut attr =
        InfoAttr { fd: fd.as_raw_fd().cast_unsigned(), len: (NAME + NAME_LEN) as u32, info: info.as_mut_ptr() as u64 };
    // SAFETY: `info` has the length that is stated, and asks for nothing to be written elsewhere; it outlives the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    let bytes: Vec<u8> = info[NAME / 8..].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}
