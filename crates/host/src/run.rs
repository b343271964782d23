//! The host's loop: `select` waits and only says what happened, the core decides, `perform` carries out. It decides only
//! when the run is over and what is sent first.
//!
//! ```text
//!   unit ---- lines, states ---+                +--> unit (requests, stdin)
//!   bus ----- requests, acks --+--> Core::apply +--> bus (output, states, answers)
//!   signals, guard, time ------+                +--> files (host.json, session)
//! ```
//!
//! At the end the output is handed over, and the last states are: as long as the bus is there, for at most
//! [`DRAIN_MAX`]; the rest of the output goes to the spool file, that of the states is in the record, from where the
//! daemon takes them.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ostler_supervise::guard::GuardHandle;
use ostler_supervise::platform::Identity;
use ostler_supervise::unit::{self, Events, Handle, UnitEvent, WriteError};
use ostler_wire::{AgentState, HostRecord, ProcessFacts, ProcessIdentity, RunSpec, Timestamp};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};

use crate::bus::{self, BusEvent, Outgoing};
use crate::core::{Ask, Asked, Core, Effect, Event, Now};
use crate::files;
use crate::launch::{command, unit_spec};
use crate::status::{View, agent_state};
use crate::twice::Twice;

/// How long the end of a run waits for the engine to acknowledge.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// How long a host that ends early waits for its first connection, so that a quick end is heard of on the bus.
const FIRST_CONNECTION_MAX: Duration = Duration::from_secs(3);

/// Messages other than output that wait for the bus; the oldest go when nobody takes them.
const MAIL_MAX: usize = 1024;

/// Events of the unit handled in one go; the bus is looked at in between.
const BATCH_MAX: usize = 256;

type Asking = Pin<Box<dyn Future<Output = Asked>>>;
type Writing = Pin<Box<dyn Future<Output = Result<(), WriteError>>>>;

/// Everything the loop owns.
struct Host {
    core: Core,
    guard: GuardHandle,
    guard_lost: bool,
    identity: Identity,
    unit: Option<Handle>,
    events: Option<Events>,
    asking: FuturesUnordered<Asking>,
    writing: Option<Writing>,
    outgoing_tx: mpsc::Sender<Outgoing>,
    bus_rx: mpsc::Receiver<BusEvent>,
    bus: JoinHandle<()>,
    twice: Twice,
    /// Answers, first in line.
    replies: VecDeque<(String, Bytes)>,
    /// Publications, each behind the output up to a number.
    mail: VecDeque<(u64, String, Bytes)>,
    sigterm: Signal,
    sigint: Signal,
    started: Instant,
    up: bool,
    /// The present connection, or the last.
    connection: u64,
    ever_up: bool,
    /// When the agent's end was known.
    over_at: Option<Instant>,
}

/// What the loop was waiting for.
enum Wake {
    Unit(Option<UnitEvent>),
    Bus(Option<BusEvent>),
    Asked(Asked),
    Written(Result<(), WriteError>),
    Terminate,
    GuardLost,
    /// The bus task has room, or time has passed: look again.
    Room,
    Due,
}

/// Runs one agent until it is over. Returns its last state.
pub(crate) async fn run(spec: RunSpec, guard: GuardHandle) -> std::io::Result<AgentState> {
    let mut host = Host::start(spec, guard)?;
    while !host.is_done() {
        let wake = host.select().await;
        host.handle(wake);
        host.send();
    }
    Ok(host.finish().await)
}

fn now() -> Now {
    Now { mono: Instant::now(), wall: Timestamp::now() }
}

impl Host {
    fn start(mut spec: RunSpec, guard: GuardHandle) -> std::io::Result<Self> {
        if files::is_prompted(&spec.agent_dir) {
            spec.spawn.prompt = None;
        }
        let session = files::read_session(&spec.agent_dir);
        let adapter = ostler_agents::adapter(spec.spawn.kind);
        let (outgoing_tx, bus_rx, bus) = bus::start(&spec);
        let core = Core::new(spec, adapter, session, std::process::id(), now());
        let mut host = Self {
            core,
            identity: Identity::own()?,
            guard,
            guard_lost: false,
            unit: None,
            events: None,
            asking: FuturesUnordered::new(),
            writing: None,
            outgoing_tx,
            bus_rx,
            bus,
            twice: Twice::default(),
            replies: VecDeque::new(),
            mail: VecDeque::new(),
            sigterm: signal(SignalKind::terminate())?,
            // Ignored: Ctrl-C on a foreground daemon is the daemon's to interpret.
            sigint: signal(SignalKind::interrupt())?,
            started: Instant::now(),
            up: false,
            connection: 0,
            ever_up: false,
            over_at: None,
        };
        host.record();
        match host.core.launch() {
            Ok(launch) => {
                let (unit, events) = unit::start(unit_spec(host.core.spec(), &launch, host.guard.identity()));
                host.unit = Some(unit);
                host.events = Some(events);
            }
            Err(error) => {
                let effects = host.core.failed_to_start(error.to_string(), now());
                host.perform_all(effects);
                host.over_at = Some(Instant::now());
            }
        }
        Ok(host)
    }

    /// Waits; decides nothing. Every arm is cancel-safe.
    async fn select(&mut self) -> Wake {
        let mut deadline = self.core.deadline();
        if let Some(over_at) = self.over_at {
            deadline = deadline.min(over_at + DRAIN_MAX);
            if !self.ever_up {
                deadline = deadline.min(self.started + FIRST_CONNECTION_MAX);
            }
        }
        let sends = !self.replies.is_empty() || !self.mail.is_empty() || self.core.outbox().has_next();
        tokio::select! {
            event = recv(&mut self.events) => Wake::Unit(event),
            event = self.bus_rx.recv() => Wake::Bus(event),
            Some(asked) = self.asking.next() => Wake::Asked(asked),
            result = wait_for(&mut self.writing) => Wake::Written(result),
            _ = self.outgoing_tx.reserve(), if sends => Wake::Room,
            () = self.guard.lost(), if !self.guard_lost => Wake::GuardLost,
            _ = self.sigterm.recv() => Wake::Terminate,
            _ = self.sigint.recv() => Wake::Room,
            () = sleep_until(deadline.into()) => Wake::Due,
        }
    }

    fn handle(&mut self, wake: Wake) {
        let event = match wake {
            Wake::Unit(Some(event)) => return self.unit_events(event),
            Wake::Unit(None) => {
                self.events = None;
                self.over_at = Some(Instant::now());
                return;
            }
            Wake::Bus(Some(event)) => match self.bus_event(event) {
                Some(event) => event,
                None => return,
            },
            // The bus task ends only after us; without it the agent would still run on.
            Wake::Bus(None) | Wake::Room => return,
            Wake::Asked(asked) => Event::Asked(asked),
            Wake::Written(result) => {
                self.writing = None;
                Event::Written(result)
            }
            Wake::Terminate => Event::Terminate,
            Wake::GuardLost => {
                self.guard_lost = true;
                Event::GuardLost
            }
            Wake::Due => Event::Due,
        };
        self.apply(event);
    }

    /// Takes one event of the unit and what else waits, so that a talkative agent costs one round for many lines.
    fn unit_events(&mut self, first: UnitEvent) {
        let mut next = Some(first);
        for _ in 0..BATCH_MAX {
            let Some(event) = next else { return };
            self.unit_event(event);
            next = self.events.as_mut().and_then(Events::try_recv);
        }
        if let Some(event) = next {
            self.unit_event(event);
        }
    }

    fn unit_event(&mut self, event: UnitEvent) {
        let event = match event {
            UnitEvent::Changed(snapshot) => Event::Changed(View::of(&snapshot, SystemTime::now())),
            UnitEvent::Output { generation, stream, line, partial, time } => {
                let time = Timestamp::try_from(time).unwrap_or_else(|_| Timestamp::now());
                Event::Line { generation: generation.into(), stream, line, partial, time }
            }
            UnitEvent::Exited { .. } => Event::Exited,
            UnitEvent::Note(note) => {
                tracing::warn!("{note}");
                return;
            }
        };
        self.apply(event);
    }

    fn bus_event(&mut self, event: BusEvent) -> Option<Event> {
        Some(match event {
            BusEvent::Connected(connection) => {
                self.connection = connection;
                self.up = true;
                self.ever_up = true;
                // What was meant for the last connection is stale: the state is told anew.
                self.mail.clear();
                self.replies.clear();
                self.twice.reset();
                Event::Connected
            }
            BusEvent::Disconnected => {
                self.up = false;
                self.mail.clear();
                self.replies.clear();
                Event::Disconnected
            }
            BusEvent::Request(topic, message) => {
                let reply = message.reply.as_deref();
                if !self.twice.take(message.forwarded, &message.subject, reply, &message.payload) {
                    return None;
                }
                Event::Request {
                    topic,
                    reply: message.reply,
                    payload: message.payload,
                    fresh_id: uuid::Uuid::now_v7().to_string(),
                }
            }
            BusEvent::Acknowledged(ack) => Event::Acknowledged(ack),
            BusEvent::Denied(denied) => Event::Denied(denied.to_string()),
            BusEvent::TooLarge(seq) => {
                tracing::warn!(seq, "an output is larger than the bus carries; it is told as dropped");
                Event::TooLarge(seq)
            }
        })
    }

    fn apply(&mut self, event: Event) {
        let effects = self.core.apply(event, now());
        self.perform_all(effects);
    }

    fn perform_all(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Ask { ask, reply, changed } => self.ask(ask, reply, changed),
            Effect::Write(bytes) => {
                let Some(unit) = self.unit.clone() else { return };
                self.writing = Some(Box::pin(async move { unit.write(bytes).await }));
            }
            Effect::SetLaunch(launch) => {
                if let Some(unit) = &self.unit {
                    unit.set_command(command(self.core.spec(), &launch));
                }
            }
            Effect::HoldReading(held) => {
                if let Some(unit) = &self.unit {
                    unit.pause_reading(held);
                }
            }
            Effect::Reply { subject, payload } => {
                bounded_push(&mut self.replies, (subject, payload));
            }
            Effect::Publish { subject, payload } => {
                bounded_push(&mut self.mail, (self.core.last_seq(), subject, payload));
            }
            Effect::Record => self.record(),
            Effect::Prompted => log_error(files::mark_prompted(&self.core.spec().agent_dir)),
            Effect::SaveSession(session) => {
                log_error(files::write_session(&self.core.spec().agent_dir, session.as_deref()));
            }
            Effect::Beat => {
                if let Some(beat) = self.core.heartbeat(self.facts(), now()) {
                    self.perform(beat);
                }
            }
            Effect::Log(text) => tracing::warn!("{text}"),
        }
    }

    fn ask(&mut self, ask: Ask, reply: Option<String>, changed: bool) {
        let Some(unit) = self.unit.clone() else {
            let state = self.core.view().state;
            self.asking.push(Box::pin(std::future::ready(Asked {
                ask,
                reply,
                changed: false,
                result: Ok(state),
            })));
            return;
        };
        self.asking.push(Box::pin(async move {
            let result = match ask {
                Ask::Stop => unit.stop(false).await,
                Ask::Kill => unit.kill().await,
                Ask::Pause => unit.pause().await,
                Ask::Resume => unit.resume().await,
                Ask::Restart => unit.restart().await,
                Ask::Ready => unit.ready().await,
            };
            Asked { ask, reply, changed, result: result.map(|snapshot| agent_state(snapshot.state)) }
        }));
    }

    fn facts(&self) -> ProcessFacts {
        let facts = self.unit.as_ref().map(Handle::facts).unwrap_or_default();
        ProcessFacts {
            processes: u32::try_from(facts.process_count).unwrap_or(u32::MAX),
            cpu_ms: u64::try_from(facts.cpu_time.as_millis()).unwrap_or(u64::MAX),
            rss_bytes: facts.rss_bytes,
            ..ProcessFacts::default()
        }
    }

    /// Hands the bus what it has room for: answers first, then output and publications in their order. A publication
    /// waits for the output before it, unless that may not be sent yet.
    fn send(&mut self) {
        while self.outgoing_tx.capacity() > 0 {
            let connection = self.connection;
            let message = if let Some((subject, payload)) = self.replies.pop_front() {
                Outgoing::Message { connection, subject, payload }
            } else if let Some((subject, payload)) = self.next_mail(false) {
                Outgoing::Message { connection, subject, payload }
            } else if let Some((seq, payload)) = self.core.outbox().next(Instant::now()) {
                Outgoing::Output(seq, payload)
            } else if let Some((subject, payload)) = self.next_mail(true) {
                Outgoing::Message { connection, subject, payload }
            } else {
                return;
            };
            if self.outgoing_tx.try_send(message).is_err() {
                return;
            }
        }
    }

    fn next_mail(&mut self, overtaking: bool) -> Option<(String, Bytes)> {
        let behind = self.mail.front()?.0;
        if !overtaking && self.core.outbox().sent_seq() < behind {
            return None;
        }
        self.mail.pop_front().map(|(_, subject, payload)| (subject, payload))
    }

    /// True when nothing is left to do, or to wait for.
    fn is_done(&mut self) -> bool {
        let Some(over_at) = self.over_at else { return false };
        let now = Instant::now();
        // Somebody may still wait for the unit's last answer.
        let answered = self.asking.is_empty() && self.writing.is_none();
        if self.up {
            let delivered =
                answered && self.core.outbox().is_empty() && self.mail.is_empty() && self.replies.is_empty();
            delivered && self.core.is_announced() || now >= over_at + DRAIN_MAX
        } else {
            self.ever_up || now >= self.started + FIRST_CONNECTION_MAX
        }
    }

    /// Leaves what was not taken to the daemon.
    async fn finish(mut self) -> AgentState {
        if self.up {
            let (done_tx, done_rx) = oneshot::channel();
            let flushed = async {
                if self.outgoing_tx.send(Outgoing::Flush(done_tx)).await.is_ok() {
                    // Dropped unanswered when the bus went away meanwhile.
                    let _ = done_rx.await;
                }
            };
            let ignored = async { while self.bus_rx.recv().await.is_some() {} };
            let _ = timeout(Duration::from_secs(1), async {
                tokio::select! { () = flushed => (), () = ignored => () }
            })
            .await;
        }
        if !self.core.outbox().is_empty() {
            let run_dir = self.core.spec().run_dir.clone();
            log_error(files::write_spool(&run_dir, self.core.outbox().unacknowledged()));
        }
        self.record();
        drop(self.outgoing_tx);
        drop(self.bus_rx);
        // It notices that its owner is gone, unless it is in the middle of a connection attempt.
        self.bus.abort();
        let _ = self.bus.await;
        self.core.view().state
    }

    fn record(&mut self) {
        let now = now();
        let agent = self.core.view().pid.and_then(Identity::of).map(identity);
        let spec = self.core.spec();
        let record = HostRecord {
            run_id: spec.run_id,
            host: identity(self.identity),
            guard: identity(self.guard.identity()),
            agent,
            cgroup: spec.cgroup.clone().filter(|dir| dir.exists()),
            status: self.core.status(now),
            announced: self.core.announced(),
            last_seq: self.core.last_seq(),
            keep_desired: self.core.keep_desired(),
            stop_asked: self.core.stop_asked(),
            updated_at: now.wall,
        };
        log_error(files::write_record(&spec.run_dir, &record));
    }
}

fn identity(identity: Identity) -> ProcessIdentity {
    ProcessIdentity { pid: identity.pid, start_time: identity.start_time }
}

/// A file that cannot be written does not end the agent; the log and the next attempt remain.
fn log_error<T>(result: Result<T, files::Error>) {
    if let Err(error) = result {
        tracing::error!("{error}");
    }
}

fn bounded_push<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() >= MAIL_MAX {
        queue.pop_front();
        tracing::warn!("the bus takes too little; the oldest message that waited is dropped");
    }
    queue.push_back(item);
}

async fn recv(events: &mut Option<Events>) -> Option<UnitEvent> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

async fn wait_for(writing: &mut Option<Writing>) -> Result<(), WriteError> {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}
