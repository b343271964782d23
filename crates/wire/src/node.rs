//! Machines that can host agents.

use serde::{Deserialize, Serialize};

use crate::{NodeId, Timestamp};

/// A node lives: `node.{node}.heartbeat`, every 15 s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeHeartbeat {
    /// Which node.
    pub node: NodeId,
    /// Agents with a live host on it.
    pub agents_live: u32,
    /// When.
    pub timestamp: Timestamp,
}

/// The answer on `node.{node}.info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeInfo {
    /// Which node.
    pub node: NodeId,
    /// The daemon's version.
    pub version: String,
    /// The daemon's process id.
    pub pid: u32,
    /// Where the bus listens.
    pub bus_url: String,
    /// When the daemon was started.
    pub started_at: Timestamp,
    /// Where its state is kept.
    pub state_dir: String,
    /// Agents known.
    pub agents: u32,
    /// Agents with a live host.
    pub agents_live: u32,
    /// Resident memory of the daemon, in bytes; 0 where it cannot be read.
    #[serde(default)]
    pub rss_bytes: u64,
}

/// Where a running daemon is found: the file `daemon.json` in its state directory, replaced at every start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Endpoint {
    /// The bus, `nats://127.0.0.1:4222`.
    pub bus_url: String,
    /// The node's name.
    pub node: NodeId,
    /// The daemon's process id.
    pub pid: u32,
    /// The daemon's version.
    pub version: String,
    /// When it was started.
    pub started_at: Timestamp,
}
