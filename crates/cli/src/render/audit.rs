//! Audit entries, one line each, and the verdict on their chain.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ostler_wire::{AgentId, AuditEntry};

use super::{cut, single_line, style};
use crate::chain::{Verdict, short};

/// Columns: wide enough for what is usual; what is longer pushes the rest.
const AGENT: usize = 14;
const WHAT: usize = 20;
const WHO: usize = 14;

/// The line above the first entry.
pub(crate) fn heading() -> String {
    let what = format!("{:<19}  {:<AGENT$}  {:<WHAT$}  {:<WHO$}  ", "TIME", "AGENT", "WHAT", "WHO");
    style::dim(format!("{what}DETAILS"))
}

/// `2026-11-20 22:00:03  reviewer  command.stop  alice@box  stop was asked for`, in the time zone of the person.
pub(crate) fn line(entry: &AuditEntry, zone: &TimeZone) -> String {
    let time = entry.timestamp.to_zoned(zone.clone()).strftime("%F %T");
    let agent = entry.agent_id.as_ref().map_or("-", AgentId::as_str);
    // Padded before it is styled: the codes of a style have no width on the screen.
    let agent = style::strong(format!("{agent:<AGENT$}"));
    let who = entry.by.as_deref().map(single_line).unwrap_or_else(|| "-".to_owned());
    let who = format!("{:<WHO$}", cut(&who, 40));
    format!("{}  {agent}  {}  {who}  {}", style::dim(time), what(entry), details(entry))
}

/// The first line of a replay.
pub(crate) fn beginning(agent: &AgentId, at: Timestamp) -> String {
    let at = at.to_zoned(TimeZone::system()).strftime("%F %T");
    format!("{} {}", style::strong(agent), style::dim(format!("from {at} on")))
}

/// `+1:02:03.4  agent.state  reviewer is paused`, counted from `first`.
pub(crate) fn step(entry: &AuditEntry, first: Timestamp) -> String {
    let tenths = (entry.timestamp.as_millisecond() - first.as_millisecond()).max(0) / 100;
    let (seconds, tenths) = (tenths / 10, tenths % 10);
    let time = format!("+{}:{:02}:{:02}.{tenths}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let by = match entry.by.as_deref() {
        Some("daemon" | "agent") | None => String::new(),
        Some(by) => style::dim(format!(" ({})", cut(&single_line(by), 40))),
    };
    format!("{}  {}  {}{by}", style::dim(format!("{time:>11}")), what(entry), details(entry))
}

fn what(entry: &AuditEntry) -> String {
    let kind = format!("{:<WHAT$}", single_line(&entry.kind));
    match entry.kind.as_str() {
        "alert" | "audit.lost" => style::warning(kind),
        _ => style::hint(kind),
    }
}

/// The sentence without the name that stands in its column already, and what a tool was given.
fn details(entry: &AuditEntry) -> String {
    let text = single_line(&entry.text);
    let agent = entry.agent_id.as_ref().map_or("", AgentId::as_str);
    let rest = text.strip_prefix(agent).map(|rest| rest.trim_start_matches([':', ' ']).to_owned());
    let mut text = rest.filter(|rest| !rest.is_empty()).unwrap_or(text);
    if let Some(input) = entry.details.get("input").or_else(|| entry.details.get("command")) {
        let _ = write!(text, " {}", style::dim(cut(&single_line(&input.to_string()), 80)));
    }
    text
}

/// What `audit verify` says; when quiet, faults only.
pub(crate) fn verdict(found: &Verdict, quiet: bool) -> String {
    let mut text = String::new();
    let entries = match found.entries {
        1 => "1 entry".to_owned(),
        entries => format!("{entries} entries"),
    };
    if found.intact && !quiet {
        let _ = writeln!(text, "{}: {entries}, {}", style::strong(&found.node), style::good("intact"));
    } else if !found.intact {
        let _ = writeln!(text, "{}: {entries}, {}", style::strong(&found.node), style::error("not intact"));
    }
    for fault in &found.faults {
        let place = match (fault.entry, fault.stream_seq) {
            (Some(entry), Some(stream)) => format!("entry {entry} (message {stream} of the stream): "),
            (Some(entry), None) => format!("entry {entry}: "),
            (None, Some(stream)) => format!("message {stream} of the stream: "),
            (None, None) => String::new(),
        };
        let _ = writeln!(text, "  {} {place}{}", style::error("✗"), single_line(&fault.text));
    }
    let told = found.faults.len() as u64;
    if found.faults_found > told {
        let _ = writeln!(text, "  and {} more", found.faults_found - told);
    }
    if quiet {
        return text;
    }
    for note in &found.notes {
        let _ = writeln!(text, "  {}", style::dim(note));
    }
    if let Some(last) = found.chains.last() {
        let label = style::dim(format!("chain {}, last entry:", short(&last.chain)));
        let _ = writeln!(text, "  {label} {}:{}", last.last, last.hash);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_when_about_whom_what_and_who() {
        let entry = |json: serde_json::Value| -> AuditEntry {
            let mut entry = serde_json::json!({ "seq": 1, "chain": "c", "prev": "0", "node": "box",
                "timestamp": "2026-11-20T22:00:03.5Z" });
            entry.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
            serde_json::from_value(entry).unwrap()
        };
        let entries = [
            entry(serde_json::json!({ "kind": "command.stop", "agent_id": "reviewer", "by": "alice@box",
                "text": "reviewer: stop was asked for" })),
            entry(
                serde_json::json!({ "kind": "daemon.started", "by": "daemon", "text": "ostler 0.1.0 started" }),
            ),
            entry(serde_json::json!({ "kind": "tool.use", "agent_id": "reviewer", "by": "agent",
                "text": "reviewer uses Bash", "details": { "input": { "command": "cargo\u{1b}[2J test" } } })),
            entry(
                serde_json::json!({ "kind": "alert", "agent_id": "x", "text": "three heartbeats\nmissed" }),
            ),
        ];
        let plain = |text: String| anstream::adapter::strip_str(&text).to_string();
        let mut shown = vec![plain(heading())];
        shown.extend(entries.iter().map(|entry| plain(line(entry, &TimeZone::UTC))));
        let first = "2026-11-20T20:58:01Z".parse().unwrap();
        shown.extend(entries.iter().map(|entry| plain(step(entry, first))));
        insta::assert_snapshot!(shown.join("\n"));
    }
}
