//! JetStream's API: whatever is asked, it is answered at most once, in JSON that says of which type it is; and what was
//! answered is the same after a restart.
//!
//! A line is a request: the subject behind `$JS.API.`, a space, the payload. A line that begins with `+` lets time pass,
//! and one with `=` publishes: a subject, a space, the payload.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ostler_fuzz::jetstream::{House, INBOX};
use ostler_fuzz::pieces;
use serde_json::Value;

const LINES_MAX: usize = 24;

fuzz_target!(|input: &[u8]| {
    let mut house = House::default();
    for config in [
        r#"{"name":"S","subjects":["s.>"],"allow_direct":true,"allow_rollup_hdrs":true,"allow_msg_ttl":true}"#,
        r#"{"name":"M","subjects":["m.*"],"storage":"memory","max_msgs_per_subject":2}"#,
    ] {
        let name = &config[9..10];
        house.api(&format!("STREAM.CREATE.{name}"), config);
    }
    for subject in ["s.a", "s.b", "m.a"] {
        house.ask(subject.as_bytes(), b"", b"1");
    }
    house.api(
        "CONSUMER.CREATE.S.c",
        r#"{"stream_name":"S","config":{"durable_name":"c","ack_policy":"explicit"}}"#,
    );
    for line in pieces(input, b'\n', LINES_MAX) {
        let at = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
        let (what, payload) = (&line[..at], line.get(at + 1..).unwrap_or_default());
        match what {
            [] => {}
            [b'+', digits @ ..] => {
                house.pass(1 << (digits.len() as u32 * 8).min(56));
            }
            [b'=', subject @ ..] => {
                house.ask(subject, b"", payload);
            }
            request => {
                let subject = [b"$JS.API.", request].concat();
                let answers = house.ask(&subject, b"", payload);
                if !request.starts_with(b"DIRECT.") && !request.starts_with(b"CONSUMER.MSG.NEXT.") {
                    judge(&answers);
                }
            }
        }
    }
    let before = streams(&mut house);
    // What is acknowledged without an answer is saved within that time.
    house.pass(1_000_000_000);
    let expected = streams(&mut house);
    house.restart();
    let after = streams(&mut house);
    assert_eq!(expected, after, "before the restart it was {before}");
});

fn judge(answers: &[ostler_fuzz::jetstream::Sent]) {
    let mut ours = answers.iter().filter(|sent| sent.to == INBOX.as_bytes());
    if let Some(answer) = ours.next() {
        let read: Value = serde_json::from_slice(&answer.payload).expect("answers are JSON");
        assert!(read["type"].is_string() || read["error"]["code"].is_u64(), "no type: {read}");
        assert!(read.get("error").is_none_or(|error| error["description"].is_string()), "no reason: {read}");
    }
}

/// What there is in files, less what a restart may change.
fn streams(house: &mut House) -> Value {
    let mut list = house.api("STREAM.LIST", "");
    let mut kept: Vec<Value> = list["streams"].as_array_mut().map(std::mem::take).unwrap_or_default();
    kept.retain(|stream| stream["config"]["storage"] == "file");
    for stream in &mut kept {
        stream["ts"] = Value::Null;
        stream["state"]["last_ts"] = Value::Null;
        // When they last heard of their origins.
        for feeds in ["mirror", "sources"] {
            stream[feeds] = Value::Null;
        }
    }
    Value::Array(kept)
}
