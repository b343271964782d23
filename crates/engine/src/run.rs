//! The loop: `select` waits and only builds events, `apply` decides, `perform` carries out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use ostler_client::Client;
use ostler_store::{Store, Write};
use ostler_wire::{DownRequest, NodeId, RunId, Timestamp};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};

use crate::audit::{Courier, Route};
use crate::event::Event;
use crate::inputs::{Input, Inputs};
use crate::outcome::Outcome;
use crate::perform::PAGES_MAX;
use crate::state::{Moment, Policy, State};
use crate::{AuditMode, AuditOptions, Node, Notice, reconcile, relaunch};

/// Events decided in one batch, and so sharing one transaction, at most.
const BATCH_MAX: usize = 512;
/// Reports of our own tasks that may wait for the loop; a full queue makes the tasks wait.
const OWN_WAITING_MAX: usize = 1024;

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
    /// What `node.{node}.info` tells.
    pub about: About,
    /// What is kept, and how patient the engine is.
    pub limits: Limits,
    /// How an audit is kept.
    pub audit: AuditOptions,
}

/// What the node says about itself.
#[derive(Debug, Clone)]
pub struct About {
    /// The program's version.
    pub version: String,
    /// Where the bus listens.
    pub bus_url: String,
    /// Where state is kept.
    pub state_dir: String,
    /// When the daemon was started.
    pub started_at: Timestamp,
    /// Whether the bus is not the daemon's own, so that other daemons may be on it.
    pub shared_bus: bool,
    /// What was found damaged when the daemon's own bus was started, a sentence each.
    pub damaged: Vec<String>,
}

/// What is kept, and how patient the engine is.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Time between heartbeats, in milliseconds; three missed make an agent degraded. The node's own comes every 15 s at
    /// least.
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
    /// The bus is closed for good, or does not permit what the engine needs.
    #[error("the engine cannot use the bus")]
    Bus(#[from] ostler_client::Error),
    /// An audit is required, and the bus keeps none.
    #[error("the audit is required and cannot be stored: {0}")]
    Audit(String),
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
    let (commands, commands_rx) = mpsc::channel(4);
    let (own, own_rx) = mpsc::channel(OWN_WAITING_MAX);
    // Subscribed first: what hosts say while we reconcile waits in the subscriptions.
    let inputs =
        Inputs::open(&options.client, &options.node_id, &options.about, options.notices, commands_rx, own_rx)
            .await?;

    let damaged = options.about.damaged.clone();
    let policy = Policy::new(&options.node_id, options.about, options.limits, options.audit);
    let route = audit_route(&options.client, &options.store, &options.node_id, options.audit).await?;
    let (store, machine) = (options.store.clone(), Arc::clone(&options.node));
    let (state, outcome) = tokio::task::spawn_blocking(move || {
        let loaded = reconcile::load(&store, policy)?;
        Ok::<_, Error>(reconcile::reconcile(loaded, &damaged, machine.as_ref(), &moment()))
    })
    .await
    .map_err(|error| Error::Task(error.to_string()))??;
    options.store.commit(outcome.writes).await?;
    let chain = options.store.read(|reader| reader.audit_status())?;

    let mut engine = Loop {
        client: options.client,
        store: options.store,
        node: options.node,
        node_id: options.node_id,
        recorded: state.event_seq,
        announced: Some(state.event_seq),
        state,
        inputs,
        deferred: VecDeque::new(),
        courier: route.map(|route| Courier::start(route, chain, own.clone())),
        own,
        pages: Arc::new(Semaphore::new(PAGES_MAX)),
        tasks: JoinSet::new(),
    };
    engine.measure_logs();
    engine.perform(outcome.effects).await?;
    let task = tokio::spawn(engine.run());
    Ok(Handle { commands, task })
}

/// The engine's task.
pub(crate) struct Loop {
    pub(crate) client: Client,
    pub(crate) store: Store,
    pub(crate) node: Arc<dyn Node>,
    pub(crate) node_id: NodeId,
    pub(crate) state: State,
    pub(crate) inputs: Inputs,
    /// What came while the disk refused writes.
    pub(crate) deferred: VecDeque<Event>,
    /// Where our own tasks report.
    pub(crate) own: mpsc::Sender<Event>,
    /// The number of the last event that is on disk.
    recorded: u64,
    /// The number of the last event that was announced, until that is on disk too.
    announced: Option<u64>,
    /// Carries the audit and what is wanted to the bus; absent when no audit is kept.
    pub(crate) courier: Option<Courier>,
    pub(crate) pages: Arc<Semaphore>,
    pub(crate) tasks: JoinSet<()>,
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
            let (told, wished) = (outcome.writes.iter().any(is_told), outcome.writes.iter().any(is_wish));
            if let Some(ended) = self.write(&mut outcome).await? {
                self.settle().await;
                self.end_audit().await;
                return Ok(ended);
            }
            match &self.courier {
                Some(courier) if wished => courier.wish(),
                Some(courier) if told => courier.nudge(),
                _ => {}
            }
            self.acknowledge(outcome.acks.into_values()).await?;
            let ended = self.perform(outcome.effects).await?;
            self.recorded = self.state.event_seq;
            if self.recorded != recorded_before {
                self.announced = Some(self.recorded);
            }
            if let Some(ended) = ended {
                // The last answers are with the broker before it ends.
                self.settle().await;
                self.store.commit(vec![Write::Announced(self.recorded)]).await?;
                self.end_audit().await;
                // Launches that are under way report to nobody; their runs are found at the next start.
                while self.tasks.join_next().await.is_some() {}
                return Ok(ended);
            }
            while self.tasks.try_join_next().is_some() {}
        }
    }

    /// Waits until the last answers are with the bus, but not for a bus that is away: ending must not depend on it.
    async fn settle(&mut self) {
        if let Err(error) = self.client.settle().await {
            tracing::warn!(%error, "the last answers may not have reached the bus");
        }
    }

    async fn end_audit(&mut self) {
        if let Some(courier) = self.courier.take() {
            courier.end().await;
        }
    }

    /// Waits for one event and takes along whatever else is there already.
    async fn next_batch(&mut self) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        let mut input = match self.deferred.pop_front() {
            Some(event) => Input::Event(event),
            None => {
                let until = relaunch::next(&self.state).map(|at| wait_until(at, Timestamp::now()));
                self.inputs.select(until).await
            }
        };
        let moment = moment();
        for taken in 1.. {
            let event = match input {
                Input::Closed => return Err(closed()),
                // Who would hear nothing must not look as if it served; its agents go on.
                Input::Deaf(denied) => return Err(ostler_client::Error::Denied(denied).into()),
                Input::Event(event) => Some(event),
                Input::Message(message) => self.read(message),
            };
            if let Some(event) = event {
                self.state.apply(event, &moment, &mut outcome);
            }
            if taken >= BATCH_MAX {
                break;
            }
            // Only what is ready now joins the batch.
            input = match self.deferred.pop_front() {
                Some(event) => Input::Event(event),
                None => match self.inputs.select(None).now_or_never() {
                    Some(next) => next,
                    None => break,
                },
            };
        }
        Ok(outcome)
    }
}

/// The way of the audit to the bus, if it is kept; looked at before anything is started where it is required.
async fn audit_route(
    client: &Client,
    store: &Store,
    node: &NodeId,
    options: AuditOptions,
) -> Result<Option<Route>, Error> {
    if options.mode == AuditMode::Off {
        return Ok(None);
    }
    let mut route = Route::new(client.clone(), store.clone(), node.clone(), options);
    if options.mode == AuditMode::Required {
        route.check().await.map_err(|fault| Error::Audit(fault.to_string()))?;
    }
    Ok(Some(route))
}

/// Whether the audit has more to carry after it.
fn is_told(write: &Write) -> bool {
    matches!(write, Write::AppendAudit(_))
}

/// Whether it changes what is wanted of an agent.
fn is_wish(write: &Write) -> bool {
    matches!(write, Write::PutAgent(_) | Write::SetDesired(..) | Write::RemoveAgent(_))
}

/// The bus is closed for good.
pub(crate) fn closed() -> Error {
    ostler_client::Error::Closed("the engine's subscription ended".into()).into()
}

pub(crate) fn moment() -> Moment {
    Moment { now: Timestamp::now(), random: fastrand::f64(), new_run: RunId::generate }
}

fn wait_until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}
