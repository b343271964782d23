//! A consumer in a backup: its configuration and where it stands, as nats-server's JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::consumer::ConsumerConfig;

/// A consumer's entry.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Kept {
    pub(crate) config: ConsumerConfig,
    pub(crate) state: KeptState,
}

/// Where a consumer stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct KeptState {
    /// The last delivery.
    pub(crate) delivered: Pair,
    /// Everything up to here is acknowledged.
    pub(crate) ack_floor: Pair,
    /// What is out unacknowledged, by sequence in the stream.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) pending: BTreeMap<u64, Out>,
    /// How often beyond the first time messages were delivered, by sequence in the stream.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) redelivered: BTreeMap<u64, u64>,
}

/// The number of a delivery and its message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Pair {
    pub(crate) consumer_seq: u64,
    pub(crate) stream_seq: u64,
}

/// The first delivery of a message that is out, and when it was delivered last, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Out {
    pub(crate) sequence: u64,
    pub(crate) timestamp: i64,
}

impl Kept {
    /// Leaves out what is above the last message of the backup.
    pub(super) fn clamp(&mut self, last_seq: u64) {
        let state = &mut self.state;
        state.delivered.stream_seq = state.delivered.stream_seq.min(last_seq);
        state.ack_floor.stream_seq = state.ack_floor.stream_seq.min(last_seq);
        state.pending.retain(|seq, _| *seq <= last_seq);
        state.redelivered.retain(|seq, _| *seq <= last_seq);
    }
}
