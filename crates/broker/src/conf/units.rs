//! Sizes (`64MiB`) and times (`1m30s`) as they are written in a configuration. Pure.

use std::time::Duration;

use crate::limits::TIME_MAX;

/// What a size suffix multiplies by: `K` is a thousand; with a `B`, an `i` or both it is 1024.
fn multiplier(suffix: &str) -> Option<i64> {
    let suffix = suffix.to_ascii_lowercase();
    let mut letters = suffix.chars();
    let power = match letters.next() {
        None => return Some(1),
        Some('k') => 1,
        Some('m') => 2,
        Some('g') => 3,
        Some('t') => 4,
        Some('p') => 5,
        Some('e') => 6,
        Some(_) => return None,
    };
    let base: i64 = match letters.as_str() {
        "" => 1000,
        "b" | "i" | "ib" => 1024,
        _ => return None,
    };
    base.checked_pow(power)
}

/// A whole number with an optional size suffix: `-1`, `4222`, `8MB`, `1Gi`. `None` is no such number; `Some(None)` is one
/// that is too large.
pub(super) fn integer(text: &str) -> Option<Option<i64>> {
    let end = text.char_indices().find(|&(at, c)| !(c.is_ascii_digit() || (at == 0 && c == '-')));
    let (digits, suffix) = text.split_at(end.map_or(text.len(), |(at, _)| at));
    if digits.trim_start_matches('-').is_empty() {
        return None;
    }
    let multiplier = multiplier(suffix)?;
    Some(digits.parse::<i64>().ok().and_then(|number| number.checked_mul(multiplier)))
}

/// A number with a point: `0.5`. Digits on both sides.
pub(super) fn float(text: &str) -> Option<f64> {
    let (whole, fraction) = text.split_once('.')?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (digits(whole.strip_prefix('-').unwrap_or(whole)) && digits(fraction)).then(|| text.parse().ok())?
}

/// A time in Go's notation: numbers, each with a unit of `ns us µs ms s m h`, as in `1m30s`, `1.5h` or `300ms`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let explain = |what: &str| format!("{what}; write a time as in \"300ms\", \"2s\" or \"1m30s\"");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.starts_with('-') {
        return Err(explain("a time cannot be negative"));
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(explain("no time is given"));
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let split = |of: &str, test: fn(char) -> bool| of.find(|c| !test(c)).unwrap_or(of.len());
        let (number, after) = rest.split_at(split(rest, |c| c.is_ascii_digit() || c == '.'));
        let (unit, after) = after.split_at(split(after, |c| !(c.is_ascii_digit() || c == '.')));
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "" => return Err(explain("the unit is missing")),
            _ => return Err(explain(&format!("{unit:?} is no unit of time"))),
        };
        let number: f64 = number.parse().map_err(|_| explain("a number is missing"))?;
        total = Duration::try_from_secs_f64(number * seconds)
            .ok()
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| explain("the time is too long"))?;
        rest = after;
    }
    bounded(total).map_err(|problem| explain(&problem))
}

/// Refuses a time that no setting may have.
pub(super) fn bounded(time: Duration) -> Result<Duration, String> {
    if time <= TIME_MAX { Ok(time) } else { Err("a time may be at most 100 years".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_count_in_thousands_unless_they_say_bytes() {
        for (text, value) in [
            ("0", 0),
            ("-1", -1),
            ("4k", 4000),
            ("1K", 1000),
            ("1kB", 1024),
            ("128KB", 128 << 10),
            ("8MB", 8 << 20),
            ("64MiB", 64 << 20),
            ("1Mi", 1 << 20),
            ("1G", 1_000_000_000),
            ("10GiB", 10 << 30),
            ("2TB", 2 << 40),
        ] {
            assert_eq!(integer(text), Some(Some(value)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_a_text() {
        for text in ["", "-", "a", "5X", "127.0.0.1", "0x10", "1_000", "1e3", "4MBit", "--1", "1kk", "²"] {
            assert_eq!(integer(text), None, "{text}");
        }
        assert_eq!(integer("99999999999999999999"), Some(None));
        assert_eq!(integer("9000PB"), Some(None));
    }

    #[test]
    fn a_point_needs_digits_on_both_sides() {
        assert_eq!(float("0.5"), Some(0.5));
        assert_eq!(float("-1.25"), Some(-1.25));
        for text in ["1.", ".5", "1.2.3", "1.2s", "1"] {
            assert_eq!(float(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_written_as_in_go() {
        for (text, millis) in
            [("2s", 2000), ("300ms", 300), ("1m30s", 90_000), ("1.5h", 5_400_000), ("0", 0), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("5us"), Ok(Duration::from_micros(5)));
    }

    #[test]
    fn a_wrong_time_is_explained() {
        for (text, says) in [
            ("", "no time"),
            ("5", "unit is missing"),
            ("5x", "no unit"),
            ("s", "number is missing"),
            ("-1s", "negative"),
            ("1..2s", "number is missing"),
            ("99999999999999999999999h", "too long"),
            ("5000000000000000h", "at most 100 years"),
            ("900000h", "at most 100 years"),
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.contains(says) && error.contains("\"2s\""), "{text}: {error}");
        }
    }
}
