//! Power cuts and kills in the middle of what takes several messages: an atomic batch is there as a whole or not at all,
//! and a stream that takes from another has every message of it once.
#![cfg(test)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use ostler_broker_store::disk::{Crash, SimulatedDisk};
use ostler_jetstream::Durability;
use serde_json::{Value, json};
use support::{House, Known, SECOND, effort};

const CLASSES: [Durability; 2] = [Durability::Group, Durability::Process];

fn create(house: &mut House, config: &Value) -> bool {
    let name = config["name"].as_str().expect("a name");
    let answers = house.ask(&format!("$JS.API.STREAM.CREATE.{name}"), "", &config.to_string());
    answers.first().is_some_and(|sent| !sent.payload.contains("\"error\""))
}

/// What a power cut may leave.
fn crashes(durability: Durability, choice: u64) -> Vec<Crash> {
    match durability {
        Durability::Group => {
            vec![Crash::LoseAll, Crash::KeepAll, Crash::Some(choice), Crash::Some(choice + 1)]
        }
        _ => vec![Crash::KeepAll],
    }
}

/// Opens what a crash left; nothing of it is an alarm.
fn reopen(disk: &SimulatedDisk, durability: Durability, now: i64, context: &str) -> House {
    let house = House::open(disk, durability, now).expect("the disk works again");
    let alarm = house
        .recovered
        .iter()
        .flat_map(|found| &found.findings)
        .find(|finding| finding.severity == ostler_broker_store::Severity::Damage);
    assert!(alarm.is_none(), "{context}: {alarm:?}");
    house
}

/// Publishes batches and single messages in turn, several on their way at once; says how long each batch is, and which
/// were committed.
fn batches(
    disk: &SimulatedDisk,
    durability: Durability,
    seed: u64,
) -> (BTreeMap<u64, u64>, BTreeSet<u64>, i64) {
    let (mut sizes, mut committed) = (BTreeMap::new(), BTreeSet::new());
    let start = Known::start_time();
    let Some(mut house) = House::open(disk, durability, start) else { return (sizes, committed, start) };
    let mut random = fastrand::Rng::with_seed(seed);
    create(&mut house, &json!({ "name": "B", "subjects": ["b.*"], "allow_atomic": true, "max_msgs": 60 }));
    for batch in 1..=14u64 {
        let size = random.u64(1..7);
        sizes.insert(batch, size);
        let abandoned = random.u8(0..5) == 0;
        for part in 1..=size {
            let last = part == size;
            if last && abandoned {
                break;
            }
            let commit = if last { "Nats-Batch-Commit: 1\r\n" } else { "" };
            let headers = format!(
                "NATS/1.0\r\nNats-Batch-Id: batch-{batch}\r\nNats-Batch-Sequence: {part}\r\n{commit}\r\n"
            );
            let payload = format!("{batch} {part} {}", "x".repeat(random.usize(0..300)));
            house.say(&format!("b.{part}"), &format!("_B.{batch}"), &headers, &payload);
            if random.u8(0..3) == 0 {
                house.end_batch();
                house.sync_one(random.usize(0..4));
            }
            if random.u8(0..8) == 0 {
                house.say("b.single", "", "", "0 0");
            }
        }
        house.end_batch();
        (0..random.u8(0..3)).for_each(|_| house.sync_one(0));
        for sent in house.take() {
            let number = sent.to.strip_prefix("_B.").and_then(|number| number.parse().ok());
            let answer: Value = serde_json::from_str(&sent.payload).unwrap_or_default();
            if let (Some(number), Some(count)) = (number, answer["count"].as_u64()) {
                assert_eq!(count, sizes[&number], "{answer}");
                committed.insert(number);
            }
        }
        if disk.is_off() {
            break;
        }
    }
    (sizes, committed, house.now)
}

#[test]
fn a_batch_is_there_as_a_whole_or_not_at_all() {
    for (durability, seed) in
        CLASSES.into_iter().flat_map(|class| (0..2 * effort()).map(move |seed| (class, seed)))
    {
        let whole = SimulatedDisk::new();
        let (_, committed, _) = batches(&whole, durability, seed);
        assert!(committed.len() > 3, "{committed:?}");
        for operation in 0..=whole.operations() {
            let disk = SimulatedDisk::new();
            disk.power_off_at(operation);
            let (sizes, committed, now) = batches(&disk, durability, seed);
            for crash in crashes(durability, (seed * 10_000 + operation) * 2) {
                let context = format!("{durability:?}, seed {seed}, operation {operation}, {crash:?}");
                let mut house = reopen(&disk.after(crash), durability, now, &context);
                let mut found: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
                if house.recovered.is_empty() {
                    assert!(committed.is_empty(), "{context}: the stream is gone");
                    continue;
                }
                let messages = house.messages("B");
                for (seq, _, text) in &messages {
                    let mut words = text.split(' ').map(|word| word.parse::<u64>().unwrap_or(0));
                    let (batch, part) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
                    if batch > 0 {
                        found.entry(batch).or_default().push((part, *seq));
                    }
                }
                let first_batch = found.keys().next().copied().unwrap_or(u64::MAX);
                for (batch, parts) in &found {
                    let size = sizes[batch];
                    let wanted: Vec<u64> = (1..=size).collect();
                    let there: Vec<u64> = parts.iter().map(|(part, _)| *part).collect();
                    // The stream's limit takes from the front, one by one.
                    let cut = *batch == first_batch && wanted.ends_with(&there);
                    assert!(
                        there == wanted || cut,
                        "{context}: of batch {batch} there is {there:?} of {size}"
                    );
                    let run = parts.windows(2).all(|pair| pair[1].1 == pair[0].1 + 1);
                    assert!(run, "{context}: batch {batch} is not in one piece: {parts:?}");
                }
                for batch in &committed {
                    let is_there = found.contains_key(batch) || *batch < first_batch && messages.len() >= 60;
                    assert!(is_there, "{context}: batch {batch} was committed; there are {:?}", found.keys());
                }
            }
        }
    }
}

/// Publishes to a stream that another takes from; says what was acknowledged.
fn feed(disk: &SimulatedDisk, durability: Durability, seed: u64) -> (BTreeMap<u64, u64>, i64) {
    let mut acknowledged = BTreeMap::new();
    let start = Known::start_time();
    let Some(mut house) = House::open(disk, durability, start) else { return (acknowledged, start) };
    let mut random = fastrand::Rng::with_seed(seed);
    create(&mut house, &json!({ "name": "FROM", "subjects": ["f.*"] }));
    create(&mut house, &json!({ "name": "MIRROR", "mirror": { "name": "FROM" } }));
    create(&mut house, &json!({ "name": "TAKER", "subjects": ["t.*"], "sources": [{ "name": "FROM" }] }));
    for number in 1..=40u64 {
        let payload = format!("{number} {}", "x".repeat(random.usize(0..200)));
        house.say(&format!("f.{}", number % 3), &format!("_F.{number}"), "", &payload);
        if random.u8(0..5) == 0 {
            house.say("t.own", "", "", "0");
        }
        if random.u8(0..3) == 0 {
            house.end_batch();
            (0..random.u8(0..4)).for_each(|which| house.sync_one(usize::from(which)));
        }
        if random.u8(0..12) == 0 {
            house.pass(SECOND / 2);
        }
        for sent in house.take() {
            let number = sent.to.strip_prefix("_F.").and_then(|number| number.parse().ok());
            let answer: Value = serde_json::from_str(&sent.payload).unwrap_or_default();
            if let (Some(number), Some(seq)) = (number, answer["seq"].as_u64()) {
                acknowledged.insert(seq, number);
            }
        }
        if disk.is_off() {
            break;
        }
    }
    (acknowledged, house.now)
}

#[test]
fn a_stream_that_takes_from_another_has_each_message_once() {
    for (durability, seed) in
        CLASSES.into_iter().flat_map(|class| (0..2 * effort()).map(move |seed| (class, seed)))
    {
        let whole = SimulatedDisk::new();
        let (acknowledged, _) = feed(&whole, durability, seed);
        assert!(acknowledged.len() > 5, "{acknowledged:?}");
        for operation in 0..=whole.operations() {
            let disk = SimulatedDisk::new();
            disk.power_off_at(operation);
            let (acknowledged, now) = feed(&disk, durability, seed);
            for crash in crashes(durability, (seed * 10_000 + operation) * 2) {
                let context = format!("{durability:?}, seed {seed}, operation {operation}, {crash:?}");
                let mut house = reopen(&disk.after(crash), durability, now, &context);
                let there =
                    |house: &House, name: &str| house.recovered.iter().any(|found| found.stream == name);
                if !there(&house, "FROM") {
                    assert!(acknowledged.is_empty(), "{context}: the stream is gone");
                    continue;
                }
                // Something new comes, and time to carry it over.
                house.ask("f.0", "", "41 new");
                for _ in 0..20 {
                    house.pass(SECOND);
                    house.settle();
                }
                let from = house.messages("FROM");
                for (seq, number) in &acknowledged {
                    let kept = from
                        .iter()
                        .find(|(at, _, _)| at == seq)
                        .and_then(|(_, _, text)| support::number(text));
                    assert_eq!(kept, Some(*number), "{context}: acknowledged {seq}");
                }
                if there(&house, "MIRROR") {
                    let mirror = house.messages("MIRROR");
                    assert_eq!(mirror, from, "{context}: the mirror");
                }
                if there(&house, "TAKER") {
                    let own =
                        |(_, subject, text): (u64, String, String)| (subject != "t.own").then_some(text);
                    let taken: Vec<String> = house.messages("TAKER").into_iter().filter_map(own).collect();
                    let expected: Vec<String> = from.into_iter().filter_map(own).collect();
                    assert_eq!(taken, expected, "{context}: the one that takes");
                }
            }
        }
    }
}
