//! Atomic batches, counters and schedules over time: limits, silence, crashes and restarts.

use ostler_broker_store::disk::{Crash, SimulatedDisk};
use serde_json::Value;

use crate::bus::Incoming;
use crate::jetstream::JetStream;
use crate::options::Options;
use crate::testing::{Recorder, Rig, Sent};
use crate::time::{SECOND, Time};

fn create(rig: &mut Rig, config: &str) {
    let name = config.split('"').nth(3).unwrap();
    rig.api(&format!("STREAM.CREATE.{name}"), config);
}

fn state(rig: &mut Rig, name: &str) -> (u64, u64, u64) {
    let state = &rig.api(&format!("STREAM.INFO.{name}"), "")["state"];
    let number = |field: &str| state[field].as_u64().unwrap();
    (number("messages"), number("first_seq"), number("last_seq"))
}

fn batched(id: &str, seq: u32, more: &str) -> String {
    let more = if more.is_empty() { String::new() } else { format!("\r\n{more}") };
    format!("Nats-Batch-Id: {id}\r\nNats-Batch-Sequence: {seq}{more}")
}

const COMMIT: &str = "Nats-Batch-Commit: 1";

fn answer(sent: &[Sent]) -> &str {
    sent.iter().find(|sent| sent.to == "_I").map_or("", |sent| &sent.payload)
}

#[test]
fn a_batch_that_falls_silent_is_given_up_and_said_so() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"B","subjects":["b.*"],"allow_atomic":true}"#);
    rig.ask_with("b.1", &batched("a", 1, ""), "x");
    rig.pass_through(9 * SECOND);
    rig.ask_with("b.1", &batched("a", 2, ""), "x");
    rig.pass_through(9 * SECOND);
    assert!(rig.bus.take().is_empty());
    rig.pass_through(2 * SECOND);
    let sent = rig.bus.take();
    assert_eq!(sent[0].to, "$JS.EVENT.ADVISORY.STREAM.BATCH_ABANDONED.B");
    assert!(sent[0].payload.contains(r#""stream":"B","batch":"a","reason":"timeout""#), "{sent:?}");
    let sent = rig.ask_with("b.1", &batched("a", 3, COMMIT), "x");
    assert!(answer(&sent).contains("10176"), "{sent:?}");
    assert_eq!(state(&mut rig, "B").0, 0);
}

#[test]
fn a_batch_of_more_than_a_thousand_is_refused() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"B","subjects":["b"],"allow_atomic":true,"storage":"memory"}"#);
    for seq in 1..=1000 {
        assert_eq!(answer(&rig.ask_with("b", &batched("a", seq, ""), "x")), "");
    }
    let sent = rig.ask_with("b", &batched("a", 1001, COMMIT), "x");
    assert!(sent.iter().any(|sent| sent.payload.contains(r#""reason":"large""#)), "{sent:?}");
    assert!(answer(&sent).contains("10199"), "{sent:?}");
}

#[test]
fn a_batch_is_all_there_or_not_at_all_after_any_power_cut() {
    let config = r#"{"name":"B","subjects":["b.*"],"allow_atomic":true,"max_msgs_per_subject":1}"#;
    let mut cut = 0;
    loop {
        cut += 1;
        let disk = SimulatedDisk::new();
        let dir = tempfile::tempdir().unwrap();
        let options = || {
            let mut options = Options::new(dir.path());
            options.disk = std::sync::Arc::new(disk.clone());
            options
        };
        let (mut jetstream, _) = JetStream::open(options(), 1).unwrap();
        let mut bus = Recorder::default();
        let mut send = |subject: &str, headers: &str, payload: &str| {
            let headers =
                if headers.is_empty() { String::new() } else { format!("NATS/1.0\r\n{headers}\r\n\r\n") };
            let message = Incoming {
                subject: subject.as_bytes(),
                reply: b"_I",
                headers: headers.as_bytes(),
                payload: payload.as_bytes(),
            };
            jetstream.on_message(&message, 1, &mut bus);
            let mut jobs = jetstream.end_of_batch(&mut bus);
            while let Some(job) = jobs.pop() {
                jobs.extend(jetstream.synced(job.run(), &mut bus));
            }
            bus.take()
        };
        send("$JS.API.STREAM.CREATE.B", "", config);
        for subject in ["b.0", "b.1", "b.2"] {
            assert!(answer(&send(subject, "", "old")).contains("seq"));
        }
        let begun = disk.operations();
        disk.power_off_at(begun + cut);
        // Larger than what is gathered before a write, so that parts of it are written on the way.
        let new = "n".repeat(400_000);
        let mut told = String::new();
        for seq in 1..=5u32 {
            let more = if seq == 5 { COMMIT } else { "" };
            told = answer(&send(&format!("b.{}", seq % 3), &batched("a", seq, more), &new)).to_owned();
        }
        let acknowledged = told.contains(r#""count":5"#);
        let whole = !disk.is_off();
        for kept in [Crash::KeepAll, Crash::LoseAll, Crash::Some(cut)] {
            let after = disk.after(kept);
            let mut options = Options::new(dir.path());
            options.disk = std::sync::Arc::new(after);
            let (mut jetstream, _) = JetStream::open(options, 2).unwrap();
            let mut bus = Recorder::default();
            let info = Incoming {
                subject: b"$JS.API.STREAM.INFO.B",
                reply: b"_I",
                headers: b"",
                payload: br#"{"subjects_filter":">"}"#,
            };
            jetstream.on_message(&info, 3, &mut bus);
            let info: Value = serde_json::from_str(answer(&bus.take())).unwrap();
            let (messages, last) = (&info["state"]["messages"], &info["state"]["last_seq"]);
            assert!(*last == 3 || *last == 8, "cut at {cut}, {kept:?}: {info}");
            assert!(!acknowledged || *last == 8, "acknowledged and lost, cut at {cut}, {kept:?}");
            for subject in ["b.0", "b.1", "b.2"] {
                assert!(
                    info["state"]["subjects"][subject].as_u64() >= Some(1),
                    "cut at {cut}, {kept:?}: {info}"
                );
            }
            if *last == 3 {
                assert_eq!(*messages, 3, "nothing old is gone for a batch that is not there");
            }
        }
        if whole {
            break;
        }
    }
    assert!(cut > 3, "the batch was written in parts");
}

#[test]
fn counters_go_on_after_a_restart_and_make_up_for_what_was_missed() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"C","subjects":["c.*"],"allow_msg_counter":true,"max_msgs_per_subject":1}"#);
    let add = |rig: &mut Rig, number: &str| rig.ask_with("c.1", &format!("Nats-Incr: {number}"), "");
    add(&mut rig, "5");
    rig.restart();
    assert_eq!(answer(&add(&mut rig, "-7")), r#"{"stream":"C","seq":2,"val":"-2"}"#);
    add(&mut rig, "100");
    // It sees only the last of them.
    create(
        &mut rig,
        r#"{"name":"D","subjects":["d"],"sources":[{"name":"C","subject_transforms":[{"src":"c.1","dest":"d"}]}],"allow_msg_counter":true}"#,
    );
    let sent = rig.ask_with("d", "Nats-Incr: 1", "");
    assert!(answer(&sent).contains(r#""val":"99""#), "{sent:?}");
    rig.restart();
    add(&mut rig, "1");
    let found = rig.api("STREAM.MSG.GET.D", r#"{"last_by_subj":"d"}"#);
    let text = |field: &str| {
        let bytes =
            data_encoding::BASE64.decode(found["message"][field].as_str().unwrap().as_bytes()).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    assert_eq!(text("data"), r#"{"val":"100"}"#);
    assert!(text("hdrs").contains(r#"Nats-Counter-Sources: {"C":{"c.1":"99"}}"#), "{}", text("hdrs"));
}

/// A message of a fast batch, and what was answered to it.
fn fast(rig: &mut Rig, id: &str, how: &str) -> Vec<String> {
    let reply = format!("_I.{id}.{how}.$FI");
    rig.send(&Incoming { subject: b"f", reply: reply.as_bytes(), headers: b"", payload: b"x" });
    rig.bus.take().into_iter().filter(|sent| sent.to == reply).map(|sent| sent.payload).collect()
}

#[test]
fn a_fast_batch_that_falls_silent_is_forgotten_and_what_it_stored_stays() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"F","subjects":["f"],"allow_batched":true}"#);
    fast(&mut rig, "a", "5.fail.1.0");
    rig.pass_through(9 * SECOND);
    fast(&mut rig, "a", "5.fail.2.1");
    rig.pass_through(9 * SECOND);
    assert_eq!(fast(&mut rig, "a", "5.fail.2.4"), [r#"{"type":"ack","seq":0,"msgs":5}"#]);
    rig.pass_through(11 * SECOND);
    assert!(rig.bus.take().is_empty());
    assert!(fast(&mut rig, "a", "5.fail.3.1")[0].contains("10208"));
    assert_eq!(state(&mut rig, "F").0, 2);
    fast(&mut rig, "b", "5.fail.1.0");
    rig.restart();
    assert!(fast(&mut rig, "b", "5.fail.2.2")[0].contains("10208"));
    assert_eq!(state(&mut rig, "F").0, 3);
}

#[test]
fn no_more_fast_batches_are_under_way_than_may_be() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"F","subjects":["f"],"allow_batched":true,"storage":"memory"}"#);
    for number in 0..1000 {
        assert!(!fast(&mut rig, &number.to_string(), "5.fail.1.0")[0].contains("error"));
    }
    assert!(fast(&mut rig, "more", "5.fail.1.0")[0].contains("10211"));
    fast(&mut rig, "7", "5.fail.2.3");
    assert!(!fast(&mut rig, "more", "5.fail.1.0")[0].contains("error"));
}

#[test]
fn a_fast_batch_is_told_only_what_is_on_the_disk_and_that_it_failed() {
    let disk = SimulatedDisk::new();
    let mut rig = Rig::on(&disk);
    create(&mut rig, r#"{"name":"F","subjects":["f"],"allow_batched":true}"#);
    assert_eq!(fast(&mut rig, "a", "1.ok.1.0").len(), 2);
    let mut send = |how: &str| {
        let reply = format!("_I.a.{how}.$FI");
        let message = Incoming { subject: b"f", reply: reply.as_bytes(), headers: b"", payload: b"x" };
        let now = rig.now;
        rig.jetstream.as_mut().unwrap().on_message(&message, now, &mut rig.bus);
        let jobs = rig.jetstream.as_mut().unwrap().end_of_batch(&mut rig.bus);
        (jobs, rig.bus.take())
    };
    let (jobs, sent) = send("1.ok.2.1");
    assert!(sent.is_empty(), "not on the disk yet: {sent:?}");
    disk.fail_syncs(1);
    let mut sent = Vec::new();
    for job in jobs {
        let result = job.run();
        rig.jetstream.as_mut().unwrap().synced(result, &mut rig.bus);
        sent.append(&mut rig.bus.take());
    }
    let told: Vec<_> = sent.iter().filter(|sent| sent.to == "_I.a.1.ok.2.1.$FI").collect();
    assert!(told.len() == 1 && told[0].payload.contains("error"), "{sent:?}");
    rig.pass_through(10 * SECOND);
    assert!(fast(&mut rig, "a", "1.ok.3.1")[0].contains("10208"));
}

fn schedule(rig: &mut Rig, subject: &str, pattern: &str) {
    let headers = format!("Nats-Schedule: {pattern}\r\nNats-Schedule-Target: s.out");
    let sent = rig.ask_with(subject, &headers, "tick");
    assert!(!answer(&sent).contains("error"), "{sent:?}");
}

fn made(rig: &mut Rig) -> u64 {
    let info = rig.api("STREAM.INFO.S", r#"{"subjects_filter":"s.out"}"#);
    info["state"]["subjects"]["s.out"].as_u64().unwrap_or(0)
}

#[test]
fn schedules_fire_in_time_and_only_once_for_what_a_restart_missed() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"S","subjects":["s.*"],"allow_msg_schedules":true}"#);
    let at = serde_json::to_value(Time::from_nanos(rig.now + 5 * SECOND)).unwrap();
    schedule(&mut rig, "s.once", &format!("@at {}", at.as_str().unwrap()));
    rig.pass_through(4 * SECOND);
    assert_eq!(made(&mut rig), 0);
    rig.restart();
    rig.pass_through(2 * SECOND);
    assert_eq!(made(&mut rig), 1);
    assert_eq!(state(&mut rig, "S").0, 1, "the schedule is over");
    schedule(&mut rig, "s.every", "@every 10s");
    rig.pass_through(35 * SECOND);
    assert_eq!(made(&mut rig), 4);
    rig.restart();
    rig.pass_through(4 * SECOND);
    assert_eq!(made(&mut rig), 4, "not again what was made before");
    rig.now += 100 * SECOND;
    rig.restart();
    rig.pass_through(5 * SECOND);
    assert_eq!(made(&mut rig), 5, "once for all that was missed");
    rig.pass_through(10 * SECOND);
    assert_eq!(made(&mut rig), 6);
    rig.ask("s.every", "an ordinary message");
    rig.pass_through(30 * SECOND);
    assert_eq!(made(&mut rig), 6, "what takes its place ends a schedule");
}

#[test]
fn a_schedule_that_is_purged_is_over() {
    let mut rig = Rig::new();
    create(&mut rig, r#"{"name":"S","subjects":["s.*"],"allow_msg_schedules":true}"#);
    schedule(&mut rig, "s.every", "*/2 * * * * *");
    rig.pass_through(3 * SECOND);
    let count = made(&mut rig);
    assert!(count >= 1);
    rig.api("STREAM.PURGE.S", r#"{"filter":"s.every"}"#);
    rig.pass_through(10 * SECOND);
    assert_eq!(made(&mut rig), count);
}
