//! The order of decoded values: total, the same everywhere, and the one that a reader expects of addresses and numbers.

use std::cmp::Ordering;

use serde_json::{Number, Value};

/// Compares two values: by kind, numbers by size, text with its numbers by size (`10.0.0.9` before `10.0.0.10`), lists
/// and structs by their parts in order.
pub(super) fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => numbers(a, b),
        (Value::String(a), Value::String(b)) => texts(a, b),
        (Value::Array(a), Value::Array(b)) => parts(a.iter(), b.iter()),
        (Value::Object(a), Value::Object(b)) => {
            // Rows of one map have the same members in the same order.
            parts(a.values(), b.values()).then_with(|| a.keys().cmp(b.keys()))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    }
}

fn parts<'a>(a: impl Iterator<Item = &'a Value>, b: impl Iterator<Item = &'a Value>) -> Ordering {
    let (mut a, mut b) = (a.fuse(), b.fuse());
    loop {
        match (a.next(), b.next()) {
            (Some(a), Some(b)) => match compare(a, b) {
                Ordering::Equal => {}
                other => return other,
            },
            (a, b) => return a.is_some().cmp(&b.is_some()),
        }
    }
}

fn numbers(a: &Number, b: &Number) -> Ordering {
    let integer = |number: &Number| number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    match (integer(a), integer(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default()),
    }
}

/// Bytes in hexadecimal come first and as they are; in other text, runs of digits count as numbers.
fn texts(a: &str, b: &str) -> Ordering {
    match (a.starts_with("0x"), b.starts_with("0x")) {
        (true, true) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
        (false, false) => natural(a.as_bytes(), b.as_bytes()).then_with(|| a.cmp(b)),
        (a, b) => b.cmp(&a),
    }
}

fn natural(mut a: &[u8], mut b: &[u8]) -> Ordering {
    loop {
        let (digits_a, digits_b) = (digits(a), digits(b));
        let ordering = if digits_a != 0 && digits_b != 0 {
            let (run_a, run_b) = (trimmed(&a[..digits_a]), trimmed(&b[..digits_b]));
            (a, b) = (&a[digits_a..], &b[digits_b..]);
            run_a.len().cmp(&run_b.len()).then_with(|| run_a.cmp(run_b))
        } else {
            match (a.split_first(), b.split_first()) {
                (Some((first_a, rest_a)), Some((first_b, rest_b))) => {
                    (a, b) = (rest_a, rest_b);
                    first_a.cmp(first_b)
                }
                (a, b) => return a.is_some().cmp(&b.is_some()),
            }
        };
        if ordering != Ordering::Equal {
            return ordering;
        }
    }
}

fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

fn trimmed(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|byte| **byte == b'0').count();
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_order_is_what_a_reader_expects() {
        let sorted = [
            json!(null),
            json!(false),
            json!(-3),
            json!(2.5),
            json!(10),
            json!(u64::MAX),
            json!("0x0a"),
            json!("0x0b00"),
            json!("10.0.0.9"),
            json!("10.0.0.10"),
            json!("eth02"),
            json!("eth2"),
            json!("eth10"),
            json!([1, 2]),
            json!([1, 2, 0]),
            json!({ "a": 1, "b": 2 }),
            json!({ "a": 2, "b": 1 }),
        ];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} and {b}");
            }
        }
    }
}
