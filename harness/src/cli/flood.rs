//! `bpflab flood`: the highest rate.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::args::{AttachArg, DEFAULT_TOPOLOGY, TrafficArgs};
use super::display::Progress;
use super::{Exit, Failure, chain, replay};
use crate::capture;
use crate::run::{self, FloodDocument, FloodPlan, FloodTraffic};
use crate::scenario::spec::Programs;
use crate::subject::{AttachSetup, Setup};
use crate::suite::Family;
use crate::synth::Spec;
use crate::topology::TopologyChoice;
use crate::wire::{EngineChoice, FloodOptions, Repeat, SideCount};

/// How a flood is sent: shared with `bpflab synth --flood`.
#[derive(Debug, Default, clap::Args)]
pub struct RateArgs {
    /// Send it so many times, at the highest rate; by default once.
    #[arg(long = "loop", value_name = "TIMES", value_parser = clap::value_parser!(u64).range(1..))]
    pub times: Option<u64>,
    /// Send it over and over for so many seconds, at the highest rate.
    #[arg(long, conflicts_with = "times", value_name = "SECONDS")]
    pub seconds: Option<u32>,
    /// What sends at the highest rate; by default the fastest that fits.
    #[arg(long, value_enum)]
    pub engine: Option<EngineChoice>,
    /// Most MiB of frames in memory, by default 256; what is larger is read or made while it is sent.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(4..=16_384))]
    pub memory: Option<u64>,
}

impl RateArgs {
    /// An option that is given, by its name.
    pub fn given(&self) -> Option<&'static str> {
        let options = [
            ("--loop", self.times.is_some()),
            ("--seconds", self.seconds.is_some()),
            ("--engine", self.engine.is_some()),
            ("--memory", self.memory.is_some()),
        ];
        options.into_iter().find_map(|(name, given)| given.then_some(name))
    }

    fn options(&self) -> FloodOptions {
        let default = FloodOptions::default();
        let repeat = match (self.seconds, self.times) {
            (Some(seconds), _) => Repeat::For(Duration::from_secs(seconds.into())),
            (None, Some(times)) => Repeat::Times(times),
            (None, None) => default.repeat,
        };
        FloodOptions {
            engine: self.engine.unwrap_or(default.engine),
            repeat,
            most_bytes: self.memory.map_or(default.most_bytes, |mebibytes| mebibytes << 20),
            ..default
        }
    }
}

/// `bpflab flood`.
#[derive(Debug, clap::Args)]
pub struct FloodArgs {
    /// The capture: pcap or pcapng. For traffic of the catalogue there is `bpflab synth NAME --topology T --flood`.
    pub capture: PathBuf,
    /// How it is sent.
    #[command(flatten)]
    pub rate: RateArgs,
    /// Hosts and links: `bridge`, `router`, `host`, or a TOML file.
    #[arg(long, default_value = DEFAULT_TOPOLOGY, value_name = "NAME|FILE")]
    pub topology: String,
    /// Programs of the suite to load, separated by commas; by default none.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAMES")]
    pub programs: Vec<Family>,
    /// An object file under test.
    #[arg(long, value_name = "FILE")]
    pub object: Option<PathBuf>,
    /// Where programs of the object go: `HOOK:PROGRAM`, `HOOK:PROGRAM@PLACE`; by default where their sections say.
    #[arg(long, value_name = "HOOK:PROGRAM[@PLACE]", requires = "object")]
    pub attach: Vec<AttachArg>,
    /// Only packets that match this pcap filter expression.
    #[arg(long, value_name = "EXPRESSION")]
    pub filter: Option<String>,
    /// Only the first packets, after the filter.
    #[arg(long, value_name = "PACKETS")]
    pub limit: Option<u64>,
    /// How the frames are treated before they are sent.
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
    /// No progress on standard error.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Sends the capture and prints what was counted.
pub fn flood(args: &FloodArgs) -> Result<Exit, Failure> {
    let name = args.capture.to_string_lossy();
    if !args.capture.exists() && Spec::new(&name).entry().is_ok() {
        let message = format!(
            "there is no capture {name}; the catalogue's traffic of that name goes out by `bpflab synth {name} --topology {} \
             --flood`",
            args.topology
        );
        return Err(Failure { exit: Exit::Invalid, message });
    }
    let options = capture::Options {
        filter: args.filter.clone(),
        limit: args.limit,
        sides: args.traffic.sides.clone(),
        oversize: args.traffic.oversize,
        truncated: args.traffic.truncated,
        checksums: args.traffic.checksums,
        mtu: args.traffic.mtu,
    };
    let attach: Vec<AttachSetup> = args.attach.iter().map(|attach| attach.0.clone()).collect();
    let plan = FloodPlan {
        traffic: FloodTraffic::Capture { file: args.capture.clone(), options },
        programs: programs(&args.programs, args.object.as_slice(), &attach),
        topology: topology(&args.topology)?,
    };
    send(&plan, &args.rate, args.json, args.quiet)
}

/// Hosts and links by the name of a preset or file.
pub(super) fn topology(argument: &str) -> Result<TopologyChoice, Failure> {
    let topology = TopologyChoice::from_argument(argument).map_err(|error| Failure::invalid(&error))?;
    topology
        .validate()
        .map_err(|error| Failure { exit: Exit::Invalid, message: format!("topology {argument}: {}", chain(&error)) })?;
    Ok(topology)
}

/// Programs of the suite, and objects with where their programs go.
pub(super) fn programs(families: &[Family], objects: &[PathBuf], attach: &[AttachSetup]) -> Programs {
    let mut programs = Programs::of(families);
    let setup = |object: &PathBuf| Setup { object: object.clone(), attach: attach.to_vec(), ..Setup::default() };
    programs.objects = objects.iter().map(setup).collect();
    programs
}

/// Does what `plan` says and prints what was counted.
pub(super) fn send(plan: &FloodPlan, rate: &RateArgs, json: bool, quiet: bool) -> Result<Exit, Failure> {
    let stop = super::signals::stop_flag();
    let mut progress = Progress::new(quiet);
    let result = run::flood(plan, &rate.options(), stop, &mut |step| progress.step(&step));
    progress.finish();
    let document = result.map_err(|error| replay::failure(&error, None))?;
    let text = if json { document.to_json() } else { render(&document) };
    // A reader that went away (`| head`) is no failure.
    drop(std::io::stdout().write_all(text.as_bytes()));
    Ok(if document.lost == 0 { Exit::Passed } else { Exit::Failed })
}

/// The answer for people.
fn render(document: &FloodDocument) -> String {
    let FloodDocument { capture, kernel, .. } = document;
    let (what, obtained) = if document.synth.is_empty() { ("capture", "read") } else { ("traffic", "made") };
    let streamed = if document.streamed { format!(", {obtained} while it was sent") } else { String::new() };
    let mut text = format!(
        "{what}    {}: {} packets, {} bytes{streamed}\nkernel     {} {}\ntopology   {}\nengine     {}\n",
        capture.file,
        capture.packets,
        capture.bytes,
        kernel.release,
        kernel.machine,
        document.topology,
        document.engine
    );
    text += &format!(
        "rate       {:.0} packets/s, {:.3} Gbit/s, for {:.3} s\n\nside       {:>14} {:>14} {:>14}\n",
        document.rate_pps,
        document.sent_bps / 1e9,
        document.elapsed_s,
        "sent",
        "seen by XDP",
        "arrived here"
    );
    for (name, side) in [("client", document.client), ("server", document.server)] {
        let SideCount { sent, taken_in, arrived, .. } = side;
        text += &format!("{name:<10} {sent:>14} {taken_in:>14} {arrived:>14}\n");
    }
    let verdict =
        if document.lost == 0 { "every frame was seen".to_owned() } else { format!("LOST {}", document.lost) };
    text += &format!("\ncounted at both ends, not packet by packet: {verdict}\n");
    if document.interrupted {
        text += "interrupted: the numbers cover what was sent\n";
    }
    for note in &document.notes {
        text += &format!("note: {note}\n");
    }
    text
}
