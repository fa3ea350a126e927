//! What stands below the grid, with everything that several kernels or trials say alike said once.

use std::collections::BTreeMap;

use crate::record::{DeclaredVariant, Outcome, ProgramCost, Record};

use super::grid::{Cell, Grid};

/// Trials that ended alike, for the same reasons, on the same kernels.
#[derive(Clone, Debug)]
pub struct Finding<'a> {
    /// How; `None` for trials without a record.
    pub outcome: Option<Outcome>,
    /// Why; of lab failures the first trial's.
    pub reasons: Vec<&'a str>,
    /// The trials, by row.
    pub rows: Vec<usize>,
    /// The kernels, by column.
    pub columns: Vec<usize>,
}

/// Trials that failed, for which the lab failed, or of which there is no record: in this order.
#[must_use]
pub fn findings<'a>(grid: &Grid<'a>) -> Vec<Finding<'a>> {
    let mut all: Vec<Finding<'a>> = Vec::new();
    for (row, trial) in grid.rows.iter().enumerate() {
        let mut here: Vec<Finding<'a>> = Vec::new();
        for (column, cell) in trial.cells.iter().enumerate() {
            let outcome = cell.outcome();
            if !matches!(outcome, None | Some(Outcome::Failed | Outcome::LabFailure)) {
                continue;
            }
            let reasons = reasons(cell);
            match here.iter_mut().find(|said| said.outcome == outcome && same_reasons(outcome, &said.reasons, &reasons))
            {
                Some(said) => said.columns.push(column),
                None => here.push(Finding { outcome, reasons, rows: vec![row], columns: vec![column] }),
            }
        }
        for finding in here {
            let same = |other: &&mut Finding<'_>| {
                other.outcome == finding.outcome
                    && other.columns == finding.columns
                    && same_reasons(finding.outcome, &other.reasons, &finding.reasons)
            };
            match all.iter_mut().find(same) {
                Some(other) => other.rows.push(row),
                None => all.push(finding),
            }
        }
    }
    all.sort_by_key(|finding| match finding.outcome {
        Some(Outcome::Failed) => 0,
        Some(_) => 1,
        None => 2,
    });
    all
}

/// Whether reasons are alike. A lab failure is one by its first line: what follows (a verifier's log, the artefacts'
/// folder) has a register or a path that is the trial's own, and one trial's stands for all.
fn same_reasons(outcome: Option<Outcome>, one: &[&str], other: &[&str]) -> bool {
    if outcome != Some(Outcome::LabFailure) {
        return one == other;
    }
    let first = |reason: &&str| reason.lines().next().unwrap_or_default().to_owned();
    one.iter().map(first).eq(other.iter().map(first))
}

/// The reasons of a cell, the guest's failure before the record's own.
fn reasons<'a>(cell: &Cell<'a>) -> Vec<&'a str> {
    let guest = cell.failure.map(|failure| failure.message.as_str());
    guest.into_iter().chain(cell.reasons().iter().map(String::as_str)).collect()
}

/// A reason why trials are unsupported, or skipped.
#[derive(Clone, Debug)]
pub struct Lack<'a> {
    /// [`Outcome::Unsupported`] or [`Outcome::Skipped`].
    pub outcome: Outcome,
    /// The reason.
    pub reason: &'a str,
    /// The trials, by row.
    pub rows: Vec<usize>,
    /// The kernels, by column, each with the number of its trials.
    pub columns: BTreeMap<usize, usize>,
}

/// Each reason why a trial is unsupported or skipped, once; the latter last.
#[must_use]
pub fn lacks<'a>(grid: &Grid<'a>) -> Vec<Lack<'a>> {
    let mut lacks: Vec<Lack<'a>> = Vec::new();
    for (row, trial) in grid.rows.iter().enumerate() {
        for (column, cell) in trial.cells.iter().enumerate() {
            let Some(outcome @ (Outcome::Unsupported | Outcome::Skipped)) = cell.outcome() else { continue };
            let unnamed: &[&str] = if cell.reasons().is_empty() { &["no reason given"] } else { &[] };
            for reason in cell.reasons().iter().map(String::as_str).chain(unnamed.iter().copied()) {
                let place = lacks
                    .iter()
                    .position(|lack| (lack.outcome, lack.reason) == (outcome, reason))
                    .unwrap_or_else(|| {
                        lacks.push(Lack { outcome, reason, rows: Vec::new(), columns: BTreeMap::new() });
                        lacks.len() - 1
                    });
                let lack = &mut lacks[place];
                *lack.columns.entry(column).or_default() += 1;
                if lack.rows.last() != Some(&row) {
                    lack.rows.push(row);
                }
            }
        }
    }
    lacks.sort_by_key(|lack| lack.outcome);
    lacks
}

/// Kernels that answer a trial alike, and otherwise than the text that all share.
#[derive(Clone, Debug)]
pub struct Difference<'a> {
    /// The trial.
    pub row: usize,
    /// The kernels, by column.
    pub columns: Vec<usize>,
    /// How the trial ended there.
    pub outcome: Option<Outcome>,
    /// The declaration that applies.
    pub declared: Option<&'a DeclaredVariant>,
    /// The text that all kernels share, and what it is.
    pub base: (&'a str, String),
    /// The text of these kernels.
    pub text: &'a str,
}

/// Every difference between kernels, trial by trial.
#[must_use]
pub fn differences<'a>(grid: &Grid<'a>) -> Vec<Difference<'a>> {
    let mut all = Vec::new();
    for (row, trial) in grid.rows.iter().enumerate() {
        let records: Vec<(usize, &'a Record)> =
            trial.cells.iter().enumerate().filter_map(|(column, cell)| Some((column, cell.record?))).collect();
        let Some(base) = base(grid, &records) else { continue };
        let mut here: Vec<Difference<'a>> = Vec::new();
        for (column, record) in records {
            let Some(text) = record.snapshot.as_deref().filter(|text| text.trim_end() != base.0.trim_end()) else {
                continue;
            };
            let (outcome, declared) = (trial.cells[column].outcome(), record.variant.as_ref());
            let same = |other: &&mut Difference<'_>| {
                other.outcome == outcome && other.declared == declared && other.text.trim_end() == text.trim_end()
            };
            match here.iter_mut().find(same) {
                Some(other) => other.columns.push(column),
                None => {
                    here.push(Difference { row, columns: vec![column], outcome, declared, base: base.clone(), text });
                }
            }
        }
        all.extend(here);
    }
    all
}

/// The text that all kernels share: the committed one; without one, the newest kernel's that has any.
fn base<'a>(grid: &Grid<'a>, records: &[(usize, &'a Record)]) -> Option<(&'a str, String)> {
    let committed = records.iter().find_map(|(_, record)| {
        let agrees = record.result == Outcome::Passed;
        record.base.as_deref().or_else(|| record.snapshot.as_deref().filter(|_| agrees))
    });
    if let Some(text) = committed {
        return Some((text, "snapshot".to_owned()));
    }
    let (column, text) =
        records.iter().rev().find_map(|(column, record)| Some((*column, record.snapshot.as_deref()?)))?;
    Some((text, grid.columns[column].run.name.clone()))
}

/// A program's cost on each kernel.
#[derive(Clone, Debug)]
pub struct CostRow<'a> {
    /// Name of the object.
    pub object: &'a str,
    /// Name of the program.
    pub program: &'a str,
    /// Per kernel its cost, and whether a rise names it.
    pub cells: Vec<Option<(&'a ProgramCost, bool)>>,
}

/// The verifier's table, objects and programs in the order they were first seen.
#[must_use]
pub fn costs<'a>(grid: &Grid<'a>) -> Vec<CostRow<'a>> {
    let mut rows: Vec<CostRow<'a>> = Vec::new();
    for (column, kernel) in grid.columns.iter().enumerate() {
        for cost in &kernel.run.costs {
            let (object, program) = (cost.object.as_str(), cost.program.as_str());
            let place =
                rows.iter().position(|row| (row.object, row.program) == (object, program)).unwrap_or_else(|| {
                    rows.push(CostRow { object, program, cells: vec![None; grid.columns.len()] });
                    rows.len() - 1
                });
            let name = format!("{object}/{program}");
            let rose = kernel.run.cost_rises.iter().any(|rise| names(rise, &name));
            rows[place].cells[column] = Some((cost, rose));
        }
    }
    rows
}

/// Programs that were not measured on some kernels: the name, and each reason with its kernels, by column.
#[must_use]
pub fn not_measured<'a>(rows: &[CostRow<'a>]) -> Vec<(String, &'a str, Vec<usize>)> {
    let mut all: Vec<(String, &str, Vec<usize>)> = Vec::new();
    for row in rows {
        let name = super::text::line(&format!("{}/{}", row.object, row.program));
        for (column, cell) in row.cells.iter().enumerate() {
            let Some((ProgramCost { reason: Some(reason), .. }, _)) = cell else { continue };
            match all.iter_mut().find(|(other, why, _)| *other == name && why == reason) {
                Some((.., columns)) => columns.push(column),
                None => all.push((name.clone(), reason, vec![column])),
            }
        }
    }
    all
}

/// Whether `sentence` is about `program`.
fn names(sentence: &str, program: &str) -> bool {
    sentence.strip_prefix(program).is_some_and(|rest| rest.starts_with(' '))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Matrix;
    use crate::report::matrix::sample;

    fn columns_of(matrix: &Matrix) -> Vec<(Option<Outcome>, Vec<usize>, Vec<usize>)> {
        let grid = Grid::new(matrix);
        findings(&grid).into_iter().map(|found| (found.outcome, found.rows, found.columns)).collect()
    }

    #[test]
    fn what_kernels_and_trials_have_in_common_is_said_once() {
        let mut matrix = sample::matrix();
        assert_eq!(
            columns_of(&matrix),
            [
                (Some(Outcome::Failed), vec![2], vec![0, 1]),
                (Some(Outcome::LabFailure), vec![4], vec![0]),
                (None, vec![5], vec![0]),
            ]
        );
        // Two trials that the lab gave up for the same reason are one finding.
        for record in &mut matrix.kernels[1].records[4..6] {
            record.result = Outcome::LabFailure;
            let log = format!("the verifier refused a program\nin the folder of {}", record.trial());
            record.reasons = vec![log];
        }
        assert!(columns_of(&matrix).contains(&(Some(Outcome::LabFailure), vec![4, 5], vec![1])));
    }

    #[test]
    fn differences_have_the_common_text_beside_them() {
        let matrix = sample::matrix();
        let grid = Grid::new(&matrix);
        let found = differences(&grid);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].row, &found[0].columns[..], found[0].text), (1, &[0, 1][..], sample::OLD));
        assert_eq!(found[0].base, (sample::BASE, "snapshot".to_owned()));
        assert_eq!(found[0].declared.unwrap().name, "before-6.2");
        assert_eq!((found[1].row, found[1].declared), (2, None));
    }

    #[test]
    fn without_a_snapshot_the_newest_kernel_is_the_measure() {
        let mut matrix = sample::matrix();
        for run in &mut matrix.kernels {
            run.records[1].base = None;
            run.records[1].variant = None;
            run.records[1].result = Outcome::Failed;
        }
        let grid = Grid::new(&matrix);
        let found = differences(&grid);
        assert_eq!((found[0].row, &found[0].columns[..], found[0].base.1.as_str()), (1, &[0, 1][..], "7.3"));
    }

    #[test]
    fn reasons_and_costs_are_collected() {
        let matrix = sample::matrix();
        let grid = Grid::new(&matrix);
        let lacks = lacks(&grid);
        assert_eq!(lacks[0].reason, "kernel >=6.1: this is 5.10.0-46-amd64");
        assert_eq!((&lacks[0].rows[..], lacks[0].columns.get(&0)), (&[3][..], Some(&1)));
        let costs = costs(&grid);
        let rose: Vec<Vec<Option<bool>>> =
            costs.iter().map(|row| row.cells.iter().map(|cell| cell.map(|(_, rose)| rose)).collect()).collect();
        assert_eq!(rose, [[None, Some(false), Some(true)], [None, None, Some(false)]]);
        assert!(!names("flows_xdp2 rose", "flows_xdp"));
    }

    #[test]
    fn programs_that_were_not_measured_are_listed_by_reason() {
        let mut matrix = sample::matrix();
        for run in &mut matrix.kernels[1..] {
            run.costs[0].reason = Some("no fentry".to_owned());
        }
        assert_eq!(
            not_measured(&costs(&Grid::new(&matrix))),
            [("flows/flows_xdp".to_owned(), "no fentry", vec![1, 2])]
        );
        let page = crate::report::matrix::html::render(&matrix);
        assert!(page.contains("<td class=\"number\" title=\"no fentry\">not measured</td>"));
    }
}
