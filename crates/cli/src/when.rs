//! Durations and points in time as people type them on the command line.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// A point in time given on the command line: absolute, or so long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    At(Timestamp),
    Ago(Duration),
}

impl Since {
    /// The point in time it means at `now`.
    pub(crate) fn resolve(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            // Further back than time itself means: from the beginning.
            Self::Ago(duration) => now.checked_sub(duration).unwrap_or(Timestamp::MIN),
        }
    }
}

/// Reads `10s`, `5m`, `1h30m`, `250ms`: a positive duration.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration; write 10s, 5m or 1h30m");
    let duration: SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(duration).map_err(|_| wrong())
}

/// Writes a duration as [`parse_duration`] reads it: `1ms`, `15s`, `1h30m`.
pub(crate) fn span(duration: Duration) -> String {
    match SignedDuration::try_from(duration) {
        Ok(duration) => jiff::fmt::friendly::SpanPrinter::new()
            .spacing(jiff::fmt::friendly::Spacing::None)
            .duration_to_string(&duration),
        // Longer than anything that can be waited for.
        Err(_) => format!("{}s", duration.as_secs()),
    }
}

/// Reads a duration (so long ago) or an RFC 3339 time.
pub(crate) fn parse_since(text: &str) -> Result<Since, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Since::At(time));
    }
    parse_duration(text)
        .map(Since::Ago)
        .map_err(|_| format!("`{text}` is no time; write 10m (ago) or 2026-11-20T21:00:00Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        for bad in ["", "10", "ten", "-5s", "5 parsecs"] {
            assert!(parse_duration(bad).unwrap_err().contains("1h30m"), "{bad}");
        }
    }

    #[test]
    fn a_duration_is_written_as_it_is_read() {
        for text in ["1ms", "250ms", "15s", "1m", "1h30m"] {
            assert_eq!(span(parse_duration(text).unwrap()), text);
        }
        assert_eq!(span(Duration::MAX), format!("{}s", u64::MAX));
    }

    #[test]
    fn since_is_a_time_or_so_long_ago() {
        let now: Timestamp = "2026-11-20T22:00:00Z".parse().unwrap();
        let ten_minutes_before: Timestamp = "2026-11-20T21:50:00Z".parse().unwrap();
        assert_eq!(parse_since("10m").unwrap().resolve(now), ten_minutes_before);
        assert_eq!(parse_since("2026-11-20T21:50:00Z").unwrap().resolve(now), ten_minutes_before);
        assert_eq!(parse_since("1000000000h").unwrap().resolve(now), Timestamp::MIN);
        assert!(parse_since("yesterday").unwrap_err().contains("10m (ago)"));
    }
}
