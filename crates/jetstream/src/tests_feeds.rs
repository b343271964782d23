//! Streams that take from others: nothing is lost, nothing doubled, whatever happens in between.

use ostler_broker_store::disk::SimulatedDisk;
use proptest::prelude::*;
use serde_json::Value;

use crate::bus::Incoming;
use crate::jetstream::JetStream;
use crate::testing::Rig;
use crate::time::SECOND;

fn create(rig: &mut Rig, config: &str) {
    let name = config.split('"').nth(3).unwrap();
    rig.api(&format!("STREAM.CREATE.{name}"), config);
}

fn state(rig: &mut Rig, name: &str) -> (u64, u64, u64) {
    let state = &rig.api(&format!("STREAM.INFO.{name}"), "")["state"];
    let number = |field: &str| state[field].as_u64().unwrap();
    (number("messages"), number("first_seq"), number("last_seq"))
}

fn payloads(rig: &mut Rig, name: &str) -> Vec<String> {
    let (_, first, last) = state(rig, name);
    let mut found = Vec::new();
    for seq in first..=last {
        let answers = rig.ask(&format!("$JS.API.STREAM.MSG.GET.{name}"), &format!(r#"{{"seq":{seq}}}"#));
        let answer: Value = serde_json::from_str(&answers[0].payload).unwrap();
        if let Some(data) = answer.pointer("/message/data") {
            let data = data_encoding::BASE64.decode(data.as_str().unwrap().as_bytes()).unwrap();
            found.push(String::from_utf8(data).unwrap());
        }
    }
    found
}

#[test]
fn more_than_a_turns_worth_comes_over_all_the_same() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"O","subjects":["o.*"],"storage":"memory"}"#);
    for number in 0..9000 {
        rig.ask(&format!("o.{}", number % 7), &number.to_string());
    }
    create(&mut rig, r#"{"name":"M","mirror":{"name":"O"}}"#);
    create(&mut rig, r#"{"name":"S","sources":[{"name":"O","filter_subject":"o.3"}]}"#);
    rig.pass_through(SECOND);
    assert_eq!(state(&mut rig, "M"), (9000, 1, 9000));
    assert_eq!(state(&mut rig, "S").0, 9000 / 7 + 1);
    let info = rig.api("STREAM.INFO.S", "");
    assert_eq!(
        (info["sources"][0]["lag"].as_u64(), info["sources"][0]["seq"].as_u64()),
        (Some(0), Some(8999))
    );
}

#[test]
fn what_is_gone_at_the_origin_leaves_gaps_in_the_mirror() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"O","subjects":["o"]}"#);
    for number in 0..5 {
        rig.ask("o", &number.to_string());
    }
    rig.api("STREAM.MSG.DELETE.O", r#"{"seq":2}"#);
    rig.api("STREAM.PURGE.O", r#"{"seq":2}"#);
    create(&mut rig, r#"{"name":"M","mirror":{"name":"O"}}"#);
    rig.api("STREAM.PURGE.O", "");
    rig.ask("o", "5");
    assert_eq!(state(&mut rig, "M"), (4, 3, 6));
    assert_eq!(payloads(&mut rig, "M"), ["2", "3", "4", "5"]);
}

#[test]
fn a_mirror_becomes_a_stream_of_its_own() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"O","subjects":["o"]}"#);
    create(&mut rig, r#"{"name":"M","mirror":{"name":"O"}}"#);
    rig.ask("o", "taken");
    rig.api("STREAM.DELETE.O", "");
    rig.api("STREAM.UPDATE.M", r#"{"name":"M","subjects":["o"]}"#);
    rig.ask("o", "own");
    assert_eq!(payloads(&mut rig, "M"), ["taken", "own"]);
    rig.restart();
    assert_eq!(payloads(&mut rig, "M"), ["taken", "own"]);
}

#[test]
fn an_origin_that_is_created_anew_is_a_new_source() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"O","subjects":["o"]}"#);
    create(&mut rig, r#"{"name":"S","sources":[{"name":"O"}]}"#);
    rig.ask("o", "old");
    rig.api("STREAM.DELETE.O", "");
    let info = rig.api("STREAM.INFO.S", "");
    assert_eq!(info["sources"][0]["error"]["err_code"], 10059);
    rig.restart();
    create(&mut rig, r#"{"name":"O","subjects":["o"]}"#);
    rig.ask("o", "new");
    assert_eq!(payloads(&mut rig, "S"), ["old", "new"]);
    rig.restart();
    rig.ask("o", "newer");
    assert_eq!(payloads(&mut rig, "S"), ["old", "new", "newer"]);
}

#[test]
fn what_was_taken_and_purged_is_not_taken_again() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"O","subjects":["o"]}"#);
    create(&mut rig, r#"{"name":"S","sources":[{"name":"O"}]}"#);
    rig.ask("o", "1");
    rig.api("STREAM.PURGE.S", "");
    rig.restart();
    rig.ask("o", "2");
    assert_eq!(payloads(&mut rig, "S"), ["2"]);
}

/// Delivers to whoever listens, and acknowledges.
fn consume(rig: &mut Rig, acks: &str) {
    let config = format!(
        r#"{{"stream_name":"O","config":{{"durable_name":"c","ack_policy":"{acks}","deliver_subject":"dl"}}}}"#
    );
    rig.api("CONSUMER.CREATE.O.c", &config);
}

fn publish_and_acknowledge(rig: &mut Rig, subject: &str) {
    let sent = rig.ask(subject, subject);
    for delivered in sent.iter().filter(|sent| sent.to == "dl" && sent.reply.starts_with("$JS.ACK.")) {
        rig.send_to(&delivered.reply, "", "");
    }
    rig.bus.take();
}

#[test]
fn what_consumers_are_done_with_waits_for_those_who_take_it() {
    for (retention, storage, acks) in [
        ("interest", "file", "explicit"),
        ("interest", "file", "none"),
        ("interest", "memory", "none"),
        ("workqueue", "file", "explicit"),
        ("workqueue", "memory", "explicit"),
    ] {
        let mut rig = Rig::new();
        create(
            &mut rig,
            &format!(r#"{{"name":"O","subjects":["o.*"],"retention":"{retention}","storage":"{storage}"}}"#),
        );
        create(&mut rig, r#"{"name":"M","mirror":{"name":"O"}}"#);
        create(
            &mut rig,
            r#"{"name":"S","sources":[{"name":"O","filter_subject":"o.1"}],"storage":"memory"}"#,
        );
        consume(&mut rig, acks);
        for number in 0..20 {
            publish_and_acknowledge(&mut rig, &format!("o.{}", number % 2));
        }
        rig.pass_through(SECOND);
        let case = (retention, storage, acks);
        assert_eq!((state(&mut rig, "M").0, state(&mut rig, "S").0), (20, 10), "{case:?}");
        assert_eq!(state(&mut rig, "O"), (0, 21, 20), "{case:?}");
    }
}

#[test]
fn what_was_taken_goes_when_nobody_else_needs_it() {
    for (retention, left) in [("interest", 0), ("workqueue", 2)] {
        let mut rig = Rig::new();
        create(&mut rig, &format!(r#"{{"name":"O","subjects":["o.*"],"retention":"{retention}"}}"#));
        create(&mut rig, r#"{"name":"S","sources":[{"name":"O","filter_subject":"o.1"}]}"#);
        for subject in ["o.0", "o.1", "o.0", "o.1"] {
            rig.ask(subject, subject);
        }
        rig.pass_through(SECOND);
        assert_eq!((state(&mut rig, "S").0, state(&mut rig, "O").0), (2, left), "{retention}");
        rig.api(
            "CONSUMER.CREATE.O.c",
            r#"{"stream_name":"O","config":{"durable_name":"c","ack_policy":"explicit"}}"#,
        );
        rig.ask("o.1", "needed");
        rig.pass_through(SECOND);
        assert_eq!((state(&mut rig, "S").0, state(&mut rig, "O").0), (3, left + 1), "{retention}");
    }
}

#[test]
fn nothing_goes_before_it_is_safe_where_it_was_taken() {
    let disk = SimulatedDisk::new();
    let mut rig = Rig::on(&disk);
    create(&mut rig, r#"{"name":"O","subjects":["o.*"],"retention":"interest","storage":"memory"}"#);
    create(&mut rig, r#"{"name":"M","mirror":{"name":"O"}}"#);
    consume(&mut rig, "none");
    disk.set_space(Some(0));
    publish_and_acknowledge(&mut rig, "o.1");
    rig.pass_through(2 * SECOND);
    assert_eq!((state(&mut rig, "M").0, state(&mut rig, "O").0), (0, 1));
    disk.set_space(None);
    rig.pass_through(12 * SECOND);
    assert_eq!((state(&mut rig, "M").0, state(&mut rig, "O").0), (1, 0));
}

#[test]
fn nothing_waits_for_a_stream_that_is_gone() {
    for retention in ["interest", "workqueue"] {
        let mut rig = Rig::new();
        create(&mut rig, &format!(r#"{{"name":"O","subjects":["o.*"],"retention":"{retention}"}}"#));
        create(&mut rig, r#"{"name":"M","mirror":{"name":"O"},"max_msgs":1,"discard":"new"}"#);
        consume(&mut rig, "explicit");
        for _ in 0..3 {
            publish_and_acknowledge(&mut rig, "o.1");
        }
        rig.pass_through(3 * SECOND);
        assert_eq!((state(&mut rig, "M").0, state(&mut rig, "O").0), (1, 2), "{retention}");
        rig.api("STREAM.DELETE.M", "");
        assert_eq!(state(&mut rig, "O").0, 0, "{retention}");
    }
}

#[test]
fn nobody_but_the_server_says_where_a_message_is_from() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"O","subjects":["o"]}"#);
    create(
        &mut rig,
        r#"{"name":"S","subjects":["s"],"sources":[{"name":"O"}],"allow_atomic":true,"allow_batched":true}"#,
    );
    for number in 1..=4 {
        rig.ask("o", &number.to_string());
    }
    let taken = rig.api("STREAM.MSG.GET.S", r#"{"seq":2}"#);
    let headers =
        data_encoding::BASE64.decode(taken["message"]["hdrs"].as_str().unwrap().as_bytes()).unwrap();
    let headers = String::from_utf8(headers).unwrap();
    let label = headers.lines().find(|line| line.starts_with("Nats-Stream-Source")).unwrap();
    let skips = label.replacen(" 2 ", " 1000 ", 1);
    for label in [label, &skips] {
        let batch = format!("{label}\r\nNats-Batch-Id: b\r\nNats-Batch-Sequence: 1\r\nNats-Batch-Commit: 1");
        let again = format!("Nats-Stream-Source:\r\n{label}");
        for headers in [label, &batch, &again] {
            let answer = rig.ask_with("s", headers, "");
            assert!(answer[0].payload.contains(r#""err_code":10227"#), "{headers}: {answer:?}");
        }
    }
    rig.restart();
    rig.ask("o", "5");
    assert_eq!(payloads(&mut rig, "S"), ["1", "2", "3", "4", "5"]);
}

#[test]
fn a_full_stream_takes_the_rest_when_there_is_room() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"O","subjects":["o"]}"#);
    create(&mut rig, r#"{"name":"S","sources":[{"name":"O"}],"max_msgs":2,"discard":"new"}"#);
    create(&mut rig, r#"{"name":"M","mirror":{"name":"O"},"max_msgs":2,"discard":"new"}"#);
    for number in 0..4 {
        rig.ask("o", &number.to_string());
    }
    for name in ["S", "M"] {
        assert_eq!(payloads(&mut rig, name), ["0", "1"]);
        rig.api(&format!("STREAM.PURGE.{name}"), "");
    }
    rig.pass_through(3 * SECOND);
    assert_eq!(payloads(&mut rig, "S"), ["2", "3"]);
    assert_eq!(payloads(&mut rig, "M"), ["2", "3"]);
}

#[test]
fn messages_go_through_several_streams() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"A","subjects":["a.*"]}"#);
    create(
        &mut rig,
        r#"{"name":"C","sources":[{"name":"B","subject_transforms":[{"src":"a.*","dest":"c.$1"}]}]}"#,
    );
    create(&mut rig, r#"{"name":"B","mirror":{"name":"A"}}"#);
    rig.ask("a.1", "through");
    let got = rig.api("STREAM.MSG.GET.C", r#"{"last_by_subj":"c.1"}"#);
    assert_eq!(got["message"]["seq"], 1);
    let refused =
        rig.ask("$JS.API.STREAM.UPDATE.A", r#"{"name":"A","subjects":["a.*"],"sources":[{"name":"C"}]}"#);
    assert!(refused[0].payload.contains("detected cycle"), "{refused:?}");
}

#[test]
fn what_came_during_a_sync_is_synced_too_and_goes_on() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"A","subjects":["a"]}"#);
    rig.ask("a", "1");
    let Rig { jetstream, bus, now, .. } = &mut rig;
    let jetstream = jetstream.as_mut().unwrap();
    let mut ask = |jetstream: &mut JetStream, payload: &str| {
        let name = payload.split('"').nth(3).unwrap();
        let subject = format!("$JS.API.STREAM.CREATE.{name}");
        let message =
            Incoming { subject: subject.as_bytes(), reply: b"_I", headers: b"", payload: payload.as_bytes() };
        jetstream.on_message(&message, *now, bus);
        jetstream.end_of_batch(bus)
    };
    // The first sync of B is under way while it takes its messages.
    let mut jobs = ask(jetstream, r#"{"name":"B","mirror":{"name":"A"}}"#);
    jobs.extend(ask(jetstream, r#"{"name":"C","mirror":{"name":"B"}}"#));
    while let Some(job) = jobs.pop() {
        let result = job.run();
        jobs.extend(jetstream.synced(result, bus));
        jobs.extend(jetstream.end_of_batch(bus));
    }
    bus.take();
    assert_eq!(payloads(&mut rig, "C"), ["1"]);
}

#[test]
fn what_the_disk_refused_is_taken_again() {
    let disk = SimulatedDisk::new();
    let mut rig = Rig::on(&disk);
    create(&mut rig, r#"{"name":"O","subjects":["o"],"storage":"memory"}"#);
    create(&mut rig, r#"{"name":"S","sources":[{"name":"O"}]}"#);
    create(&mut rig, r#"{"name":"M","mirror":{"name":"O"}}"#);
    rig.ask("o", "1");
    rig.api("STREAM.PURGE.S", "");
    disk.set_space(Some(0));
    for text in ["2", "3"] {
        rig.ask("o", text);
        rig.pass_through(2 * SECOND);
    }
    assert_eq!((state(&mut rig, "S").0, state(&mut rig, "M").0), (0, 1));
    disk.set_space(None);
    rig.pass_through(12 * SECOND);
    rig.ask("o", "4");
    rig.pass_through(12 * SECOND);
    assert_eq!(payloads(&mut rig, "S"), ["2", "3", "4"]);
    assert_eq!(payloads(&mut rig, "M"), ["1", "2", "3", "4"]);
}

#[derive(Debug, Clone)]
enum Step {
    Publish(u8),
    DeleteFromOrigin(u64),
    PurgeOrigin,
    PurgeTaker(bool),
    Restart,
    Pass,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..4).prop_map(Step::Publish),
        1 => (1u64..20).prop_map(Step::DeleteFromOrigin),
        1 => Just(Step::PurgeOrigin),
        1 => any::<bool>().prop_map(Step::PurgeTaker),
        2 => Just(Step::Restart),
        1 => Just(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever happens, each message arrives once, in order.
    #[test]
    fn every_message_arrives_once(steps in prop::collection::vec(step(), 1..40)) {
        let mut rig = Rig::new();
        create(&mut rig, r#"{"name":"O","subjects":["o.*"]}"#);
        create(&mut rig, r#"{"name":"M","mirror":{"name":"O"}}"#);
        create(&mut rig, r#"{"name":"S","sources":[{"name":"O","filter_subject":"o.1"},{"name":"O","filter_subject":"o.2"}]}"#);
        let (mut mirrored, mut sourced, mut count) = (Vec::new(), Vec::new(), 0u32);
        for step in steps {
            match step {
                Step::Publish(on) => {
                    count += 1;
                    rig.ask(&format!("o.{on}"), &count.to_string());
                    mirrored.push(count.to_string());
                    if on == 1 || on == 2 {
                        sourced.push(count.to_string());
                    }
                }
                Step::DeleteFromOrigin(seq) => {
                    rig.ask("$JS.API.STREAM.MSG.DELETE.O", &format!(r#"{{"seq":{seq}}}"#));
                }
                Step::PurgeOrigin => { rig.api("STREAM.PURGE.O", ""); }
                Step::PurgeTaker(mirror) => {
                    let (name, kept) = if mirror { ("M", &mut mirrored) } else { ("S", &mut sourced) };
                    rig.api(&format!("STREAM.PURGE.{name}"), "");
                    kept.clear();
                }
                Step::Restart => { rig.restart(); }
                Step::Pass => rig.pass_through(11 * SECOND),
            }
            prop_assert_eq!(payloads(&mut rig, "M"), mirrored.clone());
            prop_assert_eq!(payloads(&mut rig, "S"), sourced.clone());
        }
    }
}

#[test]
fn a_mirror_that_becomes_a_stream_keeps_what_it_has_of_a_batch() {
    let mut rig = Rig::new();
    rig.api("STREAM.CREATE.O", r#"{"name":"O","subjects":["o.>"],"allow_atomic":true}"#);
    rig.api("STREAM.CREATE.M", r#"{"name":"M","mirror":{"name":"O","filter_subject":"o.a"}}"#);
    rig.ask_with("o.a", "Nats-Batch-Id: b\r\nNats-Batch-Sequence: 1", "first");
    rig.ask_with("o.b", "Nats-Batch-Id: b\r\nNats-Batch-Sequence: 2\r\nNats-Batch-Commit: 1", "second");
    rig.pass_through(2 * SECOND);
    let last = |rig: &mut Rig| rig.api("STREAM.INFO.M", "")["state"]["last_seq"].as_u64();
    assert_eq!(last(&mut rig), Some(1));
    rig.api("STREAM.UPDATE.M", r#"{"name":"M","subjects":["m.>"],"allow_atomic":true}"#);
    for _ in 0..2 {
        rig.close_and_restart();
        assert_eq!(last(&mut rig), Some(1));
    }
}

#[test]
fn what_was_taken_and_is_done_with_is_not_taken_again_after_a_crash() {
    let mut rig = Rig::new();
    rig.api("STREAM.CREATE.O", r#"{"name":"O","subjects":["o.>"]}"#);
    rig.api("STREAM.CREATE.W", r#"{"name":"W","sources":[{"name":"O"}],"retention":"workqueue"}"#);
    let consumer = r#"{"stream_name":"W","config":{"durable_name":"c","ack_policy":"explicit"}}"#;
    rig.api("CONSUMER.CREATE.W.c", consumer);
    for number in 1..=3 {
        rig.ask("o.a", "job");
        rig.settle();
        let jobs = rig.ask("$JS.API.CONSUMER.MSG.NEXT.W.c", r#"{"batch":1,"no_wait":true}"#);
        let job =
            jobs.iter().find(|sent| sent.subject == "o.a").unwrap_or_else(|| panic!("{number}: {jobs:?}"));
        rig.ask(&job.reply.clone(), "+ACK");
    }
    rig.restart();
    rig.settle();
    rig.pass_through(SECOND);
    let state = &rig.api("STREAM.INFO.W", "")["state"];
    assert_eq!((&state["messages"], &state["last_seq"]), (&0.into(), &3.into()));
}
