//! Streams as archives: what `$JS.API.STREAM.SNAPSHOT` sends and `$JS.API.STREAM.RESTORE` takes, in the format of
//! nats-server 2.15. The older format, a tar of its files, is neither written nor read.
//!
//! A backup is one S2 stream ([`frames`]) of entries ([`archive`]): the state, the consumers, the messages in order, an
//! empty entry. It is made and taken in turns of some hundred kilobytes, from [`JetStream::on_tick`] and as chunks and
//! their acknowledgements arrive, so that neither a large stream nor a small chunk holds up anything else.
//!
//! [`JetStream::on_tick`]: crate::JetStream::on_tick

mod archive;
mod consumers;
mod frames;
mod restore;
mod send;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub(crate) use consumers::{Kept, KeptState, Out, Pair};
pub(crate) use restore::{Restore, Taken};
pub(crate) use send::{Failure, Pace, Progress, Snapshot};

/// Transfers in each direction at a time.
pub(crate) const TRANSFERS_MAX: usize = 8;
/// What is made or taken in one turn: well under a millisecond's work.
const TURN_BYTES: usize = 128 << 10;
/// The first entry's name, and what consumers' names begin with.
const STATE: &str = "state.json";
const CONSUMERS: &str = "consumers/";

/// The transfers under way.
#[derive(Debug, Default)]
pub(crate) struct Backups {
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) restores: Vec<Restore>,
}

impl Backups {
    /// When a transfer has something to do.
    pub(crate) fn next_due(&self, now: i64) -> Option<i64> {
        let sending = self.snapshots.iter().map(|snapshot| snapshot.next_due(now));
        sending.chain(self.restores.iter().map(|restore| restore.next_due(now))).min()
    }

    /// Whether a stream of this name is being restored.
    pub(crate) fn restores(&self, name: &str) -> bool {
        self.restores.iter().any(|restore| restore.name() == name)
    }
}

/// What the first entry says of the messages that follow; the rest of it is for people.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
struct Extent {
    messages: u64,
    bytes: u64,
    first_seq: u64,
    last_seq: u64,
    consumer_count: i64,
}

impl Extent {
    /// Whether sequences and counts can belong together.
    fn holds_together(&self) -> bool {
        let unused = self.first_seq == 0 && self.last_seq == 0;
        let empty = self.messages == 0 && self.first_seq == self.last_seq.wrapping_add(1);
        let range = self.first_seq >= 1
            && self.first_seq <= self.last_seq
            && self.messages <= self.last_seq - self.first_seq + 1;
        self.consumer_count >= 0 && (empty || range || (unused && self.messages == 0))
    }
}
