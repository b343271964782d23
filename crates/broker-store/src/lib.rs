//! An append-only message log with subjects whose acknowledgement means what it says: the storage of one JetStream
//! stream, without JetStream's rules, without a clock, without threads.
//!
//! ```
//! use ostler_broker_store::{NewMessage, Options, Selection, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let mut store = Store::open(dir.path(), Options { salt: 7, ..Options::default() })?;
//! let seq = store.append(&NewMessage::new(b"orders.eu", b"two of those", 1_700_000_000_000_000_000))?;
//! store.write_out()?; // survives kill -9
//! if let Some(job) = store.sync_ticket()? {
//!     let result = std::thread::spawn(|| job.run()).join().expect("the job does not panic");
//!     assert!(store.synced(result)? >= seq); // survives a power cut: acknowledge
//! }
//! let mut europe = Selection::subject(b"orders.eu");
//! assert_eq!(store.next(&mut europe, 1), Some(seq));
//! assert_eq!(store.get(seq)?.expect("just stored").payload, b"two of those");
//! store.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Theory of operation
//!
//! A stream is a row of *segments*, files of some megabytes that are only appended to. A message is one checksummed
//! record; so is the removal of messages. In memory an index of 16 bytes per message says where each is, how large, on
//! which subject, and which is the next one there: every question but "what are its bytes" is answered without the
//! files. Opening reads all segments and builds it anew; there is no index on disk that could disagree with the log.
//!
//! **Batches.** [`Store::append`] and [`Store::remove`] change memory only. [`Store::write_out`], at the end of a batch,
//! is one write. When it fails, the batch is undone as if it had not been. [`Store::sync_ticket`] hands out an owned
//! job that makes durable what was written before, on any thread, while the next batches go on; [`Store::synced`] takes
//! its result and says up to where messages may be acknowledged.
//!
//! | what was called and returned `Ok` | what survives |
//! |---|---|
//! | `append`, `remove` | nothing; it is visible to readers |
//! | `write_out`, `purge`, `truncate` | the end of the process, `kill -9` included |
//! | `synced` with the result of a ticket taken later | a power cut |
//!
//! **Damage** is told from a write cut short by evidence: the manifest lists closed segments with length and checksum,
//! the mark beside the log says how far it was written, and records say what was durable before them. What was promised
//! to nobody is cut off. What was promised and cannot be read is named, never served, and the rest stays readable:
//! [`Store::findings`], [`check`], [`repair`]. A reader passes over it; [`Store::get`] says [`Error::Damaged`].
//!
//! **Space** of removed messages comes back by [`Store::maintain`] in bounded steps, and by the next sync.
//!
//! # Known limits
//!
//! Opening takes time in proportion to the bytes stored, not only to what changed since the last time. A stream needs 16
//! bytes of memory per message and about 100 per subject. Whole directories that are lost cannot be noticed here. One
//! process uses a directory at a time: who opens stores holds a [`DirLock`] on the directory above them.
#![forbid(unsafe_code)]

pub mod disk;
mod error;
mod format;
mod index;
mod lock;
mod message;
mod report;
mod selection;
mod store;

pub use error::Error;
pub use lock::{DirLock, LockError};
pub use message::{Message, NewMessage, State};
pub use report::{Finding, Report, Severity};
pub use selection::Selection;
pub use store::{
    Durability, Erase, Maintained, Next, Options, Page, Purge, Store, SyncJob, SyncResult, check, repair,
};
