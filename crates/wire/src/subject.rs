//! Every subject Ostler speaks, as a type: built here, parsed here, spelled nowhere else.

use std::fmt;

use crate::{AgentId, ChannelId, HookEvent, InvalidId, NodeId, RequestId, TaskId};

/// What is said about an agent: the part of the subject behind `agent.{id}.`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AgentTopic {
    /// Create or start an agent; request to the node.
    Spawn,
    /// Graceful stop; request to the host.
    Stop,
    /// Freeze the whole process tree; request to the host.
    Pause,
    /// Thaw it; request to the host.
    Resume,
    /// Stop and start again; request to the host.
    Restart,
    /// End the process tree without grace; request to the host.
    Kill,
    /// [`crate::CommandMessage`]: the same operations under the fleet monitor's name.
    Command,
    /// Notice to the agent that it will be stopped.
    Shutdown,
    /// With a reply inbox a query, without one a publication of the host.
    Status,
    /// One turn, or raw bytes, for the agent's stdin.
    Input,
    /// What the agent printed, numbered.
    Output,
    /// Liveness from process facts, every 15 s.
    Heartbeat,
    /// One event of the CLI's hooks.
    Hook(HookEvent),
    /// The agent asks to stop.
    StopRequest,
    /// The engine answers it.
    StopResponse,
    /// Recorded output, by pages; request to the node.
    Logs,
    /// Forget a stopped agent; request to the node.
    Remove,
}

impl AgentTopic {
    /// The topics without a variable part, for tables and permission lists.
    pub const PLAIN: [AgentTopic; 16] = [
        Self::Spawn,
        Self::Stop,
        Self::Pause,
        Self::Resume,
        Self::Restart,
        Self::Kill,
        Self::Command,
        Self::Shutdown,
        Self::Status,
        Self::Input,
        Self::Output,
        Self::Heartbeat,
        Self::StopRequest,
        Self::StopResponse,
        Self::Logs,
        Self::Remove,
    ];

    fn name(&self) -> &str {
        match self {
            Self::Spawn => "spawn",
            Self::Stop => "stop",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Restart => "restart",
            Self::Kill => "kill",
            Self::Command => "command",
            Self::Shutdown => "shutdown",
            Self::Status => "status",
            Self::Input => "input",
            Self::Output => "output",
            Self::Heartbeat => "heartbeat",
            Self::Hook(_) => "hook",
            Self::StopRequest => "stop.request",
            Self::StopResponse => "stop.response",
            Self::Logs => "logs",
            Self::Remove => "remove",
        }
    }

    /// The subject filter that matches this topic of every agent, `agent.*.output`; for hooks, every event.
    pub fn of_every_agent(&self) -> String {
        match self {
            Self::Hook(_) => "agent.*.hook.*".to_owned(),
            topic => format!("agent.*.{}", topic.name()),
        }
    }

    fn parse(text: &str) -> Result<Option<Self>, InvalidId> {
        if let Some(event) = text.strip_prefix("hook.") {
            return HookEvent::parse(event).map(|event| Some(Self::Hook(event)));
        }
        Ok(Self::PLAIN.into_iter().find(|topic| topic.name() == text))
    }
}

impl fmt::Display for AgentTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        if let Self::Hook(event) = self {
            write!(f, ".{event}")?;
        }
        Ok(())
    }
}

/// The three subjects of the public Agent Protocol for NATS, version 0.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProtocolVerb {
    /// `agents.prompt.…`: a caller's prompt.
    Prompt,
    /// `agents.hb.…`: a liveness beat.
    Heartbeat,
    /// `agents.status.…`: a state query.
    Status,
}

/// One subject, complete.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// `agent.{id}.{topic}`.
    Agent(AgentId, AgentTopic),
    /// `tools.call`, queue group [`TOOL_WORKERS`].
    ToolsCall,
    /// `tools.{request_id}.response`: the deferred result of a call.
    ToolsResponse(RequestId),
    /// `captain.decision`.
    CaptainDecision,
    /// `captain.broadcast`.
    CaptainBroadcast,
    /// `captain.approval.{request_id}`: something waits for a person.
    CaptainApproval(RequestId),
    /// `captain.approval.{request_id}.decide`: the person's answer.
    CaptainApprovalDecide(RequestId),
    /// `dashboard.state`: a snapshot, then numbered deltas.
    DashboardState,
    /// `dashboard.alert`.
    DashboardAlert,
    /// `channel.{channel}.in`.
    ChannelIn(ChannelId),
    /// `channel.{channel}.out`.
    ChannelOut(ChannelId),
    /// `task.{id}.run`.
    TaskRun(TaskId),
    /// `node.{node}.heartbeat`.
    NodeHeartbeat(NodeId),
    /// `node.{node}.info`: request, answered with [`crate::NodeInfo`].
    NodeInfo(NodeId),
    /// `node.{node}.agents`: request, answered with [`crate::ListReply`].
    NodeAgents(NodeId),
    /// `node.{node}.events`: request for recorded events.
    NodeEvents(NodeId),
    /// `node.{node}.down`: request to stop the daemon.
    NodeDown(NodeId),
    /// `audit.{node}.agent.{id}`: an entry of the audit stream about an agent.
    AuditAgent(NodeId, AgentId),
    /// `audit.{node}.node`: one about the node itself.
    AuditNode(NodeId),
    /// `$KV.OSTLER_DESIRED.{node}.{id}`: the key of an agent in the bucket of desired states.
    Desired(NodeId, AgentId),
    /// `agents.{verb}.{agent}.{owner}.{name}`: the public Agent Protocol for NATS.
    Protocol(ProtocolVerb, AgentId, AgentId, AgentId),
}

/// The queue group in which tool workers share [`Subject::ToolsCall`].
pub const TOOL_WORKERS: &str = "tool-workers";

/// The header of a request that a node sends again because it came before the agent's host was heard: a host that got
/// the first copy as well carries out only one of the two.
pub const FORWARDED_HEADER: &str = "Ostler-Forwarded";

/// Why a text is not one of our subjects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubject {
    /// The shape is ours, an id in it is not.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// No subject of ours looks like this.
    #[error("subject {0:?} is not one of ostler's")]
    Unknown(String),
}

macro_rules! agent_subjects {
    ($($(#[$doc:meta])* $name:ident => $topic:ident;)*) => {
        $($(#[$doc])*
        pub fn $name(agent: &AgentId) -> Self {
            Self::Agent(agent.clone(), AgentTopic::$topic)
        })*
    };
}

impl Subject {
    agent_subjects! {
        /// `agent.{id}.spawn`
        spawn => Spawn;
        /// `agent.{id}.stop`
        stop => Stop;
        /// `agent.{id}.pause`
        pause => Pause;
        /// `agent.{id}.resume`
        resume => Resume;
        /// `agent.{id}.restart`
        restart => Restart;
        /// `agent.{id}.kill`
        kill => Kill;
        /// `agent.{id}.command`
        command => Command;
        /// `agent.{id}.shutdown`
        shutdown => Shutdown;
        /// `agent.{id}.status`
        status => Status;
        /// `agent.{id}.input`
        input => Input;
        /// `agent.{id}.output`
        output => Output;
        /// `agent.{id}.heartbeat`
        heartbeat => Heartbeat;
        /// `agent.{id}.stop.request`
        stop_request => StopRequest;
        /// `agent.{id}.stop.response`
        stop_response => StopResponse;
        /// `agent.{id}.logs`
        logs => Logs;
        /// `agent.{id}.remove`
        remove => Remove;
    }

    /// `agent.{id}.hook.{event}`
    pub fn hook(agent: &AgentId, event: &HookEvent) -> Self {
        Self::Agent(agent.clone(), AgentTopic::Hook(event.clone()))
    }

    /// `agent.{id}.>`: everything about one agent, for subscriptions and permissions.
    pub fn all_of_agent(agent: &AgentId) -> String {
        format!("agent.{agent}.>")
    }

    /// `audit.{node}.>`: every audit entry of one node.
    pub fn audit_of_node(node: &NodeId) -> String {
        format!("audit.{node}.>")
    }

    /// `$KV.OSTLER_DESIRED.{node}.>`: the keys of all agents of one node.
    pub fn desired_of_node(node: &NodeId) -> String {
        format!("$KV.{}.{node}.>", crate::DESIRED_BUCKET)
    }

    /// The inbox prefix of an agent's host. No agent's own inbox, `_INBOX.{id}`, can lie in it.
    pub fn host_inbox(agent: &AgentId) -> String {
        format!("_INBOX_HOST.{agent}")
    }

    /// The inbox prefix of an agent.
    pub fn agent_inbox(agent: &AgentId) -> String {
        format!("_INBOX.{agent}")
    }

    /// Reads a subject as it stands on a received message.
    ///
    /// # Errors
    ///
    /// [`InvalidSubject`] when an id breaks the rule or the subject is not one of ours; log it and go on.
    pub fn parse(text: &str) -> Result<Self, InvalidSubject> {
        let unknown = || InvalidSubject::Unknown(text.chars().take(200).collect());
        let (head, rest) = text.split_once('.').ok_or_else(unknown)?;
        let subject = match head {
            "agent" => {
                let (id, topic) = rest.split_once('.').ok_or_else(unknown)?;
                Self::Agent(AgentId::parse(id)?, AgentTopic::parse(topic)?.ok_or_else(unknown)?)
            }
            "tools" if rest == "call" => Self::ToolsCall,
            "tools" => {
                let id = rest.strip_suffix(".response").ok_or_else(unknown)?;
                Self::ToolsResponse(RequestId::parse(id)?)
            }
            "captain" if rest == "decision" => Self::CaptainDecision,
            "captain" if rest == "broadcast" => Self::CaptainBroadcast,
            "captain" => {
                let rest = rest.strip_prefix("approval.").ok_or_else(unknown)?;
                match rest.strip_suffix(".decide") {
                    Some(id) => Self::CaptainApprovalDecide(RequestId::parse(id)?),
                    None => Self::CaptainApproval(RequestId::parse(rest)?),
                }
            }
            "dashboard" if rest == "state" => Self::DashboardState,
            "dashboard" if rest == "alert" => Self::DashboardAlert,
            "channel" => match rest.split_once('.').ok_or_else(unknown)? {
                (id, "in") => Self::ChannelIn(ChannelId::parse(id)?),
                (id, "out") => Self::ChannelOut(ChannelId::parse(id)?),
                _ => return Err(unknown()),
            },
            "task" => Self::TaskRun(TaskId::parse(rest.strip_suffix(".run").ok_or_else(unknown)?)?),
            "node" => {
                let (id, topic) = rest.split_once('.').ok_or_else(unknown)?;
                let id = NodeId::parse(id)?;
                match topic {
                    "heartbeat" => Self::NodeHeartbeat(id),
                    "info" => Self::NodeInfo(id),
                    "agents" => Self::NodeAgents(id),
                    "events" => Self::NodeEvents(id),
                    "down" => Self::NodeDown(id),
                    _ => return Err(unknown()),
                }
            }
            "audit" => match rest.split_once('.').ok_or_else(unknown)? {
                (node, "node") => Self::AuditNode(NodeId::parse(node)?),
                (node, rest) => {
                    let agent = rest.strip_prefix("agent.").ok_or_else(unknown)?;
                    Self::AuditAgent(NodeId::parse(node)?, AgentId::parse(agent)?)
                }
            },
            "$KV" => {
                let key = rest.strip_prefix(crate::DESIRED_BUCKET).and_then(|key| key.strip_prefix('.'));
                let (node, agent) = key.and_then(|key| key.split_once('.')).ok_or_else(unknown)?;
                Self::Desired(NodeId::parse(node)?, AgentId::parse(agent)?)
            }
            "agents" => {
                let mut tokens = rest.split('.');
                let verb = match tokens.next() {
                    Some("prompt") => ProtocolVerb::Prompt,
                    Some("hb") => ProtocolVerb::Heartbeat,
                    Some("status") => ProtocolVerb::Status,
                    _ => return Err(unknown()),
                };
                let mut id = || AgentId::parse(tokens.next().unwrap_or_default());
                let subject = Self::Protocol(verb, id()?, id()?, id()?);
                if tokens.next().is_some() {
                    return Err(unknown());
                }
                subject
            }
            _ => return Err(unknown()),
        };
        Ok(subject)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(id, topic) => write!(f, "agent.{id}.{topic}"),
            Self::ToolsCall => f.write_str("tools.call"),
            Self::ToolsResponse(id) => write!(f, "tools.{id}.response"),
            Self::CaptainDecision => f.write_str("captain.decision"),
            Self::CaptainBroadcast => f.write_str("captain.broadcast"),
            Self::CaptainApproval(id) => write!(f, "captain.approval.{id}"),
            Self::CaptainApprovalDecide(id) => write!(f, "captain.approval.{id}.decide"),
            Self::DashboardState => f.write_str("dashboard.state"),
            Self::DashboardAlert => f.write_str("dashboard.alert"),
            Self::ChannelIn(id) => write!(f, "channel.{id}.in"),
            Self::ChannelOut(id) => write!(f, "channel.{id}.out"),
            Self::TaskRun(id) => write!(f, "task.{id}.run"),
            Self::NodeHeartbeat(id) => write!(f, "node.{id}.heartbeat"),
            Self::NodeInfo(id) => write!(f, "node.{id}.info"),
            Self::NodeAgents(id) => write!(f, "node.{id}.agents"),
            Self::NodeEvents(id) => write!(f, "node.{id}.events"),
            Self::NodeDown(id) => write!(f, "node.{id}.down"),
            Self::AuditAgent(node, agent) => write!(f, "audit.{node}.agent.{agent}"),
            Self::AuditNode(node) => write!(f, "audit.{node}.node"),
            Self::Desired(node, agent) => write!(f, "$KV.{}.{node}.{agent}", crate::DESIRED_BUCKET),
            Self::Protocol(verb, agent, owner, name) => {
                let verb = match verb {
                    ProtocolVerb::Prompt => "prompt",
                    ProtocolVerb::Heartbeat => "hb",
                    ProtocolVerb::Status => "status",
                };
                write!(f, "agents.{verb}.{agent}.{owner}.{name}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_subject() -> Vec<Subject> {
        let agent = AgentId::parse("a-1").unwrap();
        let request = RequestId::parse("r_9").unwrap();
        let node = NodeId::parse("box").unwrap();
        let channel = ChannelId::parse("slack").unwrap();
        let hook = HookEvent::parse("PreToolUse").unwrap();
        let mut all: Vec<_> =
            AgentTopic::PLAIN.into_iter().map(|topic| Subject::Agent(agent.clone(), topic)).collect();
        all.extend([
            Subject::hook(&agent, &hook),
            Subject::ToolsCall,
            Subject::ToolsResponse(request.clone()),
            Subject::CaptainDecision,
            Subject::CaptainBroadcast,
            Subject::CaptainApproval(request.clone()),
            Subject::CaptainApprovalDecide(request),
            Subject::DashboardState,
            Subject::DashboardAlert,
            Subject::ChannelIn(channel.clone()),
            Subject::ChannelOut(channel),
            Subject::TaskRun(TaskId::parse("nightly").unwrap()),
            Subject::NodeHeartbeat(node.clone()),
            Subject::NodeInfo(node.clone()),
            Subject::NodeAgents(node.clone()),
            Subject::NodeEvents(node.clone()),
            Subject::NodeDown(node.clone()),
            Subject::AuditAgent(node.clone(), agent.clone()),
            Subject::AuditNode(node.clone()),
            Subject::Desired(node, agent.clone()),
            Subject::Protocol(ProtocolVerb::Prompt, agent.clone(), agent.clone(), agent.clone()),
            Subject::Protocol(ProtocolVerb::Heartbeat, agent.clone(), agent.clone(), agent.clone()),
            Subject::Protocol(ProtocolVerb::Status, agent.clone(), agent.clone(), agent),
        ]);
        all
    }

    #[test]
    fn every_subject_reads_back_as_itself() {
        for subject in every_subject() {
            assert_eq!(Subject::parse(&subject.to_string()).as_ref(), Ok(&subject));
        }
    }

    #[test]
    fn foreign_subjects_and_bad_ids_are_refused_with_the_rule() {
        for text in [
            "",
            "agent",
            "agent.a",
            "agent.a.bogus",
            "agent.a.input.x",
            "tools.x",
            "node.n.x",
            "agents.prompt.a.b.c.d",
        ] {
            assert!(matches!(Subject::parse(text), Err(InvalidSubject::Unknown(_))), "{text}");
        }
        for text in ["agent.*.input", "agent..input", "agent.a.hook.x y", "agents.prompt.a.b", "node.>.info"]
        {
            assert!(matches!(Subject::parse(text), Err(InvalidSubject::Id(_))), "{text}");
        }
    }
}
