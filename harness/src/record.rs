//! Records: the machine-readable results, of one scenario on one kernel and of the whole matrix. Facts only; every
//! display is made from them.

use serde::{Deserialize, Serialize};

use crate::report::{Document, KernelSummary};
use crate::scenario::Mode;

/// Version of [`Record`]; raised when a key changes its meaning or goes away.
pub const RECORD_VERSION: u32 = 3;
/// Version of [`Matrix`].
pub const MATRIX_VERSION: u32 = 1;

/// The machine-readable result of one trial on one kernel: of a scenario in one mode, or of a test of a test binary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// `family/behaviour`; of a test `BINARY/NAME`.
    pub scenario: String,
    /// The mode; a test has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The kernel.
    pub kernel: KernelSummary,
    /// The result.
    pub result: Outcome,
    /// Why it is not `passed`; one entry per expectation, difference or missing requirement.
    pub reasons: Vec<String>,
    /// Wall-clock time, ms.
    pub duration_ms: u64,
    /// The canonical text, absent where nothing ran.
    pub snapshot: Option<String>,
    /// The committed text that all kernels share, where this kernel's differs from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The declared difference that applies to this kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<DeclaredVariant>,
    /// The whole answer, absent where nothing ran.
    pub document: Option<Document>,
}

impl Record {
    /// A record of a trial that has not run: result [`Outcome::LabFailure`] until it is set.
    #[must_use]
    pub fn new(scenario: &str, mode: impl Into<Option<Mode>>, kernel: KernelSummary) -> Self {
        Self {
            version: RECORD_VERSION,
            scenario: scenario.to_owned(),
            mode: mode.into(),
            kernel,
            result: Outcome::LabFailure,
            reasons: Vec::new(),
            duration_ms: 0,
            snapshot: None,
            base: None,
            variant: None,
            document: None,
        }
    }

    /// `family/behaviour [mode]`, or `BINARY/NAME`.
    #[must_use]
    pub fn trial(&self) -> String {
        with_mode(&self.scenario, self.mode)
    }
}

/// `NAME [mode]`, or the name alone where there is no mode.
#[must_use]
pub fn with_mode(name: &str, mode: Option<Mode>) -> String {
    mode.map_or_else(|| name.to_owned(), |mode| format!("{name} [{mode}]"))
}

/// How a trial ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "cli", value(rename_all = "kebab-case"))]
pub enum Outcome {
    /// Expectations and snapshot hold.
    Passed,
    /// The same, held against the snapshot that the scenario declares for this kernel.
    Differs,
    /// One of them does not.
    Failed,
    /// This machine lacks something the scenario declares it needs.
    Unsupported,
    /// A test that is marked as ignored, and did not run.
    Skipped,
    /// The lab itself failed.
    LabFailure,
}

impl Outcome {
    /// All of them, in the order of a summary.
    pub const ALL: [Self; 6] =
        [Self::Passed, Self::Differs, Self::Failed, Self::Unsupported, Self::Skipped, Self::LabFailure];

    /// As people read it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Differs => "differs as declared",
            Self::Failed => "failed",
            Self::Unsupported => "unsupported",
            Self::Skipped => "skipped",
            Self::LabFailure => "lab failure",
        }
    }
}

/// A difference between kernels that a scenario declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredVariant {
    /// Its name, which is part of its snapshot's.
    pub name: String,
    /// Kernels that it is declared for, as written.
    pub kernel: String,
    /// Why the kernel answers otherwise.
    pub reason: String,
}

/// What one program costs the verifier, on one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramCost {
    /// Name of the object.
    pub object: String,
    /// Name of the program.
    pub program: String,
    /// Instructions that the verifier processed.
    pub instructions: u64,
    /// Stack that the program takes, bytes: the sum over its functions, which is at least what a chain of calls takes.
    pub stack_bytes: u32,
    /// From the system call to its return, µs.
    pub load_us: u64,
    /// Why it was not measured, most often because this kernel does not load it; the numbers are 0 then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The result of many scenarios on many kernels.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Matrix {
    /// [`MATRIX_VERSION`].
    pub version: u32,
    /// One entry per kernel, oldest first as the list has them.
    pub kernels: Vec<KernelRun>,
    /// Scenarios or requirements that no kernel of a whole list could run, each as a sentence: they would never run.
    #[serde(default)]
    pub problems: Vec<String>,
    /// From the first guest's start to the last record, seconds; of several merged runs the longest.
    pub wall_s: f64,
}

/// What one kernel of the list said.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KernelRun {
    /// Its name in the list of kernels.
    pub name: String,
    /// `uname -r`; empty if no guest came so far.
    pub release: String,
    /// Exact version of its package, or where its image comes from.
    pub version: String,
    /// SHA-256 of the kernel image, lower-case hexadecimal.
    pub sha256: String,
    /// The runner: `vng` or `fast`.
    pub runner: String,
    /// `kvm`, or `emulation` with the reason.
    pub acceleration: String,
    /// The guests, in the order they were started: more than one if one of them ended early.
    pub guests: Vec<GuestTimes>,
    /// What ended a guest before its time.
    pub failures: Vec<GuestFailure>,
    /// Verifier cost of the suite's programs.
    #[serde(default)]
    pub costs: Vec<ProgramCost>,
    /// Programs whose cost rose beyond what is allowed, each as a sentence.
    #[serde(default)]
    pub cost_rises: Vec<String>,
    /// One record per trial, in the order of the trials.
    pub records: Vec<Record>,
}

/// How long the parts of a guest's life took, seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GuestTimes {
    /// From its start (or restore) to its first message.
    pub boot_s: f64,
    /// From its first message to the last record.
    pub trials_s: f64,
    /// From the last record to the end of its processes.
    pub exit_s: f64,
}

/// What ended a guest before its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFailure {
    /// What kind.
    pub kind: FailureKind,
    /// The trial that was running.
    pub trial: Option<String>,
    /// What was seen, as a sentence.
    pub message: String,
    /// The last lines of the guest's console.
    pub console: Vec<String>,
}

/// Kinds of guest failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The kernel panicked.
    Panic,
    /// The kernel reported a bug and went on, or ended the task (`BUG:`, `Oops`, `general protection fault`).
    Oops,
    /// A processor made no progress.
    SoftLockup,
    /// Read-copy-update made no progress.
    RcuStall,
    /// The kernel warned from the BPF verifier or its run time.
    VerifierWarning,
    /// The guest said nothing for too long.
    TimedOut,
    /// The guest did not come to its first message.
    NoBoot,
    /// The guest ended without its final record.
    EndedEarly,
    /// The guest said something that is no message of the protocol.
    Protocol,
    /// The kernel, its modules or a tool of the runner could not be had, so that no guest was started.
    Unavailable,
    /// The run was interrupted from outside.
    Interrupted,
}

impl FailureKind {
    /// As people read it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Panic => "kernel panic",
            Self::Oops => "kernel oops",
            Self::SoftLockup => "soft lockup",
            Self::RcuStall => "RCU stall",
            Self::VerifierWarning => "verifier warning",
            Self::TimedOut => "time-out",
            Self::NoBoot => "guest did not boot",
            Self::EndedEarly => "guest ended early",
            Self::Protocol => "broken record",
            Self::Unavailable => "kernel not available",
            Self::Interrupted => "interrupted",
        }
    }
}
