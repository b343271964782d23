//! Moments and durations in the texts that NATS tools read: RFC 3339 for moments, Go's notation for round trips, and
//! nats-server's own for uptimes. Only text; clocks are the callers'.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A monotonic and a wall clock reading of the same moment, so that the one can be told as the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) instant: Instant,
    pub(crate) wall: SystemTime,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }

    /// What the wall clock would have shown at `instant`, had nobody set it since.
    pub(crate) fn wall_at(&self, instant: Instant) -> SystemTime {
        match instant.checked_duration_since(self.instant) {
            Some(later) => self.wall + later,
            None => self.wall - self.instant.duration_since(instant),
        }
    }
}

/// Nanoseconds since 1970 by the wall clock, which may be set.
#[cfg(feature = "jetstream")]
pub(crate) fn unix_nanos() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// `2026-11-21T00:27:00.593771007Z`, always nine digits of a second.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let nanos = since.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Year, month and day of a day since 1970 in the Gregorian calendar.
fn civil(days_since_1970: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut days = days_since_1970;
    let mut year = 1970;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

/// Go's notation of a duration: `872µs`, `1.25ms`, `2s`, `1m3.5s`. Round trips are told this way.
pub(crate) fn go_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let scaled = |unit: u128, name: &str| {
        let (whole, rest) = (nanos / unit, nanos % unit);
        let digits = unit.ilog10() as usize;
        let fraction = format!("{rest:0digits$}");
        let fraction = fraction.trim_end_matches('0');
        if rest == 0 { format!("{whole}{name}") } else { format!("{whole}.{fraction}{name}") }
    };
    match nanos {
        0 => "0s".into(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => scaled(1_000, "µs"),
        1_000_000..1_000_000_000 => scaled(1_000_000, "ms"),
        1_000_000_000..60_000_000_000 => scaled(1_000_000_000, "s"),
        _ => {
            let minutes = duration.as_secs() / 60;
            let rest = go_duration(duration - Duration::from_secs(minutes * 60));
            match minutes / 60 {
                0 => format!("{minutes}m{rest}"),
                hours => format!("{hours}h{}m{rest}", minutes % 60),
            }
        }
    }
}

/// `1y2d3h4m5s`, from the largest unit that is not nothing; years of 365 days. Uptimes and idle times are told this way.
pub(crate) fn uptime(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let parts = [(days / 365, 'y'), (days % 365, 'd'), (hours % 24, 'h'), (minutes % 60, 'm')];
    let mut text = String::new();
    for (count, unit) in parts {
        if count > 0 || !text.is_empty() {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    text + &format!("{}s", seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told_in_utc() {
        let told = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(told(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(told(951_827_696), "2000-02-29T12:34:56.000000000Z");
        assert_eq!(told(1_709_251_199), "2024-02-29T23:59:59.000000000Z");
        assert_eq!(told(1_798_761_600), "2027-01-01T00:00:00.000000000Z");
        assert!(rfc3339(UNIX_EPOCH + Duration::from_nanos(7)).ends_with(".000000007Z"));
    }

    #[test]
    fn round_trips_are_told_as_go_does() {
        for (nanos, told) in [
            (0, "0s"),
            (999, "999ns"),
            (872_000, "872µs"),
            (872_100, "872.1µs"),
            (1_250_000, "1.25ms"),
            (2_000_000_000, "2s"),
            (63_500_000_000, "1m3.5s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_nanos(nanos)), told);
        }
    }

    #[test]
    fn uptimes_start_with_the_largest_unit() {
        for (seconds, told) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m0s"),
            (3_661, "1h1m1s"),
            (86_400, "1d0h0m0s"),
            (366 * 86_400 + 61, "1y1d0h1m1s"),
        ] {
            assert_eq!(uptime(Duration::from_secs(seconds)), told);
        }
    }

    #[test]
    fn a_moment_tells_instants_before_and_after_it() {
        let moment = Moment::now();
        let second = Duration::from_secs(1);
        assert_eq!(moment.wall_at(moment.instant + second), moment.wall + second);
        if let Some(earlier) = moment.instant.checked_sub(second) {
            assert_eq!(moment.wall_at(earlier), moment.wall - second);
        }
    }
}
