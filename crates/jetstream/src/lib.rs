//! JetStream's decisions: streams, consumers and their API, over [`ostler_broker_store`]. No sockets, no clock, no
//! randomness, no threads: the time and a seed come in, what must happen goes out.
//!
//! ```
//! use ostler_jetstream::{Bus, Incoming, JetStream, Options};
//!
//! /// Sends nowhere, but counts.
//! #[derive(Default)]
//! struct Counter(usize);
//! impl Bus for Counter {
//!     fn has_interest(&self, _subject: &[u8]) -> bool { false }
//!     fn send(&mut self, _to: &[u8], _subject: &[u8], _reply: &[u8], _headers: &[u8], _payload: &[u8]) { self.0 += 1 }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let (mut jetstream, _recovered) = JetStream::open(Options::new(dir.path()), 0)?;
//! let mut bus = Counter::default();
//! let send = |subject: &'static str, payload: &'static str| Incoming {
//!     subject: subject.as_bytes(), reply: b"inbox", headers: b"", payload: payload.as_bytes(),
//! };
//! jetstream.on_message(&send("$JS.API.STREAM.CREATE.ORDERS", r#"{"name":"ORDERS"}"#), 1, &mut bus);
//! jetstream.on_message(&send("ORDERS", "two of those"), 2, &mut bus);
//! assert_eq!(bus.0, 0); // nothing is promised yet
//! for job in jetstream.end_of_batch(&mut bus) {
//!     let result = job.run(); // on another thread: it waits for the disk
//!     assert!(jetstream.synced(result, &mut bus).is_none());
//! }
//! assert_eq!(bus.0, 2); // the stream is there, the message is on disk
//! # Ok(())
//! # }
//! ```
//!
//! # Theory of operation
//!
//! The broker routes the subjects of [`JetStream::route_changes`] here: the API's and those of the streams. It calls
//! [`JetStream::on_message`] for each message of a read batch and [`JetStream::end_of_batch`] at its end. Storing
//! changes memory only; the end of the batch is one write per stream. An acknowledgement waits for what the stream
//! promises ([`DURABILITY_KEY`]): nothing (`async`, and streams in memory), that write (`process`), or a sync that a
//! [`SyncJob`] does on another thread while the next batches go on (`group`, the default). So do the API's answers to
//! whatever changes a stream. When the disk refuses, everything since the last write is undone, and everything that
//! waited for it is refused.
//!
//! Consumers are served at the end of a batch too, from what is written: requests in turn, then whoever is pushed to.
//! An acknowledgement changes memory and is saved within a quarter of a second, or before its answer when it asks for
//! one; what is lost of it in a crash is delivered again.
//!
//! # Known limits
//!
//! Not there yet: streams of other servers as mirrors and sources; a configuration that asks for one is refused, naming
//! it. A consumer with the ack policy `flow_control` serves the streams of this server that name it as the consumer of a
//! mirror or source: nothing is sent to its deliver subject. Compression and placement are kept and have no effect. One
//! account. In a fast batch a wrong `Nats-Expected-Last-Msg-Id` is refused like any other expectation, where nats-server
//! leaves the batch half open.
#![forbid(unsafe_code)]

mod acks;
mod advisory;
mod api;
mod backup;
mod bus;
mod consumer;
mod feeds;
mod handle;
mod handle_backup;
mod handle_consumers;
mod headers;
mod jetstream;
mod limits;
#[cfg(test)]
mod nonsense;
mod options;
#[cfg(test)]
mod oracle;
mod readers;
mod report;
mod routes;
mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_batches;
#[cfg(test)]
mod tests_consumers;
#[cfg(test)]
mod tests_crash;
#[cfg(test)]
mod tests_disk;
#[cfg(test)]
mod tests_features;
#[cfg(test)]
mod tests_feeds;
#[cfg(test)]
mod tests_numbers;
#[cfg(test)]
mod tests_oracle;
#[cfg(test)]
mod tests_schedules;
#[cfg(test)]
mod tests_space;
#[cfg(test)]
mod tests_through;
#[cfg(test)]
mod tests_trouble;
#[cfg(test)]
mod tests_turns;
mod through;
mod time;
#[cfg(test)]
mod transcripts;

pub use api::{
    AccountInfo, AccountLimits, ApiCounts, ApiError, SequenceInfo, SourceInfo, StreamInfo, StreamState,
    Strictness,
};
pub use bus::{Bus, Incoming};
pub use consumer::{
    AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy, PriorityGroupState, PriorityPolicy, ReplayPolicy,
};
pub use jetstream::{JetStream, OpenError, Recovered, RouteChange, SyncJob, SyncResult};
pub use limits::ServerLimits;
pub use options::{API_LEVEL, Options};
pub use ostler_broker_store::{Durability, Finding};
pub use report::Totals;
pub use stream::{
    Compression, ConsumerLimits, DURABILITY_KEY, Discard, External, PersistMode, Republish, Retention,
    Storage, StreamConfig, StreamConsumerSource, StreamSource, SubjectTransform, check, repair,
};
pub use time::{Time, parse_duration, write_duration};
