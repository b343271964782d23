//! What consumers can do beside delivering: pinned clients, pauses, replays, resets, and what is said of all that.

use serde_json::Value;

use crate::testing::{Rig, Sent};
use crate::time::{MILLISECOND, SECOND, Time};

/// A stream with so many messages, 100 ms apart, and one consumer, `c`.
fn rig(messages: usize, consumer: &str) -> Rig {
    let mut rig = Rig::new();
    rig.api("STREAM.CREATE.S", r#"{"name":"S","subjects":["s.>"]}"#);
    for number in 0..messages {
        rig.ask("s.a", &format!("m{number}"));
        rig.pass_through(100 * MILLISECOND);
    }
    let config =
        format!(r#"{{"stream_name":"S","config":{{"durable_name":"c","ack_policy":"explicit"{consumer}}}}}"#);
    rig.api("CONSUMER.CREATE.S.c", &config);
    rig.bus.take();
    rig
}

fn next(rig: &mut Rig, request: &str) -> Vec<Sent> {
    rig.ask("$JS.API.CONSUMER.MSG.NEXT.S.c", request)
}

fn messages(sent: &[Sent]) -> Vec<&str> {
    sent.iter().filter(|sent| sent.subject == "s.a").map(|sent| &*sent.payload).collect()
}

fn advisories(sent: &[Sent], kind: &str) -> Vec<Value> {
    let about = |sent: &&Sent| sent.to.starts_with(&format!("$JS.EVENT.ADVISORY.{kind}"));
    sent.iter().filter(about).map(|sent| serde_json::from_str(&sent.payload).unwrap()).collect()
}

fn pin_id(sent: &Sent) -> String {
    let id = sent.headers.split('|').find_map(|line| line.strip_prefix("Nats-Pin-Id: "));
    id.unwrap_or_else(|| panic!("no pin: {sent:?}")).to_owned()
}

const PINNED: &str =
    r#","priority_policy":"pinned_client","priority_groups":["g"],"priority_timeout":2000000000"#;

#[test]
fn a_pin_is_kept_by_asking_and_ends_without() {
    let mut rig = rig(3, PINNED);
    let sent = next(&mut rig, r#"{"batch":1,"group":"g"}"#);
    let id = pin_id(sent.iter().find(|sent| sent.subject == "s.a").unwrap());
    assert_eq!(advisories(&sent, "CONSUMER.PINNED.S.c")[0]["pinned_id"], *id);
    for _ in 0..3 {
        rig.pass_through(SECOND + 500 * MILLISECOND);
        next(&mut rig, &format!(r#"{{"batch":1,"group":"g","id":"{id}","no_wait":true}}"#));
    }
    assert_eq!(rig.api("CONSUMER.INFO.S.c", "")["priority_groups"][0]["pinned_client_id"], *id);
    rig.bus.take();
    rig.pass_through(2 * SECOND + MILLISECOND);
    let ended = advisories(&rig.bus.take(), "CONSUMER.UNPINNED.S.c");
    assert_eq!((ended.len(), &ended[0]["reason"]), (1, &Value::from("timeout")));
    let refused = next(&mut rig, &format!(r#"{{"batch":1,"group":"g","id":"{id}","expires":9000000000}}"#));
    assert!(refused.is_empty(), "it waits as long as nobody else has the pin: {refused:?}");
    let sent = rig.ask("s.a", "late");
    assert!(sent.iter().any(|sent| sent.headers.starts_with("NATS/1.0 423 Nats-Wrong-Pin-Id|")), "{sent:?}");
}

#[test]
fn who_stands_by_takes_over_when_the_pin_is_taken_away() {
    let mut rig = rig(1, PINNED);
    let first = pin_id(&next(&mut rig, r#"{"batch":1,"group":"g"}"#)[1]);
    assert!(next(&mut rig, r#"{"batch":2,"group":"g","expires":9000000000}"#).is_empty());
    assert!(messages(&rig.ask("s.a", "held")).is_empty());
    rig.api("CONSUMER.UNPIN.S.c", r#"{"group":"g"}"#);
    rig.ask("s.a", "more");
    let info = rig.api("CONSUMER.INFO.S.c", "");
    assert_eq!((&info["num_pending"], &info["num_ack_pending"]), (&0.into(), &3.into()));
    assert_ne!(info["priority_groups"][0]["pinned_client_id"], *first);
}

#[test]
fn a_replay_keeps_the_pauses_until_it_has_caught_up() {
    let mut rig = rig(3, r#","replay_policy":"original""#);
    assert_eq!(messages(&next(&mut rig, r#"{"batch":9,"expires":60000000000}"#)), ["m0"]);
    rig.pass_through(99 * MILLISECOND);
    assert!(messages(&rig.bus.take()).is_empty());
    rig.pass_through(2 * MILLISECOND);
    assert_eq!(messages(&rig.bus.take()), ["m1"]);
    rig.pass_through(101 * MILLISECOND);
    assert_eq!(messages(&rig.bus.take()), ["m2"]);
    rig.pass_through(SECOND);
    assert_eq!(messages(&rig.ask("s.a", "live")), ["live"]);
    assert_eq!(messages(&rig.ask("s.a", "live too")), ["live too"]);
}

#[test]
fn a_replay_that_nobody_asks_waits_for_nothing() {
    let mut rig = rig(3, r#","replay_policy":"original""#);
    next(&mut rig, "");
    next(&mut rig, r#"{"batch":1,"expires":1000000}"#);
    let before = rig.now;
    rig.pass_through(5 * SECOND);
    let due = rig.jetstream().next_due().unwrap();
    assert!(due > before + 5 * SECOND, "nothing is overdue");
}

#[test]
fn a_pause_is_told_kept_over_a_restart_and_ends_by_itself() {
    let mut rig = rig(1, "");
    let until = Time::from_nanos(rig.now + 3 * SECOND);
    let sent = rig.ask("$JS.API.CONSUMER.PAUSE.S.c", &format!(r#"{{"pause_until":"{until}"}}"#));
    assert_eq!(advisories(&sent, "CONSUMER.PAUSE.S.c")[0]["paused"], true);
    let config =
        r#"{"stream_name":"S","config":{"durable_name":"c","ack_policy":"explicit","description":"x"}}"#;
    assert_eq!(rig.api("CONSUMER.CREATE.S.c", config)["paused"], true, "an update does not resume it");
    rig.restart();
    assert_eq!(rig.api("CONSUMER.INFO.S.c", "")["paused"], true);
    assert!(messages(&next(&mut rig, r#"{"batch":1,"expires":60000000000}"#)).is_empty());
    rig.pass_through(3 * SECOND);
    let sent = rig.bus.take();
    assert_eq!(messages(&sent), ["m0"]);
    assert_eq!(advisories(&sent, "CONSUMER.PAUSE.S.c")[0]["paused"], false);
    let due = rig.jetstream().next_due().unwrap();
    assert!(due > rig.now, "a pause that is over is not waited for");
}

#[test]
fn a_reset_outlives_a_crash() {
    let mut rig = rig(4, "");
    let sent = next(&mut rig, "4");
    rig.ask(&sent[3].reply.clone(), "+ACK");
    assert_eq!(rig.api("CONSUMER.RESET.S.c", r#"{"seq":2}"#)["reset_seq"], 2);
    rig.restart();
    assert_eq!(messages(&next(&mut rig, "9")), ["m1", "m2", "m3"]);
    rig.api("CONSUMER.RESET.S.c", r#"{"seq":7}"#);
    rig.restart();
    for text in ["5", "6", "7"] {
        rig.ask("s.a", text);
    }
    assert_eq!(messages(&next(&mut rig, "9")), ["7"], "where it begins is kept though nothing was there");
}

#[test]
fn the_use_of_the_api_is_told_to_who_listens() {
    let mut rig = rig(1, "");
    let sent = rig.ask("$JS.API.CONSUMER.DELETE.S.c", "");
    let audit = &advisories(&sent, "API")[0];
    assert_eq!(audit["type"], "io.nats.jetstream.advisory.v1.api_audit");
    assert_eq!(audit["subject"], "$JS.API.CONSUMER.DELETE.S.c");
    let response: Value = serde_json::from_str(audit["response"].as_str().unwrap()).unwrap();
    assert_eq!(response["success"], true);
    let refused = rig.ask("$JS.API.CONSUMER.DELETE.S.c", "");
    assert!(advisories(&refused, "API")[0]["response"].as_str().unwrap().contains("10014"));
    assert!(advisories(&rig.ask("$JS.API.STREAM.MSG.GET.S", r#"{"seq":1}"#), "API").is_empty());
}

#[test]
fn what_is_pushed_to_a_group_waits_for_a_member() {
    let mut rig = rig(1, r#","deliver_subject":"inbox","deliver_group":"workers""#);
    rig.bus.only = Some(vec!["_I".to_owned(), "inbox".to_owned()]);
    assert!(messages(&rig.ask("s.a", "1")).is_empty(), "somebody listens, but not in the group");
    rig.bus.groups = vec!["workers".to_owned()];
    rig.jetstream().interest_changed(b"inbox");
    rig.settle();
    assert_eq!(rig.api("CONSUMER.INFO.S.c", "")["push_bound"], true);
}
