//! Tables `agents` and `runs`.

use ostler_wire::{AgentId, DesiredState, RunId, SpawnRequest, StatusMessage, Timestamp};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::{Error, micros};

/// What the person configured.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentRow {
    /// Its name.
    pub agent_id: AgentId,
    /// How it is to be run.
    pub spawn: SpawnRequest,
    /// Whether it is to run.
    pub desired: DesiredState,
    /// When it was first configured.
    pub created_at: Timestamp,
}

/// One incarnation of an agent's host.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRow {
    /// Its id.
    pub run_id: RunId,
    /// Whose it is.
    pub agent_id: AgentId,
    /// The last known status.
    pub status: StatusMessage,
    /// The output number below which nothing is missing.
    pub recorded: u64,
    /// How many hosts of this agent vanished in a row before this run.
    pub host_losses: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// When its host was gone.
    pub ended_at: Option<Timestamp>,
}

pub(crate) fn put(transaction: &Transaction<'_>, row: &AgentRow) -> Result<(), Error> {
    transaction
        .prepare_cached(
            "INSERT INTO agents (agent_id, spawn, desired, created_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (agent_id) DO UPDATE SET spawn = excluded.spawn, desired = excluded.desired",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                row.agent_id.as_str(),
                to_json(&row.spawn),
                row.desired.as_str(),
                micros(row.created_at)
            ])
        })
        .map(drop)
        .map_err(Error::sqlite("putting an agent"))
}

pub(crate) fn set_desired(
    transaction: &Transaction<'_>,
    agent: &AgentId,
    desired: DesiredState,
) -> Result<(), Error> {
    transaction
        .prepare_cached("UPDATE agents SET desired = ?2 WHERE agent_id = ?1")
        .and_then(|mut statement| statement.execute(params![agent.as_str(), desired.as_str()]))
        .map(drop)
        .map_err(Error::sqlite("changing a desired state"))
}

pub(crate) fn remove(transaction: &Transaction<'_>, agent: &AgentId) -> Result<(), Error> {
    // Runs and output go with it: ON DELETE CASCADE.
    transaction
        .execute("DELETE FROM agents WHERE agent_id = ?1", [agent.as_str()])
        .map(drop)
        .map_err(Error::sqlite("removing an agent"))
}

pub(crate) fn start_run(transaction: &Transaction<'_>, row: &RunRow) -> Result<(), Error> {
    transaction
        .prepare_cached(
            "INSERT INTO runs (run_id, agent_id, status, recorded, host_losses, started_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                row.run_id.to_string(),
                row.agent_id.as_str(),
                to_json(&row.status),
                row.recorded,
                row.host_losses,
                micros(row.started_at)
            ])
        })
        .map(drop)
        .map_err(Error::sqlite("starting a run"))
}

/// Forgets all but the last runs of an agent.
pub(crate) fn trim_runs(transaction: &Transaction<'_>, agent: &AgentId, keep: u32) -> Result<(), Error> {
    transaction
        .prepare_cached(
            "DELETE FROM runs WHERE agent_id = ?1 AND rowid NOT IN
               (SELECT rowid FROM runs WHERE agent_id = ?1 ORDER BY rowid DESC LIMIT ?2)",
        )
        .and_then(|mut statement| statement.execute(params![agent.as_str(), keep]))
        .map(drop)
        .map_err(Error::sqlite("trimming runs"))
}

pub(crate) fn update_run(transaction: &Transaction<'_>, status: &StatusMessage) -> Result<(), Error> {
    transaction
        .prepare_cached("UPDATE runs SET status = ?2 WHERE run_id = ?1")
        .and_then(|mut statement| statement.execute(params![status.run_id.to_string(), to_json(status)]))
        .map(drop)
        .map_err(Error::sqlite("updating a run"))
}

pub(crate) fn end_run(transaction: &Transaction<'_>, run: RunId, at: Timestamp) -> Result<(), Error> {
    transaction
        .prepare_cached("UPDATE runs SET ended_at = ?2 WHERE run_id = ?1")
        .and_then(|mut statement| statement.execute(params![run.to_string(), micros(at)]))
        .map(drop)
        .map_err(Error::sqlite("ending a run"))
}

/// Every agent with its last run, by name.
pub(crate) fn all(connection: &Connection) -> Result<Vec<(AgentRow, Option<RunRow>)>, Error> {
    let fault = Error::sqlite("listing agents");
    let mut statement = connection
        .prepare("SELECT agent_id, spawn, desired, created_at FROM agents ORDER BY agent_id")
        .map_err(&fault)?;
    let rows = statement
        .query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, String>(2)?,
                row.get::<_, i64>(3)?,
            ))
        })
        .map_err(&fault)?;
    let mut agents = Vec::new();
    for row in rows {
        let (id, spawn, desired, created_at) = row.map_err(&fault)?;
        let bad = |reason: String| Error::Row { table: "agents", reason: format!("agent {id}: {reason}") };
        let agent = AgentRow {
            agent_id: AgentId::parse(&id).map_err(|error| bad(error.to_string()))?,
            spawn: serde_json::from_str(&spawn).map_err(|error| bad(error.to_string()))?,
            desired: if desired == "running" { DesiredState::Running } else { DesiredState::Stopped },
            created_at: timestamp(created_at).map_err(bad)?,
        };
        let run = last_run(connection, &agent.agent_id)?;
        agents.push((agent, run));
    }
    Ok(agents)
}

fn last_run(connection: &Connection, agent: &AgentId) -> Result<Option<RunRow>, Error> {
    let found = connection
        .prepare_cached(
            "SELECT run_id, status, recorded, host_losses, started_at, ended_at FROM runs
             WHERE agent_id = ?1 ORDER BY rowid DESC LIMIT 1",
        )
        .and_then(|mut statement| {
            statement
                .query_row([agent.as_str()], |row| {
                    Ok((
                        row.get::<_, String>(0)?,
                        row.get::<_, String>(1)?,
                        row.get::<_, u64>(2)?,
                        row.get::<_, u32>(3)?,
                        row.get::<_, i64>(4)?,
                        row.get::<_, Option<i64>>(5)?,
                    ))
                })
                .optional()
        })
        .map_err(Error::sqlite("reading a run"))?;
    let Some((id, status, recorded, host_losses, started_at, ended_at)) = found else { return Ok(None) };
    let bad = |reason: String| Error::Row { table: "runs", reason: format!("run {id}: {reason}") };
    Ok(Some(RunRow {
        run_id: RunId::parse(&id).map_err(|error| bad(error.to_string()))?,
        agent_id: agent.clone(),
        status: serde_json::from_str(&status).map_err(|error| bad(error.to_string()))?,
        recorded,
        host_losses,
        started_at: timestamp(started_at).map_err(bad)?,
        ended_at: ended_at.map(timestamp).transpose().map_err(bad)?,
    }))
}

pub(crate) fn timestamp(micros: i64) -> Result<Timestamp, String> {
    Timestamp::from_microsecond(micros).map_err(|error| error.to_string())
}

pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("wire messages have string keys and always serialise")
}
