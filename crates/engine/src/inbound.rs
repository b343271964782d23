//! From messages on the bus to events: subjects and payloads are read here, once, and trusted inside.

use ostler_client::Message;
use ostler_wire::{
    AgentId, AgentTopic, ErrorCode, ErrorReply, HeartbeatMessage, InvalidSubject, NodeId, OutputMessage,
    SpawnRequest, StatusMessage, Subject,
};
use serde::de::DeserializeOwned;

use crate::Node;
use crate::event::{Event, Query};

/// Reads one message; `None` when it is not for the engine.
pub(crate) fn event(mut message: Message, own_node: &NodeId, node: &dyn Node) -> Option<Event> {
    if message.reply.is_some() && message.reply_inbox().is_none() {
        tracing::warn!(
            subject = message.subject,
            reply = message.reply,
            "a reply subject that is no inbox; not answered"
        );
        message.reply = None;
    }
    match Subject::parse(&message.subject) {
        Ok(Subject::Agent(agent, topic)) => agent_event(agent, topic, message, node),
        Ok(Subject::NodeInfo(id)) if id == *own_node => Some(Event::Query(Query::Info, message)),
        Ok(Subject::NodeAgents(id)) if id == *own_node => Some(Event::Query(Query::List, message)),
        Ok(Subject::NodeEvents(id)) if id == *own_node => {
            Some(read(message, |request, message| Event::Query(Query::Events(request), message)))
        }
        Ok(Subject::NodeDown(id)) if id == *own_node => {
            Some(read(message, |request, message| Event::Down { request, message: Some(message) }))
        }
        Ok(_) => None,
        Err(InvalidSubject::Id(error)) => {
            Some(Event::Refuse { refusal: ErrorReply::new(ErrorCode::InvalidId, error.to_string()), message })
        }
        Err(error @ InvalidSubject::Unknown(_)) => {
            // A hook's request goes to its own server; anything else below our names deserves an answer.
            let refusal = ErrorReply::new(ErrorCode::Unsupported, error.to_string())
                .hint("docs/protocol.md lists every subject");
            Some(Event::Refuse { refusal, message })
        }
    }
}

fn agent_event(agent: AgentId, topic: AgentTopic, message: Message, node: &dyn Node) -> Option<Event> {
    match topic {
        AgentTopic::Spawn => Some(read(message, |request: SpawnRequest, message| {
            let checked = node.check(&request);
            Event::Spawn { agent, request: Box::new(request), checked, message }
        })),
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
            .map(|output| Event::Output { output: Box::new(output), reply: message.reply }),
        AgentTopic::Shutdown | AgentTopic::Hook(_) | AgentTopic::StopRequest | AgentTopic::StopResponse => {
            None
        }
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
