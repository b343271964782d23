//! Machines that can host agents.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{AgentId, AuditStatus, NodeId, Timestamp};

/// A node lives: `node.{node}.heartbeat`, every 15 s at least, whatever the heartbeat of its agents is. Who is not heard
/// for a minute is gone.
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
    /// How its audit fares; absent when it keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditStatus>,
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
    /// How to join a bus that is not the daemon's own; absent when it is. `bus_url` is then the first of its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<Box<ExternalBus>>,
    /// What a client needs to see who the daemon's own bus is, where that asks for TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<BusTls>,
}

/// A bus that is not the daemon's own: a nats-server or a cluster, and the credential files of whoever joins it on this
/// machine. It names files and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExternalBus {
    /// Its addresses, at least one.
    pub urls: Vec<String>,
    /// The credential of the person's command line.
    pub operator: PathBuf,
    /// The credential of hosts; `{id}` in it stands for the agent's id.
    pub host: PathBuf,
    /// The files that make up its TLS; absent where the addresses and the system's certificates are enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<BusTls>,
    /// Prefixes of reply subjects that are answered beside `_INBOX`, `my.inbox` for `my.inbox.>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inboxes: Vec<String>,
}

impl ExternalBus {
    /// The credential of one agent's host.
    pub fn host_of(&self, agent: &AgentId) -> PathBuf {
        of_agent(&self.host, agent)
    }
}

/// `path` with every `{id}` replaced by the agent's id.
pub fn of_agent(path: &Path, agent: &AgentId) -> PathBuf {
    match path.to_str() {
        Some(text) => PathBuf::from(text.replace("{id}", agent.as_str())),
        None => path.to_owned(),
    }
}

/// What a TLS connection to the bus needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BusTls {
    /// Certificates of those whose word about the server is taken, PEM; absent: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Our certificate for a server that asks for one, PEM; goes with `key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// The private key of `cert`, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// True for a server that expects TLS from the first byte (`handshake_first`).
    pub first: bool,
}
