//! Opening: pragmas and numbered migrations.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::Error;

/// Every migration, oldest first; the version is the place in this list, from 1.
const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_agents_runs_output_events.sql"),
    include_str!("../migrations/0002_audit.sql"),
    include_str!("../migrations/0003_audit_place.sql"),
];

/// How long a lock of another program is waited for before the caller is told.
const BUSY_PATIENCE: Duration = Duration::from_secs(1);

/// Opens for writing and brings the schema up to date.
pub(crate) fn open_writer(path: &Path) -> Result<Connection, Error> {
    let damaged = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
            Error::Damaged { path: path.to_owned(), reason: error.to_string() }
        }
        _ => Error::sqlite("opening")(error),
    };
    // Only its owner may read it, wherever the directory stands; SQLite gives its companions the same mode.
    // When that fails, SQLite says why.
    drop(std::fs::File::options().append(true).create(true).mode(0o600).open(path));
    let mut connection = Connection::open(path).map_err(damaged)?;
    connection.busy_timeout(BUSY_PATIENCE).map_err(damaged)?;
    connection.pragma_update(None, "journal_mode", "wal").map_err(damaged)?;
    // FULL: an acknowledged commit survives a power cut. Group commit shares the fsync.
    connection.pragma_update(None, "synchronous", "full").map_err(damaged)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(damaged)?;
    let found: u32 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(damaged)?;
    let known = MIGRATIONS.len() as u32;
    if found > known {
        return Err(Error::TooNew { path: path.to_owned(), found, known });
    }
    for (index, sql) in MIGRATIONS.iter().enumerate().skip(found as usize) {
        let version = index as u32 + 1;
        let transaction = connection.transaction().map_err(damaged)?;
        transaction.execute_batch(sql).map_err(damaged)?;
        transaction.pragma_update(None, "user_version", version).map_err(damaged)?;
        transaction.commit().map_err(damaged)?;
        tracing::info!(version, "database migrated");
    }
    Ok(connection)
}

/// Opens for reading only.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(Error::sqlite("opening a reader"))?;
    connection.busy_timeout(BUSY_PATIENCE).map_err(Error::sqlite("opening a reader"))?;
    Ok(connection)
}
