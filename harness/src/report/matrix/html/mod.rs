//! The page as one HTML file: nothing outside it is loaded, and it can be read without its script.

mod compare;
mod sections;

use std::fmt::Write as _;

use super::details;
use super::grid::{Cell, Grid, Row};
use super::terminal::{mark, summary};
use super::text::{count, escape, line};
use crate::record::{Matrix, Outcome};

const TEMPLATE: &str = include_str!("../../../../../reports/templates/matrix.html");
const STYLE: &str = include_str!("../../../../../reports/templates/matrix.css");
const SCRIPT: &str = include_str!("../../../../../reports/templates/matrix.js");

/// Renders `matrix`.
#[must_use]
pub fn render(matrix: &Matrix) -> String {
    let grid = Grid::new(matrix);
    let mut page = Page { html: String::new(), grid: &grid, targets: Targets::new(&grid) };
    page.header(matrix);
    page.trials(matrix);
    sections::write(&mut page, matrix);
    fill(&[("title", "Kernel matrix"), ("style", STYLE), ("body", &page.html), ("script", SCRIPT)])
}

/// The template with `{{NAME}}` replaced, each once and in order: what is filled in is never searched.
fn fill(parts: &[(&str, &str)]) -> String {
    let mut rest = TEMPLATE;
    let mut text = String::new();
    for (name, part) in parts {
        if let Some((before, after)) = rest.split_once(&format!("{{{{{name}}}}}")) {
            text.push_str(before);
            text.push_str(part);
            rest = after;
        }
    }
    text + rest
}

/// The page so far, and what it is made from.
struct Page<'a> {
    html: String,
    grid: &'a Grid<'a>,
    targets: Targets,
}

/// Where the cells of each row link to: what stands below, by its id.
struct Targets {
    cells: Vec<Vec<Option<String>>>,
}

impl Targets {
    fn new(grid: &Grid<'_>) -> Self {
        let mut cells = vec![vec![None; grid.columns.len()]; grid.rows.len()];
        let mut set = |rows: &[usize], columns: &mut dyn Iterator<Item = usize>, id: &str| {
            for column in columns {
                for row in rows {
                    cells[*row][column].get_or_insert_with(|| id.to_owned());
                }
            }
        };
        for (number, finding) in details::findings(grid).iter().enumerate() {
            set(&finding.rows, &mut finding.columns.iter().copied(), &format!("finding-{number}"));
        }
        for (number, difference) in details::differences(grid).iter().enumerate() {
            set(&[difference.row], &mut difference.columns.iter().copied(), &format!("difference-{number}"));
        }
        for (number, lack) in details::lacks(grid).iter().enumerate() {
            for (column, trials) in &lack.columns {
                // The rows of a reason are those of all its kernels; only the cells that ended so among them are linked.
                let rows: Vec<usize> = lack
                    .rows
                    .iter()
                    .copied()
                    .filter(|row| grid.rows[*row].cells[*column].outcome() == Some(lack.outcome))
                    .collect();
                debug_assert!(rows.len() >= *trials);
                set(&rows, &mut std::iter::once(*column), &format!("lack-{number}"));
            }
        }
        Self { cells }
    }
}

/// Class of a cell or badge.
fn class(outcome: Option<Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::Passed) => "passed",
        Some(Outcome::Differs) => "differs",
        Some(Outcome::Failed) => "failed",
        Some(Outcome::Unsupported) => "unsupported",
        Some(Outcome::Skipped) => "skipped",
        Some(Outcome::LabFailure) => "lab",
        None => "none",
    }
}

impl Page<'_> {
    fn put(&mut self, text: impl AsRef<str>) {
        self.html.push_str(text.as_ref());
        self.html.push('\n');
    }

    fn header(&mut self, matrix: &Matrix) {
        self.put("<header><h1>Kernel matrix</h1>");
        self.put(format!("<p>{}, in {:.1} s</p>", escape(&summary(matrix)), matrix.wall_s));
        self.put("</header>");
    }

    fn trials(&mut self, matrix: &Matrix) {
        self.put(format!("<nav aria-label=\"Sections\">{}</nav>", sections::links(matrix, self.grid)));
        self.put(
            "<div class=\"tools\" id=\"tools\" hidden><label>Trials that contain <input type=\"search\" id=\"filter\"></label>\
             <label><input type=\"checkbox\" id=\"only\"> only failures and differences</label>\
             <span class=\"dim\" id=\"shown\" role=\"status\"></span></div>",
        );
        self.put(
            "<div class=\"scroll grid\" tabindex=\"0\" role=\"region\" aria-label=\"Trials on each kernel\"><table>",
        );
        self.put(format!("<thead><tr><th scope=\"col\">trial</th>{}</tr></thead>", self.kernel_titles()));
        let grid = self.grid;
        let mut number = 0;
        for family in grid.families() {
            self.put("<tbody class=\"family\">");
            self.put(format!(
                "<tr class=\"family\"><th scope=\"rowgroup\">{} <span class=\"dim\">{}</span></th>{}</tr>",
                escape(&line(family[0].family())),
                family.len(),
                "<td></td>".repeat(grid.columns.len())
            ));
            for row in family {
                self.trial(row, number);
                number += 1;
            }
            self.put("</tbody>");
        }
        self.put("</table></div>");
        let outcomes = grid.outcomes().map(Some).chain([None]);
        let legend = outcomes.map(|outcome| {
            let text = outcome.map_or("no record of this trial", Outcome::text);
            format!("<span class=\"badge {}\">{}</span> {text}", class(outcome), mark(outcome))
        });
        self.put(format!("<p class=\"legend\">{}</p>", legend.collect::<Vec<_>>().join(" &nbsp; ")));
    }

    /// Column titles for a table of kernels.
    fn kernel_titles(&self) -> String {
        let mut titles = String::new();
        for column in &self.grid.columns {
            let (name, release) = (escape(&line(&column.run.name)), escape(&line(&column.run.release)));
            let _ = write!(titles, "<th scope=\"col\"><div class=\"kernel\" title=\"{release}\">{name}</div></th>");
        }
        titles
    }

    fn trial(&mut self, row: &Row<'_>, number: usize) {
        let unremarkable =
            |cell: &Cell<'_>| matches!(cell.outcome(), Some(Outcome::Passed | Outcome::Unsupported | Outcome::Skipped));
        let remarkable = if row.cells.iter().all(unremarkable) { "" } else { " data-remarkable" };
        let mut html = format!(
            "<tr class=\"trial\" data-name=\"{}\"{remarkable}><th scope=\"row\">{}</th>",
            escape(&line(&row.trial())),
            escape(&line(&row.behaviour()))
        );
        for (column, cell) in row.cells.iter().enumerate() {
            let outcome = cell.outcome();
            let (class, mark) = (class(outcome), mark(outcome));
            let title = cell.record.map_or_else(
                || "no record".to_owned(),
                |record| format!("{}, {} ms", outcome.map_or("no record", Outcome::text), record.duration_ms),
            );
            let text = match &self.targets.cells[number][column] {
                Some(id) => format!("<a href=\"#{id}\">{mark}</a>"),
                None => mark.to_owned(),
            };
            let _ = write!(html, "<td class=\"{class}\" title=\"{title}\">{text}</td>");
        }
        html.push_str("</tr>");
        self.put(html);
    }

    /// Names of kernels in text.
    fn names(&self, columns: &[usize]) -> String {
        self.grid.names(columns).into_iter().map(|name| escape(&line(name))).collect::<Vec<_>>().join(", ")
    }

    /// A trial's name in text.
    fn trial_name(&self, row: usize) -> String {
        escape(&line(&self.grid.rows[row].trial()))
    }
}

/// How many of something, in a heading.
fn heading(id: &str, name: &str, number: usize, what: &str) -> String {
    format!("<section id=\"{id}\"><h2>{name} <span class=\"dim\">{}</span></h2>", count(number, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::matrix::sample;

    #[test]
    fn the_page_has_everything_and_every_link_leads_somewhere() {
        let html = render(&sample::matrix());
        for expected in [
            "<td class=\"failed\" title=\"failed, 120 ms\"><a href=\"#finding-0\">FAIL</a></td>",
            "<td class=\"differs\" title=\"differs as declared, 120 ms\"><a href=\"#difference-0\">differs</a></td>",
            "<td class=\"unsupported\" title=\"unsupported, 120 ms\"><a href=\"#lack-0\">unsup</a></td>",
            "<td class=\"lab\" title=\"no record\"><a href=\"#finding-1\">LAB</a></td>",
            "<td class=\"text old\">-   NO_SOCKET on server: udp x 1</td>",
            "reasons came with commit c504e5c2f964",
            "kernel panic",
            "[    9.1] sysrq: Trigger a crash",
            "kernel &gt;=6.1: this is 5.10.0-46-amd64",
            "<td class=\"number rose\"",
            "30 % more than the committed 1000",
        ] {
            assert!(html.contains(expected), "no {expected} in\n{html}");
        }
        let mut links = 0;
        for link in html.split("href=\"#").skip(1) {
            let id = link.split('"').next().unwrap();
            assert_eq!(html.matches(&format!("id=\"{id}\"")).count(), 1, "{id}");
            links += 1;
        }
        assert!(links > 8, "{links}");
        for outside in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
    }

    #[test]
    fn nothing_that_a_guest_says_becomes_markup() {
        let mut matrix = sample::matrix();
        sample::make_hostile(&mut matrix);
        let html = render(&matrix);
        assert_eq!(html.matches("<script>").count(), 1);
        assert_eq!(html.matches("</script>").count(), 1);
        assert!(!html.contains("alert(1)</script>") && html.contains("&lt;script&gt;alert(1)"));
        assert!(html.chars().all(|letter| letter == '\n' || !letter.is_control()));
        assert!(html.contains("{{grid}}"), "what is filled in is text");
    }

    #[test]
    fn an_empty_result_is_a_page_too() {
        assert!(render(&Matrix::default()).contains("0 trials on 0 kernels"));
    }
}
