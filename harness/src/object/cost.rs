//! What the programs of an object cost the verifier of the running kernel.
//!
//! aya discards the log of a load that succeeds, and only kernels since 5.16 tell of a loaded program what verifying it
//! took. So the object's code is relocated a second time, as aya does it, against the maps that exist already and with
//! them the globals as they were set; then each program is loaded with the log level that gives statistics alone, and
//! let go.

mod kind;
mod statistics;

use std::error::Error;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Instant;

use aya_obj::{Function, Program};

use self::kind::Kind;
pub(crate) use self::kind::kind;
pub use self::statistics::Statistics;
use super::Object;
use crate::kernel;
use crate::record::ProgramCost;
use crate::sys::{self, InstructionRecords, ProgramKind, ProgramLoad};

/// Bytes of the log: statistics take under 300, a complaint a few lines.
const LOG_BYTES: usize = 64 << 10;
/// The kernel interrupts a load when a signal comes; libbpf tries as often.
const TRIES: usize = 5;

/// Programs with the tracepoints or functions of the kernel that each is loaded for, the best first.
pub type Targets = Vec<(&'static str, &'static str)>;

/// Why an object's programs could not be measured.
#[derive(Debug, thiserror::Error)]
#[error("cannot relocate object {object} to measure it")]
pub struct CostError {
    /// Name of the object.
    pub object: String,
    /// The cause.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

/// What each program of `object` costs, in the order of their names. `elf` is what the object was loaded from.
///
/// `targets` names, for programs that are loaded for one tracepoint or function of the kernel (`tp_btf`, `fentry`,
/// `fexit`, `lsm`, `iter`), candidates in the order of preference: the first that the kernel takes counts. A program
/// that the kernel does not take has an entry that says why. `wanted` chooses programs by name.
///
/// # Errors
/// [`CostError`] where `elf` is not that object's.
pub fn measure(
    object: &Object,
    elf: &[u8],
    targets: &[(&str, &str)],
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Vec<ProgramCost>, CostError> {
    let failed = |source| CostError { object: object.name().to_owned(), source };
    let code = Code::relocated(object, elf).map_err(failed)?;
    let mut names: Vec<&String> = code.parsed.programs.keys().filter(|name| wanted(name)).collect();
    names.sort_unstable();
    let costs = names.into_iter().map(|name| {
        let candidates: Vec<&str> =
            targets.iter().filter(|(program, _)| program == name).map(|(_, target)| *target).collect();
        code.cost(name, &candidates).unwrap_or_else(|reason| unmeasured(object.name(), name, reason))
    });
    let costs = costs.map(|cost| ProgramCost { object: object.name().to_owned(), ..cost });
    Ok(costs.collect())
}

/// An entry for each program of an object that could not be loaded at all, with the reason.
#[must_use]
pub fn unavailable(object: &str, elf: &[u8], reason: &str) -> Vec<ProgramCost> {
    let Ok(parsed) = aya_obj::Object::parse(elf) else { return Vec::new() };
    let mut names: Vec<&String> = parsed.programs.keys().collect();
    names.sort_unstable();
    names.into_iter().map(|name| unmeasured(object, name, reason.to_owned())).collect()
}

fn unmeasured(object: &str, program: &str, reason: String) -> ProgramCost {
    let (object, program) = (object.to_owned(), program.to_owned());
    ProgramCost { object, program, reason: Some(reason), ..ProgramCost::default() }
}

/// An object's code, ready to be loaded.
pub(crate) struct Code {
    /// What was parsed, relocated.
    pub(crate) parsed: aya_obj::Object,
    /// Its types, where the kernel takes them.
    pub(crate) btf: Option<OwnedFd>,
}

impl Code {
    /// Follows `aya::EbpfLoader::load` step by step, apart from making maps.
    pub(crate) fn relocated(object: &Object, elf: &[u8]) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let mut parsed = aya_obj::Object::parse(elf)?;
        let features = aya::features();
        let types = match features.btf() {
            Some(features) => parsed.fixup_and_sanitize_btf(features)?.map(aya::Btf::to_bytes),
            None => None,
        };
        // A kernel that does not take the types takes most programs without.
        let btf = types.and_then(|types| sys::load_btf(&types).ok());
        if let Ok(types) = kernel::aya_btf() {
            parsed.relocate_btf(types)?;
        }
        let maps = std::mem::take(&mut parsed.maps);
        let mut with_fds = Vec::with_capacity(maps.len());
        for (name, map) in &maps {
            let fd = object.map_fd(name)?;
            with_fds.push((name.as_str(), fd.as_raw_fd(), map));
        }
        let sections = parsed.functions.keys().map(|(section, _)| *section).collect();
        parsed.relocate_maps(with_fds.into_iter(), &sections)?;
        parsed.relocate_calls(&sections)?;
        parsed.sanitize_functions(features);
        Ok(Self { parsed, btf })
    }

    /// The cost of one program for the first of `targets` that works, or why there is none.
    fn cost(&self, name: &str, targets: &[&str]) -> Result<ProgramCost, String> {
        let program = self.parsed.programs.get(name).ok_or_else(|| format!("there is no program {name}"))?;
        let function = self.parsed.functions.get(&program.function_key());
        let function = function.ok_or_else(|| format!("program {name} has no code"))?;
        let kind = kind(&program.section)?;
        if kind.target.is_none() {
            return self.load(name, program, function, &kind, 0);
        }
        let mut reason = "it is attached to nothing on this kernel".to_owned();
        for target in targets {
            let loaded = kind.btf_id(target).and_then(|id| self.load(name, program, function, &kind, id));
            match loaded {
                Ok(cost) => return Ok(cost),
                Err(why) => reason = format!("{target}: {why}"),
            }
        }
        Err(reason)
    }

    fn load(
        &self,
        name: &str,
        program: &Program,
        function: &Function,
        kind: &Kind,
        btf_id: u32,
    ) -> Result<ProgramCost, String> {
        let (functions, lines) = (function.func_info.func_info_bytes(), function.line_info.line_info_bytes());
        let load = ProgramLoad {
            kind: ProgramKind { program: kind.program as u32, attach: kind.attach as u32, btf_id },
            flags: kind.flags,
            name,
            instructions: &function.instructions,
            license: &program.license,
            btf: self.btf.as_ref().map(|fd| fd.as_fd()),
            functions: records(&functions, function.func_info_rec_size),
            lines: records(&lines, function.line_info_rec_size),
        };
        let mut log = vec![0_u8; LOG_BYTES];
        let (result, load_us) = timed(&load, sys::LOG_STATISTICS, &mut log);
        let log = text(&log);
        match result {
            Err(error) => Err(refusal(&error, &log)),
            Ok(_loaded) => {
                let Statistics { instructions, stack_bytes } = Statistics::parse(&log)?;
                let program = name.to_owned();
                Ok(ProgramCost { program, instructions, stack_bytes, load_us, ..ProgramCost::default() })
            }
        }
    }
}

fn records(bytes: &[u8], record_size: usize) -> InstructionRecords<'_> {
    InstructionRecords { bytes, record_size: u32::try_from(record_size).unwrap_or_default() }
}

/// Loads with a log of that level, and takes the time of the call that counts, µs.
pub(crate) fn timed(load: &ProgramLoad<'_>, level: u32, log: &mut [u8]) -> (io::Result<OwnedFd>, u64) {
    let mut tries = 0;
    loop {
        tries += 1;
        let start = Instant::now();
        let result = sys::load_program(load, level, log);
        let load_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        match &result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < TRIES => {}
            _ => return (result, load_us),
        }
    }
}

/// The log up to its zero byte.
pub(crate) fn text(log: &[u8]) -> String {
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    String::from_utf8_lossy(&log[..end]).into_owned()
}

/// The kernel's error, and the verifier's last words before its statistics.
fn refusal(error: &io::Error, log: &str) -> String {
    match log.lines().rfind(|line| !line.trim().is_empty() && !statistics::is_part(line)) {
        Some(line) => format!("{error}: {}", line.trim().chars().take(160).collect::<String>()),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
