//! A reader of BTF, the kernel's own type information.
//!
//! The format is that of `Documentation/bpf/btf.rst` and `include/uapi/linux/btf.h`: a header, a section of type
//! records numbered from 1, a section of NUL-terminated strings and, since Linux 7.1, a section that gives the record
//! sizes of each kind. Programs written in Rust carry no CO-RE relocations, so the offsets of kernel structs are looked
//! up here, once, in the running kernel's BTF, and are handed to the objects as read-only globals.
//!
//! Bytes are not trusted: every access is bounds-checked, and walks along type references are bounded, so that a
//! blob that refers to itself ends in an error. Both byte orders are read.
//!
//! [`Btf::ty`] is the layer underneath the questions: it gives any type's record in decoded form, which is all that a
//! decoder of arbitrary BTF-typed bytes needs.

mod query;
mod types;

#[cfg(test)]
pub(crate) mod blob;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

pub use query::Field;
pub use types::{IntKind, Kind, Member, SectionVariable, Type};

/// Where the kernel shows its own types.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// First two bytes of a blob, in its own byte order (`BTF_MAGIC`).
const MAGIC: u16 = 0xeb9f;
/// Bytes of the header up to and including `str_len`; newer headers are longer.
const HEADER: usize = 24;
/// Offset of `layout_off` and `layout_len` in a header that is long enough to have them.
const HEADER_LAYOUT: usize = 24;
/// Limit of the format (`BTF_MAX_TYPE`).
const MAX_TYPES: usize = 0x000f_ffff;

/// Why BTF could not be read, or does not have what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The running kernel shows no BTF.
    #[error(
        "cannot read the kernel's type information in {KERNEL_BTF}; without it tracepoint programs (drops, socket \
         states) cannot be loaded and drop reasons have no names. It takes a kernel built with CONFIG_DEBUG_INFO_BTF=y \
         and a mounted /sys"
    )]
    Missing(#[source] std::io::Error),
    /// The bytes are not BTF, or are damaged.
    #[error("cannot read BTF: {what} at byte {offset}")]
    Invalid {
        /// What is wrong.
        what: &'static str,
        /// Where, from the start of the blob.
        offset: usize,
    },
    /// The library that loads programs cannot read the bytes.
    #[error("the loader cannot read the kernel's BTF")]
    Loader(#[source] Box<aya::BtfError>),
    /// No struct, union or other type of that name.
    #[error("BTF has no type {0}")]
    NoType(String),
    /// A step of a member path does not exist.
    #[error("BTF has no member {member} in {parent} (looking for {path})")]
    NoMember {
        /// The whole path.
        path: String,
        /// The step that failed.
        member: String,
        /// The path up to there.
        parent: String,
    },
    /// The member is a bitfield and so has no byte offset.
    #[error("{0} is a bitfield and has no byte offset")]
    Bitfield(String),
    /// A type refers to itself, or to a type that the blob does not have.
    #[error("BTF type of {0} has no size: its references are broken or endless")]
    Broken(String),
}

/// A parsed blob of BTF.
#[derive(Debug)]
pub struct Btf {
    /// The section of types.
    types: Vec<u8>,
    /// The section of strings.
    strings: Vec<u8>,
    /// Whether integers are big-endian.
    big: bool,
    /// Offset of each type's record in `types`; type 1 is the first.
    records: Vec<u32>,
    /// Types by name: see [`NameIndex`].
    names: NameIndex,
}

/// A hash table with chains over all named types, in the manner of an ELF symbol hash: two arrays, no allocation per
/// name, a few ms for the hundred thousand types of a kernel.
#[derive(Debug)]
struct NameIndex {
    /// First type of each bucket, 0 if none.
    heads: Vec<u32>,
    /// Next type of the same bucket, by type identifier.
    next: Vec<u32>,
}

impl NameIndex {
    fn new(types: usize) -> Self {
        Self { heads: vec![0; (types / 2).next_power_of_two().max(1)], next: vec![0; types + 1] }
    }

    fn bucket(&self, name: &[u8]) -> usize {
        // FNV-1a: short, and good enough for identifiers.
        let hash = name
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        (hash ^ (hash >> 32)) as usize & (self.heads.len() - 1)
    }

    fn insert(&mut self, id: u32, name: &[u8]) {
        let bucket = self.bucket(name);
        self.next[id as usize] = self.heads[bucket];
        self.heads[bucket] = id;
    }
}

impl Btf {
    /// The running kernel's types, read at the first call and kept for the life of the process.
    ///
    /// A failure is not kept: the next call tries again.
    ///
    /// # Errors
    /// [`BtfError::Missing`] where the kernel shows none, [`BtfError::Invalid`].
    pub fn kernel() -> Result<&'static Self, BtfError> {
        static KERNEL: OnceLock<Btf> = OnceLock::new();
        static READING: Mutex<()> = Mutex::new(());
        if let Some(btf) = KERNEL.get() {
            return Ok(btf);
        }
        // Two threads that both find nothing would both read megabytes; the second waits instead.
        let _reading = READING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(btf) = KERNEL.get() {
            return Ok(btf);
        }
        let btf = Self::from_file(Path::new(KERNEL_BTF))?;
        Ok(KERNEL.get_or_init(|| btf))
    }

    fn from_file(path: &Path) -> Result<Self, BtfError> {
        Self::parse(&std::fs::read(path).map_err(BtfError::Missing)?)
    }

    /// Parses a blob: the kernel's, a map's (`BPF_BTF_GET_FD_BY_ID`), or an object's `.BTF` section.
    ///
    /// # Errors
    /// [`BtfError::Invalid`] if it is not BTF version 1 or a record does not fit.
    pub fn parse(blob: &[u8]) -> Result<Self, BtfError> {
        let invalid = |what, offset| BtfError::Invalid { what, offset };
        let big = match blob.get(..2) {
            Some(magic) if magic == MAGIC.to_le_bytes() => false,
            Some(magic) if magic == MAGIC.to_be_bytes() => true,
            _ => return Err(invalid("no BTF magic", 0)),
        };
        if blob.get(2) != Some(&1) {
            return Err(invalid("not version 1", 2));
        }
        let word = |offset: usize| types::word(blob, offset, big).ok_or(invalid("header cut off", offset));
        let header_len = word(4)? as usize;
        if header_len < HEADER || header_len > blob.len() {
            return Err(invalid("impossible header length", 4));
        }
        let section = |at: usize| -> Result<(usize, &[u8]), BtfError> {
            let (offset, len) = (word(at)? as usize, word(at + 4)? as usize);
            let start = header_len.saturating_add(offset);
            let bytes = blob.get(start..start.saturating_add(len)).ok_or(invalid("section beyond the end", at))?;
            Ok((start, bytes))
        };
        let (types_start, types) = section(8)?;
        let (strings_start, strings) = section(16)?;
        if strings.first() != Some(&0) || strings.last() != Some(&0) {
            return Err(invalid("strings not framed by NUL bytes", strings_start));
        }
        let layout = if header_len >= HEADER_LAYOUT + 8 { section(HEADER_LAYOUT)?.1 } else { &[] };
        let records = types::records(types, layout, big).map_err(|(what, at)| invalid(what, types_start + at))?;
        let names = NameIndex::new(records.len());
        let mut btf = Self { types: types.to_vec(), strings: strings.to_vec(), big, records, names };
        btf.index();
        Ok(btf)
    }

    /// Fills the name index; later types are inserted first, so that a bucket is in the order of the blob.
    fn index(&mut self) {
        for id in (1..=u32::try_from(self.records.len()).unwrap_or(u32::MAX)).rev() {
            let record = self.records[id as usize - 1] as usize;
            let name = types::word(&self.types, record, self.big).map_or(&[][..], |at| string(&self.strings, at));
            if !name.is_empty() {
                self.names.insert(id, name);
            }
        }
    }

    /// Number of types, `void` (identifier 0) not counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no type at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether the blob, and so the bytes that it describes, is big-endian.
    #[must_use]
    pub fn is_big_endian(&self) -> bool {
        self.big
    }

    /// The string at an offset of the string section, empty if there is none or it is not UTF-8.
    #[must_use]
    pub fn string(&self, offset: u32) -> &str {
        std::str::from_utf8(string(&self.strings, offset)).unwrap_or("")
    }

    /// Identifiers of all types of that name, in the order of the blob.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = u32> + 'a {
        let mut id = self.names.heads[self.names.bucket(name.as_bytes())];
        std::iter::from_fn(move || {
            while id != 0 {
                let found = id;
                id = self.names.next[found as usize];
                let record = self.records[found as usize - 1] as usize;
                if types::word(&self.types, record, self.big).is_some_and(|at| self.string(at) == name) {
                    return Some(found);
                }
            }
            None
        })
    }
}

/// The bytes of the string that starts at `offset`.
fn string(strings: &[u8], offset: u32) -> &[u8] {
    let tail = strings.get(offset as usize..).unwrap_or_default();
    tail.split(|byte| *byte == 0).next().unwrap_or_default()
}
