//! What stands below the grid and the kernels.

use super::{LONG_NAMES, Page, names};
use crate::record::Outcome;
use crate::report::matrix::details::{self, Finding};
use crate::report::matrix::grid::Grid;
use crate::report::matrix::text::{count, cut, line};

/// Lines of a reason, which may be a verifier's log; the JSON file has the rest.
const LINES: usize = 60;
/// Lines of a console.
const CONSOLE: usize = 30;

/// Trials that failed, for which the lab failed, or without a record.
pub fn findings(page: &mut Page, grid: &Grid<'_>) {
    let all = details::findings(grid);
    let kinds =
        [("Failed", Some(Outcome::Failed)), ("Lab failures", Some(Outcome::LabFailure)), ("Without a record", None)];
    for (heading, outcome) in kinds {
        let found: Vec<&Finding<'_>> = all.iter().filter(|finding| finding.outcome == outcome).collect();
        if !found.is_empty() {
            page.heading(heading);
        }
        for finding in found {
            let kernels = names(grid, &finding.columns);
            trial_list(page, grid, &finding.rows, &kernels);
            for reason in &finding.reasons {
                page.block(reason, LINES);
            }
        }
    }
}

/// The trials of a finding and its kernels; of many, the first and their number.
fn trial_list(page: &mut Page, grid: &Grid<'_>, rows: &[usize], kernels: &str) {
    const SHOWN: usize = 5;
    let (last, others) = match rows {
        [] => return,
        rows if rows.len() > SHOWN => (None, &rows[..SHOWN]),
        [others @ .., last] => (Some(last), others),
    };
    for row in others {
        page.line(format!("  {}", line(&grid.rows[*row].trial())));
    }
    let text = last.map_or_else(
        || format!("... and {}", count(rows.len() - SHOWN, "more trial")),
        |row| line(&grid.rows[*row].trial()),
    );
    page.line(format!("  {text}  on {kernels}"));
}

/// What ended guests, with the tail of the console.
pub fn guests(page: &mut Page, grid: &Grid<'_>) {
    let mut first = true;
    for (column, _, failure) in grid.guest_failures() {
        if std::mem::take(&mut first) {
            page.heading("Guest failures");
        }
        let kind = page.bad().apply_to(failure.kind.text()).to_string();
        let trial = failure.trial.as_ref().map_or_else(String::new, |trial| format!(" during {}", line(trial)));
        page.line(format!("  {}: {kind}{trial}: {}", names(grid, &[column]), line(&failure.message)));
        let skipped = failure.console.len().saturating_sub(CONSOLE);
        if skipped > 0 {
            page.line(format!("      | ... {} before", count(skipped, "line")));
        }
        for text in &failure.console[skipped..] {
            page.line(format!("      | {}", line(text)));
        }
    }
}

/// Declared differences, each with its reason and the diff against the common text.
pub fn differences(page: &mut Page, grid: &Grid<'_>) {
    let all = details::differences(grid);
    let declared = all.iter().filter_map(|difference| Some((difference, difference.declared?)));
    let mut first = true;
    for (difference, variant) in declared {
        if std::mem::take(&mut first) {
            page.heading("Declared differences");
        }
        let kernels = names(grid, &difference.columns);
        page.line(format!("  {}  on {kernels}", line(&grid.rows[difference.row].trial())));
        page.line(format!("    {} ({}): {}", line(&variant.name), line(&variant.kernel), line(&variant.reason)));
        let diff = similar::TextDiff::from_lines(difference.base.0, difference.text);
        page.block(&diff.unified_diff().context_radius(0).to_string(), LINES);
    }
}

/// Reasons why trials are unsupported or skipped.
pub fn lacks(page: &mut Page, grid: &Grid<'_>) {
    let all = details::lacks(grid);
    let mut last = None;
    for lack in all {
        if last.replace(lack.outcome) != Some(lack.outcome) {
            page.heading(if lack.outcome == Outcome::Skipped { "Skipped" } else { "Unsupported" });
        }
        let kernels: Vec<String> = lack
            .columns
            .iter()
            .map(|(column, trials)| format!("{} ({})", names(grid, &[*column]), count(*trials, "trial")))
            .collect();
        let reason = page.style().yellow().apply_to(line(lack.reason)).to_string();
        page.line(format!("  {reason}"));
        page.line(format!("      {}", kernels.join(", ")));
    }
}

/// The verifier's table, and what rose.
pub fn costs(page: &mut Page, grid: &Grid<'_>) {
    let all = details::costs(grid);
    if !all.is_empty() {
        page.heading("Verifier cost  instructions / bytes of stack; a rise has a ^");
        let mut rows = vec![vec!["program".to_owned()]];
        rows[0].extend(grid.columns.iter().map(|column| cut(&line(&column.run.name), 16)));
        for row in &all {
            let name = cut(&line(&format!("{}/{}", row.object, row.program)), LONG_NAMES);
            let cells = row.cells.iter().map(|cell| match cell {
                Some((cost, rose)) => {
                    let text = match cost.reason {
                        Some(_) => "not measured".to_owned(),
                        None => format!("{} / {}", cost.instructions, cost.stack_bytes),
                    };
                    if *rose { page.bad().apply_to(format!("^{text}")).to_string() } else { text }
                }
                None => "-".to_owned(),
            });
            rows.push(std::iter::once(name).chain(cells).collect());
        }
        page.table(&rows);
        for (program, reason, columns) in details::not_measured(&all) {
            page.line(format!("  {program} not measured on {}: {}", names(grid, &columns), line(reason)));
        }
    }
    for column in &grid.columns {
        for rise in &column.run.cost_rises {
            let text = page.bad().apply_to(line(rise)).to_string();
            page.line(format!("  {}: {text}", line(&column.run.name)));
        }
    }
}
