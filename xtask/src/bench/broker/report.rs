//! The table and the file of what was measured.

use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::statistics::{Better, median, quantile, ratios};

/// What a figure should reach.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// So many times better than the other server.
    Times(f64),
    /// Our own figure is at most this, in the row's unit.
    AtMost(f64),
    /// Our own figure is at least this, in the row's unit.
    AtLeast(f64),
    /// It is only for comparison.
    None,
}

/// One figure of both servers, with a sample of each round.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) figure: String,
    pub(super) unit: &'static str,
    pub(super) better: Better,
    pub(super) target: Target,
    pub(super) ours: Vec<f64>,
    pub(super) theirs: Vec<f64>,
}

impl Row {
    pub(super) fn new(figure: impl Into<String>, unit: &'static str, better: Better, target: Target) -> Self {
        Self { figure: figure.into(), unit, better, target, ours: Vec::new(), theirs: Vec::new() }
    }

    /// Adds the samples of a round.
    pub(super) fn push(&mut self, ours: f64, theirs: f64) {
        self.ours.push(ours);
        self.theirs.push(theirs);
    }

    fn ratios(&self) -> Vec<f64> {
        ratios(self.better, &self.ours, &self.theirs)
    }

    /// Whether the target is reached; `None` without one.
    pub(super) fn is_met(&self) -> Option<bool> {
        match self.target {
            Target::None => None,
            Target::Times(times) => Some(median(&self.ratios()) >= times),
            Target::AtMost(most) => Some(median(&self.ours) <= most),
            Target::AtLeast(least) => Some(median(&self.ours) >= least),
        }
    }

    fn line(&self) -> String {
        let ratios = self.ratios();
        // Without the other server, or where nothing at all was used, our own samples are what there is.
        let alone = !median(&ratios).is_finite() || !most(&ratios).is_finite();
        let (ratio, spread) = match alone {
            true => (String::new(), format!("{}-{}", short(least(&self.ours)), short(most(&self.ours)))),
            false => {
                (format!("{:.2}x", median(&ratios)), format!("{:.2}-{:.2}x", least(&ratios), most(&ratios)))
            }
        };
        let theirs = if self.theirs.is_empty() { String::new() } else { short(median(&self.theirs)) };
        let target = match self.target {
            Target::None => String::new(),
            Target::Times(times) => format!(">= {times}x"),
            Target::AtMost(most) => format!("<= {}", short(most)),
            Target::AtLeast(least) => format!(">= {}", short(least)),
        };
        let verdict = self.is_met().map_or("", |met| if met { "met" } else { "MISSED" });
        format!(
            "| {:<44} | {:<7} | {:>8} | {:>8} | {ratio:>7} | {spread:>13} | {target:>8} | {verdict:<6} |",
            self.figure,
            self.unit,
            short(median(&self.ours)),
            theirs,
        )
    }

    fn json(&self) -> Value {
        json!({ "figure": self.figure, "unit": self.unit, "ours": self.ours, "theirs": self.theirs,
            "median": { "ours": median(&self.ours), "theirs": number(median(&self.theirs)) },
            "ratio": number(median(&self.ratios())), "met": self.is_met() })
    }
}

fn number(value: f64) -> Option<f64> {
    Some(value).filter(|value| value.is_finite())
}

fn least(samples: &[f64]) -> f64 {
    quantile(samples, 0.0)
}

fn most(samples: &[f64]) -> f64 {
    quantile(samples, 1.0)
}

/// Three significant digits, which is more than the noise leaves.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The heading of a table whose columns are these two servers.
pub(super) fn heading(ours: &str, theirs: &str) -> String {
    format!(
        "| {:<44} | {:<7} | {ours:>8} | {theirs:>8} | {:>7} | {:>13} | {:>8} | {:<6} |\n\
         |{:-<46}|{:-<9}|{:->9}:|{:->9}:|{:->8}:|{:->14}:|{:->9}:|{:-<8}|",
        "figure", "unit", "ratio", "spread", "target", "", "", "", "", "", "", "", "", ""
    )
}

/// A table as text.
pub(super) fn table(ours: &str, theirs: &str, rows: &[Row]) -> String {
    let lines: Vec<_> = rows.iter().map(Row::line).collect();
    format!("{}\n{}", heading(ours, theirs), lines.join("\n"))
}

/// Writes the file that was asked for, and says how many targets were missed.
pub(super) fn conclude(facts: &Value, rows: &[Row], file: Option<&Path>) -> anyhow::Result<()> {
    if let Some(file) = file {
        let text = serde_json::to_string_pretty(&json(facts, rows))?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let missed = rows.iter().filter(|row| row.is_met() == Some(false)).count();
    println!("\n{missed} of {} targets missed", rows.iter().filter(|row| row.is_met().is_some()).count());
    Ok(())
}

/// The same with every sample, for programs.
fn json(facts: &Value, rows: &[Row]) -> Value {
    json!({ "facts": facts, "rows": rows.iter().map(Row::json).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(target: Target, ours: &[f64], theirs: &[f64]) -> Row {
        let better = if matches!(target, Target::Times(_)) { Better::Higher } else { Better::Lower };
        Row { ours: ours.into(), theirs: theirs.into(), ..Row::new("x", "M/s", better, target) }
    }

    #[test]
    fn the_median_of_the_rounds_decides() {
        let met = row(Target::Times(3.0), &[9.0, 6.0, 1.0], &[3.0, 2.0, 1.0]);
        assert_eq!(met.is_met(), Some(true));
        assert!(met.line().contains("3.00x") && met.line().contains("1.00-3.00x"), "{}", met.line());
        let missed = row(Target::AtMost(5.0), &[6.0], &[60.0]);
        assert!(missed.line().contains("MISSED"), "{}", missed.line());
        assert_eq!(row(Target::None, &[1.0], &[1.0]).is_met(), None);
    }

    #[test]
    fn a_figure_of_ours_alone_has_no_ratio() {
        let alone = row(Target::AtMost(5.0), &[4.0], &[]);
        assert!(!alone.line().contains('x') || alone.line().starts_with("| x"), "{}", alone.line());
        assert_eq!(alone.json()["ratio"], Value::Null);
    }

    #[test]
    fn lines_are_as_wide_as_the_heading() {
        let widths: Vec<_> = table("ours", "theirs", &[row(Target::Times(3.0), &[1.0], &[2.0])])
            .lines()
            .map(str::len)
            .collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{widths:?}");
    }
}
