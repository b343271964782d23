//! A disk that fills up, becomes read-only, answers with errors and forgets, at random, under several streams at once:
//! every publisher gets one true answer, streams in memory never notice, and everything goes on when the disk is well.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

use ostler_broker_store::disk::{Crash, SimulatedDisk};
use serde_json::Value;

use crate::bus::Incoming;
use crate::jetstream::JetStream;
use crate::options::Options;
use crate::testing::Rig;
use crate::time::SECOND;

/// Their names and durability; `M` is in memory.
const STREAMS: [(&str, &str); 3] = [("G", "group"), ("P", "process"), ("M", "")];

/// What was acknowledged, by stream and sequence.
type Acknowledged = BTreeMap<(String, u64), String>;

fn rig(disk: &SimulatedDisk) -> Rig {
    let mut rig = Rig::on(disk);
    rig.bus.only = Some(vec!["_I".to_owned()]);
    for (name, class) in STREAMS {
        let kept = match class {
            "" => r#""storage":"memory""#.to_owned(),
            class => format!(r#""metadata":{{"ostler.durability":"{class}"}}"#),
        };
        rig.api(&format!("STREAM.CREATE.{name}"), &format!(r#"{{"name":"{name}",{kept}}}"#));
    }
    rig.bus.take();
    rig
}

/// Publishes some messages as one batch and returns what was promised of them.
fn publish(rig: &mut Rig, batch: &[(&str, String)], acknowledged: &mut Acknowledged) -> usize {
    rig.now += SECOND / 100;
    for (index, (stream, payload)) in batch.iter().enumerate() {
        let Rig { jetstream, bus, now, .. } = &mut *rig;
        let reply = format!("_I.{index}");
        let message = Incoming {
            subject: stream.as_bytes(),
            reply: reply.as_bytes(),
            headers: b"",
            payload: payload.as_bytes(),
        };
        jetstream.as_mut().unwrap().on_message(&message, *now, bus);
    }
    rig.settle();
    let answers = rig.bus.take();
    let mut refused = 0;
    for (index, (stream, payload)) in batch.iter().enumerate() {
        let to = format!("_I.{index}");
        let mut ours = answers.iter().filter(|sent| sent.to == to);
        let answer = &ours.next().unwrap_or_else(|| panic!("{payload} on {stream} is not answered")).payload;
        assert!(ours.next().is_none(), "{payload} on {stream} is answered twice");
        let answer: Value = serde_json::from_str(answer).unwrap();
        if answer["error"].is_null() {
            let seq = answer["seq"].as_u64().unwrap();
            let before = acknowledged.insert(((*stream).to_owned(), seq), payload.clone());
            assert!(before.is_none(), "sequence {seq} of {stream} was acknowledged before");
        } else {
            assert!([10047, 10077].contains(&answer["error"]["err_code"].as_u64().unwrap()), "{answer}");
            assert_ne!(*stream, "M", "a stream in memory needs no disk: {answer}");
            refused += 1;
        }
    }
    refused
}

fn make_trouble(disk: &SimulatedDisk, forgets: bool, rng: &mut fastrand::Rng) {
    match rng.u8(..8) {
        0 => disk.set_space(Some(rng.u64(..3000))),
        1 => disk.refuse(Some(ErrorKind::ReadOnlyFilesystem)),
        2 => disk.refuse(Some(ErrorKind::Other)),
        3 if forgets => disk.fail_syncs(1),
        _ => {
            disk.set_space(None);
            disk.refuse(None);
        }
    }
}

/// Says which of the acknowledged messages of some streams are not there as they were.
fn missing(jetstream: JetStream, of: &[&str], acknowledged: &Acknowledged) -> Vec<(String, u64)> {
    let mut rig = Rig::new();
    rig.bus.only = Some(vec!["_I".to_owned()]);
    rig.jetstream = Some(jetstream);
    let mut missing = Vec::new();
    for ((stream, seq), payload) in acknowledged.iter().filter(|((stream, _), _)| of.contains(&&**stream)) {
        let answer = rig.ask(&format!("$JS.API.STREAM.MSG.GET.{stream}"), &format!(r#"{{"seq":{seq}}}"#));
        let answer: Value = serde_json::from_str(&answer[0].payload).unwrap();
        let expected = data_encoding::BASE64.encode(payload.as_bytes());
        if answer["message"]["data"] != *expected {
            missing.push((stream.clone(), *seq));
        }
    }
    missing
}

#[test]
fn what_was_acknowledged_survives_any_trouble_and_the_streams_recover() {
    let mut refused = 0;
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = SimulatedDisk::new();
        let mut rig = rig(&disk);
        let mut acknowledged = Acknowledged::new();
        // A disk that drops what it was given takes what only the operating system had; that was not promised.
        let forgets = seed % 2 == 0;
        let of_process = if forgets { &["G"][..] } else { &["G", "P"] };
        for step in 0..60 {
            if rng.u8(..4) == 0 {
                make_trouble(&disk, forgets, &mut rng);
            }
            if rng.u8(..8) == 0 {
                rig.pass(11 * SECOND);
                rig.bus.take();
            }
            let batch: Vec<(&str, String)> = (0..rng.usize(1..5))
                .map(|index| {
                    let size = if rng.u8(..10) == 0 { rng.usize(..9000) } else { rng.usize(..60) };
                    (rng.choice(STREAMS).unwrap().0, format!("{seed}.{step}.{index}{}", "x".repeat(size)))
                })
                .collect();
            refused += publish(&mut rig, &batch, &mut acknowledged);
        }
        disk.set_space(None);
        disk.refuse(None);
        disk.fail_syncs(0);
        let well = STREAMS.map(|(name, _)| (name, "the disk is well".to_owned()));
        assert_eq!(publish(&mut rig, &well, &mut acknowledged), 0, "seed {seed}: it does not recover");
        for (crash, of) in
            [(Crash::KeepAll, of_process), (Crash::LoseAll, &["G"]), (Crash::Some(seed), &["G"])]
        {
            let mut options = Options::new(rig.path());
            options.disk = Arc::new(disk.after(crash));
            let (jetstream, recovered) = JetStream::open(options, rig.now).unwrap();
            assert!(recovered.iter().all(|recovered| recovered.served), "seed {seed}: {recovered:?}");
            let missing = missing(jetstream, of, &acknowledged);
            assert!(missing.is_empty(), "seed {seed}, {crash:?}: {missing:?} are gone");
        }
        let here = rig.jetstream.take().unwrap();
        let of_memory = [of_process, &["M"]].concat();
        assert!(missing(here, &of_memory, &acknowledged).is_empty(), "seed {seed}");
    }
    assert!(refused > 500, "there was too little trouble: {refused}");
}

#[test]
fn a_read_only_disk_is_still_read() {
    let disk = SimulatedDisk::new();
    let mut rig = rig(&disk);
    let mut acknowledged = Acknowledged::new();
    publish(&mut rig, &[("G", "before".to_owned())], &mut acknowledged);
    disk.refuse(Some(ErrorKind::ReadOnlyFilesystem));
    assert_eq!(publish(&mut rig, &[("G", "during".to_owned())], &mut acknowledged), 1);
    let found = rig.api("STREAM.MSG.GET.G", r#"{"seq":1}"#);
    assert_eq!(found["message"]["seq"], 1);
    let refused = &rig.ask("$JS.API.STREAM.CREATE.N", r#"{"name":"N"}"#)[0].payload;
    assert!(refused.contains("read-only"), "{refused}");
    disk.refuse(None);
    rig.api("STREAM.CREATE.N", r#"{"name":"N"}"#);
    assert_eq!(publish(&mut rig, &[("G", "after".to_owned())], &mut acknowledged), 0);
}
