//! Loading programs of parsed objects, as they are and with probes.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use aya_obj::generated::bpf_insn;

use super::super::{
    Counting, CoverageMap, FuncInfo, Identity, Input, InstrumentError, Instrumented, Layout, LineInfo, instrument,
    stack_depths,
};
use crate::kernel::btf::Btf;
use crate::kernel::probe::Version;
use crate::object::cost::{Code, Statistics, kind};
use crate::sys::{self, InstructionRecords, ProgramKind, ProgramLoad};

/// A program in the kernel.
pub(super) struct Loaded {
    pub(super) fd: OwnedFd,
    pub(super) statistics: Statistics,
    /// Bytes of stack of each function.
    pub(super) depths: Vec<u32>,
}

/// A program of an object, ready to be loaded.
pub(super) struct Source<'a> {
    code: &'a Code,
    name: String,
    targets: Vec<String>,
    pub(super) instructions: Vec<bpf_insn>,
    functions: Vec<FuncInfo>,
    lines: Vec<LineInfo>,
}

/// A program with probes, its counters and what they mean.
pub(super) struct Probed {
    pub(super) loaded: Loaded,
    pub(super) map: CoverageMap,
    pub(super) layout: Layout,
    pub(super) instrumented: Instrumented,
}

impl<'a> Source<'a> {
    pub(super) fn of(code: &'a Code, name: &str, targets: &[(&str, &str)]) -> Self {
        let program = &code.parsed.programs[name];
        let function = &code.parsed.functions[&program.function_key()];
        let targets = targets.iter().filter(|(of, _)| *of == name).map(|(_, target)| (*target).to_owned());
        Self {
            code,
            name: name.to_owned(),
            targets: targets.collect(),
            instructions: function.instructions.clone(),
            functions: function.func_info.func_info.iter().map(FuncInfo::from).collect(),
            lines: function.line_info.line_info.iter().map(LineInfo::from).collect(),
        }
    }

    pub(super) fn load(&self) -> Result<Loaded, String> {
        self.load_code(&self.instructions, &self.functions, &self.lines)
    }

    /// Instruments and loads. `stack` is what the verifier says of the plain program.
    pub(super) fn load_probed(&self, stack: Option<&[u32]>, counting: Counting) -> Result<Probed, String> {
        let long_jumps = Version::of_release(&crate::kernel::release())
            .is_some_and(|version| version.against(&Version::series(6, 6)).is_ge());
        let said = |error: InstrumentError| error.to_string();
        let input = Input { stack, counting, ..self.input(long_jumps) };
        let map = CoverageMap::new(instrument(&input).map_err(said)?.slots()).map_err(|error| error.to_string())?;
        let instrumented = instrument(&Input { map_fd: map.as_raw_fd(), ..input }).map_err(said)?;
        let loaded = self.load_code(&instrumented.instructions, &instrumented.functions, &instrumented.lines)?;
        let types = self.code.parsed.btf.as_ref().map(|btf| Btf::parse(&btf.to_bytes()).unwrap());
        let identity = Identity { object: "object", digest: "digest", program: &self.name };
        let count = self.instructions.len();
        let layout = Layout::new(identity, count, &self.functions, &self.lines, types.as_ref(), &instrumented);
        Ok(Probed { loaded, map, layout, instrumented })
    }

    /// Instruments without loading.
    pub(super) fn instrumented(&self, long_jumps: bool) -> Result<Instrumented, InstrumentError> {
        instrument(&self.input(long_jumps))
    }

    fn input(&self, long_jumps: bool) -> Input<'_> {
        Input {
            instructions: &self.instructions,
            functions: &self.functions,
            lines: &self.lines,
            map_fd: -1,
            counting: Counting::Atomic,
            first_slot: 0,
            stack: None,
            long_jumps,
        }
    }

    fn load_code(
        &self,
        instructions: &[bpf_insn],
        functions: &[FuncInfo],
        lines: &[LineInfo],
    ) -> Result<Loaded, String> {
        let program = &self.code.parsed.programs[&self.name];
        let kind = kind(&program.section)?;
        let (functions, lines) = (FuncInfo::bytes(functions), LineInfo::bytes(lines));
        let mut why = "it has no target here".to_owned();
        let ids: Vec<u32> = match kind.target {
            None => vec![0],
            Some(_) => self.targets.iter().filter_map(|target| kind.btf_id(target).ok()).collect(),
        };
        for btf_id in ids {
            let load = ProgramLoad {
                kind: ProgramKind { program: kind.program as u32, attach: kind.attach as u32, btf_id },
                flags: kind.flags,
                name: &self.name,
                instructions,
                license: &program.license,
                btf: self.code.btf.as_ref().map(|fd| fd.as_fd()),
                functions: InstructionRecords { bytes: &functions, record_size: FuncInfo::RECORD },
                lines: InstructionRecords { bytes: &lines, record_size: LineInfo::RECORD },
            };
            let mut log = vec![0; 1 << 20];
            let result = sys::load_program(&load, sys::LOG_STATISTICS, &mut log);
            let log = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap()).into_owned();
            match result {
                Ok(fd) => {
                    let depths = stack_depths(&log).unwrap();
                    return Ok(Loaded { fd, statistics: Statistics::parse(&log)?, depths });
                }
                Err(error) => {
                    let lines: Vec<&str> = log.lines().collect();
                    why = format!("{error}: {}", lines[lines.len().saturating_sub(12)..].join("\n"));
                }
            }
        }
        Err(why)
    }
}
