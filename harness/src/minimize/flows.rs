//! Which packets belong together.

use std::collections::HashMap;

use crate::capture::Frame;
use crate::flow_name;

/// Positions of the frames of each conversation, both directions together, in the order of their first frames.
pub(super) fn group(frames: &[Frame]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for (position, frame) in frames.iter().enumerate() {
        let group = *known.entry(name(&frame.data)).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(position);
    }
    groups
}

/// The same for both directions.
fn name(frame: &[u8]) -> String {
    let name = flow_name::of(frame);
    let ends = name.split_once(' ').and_then(|(kind, ends)| Some((kind, ends.split_once(" > ")?)));
    match ends {
        Some((kind, (from, to))) if to < from => format!("{kind} {to} > {from}"),
        _ => name,
    }
}
