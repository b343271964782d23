//! Taking from a stream through a consumer that was prepared there.

use ostler_broker_store::disk::SimulatedDisk;
use serde_json::Value;

use crate::testing::Rig;
use crate::time::SECOND;

const CONSUMER: &str = r#"{"stream_name":"O","config":{"durable_name":"c","deliver_subject":"to.d","ack_policy":"flow_control","filter_subject":"o.1"}}"#;

fn rig(retention: &str) -> Rig {
    let mut rig = Rig::new();
    arrange(&mut rig, retention);
    rig
}

fn arrange(rig: &mut Rig, retention: &str) {
    rig.api(
        "STREAM.CREATE.O",
        &format!(r#"{{"name":"O","subjects":["o.*"],"retention":"{retention}","allow_direct":true}}"#),
    );
    rig.api(
        "STREAM.CREATE.D",
        r#"{"name":"D","sources":[{"name":"O","consumer":{"name":"c","deliver_subject":"to.d"}}]}"#,
    );
}

fn publish(rig: &mut Rig, payloads: &[&str]) {
    for payload in payloads {
        rig.ask("o.1", payload);
        rig.ask("o.2", "not wanted");
    }
    rig.pass_through(SECOND);
}

fn payloads(rig: &mut Rig) -> Vec<String> {
    let state = &rig.api("STREAM.INFO.D", "")["state"];
    let last = state["last_seq"].as_u64().unwrap();
    let get = |rig: &mut Rig, seq| {
        let found = rig.api("STREAM.MSG.GET.D", &format!(r#"{{"seq":{seq}}}"#));
        let data = data_encoding::BASE64.decode(found["message"]["data"].as_str().unwrap().as_bytes());
        String::from_utf8(data.unwrap()).unwrap()
    };
    (1..=last).map(|seq| get(rig, seq)).collect()
}

fn consumer(rig: &mut Rig) -> Value {
    rig.api("CONSUMER.INFO.O.c", "")
}

#[test]
fn nothing_comes_before_the_consumer_is_there_and_then_what_it_says() {
    let mut rig = rig("limits");
    publish(&mut rig, &["a", "b"]);
    let source = &rig.api("STREAM.INFO.D", "")["sources"][0];
    assert_eq!(source["error"]["err_code"], 10014, "{source}");
    assert_eq!(payloads(&mut rig), [""; 0]);
    let config = &rig.api("CONSUMER.DURABLE.CREATE.O.c", CONSUMER)["config"];
    assert_eq!(
        (&config["flow_control"], &config["ack_wait"]),
        (&Value::Bool(true), &Value::Null),
        "{config}"
    );
    publish(&mut rig, &["c"]);
    assert_eq!(payloads(&mut rig), ["a", "b", "c"]);
    let info = consumer(&mut rig);
    assert_eq!(info["ack_floor"]["stream_seq"], 5, "{info}");
    assert_eq!((&info["num_ack_pending"], &info["num_pending"]), (&0.into(), &0.into()));
    let source = &rig.api("STREAM.INFO.D", "")["sources"][0];
    assert_eq!((&source["seq"], &source["error"]), (&5.into(), &Value::Null));
}

#[test]
fn a_consumer_that_is_deleted_stops_it_and_another_one_doubles_nothing() {
    let mut rig = rig("limits");
    rig.api("CONSUMER.DURABLE.CREATE.O.c", CONSUMER);
    publish(&mut rig, &["a"]);
    rig.api("CONSUMER.DELETE.O.c", "");
    publish(&mut rig, &["b"]);
    assert_eq!(payloads(&mut rig), ["a"]);
    rig.api("CONSUMER.DURABLE.CREATE.O.c", CONSUMER);
    rig.pass_through(SECOND);
    assert_eq!(payloads(&mut rig), ["a", "b"]);
    rig.api("CONSUMER.RESET.O.c", r#"{"seq":1}"#);
    publish(&mut rig, &["c"]);
    assert_eq!(payloads(&mut rig), ["a", "b", "c"]);
    assert_eq!(consumer(&mut rig)["num_ack_pending"], 0);
}

#[test]
fn a_pause_of_the_consumer_is_a_pause_of_the_source() {
    let mut rig = rig("limits");
    rig.api("CONSUMER.DURABLE.CREATE.O.c", CONSUMER);
    let until = serde_json::to_value(crate::time::Time::from_nanos(rig.now + 10 * SECOND)).unwrap();
    rig.api("CONSUMER.PAUSE.O.c", &format!(r#"{{"pause_until":{until}}}"#));
    publish(&mut rig, &["a"]);
    assert_eq!(payloads(&mut rig), [""; 0]);
    rig.pass_through(11 * SECOND);
    assert_eq!(payloads(&mut rig), ["a"]);
}

#[test]
fn a_work_queue_loses_what_is_taken_only_when_that_is_sure() {
    for retention in ["workqueue", "interest"] {
        let mut rig = rig(retention);
        rig.api("CONSUMER.DURABLE.CREATE.O.c", CONSUMER);
        for payload in ["a", "b", "c"] {
            rig.ask("o.1", payload);
        }
        rig.pass_through(SECOND);
        assert_eq!(payloads(&mut rig), ["a", "b", "c"], "{retention}");
        assert_eq!(rig.api("STREAM.INFO.O", "")["state"]["messages"], 0, "{retention}");
        rig.restart();
        rig.ask("o.1", "d");
        rig.pass_through(SECOND);
        assert_eq!(payloads(&mut rig), ["a", "b", "c", "d"], "{retention}");
        assert_eq!(rig.api("STREAM.INFO.O", "")["state"]["messages"], 0, "{retention}");
    }
}

#[test]
fn what_the_disk_refuses_is_taken_again() {
    let disk = SimulatedDisk::new();
    let mut rig = Rig::on(&disk);
    arrange(&mut rig, "workqueue");
    rig.api("CONSUMER.DURABLE.CREATE.O.c", CONSUMER);
    rig.ask("o.1", "a");
    rig.ask("o.1", "b");
    // The first is that of the origin, the next one that of the stream that takes.
    for fails in 1..4 {
        disk.fail_syncs(fails);
        rig.ask("o.1", "maybe");
        rig.pass_through(5 * SECOND);
    }
    disk.fail_syncs(0);
    rig.ask("o.1", "z");
    rig.pass_through(5 * SECOND);
    let got = payloads_that_are(&mut rig);
    assert_eq!(got.first().map(String::as_str), Some("a"));
    assert_eq!(got.last().map(String::as_str), Some("z"));
    let count = |text: &str| got.iter().filter(|payload| *payload == text).count();
    assert_eq!((count("a"), count("b"), count("z")), (1, 1, 1), "{got:?}");
    assert_eq!(rig.api("STREAM.INFO.O", "")["state"]["messages"], 0);
}

/// Without those that a failure left out.
fn payloads_that_are(rig: &mut Rig) -> Vec<String> {
    let last = rig.api("STREAM.INFO.D", "")["state"]["last_seq"].as_u64().unwrap();
    let mut found = Vec::new();
    for seq in 1..=last {
        let sent = rig.ask("$JS.API.STREAM.MSG.GET.D", &format!(r#"{{"seq":{seq}}}"#));
        let answer: Value = serde_json::from_str(&sent[0].payload).unwrap();
        if let Some(data) = answer["message"]["data"].as_str() {
            found.push(String::from_utf8(data_encoding::BASE64.decode(data.as_bytes()).unwrap()).unwrap());
        }
    }
    found
}

#[test]
fn what_does_not_hold_together_is_refused_in_nats_servers_words() {
    let mut rig = Rig::new();
    rig.api("STREAM.CREATE.O", r#"{"name":"O","subjects":["o.*"]}"#);
    let prepared = r#""consumer":{"name":"c","deliver_subject":"d"}"#;
    for more in [
        r#""consumer":{}"#.to_owned(),
        r#""consumer":{"name":"a.b","deliver_subject":"d"}"#.to_owned(),
        r#""consumer":{"name":"c","deliver_subject":"d.*"}"#.to_owned(),
        format!(r#"{prepared},"opt_start_seq":3"#),
        format!(r#"{prepared},"filter_subject":"x""#),
    ] {
        for (kind, number) in [("mirror", 10213), ("sources", 10215)] {
            let origin = format!(r#"{{"name":"O",{more}}}"#);
            let origin = if kind == "sources" { format!("[{origin}]") } else { origin };
            let sent = rig.ask("$JS.API.STREAM.CREATE.D", &format!(r#"{{"name":"D","{kind}":{origin}}}"#));
            assert!(sent[0].payload.contains(&number.to_string()), "{more} {sent:?}");
        }
    }
    for (more, number) in [
        (r#","ack_wait":1000000000"#, 10221),
        (r#","backoff":[1000000000]"#, 10221),
        (r#","max_deliver":3"#, 10222),
    ] {
        let config = CONSUMER.replace(r#","filter"#, &format!(r#"{more},"filter"#));
        let sent = rig.ask("$JS.API.CONSUMER.DURABLE.CREATE.O.c", &config);
        assert!(sent[0].payload.contains(&number.to_string()), "{more} {sent:?}");
    }
}
