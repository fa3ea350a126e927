//! Array maps without an object.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use super::bpf::bpf_fd;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
/// `BPF_F_MMAPABLE`, since 5.5 (fc9702273e2e).
const MMAPABLE: u32 = 1 << 10;

/// Makes an array of one element of `value_size` bytes, zeros; with `mappable` its memory can be mapped.
///
/// # Errors
/// The kernel's: `EINVAL` for a kernel that has no mappable arrays, `E2BIG`, `ENOMEM`, `EPERM`.
fn create_array(name: &str, value_size: u32, mappable: bool) -> io::Result<OwnedFd> {
    /// `union bpf_attr` as `BPF_MAP_CREATE` reads it, up to the name.
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
    }
    let mut attr = Attr {
        kind: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size,
        max_entries: 1,
        flags: if mappable { MMAPABLE } else { 0 },
        ..Attr::default()
    };
    let kept = name.len().min(attr.name.len() - 1);
    attr.name[..kept].copy_from_slice(&name.as_bytes()[..kept]);
    // SAFETY: laid out as BPF_MAP_CREATE reads it; it points nowhere.
    unsafe { bpf_fd(BPF_MAP_CREATE, &mut attr) }
}

/// `union bpf_attr` as the commands for single elements read it.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Issues a command about element 0 of an array whose value has the size of the memory at `value`.
///
/// # Safety
/// `value` is valid for as many bytes as the map's value has, to be written by a lookup and read by an update.
unsafe fn element(command: libc::c_long, map: BorrowedFd<'_>, value: u64) -> io::Result<()> {
    let key = 0_u32;
    let map_fd = map.as_raw_fd().cast_unsigned();
    let mut attr = ElementAttr { map_fd, padding: 0, key: std::ptr::from_ref(&key) as u64, value, flags: 0 };
    // SAFETY: a key of 4 bytes; the value is the caller's.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(&mut attr), size_of::<ElementAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An array of one element that holds 64-bit words in the machine's order, and nothing else.
#[derive(Debug)]
pub struct WordArray {
    map: OwnedFd,
    words: usize,
}

impl WordArray {
    /// Makes one of `words` words, zeros.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` for a kernel that has no mappable arrays, `ENOMEM`, `EPERM`, and `E2BIG` for more words than
    /// a value can hold.
    pub fn new(name: &str, words: usize, mappable: bool) -> io::Result<Self> {
        let bytes = words.checked_mul(8).and_then(|bytes| u32::try_from(bytes).ok());
        let bytes = bytes.ok_or_else(|| io::Error::from_raw_os_error(libc::E2BIG))?;
        Ok(Self { map: create_array(name, bytes, mappable)?, words })
    }

    /// The map.
    #[must_use]
    pub fn map(&self) -> &OwnedFd {
        &self.map
    }

    /// Copies the words out.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self) -> io::Result<Vec<u64>> {
        let mut words = vec![0_u64; self.words];
        // SAFETY: the map was made with values of exactly that many bytes.
        unsafe { element(BPF_MAP_LOOKUP_ELEM, self.map.as_fd(), words.as_mut_ptr() as u64) }?;
        Ok(words)
    }

    /// Sets every word to zero.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear(&self) -> io::Result<()> {
        let words = vec![0_u64; self.words];
        // SAFETY: the map was made with values of exactly that many bytes.
        unsafe { element(BPF_MAP_UPDATE_ELEM, self.map.as_fd(), words.as_ptr() as u64) }
    }
}
