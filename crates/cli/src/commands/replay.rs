//! `ostler replay`: an agent's history once more, in order and in its own time.

use std::time::Duration;

use ostler_wire::{AgentId, Timestamp};

use crate::connect::{Places, Session};
use crate::exit::Outcome;
use crate::render::audit::{beginning, step};
use crate::screen::Screen;
use crate::trail::{Kept, Trail, from};
use crate::when::{Since, parse_duration, parse_since};

#[derive(Debug, clap::Args)]
#[command(after_help = "Shows what the audit tells of the agent; what it printed is in `ostler logs`.\n\
    With --json each entry is one line, as `ostler audit` prints it.")]
pub(crate) struct Args {
    /// The agent, also one that was removed
    #[arg(value_name = "NAME")]
    agent: AgentId,
    /// Only what happened since then: 2h (ago), or 2026-11-20T21:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,
    /// So many times as fast as it happened
    #[arg(long, value_name = "TIMES", default_value_t = 1.0, value_parser = parse_speed, conflicts_with = "at_once")]
    speed: f64,
    /// The longest pause between two entries, whatever passed between them
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration, conflicts_with = "at_once")]
    pause_max: Duration,
    /// Without pauses
    #[arg(long)]
    at_once: bool,
}

pub(crate) async fn run(args: &Args, places: &Places, screen: Screen) -> Outcome {
    let session = Session::open(places).await?;
    let since = args.since.map(|since| since.resolve(Timestamp::now()));
    let mut trail = Trail::new(&session, Some(&args.agent), from(since));
    let mut first: Option<Timestamp> = None;
    let mut before: Option<Timestamp> = None;
    while let Some(entries) = trail.entries().await? {
        for kept in entries.iter().filter(|kept| kept.is_since(since)) {
            let at = kept.entry.timestamp;
            if let Some(before) = before.replace(at).filter(|_| !args.at_once) {
                tokio::time::sleep(pause(before, at, args.speed, args.pause_max)).await;
            }
            if first.is_none() && !screen.is_json() {
                screen.line(beginning(&args.agent, at))?;
            }
            show(kept, *first.get_or_insert(at), screen)?;
        }
    }
    if first.is_none() {
        screen.note(format!("the audit tells nothing of {}", args.agent));
    }
    Ok(())
}

fn show(kept: &Kept, first: Timestamp, screen: Screen) -> Outcome {
    if screen.is_json() { screen.json(kept) } else { screen.line(step(&kept.entry, first)) }
}

/// The time between two entries at another pace.
fn pause(before: Timestamp, at: Timestamp, speed: f64, pause_max: Duration) -> Duration {
    let passed = Duration::try_from(at.duration_since(before)).unwrap_or(Duration::ZERO);
    // Within reach before it is divided: no duration is too long for a float, its quotient may be.
    Duration::try_from_secs_f64(passed.as_secs_f64() / speed).unwrap_or(Duration::MAX).min(pause_max)
}

fn parse_speed(text: &str) -> Result<f64, String> {
    let speed = text.strip_suffix('x').unwrap_or(text).parse::<f64>().ok();
    speed
        .filter(|speed| speed.is_finite() && *speed > 0.0)
        .ok_or_else(|| format!("`{text}` is no pace; write 10 for ten times as fast, 0.5 for half"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_keep_the_pace_and_are_never_too_long() {
        let at = |ms: i64| Timestamp::from_millisecond(ms).unwrap();
        let longest = Duration::from_secs(2);
        assert_eq!(pause(at(0), at(1000), 1.0, longest), Duration::from_secs(1));
        assert_eq!(pause(at(0), at(1000), 10.0, longest), Duration::from_millis(100));
        assert_eq!(pause(at(0), at(3_600_000), 10.0, longest), longest);
        assert_eq!(pause(at(1000), at(0), 1.0, longest), Duration::ZERO, "a clock that was set back");
        assert_eq!(pause(at(0), at(1000), 1e-300, longest), longest);
    }

    #[test]
    fn a_pace_is_a_number_above_zero() {
        assert_eq!(parse_speed("10"), Ok(10.0));
        assert_eq!(parse_speed("2.5x"), Ok(2.5));
        for bad in ["0", "-1", "inf", "fast", ""] {
            assert!(parse_speed(bad).is_err(), "{bad}");
        }
    }
}
