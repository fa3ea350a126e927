//! `bpflab guest`: the inside of a guest of the matrix.

use super::args::GuestArgs;
use super::{Exit, Failure};
use crate::vm::guest;

/// Serves the request; the messages are the answer, the exit code says little.
pub fn guest(args: &GuestArgs) -> Result<Exit, Failure> {
    let failed = |source| guest::GuestError::Write(source);
    let mut messages = std::fs::File::options()
        .append(true)
        .open(&args.messages)
        .map_err(failed)
        .map_err(|error| Failure::unavailable(&error))?;
    guest::serve(&args.request, &mut messages).map_err(|error| Failure::unavailable(&error))?;
    Ok(Exit::Passed)
}
