//! Times and durations as JetStream writes them: RFC 3339 with up to nine digits, and Go's durations. It reads no clock.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Nanoseconds in a second.
pub(crate) const SECOND: i64 = 1_000_000_000;
/// Nanoseconds in a millisecond.
pub(crate) const MILLISECOND: i64 = 1_000_000;
/// How "never" is written where a time must stand.
const ZERO: &str = "0001-01-01T00:00:00Z";

/// A moment: nanoseconds since 1970 in UTC, years 1678 to 2262. In JSON a string, `0001-01-01T00:00:00Z` for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(Option<i64>);

impl Time {
    /// No moment.
    pub const NONE: Self = Self(None);

    /// The moment so many nanoseconds after 1970 began.
    pub fn from_nanos(nanos: i64) -> Self {
        Self(Some(nanos))
    }

    /// Nanoseconds since 1970, unless it is no moment.
    pub fn nanos(self) -> Option<i64> {
        self.0
    }

    /// Whether it is no moment.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Reads RFC 3339 with any offset. `None` when it is something else, or too far away to count.
    pub fn parse(text: &str) -> Option<Self> {
        if text == ZERO {
            return Some(Self::NONE);
        }
        let bytes = text.as_bytes();
        let part = |from: usize, to: usize| -> Option<i64> {
            let digits = bytes.get(from..to).filter(|part| part.iter().all(u8::is_ascii_digit))?;
            std::str::from_utf8(digits).ok()?.parse().ok()
        };
        let at = |index: usize, wanted: &[u8]| bytes.get(index).is_some_and(|byte| wanted.contains(byte));
        if !(at(4, b"-") && at(7, b"-") && at(10, b"Tt ") && at(13, b":") && at(16, b":")) {
            return None;
        }
        let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
        let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
        if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) {
            return None;
        }
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let (fraction, rest) = fraction(&text[19..])?;
        let offset = offset(rest)?;
        let seconds =
            days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
        let nanos = i128::from(seconds) * i128::from(SECOND) + i128::from(fraction);
        i64::try_from(nanos).ok().map(Self::from_nanos)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(nanos) = self.0 else { return f.write_str(ZERO) };
        let (seconds, fraction) = (nanos.div_euclid(SECOND), nanos.rem_euclid(SECOND));
        let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = date(days);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if fraction > 0 {
            let digits = format!("{fraction:09}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("cannot parse {text:?} as a time")))
    }
}

/// Reads a duration as Go writes it (`1h30m`, `1.5s`, `-2ms`) in nanoseconds; `None` when it is something else or too
/// long.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0f64;
    let mut exact: i128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let unit: i64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => MILLISECOND,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            _ => return None,
        };
        match number.split_once('.') {
            None => exact += i128::from(number.parse::<u64>().ok()?) * i128::from(unit),
            Some((whole, part)) => {
                if whole.is_empty() && part.is_empty() {
                    return None;
                }
                let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
                exact += i128::from(whole) * i128::from(unit);
                total += format!("0.{part}0").parse::<f64>().ok()? * unit as f64;
            }
        }
        rest = tail;
    }
    let nanos = i64::try_from(exact).ok()?.checked_add(total.round() as i64)?;
    Some(if negative { -nanos } else { nanos })
}

/// Writes a duration as Go does: `1s`, `1m30s`, `150ms`.
pub fn write_duration(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".to_owned();
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let left = nanos.unsigned_abs();
    let decimal = |unit: u64, name: &str| {
        let (whole, part) = (left / unit, left % unit);
        if part == 0 {
            return format!("{sign}{whole}{name}");
        }
        let width = unit.ilog10() as usize;
        let digits = format!("{part:0width$}");
        format!("{sign}{whole}.{}{name}", digits.trim_end_matches('0'))
    };
    match left {
        0..1_000 => decimal(1, "ns"),
        1_000..1_000_000 => decimal(1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(1_000_000, "ms"),
        _ => {
            let second = SECOND as u64;
            let (hours, minutes) = (left / (3600 * second), left / (60 * second) % 60);
            let seconds = left % (60 * second);
            let digits = format!("{:09}", seconds % second);
            let part = digits.trim_end_matches('0');
            let dot = if part.is_empty() { "" } else { "." };
            let tail = format!("{}{dot}{part}s", seconds / second);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{tail}"),
                (0, _) => format!("{sign}{minutes}m{tail}"),
                _ => format!("{sign}{hours}h{minutes}m{tail}"),
            }
        }
    }
}

/// `.123` in nanoseconds, and what follows it.
fn fraction(text: &str) -> Option<(i64, &str)> {
    let Some(digits) = text.strip_prefix('.') else { return Some((0, text)) };
    let len = digits.bytes().take_while(u8::is_ascii_digit).count();
    if len == 0 {
        return None;
    }
    let mut nanos = 0;
    for digit in digits.bytes().take(len).chain(std::iter::repeat(b'0')).take(9) {
        nanos = nanos * 10 + i64::from(digit - b'0');
    }
    Some((nanos, &digits[len..]))
}

/// `Z` or `+02:00` in seconds.
fn offset(text: &str) -> Option<i64> {
    if text == "Z" || text == "z" {
        return Some(0);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text[1..].split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let (hours, minutes): (u8, u8) = (hours.parse().ok()?, minutes.parse().ok()?);
    Some(sign * (i64::from(hours) * 3600 + i64::from(minutes) * 60))
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Years begin in March here, so that the leap day is the last; 400 years have 146,097 days.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_written_without_trailing_zeros() {
        for (nanos, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_795_224_779_176_874_806, "2026-11-21T01:32:59.176874806Z"),
            (951_782_400 * SECOND + 500_000_000, "2000-02-29T00:00:00.5Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
        ] {
            assert_eq!(Time::from_nanos(nanos).to_string(), text);
            assert_eq!(Time::parse(text), Some(Time::from_nanos(nanos)), "{text}");
        }
        assert_eq!(Time::NONE.to_string(), ZERO);
        assert_eq!(Time::parse(ZERO), Some(Time::NONE));
    }

    #[test]
    fn offsets_are_taken_off_and_nonsense_is_refused() {
        assert_eq!(Time::parse("1970-01-01T02:00:00+02:00"), Some(Time::from_nanos(0)));
        for bad in [
            "",
            "1970-01-01",
            "1970-13-01T00:00:00Z",
            "1970-02-29T00:00:00Z",
            "1970-01-01T00:00:00",
            "9999-01-01T00:00:00Z",
        ] {
            assert_eq!(Time::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        for (text, nanos) in [
            ("1s", SECOND),
            ("1.5s", SECOND * 3 / 2),
            ("1m30s", 90 * SECOND),
            ("150ms", 150 * MILLISECOND),
            ("2h0m3s", 7203 * SECOND),
            ("0s", 0),
            ("-2ms", -2 * MILLISECOND),
        ] {
            assert_eq!(parse_duration(text), Some(nanos), "{text}");
            assert_eq!(write_duration(nanos), text);
        }
        for bad in ["", "1", "s", "1x", "1s2", "."] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_time_is_read_back(nanos: i64) {
            let time = Time::from_nanos(nanos);
            prop_assert_eq!(Time::parse(&time.to_string()), Some(time));
        }

        #[test]
        fn every_duration_is_read_back(nanos in -1_000_000_000_000_000i64..1_000_000_000_000_000) {
            prop_assert_eq!(parse_duration(&write_duration(nanos)), Some(nanos));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = Time::parse(&text);
            let _ = parse_duration(&text);
        }
    }
}
