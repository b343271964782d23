//! Schedules over time: what they made is gone, others build on it, somebody ends them.

use crate::testing::Rig;
use crate::time::{SECOND, Time};

fn create(rest: &str) -> Rig {
    let mut rig = Rig::new();
    let config = format!(r#"{{"name":"S","subjects":["s.>"],"allow_msg_schedules":true{rest}}}"#);
    rig.api("STREAM.CREATE.S", &config);
    rig
}

/// Publishes a schedule and says what was answered.
fn schedule(rig: &mut Rig, subject: &str, pattern: &str, more: &str) -> String {
    let headers = format!("Nats-Schedule: {pattern}\r\nNats-Schedule-Target: {more}");
    rig.ask_with(subject, &headers, "job")[0].payload.clone()
}

fn last_seq(rig: &mut Rig) -> u64 {
    rig.api("STREAM.INFO.S", "")["state"]["last_seq"].as_u64().unwrap()
}

fn is_there(rig: &mut Rig, subject: &str) -> bool {
    let sent = rig.ask("$JS.API.STREAM.MSG.GET.S", &format!(r#"{{"last_by_subj":"{subject}"}}"#));
    !sent[0].payload.contains("10037")
}

#[test]
fn what_was_made_and_taken_is_not_made_again_by_a_restart() {
    let mut rig = create(r#","retention":"workqueue""#);
    schedule(&mut rig, "s.every", "@every 12s", "s.out");
    let consumer = r#"{"stream_name":"S","config":{"durable_name":"c","ack_policy":"explicit","filter_subject":"s.out"}}"#;
    rig.api("CONSUMER.CREATE.S.c", consumer);
    rig.pass_through(13 * SECOND);
    let job = &rig.ask("$JS.API.CONSUMER.MSG.NEXT.S.c", "1")[0];
    assert_eq!((&*job.subject, &*job.payload), ("s.out", "job"));
    rig.ask(&job.reply.clone(), "+ACK");
    assert_eq!(last_seq(&mut rig), 2);
    for restart in [Rig::restart, Rig::close_and_restart] {
        restart(&mut rig);
        rig.pass_through(SECOND);
        assert_eq!(last_seq(&mut rig), 2, "it is not due");
    }
    rig.pass_through(10 * SECOND);
    assert_eq!(last_seq(&mut rig), 3);
}

#[test]
fn what_another_schedule_makes_of_it_says_nothing_of_a_schedule() {
    let mut rig = create("");
    schedule(&mut rig, "s.a", "@every 10s", "s.made.a");
    rig.pass_through(11 * SECOND);
    let at = Time::from_nanos(rig.now + SECOND);
    schedule(&mut rig, "s.b", &format!("@at {at}"), "s.made.b\r\nNats-Schedule-Source: s.made.a");
    rig.pass_through(2 * SECOND);
    assert!(is_there(&mut rig, "s.made.b") && !is_there(&mut rig, "s.b"));
    rig.close_and_restart();
    assert!(is_there(&mut rig, "s.a"), "only the other is over");
    let before = last_seq(&mut rig);
    rig.pass_through(8 * SECOND);
    assert_eq!(last_seq(&mut rig), before + 1);
}

#[test]
fn what_a_schedule_of_a_batch_makes_is_of_no_batch() {
    let mut rig = create(r#","allow_atomic":true"#);
    let at = Time::from_nanos(rig.now + 5 * SECOND);
    let of_batch = |seq: u64| format!("Nats-Batch-Id: b\r\nNats-Batch-Sequence: {seq}");
    let headers = format!("Nats-Schedule: @at {at}\r\nNats-Schedule-Target: s.out\r\n{}", of_batch(1));
    rig.ask_with("s.once", &headers, "job");
    rig.ask_with("s.other", &format!("{}\r\nNats-Batch-Commit: 1", of_batch(2)), "");
    rig.pass_through(6 * SECOND);
    rig.close_and_restart();
    assert!(is_there(&mut rig, "s.out"));
    assert_eq!(last_seq(&mut rig), 3);
}

#[test]
fn a_message_ends_the_schedule_that_it_names() {
    let ends = "Nats-Scheduler: s.every\r\nNats-Schedule-Next: purge";
    let mut rig = create(r#","allow_atomic":true"#);
    schedule(&mut rig, "s.every", "@every 10s", "s.out");
    assert!(rig.ask_with("s.done", ends, "")[0].payload.contains(r#""seq":2"#));
    assert!(!is_there(&mut rig, "s.every"));
    schedule(&mut rig, "s.every", "@every 10s", "s.out");
    rig.restart();
    assert!(is_there(&mut rig, "s.every"), "that is another one");
    let last = format!("Nats-Batch-Id: b\r\nNats-Batch-Sequence: 1\r\nNats-Batch-Commit: 1\r\n{ends}");
    assert!(rig.ask_with("s.done", &last, "")[0].payload.contains(r#""seq":4"#));
    assert!(!is_there(&mut rig, "s.every"));
    rig.close_and_restart();
    rig.pass_through(30 * SECOND);
    assert_eq!(last_seq(&mut rig), 4, "nothing is made any more");
}

#[test]
fn nobody_else_says_what_a_schedule_says() {
    let mut rig = create("");
    schedule(&mut rig, "s.every", "@every 10s", "s.out");
    rig.ask("s.plain", "");
    let ends = |subject: &str| format!("Nats-Scheduler: {subject}\r\nNats-Schedule-Next: purge");
    for headers in [
        "Nats-Scheduler: s.every",
        "Nats-Schedule-Next: purge",
        "Nats-Scheduler: s.every\r\nNats-Schedule-Next: 2030-01-01T00:00:00Z",
        &ends("s.*"),
        &ends("s.self"),
        &ends("s.plain"),
    ] {
        let answer = rig.ask_with("s.self", headers, "")[0].payload.clone();
        assert!(answer.contains("10212"), "{headers}: {answer}");
    }
    assert!(is_there(&mut rig, "s.every"));
    assert!(rig.ask_with("s.self", &ends("s.none"), "")[0].payload.contains(r#""seq":3"#));
    rig.api("STREAM.CREATE.N", r#"{"name":"N","subjects":["n.>"]}"#);
    assert!(rig.ask_with("n.a", &ends("s.every"), "")[0].payload.contains("10188"));
}
