//! Whether a condition holds.

use serde_json::Value;

use super::parse::{Node, Relation, Step, What};

/// What a part of a condition stands for.
#[derive(Clone, Debug)]
enum Found<'a> {
    /// Something in the document, or nothing.
    Value(Option<&'a Value>),
    /// Rows chosen from a list.
    Rows(Vec<&'a Value>),
    Number(f64),
    Text(&'a str),
    Truth(bool),
}

/// Whether the condition holds for a document.
pub(super) fn holds(node: &Node, root: &Value) -> bool {
    truth(&eval(node, root))
}

fn eval<'a>(node: &'a Node, root: &'a Value) -> Found<'a> {
    match &node.what {
        What::Or(both) => Found::Truth(both.iter().any(|one| holds(one, root))),
        What::And(both) => Found::Truth(both.iter().all(|one| holds(one, root))),
        What::Not(inner) => Found::Truth(!holds(inner, root)),
        What::Compare(relation, both) => {
            let [left, right] = &**both;
            Found::Truth(compare(*relation, &eval(left, root), &eval(right, root)))
        }
        What::Len(inner) => Found::Number(len(&eval(inner, root))),
        What::Number(number) => Found::Number(*number),
        What::Text(text) => Found::Text(text),
        What::Truth(truth) => Found::Truth(*truth),
        // Nothing tells two kernels apart by one document.
        What::Null | What::Differs(_) => Found::Value(None),
        What::Path(steps) => steps.iter().fold(Found::Value(Some(root)), |found, (step, _)| go(found, step)),
    }
}

fn go<'a>(found: Found<'a>, step: &'a Step) -> Found<'a> {
    match (step, found) {
        (Step::Member(name), Found::Value(Some(Value::Object(table)))) => Found::Value(table.get(name)),
        (Step::Position(index), Found::Value(Some(Value::Array(list)))) => Found::Value(list.get(*index)),
        (Step::Position(index), Found::Rows(rows)) => Found::Value(rows.get(*index).copied()),
        (Step::Having(key), Found::Value(Some(Value::Object(table)))) => Found::Value(table.get(key)),
        (Step::Having(text), found) => Found::Rows(rows(&found).filter(|row| has(row, text)).collect()),
        (Step::Where(condition), found) => Found::Rows(rows(&found).filter(|row| holds(condition, row)).collect()),
        _ => Found::Value(None),
    }
}

fn rows<'a>(found: &Found<'a>) -> impl Iterator<Item = &'a Value> + use<'a> {
    let rows = match found {
        Found::Value(Some(Value::Array(list))) => list.iter().collect(),
        Found::Rows(rows) => rows.clone(),
        _ => Vec::new(),
    };
    rows.into_iter()
}

/// Whether a row is that text or has a member that is.
fn has(row: &Value, text: &str) -> bool {
    match row {
        Value::String(own) => own == text,
        Value::Object(members) => members.values().any(|member| member.as_str() == Some(text)),
        Value::Array(list) => list.iter().any(|one| one.as_str() == Some(text)),
        _ => false,
    }
}

fn truth(found: &Found<'_>) -> bool {
    match found {
        Found::Truth(truth) => *truth,
        Found::Number(number) => *number != 0.0,
        Found::Text(text) => !text.is_empty(),
        Found::Rows(rows) => !rows.is_empty(),
        Found::Value(value) => match value {
            None | Some(Value::Null) => false,
            Some(Value::Bool(truth)) => *truth,
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(table)) => !table.is_empty(),
        },
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of rows and characters")]
fn len(found: &Found<'_>) -> f64 {
    let len = match found {
        Found::Rows(rows) => rows.len(),
        Found::Text(text) => text.chars().count(),
        Found::Value(Some(Value::Array(list))) => list.len(),
        Found::Value(Some(Value::Object(table))) => table.len(),
        Found::Value(Some(Value::String(text))) => text.chars().count(),
        _ => 0,
    };
    len as f64
}

/// As a number; `None` for what is none, as a text.
#[allow(clippy::cast_precision_loss, reason = "counts of packets and rows")]
fn number(found: &Found<'_>) -> Option<f64> {
    let of_rows = |rows: Vec<&Value>| {
        let packets = rows.iter().try_fold(0.0, |sum, row| Some(sum + row.get("packets")?.as_f64()?));
        packets.or(Some(rows.len() as f64))
    };
    match found {
        Found::Number(number) => Some(*number),
        Found::Rows(rows) => of_rows(rows.clone()),
        Found::Value(None | Some(Value::Null)) => Some(0.0),
        Found::Value(Some(Value::Number(number))) => number.as_f64(),
        Found::Value(Some(Value::Array(list))) => of_rows(list.iter().collect()),
        Found::Value(Some(Value::Object(table))) => match table.get("packets").and_then(Value::as_f64) {
            Some(packets) => Some(packets),
            None => table.values().try_fold(0.0, |sum, value| Some(sum + value.as_f64()?)),
        },
        _ => None,
    }
}

fn text<'a>(found: &Found<'a>) -> Option<&'a str> {
    match found {
        Found::Text(text) => Some(text),
        Found::Value(value) => value.and_then(Value::as_str),
        _ => None,
    }
}

fn compare(relation: Relation, left: &Found<'_>, right: &Found<'_>) -> bool {
    let numbers = || number(left).zip(number(right));
    match relation {
        Relation::Equal => equal(left, right),
        Relation::Unequal => !equal(left, right),
        Relation::Less => numbers().is_some_and(|(left, right)| left < right),
        Relation::AtMost => numbers().is_some_and(|(left, right)| left <= right),
        Relation::More => numbers().is_some_and(|(left, right)| left > right),
        Relation::AtLeast => numbers().is_some_and(|(left, right)| left >= right),
        Relation::Contains => contains(left, right),
    }
}

fn is_null(found: &Found<'_>) -> bool {
    matches!(found, Found::Value(None | Some(Value::Null)))
}

fn equal(left: &Found<'_>, right: &Found<'_>) -> bool {
    match (text(left), text(right)) {
        (Some(left), Some(right)) => return left == right,
        (None, None) => {}
        _ => return false,
    }
    if is_null(left) && is_null(right) {
        return true;
    }
    let is_truth = |found: &Found<'_>| matches!(found, Found::Truth(_) | Found::Value(Some(Value::Bool(_))));
    if is_truth(left) || is_truth(right) {
        return truth(left) == truth(right);
    }
    number(left).zip(number(right)).is_some_and(|(left, right)| (left - right).abs() < f64::EPSILON)
}

/// A text contains a part of itself; a list what a row of it is or has as a member; a table a key.
fn contains(left: &Found<'_>, right: &Found<'_>) -> bool {
    if let (Some(left), Some(right)) = (text(left), text(right)) {
        return left.contains(right);
    }
    if let (Found::Value(Some(Value::Object(table))), Some(key)) = (left, text(right)) {
        return table.contains_key(key);
    }
    match (text(right), number(right)) {
        (Some(text), _) => rows(left).any(|row| has(row, text)),
        (None, Some(wanted)) => {
            let is = |value: &Value| value.as_f64().is_some_and(|own| (own - wanted).abs() < f64::EPSILON);
            rows(left).any(|row| is(row) || row.as_object().is_some_and(|members| members.values().any(is)))
        }
        _ => false,
    }
}
