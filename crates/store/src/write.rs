//! What can be written: one variant per fact, applied in order within one transaction.

use ostler_wire::{AgentId, DesiredState, EventRecord, OutputMessage, RunId, StatusMessage, Timestamp};
use rusqlite::Transaction;

use crate::{AgentRow, AuditFact, Error, RunRow, agents, audit, events, output};

/// One change of the database.
#[derive(Debug, Clone)]
pub enum Write {
    /// An agent was configured, or configured anew.
    PutAgent(AgentRow),
    /// What the person wants of it changed.
    SetDesired(AgentId, DesiredState),
    /// The agent is forgotten, with its runs and its output.
    RemoveAgent(AgentId),
    /// A run begins.
    StartRun(RunRow),
    /// All but the last so many runs of an agent are forgotten.
    TrimRuns(AgentId, u32),
    /// The run's last known status.
    UpdateRun(Box<StatusMessage>),
    /// The run's host is gone.
    EndRun(RunId, Timestamp),
    /// Output, and how far the run is recorded with it.
    AppendOutput(Box<OutputMessage>),
    /// The agent's oldest output beyond so many bytes is forgotten.
    TrimOutput {
        /// Whose.
        agent: AgentId,
        /// What may stay.
        bytes_max: u64,
    },
    /// Something happened.
    AppendEvent(EventRecord),
    /// Events up to this number are forgotten.
    TrimEvents {
        /// The last one to go.
        up_to: u64,
    },
    /// Events up to this number were published.
    Announced(u64),
    /// Something the audit is to tell.
    AppendAudit(Box<AuditFact>),
    /// The bus keeps every audit entry up to this one.
    AuditStored {
        /// Its number.
        seq: u64,
        /// Its hash.
        hash: String,
        /// Its number in the stream.
        stream_seq: u64,
        /// When.
        at: Timestamp,
    },
    /// The stream of the audit was looked at, and was made then, as the bus writes it.
    AuditStream(String),
    /// The bus knows more of the audit's chain than this database: a new chain begins.
    RenewAudit(Timestamp),
}

impl Write {
    pub(crate) fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        match self {
            Self::PutAgent(row) => agents::put(transaction, row),
            Self::SetDesired(agent, desired) => agents::set_desired(transaction, agent, *desired),
            Self::RemoveAgent(agent) => agents::remove(transaction, agent),
            Self::StartRun(row) => agents::start_run(transaction, row),
            Self::TrimRuns(agent, keep) => agents::trim_runs(transaction, agent, *keep),
            Self::UpdateRun(status) => agents::update_run(transaction, status),
            Self::EndRun(run, at) => agents::end_run(transaction, *run, *at),
            Self::AppendOutput(message) => output::append(transaction, message),
            Self::TrimOutput { agent, bytes_max } => output::trim(transaction, agent, *bytes_max),
            Self::AppendEvent(record) => events::append(transaction, record),
            Self::TrimEvents { up_to } => events::trim(transaction, *up_to),
            Self::Announced(seq) => events::set_announced(transaction, *seq),
            Self::AppendAudit(fact) => audit::append(transaction, fact),
            Self::AuditStored { seq, hash, stream_seq, at } => {
                audit::stored(transaction, *seq, hash, *stream_seq, *at)
            }
            Self::AuditStream(created) => audit::stream(transaction, created),
            Self::RenewAudit(at) => audit::renew(transaction, *at),
        }
    }
}
