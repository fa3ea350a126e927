//! `bpflab import`: from a capture to one that may be committed.

use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::{Exit, Failure};
use crate::import::anonymise::{Key, Macs, Payload, Policy, Replace};
use crate::import::{self, FlowSpec, ImportError, Moment, Plan, Progress, Selection, Split};

/// `bpflab import`.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// The capture: pcap or pcapng, gzip-compressed or not.
    pub capture: PathBuf,
    /// The pcapng file to write; by default the capture's name with `-imported`, in the working directory. Beside it
    /// comes a table of provenance, to paste into a scenario.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Only packets that match this pcap filter expression.
    #[arg(long, value_name = "EXPRESSION", help_heading = "Which packets")]
    pub filter: Option<String>,
    /// No packet before: `+1.5s` from the first packet, `2026-11-23T10:00:00Z`, or seconds since 1970.
    #[arg(long, value_name = "TIME", help_heading = "Which packets")]
    pub from: Option<Moment>,
    /// No packet after, likewise.
    #[arg(long, value_name = "TIME", help_heading = "Which packets")]
    pub to: Option<Moment>,
    /// Only this flow, both directions, and ICMP errors about it: `10.0.0.1:40000-10.0.0.2:80`, a port may be `*`.
    #[arg(long, value_name = "A:PORT-B:PORT", help_heading = "Which packets")]
    pub flow: Vec<FlowSpec>,
    /// Only the first packets of those.
    #[arg(long, value_name = "PACKETS", help_heading = "Which packets")]
    pub limit: Option<u64>,
    /// Several files: one per flow, of so many seconds, or of so many bytes.
    #[arg(long, value_name = "flow|time=SECONDS|size=BYTES", default_value = "none", value_parser = split, hide_default_value = true, help_heading = "Which packets")]
    pub split: Split,
    /// Select and convert only; addresses, names and payload stay as they are.
    #[arg(long, conflicts_with_all = ["policy", "payload", "macs", "addresses", "names", "http", "keep_header", "no_tld", "seed", "key_file", "keep_key"], help_heading = "What is replaced")]
    pub no_anonymise: bool,
    /// A TOML file that says what is replaced; options given beside it count more.
    #[arg(long, value_name = "FILE", help_heading = "What is replaced")]
    pub policy: Option<PathBuf>,
    /// Payload that is not read; zeros if nothing is said.
    #[arg(long, value_enum, help_heading = "What is replaced")]
    pub payload: Option<Payload>,
    /// MAC addresses; replaced if nothing is said.
    #[arg(long, value_enum, help_heading = "What is replaced")]
    pub macs: Option<Macs>,
    /// IP addresses; replaced if nothing is said.
    #[arg(long, value_enum, help_heading = "What is replaced")]
    pub addresses: Option<Replace>,
    /// Names in DNS, HTTP and TLS; replaced if nothing is said.
    #[arg(long, value_enum, help_heading = "What is replaced")]
    pub names: Option<Replace>,
    /// HTTP targets and header values; replaced if nothing is said.
    #[arg(long, value_enum, help_heading = "What is replaced")]
    pub http: Option<Replace>,
    /// An HTTP header whose value stays (`user-agent`).
    #[arg(long, value_name = "NAME", help_heading = "What is replaced")]
    pub keep_header: Vec<String>,
    /// Replace top-level domains, too.
    #[arg(long, help_heading = "What is replaced")]
    pub no_tld: bool,
    /// Chooses among the random bytes of one key.
    #[arg(long, value_name = "NUMBER", help_heading = "What is replaced")]
    pub seed: Option<u64>,
    /// The key: 32 bytes or 64 hexadecimal digits. Captures of one key agree in their replacements. Without it a key is
    /// made and forgotten.
    #[arg(long, value_name = "FILE", help_heading = "What is replaced")]
    pub key_file: Option<PathBuf>,
    /// Write the key that is made to this file, which must not exist. Who has it can undo the addresses.
    #[arg(long, value_name = "FILE", conflicts_with = "key_file", help_heading = "What is replaced")]
    pub keep_key: Option<PathBuf>,
    /// Where and how the capture was taken, for its provenance.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub origin: String,
    /// Terms under which it may be shared, for its provenance.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub licence: String,
    /// Replace files that exist.
    #[arg(long)]
    pub force: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
    /// No progress.
    #[arg(short, long)]
    pub quiet: bool,
}

fn split(text: &str) -> Result<Split, String> {
    if text == "none" { Ok(Split::None) } else { text.parse() }
}

/// Imports the capture and prints the report.
pub fn import(args: &ImportArgs) -> Result<Exit, Failure> {
    let policy = policy(args)?;
    let key = match &args.key_file {
        Some(path) => Key::read(path),
        None => Key::generate(),
    };
    let key = key.map_err(|error| Failure::invalid(&error))?;
    let plan = Plan {
        input: args.capture.clone(),
        output: args.output.clone().unwrap_or_else(|| default_output(&args.capture)),
        selection: Selection {
            filter: args.filter.clone(),
            from: args.from,
            to: args.to,
            flows: args.flow.clone(),
            limit: args.limit,
        },
        split: args.split,
        anonymise: (!args.no_anonymise).then(|| (key.clone(), policy)),
        force: args.force,
        origin: args.origin.clone(),
        licence: args.licence.clone(),
    };
    // Before the import: a key that cannot be kept is no use afterwards.
    if let Some(path) = &args.keep_key {
        keep(path, &key)?;
    }
    let mut display = Display::new(args.quiet);
    let result = import::import(&plan, super::signals::stop_flag(), &mut |progress| display.take(progress));
    display.finish();
    let report = result.map_err(|error| {
        if let Some(path) = &args.keep_key {
            let _ = std::fs::remove_file(path);
        }
        failure(&error)
    })?;
    print!("{}", if args.json { report.to_json() } else { report.to_text() });
    Ok(Exit::Passed)
}

fn failure(error: &ImportError) -> Failure {
    let mut failure = Failure::invalid(error);
    match error {
        ImportError::Nothing { .. } => failure.exit = Exit::Nothing,
        ImportError::Exists { .. } => failure.message += "; --force replaces it",
        ImportError::Interrupted => failure.exit = Exit::Failed,
        _ => {}
    }
    failure
}

fn default_output(capture: &Path) -> PathBuf {
    let name = capture.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    PathBuf::from(format!("{stem}-imported.pcapng"))
}

fn policy(args: &ImportArgs) -> Result<Policy, Failure> {
    let mut policy = Policy::default();
    if let Some(path) = &args.policy {
        let invalid = |message: String| Failure {
            exit: Exit::Invalid,
            message: format!("policy {}: {}", path.display(), message.trim_end()),
        };
        let text = std::fs::read_to_string(path).map_err(|error| invalid(error.to_string()))?;
        policy = text.parse().map_err(|error: toml::de::Error| invalid(error.to_string()))?;
    }
    policy.payload = args.payload.unwrap_or(policy.payload);
    policy.macs = args.macs.unwrap_or(policy.macs);
    policy.addresses = args.addresses.unwrap_or(policy.addresses);
    policy.names = args.names.unwrap_or(policy.names);
    policy.http = args.http.unwrap_or(policy.http);
    policy.seed = args.seed.unwrap_or(policy.seed);
    policy.keep_tld &= !args.no_tld;
    policy.keep_headers.extend(args.keep_header.iter().map(|name| name.to_ascii_lowercase()));
    Ok(policy)
}

/// Writes the key to a new file that only its owner can read.
fn keep(path: &Path, key: &Key) -> Result<(), Failure> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| writeln!(file, "{}", key.to_hex()));
    written.map_err(|error| Failure {
        exit: Exit::Invalid,
        message: format!("cannot keep the key in {}: {error}", path.display()),
    })
}

/// A bar on a terminal, a line every five seconds otherwise.
struct Display {
    bar: Option<ProgressBar>,
    quiet: bool,
    last: Instant,
}

impl Display {
    fn new(quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(0);
            // The template is a constant; should it ever be wrong, the default style serves.
            match ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {eta}") {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Self { bar, quiet, last: Instant::now() }
    }

    fn take(&mut self, progress: Progress) {
        let Progress { reading, readings, done, of } = progress;
        if let Some(bar) = &self.bar {
            bar.set_message(format!("reading {reading} of {readings}"));
            bar.set_length(of);
            bar.set_position(done);
        } else if !self.quiet && self.last.elapsed() >= Duration::from_secs(5) {
            self.last = Instant::now();
            eprintln!("reading {reading} of {readings}: {done} of {of} bytes");
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
