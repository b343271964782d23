//! Which schedules a stream has and when each is due, and how that is known again after a restart. It publishes nothing;
//! see [`schedule`](super::schedule).
//!
//! What a schedule makes says in `Nats-Scheduler` and `Nats-Schedule-Next` by whom and when again. A checkpoint says the
//! same, for when what was made is gone: it was taken from a work queue, or its time was over. Of both the later counts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;

use ostler_broker_store::Selection;
use serde::{Deserialize, Serialize};

use super::Stream;
use super::schedule::{PURGE, Said};
use crate::time::Time;

/// The checkpoint that holds what schedules made last.
const CHECKPOINT: &str = "schedules";
const VERSION: u16 = 1;

/// What a schedule made last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    /// The sequence of what it made.
    made: u64,
    /// When that was due: as long as nothing is stored under that sequence, it still is.
    due: i64,
    /// When the next one is.
    next: i64,
}

/// A schedule of a stream.
#[derive(Debug)]
struct Entry {
    seq: u64,
    due: i64,
    last: Option<Run>,
}

/// The schedules of a stream: one for each subject.
#[derive(Debug, Default)]
pub(super) struct Schedules {
    by_subject: HashMap<Box<[u8]>, Entry>,
    by_time: BTreeSet<(i64, u64, Box<[u8]>)>,
    /// What they made last was saved since a sync was last begun.
    pub(super) unsynced: bool,
}

impl Schedules {
    /// Remembers a schedule; an earlier one on its subject is over.
    pub(super) fn insert(&mut self, subject: &[u8], seq: u64, due: i64) {
        self.remove(subject);
        self.by_time.insert((due, seq, subject.into()));
        self.by_subject.insert(subject.into(), Entry { seq, due, last: None });
    }

    /// Looks at a schedule again at another time, if it is still there.
    pub(super) fn postpone(&mut self, subject: &[u8], seq: u64, due: i64) {
        let Some(entry) = self.by_subject.get_mut(subject).filter(|entry| entry.seq == seq) else { return };
        self.by_time.remove(&(entry.due, seq, subject.into()));
        self.by_time.insert((due, seq, subject.into()));
        entry.due = due;
    }

    /// A schedule made something, and is due again.
    pub(super) fn advance(&mut self, subject: &[u8], seq: u64, made: u64, next: i64) {
        if let Some(entry) = self.by_subject.get_mut(subject).filter(|entry| entry.seq == seq) {
            entry.last = Some(Run { made, due: entry.due, next });
        }
        self.postpone(subject, seq, next);
    }

    /// Something else was stored on a subject, or the schedule is over. Says which message it was.
    pub(super) fn remove(&mut self, subject: &[u8]) -> Option<u64> {
        let (subject, entry) = self.by_subject.remove_entry(subject)?;
        self.by_time.remove(&(entry.due, entry.seq, subject));
        Some(entry.seq)
    }

    pub(super) fn first_due(&self, now: i64) -> Option<(u64, Box<[u8]>)> {
        let (due, seq, subject) = self.by_time.first()?;
        (*due <= now).then(|| (*seq, subject.clone()))
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<i64> {
        self.by_time.first().map(|(due, ..)| *due)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_subject.is_empty()
    }

    /// Whether there is one on a subject.
    pub(super) fn has(&self, subject: &[u8]) -> bool {
        self.by_subject.contains_key(subject)
    }

    /// What each that made something made last, by the sequence of the schedule.
    fn runs(&self) -> BTreeMap<u64, Run> {
        self.by_subject.values().filter_map(|entry| Some((entry.seq, entry.last?))).collect()
    }

    /// Takes note of what they made last, as far as that was stored: up to `kept`.
    fn resume(&mut self, runs: &BTreeMap<u64, Run>, kept: u64) {
        let all = self.by_subject.iter();
        let known: Vec<(Box<[u8]>, Run)> =
            all.filter_map(|(subject, entry)| Some((subject.clone(), *runs.get(&entry.seq)?))).collect();
        for (subject, run) in known {
            let run = if run.made <= kept { run } else { Run { made: 0, next: run.due, ..run } };
            let Some(entry) = self.by_subject.get_mut(&subject) else { continue };
            entry.last = Some(run);
            // What is there tells of a later one when the checkpoint was not saved any more.
            let (seq, due) = (entry.seq, entry.due.max(run.next));
            self.postpone(&subject, seq, due);
        }
    }
}

impl Stream {
    /// Finds the schedules again after a restart, or when what was stored above `kept` was undone.
    pub(super) fn recall_schedules(&mut self, kept: u64) {
        let before = std::mem::take(&mut self.schedules);
        if !self.config.allow_msg_schedules {
            return;
        }
        let saved = || {
            let (_, saved) = self.store.checkpoint(CHECKPOINT)?;
            serde_json::from_slice(saved).ok()
        };
        let runs = if before.is_empty() { saved().unwrap_or_default() } else { before.runs() };
        let (schedules, mut over) = (&mut self.schedules, Vec::new());
        // What cannot be read is reported where it is read; it is no schedule any more.
        let _ = self.store.scan(&mut Selection::all(), 1, |message| {
            let said = Said::read(message.headers);
            schedules.remove(message.subject);
            if let Some(due) = said.pattern().and_then(|pattern| pattern.after(message.time_ns)) {
                schedules.insert(message.subject, message.seq, due);
            }
            if let (Some(scheduler), Some(next)) = (said.scheduler, said.next)
                && let Some(seq) = schedules.by_subject.get(scheduler.as_bytes()).map(|entry| entry.seq)
            {
                match Time::parse(next).and_then(Time::nanos) {
                    Some(due) => schedules.postpone(scheduler.as_bytes(), seq, due),
                    None if next == PURGE => over.extend(schedules.remove(scheduler.as_bytes())),
                    None => {}
                }
            }
            ControlFlow::Continue(())
        });
        schedules.resume(&runs, kept);
        for seq in over {
            self.drop_message(seq);
        }
        // The sequences of what is gone will be used again.
        self.save_schedules();
    }

    /// Keeps what the schedules made last, for when the messages that say so are gone.
    pub(super) fn save_schedules(&mut self) {
        let runs = self.schedules.runs();
        let saved = self.store.checkpoint(CHECKPOINT);
        if !self.store.is_file() || (runs.is_empty() && saved.is_none()) {
            return;
        }
        let Ok(bytes) = serde_json::to_vec(&runs) else { return };
        if saved.is_some_and(|(_, before)| before == bytes) {
            return;
        }
        self.dirty = true;
        self.schedules.unsynced = true;
        // What cannot be kept is read back from the messages, as far as they are there.
        let _ = self.store.save_checkpoint(CHECKPOINT, VERSION, &bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(schedules: &Schedules) -> (Option<i64>, Option<i64>) {
        (schedules.next_due(), schedules.by_subject.get(&b"s"[..]).map(|entry| entry.due))
    }

    #[test]
    fn what_was_made_last_counts_as_far_as_it_was_stored() {
        for (kept, expected) in [(7, 40), (6, 30)] {
            let mut before = Schedules::default();
            before.insert(b"s", 1, 30);
            before.postpone(b"s", 1, 35);
            before.postpone(b"s", 1, 30);
            before.advance(b"s", 1, 7, 40);
            let mut after = Schedules::default();
            after.insert(b"s", 1, 10);
            after.insert(b"other", 2, 90);
            after.resume(&before.runs(), kept);
            assert_eq!(due(&after), (Some(expected), Some(expected)), "{kept}");
            // The sequence is used again, and says nothing any more.
            let mut again = Schedules::default();
            again.insert(b"s", 1, 10);
            again.resume(&after.runs(), 100);
            assert_eq!(due(&again).1, Some(expected));
        }
    }

    #[test]
    fn one_that_took_the_place_of_another_knows_nothing_of_it() {
        let mut schedules = Schedules::default();
        schedules.insert(b"s", 1, 10);
        schedules.advance(b"s", 1, 2, 20);
        schedules.insert(b"s", 3, 15);
        schedules.advance(b"s", 1, 4, 99);
        assert_eq!((due(&schedules), schedules.runs().len()), ((Some(15), Some(15)), 0));
        assert_eq!((schedules.remove(b"s"), schedules.next_due()), (Some(3), None));
    }
}
