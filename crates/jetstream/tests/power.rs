//! Power cuts and kills at every operation of random workloads over several streams and consumers: what was answered is
//! true afterwards, nothing is invented, nothing comes twice, no alarm is false, and everything goes on.
#![cfg(test)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use ostler_broker_store::Severity;
use ostler_broker_store::disk::{Crash, SimulatedDisk};
use ostler_jetstream::Durability;
use serde_json::json;
use support::{Exists, House, Known, SECOND, STREAMS, StreamKnown, effort, number};

const ROUNDS: usize = 22;

fn verify(disk: &SimulatedDisk, durability: Durability, known: &Known, now: i64, context: &str) {
    let mut house = House::open(disk, durability, now).expect("the disk works again");
    for found in &house.recovered {
        let alarm = found.findings.iter().any(|finding| finding.severity == Severity::Damage);
        assert!(found.served && !alarm, "{context}: {found:?}");
    }
    let mut there = Vec::new();
    for (index, stream) in STREAMS.iter().enumerate() {
        let context = format!("{context}, {stream}");
        let state = &known.streams[index];
        let info = house.api(&format!("STREAM.INFO.{stream}"), "");
        let is_there = info.get("error").is_none();
        match state.exists {
            Exists::No => assert!(!is_there, "{context}: came back"),
            Exists::Yes => assert!(is_there, "{context}: {info}"),
            Exists::Maybe => {}
        }
        if !is_there {
            continue;
        }
        let version: u64 = info["config"]["description"].as_str().and_then(number).expect("a version");
        assert!(
            (state.version_acknowledged..=state.version).contains(&version),
            "{context}: configuration {version} of {}..={}",
            state.version_acknowledged,
            state.version
        );
        let present = check_messages(&mut house, stream, state, &context);
        check_window(&mut house, stream, state, &present, &context);
        there.push((*stream, state, present));
    }
    // Time passes from here on.
    for (stream, state, present) in there {
        for (name, consumer) in &state.consumers {
            if consumer.exists == Exists::Yes {
                let excused = consumer.acked.union(&state.asked_to_go).copied().collect();
                let acked = (&excused, &consumer.acked_for_sure);
                check_consumer(&mut house, stream, name, &present, acked, context);
            }
        }
    }
    check_that_it_goes_on(house, disk, durability, context);
}

/// Compares what can be read with what is known; returns payloads by sequence.
fn check_messages(house: &mut House, stream: &str, known: &StreamKnown, context: &str) -> BTreeMap<u64, u64> {
    let mut present = BTreeMap::new();
    let mut latest = 0;
    // A stream that was asked to go took its knowledge with it.
    let unknown = known.exists == Exists::Maybe;
    for (seq, subject, text) in house.messages(stream) {
        let payload = number(&text).unwrap_or_else(|| panic!("{context}: {seq} holds {text:?}"));
        assert!(payload > latest, "{context}: {payload} after {latest} is out of order or doubled");
        latest = payload;
        let given = known.given.get(&payload);
        assert!(unknown || given == Some(&subject), "{context}: {seq} was invented: {payload} on {subject}");
        assert!(!known.gone.contains(&payload), "{context}: {payload} was removed and is back");
        present.insert(seq, payload);
    }
    for (seq, payload) in &known.acknowledged {
        assert_eq!(present.get(seq), Some(payload), "{context}: acknowledged {seq}");
    }
    present
}

/// What was published with an id is refused when it comes again, as long as it is there.
fn check_window(
    house: &mut House,
    stream: &str,
    known: &StreamKnown,
    present: &BTreeMap<u64, u64>,
    context: &str,
) {
    for (seq, payload) in known.acknowledged.iter().filter(|(seq, _)| present.contains_key(seq)) {
        let with_id = known.ids.iter().find(|(_, (first, _))| first == payload);
        let Some((id, _)) = with_id else { continue };
        let answer = house.ask(
            &format!("{stream}.0"),
            &format!("NATS/1.0\r\nNats-Msg-Id: {id}\r\n\r\n"),
            "0 came a second time",
        );
        let answer: serde_json::Value = serde_json::from_str(&answer[0].payload).expect("JSON");
        assert!(answer["duplicate"] == true && answer["seq"] == *seq, "{context}: {id} at {seq}: {answer}");
    }
}

/// Takes everything a consumer has to give and compares it with what it should.
fn check_consumer(
    house: &mut House,
    stream: &str,
    name: &str,
    present: &BTreeMap<u64, u64>,
    (excused, for_sure): (&BTreeSet<u64>, &BTreeSet<u64>),
    context: &str,
) {
    let mut came = BTreeSet::new();
    for _ in 0..3 {
        let request = json!({ "batch": 500, "no_wait": true }).to_string();
        for sent in house.ask(&format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"), "", &request) {
            let Some(payload) = number(&sent.payload) else { continue };
            assert!(present.values().any(|there| *there == payload), "{context}, {name}: {payload} came");
            assert!(
                !for_sure.contains(&payload),
                "{context}, {name}: {payload} was done with and came again"
            );
            came.insert(payload);
        }
        // What was out when the power went comes when its time is up.
        house.pass(31 * SECOND);
    }
    for payload in present.values().filter(|payload| !excused.contains(payload)) {
        assert!(came.contains(payload), "{context}, {name}: {payload} is never delivered");
    }
}

/// Streams can be created, written and read, and what they acknowledge survives the next cut.
fn check_that_it_goes_on(mut house: House, disk: &SimulatedDisk, durability: Durability, context: &str) {
    for stream in STREAMS {
        let config = json!({ "name": stream, "subjects": [format!("{stream}.>")] }).to_string();
        let info = house.api(&format!("STREAM.INFO.{stream}"), "");
        if info.get("error").is_some() {
            let made = house.api(&format!("STREAM.CREATE.{stream}"), &config);
            assert!(made.get("error").is_none(), "{context}: {made}");
        }
    }
    let answer = house.ask("LOG.on", "", "1000000");
    let answer: serde_json::Value = serde_json::from_str(&answer[0].payload).expect("JSON");
    let seq = answer["seq"].as_u64().unwrap_or_else(|| panic!("{context}: {answer}"));
    let now = house.now;
    drop(house);
    let crash = if durability == Durability::Group { Crash::LoseAll } else { Crash::KeepAll };
    let mut house = House::open(&disk.after(crash), durability, now).expect("the disk works again");
    let last = house.messages("LOG").pop();
    assert_eq!(last, Some((seq, "LOG.on".to_owned(), "1000000".to_owned())), "{context}: a second time");
    for stream in STREAMS {
        let info = house.api(&format!("STREAM.INFO.{stream}"), "");
        assert!(info.get("error").is_none(), "{context}: a second time, {stream}: {info}");
    }
}

fn at_every_operation(
    durability: Durability,
    seeds: std::ops::Range<u64>,
    crashes: impl Fn(u64) -> Vec<Crash>,
) {
    for seed in seeds {
        let whole = SimulatedDisk::new();
        Known::work(&whole, durability, seed, ROUNDS);
        for operation in 0..=whole.operations() {
            let disk = SimulatedDisk::new();
            disk.power_off_at(operation);
            let (known, now) = Known::work(&disk, durability, seed, ROUNDS);
            for crash in crashes(seed * 10_000 + operation) {
                let context = format!("seed {seed}, operation {operation}, {crash:?}");
                verify(&disk.after(crash), durability, &known, now, &context);
            }
        }
    }
}

#[test]
fn what_was_answered_survives_a_power_cut_at_every_moment() {
    at_every_operation(Durability::Group, 0..2 * effort(), |choice| {
        vec![Crash::LoseAll, Crash::KeepAll, Crash::Some(choice * 2), Crash::Some(choice * 2 + 1)]
    });
}

#[test]
fn what_was_answered_survives_a_kill_at_every_moment() {
    at_every_operation(Durability::Process, 100..100 + 2 * effort(), |_| vec![Crash::KeepAll]);
}
