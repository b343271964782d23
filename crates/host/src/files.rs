//! The files of a run: read once at start, written while it lives. They decide nothing.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ostler_wire::{HOST_FILE, HostRecord, PROMPTED_FILE, RunSpec, SESSION_FILE, SPEC_FILE, SPOOL_FILE};

/// The longest session id that is believed, in bytes; they are UUIDs.
const SESSION_BYTES_MAX: u64 = 1024;

/// A file of the run that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{verb} {}: {reason}", path.display())]
pub(crate) struct Error {
    verb: &'static str,
    path: PathBuf,
    reason: String,
}

impl Error {
    fn new(verb: &'static str, path: &Path, reason: &dyn std::fmt::Display) -> Self {
        Self { verb, path: path.to_owned(), reason: reason.to_string() }
    }
}

/// Reads what the daemon left for us.
///
/// # Errors
///
/// Names the file; the daemon that started this host wrote it, so there is nothing a person can do but report it.
pub(crate) fn read_spec(run_dir: &Path) -> Result<RunSpec, Error> {
    let path = run_dir.join(SPEC_FILE);
    let bytes = fs::read(&path).map_err(|error| Error::new("cannot read", &path, &error))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::new("cannot understand", &path, &error))
}

/// The session of the agent's last run, if it left one.
pub(crate) fn read_session(agent_dir: &Path) -> Option<String> {
    let path = agent_dir.join(SESSION_FILE);
    if fs::metadata(&path).ok()?.len() > SESSION_BYTES_MAX {
        return None;
    }
    let text = fs::read_to_string(&path).ok()?;
    let session = text.trim();
    (!session.is_empty()).then(|| session.to_owned())
}

/// Keeps the session for the next start, or forgets it.
///
/// # Errors
///
/// Names the file; the conversation starts afresh next time.
pub(crate) fn write_session(agent_dir: &Path, session: Option<&str>) -> Result<(), Error> {
    let path = agent_dir.join(SESSION_FILE);
    match session {
        Some(session) => replace(&path, format!("{session}\n").as_bytes()),
        None => match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
    }
    .map_err(|error| Error::new("cannot write", &path, &error))
}

/// True when an earlier run was given the first prompt.
pub(crate) fn is_prompted(agent_dir: &Path) -> bool {
    agent_dir.join(PROMPTED_FILE).exists()
}

/// Notes that the first prompt was given.
///
/// # Errors
///
/// Names the file; the next run would give the prompt again.
pub(crate) fn mark_prompted(agent_dir: &Path) -> Result<(), Error> {
    let path = agent_dir.join(PROMPTED_FILE);
    replace(&path, b"").map_err(|error| Error::new("cannot write", &path, &error))
}

/// Writes the host's record.
///
/// # Errors
///
/// Names the file; the next change tries again.
pub(crate) fn write_record(run_dir: &Path, record: &HostRecord) -> Result<(), Error> {
    let path = run_dir.join(HOST_FILE);
    let bytes = serde_json::to_vec(record).expect("a record with string keys always serialises");
    replace(&path, &bytes).map_err(|error| Error::new("cannot write", &path, &error))
}

/// Leaves what was not acknowledged to the daemon: on disk when this returns.
///
/// # Errors
///
/// Names the file and the number of messages that are lost.
pub(crate) fn write_spool<'a>(
    run_dir: &Path,
    messages: impl Iterator<Item = &'a Bytes>,
) -> Result<usize, Error> {
    let path = run_dir.join(SPOOL_FILE);
    let mut count = 0;
    let write = || -> io::Result<usize> {
        let temporary = path.with_extension("tmp");
        let mut file = io::BufWriter::new(create_private(&temporary)?);
        for message in messages {
            file.write_all(message)?;
            file.write_all(b"\n")?;
            count += 1;
        }
        file.into_inner()?.sync_all()?;
        fs::rename(&temporary, &path)?;
        // The name is on disk only when its directory is.
        File::open(run_dir)?.sync_all()?;
        Ok(count)
    };
    write().map_err(|error| Error::new("unacknowledged output is lost: cannot write", &path, &error))
}

/// Makes or empties a file that only its owner may read: statuses and output are nobody else's business.
fn create_private(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Replaces a file so that a reader sees the old or the new content, never a part.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    create_private(&temporary)?.write_all(bytes)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_kept_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_session(dir.path()), None);
        write_session(dir.path(), None).unwrap();
        write_session(dir.path(), Some("s-1")).unwrap();
        assert_eq!(read_session(dir.path()).as_deref(), Some("s-1"));
        write_session(dir.path(), None).unwrap();
        assert_eq!(read_session(dir.path()), None);
    }

    #[test]
    fn a_spool_holds_one_message_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let messages = [Bytes::from_static(b"{\"a\":1}"), Bytes::from_static(b"{\"a\":2}")];
        assert_eq!(write_spool(dir.path(), messages.iter()).unwrap(), 2);
        assert_eq!(fs::read(dir.path().join(SPOOL_FILE)).unwrap(), b"{\"a\":1}\n{\"a\":2}\n");
        let gone = dir.path().join("gone");
        assert!(write_spool(&gone, messages.iter()).unwrap_err().to_string().contains("gone/spool.jsonl"));
    }

    #[test]
    fn a_broken_specification_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_spec(dir.path()).unwrap_err().to_string().contains("spec.json"));
        fs::write(dir.path().join(SPEC_FILE), b"{}").unwrap();
        assert!(read_spec(dir.path()).unwrap_err().to_string().contains("missing field"));
    }
}
