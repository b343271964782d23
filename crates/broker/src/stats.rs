//! Counters of a server. Each shard counts in its own memory and lays its numbers open once per read batch.

use std::sync::atomic::{AtomicU64, Ordering};

/// A snapshot of a server's counters, summed over its shards. Totals count since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Live connections, those that did not authenticate yet included.
    pub connections: u64,
    /// Connections ever accepted.
    pub connections_total: u64,
    /// Live subscriptions.
    pub subscriptions: u64,
    /// Messages received from clients.
    pub in_msgs: u64,
    /// Their headers and payloads, in bytes.
    pub in_bytes: u64,
    /// Messages handed to subscribers' buffers.
    pub out_msgs: u64,
    /// Their headers and payloads, in bytes.
    pub out_bytes: u64,
    /// Clients closed because they did not take what waited for them.
    pub slow_consumers: u64,
    /// Connections refused for a missing or wrong credential.
    pub auth_failures: u64,
}

impl Stats {
    pub(crate) fn add(&mut self, other: Stats) {
        self.connections += other.connections;
        self.connections_total += other.connections_total;
        self.subscriptions += other.subscriptions;
        self.in_msgs += other.in_msgs;
        self.in_bytes += other.in_bytes;
        self.out_msgs += other.out_msgs;
        self.out_bytes += other.out_bytes;
        self.slow_consumers += other.slow_consumers;
        self.auth_failures += other.auth_failures;
    }
}

/// The numbers one shard lays open; written by that shard only.
#[derive(Debug, Default)]
pub(crate) struct ShardCounters([AtomicU64; 9]);

impl ShardCounters {
    pub(crate) fn publish(&self, stats: &Stats) {
        let values = [
            stats.connections,
            stats.connections_total,
            stats.subscriptions,
            stats.in_msgs,
            stats.in_bytes,
            stats.out_msgs,
            stats.out_bytes,
            stats.slow_consumers,
            stats.auth_failures,
        ];
        for (cell, value) in self.0.iter().zip(values) {
            cell.store(value, Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self) -> Stats {
        let [
            connections,
            connections_total,
            subscriptions,
            in_msgs,
            in_bytes,
            out_msgs,
            out_bytes,
            slow_consumers,
            auth_failures,
        ] = std::array::from_fn(|index| self.0[index].load(Ordering::Relaxed));
        Stats {
            connections,
            connections_total,
            subscriptions,
            in_msgs,
            in_bytes,
            out_msgs,
            out_bytes,
            slow_consumers,
            auth_failures,
        }
    }
}
