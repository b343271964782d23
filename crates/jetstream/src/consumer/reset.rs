//! Setting a consumer back, or forward: everything that is out is forgotten, and it goes on from there. What is stored
//! stays as it is.

use ostler_broker_store::Store;

use super::{Consumer, DeliverPolicy, PendingSet, Position};
use crate::api::ApiError;

impl Consumer {
    /// Makes it go on with a sequence, or with the first that is not acknowledged, and says with which.
    ///
    /// # Errors
    /// The consumer was created to begin elsewhere.
    pub(crate) fn reset(&mut self, to: Option<u64>, store: &mut Store) -> Result<u64, ApiError> {
        if let Some(seq) = to {
            self.check_reset(seq, store)?;
        }
        let seq = to.unwrap_or(self.floor.seq + 1);
        if self.config.deliver_policy == DeliverPolicy::LastPerSubject {
            // What was delivered of those that were last then is upcoming again; the others are no longer wanted.
            let mut upcoming: Vec<u64> = self.pending.iter().map(|entry| entry.seq).collect();
            upcoming.extend(&self.upcoming);
            upcoming.sort_unstable();
            upcoming.dedup();
            self.upcoming = upcoming.into();
        } else {
            self.next_seq = seq;
            self.upcoming.clear();
        }
        self.begins_at = self.next_seq;
        self.pending = PendingSet::default();
        self.redeliver.clear();
        self.ahead = None;
        self.delivered = Position { delivery: 0, seq: seq - 1, at: None };
        self.floor = self.delivered;
        self.unsaved = true;
        Ok(seq)
    }

    fn check_reset(&self, seq: u64, store: &mut Store) -> Result<(), ApiError> {
        match self.config.deliver_policy {
            DeliverPolicy::All => Ok(()),
            DeliverPolicy::ByStartSequence if seq >= self.config.opt_start_seq => Ok(()),
            DeliverPolicy::ByStartSequence => Err(ApiError::invalid_reset("below start seq")),
            DeliverPolicy::ByStartTime => {
                let since = self.config.opt_start_time.nanos().unwrap_or(i64::MIN);
                let first =
                    store.first_at(since).map_err(|error| ApiError::consumer_create(error.to_string()))?;
                if seq < first.unwrap_or(store.last_seq() + 1) {
                    return Err(ApiError::invalid_reset("below start time"));
                }
                Ok(())
            }
            DeliverPolicy::Last | DeliverPolicy::New | DeliverPolicy::LastPerSubject => {
                Err(ApiError::invalid_reset("not allowed"))
            }
        }
    }
}
