//! The duplicate window: which message ids were stored lately, and where. It forgets by time; nobody else may.

use std::collections::{HashMap, VecDeque};

/// Ids of the window with their sequences.
#[derive(Debug, Default)]
pub(crate) struct Dedupe {
    known: HashMap<Box<str>, u64>,
    /// By time, which is by sequence.
    order: VecDeque<(i64, u64, Box<str>)>,
}

impl Dedupe {
    /// The sequence an id was stored under.
    pub(crate) fn find(&self, id: &str) -> Option<u64> {
        self.known.get(id).copied()
    }

    /// Remembers an id.
    pub(crate) fn insert(&mut self, id: &str, seq: u64, now: i64) {
        self.known.insert(id.into(), seq);
        self.order.push_back((now, seq, id.into()));
    }

    /// Forgets what was stored before `time`.
    pub(crate) fn forget_before(&mut self, time: i64) {
        while let Some((stored, seq, _)) = self.order.front() {
            if *stored >= time {
                break;
            }
            let seq = *seq;
            if let Some((_, _, id)) = self.order.pop_front() {
                self.drop_id(&id, seq);
            }
        }
    }

    /// Forgets what was never stored after all.
    pub(crate) fn forget_above(&mut self, last_seq: u64) {
        while self.order.back().is_some_and(|(_, seq, _)| *seq > last_seq) {
            if let Some((_, seq, id)) = self.order.pop_back() {
                self.drop_id(&id, seq);
            }
        }
    }

    fn drop_id(&mut self, id: &str, seq: u64) {
        if self.known.get(id) == Some(&seq) {
            self.known.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_known_until_the_window_has_passed() {
        let mut dedupe = Dedupe::default();
        dedupe.insert("a", 1, 10);
        dedupe.insert("b", 2, 20);
        dedupe.forget_before(20);
        assert_eq!((dedupe.find("a"), dedupe.find("b")), (None, Some(2)));
    }

    #[test]
    fn what_was_not_stored_after_all_is_no_duplicate() {
        let mut dedupe = Dedupe::default();
        dedupe.insert("a", 1, 10);
        dedupe.insert("b", 2, 10);
        dedupe.forget_above(1);
        assert_eq!((dedupe.find("a"), dedupe.find("b")), (Some(1), None));
    }
}
