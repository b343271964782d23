//! A copy whose sync failed: no manifest names it before it is made again.
#![cfg(test)]

use std::path::Path;
use std::sync::Arc;

use ostler_broker_store::disk::{Crash, SimulatedDisk};
use ostler_broker_store::{Erase, Error, NewMessage, Options, Store};

const DIR: &str = "stream";

fn open(disk: &SimulatedDisk) -> Store {
    let options = Options { segment_bytes: 64 << 10, salt: 5, ..Options::default() };
    Store::open_on(Arc::new(disk.clone()), Path::new(DIR), options).unwrap()
}

fn append(store: &mut Store, size: usize) -> u64 {
    let seq = store.append(&NewMessage::new(b"s", &vec![size as u8; size], 1)).unwrap();
    store.write_out().unwrap();
    seq
}

fn sync(store: &mut Store) -> Result<(), Error> {
    let Some(job) = store.sync_ticket()? else { return Ok(()) };
    store.synced(job.run()).map(|_| ())
}

#[test]
fn what_was_durable_before_a_copy_survives_a_failed_sync_of_the_copy() {
    for failures in 1..6 {
        let disk = SimulatedDisk::new();
        let mut store = open(&disk);
        let kept: Vec<u64> = (0..3).map(|_| append(&mut store, 1000)).collect();
        let removed: Vec<u64> = (0..30).map(|_| append(&mut store, 3000)).collect();
        sync(&mut store).unwrap();
        // The first segments are mostly waste now and are copied.
        for seq in removed {
            store.remove(seq, Erase::No).unwrap();
        }
        store.write_out().unwrap();
        sync(&mut store).unwrap();
        assert!(store.maintain(1 << 20).unwrap().copied > 0, "there is a copy");
        disk.fail_syncs(failures);
        while sync(&mut store).is_err() {}
        // The disk is well again. The power goes at any moment from here.
        append(&mut store, 10);
        sync(&mut store).unwrap();
        for crash in [Crash::LoseAll, Crash::KeepAll, Crash::Some(7)] {
            let mut found = open(&disk.after(crash));
            for &seq in &kept {
                let message = found.get(seq).unwrap();
                assert!(message.is_some(), "{failures} failures, {crash:?}: message {seq} is gone");
            }
        }
    }
}
