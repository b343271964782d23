//! The store's handle and the thread that owns the writing connection.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::{Error, Reader, Write, migrate};

/// Batches that may wait for the writer; when so many wait, [`Store::commit`] waits too.
pub const COMMITS_WAITING_MAX: usize = 64;

/// Idle reading connections kept open.
const READERS_IDLE_MAX: usize = 4;

struct Batch {
    writes: Arc<[Write]>,
    done: oneshot::Sender<Result<(), Error>>,
}

/// The database. Clones share it; the last one to go closes it.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    batches: mpsc::Sender<Batch>,
    readers: Mutex<Vec<Connection>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens the database at `path`, makes it when it does not exist, and brings its schema up to date.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] and [`Error::TooNew`] name the file and the remedy; [`Error::NotWritable`] the reason.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let connection = migrate::open_writer(path)?;
        let (batches, batches_rx) = mpsc::channel(COMMITS_WAITING_MAX);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write_batches(connection, batches_rx))
            .map_err(|error| Error::NotWritable(format!("the writer thread cannot be started: {error}")))?;
        Ok(Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                batches,
                readers: Mutex::new(Vec::new()),
                writer: Mutex::new(Some(writer)),
            }),
        })
    }

    /// Writes a batch: all of it, on disk when this returns, or nothing.
    ///
    /// Not cancel-safe: a cancelled call may or may not have written.
    ///
    /// # Errors
    ///
    /// [`Error::NotWritable`] when the disk is full or read-only: try again later.
    pub async fn commit(&self, writes: impl Into<Arc<[Write]>>) -> Result<(), Error> {
        let writes = writes.into();
        if writes.is_empty() {
            return Ok(());
        }
        let (done, done_rx) = oneshot::channel();
        self.inner.batches.send(Batch { writes, done }).await.map_err(|_| Error::Closed)?;
        done_rx.await.map_err(|_| Error::Closed)?
    }

    /// Reads on a connection of its own; blocks the calling thread for as long as `query` takes.
    ///
    /// # Errors
    ///
    /// Whatever `query` returns, or why no connection could be opened.
    pub fn read<T>(&self, query: impl FnOnce(Reader<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let pooled = self.inner.readers.lock().pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => migrate::open_reader(&self.inner.path)?,
        };
        let result = query(Reader { connection: &connection });
        let mut readers = self.inner.readers.lock();
        if readers.len() < READERS_IDLE_MAX {
            readers.push(connection);
        }
        result
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Closing the queue ends the writer once it has written what waits.
        let (closed, _) = mpsc::channel(1);
        self.batches = closed;
        if let Some(writer) = self.writer.lock().take() {
            let _ = writer.join();
        }
    }
}

fn write_batches(mut connection: Connection, mut batches: mpsc::Receiver<Batch>) {
    while let Some(first) = batches.blocking_recv() {
        let mut group = vec![first];
        while let Ok(batch) = batches.try_recv() {
            group.push(batch);
        }
        match write_group(&mut connection, &group) {
            Ok(()) => {
                for batch in group {
                    let _ = batch.done.send(Ok(()));
                }
            }
            Err(error) if group.len() == 1 => {
                if let Some(batch) = group.pop() {
                    let _ = batch.done.send(Err(error));
                }
            }
            // One bad batch must not fail its neighbours: each is tried alone.
            Err(_) => {
                for batch in group {
                    let result = write_group(&mut connection, std::slice::from_ref(&batch));
                    let _ = batch.done.send(result);
                }
            }
        }
    }
}

fn write_group(connection: &mut Connection, group: &[Batch]) -> Result<(), Error> {
    let fault = Error::sqlite("a transaction");
    // Dropping an uncommitted transaction rolls it back.
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(&fault)?;
    for write in group.iter().flat_map(|batch| batch.writes.iter()) {
        write.apply(&transaction)?;
    }
    transaction.commit().map_err(&fault)
}
