//! What can go wrong, cut by what the caller can do about it. Damage that was found and survived is a
//! [`Finding`](crate::Finding), not an error.

use std::io;
use std::path::{Path, PathBuf};

/// Why a call did nothing, or not all that it was asked for.
///
/// After an error of [`Store::append`](crate::Store::append) or [`Store::write_out`](crate::Store::write_out) with
/// [`is_disk`](Error::is_disk), everything appended or removed since the last successful write is undone:
/// [`Store::last_seq`](crate::Store::last_seq) says what is left. The store stays usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk or the quota is full. Retry when there is space: nothing else needs to be done.
    #[error("cannot {operation} {path}: no space left; free some, the store goes on by itself")]
    NoSpace {
        /// What was attempted.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
    /// The file system is read-only, or the files are not ours to write.
    #[error("cannot {operation} {path}: it is read-only; remount it or change its owner")]
    ReadOnly {
        /// What was attempted.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
    /// Any other answer of the operating system.
    #[error("cannot {operation} {path}")]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
    /// A sync failed: what was not durable before it is refused and no longer in the store.
    #[error("the disk did not keep what followed message {durable}; publish it again")]
    NotDurable {
        /// The last message that is certainly on disk.
        durable: u64,
        /// Why the sync failed.
        #[source]
        source: Box<Error>,
    },
    /// The message was stored and its bytes are no longer what was stored; see the findings.
    #[error(
        "message {seq} is damaged on disk ({place}); `check` names the damage, a backup may have the message"
    )]
    Damaged {
        /// The message asked for.
        seq: u64,
        /// File and offset.
        place: String,
    },
    /// The message does not fit into a record.
    #[error("a message of {bytes} bytes does not fit; {max} is the most")]
    TooLarge {
        /// What its record would take.
        bytes: u64,
        /// The most a record may take.
        max: u64,
    },
    /// A subject longer than 65,535 bytes, or empty.
    #[error("a subject of {bytes} bytes cannot be stored; it needs 1 to 65,535")]
    BadSubject {
        /// Its length.
        bytes: usize,
    },
    /// A sequence at or below the last one.
    #[error("sequence {asked} was used already; the next is {next}")]
    UsedSequence {
        /// The sequence asked for.
        asked: u64,
        /// The lowest that is free.
        next: u64,
    },
    /// A directory that does not hold a store, and none should be created.
    #[error("there is no message store in {path}")]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// Written by a later version of this library.
    #[error("{path} has format {found}; this version reads up to {known}, use a later one")]
    UnknownFormat {
        /// The file that says so.
        path: PathBuf,
        /// The format it says.
        found: u16,
        /// The latest that is known here.
        known: u16,
    },
}

impl Error {
    /// Wraps what the operating system answered to `operation` on `path`.
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::NoSpace { operation, path, source }
            }
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                Self::ReadOnly { operation, path, source }
            }
            _ => Self::Io { operation, path, source },
        }
    }

    /// Whether the disk refused, so that everything since the last successful write is undone.
    pub fn is_disk(&self) -> bool {
        matches!(
            self,
            Self::NoSpace { .. } | Self::ReadOnly { .. } | Self::Io { .. } | Self::NotDurable { .. }
        )
    }

    /// Whether the same call may succeed later without anybody changing the request.
    pub fn is_retryable(&self) -> bool {
        self.is_disk()
    }
}
