//! JetStream as a server has it: opened before anybody is let in, and looked at from outside. The calls into it are made
//! by the shard that owns it.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

pub use ostler_jetstream::*;

use ostler_broker_proto::subject::matches;
use ostler_broker_store::{DirLock, Severity};
use tokio::sync::oneshot;

use crate::connect::CLAIMED_VERSION;
use crate::error::{Error, JetStreamError};
use crate::server::Server;
use crate::shard::inbox::Envelope;
use crate::shared::Shared;
use crate::snapshot::{ANSWER_MAX, Unanswered, gather};
use crate::time::unix_nanos;

/// The shard that owns JetStream.
pub(crate) const OWNER: usize = 0;

/// An open JetStream and its directory.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) jetstream: Box<JetStream>,
    pub(crate) store: Store,
}

/// What belongs to JetStream beside itself.
#[derive(Debug)]
pub(crate) struct Store {
    /// Kept until everything is closed.
    pub(crate) _lock: DirLock,
    pub(crate) dir: PathBuf,
    pub(crate) recovered: Vec<Recovered>,
    /// Filters of what it sends nothing on.
    sealed: Vec<String>,
}

impl Store {
    /// Whether JetStream sends nothing on a subject: see [`Builder::jetstream_sealed`](crate::Builder::jetstream_sealed).
    pub(crate) fn is_sealed(&self, subject: &[u8]) -> bool {
        self.sealed.iter().any(|filter| matches(filter.as_bytes(), subject))
    }
}

/// JetStream at this moment. See [`Server::jetstream`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Snapshot {
    /// What all streams together use, and what they may.
    pub account: AccountInfo,
    /// Where the streams are.
    pub store_dir: PathBuf,
    /// What was found with each stream when the server started. Whoever runs it wants to hear of a stream that is not
    /// served, or that has findings.
    pub recovered: Vec<Recovered>,
}

/// What can be done with JetStream by whoever wants to know something.
pub(crate) type Look = Box<dyn FnOnce(Option<(&mut JetStream, &Store)>) + Send>;

/// Takes the directory and reads what is there. Blocks as long as the disk takes.
pub(crate) fn open(mut options: Options, sealed: Vec<String>) -> Result<Opened, Error> {
    if options.seed == 0 {
        options.seed = fastrand::u64(..);
    }
    options.version = CLAIMED_VERSION.into();
    let dir = options.store_dir.clone();
    let create = |source| OpenError::Directory { path: dir.clone(), source };
    let opened = DirBuilder::new()
        .recursive(true)
        // Its owner's alone, as the files in it are.
        .mode(0o700)
        .create(&dir)
        .map_err(create)
        .map_err(JetStreamError::from)
        .and_then(|()| Ok(DirLock::take(&dir)?))
        .and_then(|lock| Ok((lock, JetStream::open(options, unix_nanos())?)));
    let (lock, (jetstream, recovered)) = opened.map_err(Error::JetStream)?;
    for Recovered { stream, served, findings, error, .. } in &recovered {
        for finding in findings {
            match finding.severity {
                Severity::Info => tracing::info!(stream, %finding, "a stream was not closed in order"),
                Severity::Warning => tracing::warn!(stream, %finding, "a stream has lost a protection"),
                Severity::Damage => tracing::error!(stream, served, %finding, "a stream is damaged"),
            }
        }
        if !served {
            tracing::error!(stream, error, "a stream is not served");
        }
    }
    tracing::info!(directory = %dir.display(), streams = recovered.len(), "JetStream is on");
    Ok(Opened { jetstream: Box::new(jetstream), store: Store { _lock: lock, dir, recovered, sealed } })
}

/// Has the shard that owns JetStream look at it; `None` when it is off. Cancel-safe.
pub(crate) async fn look<T: Send + 'static>(
    shared: &Shared,
    look: impl FnOnce(&mut JetStream, &Store) -> T + Send + 'static,
) -> Result<Option<T>, Unanswered> {
    if !shared.jetstream.is_on {
        return Ok(None);
    }
    if shared.is_stopping() {
        return Err(Unanswered);
    }
    let (seen_tx, seen) = oneshot::channel();
    let look: Look = Box::new(move |jetstream| {
        if let Some((jetstream, store)) = jetstream {
            // Who asked may have given up meanwhile.
            let _ = seen_tx.send(look(jetstream, store));
        }
    });
    shared.shards[OWNER].inbox.push(Envelope::Look(look));
    seen.await.map(Some).map_err(|_| Unanswered)
}

/// A snapshot. Cancel-safe.
pub(crate) async fn snapshot(shared: &Shared) -> Result<Option<Snapshot>, Unanswered> {
    look(shared, |jetstream, store| Snapshot {
        account: jetstream.account_info(),
        store_dir: store.dir.clone(),
        recovered: store.recovered.clone(),
    })
    .await
}

impl Server {
    /// JetStream at this moment; `None` when it is off. Blocks as [`connections`](Self::connections) does.
    ///
    /// # Errors
    /// [`Unanswered`] if the server is shut down or does not answer in time.
    pub fn jetstream(&self) -> Result<Option<Snapshot>, Unanswered> {
        gather::within(ANSWER_MAX, snapshot(self.shared())).ok_or(Unanswered)?
    }
}
