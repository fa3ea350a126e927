//! Plain values as bytes, and array maps as memory.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::Pod;

/// The bytes of a plain value, for a global or a raw map element.
#[must_use]
pub fn bytes_of<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: `Pod` promises plain old data without padding; the slice borrows `value` and has its size.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// A plain value read from the start of `bytes`, or nothing if they are too few: a ring event or raw map element.
#[must_use]
pub fn read_pod<T: Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: the length is checked, `T` is valid for any bytes, and the read needs no alignment.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The elements of a `BPF_F_MMAPABLE` array map, shared with the kernel: reads and writes need no system call.
#[derive(Debug)]
pub struct MappedArray<T> {
    base: NonNull<u8>,
    len: usize,
    stride: usize,
    bytes: usize,
    element: std::marker::PhantomData<T>,
}

// SAFETY: the mapping belongs to this value alone and is accessed by volatile or atomic operations only.
unsafe impl<T: Send> Send for MappedArray<T> {}

impl<T: Pod> MappedArray<T> {
    /// Maps an array of `len` elements.
    ///
    /// # Errors
    /// `EINVAL` or `EPERM` where the map is not a mappable array, `ENOMEM`.
    pub fn new(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        // The kernel rounds each element up to 8 bytes and the whole up to pages (kernel/bpf/arraymap.c).
        let stride = size_of::<T>().next_multiple_of(8);
        // SAFETY: sysconf has no precondition.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let bytes = (stride * len).next_multiple_of(page);
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len, stride, bytes, element: std::marker::PhantomData })
    }

    fn at(&self, index: usize) -> *mut T {
        assert!(index < self.len, "element {index} of an array of {}", self.len);
        // SAFETY: within the mapping, by the assertion above.
        unsafe { self.base.as_ptr().add(index * self.stride).cast() }
    }

    /// Copies element `index` out. A concurrent writer may tear it, field by field.
    #[must_use]
    pub fn get(&self, index: usize) -> T {
        // SAFETY: in bounds and aligned to 8 (`stride` is a multiple of 8, the base is a page); `T` is plain old data.
        unsafe { self.at(index).read_volatile() }
    }

    /// Writes element `index`.
    pub fn set(&self, index: usize, value: T) {
        // SAFETY: as in `get`.
        unsafe { self.at(index).write_volatile(value) }
    }

    /// Writes `bytes` into element `index` from its byte `offset` on.
    ///
    /// # Panics
    /// They do not fit into the element.
    pub fn write_bytes(&self, index: usize, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= size_of::<T>(), "{} bytes at {offset} of an element", bytes.len());
        // SAFETY: within the element, by the assertion; `T` is plain old data. Whoever reads meanwhile may see it half done.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(index).cast::<u8>().add(offset), bytes.len());
        }
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the array has no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The `word`-th 64-bit word of element `index`, with acquire ordering: a counter that the kernel advances.
    #[must_use]
    pub fn counter(&self, index: usize, word: usize) -> u64 {
        assert!((word + 1) * 8 <= self.stride, "word {word} of an element of {} bytes", self.stride);
        // SAFETY: in bounds by the assertions, 8-byte aligned, and every access from this side is atomic or volatile.
        unsafe { AtomicU64::from_ptr(self.at(index).cast::<u64>().add(word)).load(Ordering::Acquire) }
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
