//! The page for people at a terminal: a mark per trial and kernel, and below it why.

mod sections;

use std::fmt::Write as _;

use console::{Style, measure_text_width};

use super::grid::{Cell, Counts, Grid, Row};
use super::text::{count, cut, line, plain};
use crate::record::{Matrix, Outcome};

/// How the page is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Use colours.
    pub colours: bool,
    /// Letters in a line; the grid is cut into blocks of kernels that fit. 0 is no limit.
    pub width: usize,
    /// Show a family in one line where all of it passed, differed as declared, is unsupported or skipped.
    pub fold: bool,
}

impl Default for Layout {
    fn default() -> Self {
        Self { colours: false, width: 120, fold: false }
    }
}

/// Letters of the narrowest column of names.
const NAMES: usize = 24;
/// Letters of the widest.
const LONG_NAMES: usize = 60;
/// The mark of an outcome in the grid.
#[must_use]
pub fn mark(outcome: Option<Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::Passed) => "ok",
        Some(Outcome::Differs) => "differs",
        Some(Outcome::Failed) => "FAIL",
        Some(Outcome::Unsupported) => "unsup",
        Some(Outcome::Skipped) => "skip",
        Some(Outcome::LabFailure) => "LAB",
        None => "none",
    }
}

/// The title of an outcome's column among the kernels.
#[must_use]
pub const fn title(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Differs => "differs",
        Outcome::Failed => "failed",
        Outcome::Unsupported => "unsup",
        Outcome::Skipped => "skipped",
        Outcome::LabFailure => "lab",
    }
}

/// Renders `matrix`.
#[must_use]
pub fn render(matrix: &Matrix, layout: Layout) -> String {
    let grid = Grid::new(matrix);
    let mut page = Page { text: String::new(), layout };
    page.line(format!(
        "{} on {}, {:.1} s",
        count(grid.rows.len(), "trial"),
        count(grid.columns.len(), "kernel"),
        matrix.wall_s
    ));
    trials(&mut page, &grid);
    kernels(&mut page, &grid);
    sections::findings(&mut page, &grid);
    sections::guests(&mut page, &grid);
    sections::differences(&mut page, &grid);
    sections::lacks(&mut page, &grid);
    sections::costs(&mut page, &grid);
    if !matrix.problems.is_empty() {
        page.heading("Problems of the list");
        for problem in &matrix.problems {
            let text = page.bad().apply_to(line(problem)).to_string();
            page.line(format!("  {text}"));
        }
    }
    page.line("");
    page.line(summary(matrix));
    page.text
}

/// The result in one line.
#[must_use]
pub fn summary(matrix: &Matrix) -> String {
    let grid = Grid::new(matrix);
    let totals = grid.totals();
    let mut parts = vec![format!("{} passed", totals.of(Outcome::Passed))];
    let rises: usize = matrix.kernels.iter().map(|run| run.cost_rises.len()).sum();
    let guests: usize = matrix.kernels.iter().map(|run| run.failures.len()).sum();
    let counted = |number: usize, text: &str| (number > 0).then(|| format!("{number} {text}"));
    let named = |number: usize, text: &str| (number > 0).then(|| count(number, text));
    parts.extend(counted(totals.of(Outcome::Differs), "differ as declared"));
    parts.push(format!("{} failed", totals.of(Outcome::Failed)));
    parts.push(format!("{} unsupported", totals.of(Outcome::Unsupported)));
    parts.extend(counted(totals.of(Outcome::Skipped), "skipped"));
    parts.push(count(totals.of(Outcome::LabFailure), "lab failure"));
    parts.extend(counted(totals.missing, "without a record"));
    parts.extend(named(guests, "guest failure"));
    parts.extend(named(rises, "cost rise"));
    parts.extend(named(matrix.problems.len(), "problem"));
    format!("{} on {}: {}", count(grid.rows.len(), "trial"), count(grid.columns.len(), "kernel"), parts.join(", "))
}

struct Page {
    text: String,
    layout: Layout,
}

impl Page {
    fn line(&mut self, text: impl AsRef<str>) {
        let _ = writeln!(self.text, "{}", text.as_ref().trim_end());
    }

    fn style(&self) -> Style {
        Style::new().force_styling(self.layout.colours)
    }

    fn bad(&self) -> Style {
        self.style().red().bold()
    }

    fn heading(&mut self, name: &str) {
        let name = self.style().bold().apply_to(name).to_string();
        self.line("");
        self.line(name);
    }

    fn of(&self, outcome: Option<Outcome>) -> Style {
        match outcome {
            Some(Outcome::Passed) => self.style().green(),
            Some(Outcome::Differs) => self.style().cyan(),
            Some(Outcome::Unsupported | Outcome::Skipped) => self.style().yellow(),
            Some(Outcome::Failed | Outcome::LabFailure) | None => self.bad(),
        }
    }

    /// At most `most` lines of `text`, indented; lines of a diff in its colours.
    fn block(&mut self, text: &str, most: usize) {
        let text = plain(text.trim_end()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        for text in &lines[..lines.len().min(most)] {
            let style = match text.chars().next() {
                Some('+') => self.style().green(),
                Some('-') => self.style().red(),
                _ => self.style(),
            };
            self.line(format!("      {}", style.apply_to(text.trim_end())));
        }
        if lines.len() > most {
            self.line(format!("      ... and {} (the JSON file has all)", count(lines.len() - most, "more line")));
        }
    }

    /// Rows under column titles; all columns but the first stand right.
    fn table(&mut self, rows: &[Vec<String>]) {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| measure_text_width(cell)).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for (place, row) in rows.iter().enumerate() {
            let mut text = String::new();
            for (column, cell) in row.iter().enumerate() {
                let padding = " ".repeat(widths[column] - measure_text_width(cell));
                let _ = if column == 0 { write!(text, "  {cell}{padding}") } else { write!(text, "  {padding}{cell}") };
            }
            let style = if place == 0 { self.style().dim() } else { self.style() };
            self.line(style.apply_to(text.trim_end()).to_string());
        }
    }
}

/// A line of the grid: a name, and a text for each kernel with the outcome that colours it.
struct Line {
    name: String,
    cells: Vec<(String, Option<Option<Outcome>>)>,
}

fn trials(page: &mut Page, grid: &Grid<'_>) {
    let mut lines = Vec::new();
    for family in grid.families() {
        let bad = |cell: &Cell<'_>| matches!(cell.outcome(), None | Some(Outcome::Failed | Outcome::LabFailure));
        if page.layout.fold && !family.iter().any(|row| row.cells.iter().any(bad)) {
            lines.push(folded(family, grid.columns.len()));
            continue;
        }
        lines.push(Line { name: line(family[0].family()), cells: Vec::new() });
        lines.extend(family.iter().map(|row| Line {
            name: format!("  {}", line(&row.behaviour())),
            cells: row.cells.iter().map(|cell| (mark(cell.outcome()).to_owned(), Some(cell.outcome()))).collect(),
        }));
    }
    let titles: Vec<String> = grid.columns.iter().map(|column| cut(&line(&column.run.name), 16)).collect();
    let widths: Vec<usize> = titles
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = lines.iter().filter_map(|line| line.cells.get(column)).map(|cell| cell.0.len());
            cells.max().unwrap_or(0).max(title.chars().count())
        })
        .collect();
    let longest = lines.iter().map(|line| line.name.chars().count()).max().unwrap_or(0);
    let room = if page.layout.width == 0 { usize::MAX } else { page.layout.width };
    let all: usize = widths.iter().map(|width| width + 2).sum();
    let names = longest.min(LONG_NAMES).min(room.saturating_sub(all).max(NAMES));
    for block in blocks(&widths, room.saturating_sub(names)) {
        page.line("");
        let title: String =
            block.clone().map(|column| format!("  {:<width$}", titles[column], width = widths[column])).collect();
        let title = format!("{:names$}{title}", "");
        let title = page.style().dim().apply_to(title.trim_end()).to_string();
        page.line(title);
        for row in &lines {
            let name = cut(&row.name, names);
            let mut text = if row.cells.is_empty() { name } else { format!("{name:<names$}") };
            for column in block.clone() {
                let Some((cell, outcome)) = row.cells.get(column) else { continue };
                let style = outcome.map_or_else(|| page.style(), |outcome| page.of(outcome));
                let padding = " ".repeat(widths[column].saturating_sub(cell.len()));
                let _ = write!(text, "  {}{padding}", style.apply_to(cell));
            }
            page.line(text);
        }
    }
}

/// A family in one line: how many of its trials passed on each kernel, declared differences included.
fn folded(family: &[Row<'_>], columns: usize) -> Line {
    let cell = |column: usize| {
        let number = |outcome| family.iter().filter(|row| row.cells[column].outcome() == Some(outcome)).count();
        let apart = [Outcome::Unsupported, Outcome::Skipped].map(|outcome| (outcome, number(outcome)));
        let passed = family.len() - apart.iter().map(|(_, number)| number).sum::<usize>();
        let mut text = format!("{passed} ok");
        let mut colour = Outcome::Passed;
        for (outcome, number) in apart.into_iter().filter(|(_, number)| *number > 0) {
            let _ = write!(text, " {number} {}", mark(Some(outcome)));
            colour = outcome;
        }
        (text, Some(Some(colour)))
    };
    Line { name: line(family[0].family()), cells: (0..columns).map(cell).collect() }
}

/// Ranges of columns that fit in `room` letters, each with at least one.
fn blocks(widths: &[usize], room: usize) -> Vec<std::ops::Range<usize>> {
    let mut blocks = Vec::new();
    let (mut start, mut used) = (0, 0);
    for (column, width) in widths.iter().enumerate() {
        if column > start && used + width + 2 > room {
            blocks.push(start..column);
            (start, used) = (column, 0);
        }
        used += width + 2;
    }
    if start < widths.len() {
        blocks.push(start..widths.len());
    }
    blocks
}

fn kernels(page: &mut Page, grid: &Grid<'_>) {
    page.heading("Kernels  times in seconds");
    let outcomes = grid.outcomes().map(title);
    let rest = ["none", "guests", "boot", "trials", "exit", "release", "runner"];
    let titles = ["kernel"].into_iter().chain(outcomes).chain(rest);
    let mut rows = vec![titles.map(str::to_owned).collect::<Vec<_>>()];
    for column in &grid.columns {
        let run = column.run;
        let Counts { missing, .. } = column.counts;
        let mut row = vec![cut(&line(&run.name), 16)];
        row.extend(grid.outcomes().map(|outcome| column.counts.of(outcome).to_string()));
        row.extend([missing.to_string(), run.guests.len().to_string()]);
        let times = [
            run.guests.iter().map(|guest| guest.boot_s).sum::<f64>(),
            run.guests.iter().map(|guest| guest.trials_s).sum(),
            run.guests.iter().map(|guest| guest.exit_s).sum(),
        ];
        row.extend(times.map(|time| format!("{time:.1}")));
        row.extend([&run.release, &run.runner].map(|text| {
            let text = line(text);
            if text.is_empty() { "-".to_owned() } else { cut(&text, 32) }
        }));
        rows.push(row);
    }
    page.table(&rows);
    let mut images: Vec<(String, Vec<usize>)> = Vec::new();
    for (column, kernel) in grid.columns.iter().enumerate() {
        let text = line(&kernel.run.acceleration);
        match images.iter_mut().find(|(other, _)| *other == text) {
            Some((_, columns)) => columns.push(column),
            None => images.push((text, vec![column])),
        }
    }
    for (acceleration, columns) in images.iter().filter(|(text, _)| !text.is_empty()) {
        page.line(format!("  {} by {acceleration}", names(grid, columns)));
    }
}

fn names(grid: &Grid<'_>, columns: &[usize]) -> String {
    grid.names(columns).into_iter().map(|name| cut(&line(name), 32)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::matrix::sample;

    #[test]
    fn the_page_of_the_sample() {
        insta::assert_snapshot!(render(&sample::matrix(), Layout::default()));
    }

    #[test]
    fn narrow_pages_have_blocks_of_kernels() {
        let page = render(&sample::matrix(), Layout { width: 42, ..Layout::default() });
        let titles: Vec<&str> =
            page.lines().filter(|line| line.starts_with(&" ".repeat(NAMES))).map(str::trim).collect();
        assert_eq!(titles[..2], ["5.10     6.1", "7.3"]);
    }

    #[test]
    fn what_is_well_can_be_folded() {
        let page = render(&sample::matrix(), Layout { fold: true, ..Layout::default() });
        let line = |start: &str| {
            page.lines().find(|line| line.starts_with(start)).unwrap().split_whitespace().collect::<Vec<_>>()
        };
        assert_eq!(line("flows "), ["flows", "1", "ok", "1", "ok", "1", "ok"]);
        assert_eq!(line("drops "), ["drops", "1", "ok", "1", "ok", "1", "ok"]);
        assert!(page.contains("  window [wire]"), "a family with a failure is shown whole:\n{page}");
    }

    #[test]
    fn colours_come_on_demand_and_only_from_here() {
        let mut matrix = sample::matrix();
        sample::make_hostile(&mut matrix);
        let plain = render(&matrix, Layout::default());
        assert!(plain.chars().all(|letter| letter == '\n' || !letter.is_control()), "{plain:?}");
        // The grid and all tables keep to the line; a reason, or the name where it is the matter, may be longer.
        let (grid, _) = plain.split_once("\nFailed\n").unwrap();
        for text in grid.lines().filter(|line| !line.contains(" by ")) {
            assert!(text.chars().count() < 200, "{text}");
        }
        let coloured = render(&matrix, Layout { colours: true, ..Layout::default() });
        assert_eq!(console::strip_ansi_codes(&coloured), plain);
        assert!(!coloured.contains("\u{1b}[2J") && coloured.contains("\u{1b}[31m"));
    }

    #[test]
    fn an_empty_result_is_a_page_too() {
        let page = render(&Matrix::default(), Layout::default());
        assert!(page.ends_with("0 trials on 0 kernels: 0 passed, 0 failed, 0 unsupported, 0 lab failures\n"), "{page}");
    }
}
