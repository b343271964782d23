//! The pace of a consumer that delivers with the pauses in which messages were stored. Which messages, it does not
//! decide; nor is a redelivery held up.

use ostler_broker_store::Store;

use super::{Consumer, ConsumerConfig, ReplayPolicy};

/// How far a replay is.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// When the last message was stored, and when it was delivered.
    last: Option<(i64, i64)>,
    /// When the next may be delivered, if that is not yet.
    due: Option<i64>,
}

impl Replay {
    /// A replay at its beginning, if one is configured.
    pub(super) fn of(config: &ConsumerConfig) -> Option<Self> {
        (config.replay_policy == ReplayPolicy::Original).then(Self::default)
    }
}

impl Consumer {
    /// Whether it is too early for a message that was not delivered yet.
    pub(super) fn is_early(&mut self, seq: u64, store: &mut Store, now: i64) -> bool {
        let Some(replay) = &mut self.replay else { return false };
        replay.due = None;
        let Some((stored_before, delivered)) = replay.last else { return false };
        let Ok(Some(message)) = store.get(seq) else { return false };
        let due = delivered.saturating_add(message.time_ns.saturating_sub(stored_before));
        replay.due = (due > now).then_some(due);
        replay.due.is_some()
    }

    /// Notes that a message is out that was stored at a time.
    pub(super) fn replayed(&mut self, stored: i64, now: i64) {
        if let Some(replay) = &mut self.replay {
            replay.last = Some((stored, now));
        }
    }

    /// There is nothing that was not delivered: what comes from now on goes out as it comes.
    pub(super) fn end_replay(&mut self) {
        self.replay = None;
    }

    /// When the next message may be delivered.
    pub(super) fn replay_due(&self) -> Option<i64> {
        self.replay.as_ref()?.due
    }

    /// What was waited for is there, whether somebody wants it or not.
    pub(super) fn expire_replay(&mut self, now: i64) {
        if let Some(replay) = &mut self.replay {
            replay.due = replay.due.filter(|due| *due > now);
        }
    }
}
