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
    let mut p50 = Row::new("in-process latency p50, cores awake", "us", Better::Lower, Target::None);
    let mut p99 = Row::new("in-process latency p99, cores awake", "us", Better::Lower, Target::AtMost(20.0));
    let mut asleep = Row::new("in-process latency p99, cores asleep", "us", Better::Lower, Target::None);
    for round in 1..=rounds {
        eprintln!("bench: in-process: round {round} of {rounds}");
        let text = shell::output(Command::new(example).args([MESSAGES, BYTES]))?;
        let figures = parse(&text).with_context(|| format!("unexpected: {text}"))?;
        for (row, figure) in [&mut rate, &mut p50, &mut p99, &mut asleep].into_iter().zip(figures) {
            row.ours.push(figure);
        }
    }
    Ok(vec![rate, p50, p99, asleep])
}

/// Millions of messages per second, the two latencies with the cores kept awake, and the second with sleeping ones: a
/// virtual core takes tens of microseconds to wake.
fn parse(text: &str) -> Option<[f64; 4]> {
    let line = |words: &str| text.lines().find(|line| line.contains(words));
    let number = |text: &str| text.split_whitespace().next()?.parse::<f64>().ok();
    let flow = line("publish to subscribe")?.split_once(" B ")?.1;
    let behind = |latency: &str, words: &str| number(latency.split_once(words)?.1);
    let (awake, asleep) = (line("every 100 us, cores kept awake ")?, line("every 100 us ")?);
    Some([number(flow)? / 1e6, behind(awake, "p50 ")?, behind(awake, "p99 ")?, behind(asleep, "p99 ")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_found_in_what_the_example_prints() {
        let text = "publish to subscribe    128 B    12500000 msg/s\n\
            128 B latency, back to back  p50 9.1 us  p99 9.2 us  p99.9 9.3 us\n\
            128 B latency, every 100 us  p50 70.5 us  p99 150.0 us  p99.9 200.0 us\n\
            128 B latency, every 100 us, cores kept awake  p50 7.5 us  p99 15.0 us  p99.9 20.0 us\n";
        assert_eq!(parse(text), Some([12.5, 7.5, 15.0, 150.0]));
        assert_eq!(parse("nothing"), None);
    }
}
