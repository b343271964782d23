//! The server as a library: what its example measures without any socket. There is nothing to compare with.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use super::report::{Row, Target};
use super::statistics::Better;
use crate::shell;

/// Messages of a run.
const MESSAGES: &str = "4000000";
/// Bytes of each.
const BYTES: &str = "128";

/// Runs the example `rounds` times and reads what it prints.
pub(super) fn measure(example: &Path, rounds: u32) -> anyhow::Result<Vec<Row>> {
    let mut rate = Row::new("in-process, 128 B", "M/s", Better::Higher, Target::AtLeast(10.0));
    let mut p50 = Row::new("in-process latency p50, every 100 us", "us", Better::Lower, Target::None);
    let mut p99 = Row::new("in-process latency p99, every 100 us", "us", Better::Lower, Target::AtMost(20.0));
    for round in 1..=rounds {
        eprintln!("bench: in-process: round {round} of {rounds}");
        let text = shell::output(Command::new(example).args([MESSAGES, BYTES]))?;
        let figures = parse(&text).with_context(|| format!("unexpected: {text}"))?;
        for (row, figure) in [&mut rate, &mut p50, &mut p99].into_iter().zip(figures) {
            row.ours.push(figure);
        }
    }
    Ok(vec![rate, p50, p99])
}

/// Millions of messages per second, and the two latencies.
fn parse(text: &str) -> Option<[f64; 3]> {
    let line = |words: &str| text.lines().find(|line| line.contains(words));
    let number = |text: &str| text.split_whitespace().next()?.parse::<f64>().ok();
    let flow = line("publish to subscribe")?.split_once(" B ")?.1;
    let latency = line("every 100 us")?;
    let behind = |words: &str| number(latency.split_once(words)?.1);
    Some([number(flow)? / 1e6, behind("p50 ")?, behind("p99 ")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_found_in_what_the_example_prints() {
        let text = "publish to subscribe    128 B    12500000 msg/s\n\
            128 B latency, back to back  p50 9.1 us  p99 9.2 us  p99.9 9.3 us\n\
            128 B latency, every 100 us  p50 7.5 us  p99 15.0 us  p99.9 20.0 us\n";
        assert_eq!(parse(text), Some([12.5, 7.5, 15.0]));
        assert_eq!(parse("nothing"), None);
    }
}
