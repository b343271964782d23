//! The tables of all subjects and messages, from which `docs/protocol.md` and `schemas/` are generated.

use crate::ErrorReply;

/// Whether a subject is asked on or told on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Asked, with one answer.
    Request,
    /// Told.
    Publish,
    /// Either, told apart by the reply inbox.
    Both,
}

/// One row of the protocol.
#[derive(Debug, Clone, Copy)]
pub struct SubjectRow {
    /// The subject with its variable parts in braces.
    pub pattern: &'static str,
    /// Who sends it, and to whom.
    pub route: &'static str,
    /// How it is used.
    pub style: Style,
    /// The type of the payload; empty when it is not a message of ours.
    pub message: &'static str,
    /// The type of the answer; empty when there is none.
    pub reply: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// True while it is part of the contract but nothing serves it yet.
    pub reserved: bool,
}

const fn row(
    pattern: &'static str,
    route: &'static str,
    style: Style,
    message: &'static str,
    reply: &'static str,
    meaning: &'static str,
) -> SubjectRow {
    SubjectRow { pattern, route, style, message, reply, meaning, reserved: false }
}

/// The same row, not served yet.
const fn reserved(row: SubjectRow) -> SubjectRow {
    SubjectRow { reserved: true, ..row }
}

/// Every subject Ostler speaks.
pub const SUBJECTS: &[SubjectRow] = &[
    row(
        "agent.{id}.spawn",
        "client → node",
        Style::Request,
        "SpawnRequest",
        "SpawnReply",
        "create or start an agent",
    ),
    row(
        "agent.{id}.stop",
        "client → host",
        Style::Request,
        "StopRequest",
        "ControlReply",
        "stop within the grace period; asked twice, done once",
    ),
    row(
        "agent.{id}.pause",
        "client → host",
        Style::Request,
        "",
        "ControlReply",
        "freeze the whole process tree",
    ),
    row("agent.{id}.resume", "client → host", Style::Request, "", "ControlReply", "thaw it"),
    row(
        "agent.{id}.restart",
        "client → host",
        Style::Request,
        "",
        "ControlReply",
        "stop and start again; a terminated agent is started by its node",
    ),
    row(
        "agent.{id}.kill",
        "client → host",
        Style::Request,
        "",
        "ControlReply",
        "end the whole process tree without grace",
    ),
    row(
        "agent.{id}.command",
        "client → host",
        Style::Both,
        "CommandMessage",
        "ControlReply",
        "the same operations by the fleet monitor's names; `task` answers InputReply",
    ),
    row(
        "agent.{id}.shutdown",
        "host → agent",
        Style::Publish,
        "ShutdownMessage",
        "",
        "notice that the agent will be stopped",
    ),
    row(
        "agent.{id}.status",
        "client → host / host → all",
        Style::Both,
        "StatusMessage",
        "StatusMessage",
        "with a reply inbox a query (empty payload), without one a publication of the host",
    ),
    row(
        "agent.{id}.input",
        "client → host → stdin",
        Style::Both,
        "InputMessage",
        "InputReply",
        "one turn, or raw bytes for plain agents; answered once the bytes are in the agent's hands or wait in the queue",
    ),
    row(
        "agent.{id}.output",
        "host → all",
        Style::Publish,
        "OutputMessage",
        "OutputAck",
        "what the agent printed, numbered; the engine acknowledges on the reply inbox what is on disk",
    ),
    row(
        "agent.{id}.heartbeat",
        "host, agent → all",
        Style::Publish,
        "HeartbeatMessage",
        "",
        "liveness from process facts, every 15 s",
    ),
    reserved(row(
        "agent.{id}.hook.{event}",
        "hook → host",
        Style::Both,
        "",
        "",
        "the CLI's hook JSON in, its decision JSON out",
    )),
    reserved(row(
        "agent.{id}.stop.request",
        "agent → engine",
        Style::Request,
        "StopApprovalRequest",
        "StopApprovalResponse",
        "the agent asks to stop; answered at once",
    )),
    reserved(row(
        "agent.{id}.stop.response",
        "engine → agent",
        Style::Publish,
        "StopApprovalResponse",
        "",
        "the final answer of a question that waited",
    )),
    row(
        "agent.{id}.logs",
        "client → node",
        Style::Request,
        "LogsRequest",
        "LogsReply",
        "recorded output, page by page",
    ),
    row(
        "agent.{id}.remove",
        "client → node",
        Style::Request,
        "RemoveRequest",
        "ControlReply",
        "forget a stopped agent and its logs",
    ),
    row(
        "tools.call",
        "agent → tool workers",
        Style::Request,
        "ToolCallRequest",
        "ToolCallResponse",
        "a tool is called; workers share the queue group `tool-workers`",
    ),
    reserved(row(
        "tools.{request_id}.response",
        "worker → agent",
        Style::Publish,
        "ToolCallResponse",
        "",
        "the deferred result of a call that was answered `pending`",
    )),
    row("captain.decision", "captain → agents", Style::Publish, "CaptainMessage", "", "a decision"),
    row("captain.broadcast", "captain → agents", Style::Publish, "CaptainMessage", "", "an announcement"),
    reserved(row(
        "captain.approval.{request_id}",
        "engine → approvers",
        Style::Publish,
        "ApprovalRequest",
        "",
        "something waits for a person",
    )),
    reserved(row(
        "captain.approval.{request_id}.decide",
        "approver → engine",
        Style::Request,
        "ApprovalDecision",
        "ApprovalRequest",
        "the person's answer",
    )),
    row(
        "dashboard.state",
        "engine → all",
        Style::Publish,
        "DashboardState",
        "",
        "a full snapshot, then numbered deltas",
    ),
    row("dashboard.alert", "engine → all", Style::Publish, "AlertMessage", "", "somebody should look"),
    reserved(row(
        "channel.{channel}.in",
        "adapter → engine",
        Style::Publish,
        "ChannelMessage",
        "",
        "a chat message that came in; stored first",
    )),
    reserved(row(
        "channel.{channel}.out",
        "engine → adapter",
        Style::Publish,
        "ChannelMessage",
        "",
        "a chat message to send; stored first",
    )),
    reserved(row(
        "task.{id}.run",
        "scheduler → queue",
        Style::Publish,
        "TaskRunMessage",
        "",
        "a scheduled task is due",
    )),
    row("node.{node}.heartbeat", "node → all", Style::Publish, "NodeHeartbeat", "", "the node lives"),
    row("node.{node}.info", "client → node", Style::Request, "", "NodeInfo", "what the node is"),
    row("node.{node}.agents", "client → node", Style::Request, "", "ListReply", "its agents"),
    row(
        "node.{node}.events",
        "client → node",
        Style::Request,
        "EventsRequest",
        "EventsReply",
        "recorded events, page by page",
    ),
    row(
        "node.{node}.down",
        "client → node",
        Style::Request,
        "DownRequest",
        "DownReply",
        "stop the daemon, with or without its agents",
    ),
    row(
        "audit.{node}.agent.{id}",
        "engine → stream AUDIT",
        Style::Publish,
        "AuditEntry",
        "",
        "what happened to an agent, kept for good and chained by hashes",
    ),
    row(
        "audit.{node}.node",
        "engine → stream AUDIT",
        Style::Publish,
        "AuditEntry",
        "",
        "what happened to the node itself",
    ),
    row(
        "$KV.OSTLER_DESIRED.{node}.{id}",
        "engine → bucket OSTLER_DESIRED",
        Style::Publish,
        "DesiredAgent",
        "",
        "what is wanted of an agent; without a value: it was removed",
    ),
    reserved(row(
        "agents.prompt.{agent}.{owner}.{name}",
        "caller → facade",
        Style::Request,
        "",
        "",
        "Agent Protocol for NATS 0.3: a prompt",
    )),
    reserved(row(
        "agents.hb.{agent}.{owner}.{name}",
        "facade → all",
        Style::Publish,
        "",
        "",
        "Agent Protocol for NATS 0.3: liveness",
    )),
    reserved(row(
        "agents.status.{agent}.{owner}.{name}",
        "caller → facade",
        Style::Request,
        "",
        "",
        "Agent Protocol for NATS 0.3: state",
    )),
];

/// One type that travels, by name.
#[derive(Clone, Copy)]
pub struct MessageType {
    /// The name in [`SUBJECTS`], in `schemas/<name>.json` and in `docs/protocol.md`.
    pub name: &'static str,
    /// Whether it travels on the bus; the others are files in the state directory.
    pub on_bus: bool,
    /// Reads a payload as this type and writes it again: what survives is what a receiver sees.
    pub read_back: fn(&[u8]) -> Result<serde_json::Value, ErrorReply>,
    /// The JSON Schema as schemars derives it.
    #[cfg(feature = "schema")]
    pub(crate) schema: fn() -> schemars::Schema,
}

macro_rules! messages {
    ($($name:ident $on_bus:literal)*) => {
        /// Every message and every file, requests before their answers.
        pub const MESSAGES: &[MessageType] = &[$(
            MessageType {
                name: stringify!($name),
                on_bus: $on_bus,
                read_back: |payload| {
                    let message: crate::$name = crate::read_json(stringify!($name), payload)?;
                    serde_json::to_value(message)
                        .map_err(|error| ErrorReply::new(crate::ErrorCode::Internal, error.to_string()))
                },
                #[cfg(feature = "schema")]
                schema: || schemars::schema_for!(crate::$name),
            },
        )*];
    };
}

messages! {
    SpawnRequest true
    SpawnReply true
    StopRequest true
    CommandMessage true
    ControlReply true
    ShutdownMessage true
    StatusMessage true
    HeartbeatMessage true
    InputMessage true
    InputReply true
    OutputMessage true
    OutputAck true
    StopApprovalRequest true
    StopApprovalResponse true
    LogsRequest true
    LogsReply true
    RemoveRequest true
    ToolCallRequest true
    ToolCallResponse true
    CaptainMessage true
    ApprovalRequest true
    ApprovalDecision true
    DashboardState true
    AlertMessage true
    ChannelMessage true
    TaskRunMessage true
    NodeHeartbeat true
    NodeInfo true
    ListReply true
    EventsRequest true
    EventsReply true
    DownRequest true
    DownReply true
    AuditEntry true
    DesiredAgent true
    ErrorReply true
    Endpoint false
    RunSpec false
    HostRecord false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Subject;

    #[test]
    fn every_row_is_a_subject_the_parser_knows() {
        for row in SUBJECTS {
            let mut concrete = row.pattern.to_owned();
            for part in
                ["{id}", "{event}", "{request_id}", "{channel}", "{node}", "{agent}", "{owner}", "{name}"]
            {
                concrete = concrete.replace(part, "x");
            }
            assert!(Subject::parse(&concrete).is_ok(), "{concrete}");
        }
    }

    #[test]
    fn every_message_of_a_row_is_in_the_table_of_messages() {
        for row in SUBJECTS {
            for name in [row.message, row.reply] {
                assert!(name.is_empty() || MESSAGES.iter().any(|message| message.name == name), "{name}");
            }
        }
    }
}
