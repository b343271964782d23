//! What was delivered and not acknowledged: by sequence, oldest first, with the time of the next delivery. It decides
//! nothing about what is delivered next.

use std::collections::VecDeque;

/// A delivered message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pending {
    /// Its sequence in the stream.
    pub(crate) seq: u64,
    /// The number of its first delivery.
    pub(crate) delivery: u64,
    /// When it is delivered again.
    pub(crate) due: i64,
    /// How often it was delivered; 0 marks one that is gone.
    pub(crate) count: u32,
    /// It waits to be delivered again.
    pub(crate) queued: bool,
}

/// Delivered messages. Adding at the end and removing at the front, which is what nearly always happens, cost a step;
/// anything else a binary search.
#[derive(Debug, Default)]
pub(crate) struct PendingSet {
    entries: VecDeque<Pending>,
    live: usize,
    /// Nothing is due before.
    check_at: Option<i64>,
}

impl PendingSet {
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// Adds a message above all others; in order, as deliveries are.
    pub(crate) fn push(&mut self, entry: Pending) {
        self.live += 1;
        self.note_due(entry.due);
        match self.entries.back() {
            // A consumer that was set back delivers lower ones again.
            Some(last) if last.seq >= entry.seq => match self.find(entry.seq) {
                Ok(at) => {
                    if self.entries[at].count > 0 {
                        self.live -= 1;
                    }
                    self.entries[at] = entry;
                }
                Err(at) => self.entries.insert(at, entry),
            },
            _ => self.entries.push_back(entry),
        }
    }

    pub(crate) fn get(&self, seq: u64) -> Option<&Pending> {
        let at = self.find(seq).ok()?;
        Some(&self.entries[at]).filter(|entry| entry.count > 0)
    }

    /// Changes an entry; its time is looked at again afterwards.
    pub(crate) fn update(&mut self, seq: u64, change: impl FnOnce(&mut Pending)) -> bool {
        let Ok(at) = self.find(seq) else { return false };
        let entry = &mut self.entries[at];
        if entry.count == 0 {
            return false;
        }
        change(entry);
        let due = entry.due;
        self.note_due(due);
        true
    }

    pub(crate) fn remove(&mut self, seq: u64) -> Option<Pending> {
        let at = self.find(seq).ok().filter(|&at| self.entries[at].count > 0)?;
        let removed = self.entries[at];
        self.entries[at].count = 0;
        self.live -= 1;
        while self.entries.front().is_some_and(|entry| entry.count == 0) {
            self.entries.pop_front();
        }
        if self.entries.len() > 64 && self.entries.len() > self.live * 2 {
            self.entries.retain(|entry| entry.count > 0);
        }
        Some(removed)
    }

    /// Keeps those that `stays` is true of; it is asked in order.
    pub(crate) fn retain(&mut self, mut stays: impl FnMut(u64) -> bool) {
        self.entries.retain(|entry| entry.count > 0 && stays(entry.seq));
        self.live = self.entries.len();
    }

    /// The one with the lowest sequence.
    pub(crate) fn first(&self) -> Option<&Pending> {
        self.entries.front()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Pending> {
        self.entries.iter().filter(|entry| entry.count > 0)
    }

    /// Marks those that are due and says which, in order.
    pub(crate) fn take_due(&mut self, now: i64) -> Vec<u64> {
        if self.check_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.check_at = None;
        let mut due = Vec::new();
        let mut next: Option<i64> = None;
        for entry in self.entries.iter_mut().filter(|entry| entry.count > 0 && !entry.queued) {
            if entry.due <= now {
                entry.queued = true;
                due.push(entry.seq);
            } else {
                next = Some(next.map_or(entry.due, |next| next.min(entry.due)));
            }
        }
        self.check_at = next;
        due
    }

    /// When to look again; nothing is due before.
    pub(crate) fn check_at(&self) -> Option<i64> {
        self.check_at
    }

    fn note_due(&mut self, due: i64) {
        self.check_at = Some(self.check_at.map_or(due, |at| at.min(due)));
    }

    fn find(&self, seq: u64) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&seq, |entry| entry.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn entry(seq: u64, due: i64) -> Pending {
        Pending { seq, delivery: seq, due, count: 1, queued: false }
    }

    #[test]
    fn due_entries_are_told_once_and_the_next_time_is_known() {
        let mut set = PendingSet::default();
        set.push(entry(1, 10));
        set.push(entry(2, 5));
        set.push(entry(3, 20));
        assert_eq!(set.check_at(), Some(5));
        assert_eq!(set.take_due(10), [1, 2]);
        assert!(set.take_due(10).is_empty());
        assert_eq!(set.check_at(), Some(20));
        set.update(1, |entry| (entry.queued, entry.due) = (false, 12));
        assert_eq!(set.check_at(), Some(12));
    }

    proptest! {
        #[test]
        fn it_is_a_map_by_sequence(steps in prop::collection::vec((0u8..10, 1u64..40), 1..200)) {
            let (mut set, mut model) = (PendingSet::default(), BTreeMap::new());
            for (step, seq) in steps {
                match step {
                    0..=3 => {
                        set.push(entry(seq, 0));
                        model.insert(seq, ());
                    }
                    4..=6 => prop_assert_eq!(set.remove(seq).is_some(), model.remove(&seq).is_some()),
                    7 => {
                        set.retain(|its| its % 8 != seq % 8);
                        model.retain(|its, ()| its % 8 != seq % 8);
                    }
                    _ => prop_assert_eq!(set.get(seq).is_some(), model.contains_key(&seq)),
                }
                prop_assert_eq!(set.len(), model.len());
                prop_assert_eq!(set.iter().map(|entry| entry.seq).collect::<Vec<_>>(), model.keys().copied().collect::<Vec<_>>());
                prop_assert_eq!(set.first().map(|entry| entry.seq), model.keys().next().copied());
            }
        }
    }
}
