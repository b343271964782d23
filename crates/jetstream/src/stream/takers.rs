//! The streams that take from one that keeps messages by interest or as a work queue: they count as consumers, so what
//! they have not taken stays, and what they took goes when nobody else needs it. Taken is what stays taken after a power
//! cut. How it is taken is in [`feeds`](crate::feeds).

use std::collections::BTreeSet;

use ostler_broker_proto::subject::Filter;
use ostler_broker_store::Selection;

use super::{Retention, Stream};

/// Who takes from a stream.
#[derive(Debug, Default)]
pub(crate) struct Takers {
    takers: Vec<Taker>,
    /// Consumers are done with these, but not all takers.
    held: BTreeSet<u64>,
}

/// A stream that takes, and how far that is.
#[derive(Debug)]
pub(crate) struct Taker {
    /// The number of the stream that takes, and which of its feeds.
    pub(crate) id: (usize, usize),
    pub(crate) filters: Vec<Filter>,
    /// Everything up to it was taken for good.
    pub(crate) taken: u64,
}

impl Taker {
    fn wants(&self, subject: &[u8]) -> bool {
        self.filters.iter().any(|filter| filter.matches(subject))
    }
}

impl Takers {
    /// Whether somebody takes messages on a subject.
    pub(super) fn want(&self, subject: &[u8]) -> bool {
        self.takers.iter().any(|taker| taker.wants(subject))
    }

    /// Whether somebody still has to take a message.
    pub(super) fn need(&self, seq: u64, subject: &[u8]) -> bool {
        self.takers.iter().any(|taker| seq > taker.taken && taker.wants(subject))
    }
}

impl Stream {
    /// Whether what is taken from it is let go by being taken.
    pub(crate) fn serves_takers(&self) -> bool {
        self.is_read && self.config.retention != Retention::Limits
    }

    /// Whether a message of a work queue that is done waits to be taken. It goes when it is.
    pub(super) fn hold_for_takers(&mut self, seq: u64) -> bool {
        if self.takers.takers.is_empty() {
            return false;
        }
        let needed = match self.store.get(seq) {
            Ok(Some(message)) => self.takers.need(seq, message.subject),
            _ => false,
        };
        if needed {
            self.takers.held.insert(seq);
        }
        needed
    }

    /// Says anew who takes from it.
    pub(crate) fn set_takers(&mut self, takers: Vec<Taker>) {
        let before = std::mem::replace(&mut self.takers.takers, takers);
        let stays = |id| self.takers.takers.iter().any(|taker| taker.id == id);
        let gone = before.iter().filter(|old| !stays(old.id));
        let Some(from) = gone.map(|old| old.taken).min() else { return };
        match self.config.retention {
            Retention::Limits => self.takers.held.clear(),
            // What nobody took and nobody is done with is still to be done.
            Retention::WorkQueue => self.let_go_held(u64::MAX),
            Retention::Interest => self.let_go(&mut Selection::all(), (from, self.store.last_seq())),
        }
    }

    /// What one of the takers wants was taken for good from behind one sequence up to another. Whether something went.
    pub(crate) fn taken(&mut self, id: (usize, usize), wanted: &mut Selection, range: (u64, u64)) -> bool {
        for taker in self.takers.takers.iter_mut().filter(|taker| taker.id == id) {
            taker.taken = range.1;
        }
        let before = self.store.msgs();
        self.let_go_held(range.1);
        self.let_go(wanted, range);
        self.store.msgs() < before
    }

    /// Removes what is done, up to a sequence, and that nobody has to take any more.
    fn let_go_held(&mut self, to: u64) {
        let done: Vec<u64> = self.takers.held.range(..=to).copied().collect();
        for seq in done {
            self.takers.held.remove(&seq);
            if !self.hold_for_takers(seq) {
                self.remove_done(seq);
            }
        }
    }

    /// Removes what nobody needs of what is selected.
    fn let_go(&mut self, selection: &mut Selection, (from, to): (u64, u64)) {
        let mut at = from.saturating_add(1);
        while let Some(seq) = self.store.next(selection, at).filter(|seq| *seq <= to) {
            at = seq + 1;
            if !self.is_needed(seq) {
                self.remove_done(seq);
            }
        }
    }

    fn remove_done(&mut self, seq: u64) {
        if self.drop_message(seq) {
            self.done_unwritten.push(seq);
        }
    }
}
