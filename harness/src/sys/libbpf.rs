//! libbpf as a reader of objects: it opens an ELF, makes the maps and relocates the code. It loads no program, and it
//! attaches none: what it prepared is copied out.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Once;

use aya_obj::generated::bpf_insn;
use libbpf_sys as raw;

thread_local! {
    /// What libbpf said on this thread since it was last asked.
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Most bytes of one message that are kept.
const MESSAGE: usize = 1024;

unsafe extern "C" {
    fn vsnprintf(to: *mut c_char, size: usize, format: *const c_char, arguments: *mut raw::__va_list_tag) -> c_int;
}

unsafe extern "C" fn listen(
    level: raw::libbpf_print_level,
    format: *const c_char,
    arguments: *mut raw::__va_list_tag,
) -> c_int {
    if level == raw::LIBBPF_WARN {
        let mut message = [0_u8; MESSAGE];
        // SAFETY: libbpf passes a format with its arguments; the buffer has the size that is stated.
        unsafe { vsnprintf(message.as_mut_ptr().cast(), MESSAGE, format, arguments) };
        let text = CStr::from_bytes_until_nul(&message).map(CStr::to_string_lossy).unwrap_or_default();
        SAID.with_borrow_mut(|said| said.push_str(&text));
    }
    0
}

/// Why libbpf did not do something.
#[derive(Debug, thiserror::Error)]
#[error("{}", if .said.is_empty() { source.to_string() } else { .said.clone() })]
pub struct LibbpfError {
    /// Its warnings, joined by semicolons.
    pub said: String,
    /// The error that it returned.
    source: io::Error,
}

impl LibbpfError {
    fn new(source: io::Error) -> Self {
        let said = SAID.take();
        let lines = said.lines().map(|line| line.trim().trim_start_matches("libbpf: "));
        let said = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
        Self { said, source }
    }

    fn of(result: c_int) -> Result<(), Self> {
        if result < 0 { Err(Self::new(io::Error::from_raw_os_error(-result))) } else { Ok(()) }
    }
}

/// An object that libbpf has opened; closed when dropped, with all its maps.
#[derive(Debug)]
pub struct LibbpfObject(NonNull<raw::bpf_object>);

// SAFETY: libbpf keeps no thread-local state of an object; one thread at a time uses it, as `&mut` and ownership say.
unsafe impl Send for LibbpfObject {}

/// A map of an opened object.
#[derive(Clone, Copy, Debug)]
pub struct LibbpfMap<'a>(NonNull<raw::bpf_map>, std::marker::PhantomData<&'a LibbpfObject>);

/// A program of an opened object.
#[derive(Clone, Copy, Debug)]
pub struct LibbpfProgram<'a>(NonNull<raw::bpf_program>, std::marker::PhantomData<&'a LibbpfObject>);

impl LibbpfObject {
    /// Opens an ELF; makes nothing yet.
    ///
    /// # Errors
    /// What libbpf says against it.
    pub fn open(name: &str, elf: &[u8]) -> Result<Self, LibbpfError> {
        static LISTEN: Once = Once::new();
        // SAFETY: the callback has the type that libbpf wants and lives as long as the program.
        LISTEN.call_once(|| unsafe {
            raw::libbpf_set_print(Some(listen));
        });
        SAID.take();
        let name = CString::new(name.replace('\0', "")).unwrap_or_default();
        // Nothing of this process may be pinned or take a token from a shared place.
        let options = raw::bpf_object_open_opts {
            sz: size_of::<raw::bpf_object_open_opts>() as _,
            object_name: name.as_ptr(),
            relaxed_maps: true,
            bpf_token_path: c"".as_ptr(),
            ..raw::bpf_object_open_opts::default()
        };
        // SAFETY: the bytes and the options outlive the call, in which libbpf copies what it keeps.
        let object = unsafe { raw::bpf_object__open_mem(elf.as_ptr().cast(), elf.len() as _, &raw const options) };
        NonNull::new(object).map(Self).ok_or_else(|| LibbpfError::new(io::Error::last_os_error()))
    }

    /// Makes the maps and relocates the programs.
    ///
    /// # Errors
    /// The map that the kernel refuses, or the relocation that cannot be done.
    pub fn prepare(&mut self) -> Result<(), LibbpfError> {
        SAID.take();
        // SAFETY: an open object.
        LibbpfError::of(unsafe { raw::bpf_object__prepare(self.0.as_ptr()) })
    }

    /// Its maps, those of its data sections included.
    pub fn maps(&self) -> impl Iterator<Item = LibbpfMap<'_>> {
        let mut last = std::ptr::null();
        std::iter::from_fn(move || {
            // SAFETY: an open object, and null or one of its maps.
            let next = NonNull::new(unsafe { raw::bpf_object__next_map(self.0.as_ptr(), last) })?;
            last = next.as_ptr();
            Some(LibbpfMap(next, std::marker::PhantomData))
        })
    }

    /// Its programs.
    pub fn programs(&self) -> impl Iterator<Item = LibbpfProgram<'_>> {
        let mut last = std::ptr::null_mut();
        std::iter::from_fn(move || {
            // SAFETY: an open object, and null or one of its programs.
            let next = NonNull::new(unsafe { raw::bpf_object__next_program(self.0.as_ptr(), last) })?;
            last = next.as_ptr();
            Some(LibbpfProgram(next, std::marker::PhantomData))
        })
    }

    /// The object's types as they were handed to the kernel; none before [`LibbpfObject::prepare`], or where the kernel
    /// took none.
    #[must_use]
    pub fn btf(&self) -> Option<OwnedFd> {
        // SAFETY: an open object.
        duplicate(unsafe { raw::bpf_object__btf_fd(self.0.as_ptr()) })
    }
}

impl Drop for LibbpfObject {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, and closed once.
        unsafe { raw::bpf_object__close(self.0.as_ptr()) };
    }
}

/// A descriptor of libbpf's as one of our own.
fn duplicate(fd: c_int) -> Option<OwnedFd> {
    if fd < 0 {
        return None;
    }
    // SAFETY: libbpf holds it open while the object lives, which is longer than this borrow.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned().ok()
}

/// A string of libbpf's.
///
/// # Safety
/// `text` is null or a string that lives as long as `'a`.
unsafe fn text<'a>(text: *const c_char) -> std::borrow::Cow<'a, str> {
    // SAFETY: the caller's.
    if text.is_null() { std::borrow::Cow::default() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy() }
}

impl LibbpfMap<'_> {
    /// Its name; that of a data section begins with the object's.
    #[must_use]
    pub fn name(&self) -> String {
        // SAFETY: a map of an open object.
        unsafe { text(raw::bpf_map__name(self.0.as_ptr())) }.into_owned()
    }

    /// Whether it stands for a data section.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        // SAFETY: one of an object that is open.
        unsafe { raw::bpf_map__is_internal(self.0.as_ptr()) }
    }

    /// Its kind, `BPF_MAP_TYPE_*`.
    #[must_use]
    pub fn kind(&self) -> u32 {
        // SAFETY: one of an object that is open.
        unsafe { raw::bpf_map__type(self.0.as_ptr()) }
    }

    /// Its descriptor, once the object is prepared.
    #[must_use]
    pub fn fd(&self) -> Option<OwnedFd> {
        // SAFETY: one of an object that is open.
        duplicate(unsafe { raw::bpf_map__fd(self.0.as_ptr()) })
    }

    /// Sets the number of elements. Before [`LibbpfObject::prepare`].
    ///
    /// # Errors
    /// What libbpf says.
    pub fn set_max_entries(&self, entries: u32) -> Result<(), LibbpfError> {
        SAID.take();
        // SAFETY: one of an object that is open.
        LibbpfError::of(unsafe { raw::bpf_map__set_max_entries(self.0.as_ptr(), entries) })
    }

    /// Sets the sizes of key and value to those that the kernel wants of such a map: cilium/ebpf lets rings name the type
    /// of their events, which libbpf takes for the size of elements.
    ///
    /// # Errors
    /// What libbpf says.
    pub fn set_sizes(&self, key: u32, value: u32) -> Result<(), LibbpfError> {
        SAID.take();
        // SAFETY: one of an object that is open.
        LibbpfError::of(unsafe { raw::bpf_map__set_key_size(self.0.as_ptr(), key) })?;
        // SAFETY: one of an object that is open.
        LibbpfError::of(unsafe { raw::bpf_map__set_value_size(self.0.as_ptr(), value) })
    }

    /// Keeps the map out of the BPF file system, whatever the object says.
    pub fn unpin(&self) {
        // The only failure is one of memory for a name, and there is no name.
        // SAFETY: one of an object that is open.
        unsafe { raw::bpf_map__set_pin_path(self.0.as_ptr(), std::ptr::null()) };
    }

    /// What a data section holds at first; to be changed before [`LibbpfObject::prepare`]. Nothing for other maps.
    pub fn initial_value(&mut self) -> Option<&mut [u8]> {
        let mut size = 0;
        // SAFETY: one of an object that is open.
        let value = unsafe { raw::bpf_map__initial_value(self.0.as_ptr(), &raw mut size) };
        let len = usize::try_from(size).ok()?;
        // SAFETY: libbpf's own copy of the section, of that size, which nobody else looks at meanwhile.
        (!value.is_null()).then(|| unsafe { std::slice::from_raw_parts_mut(value.cast::<u8>(), len) })
    }
}

/// A program's code as the kernel is to load it.
#[derive(Clone, Debug, Default)]
pub struct LibbpfCode {
    /// Its instructions and those of the functions that it calls, relocated.
    pub instructions: Vec<bpf_insn>,
    /// `struct bpf_func_info`, one after the other.
    pub functions: Vec<u8>,
    /// `struct bpf_line_info`, one after the other.
    pub lines: Vec<u8>,
}

impl LibbpfProgram<'_> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        // SAFETY: a program of an open object.
        unsafe { text(raw::bpf_program__name(self.0.as_ptr())) }.into_owned()
    }

    /// Whether the object's [`LibbpfObject::prepare`] is to relocate it.
    pub fn set_wanted(&self, wanted: bool) {
        // Fails only once the object is loaded.
        // SAFETY: one of an object that is open.
        unsafe { raw::bpf_program__set_autoload(self.0.as_ptr(), wanted) };
    }

    /// Its code, once the object is prepared.
    #[must_use]
    pub fn code(&self) -> LibbpfCode {
        let program = self.0.as_ptr();
        // SAFETY: libbpf's arrays, with the lengths that it gives, copied before anything else is asked of it.
        unsafe {
            LibbpfCode {
                instructions: copy(
                    raw::bpf_program__insns(program).cast(),
                    raw::bpf_program__insn_cnt(program) as usize,
                ),
                functions: bytes(
                    raw::bpf_program__func_info(program).cast(),
                    raw::bpf_program__func_info_cnt(program) as usize * size_of::<raw::bpf_func_info>(),
                ),
                lines: bytes(
                    raw::bpf_program__line_info(program).cast(),
                    raw::bpf_program__line_info_cnt(program) as usize * size_of::<raw::bpf_line_info>(),
                ),
            }
        }
    }
}

/// # Safety
/// `from` is null or points at `len` values.
unsafe fn copy<T: Copy>(from: *const T, len: usize) -> Vec<T> {
    // SAFETY: the caller's.
    if from.is_null() { Vec::new() } else { unsafe { std::slice::from_raw_parts(from, len) }.to_vec() }
}

/// # Safety
/// `from` is null or points at `len` bytes.
unsafe fn bytes(from: *const c_void, len: usize) -> Vec<u8> {
    // SAFETY: the caller's.
    unsafe { copy(from.cast(), len) }
}
