//! Space comes back: on a real disk, for streams that replace, consume and purge their messages.
#![cfg(test)]

use std::path::Path;

use ostler_broker_store::{Durability, Erase, NewMessage, Options, Purge, Selection, Store};

fn options() -> Options {
    Options { segment_bytes: 1 << 20, durability: Durability::Process, salt: 9, create: true }
}

fn sync(store: &mut Store) {
    if let Some(job) = store.sync_ticket().unwrap() {
        store.synced(job.run()).unwrap();
    }
}

fn bytes_in(dir: &Path) -> u64 {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn a_bucket_that_is_overwritten_all_the_time_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    let mut last = vec![0; 500];
    for number in 0..100_000u64 {
        // Some keys change all the time, some were written once: their segments must not stay for them.
        let key = if number < 500 { number } else { number * number % 97 } as usize;
        let subject = format!("bucket.{key}");
        let seq = store.append(&NewMessage::new(subject.as_bytes(), &[key as u8; 100], 1)).unwrap();
        if last[key] > 0 {
            assert!(store.remove(last[key], Erase::No).unwrap());
        }
        last[key] = seq;
        if number % 100 == 0 {
            store.write_out().unwrap();
        }
        if number % 5000 == 0 {
            store.maintain(8 << 20).unwrap();
            sync(&mut store);
        }
    }
    store.maintain(u64::MAX).unwrap();
    sync(&mut store);
    assert_eq!(store.msgs(), 500);
    assert!(store.disk_bytes() < 1_200_000, "{}", store.disk_bytes());
    assert!(bytes_in(dir.path()) < 1_300_000, "{}", bytes_in(dir.path()));
    assert!(store.memory_bytes() < 1_500_000, "{}", store.memory_bytes());
    store.close().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    assert!(store.findings().is_empty(), "{:?}", store.findings());
    assert_eq!(store.last_per_subject(&mut Selection::all(), u64::MAX).len(), 500);
    for (key, seq) in last.iter().enumerate() {
        assert_eq!(store.get(*seq).unwrap().unwrap().payload, [key as u8; 100]);
    }
}

#[test]
fn a_queue_that_is_worked_off_and_a_purged_stream_take_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    for number in 0..20_000u64 {
        store.append(&NewMessage::new(b"work", &[0; 200], 1)).unwrap();
        // Two workers: out of order.
        if number >= 10 {
            let done = if number % 2 == 0 { number - 8 } else { number - 10 };
            store.remove(done + 1, Erase::No).unwrap();
        }
    }
    store.maintain(u64::MAX).unwrap();
    sync(&mut store);
    assert!(store.disk_bytes() < 1_100_000, "{}", store.disk_bytes());
    assert_eq!(store.purge(Purge::default()).unwrap(), store.last_seq() - 19_990);
    for _ in 0..3 {
        store.maintain(u64::MAX).unwrap();
        sync(&mut store);
    }
    let state = store.state();
    assert_eq!((state.msgs, state.bytes, state.first_seq, state.last_seq), (0, 0, 20_001, 20_000));
    store.close().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    assert_eq!(store.state(), state, "also when nothing is left to say so");
    assert_eq!(store.append(&NewMessage::new(b"work", b"", 1)).unwrap(), 20_001);
}

#[test]
fn erased_bytes_are_gone_from_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), options()).unwrap();
    store.append(&NewMessage::new(b"a", b"not secret", 1)).unwrap();
    let secret = store.append(&NewMessage::new(b"a", b"a very secret word", 1)).unwrap();
    sync(&mut store);
    store.remove(secret, Erase::Yes).unwrap();
    let holds = |word: &str| {
        std::fs::read_dir(dir.path()).unwrap().any(|entry| {
            let content = std::fs::read(entry.unwrap().path()).unwrap();
            content.windows(word.len()).any(|window| window == word.as_bytes())
        })
    };
    assert!(holds("secret word"));
    for _ in 0..4 {
        store.maintain(0).unwrap();
        sync(&mut store);
    }
    assert!(!holds("secret word"));
    assert!(holds("not secret"));
    drop(store);
    let mut store = Store::open(dir.path(), options()).unwrap();
    assert!(store.findings().is_empty(), "{:?}", store.findings());
    assert!(store.get(secret).unwrap().is_none());
}

#[test]
fn a_directory_without_a_store_is_said_to_be_one_unless_it_should_become_one() {
    let dir = tempfile::tempdir().unwrap();
    let look = Options { create: false, ..options() };
    for place in [dir.path().to_owned(), dir.path().join("nowhere")] {
        let error = Store::open(&place, look.clone()).unwrap_err();
        assert!(matches!(error, ostler_broker_store::Error::Missing { .. }), "{error}");
    }
    Store::open(&dir.path().join("new"), options()).unwrap().close().unwrap();
    Store::open(&dir.path().join("new"), look).unwrap();
}
