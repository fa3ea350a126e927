//! The grid of trials and kernels: computed once, shown by every page.

use std::collections::HashMap;

use crate::record::{GuestFailure, KernelRun, Matrix, Outcome, Record, with_mode};
use crate::scenario::Mode;

/// Trials down, kernels across.
#[derive(Clone, Debug)]
pub struct Grid<'a> {
    /// The kernels, in the order of the matrix.
    pub columns: Vec<Column<'a>>,
    /// The trials, family by family; families, and trials within one, in the order of the kernel with most records.
    pub rows: Vec<Row<'a>>,
}

/// One kernel.
#[derive(Clone, Debug)]
pub struct Column<'a> {
    /// All that it said.
    pub run: &'a KernelRun,
    /// How its trials ended.
    pub counts: Counts,
}

/// One trial on every kernel.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// `family/behaviour`; of a test `BINARY/NAME`.
    pub scenario: &'a str,
    /// The mode; a test has none.
    pub mode: Option<Mode>,
    /// One cell per kernel.
    pub cells: Vec<Cell<'a>>,
}

impl<'a> Row<'a> {
    /// `family/behaviour [mode]`.
    #[must_use]
    pub fn trial(&self) -> String {
        with_mode(self.scenario, self.mode)
    }

    /// What stands before the first slash; all of the name if there is none.
    #[must_use]
    pub fn family(&self) -> &'a str {
        self.scenario.split_once('/').map_or(self.scenario, |(family, _)| family)
    }

    /// What stands behind the family, with the mode if there is one.
    #[must_use]
    pub fn behaviour(&self) -> String {
        let behaviour = self.scenario.split_once('/').map_or(self.scenario, |(_, behaviour)| behaviour);
        with_mode(behaviour, self.mode)
    }
}

/// One trial on one kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cell<'a> {
    /// Its record; where a kernel gave several, the worst.
    pub record: Option<&'a Record>,
    /// What ended or marred the guest during this trial.
    pub failure: Option<&'a GuestFailure>,
}

impl<'a> Cell<'a> {
    /// How the trial ended. A guest failure during a trial is never a pass, whatever the record says; `None` is a trial
    /// that other kernels have a record of and this one has not.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match (self.record.map(|record| record.result), self.failure) {
            (None | Some(Outcome::Passed | Outcome::Differs | Outcome::Unsupported | Outcome::Skipped), Some(_)) => {
                Some(Outcome::LabFailure)
            }
            (outcome, _) => outcome,
        }
    }

    /// The reasons of its record.
    #[must_use]
    pub fn reasons(&self) -> &'a [String] {
        self.record.map_or(&[], |record| record.reasons.as_slice())
    }
}

/// How many trials of a kernel, or of all, ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    outcomes: [usize; Outcome::ALL.len()],
    /// Trials without a record.
    pub missing: usize,
}

impl Counts {
    /// Trials that ended as `outcome`.
    #[must_use]
    pub fn of(&self, outcome: Outcome) -> usize {
        self.outcomes[outcome as usize]
    }

    /// Trials that ran to a judgement: passed, differs as declared, or failed.
    #[must_use]
    pub fn judged(&self) -> usize {
        [Outcome::Passed, Outcome::Differs, Outcome::Failed].into_iter().map(|outcome| self.of(outcome)).sum()
    }

    fn add(&mut self, outcome: Option<Outcome>) {
        match outcome {
            Some(outcome) => self.outcomes[outcome as usize] += 1,
            None => self.missing += 1,
        }
    }
}

impl<'a> Grid<'a> {
    /// Lays out `matrix`.
    #[must_use]
    pub fn new(matrix: &'a Matrix) -> Self {
        let mut rows: Vec<Row<'a>> = Vec::new();
        let mut index: HashMap<(&str, Option<Mode>), usize> = HashMap::new();
        // The kernel with most records knows the order best: of one whose guest ended early, trials are missing between.
        let mut runs: Vec<(usize, &KernelRun)> = matrix.kernels.iter().enumerate().collect();
        runs.sort_by_key(|(_, run)| std::cmp::Reverse(run.records.len()));
        for (column, run) in runs {
            for record in &run.records {
                let row = *index.entry((record.scenario.as_str(), record.mode)).or_insert_with(|| {
                    let cells = vec![Cell::default(); matrix.kernels.len()];
                    rows.push(Row { scenario: &record.scenario, mode: record.mode, cells });
                    rows.len() - 1
                });
                let cell = &mut rows[row].cells[column];
                if cell.record.is_none_or(|other| severity(record.result) > severity(other.result)) {
                    cell.record = Some(record);
                }
            }
        }
        by_family(&mut rows);
        attach_failures(&mut rows, matrix);
        let columns = matrix.kernels.iter().enumerate().map(|(column, run)| {
            let mut counts = Counts::default();
            rows.iter().for_each(|row| counts.add(row.cells[column].outcome()));
            Column { run, counts }
        });
        Self { columns: columns.collect(), rows }
    }

    /// The rows, family by family.
    pub fn families(&self) -> impl Iterator<Item = &[Row<'a>]> {
        self.rows.chunk_by(|one, next| one.family() == next.family())
    }

    /// The counts of all kernels together.
    #[must_use]
    pub fn totals(&self) -> Counts {
        let mut counts = Counts::default();
        for row in &self.rows {
            row.cells.iter().for_each(|cell| counts.add(cell.outcome()));
        }
        counts
    }

    /// The outcomes that tables have a column for: most results have no skipped trial, and need none for them.
    pub fn outcomes(&self) -> impl Iterator<Item = Outcome> {
        let skipped = self.totals().of(Outcome::Skipped) > 0;
        Outcome::ALL.into_iter().filter(move |outcome| *outcome != Outcome::Skipped || skipped)
    }

    /// Names of the kernels in `columns`.
    #[must_use]
    pub fn names(&self, columns: &[usize]) -> Vec<&'a str> {
        columns.iter().map(|column| self.columns[*column].run.name.as_str()).collect()
    }

    /// Guest failures, each with its column, and with its row if that trial is known.
    pub fn guest_failures(&self) -> impl Iterator<Item = (usize, Option<usize>, &'a GuestFailure)> {
        self.columns.iter().enumerate().flat_map(move |(column, kernel)| {
            kernel.run.failures.iter().map(move |failure| {
                let is_this =
                    |row: &Row<'_>| row.cells[column].failure.is_some_and(|other| std::ptr::eq(other, failure));
                (column, self.rows.iter().position(is_this), failure)
            })
        })
    }
}

/// How bad an outcome is, for a trial that has two records on one kernel.
fn severity(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Unsupported | Outcome::Skipped => 0,
        Outcome::Passed => 1,
        Outcome::Differs => 2,
        Outcome::LabFailure => 3,
        Outcome::Failed => 4,
    }
}

/// Brings the rows of each family together: trials that only some kernels name come behind all others.
fn by_family(rows: &mut [Row<'_>]) {
    let mut order: HashMap<&str, usize> = HashMap::new();
    for row in rows.iter() {
        let next = order.len();
        order.entry(row.family()).or_insert(next);
    }
    rows.sort_by_key(|row| order.get(row.family()).copied());
}

fn attach_failures<'a>(rows: &mut [Row<'a>], matrix: &'a Matrix) {
    let index: HashMap<String, usize> = rows.iter().enumerate().map(|(row, found)| (found.trial(), row)).collect();
    for (column, run) in matrix.kernels.iter().enumerate() {
        for failure in &run.failures {
            if let Some(row) = failure.trial.as_ref().and_then(|trial| index.get(trial)) {
                rows[*row].cells[column].failure.get_or_insert(failure);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::matrix::sample;

    #[test]
    fn rows_are_trials_and_columns_kernels() {
        let matrix = sample::matrix();
        let grid = Grid::new(&matrix);
        let trials: Vec<String> = grid.rows.iter().map(Row::trial).collect();
        assert_eq!(trials, sample::TRIALS);
        let outcomes: Vec<Vec<Option<Outcome>>> =
            grid.rows.iter().map(|row| row.cells.iter().map(Cell::outcome).collect()).collect();
        use Outcome::{Differs, Failed, LabFailure, Passed, Unsupported};
        assert_eq!(
            outcomes,
            [
                [Some(Passed), Some(Passed), Some(Passed)],
                [Some(Differs), Some(Differs), Some(Passed)],
                [Some(Failed), Some(Failed), Some(Passed)],
                [Some(Unsupported), Some(Passed), Some(Passed)],
                [Some(LabFailure), Some(Passed), Some(Passed)],
                [None, Some(Passed), Some(Passed)],
            ]
        );
        let totals = grid.totals();
        assert_eq!((totals.of(Passed), totals.judged(), totals.missing), (11, 15, 1));
        assert_eq!(grid.columns[0].counts.of(Unsupported), 1);
    }

    #[test]
    fn a_test_has_no_mode_and_one_that_is_skipped_a_column_of_its_own() {
        let mut matrix = sample::matrix();
        assert_eq!(Grid::new(&matrix).outcomes().count(), Outcome::ALL.len() - 1);
        let kernel = matrix.kernels[0].records[0].kernel.clone();
        let mut record = Record::new("wire/tests::asks [twice]", None, kernel);
        record.result = Outcome::Skipped;
        record.reasons = vec!["ignored: takes long".to_owned()];
        matrix.kernels[0].records.push(record);
        let grid = Grid::new(&matrix);
        let row = grid.rows.iter().find(|row| row.family() == "wire").unwrap();
        assert_eq!((row.trial(), row.behaviour()), ("wire/tests::asks [twice]".into(), "tests::asks [twice]".into()));
        assert_eq!((row.cells[0].outcome(), grid.totals().of(Outcome::Skipped)), (Some(Outcome::Skipped), 1));
        assert_eq!(grid.totals().judged(), 15, "as without it");
        assert_eq!(grid.outcomes().count(), Outcome::ALL.len());
        let page = crate::report::matrix::terminal::render(&matrix, Default::default());
        assert!(page.contains("\nSkipped\n  ignored: takes long\n") && page.contains("1 skipped"), "{page}");
        let xml = crate::report::matrix::junit::render(&matrix);
        assert!(xml.contains("<skipped message=\"ignored: takes long\"/>"));
    }

    #[test]
    fn a_guest_failure_during_a_trial_is_no_pass() {
        let mut matrix = sample::matrix();
        let trial = matrix.kernels[1].records[0].trial();
        matrix.kernels[1].failures.push(GuestFailure { trial: Some(trial), ..sample::panic() });
        let grid = Grid::new(&matrix);
        assert_eq!(grid.rows[0].cells[1].outcome(), Some(Outcome::LabFailure));
        assert_eq!(
            grid.guest_failures().map(|(column, row, _)| (column, row)).collect::<Vec<_>>(),
            [(0, Some(4)), (1, Some(0))]
        );
    }

    #[test]
    fn of_two_records_of_a_trial_the_worse_counts() {
        let mut matrix = sample::matrix();
        let mut again = matrix.kernels[2].records[0].clone();
        again.result = Outcome::Failed;
        matrix.kernels[2].records.push(again);
        assert_eq!(Grid::new(&matrix).rows[0].cells[2].outcome(), Some(Outcome::Failed));
    }
}
