//! Scheduled work.

use serde::{Deserialize, Serialize};

use crate::{AgentId, TaskId, Timestamp};

/// A task is due: `task.{id}.run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TaskRunMessage {
    /// Which task.
    pub task_id: TaskId,
    /// The time it was due at; with `task_id` the key against running twice.
    pub slot: Timestamp,
    /// Who is to do it.
    pub agent_id: AgentId,
    /// What.
    pub prompt: String,
}
