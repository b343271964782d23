//! The unit's loop: `select` waits and only says what happened, `apply` asks the machine, `perform` carries out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep_until;

use crate::exit::Cause;
use crate::output::Line;
use crate::platform::{Cgroup, Tree};
use crate::spec::{CommandSpec, Ready, StopStep, UnitSpec};
use crate::state::{Effect, Event, Machine, Refusal, Request, State, StateName};
use crate::unit::events::{Flow, Outbox};
use crate::unit::live::Live;
use crate::unit::{Ask, Snapshot, Stream, UnitEvent, WriteAsk, WriteError};

/// What the handles can see at any time.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) snapshot: Snapshot,
    pub(crate) tree: Option<Tree>,
}

impl Seen {
    /// What is seen before the first launch.
    pub(crate) fn starting() -> Self {
        let snapshot = Snapshot {
            state: StateName::Starting,
            generation: 0,
            pid: None,
            exit: None,
            restarts: 0,
            started_at: None,
            uptime: None,
            backoff_until: None,
            cause: None,
            since: None,
        };
        Seen { snapshot, tree: None }
    }
}

/// Everything the loop owns.
#[derive(Debug)]
pub(crate) struct Task {
    spec: UnitSpec,
    command: Arc<Mutex<CommandSpec>>,
    outbox: Outbox,
    flow: Arc<Flow>,
    seen_tx: watch::Sender<Seen>,
    machine: Machine,
    cgroup: Option<Cgroup>,
    live: Option<Live>,
    /// `None` once every handle has been dropped.
    asks: Option<mpsc::Receiver<Ask>>,
    writes: Option<mpsc::Receiver<WriteAsk>>,
}

/// The loop's channels.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) command: Arc<Mutex<CommandSpec>>,
    pub(crate) outbox: Outbox,
    pub(crate) flow: Arc<Flow>,
    pub(crate) seen_tx: watch::Sender<Seen>,
    pub(crate) asks: mpsc::Receiver<Ask>,
    pub(crate) writes: mpsc::Receiver<WriteAsk>,
}

/// What the loop was waiting for.
#[derive(Debug)]
enum Wake {
    Asked(Option<Ask>),
    Written(Option<WriteAsk>),
    Readable(Stream),
    Writable,
    LeaderExited,
    Due,
    /// Room for output again, or reading held or let go: select anew.
    FlowChanged,
    /// Neither handles nor a listener are left.
    Abandoned,
}

type Answer = oneshot::Sender<Result<Snapshot, Refusal>>;

impl Task {
    pub(crate) fn new(spec: UnitSpec, ends: Ends, now: Instant) -> Self {
        let ladder = spec.stop.ladder.iter().map(|(_, wait)| *wait).collect();
        let ready_timeout = match spec.ready {
            Ready::OnSpawn => None,
            Ready::WhenTold { timeout } => Some(timeout),
        };
        let machine = Machine::new(spec.rules(), ladder, ready_timeout, now);
        let Ends { command, outbox, flow, seen_tx, asks, writes } = ends;
        let (asks, writes) = (Some(asks), Some(writes));
        Task { spec, command, outbox, flow, seen_tx, machine, cgroup: None, live: None, asks, writes }
    }

    /// Runs until nothing can follow.
    pub(crate) async fn run(mut self) {
        self.make_cgroup();
        while !self.machine.state().name().is_final() {
            let wake = self.select().await;
            self.handle(wake).await;
        }
        self.remove_cgroup();
    }

    /// Waits; decides nothing. Cancel-safe in every arm, so an arm that loses loses nothing.
    async fn select(&mut self) -> Wake {
        let may_read = self.flow.may_read();
        // A launch adds events; while the owner does not take them there is nothing to launch for.
        let held_back = matches!(self.machine.state(), State::Waiting { .. }) && !self.flow.has_room();
        let deadline = self.machine.deadline().filter(|_| !held_back);
        let live = self.live.as_ref();
        let takes_writes = live.is_none_or(|live| live.stdin.is_idle());
        let orphaned = self.asks.is_none();
        tokio::select! {
            ask = receive(&mut self.asks) => Wake::Asked(ask),
            write = receive(&mut self.writes), if takes_writes => Wake::Written(write),
            () = wait_for(live, |live| live.stdout.readable()), if may_read => Wake::Readable(Stream::Stdout),
            () = wait_for(live, |live| live.stderr.readable()), if may_read => Wake::Readable(Stream::Stderr),
            () = wait_for(live, |live| live.stdin.writable()) => Wake::Writable,
            () = wait_for(live, Live::leader_exited) => Wake::LeaderExited,
            () = until(deadline) => Wake::Due,
            () = self.flow.changed() => Wake::FlowChanged,
            () = self.outbox.closed(), if orphaned => Wake::Abandoned,
        }
    }

    async fn handle(&mut self, wake: Wake) {
        match wake {
            Wake::Asked(Some(Ask { request, answer_tx })) => {
                self.apply(Event::Request(request), Some(answer_tx)).await;
            }
            Wake::Asked(None) => self.asks = None,
            Wake::Written(Some(write)) => self.write(write),
            Wake::Written(None) => self.writes = None,
            Wake::Readable(stream) => self.read(stream),
            Wake::Writable => {
                if let Some(live) = &mut self.live {
                    live.stdin.advance();
                }
            }
            Wake::LeaderExited => self.apply(Event::LeaderExited, None).await,
            Wake::Due => self.apply(Event::Due, None).await,
            Wake::FlowChanged => {}
            Wake::Abandoned => self.apply(Event::Request(Request::Kill), None).await,
        }
    }

    /// Applies an event and performs what follows from it, in order. The asker is answered as soon as the request
    /// is granted or refused: before a clearing, which may take long.
    async fn apply(&mut self, event: Event, answer_tx: Option<Answer>) {
        let mut answer_tx = answer_tx;
        let mut effects = match self.machine.apply(event, Instant::now()) {
            Ok(effects) => VecDeque::from(effects),
            Err(refusal) => return self.answer(&mut answer_tx, Err(refusal)),
        };
        while let Some(effect) = effects.pop_front() {
            if effect == Effect::Clear {
                self.answer(&mut answer_tx, Ok(()));
            }
            let follows = match self.perform(effect).await {
                Ok(Some(event)) => self.machine.apply(event, Instant::now()),
                Ok(None) => Ok(Vec::new()),
                Err(refusal) => Err(refusal),
            };
            match follows {
                Ok(follows) => effects.extend(follows),
                Err(refusal) => return self.answer(&mut answer_tx, Err(refusal)),
            }
        }
        self.answer(&mut answer_tx, Ok(()));
    }

    fn answer(&mut self, answer_tx: &mut Option<Answer>, outcome: Result<(), Refusal>) {
        match (answer_tx.take(), outcome) {
            // Who stopped waiting needs no answer.
            (Some(answer_tx), outcome) => drop(answer_tx.send(outcome.map(|()| self.snapshot()))),
            // A fact that does not fit: a bug in the machine or here. Never silent.
            (None, Err(refusal)) => self.note(refusal.to_string()),
            (None, Ok(())) => {}
        }
    }

    async fn perform(&mut self, effect: Effect) -> Result<Option<Event>, Refusal> {
        match effect {
            Effect::Launch => Ok(Some(self.launch())),
            Effect::Freeze => self.freeze().await.map(Some),
            Effect::Thaw => {
                if let Some(live) = &mut self.live {
                    live.thaw();
                }
                Ok(Some(Event::Thawed))
            }
            Effect::Take(index) => {
                self.take_step(index);
                Ok(None)
            }
            Effect::Clear => Ok(self.clear().await),
            Effect::AnnounceExit { exit, uptime } => {
                let generation = self.machine.generation();
                self.outbox.send(UnitEvent::Exited { generation, exit, uptime });
                Ok(None)
            }
            Effect::Announce => {
                self.announce();
                Ok(None)
            }
            // The loop sees the final state.
            Effect::End => Ok(None),
        }
    }

    fn launch(&mut self) -> Event {
        let command = self.command.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match Live::launch(&command, &self.spec, self.cgroup.as_ref()) {
            Ok((live, outside)) => {
                if let Some(error) = outside {
                    self.give_up_cgroup(&error);
                }
                let pid = live.pid;
                self.live = Some(live);
                Event::Spawned { pid }
            }
            Err(error) => {
                self.note(error.to_string());
                Event::SpawnFailed { error, random_unit: fastrand::f64() }
            }
        }
    }

    async fn freeze(&mut self) -> Result<Event, Refusal> {
        let state = self.machine.state().name();
        let refused = |reason| Refusal { request: Request::Pause.as_str(), state, reason };
        match &mut self.live {
            Some(live) => live.freeze().await.map(|()| Event::Frozen).map_err(|e| refused(e.to_string())),
            None => Err(refused("no process runs".to_owned())),
        }
    }

    fn take_step(&mut self, index: usize) {
        let Some(live) = &mut self.live else { return };
        let Some((step, _)) = self.spec.stop.ladder.get(index) else { return };
        match step {
            StopStep::Write(bytes) => live.stdin.write(bytes.clone(), None),
            StopStep::CloseStdin => live.stdin.close(),
            StopStep::Signal(signal) => {
                if let Err(error) = live.signal(*signal) {
                    self.note(format!("could not send {signal:?} to the process group: {error}"));
                }
            }
        }
    }

    async fn clear(&mut self) -> Option<Event> {
        let mut live = self.live.take()?;
        let cleared = live.clear().await;
        std::mem::replace(&mut live.stdin, crate::unit::stdin::Stdin::new(None))
            .give_up(self.machine.state().name());
        for note in cleared.notes {
            self.note(note);
        }
        for (stream, line) in cleared.lines {
            self.output(stream, line);
        }
        Some(Event::Emptied { exit: cleared.exit, random_unit: fastrand::f64() })
    }

    fn write(&mut self, write: WriteAsk) {
        let WriteAsk { bytes, answer_tx } = write;
        let state = self.machine.state().name();
        let takes = match self.machine.state() {
            State::Warming { .. } | State::Active { .. } | State::Paused { .. } => self.live.as_mut(),
            _ => None,
        };
        match takes {
            Some(live) => live.stdin.write(bytes, Some(answer_tx)),
            // Who stopped waiting needs no answer.
            None => drop(answer_tx.send(Err(WriteError::NotRunning { state }))),
        }
    }

    fn read(&mut self, stream: Stream) {
        let Some(mut live) = self.live.take() else { return };
        let pipe = match stream {
            Stream::Stdout => &mut live.stdout,
            Stream::Stderr => &mut live.stderr,
        };
        pipe.read(|line| self.output(stream, line));
        self.live = Some(live);
    }

    fn output(&self, stream: Stream, line: Line) {
        let generation = self.machine.generation();
        let Line { bytes: line, partial } = line;
        self.outbox.send(UnitEvent::Output { generation, stream, line, partial, time: SystemTime::now() });
    }

    fn note(&self, text: String) {
        self.outbox.send(UnitEvent::Note(text));
    }

    fn announce(&self) {
        let snapshot = self.snapshot();
        let tree = self.live.as_ref().map(|live| live.tree.clone());
        self.seen_tx.send_replace(Seen { snapshot: snapshot.clone(), tree });
        self.outbox.send(UnitEvent::Changed(snapshot));
    }

    fn snapshot(&self) -> Snapshot {
        let state = self.machine.state();
        let now = Instant::now();
        let running = state.running();
        let backoff_until = match state {
            State::Waiting { until } if *until > now => Some(SystemTime::now() + (*until - now)),
            _ => None,
        };
        let cause: Option<Cause> = match state {
            State::Terminated { cause, .. } => Some(cause.clone()),
            State::Error { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        Snapshot {
            state: state.name(),
            generation: self.machine.generation(),
            pid: running.map(|run| run.pid),
            exit: self.machine.exit(),
            restarts: self.machine.restarts(),
            started_at: self.live.as_ref().map(|live| live.started_at),
            uptime: running.map(|run| now.saturating_duration_since(run.since)),
            backoff_until,
            cause,
            since: running.map(|run| run.since),
        }
    }

    fn make_cgroup(&mut self) {
        let Some(dir) = &self.spec.cgroup else { return };
        match Cgroup::create(dir) {
            Ok(cgroup) => self.cgroup = Some(cgroup),
            Err(error) => {
                self.note(format!("no cgroup at {}: {error}; going on without", dir.display()));
            }
        }
    }

    fn give_up_cgroup(&mut self, error: &std::io::Error) {
        let Some(cgroup) = self.cgroup.take() else { return };
        self.note(format!("could not join cgroup {}: {error}; going on without", cgroup.dir().display()));
        // Empty, since nobody could join; left behind it does no harm.
        let _ = cgroup.remove();
    }

    fn remove_cgroup(&self) {
        if let Some(cgroup) = &self.cgroup
            && let Err(error) = cgroup.remove()
        {
            self.note(format!("could not remove cgroup {}: {error}", cgroup.dir().display()));
        }
    }
}

/// Receives; never again once the channel is known to be closed.
async fn receive<T>(receiver: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    match receiver {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

/// Waits for something of the live incarnation; for ever if there is none.
async fn wait_for<'a, F: Future<Output = ()>>(live: Option<&'a Live>, wait: impl FnOnce(&'a Live) -> F) {
    match live {
        Some(live) => wait(live).await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
