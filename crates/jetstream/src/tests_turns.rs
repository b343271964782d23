//! Requests that are much work: done in turns, so that nobody else waits for them, and answered when they are done.

use crate::bus::Incoming;
use crate::testing::{Rig, Sent};
use crate::time::{MILLISECOND, SECOND};

/// A stream in memory with so many messages, each on a subject of its own.
fn with_messages(count: usize, more: &str) -> Rig {
    let mut rig = Rig::new();
    let config = format!(r#"{{"name":"S","subjects":["s.>"],"storage":"memory","allow_direct":true{more}}}"#);
    rig.api("STREAM.CREATE.S", &config);
    publish(&mut rig, 0..count);
    rig
}

/// In one batch.
fn publish(rig: &mut Rig, numbers: std::ops::Range<usize>) {
    for number in numbers {
        rig.now += 1;
        let Rig { jetstream, bus, now, .. } = &mut *rig;
        let subject = format!("s.{number}");
        let message = Incoming { subject: subject.as_bytes(), reply: b"", headers: b"", payload: b"x" };
        jetstream.as_mut().unwrap().on_message(&message, *now, bus);
    }
    rig.settle();
    rig.bus.take();
}

fn answers(sent: Vec<Sent>) -> (usize, Option<String>) {
    let sent = || sent.iter().filter(|sent| sent.to == "_I");
    let end = sent().find(|sent| sent.headers.contains("204 EOB")).map(|sent| sent.headers.clone());
    (sent().filter(|sent| sent.payload == "x").count(), end)
}

const DIRECT: &str = "$JS.API.DIRECT.GET.S";

#[test]
fn a_large_direct_answer_is_sent_in_turns() {
    let mut rig = with_messages(3_000, "");
    let (first, end) = answers(rig.ask(DIRECT, r#"{"seq":1,"batch":100000}"#));
    assert!((100..1_500).contains(&first) && end.is_none(), "{first} in the first turn, {end:?}");
    rig.send_to("s.more", "", "x");
    rig.pass_through(SECOND);
    let (rest, end) = answers(rig.bus.take());
    assert_eq!(first + rest, 3_000, "what came meanwhile is none of it");
    let end = end.unwrap();
    assert!(end.contains("Nats-Num-Pending: 0|") && end.contains("Nats-Last-Sequence: 3000"), "{end}");
    assert_eq!(rig.jetstream().next_due(), None);
}

#[test]
fn a_small_direct_answer_is_sent_at_once() {
    let mut rig = with_messages(10, "");
    for request in [r#"{"seq":1,"batch":10}"#, r#"{"multi_last":["s.>"]}"#] {
        let (sent, end) = answers(rig.ask(DIRECT, request));
        assert_eq!((sent, end.is_some()), (10, true), "{request}");
    }
}

#[test]
fn a_reader_that_is_behind_is_waited_for() {
    let mut rig = with_messages(10, "");
    rig.bus.congested = true;
    assert_eq!(answers(rig.ask(DIRECT, r#"{"seq":1,"batch":10}"#)), (0, None));
    rig.pass_through(SECOND);
    assert_eq!(answers(rig.bus.take()), (0, None));
    rig.bus.congested = false;
    rig.pass_through(10 * MILLISECOND);
    let (sent, end) = answers(rig.bus.take());
    assert_eq!((sent, end.is_some()), (10, true));
}

#[test]
fn a_reader_that_takes_nothing_is_told_what_is_left() {
    let mut rig = with_messages(2_000, "");
    let (sent, _) = answers(rig.ask(DIRECT, r#"{"seq":1,"batch":2000}"#));
    rig.bus.congested = true;
    rig.pass_through(11 * SECOND);
    let (more, end) = answers(rig.bus.take());
    let left = format!("Nats-Num-Pending: {}|", 2_000 - sent);
    assert!(more == 0 && end.as_ref().is_some_and(|end| end.contains(&left)), "{end:?} after {sent}");
    assert_eq!(rig.jetstream().next_due(), None);
}

#[test]
fn who_goes_away_is_sent_nothing_more() {
    let mut rig = with_messages(2_000, "");
    rig.ask(DIRECT, r#"{"seq":1,"batch":2000}"#);
    rig.bus.only = Some(Vec::new());
    rig.pass_through(SECOND);
    assert_eq!(answers(rig.bus.take()), (0, None));
    assert_eq!(rig.jetstream().next_due(), None);
}

fn messages(rig: &mut Rig) -> u64 {
    rig.api("STREAM.INFO.S", "")["state"]["messages"].as_u64().unwrap()
}

fn update(rig: &mut Rig, more: &str) -> u64 {
    let config = format!(r#"{{"name":"S","subjects":["s.>"],"storage":"memory","allow_direct":true{more}}}"#);
    rig.api("STREAM.UPDATE.S", &config)["state"]["messages"].as_u64().unwrap()
}

#[test]
fn a_limit_that_is_lowered_takes_messages_in_turns() {
    let mut rig = with_messages(15_000, "");
    assert_eq!(update(&mut rig, r#","max_msgs":10"#), 5_000, "the first turn");
    publish(&mut rig, 20_000..20_001);
    assert_eq!(messages(&mut rig), 5_001 - 64, "a message does not do all the work that is left");
    rig.pass_through(SECOND);
    assert_eq!((messages(&mut rig), rig.jetstream().next_due()), (10, None));
    publish(&mut rig, 0..1);
    assert_eq!(messages(&mut rig), 10);
}

#[test]
fn a_limit_per_subject_that_is_lowered_takes_messages_in_turns() {
    let mut rig = with_messages(6_000, "");
    for _ in 0..2 {
        publish(&mut rig, 0..6_000);
    }
    assert_eq!(update(&mut rig, r#","max_msgs_per_subject":1"#), 8_000, "the first turn");
    publish(&mut rig, 5_998..6_000);
    rig.pass_through(SECOND);
    assert_eq!((messages(&mut rig), rig.jetstream().next_due()), (6_000, None));
    assert_eq!(update(&mut rig, r#","max_msgs_per_subject":1"#), 6_000);
}

#[test]
fn what_a_crash_left_over_a_limit_goes_afterwards() {
    let mut rig = Rig::new();
    rig.api("STREAM.CREATE.S", r#"{"name":"S","subjects":["s.>"]}"#);
    for _ in 0..3 {
        publish(&mut rig, 0..5_000);
    }
    rig.api("STREAM.UPDATE.S", r#"{"name":"S","subjects":["s.>"],"max_msgs_per_subject":1,"max_msgs":4999}"#);
    assert!(messages(&mut rig) > 4_999);
    rig.restart();
    rig.pass_through(SECOND);
    assert_eq!(messages(&mut rig), 4_999);
}

/// The answer to a request that was answered meanwhile.
fn answer(rig: &mut Rig) -> Option<serde_json::Value> {
    let answer = rig.bus.take().into_iter().find(|sent| sent.to == "_I")?;
    Some(serde_json::from_str(&answer.payload).unwrap())
}

const PURGE: &str = "$JS.API.STREAM.PURGE.S";

#[test]
fn a_large_purge_takes_turns_and_leaves_what_came_after_it() {
    let mut rig = with_messages(12_000, "");
    rig.send_to("t", "", "");
    rig.send_to(PURGE, "_I", r#"{"filter":"s.*"}"#);
    assert_eq!(answer(&mut rig), None, "not before it is done");
    publish(&mut rig, 20_000..20_010);
    rig.pass(MILLISECOND);
    assert_eq!(answer(&mut rig), None);
    publish(&mut rig, 20_010..20_020);
    rig.pass_through(SECOND);
    assert_eq!(answer(&mut rig).unwrap()["purged"], 12_000);
    assert_eq!((messages(&mut rig), rig.jetstream().next_due()), (20, None));
}

#[test]
fn a_large_purge_keeps_the_last() {
    let mut rig = with_messages(11_000, "");
    rig.send_to(PURGE, "_I", r#"{"filter":"s.*","keep":3}"#);
    // They count among those that are there, whatever comes or goes meanwhile.
    publish(&mut rig, 20_000..20_010);
    rig.api("STREAM.MSG.DELETE.S", r#"{"seq":5}"#);
    rig.pass_through(SECOND);
    assert_eq!(answer(&mut rig).unwrap()["purged"], 10_996);
    let state = &rig.api("STREAM.INFO.S", "")["state"];
    assert_eq!((&state["messages"], &state["first_seq"]), (&13.into(), &10_998.into()));
}

#[test]
fn a_large_purge_up_to_a_sequence_counts_with_consumers() {
    let mut rig = with_messages(11_000, "");
    let consumer = r#"{"stream_name":"S","config":{"name":"c","durable_name":"c","ack_policy":"explicit"}}"#;
    rig.api("CONSUMER.CREATE.S.c", consumer);
    rig.send_to(PURGE, "_I", r#"{"seq":10901}"#);
    rig.send_to(PURGE, "_I", r#"{"seq":10911}"#);
    rig.pass_through(SECOND);
    let answers = rig.bus.take_text();
    let answers = answers.iter().filter(|(to, _)| to == "_I");
    let purged: Vec<&str> = answers.map(|(_, text)| &**text).collect();
    assert!(purged[0].contains(r#""purged":10900"#) && purged[1].contains(r#""purged":10}"#), "{purged:?}");
    assert_eq!(rig.api("CONSUMER.INFO.S.c", "")["num_pending"], 90);
}

#[test]
fn who_waits_for_a_purge_is_told_when_the_stream_goes() {
    let mut rig = with_messages(11_000, "");
    rig.send_to(PURGE, "_I", r#"{"seq":10901}"#);
    rig.send_to("$JS.API.STREAM.DELETE.S", "other", "");
    assert_eq!(answer(&mut rig).unwrap()["error"]["err_code"], 10_059);
}

#[test]
fn a_purge_that_the_disk_refuses_is_refused() {
    let disk = ostler_broker_store::disk::SimulatedDisk::new();
    let mut rig = Rig::on(&disk);
    rig.api("STREAM.CREATE.S", r#"{"name":"S","subjects":["s.>"]}"#);
    publish(&mut rig, 0..25_000);
    rig.send_to(PURGE, "_I", r#"{"seq":24001}"#);
    rig.pass(MILLISECOND);
    disk.set_space(Some(0));
    rig.pass(MILLISECOND);
    disk.set_space(None);
    rig.pass_through(10 * SECOND);
    let refused = answer(&mut rig).unwrap();
    assert!(refused["error"]["description"].as_str().unwrap().contains("the disk refused"), "{refused}");
    rig.send_to(PURGE, "_I", r#"{"seq":24001}"#);
    rig.pass_through(SECOND);
    assert!(answer(&mut rig).unwrap()["purged"].as_u64() > Some(0));
    assert_eq!(messages(&mut rig), 1_000);
}

fn with_interest(storage: &str, count: usize) -> Rig {
    let mut rig = Rig::new();
    let config = format!(
        r#"{{"name":"S","subjects":["s.>"],"storage":"{storage}","retention":"interest","max_msgs":-1}}"#
    );
    rig.api("STREAM.CREATE.S", &config);
    create(&mut rig, "c");
    publish(&mut rig, 0..count);
    rig
}

fn create(rig: &mut Rig, name: &str) {
    let config = format!(
        r#"{{"stream_name":"S","config":{{"name":"{name}","durable_name":"{name}","ack_policy":"explicit"}}}}"#
    );
    rig.api(&format!("CONSUMER.CREATE.S.{name}"), &config);
}

const DELETE: &str = "$JS.API.CONSUMER.DELETE.S.c";

#[test]
fn what_only_a_deleted_consumer_wanted_goes_in_turns() {
    let mut rig = with_interest("memory", 6_000);
    create(&mut rig, "other");
    publish(&mut rig, 0..10);
    let deleted = r#"{"seq":5}"#;
    rig.api("STREAM.MSG.DELETE.S", deleted);
    rig.send_to("$JS.API.CONSUMER.DELETE.S.other", "_I", "");
    rig.pass_through(SECOND);
    assert_eq!(answer(&mut rig).unwrap()["success"], true);
    assert_eq!(messages(&mut rig), 6_009, "the first consumer wants them all");
    rig.send_to(DELETE, "_I", "");
    assert_eq!(answer(&mut rig), None, "not before it is done");
    create(&mut rig, "late");
    publish(&mut rig, 0..3);
    rig.pass_through(SECOND);
    assert_eq!(answer(&mut rig).unwrap()["success"], true);
    // Who came before it was done finds what is left and has it for himself.
    assert!(messages(&mut rig) >= 3);
}

#[test]
fn a_consumer_that_is_created_again_at_once_begins_anew() {
    let mut rig = with_interest("memory", 6_000);
    rig.send_to(DELETE, "_I", "");
    assert_eq!(answer(&mut rig), None);
    create(&mut rig, "c");
    assert_eq!(rig.api("CONSUMER.INFO.S.c", "")["num_pending"], 0);
    rig.bus.take();
    rig.pass_through(SECOND);
    assert_eq!(answer(&mut rig).unwrap()["success"], true);
    assert_eq!(messages(&mut rig), 0);
    assert_eq!(rig.api("CONSUMER.INFO.S.c", "")["num_pending"], 0);
}

#[test]
fn a_consumer_is_there_again_when_a_crash_cut_its_end_short() {
    let mut rig = with_interest("file", 6_000);
    rig.send_to(DELETE, "_I", "");
    rig.pass(MILLISECOND);
    assert_eq!(answer(&mut rig), None);
    rig.restart();
    let pending = rig.api("CONSUMER.INFO.S.c", "")["num_pending"].as_u64();
    assert_eq!(pending, Some(messages(&mut rig)));
    rig.send_to(DELETE, "_I", "");
    rig.pass_through(SECOND);
    assert_eq!((answer(&mut rig).unwrap()["success"].as_bool(), messages(&mut rig)), (Some(true), 0));
    rig.restart();
    assert!(rig.ask("$JS.API.CONSUMER.INFO.S.c", "")[0].payload.contains("consumer not found"));
}
