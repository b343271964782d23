//! Who may stay connected to the monitor: there are so many seats, and who comes when all are taken gets that of the
//! connection that has asked for nothing for longest. So nobody can keep a health check out by holding connections. Only
//! the choice; the connections are [`http`](super::http)'s.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::task::AbortHandle;

/// What a connection is doing. Who comes first in this order makes room first: those that are answered only when there
/// are no others, as an answer that nobody reads lasts too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    /// It has not asked, or not whole, since then.
    Nothing { since: Instant },
    /// It is being answered since then.
    Answered { since: Instant },
}

/// The place of one connection. A lock, because the connection's task and the one that accepts look at it.
#[derive(Debug)]
pub(super) struct Seat(Mutex<Doing>);

impl Seat {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Doing::Nothing { since: Instant::now() })))
    }

    /// It asked, and is being answered until what this returns is dropped.
    pub(super) fn asked(self: &Arc<Self>) -> Answering {
        self.set(Doing::Answered { since: Instant::now() });
        Answering(Arc::clone(self))
    }

    fn set(&self, doing: Doing) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = doing;
    }

    fn doing(&self) -> Doing {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Answering(Arc<Seat>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.set(Doing::Nothing { since: Instant::now() });
    }
}

/// All seats that are taken.
#[derive(Debug)]
pub(super) struct Seats {
    max: usize,
    taken: Vec<(Arc<Seat>, AbortHandle)>,
}

impl Seats {
    pub(super) fn new(max: usize) -> Self {
        Self { max, taken: Vec::new() }
    }

    /// Gives a seat to the connection of this task. Ends the one that makes room for it.
    pub(super) fn take(&mut self, seat: Arc<Seat>, task: AbortHandle) {
        self.taken.retain(|(_, task)| !task.is_finished());
        if self.taken.len() >= self.max
            && let Some(leaving) = first_to_leave(self.taken.iter().map(|(seat, _)| seat.doing()))
        {
            tracing::debug!("too many monitoring connections: the one that is idle for longest is closed");
            self.taken.swap_remove(leaving).1.abort();
        }
        self.taken.push((seat, task));
    }
}

fn first_to_leave(all: impl Iterator<Item = Doing>) -> Option<usize> {
    all.enumerate().min_by_key(|(_, doing)| *doing).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_is_idle_for_longest_leaves_first_and_who_is_answered_last() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (idle, answered) = (|s| Doing::Nothing { since: at(s) }, |s| Doing::Answered { since: at(s) });
        let first = |all: &[Doing]| first_to_leave(all.iter().copied());
        assert_eq!(first(&[answered(1), idle(5), idle(4), answered(2)]), Some(2));
        assert_eq!(first(&[answered(3), answered(2)]), Some(1), "nobody reads that answer");
        assert_eq!(first(&[]), None);
    }

    #[test]
    fn an_answer_that_is_gone_leaves_its_connection_idle() {
        let seat = Seat::new();
        let answering = seat.asked();
        assert!(matches!(seat.doing(), Doing::Answered { .. }));
        drop(answering);
        assert!(matches!(seat.doing(), Doing::Nothing { .. }));
    }
}
