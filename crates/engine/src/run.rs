//! The loop: `select` waits and only builds events, `apply` decides, `perform` carries out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use ostler_client::{Client, Message, Subscription};
use ostler_store::{Store, Write};
use ostler_wire::{
    AlertMessage, DownRequest, ErrorCode, ErrorReply, NodeId, RunId, Severity, Subject, Timestamp,
};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Interval, MissedTickBehavior};

use crate::event::Event;
use crate::outcome::{Effect, Outcome, to_json};
use crate::state::{Moment, Policy, State};
use crate::{Node, Notice, inbound, reconcile, relaunch};

/// Events decided in one batch, and so sharing one transaction, at most.
const BATCH_MAX: usize = 512;
/// How often time itself is an event.
const TICK: Duration = Duration::from_secs(1);
/// Wait between two attempts to write a batch the disk refused.
const STORAGE_RETRY: Duration = Duration::from_secs(1);
/// Events kept while the disk refuses writes; beyond it hosts' reports are dropped, and their next one mends that.
const DEFERRED_MAX: usize = 4096;
/// Pages read at the same time.
const PAGES_MAX: usize = 8;

/// What the engine is started with.
pub struct Options {
    /// A connected client with the engine's own credential.
    pub client: Client,
    /// The database.
    pub store: Store,
    /// The machine.
    pub node: Arc<dyn Node>,
    /// What the machine reports.
    pub notices: mpsc::Receiver<Notice>,
    /// The node's name.
    pub node_id: NodeId,
    /// The program's version.
    pub version: String,
    /// Where the bus listens, for `node.{node}.info`.
    pub bus_url: String,
    /// Where state is kept, for `node.{node}.info`.
    pub state_dir: String,
    /// When the daemon was started.
    pub started_at: Timestamp,
    /// Time between heartbeats, in milliseconds; three missed make an agent degraded.
    pub heartbeat_ms: u64,
    /// Recorded output kept per agent, in bytes.
    pub log_bytes_max: u64,
    /// Recorded events kept.
    pub events_max: u64,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}

/// Why the engine could not start or had to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database cannot be read or written.
    #[error("the engine cannot use the database")]
    Store(#[from] ostler_store::Error),
    /// The bus is closed for good.
    #[error("the engine lost the bus")]
    Bus(#[from] ostler_client::Error),
    /// A part of the engine panicked.
    #[error("the engine's task failed: {0}")]
    Task(String),
}

/// How the engine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Agents that were stopped for it.
    pub stopped: u32,
    /// Agents that go on.
    pub kept: u32,
}

/// The running engine.
#[derive(Debug)]
pub struct Handle {
    commands: mpsc::Sender<DownRequest>,
    task: JoinHandle<Result<Ended, Error>>,
}

impl Handle {
    /// Asks the engine to end, as `node.{node}.down` does; [`Handle::join`] tells when it has.
    pub async fn down(&self, request: DownRequest) {
        // It may have ended already.
        let _ = self.commands.send(request).await;
    }

    /// Waits until the engine has ended. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Why it ended without being asked.
    pub async fn join(&mut self) -> Result<Ended, Error> {
        (&mut self.task).await.map_err(|error| Error::Task(error.to_string()))?
    }
}

/// Reads the database, finds the hosts that run, and begins to serve. When this returns, requests are heard.
///
/// # Errors
///
/// The database cannot be read or written, or the bus is closed.
pub async fn start(options: Options) -> Result<Handle, Error> {
    // Subscribed first: what hosts say while we reconcile waits in the subscription.
    let agents = options.client.subscribe("agent.>").await?;
    let node = options.client.subscribe(format!("node.{}.*", options.node_id)).await?;
    options.client.settle().await?;

    let policy = Policy::of(&options);
    let (store, machine) = (options.store.clone(), Arc::clone(&options.node));
    let (state, outcome) = tokio::task::spawn_blocking(move || {
        let loaded = reconcile::load(&store, policy)?;
        Ok::<_, Error>(reconcile::reconcile(loaded, machine.as_ref(), &moment()))
    })
    .await
    .map_err(|error| Error::Task(error.to_string()))??;
    options.store.commit(outcome.writes).await?;

    let (commands, commands_rx) = mpsc::channel(4);
    let (own, own_rx) = mpsc::channel(1024);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut engine = Loop {
        client: options.client,
        store: options.store,
        node: options.node,
        node_id: options.node_id,
        recorded: state.event_seq,
        announced: Some(state.event_seq),
        state,
        inputs: Inputs { agents, node, notices: options.notices, commands: commands_rx, own: own_rx, tick },
        own,
        pages: Arc::new(Semaphore::new(PAGES_MAX)),
        tasks: JoinSet::new(),
    };
    engine.perform(outcome.effects).await?;
    let task = tokio::spawn(engine.run());
    Ok(Handle { commands, task })
}

struct Inputs {
    agents: Subscription,
    node: Subscription,
    notices: mpsc::Receiver<Notice>,
    commands: mpsc::Receiver<DownRequest>,
    own: mpsc::Receiver<Event>,
    tick: Interval,
}

struct Loop {
    client: Client,
    store: Store,
    node: Arc<dyn Node>,
    node_id: NodeId,
    state: State,
    inputs: Inputs,
    /// Where launches report.
    own: mpsc::Sender<Event>,
    /// The number of the last event that is on disk.
    recorded: u64,
    /// The number of the last event that was announced, until that is on disk too.
    announced: Option<u64>,
    pages: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

enum Input {
    Message(Message),
    Event(Event),
    Closed,
}

impl Inputs {
    /// Waits for the next thing; `until` ends the wait early. Cancel-safe.
    async fn select(&mut self, until: Option<Duration>) -> Input {
        let message = |message: Option<Message>| message.map_or(Input::Closed, Input::Message);
        tokio::select! {
            next = self.agents.next() => message(next),
            next = self.node.next() => message(next),
            Some(Notice::HostGone(gone)) = self.notices.recv() => Input::Event(Event::HostGone(gone)),
            Some(event) = self.own.recv() => Input::Event(event),
            Some(request) = self.commands.recv() => Input::Event(Event::Down { request, message: None }),
            _ = self.tick.tick() => Input::Event(Event::Tick),
            () = sleep_for(until) => Input::Event(Event::Tick),
        }
    }
}

async fn sleep_for(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

impl Loop {
    async fn run(mut self) -> Result<Ended, Error> {
        loop {
            let mut outcome = self.next_batch().await?;
            // What the batch before announced is noted with this one: a crash between announces it again, never not.
            if let Some(seq) = self.announced.take_if(|_| !outcome.writes.is_empty()) {
                outcome.writes.push(Write::Announced(seq));
            }
            let recorded_before = self.recorded;
            self.write(outcome.writes.into()).await?;
            self.acknowledge(outcome.acks.into_values()).await?;
            let ended = self.perform(outcome.effects).await?;
            self.recorded = self.state.event_seq;
            if self.recorded != recorded_before {
                self.announced = Some(self.recorded);
            }
            if let Some(ended) = ended {
                // The last answers are with the broker before it ends.
                self.client.settle().await?;
                self.store.commit(vec![Write::Announced(self.recorded)]).await?;
                // Launches that are under way report to nobody; their runs are found at the next start.
                while self.tasks.join_next().await.is_some() {}
                return Ok(ended);
            }
            while self.tasks.try_join_next().is_some() {}
        }
    }

    /// Waits for one event and takes along whatever else is there already.
    async fn next_batch(&mut self) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        let until = relaunch::next(&self.state).map(|at| wait_until(at, Timestamp::now()));
        let mut input = self.inputs.select(until).await;
        let moment = moment();
        for _ in 0..BATCH_MAX {
            match input {
                Input::Closed => {
                    return Err(ostler_client::Error::Closed("the engine's subscription ended".into()).into());
                }
                Input::Event(event) => self.state.apply(event, &moment, &mut outcome),
                Input::Message(message) => {
                    if let Some(event) = inbound::event(message, &self.node_id, self.node.as_ref()) {
                        self.state.apply(event, &moment, &mut outcome);
                    }
                }
            }
            // Only what is ready now joins the batch.
            match self.inputs.select(None).now_or_never() {
                Some(next) => input = next,
                None => break,
            }
        }
        Ok(outcome)
    }

    /// Writes a batch, for as long as it takes; requests are refused and facts kept meanwhile.
    async fn write(&mut self, writes: Arc<[Write]>) -> Result<(), Error> {
        let mut told = false;
        let mut deferred: VecDeque<Event> = VecDeque::new();
        loop {
            match self.store.commit(Arc::clone(&writes)).await {
                Ok(()) => break,
                Err(error) if error.is_retryable() => {
                    if !told {
                        told = true;
                        tracing::error!(%error, "the disk refuses writes; trying again every second");
                        let alert = storage_alert(&error);
                        self.publish(&Subject::DashboardAlert, to_json(&alert)).await?;
                    }
                    self.serve_without_disk(&error, &mut deferred).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if told {
            tracing::info!(deferred = deferred.len(), "the disk takes writes again");
            for event in deferred {
                // They come back through the ordinary door, in order; the queue was sized for them.
                if self.own.try_send(event).is_err() {
                    tracing::warn!("a deferred report is dropped; the host's next one mends it");
                }
            }
        }
        Ok(())
    }

    /// Serves what needs no disk until it is time to try again.
    async fn serve_without_disk(
        &mut self,
        error: &ostler_store::Error,
        deferred: &mut VecDeque<Event>,
    ) -> Result<(), Error> {
        let retry = tokio::time::sleep(STORAGE_RETRY);
        tokio::pin!(retry);
        loop {
            let input = tokio::select! {
                () = &mut retry => return Ok(()),
                input = self.inputs.select(None) => input,
            };
            let event = match input {
                Input::Closed => {
                    return Err(ostler_client::Error::Closed("the engine's subscription ended".into()).into());
                }
                Input::Event(event) => event,
                Input::Message(message) => match inbound::event(message, &self.node_id, self.node.as_ref()) {
                    Some(event) => event,
                    None => continue,
                },
            };
            let refusal = || {
                ErrorReply::new(ErrorCode::StorageFailed, format!("nothing can be recorded: {error}"))
                    .hint("free some disk space; the daemon goes on by itself")
            };
            let mut outcome = Outcome::default();
            match event {
                // Unacknowledged, it stays with its host.
                Event::Output { .. } | Event::Tick => {}
                Event::Query(..) | Event::Refuse { .. } => self.state.apply(event, &moment(), &mut outcome),
                Event::Spawn { message, .. } | Event::Remove { message, .. } => {
                    outcome.refuse(message, &refusal());
                }
                Event::Down { request: DownRequest { keep_agents }, message }
                    if deferred.len() < DEFERRED_MAX =>
                {
                    deferred.push_back(Event::Down { request: DownRequest { keep_agents }, message });
                }
                Event::Control { ref agent, .. }
                    if self.state.agents.get(agent).is_some_and(crate::agent::Agent::is_served) => {}
                Event::Control { message, .. } => outcome.refuse(message, &refusal()),
                event if deferred.len() < DEFERRED_MAX => deferred.push_back(event),
                event => tracing::warn!(?event, "dropped: the disk refuses writes and too much waits"),
            }
            self.perform(outcome.effects).await?;
        }
    }

    async fn acknowledge(
        &mut self,
        acks: impl Iterator<Item = (String, ostler_wire::OutputAck)>,
    ) -> Result<(), Error> {
        for (reply, ack) in acks {
            self.client.publish_bytes(&reply, None, to_json(&ack)).await?;
        }
        Ok(())
    }

    async fn perform(&mut self, effects: Vec<Effect>) -> Result<Option<Ended>, Error> {
        let mut ended = None;
        for effect in effects {
            match effect {
                Effect::Answer { message, payload } => {
                    if let Some(reply) = &message.reply {
                        self.answer(reply, payload).await?;
                    }
                }
                Effect::Publish { subject, payload } => self.publish(&subject, payload).await?,
                Effect::Forward(message) => self.client.forward(message).await?,
                Effect::Launch(plan) => {
                    let (node, own) = (Arc::clone(&self.node), self.own.clone());
                    self.tasks.spawn(async move {
                        let (agent, run) = (plan.agent_id.clone(), plan.run_id);
                        let result = tokio::task::spawn_blocking(move || node.launch(&plan)).await;
                        let event = match result {
                            Ok(Ok(())) => Event::Launched { agent, run },
                            Ok(Err(refusal)) => Event::LaunchFailed { agent, run, refusal },
                            Err(error) => {
                                let refusal = ErrorReply::new(ErrorCode::Internal, error.to_string());
                                Event::LaunchFailed { agent, run, refusal }
                            }
                        };
                        // A closed queue means the engine has ended.
                        let _ = own.send(event).await;
                    });
                }
                Effect::Forget(agent) => {
                    let node = Arc::clone(&self.node);
                    self.tasks.spawn(async move {
                        let _ = tokio::task::spawn_blocking(move || node.forget(&agent)).await;
                    });
                }
                Effect::Logs(query, message) => {
                    self.page(message, move |reader| Ok(to_json(&reader.logs(&query)?)));
                }
                Effect::Events(query, message) => {
                    self.page(message, move |reader| Ok(to_json(&reader.events(&query)?)));
                }
                Effect::Info(mut info, message) => {
                    info.rss_bytes = self.node.rss_bytes();
                    self.client.respond(&message, &info).await?;
                }
                Effect::End(how) => ended = Some(how),
            }
        }
        Ok(ended)
    }

    /// Reads a page beside the loop and answers with it.
    fn page(
        &mut self,
        message: Message,
        read: impl FnOnce(ostler_store::Reader<'_>) -> Result<Bytes, ostler_store::Error> + Send + 'static,
    ) {
        let Some(reply) = message.reply else { return };
        let Ok(permit) = Arc::clone(&self.pages).try_acquire_owned() else {
            let client = self.client.clone();
            let refusal =
                ErrorReply::new(ErrorCode::QueueFull, format!("{PAGES_MAX} pages are being read already"))
                    .hint("ask again in a moment");
            self.tasks.spawn(async move {
                let _ = client.publish_bytes(&reply, None, to_json(&refusal)).await;
            });
            return;
        };
        let (client, store) = (self.client.clone(), self.store.clone());
        self.tasks.spawn(async move {
            let (done, done_rx) = oneshot::channel();
            let reading = tokio::task::spawn_blocking(move || {
                let _ = done.send(store.read(read));
            });
            let payload = match done_rx.await {
                Ok(Ok(payload)) => payload,
                Ok(Err(error)) => to_json(&ErrorReply::new(ErrorCode::StorageFailed, error.to_string())),
                Err(_) => to_json(&ErrorReply::new(ErrorCode::Internal, "reading failed")),
            };
            let _ = reading.await;
            let _ = client.publish_bytes(&reply, None, payload).await;
            drop(permit);
        });
    }

    async fn publish(&self, subject: &Subject, payload: Bytes) -> Result<(), Error> {
        match self.client.publish_bytes(&subject.to_string(), None, payload).await {
            // Told to nobody rather than to end the daemon: whoever listens sees the gap in the numbers.
            Err(error @ ostler_client::Error::TooLarge { .. }) => {
                tracing::error!(%error, "an announcement is too large for the bus");
                Ok(())
            }
            result => Ok(result?),
        }
    }

    async fn answer(&self, reply: &str, payload: Bytes) -> Result<(), Error> {
        match self.client.publish_bytes(reply, None, payload).await {
            Err(error @ ostler_client::Error::TooLarge { .. }) => {
                let refusal =
                    ErrorReply::new(ErrorCode::TooLarge, format!("the answer does not fit the bus: {error}"));
                Ok(self.client.publish_bytes(reply, None, to_json(&refusal)).await?)
            }
            result => Ok(result?),
        }
    }
}

fn moment() -> Moment {
    Moment { now: Timestamp::now(), random: fastrand::f64(), new_run: RunId::generate }
}

fn wait_until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}

fn storage_alert(error: &ostler_store::Error) -> AlertMessage {
    AlertMessage {
        severity: Severity::Critical,
        code: "storage_failed".into(),
        agent_id: None,
        text: format!("nothing can be recorded: {error}"),
        action: "free some disk space; the daemon goes on by itself".into(),
        timestamp: Timestamp::now(),
    }
}
