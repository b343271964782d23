//! What JetStream says unasked, on `$JS.EVENT.>`: only when somebody listens.

use serde::Serialize;

use crate::bus::{Bus, Incoming, publish};
use crate::consumer::{Consumer, UnpinReason};
use crate::options::Context;
use crate::time::Time;

/// The one account there is.
const ACCOUNT: &str = "$G";

/// Something worth saying.
pub(crate) trait Advisory: Serialize {
    /// The last part of its type.
    const KIND: &'static str;

    /// Where it is said.
    fn subject(&self) -> String;

    /// Says it, if anybody listens.
    fn send(&self, context: &Context, now: i64, bus: &mut impl Bus)
    where
        Self: Sized,
    {
        let subject = self.subject();
        if !bus.has_interest(subject.as_bytes()) {
            return;
        }
        let said = Said {
            kind: format!("io.nats.jetstream.{}", Self::KIND),
            id: context.id(22),
            timestamp: Time::from_nanos(now),
            body: self,
            domain: context.domain.as_deref(),
        };
        publish(bus, subject.as_bytes(), b"", &serde_json::to_vec(&said).unwrap_or_default());
    }
}

#[derive(Serialize)]
struct Said<'a, T> {
    #[serde(rename = "type")]
    kind: String,
    id: String,
    timestamp: Time,
    #[serde(flatten)]
    body: &'a T,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<&'a str>,
}

/// A message was delivered as often as it may be, and nobody acknowledged it.
#[derive(Serialize)]
pub(crate) struct MaxDeliveries<'a> {
    pub(crate) stream: &'a str,
    pub(crate) consumer: &'a str,
    pub(crate) stream_seq: u64,
    pub(crate) deliveries: u64,
}

impl Advisory for MaxDeliveries<'_> {
    const KIND: &'static str = "advisory.v1.max_deliver";

    fn subject(&self) -> String {
        format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{}.{}", self.stream, self.consumer)
    }
}

/// A client does not want a message, now or ever.
#[derive(Serialize)]
pub(crate) struct Unwanted<'a> {
    #[serde(skip)]
    pub(crate) terminated: bool,
    pub(crate) stream: &'a str,
    pub(crate) consumer: &'a str,
    pub(crate) consumer_seq: u64,
    pub(crate) stream_seq: u64,
    pub(crate) deliveries: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) reason: &'a str,
}

impl Unwanted<'_> {
    /// Says it under the type of what was done.
    pub(crate) fn say(self, context: &Context, now: i64, bus: &mut impl Bus) {
        if self.terminated {
            Terminated(self).send(context, now, bus);
        } else {
            Nak(self).send(context, now, bus);
        }
    }
}

#[derive(Serialize)]
struct Terminated<'a>(Unwanted<'a>);

impl Advisory for Terminated<'_> {
    const KIND: &'static str = "advisory.v1.terminated";

    fn subject(&self) -> String {
        format!("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.{}.{}", self.0.stream, self.0.consumer)
    }
}

#[derive(Serialize)]
struct Nak<'a>(Unwanted<'a>);

impl Advisory for Nak<'_> {
    const KIND: &'static str = "advisory.v1.nak";

    fn subject(&self) -> String {
        format!("$JS.EVENT.ADVISORY.CONSUMER.MSG_NAKED.{}.{}", self.0.stream, self.0.consumer)
    }
}

/// A message was acknowledged: said of as many in a hundred as the consumer's configuration wants.
#[derive(Serialize)]
pub(crate) struct AckSample<'a> {
    pub(crate) stream: &'a str,
    pub(crate) consumer: &'a str,
    pub(crate) consumer_seq: u64,
    pub(crate) stream_seq: u64,
    /// Nanoseconds from the delivery.
    pub(crate) ack_time: i64,
    pub(crate) deliveries: u64,
}

impl Advisory for AckSample<'_> {
    const KIND: &'static str = "metric.v1.consumer_ack";

    fn subject(&self) -> String {
        format!("$JS.EVENT.METRIC.CONSUMER.ACK.{}.{}", self.stream, self.consumer)
    }
}

/// A consumer stopped, or goes on.
#[derive(Serialize)]
pub(crate) struct ConsumerPause<'a> {
    stream: &'a str,
    consumer: &'a str,
    paused: bool,
    pause_until: Time,
}

impl<'a> ConsumerPause<'a> {
    pub(crate) fn of(stream: &'a str, consumer: &'a Consumer, now: i64) -> Self {
        let pause_until = consumer.config.pause_until;
        Self { stream, consumer: &consumer.name, paused: consumer.is_paused(now), pause_until }
    }
}

impl Advisory for ConsumerPause<'_> {
    const KIND: &'static str = "advisory.v1.consumer_pause";

    fn subject(&self) -> String {
        format!("$JS.EVENT.ADVISORY.CONSUMER.PAUSE.{}.{}", self.stream, self.consumer)
    }
}

/// Somebody used the API. Who it was is not known here.
#[derive(Serialize)]
pub(crate) struct ApiAudit<'a> {
    server: &'a str,
    client: Asker,
    subject: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    request: &'a str,
    response: &'a str,
}

#[derive(Serialize)]
struct Asker {
    acc: &'static str,
}

impl<'a> ApiAudit<'a> {
    /// What is no text is left out.
    pub(crate) fn new(context: &'a Context, asked: &Incoming<'a>, response: &'a [u8]) -> Self {
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or("");
        Self {
            server: &context.server_id,
            client: Asker { acc: ACCOUNT },
            subject: text(asked.subject),
            request: text(asked.payload),
            response: text(response),
        }
    }
}

impl Advisory for ApiAudit<'_> {
    const KIND: &'static str = "advisory.v1.api_audit";

    fn subject(&self) -> String {
        "$JS.EVENT.ADVISORY.API".to_owned()
    }
}

/// A client gets all messages from now on.
#[derive(Serialize)]
pub(crate) struct Pinned<'a> {
    account: &'static str,
    stream: &'a str,
    consumer: &'a str,
    group: &'a str,
    pinned_id: &'a str,
}

impl<'a> Pinned<'a> {
    pub(crate) fn new(stream: &'a str, consumer: &'a str, group: &'a str, pinned_id: &'a str) -> Self {
        Self { account: ACCOUNT, stream, consumer, group, pinned_id }
    }
}

impl Advisory for Pinned<'_> {
    const KIND: &'static str = "advisory.v1.consumer_group_pinned";

    fn subject(&self) -> String {
        format!("$JS.EVENT.ADVISORY.CONSUMER.PINNED.{}.{}", self.stream, self.consumer)
    }
}

/// No client gets all messages any more.
#[derive(Serialize)]
pub(crate) struct Unpinned<'a> {
    account: &'static str,
    stream: &'a str,
    consumer: &'a str,
    group: &'a str,
    reason: UnpinReason,
}

impl<'a> Unpinned<'a> {
    pub(crate) fn new(stream: &'a str, consumer: &'a str, group: &'a str, reason: UnpinReason) -> Self {
        Self { account: ACCOUNT, stream, consumer, group, reason }
    }
}

impl Advisory for Unpinned<'_> {
    const KIND: &'static str = "advisory.v1.consumer_group_unpinned";

    fn subject(&self) -> String {
        format!("$JS.EVENT.ADVISORY.CONSUMER.UNPINNED.{}.{}", self.stream, self.consumer)
    }
}

/// What was done to a stream or consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    Create,
    Delete,
    Modify,
}

impl Action {
    fn token(self) -> &'static str {
        match self {
            Self::Create => "CREATED",
            Self::Delete => "DELETED",
            Self::Modify => "UPDATED",
        }
    }
}

/// A stream was created, changed or deleted.
#[derive(Serialize)]
pub(crate) struct StreamAction<'a> {
    pub(crate) stream: &'a str,
    pub(crate) action: Action,
}

impl Advisory for StreamAction<'_> {
    const KIND: &'static str = "advisory.v1.stream_action";

    fn subject(&self) -> String {
        format!("$JS.EVENT.ADVISORY.STREAM.{}.{}", self.action.token(), self.stream)
    }
}

/// An atomic batch was given up, and nothing of it was stored.
#[derive(Serialize)]
pub(crate) struct BatchAbandoned<'a> {
    pub(crate) stream: &'a str,
    pub(crate) batch: &'a str,
    pub(crate) reason: &'static str,
}

impl Advisory for BatchAbandoned<'_> {
    const KIND: &'static str = "advisory.v1.stream_batch_abandoned";

    fn subject(&self) -> String {
        format!("$JS.EVENT.ADVISORY.STREAM.BATCH_ABANDONED.{}", self.stream)
    }
}

/// A consumer was created, changed or deleted.
#[derive(Serialize)]
pub(crate) struct ConsumerAction<'a> {
    pub(crate) stream: &'a str,
    pub(crate) consumer: &'a str,
    pub(crate) action: Action,
}

impl Advisory for ConsumerAction<'_> {
    const KIND: &'static str = "advisory.v1.consumer_action";

    fn subject(&self) -> String {
        format!("$JS.EVENT.ADVISORY.CONSUMER.{}.{}.{}", self.action.token(), self.stream, self.consumer)
    }
}
