//! What the command line accepts.

use std::ffi::OsString;
use std::num::NonZero;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::impair::ImpairArg;
use super::report::{ExitOn, OutputArgs};
use crate::capture::{Checksums, Oversize, SidesPolicy, Truncated};
use crate::live::{Dut, Forward};
use crate::object::Clock;
use crate::scenario::Mode;
use crate::subject::{AttachSetup, Loader};
use crate::suite::Family;
use crate::vm::protocol::Mishap;
use crate::vm::runner::Runner;
use crate::wire::{EngineChoice, Speed};

/// Where scenarios are looked for if nothing is said.
pub const SCENARIOS: &str = "scenarios";

/// The committed figures of verifier cost if no other file is named.
pub const COST_FIGURES: &str = "vm/costs.toml";

/// The list of kernels if no other is named.
pub const KERNELS: &str = "vm/kernels.toml";

/// Topology of a replay where none is named.
pub const DEFAULT_TOPOLOGY: &str = "bridge";

/// A test-and-replay lab for eBPF network programs.
#[derive(Debug, Parser)]
#[command(name = "bpflab", version, max_term_width = 100)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Replay a capture through the suite and print what was seen.
    Replay(ReplayArgs),
    /// Make traffic out of the catalogue of attacks, loads and transactions, into a capture or onto a topology.
    Synth(super::synth::SynthArgs),
    /// Send a capture at the highest rate that the link takes, and count at both ends.
    Flood(super::flood::FloodArgs),
    /// Run scenarios and hold them against their snapshots.
    Run(RunArgs),
    /// Run scenarios, or any project's test binaries, on other kernels, in virtual machines.
    Matrix(MatrixArgs),
    /// Run a command on another kernel, in a virtual machine; also as a runner for cargo.
    Exec(ExecArgs),
    /// Serve a request inside a virtual machine.
    #[command(hide = true)]
    Guest(GuestArgs),
    /// Say what an eBPF object file is, what it needs, and whether this kernel takes it.
    Inspect(InspectArgs),
    /// Make a capture fit to share: select packets, convert them to Ethernet, anonymise them.
    Import(Box<super::import::ImportArgs>),
    /// Run scenarios in lockstep mode and on the wire, and say where the two differ.
    Compare(CompareArgs),
    /// List scenarios.
    List(ListArgs),
    /// Measure what the suite's programs cost the verifier of the running kernel.
    Costs(CostsArgs),
    /// Run a command on a host of a topology and record what passes the device under test.
    Record(super::record::RecordArgs),
    /// Make a scenario folder from a capture, with a pending snapshot.
    New(NewArgs),
    /// Make a capture as small as a condition over what is seen lets it.
    Minimize(super::minimize::MinimizeArgs),
    /// Join and show results of the kernel matrix.
    Report(super::report::ReportArgs),
    /// Say what this machine has, what it lacks, what that costs and how to get it.
    Doctor(DoctorArgs),
    /// Remove what a killed run left behind.
    Clean(CleanArgs),
    /// Kernels to run scenarios on: list, fetch, prune.
    Kernels(KernelsArgs),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// `bpflab replay`.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// The capture: pcap or pcapng; `-` reads standard input.
    pub capture: PathBuf,
    /// How packets meet the programs; by default the mode that answers most on this machine.
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// Play one end of each recorded conversation against the kernel's own sockets (live mode): which end the device
    /// under test is.
    #[arg(long, value_name = "dut=END", value_parser = parse_dut)]
    pub live: Option<Dut>,
    /// Pace on the wire: `1x` as captured, `10x`, packets a second (`5000`), or `top`; by default `top`, in live mode
    /// `1x`.
    #[arg(long, value_name = "SPEED")]
    pub speed: Option<Speed>,
    /// How long a packet waits for what it acknowledges in live mode, seconds.
    #[arg(long, value_name = "SECONDS", requires = "live")]
    pub deadline: Option<f64>,
    /// Let a real application answer in the place of recorded servers: `HOST:PORT`, or `RECORDED-PORT=HOST:PORT` for
    /// conversations with that port. HOST is a host of the topology, on its loopback, or an address or name that is
    /// reached from here.
    #[arg(long, value_name = "[PORT=]HOST:PORT", requires = "live")]
    pub forward: Vec<Forward>,
    /// What sends in wire mode: packet sockets, or the kernel's live frames. By itself it is the latter where frames have
    /// their times, and the former at top speed.
    #[arg(long, value_enum, default_value_t)]
    pub engine: EngineChoice,
    /// What packets meet.
    #[command(flatten)]
    pub through: ThroughArgs,
    /// How a member of a map or event is written and shown: `MAP.key.saddr=ipv4`; or `mac`, `be16`, `hex`, `drop`, ...
    #[arg(long, value_name = "MAP.PATH=FORMAT", requires = "object")]
    pub format: Vec<String>,
    /// Only the first packets, after the filter.
    #[arg(long, value_name = "PACKETS")]
    pub limit: Option<u64>,
    /// Impair links.
    #[arg(long, value_name = "HOST[.INTERFACE]:WHAT=HOW,...", help = super::impair::HELP)]
    pub impair: Vec<ImpairArg>,
    /// Clock of the analysis in wire mode: the capture's times, or the kernel's during the replay.
    #[arg(long, value_enum, default_value = "capture")]
    pub clock: ClockArg,
    /// Run again whenever the object file or its source changes, and print what changed in what was seen.
    #[arg(long, requires = "object", conflicts_with_all = ["json", "output"])]
    pub watch: bool,
    /// Count which code of the object is reached, and write a summary, the source with counts, an lcov tracefile and JSON
    /// into this folder.
    #[arg(long, value_name = "FOLDER", requires = "object")]
    pub coverage: Option<PathBuf>,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
    /// Write the answer to a file instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Rows per table of the report; 0 shows all.
    #[arg(long, default_value_t = 10)]
    pub rows: usize,
    /// Keep the frames as offered and as received, the record and any verifier log in this folder.
    #[arg(long, value_name = "FOLDER")]
    pub artefacts: Option<PathBuf>,
    /// Record what passes the device under test as pcapng, with what was seen as comments of the packets; in lockstep
    /// mode the packets as they are offered.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// No progress, no notes on standard error.
    #[arg(short, long)]
    pub quiet: bool,
}

/// What the packets of a capture meet, and which of them: the choices that `replay` and `minimize` share.
#[derive(Clone, Debug, clap::Args)]
pub struct ThroughArgs {
    /// Programs to load, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAMES")]
    pub programs: Vec<Family>,
    /// An object file under test; instead of the suite's programs, unless --programs names some. A C source is compiled.
    #[arg(long, value_name = "FILE")]
    pub object: Vec<PathBuf>,
    /// Where programs of the object go: `HOOK:PROGRAM`, `HOOK:PROGRAM@PLACE`; by default where their sections say.
    #[arg(long, value_name = "HOOK:PROGRAM[@PLACE]", requires = "object")]
    pub attach: Vec<AttachArg>,
    /// A global variable of the object: `NAME=VALUE`, the value as in JSON.
    #[arg(long, value_name = "NAME=VALUE", requires = "object")]
    pub global: Vec<String>,
    /// Entries of a map of the object: `MAP=ENTRIES`, a JSON table from key to value.
    #[arg(long, value_name = "MAP=ENTRIES", requires = "object")]
    pub map: Vec<String>,
    /// Only packets that match this pcap filter expression.
    #[arg(long, value_name = "EXPRESSION")]
    pub filter: Option<String>,
    /// Topology of wire mode: `bridge`, `router`, `host`, or a TOML file.
    #[arg(long, default_value = DEFAULT_TOPOLOGY, value_name = "NAME|FILE")]
    pub topology: String,
    /// Drop malformed packets at XDP.
    #[arg(long)]
    pub drop_malformed: bool,
    /// How the frames are treated before they are sent.
    #[command(flatten)]
    pub traffic: TrafficArgs,
}

/// Which scenarios may run.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct ExecutionArgs {
    /// Execute no applications: scenarios that have some are refused. `bpflab list` shows what a scenario executes.
    #[arg(long)]
    pub no_exec: bool,
}

/// `dut=server`, `dut=client`, or the end alone.
fn parse_dut(text: &str) -> Result<Dut, String> {
    let end = text.strip_prefix("dut=").unwrap_or(text);
    <Dut as clap::ValueEnum>::from_str(end, false).map_err(|_| "it is `dut=server` or `dut=client`".to_owned())
}

/// The analysis clocks of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ClockArg {
    /// The capture's time of each packet.
    Capture,
    /// The kernel's clock during the replay.
    Kernel,
}

impl From<ClockArg> for Clock {
    fn from(clock: ClockArg) -> Self {
        match clock {
            ClockArg::Capture => Self::Capture,
            ClockArg::Kernel => Self::Kernel,
        }
    }
}

/// Treatment of frames before they are sent.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TrafficArgs {
    /// Frames over the MTU.
    #[arg(long, value_enum, default_value_t)]
    pub oversize: Oversize,
    /// Frames that the capture cut (snap length).
    #[arg(long, value_enum, default_value_t)]
    pub truncated: Truncated,
    /// Wrong checksums.
    #[arg(long, value_enum, default_value_t)]
    pub checksums: Checksums,
    /// Largest IP packet, bytes.
    #[arg(long, default_value_t = 1500)]
    pub mtu: u32,
    /// Which end each packet enters: `auto`, `mac`, `endpoint`, or `client-nets=10.0.0.0/8,fd00::/8`.
    #[arg(long, default_value = "auto", value_name = "POLICY")]
    pub sides: SidesPolicy,
}

/// `bpflab run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Only the scenario of this name; else those whose name contains this, or matches it as a glob.
    pub pattern: Option<String>,
    /// Only this mode.
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// Folder of the scenarios.
    #[arg(long, default_value = SCENARIOS, value_name = "FOLDER")]
    pub scenarios: PathBuf,
    /// Write one record per run as JSON lines.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print only failures and the summary.
    #[arg(short, long)]
    pub quiet: bool,
    /// Count which code of objects under test is reached, and write a summary, the source with counts, an lcov tracefile
    /// and JSON into this folder.
    #[arg(long, value_name = "FOLDER", conflicts_with = "kernel")]
    pub coverage: Option<PathBuf>,
    /// Record what passes the device under test in one scenario, as pcapng with what was seen as comments of the packets;
    /// in lockstep mode the packets as they are offered.
    #[arg(long, value_name = "FILE", conflicts_with = "kernel")]
    pub record: Option<PathBuf>,
    /// Which scenarios may run.
    #[command(flatten)]
    pub execution: ExecutionArgs,
    /// Run again whenever a scenario changes, or the binary; in a checkout, build it when its sources change.
    #[arg(long)]
    pub watch: bool,
    /// Run on this kernel of the list instead of the running one, in a guest; may be repeated, `all` is the whole list.
    #[arg(short, long, value_name = "NAME")]
    pub kernel: Vec<String>,
    /// What guests are and how they run.
    #[command(flatten)]
    pub guests: GuestOptions,
}

/// `bpflab matrix`.
#[derive(Debug, clap::Args)]
pub struct MatrixArgs {
    /// Only the scenario of this name; else those whose name contains this, or matches it as a glob.
    pub pattern: Option<String>,
    /// Only this mode.
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// Only these kernels of the list; may be repeated.
    #[arg(short, long, value_name = "NAME")]
    pub kernel: Vec<String>,
    /// Folder of the scenarios.
    #[arg(long, default_value = SCENARIOS, value_name = "FOLDER")]
    pub scenarios: PathBuf,
    /// Which scenarios may run.
    #[command(flatten)]
    pub execution: ExecutionArgs,
    /// Run the tests of this test binary instead of scenarios; may be repeated.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["mode", "costs", "accept_costs"])]
    pub test_binary: Vec<PathBuf>,
    /// Everything behind it goes to the test binaries, e.g. `--include-ignored`.
    #[arg(long, value_name = "ARGUMENTS", requires = "test_binary", num_args = 1.., allow_hyphen_values = true)]
    pub test_args: Vec<OsString>,
    /// What test binaries bring along.
    #[command(flatten)]
    pub bring: BringArgs,
    /// What guests are and how they run.
    #[command(flatten)]
    pub guests: GuestOptions,
    /// The verifier's work.
    #[command(flatten)]
    pub costs: CostOptions,
    /// The files to write.
    #[command(flatten)]
    pub outputs: OutputArgs,
    /// What makes the command fail.
    #[command(flatten)]
    pub exit_on: ExitOn,
    /// One line for each family in which nothing failed.
    #[arg(long)]
    pub fold: bool,
    /// No progress on standard error.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Whether verifier cost is measured, and what it is held against.
#[derive(Debug, clap::Args)]
pub struct CostOptions {
    /// Measure what the suite's programs cost the verifier; done anyway where all scenarios run by `vng` and there are
    /// figures.
    #[arg(long)]
    pub costs: bool,
    /// Do not measure it.
    #[arg(long, conflicts_with_all = ["costs", "accept_costs"])]
    pub no_costs: bool,
    /// Measure it, and write it down as the figures of these kernels.
    #[arg(long)]
    pub accept_costs: bool,
    /// File of the committed figures.
    #[arg(long, default_value = COST_FIGURES, value_name = "FILE")]
    pub cost_figures: PathBuf,
}

/// How guests run.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Guests")]
pub struct GuestOptions {
    /// File that lists the kernels.
    #[arg(long, default_value = KERNELS, value_name = "FILE")]
    pub kernels: PathBuf,
    /// What runs the guests: by default `vng` for a matrix, `fast` for single kernels of `bpflab run`.
    #[arg(long, value_enum)]
    pub runner: Option<Runner>,
    /// Guests side by side; as many as there are processors if left out.
    #[arg(short, long, value_name = "NUMBER")]
    pub jobs: Option<NonZero<usize>>,
    /// Memory of each guest, MiB.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    pub memory: u32,
    /// Seconds that a guest may be silent, trials included.
    #[arg(long, default_value_t = 180, value_name = "SECONDS")]
    pub timeout: u64,
    /// Emulate, even where KVM works.
    #[arg(long)]
    pub no_kvm: bool,
    /// Debian mirror to fetch kernels from, instead of the one in this machine's apt sources.
    #[arg(long, env = "BPFLAB_MIRROR", value_name = "URL")]
    pub mirror: Option<String>,
    /// Make the first guest of each kernel suffer, to see what the lab makes of it.
    #[arg(long, value_enum, hide = true)]
    pub mishap: Option<Mishap>,
}

/// What a command brings into a guest.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Commands and tests in guests")]
pub struct BringArgs {
    /// Set a variable there, or hand on this machine's; may be repeated. Those of cargo and nextest are handed on anyway.
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// A file, a folder or a program that is needed there, too; may be repeated. Guests of `vng` see all files anyway.
    #[arg(long, value_name = "FILE")]
    pub with: Vec<PathBuf>,
    /// A folder of this machine that the guest may write to (`vng`); all that is written elsewhere is gone with it.
    #[arg(long, value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
}

/// `bpflab exec`.
#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// The kernel, by its name in the list.
    #[arg(short, long, value_name = "NAME")]
    pub kernel: String,
    /// What runs the guest.
    #[arg(long, value_enum, default_value_t = Runner::Vng)]
    pub runner: Runner,
    /// Seconds that the command may take; the guest's start is not counted.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    pub timeout: u64,
    /// Memory of the guest, MiB.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    pub memory: u32,
    /// Processors of the guest. Emulated ones do not run side by side.
    #[arg(long, default_value = "1", value_name = "NUMBER")]
    pub cpus: NonZero<u32>,
    /// What the command brings along.
    #[command(flatten)]
    pub bring: BringArgs,
    /// File that lists the kernels; without that file, the list that bpflab was built with.
    #[arg(long, default_value = KERNELS, env = "BPFLAB_KERNELS", value_name = "FILE")]
    pub kernels: PathBuf,
    /// Emulate, even where KVM works.
    #[arg(long)]
    pub no_kvm: bool,
    /// Debian mirror to fetch the kernel from, instead of the one in this machine's apt sources.
    #[arg(long, env = "BPFLAB_MIRROR", value_name = "URL")]
    pub mirror: Option<String>,
    /// Say nothing about a kernel that is fetched.
    #[arg(short, long)]
    pub quiet: bool,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `bpflab guest`.
#[derive(Debug, clap::Args)]
pub struct GuestArgs {
    /// The request.
    pub request: PathBuf,
    /// Where messages are appended.
    pub messages: PathBuf,
}

/// `HOOK:PROGRAM@PLACE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachArg(pub AttachSetup);

impl std::str::FromStr for AttachArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (hook, rest) = text.split_once(':').ok_or("it is written HOOK:PROGRAM or HOOK:PROGRAM@PLACE")?;
        let (program, at) = rest.split_once('@').map_or((rest, None), |(program, at)| (program, Some(at.to_owned())));
        if program.is_empty() {
            return Err("the program's name is missing".to_owned());
        }
        Ok(Self(AttachSetup { program: program.to_owned(), hook: Some(hook.parse()?), at, priority: 0 }))
    }
}

/// `bpflab inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// The object file.
    pub object: PathBuf,
    /// Read the file alone: make no map and load no program.
    #[arg(long)]
    pub no_load: bool,
    /// The library that makes the maps; by default libbpf, and aya for what libbpf does not take.
    #[arg(long, value_enum)]
    pub loader: Option<Loader>,
    /// Print the verifier's whole log of this program, if it is refused.
    #[arg(long, value_name = "PROGRAM")]
    pub log: Option<String>,
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `bpflab compare`.
#[derive(Debug, clap::Args)]
pub struct CompareArgs {
    /// Only the scenario of this name; else those whose name contains this, or matches it as a glob.
    pub pattern: Option<String>,
    /// Folder of the scenarios.
    #[arg(long, default_value = SCENARIOS, value_name = "FOLDER")]
    pub scenarios: PathBuf,
    /// Print as JSON, a line for each scenario.
    #[arg(long)]
    pub json: bool,
}

/// `bpflab list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Only the scenario of this name; else those whose name contains this, or matches it as a glob.
    pub pattern: Option<String>,
    /// Folder of the scenarios.
    #[arg(long, default_value = SCENARIOS, value_name = "FOLDER")]
    pub scenarios: PathBuf,
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `bpflab costs`.
#[derive(Debug, clap::Args)]
pub struct CostsArgs {
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `bpflab new`.
#[derive(Debug, clap::Args)]
pub struct NewArgs {
    /// `family/behaviour`: the folder below the scenarios, in lower case with dashes.
    pub name: String,
    /// The capture; copied into the folder.
    #[arg(long, value_name = "FILE")]
    pub pcap: PathBuf,
    /// Folder of the scenarios.
    #[arg(long, default_value = SCENARIOS, value_name = "FOLDER")]
    pub scenarios: PathBuf,
}

/// `bpflab doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `bpflab clean`.
#[derive(Debug, clap::Args)]
pub struct CleanArgs {
    /// Remove nothing; fail if there is something to remove.
    #[arg(long)]
    pub check: bool,
}

/// `bpflab kernels`.
#[derive(Debug, clap::Args)]
pub struct KernelsArgs {
    /// The list of kernels.
    #[arg(long, default_value = KERNELS, value_name = "FILE", global = true)]
    pub kernels: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: KernelsCommand,
}

/// What can be done with kernels.
#[derive(Debug, Subcommand)]
pub enum KernelsCommand {
    /// Say where each kernel comes from, and what the cache has of it.
    List {
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Get kernels into the cache; those that are there already are left alone.
    Fetch {
        /// Names of kernels; all of the list if none are given.
        names: Vec<String>,
        /// Mirror of Debian packages; by default the one that this machine's apt sources name.
        #[arg(long, env = "BPFLAB_MIRROR", value_name = "URL")]
        mirror: Option<String>,
        /// Look for newer packages than those in the cache.
        #[arg(long)]
        refresh: bool,
    },
    /// Remove kernels that the list does not mean any more, superseded ones, and leftovers.
    Prune {
        /// Remove everything.
        #[arg(long)]
        all: bool,
    },
}
