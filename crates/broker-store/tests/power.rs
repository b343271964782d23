//! Power cuts at every moment of a workload, with every legal mixture of what was not synced: what was acknowledged is
//! there, nothing is invented, the order is kept, and no alarm is false.
#![cfg(test)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ostler_broker_store::disk::{Crash, SimulatedDisk};
use ostler_broker_store::{Durability, Erase, Error, NewMessage, Options, Purge, Selection, Severity, Store};

const DIR: &str = "stream";
const SUBJECTS: [&[u8]; 4] = [b"k.1", b"k.2", b"log", b"k.3"];

fn options() -> Options {
    Options { segment_bytes: 64 << 10, durability: Durability::Group, salt: 5, create: true }
}

/// What a publisher knows when the power goes.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Everything ever given to the store, by sequence: whatever is found must be one of these.
    given: BTreeMap<u64, Vec<u8>>,
    /// Acknowledged and not asked to go since.
    acknowledged: BTreeMap<u64, Vec<u8>>,
    /// Removed, and that was acknowledged.
    gone: Vec<u64>,
    checkpoint: u64,
    checkpoint_acknowledged: u64,
}

/// A workload until the power goes; says what it knows then.
fn work(disk: &SimulatedDisk, seed: u64, rounds: usize) -> Known {
    let mut known = Known::default();
    let mut random = fastrand::Rng::with_seed(seed);
    let Ok(mut store) = Store::open_on(Arc::new(disk.clone()), Path::new(DIR), options()) else {
        return known;
    };
    let _ = run(&mut store, &mut known, &mut random, rounds);
    known
}

fn run(store: &mut Store, known: &mut Known, random: &mut fastrand::Rng, rounds: usize) -> Result<(), Error> {
    for _ in 0..rounds {
        let mut appended = BTreeMap::new();
        let mut removed = Vec::new();
        for _ in 0..random.usize(1..6) {
            let payload = vec![random.u8(..); random.usize(0..5000)];
            let subject = SUBJECTS[random.usize(..SUBJECTS.len())];
            let next = store.last_seq() + 1;
            known.given.insert(next, payload.clone());
            let seq = store.append(&NewMessage::new(subject, &payload, 1))?;
            appended.insert(seq, payload);
            // One value per key, as a bucket has it.
            if subject != b"log"
                && let Some((first, count)) = store.first_on(subject)
                && count > 1
            {
                known.acknowledged.remove(&first);
                appended.remove(&first);
                let erase = if random.bool() { Erase::Yes } else { Erase::No };
                store.remove(first, erase)?;
                removed.push(first);
            }
        }
        if random.u8(..) < 20 {
            let before = store.last_seq().saturating_sub(5);
            known.acknowledged.retain(|&seq, _| seq >= before);
            appended.retain(|&seq, _| seq >= before);
            store.purge(Purge { before: Some(before), ..Purge::default() })?;
        }
        if random.u8(..) < 40 {
            known.checkpoint += 1;
            let value = vec![known.checkpoint as u8; random.usize(1..200)];
            store.save_checkpoint("consumer", known.checkpoint as u16, &value)?;
        }
        if random.u8(..) < 40 {
            store.maintain(64 << 10)?;
        }
        store.write_out()?;
        let saved = known.checkpoint;
        let Some(job) = store.sync_ticket()? else { continue };
        // The next batch goes on meanwhile.
        let next = store.last_seq() + 1;
        known.given.insert(next, b"meanwhile".to_vec());
        let meanwhile = store.append(&NewMessage::new(b"log", b"meanwhile", 1))?;
        if random.bool() {
            store.write_out()?;
        }
        let durable = store.synced(job.run())?;
        known.checkpoint_acknowledged = saved;
        known.acknowledged.extend(appended.into_iter().filter(|(seq, _)| *seq <= durable));
        known.gone.extend(removed);
        assert!(durable < meanwhile);
    }
    Ok(())
}

fn verify(disk: &SimulatedDisk, known: &Known, context: &str) {
    let mut store = Store::open_on(Arc::new(disk.clone()), Path::new(DIR), options())
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    let alarms: Vec<String> = store
        .findings()
        .iter()
        .filter(|finding| finding.severity == Severity::Damage)
        .map(ToString::to_string)
        .collect();
    assert!(alarms.is_empty(), "{context}: {alarms:#?}");
    for (seq, payload) in &known.acknowledged {
        match store.get(*seq) {
            Ok(Some(message)) => assert!(message.payload == payload, "{context}: {seq} is another"),
            other => {
                let other = format!("{other:?}");
                panic!("{context}: acknowledged {seq} is {other}; {:#?}", store.findings())
            }
        }
    }
    for seq in &known.gone {
        let back = store.get(*seq).unwrap().is_some();
        assert!(!back, "{context}: removed {seq} is back; {:#?}", store.findings());
    }
    let mut last = 0;
    let given = &known.given;
    store
        .scan(&mut Selection::all(), 0, |message| {
            assert!(message.seq > last, "{context}: order");
            last = message.seq;
            assert!(
                given.get(&message.seq).is_some_and(|payload| payload == message.payload),
                "{context}: {} was invented",
                message.seq
            );
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    let found = store.checkpoint("consumer").map_or(0, |(version, _)| u64::from(version));
    assert!(
        (known.checkpoint_acknowledged..=known.checkpoint).contains(&found),
        "{context}: checkpoint {found} of {}..={}",
        known.checkpoint_acknowledged,
        known.checkpoint
    );
    // It goes on: what is stored after the cut survives the next one.
    let seq = store.append(&NewMessage::new(b"after", b"after", 2)).unwrap();
    let job = store.sync_ticket().unwrap().expect("something to sync");
    assert_eq!(store.synced(job.run()).unwrap(), seq, "{context}");
    drop(store);
    let again = disk.after(Crash::LoseAll);
    let mut store = Store::open_on(Arc::new(again), Path::new(DIR), options()).unwrap();
    assert_eq!(store.get(seq).unwrap().expect("acknowledged").payload, b"after", "{context}");
    for seq in known.acknowledged.keys() {
        assert!(store.get(*seq).unwrap().is_some(), "{context}: {seq} after a second cut");
    }
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_at_every_moment() {
    for seed in 0..3 * u64::from(support::effort()) {
        let whole = SimulatedDisk::new();
        work(&whole, seed, 25);
        for operation in 0..whole.operations() {
            let disk = SimulatedDisk::new();
            disk.power_off_at(operation);
            let known = work(&disk, seed, 25);
            let mut crashes = vec![Crash::LoseAll, Crash::KeepAll];
            crashes.extend((0..4).map(|choice| Crash::Some(seed * 1000 + operation * 10 + choice)));
            for crash in crashes {
                verify(&disk.after(crash), &known, &format!("seed {seed}, operation {operation}, {crash:?}"));
            }
        }
    }
}

#[test]
fn what_a_failed_sync_did_not_keep_is_refused_and_the_rest_stays() {
    for seed in 0..20 * u64::from(support::effort()) {
        let disk = SimulatedDisk::new();
        let mut known = Known::default();
        let mut random = fastrand::Rng::with_seed(seed);
        let mut store = Store::open_on(Arc::new(disk.clone()), Path::new(DIR), options()).unwrap();
        run(&mut store, &mut known, &mut random, 10).unwrap();
        let durable = store.durable_seq();
        store.append(&NewMessage::new(b"log", b"refused", 1)).unwrap();
        let job = store.sync_ticket().unwrap().expect("something to sync");
        disk.fail_syncs(1);
        match store.synced(job.run()) {
            Err(Error::NotDurable { durable: last, .. }) => assert_eq!(last, durable),
            other => panic!("{other:?}"),
        }
        assert_eq!(store.next(&mut Selection::all(), durable + 1), None, "refused ones are gone");
        run(&mut store, &mut known, &mut random, 10).unwrap();
        store.maintain(u64::MAX).unwrap();
        drop(store);
        for crash in [Crash::KeepAll, Crash::LoseAll, Crash::Some(seed)] {
            verify(&disk.after(crash), &known, &format!("seed {seed}, {crash:?}"));
        }
    }
}

#[test]
fn a_full_disk_refuses_and_loses_nothing_and_goes_on_when_there_is_space() {
    for seed in 0..20 * u64::from(support::effort()) {
        let disk = SimulatedDisk::new();
        let mut known = Known::default();
        let mut random = fastrand::Rng::with_seed(seed);
        let mut store = Store::open_on(Arc::new(disk.clone()), Path::new(DIR), options()).unwrap();
        for _ in 0..10 {
            // What the failed round had removed is there again, and was acknowledged before it.
            let before = known.acknowledged.clone();
            disk.set_space(Some(random.u64(0..60_000)));
            if let Err(error) = run(&mut store, &mut known, &mut random, 10) {
                assert!(matches!(error, Error::NoSpace { .. }), "{error}");
            }
            let _ = before;
            disk.set_space(None);
            run(&mut store, &mut known, &mut random, 2).unwrap();
        }
        drop(store);
        verify(&disk.after(Crash::KeepAll), &known, &format!("seed {seed}"));
    }
}

#[test]
fn a_failed_sync_of_messages_acknowledged_before_is_said_and_nothing_is_served_wrong() {
    let disk = SimulatedDisk::new();
    let process = Options { durability: Durability::Process, ..options() };
    let mut store = Store::open_on(Arc::new(disk.clone()), Path::new(DIR), process.clone()).unwrap();
    for seq in 1..=15u64 {
        store.append(&NewMessage::new(b"log", &seq.to_le_bytes(), 1)).unwrap();
        if seq == 10 {
            let job = store.sync_ticket().unwrap().expect("something to sync");
            assert_eq!(store.synced(job.run()).unwrap(), 10);
        }
    }
    let job = store.sync_ticket().unwrap().expect("something to sync");
    // The device drops what it was given; a kernel that keeps it in memory serves it until it is copied.
    disk.fail_syncs(1);
    assert!(matches!(store.synced(job.run()), Err(Error::Io { .. })));
    assert_eq!((store.last_seq(), store.msgs()), (15, 15), "they were acknowledged: they are not taken back");
    assert_eq!(store.append(&NewMessage::new(b"log", &16u64.to_le_bytes(), 1)).unwrap(), 16);
    let job = store.sync_ticket().unwrap().expect("something to sync");
    assert_eq!(store.synced(job.run()).unwrap(), 16);
    for seq in 1..=16u64 {
        match store.get(seq) {
            Ok(Some(message)) => assert_eq!(message.payload, seq.to_le_bytes()),
            Err(Error::Damaged { .. }) => assert!((11..=15).contains(&seq), "{seq}"),
            other => panic!("{seq}: {other:?}"),
        }
    }
    assert_eq!(store.state().lost, 5);
    drop(store);
    let mut store = Store::open_on(Arc::new(disk.clone()), Path::new(DIR), process).unwrap();
    assert!(store.findings().iter().any(|finding| finding.severity == Severity::Damage));
    assert_eq!((store.state().lost, store.state().msgs), (5, 11));
}
