//! Everything that can happen to the engine: its table of contents.

use ostler_client::{Connection, Message};
use ostler_wire::{
    AgentId, AgentTopic, DownRequest, ErrorReply, EventsRequest, HeartbeatMessage, LogsRequest, NodeId,
    OutputMessage, RemoveRequest, RunId, SpawnRequest, StatusMessage,
};

use crate::HostGone;
use crate::audit::News;

/// One thing that happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// Somebody asks for a new agent; `checked` is the machine's opinion of it.
    Spawn { agent: AgentId, request: Box<SpawnRequest>, checked: Result<(), ErrorReply>, message: Message },
    /// Somebody controls an agent; its host answers when there is one, we do when there is none.
    Control { agent: AgentId, topic: AgentTopic, message: Message },
    /// Somebody wants an agent forgotten.
    Remove { agent: AgentId, request: RemoveRequest, message: Message },
    /// Somebody reads.
    Query(Query, Message),
    /// The daemon is to end; the message is absent when a signal asked.
    Down { request: DownRequest, message: Option<Message> },
    /// A request that cannot be read or names nothing.
    Refuse { refusal: ErrorReply, message: Message },
    /// A host tells its agent's state.
    Status(Box<StatusMessage>),
    /// A host or an agent lives.
    Heartbeat(Box<HeartbeatMessage>),
    /// An agent printed something; the reply is where the host waits for the acknowledgement.
    Output { output: Box<OutputMessage>, reply: Option<String> },
    /// Another daemon lives on this bus.
    Neighbour(NodeId),
    /// A host was started.
    Launched { agent: AgentId, run: RunId },
    /// A host could not be started.
    LaunchFailed { agent: AgentId, run: RunId, refusal: ErrorReply },
    /// A host ended.
    HostGone(Box<HostGone>),
    /// A hook or a question of an agent.
    Heard { agent: AgentId, topic: AgentTopic, message: Message },
    /// How the audit fares.
    Audit(News),
    /// How large the logs are.
    LogSizes(Vec<(AgentId, u64)>),
    /// Time passed, and the bus was there or not.
    Tick(Connection),
}

/// What can be read.
#[derive(Debug)]
pub(crate) enum Query {
    /// `node.{node}.info`
    Info,
    /// `node.{node}.agents`
    List,
    /// `node.{node}.events`
    Events(EventsRequest),
    /// `agent.{id}.logs`
    Logs(AgentId, LogsRequest),
}
