//! Table `output`: what agents printed.

use ostler_wire::{AgentId, LogEntry, LogsReply, OutputMessage, Timestamp};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::agents::to_json;
use crate::{Error, micros};

/// A page ends when its messages reach this size, so that an answer fits the bus: a nats-server as it comes carries
/// 1 MiB, and a thousand entries need some room for their positions.
const PAGE_BYTES_MAX: usize = 768 << 10;

/// Which part of an agent's log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogsQuery {
    /// Whose.
    pub agent: AgentId,
    /// Only behind this position.
    pub after: Option<u64>,
    /// Only at or after this time.
    pub since: Option<Timestamp>,
    /// Only the last so many.
    pub tail: Option<u32>,
    /// Entries at most; at least 1.
    pub limit: u32,
}

pub(crate) fn append(transaction: &Transaction<'_>, message: &OutputMessage) -> Result<(), Error> {
    let run = message.run_id.to_string();
    // The same number of the same run is the same message, sent again: ignored.
    transaction
        .prepare_cached(
            "INSERT INTO output (agent_id, run_id, seq, timestamp, message) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (run_id, seq) DO NOTHING",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                message.agent_id.as_str(),
                run,
                message.seq,
                micros(message.timestamp),
                to_json(message)
            ])
        })
        .map_err(Error::sqlite("recording output"))?;
    transaction
        .prepare_cached("UPDATE runs SET recorded = max(recorded, ?2) WHERE run_id = ?1")
        .and_then(|mut statement| statement.execute(params![run, message.seq]))
        .map(drop)
        .map_err(Error::sqlite("recording output"))
}

pub(crate) fn trim(transaction: &Transaction<'_>, agent: &AgentId, bytes_max: u64) -> Result<(), Error> {
    let fault = Error::sqlite("trimming output");
    let last_to_go: Option<i64> = transaction
        .prepare_cached(
            "SELECT position FROM
               (SELECT position, sum(length(message)) OVER (ORDER BY position DESC) AS total
                FROM output WHERE agent_id = ?1)
             WHERE total > ?2 ORDER BY position DESC LIMIT 1",
        )
        .and_then(|mut statement| {
            statement.query_row(params![agent.as_str(), bytes_max], |row| row.get(0)).optional()
        })
        .map_err(&fault)?;
    let Some(position) = last_to_go else { return Ok(()) };
    transaction
        .execute(
            "DELETE FROM output WHERE agent_id = ?1 AND position <= ?2",
            params![agent.as_str(), position],
        )
        .map(drop)
        .map_err(&fault)
}

/// Bytes of recorded output per agent.
pub(crate) fn sizes(connection: &Connection) -> Result<Vec<(AgentId, u64)>, Error> {
    let fault = Error::sqlite("measuring output");
    let mut statement = connection
        .prepare("SELECT agent_id, sum(length(message)) FROM output GROUP BY agent_id")
        .map_err(&fault)?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?)))
        .map_err(&fault)?;
    let mut sizes = Vec::new();
    for row in rows {
        let (id, bytes) = row.map_err(&fault)?;
        let id =
            AgentId::parse(&id).map_err(|error| Error::Row { table: "output", reason: error.to_string() })?;
        sizes.push((id, bytes));
    }
    Ok(sizes)
}

pub(crate) fn page(connection: &Connection, query: &LogsQuery) -> Result<LogsReply, Error> {
    let fault = Error::sqlite("reading output");
    let mut after = query.after.unwrap_or(0);
    if let Some(tail) = query.tail {
        // The position before the first of the last `tail` entries; 0 when there are fewer.
        let floor: Option<u64> = connection
            .prepare_cached(
                "SELECT position FROM output WHERE agent_id = ?1 ORDER BY position DESC LIMIT 1 OFFSET ?2",
            )
            .and_then(|mut statement| {
                statement.query_row(params![query.agent.as_str(), tail], |row| row.get(0)).optional()
            })
            .map_err(&fault)?;
        after = after.max(floor.unwrap_or(0));
    }
    let since = query.since.map_or(i64::MIN, micros);
    let mut statement = connection
        .prepare_cached(
            "SELECT position, message FROM output
             WHERE agent_id = ?1 AND position > ?2 AND timestamp >= ?3 ORDER BY position",
        )
        .map_err(&fault)?;
    let mut rows = statement.query(params![query.agent.as_str(), after, since]).map_err(&fault)?;
    let mut entries = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next().map_err(&fault)? {
        if entries.len() >= query.limit.max(1) as usize || bytes >= PAGE_BYTES_MAX {
            return Ok(LogsReply { entries, more: true });
        }
        let position: u64 = row.get(0).map_err(&fault)?;
        let message: String = row.get(1).map_err(&fault)?;
        // The first entry is always taken, however large: a page never stands still.
        if !entries.is_empty() && bytes + message.len() > PAGE_BYTES_MAX {
            return Ok(LogsReply { entries, more: true });
        }
        bytes += message.len();
        let output = serde_json::from_str(&message).map_err(|error| Error::Row {
            table: "output",
            reason: format!("position {position}: {error}"),
        })?;
        entries.push(LogEntry { position, output });
    }
    Ok(LogsReply { entries, more: false })
}
