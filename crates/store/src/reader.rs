//! What can be read, on a connection that cannot write.

use ostler_wire::{AgentId, AuditStatus, EventsReply, LogsReply};
use rusqlite::Connection;

use crate::{AgentRow, Error, EventsQuery, LogsQuery, RunRow, WaitingEntry, agents, audit, events, output};

/// A read-only view for the length of one [`crate::Store::read`].
#[derive(Debug)]
pub struct Reader<'a> {
    pub(crate) connection: &'a Connection,
}

impl Reader<'_> {
    /// Every agent with its last run, by name.
    ///
    /// # Errors
    ///
    /// [`Error::Row`] names a row that does not read back.
    pub fn agents(&self) -> Result<Vec<(AgentRow, Option<RunRow>)>, Error> {
        agents::all(self.connection)
    }

    /// Bytes of recorded output per agent that has any. Cost: one pass over the log.
    ///
    /// # Errors
    ///
    /// As [`Reader::agents`].
    pub fn output_sizes(&self) -> Result<Vec<(AgentId, u64)>, Error> {
        output::sizes(self.connection)
    }

    /// One page of an agent's log, oldest first.
    ///
    /// # Errors
    ///
    /// As [`Reader::agents`].
    pub fn logs(&self, query: &LogsQuery) -> Result<LogsReply, Error> {
        output::page(self.connection, query)
    }

    /// One page of events, oldest first.
    ///
    /// # Errors
    ///
    /// As [`Reader::agents`].
    pub fn events(&self, query: &EventsQuery) -> Result<EventsReply, Error> {
        events::page(self.connection, query)
    }

    /// Where the audit's chain stands; whether it can be stored is not known here.
    ///
    /// # Errors
    ///
    /// As [`Reader::agents`].
    pub fn audit_status(&self) -> Result<AuditStatus, Error> {
        audit::status(self.connection)
    }

    /// The first `limit` audit entries that wait for the bus, oldest first.
    ///
    /// # Errors
    ///
    /// As [`Reader::agents`].
    pub fn audit_waiting(&self, limit: u32) -> Result<Vec<WaitingEntry>, Error> {
        audit::waiting(self.connection, limit)
    }

    /// The hash of one audit entry that waits; `None` when no such entry does.
    ///
    /// # Errors
    ///
    /// As [`Reader::agents`].
    pub fn audit_waiting_hash(&self, seq: u64) -> Result<Option<String>, Error> {
        audit::waiting_hash(self.connection, seq)
    }

    /// The numbers of the last recorded and the last announced event; 0 when there is none.
    ///
    /// # Errors
    ///
    /// As [`Reader::agents`].
    pub fn event_marks(&self) -> Result<(u64, u64), Error> {
        events::marks(self.connection)
    }
}
