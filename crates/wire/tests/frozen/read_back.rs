//! Every message of every released version still reads, and writes the same JSON.
//!
//! The samples are written by hand and never changed: a test that fails here has found a break of the protocol.

use crate::sample::fixtures;
use ostler_wire::protocol::MESSAGES;
use serde_json::{Value, json};

#[test]
fn every_sample_reads_and_writes_back_as_it_was() {
    for fixture in fixtures() {
        let json = fixture.json();
        assert_kept(&json, &fixture.read_back(&json), &fixture.file);
    }
}

/// Whatever the sample says is still said. Fields of a later version may have joined it.
fn assert_kept(sample: &Value, written: &Value, at: &str) {
    match (sample, written) {
        (Value::Object(sample), Value::Object(written)) => {
            for (name, value) in sample {
                assert_kept(value, written.get(name).unwrap_or(&Value::Null), &format!("{at}: {name}"));
            }
        }
        (Value::Array(sample), Value::Array(written)) if sample.len() == written.len() => {
            for (index, (sample, written)) in sample.iter().zip(written).enumerate() {
                assert_kept(sample, written, &format!("{at}: {index}"));
            }
        }
        (sample, written) => assert_eq!(written, sample, "{at}"),
    }
}

#[test]
#[should_panic(expected = "x: b: 1")]
fn a_lost_value_is_noticed() {
    assert_kept(&json!({ "a": 1, "b": [1, 2] }), &json!({ "a": 1, "b": [1, 3], "c": 0 }), "x");
}

#[test]
fn every_message_has_a_sample() {
    let fixtures = fixtures();
    for message in MESSAGES {
        let file = format!("{}.json", message.name);
        assert!(fixtures.iter().any(|fixture| fixture.file == file), "{file} is missing");
    }
}

#[test]
fn unknown_fields_are_ignored() {
    for fixture in fixtures() {
        let mut json = fixture.json();
        let without = fixture.read_back(&json);
        json.as_object_mut().unwrap().insert("from_the_future".to_owned(), json!({ "deep": [1, 2] }));
        assert_eq!(fixture.read_back(&json), without, "{}", fixture.file);
    }
}

#[test]
fn absent_and_null_mean_the_same_for_an_optional_field() {
    let absent = json!({ "agent_id": "a", "status": "s", "timestamp": "2026-11-20T21:30:00Z",
        "state": "active", "run_id": "019a9e40-7b1c-7000-8000-2f5f1a6b0c01" });
    let mut null = absent.clone();
    null["message"] = Value::Null;
    null["exit"] = Value::Null;
    let status = fixtures().into_iter().find(|fixture| fixture.file == "StatusMessage.json").unwrap();
    assert_eq!(status.read_back(&absent), status.read_back(&null));
}

/// The names the fleet monitor's messages were published with, field by field.
const FLEET_MONITOR: &[(&str, &[&str])] = &[
    ("HeartbeatMessage", &["agent_id", "config_name", "project_path", "status", "current_task", "timestamp"]),
    ("StatusMessage", &["agent_id", "status", "message", "timestamp"]),
    ("CommandMessage", &["type", "payload"]),
    ("ShutdownMessage", &["reason", "approved", "force"]),
    ("ToolCallRequest", &["request_id", "agent_id", "tool", "arguments"]),
    ("ToolCallResponse", &["request_id", "success", "result"]),
    ("ToolCallResponse.failed", &["request_id", "success", "error"]),
    ("StopApprovalRequest", &["agent_id", "reason", "context", "work_completed"]),
    ("StopApprovalResponse", &["approved", "message"]),
];

#[test]
fn the_fleet_monitors_names_are_kept() {
    let fixtures = fixtures();
    for (name, fields) in FLEET_MONITOR {
        let file = format!("{name}.json");
        let fixture = fixtures.iter().find(|fixture| fixture.file == file).unwrap();
        let written = fixture.read_back(&fixture.json());
        for field in *fields {
            assert!(written.get(field).is_some(), "{name} lost {field}");
        }
    }
}

#[test]
fn a_message_of_the_fleet_monitor_alone_is_understood() {
    for (file, json) in [
        ("CommandMessage.json", json!({ "type": "stop" })),
        (
            "HeartbeatMessage.json",
            json!({ "agent_id": "a", "config_name": "c", "project_path": "/p", "status": "working",
                "current_task": "t", "timestamp": "2025-12-03T10:00:00.123456789Z" }),
        ),
        ("ToolCallRequest.json", json!({ "request_id": "r", "agent_id": "a", "tool": "t", "arguments": {} })),
        ("ToolCallResponse.json", json!({ "request_id": "r", "success": false, "error": "e" })),
        (
            "StopApprovalRequest.json",
            json!({ "agent_id": "a", "reason": "r", "context": "c", "work_completed": "w" }),
        ),
    ] {
        let fixtures = fixtures();
        let fixture = fixtures.iter().find(|fixture| fixture.file == file).unwrap();
        let written = fixture.read_back(&json);
        for (field, value) in json.as_object().unwrap() {
            assert_eq!(&written[field], value, "{file}");
        }
    }
}
