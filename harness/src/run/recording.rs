//! What a run's recording knows beside what passed the links, and how it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::RunError;
use crate::kernel::symbols;
use crate::recorder::{Ended, Knowledge, Known, RecorderError, Recording, Target};
use crate::report::Document;
use crate::wire::{SentEnd, SentFrame, WireOutcome};

/// The file for the recording of a run that reads `capture`.
pub(super) fn target(path: &Path, capture: &Path) -> Result<Target, RecorderError> {
    let same = path.canonicalize().ok().is_some_and(|file| capture.canonicalize().is_ok_and(|read| read == file));
    if same { Err(RecorderError::Input(path.to_owned())) } else { Target::open(path) }
}

/// Takes out of `outcome` the frames that no packet socket saw at one end: those that the lab sent, with their ends, and
/// those that it took at the far ends, which are left there if `keep` says so. `interfaces` are the device under test's by side, each with its XDP program.
pub(super) fn known(
    interfaces: &BTreeMap<usize, (String, Option<String>)>,
    outcome: &mut WireOutcome,
    keep: bool,
) -> Knowledge {
    let name = |side: usize| interfaces.get(&side).map(|(name, _)| name.clone());
    let dropped = |frame: &SentFrame| match frame.end {
        SentEnd::Dropped { location, .. } => Some(location),
        _ => None,
    };
    let locations: BTreeSet<u64> = outcome.sent.iter().filter_map(dropped).collect();
    // Hidden symbols cost the places, not the drops.
    let places = symbols::functions(locations).unwrap_or_default();
    let mut knowledge = Knowledge::default();
    let programs = interfaces.values().filter_map(|(name, program)| Some((name.clone(), program.clone()?)));
    knowledge.xdp = programs.collect();
    // Which link they are of is not known.
    if let Some(first) = name(0).filter(|_| outcome.unkept + outcome.unrecorded > 0) {
        knowledge.lost.insert(first, outcome.unkept + outcome.unrecorded);
    }
    for sent in std::mem::take(&mut outcome.sent) {
        let Some(link) = name(sent.side) else { continue };
        let (comment, ended) = fate(&sent, &places);
        let SentFrame { time_ns, data, .. } = sent;
        let wire_len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let comments = comment.into_iter().collect();
        knowledge.frames.push(Known { link, time_ns, outgoing: false, wire_len, data, comments, ended });
    }
    let received = if keep { outcome.received.clone() } else { std::mem::take(&mut outcome.received) };
    for arrived in received {
        let Some(link) = name(arrived.side) else { continue };
        knowledge.frames.push(Known {
            link,
            time_ns: arrived.time_ns,
            outgoing: true,
            wire_len: arrived.wire_len,
            data: arrived.data,
            comments: Vec::new(),
            ended: None,
        });
    }
    knowledge
}

/// What became of a frame, in words; nothing of one that passed.
fn fate(sent: &SentFrame, places: &BTreeMap<u64, String>) -> (Option<String>, Option<Ended>) {
    match &sent.end {
        SentEnd::Passed => (None, None),
        SentEnd::Verdict { hook, verdict, program } => {
            let at = if *hook == "tc egress" { " at tc egress" } else { "" };
            let by = hook.split(' ').next().unwrap_or(hook).to_owned();
            let ended = Ended { by, reason: (*verdict).to_owned() };
            (Some(format!("verdict: {verdict} by {program}{at}")), Some(ended))
        }
        SentEnd::Dropped { reason, location } => {
            let place = places.get(location).map_or_else(String::new, |place| format!(" in {place}"));
            let ended = Ended { by: "kernel".to_owned(), reason: reason.clone() };
            (Some(format!("drop: {reason}{place} by kernel")), Some(ended))
        }
        SentEnd::Open(progress) => (Some(format!("packet {} is unaccounted for: {progress}", sent.number)), None),
    }
}

/// Writes the recording, if there is to be one, and notes what is not in it.
pub(super) fn write(
    target: Option<Target>,
    recording: Option<Recording>,
    document: &mut Document,
) -> Result<(), RunError> {
    let (Some(target), Some(recording)) = (target, recording) else { return Ok(()) };
    if recording.lost() > 0 {
        document.notes.push(format!("up to {} frames are not in the recording: no room", recording.lost()));
    }
    recording.write(target, &about(document, &recording), &document.observation)?;
    Ok(())
}

/// What a reader of the file must know.
fn about(document: &Document, recording: &Recording) -> Vec<String> {
    let topology = document.topology.as_ref().map_or_else(String::new, |name| format!(", topology {name}"));
    let what = if recording.told {
        "packets as they were offered to the programs"
    } else {
        "frames on the links of the device under test, each once"
    };
    let mut lines = vec![
        format!("{what}; {} mode{topology}, {}", document.mode, document.engine),
        "comments of packets say what programs and kernel did with them and what was seen of their flows; a packet \
         without a word on its end was let pass, as far as is known"
            .to_owned(),
    ];
    if document.capture.packets > 0 {
        lines.push(format!("sha256 of the capture: {}", document.capture.sha256));
    }
    let ledger = &document.observation.ledger;
    if ledger.offered > 0 {
        lines.push(format!(
            "{} packets offered: {} delivered, {} dropped, {} consumed, {} unaccounted",
            ledger.offered, ledger.delivered, ledger.dropped, ledger.consumed, ledger.unaccounted
        ));
    }
    lines.extend(document.notes.iter().map(|note| format!("note: {note}")));
    lines
}
