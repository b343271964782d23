//! Messages of a consumer with the ack policy `flow_control`: another stream of this server takes them, and what it has
//! for sure is acknowledged. Nothing is pushed.

use super::deliver::{Chosen, Ground, Next};
use super::{AckPolicy, Consumer};
use crate::bus::Bus;

/// A message that a stream may take; [`Consumer::sourced`] notes that it did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sourced(Chosen);

impl Sourced {
    /// Its sequence.
    pub(crate) fn seq(&self) -> u64 {
        self.0.seq()
    }
}

impl Consumer {
    /// Whether its messages are for another stream.
    pub(crate) fn is_for_stream(&self) -> bool {
        self.config.ack_policy == AckPolicy::FlowControl
    }

    /// Whether it gives out nothing at the moment.
    pub(crate) fn rests(&self, now: i64) -> bool {
        self.held || self.is_paused(now)
    }

    /// What comes next, when it is not above `last`.
    pub(crate) fn next_sourced<B: Bus>(&mut self, ground: &mut Ground<'_, B>, last: u64) -> Option<Sourced> {
        self.active_at = ground.now;
        match self.choose(ground) {
            Next::Message(chosen) if chosen.seq() <= last => Some(Sourced(chosen)),
            _ => None,
        }
    }

    /// The other stream took it, or passed it over.
    pub(crate) fn sourced(&mut self, message: Sourced, time_ns: i64, now: i64) {
        self.replayed(time_ns, now);
        self.take(message.0, now);
    }

    /// The other stream has everything up to a sequence for sure: says what that was.
    pub(crate) fn settle_up_to(&mut self, seq: u64, now: i64) -> Vec<u64> {
        let mut done = Vec::new();
        while let Some(first) = self.pending.first().map(|entry| entry.seq).filter(|first| *first <= seq) {
            self.pending.remove(first);
            done.push(first);
        }
        if !done.is_empty() {
            self.raise_floor();
            self.floor.at = Some(now);
            self.unsaved = true;
        }
        done
    }
}
