//! What is due when, for all connections of a shard: one queue, one sleeping task, no timer per connection. Entries
//! are not taken back: who ended meanwhile is recognised when its entry comes up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// Entries due this soon come up together, so that thousands of connections do not cause thousands of wakes.
pub(super) const SLACK: Duration = Duration::from_millis(20);

/// Fewer entries are not worth looking through.
const SHED_MIN: usize = 1024;

/// Why a connection is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// Its handshake should be done.
    Handshake,
    /// It should have authenticated by now.
    Auth,
    /// It may be silent for too long.
    Ping,
}

/// One connection to look at: the place and the id that must still be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) due: Due,
    pub(crate) slot: usize,
    pub(crate) id: u64,
}

/// Entries by time. The clock is the caller's.
#[derive(Debug, Default)]
pub(crate) struct Timers(BinaryHeap<Reverse<(Instant, Entry)>>);

impl Timers {
    /// Returns whether this is the earliest: the sleeper must then be told.
    pub(crate) fn add(&mut self, at: Instant, entry: Entry) -> bool {
        let earliest = self.next().is_none_or(|next| at < next);
        self.0.push(Reverse((at, entry)));
        earliest
    }

    /// Forgets the entries of connections that ended, once they are the most of it: clients that come and go must not
    /// pile up entries for minutes. Costs little, because it is done rarely.
    pub(crate) fn shed(&mut self, live: usize, is_live: impl Fn(&Entry) -> bool) {
        if self.0.len() > SHED_MIN + 4 * live {
            self.0.retain(|Reverse((_, entry))| is_live(entry));
        }
    }

    /// Keeps those that `keep` says.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.0.retain(|Reverse((_, entry))| keep(entry));
    }

    /// When the earliest is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes one that is due, or nearly.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Entry> {
        self.next().filter(|at| *at <= now + SLACK)?;
        self.0.pop().map(|Reverse((_, entry))| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_up_in_order_and_not_before_their_time() {
        let start = Instant::now();
        let entry = |slot| Entry { due: Due::Ping, slot, id: 0 };
        let mut timers = Timers::default();
        assert!(timers.add(start + Duration::from_secs(2), entry(2)));
        assert!(timers.add(start + Duration::from_secs(1), entry(1)));
        assert!(!timers.add(start + Duration::from_secs(3), entry(3)));
        assert_eq!(timers.pop_due(start), None);
        let later = start + Duration::from_secs(2);
        assert_eq!(timers.pop_due(later), Some(entry(1)));
        assert_eq!(timers.pop_due(later), Some(entry(2)));
        assert_eq!(timers.pop_due(later), None);
        assert_eq!(timers.next(), Some(start + Duration::from_secs(3)));
    }

    #[test]
    fn entries_of_the_dead_are_shed_when_they_are_many() {
        let start = Instant::now();
        let mut timers = Timers::default();
        for id in 0..5000 {
            timers.add(start, Entry { due: Due::Ping, slot: 0, id });
            timers.shed(1, |entry| entry.id == 0);
            assert!(timers.0.len() <= SHED_MIN + 5);
        }
        assert!(timers.0.iter().any(|Reverse((_, entry))| entry.id == 0), "the living stay");
    }
}
