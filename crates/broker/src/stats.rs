//! Counters of a server. Each shard counts in its own memory and lays its numbers open once per read batch.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::shared::Shared;

/// Writes the counters once and what is done with all of them from that.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A snapshot of a server's counters, summed over its shards. Totals count since the start.
        ///
        /// Bytes that wait for clients are no counter: [`Connections::pending_bytes`](crate::Connections::pending_bytes)
        /// sums them up.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Stats {
            /// Those of all shards.
            pub(crate) fn of(shared: &Shared) -> Self {
                let mut sum = Self::default();
                shared.shards.iter().for_each(|shard| sum.add(shard.counters.read()));
                sum
            }

            fn add(&mut self, other: Stats) {
                $(self.$name += other.$name;)+
            }
        }

        /// The numbers one shard lays open; written by that shard only.
        #[derive(Debug, Default)]
        pub(crate) struct ShardCounters {
            $($name: AtomicU64,)+
        }

        impl ShardCounters {
            pub(crate) fn publish(&self, stats: &Stats) {
                $(self.$name.store(stats.$name, Ordering::Relaxed);)+
            }

            pub(crate) fn read(&self) -> Stats {
                Stats { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

counters! {
    /// Live connections, those that did not authenticate yet included.
    connections,
    /// Connections ever accepted.
    connections_total,
    /// Live subscriptions.
    subscriptions,
    /// Subscriptions ever made.
    subscriptions_total,
    /// Messages received from clients.
    in_msgs,
    /// Their headers and payloads, in bytes.
    in_bytes,
    /// Messages handed to subscribers' buffers.
    out_msgs,
    /// Their headers and payloads, in bytes.
    out_bytes,
    /// Clients closed because they did not take what waited for them.
    slow_consumers,
    /// Those of them that took too little within the write deadline; the others let too many bytes pile up.
    slow_consumers_by_deadline,
    /// Clients closed because they answered no PING.
    stale_connections,
    /// Times a publisher was not read because a subscriber, or itself, was far behind.
    stalls,
    /// Connections refused for a missing or wrong credential.
    auth_failures,
}
