//! The audit: what is told by it, how it is bounded, and who carries it to the bus.
//!
//! An entry is a write like any other (`Write::AppendAudit`), in the transaction of the fact it tells. `courier.rs`
//! carries what waits to the stream, one by one and in order; `desired.rs` brings the bucket up to what is wanted;
//! `stream.rs` says what the streams are like. What is told:
//!
//! | kind | when |
//! |---|---|
//! | `command.{verb}` | somebody asks for it; inputs are not told, as output is not |
//! | every kind of event | it is recorded: states, launches, alerts, the daemon's start and end |
//! | `tool.use` `tool.result` `approval.permission` | the agent's CLI tells it |
//! | `hook.{event}` `approval.stop` | the agent's hooks and questions are heard |
//! | `audit.off` | the daemon starts with the audit switched off: what follows is not told |
//! | `audit.flood` | an agent did so much in a minute that the rest is told by its number only |
//! | `audit.lost` | too much waited, and what happened meanwhile is told by its number only |

mod courier;
mod desired;
mod pace;
mod stream;

use ostler_client::Message;
use ostler_store::{AuditFact, Write};
use ostler_wire::{
    AgentEvent, AgentId, AgentTopic, AlertMessage, DownRequest, JsonMap, RemoveRequest, Severity,
    SpawnRequest, Subject, Timestamp, audit_hash,
};
use serde_json::{Value, json};

pub(crate) use courier::{Courier, News, Route};
pub(crate) use pace::Pace;
use pace::Source;

use crate::agent::{Afterwards, Agent};
use crate::outcome::Outcome;
use crate::state::State;

/// Whether an audit is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditMode {
    /// None is kept, and no state is published either.
    Off,
    /// It is kept; while the bus takes none, entries wait and the daemon goes on.
    On,
    /// It is kept, and the daemon does not start where the bus takes none.
    Required,
}

/// How an audit is kept.
#[derive(Debug, Clone, Copy)]
pub struct AuditOptions {
    /// Whether.
    pub mode: AuditMode,
    /// Bytes the stream may take; the oldest entries go first.
    pub bytes_max: u64,
    /// How long entries are kept, in milliseconds; for ever when absent.
    pub age_ms_max: Option<u64>,
    /// Whether other daemons may use the stream: its limits are widened then, and never narrowed.
    pub shared: bool,
}

/// The longest text and the largest details of an entry, in bytes; what is longer is cut, and its hash told.
const TEXT_BYTES_MAX: usize = 1024;
const DETAILS_BYTES_MAX: usize = 4096;

/// How deep details may be nested; readers of JSON commonly give up at 128, the entry around them included.
const DETAILS_DEPTH_MAX: usize = 16;

/// The longest name of an asker.
const BY_CHARS_MAX: usize = 128;

/// One fact to be told, but for where and when.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    pub(crate) kind: &'a str,
    pub(crate) agent: Option<&'a AgentId>,
    pub(crate) by: Option<String>,
    pub(crate) text: String,
    pub(crate) details: JsonMap,
}

impl State {
    /// Tells the audit.
    pub(crate) fn tell(&self, out: &mut Outcome, now: Timestamp, told: Told<'_>) {
        if !self.policy.audit {
            return;
        }
        out.writes.push(Write::AppendAudit(Box::new(AuditFact {
            node: self.policy.node.clone(),
            timestamp: now,
            kind: told.kind.to_owned(),
            agent_id: told.agent.cloned(),
            by: told.by,
            text: cut(&told.text, TEXT_BYTES_MAX).to_owned(),
            details: bounded(told.details),
        })));
    }
}

/// Tells that the audit is off, where it is: the entry waits for whoever switches it on again, so that the numbers
/// without a gap do not say that nothing happened meanwhile.
pub(crate) fn started(state: &State, out: &mut Outcome, now: Timestamp) {
    if state.policy.audit {
        return;
    }
    out.writes.push(Write::AppendAudit(Box::new(AuditFact {
        node: state.policy.node.clone(),
        timestamp: now,
        kind: "audit.off".to_owned(),
        agent_id: None,
        by: Some("daemon".to_owned()),
        text:
            "the daemon started with the audit switched off: what follows is not told until it starts again"
                .to_owned(),
        details: JsonMap::new(),
    })));
}

/// Whether the pace of an agent admits one more entry about its doing.
fn admits(state: &mut State, id: &AgentId, source: Source, now: Timestamp) -> bool {
    state.agents.get_mut(id).is_none_or(|agent| agent.pace.admits(source, now))
}

/// Whether an event is told by the audit too. Not all launches and states of an agent that changes them without end, but
/// every end: of these there are no more than processes can do.
pub(crate) fn tells(state: &mut State, kind: &str, agent: Option<&AgentId>, now: Timestamp) -> bool {
    let is_passing = |id| state.agents.get(id).is_some_and(|agent| agent.state().is_live());
    match agent.filter(|id| matches!(kind, "agent.state" | "agent.launched") && is_passing(*id)) {
        Some(id) => admits(state, id, Source::States, now),
        None => true,
    }
}

/// Tells what was left out of floods that are over.
pub(crate) fn tick(state: &mut State, out: &mut Outcome, now: Timestamp) {
    let floods = state.agents.iter_mut().map(|(id, agent)| (id.clone(), agent.pace.take_left_out(now)));
    let floods: Vec<_> = floods.collect();
    tell_floods(state, out, now, floods);
}

/// Tells what was left out about an agent that is removed.
pub(crate) fn forgotten(state: &mut State, out: &mut Outcome, now: Timestamp, id: &AgentId) {
    let flood = state.agents.get_mut(id).map(|agent| (id.clone(), agent.pace.take_rest()));
    tell_floods(state, out, now, flood);
}

/// Tells what was left out until the daemon ends.
fn all_forgotten(state: &mut State, out: &mut Outcome, now: Timestamp) {
    let floods = state.agents.iter_mut().map(|(id, agent)| (id.clone(), agent.pace.take_rest()));
    let floods: Vec<_> = floods.collect();
    tell_floods(state, out, now, floods);
}

fn tell_floods(
    state: &State,
    out: &mut Outcome,
    now: Timestamp,
    floods: impl IntoIterator<Item = (AgentId, u64)>,
) {
    for (id, left_out) in floods.into_iter().filter(|(_, left_out)| *left_out > 0) {
        let text = format!("{id}: {left_out} more in a minute are not told one by one");
        let mut details = JsonMap::new();
        details.insert("left_out".into(), left_out.into());
        // The last of its states may be among what is left out.
        details.insert("state".into(), json!(state.agents.get(&id).map(Agent::state)));
        let by = Some("daemon".to_owned());
        state.tell(out, now, Told { kind: "audit.flood", agent: Some(&id), by, text, details });
    }
}

/// Who asks for something, as far as an agent cannot choose it: on the daemon's own bus its requests can only name an
/// inbox of its own.
fn source_of(message: &Message, agent: &AgentId) -> Source {
    let own = format!("{}.", Subject::agent_inbox(agent));
    match message.reply.as_deref() {
        Some(reply) if reply.starts_with("_INBOX.") && !reply.starts_with(&own) => Source::Others,
        _ => Source::Itself,
    }
}

/// Somebody asks an agent of ours for something.
pub(crate) fn control(
    state: &mut State,
    out: &mut Outcome,
    now: Timestamp,
    id: &AgentId,
    topic: &AgentTopic,
    message: &Message,
) {
    let Some(agent) = state.agents.get(id) else { return };
    // What we sent again was told when it came first; what is no order is not told.
    if message.forwarded || matches!(topic, AgentTopic::Status | AgentTopic::Input) {
        return;
    }
    // Our own, repeated until the agent has ended; why is told by itself.
    let is_ours = matches!(agent.afterwards, Afterwards::Remove(_)) || state.down.is_some();
    if message.reply.is_none() && is_ours && *topic == AgentTopic::Stop {
        return;
    }
    let details = details_of(message);
    // The fleet monitor's way of giving a turn.
    if *topic == AgentTopic::Command && details.get("type").is_some_and(|kind| kind == "task") {
        return;
    }
    if !admits(state, id, source_of(message, id), now) {
        return;
    }
    let verb = match topic {
        AgentTopic::Command => details.get("type").and_then(Value::as_str).unwrap_or("command").to_owned(),
        topic => topic.to_string(),
    };
    command(state, out, now, &verb, Some(id), message.by.as_deref(), details);
}

/// Somebody asks for a new agent.
pub(crate) fn spawn(
    state: &State,
    out: &mut Outcome,
    now: Timestamp,
    id: &AgentId,
    request: &SpawnRequest,
    message: &Message,
) {
    let mut details = JsonMap::new();
    details.insert("kind".into(), json!(request.kind));
    details.insert("command".into(), json!(request.command));
    details.insert("dir".into(), json!(request.dir));
    command(state, out, now, "spawn", Some(id), message.by.as_deref(), details);
}

/// Somebody wants an agent forgotten.
pub(crate) fn removal(
    state: &State,
    out: &mut Outcome,
    now: Timestamp,
    id: &AgentId,
    request: &RemoveRequest,
    message: &Message,
) {
    if state.agents.contains_key(id) {
        let mut details = JsonMap::new();
        details.insert("force".into(), request.force.into());
        command(state, out, now, "remove", Some(id), message.by.as_deref(), details);
    }
}

/// Somebody wants the daemon to end; without a message a signal does.
pub(crate) fn down(
    state: &mut State,
    out: &mut Outcome,
    now: Timestamp,
    request: &DownRequest,
    message: Option<&Message>,
) {
    let by = message.map_or(Some("signal"), |message| message.by.as_deref());
    let mut details = JsonMap::new();
    details.insert("keep_agents".into(), request.keep_agents.into());
    command(state, out, now, "down", None, by, details);
    all_forgotten(state, out, now);
}

/// The courier has something to say.
pub(crate) fn news(state: &mut State, out: &mut Outcome, now: Timestamp, news: News) {
    let (severity, code, text, action) = match news {
        News::Trouble(why) => (
            Severity::Critical,
            "audit_unavailable",
            format!("the audit is not stored: {why}"),
            "entries wait in the database; `ostler doctor` says what to do, docs/guide/audit.md has the details",
        ),
        News::Tampered(what) => (
            Severity::Critical,
            "audit_broken",
            what,
            "find out who changed the stream or the database; `ostler audit verify` says what is left",
        ),
        News::Unpublished(why) => (
            Severity::Warning,
            "desired_unpublished",
            format!("the bucket of desired states is not up to date: {why}"),
            "agents are not affected; make the definition smaller, or have the bus take it",
        ),
        News::Mended => {
            let text = "the audit is stored again".to_owned();
            return state.record(out, now, "audit.stored", None, text, JsonMap::new());
        }
    };
    let alert = AlertMessage {
        severity,
        code: code.to_owned(),
        agent_id: None,
        text,
        action: action.to_owned(),
        timestamp: now,
    };
    state.alert(out, alert);
}

/// Somebody asks for anything.
fn command(
    state: &State,
    out: &mut Outcome,
    now: Timestamp,
    verb: &str,
    agent: Option<&AgentId>,
    by: Option<&str>,
    details: JsonMap,
) {
    let verb = plain(verb);
    let whose = agent.map_or_else(|| "the daemon".to_owned(), ToString::to_string);
    let text = format!("{whose}: {verb} was asked for");
    let by = by.map(|by| by.chars().filter(|c| !c.is_control()).take(BY_CHARS_MAX).collect());
    state.tell(out, now, Told { kind: &format!("command.{verb}"), agent, by, text, details });
}

/// An agent's hook or question was heard.
pub(crate) fn heard(
    state: &mut State,
    out: &mut Outcome,
    now: Timestamp,
    id: &AgentId,
    topic: &AgentTopic,
    message: &Message,
) {
    if !state.agents.contains_key(id) || !admits(state, id, Source::Hooks, now) {
        return;
    }
    let (kind, text) = match topic {
        AgentTopic::Hook(event) => (format!("hook.{event}"), format!("{id}: hook {event}")),
        AgentTopic::StopRequest => ("approval.stop".to_owned(), format!("{id} asks whether it may stop")),
        _ => return,
    };
    let by = Some("agent".to_owned());
    state.tell(out, now, Told { kind: &kind, agent: Some(id), by, text, details: details_of(message) });
}

/// An agent's CLI told what it does.
pub(crate) fn did(state: &mut State, out: &mut Outcome, now: Timestamp, id: &AgentId, event: &AgentEvent) {
    let (kind, text, details) = match event {
        AgentEvent::ToolUse { tool_use_id, name, input } => (
            "tool.use",
            format!("{id} uses {name}"),
            json!({ "tool_use_id": tool_use_id, "tool": name, "input": input }),
        ),
        AgentEvent::ToolResult { tool_use_id, is_error, content } => (
            "tool.result",
            format!("{id}: the tool {}", if *is_error { "failed or was refused" } else { "answered" }),
            // What it answered is output, of which the log has all.
            json!({ "tool_use_id": tool_use_id, "is_error": is_error, "sha256": audit_hash(content.to_string().as_bytes()) }),
        ),
        AgentEvent::Permission { tool, input, allowed, reason } => (
            "approval.permission",
            format!("{id}: {tool} {}", if *allowed { "may run" } else { "may not run" }),
            json!({ "tool": tool, "input": input, "allowed": allowed, "reason": reason }),
        ),
        _ => return,
    };
    if !admits(state, id, Source::Tools, now) {
        return;
    }
    let details = details.as_object().cloned().unwrap_or_default();
    let by = Some("agent".to_owned());
    state.tell(out, now, Told { kind, agent: Some(id), by, text, details });
}

/// The payload of a message as details; what is no JSON object is told by its size and hash.
fn details_of(message: &Message) -> JsonMap {
    let payload = message.payload.as_ref();
    if payload.is_empty() {
        return JsonMap::new();
    }
    match serde_json::from_slice(payload) {
        Ok(Value::Object(details)) => details,
        _ => digest_of(payload),
    }
}

/// Details that every reader can read; what is too long or too deep is told by its size, hash and start.
fn bounded(details: JsonMap) -> JsonMap {
    let text = serde_json::to_string(&details).unwrap_or_default();
    // What reads once need not read again: a key may be one that the library takes for a sign of its own.
    let is_plain = || {
        details.values().all(|value| is_within(value, DETAILS_DEPTH_MAX))
            && serde_json::from_str::<JsonMap>(&text).is_ok()
    };
    if text.len() <= DETAILS_BYTES_MAX && is_plain() {
        return details;
    }
    let mut digest = digest_of(text.as_bytes());
    digest.insert("start".into(), cut(&text, TEXT_BYTES_MAX).into());
    digest
}

/// Whether a value is nested at most so deep.
fn is_within(value: &Value, depth_max: usize) -> bool {
    match (value, depth_max.checked_sub(1)) {
        (Value::Array(values), Some(below)) => values.iter().all(|value| is_within(value, below)),
        (Value::Object(values), Some(below)) => values.values().all(|value| is_within(value, below)),
        (Value::Array(_) | Value::Object(_), None) => false,
        _ => true,
    }
}

fn digest_of(bytes: &[u8]) -> JsonMap {
    let mut digest = JsonMap::new();
    digest.insert("bytes".into(), bytes.len().into());
    digest.insert("sha256".into(), audit_hash(bytes).into());
    digest
}

/// The first `bytes_max` bytes, cut between two characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

/// A word that may stand in a kind, whatever somebody sent.
fn plain(verb: &str) -> String {
    verb.chars().filter(|c| c.is_ascii_alphanumeric() || "_-.".contains(*c)).take(32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_is_told_by_its_size_and_hash() {
        let mut details = JsonMap::new();
        details.insert("input".into(), "ü".repeat(5000).into());
        let digest = bounded(details.clone());
        let text = serde_json::to_string(&details).unwrap();
        assert_eq!(digest["bytes"], text.len());
        assert_eq!(digest["sha256"], audit_hash(text.as_bytes()));
        assert!(digest["start"].as_str().unwrap().len() <= TEXT_BYTES_MAX);
        assert_eq!(bounded(JsonMap::new()), JsonMap::new());
    }

    #[test]
    fn details_that_would_not_read_back_are_told_by_their_hash() {
        let details = |text: &str| serde_json::from_str::<JsonMap>(text).unwrap();
        let nested =
            |depth: usize| details(&format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth)));
        assert_eq!(bounded(nested(DETAILS_DEPTH_MAX)), nested(DETAILS_DEPTH_MAX));
        assert!(bounded(nested(DETAILS_DEPTH_MAX + 1)).contains_key("sha256"));
        assert!(bounded(nested(126)).contains_key("sha256"));
        // Read in this order, written in the other.
        let sign = details(r#"{"a":{"b":1,"$serde_json::private::RawValue":"no json"}}"#);
        assert!(bounded(sign).contains_key("sha256"));
    }
}
