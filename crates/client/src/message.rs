//! What arrives: messages and the subscriptions they arrive on.

use bytes::Bytes;
use futures_util::StreamExt;
use ostler_wire::ErrorReply;
use serde::de::DeserializeOwned;

/// One received message.
#[derive(Debug, Clone)]
pub struct Message {
    /// The subject it was sent to.
    pub subject: String,
    /// Where an answer is expected; absent for a publication.
    pub reply: Option<String>,
    /// The payload.
    pub payload: Bytes,
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
    pub(crate) inner: async_nats::Subscriber,
}

impl Subscription {
    /// Waits for the next message; `None` when the connection is closed for good. Cancel-safe.
    pub async fn next(&mut self) -> Option<Message> {
        let message = self.inner.next().await?;
        Some(Message {
            subject: message.subject.to_string(),
            reply: message.reply.map(|reply| reply.to_string()),
            payload: message.payload,
        })
    }
}
