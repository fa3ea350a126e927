//! Two texts side by side.

use std::fmt::Write as _;

use similar::{ChangeTag, DiffOp, TextDiff};

use crate::report::matrix::text::{count, escape};

/// Equal lines that are kept around a change.
const CONTEXT: usize = 3;

/// `base` and `text` as a table of two columns under `titles` (plain text), changed lines marked by colour and by a sign
/// in front; equal lines far from a change are counted.
#[must_use]
pub fn side_by_side(titles: [&str; 2], base: &str, text: &str) -> String {
    let diff = TextDiff::from_lines(base, text);
    let mut html = String::from("<table class=\"sides\"><thead><tr>");
    for title in titles {
        let _ = write!(html, "<th scope=\"col\">{}</th>", escape(title));
    }
    html.push_str("</tr></thead><tbody>\n");
    let mut next = 0;
    for group in diff.grouped_ops(CONTEXT) {
        gap(&mut html, group.first().map_or(next, |op| op.old_range().start).saturating_sub(next));
        next = group.last().map_or(next, |op| op.old_range().end);
        for op in &group {
            rows(&mut html, &diff, op);
        }
    }
    gap(&mut html, diff.old_slices().len().saturating_sub(next));
    html.push_str("</tbody></table>\n");
    html
}

fn gap(html: &mut String, lines: usize) {
    if lines > 0 {
        let _ = writeln!(html, "<tr class=\"gap\"><td colspan=\"2\">... {}</td></tr>", count(lines, "equal line"));
    }
}

/// The lines of one operation, the old ones beside the new ones in their order.
fn rows<'a>(html: &mut String, diff: &TextDiff<'a, 'a, '_, str>, op: &DiffOp) {
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for change in diff.iter_changes(op) {
        let line = change.value();
        match change.tag() {
            ChangeTag::Delete => old.push(("old", "- ", line)),
            ChangeTag::Insert => new.push(("new", "+ ", line)),
            ChangeTag::Equal => {
                old.push(("same", "  ", line));
                new.push(("same", "  ", line));
            }
        }
    }
    for place in 0..old.len().max(new.len()) {
        html.push_str("<tr>");
        for side in [old.get(place), new.get(place)] {
            let (class, sign, line) = side.copied().unwrap_or(("same", "", ""));
            let _ = write!(html, "<td class=\"text {class}\">{sign}{}</td>", escape(line.trim_end()));
        }
        html.push_str("</tr>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_lines_stand_beside_each_other() {
        let base: String = (0..20).map(|line| format!("line {line}\n")).collect();
        let html = side_by_side(["<a>", "b"], &base, &base.replace("line 10\n", "line ten\nand more\n"));
        assert!(html.contains("<th scope=\"col\">&lt;a&gt;</th><th scope=\"col\">b</th>"));
        assert!(html.contains("<td class=\"text old\">- line 10</td><td class=\"text new\">+ line ten</td>"));
        assert!(html.contains("<td class=\"text same\"></td><td class=\"text new\">+ and more</td>"));
        // Lines 0 to 6 and 14 to 19 are further than three lines from the change.
        assert!(html.contains("... 7 equal lines") && html.contains("... 6 equal lines"), "{html}");
    }
}
