//! Objects under test as text: where their programs were, and what their maps and events hold. What single programs
//! decided and changed is known in lockstep mode alone, so it stands in reports and not here: one text for both modes.

use crate::observation::UnderTest;
use crate::rows;

/// The lines of one object.
pub(super) fn lines(object: &UnderTest) -> Vec<String> {
    let mut lines = vec![object.object.clone()];
    for program in &object.programs {
        lines.push(format!("  program {} ({})", program.program, program.hook));
    }
    for map in &object.maps {
        lines.push(format!("  map {} ({})", map.map, map.kind));
        lines.extend(indented(&rows::render(map)));
    }
    for events in &object.events {
        lines.push(format!("  events {}", events.map));
        lines.extend(indented(&rows::render_events(events)));
    }
    lines
}

fn indented(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines().map(|line| format!("    {line}"))
}
