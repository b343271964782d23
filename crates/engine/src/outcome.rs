//! What was decided: writes first, then, once they are on disk, effects in order.

use std::collections::HashMap;

use bytes::Bytes;
use ostler_client::Message;
use ostler_store::{EventsQuery, LogsQuery, Write};
use ostler_wire::{AgentId, ErrorReply, NodeInfo, OutputAck, RunId, Subject};
use serde::Serialize;

use crate::{Ended, LaunchPlan};

/// Something to do in the world.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Answer a request.
    Answer { message: Message, payload: Bytes },
    /// Answer a request unless somebody else may have answered it first.
    AnswerLater { message: Message, payload: Bytes },
    /// Tell everybody.
    Publish { subject: Subject, payload: Bytes },
    /// Send a request again that came before its host could hear it.
    Forward(Message),
    /// Ask a host for its state.
    AskStatus(AgentId),
    /// Start a host.
    Launch(Box<LaunchPlan>),
    /// Clear an agent's credentials and files away.
    Forget(AgentId),
    /// Read a page of a log and answer with it.
    Logs(LogsQuery, Message),
    /// Read a page of events and answer with it.
    Events(EventsQuery, Message),
    /// Say what this node is.
    Info(Box<NodeInfo>, Message),
    /// End the loop.
    End(Ended),
}

/// The decisions of one batch of events.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) writes: Vec<Write>,
    pub(crate) effects: Vec<Effect>,
    /// One acknowledgement per run is enough: they are cumulative.
    pub(crate) acks: HashMap<RunId, (String, OutputAck)>,
}

impl Outcome {
    /// Answers a request; does nothing for a publication.
    pub(crate) fn answer<T: Serialize>(&mut self, message: Message, answer: &T) {
        if message.reply.is_some() {
            self.effects.push(Effect::Answer { message, payload: to_json(answer) });
        }
    }

    /// Refuses a request.
    pub(crate) fn refuse(&mut self, message: Message, refusal: &ErrorReply) {
        tracing::info!(subject = message.subject, refusal = refusal.error.message, "refused");
        self.answer(message, refusal);
    }

    /// Answers a request when others had the time to.
    pub(crate) fn answer_later<T: Serialize>(&mut self, message: Message, answer: &T) {
        if message.reply.is_some() {
            self.effects.push(Effect::AnswerLater { message, payload: to_json(answer) });
        }
    }

    /// Tells everybody.
    pub(crate) fn publish<T: Serialize>(&mut self, subject: Subject, message: &T) {
        self.effects.push(Effect::Publish { subject, payload: to_json(message) });
    }
}

pub(crate) fn to_json<T: Serialize>(message: &T) -> Bytes {
    serde_json::to_vec(message).expect("wire messages have string keys and always serialise").into()
}
