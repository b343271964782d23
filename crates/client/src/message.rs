//! What arrives: messages and the subscriptions they arrive on.

use bytes::Bytes;
use futures_util::StreamExt;
use ostler_wire::{ErrorReply, FORWARDED_HEADER};
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
    /// True when a node sent it again ([`ostler_wire::FORWARDED_HEADER`]).
    pub forwarded: bool,
}

impl Message {
    /// Where an answer may be sent: the reply subject, unless it is one of our own subjects. Whoever names such a one
    /// wants us to act there with our rights.
    pub fn reply_inbox(&self) -> Option<&str> {
        self.reply.as_deref().filter(|reply| is_inbox(reply))
    }

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

/// True for a subject that only its asker listens on, as far as the name tells: not one of ours, not the server's.
pub fn is_inbox(subject: &str) -> bool {
    const OURS: [&str; 9] =
        ["agent", "agents", "tools", "captain", "dashboard", "channel", "task", "node", "$SYS"];
    !OURS.contains(&subject.split('.').next().unwrap_or_default())
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
            forwarded: message.headers.is_some_and(|headers| headers.get(FORWARDED_HEADER).is_some()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_goes_to_an_inbox_and_never_to_a_subject_of_ours() {
        let to = |reply: &str| Message {
            subject: "agent.a.logs".into(),
            reply: Some(reply.into()),
            payload: Bytes::new(),
            forwarded: false,
        };
        assert_eq!(to("_INBOX.a.1").reply_inbox(), Some("_INBOX.a.1"));
        assert_eq!(to("my.own.inbox").reply_inbox(), Some("my.own.inbox"));
        for ours in [
            "agent.b.kill",
            "node.local.down",
            "captain.approval.x.decide",
            "tools.call",
            "$SYS.REQ.X",
            "agent",
        ] {
            assert_eq!(to(ours).reply_inbox(), None, "{ours}");
        }
    }
}
