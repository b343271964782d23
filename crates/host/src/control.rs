//! Requests to the host: payload in, one demand or one refusal out. It carries nothing out.

use ostler_agents::Refusal as AgentRefusal;
use ostler_supervise::state::Refusal as UnitRefusal;
use ostler_wire::{
    AgentKind, AgentState, CommandMessage, CommandType, ErrorCode, ErrorReply, InputMessage, InputType,
    JsonMap, StopRequest, read_json,
};
use serde::Deserialize;

use crate::turns::Body;

/// The largest payload of a request, in bytes: what the embedded bus carries.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The subjects of its agent that a host serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    /// `agent.{id}.stop`
    Stop,
    /// `agent.{id}.pause`
    Pause,
    /// `agent.{id}.resume`
    Resume,
    /// `agent.{id}.restart`
    Restart,
    /// `agent.{id}.kill`
    Kill,
    /// `agent.{id}.command`
    Command,
    /// `agent.{id}.input`
    Input,
    /// `agent.{id}.status`
    Status,
}

impl Topic {
    /// All of them.
    pub(crate) const ALL: [Topic; 8] = [
        Self::Stop,
        Self::Pause,
        Self::Resume,
        Self::Restart,
        Self::Kill,
        Self::Command,
        Self::Input,
        Self::Status,
    ];

    /// The last token of the subject, also the verb in messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Restart => "restart",
            Self::Kill => "kill",
            Self::Command => "command",
            Self::Input => "input",
            Self::Status => "status",
        }
    }
}

/// What is asked of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Stop or kill.
    Stop(StopRequest),
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// Stop and start again.
    Restart {
        /// Why, for the agent's notice.
        reason: Option<String>,
    },
    /// Tell the state.
    Status,
    /// Give the agent an input.
    Input {
        /// The sender's own id.
        id: Option<String>,
        /// What.
        body: Body,
    },
    /// Break off the running turn.
    Interrupt {
        /// The sender's own id.
        id: Option<String>,
    },
}

/// What may come with a restart.
#[derive(Debug, Default, Deserialize)]
struct RestartRequest {
    #[serde(default)]
    reason: Option<String>,
}

/// Reads a request.
///
/// # Errors
///
/// The refusal to answer with.
pub(crate) fn read(topic: Topic, kind: AgentKind, payload: &[u8]) -> Result<Demand, ErrorReply> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        let message = format!("the {topic} message has {} bytes", payload.len(), topic = topic.as_str());
        return Err(ErrorReply::new(ErrorCode::TooLarge, message)
            .hint(format!("a message has at most {PAYLOAD_BYTES_MAX} bytes; send it in parts")));
    }
    match topic {
        Topic::Stop => Ok(Demand::Stop(read_or_default("the stop request", payload)?)),
        Topic::Kill => {
            let request: StopRequest = read_or_default("the kill request", payload)?;
            Ok(Demand::Stop(StopRequest { force: true, ..request }))
        }
        Topic::Pause => read_or_default::<JsonMap>("the pause request", payload).map(|_| Demand::Pause),
        Topic::Resume => read_or_default::<JsonMap>("the resume request", payload).map(|_| Demand::Resume),
        Topic::Restart => {
            let request: RestartRequest = read_or_default("the restart request", payload)?;
            Ok(Demand::Restart { reason: request.reason })
        }
        // The payload of a query means nothing; whoever asks for the state gets it.
        Topic::Status => Ok(Demand::Status),
        Topic::Command => read_command(kind, read_object("the command", payload)?),
        Topic::Input => read_input(kind, payload),
    }
}

fn read_or_default<T: for<'a> Deserialize<'a> + Default>(
    what: &str,
    payload: &[u8],
) -> Result<T, ErrorReply> {
    if payload.is_empty() { Ok(T::default()) } else { read_object(what, payload) }
}

/// Reads a message; an array is none, although serde would take one for the fields in order.
fn read_object<T: for<'a> Deserialize<'a>>(what: &str, payload: &[u8]) -> Result<T, ErrorReply> {
    if payload.trim_ascii_start().first() != Some(&b'{') {
        read_json::<JsonMap>(what, payload)?;
    }
    read_json(what, payload)
}

fn read_command(kind: AgentKind, command: CommandMessage) -> Result<Demand, ErrorReply> {
    let payload = command.payload.unwrap_or_default();
    match command.command {
        CommandType::Stop => {
            let request = serde_json::from_value(payload.into()).map_err(|error| {
                let message = format!("the payload of the stop command cannot be read: {error}");
                ErrorReply::new(ErrorCode::InvalidMessage, message)
            })?;
            Ok(Demand::Stop(request))
        }
        CommandType::Pause => Ok(Demand::Pause),
        CommandType::Resume => Ok(Demand::Resume),
        CommandType::Task => {
            let text = |name: &str| payload.get(name).and_then(|value| value.as_str()).map(str::to_owned);
            let Some(prompt) = text("text").or_else(|| text("task")) else {
                let message = "the task command has no text";
                return Err(ErrorReply::new(ErrorCode::InvalidMessage, message)
                    .hint(r#"put the prompt in payload.text: {"type":"task","payload":{"text":"..."}}"#));
            };
            checked_input(kind, text("input_id"), Body::Prompt(prompt))
        }
    }
}

fn read_input(kind: AgentKind, payload: &[u8]) -> Result<Demand, ErrorReply> {
    if payload.is_empty() {
        return Err(ErrorReply::new(ErrorCode::InvalidMessage, "the input is empty")
            .hint(r#"send {"text":"..."}, or raw bytes to a plain agent"#));
    }
    if payload[0] != b'{' {
        return checked_input(kind, None, Body::Raw(payload.to_vec()));
    }
    let message: InputMessage = read_json("the input", payload)?;
    match message.input {
        InputType::Interrupt => Ok(Demand::Interrupt { id: message.input_id }),
        InputType::Prompt => checked_input(kind, message.input_id, Body::Prompt(message.text)),
        InputType::Raw => checked_input(kind, message.input_id, Body::Raw(message.text.into_bytes())),
    }
}

/// Refuses at the door what the kind's adapter would refuse later, when the sender no longer listens.
fn checked_input(kind: AgentKind, id: Option<String>, body: Body) -> Result<Demand, ErrorReply> {
    let refusal = match &body {
        Body::Raw(_) if kind != AgentKind::Plain => AgentRefusal::RawNotTaken { kind },
        Body::Prompt(text) if kind != AgentKind::Plain && text.trim().is_empty() => AgentRefusal::EmptyPrompt,
        _ => return Ok(Demand::Input { id: id.filter(|id| !id.is_empty()), body }),
    };
    Err(agent_refused(&refusal))
}

/// The answer for an input the agent's kind cannot take.
pub(crate) fn agent_refused(refusal: &AgentRefusal) -> ErrorReply {
    let code = match refusal {
        AgentRefusal::RawNotTaken { .. } => ErrorCode::Unsupported,
        AgentRefusal::EmptyPrompt => ErrorCode::InvalidMessage,
        AgentRefusal::TurnRunning { .. } => ErrorCode::IllegalState,
    };
    let reply = ErrorReply::new(code, refusal.to_string());
    match refusal {
        AgentRefusal::RawNotTaken { .. } => reply.hint(r#"send a prompt: {"text":"..."}"#),
        _ => reply,
    }
}

/// The answer for a request the agent's state does not allow.
pub(crate) fn unit_refused(refusal: &UnitRefusal) -> ErrorReply {
    ErrorReply::new(ErrorCode::IllegalState, refusal.to_string())
}

/// Why no input is taken in this state; `None` when it is.
pub(crate) fn input_refused(agent: &str, state: AgentState) -> Option<ErrorReply> {
    match state {
        AgentState::Starting | AgentState::Active => None,
        AgentState::Paused => Some(
            ErrorReply::new(
                ErrorCode::IllegalState,
                format!("input refused while paused: {agent} reads nothing"),
            )
            .hint("resume it first"),
        ),
        AgentState::Stopping | AgentState::Terminated | AgentState::Error => Some(
            ErrorReply::new(
                ErrorCode::NotRunning,
                format!("input refused while {state}: {agent} has no process"),
            )
            .hint("start it again first"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(topic: Topic, kind: AgentKind, payload: &[u8]) -> ErrorCode {
        read(topic, kind, payload).unwrap_err().error.code
    }

    fn prompt(text: &str, id: Option<&str>) -> Demand {
        Demand::Input { id: id.map(str::to_owned), body: Body::Prompt(text.to_owned()) }
    }

    #[test]
    fn an_empty_payload_means_all_defaults() {
        let plain = AgentKind::Plain;
        assert_eq!(read(Topic::Stop, plain, b"").unwrap(), Demand::Stop(StopRequest::default()));
        assert_eq!(read(Topic::Pause, plain, b"").unwrap(), Demand::Pause);
        assert_eq!(read(Topic::Resume, plain, b"").unwrap(), Demand::Resume);
        assert_eq!(read(Topic::Restart, plain, b"").unwrap(), Demand::Restart { reason: None });
        let Demand::Stop(kill) = read(Topic::Kill, plain, b"").unwrap() else { panic!("kill is a stop") };
        assert!(kill.force);
    }

    #[test]
    fn commands_are_the_same_operations_under_another_name() {
        let plain = AgentKind::Plain;
        let stop = br#"{"type":"stop","payload":{"reason":"r","force":true,"unknown":1}}"#;
        let expected = StopRequest { reason: Some("r".into()), force: true, keep_desired: false };
        assert_eq!(read(Topic::Command, plain, stop).unwrap(), Demand::Stop(expected));
        assert_eq!(read(Topic::Command, plain, br#"{"type":"pause"}"#).unwrap(), Demand::Pause);
        assert_eq!(
            read(Topic::Command, plain, br#"{"type":"resume","payload":{}}"#).unwrap(),
            Demand::Resume
        );
        let task = br#"{"type":"task","payload":{"text":"go","input_id":"i"}}"#;
        assert_eq!(read(Topic::Command, plain, task).unwrap(), prompt("go", Some("i")));
        let task = br#"{"type":"task","payload":{"task":"go"}}"#;
        assert_eq!(read(Topic::Command, plain, task).unwrap(), prompt("go", None));
    }

    #[test]
    fn bad_payloads_are_told_apart() {
        for topic in [Topic::Stop, Topic::Pause, Topic::Resume, Topic::Restart, Topic::Kill, Topic::Command] {
            assert_eq!(code(topic, AgentKind::Plain, b"{"), ErrorCode::InvalidJson, "{topic:?}");
            assert_eq!(code(topic, AgentKind::Plain, b"[]"), ErrorCode::InvalidMessage, "{topic:?}");
        }
        assert_eq!(code(Topic::Stop, AgentKind::Plain, br#"{"force":"yes"}"#), ErrorCode::InvalidMessage);
        assert_eq!(code(Topic::Command, AgentKind::Plain, br#"{"type":"dance"}"#), ErrorCode::InvalidMessage);
        assert_eq!(code(Topic::Command, AgentKind::Plain, br#"{"type":"task"}"#), ErrorCode::InvalidMessage);
        assert_eq!(code(Topic::Command, AgentKind::Plain, b""), ErrorCode::InvalidJson);
        assert_eq!(code(Topic::Input, AgentKind::Plain, b"{\"text\":"), ErrorCode::InvalidJson);
        assert_eq!(code(Topic::Input, AgentKind::Plain, br#"{"text":7}"#), ErrorCode::InvalidMessage);
        assert_eq!(code(Topic::Input, AgentKind::Plain, b""), ErrorCode::InvalidMessage);
        let large = vec![b' '; PAYLOAD_BYTES_MAX + 1];
        assert_eq!(code(Topic::Input, AgentKind::Plain, &large), ErrorCode::TooLarge);
    }

    #[test]
    fn raw_bytes_are_for_plain_agents() {
        let raw = Demand::Input { id: None, body: Body::Raw(b"\xffls\n".to_vec()) };
        assert_eq!(read(Topic::Input, AgentKind::Plain, b"\xffls\n").unwrap(), raw);
        assert_eq!(code(Topic::Input, AgentKind::Claude, b"ls\n"), ErrorCode::Unsupported);
        assert_eq!(
            code(Topic::Input, AgentKind::Claude, br#"{"type":"raw","text":"x"}"#),
            ErrorCode::Unsupported
        );
        assert_eq!(code(Topic::Input, AgentKind::Claude, br#"{"text":" "}"#), ErrorCode::InvalidMessage);
        assert_eq!(read(Topic::Input, AgentKind::Plain, br#"{"text":""}"#).unwrap(), prompt("", None));
    }

    #[test]
    fn input_is_refused_with_the_state_and_the_next_step() {
        assert_eq!(input_refused("a", AgentState::Active), None);
        assert_eq!(input_refused("a", AgentState::Starting), None);
        let paused = input_refused("a", AgentState::Paused).unwrap().error;
        assert_eq!((paused.code, paused.hint.as_deref()), (ErrorCode::IllegalState, Some("resume it first")));
        assert_eq!(input_refused("a", AgentState::Error).unwrap().error.code, ErrorCode::NotRunning);
    }
}
