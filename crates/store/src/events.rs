//! Tables `events` and `meta`: what happened, and how much of it was announced.

use ostler_wire::{AgentId, EventRecord, EventsReply, Timestamp};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::agents::to_json;
use crate::{Error, micros};

/// Which events.
#[derive(Debug, Clone, PartialEq)]
pub struct EventsQuery {
    /// Only behind this number; the newest page when absent and `since` is too.
    pub after: Option<u64>,
    /// Only at or after this time.
    pub since: Option<Timestamp>,
    /// Only of this agent.
    pub agent: Option<AgentId>,
    /// Events at most; at least 1.
    pub limit: u32,
}

pub(crate) fn append(transaction: &Transaction<'_>, record: &EventRecord) -> Result<(), Error> {
    transaction
        .prepare_cached("INSERT INTO events (seq, agent_id, timestamp, record) VALUES (?1, ?2, ?3, ?4)")
        .and_then(|mut statement| {
            statement.execute(params![
                record.seq,
                record.agent_id.as_ref().map(AgentId::as_str),
                micros(record.timestamp),
                to_json(record)
            ])
        })
        .map(drop)
        .map_err(Error::sqlite("recording an event"))
}

pub(crate) fn trim(transaction: &Transaction<'_>, up_to: u64) -> Result<(), Error> {
    transaction
        .execute("DELETE FROM events WHERE seq <= ?1", [up_to])
        .map(drop)
        .map_err(Error::sqlite("trimming events"))
}

pub(crate) fn set_announced(transaction: &Transaction<'_>, seq: u64) -> Result<(), Error> {
    transaction
        .prepare_cached(
            "INSERT INTO meta (key, value) VALUES ('announced', ?1)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        )
        .and_then(|mut statement| statement.execute([seq.to_string()]))
        .map(drop)
        .map_err(Error::sqlite("noting what was announced"))
}

/// The number of the last recorded and of the last announced event; 0 when there is none.
pub(crate) fn marks(connection: &Connection) -> Result<(u64, u64), Error> {
    let fault = Error::sqlite("reading event numbers");
    let last: Option<u64> =
        connection.query_row("SELECT max(seq) FROM events", [], |row| row.get(0)).map_err(&fault)?;
    let announced: Option<String> = connection
        .query_row("SELECT value FROM meta WHERE key = 'announced'", [], |row| row.get(0))
        .optional()
        .map_err(&fault)?;
    let announced = announced.and_then(|text| text.parse().ok()).unwrap_or(0);
    // Trimmed events were announced: the mark keeps the count from starting again.
    Ok((last.unwrap_or(0).max(announced), announced))
}

pub(crate) fn page(connection: &Connection, query: &EventsQuery) -> Result<EventsReply, Error> {
    let fault = Error::sqlite("reading events");
    let newest = query.after.is_none() && query.since.is_none();
    let limit = u64::from(query.limit.max(1));
    let sql = format!(
        "SELECT record FROM events WHERE seq > ?1 AND timestamp >= ?2 AND (?3 IS NULL OR agent_id = ?3)
         ORDER BY seq {} LIMIT ?4",
        if newest { "DESC" } else { "ASC" }
    );
    let mut statement = connection.prepare_cached(&sql).map_err(&fault)?;
    let parameters = params![
        query.after.unwrap_or(0),
        query.since.map_or(i64::MIN, micros),
        query.agent.as_ref().map(AgentId::as_str),
        limit + 1
    ];
    let rows = statement.query_map(parameters, |row| row.get::<_, String>(0)).map_err(&fault)?;
    let mut events = Vec::new();
    for row in rows {
        let record = row.map_err(&fault)?;
        let record: EventRecord = serde_json::from_str(&record)
            .map_err(|error| Error::Row { table: "events", reason: error.to_string() })?;
        events.push(record);
    }
    let more = events.len() as u64 > limit;
    events.truncate(limit as usize);
    if newest {
        events.reverse();
    }
    // Behind the newest page there is nothing newer.
    Ok(EventsReply { events, more: more && !newest })
}
