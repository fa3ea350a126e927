//! `bpflab flood`: the highest rate.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::args::{AttachArg, DEFAULT_TOPOLOGY, TrafficArgs};
use super::display::Progress;
use super::{Exit, Failure, chain, replay};
use crate::capture;
use crate::object::Clock;
use crate::run::{self, FloodDocument, Plan};
use crate::scenario::spec::Programs;
use crate::subject::Setup;
use crate::suite::Family;
use crate::topology::TopologyChoice;
use crate::wire::{EngineChoice, FloodOptions, Repeat, SideCount, Speed};

/// `bpflab flood`.
#[derive(Debug, clap::Args)]
pub struct FloodArgs {
    /// The capture: pcap or pcapng.
    pub capture: PathBuf,
    /// Send it so many times.
    #[arg(long = "loop", default_value_t = 1, value_name = "TIMES", value_parser = clap::value_parser!(u64).range(1..))]
    pub times: u64,
    /// Send it over and over for so many seconds.
    #[arg(long, conflicts_with = "times", value_name = "SECONDS")]
    pub seconds: Option<u32>,
    /// What sends.
    #[arg(long, value_enum, default_value_t)]
    pub engine: EngineChoice,
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
    /// Most MiB of frames in memory; a larger capture is read while it is sent.
    #[arg(long, default_value_t = 256, value_name = "MIB", value_parser = clap::value_parser!(u64).range(4..=16_384))]
    pub memory: u64,
    /// Print the answer as JSON.
    #[arg(long)]
    pub json: bool,
    /// No progress on standard error.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Sends the capture and prints what was counted.
pub fn flood(args: &FloodArgs) -> Result<Exit, Failure> {
    let plan = plan(args)?;
    let repeat = match args.seconds {
        Some(seconds) => Repeat::For(Duration::from_secs(seconds.into())),
        None => Repeat::Times(args.times),
    };
    let options =
        FloodOptions { engine: args.engine, repeat, most_bytes: args.memory << 20, ..FloodOptions::default() };
    let stop = super::signals::stop_flag();
    let mut progress = Progress::new(args.quiet);
    let result = run::flood(&plan, &options, stop, &mut |step| progress.step(&step));
    progress.finish();
    let document = result.map_err(|error| replay::failure(&error, None))?;
    let text = if args.json { document.to_json() } else { render(&document) };
    // A reader that went away (`| head`) is no failure.
    drop(std::io::stdout().write_all(text.as_bytes()));
    Ok(if document.lost == 0 { Exit::Passed } else { Exit::Failed })
}

fn plan(args: &FloodArgs) -> Result<Plan, Failure> {
    let topology = TopologyChoice::from_argument(&args.topology).map_err(|error| Failure::invalid(&error))?;
    topology.validate().map_err(|error| Failure {
        exit: Exit::Invalid,
        message: format!("topology {}: {}", args.topology, chain(&error)),
    })?;
    let mut programs = Programs::of(&args.programs);
    programs.objects = args
        .object
        .iter()
        .map(|object| Setup {
            object: object.clone(),
            attach: args.attach.iter().map(|attach| attach.0.clone()).collect(),
            ..Setup::default()
        })
        .collect();
    Ok(Plan {
        capture: args.capture.clone(),
        options: capture::Options {
            filter: args.filter.clone(),
            limit: args.limit,
            sides: args.traffic.sides.clone(),
            oversize: args.traffic.oversize,
            truncated: args.traffic.truncated,
            checksums: args.traffic.checksums,
            mtu: args.traffic.mtu,
        },
        mode: None,
        programs,
        topology,
        speed: Speed::Top,
        engine: args.engine,
        live: crate::live::LiveOptions::default(),
        apps: Vec::new(),
        clock: Clock::Kernel,
        artefacts: None,
        record: None,
    })
}

/// The answer for people.
fn render(document: &FloodDocument) -> String {
    let FloodDocument { capture, kernel, .. } = document;
    let streamed = if document.streamed { ", read while it was sent" } else { "" };
    let mut text = format!(
        "capture    {}: {} packets, {} bytes{streamed}\nkernel     {} {}\ntopology   {}\nengine     {}\n",
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
