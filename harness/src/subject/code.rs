//! A program's code, relocated, and its loading.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use aya_obj::generated::bpf_insn;

use crate::kernel;
use crate::kernel::btf::{self, Btf, BtfError};
use crate::object::cost::{Statistics, text, timed};
use crate::object::section::{Kind, Target};
use crate::sys::{self, InstructionRecords, ProgramKind, ProgramLoad};

/// Bytes of the log of a load that is expected to succeed.
const SHORT_LOG: usize = 64 << 10;
/// Bytes of the log of a refused program; the kernel keeps the end of a longer one since 6.4 (1216640938035), before that
/// it keeps the beginning.
const LONG_LOG: usize = 16 << 20;
/// Verbose log with statistics.
const VERBOSE: u32 = 1 | sys::LOG_STATISTICS;

/// Why the kernel did not take a program.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It belongs to a function or tracepoint of the kernel, and nothing says which.
    #[error("a program of kind {0} needs a target: name the function or tracepoint that it is for")]
    NoTarget(&'static str),
    /// The kernel's types have no such function or tracepoint.
    #[error("kernel {kernel} has no {what} {target} that programs can be attached to")]
    NoSuchTarget {
        /// Release of the running kernel.
        kernel: String,
        /// `function` or `tracepoint`, ...
        what: &'static str,
        /// Its name.
        target: String,
    },
    /// The kernel's types are not to be had.
    #[error(transparent)]
    Types(#[from] BtfError),
    /// Its reads of the clock cannot be replaced.
    #[error("cannot give it a virtual clock: {0}")]
    Clock(String),
    /// The verifier refused it.
    #[error("kernel {kernel} refused it: {error}\n{tail}")]
    Refused {
        /// Name of the program.
        program: String,
        /// Release of the running kernel.
        kernel: String,
        /// The last lines of the verifier's log.
        tail: String,
        /// The whole log.
        log: String,
        /// The kernel's error.
        error: io::Error,
    },
}

/// A program's code, ready to be loaded.
#[derive(Clone, Debug)]
pub struct Code {
    /// What it is loaded as.
    pub kind: Kind,
    /// What its section says that it is attached to.
    pub target: Option<String>,
    /// Its instructions and those of the functions that it calls, relocated.
    pub instructions: Vec<bpf_insn>,
    /// `struct bpf_func_info`, one after the other, and the bytes of each.
    pub functions: (Vec<u8>, u32),
    /// `struct bpf_line_info`, likewise.
    pub lines: (Vec<u8>, u32),
    /// The object's types, loaded.
    pub btf: Option<Arc<OwnedFd>>,
    /// Its licence.
    pub license: CString,
}

/// A program in the kernel. It stays there while this or what attached it lives.
#[derive(Debug)]
pub struct LoadedProgram {
    /// Its name.
    pub name: String,
    /// What it was loaded as.
    pub kind: Kind,
    /// What its section, or whoever loaded it, says that it is attached to.
    pub target: Option<String>,
    /// What the verifier processed and what stack it needs, if the log says so.
    pub statistics: Option<Statistics>,
    /// Time that the kernel took to verify and compile it, µs.
    pub load_us: u64,
    fd: OwnedFd,
}

impl AsFd for LoadedProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl LoadedProgram {
    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Code {
    /// Loads it.
    pub(super) fn load(&self, name: &str, target: Option<&str>) -> Result<LoadedProgram, LoadError> {
        self.load_with_log(name, target).map(|(loaded, _)| loaded)
    }

    /// Loads it; the log is the verifier's, of statistics alone.
    pub(super) fn load_with_log(&self, name: &str, target: Option<&str>) -> Result<(LoadedProgram, String), LoadError> {
        let target = target.or(self.target.as_deref());
        let btf_id = self.btf_id(target)?;
        let load = ProgramLoad {
            kind: ProgramKind { program: self.kind.program, attach: self.kind.attach, btf_id },
            flags: self.kind.flags,
            name,
            instructions: &self.instructions,
            license: &self.license,
            btf: self.btf.as_ref().map(|fd| fd.as_fd()),
            functions: records(&self.functions),
            lines: records(&self.lines),
        };
        let mut log = vec![0_u8; SHORT_LOG];
        let (result, load_us) = timed(&load, sys::LOG_STATISTICS, &mut log);
        match result {
            Ok(fd) => {
                let log = text(&log);
                let statistics = Statistics::parse(&log).ok();
                let (name, target) = (name.to_owned(), target.map(str::to_owned));
                Ok((LoadedProgram { name, kind: self.kind, target, statistics, load_us, fd }, log))
            }
            Err(source) => Err(refusal(&load, source)),
        }
    }

    /// The type in the kernel's BTF of what it is attached to; 0 for kinds that do not belong to a place.
    fn btf_id(&self, target: Option<&str>) -> Result<u32, LoadError> {
        let Target::Btf { prefix, typedef } = self.kind.target else { return Ok(0) };
        let target = target.ok_or(LoadError::NoTarget(self.kind.name))?;
        let btf = Btf::kernel()?;
        let name = format!("{prefix}{target}");
        let is_it = |ty: btf::Type| match ty.kind {
            btf::Kind::Typedef(_) => typedef,
            btf::Kind::Function(_) => !typedef,
            _ => false,
        };
        let found = btf.named(&name).filter_map(|id| btf.ty(id)).find(|ty| is_it(*ty));
        found.map(|ty| ty.id).ok_or_else(|| LoadError::NoSuchTarget {
            kernel: kernel::release(),
            what: match prefix {
                "btf_trace_" => "tracepoint",
                "bpf_lsm_" => "security hook",
                "bpf_iter_" => "iterator",
                _ => "function",
            },
            target: target.to_owned(),
        })
    }
}

fn records((bytes, record_size): &(Vec<u8>, u32)) -> InstructionRecords<'_> {
    let record_size = if bytes.is_empty() { 0 } else { *record_size };
    InstructionRecords { bytes, record_size }
}

/// Asks the verifier again, at length, for its reasons.
fn refusal(load: &ProgramLoad<'_>, error: io::Error) -> LoadError {
    let mut log = vec![0_u8; LONG_LOG];
    // The error of the first load is the kernel's answer; a log that is too small gives another one.
    let _ = timed(load, VERBOSE, &mut log);
    let log = text(&log);
    let mut tail = crate::object::last_lines(&log, 12);
    if log.contains("GPL") {
        let license = load.license.to_string_lossy();
        let license = if license.is_empty() { "none".to_owned() } else { format!("{license:?}") };
        tail.push_str(&format!("\nthe object's licence (section license) is {license}"));
    }
    LoadError::Refused { program: load.name.to_owned(), kernel: kernel::release(), tail, log, error }
}
