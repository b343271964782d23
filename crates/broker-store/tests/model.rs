//! Random calls on a store in memory and one in files, compared with a map after every few calls and after reopening.
#![cfg(test)]

mod support;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use ostler_broker_store::disk::SimulatedDisk;
use ostler_broker_store::{Durability, Erase, Options, Purge, Selection, Severity, Store};
use proptest::prelude::*;
use support::{Kept, Model, assert_same, effort, filters};

const DIR: &str = "stream";
const SUBJECTS: [&str; 8] = ["a", "a.1", "a.2", "b.1", "b.2", "c.1.x", "c.2.x", "d"];
const FILTERS: [&[&str]; 5] = [&[], &["a.*"], &["b.1"], &["c.>", "d"], &["*.1"]];

#[derive(Debug, Clone)]
enum Call {
    Append {
        subject: usize,
        headers: bool,
        bytes: usize,
        expires: bool,
    },
    AppendAt {
        gap: u64,
    },
    Skip {
        gap: u64,
    },
    /// A message, counted from the first in thousandths of all sequences.
    Remove {
        at: u64,
        erase: bool,
    },
    RemoveFirst,
    RemoveLast,
    Purge {
        filter: usize,
        before: Option<u64>,
        keep: u64,
    },
    Truncate {
        at: u64,
    },
    WriteOut,
    /// Fails to write, so that everything since the last write is undone.
    WriteFails,
    Sync,
    Maintain,
    Checkpoint {
        name: u8,
        bytes: usize,
    },
    Reopen,
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        30 => (0..SUBJECTS.len(), any::<bool>(), 0usize..6000, proptest::bool::weighted(0.1))
            .prop_map(|(subject, headers, bytes, expires)| Call::Append { subject, headers, bytes, expires }),
        2 => prop_oneof![1u64..100, 1u64..10_000_000].prop_map(|gap| Call::AppendAt { gap }),
        1 => (1u64..200).prop_map(|gap| Call::Skip { gap }),
        8 => (0u64..1000, any::<bool>()).prop_map(|(at, erase)| Call::Remove { at, erase }),
        6 => Just(Call::RemoveFirst),
        2 => Just(Call::RemoveLast),
        2 => (0..FILTERS.len(), proptest::option::of(0u64..1000), 0u64..5)
            .prop_map(|(filter, before, keep)| Call::Purge { filter, before, keep }),
        1 => (900u64..1000).prop_map(|at| Call::Truncate { at }),
        5 => Just(Call::WriteOut),
        2 => Just(Call::WriteFails),
        4 => Just(Call::Sync),
        3 => Just(Call::Maintain),
        2 => (0u8..3, 0usize..300).prop_map(|(name, bytes)| Call::Checkpoint { name, bytes }),
        2 => Just(Call::Reopen),
    ]
}

/// A store, what it should hold, and what it held when it was last written.
struct Pair {
    disk: Option<SimulatedDisk>,
    store: Store,
    model: Model,
    written: Model,
    checkpoints: std::collections::BTreeMap<String, (u16, Vec<u8>)>,
    durability: Durability,
    clock: i64,
}

impl Pair {
    fn options(durability: Durability) -> Options {
        Options { segment_bytes: 64 << 10, durability, salt: 99, create: true }
    }

    fn new(disk: Option<SimulatedDisk>, durability: Durability) -> Self {
        let options = Self::options(durability);
        let store = match &disk {
            None => Store::memory(options),
            Some(disk) => Store::open_on(Arc::new(disk.clone()), Path::new(DIR), options).unwrap(),
        };
        Self {
            disk,
            store,
            model: Model::default(),
            written: Model::default(),
            checkpoints: Default::default(),
            durability,
            clock: 0,
        }
    }

    fn operations(&self) -> u64 {
        self.disk.as_ref().map_or(0, SimulatedDisk::operations)
    }

    fn place(&self, thousandths: u64) -> u64 {
        let first = self.model.first_seq();
        first + (self.model.last_seq + 1 - first) * thousandths / 1000
    }

    fn kept(&mut self, subject: usize, headers: bool, bytes: usize, expires: bool) -> Kept {
        self.clock += 3;
        Kept {
            subject: SUBJECTS[subject].into(),
            headers: if headers { b"NATS/1.0\r\na: b\r\n\r\n".to_vec() } else { Vec::new() },
            payload: vec![self.clock as u8; bytes],
            time_ns: self.clock,
            expires_ns: expires.then_some(self.clock * 7 % 1000),
        }
    }

    fn wrote(&mut self) {
        self.written = self.model.clone();
    }

    fn apply(&mut self, call: &Call) {
        match *call {
            Call::Append { subject, headers, bytes, expires } => {
                let kept = self.kept(subject, headers, bytes, expires);
                let seq = self.store.append(&kept.new_message()).unwrap();
                assert_eq!(seq, self.model.last_seq + 1);
                self.model.append(seq, kept);
            }
            Call::AppendAt { gap } => {
                let kept = self.kept(1, false, 10, false);
                let seq = self.model.last_seq + gap;
                self.store.append_at(seq, &kept.new_message()).unwrap();
                self.model.append(seq, kept);
            }
            Call::Skip { gap } => {
                self.model.last_seq += gap;
                self.store.skip(self.model.last_seq).unwrap();
            }
            Call::Remove { at, erase } => self.remove(self.place(at), erase),
            Call::RemoveFirst => self.remove(self.model.first_seq(), false),
            Call::RemoveLast => self.remove(self.model.last_seq, false),
            Call::Purge { filter, before, keep } => {
                let filters = filters(FILTERS[filter]);
                let before = before.map(|at| self.place(at));
                let expected = self.model.purge(&filters, before.unwrap_or(u64::MAX), keep);
                let mut selection = Selection::new(filters);
                let purge = Purge { selection: Some(&mut selection), before, keep };
                assert_eq!(self.store.purge(purge).unwrap(), expected);
                self.wrote();
            }
            Call::Truncate { at } => {
                let seq = self.place(at);
                self.store.truncate(seq).unwrap();
                self.model.messages.retain(|&other, _| other <= seq);
                self.model.last_seq = self.model.last_seq.min(seq);
                self.wrote();
            }
            Call::WriteOut => {
                self.store.write_out().unwrap();
                self.wrote();
            }
            Call::WriteFails => self.write_fails(),
            Call::Sync => {
                let job = self.store.sync_ticket().unwrap();
                self.wrote();
                if let Some(job) = job {
                    assert_eq!(self.store.synced(job.run()).unwrap(), self.model.last_seq);
                }
            }
            Call::Maintain => {
                self.store.maintain(1 << 20).unwrap();
                self.wrote();
            }
            Call::Checkpoint { name, bytes } => {
                let name = ["meta", "a consumer", "another/one"][usize::from(name)].to_owned();
                if bytes == 0 {
                    assert_eq!(self.store.remove_checkpoint(&name), self.checkpoints.remove(&name).is_some());
                } else {
                    let value = vec![name.len() as u8; bytes];
                    self.store.save_checkpoint(&name, 3, &value).unwrap();
                    self.checkpoints.insert(name, (3, value));
                }
            }
            Call::Reopen => self.reopen(),
        }
    }

    fn remove(&mut self, seq: u64, erase: bool) {
        let erase = if erase { Erase::Yes } else { Erase::No };
        assert_eq!(self.store.remove(seq, erase).unwrap(), self.model.messages.remove(&seq).is_some());
    }

    fn write_fails(&mut self) {
        let Some(disk) = self.disk.clone() else { return };
        disk.set_space(Some(40));
        let failed = self.store.write_out().is_err();
        disk.set_space(None);
        if failed {
            self.model = self.written.clone();
        } else {
            self.wrote();
        }
    }

    /// In turn orderly, by kill -9, and by kill -9 with batches that were not written.
    fn reopen(&mut self) {
        let Some(disk) = self.disk.clone() else { return };
        let options = Self::options(self.durability);
        match self.clock % 3 {
            0 => {
                self.store.write_out().unwrap();
                let _ = self.store.sync_ticket().unwrap().map(|job| self.store.synced(job.run()).unwrap());
                let store = std::mem::replace(&mut self.store, Store::memory(options.clone()));
                store.close().unwrap();
            }
            _ => {
                self.store.write_out().unwrap();
                if self.durability == Durability::Group {
                    // Checkpoints wait for a ticket.
                    let _ =
                        self.store.sync_ticket().unwrap().map(|job| self.store.synced(job.run()).unwrap());
                }
            }
        }
        self.wrote();
        self.store = Store::open_on(Arc::new(disk.clone()), Path::new(DIR), options).unwrap();
        let bad: Vec<_> =
            self.store.findings().iter().filter(|finding| finding.severity > Severity::Info).collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }

    fn compare(&mut self) {
        assert_same(&mut self.store, &self.model);
        let names: Vec<String> = self.checkpoints.keys().cloned().collect();
        assert_eq!(self.store.checkpoints(), names);
        for (name, (version, value)) in &self.checkpoints {
            assert_eq!(self.store.checkpoint(name), Some((*version, &value[..])), "{name}");
        }
        let mut seen = Vec::new();
        let next = self.store.scan(&mut Selection::all(), 1, |message| {
            seen.push(message.seq);
            ControlFlow::Continue(())
        });
        assert_eq!(next.unwrap(), self.model.last_seq + 1);
        assert!(seen.iter().eq(self.model.messages.keys()));
    }
}

fn run(calls: &[Call], disk: Option<SimulatedDisk>, durability: Durability) {
    let mut pair = Pair::new(disk, durability);
    for (index, call) in calls.iter().enumerate() {
        // A segment that is full is written before the next is begun, and with it everything before this call.
        let (before, operations) = (pair.model.clone(), pair.operations());
        pair.apply(call);
        let appends = matches!(call, Call::Append { .. } | Call::AppendAt { .. } | Call::Skip { .. });
        if pair.operations() > operations + 1 && appends {
            pair.written = before;
        }
        if index % 8 == 0 || index + 1 == calls.len() || matches!(call, Call::Reopen | Call::WriteFails) {
            pair.compare();
        }
    }
    pair.apply(&Call::Reopen);
    pair.compare();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96 * effort(), max_shrink_iters: 3000, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_in_memory_answers_like_a_map(calls in proptest::collection::vec(call(), 1..250)) {
        run(&calls, None, Durability::Async);
    }

    #[test]
    fn a_stream_in_files_answers_like_a_map(calls in proptest::collection::vec(call(), 1..250)) {
        run(&calls, Some(SimulatedDisk::new()), Durability::Group);
    }

    #[test]
    fn a_stream_that_is_never_synced_answers_like_a_map(calls in proptest::collection::vec(call(), 1..250)) {
        run(&calls, Some(SimulatedDisk::new()), Durability::Process);
    }
}
