//! What can be read, on a connection that cannot write.

use ostler_wire::{AgentId, EventsReply, LogsReply};
use rusqlite::Connection;

use crate::{AgentRow, Error, EventsQuery, LogsQuery, RunRow, agents, events, output};

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

    /// The numbers of the last recorded and the last announced event; 0 when there is none.
    ///
    /// # Errors
    ///
    /// As [`Reader::agents`].
    pub fn event_marks(&self) -> Result<(u64, u64), Error> {
        events::marks(self.connection)
    }
}
