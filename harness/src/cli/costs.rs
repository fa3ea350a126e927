//! `bpflab costs`: what the suite's programs cost the verifier of the running kernel.

use super::args::CostsArgs;
use super::{Exit, Failure};
use crate::kernel::probe::{self, Feature, Requirement};
use crate::record::ProgramCost;
use crate::run::RunError;
use crate::scenario::judge::kernel_summary;
use crate::suite::cost::costs;

/// Version of the JSON document.
const VERSION: u32 = 1;

/// Loads each program once and prints what that took. A program that this kernel does not take is a row, no failure.
pub fn print(args: &CostsArgs) -> Result<Exit, Failure> {
    let needs = ["root", "bpf"].into_iter().filter_map(Feature::named).map(Requirement::Feature);
    let unmet = probe::unmet(&needs.collect::<Vec<_>>());
    if !unmet.is_empty() {
        return Err(Failure::unavailable(&RunError::Unmet(unmet)));
    }
    let programs = costs();
    if args.json {
        let document = serde_json::json!({ "version": VERSION, "kernel": kernel_summary(), "programs": programs });
        super::report::print(&format!("{document:#}\n"));
    } else {
        super::report::print(&table(&programs));
    }
    Ok(Exit::Passed)
}

fn table(programs: &[ProgramCost]) -> String {
    let name = |cost: &ProgramCost| format!("{}/{}", cost.object, cost.program);
    let width = programs.iter().map(|cost| name(cost).len()).max().unwrap_or_default().max("program".len());
    let mut text = format!("{:<width$}  instructions  stack bytes    load us\n", "program");
    for cost in programs {
        let name = name(cost);
        text += &match &cost.reason {
            Some(reason) => format!("{name:<width$}  not measured: {reason}\n"),
            None => {
                let ProgramCost { instructions, stack_bytes, load_us, .. } = cost;
                format!("{name:<width$}  {instructions:>12}  {stack_bytes:>11}  {load_us:>9}\n")
            }
        };
    }
    let measured = programs.iter().filter(|cost| cost.reason.is_none());
    let (instructions, load_us) =
        measured.fold((0, 0), |(sum, time), cost| (sum + cost.instructions, time + cost.load_us));
    text + &format!("{:<width$}  {instructions:>12}  {:>11}  {load_us:>9}\n", "together", "")
}
