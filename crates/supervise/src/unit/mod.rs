//! A supervised unit: [`start`] gives a [`Handle`] to ask and an [`Events`] to listen; the task between them is
//! private.

mod events;
mod live;
mod run;
mod stdin;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};

pub use events::{Events, QUEUED_BYTES_MAX, QUEUED_EVENTS_MAX, Stream, UnitEvent};

use crate::exit::{Cause, Exit};
use crate::platform::{Facts, Tree};
use crate::spec::{CommandSpec, UnitSpec};
use crate::state::{OVER, Refusal, Request, StateName};

/// Requests that may wait for the unit's task; askers beyond wait in turn.
const REQUESTS_MAX: usize = 32;

/// Messages that may wait for stdin; writers beyond wait in turn.
const WRITES_MAX: usize = 16;

/// A unit as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The state.
    pub state: StateName,
    /// The incarnation, from 1; 0 before the first launch.
    pub generation: u32,
    /// The leader's process id (and process group), while one runs.
    pub pid: Option<u32>,
    /// How the last ended incarnation ended.
    pub exit: Option<Exit>,
    /// How often the restart rules started it again; requested restarts do not count.
    pub restarts: u32,
    /// When the running incarnation was started.
    pub started_at: Option<SystemTime>,
    /// How long it had been running.
    pub uptime: Option<Duration>,
    /// When the next launch is due, while waiting out a backoff.
    pub backoff_until: Option<SystemTime>,
    /// Why the run is over, in a final state.
    pub cause: Option<Cause>,
    /// For [`Handle::snapshot`] to bring `uptime` up to date.
    pub(crate) since: Option<Instant>,
}

/// Starts a unit on the current tokio runtime: launches at once and keeps the process as the specification says.
///
/// The task ends by itself after the last `Changed` event, with nothing left running. It has one parent: who holds
/// [`Events`] until they end (or awaits [`Handle::join`]) has joined it. When the handles **and** the events have
/// all been dropped, the tree is killed.
///
/// # Panics
/// Outside a tokio runtime with I/O and time enabled.
pub fn start(spec: UnitSpec) -> (Handle, Events) {
    let (outbox, events, flow) = events::queue();
    let (request_tx, asks) = mpsc::channel(REQUESTS_MAX);
    let (write_tx, writes) = mpsc::channel(WRITES_MAX);
    let (seen_tx, seen_rx) = watch::channel(run::Seen::starting());
    let command = Arc::new(Mutex::new(spec.command.clone()));
    let ends =
        run::Ends { command: Arc::clone(&command), outbox, flow: Arc::clone(&flow), seen_tx, asks, writes };
    tokio::spawn(run::Task::new(spec, ends, Instant::now()).run());
    (Handle { request_tx, write_tx, command, seen_rx, flow }, events)
}

/// Asks a unit. Cheap to clone.
///
/// A request is answered when it is **granted**: `stop`, `kill` and `restart` answer as soon as stopping has begun
/// (the end is told by [`Events`] or [`Handle::join`]), `pause` and `resume` once the tree is frozen or thawed. Asked
/// twice, it is done once.
#[derive(Debug, Clone)]
pub struct Handle {
    request_tx: mpsc::Sender<Ask>,
    write_tx: mpsc::Sender<WriteAsk>,
    command: Arc<Mutex<CommandSpec>>,
    seen_rx: watch::Receiver<run::Seen>,
    flow: Arc<events::Flow>,
}

/// One request on its way.
#[derive(Debug)]
pub(crate) struct Ask {
    request: Request,
    answer_tx: oneshot::Sender<Result<Snapshot, Refusal>>,
}

/// One message for stdin on its way.
#[derive(Debug)]
pub(crate) struct WriteAsk {
    bytes: Vec<u8>,
    answer_tx: oneshot::Sender<Result<(), WriteError>>,
}

/// Why bytes did not reach stdin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// No process is there to read; nothing was written.
    #[error("nothing reads: the unit is {state}")]
    NotRunning {
        /// The state it met.
        state: StateName,
    },
    /// The process ended or closed its stdin before all was written; part of it may have been read.
    #[error("the process closed its stdin before everything was written")]
    Closed,
}

impl Handle {
    /// Asks for the end, by the stop ladder, or with `force` without any grace; no new start follows.
    ///
    /// # Errors
    /// None today: an end already reached or under way is a success. The type leaves room.
    pub async fn stop(&self, force: bool) -> Result<Snapshot, Refusal> {
        self.ask(if force { Request::Kill } else { Request::Stop }).await
    }

    /// Kills the whole tree at once; no new start follows. The same as `stop(true)`.
    ///
    /// # Errors
    /// As [`Handle::stop`].
    pub async fn kill(&self) -> Result<Snapshot, Refusal> {
        self.ask(Request::Kill).await
    }

    /// Freezes the whole tree.
    ///
    /// # Errors
    /// [`Refusal`] unless it is active or paused, or when some process could not be frozen (all are thawed then).
    pub async fn pause(&self) -> Result<Snapshot, Refusal> {
        self.ask(Request::Pause).await
    }

    /// Thaws the whole tree.
    ///
    /// # Errors
    /// [`Refusal`] when it is on its way out or over.
    pub async fn resume(&self) -> Result<Snapshot, Refusal> {
        self.ask(Request::Resume).await
    }

    /// Ends the process by the stop ladder and starts it again, with the command of the last
    /// [`Handle::set_command`]; while waiting out a backoff it starts at once.
    ///
    /// # Errors
    /// [`Refusal`] when a stop was asked for or the run is over.
    pub async fn restart(&self) -> Result<Snapshot, Refusal> {
        self.ask(Request::Restart).await
    }

    /// Says that the process is ready; only needed with [`Ready::WhenTold`](crate::spec::Ready::WhenTold).
    ///
    /// # Errors
    /// [`Refusal`] when no process runs or it is on its way out.
    pub async fn ready(&self) -> Result<Snapshot, Refusal> {
        self.ask(Request::Ready).await
    }

    /// Writes bytes to the process's stdin and waits until all are in the pipe; messages never mix.
    ///
    /// Waits while the pipe is full, also while the process is paused. Not cancel-safe: a message that was queued is
    /// written even if the future is dropped.
    ///
    /// # Errors
    /// [`WriteError::NotRunning`] while nothing runs or it is being stopped (send it later or to somebody else),
    /// [`WriteError::Closed`] when the reader went away half-way (it may have read part).
    pub async fn write(&self, bytes: Vec<u8>) -> Result<(), WriteError> {
        let (answer_tx, answer_rx) = oneshot::channel();
        if self.write_tx.send(WriteAsk { bytes, answer_tx }).await.is_err() {
            return Err(self.not_running());
        }
        answer_rx.await.unwrap_or_else(|_| Err(self.not_running()))
    }

    /// Sets the command of the next start; the running process is left alone.
    pub fn set_command(&self, command: CommandSpec) {
        *self.command.lock().unwrap_or_else(PoisonError::into_inner) = command;
    }

    /// Holds reading of stdout and stderr back, or lets it go on. While held, the process blocks once its pipe is
    /// full (64 KiB). The leftover of a process that has ended is delivered in any case.
    pub fn pause_reading(&self, held: bool) {
        self.flow.hold(held);
    }

    /// Returns the unit as it is now.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.seen_rx.borrow().snapshot.clone();
        snapshot.uptime = snapshot.since.map(|since| since.elapsed());
        snapshot
    }

    /// Measures the live tree; zero when nothing runs (or the system does not tell). Reads `/proc`, a few microseconds per process on the machine.
    pub fn facts(&self) -> Facts {
        let tree: Option<Tree> = self.seen_rx.borrow().tree.clone();
        let members = tree.and_then(|tree| tree.members().ok()).unwrap_or_default();
        crate::platform::facts(&members)
    }

    /// Waits until the unit is over and returns its last state. Somebody must keep receiving [`Events`] (or have
    /// dropped them) meanwhile.
    ///
    /// Cancel-safe.
    pub async fn join(&self) -> Snapshot {
        let mut seen_rx = self.seen_rx.clone();
        // An error means that the task has ended, which is what is waited for.
        while seen_rx.changed().await.is_ok() {}
        self.snapshot()
    }

    async fn ask(&self, request: Request) -> Result<Snapshot, Refusal> {
        let (answer_tx, answer_rx) = oneshot::channel();
        if self.request_tx.send(Ask { request, answer_tx }).await.is_err() {
            return self.answer_when_over(request);
        }
        answer_rx.await.unwrap_or_else(|_| self.answer_when_over(request))
    }

    /// Answers for a task that has ended, as its machine would have.
    fn answer_when_over(&self, request: Request) -> Result<Snapshot, Refusal> {
        let snapshot = self.snapshot();
        match request {
            Request::Stop | Request::Kill => Ok(snapshot),
            Request::Pause | Request::Resume | Request::Restart | Request::Ready => {
                Err(Refusal { request: request.as_str(), state: snapshot.state, reason: OVER.to_owned() })
            }
        }
    }

    fn not_running(&self) -> WriteError {
        WriteError::NotRunning { state: self.snapshot().state }
    }
}
