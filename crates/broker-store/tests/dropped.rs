//! A sync that nobody does: the next one does it.
#![cfg(test)]

use std::path::Path;
use std::sync::Arc;

use ostler_broker_store::disk::{Crash, SimulatedDisk};
use ostler_broker_store::{Erase, NewMessage, Options, Store};

const DIR: &str = "stream";

fn open(disk: &SimulatedDisk) -> Store {
    Store::open_on(Arc::new(disk.clone()), Path::new(DIR), Options { salt: 3, ..Options::default() }).unwrap()
}

fn append(store: &mut Store, payload: &[u8]) -> u64 {
    let seq = store.append(&NewMessage::new(b"s", payload, 1)).unwrap();
    store.write_out().unwrap();
    seq
}

#[test]
fn what_a_dropped_job_was_to_make_durable_is_made_so_by_the_next() {
    let disk = SimulatedDisk::new();
    let mut store = open(&disk);
    append(&mut store, b"one");
    store.save_checkpoint("c", 1, b"state").unwrap();
    drop(store.sync_ticket().unwrap().expect("there is something to sync"));
    assert_eq!(store.durable_seq(), 0, "nothing is promised by a job that nobody did");
    let result = store.sync_ticket().unwrap().expect("it is to be done again").run();
    assert_eq!(store.synced(result).unwrap(), 1);

    append(&mut store, b"two");
    // A result that is lost is as good as none.
    drop(store.sync_ticket().unwrap().unwrap().run());
    append(&mut store, b"three");
    let job = store.sync_ticket().unwrap().unwrap();
    assert!(store.sync_ticket().unwrap().is_none(), "one at a time");
    assert_eq!(store.synced(job.run()).unwrap(), 3);
    let mut found = open(&disk.after(Crash::LoseAll));
    assert_eq!((found.msgs(), found.findings()), (3, &[][..]));
    assert_eq!(found.get(3).unwrap().unwrap().payload, b"three");
    assert_eq!(found.checkpoint("c").unwrap().1, b"state");
}

#[test]
fn nothing_is_erased_before_its_removal_is_durable() {
    let disk = SimulatedDisk::new();
    let mut store = open(&disk);
    append(&mut store, b"a secret");
    append(&mut store, b"after it");
    let result = store.sync_ticket().unwrap().unwrap().run();
    store.synced(result).unwrap();
    store.remove(1, Erase::Yes).unwrap();
    store.write_out().unwrap();
    drop(store.sync_ticket().unwrap());
    store.maintain(0).unwrap();
    let mut found = open(&disk.after(Crash::LoseAll));
    assert_eq!(found.get(1).unwrap().unwrap().payload, b"a secret", "its removal was lost with the power");
    for _ in 0..2 {
        if let Some(job) = store.sync_ticket().unwrap() {
            store.synced(job.run()).unwrap();
        }
        append(&mut store, b"more");
        store.maintain(0).unwrap();
    }
    if let Some(job) = store.sync_ticket().unwrap() {
        store.synced(job.run()).unwrap();
    }
    let holds = |disk: &SimulatedDisk| {
        disk.files().values().any(|file| file.windows(8).any(|window| window == b"a secret"))
    };
    assert!(!holds(&disk), "it is gone in the end");
}
