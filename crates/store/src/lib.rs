//! Ostler's SQLite database: desired state, runs, output, events and the audit's chain. The only crate that names SQLite.
//!
//! # Theory of operation
//!
//! *One writer.* A thread owns the writing connection. [`Store::commit`] hands it a batch; batches that wait together
//! share one transaction and one fsync (group commit). When `commit` returns, the batch is on disk: the journal is
//! WAL with `synchronous = FULL`, so a power cut loses nothing that was acknowledged.
//!
//! *Many readers.* [`Store::read`] runs a closure with a read-only connection from a small pool; readers never wait
//! for the writer.
//!
//! *Migrations* are numbered SQL files, applied in order in one transaction each; the number stands in
//! `PRAGMA user_version`. A database from a newer version is refused, not touched.
//!
//! *The audit* is chained by hashes in the transaction that records the fact, and waits here until the bus keeps it.
//!
//! The queue to the writer is bounded ([`COMMITS_WAITING_MAX`]); when it is full, `commit` waits.
#![forbid(unsafe_code)]

mod agents;
mod audit;
mod error;
mod events;
mod migrate;
mod output;
mod reader;
mod write;
mod writer;

pub use agents::{AgentRow, RunRow};
pub use audit::{AUDIT_WAITING_MAX, AuditFact, WaitingEntry};
pub use error::Error;
pub use events::EventsQuery;
pub use output::LogsQuery;
pub use reader::Reader;
pub use write::Write;
pub use writer::{COMMITS_WAITING_MAX, Store};

/// Microseconds since 1970, the form of every time in the database.
fn micros(timestamp: ostler_wire::Timestamp) -> i64 {
    timestamp.as_microsecond()
}
