//! What dashboards listen to: state, changes and alerts.

use serde::{Deserialize, Serialize};

use crate::{AgentId, AgentSummary, JsonMap, NodeId, Timestamp};

/// `dashboard.state`: a snapshot when the daemon is ready, then one delta for every recorded event.
///
/// Both carry `seq`: a reader that sees a gap asks `node.{node}.events` for what it missed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum DashboardState {
    /// Everything.
    Snapshot {
        /// The number of the last event it contains.
        seq: u64,
        /// The node it is about.
        node: NodeId,
        /// Its agents.
        agents: Vec<AgentSummary>,
    },
    /// One change.
    Delta {
        /// The number of the event.
        seq: u64,
        /// The node it is about.
        node: NodeId,
        /// What happened.
        event: EventRecord,
        /// The agent after it; absent when it was removed or the event is not about one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<Box<AgentSummary>>,
    },
}

/// Something that happened, as it was recorded before it was announced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EventRecord {
    /// Counts the node's events, from 1 without a gap.
    pub seq: u64,
    /// When.
    pub timestamp: Timestamp,
    /// What, for a program: `agent.spawned`, `agent.state`, `agent.removed`, `alert`, `daemon.started`, …
    pub kind: String,
    /// Whom it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// What, for a person.
    pub text: String,
    /// The details, by kind.
    #[serde(default, skip_serializing_if = "JsonMap::is_empty")]
    pub details: JsonMap,
}

/// How urgent an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Look at it today.
    Warning,
    /// Look at it now.
    Critical,
}

/// Somebody should look: `dashboard.alert`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AlertMessage {
    /// How urgent.
    pub severity: Severity,
    /// What, for a program: `heartbeat_missed`, `crash_loop`, `host_lost`, `output_dropped`, …
    pub code: String,
    /// Whom it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// What, for a person.
    pub text: String,
    /// What to do.
    pub action: String,
    /// When.
    pub timestamp: Timestamp,
}
