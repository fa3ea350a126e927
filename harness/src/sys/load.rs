//! `BPF_PROG_LOAD` with everything that an object may bring along, and the verifier's log of a load that succeeded,
//! which aya discards.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use aya_obj::generated::bpf_insn;

use super::bpf::{BPF_PROG_LOAD, ProgLoadAttr, ProgramKind, bpf_fd};

const BPF_BTF_LOAD: libc::c_long = 18;

/// `BPF_LOG_STATS` of `include/linux/bpf_verifier.h`, since 5.2 (06ee7115b0d1): the log ends with what the program cost.
/// Complaints are logged at every level.
pub const LOG_STATISTICS: u32 = 1 << 2;

/// Records about instructions (`func_info`, `line_info` of BTF.ext) as the kernel reads them.
#[derive(Clone, Copy, Debug, Default)]
pub struct InstructionRecords<'a> {
    /// All of them, one after the other.
    pub bytes: &'a [u8],
    /// Bytes of each, 0 if there are none.
    pub record_size: u32,
}

impl InstructionRecords<'_> {
    fn count(&self) -> u32 {
        match self.record_size {
            0 => 0,
            size => u32::try_from(self.bytes.len()).unwrap_or(u32::MAX) / size,
        }
    }
}

/// A program to load.
#[derive(Clone, Copy, Debug)]
pub struct ProgramLoad<'a> {
    /// Its kind.
    pub kind: ProgramKind,
    /// `BPF_F_*` of program loads.
    pub flags: u32,
    /// Its name; the kernel keeps the first 15 bytes.
    pub name: &'a str,
    /// Its instructions, relocated.
    pub instructions: &'a [bpf_insn],
    /// Its licence.
    pub license: &'a CStr,
    /// The object's types, to which the records refer.
    pub btf: Option<BorrowedFd<'a>>,
    /// Functions.
    pub functions: InstructionRecords<'a>,
    /// Lines.
    pub lines: InstructionRecords<'a>,
}

/// Loads `program`; `log` receives the verifier's log at level `level`, ended by a zero byte.
///
/// # Errors
/// The kernel's; `ENOSPC` if `log` is too small.
pub fn load_program(program: &ProgramLoad<'_>, level: u32, log: &mut [u8]) -> io::Result<OwnedFd> {
    let size = |len: usize| u32::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let mut attr = ProgLoadAttr {
        prog_type: program.kind.program,
        insn_cnt: size(program.instructions.len())?,
        insns: program.instructions.as_ptr() as u64,
        license: program.license.as_ptr() as u64,
        log_level: level,
        log_size: size(log.len())?,
        log_buf: log.as_mut_ptr() as u64,
        prog_flags: program.flags,
        expected_attach_type: program.kind.attach,
        attach_btf_id: program.kind.btf_id,
        ..ProgLoadAttr::default()
    };
    let name = program.name.as_bytes();
    let kept = name.len().min(attr.prog_name.len() - 1);
    attr.prog_name[..kept].copy_from_slice(&name[..kept]);
    if let Some(btf) = program.btf {
        attr.prog_btf_fd = btf.as_raw_fd().cast_unsigned();
        (attr.func_info, attr.func_info_rec_size) =
            (program.functions.bytes.as_ptr() as u64, program.functions.record_size);
        (attr.line_info, attr.line_info_rec_size) = (program.lines.bytes.as_ptr() as u64, program.lines.record_size);
        (attr.func_info_cnt, attr.line_info_cnt) = (program.functions.count(), program.lines.count());
    }
    // SAFETY: laid out as BPF_PROG_LOAD reads it; every pointer is into a slice that outlives the call, with its length,
    // and the licence ends with a zero byte.
    unsafe { bpf_fd(BPF_PROG_LOAD, &mut attr) }
}

/// Loads the types of an object.
///
/// # Errors
/// The kernel's: `EINVAL` for types it does not take.
pub fn load_btf(btf: &[u8]) -> io::Result<OwnedFd> {
    /// `union bpf_attr` as `BPF_BTF_LOAD` reads it.
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        btf: u64,
        log_buf: u64,
        size: u32,
        log_size: u32,
        log_level: u32,
        reserved: u32,
    }
    let size = u32::try_from(btf.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut attr = Attr { btf: btf.as_ptr() as u64, size, ..Attr::default() };
    // SAFETY: laid out as BPF_BTF_LOAD reads it; the types outlive the call.
    unsafe { bpf_fd(BPF_BTF_LOAD, &mut attr) }
}
