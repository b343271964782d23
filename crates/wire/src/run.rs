//! What a daemon and a host tell each other by file, because they must find each other when the bus is away.
//!
//! ```text
//! <state>/agents/<id>/runs/<run id>/spec.json    RunSpec     written by the daemon before it starts the host
//! <state>/agents/<id>/runs/<run id>/host.json    HostRecord  written by the host at every change, replaced atomically
//! <state>/agents/<id>/runs/<run id>/spool.jsonl  OutputMessage per line: what was not acknowledged when the host ended
//! <state>/agents/<id>/session                    the CLI's last session id, one line
//! <state>/agents/<id>/prompted                   empty; exists once the agent was given its first prompt
//! ```

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{AgentId, NodeId, RunId, SpawnRequest, StatusMessage, Timestamp};

/// File name of [`RunSpec`] in the run's directory.
pub const SPEC_FILE: &str = "spec.json";
/// File name of [`HostRecord`] in the run's directory.
pub const HOST_FILE: &str = "host.json";
/// File name of the output that was not acknowledged when the host ended.
pub const SPOOL_FILE: &str = "spool.jsonl";
/// File name of the host's own log.
pub const HOST_LOG_FILE: &str = "host.log";
/// File name of the lock a live host holds, in the agent's directory: one host per agent.
pub const HOST_LOCK_FILE: &str = "host.lock";
/// File name of the CLI's last session id, in the agent's directory.
pub const SESSION_FILE: &str = "session";
/// File name of the mark that the first prompt was given, in the agent's directory: a later run does not repeat it.
pub const PROMPTED_FILE: &str = "prompted";
/// File name of [`crate::Endpoint`] in the state directory.
pub const ENDPOINT_FILE: &str = "daemon.json";
/// The environment variable that marks every process of a run; its value is the run id.
pub const RUN_MARKER: &str = "OSTLER_RUN";

/// All a host needs to know; it reads nothing else at start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RunSpec {
    /// The agent it runs.
    pub agent_id: AgentId,
    /// The run it is.
    pub run_id: RunId,
    /// The node it runs on.
    pub node: NodeId,
    /// What the person asked for; `dir` is set and exists, `command` is resolved.
    pub spawn: SpawnRequest,
    /// The whole environment of the agent, before the kind's adapter adds its own.
    pub env: Vec<(String, String)>,
    /// The agent's directory.
    pub agent_dir: PathBuf,
    /// The run's directory.
    pub run_dir: PathBuf,
    /// Where [`crate::Endpoint`] is found, read at every connection attempt.
    pub endpoint_file: PathBuf,
    /// The file with the host's nkey seed, mode 0600.
    pub key_file: PathBuf,
    /// The control group to create for the agent; its parent exists and is writable. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// Time between heartbeats, in milliseconds.
    pub heartbeat_ms: u64,
    /// Unacknowledged output kept in memory at most, in bytes.
    pub buffer_bytes_max: u64,
}

/// What a host says about itself, for the daemon that finds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostRecord {
    /// The run it serves.
    pub run_id: RunId,
    /// The process id of the host.
    pub host: ProcessIdentity,
    /// The process that ends the agent's tree when the host dies.
    pub guard: ProcessIdentity,
    /// The leader of the agent's process tree, while one runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<ProcessIdentity>,
    /// The control group, when one was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// The last status, written before it was published.
    pub status: StatusMessage,
    /// Up to which revision the bus has taken what was published: its own copy came back to the host.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub announced: u64,
    /// The last number given to an output.
    pub last_seq: u64,
    /// True when `agent.{id}.stop` asked to keep the desired state.
    #[serde(default)]
    pub keep_desired: bool,
    /// True once a stop or kill was accepted: should the host be lost now, the agent stays stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop_asked: bool,
    /// When it was written.
    pub updated_at: Timestamp,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A process id that cannot be mistaken for a later process of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProcessIdentity {
    /// The process id.
    pub pid: u32,
    /// Its start time as the kernel counts it (clock ticks since boot on Linux).
    pub start_time: u64,
}
