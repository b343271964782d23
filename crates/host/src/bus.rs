//! The host's end of the bus: one task that connects for as long as it takes, listens on the agent's subjects and
//! publishes. It decides nothing and keeps nothing: while the bus is away, what it is given is dropped, because its owner
//! gives again what matters.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream, SelectAll};
use ostler_client::{Bus, Client, Connection, Denied, Error, Message, Options, Role};
use ostler_wire::{AgentId, OutputAck, RunSpec, Subject};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::control::Topic;

/// Facts and messages that wait in each direction; whoever is faster waits.
const QUEUE_MAX: usize = 64;

/// The first and the longest wait between two attempts to connect.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// How long a connection is kept on which something was denied: a server that permits it by now does so for new ones.
const DENIED_MAX: Duration = Duration::from_secs(300);

/// What the bus brings.
#[derive(Debug)]
pub(crate) enum BusEvent {
    /// It is there, anew: for the n-th time, from 1.
    Connected(u64),
    /// It is away.
    Disconnected,
    /// A message on one of our subjects.
    Request(Topic, Message),
    /// The engine recorded output.
    Acknowledged(OutputAck),
    /// It does not carry the output of this number.
    TooLarge(u64),
    /// It does not permit us something.
    Denied(Denied),
}

/// What is given to the bus.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// Output of this number: published with our inbox for the acknowledgement.
    Output(u64, Bytes),
    /// Anything else.
    Message {
        /// The connection it is for. On another it would come before what is told again there.
        connection: u64,
        /// The subject.
        subject: String,
        /// The payload.
        payload: Bytes,
    },
    /// Tell when everything before is written to the connection.
    Flush(oneshot::Sender<()>),
}

/// Starts the task. It ends when the receiver of its events, or the sender to it, is dropped.
pub(crate) fn start(spec: &RunSpec) -> (mpsc::Sender<Outgoing>, mpsc::Receiver<BusEvent>, JoinHandle<()>) {
    let (outgoing_tx, outgoing_rx) = mpsc::channel(QUEUE_MAX);
    let (event_tx, event_rx) = mpsc::channel(QUEUE_MAX);
    let options = Options::new(
        format!("host-{}", spec.agent_id),
        Bus::File(spec.endpoint_file.clone()),
        &spec.key_file,
    )
    .role(Role::Host(spec.agent_id.clone()))
    .inbox_prefix(Subject::host_inbox(&spec.agent_id))
    .without_reconnect();
    let task = Task { agent_id: spec.agent_id.clone(), options, event_tx, outgoing_rx, connections: 0 };
    let joined = tokio::spawn(async move {
        // It ends only with its owner.
        let _ = task.run().await;
    });
    (outgoing_tx, event_rx, joined)
}

struct Task {
    agent_id: AgentId,
    options: Options,
    event_tx: mpsc::Sender<BusEvent>,
    outgoing_rx: mpsc::Receiver<Outgoing>,
    /// Connections so far.
    connections: u64,
}

/// What the task was waiting for.
enum Wake {
    Denied(Denied),
    Incoming(BusEvent),
    Outgoing(Outgoing),
    ConnectionGone,
}

/// Why the task ends: nobody is left to work for.
struct OwnerGone;

impl Task {
    /// One connection after the other. The address is looked up anew for each, because a restarted daemon may listen
    /// elsewhere.
    async fn run(mut self) -> Result<(), OwnerGone> {
        let mut attempts = 0;
        loop {
            match Client::connect(self.options.clone()).await {
                Ok(client) => {
                    let since = Instant::now();
                    if let Err(error) = self.serve(&client).await? {
                        tracing::warn!(%error, "the connection to the bus is of no use");
                    }
                    // A bus that takes us and drops us at once is not pestered.
                    if since.elapsed() >= RETRY_LONGEST {
                        attempts = 0;
                    }
                    self.tell(BusEvent::Disconnected).await?;
                }
                // The daemon is away, which is ordinary.
                Err(error) if error.is_retryable() => tracing::debug!(%error, "no bus"),
                Err(error) if attempts == 0 => tracing::warn!(%error, "the bus cannot be used; trying on"),
                Err(error) => tracing::debug!(%error, "no bus"),
            }
            self.rest(retry_delay(attempts, fastrand::f64())).await?;
            attempts += 1;
        }
    }

    /// Serves one connection until it is lost.
    async fn serve(&mut self, client: &Client) -> Result<Result<(), Error>, OwnerGone> {
        let inbox = client.new_inbox();
        let mut incoming = match self.listen(client, &inbox).await {
            Ok(incoming) => incoming,
            Err(error) => return Ok(Err(error)),
        };
        let subject = format!("agent.{}.output", self.agent_id);
        let mut connection = client.connection();
        if connection.wait_for(|state| matches!(state, Connection::Up(_))).await.is_err() {
            return Ok(Ok(()));
        }
        self.connections += 1;
        self.tell(BusEvent::Connected(self.connections)).await?;
        let mut denied = client.denied();
        let mut told = 0;
        let moved = client.moved();
        tokio::pin!(moved);
        let renewal = tokio::time::sleep(DENIED_MAX);
        tokio::pin!(renewal);
        loop {
            let wake = tokio::select! {
                () = &mut moved => Wake::ConnectionGone,
                () = &mut renewal, if told > 0 => Wake::ConnectionGone,
                // Down, or closed for good: it is not made again.
                _ = connection.changed() => Wake::ConnectionGone,
                // Known ones stay, in their order, as long as the connection.
                Ok(known) = denied.wait_for(|known| known.len() > told) => Wake::Denied(known[told].clone()),
                Some(event) = incoming.next() => Wake::Incoming(event),
                outgoing = self.outgoing_rx.recv() => Wake::Outgoing(outgoing.ok_or(OwnerGone)?),
            };
            match wake {
                Wake::ConnectionGone => return Ok(Ok(())),
                Wake::Denied(denied) => {
                    told += 1;
                    renewal.as_mut().reset(tokio::time::Instant::now() + DENIED_MAX);
                    // A late answer is denied where answers are permitted for a while only; whoever asked is gone.
                    if !denied.is_answer() {
                        self.tell(BusEvent::Denied(denied)).await?;
                    }
                }
                Wake::Incoming(event) => self.tell(event).await?,
                Wake::Outgoing(outgoing) => self.publish(client, &subject, &inbox, outgoing).await?,
            }
        }
    }

    /// Waits before the next attempt; what is to be published meanwhile is dropped.
    async fn rest(&mut self, wait: Duration) -> Result<(), OwnerGone> {
        let wait = tokio::time::sleep(wait);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => return Ok(()),
                outgoing = self.outgoing_rx.recv() => drop(outgoing.ok_or(OwnerGone)?),
            }
        }
    }

    async fn tell(&self, event: BusEvent) -> Result<(), OwnerGone> {
        self.event_tx.send(event).await.map_err(|_| OwnerGone)
    }

    /// Subscribes to everything we serve.
    async fn listen(
        &self,
        client: &Client,
        inbox: &str,
    ) -> Result<SelectAll<BoxStream<'static, BusEvent>>, Error> {
        let mut all = SelectAll::new();
        for topic in Topic::ALL {
            let subscription =
                client.subscribe(format!("agent.{}.{}", self.agent_id, topic.as_str())).await?;
            let messages = stream::unfold(subscription, |mut subscription| async move {
                subscription.next().await.map(|message| (message, subscription))
            });
            all.push(messages.map(move |message| BusEvent::Request(topic, message)).boxed());
        }
        let subscription = client.subscribe(inbox).await?;
        let answers = stream::unfold(subscription, |mut subscription| async move {
            subscription.next().await.map(|message| (message, subscription))
        });
        // "Nobody listens" comes here as well, as a message without a payload.
        let acks = answers.filter_map(|message| async move {
            serde_json::from_slice(&message.payload).ok().map(BusEvent::Acknowledged)
        });
        all.push(acks.boxed());
        Ok(all)
    }

    async fn publish(
        &self,
        client: &Client,
        subject: &str,
        inbox: &str,
        outgoing: Outgoing,
    ) -> Result<(), OwnerGone> {
        let result = match outgoing {
            Outgoing::Output(seq, payload) => {
                let result = client.publish_bytes(subject, Some(inbox), payload).await;
                if matches!(result, Err(Error::TooLarge { .. })) {
                    self.tell(BusEvent::TooLarge(seq)).await?;
                }
                result
            }
            Outgoing::Message { connection, .. } if connection != self.connections => Ok(()),
            Outgoing::Message { subject, payload, .. } => client.publish_bytes(&subject, None, payload).await,
            Outgoing::Flush(done_tx) => {
                let result = client.flush().await;
                // Who no longer waits needs no answer.
                let _ = done_tx.send(());
                result
            }
        };
        if let Err(error) = result {
            tracing::warn!(%error, "a message was not published");
        }
        Ok(())
    }
}

/// The wait before attempt number `attempts`, from 0: short, because a person waits for the agents of a restarted daemon;
/// spread, so that thirty hosts do not arrive at once. `random` is in 0..1.
fn retry_delay(attempts: u32, random: f64) -> Duration {
    let longest = RETRY_FIRST * 2u32.pow(attempts.min(10));
    longest.min(RETRY_LONGEST).mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_begin_at_once_and_settle_at_one_a_second() {
        assert_eq!(retry_delay(0, 1.0), RETRY_FIRST);
        assert_eq!(retry_delay(3, 0.0), RETRY_FIRST * 4);
        assert_eq!(retry_delay(10_000, 1.0), RETRY_LONGEST);
    }
}
