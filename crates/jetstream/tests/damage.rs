//! Damage to a whole directory of streams: a bit flipped anywhere, a file cut anywhere, a file or a stream missing. It is
//! named, nothing is silently different, and everything that was not hit is served.
#![cfg(test)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ostler_broker_store::Severity;
use ostler_broker_store::disk::{Crash, SimulatedDisk};
use ostler_jetstream::{Durability, check, repair};
use serde_json::{Value, json};
use support::{House, Known, SECOND};

const STREAMS: [&str; 3] = ["LOG", "KEYS", "WORK"];

/// What a stream shows of itself.
#[derive(Debug, Clone, PartialEq)]
struct Shown {
    messages: BTreeMap<u64, (String, String)>,
    config: Value,
    last_seq: u64,
    consumers: Vec<Value>,
}

fn build(durability: Durability, closed: bool) -> (SimulatedDisk, i64) {
    let disk = SimulatedDisk::new();
    let mut house = House::open(&disk, durability, Known::start_time()).expect("an empty disk");
    for (name, more) in [
        ("LOG", json!({})),
        ("KEYS", json!({ "max_msgs_per_subject": 1 })),
        ("WORK", json!({ "retention": "workqueue" })),
    ] {
        let mut config = json!({ "name": name, "subjects": [format!("{name}.>")] });
        config.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        house.api(&format!("STREAM.CREATE.{name}"), &config.to_string());
    }
    for number in 0..12 {
        for name in STREAMS {
            house.ask(&format!("{name}.{}", number % 4), "", &format!("{name} {number}"));
        }
    }
    for name in ["LOG", "WORK"] {
        let config =
            json!({ "stream_name": name, "config": { "durable_name": "c", "ack_policy": "explicit" } });
        house.api(&format!("CONSUMER.CREATE.{name}.c"), &config.to_string());
        let request = json!({ "batch": 6, "no_wait": true }).to_string();
        let got = house.ask(&format!("$JS.API.CONSUMER.MSG.NEXT.{name}.c"), "", &request);
        for sent in got.iter().filter(|sent| !sent.payload.is_empty()).take(3) {
            assert_eq!(house.ask(&sent.reply, "", "").len(), 1);
        }
    }
    house.api("STREAM.MSG.DELETE.LOG", r#"{"seq":5}"#);
    house.pass(SECOND);
    house.settle();
    let now = house.now;
    if closed {
        house.close();
    } else {
        drop(house);
    }
    (disk.after(Crash::KeepAll), now)
}

fn look(house: &mut House, stream: &str) -> Option<Shown> {
    let info = house.api(&format!("STREAM.INFO.{stream}"), "");
    if info.get("error").is_some() {
        return None;
    }
    let messages =
        house.messages(stream).into_iter().map(|(seq, subject, text)| (seq, (subject, text))).collect();
    let list = house.api(&format!("CONSUMER.LIST.{stream}"), "");
    let fields = ["name", "config", "delivered", "ack_floor", "num_ack_pending", "num_pending"];
    let consumers = list["consumers"].as_array().expect("a list").iter();
    let consumers =
        consumers.map(|consumer| json!(fields.map(|field| without_times(&consumer[field])))).collect();
    let last_seq = info["state"]["last_seq"].as_u64().expect("a number");
    Some(Shown { messages, config: info["config"].clone(), last_seq, consumers })
}

/// When something happened last is not kept.
fn without_times(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("last_active");
    }
    value
}

/// Damages a file in every way of a list and looks at all streams afterwards.
fn each(damage: impl Fn(&[u8], &mut dyn FnMut(Option<Vec<u8>>, String))) {
    for (durability, closed) in
        [(Durability::Group, true), (Durability::Group, false), (Durability::Process, false)]
    {
        let (disk, now) = build(durability, closed);
        let mut house = House::open(&disk.after(Crash::KeepAll), durability, now).expect("whole");
        assert!(house.recovered.iter().all(|found| found.findings.is_empty()), "{:?}", house.recovered);
        let whole: Vec<Shown> =
            STREAMS.iter().map(|stream| look(&mut house, stream).expect("it is there")).collect();
        for (path, content) in disk.files() {
            damage(&content, &mut |changed, what| {
                let context = format!("{durability:?}, closed {closed}, {}: {what}", path.display());
                judge(&disk, &path, changed, durability, now, &whole, &context);
            });
        }
    }
}

fn judge(
    disk: &SimulatedDisk,
    path: &Path,
    changed: Option<Vec<u8>>,
    durability: Durability,
    now: i64,
    whole: &[Shown],
    context: &str,
) {
    let copy = disk.after(Crash::KeepAll);
    copy.put(path, changed);
    let mut house = House::open(&copy, durability, now).expect("damage is no error");
    let hit = path.parent().and_then(Path::file_name).and_then(|name| name.to_str()).expect("of a stream");
    let recovered = house.recovered.clone();
    for (stream, whole) in STREAMS.iter().zip(whole) {
        let found = recovered.iter().find(|found| found.stream == *stream);
        let found = found.unwrap_or_else(|| panic!("{context}: {stream} is not mentioned"));
        let shown = look(&mut house, stream);
        assert_eq!(found.served, shown.is_some(), "{context}: {found:?}");
        if *stream != hit {
            assert!(found.findings.is_empty() && found.error.is_none(), "{context}: {found:?}");
            assert_eq!(shown.as_ref(), Some(whole), "{context}: {stream} was not hit");
            continue;
        }
        let named = !found.findings.is_empty() || found.error.is_some();
        assert!(named, "{context}: not noticed");
        let Some(shown) = shown else { continue };
        for (seq, message) in &shown.messages {
            // What was removed may come back when the removal was hit, and that is said.
            assert!(
                whole.messages.get(seq).is_none_or(|kept| kept == message),
                "{context}: {seq} is another"
            );
            assert!(message.1.starts_with(stream), "{context}: {seq} is of another stream");
        }
        let loud = found.findings.iter().any(|finding| finding.severity == Severity::Damage);
        let same = shown.messages == whole.messages && shown.last_seq == whole.last_seq;
        assert!(same || loud, "{context}: different in silence: {found:?}");
        // The copy before the last one may be used, which is said. What was never synced cannot be told from what a
        // power cut left, and is called so.
        let least = if durability == Durability::Group { Severity::Warning } else { Severity::Info };
        let spoken = found.findings.iter().any(|finding| finding.severity >= least);
        let same = shown.config == whole.config && shown.consumers == whole.consumers;
        assert!(same || spoken, "{context}: different in silence: {found:?}");
    }
}

/// Places worth trying: all of a small file, every few of a larger one.
fn places(len: usize) -> impl Iterator<Item = usize> {
    let step = len / 60 + 1;
    (0..len).filter(move |at| at % step == 0 || *at < 70 || at + 30 > len)
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    each(|content, try_it| {
        for place in places(content.len()) {
            let mut changed = content.to_vec();
            changed[place] ^= 1 << (place % 8);
            try_it(Some(changed), format!("bit {} of byte {place}", place % 8));
        }
    });
}

#[test]
fn a_file_cut_at_any_length_is_noticed() {
    each(|content, try_it| {
        for place in places(content.len()) {
            try_it(Some(content[..place].to_vec()), format!("cut to {place}"));
        }
    });
}

#[test]
fn a_missing_file_is_noticed() {
    each(|_, try_it| try_it(None, "missing".to_owned()));
}

#[test]
fn a_stream_under_another_name_is_not_served() {
    let (disk, now) = build(Durability::Group, true);
    for (path, content) in disk.files() {
        if let Ok(rest) = path.strip_prefix("store/streams/LOG") {
            disk.put(&PathBuf::from("store/streams/COPY").join(rest), Some(content));
        }
    }
    let mut house = House::open(&disk, Durability::Group, now).expect("the disk works");
    let copy = house.recovered.iter().find(|found| found.stream == "COPY").expect("it is mentioned");
    assert!(!copy.served, "{copy:?}");
    assert!(look(&mut house, "LOG").is_some() && look(&mut house, "COPY").is_none());
}

fn without_configuration() -> (SimulatedDisk, i64) {
    let (disk, now) = build(Durability::Group, true);
    for copy in ["cp-stream.0", "cp-stream.1"] {
        let path = Path::new("store/streams/LOG").join(copy);
        let mut content = disk.files().remove(&path).expect("there are two");
        let middle = content.len() / 2;
        content[middle] ^= 1;
        disk.put(&path, Some(content));
    }
    (disk, now)
}

#[test]
fn a_stream_whose_configuration_is_lost_is_served_and_takes_a_new_one() {
    let dir = Path::new("store/streams/LOG");
    for repaired in [false, true] {
        let (disk, now) = without_configuration();
        let on = |disk: &SimulatedDisk| Arc::new(disk.clone());
        if repaired {
            let report = repair(on(&disk), dir).expect("the disk works");
            assert_eq!(report.severity(), Some(Severity::Damage), "{report}");
            assert_eq!(check(on(&disk), dir).expect("the disk works").severity(), None);
        }
        for _ in 0..2 {
            let mut house = House::open(&disk, Durability::Group, now).expect("the disk works");
            let found = house.recovered.iter().find(|found| found.stream == "LOG").expect("it is mentioned");
            assert!(found.served, "{found:?}");
            assert_eq!(found.findings.is_empty(), repaired, "{found:?}");
            let shown = look(&mut house, "LOG").expect("it is served");
            assert_eq!((shown.messages.len(), shown.last_seq, shown.consumers.len()), (11, 12, 1));
            // Nothing is guessed: others may have its subjects.
            assert_eq!(shown.config.get("subjects"), None, "{shown:?}");
            house.close();
            if !repaired {
                let report = check(on(&disk), dir).expect("the disk works");
                assert!(report.to_string().contains("give it its configuration with an update"), "{report}");
            }
        }
        let mut house = House::open(&disk, Durability::Group, now).expect("the disk works");
        let answer = house.api("STREAM.UPDATE.LOG", r#"{"name":"LOG","subjects":["LOG.>"]}"#);
        assert_eq!(answer.get("error"), None, "{answer}");
        assert_eq!(house.ask("LOG.1", "", "more").len(), 1);
        house.close();
        assert_eq!(check(on(&disk), dir).expect("the disk works").severity(), None);
    }
}

#[test]
fn a_consumer_that_is_lost_is_called_by_its_name() {
    let (disk, _) = build(Durability::Group, true);
    for copy in ["cp-c%2ec.0", "cp-c%2ec.1", "cp-s%2ec.0", "cp-s%2ec.1"] {
        disk.put(&Path::new("store/streams/LOG").join(copy), None);
    }
    let report = repair(Arc::new(disk), Path::new("store/streams/LOG")).expect("the disk works").to_string();
    assert!(report.contains("consumer c (cp-c%2ec.0): it is missing; the consumer is gone"), "{report}");
    assert!(report.contains("state of consumer c") && report.contains("delivered again"), "{report}");
}
