//! `bpflab doctor`.

use super::Exit;
use super::args::DoctorArgs;
use crate::kernel::probe::{Found, doctor as checks};

/// Prints each prerequisite: found or not, what its lack costs, how to get it.
pub fn doctor(args: &DoctorArgs) -> Exit {
    let checks = checks();
    if args.json {
        let document = serde_json::json!({ "version": 1, "checks": checks });
        println!("{document:#}");
    } else {
        for check in &checks {
            let (mark, style) = match check.found {
                Found::Found => ("found  ", console::Style::new().green()),
                Found::Missing => ("missing", console::Style::new().red()),
                Found::CouldNotTell => ("unclear", console::Style::new().yellow()),
            };
            println!("{} {:<28} {}", style.apply_to(mark), check.name, check.detail);
            if check.found != Found::Found {
                println!("        costs: {}", check.costs);
                println!("        get it: {}", check.get);
            }
        }
    }
    let unusable = checks.iter().any(|check| check.essential && check.found == Found::Missing);
    if unusable { Exit::Unavailable } else { Exit::Passed }
}
