//! From messages on the bus to events: subjects and payloads are read here, once, and trusted inside.

use ostler_client::Message;
use ostler_wire::{
    AgentEvent, AgentId, AgentTopic, ErrorCode, ErrorReply, HeartbeatMessage, InvalidSubject, NodeId,
    OutputMessage, SpawnRequest, StatusMessage, Subject,
};
use serde::de::DeserializeOwned;

use crate::event::{Event, Query};

/// Where hosts answer when the engine asks for their state.
pub(crate) const STATUS_INBOX: &str = "_INBOX.engine.status";

/// What a message asks of the loop.
#[derive(Debug)]
pub(crate) enum Inbound {
    /// To decide it.
    Event(Event),
    /// To ask the machine about a new agent first, beside the loop: a directory may hang.
    Check { agent: AgentId, request: Box<SpawnRequest>, message: Message },
}

impl From<Event> for Inbound {
    fn from(event: Event) -> Self {
        Self::Event(event)
    }
}

/// Reads one message; `None` when it is not for the engine.
pub(crate) fn read_message(message: Message, own_node: &NodeId) -> Option<Inbound> {
    if message.subject == STATUS_INBOX {
        // A host's answer to our own question; a refusal is no state.
        return message.json().ok().map(|status: StatusMessage| Event::Status(Box::new(status)).into());
    }
    if message.reply.as_deref() == Some(STATUS_INBOX) {
        return None;
    }
    match Subject::parse(&message.subject) {
        Ok(Subject::Agent(agent, AgentTopic::Spawn)) => Some(match message.json() {
            Ok(request) => Inbound::Check { agent, request: Box::new(request), message },
            Err(refusal) => Event::Refuse { refusal, message }.into(),
        }),
        Ok(subject) => event(subject, message, own_node).map(Inbound::Event),
        Err(InvalidSubject::Id(error)) => {
            let refusal = ErrorReply::new(ErrorCode::InvalidId, error.to_string());
            Some(Event::Refuse { refusal, message }.into())
        }
        Err(error @ InvalidSubject::Unknown(_)) => {
            // Anything below our names deserves an answer.
            let refusal = ErrorReply::new(ErrorCode::Unsupported, error.to_string())
                .hint("docs/protocol.md lists every subject");
            Some(Event::Refuse { refusal, message }.into())
        }
    }
}

fn event(subject: Subject, message: Message, own_node: &NodeId) -> Option<Event> {
    match subject {
        Subject::Agent(agent, topic) => agent_event(agent, topic, message),
        Subject::NodeHeartbeat(id) if id != *own_node => Some(Event::Neighbour(id)),
        Subject::NodeInfo(id) if id == *own_node => Some(Event::Query(Query::Info, message)),
        Subject::NodeAgents(id) if id == *own_node => Some(Event::Query(Query::List, message)),
        Subject::NodeEvents(id) if id == *own_node => {
            Some(read(message, |request, message| Event::Query(Query::Events(request), message)))
        }
        Subject::NodeDown(id) if id == *own_node => {
            Some(read(message, |request, message| Event::Down { request, message: Some(message) }))
        }
        _ => None,
    }
}

fn agent_event(agent: AgentId, topic: AgentTopic, message: Message) -> Option<Event> {
    match topic {
        AgentTopic::Remove => {
            Some(read(message, |request, message| Event::Remove { agent, request, message }))
        }
        AgentTopic::Logs => {
            Some(read(message, |request, message| Event::Query(Query::Logs(agent, request), message)))
        }
        AgentTopic::Stop
        | AgentTopic::Pause
        | AgentTopic::Resume
        | AgentTopic::Restart
        | AgentTopic::Kill
        | AgentTopic::Command
        | AgentTopic::Input => Some(Event::Control { agent, topic, message }),
        AgentTopic::Status if message.reply.is_some() => Some(Event::Control { agent, topic, message }),
        AgentTopic::Status => fact(&agent, &message, |status: &StatusMessage| &status.agent_id)
            .map(|s| Event::Status(Box::new(s))),
        AgentTopic::Heartbeat => fact(&agent, &message, |beat: &HeartbeatMessage| &beat.agent_id)
            .map(|beat| Event::Heartbeat(Box::new(beat))),
        AgentTopic::Output => fact(&agent, &message, |output: &OutputMessage| &output.agent_id)
            .filter(has_sound_numbers)
            .map(|output| Event::Output { output: Box::new(output), reply: message.reply }),
        AgentTopic::Hook(_) | AgentTopic::StopRequest => Some(Event::Heard { agent, topic, message }),
        AgentTopic::Spawn | AgentTopic::Shutdown | AgentTopic::StopResponse => None,
    }
}

/// Reads a request's body, or refuses it with the place of the fault.
fn read<T: DeserializeOwned>(message: Message, event: impl FnOnce(T, Message) -> Event) -> Event {
    match message.json() {
        Ok(request) => event(request, message),
        Err(refusal) => Event::Refuse { refusal, message },
    }
}

/// Reads a publication about `agent`; a malformed one, or one about somebody else, is logged and survived.
fn fact<T: DeserializeOwned>(
    agent: &AgentId,
    message: &Message,
    about: impl Fn(&T) -> &AgentId,
) -> Option<T> {
    match message.json::<T>() {
        Ok(fact) if about(&fact) == agent => Some(fact),
        Ok(fact) => {
            tracing::warn!(subject = message.subject, about = %about(&fact), "a publication about another agent");
            None
        }
        Err(refusal) => {
            tracing::warn!(
                subject = message.subject,
                reason = refusal.error.message,
                "a publication cannot be read"
            );
            None
        }
    }
}

/// Numbers that can be counted on and kept: SQLite's largest is 2^63 - 1.
fn has_sound_numbers(output: &OutputMessage) -> bool {
    let first = match &output.event {
        Some(AgentEvent::Dropped { from_seq, to_seq, .. }) if *to_seq == output.seq => *from_seq,
        Some(AgentEvent::Dropped { .. }) => 0,
        _ => output.seq,
    };
    let sound =
        (1..=output.seq).contains(&first) && i64::try_from(output.seq).is_ok_and(|seq| seq < i64::MAX);
    if !sound {
        tracing::warn!(agent = %output.agent_id, seq = output.seq, "an output with impossible numbers");
    }
    sound
}
