//! Which states the bus has taken, and what is told again: states and numbers only, no clock, no I/O.
//!
//! A publication has no answer, but the host hears its own: what came back was taken, and everybody heard it or will.
//! Until then a change of state is kept, and told again on the next connection, in order; who heard it already knows it by
//! its revision. What the bus has not taken when the host ends stands in its record, and the engine tells it.

use std::collections::VecDeque;

use ostler_wire::{STATE_CHANGES_MAX, StateChange, StatusMessage};

/// The last changes of state, and how many of them the bus has.
#[derive(Debug, Default)]
pub(super) struct Announced {
    /// The statuses that told of a change, oldest first; without the changes before them.
    changes: VecDeque<StatusMessage>,
    /// What came back.
    revision: u64,
    ever_up: bool,
}

impl Announced {
    /// A status was decided; it is kept when it tells of a change.
    pub(super) fn decided(&mut self, status: StatusMessage) {
        let kind = |status: &StatusMessage| (status.state, status.generation);
        if self.changes.back().is_some_and(|last| kind(last) == kind(&status)) {
            return;
        }
        if self.changes.len() == STATE_CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(StatusMessage { changes: Vec::new(), ..status });
    }

    /// The status of this revision came back from the bus. One connection keeps its order, so those before it did too.
    pub(super) fn came_back(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }

    /// Up to which revision the bus has everything.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// The bus is there, anew: what is to be told again, before the present state. On the first connection nothing is:
    /// the present state is the first word, with the changes before it.
    pub(super) fn connected(&mut self) -> impl Iterator<Item = &StatusMessage> {
        let known = if std::mem::replace(&mut self.ever_up, true) {
            self.revision
        } else {
            // Should that word be lost, it is the first to be told again.
            let last = self.changes.back().map_or(0, |status| status.revision);
            self.revision = last.saturating_sub(1);
            u64::MAX
        };
        self.changes.iter().filter(move |status| status.revision > known)
    }

    /// The changes that were told in earlier statuses than this one.
    pub(super) fn changes_before(&self, revision: u64) -> Vec<StateChange> {
        let earlier = self.changes.iter().filter(|status| status.revision < revision);
        earlier
            .map(|status| StateChange {
                revision: status.revision,
                timestamp: status.timestamp,
                state: status.state,
                cause: status.cause,
                message: status.message.clone(),
                generation: status.generation,
                exit: status.exit,
            })
            .collect()
    }
}
