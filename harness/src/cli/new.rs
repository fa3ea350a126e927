//! `bpflab new`: from a capture to a scenario folder with a pending snapshot.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::args::NewArgs;
use super::{Exit, Failure};
use crate::capture::{Options, Survey};
use crate::run::RunError;
use crate::scenario::trial::{Seen, Trial};
use crate::scenario::{self, Mode};

/// Makes the folder, copies the capture, runs it once per mode and leaves what was seen for review.
pub fn new(args: &NewArgs) -> Result<Exit, Failure> {
    let folder = folder_for(&args.scenarios, &args.name)?;
    // Anything wrong with the capture is said before a folder exists.
    let survey = Survey::of(&args.pcap, &Options::default()).map_err(|error| Failure::invalid(&error))?;
    let file_name = args.pcap.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Failure::invalid(&RunError::Artefact { path, source })
    };
    std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
    let copy = folder.join(&file_name);
    std::fs::copy(&args.pcap, &copy).map_err(failed(&copy))?;
    let file = folder.join("scenario.toml");
    std::fs::write(&file, template(&file_name, &survey.sha256)).map_err(failed(&file))?;
    println!("made {}", file.display());
    for finding in &survey.findings {
        println!("note: {}", finding.text);
    }
    let root = args.scenarios.canonicalize().map_err(failed(&args.scenarios))?;
    let file = file.canonicalize().map_err(failed(&file))?;
    let found = scenario::read(&root, &file).map_err(|error| Failure::invalid(&error))?;
    pending(&found, &root)?;
    println!("now fill in `purpose` and `[provenance]`, then `cargo insta review` shows the snapshot");
    Ok(Exit::Passed)
}

/// The folder of a scenario that is to be made.
///
/// # Errors
/// A name that is none, or that another scenario has.
pub fn folder_for(scenarios: &Path, name: &str) -> Result<PathBuf, Failure> {
    let invalid = |message: String| Failure { exit: Exit::Invalid, message };
    let valid =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() < 2 || !parts.iter().all(|part| valid(part)) {
        let text = "must be `family/behaviour`, in lower case, digits and dashes (`dns/slow-answer`)";
        return Err(invalid(format!("the name `{}` {text}", name)));
    }
    let folder = scenarios.join(name);
    if folder.exists() || folder.with_extension("toml").exists() {
        return Err(invalid(format!("the scenario {} exists already", folder.display())));
    }
    Ok(folder)
}

fn template(capture: &str, sha256: &str) -> String {
    // Quoted as TOML has it: a file may have any name.
    let quoted = |text: String| toml::Value::String(text).to_string();
    let (purpose, name) = (quoted(format!("what {capture} shows, in one line")), quoted(capture.to_owned()));
    format!(
        "purpose = {purpose}\n\n\
         [traffic]\ncapture = {name}\n\n\
         # Facts that must hold, by path into the observation: values, {{ min, max }} or {{ count }}.\n\
         [expect]\n\"ledger.unaccounted\" = 0\n\n\
         # All of these are needed before the scenario passes.\n\
         [provenance]\n\
         origin = \"\"    # where and how it was taken\n\
         licence = \"\"   # terms under which it may be shared\n\
         scrubbed = \"\"  # what was replaced, or why there was no need\n\
         sha256 = \"{sha256}\"\n"
    )
}

/// Runs the scenario in each of its modes that this machine has and writes the pending snapshot.
pub fn pending(found: &scenario::Found, root: &Path) -> Result<(), Failure> {
    let mut texts: Vec<(Mode, String)> = Vec::new();
    for mode in found.scenario.modes.iter().copied() {
        let trial = Trial::new(found.clone(), root, mode);
        let unmet = trial.unmet();
        if let Some(first) = unmet.first() {
            println!("{mode}: not run: {first}");
            continue;
        }
        let artefacts = tempfile::tempdir().map_err(|error| Failure::unavailable(&error))?;
        let seen: Seen = trial
            .observe(artefacts.path(), &AtomicBool::new(false), &mut |_| ())
            .map_err(|error| super::replay::failure(&error, None))?;
        println!("{mode}: {} of {} frames delivered", delivered(&seen), seen.document.observation.ledger.offered);
        texts.push((mode, seen.text));
    }
    let Some((_, text)) = texts.first() else {
        return Err(Failure {
            exit: Exit::Unavailable,
            message: "no mode can run here, so there is no pending snapshot; `bpflab doctor` says what is missing"
                .to_owned(),
        });
    };
    if texts.iter().any(|(_, other)| other != text) {
        println!(
            "the modes differ: say why in `snapshot.wire_differs` (wire mode then has a snapshot of its own), or keep one \
             of them in `modes`"
        );
    }
    let path: PathBuf = found.folder.join(format!("{}.snap.new", found.stem));
    let header = format!("---\nsource: scenarios/main.rs\ndescription: {:?}\n---\n", found.scenario.purpose);
    std::fs::write(&path, header + text)
        .map_err(|source| Failure::invalid(&RunError::Artefact { path: path.clone(), source }))?;
    println!("pending snapshot: {}", path.display());
    Ok(())
}

fn delivered(seen: &Seen) -> u64 {
    seen.document.observation.ledger.delivered
}
