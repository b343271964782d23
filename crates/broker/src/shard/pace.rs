//! Whether a client takes what waits for it fast enough. Counts bytes and compares times; the clock is the caller's.

use std::time::{Duration, Instant};

/// Part of what waits that must be taken within one write deadline. A client that takes a few bytes now and then would
/// hold its backlog, and pace its publishers, for ever; one that is merely slow takes far more than this.
const PART: u64 = 4;

/// The goal of a client whose socket was full.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    goal: u64,
    until: Instant,
}

impl Pace {
    /// Sets the first goal: a part of the `waiting` bytes, `taken` being all that was ever taken.
    pub(crate) fn new(taken: u64, waiting: usize, now: Instant, deadline: Duration) -> Self {
        Self { goal: taken + (waiting as u64 / PART).max(1), until: far(now, deadline) }
    }

    /// When the goal must be reached.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Sets the next goal if this one was reached; returns false if it was not and time is up.
    pub(crate) fn keep(&mut self, taken: u64, waiting: usize, now: Instant, deadline: Duration) -> bool {
        if taken >= self.goal {
            *self = Self::new(taken, waiting, now, deadline);
        }
        now < self.until
    }
}

fn far(now: Instant, deadline: Duration) -> Instant {
    now.checked_add(deadline).unwrap_or(now + Duration::from_secs(365 * 24 * 3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    #[test]
    fn a_fair_part_renews_the_deadline_and_a_byte_does_not() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut pace = Pace::new(100, 1000, start, DEADLINE);
        assert!(pace.keep(349, 751, at(9), DEADLINE) && pace.until() == at(10));
        assert!(pace.keep(350, 750, at(9), DEADLINE) && pace.until() == at(19));
        assert!(pace.keep(351, 749, at(18), DEADLINE));
        assert!(!pace.keep(352, 748, at(19), DEADLINE));
    }

    #[test]
    fn the_last_bytes_need_some_progress_only() {
        let start = Instant::now();
        let mut pace = Pace::new(0, 2, start, DEADLINE);
        assert!(pace.keep(1, 1, start + DEADLINE, DEADLINE));
        assert!(!pace.keep(1, 1, start + DEADLINE * 2, DEADLINE));
    }
}
