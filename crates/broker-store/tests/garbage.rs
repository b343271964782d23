//! Files with anything in them: nothing panics, nothing takes for ever, and what is served was stored.
#![cfg(test)]

mod support;

use std::path::Path;
use std::sync::Arc;

use ostler_broker_store::disk::{Crash, SimulatedDisk};
use ostler_broker_store::{Erase, NewMessage, Options, Selection, Store, check, repair};
use proptest::prelude::*;

const DIR: &str = "stream";

fn options() -> Options {
    Options { segment_bytes: 64 << 10, salt: 21, ..Options::default() }
}

/// A stream whose payloads say which message they belong to.
fn stream() -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    let mut store = Store::open_on(Arc::new(disk.clone()), Path::new(DIR), options()).unwrap();
    for number in 1..=400u64 {
        let payload = number.to_le_bytes().repeat(number as usize % 70 + 1);
        let subject = format!("s.{}", number % 9);
        store.append(&NewMessage::new(subject.as_bytes(), &payload, number as i64)).unwrap();
        if number % 7 == 3 {
            store.remove(number - 2, Erase::No).unwrap();
        }
        if number % 50 == 0 {
            store.save_checkpoint("state", 1, &payload).unwrap();
            let job = store.sync_ticket().unwrap().unwrap();
            store.synced(job.run()).unwrap();
        }
    }
    disk
}

#[derive(Debug, Clone)]
enum Harm {
    Flip {
        file: usize,
        place: usize,
        bit: u8,
    },
    Fill {
        file: usize,
        place: usize,
        bytes: Vec<u8>,
    },
    Cut {
        file: usize,
        len: usize,
    },
    Append {
        file: usize,
        bytes: Vec<u8>,
    },
    Remove {
        file: usize,
    },
    /// One file's content under another's name.
    Copy {
        from: usize,
        to: usize,
    },
}

fn harm() -> impl Strategy<Value = Harm> {
    let bytes = || proptest::collection::vec(any::<u8>(), 1..300);
    prop_oneof![
        (any::<usize>(), any::<usize>(), 0u8..8).prop_map(|(file, place, bit)| Harm::Flip {
            file,
            place,
            bit
        }),
        (any::<usize>(), any::<usize>(), bytes()).prop_map(|(file, place, bytes)| Harm::Fill {
            file,
            place,
            bytes
        }),
        (any::<usize>(), any::<usize>()).prop_map(|(file, len)| Harm::Cut { file, len }),
        (any::<usize>(), bytes()).prop_map(|(file, bytes)| Harm::Append { file, bytes }),
        any::<usize>().prop_map(|file| Harm::Remove { file }),
        (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Harm::Copy { from, to }),
    ]
}

fn apply(disk: &SimulatedDisk, harm: &Harm) {
    let files: Vec<_> = disk.files().into_iter().collect();
    let pick = |number: usize| files[number % files.len()].clone();
    match harm {
        Harm::Flip { file, place, bit } => {
            let (path, mut content) = pick(*file);
            if !content.is_empty() {
                let place = place % content.len();
                content[place] ^= 1 << bit;
            }
            disk.put(&path, Some(content));
        }
        Harm::Fill { file, place, bytes } => {
            let (path, mut content) = pick(*file);
            let place = place % (content.len() + 1);
            let end = content.len().min(place + bytes.len());
            content[place..end].copy_from_slice(&bytes[..end - place]);
            disk.put(&path, Some(content));
        }
        Harm::Cut { file, len } => {
            let (path, mut content) = pick(*file);
            content.truncate(len % (content.len() + 1));
            disk.put(&path, Some(content));
        }
        Harm::Append { file, bytes } => {
            let (path, mut content) = pick(*file);
            content.extend_from_slice(bytes);
            disk.put(&path, Some(content));
        }
        Harm::Remove { file } if files.len() > 1 => disk.put(&pick(*file).0, None),
        Harm::Remove { .. } => {}
        Harm::Copy { from, to } => disk.put(&pick(*to).0, Some(pick(*from).1)),
    }
}

fn serves_only_what_was_stored(store: &mut Store) {
    let mut last = 0;
    store
        .scan(&mut Selection::all(), 0, |message| {
            assert!(message.seq > last && message.seq <= 400);
            last = message.seq;
            assert_eq!(message.payload, message.seq.to_le_bytes().repeat(message.seq as usize % 70 + 1));
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400 * support::effort(), ..ProptestConfig::default() })]

    #[test]
    fn any_harm_is_survived_and_a_repair_ends_it(harms in proptest::collection::vec(harm(), 1..6)) {
        let disk = stream().after(Crash::KeepAll);
        for harm in &harms {
            apply(&disk, harm);
        }
        let _ = check(Arc::new(disk.clone()), Path::new(DIR));
        if let Ok(mut store) = Store::open_on(Arc::new(disk.after(Crash::KeepAll)), Path::new(DIR), options()) {
            serves_only_what_was_stored(&mut store);
            // And it goes on.
            let seq = store.append(&NewMessage::new(b"on", b"and on", 1)).unwrap();
            store.maintain(u64::MAX).unwrap();
            prop_assert_eq!(store.get(seq).unwrap().unwrap().payload, b"and on");
            let lost = store.state().lost;
            prop_assert!(lost <= 400 || lost == 0, "{}", lost);
        }
        if repair(Arc::new(disk.clone()), Path::new(DIR)).is_ok() {
            let mut store = Store::open_on(Arc::new(disk.clone()), Path::new(DIR), options()).unwrap();
            prop_assert!(store.findings().is_empty(), "{:#?}", store.findings());
            serves_only_what_was_stored(&mut store);
        }
    }
}
