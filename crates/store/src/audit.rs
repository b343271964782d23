//! Tables `audit_chain` and `audit_outbox`: what happened, chained by hashes in the transaction that records the fact,
//! and kept here until the bus says that it is on disk there. Sending it is somebody else's.

use ostler_wire::{AgentId, AuditEntry, AuditStatus, JsonMap, NodeId, Timestamp, audit_hash};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::agents::{timestamp, to_json};
use crate::{Error, micros};

/// Entries that may wait for the bus; what happens beyond is counted and not told. At some 400 bytes each the database
/// grows by 40 MB at most, and a day of thirty busy agents fits.
pub const AUDIT_WAITING_MAX: u64 = 100_000;

/// Something to be told by the audit.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditFact {
    /// The node it happened at.
    pub node: NodeId,
    /// When.
    pub timestamp: Timestamp,
    /// What, for a program.
    pub kind: String,
    /// Whom it is about.
    pub agent_id: Option<AgentId>,
    /// Who did it.
    pub by: Option<String>,
    /// What, for a person.
    pub text: String,
    /// The details.
    pub details: JsonMap,
}

/// An entry the bus does not keep yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingEntry {
    /// Its number in the chain.
    pub seq: u64,
    /// Where it is to be published.
    pub subject: String,
    /// Its hash, in hexadecimal.
    pub hash: String,
    /// The payload.
    pub payload: String,
}

/// Appends an entry to the chain, unless too many wait; then it is counted, and told once there is room.
pub(crate) fn append(transaction: &Transaction<'_>, fact: &AuditFact) -> Result<(), Error> {
    let head = head(transaction)?;
    if head.seq - head.stored >= AUDIT_WAITING_MAX {
        return lose(transaction, fact.timestamp);
    }
    let (mut seq, mut prev) = (head.seq, head.hash);
    if head.lost > 0 {
        let lost = tell_lost(transaction, fact, head.lost)?;
        (seq, prev) = chain(transaction, &lost, &head.chain, seq + 1, prev)?;
    }
    let (seq, hash) = chain(transaction, fact, &head.chain, seq + 1, prev)?;
    transaction
        .prepare_cached("UPDATE audit_chain SET seq = ?1, hash = ?2, lost = 0, lost_since = NULL")
        .and_then(|mut statement| statement.execute(params![seq, hash]))
        .map(drop)
        .map_err(Error::sqlite("moving the head of the audit"))
}

fn chain(
    transaction: &Transaction<'_>,
    fact: &AuditFact,
    chain: &str,
    seq: u64,
    prev: String,
) -> Result<(u64, String), Error> {
    let entry = AuditEntry {
        seq,
        chain: chain.to_owned(),
        prev,
        node: fact.node.clone(),
        timestamp: fact.timestamp,
        kind: fact.kind.clone(),
        agent_id: fact.agent_id.clone(),
        by: fact.by.clone(),
        text: fact.text.clone(),
        details: fact.details.clone(),
    };
    let payload = to_json(&entry);
    let hash = audit_hash(payload.as_bytes());
    transaction
        .prepare_cached("INSERT INTO audit_outbox (seq, subject, hash, entry) VALUES (?1, ?2, ?3, ?4)")
        .and_then(|mut statement| statement.execute(params![seq, entry.subject().to_string(), hash, payload]))
        .map_err(Error::sqlite("recording an audit entry"))?;
    Ok((seq, hash))
}

fn lose(transaction: &Transaction<'_>, at: Timestamp) -> Result<(), Error> {
    transaction
        .prepare_cached("UPDATE audit_chain SET lost = lost + 1, lost_since = coalesce(lost_since, ?1)")
        .and_then(|mut statement| statement.execute([micros(at)]))
        .map(drop)
        .map_err(Error::sqlite("counting what the audit lost"))
}

fn tell_lost(transaction: &Transaction<'_>, next: &AuditFact, lost: u64) -> Result<AuditFact, Error> {
    let since: Option<i64> = transaction
        .query_row("SELECT lost_since FROM audit_chain", [], |row| row.get(0))
        .map_err(Error::sqlite("reading what the audit lost"))?;
    let since = since.and_then(|since| timestamp(since).ok());
    let mut details = JsonMap::new();
    details.insert("lost".into(), lost.into());
    details.insert("since".into(), since.map(|since| since.to_string()).into());
    Ok(AuditFact {
        node: next.node.clone(),
        timestamp: next.timestamp,
        kind: "audit.lost".into(),
        agent_id: None,
        by: Some("daemon".into()),
        text: format!(
            "{lost} things happened that no entry tells: too many waited to be stored, or waited when a new chain began"
        ),
        details,
    })
}

/// The bus keeps everything up to this entry.
pub(crate) fn stored(
    transaction: &Transaction<'_>,
    seq: u64,
    hash: &str,
    stream_seq: u64,
    at: Timestamp,
) -> Result<(), Error> {
    transaction
        .prepare_cached("DELETE FROM audit_outbox WHERE seq <= ?1")
        .and_then(|mut statement| statement.execute([seq]))
        .and_then(|_| {
            transaction.prepare_cached(
                "UPDATE audit_chain SET stored_seq = ?1, stored_hash = ?2, stored_stream_seq = ?3, stored_at = ?4
                 WHERE stored_seq <= ?1",
            )
        })
        .and_then(|mut statement| statement.execute(params![seq, hash, stream_seq, micros(at)]))
        .map(drop)
        .map_err(Error::sqlite("noting what the bus keeps of the audit"))
}

/// The stream that the bus keeps the chain in was made then.
pub(crate) fn stream(transaction: &Transaction<'_>, created: &str) -> Result<(), Error> {
    transaction
        .execute("UPDATE audit_chain SET stream_created = ?1", [created])
        .map(drop)
        .map_err(Error::sqlite("noting the stream of the audit"))
}

/// Begins a new chain: the bus knows more of the old one than this database. What waits is lost with the old one.
pub(crate) fn renew(transaction: &Transaction<'_>, at: Timestamp) -> Result<(), Error> {
    transaction
        .execute_batch(
            "UPDATE audit_chain SET lost = lost + (SELECT count(*) FROM audit_outbox);
             DELETE FROM audit_outbox;",
        )
        .and_then(|()| {
            transaction.execute(
                "UPDATE audit_chain SET chain = lower(hex(randomblob(16))), seq = 0, stored_seq = 0, stored_stream_seq = 0, stored_at = NULL, hash = ?1,
                 stored_hash = ?1, lost_since = CASE WHEN lost > 0 THEN coalesce(lost_since, ?2) END",
                params![ostler_wire::AUDIT_HASH_NONE, micros(at)],
            )
        })
        .map(drop)
        .map_err(Error::sqlite("beginning a new audit chain"))
}

struct Head {
    chain: String,
    seq: u64,
    hash: String,
    stored: u64,
    lost: u64,
}

fn head(connection: &Connection) -> Result<Head, Error> {
    connection
        .prepare_cached("SELECT chain, seq, hash, stored_seq, lost FROM audit_chain")
        .and_then(|mut statement| {
            statement.query_row([], |row| {
                Ok(Head {
                    chain: row.get(0)?,
                    seq: row.get(1)?,
                    hash: row.get(2)?,
                    stored: row.get(3)?,
                    lost: row.get(4)?,
                })
            })
        })
        .map_err(Error::sqlite("reading the head of the audit"))
}

/// Where the chain stands; no problem is known here.
pub(crate) fn status(connection: &Connection) -> Result<AuditStatus, Error> {
    let head = head(connection)?;
    let (stored_hash, stored_stream_seq, stored_at, stream_created) = connection
        .query_row(
            "SELECT stored_hash, stored_stream_seq, stored_at, stream_created FROM audit_chain",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, Option<i64>>(2)?, row.get(3)?)),
        )
        .map_err(Error::sqlite("reading the audit's state"))?;
    Ok(AuditStatus {
        chain: head.chain,
        seq: head.seq,
        stored: head.stored,
        stored_hash,
        stored_stream_seq,
        stored_at: stored_at.and_then(|at| timestamp(at).ok()),
        stream_created,
        lost: head.lost,
        ..AuditStatus::default()
    })
}

/// The first entries that wait, oldest first.
pub(crate) fn waiting(connection: &Connection, limit: u32) -> Result<Vec<WaitingEntry>, Error> {
    let fault = Error::sqlite("reading the audit's outbox");
    let mut statement = connection
        .prepare_cached("SELECT seq, subject, hash, entry FROM audit_outbox ORDER BY seq LIMIT ?1")
        .map_err(&fault)?;
    let rows = statement
        .query_map([limit], |row| {
            Ok(WaitingEntry {
                seq: row.get(0)?,
                subject: row.get(1)?,
                hash: row.get(2)?,
                payload: row.get(3)?,
            })
        })
        .map_err(&fault)?;
    rows.collect::<Result<_, _>>().map_err(&fault)
}

/// The hash of an entry that waits.
pub(crate) fn waiting_hash(connection: &Connection, seq: u64) -> Result<Option<String>, Error> {
    connection
        .query_row("SELECT hash FROM audit_outbox WHERE seq = ?1", [seq], |row| row.get(0))
        .optional()
        .map_err(Error::sqlite("reading the audit's outbox"))
}
