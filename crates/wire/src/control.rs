//! Requests to a node: listing, logs, events, removal, shutdown.

use serde::{Deserialize, Serialize};

use crate::{
    AgentId, AgentKind, AgentState, EventRecord, ExitStatus, NodeId, OutputMessage, ProcessFacts,
    RestartPolicy, RunId, StatusCause, Timestamp, Usage,
};

/// What the person wants of an agent, kept across restarts of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DesiredState {
    /// It is to run.
    Running,
    /// It is not.
    Stopped,
}

impl DesiredState {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// Everything the engine knows about one agent, in one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AgentSummary {
    /// Its name.
    pub agent_id: AgentId,
    /// The node that hosts it.
    pub node: NodeId,
    /// Its kind.
    pub kind: AgentKind,
    /// Its command line.
    pub command: Vec<String>,
    /// Its working directory.
    pub dir: String,
    /// What happens when its process ends by itself.
    pub restart: RestartPolicy,
    /// Time between the polite signal and the end of the whole tree, in milliseconds, when it is not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace_ms: Option<u64>,
    /// What the person wants.
    pub desired: DesiredState,
    /// What is.
    pub state: AgentState,
    /// Why.
    #[serde(default)]
    pub cause: StatusCause,
    /// The activity, or the state's name.
    pub status: String,
    /// The sentence that goes with the last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// True when three heartbeats were missed.
    #[serde(default)]
    pub degraded: bool,
    /// The last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// The process id of its leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The process id of its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_pid: Option<u32>,
    /// When its process was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Restarts in the last run.
    pub restarts: u64,
    /// How its last process ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitStatus>,
    /// When it was last heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heartbeat: Option<Timestamp>,
    /// Process facts of the last heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<ProcessFacts>,
    /// Tokens and cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The CLI's own session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
}

/// The answer on `node.{node}.agents`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ListReply {
    /// The node that answers.
    pub node: NodeId,
    /// Its agents, by name.
    pub agents: Vec<AgentSummary>,
}

/// Body of `agent.{id}.logs`; an empty payload means all defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogsRequest {
    /// Only entries behind this position of an earlier answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Only entries at or after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Only the last so many; the default is all, page by page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
    /// Entries in one answer at most; 1 to 1000, default 500. Large entries make a page shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// One recorded output with its place in the agent's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogEntry {
    /// Grows over all runs of all agents; give the last one as `after` to go on.
    pub position: u64,
    /// The output as it was published.
    #[serde(flatten)]
    pub output: OutputMessage,
}

/// The answer on `agent.{id}.logs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogsReply {
    /// Oldest first.
    pub entries: Vec<LogEntry>,
    /// True when asking again behind the last position gives more.
    pub more: bool,
}

/// Body of `node.{node}.events`; an empty payload means the newest page.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EventsRequest {
    /// Only events behind this number; the newest page when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Only events at or after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Only events of this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// Events in one answer at most; 1 to 1000, default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// The answer on `node.{node}.events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EventsReply {
    /// Oldest first.
    pub events: Vec<EventRecord>,
    /// True when asking again behind the last number gives more.
    pub more: bool,
}

/// Body of `agent.{id}.remove`; an empty payload means all defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RemoveRequest {
    /// Stops the agent first when it runs.
    #[serde(default)]
    pub force: bool,
}

/// Body of `node.{node}.down`; an empty payload means all defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DownRequest {
    /// Leaves the agents running; the next daemon takes them over.
    #[serde(default)]
    pub keep_agents: bool,
}

/// The answer on `node.{node}.down`, sent before the daemon ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DownReply {
    /// The daemon's process id.
    pub pid: u32,
    /// Agents that were stopped for it.
    pub stopped: u32,
    /// Agents that go on without it.
    pub kept: u32,
}
