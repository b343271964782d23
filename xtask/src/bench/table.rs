//! Medians in a table, and whether each reaches its goal.

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Goal {
    /// The median stays below this, in the row's unit.
    Below(f64),
    /// It is only for comparison.
    None,
}

/// How samples are shown.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unit {
    /// Samples are nanoseconds.
    Milliseconds,
    /// Samples are bytes; a megabyte is 1 000 000 of them.
    Megabytes,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Megabytes => "MB",
        }
    }
}

/// One figure with all its samples.
#[derive(Debug)]
pub(super) struct Row {
    name: &'static str,
    goal: Goal,
    unit: Unit,
    sorted: Vec<u64>,
}

impl Row {
    pub(super) fn new(name: &'static str, goal: Goal, unit: Unit, mut samples: Vec<u64>) -> Self {
        samples.sort_unstable();
        Self { name, goal, unit, sorted: samples }
    }

    /// The value below which `part` of the samples lie, in the row's unit.
    fn quantile(&self, part: f64) -> f64 {
        let last = self.sorted.len().saturating_sub(1);
        let index = (last as f64 * part).round() as usize;
        // Both units are a million of what was counted.
        self.sorted.get(index).map_or(f64::NAN, |&sample| sample as f64 / 1e6)
    }

    fn line(&self) -> String {
        let (goal, verdict) = match self.goal {
            Goal::None => (String::new(), ""),
            Goal::Below(goal) if self.quantile(0.5) < goal => (format!("< {goal}"), "ok"),
            Goal::Below(goal) => (format!("< {goal}"), "MISSED"),
        };
        format!(
            "| {:<36} | {:>8.3} | {:>8.3} | {:>8.3} | {} | {:>5} | {:>6} | {:<6} |",
            self.name,
            self.quantile(0.5),
            self.quantile(0.0),
            self.quantile(1.0),
            self.unit.name(),
            self.sorted.len(),
            goal,
            verdict,
        )
    }
}

/// Prints all figures as a Markdown table.
pub(super) fn print(rows: &[Row]) {
    println!(
        "| {:<36} | {:>8} | {:>8} | {:>8} |    | {:>5} | {:>6} | {:<6} |",
        "figure", "median", "min", "max", "n", "goal", ""
    );
    println!("|{:-<38}|{:->9}:|{:->9}:|{:->9}:|----|{:->6}:|{:->7}:|{:-<8}|", "", "", "", "", "", "", "");
    for row in rows {
        println!("{}", row.line());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_decides_and_the_extremes_are_shown() {
        let row = Row::new("x", Goal::Below(5.0), Unit::Milliseconds, vec![9_000_000, 1_000_000, 4_000_000]);
        let line = row.line();
        assert!(line.contains("4.000") && line.contains("1.000") && line.contains("9.000"), "{line}");
        assert!(line.contains("| ok"), "{line}");
        let missed = Row::new("x", Goal::Below(4.0), Unit::Megabytes, vec![4_000_000]).line();
        assert!(missed.contains("MISSED"), "{missed}");
    }
}
