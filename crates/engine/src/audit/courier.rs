//! Carries what waits to the bus: audit entries one by one and in order, desired states as they differ.
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

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ostler_client::{Client, Connection, Error as BusError};
use ostler_store::{Reader, Store, Write};
use ostler_wire::{
    AUDIT_HASH_HEADER, AUDIT_STREAM, AgentId, AuditEntry, AuditStatus, DESIRED_STREAM, DesiredAgent, NodeId,
    Subject, Timestamp,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use super::{AuditOptions, stream};
use crate::event::Event;
use crate::outcome::to_json;

/// Entries read from the database at a time, and taken out of it in one transaction.
const PAGE_ENTRIES: u32 = 64;

/// The first and the longest wait before it is tried again.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LONGEST: Duration = Duration::from_secs(15);

/// How long it must fail before somebody is told: a server that restarts is back by then.
const PATIENCE_SECONDS: i64 = 5;

/// How often is looked whether the streams still are what they were, when nothing else happens.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// How long the end waits for what is under way.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);

/// The header that makes a value of a key-value bucket a marker.
const KV_OPERATION: &str = "KV-Operation";

/// What the engine is to know.
#[derive(Debug)]
pub(crate) enum News {
    /// Nothing could be stored for a while.
    Trouble(String),
    /// Everything is stored again.
    Mended,
    /// The stream does not end where our chain says.
    Tampered(String),
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
        let rounds = Rounds {
            route,
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
    /// What the bucket has of our agents; `None` while the streams were not looked at.
    joined: Option<BTreeMap<AgentId, Bytes>>,
}

impl Route {
    pub(crate) fn new(client: Client, store: Store, node: NodeId, options: AuditOptions) -> Self {
        Self { client, store, node, options, joined: None }
    }

    /// Makes sure that the streams are there, and finds out where our chain ends in them. Returns what does not fit.
    pub(crate) async fn join(&mut self) -> Result<Option<String>, Fault> {
        let state = self.client.ensure_stream(&stream::audit(&self.options)).await?;
        let tampered = self.compare(state.is_none_or(|state| state.last_seq == 0)).await?;
        self.client.ensure_stream(&stream::desired()).await?;
        self.joined = Some(self.desired_there().await?);
        Ok(tampered)
    }

    /// Makes sure that the streams can be had, and leaves the rest to the first round.
    pub(crate) async fn check(&mut self) -> Result<(), Fault> {
        self.client.ensure_stream(&stream::audit(&self.options)).await?;
        self.client.ensure_stream(&stream::desired()).await?;
        Ok(())
    }

    /// Compares the end of our chain with the stream's.
    async fn compare(&self, is_new: bool) -> Result<Option<String>, Fault> {
        let filter = Subject::audit_of_node(&self.node);
        let last = self.client.last_stored(AUDIT_STREAM, &filter, AUDIT_HASH_HEADER).await?;
        let known = self.read(|reader| reader.audit_status()).await?;
        let entry = last.as_ref().and_then(|last| AuditEntry::read(&last.payload).ok());
        let Some((last, entry)) = last.zip(entry.filter(|entry| entry.chain == known.chain)) else {
            let may_be_gone = !is_new && self.options.age_ms_max.is_some();
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
        if entry.seq == known.stored {
            return Ok((hash != known.stored_hash).then(|| {
                format!("entry {} of this node's audit is not the one that was stored", entry.seq)
            }));
        }
        let seq = entry.seq;
        if self.read(move |reader| reader.audit_waiting_hash(seq)).await?.as_ref() == Some(&hash) {
            // Stored, and we ended before we could note it.
            self.store.commit(vec![Write::AuditStored { seq, hash }]).await?;
            return Ok(None);
        }
        self.store.commit(vec![Write::RenewAudit(Timestamp::now())]).await?;
        Ok(Some(format!(
            "the stream {AUDIT_STREAM} has entry {seq} of this node, which the database does not know: the database \
             is an older copy, or somebody else wrote it; a new chain begins"
        )))
    }

    async fn desired_there(&self) -> Result<BTreeMap<AgentId, Bytes>, Fault> {
        let filters = [Subject::desired_of_node(&self.node)];
        let values = match self.client.last_of_each(DESIRED_STREAM, &filters, KV_OPERATION).await {
            // Too many to be told at once: all are written anew.
            Err(BusError::Stream { err_code: 413, .. }) => Vec::new(),
            values => values?,
        };
        let live = values.into_iter().filter(|value| value.header.is_none());
        Ok(live
            .filter_map(|value| match Subject::parse(&value.subject) {
                Ok(Subject::Desired(_, agent)) => Some((agent, value.payload)),
                _ => None,
            })
            .collect())
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
            match self.client.store(&entry.subject, Some(id), &headers, payload).await {
                Ok(_) => stored = Some(Write::AuditStored { seq: entry.seq, hash: entry.hash.clone() }),
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

    /// Brings the bucket up to what is wanted.
    async fn publish_desired(&mut self) -> Result<(), Fault> {
        let agents = self.read(|reader| reader.agents()).await?;
        let node = self.node.clone();
        let wanted: BTreeMap<AgentId, Bytes> = agents
            .into_iter()
            .map(|(row, _)| {
                let desired = DesiredAgent {
                    agent_id: row.agent_id.clone(),
                    node: node.clone(),
                    desired: row.desired,
                    spawn: row.spawn,
                    created_at: row.created_at,
                };
                (row.agent_id, to_json(&desired))
            })
            .collect();
        let Some(there) = self.joined.as_mut() else { return Ok(()) };
        for (agent, value) in &wanted {
            if there.get(agent) != Some(value) {
                let subject = Subject::Desired(node.clone(), agent.clone()).to_string();
                self.client.store(&subject, None, &[], value.clone()).await?;
                there.insert(agent.clone(), value.clone());
            }
        }
        let gone: Vec<AgentId> = there.keys().filter(|agent| !wanted.contains_key(agent)).cloned().collect();
        for agent in gone {
            let subject = Subject::Desired(node.clone(), agent.clone()).to_string();
            self.client.store(&subject, None, &[(KV_OPERATION, "DEL")], Bytes::new()).await?;
            there.remove(&agent);
        }
        Ok(())
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
            match self.round().await {
                Ok(()) => {
                    self.mended().await;
                    wait = RETRY_FIRST;
                    // Who looks only when there is something to store notices late that the stream is gone.
                    if tokio::time::timeout(LOOK_INTERVAL, self.nudge.notified()).await.is_err() {
                        self.route.joined = None;
                    }
                }
                Err(fault) => {
                    self.route.joined = None;
                    self.failed(&fault).await;
                    tokio::time::sleep(wait.mul_f64(0.75 + fastrand::f64() / 4.0)).await;
                    wait = (wait * 2).min(RETRY_LONGEST);
                    self.route.client.connected().await;
                }
            }
        }
    }

    async fn round(&mut self) -> Result<(), Fault> {
        if self.route.joined.is_none() {
            // Whatever the bucket has by now is compared with what is wanted.
            self.wishes.store(true, Ordering::Release);
            if let Some(tampered) = self.route.join().await? {
                tracing::error!("{tampered}");
                self.tell(News::Tampered(tampered)).await;
            }
        }
        // A fault joins anew, which sets it again.
        if self.wishes.swap(false, Ordering::AcqRel) {
            self.route.publish_desired().await?;
        }
        loop {
            let more = self.route.carry().await?;
            self.show().await?;
            if !more {
                return Ok(());
            }
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
