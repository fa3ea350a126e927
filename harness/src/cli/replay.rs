//! `bpflab replay`: the main job.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use similar::TextDiff;

use super::args::{ClockArg, DEFAULT_TOPOLOGY, ReplayArgs};
use super::coverage::Coverage;
use super::display::Progress;
use super::{Exit, Failure, chain, watch};
use crate::capture;
use crate::live::LiveOptions;
use crate::observation::live::Fate;
use crate::observation::{Change, VerdictCount};
use crate::report::Document;
use crate::report::terminal::{self, Layout};
use crate::rows::Hints;
use crate::run::{self, Plan, RunError};
use crate::scenario::Mode;
use crate::scenario::spec::Programs;
use crate::snapshot;
use crate::subject::{Setup, source};
use crate::suite::Family;
use crate::topology::TopologyChoice;
use crate::wire::EngineChoice;
use crate::wire::WireError;

/// Runs the capture and prints the report; again after each change of an object under test, if that is wanted, and then
/// what changed in what was seen.
pub fn replay(args: &ReplayArgs) -> Result<Exit, Failure> {
    if !args.watch {
        return once(args).and_then(|document| show(args, &document));
    }
    // A source is compiled by the run itself: its object file changes because of it.
    let watched =
        |path: &PathBuf| if path.with_extension("c").exists() { path.with_extension("c") } else { path.clone() };
    let files: Vec<PathBuf> = args.through.object.iter().map(watched).collect();
    let mut before: Option<String> = None;
    watch::watch(&files, || {
        let document = once(args)?;
        let now = seen(&document);
        match before.replace(now.clone()) {
            None => show(args, &document),
            Some(before) => {
                println!("{}", changes(&before, &now));
                Ok(verdict(&document))
            }
        }
    })
}

/// What was seen, without what is different each time.
fn seen(document: &Document) -> String {
    let mut text = snapshot::render(&document.observation, &snapshot::Rules::default());
    for object in &document.observation.objects {
        for program in &object.programs {
            for VerdictCount { verdict, class, packets } in &program.verdicts {
                text += &format!("{}/{}: {verdict} {class} x {packets}\n", object.object, program.program);
            }
        }
        for Change { program, class, packets, fields, .. } in &object.changes {
            let fields: Vec<&str> = fields.iter().map(|field| field.field.as_str()).collect();
            text += &format!("{}/{program}: changes {class} x {packets}: {}\n", object.object, fields.join(", "));
        }
    }
    text
}

fn changes(before: &str, now: &str) -> String {
    if before == now {
        return "nothing changed in what was seen".to_owned();
    }
    TextDiff::from_lines(before, now).unified_diff().context_radius(2).header("before", "now").to_string()
}

fn verdict(document: &Document) -> Exit {
    let failed = document.observation.live.as_ref().is_some_and(|live| live.fates.contains_key(&Fate::Failed));
    if document.observation.ledger.unaccounted == 0 && !failed { Exit::Passed } else { Exit::Failed }
}

pub(super) fn once(args: &ReplayArgs) -> Result<Document, Failure> {
    let spool = spool(&args.capture)?;
    let plan = plan(args, spool.as_ref().map_or(args.capture.as_path(), |file| file.path()))?;
    let stop = super::signals::stop_flag();
    let mut progress = Progress::new(args.quiet);
    let result = run::run(&plan, stop, &mut |step| progress.step(&step));
    progress.finish();
    let mut document = result.map_err(|error| {
        let mut failure = failure(&error, args.artefacts.as_deref());
        if matches!(error, RunError::Wire(WireError::Topology { .. })) {
            // It knows the topology by the name that the file gives it, if any.
            failure.message = format!("--topology {}: {}", args.through.topology, failure.message);
        }
        if let Some(file) = &spool {
            // Nobody gave this file its name.
            failure.message = failure.message.replace(&file.path().display().to_string(), "standard input");
        }
        failure
    })?;
    document.capture.file = args.capture.display().to_string();
    if let Some(folder) = &args.coverage {
        let mut coverage = Coverage::new(folder);
        coverage.extend(std::mem::take(&mut document.coverage))?;
        coverage.finish()?;
    }
    if let Some(folder) = &args.artefacts {
        write(&folder.join("record.json"), &document.to_json())?;
    }
    Ok(document)
}

pub(super) fn show(args: &ReplayArgs, document: &Document) -> Result<Exit, Failure> {
    let text = if args.json {
        document.to_json()
    } else {
        let colours = args.output.is_none() && std::io::stdout().is_terminal() && console::colors_enabled();
        let rows = if args.rows == 0 { usize::MAX } else { args.rows };
        terminal::render(document, Layout { colours, rows })
    };
    match &args.output {
        Some(path) => write(path, &text)?,
        // A reader that went away (`| head`) is no failure.
        None => drop(std::io::stdout().write_all(text.as_bytes())),
    }
    Ok(verdict(document))
}

/// Standard input, kept in a file because a capture is read twice.
fn spool(capture: &Path) -> Result<Option<tempfile::NamedTempFile>, Failure> {
    if capture != Path::new("-") {
        return Ok(None);
    }
    let spool = || -> std::io::Result<tempfile::NamedTempFile> {
        let mut file = tempfile::NamedTempFile::new()?;
        std::io::copy(&mut std::io::stdin().lock().by_ref(), file.as_file_mut())?;
        Ok(file)
    };
    spool().map(Some).map_err(|error| Failure::invalid(&error))
}

/// Options that have no effect together with others: saying so beats ignoring them.
fn contradiction(args: &ReplayArgs) -> Option<String> {
    if args.through.drop_malformed
        && !args.through.programs.is_empty()
        && !args.through.programs.contains(&Family::Flows)
    {
        return Some("--drop-malformed needs the program flows, which --programs leaves out".to_owned());
    }
    let wire_only = [
        ("--topology", args.through.topology != DEFAULT_TOPOLOGY),
        ("--impair", !args.impair.is_empty()),
        ("--speed", args.speed.is_some()),
        ("--engine", args.engine != EngineChoice::Auto),
        ("--clock", args.clock != ClockArg::Capture),
        ("--programs sockets", args.through.programs.contains(&Family::Sockets)),
        ("--programs latency", args.through.programs.contains(&Family::Latency)),
    ];
    let (option, _) = wire_only.into_iter().find(|(_, set)| *set && args.mode == Some(Mode::Lockstep))?;
    Some(format!("{option} needs wire mode: in lockstep mode nothing is sent, and times are the capture's"))
}

/// What the arguments ask for, with `capture` as the file.
pub fn plan(args: &ReplayArgs, capture: &Path) -> Result<Plan, Failure> {
    let mut programs = if args.through.programs.is_empty() && args.through.object.is_empty() {
        Programs::default()
    } else {
        Programs::of(&args.through.programs)
    };
    programs.objects = objects(args)?;
    if let Some(message) = contradiction(args) {
        return Err(Failure { exit: Exit::Invalid, message });
    }
    if let Some(flows) = &mut programs.flows {
        flows.drop_malformed = args.through.drop_malformed;
    }
    let mut topology =
        TopologyChoice::from_argument(&args.through.topology).map_err(|error| Failure::invalid(&error))?;
    topology.impair.extend(args.impair.iter().map(|arg| (arg.place.clone(), arg.impairment.clone())));
    topology.validate().map_err(|error| Failure {
        exit: Exit::Invalid,
        message: format!("topology {}: {}", args.through.topology, chain(&error)),
    })?;
    let mut live = LiveOptions { dut: args.live.unwrap_or_default(), ..LiveOptions::default() };
    live.speed = args.speed.unwrap_or(live.speed);
    live.forward.clone_from(&args.forward);
    live.deadline_s = args.deadline.unwrap_or(live.deadline_s);
    if args.live.is_some() {
        live.validate().map_err(|message| Failure { exit: Exit::Invalid, message })?;
    }
    Ok(Plan {
        capture: capture.to_owned(),
        options: capture::Options {
            filter: args.through.filter.clone(),
            limit: args.limit,
            sides: args.through.traffic.sides.clone(),
            oversize: args.through.traffic.oversize,
            truncated: args.through.traffic.truncated,
            checksums: args.through.traffic.checksums,
            mtu: args.through.traffic.mtu,
        },
        mode: if args.live.is_some() { Some(Mode::Live) } else { args.mode },
        programs,
        topology,
        speed: args.speed.unwrap_or_default(),
        live,
        apps: Vec::new(),
        engine: args.engine,
        clock: args.clock.into(),
        artefacts: args.artefacts.clone(),
        record: args.record.clone(),
    })
}

/// The objects under test.
fn objects(args: &ReplayArgs) -> Result<Vec<Setup>, Failure> {
    let invalid = |message: String| Failure { exit: Exit::Invalid, message };
    let alone = args.through.attach.is_empty()
        && args.through.global.is_empty()
        && args.through.map.is_empty()
        && args.format.is_empty();
    if args.through.object.len() > 1 && !alone {
        return Err(invalid(
            "--attach, --global, --map and --format go with one --object: write a scenario for several".to_owned(),
        ));
    }
    let value = |option: &str, text: &str| {
        let parts = text.split_once('=').ok_or_else(|| invalid(format!("{option} {text}: it is written NAME=VALUE")));
        parts.map(|(name, value)| {
            // What is no JSON is a text.
            let value = serde_json::from_str(value).unwrap_or_else(|_| serde_json::Value::String(value.to_owned()));
            (name.to_owned(), value)
        })
    };
    let mut objects = Vec::new();
    for path in &args.through.object {
        let object = if path.extension().is_some_and(|extension| extension == "c") {
            path.with_extension("o")
        } else {
            path.clone()
        };
        source::bring_up_to_date(&object).map_err(|error| Failure::invalid(&error))?;
        objects.push(Setup {
            object,
            attach: args.through.attach.iter().map(|attach| attach.0.clone()).collect(),
            globals: args.through.global.iter().map(|text| value("--global", text)).collect::<Result<_, _>>()?,
            maps: args.through.map.iter().map(|text| value("--map", text)).collect::<Result<_, _>>()?,
            rows: formats(args)?,
            look: true,
            coverage: args.coverage.is_some(),
            ..Setup::default()
        });
    }
    Ok(objects)
}

/// How members are shown, by map.
fn formats(args: &ReplayArgs) -> Result<BTreeMap<String, Hints>, Failure> {
    let mut rows: BTreeMap<String, Hints> = BTreeMap::new();
    for text in &args.format {
        let invalid = |message: &str| Failure { exit: Exit::Invalid, message: format!("--format {text}: {message}") };
        let (place, format) = text.split_once('=').ok_or_else(|| invalid("it is written MAP.PATH=FORMAT"))?;
        // A data section has a dot in its own name.
        let split = ["key", "value", "event"].iter().find_map(|root| {
            let at = place.find(&format!(".{root}"))?;
            Some((&place[..at], &place[at + 1..]))
        });
        let (map, path) = split.ok_or_else(|| invalid("a path begins with key, value or event"))?;
        let format = serde_json::from_value(format.into()).map_err(|error| invalid(&error.to_string()))?;
        rows.entry(map.to_owned()).or_default().format.insert(path.to_owned(), format);
    }
    Ok(rows)
}

/// How a run's failure is told and which exit code it takes.
pub fn failure(error: &RunError, artefacts: Option<&Path>) -> Failure {
    let exit = if error.is_invalid_input() { Exit::Invalid } else { Exit::Unavailable };
    Failure { exit, message: error.explain(artefacts) }
}

fn write(path: &PathBuf, text: &str) -> Result<(), Failure> {
    let failed = |source| RunError::Artefact { path: path.clone(), source };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed).map_err(|error| Failure::invalid(&error))?;
    }
    std::fs::write(path, text).map_err(failed).map_err(|error| Failure::invalid(&error))
}
