//! `bpflab record`: a command's traffic, with what was seen of it.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;

use super::display::Progress;
use super::impair::ImpairArg;
use super::{Exit, Failure, chain, replay, signals};
use crate::apps::{AppRole, AppSpec};
use crate::pool::Pool;
use crate::report::terminal::{self, Layout};
use crate::run::{self, AppsPlan};
use crate::scenario::spec::Programs;
use crate::suite::Family;
use crate::topology::TopologyChoice;

/// `bpflab record`.
#[derive(Debug, clap::Args)]
pub struct RecordArgs {
    /// Topology: `router`, `bridge`, `host`, or a TOML file.
    #[arg(long, default_value = "router", value_name = "NAME|FILE")]
    pub topology: String,
    /// Impair links.
    #[arg(long, value_name = "HOST[.INTERFACE]:WHAT=HOW,...", help = super::impair::HELP)]
    pub impair: Vec<ImpairArg>,
    /// The host that the command runs on.
    #[arg(long = "in", default_value = "client", value_name = "HOST")]
    pub host: String,
    /// A server on a host, `HOST:PORT:COMMAND` with words apart by spaces, which is waited for until it listens on the
    /// TCP port; may be repeated. `{host.NAME}` is a host's address.
    #[arg(long, value_name = "HOST:PORT:COMMAND")]
    pub server: Vec<ServerArg>,
    /// Programs to load, separated by commas; those that a replay has by default if left out.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAMES")]
    pub programs: Vec<Family>,
    /// The recording: pcapng, an interface for each link of the device under test, with what was seen as comments.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Seconds that the command may take, 1 to 3600.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub timeout: u32,
    /// Print what was seen as JSON instead of a report.
    #[arg(long)]
    pub json: bool,
    /// No progress, no report.
    #[arg(short, long)]
    pub quiet: bool,
    /// The command and its arguments; `{host.NAME}` and `{host6.NAME}` are hosts' addresses.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `HOST:PORT:COMMAND`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerArg {
    host: String,
    port: u16,
    command: Vec<String>,
}

impl std::str::FromStr for ServerArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "it is written HOST:PORT:COMMAND, as in 'server:8000:python3 -m http.server 8000'".to_owned();
        let (host, rest) = text.split_once(':').ok_or_else(wrong)?;
        let (port, command) = rest.split_once(':').ok_or_else(wrong)?;
        let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        if host.is_empty() || command.is_empty() {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port: port.parse().map_err(|_| wrong())?, command })
    }
}

/// Runs the command, prints what it wrote and what was seen; fails if the command does.
pub fn record(args: &RecordArgs) -> Result<Exit, Failure> {
    let plan_folder = tempfile::tempdir().map_err(|error| Failure::unavailable(&error))?;
    let mut topology = TopologyChoice::from_argument(&args.topology).map_err(|error| Failure::invalid(&error))?;
    topology.impair.extend(args.impair.iter().map(|arg| (arg.place.clone(), arg.impairment.clone())));
    topology.validate().map_err(|error| Failure {
        exit: Exit::Invalid,
        message: format!("topology {}: {}", args.topology, chain(&error)),
    })?;
    let plan = AppsPlan {
        apps: apps(args)?,
        programs: if args.programs.is_empty() { Programs::default() } else { Programs::of(&args.programs) },
        topology,
        artefacts: plan_folder.path().to_owned(),
        record: Some(args.output.clone()),
    };
    let mut progress = Progress::new(args.quiet);
    let result = run::run_apps(&Pool::default(), &plan, signals::stop_flag(), &mut |step| progress.step(&step));
    progress.finish();
    let document = result.map_err(|error| replay::failure(&error, None))?;
    let mut out = std::io::stdout();
    for (kind, to) in [("out", &mut out as &mut dyn std::io::Write), ("err", &mut std::io::stderr())] {
        // What a command did not write is not there; a reader that went away is no failure.
        let text = std::fs::read(plan_folder.path().join("apps").join(format!("{COMMAND}.{kind}"))).unwrap_or_default();
        drop(to.write_all(&text));
    }
    if args.json {
        drop(out.write_all(document.to_json().as_bytes()));
    } else if !args.quiet {
        let text = terminal::render(&document, Layout { colours: console::colors_enabled(), rows: 10 });
        drop(out.write_all(text.as_bytes()));
        println!("\nrecording  {}", args.output.display());
    }
    let failed = document.apps.iter().any(|app| app.problem.is_some());
    Ok(if failed { Exit::Failed } else { Exit::Passed })
}

/// Name of the command among the applications.
const COMMAND: &str = "command";

fn apps(args: &RecordArgs) -> Result<Vec<AppSpec>, Failure> {
    let text = |word: &OsString| {
        word.to_str().map(str::to_owned).ok_or_else(|| Failure {
            exit: Exit::Invalid,
            message: format!("the command has a word that is no UTF-8: {}", word.display()),
        })
    };
    let servers = args.server.iter().enumerate().map(|(number, server)| AppSpec {
        name: format!("server-{}", number + 1),
        host: server.host.clone(),
        role: AppRole::Server,
        command: server.command.clone(),
        ready: crate::apps::Ready { port: Some(server.port), ..crate::apps::Ready::default() },
        timeout_s: args.timeout,
        ..AppSpec::default()
    });
    let command = AppSpec {
        name: COMMAND.to_owned(),
        host: args.host.clone(),
        command: args.command.iter().map(text).collect::<Result<_, _>>()?,
        timeout_s: args.timeout,
        ..AppSpec::default()
    };
    Ok(servers.chain([command]).collect())
}
