//! Damage of every kind at every place: it is always noticed and named, what is damaged is never served, and the rest
//! can be read.
#![cfg(test)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ostler_broker_store::disk::{Crash, SimulatedDisk};
use ostler_broker_store::{Durability, Erase, Error, NewMessage, Options, Severity, Store, check, repair};

const DIR: &str = "stream";

fn options(durability: Durability) -> Options {
    Options { segment_bytes: 64 << 10, durability, salt: 11, create: true }
}

fn sync(store: &mut Store) {
    if let Some(job) = store.sync_ticket().unwrap() {
        store.synced(job.run()).unwrap();
    }
}

/// How the process ended before the damage was done.
#[derive(Debug, Clone, Copy)]
enum EndedBy {
    Close,
    Kill,
}

/// A small stream: two full segments and an open one, removals, a checkpoint.
fn stream(durability: Durability, ended: EndedBy) -> (SimulatedDisk, BTreeMap<u64, Vec<u8>>) {
    let disk = SimulatedDisk::new();
    let mut store = Store::open_on(Arc::new(disk.clone()), Path::new(DIR), options(durability)).unwrap();
    let mut stored = BTreeMap::new();
    // Large ones fill segments without making the test long: a flip in the middle of a payload is like any other.
    let sizes = [3, 60_000, 10, 0, 60_000, 20, 7, 9];
    for (index, size) in sizes.into_iter().enumerate() {
        let payload = vec![index as u8 + 1; size];
        let subject = format!("s.{}", index % 3);
        let seq = store.append(&NewMessage::new(subject.as_bytes(), &payload, 1)).unwrap();
        stored.insert(seq, payload);
        store.write_out().unwrap();
        if index == 3 {
            store.remove(3, Erase::Yes).unwrap();
            stored.remove(&3);
        }
        if index == 5 {
            store.remove(4, Erase::No).unwrap();
            stored.remove(&4);
            store.save_checkpoint("consumer", 1, b"state").unwrap();
        }
        sync(&mut store);
        store.maintain(0).unwrap();
        sync(&mut store);
    }
    store.save_checkpoint("consumer", 1, b"later state").unwrap();
    sync(&mut store);
    match ended {
        EndedBy::Close => store.close().unwrap(),
        EndedBy::Kill => drop(store),
    }
    (disk.after(Crash::KeepAll), stored)
}

/// Opens what was damaged, compares what can be read, and says whether anything was found.
fn look(disk: &SimulatedDisk, stored: &BTreeMap<u64, Vec<u8>>, context: &str) -> (bool, usize) {
    let report = match check(Arc::new(disk.clone()), Path::new(DIR)) {
        Ok(report) => report,
        // A later format and nothing at all are answers too.
        Err(Error::UnknownFormat { .. } | Error::Missing { .. }) => return (true, stored.len()),
        Err(error) => panic!("{context}: {error}"),
    };
    let mut missing = 0;
    let mut store =
        Store::open_on(Arc::new(disk.clone()), Path::new(DIR), options(Durability::Group)).unwrap();
    for (seq, payload) in stored {
        match store.get(*seq) {
            Ok(Some(message)) => assert!(message.payload == payload, "{context}: {seq} was served changed"),
            Ok(None) => missing += 1,
            Err(Error::Damaged { .. }) => missing += 1,
            Err(error) => panic!("{context}: {error}"),
        }
    }
    let named = report.findings.iter().any(|finding| finding.severity == Severity::Damage);
    assert!(missing == 0 || named, "{context}: {missing} missing, {report}");
    (!report.findings.is_empty(), missing)
}

/// Places worth trying in a file: all of a small one; around the borders and here and there in a large one.
fn places(len: usize) -> Vec<usize> {
    if len < 4096 {
        return (0..len).collect();
    }
    (0..400).chain((400..len - 400).step_by(1009)).chain(len - 400..len).collect()
}

fn each(
    durability: Durability,
    ended: EndedBy,
    mut damage: impl FnMut(&PathBuf, &[u8], &mut dyn FnMut(Option<Vec<u8>>, String)),
) {
    let (disk, stored) = stream(durability, ended);
    let whole = check(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    assert!(whole.findings.is_empty(), "{whole}");
    for (path, content) in disk.files() {
        damage(&path, &content, &mut |changed, what| {
            let copy = disk.after(Crash::KeepAll);
            copy.put(&path, changed);
            let context = format!("{durability:?}, {ended:?}, {}: {what}", path.display());
            let (found, missing) = look(&copy, &stored, &context);
            assert!(found, "{context}: not noticed");
            // Everything but what was hit stays readable; a whole segment holds at most five.
            assert!(missing <= 5, "{context}: {missing} are missing");
        });
    }
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    for ended in [EndedBy::Close, EndedBy::Kill] {
        for durability in [Durability::Group, Durability::Process] {
            each(durability, ended, |_, content, try_it| {
                for place in places(content.len()) {
                    let mut changed = content.to_vec();
                    changed[place] ^= 1 << (place % 8);
                    try_it(Some(changed), format!("bit {} of byte {place}", place % 8));
                }
            });
        }
    }
}

#[test]
fn a_file_cut_at_any_length_is_noticed() {
    for ended in [EndedBy::Close, EndedBy::Kill] {
        for durability in [Durability::Group, Durability::Process] {
            each(durability, ended, |_, content, try_it| {
                let used = used(content);
                for place in places(content.len()).into_iter().filter(|place| *place < used) {
                    try_it(Some(content[..place].to_vec()), format!("cut to {place}"));
                }
            });
        }
    }
}

/// How much of a file holds something. Zeros behind the log do not; as few as these may be the end of a record.
fn used(content: &[u8]) -> usize {
    let used = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if content.len() - used < 16 { content.len() } else { used }
}

#[test]
fn a_missing_file_is_noticed() {
    for ended in [EndedBy::Close, EndedBy::Kill] {
        for durability in [Durability::Group, Durability::Process] {
            each(durability, ended, |_, _, try_it| try_it(None, "missing".to_owned()));
        }
    }
}

#[test]
fn a_repair_keeps_what_can_be_read_and_is_quiet_afterwards() {
    let (disk, stored) = stream(Durability::Group, EndedBy::Kill);
    for (path, content) in disk.files() {
        for place in [content.len() / 3, content.len() - 5] {
            let copy = disk.after(Crash::KeepAll);
            let mut changed = content.clone();
            changed[place] ^= 0x10;
            copy.put(&path, Some(changed));
            let context = format!("{} at {place}", path.display());
            let (_, missing) = look(&copy.after(Crash::KeepAll), &stored, &context);
            let report = repair(Arc::new(copy.clone()), Path::new(DIR)).unwrap();
            assert!(report.repaired, "{context}");
            assert_eq!(report.messages as usize, stored.len() - missing, "{context}: {report}");
            let again = check(Arc::new(copy.clone()), Path::new(DIR)).unwrap();
            assert!(again.findings.is_empty(), "{context}: {again}");
            assert_eq!((again.messages, again.last_seq, again.lost), (report.messages, 8, 0), "{context}");
        }
    }
}

#[test]
fn a_repair_ends_what_an_erasure_left_unfinished() {
    let (disk, stored) = stream(Durability::Group, EndedBy::Kill);
    let (path, content) = disk
        .files()
        .into_iter()
        .find(|(path, content)| path.ends_with("00000001.seg") && content.len() > 60_000)
        .unwrap();
    let mut quiet = 0;
    // The erased message is a small one: it is hit somewhere in here.
    for place in (60_000..content.len()).step_by(3) {
        let copy = disk.after(Crash::KeepAll);
        let mut changed = content.clone();
        changed[place] ^= 0x10;
        copy.put(&path, Some(changed));
        let report = repair(Arc::new(copy.clone()), Path::new(DIR)).unwrap();
        quiet += usize::from(report.findings.iter().all(|finding| finding.severity == Severity::Info));
        let again = check(Arc::new(copy.clone()), Path::new(DIR)).unwrap();
        assert!(again.findings.is_empty(), "{place}: {again}");
        assert!(again.messages as usize + 5 >= stored.len(), "{place}: {again}");
    }
    assert!(quiet > 0, "nothing hit the erased message");
}

#[test]
fn what_is_lost_beside_an_erased_message_is_named() {
    let disk = SimulatedDisk::new();
    let mut store =
        Store::open_on(Arc::new(disk.clone()), Path::new(DIR), options(Durability::Group)).unwrap();
    for payload in 1..=6u8 {
        store.append(&NewMessage::new(b"s", &[payload; 20], 1)).unwrap();
        sync(&mut store);
    }
    store.remove(3, Erase::Yes).unwrap();
    for _ in 0..4 {
        sync(&mut store);
        store.maintain(0).unwrap();
    }
    drop(store);
    let (path, content) = disk.files().into_iter().find(|(path, _)| path.ends_with("00000001.seg")).unwrap();
    for place in 64..content.len() - 30 {
        let copy = disk.after(Crash::KeepAll);
        let mut changed = content.clone();
        changed[place..place + 30].iter_mut().for_each(|byte| *byte ^= 0x55);
        copy.put(&path, Some(changed));
        let stored = [1, 2, 4, 5, 6].map(|seq| (seq, vec![seq as u8; 20])).into();
        look(&copy, &stored, &format!("30 bytes at {place}"));
    }
}

#[test]
fn damage_that_appears_while_it_is_open_is_found_by_the_reader() {
    let (disk, stored) = stream(Durability::Group, EndedBy::Close);
    let files = disk.files();
    let (path, content) = files.iter().find(|(path, _)| path.ends_with("00000001.seg")).unwrap();
    let mut changed = content.clone();
    changed[64 + 27] ^= 1;
    let copy = disk.after(Crash::KeepAll);
    let mut store =
        Store::open_on(Arc::new(copy.clone()), Path::new(DIR), options(Durability::Group)).unwrap();
    copy.put(path, Some(changed));
    assert!(matches!(store.get(1), Err(Error::Damaged { seq: 1, .. })));
    assert!(matches!(store.get(1), Err(Error::Damaged { seq: 1, .. })), "and again");
    assert_eq!(store.findings().len(), 1);
    assert_eq!((store.state().lost, store.state().msgs), (1, stored.len() as u64 - 1));
    assert_eq!(store.get(2).unwrap().unwrap().payload.len(), 60_000);
}

#[test]
fn a_checkpoint_that_cannot_be_read_stays_damage_until_it_is_saved_removed_or_repaired() {
    let damaged = || {
        let (disk, _) = stream(Durability::Group, EndedBy::Kill);
        for copy in ["cp-consumer.0", "cp-consumer.1"] {
            let path = Path::new(DIR).join(copy);
            let mut content = disk.files().remove(&path).unwrap();
            let middle = content.len() / 2;
            content[middle] ^= 1;
            disk.put(&path, Some(content));
        }
        disk
    };
    let open = |disk: &SimulatedDisk| {
        Store::open_on(Arc::new(disk.clone()), Path::new(DIR), options(Durability::Group)).unwrap()
    };
    let severity = |disk: &SimulatedDisk| check(Arc::new(disk.clone()), Path::new(DIR)).unwrap().severity();

    let disk = damaged();
    for _ in 0..3 {
        let mut store = open(&disk);
        assert!(store.checkpoint("consumer").is_none());
        store.append(&NewMessage::new(b"s.x", b"", 1)).unwrap();
        store.close().unwrap();
        assert_eq!(severity(&disk), Some(Severity::Damage));
    }
    repair(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    assert_eq!(severity(&disk), None);

    let disk = damaged();
    let mut store = open(&disk);
    store.save_checkpoint("consumer", 1, b"anew").unwrap();
    store.close().unwrap();
    assert_eq!(severity(&disk), None);
    assert_eq!(open(&disk).checkpoint("consumer"), Some((1, &b"anew"[..])));

    let disk = damaged();
    let mut store = open(&disk);
    assert!(store.remove_checkpoint("consumer"));
    store.close().unwrap();
    assert_eq!(severity(&disk), None);
}
