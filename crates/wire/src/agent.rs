//! Messages about one agent: what is asked of it, what it says, how it is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{AgentEvent, AgentId, JsonMap, NodeId, RunId, Timestamp, Usage};

/// The lifecycle of an agent. What it is busy with while `active` is its *activity*, a free text beside this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// Its process is being started, or waits for its back-off to pass.
    Starting,
    /// Its process runs.
    Active,
    /// Its whole process tree is frozen.
    Paused,
    /// It was asked to end and has not yet.
    Stopping,
    /// No process of it is left, as wanted.
    Terminated,
    /// No process of it is left, and that was not wanted.
    Error,
}

impl AgentState {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Terminated => "terminated",
            Self::Error => "error",
        }
    }

    /// True while a host is responsible for the agent.
    pub fn is_live(self) -> bool {
        !matches!(self, Self::Terminated | Self::Error)
    }
}

impl std::fmt::Display for AgentState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// How an agent's CLI is launched and spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum AgentKind {
    /// Any program that reads lines on stdin and writes lines on stdout.
    #[default]
    Plain,
    /// Claude Code, one persistent stream-json process.
    Claude,
}

impl AgentKind {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Claude => "claude",
        }
    }
}

impl std::fmt::Display for AgentKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// What happens when an agent's process ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// It stays ended.
    Never,
    /// It is started again after an exit code other than 0 or a signal.
    #[default]
    OnFailure,
    /// It is started again whatever its exit.
    Always,
}

impl RestartPolicy {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        }
    }
}

/// How a process ended: exactly one of the two is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExitStatus {
    /// The exit code, when it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The number of the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

impl ExitStatus {
    /// True for exit code 0.
    pub fn is_success(self) -> bool {
        self.code == Some(0)
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => write!(f, "signal {signal}"),
            (None, None) => f.write_str("unknown exit"),
        }
    }
}

/// Liveness, from process facts, every 15 s; sent by the host, and additionally by an agent that wants to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HeartbeatMessage {
    /// Whose heart beats.
    pub agent_id: AgentId,
    /// The name of the configuration it was started from; empty when there is none.
    #[serde(default)]
    pub config_name: String,
    /// The agent's working directory.
    #[serde(default)]
    pub project_path: String,
    /// The activity: `working`, `idle`, `waiting`, … or the state's name while it is not active.
    #[serde(default)]
    pub status: String,
    /// What it is working on; empty when that is not known.
    #[serde(default)]
    pub current_task: String,
    /// When the facts were read.
    pub timestamp: Timestamp,
    /// The lifecycle state; absent in an agent's own beat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<AgentState>,
    /// The run the beat belongs to; absent in an agent's own beat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// Process facts of the whole tree; absent in an agent's own beat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<ProcessFacts>,
}

/// What the operating system says about an agent's process tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProcessFacts {
    /// The process id of the agent's leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Live processes in the tree.
    pub processes: u32,
    /// Processor time used by the live processes, in milliseconds.
    pub cpu_ms: u64,
    /// Resident memory of the tree, in bytes; shared pages count once per process.
    pub rss_bytes: u64,
    /// Time since the leader was started, in milliseconds.
    pub uptime_ms: u64,
}

/// The state of an agent: published by its host at every change, and the answer to a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StatusMessage {
    /// Whose state.
    pub agent_id: AgentId,
    /// The activity while active (`working`, `idle`, `waiting`, …), else the state's name.
    pub status: String,
    /// The cause of the last change, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the state was read.
    pub timestamp: Timestamp,
    /// The lifecycle state.
    pub state: AgentState,
    /// Why the state is what it is, for a program; see [`StatusCause`].
    #[serde(default)]
    pub cause: StatusCause,
    /// The run this is about.
    pub run_id: RunId,
    /// Counts the starts of the agent's process within the run, from 1; 0 before the first.
    #[serde(default)]
    pub generation: u64,
    /// Numbers the publications of one run, from 1: a later one wins whatever the order of arrival.
    #[serde(default)]
    pub revision: u64,
    /// The process id of the agent's leader while one runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The process id of its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_pid: Option<u32>,
    /// When the present process was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Time since then, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_ms: Option<u64>,
    /// Restarts after an exit, in this run.
    #[serde(default)]
    pub restarts: u64,
    /// How the last process ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitStatus>,
    /// Tokens and cost of this run so far, when the agent tells them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The agent's own session, for resuming its conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The last number given to an output of this run when this was published: in the last status of a run, how many
    /// outputs there are in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seq: Option<u64>,
    /// The changes of state of this run before this status, oldest first, the last 16 at most: whoever missed a
    /// publication learns here what it told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<StateChange>,
}

/// The changes of state a [`StatusMessage`] tells of at most: more than a crash loop makes until it is given up.
pub const STATE_CHANGES_MAX: usize = 16;

/// A change of an agent's state, as the [`StatusMessage`] of the same revision told it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StateChange {
    /// The number of the status that told it.
    pub revision: u64,
    /// When it was told.
    pub timestamp: Timestamp,
    /// The state from then on.
    pub state: AgentState,
    /// Why, for a program.
    #[serde(default)]
    pub cause: StatusCause,
    /// Why, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Which start of the agent's process it is about; 0 before the first.
    #[serde(default)]
    pub generation: u64,
    /// How the last process had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitStatus>,
}

/// Why an agent is in the state it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum StatusCause {
    /// Ordinary progress; nothing to explain.
    #[default]
    Normal,
    /// A person or program asked for it.
    Requested,
    /// The process ended by itself.
    Exited,
    /// It ended too often too soon.
    CrashLoop,
    /// It could not be started.
    SpawnFailed,
    /// Its host vanished and its process tree with it.
    HostLost,
    /// It runs, and the bus does not permit its host what it needs; the message names the subject.
    NotPermitted,
    /// A cause of a newer version.
    #[serde(other)]
    Unknown,
}

/// The operations of `agent.{id}.command`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum CommandType {
    /// As `agent.{id}.stop`.
    Stop,
    /// As `agent.{id}.pause`.
    Pause,
    /// As `agent.{id}.resume`.
    Resume,
    /// As `agent.{id}.input`, with the prompt in `payload.text` (or `payload.task`).
    Task,
}

/// The fleet monitor's name for control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CommandMessage {
    /// Which operation.
    #[serde(rename = "type")]
    pub command: CommandType,
    /// Its details, by operation: [`StopRequest`] for stop, `text` for task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<JsonMap>,
}

/// The notice an agent gets before it is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ShutdownMessage {
    /// Why.
    pub reason: String,
    /// True when the agent had asked to stop and may.
    pub approved: bool,
    /// True when no grace period follows.
    pub force: bool,
}

/// Body of `agent.{id}.stop`; an empty payload means all defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StopRequest {
    /// Why, for the agent's notice and the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Skips the grace period.
    #[serde(default)]
    pub force: bool,
    /// True when the node stops and the agent is to come back with it: the desired state stays `running`.
    #[serde(default)]
    pub keep_desired: bool,
}

/// The answer to stop, pause, resume, restart, kill and remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ControlReply {
    /// Whose state.
    pub agent_id: AgentId,
    /// The state after the request.
    pub state: AgentState,
    /// False when the agent was already as asked.
    pub changed: bool,
}

/// What kind of input it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum InputType {
    /// One user turn; a plain agent gets it as one line.
    #[default]
    Prompt,
    /// `text` goes to stdin as it is; only plain agents take it.
    Raw,
    /// Breaks off the running turn; `text` is not used.
    Interrupt,
}

/// Body of `agent.{id}.input`.
///
/// A payload that does not start with `{` is taken as raw bytes by a plain agent and refused by every other kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InputMessage {
    /// What to do with it.
    #[serde(rename = "type", default)]
    pub input: InputType,
    /// The prompt or the raw text.
    #[serde(default)]
    pub text: String,
    /// The sender's own id for it; made by the host when absent. The turn's events carry it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_id: Option<String>,
    /// Who says it; for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl InputMessage {
    /// One user turn.
    pub fn prompt(text: impl Into<String>) -> Self {
        Self { input: InputType::Prompt, text: text.into(), input_id: None, from: None }
    }
}

/// The answer to a request on `agent.{id}.input`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InputReply {
    /// Who got it.
    pub agent_id: AgentId,
    /// The id its events will carry.
    pub input_id: String,
    /// True when the bytes are in the agent's hands; false when they wait behind the running turn.
    pub delivered: bool,
    /// Inputs waiting before this one.
    #[serde(default)]
    pub queued: u32,
}

/// Where a piece of output comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// A line of standard output, in `data`.
    Stdout,
    /// A line of standard error, in `data`.
    Stderr,
    /// A typed event, in `event`.
    Event,
}

impl OutputStream {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Event => "event",
        }
    }
}

/// One line or one typed event of an agent.
///
/// `seq` counts from 1 without a gap within a run. After a reconnect the host sends what was not acknowledged again
/// with the same numbers: a subscriber that must not see a line twice remembers the highest `seq` of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OutputMessage {
    /// Whose output.
    pub agent_id: AgentId,
    /// The run it belongs to.
    pub run_id: RunId,
    /// Which start of the process within the run.
    #[serde(default)]
    pub generation: u64,
    /// The number within the run.
    pub seq: u64,
    /// Where it comes from.
    pub stream: OutputStream,
    /// The line without its line feed. Bytes that are no UTF-8 are replaced, and `data_base64` has the original.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The line's bytes in standard base64, only when they are no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
    /// True when the line was longer than the limit and goes on in the next message.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// The typed event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<AgentEvent>,
    /// The CLI's own line behind the event, untouched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// The input whose turn this belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_id: Option<String>,
    /// When the host read it.
    pub timestamp: Timestamp,
}

/// The engine's answer on the reply inbox of an [`OutputMessage`]: everything up to `recorded` is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OutputAck {
    /// The run it is about.
    pub run_id: RunId,
    /// The highest number below which nothing is missing; 0 when nothing is recorded.
    pub recorded: u64,
    /// True when the acknowledged message did not follow `recorded`: send again from `recorded + 1`.
    #[serde(default)]
    pub rewind: bool,
}

/// Body of `agent.{id}.spawn`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SpawnRequest {
    /// How it is launched and spoken to.
    #[serde(default)]
    pub kind: AgentKind,
    /// The program and its arguments. Empty for a kind that knows its own program.
    #[serde(default)]
    pub command: Vec<String>,
    /// The working directory, absolute; the daemon's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// Variables added to the clean environment the agent gets. Never put a secret here: it is stored and shown.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What happens when its process ends by itself.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Time between the polite signal and the end of the whole tree, in milliseconds; 10 000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace_ms: Option<u64>,
    /// The name of the configuration it comes from; for the heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_name: Option<String>,
    /// The model a conversational agent is to use; the CLI's own default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// A first prompt, sent as soon as the agent is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The node that is to host it; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Starts a stopped agent of the same name again, with this definition, instead of refusing the name.
    #[serde(default)]
    pub replace: bool,
}

/// The answer to a spawn: the host runs; `agent.{id}.status` tells how the agent's own process fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SpawnReply {
    /// The agent's name.
    pub agent_id: AgentId,
    /// The run that was started.
    pub run_id: RunId,
    /// The state at the time of the answer.
    pub state: AgentState,
    /// The process id of the host.
    pub host_pid: u32,
    /// The process id of the agent, when it was running at the time of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}
