//! The place in a configuration file that is wrong.

use miette::Diagnostic;

/// The line and a mark below what is wrong in it; nothing when the fault has no place.
pub(crate) fn snippet(fault: &dyn Diagnostic) -> Option<String> {
    let label = fault.labels()?.next()?;
    let contents = fault.source_code()?.read_span(label.inner(), 0, 0).ok()?;
    let line = String::from_utf8_lossy(contents.data());
    let line = line.lines().next().unwrap_or_default();
    let number = (contents.line() + 1).to_string();
    let (gap, before) = (" ".repeat(number.len()), " ".repeat(contents.column()));
    let marks = "^".repeat(label.len().clamp(1, line.len().saturating_sub(contents.column()).max(1)));
    Some(format!("  {number} | {line}\n  {gap} | {before}{marks}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_daemon::config::{Overrides, parse};

    fn shown(text: &str) -> String {
        snippet(&parse("config.toml", text, Overrides::default()).unwrap_err()).unwrap()
    }

    #[test]
    fn the_mark_is_below_what_is_wrong() {
        assert_eq!(shown("[bus]\nlisen = \"127.0.0.1:1\"\n"), "  2 | lisen = \"127.0.0.1:1\"\n    | ^^^^^");
        assert_eq!(shown("[agents]\n\nheartbeat = \"1ms\"\n"), "  3 | heartbeat = \"1ms\"\n    | ^^^^^^^^^");
    }
}
