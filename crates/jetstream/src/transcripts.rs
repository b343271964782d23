//! What a real nats-server answered, compared with what is answered here. `testdata/capture.py` asked it.

use serde_json::Value;

use crate::bus::Incoming;
use crate::testing::{Rig, Sent};

#[derive(serde::Deserialize)]
struct Ask {
    subject: String,
    #[serde(default)]
    payload: Value,
    #[serde(default)]
    headers: Vec<(String, String)>,
}

#[derive(serde::Deserialize, Debug, PartialEq)]
struct Answer {
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
    let Value::Object(fields) = value else { return };
    for timely in ["created", "ts", "time", "first_ts", "last_ts", "last_active"] {
        if let Some(Value::String(text)) = fields.get_mut(timely)
            && !text.starts_with("0001")
        {
            *text = "then".to_owned();
        }
    }
    fields.remove("cluster");
    // An empty list is null there; clients take either.
    for list in ["streams", "consumers"] {
        if fields.get(list) == Some(&Value::Null) {
            fields.insert(list.to_owned(), Value::Array(Vec::new()));
        }
    }
    // A refused page has no length, and no list either.
    if fields.contains_key("error") {
        for empty in ["total", "offset", "limit", "streams", "consumers", "purged"] {
            fields.remove(empty);
        }
    }
    fields.values_mut().for_each(settle);
}

fn settled_headers(headers: &str) -> String {
    let lines = headers.split('|').filter(|line| !line.starts_with("Nats-Time-Stamp"));
    lines.collect::<Vec<_>>().join("|")
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
            reply: b"_I",
            headers: headers.as_bytes(),
            payload: payload.as_bytes(),
        });
        let sent: Vec<Sent> = rig.bus.take().into_iter().filter(|sent| sent.to == "_I").collect();
        let place = format!("{name}.script line {}: {} {payload}", number + 1, ask.subject);
        let ours = sent.iter().map(|sent| (settled_headers(&sent.headers), settled(&sent.payload)));
        let theirs =
            expected.iter().map(|answer| (settled_headers(&answer.headers), settled(&answer.payload)));
        let (ours, theirs): (Vec<_>, Vec<_>) = (ours.collect(), theirs.collect());
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
