//! Expectations: single facts of an observation, exact or within bounds.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// What one path of the observation must hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Expectation {
    /// This value.
    Exactly(Value),
    /// A number within bounds, both included.
    Within {
        /// Smallest allowed.
        min: Option<f64>,
        /// Largest allowed.
        max: Option<f64>,
    },
    /// A list with so many entries.
    Count(u64),
}

impl<'de> Deserialize<'de> for Expectation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let value = Value::deserialize(deserializer)?;
        let Value::Object(table) = &value else { return Ok(Self::Exactly(value)) };
        let number = |key: &str| {
            table
                .get(key)
                .map(|value| value.as_f64().ok_or_else(|| D::Error::custom(format!("`{key}` must be a number"))))
        };
        if let Some(unknown) = table.keys().find(|key| !["min", "max", "count"].contains(&key.as_str())) {
            return Err(D::Error::custom(format!("unknown field `{unknown}`, expected one of `min`, `max`, `count`")));
        }
        match (number("min").transpose()?, number("max").transpose()?, table.get("count")) {
            (None, None, Some(count)) => count
                .as_u64()
                .map(Self::Count)
                .ok_or_else(|| D::Error::custom("`count` must be a number that is not negative")),
            (min, max, None) if min.is_some() || max.is_some() => Ok(Self::Within { min, max }),
            _ => Err(D::Error::custom("an expectation is a value, `{ min, max }` or `{ count }`")),
        }
    }
}

/// An expectation that was not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The path, as written in the scenario.
    pub path: String,
    /// What was expected.
    pub expected: String,
    /// What was there.
    pub found: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: expected {}, found {}", self.path, self.expected, self.found)
    }
}

/// Holds `observation` against one expectation; `path` is keys and list positions joined by dots.
///
/// # Errors
/// What was expected and what was found.
pub fn check(observation: &Value, path: &str, expectation: &Expectation) -> Result<(), Failure> {
    let found = path.split('.').try_fold(observation, |value, key| match value {
        Value::Array(list) => key.parse::<usize>().ok().and_then(|index| list.get(index)),
        Value::Object(table) => table.get(key),
        _ => None,
    });
    let (met, expected) = match expectation {
        Expectation::Exactly(value) => (found.is_some_and(|found| equal(found, value)), value.to_string()),
        Expectation::Within { min, max } => {
            let number = found.and_then(Value::as_f64);
            let met =
                number.is_some_and(|number| min.is_none_or(|min| number >= min) && max.is_none_or(|max| number <= max));
            (met, bounds(*min, *max))
        }
        Expectation::Count(count) => {
            let len = found.and_then(Value::as_array).map(Vec::len);
            (len.and_then(|len| u64::try_from(len).ok()) == Some(*count), format!("{count} entries"))
        }
    };
    if met {
        return Ok(());
    }
    let found = match (expectation, found) {
        (_, None) => "nothing".to_owned(),
        (Expectation::Count(_), Some(Value::Array(list))) => format!("{} entries", list.len()),
        (_, Some(value)) => value.to_string(),
    };
    Err(Failure { path: path.to_owned(), expected, found })
}

fn bounds(min: Option<f64>, max: Option<f64>) -> String {
    match (min, max) {
        (Some(min), Some(max)) => format!("{min} to {max}"),
        (Some(min), None) => format!("at least {min}"),
        (_, Some(max)) => format!("at most {max}"),
        (None, None) => "a number".to_owned(),
    }
}

/// Equality that does not tell 3 from 3.0: TOML and JSON write whole floats differently.
fn equal(found: &Value, expected: &Value) -> bool {
    match (found.as_f64(), expected.as_f64()) {
        (Some(found), Some(expected)) => (found - expected).abs() < f64::EPSILON,
        _ => found == expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Deserialize)]
    struct One {
        x: Expectation,
    }

    fn parse(text: &str) -> Result<Expectation, toml::de::Error> {
        toml::from_str::<One>(text).map(|one| one.x)
    }

    #[test]
    fn a_value_a_bound_and_a_count_are_told_apart() {
        assert_eq!(parse("x = 3").unwrap(), Expectation::Exactly(json!(3)));
        assert_eq!(parse("x = { max = 5 }").unwrap(), Expectation::Within { min: None, max: Some(5.0) });
        assert_eq!(parse("x = { count = 2 }").unwrap(), Expectation::Count(2));
        assert!(parse("x = { mx = 5 }").unwrap_err().message().contains("unknown field `mx`"));
        assert!(parse("x = { min = 1, count = 2 }").is_err());
        assert!(parse("x = {}").is_err());
    }

    #[test]
    fn paths_reach_into_tables_and_lists_and_failures_say_what_was_there() {
        let observation = json!({"tcp": {"handshakes": [{"rtt_us": 12.5}]}, "ledger": {"offered": 3}});
        let within = Expectation::Within { min: Some(1.0), max: Some(20.0) };
        assert_eq!(check(&observation, "tcp.handshakes.0.rtt_us", &within), Ok(()));
        assert_eq!(check(&observation, "ledger.offered", &Expectation::Exactly(json!(3.0))), Ok(()));
        let failure = check(&observation, "tcp.handshakes", &Expectation::Count(2)).unwrap_err();
        assert_eq!(failure.to_string(), "tcp.handshakes: expected 2 entries, found 1 entries");
        let failure = check(&observation, "tcp.nothing.here", &within).unwrap_err();
        assert_eq!(failure.to_string(), "tcp.nothing.here: expected 1 to 20, found nothing");
    }
}
