//! `bpflab clean`.

use super::args::CleanArgs;
use super::{Exit, Failure};
use crate::topology::reap;

/// Removes what killed runs left behind, or only says what there is.
pub fn clean(args: &CleanArgs) -> Result<Exit, Failure> {
    let leftovers = reap::leftovers().map_err(|error| Failure::unavailable(&error))?;
    if leftovers.is_empty() {
        println!("nothing left behind");
        return Ok(Exit::Passed);
    }
    for leftover in &leftovers {
        let what = if args.check { "left behind: " } else { "removing " };
        println!("{what}namespace {} of process {}, which ended without removing it", leftover.name(), leftover.pid());
    }
    if args.check {
        return Ok(Exit::Failed);
    }
    for leftover in &leftovers {
        reap::remove(leftover).map_err(|error| Failure::unavailable(&error))?;
    }
    Ok(Exit::Passed)
}
