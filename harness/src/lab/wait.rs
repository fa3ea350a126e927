//! Waiting for a condition.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use super::LabError;

/// What a condition may answer: `bool`, `Option` with what was waited for, or `Result`, whose error tells what is there
/// instead.
pub trait Condition {
    /// What was waited for.
    type Met;

    /// What was waited for, or what is there instead.
    ///
    /// # Errors
    /// The condition is not met yet; the text says what was seen.
    fn met(self) -> Result<Self::Met, String>;
}

impl Condition for bool {
    type Met = ();

    fn met(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("false".to_owned()) }
    }
}

impl<T> Condition for Option<T> {
    type Met = T;

    fn met(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

impl<T, E: Debug> Condition for Result<T, E> {
    type Met = T;

    fn met(self) -> Result<T, String> {
        self.map_err(|seen| format!("{seen:?}"))
    }
}

/// Times that the condition is asked without a pause: most conditions of a test are a few microseconds away.
const EAGER: u32 = 50;
/// Longest pause between two questions.
const PAUSE: Duration = Duration::from_millis(2);

/// Asks `condition` until it is met, at most for `limit`: at first again and again, then with growing pauses of up to
/// 2 ms. For events of a ring [`super::Events::wait_for`] sleeps until there is one.
///
/// ```
/// # use std::time::Duration;
/// # use bpflab::lab::eventually;
/// let mut count = 0;
/// let counted = eventually(Duration::from_secs(5), || {
///     count += 1;
///     if count >= 3 { Ok(count) } else { Err(format!("a count of {count}")) }
/// });
/// assert_eq!(counted.unwrap(), 3);
/// ```
///
/// # Errors
/// [`LabError::InVain`] with what was seen last.
pub fn eventually<C: Condition>(limit: Duration, mut condition: impl FnMut() -> C) -> Result<C::Met, LabError> {
    let start = Instant::now();
    let mut asked = 0_u32;
    loop {
        let seen = match condition().met() {
            Ok(met) => return Ok(met),
            Err(seen) => seen,
        };
        if start.elapsed() >= limit {
            return Err(LabError::InVain { waited: limit, seen });
        }
        asked += 1;
        if asked < EAGER {
            std::thread::yield_now();
        } else {
            std::thread::sleep(PAUSE.min(Duration::from_micros(10) * (asked - EAGER + 1)));
        }
    }
}
