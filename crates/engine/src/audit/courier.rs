//! Carries what waits to the bus: audit entries one by one and in order, and behind them desired states (`desired.rs`).
//!
//! ```text
//!   away --- join: streams there, where does our chain end there? ---> joined --- entry, stored, entry, stored ...
//!    ^                                                                   |
//!    +---- anything fails: told after a while, tried again later --------+
//! ```
//!
//! *Exactly once.* An entry is taken out of the outbox when the bus has acknowledged it. After a crash, or an answer
//! that did not come, joining asks the stream for our last entry there, so that nothing depends on how long a server
//! remembers message ids. One entry is under way at a time: behind one that was refused none is stored, and the stream
//! has the chain's order.
//!
//! *What was tampered with.* Our last entry in the stream must be the one we know to be stored. An earlier one means
//! that the end of the stream is gone, a later one that our database is older than the stream; both are alerts.
//!
//! Decides nothing about agents, and nobody waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ostler_client::{Client, Connection, Error as BusError, Narrower, StreamState};
use ostler_store::{Reader, Store, Write};
use ostler_wire::{
    AUDIT_HASH_HEADER, AUDIT_STREAM, AuditEntry, AuditStatus, AuditStream, NodeId, Subject, Timestamp,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::desired::Bucket;
use super::{AuditOptions, stream};
use crate::event::Event;

/// Entries read from the database at a time, and taken out of it in one transaction.
const PAGE_ENTRIES: u32 = 64;

/// The first and the longest wait before it is tried again.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(250);
pub(super) const RETRY_LONGEST: Duration = Duration::from_secs(15);

/// How long it must fail before somebody is told: a server that restarts is back by then.
const PATIENCE_SECONDS: i64 = 5;

/// How often is looked whether the streams still are what they were, when nothing else happens.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// How long the end waits for what is under way.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);

/// What the engine is to know.
#[derive(Debug)]
pub(crate) enum News {
    /// Nothing could be stored for a while.
    Trouble(String),
    /// Everything is stored again.
    Mended,
    /// The stream does not end where our chain says.
    Tampered(String),
    /// The bucket does not say what is wanted.
    Unpublished(String),
}

/// Why nothing was stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Store(#[from] ostler_store::Error),
    #[error("the database's reader ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// The courier's end that the engine holds.
#[derive(Debug)]
pub(crate) struct Courier {
    nudge: Arc<Notify>,
    /// Whether a wish changed since the bucket was last brought up to them.
    wishes: Arc<AtomicBool>,
    status: watch::Receiver<AuditStatus>,
    task: JoinHandle<()>,
}

impl Courier {
    /// Begins to carry. News go to `events`; `status` is where the chain stands.
    pub(crate) fn start(route: Route, status: AuditStatus, events: mpsc::Sender<Event>) -> Self {
        let nudge = Arc::new(Notify::new());
        let (status_tx, status) = watch::channel(status);
        let wishes = Arc::new(AtomicBool::new(true));
        let bucket = Bucket::new(route.client.clone(), route.store.clone(), route.node.clone());
        let rounds = Rounds {
            route,
            bucket,
            nudge: Arc::clone(&nudge),
            wishes: Arc::clone(&wishes),
            events,
            status: status_tx,
            trouble: None,
        };
        Self { nudge, wishes, status, task: tokio::spawn(rounds.run()) }
    }

    /// Something waits.
    pub(crate) fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// What is wanted of an agent changed.
    pub(crate) fn wish(&self) {
        self.wishes.store(true, Ordering::Release);
        self.nudge();
    }

    /// How the audit fares.
    pub(crate) fn status(&self) -> AuditStatus {
        self.status.borrow().clone()
    }

    /// Ends it, after what waits could be stored or a moment has passed. What is left goes with the next daemon.
    pub(crate) async fn end(self) {
        self.nudge();
        let mut status = self.status.clone();
        let is_done = |status: &AuditStatus| status.waiting() == 0 || status.problem.is_some();
        // What was just written is not in the status yet: the round after the nudge puts it there.
        status.mark_unchanged();
        let _ = tokio::time::timeout(DRAIN_PATIENCE, async {
            while status.changed().await.is_ok() && !is_done(&status.borrow()) {}
        })
        .await;
        self.task.abort();
        // Cancelled, which is what was asked for.
        let _ = self.task.await;
    }
}

/// Where entries come from and go to.
#[derive(Debug)]
pub(crate) struct Route {
    client: Client,
    store: Store,
    node: NodeId,
    options: AuditOptions,
    /// Whether the stream was looked at since something failed.
    is_joined: bool,
}

impl Route {
    pub(crate) fn new(client: Client, store: Store, node: NodeId, options: AuditOptions) -> Self {
        Self { client, store, node, options, is_joined: false }
    }

    /// Makes sure that the stream is there, and finds out where our chain ends in it. Returns what does not fit.
    pub(crate) async fn join(&mut self) -> Result<Option<String>, Fault> {
        let state = match self.ensure_audit().await? {
            Some(state) => Some(state),
            None => self.client.stream_state(AUDIT_STREAM).await?,
        };
        let state = state.map(|state| state.of_audit()).unwrap_or_default();
        let tampered = self.compare(&state).await?;
        self.store.commit(vec![Write::AuditStream(state.created)]).await?;
        self.is_joined = true;
        Ok(tampered)
    }

    async fn ensure_audit(&self) -> Result<Option<StreamState>, Fault> {
        let narrower = if self.options.shared { Narrower::Leave } else { Narrower::Apply };
        Ok(self.client.ensure_stream(&stream::audit(&self.options), narrower).await?)
    }

    /// Makes sure that the streams can be had, and leaves the rest to the first round.
    pub(crate) async fn check(&mut self) -> Result<(), Fault> {
        self.ensure_audit().await?;
        self.client.ensure_stream(&stream::desired(), Narrower::Apply).await?;
        Ok(())
    }

    /// Compares the end of our chain with the stream's.
    async fn compare(&self, stream: &AuditStream) -> Result<Option<String>, Fault> {
        let filter = Subject::audit_of_node(&self.node);
        let last = self.client.last_stored(AUDIT_STREAM, &filter, AUDIT_HASH_HEADER).await?;
        let known = self.read(|reader| reader.audit_status()).await?;
        let entry = last.as_ref().and_then(|last| AuditEntry::read(&last.payload).ok());
        let Some((last, entry)) = last.zip(entry.filter(|entry| entry.chain == known.chain)) else {
            let may_be_gone = !known.is_elsewhere(stream) && known.may_have_gone(stream, Timestamp::now());
            return Ok((known.stored > 0 && !may_be_gone).then(|| {
                format!(
                    "entry {} of this node's audit was stored, and the stream {AUDIT_STREAM} has none",
                    known.stored
                )
            }));
        };
        let hash = ostler_wire::audit_hash(&last.payload);
        if entry.seq < known.stored {
            return Ok(Some(format!(
                "entry {} of this node's audit was stored, and the stream {AUDIT_STREAM} ends at {}",
                known.stored, entry.seq
            )));
        }
        if known.is_elsewhere(stream) {
            // Whoever makes it anew and lets us store the next entries into it has taken all before.
            return Ok(Some(format!(
                "the stream {AUDIT_STREAM} was deleted and made anew: what it had before {} is gone",
                stream.created
            )));
        }
        if entry.seq == known.stored {
            return Ok((hash != known.stored_hash).then(|| {
                format!("entry {} of this node's audit is not the one that was stored", entry.seq)
            }));
        }
        let seq = entry.seq;
        if self.read(move |reader| reader.audit_waiting_hash(seq)).await?.as_ref() == Some(&hash) {
            // Stored, and we ended before we could note it.
            self.store
                .commit(vec![Write::AuditStored { seq, hash, stream_seq: last.seq, at: last.time }])
                .await?;
            return Ok(None);
        }
        self.store.commit(vec![Write::RenewAudit(Timestamp::now())]).await?;
        Ok(Some(format!(
            "the stream {AUDIT_STREAM} has entry {seq} of this node, which the database does not know: the database \
             is an older copy, or somebody else wrote it; a new chain begins"
        )))
    }

    /// Stores entries up to a page. Returns whether there may be more.
    async fn carry(&self) -> Result<bool, Fault> {
        let page = self.read(|reader| reader.audit_waiting(PAGE_ENTRIES)).await?;
        let mut stored = None;
        let mut fault = None;
        for entry in &page {
            let id = &entry.hash;
            let headers = [(AUDIT_HASH_HEADER, entry.hash.as_str())];
            let payload = Bytes::from(entry.payload.clone());
            // Before the stream has it, as the stream counts its age from then on.
            let at = Timestamp::now();
            match self.client.store(&entry.subject, Some(id), &headers, payload).await {
                Ok(stream_seq) => {
                    stored =
                        Some(Write::AuditStored { seq: entry.seq, hash: entry.hash.clone(), stream_seq, at });
                }
                Err(error) => {
                    fault = Some(error);
                    break;
                }
            }
        }
        // Also before a fault: what is stored is not sent again.
        self.store.commit(Vec::from_iter(stored)).await?;
        match fault {
            Some(fault) => Err(fault.into()),
            None => Ok(page.len() == PAGE_ENTRIES as usize),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(Reader<'_>) -> Result<T, ostler_store::Error> + Send + 'static,
    ) -> Result<T, Fault> {
        let store = self.store.clone();
        Ok(tokio::task::spawn_blocking(move || store.read(query)).await??)
    }
}

/// Since when it fails, and whether that was told.
#[derive(Debug)]
struct Trouble {
    since: Timestamp,
    text: String,
    told: bool,
}

/// The courier's task.
struct Rounds {
    route: Route,
    bucket: Bucket,
    nudge: Arc<Notify>,
    wishes: Arc<AtomicBool>,
    events: mpsc::Sender<Event>,
    status: watch::Sender<AuditStatus>,
    trouble: Option<Trouble>,
}

impl Rounds {
    async fn run(mut self) {
        let mut wait = RETRY_FIRST;
        loop {
            let carried = self.round().await;
            self.publish().await;
            match carried {
                Ok(()) => {
                    self.mended().await;
                    wait = RETRY_FIRST;
                    // Who looks only when there is something to store notices late that the stream is gone.
                    let look_at = Instant::now() + LOOK_INTERVAL;
                    let until = self.bucket.again_at().map_or(look_at, |again_at| again_at.min(look_at));
                    if tokio::time::timeout_at(until, self.nudge.notified()).await.is_err() {
                        self.route.is_joined = false;
                    }
                }
                Err(fault) => {
                    self.route.is_joined = false;
                    self.failed(&fault).await;
                    tokio::time::sleep(wait.mul_f64(0.75 + fastrand::f64() / 4.0)).await;
                    wait = (wait * 2).min(RETRY_LONGEST);
                    self.route.client.connected().await;
                }
            }
        }
    }

    async fn round(&mut self) -> Result<(), Fault> {
        if !self.route.is_joined {
            // Whatever the bucket has by now is compared with what is wanted.
            self.bucket.look_again();
            if let Some(tampered) = self.route.join().await? {
                tracing::error!("{tampered}");
                self.tell(News::Tampered(tampered)).await;
            }
        }
        loop {
            let more = self.route.carry().await?;
            self.show().await?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Brings the bucket up to what is wanted. Behind the entries, and no fault of it holds them up.
    async fn publish(&mut self) {
        if self.wishes.swap(false, Ordering::AcqRel) {
            self.bucket.wish();
        }
        if let Some(problem) = self.bucket.round().await {
            tracing::warn!(problem, "what is wanted of agents is not all in its bucket");
            self.tell(News::Unpublished(problem)).await;
        }
    }

    /// Puts where the chain stands into the status.
    async fn show(&self) -> Result<(), Fault> {
        let mut status = self.route.read(|reader| reader.audit_status()).await?;
        if let Some(trouble) = &self.trouble {
            status.problem = Some(trouble.text.clone());
            status.problem_since = Some(trouble.since);
        }
        self.status.send_replace(status);
        Ok(())
    }

    async fn mended(&mut self) {
        let Some(trouble) = self.trouble.take() else { return };
        if trouble.told {
            self.tell(News::Mended).await;
        }
        if let Err(fault) = self.show().await {
            tracing::warn!(%fault, "the audit's state cannot be read");
        }
    }

    async fn failed(&mut self, fault: &Fault) {
        let now = Timestamp::now();
        let trouble =
            self.trouble.get_or_insert_with(|| Trouble { since: now, text: String::new(), told: false });
        trouble.text = fault.to_string();
        let is_old = now.as_second() - trouble.since.as_second() >= PATIENCE_SECONDS;
        // While the bus is away nobody could be told, and everybody sees it anyway.
        let is_up = matches!(*self.route.client.connection().borrow(), Connection::Up(_));
        let news = (is_old && is_up && !trouble.told).then(|| {
            trouble.told = true;
            News::Trouble(trouble.text.clone())
        });
        tracing::debug!(%fault, "the audit is not stored");
        if let Some(news) = news {
            tracing::warn!(%fault, "the audit is not stored; entries wait in the database");
            self.tell(news).await;
        }
        if let Err(fault) = self.show().await {
            tracing::warn!(%fault, "the audit's state cannot be read");
        }
    }

    async fn tell(&self, news: News) {
        // A closed queue means the engine has ended.
        let _ = self.events.send(Event::Audit(news)).await;
    }
}
