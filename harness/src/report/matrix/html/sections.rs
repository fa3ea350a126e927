//! What stands below the grid.

use std::fmt::Write as _;

use super::compare::side_by_side;
use super::{Page, class, heading};
use crate::record::{Matrix, Outcome, ProgramCost};
use crate::report::matrix::details::{self, Difference, Finding};
use crate::report::matrix::grid::Grid;
use crate::report::matrix::terminal::title;
use crate::report::matrix::text::{count, escape, line, plain};

/// Writes all sections that have anything to say.
pub fn write(page: &mut Page<'_>, matrix: &Matrix) {
    if !matrix.problems.is_empty() {
        page.put(heading("problems", "Problems of the list", matrix.problems.len(), "problem"));
        let items: String =
            matrix.problems.iter().map(|problem| format!("<li>{}</li>", escape(&line(problem)))).collect();
        page.put(format!("<ul>{items}</ul></section>"));
    }
    kernels(page);
    findings(page);
    guests(page);
    differences(page);
    lacks(page);
    costs(page);
}

/// Links to the sections that there are.
pub fn links(matrix: &Matrix, grid: &Grid<'_>) -> String {
    let sections = [
        ("problems", "Problems", !matrix.problems.is_empty()),
        ("kernels", "Kernels and times", !grid.columns.is_empty()),
        ("findings", "Failures", !details::findings(grid).is_empty()),
        ("guests", "Guest failures", grid.guest_failures().next().is_some()),
        ("differences", "Differences", !details::differences(grid).is_empty()),
        ("lacks", lacks_title(grid), !details::lacks(grid).is_empty()),
        ("costs", "Verifier cost", has_costs(grid)),
    ];
    sections.iter().filter(|(.., there)| *there).map(|(id, name, _)| format!("<a href=\"#{id}\">{name}</a>")).collect()
}

fn has_costs(grid: &Grid<'_>) -> bool {
    grid.columns.iter().any(|column| !column.run.costs.is_empty() || !column.run.cost_rises.is_empty())
}

fn badge(outcome: Option<Outcome>) -> String {
    format!("<span class=\"badge {}\">{}</span>", class(outcome), outcome.map_or("no record", Outcome::text))
}

fn kernels(page: &mut Page<'_>) {
    let grid = page.grid;
    if grid.columns.is_empty() {
        return;
    }
    page.put(heading("kernels", "Kernels", grid.columns.len(), "kernel"));
    page.put("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Kernels\"><table><thead><tr>");
    let rest = ["none", "guests", "boot", "trials", "exit", "runner"];
    let titles = ["kernel", "release", "version"].into_iter().chain(grid.outcomes().map(title)).chain(rest);
    page.put(titles.map(|title| format!("<th scope=\"col\">{title}</th>")).collect::<String>());
    page.put("</tr></thead><tbody>");
    for column in &grid.columns {
        let run = column.run;
        let mut row = format!("<tr><th scope=\"row\">{}</th>", escape(&line(&run.name)));
        let text = |text: &str, more: &str| {
            format!("<td>{}<div class=\"dim more\">{}</div></td>", escape(&line(text)), escape(&line(more)))
        };
        let number = |text: String| format!("<td class=\"number\">{text}</td>");
        row += &text(&run.release, "");
        let image: String = line(&run.sha256).chars().take(16).collect();
        let image = if image.is_empty() { image } else { format!("SHA-256 {image}...") };
        row += &text(&run.version, &image);
        for outcome in grid.outcomes() {
            row += &number(column.counts.of(outcome).to_string());
        }
        row += &number(column.counts.missing.to_string());
        row += &number(run.guests.len().to_string());
        for time in [
            run.guests.iter().map(|guest| guest.boot_s).sum::<f64>(),
            run.guests.iter().map(|guest| guest.trials_s).sum(),
            run.guests.iter().map(|guest| guest.exit_s).sum(),
        ] {
            row += &number(format!("{time:.1}"));
        }
        row += &text(&run.runner, &run.acceleration);
        row += "</tr>";
        page.put(row);
    }
    page.put(
        "</tbody></table></div><p class=\"dim\">Times of all guests of a kernel together, in seconds.</p></section>",
    );
}

fn findings(page: &mut Page<'_>) {
    let all = details::findings(page.grid);
    if all.is_empty() {
        return;
    }
    page.put(heading("findings", "Failures", all.len(), "finding"));
    let differences = details::differences(page.grid);
    for (number, finding) in all.iter().enumerate() {
        article(page, number, finding, &differences);
    }
    page.put("</section>");
}

fn article(page: &mut Page<'_>, number: usize, finding: &Finding<'_>, differences: &[Difference<'_>]) {
    page.put(format!("<article id=\"finding-{number}\">"));
    let others: String = finding.rows[1..].iter().map(|row| format!("<li>{}</li>", page.trial_name(*row))).collect();
    page.put(format!("<h3>{}</h3>", page.trial_name(finding.rows[0])));
    if !others.is_empty() {
        let also = count(finding.rows.len() - 1, "more trial");
        page.put(format!("<details><summary>and {also}</summary><ul>{others}</ul></details>"));
    }
    page.put(format!("<p>{} on {}</p>", badge(finding.outcome), page.names(&finding.columns)));
    for reason in &finding.reasons {
        page.put(diff_block(reason));
    }
    for (place, difference) in differences.iter().enumerate() {
        let is_told = finding.rows.contains(&difference.row)
            && difference.columns.iter().any(|column| finding.columns.contains(column));
        if is_told {
            let trial = page.trial_name(difference.row);
            page.put(format!("<p><a href=\"#difference-{place}\">{trial}: the texts side by side</a></p>"));
        }
    }
    page.put("</article>");
}

/// A reason; lines that begin as those of a diff are marked.
fn diff_block(reason: &str) -> String {
    let lines = plain(reason.trim_end())
        .lines()
        .map(|line| {
            let class = match line.chars().next() {
                Some('+') => "plus",
                Some('-') => "minus",
                _ => return escape(line),
            };
            format!("<span class=\"{class}\">{}</span>", escape(line))
        })
        .collect::<Vec<_>>();
    format!("<pre>{}</pre>", lines.join("\n"))
}

fn guests(page: &mut Page<'_>) {
    let grid = page.grid;
    let all: Vec<_> = grid.guest_failures().collect();
    if all.is_empty() {
        return;
    }
    page.put(heading("guests", "Guest failures", all.len(), "failure"));
    for (column, _, failure) in all {
        page.put(format!("<article><h3>{}: {}</h3>", page.names(&[column]), failure.kind.text()));
        let during = failure.trial.as_ref().map_or_else(String::new, |trial| format!("during {}: ", line(trial)));
        page.put(format!("<p>{}{}</p>", escape(&during), escape(&line(&failure.message))));
        if !failure.console.is_empty() {
            page.put(format!("<pre>{}</pre>", escape(failure.console.join("\n").trim_end())));
        }
        page.put("</article>");
    }
    page.put("</section>");
}

fn differences(page: &mut Page<'_>) {
    let all = details::differences(page.grid);
    if all.is_empty() {
        return;
    }
    page.put(heading("differences", "Differences between kernels", all.len(), "difference"));
    for (number, difference) in all.iter().enumerate() {
        let Difference { row, columns, outcome, declared, base, text } = difference;
        page.put(format!("<article id=\"difference-{number}\"><h3>{}</h3>", page.trial_name(*row)));
        page.put(format!("<p>{} on {}</p>", badge(*outcome), page.names(columns)));
        page.put(declared.map_or_else(
            || "<p>No difference is declared.</p>".to_owned(),
            |variant| {
                format!(
                    "<p>Declared as <code>{}</code> for kernels <code>{}</code>: {}</p>",
                    escape(&line(&variant.name)),
                    escape(&line(&variant.kernel)),
                    escape(&line(&variant.reason))
                )
            },
        ));
        let title = page.grid.names(columns).into_iter().map(line).collect::<Vec<_>>().join(", ");
        page.put(side_by_side([&line(&base.1), &title], base.0, text));
        page.put("</article>");
    }
    page.put("</section>");
}

fn lacks_title(grid: &Grid<'_>) -> &'static str {
    if grid.totals().of(Outcome::Skipped) > 0 { "Unsupported and skipped" } else { "Unsupported" }
}

fn lacks(page: &mut Page<'_>) {
    let all = details::lacks(page.grid);
    if all.is_empty() {
        return;
    }
    page.put(heading("lacks", lacks_title(page.grid), all.len(), "reason"));
    for (number, lack) in all.iter().enumerate() {
        let kernels: Vec<String> = lack
            .columns
            .iter()
            .map(|(column, trials)| format!("{} ({})", page.names(&[*column]), count(*trials, "trial")))
            .collect();
        let trials: String = lack.rows.iter().map(|row| format!("<li>{}</li>", page.trial_name(*row))).collect();
        page.put(format!(
            "<article id=\"lack-{number}\"><h3>{}</h3><p>{} on {}</p><details><summary>{}</summary><ul>{trials}</ul></details></article>",
            escape(&line(lack.reason)),
            badge(Some(lack.outcome)),
            kernels.join(", "),
            count(lack.rows.len(), "trial")
        ));
    }
    page.put("</section>");
}

fn costs(page: &mut Page<'_>) {
    let grid = page.grid;
    if !has_costs(grid) {
        return;
    }
    let all = details::costs(grid);
    page.put(heading("costs", "Verifier cost", all.len(), "program"));
    let rises: String = grid
        .columns
        .iter()
        .flat_map(|column| column.run.cost_rises.iter().map(|rise| (column.run.name.as_str(), rise)))
        .map(|(name, rise)| format!("<li>{}: {}</li>", escape(&line(name)), escape(&line(rise))))
        .collect();
    if !rises.is_empty() {
        page.put(format!("<ul>{rises}</ul>"));
    }
    page.put("<p class=\"dim\">Instructions that the verifier processed / bytes of stack; load time in the title. A rise has a ^.</p>");
    page.put("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Verifier cost\"><table><thead><tr>");
    page.put(format!("<th scope=\"col\">program</th>{}</tr></thead><tbody>", page.kernel_titles()));
    for row in &all {
        let mut html =
            format!("<tr><th scope=\"row\">{}/{}</th>", escape(&line(row.object)), escape(&line(row.program)));
        for cell in &row.cells {
            let _ = match cell {
                Some((ProgramCost { reason: Some(reason), .. }, _)) => {
                    write!(html, "<td class=\"number\" title=\"{}\">not measured</td>", escape(&line(reason)))
                }
                Some((cost, rose)) => {
                    let (class, sign) = if *rose { (" rose", "^ ") } else { ("", "") };
                    let (instructions, stack) = (cost.instructions, cost.stack_bytes);
                    write!(
                        html,
                        "<td class=\"number{class}\" title=\"loaded in {} us\">{sign}{instructions} / {stack}</td>",
                        cost.load_us
                    )
                }
                None => write!(html, "<td class=\"number\">-</td>"),
            };
        }
        page.put(html + "</tr>");
    }
    page.put("</tbody></table></div></section>");
}
