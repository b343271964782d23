//! A consumer put into a backup and taken out of one. What a backup does not say - who waits, which messages were to be
//! delivered first - begins anew.

use ostler_broker_store::Store;

use super::{Consumer, ConsumerConfig, Pending, Position};
use crate::api::ApiError;
use crate::backup::{Kept, KeptState, Out, Pair};

impl Consumer {
    /// What a backup keeps of it.
    pub(crate) fn kept(&self) -> Kept {
        let pair = |position: &Position| Pair { consumer_seq: position.delivery, stream_seq: position.seq };
        let mut state = KeptState {
            delivered: pair(&self.delivered),
            ack_floor: pair(&self.floor),
            ..KeptState::default()
        };
        for entry in self.pending.iter() {
            // What waits to be delivered again is due at once wherever it is restored.
            let timestamp = entry.due.saturating_sub(self.config.wait_after(entry.count));
            state.pending.insert(entry.seq, Out { sequence: entry.delivery, timestamp });
            if entry.count > 1 {
                state.redelivered.insert(entry.seq, u64::from(entry.count) - 1);
            }
        }
        let mut config = self.config.clone();
        config.name = self.name.to_string();
        config.metadata.insert("_nats.req.level".to_owned(), self.config.required_level().to_string());
        Kept { config, state }
    }

    /// A consumer that goes on where another stood. Its configuration is complete.
    pub(crate) fn from_kept(
        name: &str,
        config: ConsumerConfig,
        state: &KeptState,
        stream: &str,
        store: &mut Store,
        now: i64,
    ) -> Result<Self, ApiError> {
        let mut consumer = Self::create(name, config, stream, store, now)?;
        let never_delivered = state.delivered.consumer_seq == 0 && state.pending.is_empty();
        if never_delivered && state.delivered.stream_seq == 0 {
            return Ok(consumer);
        }
        let position = |pair: Pair| Position { delivery: pair.consumer_seq, seq: pair.stream_seq, at: None };
        consumer.delivered = position(state.delivered);
        consumer.floor = position(state.ack_floor);
        consumer.next_seq = state.delivered.stream_seq.saturating_add(1);
        consumer.upcoming.clear();
        for (&seq, out) in &state.pending {
            let again = state.redelivered.get(&seq).copied().unwrap_or(0);
            let count = u32::try_from(again.saturating_add(1)).unwrap_or(u32::MAX);
            let due = out.timestamp.saturating_add(consumer.config.wait_after(count));
            let entry = Pending { seq, delivery: out.sequence, due: due.max(now), count, queued: false };
            consumer.pending.push(entry);
        }
        consumer.ahead = None;
        Ok(consumer)
    }
}
