//! What arrives: messages and the subscriptions they arrive on.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use ostler_wire::{BY_HEADER, ErrorReply, FORWARDED_HEADER};
use serde::de::DeserializeOwned;

use crate::Inboxes;

/// How often one subscription tells of reply subjects that are none.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// One received message.
#[derive(Debug, Clone)]
pub struct Message {
    /// The subject it was sent to.
    pub subject: String,
    /// Where an answer is expected; absent for a publication, and for a reply subject that is none of [`Inboxes`]: who
    /// names such a one wants us to act there with our rights.
    pub reply: Option<String>,
    /// The payload.
    pub payload: Bytes,
    /// True when a node sent it again ([`ostler_wire::FORWARDED_HEADER`]).
    pub forwarded: bool,
    /// Who asks, as the asker tells it ([`ostler_wire::BY_HEADER`]).
    pub by: Option<String>,
}

impl Message {
    /// Reads the payload as `T`; an empty payload reads as `{}`, so messages of defaults only may be left out.
    ///
    /// # Errors
    ///
    /// The refusal to answer with; it names the message and the fault.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ErrorReply> {
        let payload = if self.payload.is_empty() { b"{}" } else { self.payload.as_ref() };
        ostler_wire::read_json(&format!("the message on {}", self.subject), payload)
    }
}

/// A live subscription; dropping it unsubscribes.
///
/// Bounded: when its owner does not keep up, the oldest waiting messages are kept, new ones are dropped and the fault
/// is logged. Whoever must not miss a message needs numbers in the messages (as agent output has).
#[derive(Debug)]
pub struct Subscription {
    inner: async_nats::Subscriber,
    inboxes: Inboxes,
    /// When a reply subject was last told to be none.
    told_at: Option<Instant>,
}

impl Subscription {
    pub(crate) fn new(inner: async_nats::Subscriber, inboxes: Inboxes) -> Self {
        Self { inner, inboxes, told_at: None }
    }

    /// Waits for the next message; `None` when the connection is closed for good. Cancel-safe.
    pub async fn next(&mut self) -> Option<Message> {
        let message = self.inner.next().await?;
        Some(Message {
            subject: message.subject.to_string(),
            reply: message.reply.and_then(|reply| self.inbox(&message.subject, reply.to_string())),
            payload: message.payload,
            forwarded: message
                .headers
                .as_ref()
                .is_some_and(|headers| headers.get(FORWARDED_HEADER).is_some()),
            by: message.headers.and_then(|headers| headers.get(BY_HEADER).map(|by| by.as_str().to_owned())),
        })
    }

    /// The reply subject if it may be answered. Who sends many others does not fill the log.
    fn inbox(&mut self, subject: &str, reply: String) -> Option<String> {
        if self.inboxes.holds(&reply) {
            return Some(reply);
        }
        if self.told_at.is_none_or(|at| at.elapsed() >= TELL_INTERVAL) {
            self.told_at = Some(Instant::now());
            tracing::warn!(subject, reply, "a reply subject that is no inbox; it gets no answer");
        }
        None
    }
}
