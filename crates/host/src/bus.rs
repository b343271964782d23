//! The host's end of the bus: one task that connects for as long as it takes, listens on the agent's subjects and
//! publishes. It decides nothing and keeps nothing: while the bus is away, what it is given is dropped, because its owner
//! gives again what matters.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream, SelectAll};
use ostler_client::{Bus, Client, Connection, Error, Message, Options};
use ostler_wire::{AgentId, OutputAck, RunSpec};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::control::Topic;

/// Facts and messages that wait in each direction; whoever is faster waits.
const QUEUE_MAX: usize = 64;

/// The wait before an unusable credential is tried again: somebody may be repairing it.
const CREDENTIAL_RETRY: Duration = Duration::from_secs(5);

/// What the bus brings.
#[derive(Debug)]
pub(crate) enum BusEvent {
    /// It is there, anew.
    Connected,
    /// It is away.
    Disconnected,
    /// A message on one of our subjects.
    Request(Topic, Message),
    /// The engine recorded output.
    Acknowledged(OutputAck),
    /// It does not carry the output of this number.
    TooLarge(u64),
}

/// What is given to the bus.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// Output of this number: published with our inbox for the acknowledgement.
    Output(u64, Bytes),
    /// Anything else.
    Message {
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
    .inbox_prefix(format!("_INBOX.host-{}", spec.agent_id));
    let task = Task { agent_id: spec.agent_id.clone(), options, event_tx, outgoing_rx };
    let joined = tokio::spawn(async move {
        // `None`: the owner is gone, nobody is left to tell.
        let _ = task.run().await;
    });
    (outgoing_tx, event_rx, joined)
}

struct Task {
    agent_id: AgentId,
    options: Options,
    event_tx: mpsc::Sender<BusEvent>,
    outgoing_rx: mpsc::Receiver<Outgoing>,
}

/// What the task was waiting for.
enum Wake {
    Connection(Connection),
    Incoming(BusEvent),
    Outgoing(Outgoing),
    OwnerGone,
}

impl Task {
    async fn run(mut self) -> Option<()> {
        let client = self.open().await?;
        let inbox = client.new_inbox();
        let mut incoming = match self.listen(&client, &inbox).await {
            Ok(incoming) => incoming,
            Err(error) => {
                tracing::error!(%error, "cannot listen on the bus; the agent runs on without it");
                return self.without_bus().await;
            }
        };
        let subject = format!("agent.{}.output", self.agent_id);
        let mut connection = client.connection();
        let mut up = false;
        let mut first = true;
        loop {
            let wake = tokio::select! {
                changed = connection.changed(), if !first => match changed {
                    Ok(()) => Wake::Connection(*connection.borrow_and_update()),
                    Err(_) => Wake::OwnerGone,
                },
                () = std::future::ready(()), if first => Wake::Connection(*connection.borrow_and_update()),
                Some(event) = incoming.next() => Wake::Incoming(event),
                outgoing = self.outgoing_rx.recv() => outgoing.map_or(Wake::OwnerGone, Wake::Outgoing),
            };
            first = false;
            match wake {
                Wake::Connection(Connection::Up(_)) => {
                    up = true;
                    self.event_tx.send(BusEvent::Connected).await.ok()?;
                }
                Wake::Connection(Connection::Down) => {
                    if std::mem::replace(&mut up, false) {
                        self.event_tx.send(BusEvent::Disconnected).await.ok()?;
                    }
                }
                Wake::Incoming(event) => self.event_tx.send(event).await.ok()?,
                Wake::Outgoing(outgoing) => self.publish(&client, &subject, &inbox, outgoing, up).await?,
                Wake::OwnerGone => return None,
            }
        }
    }

    /// Opens a client, which then connects in the background.
    async fn open(&mut self) -> Option<Client> {
        loop {
            match Client::patient(self.options.clone()).await {
                Ok(client) => return Some(client),
                Err(error) => tracing::error!(%error, "the bus cannot be used; trying again"),
            }
            let retry = tokio::time::sleep(CREDENTIAL_RETRY);
            tokio::pin!(retry);
            loop {
                tokio::select! {
                    () = &mut retry => break,
                    outgoing = self.outgoing_rx.recv() => drop(outgoing?),
                }
            }
        }
    }

    async fn without_bus(&mut self) -> Option<()> {
        loop {
            drop(self.outgoing_rx.recv().await?);
        }
    }

    /// Subscribes to everything we serve. The subscriptions are renewed by the client at every reconnect.
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
        up: bool,
    ) -> Option<()> {
        if !up {
            // A flush is answered by dropping its sender.
            drop(outgoing);
            return Some(());
        }
        let result = match outgoing {
            Outgoing::Output(seq, payload) => {
                let result = client.publish_bytes(subject, Some(inbox), payload).await;
                if matches!(result, Err(Error::TooLarge { .. })) {
                    self.event_tx.send(BusEvent::TooLarge(seq)).await.ok()?;
                }
                result
            }
            Outgoing::Message { subject, payload } => client.publish_bytes(&subject, None, payload).await,
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
        Some(())
    }
}
