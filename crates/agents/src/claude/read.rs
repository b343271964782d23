//! From one message of Claude Code to typed events; no state, so every message reads the same wherever it stands.
//!
//! What a subagent says would look like the agent's own words, so its text stays in the untouched line; its tool calls
//! become events, because they are what the agent is doing. A type not known here is passed on by name.

use ostler_wire::{AgentEvent, NoticeLevel};
use serde_json::Value;

/// The events of a message that needs no knowledge of what came before it; at least one.
pub(super) fn events(message: &Value) -> Vec<AgentEvent> {
    let events = match message["type"].as_str() {
        Some("assistant" | "user") => blocks(message),
        Some("stream_event") => vec![stream_event(message)],
        Some("system") => vec![system(message)],
        _ => Vec::new(),
    };
    if events.is_empty() { vec![other(message)] } else { events }
}

/// The event for what is not interpreted: the CLI's own name of it.
pub(super) fn other(message: &Value) -> AgentEvent {
    let part = |value: &Value| value.as_str().map(str::to_owned);
    let name = match (part(&message["type"]), message["subtype"].as_str()) {
        (Some(kind), Some(subtype)) => format!("{kind}/{subtype}"),
        (Some(kind), None) => kind,
        (None, _) => "untyped".to_owned(),
    };
    AgentEvent::Other { name }
}

/// The text of a field; empty when it has none.
pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn is_subagent(message: &Value) -> bool {
    message["parent_tool_use_id"].is_string()
}

/// `assistant` and `user` messages: one event for each content block that means something.
fn blocks(message: &Value) -> Vec<AgentEvent> {
    let Some(content) = message["message"]["content"].as_array() else { return Vec::new() };
    let from_model = message["type"] == "assistant";
    content.iter().filter_map(|block| self::block(block, from_model, is_subagent(message))).collect()
}

fn block(block: &Value, from_model: bool, subagent: bool) -> Option<AgentEvent> {
    match (block["type"].as_str()?, from_model, subagent) {
        ("text", true, false) => Some(AgentEvent::Text { text: text(&block["text"]), delta: false }),
        ("thinking", true, false) => {
            Some(AgentEvent::Thinking { text: text(&block["thinking"]), delta: false })
        }
        ("tool_use", true, _) => Some(AgentEvent::ToolUse {
            tool_use_id: text(&block["id"]),
            name: text(&block["name"]),
            input: block["input"].clone(),
        }),
        ("tool_result", false, _) => Some(AgentEvent::ToolResult {
            tool_use_id: text(&block["tool_use_id"]),
            is_error: block["is_error"].as_bool().unwrap_or(false),
            content: block["content"].clone(),
        }),
        _ => None,
    }
}

/// Pieces of an answer as the model writes it.
fn stream_event(message: &Value) -> AgentEvent {
    let event = &message["event"];
    let delta = &event["delta"];
    match delta["type"].as_str() {
        Some("text_delta") if !is_subagent(message) => {
            AgentEvent::Text { text: text(&delta["text"]), delta: true }
        }
        Some("thinking_delta") if !is_subagent(message) => {
            AgentEvent::Thinking { text: text(&delta["thinking"]), delta: true }
        }
        kind => {
            let kind = kind.or(event["type"].as_str()).unwrap_or("untyped");
            AgentEvent::Other { name: format!("stream_event/{kind}") }
        }
    }
}

fn system(message: &Value) -> AgentEvent {
    match message["subtype"].as_str() {
        Some("api_retry") => AgentEvent::Retry {
            attempt: small(&message["attempt"]).unwrap_or(0),
            attempts_max: small(&message["max_retries"]),
            delay_ms: message["retry_delay_ms"].as_u64(),
            status: small(&message["error_status"]),
        },
        Some("permission_denied") => AgentEvent::Permission {
            tool: text(&message["tool_name"]),
            // The CLI decided by a rule of its own and does not repeat the arguments; the tool_use before has them.
            input: Value::Null,
            allowed: false,
            reason: text(&message["message"]),
        },
        Some("informational") => AgentEvent::Notice {
            level: if message["hook_no_verdict"].is_null() {
                level(&message["level"])
            } else {
                // A hook gave no verdict and the CLI went on as if it had said yes.
                NoticeLevel::Warning
            },
            text: text(&message["content"]),
        },
        Some("notification") => {
            AgentEvent::Notice { level: level(&message["level"]), text: text(&message["text"]) }
        }
        Some("compact_boundary") => AgentEvent::Notice {
            level: NoticeLevel::Info,
            text: "the conversation was compacted to make room".to_owned(),
        },
        _ => other(message),
    }
}

fn small<T: TryFrom<u64>>(value: &Value) -> Option<T> {
    T::try_from(value.as_u64()?).ok()
}

fn level(value: &Value) -> NoticeLevel {
    match value.as_str() {
        Some("error") => NoticeLevel::Error,
        Some("warning" | "warn") => NoticeLevel::Warning,
        _ => NoticeLevel::Info,
    }
}

/// The end of a turn, without what it used.
pub(super) struct Outcome {
    pub(super) is_error: bool,
    pub(super) text: String,
    pub(super) reason: Option<String>,
    pub(super) duration_ms: Option<u64>,
}

/// Reads a `result`. Its `subtype` says "success" also for a turn that failed at the model's service, so it alone
/// proves nothing.
pub(super) fn outcome(message: &Value) -> Outcome {
    let subtype = message["subtype"].as_str();
    let terminal = message["terminal_reason"].as_str();
    let is_error = message["is_error"].as_bool().unwrap_or(false)
        || subtype.is_some_and(|subtype| subtype != "success")
        || terminal == Some("api_error");
    let text = match message["result"].as_str() {
        Some(text) if !text.is_empty() => text.to_owned(),
        // The CLI's own text for it is a diagnosis of its insides.
        _ if terminal.is_some_and(|reason| reason.starts_with("aborted")) => {
            "the turn was interrupted".to_owned()
        }
        _ => errors(message).join("\n"),
    };
    Outcome {
        is_error,
        text,
        reason: terminal.or(subtype).map(str::to_owned),
        duration_ms: message["duration_ms"].as_u64(),
    }
}

/// The messages in `errors`.
pub(super) fn errors(message: &Value) -> Vec<&str> {
    message["errors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// True when the CLI began the turn by itself: a subagent in the background had something to tell.
pub(super) fn began_by_itself(result: &Value) -> bool {
    result["origin"]["kind"].is_string()
}
