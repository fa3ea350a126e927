//! What reports for a terminal are made of: fields, headings, tables.

use std::fmt::Write as _;

use console::{Style, measure_text_width};

/// How the report is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Use colours.
    pub colours: bool,
    /// Rows per table; the rest is counted in one line.
    pub rows: usize,
}

impl Default for Layout {
    fn default() -> Self {
        Self { colours: false, rows: 10 }
    }
}

/// A page that grows line by line.
pub(super) struct Page {
    pub(super) text: String,
    pub(super) layout: Layout,
}

impl Page {
    pub(super) const fn new(layout: Layout) -> Self {
        Self { text: String::new(), layout }
    }

    pub(super) fn line(&mut self, text: impl AsRef<str>) {
        let _ = writeln!(self.text, "{}", text.as_ref().trim_end());
    }

    pub(super) fn style(&self) -> Style {
        Style::new().force_styling(self.layout.colours)
    }

    pub(super) fn field(&mut self, name: &str, text: impl AsRef<str>) {
        let name = self.style().bold().apply_to(format!("{name:<10}")).to_string();
        self.line(format!("{name} {}", text.as_ref()));
    }

    pub(super) fn heading(&mut self, name: &str, detail: &str) {
        let name = self.style().bold().apply_to(name).to_string();
        self.line("");
        self.line(if detail.is_empty() { name } else { format!("{name}  {detail}") });
    }

    pub(super) fn warn(&self, text: &str) -> String {
        self.style().yellow().apply_to(text).to_string()
    }

    pub(super) fn bad(&self, text: &str) -> String {
        self.style().red().bold().apply_to(text).to_string()
    }

    /// Rows under column titles, each column as wide as its widest cell; numbers stand right.
    pub(super) fn table(&mut self, titles: &[&str], rows: &[Vec<String>]) {
        let shown = &rows[..rows.len().min(self.layout.rows)];
        let widths: Vec<usize> = titles
            .iter()
            .enumerate()
            .map(|(column, title)| {
                let cells = shown.iter().filter_map(|row| row.get(column)).map(|cell| measure_text_width(cell));
                cells.max().unwrap_or(0).max(title.len())
            })
            .collect();
        let dim = self.style().dim();
        let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
        let title = align(&titles, &widths, shown.first());
        self.line(format!("  {}", dim.apply_to(title)));
        for row in shown {
            let line = align(row, &widths, Some(row));
            self.line(format!("  {line}"));
        }
        if rows.len() > shown.len() {
            let more = format!("... and {} more (--rows 0 shows all, --json has them)", rows.len() - shown.len());
            self.line(format!("  {}", dim.apply_to(more)));
        }
    }
}

/// Pads `cells` to `widths`; a column is set right where `like` holds a number in it.
fn align(cells: &[String], widths: &[usize], like: Option<&Vec<String>>) -> String {
    let mut line = String::new();
    for (column, cell) in cells.iter().enumerate() {
        let width = widths.get(column).copied().unwrap_or(0);
        let padding = " ".repeat(width.saturating_sub(measure_text_width(cell)));
        let sample = like.and_then(|row| row.get(column)).map_or("", String::as_str);
        let number = sample.starts_with(|first: char| first.is_ascii_digit()) && !sample.contains(['.', ':', '/'])
            || sample.ends_with("us")
            || sample.ends_with("ms");
        if number {
            let _ = write!(line, "{padding}{cell}  ");
        } else {
            let _ = write!(line, "{cell}{padding}  ");
        }
    }
    line
}
