//! What consumers do over time: redelivery and its end, coming back after a restart, going when nobody needs them.

use crate::testing::{Rig, Sent};
use crate::time::{MILLISECOND, SECOND};

/// A stream with so many messages and one consumer, `c`.
fn rig(messages: usize, consumer: &str) -> Rig {
    let mut rig = Rig::new();
    rig.api("STREAM.CREATE.S", r#"{"name":"S","subjects":["s.>"]}"#);
    for number in 0..messages {
        rig.ask("s.a", &format!("m{number}"));
    }
    consume(&mut rig, "S", "c", consumer);
    rig.bus.take();
    rig
}

fn consume(rig: &mut Rig, stream: &str, name: &str, config: &str) {
    let request = format!(r#"{{"stream_name":"{stream}","config":{{"name":"{name}",{config}}}}}"#);
    rig.api(&format!("CONSUMER.CREATE.{stream}.{name}"), &request);
}

fn next(rig: &mut Rig, request: &str) -> Vec<Sent> {
    rig.ask("$JS.API.CONSUMER.MSG.NEXT.S.c", request)
}

fn texts(sent: &[Sent]) -> Vec<&str> {
    sent.iter().map(|sent| if sent.payload.is_empty() { &*sent.headers } else { &*sent.payload }).collect()
}

fn ack(rig: &mut Rig, delivered: &Sent, payload: &str) -> Vec<Sent> {
    let subject = delivered.reply.clone();
    rig.ask(&subject, payload)
}

const EXPLICIT: &str = r#""durable_name":"c","ack_policy":"explicit""#;

#[test]
fn a_message_that_nobody_handles_ends_with_one_advisory_and_stays() {
    let mut rig = rig(1, &format!(r#"{EXPLICIT},"ack_wait":1000000000,"max_deliver":2"#));
    assert_eq!(next(&mut rig, "").len(), 1);
    rig.pass_through(SECOND + 1);
    let second = next(&mut rig, "");
    assert!(second[0].reply.starts_with("$JS.ACK.S.c.2.1.2."), "{second:?}");
    rig.pass_through(SECOND + 1);
    rig.bus.take();
    let sent = next(&mut rig, r#"{"batch":1,"expires":3000000000}"#);
    let advisories: Vec<_> = sent.iter().filter(|sent| sent.to.contains("MAX_DELIVERIES")).collect();
    assert_eq!(advisories.len(), 1, "{sent:?}");
    let advisory: serde_json::Value = serde_json::from_str(&advisories[0].payload).unwrap();
    assert_eq!((&advisory["stream_seq"], &advisory["deliveries"]), (&1.into(), &2.into()));
    assert_eq!(advisory["type"], "io.nats.jetstream.advisory.v1.max_deliver");
    let info = rig.api("CONSUMER.INFO.S.c", "");
    assert_eq!((&info["num_ack_pending"], &info["ack_floor"]["stream_seq"]), (&0.into(), &1.into()));
    assert_eq!(rig.api("STREAM.INFO.S", "")["state"]["messages"], 1);
}

#[test]
fn what_is_purged_while_it_is_out_makes_room_for_the_next() {
    for purge in [r#"{"filter":"s.y"}"#, r#"{"filter":"s.y","keep":1}"#] {
        let mut rig = rig(1, &format!(r#"{EXPLICIT},"max_ack_pending":2"#));
        for subject in ["s.y", "s.y", "s.z"] {
            rig.ask(subject, subject);
        }
        assert_eq!(texts(&next(&mut rig, r#"{"batch":2,"no_wait":true}"#)), ["m0", "s.y"]);
        let waiting = next(&mut rig, r#"{"batch":1,"expires":60000000000}"#);
        assert!(waiting.is_empty(), "{waiting:?}");
        let purged = rig.ask("$JS.API.STREAM.PURGE.S", purge);
        assert_eq!(texts(&purged)[1], if purge.contains("keep") { "s.y" } else { "s.z" }, "{purged:?}");
        let info = rig.api("CONSUMER.INFO.S.c", "");
        assert_eq!((&info["num_ack_pending"], &info["ack_floor"]["stream_seq"]), (&2.into(), &0.into()));
    }
}

#[test]
fn an_answered_acknowledgement_outlives_a_crash() {
    let mut rig = rig(3, EXPLICIT);
    let sent = next(&mut rig, "3");
    assert_eq!(texts(&sent), ["m0", "m1", "m2"]);
    assert_eq!(ack(&mut rig, &sent[0], "+ACK").len(), 1);
    let before = rig.api("CONSUMER.INFO.S.c", "");
    rig.restart();
    let after = rig.api("CONSUMER.INFO.S.c", "");
    for field in ["config", "created", "num_ack_pending", "num_pending"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(after["ack_floor"]["stream_seq"], 1);
    assert_eq!(after["delivered"]["consumer_seq"], 3);
    rig.pass_through(31 * SECOND);
    rig.bus.take();
    assert_eq!(texts(&next(&mut rig, "3")), ["m1", "m2"], "those that were out come again");
}

#[test]
fn requests_take_turns() {
    let mut rig = rig(0, EXPLICIT);
    for inbox in ["one", "two"] {
        rig.send(&crate::bus::Incoming {
            subject: b"$JS.API.CONSUMER.MSG.NEXT.S.c",
            reply: inbox.as_bytes(),
            headers: b"",
            payload: br#"{"batch":2,"expires":5000000000}"#,
        });
    }
    let mut to = Vec::new();
    for _ in 0..4 {
        let sent = rig.ask("s.a", "x");
        to.extend(sent.into_iter().filter(|sent| sent.subject == "s.a").map(|sent| sent.to));
    }
    assert_eq!(to, ["one", "two", "one", "two"]);
    let info = rig.api("CONSUMER.INFO.S.c", "");
    assert_eq!((&info["num_waiting"], &info["num_ack_pending"]), (&0.into(), &4.into()));
}

#[test]
fn requests_nobody_waits_for_get_nothing() {
    let mut rig = rig(0, EXPLICIT);
    next(&mut rig, r#"{"batch":2,"expires":5000000000}"#);
    rig.bus.only = Some(vec!["elsewhere".to_owned()]);
    rig.ask("s.a", "x");
    let info = rig.api("CONSUMER.INFO.S.c", "");
    assert_eq!((&info["num_waiting"], &info["num_pending"]), (&0.into(), &1.into()));
}

#[test]
fn ephemeral_consumers_go_when_nobody_asks() {
    let mut rig = rig(1, r#""ack_policy":"none""#);
    rig.pass_through(4 * SECOND);
    next(&mut rig, "");
    rig.pass_through(4 * SECOND);
    rig.api("CONSUMER.INFO.S.c", "");
    rig.pass_through(SECOND + MILLISECOND);
    assert_eq!(rig.api("STREAM.INFO.S", "")["state"]["consumer_count"], 0);
    rig.restart();
    assert_eq!(rig.api("STREAM.INFO.S", "")["state"]["consumer_count"], 0);
}

#[test]
fn a_pushing_consumer_waits_for_somebody_to_listen() {
    let mut rig = rig(0, r#""durable_name":"c","deliver_subject":"inbox","ack_policy":"none""#);
    rig.bus.only = Some(Vec::new());
    rig.ask("s.a", "x");
    assert!(rig.bus.take().iter().all(|sent| sent.to != "inbox"));
    rig.bus.only = None;
    rig.jetstream().interest_changed(b"in*");
    rig.jetstream().interest_changed(b"inbox");
    rig.settle();
    let sent = rig.bus.take();
    assert_eq!((&*sent[0].to, &*sent[0].subject, &*sent[0].payload), ("inbox", "s.a", "x"));
}

#[test]
fn flow_control_stops_at_the_window_until_it_is_answered() {
    let mut rig = rig(
        0,
        r#""durable_name":"c","deliver_subject":"inbox","ack_policy":"none","flow_control":true,"idle_heartbeat":1000000000"#,
    );
    let large = "x".repeat(512 << 10);
    for _ in 0..8 {
        rig.ask("s.a", &large);
    }
    rig.pass_through(10 * MILLISECOND);
    let info = rig.api("CONSUMER.INFO.S.c", "");
    assert_eq!(info["num_pending"], 4, "two megabytes, and the message that went beyond");
    rig.bus.take();
    rig.pass_through(SECOND);
    let stalled = rig.bus.take();
    let asked =
        stalled[0].headers.split("Nats-Consumer-Stalled: ").nth(1).unwrap().trim_matches('|').to_owned();
    assert!(asked.starts_with("$JS.FC.S.c."), "{asked}");
    rig.ask(&asked, "");
    rig.pass_through(10 * MILLISECOND);
    let info = rig.api("CONSUMER.INFO.S.c", "");
    assert_eq!(info["num_pending"], 0, "the window is open again, and wider");
}

#[test]
fn a_message_of_a_work_queue_is_gone_before_its_acknowledgement_is_answered() {
    let mut rig = Rig::new();
    rig.api("STREAM.CREATE.S", r#"{"name":"S","subjects":["s.>"],"retention":"workqueue"}"#);
    rig.ask("s.a", "1");
    consume(&mut rig, "S", "c", EXPLICIT);
    rig.bus.take();
    let sent = next(&mut rig, "");
    assert_eq!(ack(&mut rig, &sent[0], "").len(), 1);
    rig.restart();
    assert_eq!(rig.api("STREAM.INFO.S", "")["state"]["messages"], 0);
}

#[test]
fn who_waits_is_told_that_the_consumer_is_gone() {
    let mut rig = rig(0, EXPLICIT);
    next(&mut rig, r#"{"batch":1,"expires":5000000000}"#);
    let sent = rig.ask("$JS.API.CONSUMER.DELETE.S.c", "");
    assert!(sent.iter().any(|sent| sent.headers == "NATS/1.0 409 Consumer Deleted||"), "{sent:?}");
}

#[test]
fn acknowledgements_are_sampled_when_asked_for() {
    for (frequency, samples) in [("100%", 1), ("0", 0)] {
        let mut rig = rig(1, &format!(r#"{EXPLICIT},"sample_freq":"{frequency}""#));
        let sent = next(&mut rig, "");
        rig.now += 5 * MILLISECOND;
        let told = ack(&mut rig, &sent[0], "");
        let told: Vec<_> =
            told.iter().filter(|sent| sent.to == "$JS.EVENT.METRIC.CONSUMER.ACK.S.c").collect();
        assert_eq!(told.len(), samples, "{frequency}");
        for sample in told {
            let sample: serde_json::Value = serde_json::from_str(&sample.payload).unwrap();
            assert_eq!(sample["type"], "io.nats.jetstream.metric.v1.consumer_ack");
            assert!(sample["ack_time"].as_i64().unwrap() >= 5 * MILLISECOND, "{sample}");
        }
    }
}
