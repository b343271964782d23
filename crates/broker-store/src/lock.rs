//! The lock on a directory of streams: who holds it is the only one who reads and writes there. It knows nothing of
//! what is in the directory, and waits for nobody.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The name of the file that is locked.
const NAME: &str = "lock";

/// A directory that belongs to this process until the value is dropped or the process ends, however it ends.
///
/// The system's lock is on a file `lock` in the directory (`flock`), in which stands the process id of its holder. The
/// file stays when the lock goes: a lock on a removed name would protect nothing.
#[derive(Debug)]
#[must_use = "the lock goes when this is dropped"]
pub struct DirLock {
    _file: File,
    path: PathBuf,
}

/// Why a directory was not locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody else has it. Stop that process, or use another directory.
    #[error("{} is in use by {}; stop it or use another directory", dir.display(), holder.map_or("another process".to_owned(), |pid| format!("process {pid}")))]
    Held {
        /// The directory.
        dir: PathBuf,
        /// Who, as far as the file tells.
        holder: Option<u32>,
    },
    /// The lock file cannot be created or locked.
    #[error("cannot lock {}; check that its directory is ours and that the file system knows locks", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
}

impl DirLock {
    /// Takes a directory that exists, to read and write in it.
    ///
    /// # Errors
    /// [`LockError::Held`] at once when another process has it, or another value in this one.
    pub fn take(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join(NAME);
        let failed = |source| LockError::Io { path: path.clone(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = lock(options.open(&path).map_err(failed)?, dir, &path)?;
        // A courtesy to whoever comes second. On a full disk the lock is as good without it.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file, path })
    }

    /// Takes a directory only to read in it: nothing is created or written. `None` when it was never locked, so that
    /// no server of this version can be using it.
    ///
    /// # Errors
    /// [`LockError::Held`] at once when another process has it, or another value in this one.
    pub fn take_to_read(dir: &Path) -> Result<Option<Self>, LockError> {
        let path = dir.join(NAME);
        match File::open(&path) {
            Ok(file) => Ok(Some(Self { _file: lock(file, dir, &path)?, path })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LockError::Io { path, source }),
        }
    }

    /// The file that is locked.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn lock(mut file: File, dir: &Path, path: &Path) -> Result<File, LockError> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            Err(LockError::Held { dir: dir.to_owned(), holder: text.trim().parse().ok() })
        }
        Err(TryLockError::Error(source)) => Err(LockError::Io { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::take(dir.path()).unwrap();
        let error = DirLock::take(dir.path()).unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        assert!(matches!(DirLock::take_to_read(dir.path()), Err(LockError::Held { .. })));
        drop(first);
        let _second = DirLock::take(dir.path()).unwrap();
    }

    #[test]
    fn a_reader_creates_nothing_and_keeps_writers_out() {
        let dir = tempfile::tempdir().unwrap();
        assert!(DirLock::take_to_read(dir.path()).unwrap().is_none());
        assert!(!dir.path().join(NAME).exists());
        drop(DirLock::take(dir.path()).unwrap());
        let _reader = DirLock::take_to_read(dir.path()).unwrap().unwrap();
        assert!(matches!(DirLock::take(dir.path()), Err(LockError::Held { .. })));
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = DirLock::take(&dir.path().join("nowhere")).unwrap_err();
        assert!(error.to_string().contains("nowhere"), "{error}");
    }
}
