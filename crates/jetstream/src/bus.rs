//! The border to the broker: what comes in, and what is asked of it. No socket here.

/// Where JetStream's messages go, and who listens. The broker implements it over its routing table.
pub trait Bus {
    /// Whether a message on `subject` would reach anybody at this moment: a client, or a stream.
    fn has_interest(&self, subject: &[u8]) -> bool;

    /// Whether a member of a queue group would get a message on `subject` at this moment.
    fn has_group_interest(&self, subject: &[u8], _group: &[u8]) -> bool {
        self.has_interest(subject)
    }

    /// Whether those who listen on `subject` have so much waiting for them that nothing should be pushed now. Asked
    /// again some milliseconds later.
    fn is_congested(&self, _subject: &[u8]) -> bool {
        false
    }

    /// Sends a message to whoever subscribed to `to`. They see `subject` as its subject: the same as `to` but for the
    /// messages of a stream, which keep the subject they were published on.
    ///
    /// `reply` and `headers` may be empty; `headers` is a whole `NATS/1.0` block. When `to` is a subject of a stream
    /// (an advisory, something republished), the broker hands it to
    /// [`JetStream::on_delivery`](crate::JetStream::on_delivery) after the present call has returned, never to
    /// [`JetStream::on_message`](crate::JetStream::on_message): nobody's rights stand behind it. What waits for that
    /// counts when it is asked for [`Bus::is_congested`].
    fn send(&mut self, to: &[u8], subject: &[u8], reply: &[u8], headers: &[u8], payload: &[u8]);
}

/// A message on one of the subjects that are routed here.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// The subject it was published on.
    pub subject: &'a [u8],
    /// Where an answer goes; empty when none is wanted.
    pub reply: &'a [u8],
    /// Its header block, empty when it has none.
    pub headers: &'a [u8],
    /// Its payload.
    pub payload: &'a [u8],
}

/// Sends to the subject that is also shown.
pub(crate) fn publish(bus: &mut impl Bus, subject: &[u8], headers: &[u8], payload: &[u8]) {
    bus.send(subject, subject, b"", headers, payload);
}
