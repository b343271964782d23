//! How many files a store keeps open: not more for each checkpoint, of which a stream may have many.
#![cfg(test)]
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;

use ostler_broker_store::{Durability, NewMessage, Options, Store};

fn open_below(dir: &Path) -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    open.filter(|entry| fs::read_link(entry.path()).is_ok_and(|path| path.starts_with(dir))).count()
}

fn sync(store: &mut Store) {
    while let Some(job) = store.sync_ticket().unwrap() {
        store.synced(job.run()).unwrap();
    }
}

#[test]
fn checkpoints_that_are_durable_keep_no_files_open() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    for durability in [Durability::Group, Durability::Process] {
        let dir = dir.join(format!("{durability:?}"));
        let open = || Store::open(&dir, Options { durability, ..Options::default() }).unwrap();
        let mut store = open();
        store.append(&NewMessage::new(b"s", b"", 1)).unwrap();
        sync(&mut store);
        let before = open_below(&dir);
        for round in 0..3u8 {
            for number in 0..50 {
                store.save_checkpoint(&format!("c.{number}"), 1, &[round; 9]).unwrap();
            }
            sync(&mut store);
            assert_eq!(open_below(&dir), before, "{durability:?}, {round}");
        }
        store.close().unwrap();
        let mut store = open();
        assert!(open_below(&dir) <= before, "{durability:?}");
        for number in 0..50 {
            assert_eq!(store.checkpoint(&format!("c.{number}")), Some((1, &[2; 9][..])));
        }
        store.save_checkpoint("c.7", 1, b"later").unwrap();
        sync(&mut store);
        drop(store);
        assert_eq!(open().checkpoint("c.7"), Some((1, &b"later"[..])), "{durability:?}");
    }
}
