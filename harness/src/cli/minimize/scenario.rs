//! A minimal capture as a scenario.

use std::path::Path;

use sha2::{Digest as _, Sha256};
use toml::{Table, Value};

use super::{MinimizeArgs, artefact, write};
use crate::capture::Frame;
use crate::cli::{Exit, Failure, new};
use crate::condition::Condition;
use crate::run::Plan;
use crate::scenario;
use crate::subject::Setup;

/// Name of the capture in the scenario's folder.
const CAPTURE: &str = "minimal.pcapng";

/// Whether a scenario of that name can be made.
pub(super) fn check_name(scenarios: &Path, name: &str) -> Result<(), Failure> {
    new::folder_for(scenarios, name).map(drop)
}

/// Makes the folder: capture, objects under test, scenario and pending snapshot.
pub(super) fn make(
    args: &MinimizeArgs,
    condition: &Condition,
    plan: &Plan,
    name: &str,
    frames: &[Frame],
) -> Result<(), Failure> {
    let folder = new::folder_for(&args.scenarios, name)?;
    std::fs::create_dir_all(&folder).map_err(artefact(&folder))?;
    let capture = folder.join(CAPTURE);
    write(&capture, frames)?;
    for setup in &plan.programs.objects {
        let copy = folder.join(setup.object.file_name().unwrap_or_default());
        std::fs::copy(&setup.object, &copy).map_err(artefact(&copy))?;
    }
    let bytes = std::fs::read(&capture).map_err(artefact(&capture))?;
    let sha256: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let original = args.capture.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut table = table(plan, CAPTURE, "what this shows, in one line")?;
    // Two kernels are compared by a matrix; on each there is one snapshot.
    if condition.differing_kernels().is_none() {
        table.insert("holds".to_owned(), Value::Array(vec![condition.text().into()]));
    }
    let origin = format!("the packets of {original} that were needed for {}", condition.text());
    let provenance = [("origin", origin), ("licence", String::new()), ("scrubbed", String::new()), ("sha256", sha256)];
    let provenance = provenance.into_iter().map(|(name, text)| (name.to_owned(), Value::String(text)));
    table.insert("provenance".to_owned(), Value::Table(provenance.collect()));
    let file = folder.join("scenario.toml");
    std::fs::write(&file, text(&table)).map_err(artefact(&file))?;
    println!("made {}", file.display());
    let root = args.scenarios.canonicalize().map_err(artefact(&args.scenarios))?;
    let file = file.canonicalize().map_err(artefact(&file))?;
    let found = scenario::read(&root, &file).map_err(|error| Failure::invalid(&error))?;
    new::pending(&found, &root)?;
    println!("now fill in `purpose`, `licence` and `scrubbed`, then `cargo insta review` shows the snapshot");
    Ok(())
}

/// A scenario that runs `capture` as `plan` says.
pub(super) fn table(plan: &Plan, capture: &str, purpose: &str) -> Result<Table, Failure> {
    let mut table = Table::new();
    table.insert("purpose".to_owned(), purpose.into());
    let mode = plan.mode.map_or_else(String::new, |mode| mode.to_string());
    table.insert("modes".to_owned(), Value::Array(vec![mode.into()]));
    let options = &plan.options;
    let mut traffic = Table::new();
    traffic.insert("capture".to_owned(), capture.into());
    traffic.insert("sides".to_owned(), value(&options.sides)?);
    traffic.insert("mtu".to_owned(), i64::from(options.mtu).into());
    for (name, choice) in [
        ("oversize", value(&options.oversize)?),
        ("truncated", value(&options.truncated)?),
        ("checksums", value(&options.checksums)?),
    ] {
        traffic.insert(name.to_owned(), choice);
    }
    table.insert("traffic".to_owned(), Value::Table(traffic));
    table.insert("programs".to_owned(), Value::Table(programs(plan)?));
    let mut topology = Table::new();
    if let Some(preset) = plan.topology.preset {
        topology.insert("preset".to_owned(), value(&preset)?);
    }
    if let Some(custom) = &plan.topology.custom {
        topology.insert("custom".to_owned(), value(custom)?);
    }
    table.insert("topology".to_owned(), Value::Table(topology));
    Ok(table)
}

fn programs(plan: &Plan) -> Result<Table, Failure> {
    let from = &plan.programs;
    let mut programs = Table::new();
    let mut add =
        |name: &str, settings: Option<Value>| settings.map(|settings| programs.insert(name.to_owned(), settings));
    add("flows", from.flows.as_ref().map(value).transpose()?);
    add("tcp_state", from.tcp_state.as_ref().map(value).transpose()?);
    add("drops", from.drops.as_ref().map(value).transpose()?);
    add("protocols", from.protocols.as_ref().map(value).transpose()?);
    add("sockets", from.sockets.as_ref().map(value).transpose()?);
    add("latency", from.latency.as_ref().map(value).transpose()?);
    if !from.objects.is_empty() {
        let objects: Result<Vec<Value>, Failure> = from.objects.iter().map(object).collect();
        programs.insert("objects".to_owned(), Value::Array(objects?));
    }
    Ok(programs)
}

fn object(setup: &Setup) -> Result<Value, Failure> {
    let object = setup.object.file_name().unwrap_or_default().into();
    value(&Setup { object, ..setup.clone() })
}

fn value(of: &impl serde::Serialize) -> Result<Value, Failure> {
    Value::try_from(of).map_err(|error| Failure {
        exit: Exit::Invalid,
        message: format!("cannot write a choice into a scenario: {error}"),
    })
}

/// The table as a file.
pub(super) fn text(table: &Table) -> String {
    // Made of texts, numbers, lists and tables: this cannot fail.
    toml::to_string(table).unwrap_or_default()
}
