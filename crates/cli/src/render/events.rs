//! Recorded events, one line each.

use jiff::tz::TimeZone;
use ostler_wire::EventRecord;

use super::{single_line, style};

/// `22:00:03  agent.state  reviewer  active -> paused`, in the time zone of the person.
pub(crate) fn line(event: &EventRecord, zone: &TimeZone) -> String {
    let time = event.timestamp.to_zoned(zone.clone()).strftime("%F %T");
    // Padded before it is styled: the codes of a style have no width on the screen.
    let kind = format!("{:<16}", event.kind);
    let kind = if event.kind == "alert" { style::warning(kind) } else { style::hint(kind) };
    let text = single_line(&event.text);
    // The sentence usually begins with the agent's name; then it is not said twice.
    let text = match &event.agent_id {
        Some(id) => match text.strip_prefix(id.as_str()) {
            Some(rest) => format!("{}{rest}", style::strong(id)),
            None => format!("{} {text}", style::strong(id)),
        },
        None => text,
    };
    format!("{}  {kind} {text}", style::dim(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = |agent: &str, kind: &str, text: &str| -> EventRecord {
            serde_json::from_value(serde_json::json!({
                "seq": 7, "timestamp": "2026-11-20T22:00:03.5Z", "kind": kind, "text": text,
                "agent_id": (!agent.is_empty()).then_some(agent),
            }))
            .unwrap()
        };
        let lines = [
            event("reviewer", "agent.state", "reviewer is paused"),
            event("", "daemon.started", "ostler 0.1.0 is ready"),
            event("reviewer", "alert", "three heartbeats\nmissed"),
        ]
        .map(|event| anstream::adapter::strip_str(&line(&event, &TimeZone::UTC)).to_string());
        insta::assert_snapshot!(lines.join("\n"));
    }
}
