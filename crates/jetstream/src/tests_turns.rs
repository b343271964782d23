//! Requests that are much work: done in turns, so that nobody else waits for them, and answered when they are done.

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

fn publish(rig: &mut Rig, numbers: std::ops::Range<usize>) {
    for number in numbers {
        rig.send_to(&format!("s.{number}"), "", "x");
    }
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
