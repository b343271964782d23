//! Space that comes back: what the directory of a stream takes while messages are replaced, worked off, purged and
//! limited, with nothing but time asking for it.

use serde_json::json;

use crate::bus::Incoming;
use crate::testing::Rig;
use crate::time::SECOND;

const KIB: u64 = 1024;

fn rig(config: &serde_json::Value) -> Rig {
    let mut rig = Rig::new();
    rig.bus.only = Some(vec!["_I".to_owned()]);
    rig.api("STREAM.CREATE.S", &config.to_string());
    rig
}

/// Publishes one batch of messages of a kilobyte.
fn publish(rig: &mut Rig, subjects: impl Iterator<Item = String>) {
    let payload = [7; KIB as usize];
    for subject in subjects {
        rig.now += 1_000;
        let Rig { jetstream, bus, now, .. } = &mut *rig;
        let message = Incoming { subject: subject.as_bytes(), reply: b"", headers: b"", payload: &payload };
        jetstream.as_mut().unwrap().on_message(&message, *now, bus);
    }
    rig.settle();
}

/// The directory's bytes after a minute in which nothing happens.
fn bytes_at_rest(rig: &mut Rig) -> u64 {
    for _ in 0..6 {
        rig.pass(10 * SECOND);
    }
    let dir = std::fs::read_dir(rig.path().join("streams/S")).unwrap();
    dir.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn keys_that_are_overwritten_take_what_their_last_values_take() {
    let mut rig = rig(&json!({"name": "S", "subjects": ["kv.>"], "max_msgs_per_subject": 1}));
    let mut most = 0;
    // Forty megabytes through a hundred keys.
    for round in 0..400 {
        publish(&mut rig, (0..100).map(|key| format!("kv.{key}")));
        if round % 40 == 0 {
            most = most.max(bytes_at_rest(&mut rig));
        }
    }
    assert_eq!(rig.api("STREAM.INFO.S", "")["state"]["messages"], 100);
    let live = 100 * KIB;
    let rest = bytes_at_rest(&mut rig);
    assert!(rest < 6 * live, "{rest} bytes at rest for {live} live");
    assert!(most < 12 * 1024 * KIB, "{most} bytes at most");
}

#[test]
fn a_purge_and_a_limit_give_space_back() {
    let mut rig = rig(&json!({"name": "S", "subjects": ["s"]}));
    publish(&mut rig, (0..20_000).map(|_| "s".to_owned()));
    assert!(bytes_at_rest(&mut rig) > 20_000 * KIB);
    rig.api("STREAM.UPDATE.S", &json!({"name": "S", "subjects": ["s"], "max_msgs": 1000}).to_string());
    let limited = bytes_at_rest(&mut rig);
    assert!(limited < 10_000 * KIB, "{limited} bytes for 1000 messages");
    rig.api("STREAM.PURGE.S", "");
    let purged = bytes_at_rest(&mut rig);
    assert!(purged < 200 * KIB, "{purged} bytes for none");
}

#[test]
fn what_is_worked_off_takes_nothing() {
    let mut rig = rig(&json!({"name": "S", "subjects": ["s"], "retention": "workqueue"}));
    let consumer = json!({"stream_name": "S", "config": {"durable_name": "c", "ack_policy": "explicit", "max_ack_pending": 100_000}});
    rig.api("CONSUMER.CREATE.S.c", &consumer.to_string());
    for _ in 0..20 {
        publish(&mut rig, (0..500).map(|_| "s".to_owned()));
        let request = r#"{"batch":500}"#;
        for sent in rig.ask("$JS.API.CONSUMER.MSG.NEXT.S.c", request) {
            let Rig { jetstream, bus, now, .. } = &mut rig;
            let ack = Incoming { subject: sent.reply.as_bytes(), reply: b"", headers: b"", payload: b"" };
            jetstream.as_mut().unwrap().on_message(&ack, *now, bus);
        }
        rig.settle();
    }
    assert_eq!(rig.api("STREAM.INFO.S", "")["state"]["messages"], 0);
    let rest = bytes_at_rest(&mut rig);
    assert!(rest < 300 * KIB, "{rest} bytes for none");
}
