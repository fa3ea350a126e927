//! Decoded elements to rows, as hints say: per-CPU values merged, ranges, order, numbering, names.
//!
//! Nothing here knows a map or the kernel. Elements may come in any order and number; what is kept of them is bounded by
//! the limit, so that a map of millions costs no more memory than its rows.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use super::Row;
use super::hints::{Buckets, Format, Formats, Hints, Matcher, PerCpu};
use super::order::compare;
use super::text;

/// Rows kept where no hint sets a limit.
pub const DEFAULT_LIMIT: usize = 65_536;

/// A decoded value of an element.
#[derive(Clone, Debug, PartialEq)]
pub enum RawValue {
    /// The value.
    One(Value),
    /// The value of each possible CPU, in order.
    PerCpu(Vec<Value>),
}

/// Numbers given to identities, by name and in the order of their first appearance. Rows that are to be compared, of
/// several maps and rings, share one.
#[derive(Clone, Debug, Default)]
pub struct Aliases(HashMap<String, HashMap<String, usize>>);

impl Aliases {
    /// What `value` is called among those of `name`.
    pub fn name(&mut self, name: &str, value: &Value) -> String {
        let numbers = self.0.entry(name.to_owned()).or_default();
        let next = numbers.len() + 1;
        let number = numbers.entry(value.to_string()).or_insert(next);
        format!("{name}#{number}")
    }
}

/// Arranges elements, given as key and value. The result is the rows, and how many more there were.
///
/// Rows are sorted by what the hints say, then by key, then by value. What is numbered by first appearance has no part
/// in the order, except between rows that are otherwise the same: it differs from run to run.
pub fn arrange(
    elements: impl IntoIterator<Item = (Option<Value>, RawValue)>,
    hints: &Hints,
    aliases: &mut Aliases,
) -> (Vec<Row>, u64) {
    let mut arranger = Arranger::new(hints);
    for (key, value) in elements {
        arranger.push(key, value);
    }
    arranger.finish(aliases)
}

/// Arranges events. They stay in the order of their arrival unless the hints sort them; a limit keeps the first.
pub fn arrange_events(
    events: impl IntoIterator<Item = Value>,
    hints: &Hints,
    aliases: &mut Aliases,
) -> (Vec<Value>, u64) {
    let mut arranger = Arranger::new(hints);
    arranger.root = "event";
    arranger.in_order = hints.sort.is_empty();
    for event in events {
        arranger.push(None, RawValue::One(event));
    }
    let (rows, more) = arranger.finish(aliases);
    (rows.into_iter().map(|row| row.value).collect(), more)
}

/// What hints do to the value at one path.
#[derive(Clone, Debug, Default)]
struct Action {
    alias: Option<String>,
    buckets: Option<Buckets>,
    duration: bool,
}

/// An element on its way.
#[derive(Debug)]
struct Entry {
    row: Row,
    /// The row without what is numbered by first appearance, where there is such.
    masked: Option<Box<Row>>,
}

impl Entry {
    fn ordered(&self) -> &Row {
        self.masked.as_deref().unwrap_or(&self.row)
    }
}

/// Takes elements one by one; see [`arrange`].
#[derive(Debug)]
pub struct Arranger<'a> {
    hints: &'a Hints,
    root: &'static str,
    /// Whether the order of arrival counts.
    in_order: bool,
    limit: usize,
    aliases: Matcher<String>,
    buckets: Matcher<Buckets>,
    formats: Formats,
    sort: Vec<(bool, Vec<String>)>,
    edits: bool,
    actions: HashMap<String, Action>,
    /// The first [`Arranger::limit`] of them are sorted once there have been more.
    entries: Vec<Entry>,
    full: bool,
    more: u64,
}

impl<'a> Arranger<'a> {
    /// Begins without any element.
    #[must_use]
    pub fn new(hints: &'a Hints) -> Self {
        let sort = hints.sort.iter().map(|path| match path.strip_prefix('-') {
            Some(path) => (true, path.split('.').map(str::to_owned).collect()),
            None => (false, path.split('.').map(str::to_owned).collect()),
        });
        let durations = hints.format.values().any(|format| *format == Format::DurationNs);
        Self {
            hints,
            root: "value",
            in_order: false,
            limit: hints.limit.unwrap_or(DEFAULT_LIMIT),
            aliases: Matcher::new(&hints.alias),
            buckets: Matcher::new(&hints.buckets),
            formats: hints.formats(),
            sort: sort.collect(),
            edits: durations || !hints.alias.is_empty() || !hints.buckets.is_empty(),
            actions: HashMap::new(),
            entries: Vec::new(),
            full: false,
            more: 0,
        }
    }

    /// Takes an element.
    pub fn push(&mut self, key: Option<Value>, value: RawValue) {
        let value = match value {
            RawValue::One(value) => value,
            RawValue::PerCpu(values) => merge_cpus(values, self.hints.per_cpu),
        };
        let mut row = Row { key, value };
        if !self.hints.buckets.is_empty() {
            self.edit(&mut row, &mut |action, value| to_bucket(action, value));
        }
        let masked = (!self.aliases.is_empty()).then(|| {
            let mut masked = row.clone();
            self.edit(&mut masked, &mut |action, value| {
                if action.alias.is_some() {
                    *value = Value::Null;
                }
            });
            Box::new(masked)
        });
        let entry = Entry { row, masked };
        if self.is_beyond(&entry) {
            self.more += 1;
            return;
        }
        self.entries.push(entry);
        if self.entries.len() > self.limit.saturating_mul(2).max(4096) {
            self.truncate();
        }
    }

    /// The rows, and how many more there were than the limit allows.
    #[must_use]
    pub fn finish(mut self, aliases: &mut Aliases) -> (Vec<Row>, u64) {
        self.truncate();
        let mut rows: Vec<Row> = std::mem::take(&mut self.entries).into_iter().map(|entry| entry.row).collect();
        if self.edits {
            for row in &mut rows {
                self.edit(row, &mut |action, value| finish_value(action, value, aliases));
            }
        }
        if !self.hints.rename.is_empty() {
            let names = Matcher::new(&self.hints.rename);
            for row in &mut rows {
                if let Some(key) = &mut row.key {
                    rename(key, &mut "key".to_owned(), &names);
                }
                rename(&mut row.value, &mut self.root.to_owned(), &names);
            }
        }
        (rows, self.more)
    }

    fn truncate(&mut self) {
        if !self.in_order {
            let mut entries = std::mem::take(&mut self.entries);
            entries.sort_by(|a, b| self.order(a, b));
            self.entries = entries;
        }
        self.more += self.entries.len().saturating_sub(self.limit) as u64;
        self.entries.truncate(self.limit);
        self.full = self.entries.len() == self.limit;
    }

    fn order(&self, a: &Entry, b: &Entry) -> Ordering {
        let by_hint = self.sort.iter().map(|(falling, path)| {
            let ordering = compare(at(a.ordered(), self.root, path), at(b.ordered(), self.root, path));
            if *falling { ordering.reverse() } else { ordering }
        });
        let mut by_hint = by_hint.filter(|ordering| ordering.is_ne());
        by_hint.next().unwrap_or_else(|| by_row(a.ordered(), b.ordered()).then_with(|| by_row(&a.row, &b.row)))
    }

    /// Whether an entry comes after all that are kept, in which case it need not be: of a large map that is most.
    fn is_beyond(&self, entry: &Entry) -> bool {
        match self.limit.checked_sub(1).map(|last| self.entries.get(last)) {
            None => true,
            Some(Some(last)) if self.full => self.in_order || self.order(entry, last).is_ge(),
            Some(_) => false,
        }
    }

    /// Calls `change` for every value in a row for which there is a hint.
    fn edit(&mut self, row: &mut Row, change: &mut dyn FnMut(&Action, &mut Value)) {
        if let Some(key) = &mut row.key {
            self.edit_value(key, &mut "key".to_owned(), change);
        }
        self.edit_value(&mut row.value, &mut self.root.to_owned(), change);
    }

    fn edit_value(&mut self, value: &mut Value, path: &mut String, change: &mut dyn FnMut(&Action, &mut Value)) {
        let action = match self.actions.get(path.as_str()) {
            Some(action) => action,
            None => {
                let action = Action {
                    alias: self.aliases.find(path).cloned(),
                    buckets: self.buckets.find(path).cloned(),
                    duration: self.formats.find(path) == Some(Format::DurationNs),
                };
                self.actions.entry(path.clone()).or_insert(action)
            }
        };
        // A list of CPUs or an array is not itself a number: its elements are.
        match value {
            Value::Array(list) if action.alias.is_none() => {
                list.iter_mut().for_each(|value| self.edit_value(value, path, change));
            }
            Value::Object(members) if action.alias.is_none() => {
                let len = path.len();
                for (name, value) in members {
                    path.push('.');
                    path.push_str(name);
                    self.edit_value(value, path, change);
                    path.truncate(len);
                }
            }
            other => change(action, other),
        }
    }
}

fn by_row(a: &Row, b: &Row) -> Ordering {
    match (&a.key, &b.key) {
        (Some(a), Some(b)) => compare(a, b),
        _ => a.key.is_some().cmp(&b.key.is_some()),
    }
    .then_with(|| compare(&a.value, &b.value))
}

/// The value at a path; `null` where there is none.
fn at<'r>(row: &'r Row, root: &str, path: &[String]) -> &'r Value {
    const NONE: &Value = &Value::Null;
    let Some((first, rest)) = path.split_first() else { return NONE };
    let start = match first.as_str() {
        "key" => row.key.as_ref(),
        first if first == root => Some(&row.value),
        _ => None,
    };
    rest.iter().fold(start, |value, name| value?.get(name.as_str())).unwrap_or(NONE)
}

/// The first number of the range stands for the range until rows are sorted.
fn to_bucket(action: &Action, value: &mut Value) {
    if let Some(buckets) = &action.buckets
        && let Some(number) = value.as_u64()
    {
        *value = buckets.range(number).0.into();
    }
}

fn finish_value(action: &Action, value: &mut Value, aliases: &mut Aliases) {
    let number = |number: u64| {
        if action.duration { text::duration(number.into()) } else { number.to_string() }
    };
    let named = if let Some(alias) = &action.alias {
        aliases.name(alias, value)
    } else if let (Some(buckets), Some(low)) = (&action.buckets, value.as_u64()) {
        match buckets.range(low) {
            (0, Some(1)) if !action.duration => return,
            (0, Some(1)) => number(0),
            (low, Some(high)) => format!("{}..{}", number(low), number(high)),
            (low, None) => format!("{}..", number(low)),
        }
    } else if let (true, Value::Number(ns)) = (action.duration, &*value) {
        let ns = ns.as_i64().map(i128::from).or_else(|| ns.as_u64().map(i128::from));
        ns.map_or_else(|| value.to_string(), text::duration)
    } else {
        return;
    };
    *value = Value::String(named);
}

fn rename(value: &mut Value, path: &mut String, names: &Matcher<String>) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|value| rename(value, path, names)),
        Value::Object(members) => {
            let len = path.len();
            let mut renamed = Map::new();
            for (name, mut value) in std::mem::take(members) {
                path.push('.');
                path.push_str(&name);
                rename(&mut value, path, names);
                let new = names.find(path).filter(|new| !renamed.contains_key(new.as_str()));
                renamed.insert(new.cloned().unwrap_or(name), value);
                path.truncate(len);
            }
            *members = renamed;
        }
        _ => {}
    }
}

/// One value of those of all CPUs. Without a hint, what cannot be summed as a whole stays a list.
fn merge_cpus(values: Vec<Value>, how: Option<PerCpu>) -> Value {
    match how {
        Some(PerCpu::List) => Value::Array(values),
        Some(PerCpu::Sum) => sum(&values, true).unwrap_or(Value::Array(values)),
        None => sum(&values, false).unwrap_or(Value::Array(values)),
    }
}

/// The sum of numbers, and what is the same on all CPUs; `lists` says that the rest becomes lists.
fn sum(values: &[Value], lists: bool) -> Option<Value> {
    let first = values.first()?;
    let merged = match first {
        Value::Number(_) => add(values),
        Value::Object(members) => {
            let names = members.keys();
            let parts = names.map(|name| {
                let parts: Option<Vec<Value>> = values.iter().map(|value| value.get(name).cloned()).collect();
                Some((name.clone(), sum(&parts?, lists)?))
            });
            parts.collect::<Option<Map<_, _>>>().map(Value::Object)
        }
        Value::Array(elements) => {
            let parts = (0..elements.len()).map(|index| {
                let parts: Option<Vec<Value>> = values.iter().map(|value| value.get(index).cloned()).collect();
                sum(&parts?, lists)
            });
            parts.collect::<Option<Vec<_>>>().map(Value::Array)
        }
        other => values.iter().all(|value| value == other).then(|| other.clone()),
    };
    merged.or_else(|| lists.then(|| Value::Array(values.to_vec())))
}

fn add(values: &[Value]) -> Option<Value> {
    let integer = |value: &Value| value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    if let Some(sum) = values.iter().map(integer).sum::<Option<i128>>() {
        let small = u64::try_from(sum).map(Value::from).or_else(|_| i64::try_from(sum).map(Value::from));
        // More than 64 bits hold: exact all the same.
        return Some(small.unwrap_or_else(|_| Value::String(sum.to_string())));
    }
    let sum: f64 = values.iter().map(Value::as_f64).sum::<Option<f64>>()?;
    serde_json::Number::from_f64(sum).map(Value::Number)
}

/// Splits the variables of a section, decoded as one struct, into rows in the order of their names.
pub(super) fn split_section(rows: Vec<Row>) -> Vec<Row> {
    let variables = rows.into_iter().flat_map(|row| match row.value {
        Value::Object(members) => members.into_iter().collect::<BTreeMap<_, _>>(),
        _ => BTreeMap::new(),
    });
    variables.map(|(name, value)| Row { key: Some(Value::String(name)), value }).collect()
}
