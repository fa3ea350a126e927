//! Rows as text for review: one line each, key and value apart, the same on every machine.

use std::fmt::Write as _;

use serde_json::Value;

use super::{EventRows, MapRows, Row};

/// Keys are padded to the widest, but never beyond this: one long key should not move all values out of sight.
const MAX_PAD: usize = 56;
/// Padding grows in steps, so that a key that is a little longer does not change every line of a reviewed snapshot.
const STEP: usize = 8;

/// One line per row, each with its line break: `proto=6 saddr=10.0.0.1 -> packets=3 bytes=180`.
///
/// Members are `name=value`, nested structs stand in braces, lists in brackets; text that would be mistaken for
/// something else is quoted. A map without keys has values alone. Notes and what is left out are lines that begin with
/// `#`.
#[must_use]
pub fn render(map: &MapRows) -> String {
    let mut text = String::new();
    note(&mut text, map.note.as_deref(), map.typed, "rows");
    let keys: Vec<Option<String>> = map.rows.iter().map(|row| row.key.as_ref().map(line)).collect();
    let widths = keys.iter().flatten().map(|key| key.chars().count()).filter(|width| *width <= MAX_PAD);
    let pad = widths.max().unwrap_or(0).next_multiple_of(STEP);
    for (Row { value, .. }, key) in map.rows.iter().zip(keys) {
        let value = line(value);
        let _ = match key {
            Some(key) => writeln!(text, "{key:<pad$} -> {value}"),
            None => writeln!(text, "{value}"),
        };
    }
    more(&mut text, map.more, "rows");
    text
}

/// One line per event, in order; see [`render`].
#[must_use]
pub fn render_events(events: &EventRows) -> String {
    let mut text = String::new();
    note(&mut text, events.note.as_deref(), events.typed, "events");
    for event in &events.events {
        let _ = writeln!(text, "{}", line(event));
    }
    more(&mut text, events.more, "events");
    if let Some(lost @ 1..) = events.lost {
        let _ = writeln!(text, "# {lost} events lost: the buffer was full");
    }
    text
}

fn note(text: &mut String, note: Option<&str>, typed: bool, what: &str) {
    if !typed {
        let _ = writeln!(text, "# {what} as bytes: no types for them");
    }
    for line in note.into_iter().flat_map(str::lines) {
        let _ = writeln!(text, "# {line}");
    }
}

fn more(text: &mut String, more: u64, what: &str) {
    if more != 0 {
        let _ = writeln!(text, "# {more} more {what}");
    }
}

/// A value on one line; the outermost struct without braces.
fn line(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(members) if !members.is_empty() => list(&mut text, members),
        other => part(&mut text, other),
    }
    text
}

fn list(text: &mut String, members: &serde_json::Map<String, Value>) {
    for (index, (name, value)) in members.iter().enumerate() {
        if index != 0 {
            text.push(' ');
        }
        text.push_str(name);
        text.push('=');
        part(text, value);
    }
}

fn part(text: &mut String, value: &Value) {
    match value {
        Value::Null => text.push_str("(none)"),
        Value::Bool(_) | Value::Number(_) => {
            let _ = write!(text, "{value}");
        }
        Value::String(string) => word(text, string),
        Value::Array(values) => {
            text.push('[');
            for (index, value) in values.iter().enumerate() {
                if index != 0 {
                    text.push(' ');
                }
                part(text, value);
            }
            text.push(']');
        }
        Value::Object(members) => {
            text.push('{');
            list(text, members);
            text.push('}');
        }
    }
}

/// Text as it is where it is one word, else quoted as in JSON. A number or truth value in quotes is text.
fn word(text: &mut String, string: &str) {
    let plain = |letter: char| {
        letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.' | ':' | '/' | '#' | '+' | '@' | '%' | '<' | '>')
    };
    let mistaken = matches!(string, "" | "true" | "false" | "->")
        || string.starts_with('#')
        || string.parse::<f64>().is_ok_and(|_| !matches!(string, "inf" | "-inf"));
    if !mistaken && string.chars().all(|letter| plain(letter) || matches!(letter, '(' | ')')) {
        text.push_str(string);
    } else {
        let _ = write!(text, "{}", Value::String(string.to_owned()));
    }
}
