//! Patterns of times: `@at` a moment, `@every` so often, or six fields of seconds, minutes, hours, days, months and days
//! of the week, in a time zone. It knows no messages and no clock.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use crate::time::{SECOND, Time, parse_duration};

/// No pattern that ever matches waits longer: the 29th of February, when a century is no leap year.
const DAYS_AHEAD: usize = 366 * 8 + 2;

/// Why a pattern cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PatternError {
    /// It is none, or never comes.
    Pattern,
    /// There is no such time zone.
    Zone,
}

/// When something is to be done.
#[derive(Debug, Clone)]
pub(super) enum Pattern {
    /// Once.
    At(i64),
    /// Again after so many nanoseconds.
    Every(i64),
    /// Whenever a clock shows it.
    Cron(Box<Fields>, TimeZone),
}

impl Pattern {
    /// Reads a pattern; only those with fields may have a time zone.
    pub(super) fn parse(text: &str, zone: Option<&str>) -> Result<Self, PatternError> {
        let without_zone = |pattern| if zone.is_none() { Ok(pattern) } else { Err(PatternError::Pattern) };
        if let Some(time) = text.strip_prefix("@at ") {
            let time = Time::parse(time).and_then(Time::nanos).ok_or(PatternError::Pattern)?;
            return without_zone(Self::At(time));
        }
        if let Some(period) = text.strip_prefix("@every ") {
            let period = parse_duration(period).filter(|period| *period >= SECOND);
            return without_zone(Self::Every(period.ok_or(PatternError::Pattern)?));
        }
        let fields = match text {
            "@yearly" | "@annually" => "0 0 0 1 1 *",
            "@monthly" => "0 0 0 1 * *",
            "@weekly" => "0 0 0 * * 0",
            "@daily" | "@midnight" => "0 0 0 * * *",
            "@hourly" => "0 0 * * * *",
            other => other,
        };
        let zone = match zone {
            None => TimeZone::UTC,
            Some("Local") => TimeZone::system(),
            Some(zone) => TimeZone::get(zone).map_err(|_| PatternError::Zone)?,
        };
        let fields = Fields::parse(fields).ok_or(PatternError::Pattern)?;
        Ok(Self::Cron(Box::new(fields), zone))
    }

    /// The first time after a moment; of `@at` its only one, be it past or not.
    pub(super) fn after(&self, moment: i64) -> Option<i64> {
        match self {
            Self::At(time) => Some(*time),
            Self::Every(period) => {
                let rounded = moment.saturating_add(SECOND / 2).div_euclid(SECOND).saturating_mul(SECOND);
                rounded.checked_add(*period)
            }
            Self::Cron(fields, zone) => fields.after(moment, zone),
        }
    }

    /// Whether it comes again.
    pub(super) fn repeats(&self) -> bool {
        !matches!(self, Self::At(_))
    }
}

/// Which seconds, minutes and so on: one bit each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields {
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// With both kinds of days given, either is enough.
    either_day: bool,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Fields {
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [seconds, minutes, hours, days, months, weekdays] = fields[..] else { return None };
        let any = |field: &str| field.starts_with(['*', '?']);
        Some(Self {
            seconds: bits(seconds, 0, 59, &[])?,
            minutes: bits(minutes, 0, 59, &[])?,
            hours: bits(hours, 0, 23, &[])?,
            days: bits(days, 1, 31, &[])?,
            months: bits(months, 1, 12, &MONTHS)?,
            weekdays: bits(weekdays, 0, 6, &WEEKDAYS)?,
            either_day: !any(days) && !any(weekdays),
        })
    }

    fn after(&self, moment: i64, zone: &TimeZone) -> Option<i64> {
        let start = Timestamp::from_nanosecond(i128::from(moment)).ok()?;
        let second = Timestamp::from_second(start.as_nanosecond().div_euclid(i128::from(SECOND)) as i64);
        let mut from = zone.to_datetime(second.ok()?).checked_add(1.second()).ok()?;
        loop {
            let local = self.first_from(from)?;
            let found = zone.to_zoned(local).ok()?.timestamp();
            // An hour that comes twice counts once.
            if found > start {
                return i64::try_from(found.as_nanosecond()).ok();
            }
            from = local.checked_add(1.second()).ok()?;
        }
    }

    fn first_from(&self, from: DateTime) -> Option<DateTime> {
        let mut date = from.date();
        let (mut hour, mut minute, mut second) = (from.hour(), from.minute(), from.second());
        for _ in 0..DAYS_AHEAD {
            if self.matches(date)
                && let Some((hour, minute, second)) = self.first_in_day(hour, minute, second)
            {
                return Some(date.at(hour, minute, second, 0));
            }
            date = date.tomorrow().ok()?;
            (hour, minute, second) = (0, 0, 0);
        }
        None
    }

    fn matches(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let day_fits = if self.either_day { day || weekday } else { day && weekday };
        has(self.months, date.month()) && day_fits
    }

    fn first_in_day(&self, hour: i8, minute: i8, second: i8) -> Option<(i8, i8, i8)> {
        let first = |bits: u64, from: i8, below: i8| (from..below).find(|value| has(bits, *value));
        for at in hour..24 {
            if !has(self.hours, at) {
                continue;
            }
            let (mut minute, mut second) = if at == hour { (minute, second) } else { (0, 0) };
            while let Some(found) = first(self.minutes, minute, 60) {
                if found > minute {
                    second = 0;
                }
                if let Some(second) = first(self.seconds, second, 60) {
                    return Some((at, found, second));
                }
                (minute, second) = (found + 1, 0);
            }
        }
        None
    }
}

fn has(bits: u64, value: i8) -> bool {
    bits & (1 << value) != 0
}

/// Reads `*`, `?`, `5`, `1-5`, `*/2`, `1-9/3`, `5/15` and lists of them.
fn bits(field: &str, min: u32, max: u32, names: &[&str]) -> Option<u64> {
    let value = |text: &str| -> Option<u32> {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let value = match named {
            Some(index) => index as u32 + min,
            None => text.parse().ok().filter(|_| digits)?,
        };
        (min..=max).contains(&value).then_some(value)
    };
    let mut found = 0;
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u32>().ok().filter(|step| *step > 0)?)),
            None => (part, None),
        };
        let (first, last) = match (range, range.split_once('-')) {
            ("*" | "?", _) => (min, max),
            (_, Some((first, last))) => (value(first)?, value(last)?),
            (single, None) => {
                let first = value(single)?;
                (first, if step.is_some() { max } else { first })
            }
        };
        if first > last {
            return None;
        }
        for value in (first..=last).step_by(step.unwrap_or(1) as usize) {
            found |= 1 << value;
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(pattern: &str, zone: Option<&str>, after: &str) -> Option<String> {
        let after = Time::parse(after).unwrap().nanos().unwrap();
        let found = Pattern::parse(pattern, zone).unwrap().after(after)?;
        serde_json::to_value(Time::from_nanos(found)).unwrap().as_str().map(str::to_owned)
    }

    #[test]
    fn the_next_time_is_the_first_that_fits() {
        for (pattern, after, next_time) in [
            ("*/5 * * * * *", "2026-11-21T10:00:04.5Z", "2026-11-21T10:00:05Z"),
            ("*/5 * * * * *", "2026-11-21T10:00:05Z", "2026-11-21T10:00:10Z"),
            ("5/15 * * * * *", "2026-11-21T10:00:50Z", "2026-11-21T10:01:05Z"),
            ("0 30 4 1,15 * *", "2026-11-21T10:00:00Z", "2026-12-01T04:30:00Z"),
            ("0 0 0 * JAN *", "2026-11-21T10:00:00Z", "2027-01-01T00:00:00Z"),
            ("0 0 0 * * mon-fri", "2026-11-21T10:00:00Z", "2026-11-23T00:00:00Z"),
            ("0 0 0 13 * FRI", "2026-11-21T10:00:00Z", "2026-11-27T00:00:00Z"),
            ("0 0 0 29 2 *", "2026-11-21T10:00:00Z", "2028-02-29T00:00:00Z"),
            ("@hourly", "2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z"),
            ("@every 90s", "2026-11-21T10:00:00.6Z", "2026-11-21T10:01:31Z"),
            ("@at 2026-11-21T10:00:00+02:00", "2026-11-21T10:00:00Z", "2026-11-21T08:00:00Z"),
        ] {
            assert_eq!(next(pattern, None, after).as_deref(), Some(next_time), "{pattern} after {after}");
        }
    }

    #[test]
    fn clocks_are_those_of_the_zone() {
        let berlin = Some("Europe/Berlin");
        let night = "0 30 2 * * *";
        assert_eq!(next("@daily", berlin, "2026-11-21T10:00:00Z").unwrap(), "2026-11-21T23:00:00Z");
        // The clock goes from two to three on this day.
        assert_eq!(next(night, berlin, "2026-03-28T12:00:00Z").unwrap(), "2026-03-29T01:30:00Z");
        // On this one from three to two: once is enough.
        assert_eq!(next(night, berlin, "2026-10-24T12:00:00Z").unwrap(), "2026-10-25T00:30:00Z");
        assert_eq!(next(night, berlin, "2026-10-25T00:30:00Z").unwrap(), "2026-10-26T01:30:00Z");
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in [
            "",
            "* * *",
            "0 0 * * *",
            "60 * * * * *",
            "0 0 0 L * *",
            "0 0 0 1 1 7",
            "0 0 0 * * 1#2",
            "0 0 24 * * *",
            "10-5 * * * * *",
            "*/0 * * * * *",
            "@every 500ms",
            "@every x",
            "@at x",
            "@reboot",
            "0 0 0 * * * 2090",
        ] {
            assert_eq!(Pattern::parse(text, None).err(), Some(PatternError::Pattern), "{text}");
        }
        assert_eq!(Pattern::parse("0 0 0 31 2 *", None).unwrap().after(0), None);
        assert_eq!(Pattern::parse("@daily", Some("Nowhere/X")).err(), Some(PatternError::Zone));
        assert_eq!(Pattern::parse("@daily", Some("")).err(), Some(PatternError::Zone));
        assert_eq!(Pattern::parse("@every 1h", Some("UTC")).err(), Some(PatternError::Pattern));
    }
}
