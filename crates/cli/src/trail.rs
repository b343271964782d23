//! Reads the audit stream page by page, and follows it. What a page says about the chain is `chain.rs`'s business.

use std::time::Duration;

use jiff::Timestamp;
use ostler_client::{Error as BusError, From, Page, Stored};
use ostler_wire::{AUDIT_HASH_HEADER, AUDIT_STREAM, AgentId, AuditEntry, Subject};
use serde::Serialize;

use crate::connect::Session;
use crate::exit::{Exit, Failure, Outcome};

/// Entries asked for in one page.
const PAGE_ENTRIES: usize = 256;

/// Pause between two looks for an entry that was told and is not stored yet, or for a bus that is away.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How long an entry that was told is waited for: a disk that is full keeps it in the daemon's database.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

/// An entry with its place in the stream, as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Kept {
    /// Its number in the stream.
    pub(crate) stream_seq: u64,
    /// When the bus kept it.
    pub(crate) stored_at: Timestamp,
    /// The hash of the payload.
    pub(crate) hash: String,
    #[serde(flatten)]
    pub(crate) entry: AuditEntry,
}

/// A reader of one node's entries, or of one agent's.
pub(crate) struct Trail<'a> {
    session: &'a Session,
    filter: String,
    from: From,
    /// The chain and the number of the entry read last.
    last: Option<(String, u64)>,
}

impl<'a> Trail<'a> {
    /// Begins at `from`.
    pub(crate) fn new(session: &'a Session, agent: Option<&AgentId>, from: From) -> Self {
        let filter = match agent {
            Some(agent) => Subject::AuditAgent(session.node.clone(), agent.clone()).to_string(),
            None => Subject::audit_of_node(&session.node),
        };
        Self { session, filter, from, last: None }
    }

    /// The subjects it reads.
    pub(crate) fn filter(&self) -> &str {
        &self.filter
    }

    /// The next page as it was stored; empty behind the last entry.
    pub(crate) async fn page(&mut self) -> Outcome<Vec<Stored>> {
        let page = Page {
            stream: AUDIT_STREAM,
            filter: &self.filter,
            from: self.from,
            limit: PAGE_ENTRIES,
            header: AUDIT_HASH_HEADER,
        };
        let stored = self.session.client().read_stored(&page).await.map_err(unreadable)?;
        if let Some(last) = stored.last() {
            self.from = From::Sequence(last.seq + 1);
        }
        Ok(stored)
    }

    /// The next page of sound entries; `None` behind the last. A message that is none is left to `verify`.
    pub(crate) async fn entries(&mut self) -> Outcome<Option<Vec<Kept>>> {
        let page = self.page().await?;
        if page.is_empty() {
            return Ok(None);
        }
        let entries: Vec<Kept> = page.iter().filter_map(kept).collect();
        if let Some(last) = entries.last() {
            self.last = Some((last.entry.chain.clone(), last.entry.seq));
        }
        Ok(Some(entries))
    }

    /// Goes back so far that the newest `count` entries follow, or all there are.
    pub(crate) async fn newest(&mut self, count: usize) -> Outcome<Vec<Kept>> {
        let state = self.session.client().stream_state(AUDIT_STREAM).await.map_err(unreadable)?;
        let Some(state) = state else { return Err(no_stream()) };
        let mut back = count as u64 * 4;
        loop {
            let first = state.last_seq.saturating_sub(back) + 1;
            self.from = From::Sequence(first);
            let mut found = Vec::new();
            while let Some(entries) = self.entries().await? {
                found.extend(entries);
            }
            if found.len() >= count || first <= state.first_seq.max(1) {
                return Ok(found.split_off(found.len().saturating_sub(count)));
            }
            back = back.saturating_mul(8);
        }
    }

    /// Whether the entry of this message was read.
    fn has_read(&self, told: &AuditEntry) -> bool {
        self.last.as_ref().is_some_and(|(chain, seq)| *chain == told.chain && *seq >= told.seq)
    }

    /// Reads on until what was told is read too, or a moment has passed.
    pub(crate) async fn read_up_to(
        &mut self,
        told: Option<&AuditEntry>,
        mut show: impl FnMut(&Kept) -> Outcome,
    ) -> Outcome {
        let deadline = tokio::time::Instant::now() + STORE_PATIENCE;
        loop {
            match self.entries().await {
                Ok(Some(entries)) => {
                    entries.iter().try_for_each(&mut show)?;
                    continue;
                }
                Ok(None) => {}
                // The bus is there a moment before its streams are; it was there, so it comes back.
                Err(failure) if failure.is_daemon_away() || failure.is_unreadable_audit() => {
                    tokio::time::sleep(LOOK_INTERVAL).await;
                    continue;
                }
                Err(failure) => return Err(failure),
            }
            let is_done = told.is_none_or(|told| self.has_read(told));
            if is_done || tokio::time::Instant::now() >= deadline {
                return Ok(());
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Reads an entry out of what was stored.
fn kept(stored: &Stored) -> Option<Kept> {
    Some(Kept {
        stream_seq: stored.seq,
        stored_at: stored.time,
        hash: ostler_wire::audit_hash(&stored.payload),
        entry: AuditEntry::read(&stored.payload).ok()?,
    })
}

fn unreadable(error: BusError) -> Failure {
    match error {
        BusError::NoStreams { .. } => no_stream(),
        error => error.into(),
    }
}

/// There is no audit to read.
pub(crate) fn no_stream() -> Failure {
    Failure::no_audit(format!("the bus keeps no stream {AUDIT_STREAM}"))
        .hint("`ostler doctor` says why; docs/guide/audit.md has the details")
}

/// Where `since` begins, or the very first entry.
pub(crate) fn from(since: Option<Timestamp>) -> From {
    since.map_or(From::Sequence(1), From::Time)
}

impl Kept {
    /// False for what was stored since then and happened before.
    pub(crate) fn is_since(&self, since: Option<Timestamp>) -> bool {
        since.is_none_or(|since| self.entry.timestamp >= since)
    }
}

/// What fails for good.
pub(crate) fn broken(message: String) -> Failure {
    Failure::new(Exit::Broken, message).hint(
        "keep the state directory and the stream as they are and find out who changed them: docs/guide/audit.md",
    )
}
