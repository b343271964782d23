//! Everything the loop waits for, in the order of its importance: output comes last, so that agents that flood the bus
//! keep no request waiting.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream, SelectAll};
use ostler_client::{Client, Connection, Denied, Error, Message, Subscription, Verb};
use ostler_wire::{AgentTopic, DownRequest, HookEvent, NodeId};
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior};

use crate::event::Event;
use crate::inbound::STATUS_INBOX;
use crate::{About, Notice};

/// How often time itself is an event.
const TICK: Duration = Duration::from_secs(1);

/// How long is waited for a denial that may follow the bus's word that it has everything.
const DENIAL_DELAY: Duration = Duration::from_millis(100);

/// What the loop was waiting for.
pub(crate) enum Input {
    Message(Message),
    Event(Event),
    /// The bus is closed for good.
    Closed,
    /// The bus does not let us listen somewhere.
    Deaf(Denied),
}

/// The sources.
pub(crate) struct Inputs {
    /// Requests, states and heartbeats. Each subscription is bounded; the next heartbeat or the asker's patience mends
    /// what is dropped.
    control: SelectAll<BoxStream<'static, Message>>,
    /// Numbered by its hosts, who send again what is dropped.
    output: Subscription,
    notices: mpsc::Receiver<Notice>,
    commands: mpsc::Receiver<DownRequest>,
    /// What our own tasks report.
    own: mpsc::Receiver<Event>,
    tick: Interval,
    connection: watch::Receiver<Connection>,
    client: Client,
}

impl Inputs {
    /// Subscribes to everything and waits until the bus has it.
    pub(crate) async fn open(
        client: &Client,
        node: &NodeId,
        about: &About,
        notices: mpsc::Receiver<Notice>,
        commands: mpsc::Receiver<DownRequest>,
        own: mpsc::Receiver<Event>,
    ) -> Result<Self, Error> {
        let any_hook = AgentTopic::Hook(HookEvent::parse("any").expect("the literal follows the rule"));
        let topics =
            AgentTopic::PLAIN.into_iter().chain([any_hook]).filter(|topic| *topic != AgentTopic::Output);
        let mut filters: Vec<String> = topics.map(|topic| topic.of_every_agent()).collect();
        filters.push(format!("node.{node}.*"));
        filters.push(STATUS_INBOX.to_owned());
        if about.shared_bus {
            filters.push("node.*.heartbeat".to_owned());
        }
        let mut control = SelectAll::new();
        for filter in filters {
            control.push(messages(client.subscribe(filter).await?));
        }
        let output = client.subscribe(AgentTopic::Output.of_every_agent()).await?;
        client.settle().await?;
        if about.shared_bus
            && let Ok(denied) = tokio::time::timeout(DENIAL_DELAY, deaf(client)).await
        {
            return Err(Error::Denied(denied));
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            control,
            output,
            notices,
            commands,
            own,
            tick,
            connection: client.connection(),
            client: client.clone(),
        })
    }

    /// Waits for the next thing; `until` ends the wait early. Cancel-safe.
    pub(crate) async fn select(&mut self, until: Option<Duration>) -> Input {
        let message = |message: Option<Message>| message.map_or(Input::Closed, Input::Message);
        tokio::select! {
            biased;
            denied = deaf(&self.client) => Input::Deaf(denied),
            Some(request) = self.commands.recv() => Input::Event(Event::Down { request, message: None }),
            Some(Notice::HostGone(gone)) = self.notices.recv() => Input::Event(Event::HostGone(gone)),
            Some(event) = self.own.recv() => Input::Event(event),
            _ = self.tick.tick() => Input::Event(Event::Tick(*self.connection.borrow())),
            () = sleep_for(until) => Input::Event(Event::Tick(*self.connection.borrow())),
            next = self.control.next() => message(next),
            next = self.output.next() => message(next),
        }
    }
}

/// Waits until the bus does not let us listen where we must.
async fn deaf(client: &Client) -> Denied {
    client.denied_any(|denied| denied.verb == Verb::Subscribe).await
}

fn messages(subscription: Subscription) -> BoxStream<'static, Message> {
    stream::unfold(subscription, |mut subscription| async move {
        subscription.next().await.map(|message| (message, subscription))
    })
    .boxed()
}

async fn sleep_for(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}
