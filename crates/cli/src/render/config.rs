//! The place in a configuration file that is wrong.

use miette::Diagnostic;

/// The line and a mark below what is wrong in it; nothing when the fault has no place.
pub(crate) fn snippet(fault: &dyn Diagnostic) -> Option<String> {
    let label = fault.labels()?.next()?;
    // With a line around it the contents hold the whole line that the span is in.
    let contents = fault.source_code()?.read_span(label.inner(), 1, 1).ok()?;
    let text = String::from_utf8_lossy(contents.data());
    let at = label.offset().checked_sub(contents.span().offset())?;
    let (before, after) = (text.get(..at)?, text.get(at..)?);
    let (lines_before, line_start) = before.rsplit_once('\n').unwrap_or(("", before));
    let line_rest = after.lines().next().unwrap_or_default();
    let lines = if line_start.len() == before.len() { 0 } else { lines_before.matches('\n').count() + 1 };
    let number = (contents.line() + lines + 1).to_string();
    let (gap, blank) = (" ".repeat(number.len()), " ".repeat(line_start.chars().count()));
    let marks = "^".repeat(label.len().clamp(1, line_rest.chars().count().max(1)));
    Some(format!("  {number} | {line_start}{line_rest}\n  {gap} | {blank}{marks}"))
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
