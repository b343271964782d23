//! Pure text for people: every function takes values and the present time and returns a string. Colours are always in
//! it; the screen strips them where they do not belong.

pub(crate) mod agents;
pub(crate) mod audit;
mod base64;
pub(crate) mod config;
pub(crate) mod events;
pub(crate) mod output;
pub(crate) mod style;

use jiff::Timestamp;

/// `3 s`, `12 min`, `2 h 5 min`, `3 d 4 h`: two units at most, none smaller than a second.
pub(crate) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// The time from `start` to `now` as [`duration`]; clocks that disagree count as no time.
pub(crate) fn elapsed(start: Timestamp, now: Timestamp) -> String {
    duration(now.duration_since(start).as_secs().try_into().unwrap_or(0))
}

/// `830 B`, `12 KiB`, `3.4 MiB`: one decimal below ten.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 || unit == "GiB" {
            let decimals = usize::from(value < 10.0 && unit != "B");
            return format!("{value:.decimals$} {unit}");
        }
        value /= 1024.0;
    }
    unreachable!("the last unit takes every value")
}

/// The words, quoted where a shell would need it, cut to `chars_max`.
pub(crate) fn command_line(words: &[String], chars_max: usize) -> String {
    let quoted = words.iter().map(|word| {
        let is_plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
        if !word.is_empty() && word.chars().all(is_plain) {
            word.clone()
        } else {
            format!("'{}'", single_line(word))
        }
    });
    cut(&quoted.collect::<Vec<_>>().join(" "), chars_max)
}

/// The first `chars_max` characters, the last one an ellipsis when something is missing.
pub(crate) fn cut(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    let kept: String = text.chars().take(chars_max.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// Text of somebody else made safe for a terminal: no control characters but line feed and tab.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// As [`harmless`], on one line.
pub(crate) fn single_line(text: &str) -> String {
    harmless(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        let shown: Vec<_> = [0, 59, 60, 3599, 3600, 7500, 86_400, 300_000].map(duration).into();
        assert_eq!(
            shown,
            ["0 s", "59 s", "1 min", "59 min", "1 h 0 min", "2 h 5 min", "1 d 0 h", "3 d 11 h"]
        );
    }

    #[test]
    fn sizes_use_binary_units() {
        let shown: Vec<_> = [0, 1023, 1024, 3_565_158, 26_214_400, 5 << 40].map(bytes).into();
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "3.4 MiB", "25 MiB", "5120 GiB"]);
    }

    #[test]
    fn a_command_line_is_quoted_and_cut() {
        let words = ["sh", "-c", "echo 'a\nb'", ""].map(str::to_owned);
        assert_eq!(command_line(&words, 80), "sh -c 'echo 'a b'' ''");
        assert_eq!(command_line(&words, 8), "sh -c '…");
    }

    #[test]
    fn text_of_an_agent_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\u{1b}]0;title\u{7}b\n"), "a]0;titleb\n");
    }
}
