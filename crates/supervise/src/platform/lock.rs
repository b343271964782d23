//! A file that one process holds: who has the lock owns what the file stands for.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// A held lock; the system releases it when this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
    path: PathBuf,
}

impl FileLock {
    /// Returns the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Why a lock was not got.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("`{}` is locked by {}", path.display(), holder.map_or("another process".to_owned(), |pid| format!("process {pid}")))]
    Held {
        /// The file.
        path: PathBuf,
        /// Who, as far as the file tells.
        holder: Option<u32>,
    },
    /// The file cannot be used.
    #[error("lock file `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Takes the lock on a file without waiting, creating it if needed, and writes our process id into it.
///
/// The file is never removed: a lock on a removed name protects nothing.
///
/// # Errors
/// [`LockError::Held`] when another process (or another call in this one) has it.
pub fn lock_file(path: &Path) -> Result<FileLock, LockError> {
    let failed = |source| LockError::Io { path: path.to_owned(), source };
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            // The holder's id is a courtesy; a file we cannot read still is a held lock.
            let _ = file.read_to_string(&mut text);
            return Err(LockError::Held { path: path.to_owned(), holder: text.trim().parse().ok() });
        }
        Err(error) => return Err(failed(error.into())),
    }
    file.set_len(0).map_err(failed)?;
    file.rewind().map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(FileLock { _file: file, path: path.to_owned() })
}
