//! What a real nats-server answered, compared with what is answered here. `testdata/capture.py` asked it.

use serde_json::Value;

use crate::bus::Incoming;
use crate::testing::{Rig, Sent};
use crate::time::SECOND;

const REPLY: &str = "_I";
/// Messages are pushed to subjects that begin with it.
const PUSHED: &str = "_P.";

#[derive(serde::Deserialize)]
struct Ask {
    subject: String,
    #[serde(default)]
    payload: Value,
    #[serde(default)]
    headers: Vec<(String, String)>,
    #[serde(default = "usual_wait")]
    wait: f64,
    #[serde(default = "usual_reply")]
    reply: String,
}

/// Of `capture.py`.
fn usual_wait() -> f64 {
    0.15
}

fn usual_reply() -> String {
    REPLY.to_owned()
}

#[derive(serde::Deserialize, Debug, PartialEq)]
struct Answer {
    /// Whose request it answers, where the script says whose that is.
    #[serde(default)]
    to: Option<String>,
    subject: String,
    reply: String,
    headers: String,
    payload: String,
}

/// Takes out what differs from run to run, and who leads a cluster there is not.
fn settled(payload: &str) -> Value {
    let Ok(mut value) = serde_json::from_str::<Value>(payload) else { return Value::from(payload) };
    settle(&mut value);
    value
}

fn settle(value: &mut Value) {
    if let Value::Array(items) = value {
        for item in items {
            // nats-server forgets to say in lists what it says elsewhere.
            if let Some(Value::Object(metadata)) = item.pointer_mut("/config/metadata") {
                metadata.retain(|key, _| key == "_nats.req.level" || !key.starts_with("_nats."));
            }
            settle(item);
        }
    }
    let Value::Object(fields) = value else { return };
    for counting in ["pause_remaining", "pinned_client_id"] {
        if fields.contains_key(counting) {
            fields.insert(counting.to_owned(), Value::from("some"));
        }
    }
    if fields.get("active").and_then(Value::as_i64).is_some_and(|active| active >= 0) {
        fields.insert("active".to_owned(), Value::from("lately"));
    }
    // Told only once it is set up.
    if fields.get("active") == Some(&Value::from(-1)) {
        fields.remove("filter_subject");
    }
    // In any order there.
    if let Some(Value::Array(sources)) = fields.get_mut("sources") {
        sources.sort_by_key(|source| source.get("name").map(Value::to_string));
    }
    // Of which run of a stream a message is, in base 62.
    if let Some(Value::String(headers)) = fields.get("hdrs") {
        let plain = data_encoding::BASE64.decode(headers.as_bytes()).unwrap_or_default();
        let mut text = String::from_utf8_lossy(&plain).into_owned();
        if let Some(label) = text.find("Nats-Stream-Source: ")
            && let Some(end) = text[label..].find("\r\n")
            && let Some(run) = text[label..label + end].rfind(' ')
        {
            text.replace_range(label + run..label + end, " run");
        }
        fields.insert("hdrs".to_owned(), Value::from(text));
    }
    for timely in ["created", "ts", "time", "first_ts", "last_ts", "last_active", "pinned_ts"] {
        if let Some(Value::String(text)) = fields.get_mut(timely)
            && !text.starts_with("0001")
        {
            *text = "then".to_owned();
        }
    }
    fields.remove("cluster");
    // nats-server notices only afterwards who listens to where it pushes now.
    if fields.get("type").and_then(Value::as_str) == Some("io.nats.jetstream.api.v1.consumer_create_response")
    {
        fields.remove("push_bound");
    }
    // An empty list is null there; clients take either.
    for list in ["streams", "consumers"] {
        if fields.get(list) == Some(&Value::Null) {
            fields.insert(list.to_owned(), Value::Array(Vec::new()));
        }
    }
    // A refused page has no length, and no list either.
    if fields.contains_key("error") {
        for empty in [
            "total",
            "offset",
            "limit",
            "streams",
            "consumers",
            "purged",
            "paused",
            "pause_until",
            "reset_seq",
        ] {
            fields.remove(empty);
        }
    }
    fields.values_mut().for_each(settle);
}

fn settled_headers(headers: &str) -> String {
    let lines = headers.split('|').filter(|line| !line.starts_with("Nats-Time-Stamp"));
    let settled = |line| if str::starts_with(line, "Nats-Pin-Id") { "Nats-Pin-Id: some" } else { line };
    lines.map(settled).collect::<Vec<_>>().join("|")
}

/// Without the time in it.
fn settled_reply(reply: &str) -> String {
    let mut tokens: Vec<&str> = reply.split('.').collect();
    if reply.starts_with("$JS.ACK.") {
        tokens[7] = "then";
    }
    tokens.join(".")
}

/// Of `capture.py`: `_P.1` also listens to what is below it.
fn listener(to: &str) -> &str {
    to.match_indices('.').nth(1).map_or(to, |(end, _)| &to[..end])
}

fn text(payload: &Value) -> String {
    match payload {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn replay(name: &str) {
    let file = |extension: &str| {
        let path = format!("{}/testdata/{name}.{extension}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let (script, answers) = (file("script"), file("answers"));
    let mut rig = Rig::new();
    rig.bus.only = Some((1..9).map(|number| format!("{PUSHED}{number}")).chain([REPLY.to_owned()]).collect());
    let mut differences = Vec::new();
    for (number, (ask, expected)) in script.lines().zip(answers.lines()).enumerate() {
        let ask: Ask = serde_json::from_str(ask).unwrap();
        let expected: Vec<Answer> = serde_json::from_str(expected).unwrap();
        let mut headers = String::new();
        if !ask.headers.is_empty() {
            let lines = ask.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
            headers = format!("NATS/1.0\r\n{}\r\n", lines.collect::<String>());
        }
        let payload = text(&ask.payload);
        rig.send(&Incoming {
            subject: ask.subject.as_bytes(),
            reply: ask.reply.as_bytes(),
            headers: headers.as_bytes(),
            payload: payload.as_bytes(),
        });
        rig.pass_through((ask.wait * SECOND as f64) as i64);
        let sent: Vec<Sent> = rig
            .bus
            .take()
            .into_iter()
            .filter(|sent| sent.to.starts_with(REPLY) || sent.to.starts_with(PUSHED))
            .collect();
        let place = format!("{name}.script line {}: {} {payload}", number + 1, ask.subject);
        let of = |to: &str, subject: &str, reply: &str, headers: &str| {
            let subject = if subject.starts_with(REPLY) { "" } else { subject };
            format!("{subject} {} {} {to}", settled_reply(reply), settled_headers(headers))
        };
        let routed = expected.iter().any(|answer| answer.to.is_some());
        let ours = sent.iter().map(|sent| {
            let to = if routed && sent.to.starts_with(PUSHED) { listener(&sent.to) } else { "" };
            (of(to, &sent.subject, &sent.reply, &sent.headers), settled(&sent.payload))
        });
        let theirs = expected.iter().map(|answer| {
            let to = answer.to.as_deref().unwrap_or("");
            (of(to, &answer.subject, &answer.reply, &answer.headers), settled(&answer.payload))
        });
        // An acknowledgement waits for the disk here, a delivery does not wait for the acknowledgement: within what is
        // answered and within what is pushed the order is the same.
        let (mut ours, mut theirs): (Vec<_>, Vec<_>) = (ours.collect(), theirs.collect());
        for answers in [&mut ours, &mut theirs] {
            answers.sort_by_key(|(of, _): &(String, Value)| !of.starts_with(' '));
        }
        if ours != theirs {
            let lines = |answers: &[(String, Value)]| {
                answers
                    .iter()
                    .map(|(headers, payload)| format!("  {headers} {payload}\n"))
                    .collect::<String>()
            };
            differences.push(format!("{place}\nours:\n{}nats-server's:\n{}", lines(&ours), lines(&theirs)));
        }
    }
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn streams_answer_as_nats_server_does() {
    replay("stream_api");
}

#[test]
fn direct_gets_answer_as_nats_server_does() {
    replay("direct_get");
}

#[test]
fn consumers_answer_as_nats_server_does() {
    replay("consumer_api");
}

#[test]
fn messages_are_delivered_as_by_nats_server() {
    replay("pull");
}

#[test]
fn priority_groups_decide_as_in_nats_server() {
    replay("priority");
}

#[test]
fn consumers_are_reset_and_checked_as_by_nats_server() {
    replay("consumer_more");
}

#[test]
fn rates_heartbeats_and_groups_are_as_in_nats_server() {
    replay("push_more");
}

#[test]
fn messages_are_pushed_as_by_nats_server() {
    replay("push");
}

#[test]
fn subjects_are_transformed_as_by_nats_server() {
    replay("transforms");
}

#[test]
fn mirrors_are_as_those_of_nats_server() {
    replay("mirrors");
}

#[test]
fn sources_are_as_those_of_nats_server() {
    replay("sources");
}

#[test]
fn batches_are_as_those_of_nats_server() {
    replay("batch");
}

#[test]
fn fast_batches_are_as_those_of_nats_server() {
    replay("fast");
}

#[test]
fn counters_are_as_those_of_nats_server() {
    replay("counters");
}

#[test]
fn schedules_are_as_those_of_nats_server() {
    replay("schedules");
}
