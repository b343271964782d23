//! Streams that deliver to each other's subjects: what comes in lands where it was sent, and a circle keeps neither the
//! server's memory nor its clients.
#![cfg(test)]

use ostler_broker::{JetStreamOptions, Server};
use serde_json::Value;

mod common;
use common::{Raw, eventually, local};

fn start() -> (tempfile::TempDir, Server, Raw) {
    let dir = tempfile::tempdir().unwrap();
    let builder = local().shards(1).allow_anonymous().jetstream(JetStreamOptions::new(dir.path()));
    let server = builder.start().unwrap();
    let client = Raw::connect(server.local_addr());
    (dir, server, client)
}

/// Sends a request and returns the JSON that answers it.
fn ask(client: &mut Raw, subject: &str, request: &str) -> Value {
    client.send(format!("SUB answer 77\r\nPUB {subject} answer {}\r\n{request}\r\n", request.len()));
    let answer = client.message();
    client.send("UNSUB 77\r\n");
    let answer = serde_json::from_slice(&answer.payload).unwrap_or_else(|_| panic!("no JSON: {answer:?}"));
    let Value::Object(object) = &answer else { return answer };
    assert!(!object.contains_key("error"), "{subject}: {answer}");
    answer
}

/// Creates a stream in memory.
fn create(client: &mut Raw, name: &str, subject: &str) {
    let config =
        format!(r#"{{"name":"{name}","subjects":["{subject}"],"storage":"memory","max_msgs":1000}}"#);
    ask(client, &format!("$JS.API.STREAM.CREATE.{name}"), &config);
}

fn consume(client: &mut Raw, stream: &str, name: &str, rest: &str) {
    let config = format!(r#"{{"name":"{name}","ack_policy":"none"{rest}}}"#);
    let request = format!(r#"{{"stream_name":"{stream}","config":{config}}}"#);
    ask(client, &format!("$JS.API.CONSUMER.CREATE.{stream}.{name}"), &request);
}

/// How many messages a stream has on each subject.
fn subjects(client: &mut Raw, stream: &str) -> Value {
    let mut info = ask(client, &format!("$JS.API.STREAM.INFO.{stream}"), r#"{"subjects_filter":">"}"#);
    info["state"]["subjects"].take()
}

#[test]
fn what_is_pushed_to_a_stream_is_stored_there() {
    let (_dir, _server, mut client) = start();
    create(&mut client, "A", "a.>");
    create(&mut client, "B", "b.>");
    consume(&mut client, "A", "c", r#","deliver_subject":"b.in""#);
    ask(&mut client, "a.1", "hello");
    eventually("the message is in B", || subjects(&mut client, "B") == serde_json::json!({"a.1": 1}));
    assert_eq!(subjects(&mut client, "A"), serde_json::json!({"a.1": 1}));
}

#[test]
fn what_is_fetched_for_a_stream_is_stored_there() {
    let (_dir, _server, mut client) = start();
    create(&mut client, "A", "a.>");
    create(&mut client, "B", "b.>");
    consume(&mut client, "B", "c", "");
    ask(&mut client, "b.9", "from b");
    client.send("PUB $JS.API.CONSUMER.MSG.NEXT.B.c a.reply 1\r\n1\r\n");
    eventually("the message is in A", || subjects(&mut client, "A") == serde_json::json!({"b.9": 1}));
    assert_eq!(subjects(&mut client, "B"), serde_json::json!({"b.9": 1}));
}

#[test]
fn a_delivered_message_is_no_request() {
    let (_dir, _server, mut client) = start();
    create(&mut client, "A", "a.>");
    create(&mut client, "B", "b.>");
    ask(&mut client, "b.1", "kept");
    consume(&mut client, "A", "c", "");
    ask(&mut client, "a.1", r#"{"keep":0}"#);
    client.send("PUB $JS.API.CONSUMER.MSG.NEXT.A.c $JS.API.STREAM.PURGE.B 1\r\n1\r\n");
    // Another request after it: the first was seen to.
    assert_eq!(subjects(&mut client, "A"), serde_json::json!({"a.1": 1}));
    assert_eq!(subjects(&mut client, "B"), serde_json::json!({"b.1": 1}));
}

/// A request for flow control has no payload and wants an answer, as many a request of the API.
#[test]
fn a_request_for_flow_control_is_no_other_request() {
    let (_dir, server, mut client) = start();
    create(&mut client, "A", "a.>");
    create(&mut client, "B", "b.>");
    ask(&mut client, "b.1", "kept");
    let mut listener = Raw::connect(server.local_addr());
    listener.send("SUB $JS.API.STREAM.DELETE.B 1\r\n");
    listener.sync();
    let push =
        r#","deliver_subject":"$JS.API.STREAM.DELETE.B","flow_control":true,"idle_heartbeat":5000000000"#;
    consume(&mut client, "A", "c", push);
    let text = "x".repeat(200_000);
    for _ in 0..25 {
        ask(&mut client, "a.1", &text);
    }
    while !listener.message().headers.starts_with(b"NATS/1.0 100 FlowControl Request") {}
    assert_eq!(subjects(&mut client, "B"), serde_json::json!({"b.1": 1}));
}

#[test]
fn streams_that_deliver_to_each_other_leave_room_for_others() {
    let (_dir, server, mut client) = start();
    let mut busy = Raw::connect(server.local_addr());
    for (name, subject, other) in [("A", "a", "b"), ("B", "b", "a")] {
        create(&mut busy, name, subject);
        for number in 0..5 {
            consume(&mut busy, name, &format!("c{number}"), &format!(r#","deliver_subject":"{other}""#));
        }
    }
    let text = "x".repeat(1000);
    busy.send(format!("PUB a {}\r\n{text}\r\n", text.len()));
    let last =
        |client: &mut Raw| ask(client, "$JS.API.STREAM.INFO.A", "")["state"]["last_seq"].as_u64().unwrap();
    let before = resident_bytes();
    // Each message makes five: without a bound it would be millions that wait.
    eventually("the circle turns", || last(&mut client) > 100_000);
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes for two streams of 1000 messages");
}

/// The memory of this process, which the server is in.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[test]
fn streams_and_consumers_send_nothing_where_it_is_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let builder = local().shards(1).allow_anonymous().jetstream(JetStreamOptions::new(dir.path()));
    let server = builder.jetstream_sealed(["b.>", "$JS.API.STREAM.PURGE.B"]).start().unwrap();
    let mut client = Raw::connect(server.local_addr());
    create(&mut client, "B", "b.>");
    ask(&mut client, "b.kept", "a client's own");
    for (name, to) in [("R", "b.>"), ("P", "$JS.API.STREAM.PURGE.>")] {
        let config = format!(
            r#"{{"name":"{name}","subjects":["{name}.>"],"storage":"memory","republish":{{"src":"{name}.>","dest":"{to}"}}}}"#
        );
        ask(&mut client, &format!("$JS.API.STREAM.CREATE.{name}"), &config);
        ask(&mut client, &format!("{name}.B"), "{}");
    }
    consume(&mut client, "R", "push", r#","deliver_subject":"b.pushed""#);
    consume(&mut client, "R", "pull", "");
    client.send("PUB $JS.API.CONSUMER.MSG.NEXT.R.pull b.fetched 1\r\n1\r\n");
    client.send("PUB $JS.API.INFO b.answered 0\r\n\r\n");
    ask(&mut client, "R.last", "{}");
    assert_eq!(subjects(&mut client, "B"), serde_json::json!({"b.kept": 1}));
    let other = ask(&mut client, "$JS.API.STREAM.INFO.R", "");
    assert_eq!(other["state"]["messages"], 2);
}
