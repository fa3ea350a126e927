//! The `bpflab` command: arguments in, exit code out. Every command is a thin layer over the library, and a consumer
//! of its steps.

mod args;
mod clean;
mod compare;
mod costs;
mod coverage;
mod display;
mod doctor;
mod exec;
mod exec_hint;
mod flood;
mod guest;
mod guests;
mod impair;
mod import;
mod inspect;
mod kernels;
mod matrix;
mod minimize;
mod new;
mod record;
mod replay;
pub mod report;
mod run;
mod signals;
mod synth;
mod test_binaries;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

pub use crate::error::chain;
pub use args::{Args, Command};
pub use kernels::KernelProgress;
pub use run::RUNS;

/// The exit codes, an interface of their own: scripts may rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything passed.
    Passed = 0,
    /// A scenario failed, or a packet is unaccounted for.
    Failed = 1,
    /// Wrong usage or invalid input.
    Invalid = 2,
    /// Nothing was selected.
    Nothing = 4,
    /// The lab could not run here: no root, no BTF, ...; `EX_UNAVAILABLE` of sysexits.h.
    Unavailable = 69,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command's failure: what to print and how to exit.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// The whole message, causes included.
    pub message: String,
}

impl Failure {
    /// Invalid usage or input, with the chain of causes.
    pub fn invalid(error: &dyn std::error::Error) -> Self {
        Self { exit: Exit::Invalid, message: chain(error) }
    }

    /// The lab cannot run, with the chain of causes.
    pub fn unavailable(error: &dyn std::error::Error) -> Self {
        Self { exit: Exit::Unavailable, message: chain(error) }
    }
}

/// Parses the command line and runs the command.
#[must_use]
pub fn main() -> ExitCode {
    // A guest's processor may be emulated, and to set up all that people can say takes it a tenth of a second.
    if let [_, command, request, messages] = &std::env::args_os().collect::<Vec<_>>()[..]
        && command == "guest"
    {
        let args = args::GuestArgs { request: request.into(), messages: messages.into() };
        return end(guest::guest(&args));
    }
    let args = Args::parse();
    console::set_colors_enabled(console::colors_enabled() && console::user_attended());
    let result = match args.command {
        Command::Replay(args) => replay::replay(&args),
        Command::Flood(args) => flood::flood(&args),
        Command::Run(args) => run::run(&args),
        Command::Matrix(args) => matrix::matrix(&args),
        // Its exit code is the command's own.
        Command::Exec(args) => return exec::exec(&args).unwrap_or_else(|failure| end(Err(failure))),
        Command::Guest(args) => guest::guest(&args),
        Command::Compare(args) => compare::compare(&args),
        Command::Costs(args) => costs::print(&args),
        Command::Import(args) => import::import(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::List(args) => run::list(&args),
        Command::Record(args) => record::record(&args),
        Command::Minimize(args) => minimize::minimize(&args),
        Command::New(args) => new::new(&args),
        Command::Report(args) => report::report(&args),
        Command::Doctor(args) => Ok(doctor::doctor(&args)),
        Command::Clean(args) => clean::clean(&args),
        Command::Kernels(args) => kernels::kernels(&args),
        Command::Synth(args) => synth::synth(&args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "bpflab", &mut std::io::stdout());
            Ok(Exit::Passed)
        }
    };
    end(result)
}

fn end(result: Result<Exit, Failure>) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            // Parsers' messages bring a line end of their own.
            eprintln!("bpflab: {}", failure.message.trim_end());
            failure.exit.into()
        }
    }
}
