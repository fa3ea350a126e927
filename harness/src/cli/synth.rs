//! `bpflab synth`: traffic of the catalogue into a file, onto a topology, or through it at the highest rate.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use clap::{Parser as _, ValueEnum as _};
use console::Style;

use super::args::{Args, Command, DEFAULT_TOPOLOGY, ReplayArgs};
use super::display::Counter;
use super::flood::{self, RateArgs};
use super::{Exit, Failure, replay};
use crate::run::{FloodPlan, FloodTraffic};
use crate::scenario::Mode;
use crate::suite::Family as Program;
use crate::synth::{self, Checksums, Entry, Family, Hosts, IpVersions, Place, Shape, Spec, Value, Written};
use crate::topology::DEFAULT_MTU;
use crate::wire::Speed;

/// Version of the JSON documents.
const VERSION: u32 = 1;
/// Traffic that lasts longer than this is announced before it is sent, s.
const LONG_S: f64 = 10.0;
/// A rate is reached if this part of it is.
const REACHED: f64 = 0.95;

/// `bpflab synth`.
#[derive(Debug, clap::Args)]
pub struct SynthArgs {
    /// Name of the traffic in the catalogue.
    #[arg(required_unless_present = "list")]
    pub name: Option<String>,
    /// List the catalogue: names, what they imitate, parameters with units and defaults.
    #[arg(long, conflicts_with_all = ["name", "describe", "write", "topology"])]
    pub list: bool,
    /// Say all about this traffic: what it imitates, by which source, and its parameters.
    #[arg(long, conflicts_with_all = ["write", "topology"])]
    pub describe: bool,
    /// Write a pcapng file.
    #[arg(short, long, value_name = "FILE", conflicts_with = "topology")]
    pub write: Option<PathBuf>,
    /// Send it through this topology and print what was seen: `bridge`, `router`, `host`, or a TOML file. With --write, the
    /// addresses are those of the preset `bridge`.
    #[arg(long, value_name = "NAME|FILE")]
    pub topology: Option<String>,
    /// Send it at the highest rate and count at both ends, with --topology: its own rate and shape decide the frames and their
    /// order, not when they go.
    #[arg(long, requires = "topology", conflicts_with_all = ["write", "with", "mode", "speed", "artefacts", "rows"])]
    pub flood: bool,
    /// A parameter: `NAME=VALUE`.
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Units a second: what a unit is, --describe says.
    #[arg(long, value_name = "NUMBER")]
    pub rate: Option<f64>,
    /// How units are spread: `constant`, `poisson`, `ramp=FROM..TO` (units a second), `microburst=SIZE@GAP` (`32@5us`).
    #[arg(long, default_value = "constant")]
    pub shape: Shape,
    /// How many units.
    #[arg(long, value_name = "UNITS", conflicts_with = "duration")]
    pub count: Option<u64>,
    /// For how long units begin.
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<f64>,
    /// The same seed gives the same bytes.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Version of IP.
    #[arg(long, value_enum)]
    pub ip: Option<IpVersions>,
    /// Where it comes from: addresses, networks to spoof (`198.18.0.0/15`), hosts of the topology.
    #[arg(long, value_delimiter = ',', value_name = "PLACES")]
    pub source: Vec<Place>,
    /// Where it goes to: addresses, networks, hosts of the topology.
    #[arg(long, value_delimiter = ',', value_name = "PLACES")]
    pub target: Vec<Place>,
    /// Right or wrong checksums.
    #[arg(long, value_enum, default_value = "valid")]
    pub checksums: Checksums,
    /// Of conversations only the frames of the end that starts them.
    #[arg(long)]
    pub one_sided: bool,
    /// A capture underneath, at whose first packet the traffic begins.
    #[arg(long, value_name = "CAPTURE")]
    pub with: Option<PathBuf>,
    /// How packets meet the programs, with --topology.
    #[arg(long, value_enum, requires = "topology")]
    pub mode: Option<Mode>,
    /// Pace on the wire, with --topology: `1x` as declared, `10x`, packets a second, or `top`.
    #[arg(long, default_value = "1x", value_name = "SPEED")]
    pub speed: String,
    /// Programs to load, with --topology, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAMES", requires = "topology")]
    pub programs: Vec<Program>,
    /// An object file under test, with --topology.
    #[arg(long, value_name = "FILE", requires = "topology")]
    pub object: Vec<PathBuf>,
    /// Keep frames, record and logs in this folder, with --topology.
    #[arg(long, value_name = "FOLDER", requires = "topology")]
    pub artefacts: Option<PathBuf>,
    /// Rows per table of the report, with --topology; 0 shows all.
    #[arg(long, default_value_t = 10)]
    pub rows: usize,
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
    /// No progress, no notes on standard error.
    #[arg(short, long)]
    pub quiet: bool,
    /// How it is sent, with --flood.
    #[command(flatten, next_help_heading = "With --flood")]
    pub flooding: RateArgs,
}

/// Lists, describes, writes or sends.
pub fn synth(args: &SynthArgs) -> Result<Exit, Failure> {
    if args.list {
        list(args.json);
        return Ok(Exit::Passed);
    }
    let spec = spec(args)?;
    let entry = spec.entry().map_err(|error| Failure::invalid(&error))?;
    if args.describe {
        describe(entry, args.json);
        return Ok(Exit::Passed);
    }
    if let Some(option) = args.flooding.given().filter(|_| !args.flood) {
        return Err(invalid(format!("{option} goes with --flood, which sends at the highest rate")));
    }
    match (&args.write, &args.topology) {
        (None, Some(topology)) if args.flood => flood(args, entry, spec, topology),
        (Some(path), _) => to_file(args, entry, &spec, path),
        (None, Some(topology)) => onto(args, entry, &spec, topology),
        (None, None) => Err(invalid(format!(
            "{} goes nowhere: -w FILE writes it, --topology {DEFAULT_TOPOLOGY} sends it, --describe says what it is",
            entry.name
        ))),
    }
}

fn invalid(message: String) -> Failure {
    Failure { exit: Exit::Invalid, message }
}

fn spec(args: &SynthArgs) -> Result<Spec, Failure> {
    let mut params = BTreeMap::new();
    for text in &args.set {
        let (name, value) =
            text.split_once('=').ok_or_else(|| invalid(format!("--set {text}: it is written NAME=VALUE")))?;
        params.insert(name.to_owned(), Value::from(value));
    }
    Ok(Spec {
        seed: args.seed,
        ip: args.ip,
        params,
        rate: args.rate,
        shape: args.shape,
        count: args.count,
        duration_s: args.duration,
        sources: args.source.clone(),
        targets: args.target.clone(),
        checksums: args.checksums,
        one_sided: args.one_sided,
        ..Spec::new(args.name.as_deref().unwrap_or_default())
    })
}

/// `name=default unit`, for each parameter.
fn parameters(entry: &Entry) -> String {
    let one = |parameter: &synth::Parameter| match parameter.unit {
        "" => format!("{}={}", parameter.name, parameter.default),
        unit => format!("{}={} {unit}", parameter.name, parameter.default),
    };
    entry.parameters.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn list(json: bool) {
    if json {
        let entries: Vec<serde_json::Value> = synth::catalogue().map(value).collect();
        println!("{:#}", serde_json::json!({ "version": VERSION, "entries": entries }));
        return;
    }
    let width = synth::catalogue().map(|entry| entry.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for family in Family::ALL {
        out += &format!("{}\n", Style::new().bold().apply_to(family.title()));
        for entry in synth::catalogue().filter(|entry| entry.family == family) {
            out += &format!("  {:<width$}  {}\n", entry.name, entry.what);
            if !entry.parameters.is_empty() {
                let parameters = Style::new().dim().apply_to(parameters(entry));
                out += &format!("  {:<width$}  {parameters}\n", "");
            }
        }
    }
    // A reader that went away (`| head`) is no failure.
    let _ = std::io::stdout().write_all(out.as_bytes());
}

/// An entry as JSON, with its default count.
fn value(entry: &Entry) -> serde_json::Value {
    // Made of strings, numbers and lists.
    let mut value = serde_json::to_value(entry).unwrap_or_default();
    value["count"] = entry.default_count().unwrap_or_default().into();
    value
}

fn describe(entry: &Entry, json: bool) {
    if json {
        println!("{:#}", serde_json::json!({ "version": VERSION, "entry": value(entry) }));
        return;
    }
    let versions = match entry.ip {
        synth::Ip::Any => "IPv4 and IPv6".to_owned(),
        synth::Ip::Only4(why) => format!("IPv4 alone: {why}"),
        synth::Ip::Only6(why) => format!("IPv6 alone: {why}"),
    };
    let sides = if entry.two_sided { "both ends of each conversation" } else { "what the sender sends" };
    let sources = if entry.spoofs { "taken from 198.18.0.0/15 and 2001:db8::/32" } else { "the client's own" };
    println!("{}: {}", entry.name, entry.what);
    println!("source    {}", entry.source);
    println!("IP        {versions}");
    println!("sides     {sides}");
    println!("senders   {sources}, unless --source names others");
    println!("units     {}: {} at {} a second", entry.unit, entry.default_count().unwrap_or_default(), entry.rate);
    for parameter in entry.parameters {
        println!("{}={}", parameter.name, parameter.default);
        let unit = if parameter.unit.is_empty() { String::new() } else { format!(" {}", parameter.unit) };
        println!("          {}; {}{unit}", parameter.meaning, parameter.kind);
    }
}

/// Makes the traffic and says how fast that was.
fn write(args: &SynthArgs, spec: &Spec, hosts: &Hosts, path: &Path) -> Result<(Written, f64), Failure> {
    let stop = super::signals::stop_flag();
    let mut counter = Counter::new(args.quiet, "packets");
    let start = Instant::now();
    let specs = std::slice::from_ref(spec);
    let result = synth::write(specs, hosts, args.with.as_deref(), path, &mut |frames| {
        counter.show(frames);
        !stop.load(Ordering::Relaxed)
    });
    counter.finish();
    let written = result.map_err(|error| Failure::invalid(&error))?;
    Ok((written, start.elapsed().as_secs_f64()))
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn to_file(args: &SynthArgs, entry: &Entry, spec: &Spec, path: &Path) -> Result<Exit, Failure> {
    let (written, seconds) = write(args, spec, &Hosts::default(), path)?;
    let lasts = (written.last_ns - written.first_ns) as f64 / 1e9;
    let rate = written.frames as f64 / seconds.max(1e-9);
    if args.json {
        let document = serde_json::json!({
            "version": VERSION,
            "file": path,
            "spec": spec,
            "packets": written.frames,
            "bytes": written.bytes,
            "duration_s": lasts,
            "made_in_s": seconds,
            "packets_per_second": rate,
            "interrupted": written.interrupted,
        });
        println!("{document:#}");
    } else {
        let cut = if written.interrupted { ", interrupted" } else { "" };
        println!(
            "{}: {} packets of {}, {} bytes, {lasts:.3} s of traffic; made in {seconds:.3} s, {rate:.0} packets/s{cut}",
            path.display(),
            written.frames,
            entry.name,
            written.bytes,
        );
    }
    Ok(if written.interrupted { Exit::Failed } else { Exit::Passed })
}

/// Sends the traffic through a topology at the highest rate.
fn flood(args: &SynthArgs, entry: &Entry, spec: Spec, topology: &str) -> Result<Exit, Failure> {
    let topology = flood::topology(topology)?;
    let hosts = Hosts::from(&topology.resolve(&[], &[], DEFAULT_MTU));
    if spec.frames_among(&hosts).map_err(|error| Failure::invalid(&error))?.next().is_none() {
        return Err(nothing(entry));
    }
    let programs = flood::programs(&args.programs, &args.object, &[]);
    let plan = FloodPlan { traffic: FloodTraffic::Synth(vec![spec]), programs, topology };
    flood::send(&plan, &args.flooding, args.json, args.quiet)
}

fn nothing(entry: &Entry) -> Failure {
    invalid(format!("{}: there is nothing to send", entry.name))
}

/// Sends the traffic through a topology, as a replay of what was written to a temporary file.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn onto(args: &SynthArgs, entry: &Entry, spec: &Spec, topology: &str) -> Result<Exit, Failure> {
    let hosts = Hosts::from(&flood::topology(topology)?.resolve(&[], &[], DEFAULT_MTU));
    let folder = tempfile::tempdir().map_err(|error| Failure::unavailable(&error))?;
    let file = folder.path().join(format!("{}.pcapng", entry.name));
    let (written, _) = write(args, spec, &hosts, &file)?;
    if written.frames == 0 {
        return Err(nothing(entry));
    }
    let lasts = (written.last_ns - written.first_ns) as f64 / 1e9;
    if lasts > LONG_S && args.speed == "1x" && args.mode != Some(Mode::Lockstep) && !args.quiet {
        eprintln!("sending lasts {lasts:.0} s as declared; --speed 100x or --speed top makes it shorter");
    }
    let replay = replay_args(args, topology, &file)?;
    let named = |message: String| message.replace(&file.display().to_string(), entry.name);
    let mut document =
        replay::once(&replay).map_err(|failure| Failure { message: named(failure.message), ..failure })?;
    document.capture.file = match &args.with {
        Some(capture) => format!("{} over {}", entry.name, capture.display()),
        None => entry.name.to_owned(),
    };
    if let Some(pacing) = &document.pacing
        && let Some(asked) = asked(replay.speed.unwrap_or_default(), written.frames, lasts)
        && pacing.rate_pps < REACHED * asked
    {
        let note = format!("{asked:.0} packets/s were asked for, {:.0} were reached", pacing.rate_pps);
        document.notes.push(note);
    }
    replay::show(&replay, &document)
}

/// Packets a second that a replay at `speed` should reach: `frames` frames that span `lasts` seconds as declared.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn asked(speed: Speed, frames: u64, lasts: f64) -> Option<f64> {
    match speed {
        Speed::Top => None,
        Speed::Rate(rate) => Some(rate),
        Speed::Scaled(factor) => (lasts > 0.0).then(|| frames.saturating_sub(1) as f64 / lasts * factor),
    }
}

/// The replay that `args` mean, read as its own command line: it has the last word on what fits together.
fn replay_args(args: &SynthArgs, topology: &str, file: &Path) -> Result<ReplayArgs, Failure> {
    let mut line: Vec<std::ffi::OsString> = ["bpflab", "replay", "--topology", topology].map(Into::into).into();
    line.push(file.into());
    let mut option = |name: &str, value: std::ffi::OsString| line.extend([name.into(), value]);
    if args.mode != Some(Mode::Lockstep) {
        option("--speed", args.speed.clone().into());
    }
    // Sources may be anyone's: which end a packet enters, its MAC addresses say.
    if args.with.is_none() {
        option("--sides", "mac".into());
    }
    option("--rows", args.rows.to_string().into());
    if let Some(mode) = args.mode {
        option("--mode", mode.to_string().into());
    }
    for program in &args.programs {
        let name = program.to_possible_value().map(|value| value.get_name().to_owned());
        option("--programs", name.unwrap_or_default().into());
    }
    for object in &args.object {
        option("--object", object.into());
    }
    if let Some(folder) = &args.artefacts {
        option("--artefacts", folder.into());
    }
    line.extend(
        [(args.json, "--json"), (args.quiet, "--quiet")].into_iter().filter(|one| one.0).map(|one| one.1.into()),
    );
    match Args::try_parse_from(line).map_err(|error| invalid(error.to_string()))?.command {
        Command::Replay(replay) => Ok(replay),
        _ => Err(invalid("a replay is not what was asked for".to_owned())),
    }
}
