//! What can go wrong with the database, cut by what the caller can do about it.

use std::path::PathBuf;

/// A fault of the database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk is full or not writable; nothing of the batch was written. Try again when there is space.
    #[error("the database cannot be written: {0}")]
    NotWritable(String),
    /// The file is damaged or not a database; restore it or move it away.
    #[error("the database {} is damaged: {reason}; move it away and start again, or restore a copy", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        reason: String,
    },
    /// A newer version of the program wrote it; use that version.
    #[error("the database {} has schema version {found}, this program knows {known}; use the newer program", .path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// A row does not read back as what was written into it.
    #[error("a row of table {table} cannot be read: {reason}")]
    Row {
        /// The table.
        table: &'static str,
        /// Why.
        reason: String,
    },
    /// Anything else SQLite says: a fault of ours.
    #[error("the database refused {operation}: {source}")]
    Sqlite {
        /// What was tried.
        operation: &'static str,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// The store was closed.
    #[error("the database is closed")]
    Closed,
}

impl Error {
    /// True when the same call may succeed later without anything being changed by us.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NotWritable(_))
    }

    pub(crate) fn sqlite(operation: &'static str) -> impl Fn(rusqlite::Error) -> Self {
        move |source| {
            use rusqlite::ErrorCode as Code;
            match source.sqlite_error_code() {
                Some(
                    Code::DiskFull
                    | Code::ReadOnly
                    | Code::SystemIoFailure
                    | Code::CannotOpen
                    // Another program holds it; ours is the only one that should, but a person may look inside.
                    | Code::DatabaseBusy
                    | Code::DatabaseLocked
                    | Code::OutOfMemory,
                ) => {
                    Self::NotWritable(source.to_string())
                }
                _ => Self::Sqlite { operation, source },
            }
        }
    }
}
