//! What was measured, as a table for people or as JSON for programs.

use std::io::{self, Write as _};

use serde_json::{Map, Value};

/// Prints lines as they come, or keeps values until the end.
pub struct Report {
    json: bool,
    values: Map<String, Value>,
}

impl Report {
    /// Starts with the machine and its load.
    pub fn new(json: bool) -> io::Result<Self> {
        let mut report = Self { json, values: Map::new() };
        let load = std::fs::read_to_string("/proc/loadavg")?;
        let load = load.split(' ').next().unwrap_or_default();
        let cpus = std::thread::available_parallelism()?;
        let kernel = bpflab::kernel::release();
        report.line(&format!("kernel {kernel}, {cpus} CPUs, load average {load} before the start"))?;
        report.value("kernel", kernel);
        report.value("cpus", cpus.get());
        report.value("load_before", load);
        Ok(report)
    }

    /// A line of the table.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        if self.json { Ok(()) } else { writeln!(io::stdout(), "{text}") }
    }

    /// A heading of the table.
    pub fn heading(&mut self, text: &str) -> io::Result<()> {
        self.line(&format!("\n{text}"))
    }

    /// A value of the JSON object.
    pub fn value(&mut self, name: &str, value: impl Into<Value>) {
        self.values.insert(name.to_owned(), value.into());
    }

    /// A ratio with what it should be.
    pub fn ratio(&mut self, name: &str, what: &str, ratios: &[f64], target: f64) -> io::Result<()> {
        let ratio = median(ratios);
        let verdict = if ratio >= target { "met" } else { "MISSED" };
        let low = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let high = ratios.iter().copied().fold(0.0, f64::max);
        self.line(&format!(
            "  {what:<44} {ratio:>9.3}   (rounds {low:.3} to {high:.3}; target >= {target:.2}: {verdict})"
        ))?;
        self.value(name, ratio);
        self.value(&format!("{name}_rounds"), ratios.to_vec());
        Ok(())
    }

    /// Prints the JSON object, if that is wanted.
    pub fn finish(self) -> io::Result<()> {
        if self.json { writeln!(io::stdout(), "{:#}", Value::Object(self.values)) } else { Ok(()) }
    }
}

/// The middle value, the mean of both for an even number; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.get(sorted.len().wrapping_sub(1) / 2), sorted.get(sorted.len() / 2)) {
        (Some(one), Some(other)) => f64::midpoint(*one, *other),
        _ => 0.0,
    }
}

/// Events a second.
#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub fn rate(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds.max(1e-9)
}
