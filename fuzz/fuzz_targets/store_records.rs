//! The files of a message store: whatever stands in one of them, opening ends, nothing is served that was not written,
//! and what is missing is named.
//!
//! The first byte of the input says what is done. Zero: the rest is a whole segment. Otherwise it chooses a file of a
//! real store, and the rest changes it: two bytes of offset and the bytes that stand there, again and again with a
//! length before each. The store's salt is a hash of the input, so that no checksum can be solved for.
#![no_main]

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use ostler_broker_store::disk::{Crash, SimulatedDisk};
use ostler_broker_store::{Erase, NewMessage, Options, Selection, Severity, Store, check, repair};

const DIR: &str = "stream";
const MESSAGES: u64 = 24;

fn options(salt: u64) -> Options {
    Options { segment_bytes: 64 << 10, salt, ..Options::default() }
}

fn payload(seq: u64) -> Vec<u8> {
    seq.to_le_bytes().repeat(seq as usize % 5 + 1)
}

/// Some messages, removals and a checkpoint; everything synced, then killed.
fn stream(salt: u64) -> (SimulatedDisk, BTreeMap<u64, Vec<u8>>) {
    let disk = SimulatedDisk::new();
    let mut store =
        Store::open_on(Arc::new(disk.clone()), Path::new(DIR), options(salt)).expect("an empty disk");
    let mut stored = BTreeMap::new();
    for number in 1..=MESSAGES {
        let payload = payload(number);
        let subject = [b"s.", &b"abc"[number as usize % 3..][..1]].concat();
        let seq = store.append(&NewMessage::new(&subject, &payload, number as i64)).expect("it fits");
        stored.insert(seq, payload);
        if number % 7 == 3 {
            let erase = if number % 2 == 0 { Erase::Yes } else { Erase::No };
            store.remove(number - 2, erase).expect("it is there");
            stored.remove(&(number - 2));
        }
        if number % 8 == 0 {
            store.save_checkpoint("state", 1, b"where it stands").expect("it fits");
            let job = store.sync_ticket().expect("the disk works").expect("something was written");
            store.synced(job.run()).expect("the disk works");
        }
    }
    (disk.after(Crash::KeepAll), stored)
}

fn change(disk: &SimulatedDisk, choice: u8, mut edits: &[u8]) {
    let files: Vec<(PathBuf, Vec<u8>)> = disk.files().into_iter().collect();
    let (path, mut content) = files[choice as usize % files.len()].clone();
    if edits.is_empty() {
        return disk.put(&path, None);
    }
    while let [len, low, high, rest @ ..] = edits {
        let offset = usize::from(u16::from_le_bytes([*low, *high])) % (content.len() + 1);
        let (bytes, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        if bytes.is_empty() {
            content.truncate(offset);
        } else {
            content.resize(content.len().max(offset + bytes.len()), 0);
            content[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        edits = rest;
    }
    disk.put(&path, Some(content));
}

/// Reads everything; in order, or it is a finding.
fn read(store: &mut Store) -> BTreeMap<u64, Vec<u8>> {
    let mut found = BTreeMap::new();
    let scanned = store.scan(&mut Selection::all(), 0, |message| {
        assert!(found.last_key_value().is_none_or(|(last, _)| *last < message.seq), "out of order");
        found.insert(message.seq, message.payload.to_vec());
        ControlFlow::Continue(())
    });
    scanned.expect("a simulated disk can be read");
    found
}

fuzz_target!(|input: &[u8]| {
    let Some((&choice, rest)) = input.split_first() else { return };
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let salt = hasher.finish();
    let disk = SimulatedDisk::new();
    let mut stored = None;
    let disk = if choice == 0 {
        disk.put(&Path::new(DIR).join("00000001.seg"), Some(rest.to_vec()));
        disk
    } else {
        let (disk, messages) = stream(salt);
        change(&disk, choice - 1, rest);
        stored = Some(messages);
        disk
    };
    let report = check(Arc::new(disk.clone()), Path::new(DIR));
    if let Ok(mut store) = Store::open_on(Arc::new(disk.after(Crash::KeepAll)), Path::new(DIR), options(salt))
    {
        let found = read(&mut store);
        if let Some(stored) = &stored {
            for (seq, content) in &found {
                assert!(*seq <= MESSAGES && *content == payload(*seq), "{seq} was never written");
            }
            let missing = stored.keys().any(|seq| !found.contains_key(seq));
            let named = store.findings().iter().any(|finding| finding.severity == Severity::Damage);
            assert!(!missing || named, "something is missing and nobody says so");
            let report = report.expect("what can be opened can be checked");
            assert_eq!(report.messages as usize, found.len(), "the check counts otherwise");
        }
        // It goes on. Only the highest sequence that there is leaves no room.
        if let Ok(seq) = store.append(&NewMessage::new(b"on", b"and on", 1)) {
            store.maintain(u64::MAX).expect("the disk works");
            assert_eq!(store.get(seq).expect("just stored").expect("just stored").payload, b"and on");
        }
    }
    if repair(Arc::new(disk.clone()), Path::new(DIR)).is_ok() {
        let mut store = Store::open_on(Arc::new(disk), Path::new(DIR), options(salt)).expect("just repaired");
        assert!(store.findings().is_empty(), "after a repair: {:?}", store.findings());
        for (seq, content) in read(&mut store) {
            assert!(stored.is_none() || content == payload(seq), "{seq} was never written");
        }
    }
});
