//! What a stream does over time: waiting for the disk, expiring, coming back after a restart.

use ostler_broker_proto::subject::Filter;

use crate::bus::Incoming;
use crate::jetstream::RouteChange;
use crate::testing::Rig;
use crate::time::SECOND;

fn publish<'a>(subject: &'a str, reply: &'a str, payload: &'a str) -> Incoming<'a> {
    Incoming {
        subject: subject.as_bytes(),
        reply: reply.as_bytes(),
        headers: b"",
        payload: payload.as_bytes(),
    }
}

fn create(rig: &mut Rig, config: &str) {
    let name = config.split('"').nth(3).unwrap();
    rig.api(&format!("STREAM.CREATE.{name}"), config);
}

fn state(rig: &mut Rig, name: &str) -> (u64, u64, u64) {
    let state = &rig.api(&format!("STREAM.INFO.{name}"), "")["state"];
    let number = |field: &str| state[field].as_u64().unwrap();
    (number("messages"), number("first_seq"), number("last_seq"))
}

#[test]
fn group_streams_acknowledge_after_the_sync_that_began_after_the_message() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"S"}"#);
    rig.bus.take();
    let Rig { jetstream, bus, now, .. } = &mut rig;
    let jetstream = jetstream.as_mut().unwrap();
    jetstream.on_message(&publish("S", "a", "1"), *now, bus);
    let mut jobs = jetstream.end_of_batch(bus);
    assert_eq!((jobs.len(), bus.sent.len()), (1, 0));
    jetstream.on_message(&publish("S", "b", "2"), *now, bus);
    assert!(jetstream.end_of_batch(bus).is_empty(), "one sync at a time");
    let result = jobs.pop().unwrap().run();
    let next = jetstream.synced(result, bus).expect("the second message waits");
    assert_eq!(bus.take_text(), [("a".to_owned(), r#"{"stream":"S","seq":1}"#.to_owned())]);
    let result = next.run();
    assert!(jetstream.synced(result, bus).is_none());
    assert_eq!(bus.take_text(), [("b".to_owned(), r#"{"stream":"S","seq":2}"#.to_owned())]);
}

#[test]
fn process_streams_acknowledge_at_the_end_of_the_batch_and_streams_in_memory_at_once() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"P","metadata":{"ostler.durability":"process"}}"#);
    create(&mut rig, r#"{"name":"M","storage":"memory"}"#);
    rig.bus.take();
    let Rig { jetstream, bus, now, .. } = &mut rig;
    let jetstream = jetstream.as_mut().unwrap();
    jetstream.on_message(&publish("P", "a", "1"), *now, bus);
    assert!(bus.sent.is_empty());
    jetstream.on_message(&publish("M", "b", "1"), *now, bus);
    assert_eq!(bus.take_text()[0].0, "b");
    assert!(jetstream.end_of_batch(bus).is_empty());
    assert_eq!(bus.take_text()[0].0, "a");
}

#[test]
fn streams_come_back_with_their_messages_and_their_window() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"S","subjects":["s.>"],"description":"d"}"#);
    create(&mut rig, r#"{"name":"M","storage":"memory"}"#);
    create(&mut rig, r#"{"name":"GONE"}"#);
    rig.api("STREAM.DELETE.GONE", "");
    rig.ask_with("s.a", "Nats-Msg-Id: x", "1");
    rig.ask("s.b", "2");
    let before = rig.api("STREAM.INFO.S", "");
    let recovered = rig.restart();
    assert_eq!(recovered.iter().map(|found| &*found.stream).collect::<Vec<_>>(), ["S"]);
    assert!(recovered[0].served && recovered[0].findings.is_empty(), "{recovered:?}");
    let mut after = rig.api("STREAM.INFO.S", "");
    after["ts"] = before["ts"].clone();
    assert_eq!(after, before);
    let answer = &rig.ask_with("s.a", "Nats-Msg-Id: x", "1")[0];
    assert_eq!(answer.payload, r#"{"stream":"S","seq":1,"duplicate": true}"#);
    rig.now += 121 * SECOND;
    let answer = &rig.ask_with("s.a", "Nats-Msg-Id: x", "1")[0];
    assert_eq!(answer.payload, r#"{"stream":"S","seq":3}"#);
}

#[test]
fn what_must_be_routed_is_told_as_it_changes() {
    let mut rig = Rig::new();
    let texts = |changes: Vec<RouteChange>| -> Vec<String> {
        let text = |change| match change {
            RouteChange::Add(filter) => format!("+{filter}"),
            RouteChange::Remove(filter) => format!("-{filter}"),
        };
        changes.into_iter().map(text).collect()
    };
    assert_eq!(texts(rig.jetstream().route_changes()), ["+$JS.API.>", "+$JS.ACK.>", "+$JS.FC.>"]);
    create(&mut rig, r#"{"name":"S","subjects":["a","b.>"]}"#);
    assert_eq!(texts(rig.jetstream().route_changes()), ["+a", "+b.>"]);
    rig.api("STREAM.UPDATE.S", r#"{"name":"S","subjects":["a","c"]}"#);
    assert_eq!(texts(rig.jetstream().route_changes()), ["-a", "-b.>", "+a", "+c"]);
    assert!(rig.ask("b.x", "1").is_empty(), "no longer a subject of it");
    rig.api("STREAM.DELETE.S", "");
    assert_eq!(texts(rig.jetstream().route_changes()), ["-a", "-c"]);
    assert!(Filter::parse("a").is_ok());
}

#[test]
fn messages_go_when_they_are_too_old() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"S","max_age":1000000000}"#);
    rig.ask("S", "1");
    let first = rig.now;
    rig.now += SECOND / 2;
    rig.ask("S", "2");
    assert_eq!(rig.jetstream().next_due(), Some(first + SECOND));
    rig.now = first + SECOND - 1;
    rig.pass(0);
    assert_eq!(state(&mut rig, "S"), (2, 1, 2));
    rig.pass(1);
    assert_eq!(state(&mut rig, "S"), (1, 2, 2));
    rig.pass(SECOND);
    assert_eq!(state(&mut rig, "S"), (0, 3, 2));
}

#[test]
fn a_time_to_live_outlives_a_restart_and_never_outlives_age() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"S","subjects":["s.>"],"allow_msg_ttl":true,"max_age":10000000000}"#);
    rig.ask_with("s.ever", "Nats-TTL: never", "");
    rig.ask_with("s.soon", "Nats-TTL: 2", "");
    rig.ask("s.plain", "");
    rig.restart();
    rig.pass(3 * SECOND);
    assert_eq!(state(&mut rig, "S"), (2, 1, 3));
    rig.pass(10 * SECOND);
    assert_eq!(state(&mut rig, "S"), (1, 1, 3));
    assert_eq!(rig.api("STREAM.MSG.GET.S", r#"{"seq":1}"#)["message"]["subject"], "s.ever");
}

#[test]
fn a_marker_takes_the_place_of_a_subjects_last_message_for_a_while() {
    let mut rig = Rig::new();
    create(
        &mut rig,
        r#"{"name":"S","subjects":["s.>"],"max_age":1000000000,"subject_delete_marker_ttl":5000000000,"allow_direct":true}"#,
    );
    rig.ask("s.a", "1");
    rig.pass(2 * SECOND);
    let found = rig.ask("$JS.API.DIRECT.GET.S.s.a", "");
    assert!(
        found[0].headers.starts_with("NATS/1.0|Nats-Marker-Reason: MaxAge|Nats-TTL: 5s|Nats-Rollup: sub|"),
        "{found:?}"
    );
    rig.pass(6 * SECOND);
    assert_eq!(state(&mut rig, "S"), (0, 3, 2));
}

#[test]
fn stored_messages_are_published_again() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"R","subjects":["r.>"],"republish":{"src":"r.>","dest":"rp.>"}}"#);
    rig.bus.take();
    rig.ask("r.a.b", "one");
    let sent = rig.ask_with("r.a.b", "A: b", "two");
    let again = sent.iter().find(|sent| sent.to == "rp.a.b").unwrap();
    assert!(
        again.headers.starts_with(
            "NATS/1.0|A: b|Nats-Stream: R|Nats-Subject: r.a.b|Nats-Sequence: 2|Nats-Time-Stamp: "
        )
    );
    assert!(again.headers.ends_with("Z|Nats-Last-Sequence: 1||"), "{}", again.headers);
    assert_eq!(again.payload, "two");
}

#[test]
fn the_domain_is_another_name_and_stands_in_acknowledgements() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = crate::options::Options::new(dir.path());
    options.domain = Some("hub".to_owned());
    let (mut jetstream, _) = crate::jetstream::JetStream::open(options, 0).unwrap();
    let mut bus = crate::testing::Recorder::default();
    let request = publish("$JS.hub.API.STREAM.CREATE.M", "r", r#"{"name":"M","storage":"memory"}"#);
    jetstream.on_message(&request, 0, &mut bus);
    jetstream.on_message(&publish("M", "r", ""), 0, &mut bus);
    assert_eq!(bus.take_text().pop().unwrap().1, r#"{"stream":"M","seq":1,"domain":"hub"}"#);
    // What is written to a key-value store by way of the domain goes to its subject.
    jetstream.on_message(&publish("$JS.hub.API.$KV.B.key", "r", "value"), 0, &mut bus);
    assert_eq!(bus.take_text(), [("$KV.B.key".to_owned(), "value".to_owned())]);
    assert_eq!(jetstream.account_info().api.total, 1);
}

#[test]
fn limits_on_all_streams_together_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = crate::options::Options::new(dir.path());
    options.limits.max_streams = 2;
    options.limits.max_memory = 100;
    let (mut jetstream, _) = crate::jetstream::JetStream::open(options, 0).unwrap();
    let mut bus = crate::testing::Recorder::default();
    let mut create = |config: &str| {
        let name = config.split('"').nth(3).unwrap();
        jetstream.on_message(&publish(&format!("$JS.API.STREAM.CREATE.{name}"), "r", config), 0, &mut bus);
        let answer = bus.take_text().remove(0).1;
        serde_json::from_str::<serde_json::Value>(&answer).unwrap()["error"]["err_code"].as_u64()
    };
    assert_eq!(create(r#"{"name":"A","storage":"memory","max_bytes":60}"#), None);
    assert_eq!(create(r#"{"name":"B","storage":"memory","max_bytes":60}"#), Some(10028));
    assert_eq!(create(r#"{"name":"B","storage":"memory","max_bytes":40}"#), None);
    assert_eq!(create(r#"{"name":"C","storage":"memory"}"#), Some(10027));
}

#[test]
fn a_stream_that_cannot_be_opened_is_named_and_does_not_stop_the_others() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"GOOD"}"#);
    create(&mut rig, r#"{"name":"BAD"}"#);
    let bad = rig.path().join("streams/BAD");
    for entry in std::fs::read_dir(&bad).unwrap() {
        let path = entry.unwrap().path();
        std::fs::remove_file(path).unwrap();
    }
    std::fs::write(bad.join("something"), "else").unwrap();
    std::fs::create_dir(rig.path().join("streams/EMPTY")).unwrap();
    let recovered = rig.restart();
    let names: Vec<_> = recovered.iter().map(|found| (&*found.stream, found.served)).collect();
    assert_eq!(names, [("BAD", false), ("GOOD", true)]);
    let refused = &rig.ask("$JS.API.STREAM.CREATE.BAD", r#"{"name":"BAD"}"#)[0].payload;
    assert!(refused.contains(r#""err_code":10049"#), "{refused}");
    create(&mut rig, r#"{"name":"EMPTY"}"#);
}
