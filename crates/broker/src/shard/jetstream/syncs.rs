//! Syncs on their way: each waits for the disk on a thread of its own, so many at a time, and comes back through the
//! shard's inbox.

use std::collections::VecDeque;
use std::sync::Arc;

use ostler_jetstream::{SyncJob, SyncResult};

use super::super::Shard;
use super::super::inbox::Envelope;
use crate::shared::Shared;

/// Syncs that wait for the disk at a time. One per stream at most; a disk does several at once, but not any number
/// faster.
const AT_A_TIME_MAX: usize = 8;

/// What came back from a thread: `None` when it panicked.
pub(crate) struct Synced(Option<SyncResult>);

#[derive(Default)]
pub(super) struct Syncs {
    running: usize,
    waiting: VecDeque<SyncJob>,
}

impl Syncs {
    /// Whether none is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.running == 0 && self.waiting.is_empty()
    }
}

/// Leaves word in the inbox whatever becomes of the job.
struct Courier {
    shared: Arc<Shared>,
    shard: usize,
    result: Option<SyncResult>,
}

impl Courier {
    /// Does the job and returns with what came of it.
    fn carry(mut self, job: SyncJob) {
        self.result = Some(job.run());
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        self.shared.shards[self.shard].inbox.push(Envelope::Synced(Synced(self.result.take())));
    }
}

impl Shard {
    /// Has syncs done as soon as there is a thread for them.
    pub(super) fn begin_syncs(&mut self, jobs: impl IntoIterator<Item = SyncJob>) {
        let Some(room) = self.streams.0.as_deref_mut() else { return };
        room.syncs.waiting.extend(jobs);
        while room.syncs.running < AT_A_TIME_MAX
            && let Some(job) = room.syncs.waiting.pop_front()
        {
            room.syncs.running += 1;
            let courier = Courier { shared: Arc::clone(&self.shared), shard: self.index, result: None };
            tokio::task::spawn_blocking(move || courier.carry(job));
        }
    }

    /// A sync came back. The batch must be ended afterwards.
    pub(in super::super) fn synced(&mut self, synced: Synced) {
        let Some(room) = self.streams.0.as_deref_mut() else { return };
        room.syncs.running -= 1;
        match synced.0 {
            Some(result) => {
                let job = self.call(|jetstream, bus, _| jetstream.synced(result, bus));
                self.begin_syncs(job.flatten());
            }
            None => {
                tracing::error!("a sync of a stream failed; the server ends");
                self.shared.stop();
            }
        }
    }
}
