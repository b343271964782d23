//! All decisions of one run: events in, effects out; no I/O, no clock, no randomness.
//!
//! The core owns the adapter, the queue of inputs, the output buffer and what is known of the process. The loop feeds it
//! and performs what it returns, in order. Where things are:
//!
//! * [`unit`]: what the process does, line by line, and what the adapter makes of it;
//! * [`request`]: what is asked over the bus, and the answers;
//! * [`pace`]: how often the agent may order something of itself;
//! * [`announced`]: which states the bus has taken, and what is told again;
//! * here: the state, its publication, and time.

mod announced;
mod pace;
mod request;
mod unit;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ostler_agents::{Activity, Adapter, Launch, LaunchContext, LaunchError};
use ostler_supervise::state::Refusal;
use ostler_supervise::unit::{Stream, WriteError};
use ostler_wire::{
    AgentEvent, AgentState, ErrorReply, HeartbeatMessage, NoticeLevel, OutputAck, OutputMessage,
    ProcessFacts, RunSpec, StatusCause, StatusMessage, Subject, Timestamp, Usage,
};
use serde::Serialize;

use crate::control::Topic;
use crate::core::announced::Announced;
use crate::core::pace::Pace;
use crate::outbox::Outbox;
use crate::output::Frame;
use crate::status::{View, activity_text};
use crate::turns::Turns;

/// The two clocks, read once per event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// For waits.
    pub(crate) mono: Instant,
    /// For messages.
    pub(crate) wall: Timestamp,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// The unit's state changed.
    Changed(View),
    /// The agent wrote a line.
    Line {
        /// The incarnation that wrote it.
        generation: u64,
        /// Where.
        stream: Stream,
        /// What.
        line: Bytes,
        /// It goes on in the next one.
        partial: bool,
        /// When it was read.
        time: Timestamp,
    },
    /// An incarnation is gone and all its lines were read.
    Exited,
    /// The bus is there, anew.
    Connected,
    /// The bus is away.
    Disconnected,
    /// A message on one of our subjects.
    Request {
        /// Which subject.
        topic: Topic,
        /// Where the answer is expected.
        reply: Option<String>,
        /// Its payload.
        payload: Bytes,
        /// An id for an input that brings none.
        fresh_id: String,
    },
    /// The engine recorded output.
    Acknowledged(OutputAck),
    /// The bus does not carry the output of this number.
    TooLarge(u64),
    /// The bus does not permit us something; what.
    Denied(String),
    /// The unit answered.
    Asked(Asked),
    /// The write under way has ended.
    Written(Result<(), WriteError>),
    /// The machine shuts down.
    Terminate,
    /// The guard is gone.
    GuardLost,
    /// A deadline may have passed.
    Due,
}

/// What is asked of the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// End it by the ladder.
    Stop,
    /// End it at once.
    Kill,
    /// Freeze it.
    Pause,
    /// Thaw it.
    Resume,
    /// End it and start it again.
    Restart,
    /// Tell it that the agent is ready.
    Ready,
}

/// The unit's answer, with what is needed to pass it on.
#[derive(Debug)]
pub(crate) struct Asked {
    /// What was asked.
    pub(crate) ask: Ask,
    /// Who asked; `None` for ourselves or a publication.
    pub(crate) reply: Option<String>,
    /// Whether it was something new.
    pub(crate) changed: bool,
    /// The state after it.
    pub(crate) result: Result<AgentState, Refusal>,
}

/// What to do, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Ask the unit; answer with [`Event::Asked`].
    Ask {
        /// What.
        ask: Ask,
        /// To be handed back.
        reply: Option<String>,
        /// To be handed back.
        changed: bool,
    },
    /// Write to the agent's stdin; answer with [`Event::Written`]. One at a time.
    Write(Vec<u8>),
    /// The command of the next start.
    SetLaunch(Box<Launch>),
    /// Hold back reading the agent's output, or let it flow.
    HoldReading(bool),
    /// Answer a request.
    Reply {
        /// The inbox.
        subject: String,
        /// The answer.
        payload: Bytes,
    },
    /// Publish, behind all output so far.
    Publish {
        /// The subject.
        subject: String,
        /// The message.
        payload: Bytes,
    },
    /// Write the host's record.
    Record,
    /// Keep the session's id, or forget it.
    SaveSession(Option<String>),
    /// Note that the first prompt was given.
    Prompted,
    /// Measure the tree and publish a heartbeat.
    Beat,
    /// Log it: something an operator may want to know.
    Log(String),
}

/// The state of one run.
pub(crate) struct Core {
    spec: RunSpec,
    adapter: Box<dyn Adapter>,
    outbox: Outbox,
    turns: Turns,
    view: View,
    activity: Option<Activity>,
    usage: Option<Usage>,
    session: Option<String>,
    revision: u64,
    announced: Announced,
    host_pid: u32,
    up: bool,
    /// The first thing the bus denied us on this connection.
    denied: Option<String>,
    /// The incarnation whose adapter state is set up.
    greeted: u64,
    /// The input whose turn's output is being read.
    current_input: Option<String>,
    /// What the adapter wants written, before any input.
    answers: VecDeque<Vec<u8>>,
    writing: Option<Writing>,
    first_prompt: Option<String>,
    /// A stop was asked for; with force.
    stop_asked: Option<bool>,
    /// The incarnation a restart was asked of.
    restart_asked: Option<u64>,
    keep_desired: bool,
    guard_lost: bool,
    heartbeat_at: Instant,
    /// Of the agent's orders to itself.
    pace: Pace,
}

/// Whose write is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Writing {
    /// The adapter's own.
    Answer,
    /// An input's.
    Input,
    /// Of a request to break off the turn.
    Interrupt { reply: Option<String>, input_id: String },
}

impl Core {
    /// The state before anything was started. `session` is the one to go on with.
    pub(crate) fn new(
        spec: RunSpec,
        adapter: Box<dyn Adapter>,
        session: Option<String>,
        host_pid: u32,
        now: Now,
    ) -> Self {
        let bytes_max = usize::try_from(spec.buffer_bytes_max).unwrap_or(usize::MAX);
        Self {
            outbox: Outbox::new(spec.agent_id.clone(), spec.run_id, bytes_max, now.mono),
            turns: Turns::new(adapter.serialises_turns()),
            view: View::starting(),
            activity: None,
            usage: None,
            session,
            revision: 0,
            announced: Announced::default(),
            host_pid,
            up: false,
            denied: None,
            greeted: 0,
            current_input: None,
            answers: VecDeque::new(),
            writing: None,
            first_prompt: spec.spawn.prompt.clone(),
            stop_asked: None,
            restart_asked: None,
            keep_desired: false,
            guard_lost: false,
            heartbeat_at: now.mono + Duration::from_millis(spec.heartbeat_ms.max(1)),
            pace: Pace::new(now.mono),
            spec,
            adapter,
        }
    }

    /// How the agent's process is to be started now.
    ///
    /// # Errors
    ///
    /// When the spawn request cannot become a command line.
    pub(crate) fn launch(&self) -> Result<Launch, LaunchError> {
        self.adapter.launch(&LaunchContext { spawn: &self.spec.spawn, session: self.session.as_deref() })
    }

    /// What the run is about.
    pub(crate) fn spec(&self) -> &RunSpec {
        &self.spec
    }

    /// The output buffer, to hand messages to the bus from.
    pub(crate) fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// The last number given to an output.
    pub(crate) fn last_seq(&self) -> u64 {
        self.outbox.last_seq()
    }

    /// True when a stop asked to keep the desired state.
    pub(crate) fn keep_desired(&self) -> bool {
        self.keep_desired
    }

    /// True once a stop or kill was accepted.
    pub(crate) fn stop_asked(&self) -> bool {
        self.stop_asked.is_some()
    }

    /// What is known of the process.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// Takes one event.
    pub(crate) fn apply(&mut self, event: Event, now: Now) -> Vec<Effect> {
        let mut fx = Vec::new();
        match event {
            Event::Changed(view) => self.changed(view, now, &mut fx),
            Event::Line { generation, stream, line, partial, time } => {
                self.line(generation, stream, &line, partial, time, now, &mut fx);
            }
            Event::Exited => self.exited(now, &mut fx),
            Event::Connected => self.connected(now, &mut fx),
            Event::Disconnected => {
                self.up = false;
                self.outbox.disconnected(now.mono, now.wall);
            }
            Event::Request { topic, reply, payload, fresh_id } => {
                self.requested(topic, reply, &payload, fresh_id, now, &mut fx);
            }
            Event::Acknowledged(ack) => self.outbox.acknowledged(&ack, now.mono, now.wall),
            Event::TooLarge(seq) => self.outbox.refused(seq, now.wall),
            Event::Denied(what) => self.denied(what, now, &mut fx),
            Event::Asked(asked) => self.asked(asked, now, &mut fx),
            Event::Written(result) => self.written(&result, now, &mut fx),
            Event::Terminate => self.terminate(&mut fx),
            Event::GuardLost => self.guard_lost(&mut fx),
            Event::Due => self.due(now, &mut fx),
        }
        self.pump(now, &mut fx);
        if let Some(held) = self.outbox.hold_change(now.mono) {
            fx.push(Effect::HoldReading(held));
        }
        fx
    }

    /// When [`Event::Due`] is due.
    pub(crate) fn deadline(&self) -> Instant {
        let others = self.outbox.deadline().into_iter().chain(self.turns.deadline());
        others.fold(self.heartbeat_at, Instant::min)
    }

    /// The state as it is told; `revision` is that of the last publication.
    pub(crate) fn status(&self, now: Now) -> StatusMessage {
        let view = &self.view;
        let activity = self.activity.map(Activity::as_str);
        let (cause, message) = match &self.denied {
            Some(what) if view.state.is_live() && view.message.is_none() => {
                (StatusCause::NotPermitted, Some(what.clone()))
            }
            _ => (view.cause, view.message.clone()),
        };
        let lived = view.started_at.map(|at| now.wall.duration_since(at).as_millis());
        StatusMessage {
            agent_id: self.spec.agent_id.clone(),
            status: activity_text(view.state, self.spec.spawn.kind, activity).to_owned(),
            message,
            timestamp: now.wall,
            state: view.state,
            cause,
            run_id: self.spec.run_id,
            generation: view.generation,
            revision: self.revision,
            pid: view.pid,
            host_pid: Some(self.host_pid),
            started_at: view.started_at,
            uptime_ms: lived.map(|millis| u64::try_from(millis).unwrap_or(0)),
            restarts: view.restarts,
            exit: view.exit,
            usage: self.usage,
            session_id: self.session.clone(),
            last_seq: Some(self.outbox.last_seq()),
            changes: self.announced.changes_before(self.revision),
        }
    }

    /// Up to which revision the bus has taken the states.
    pub(crate) fn announced(&self) -> u64 {
        self.announced.revision()
    }

    /// True when the bus has taken the last state, or never will: what it denies is not waited for.
    pub(crate) fn is_announced(&self) -> bool {
        self.announced.revision() >= self.revision || self.denied.is_some()
    }

    /// A heartbeat of these facts, if anybody can hear it.
    pub(crate) fn heartbeat(&self, mut facts: ProcessFacts, now: Now) -> Option<Effect> {
        let status = self.status(now);
        facts.pid = self.view.pid;
        facts.uptime_ms = status.uptime_ms.unwrap_or(0);
        let spawn = &self.spec.spawn;
        let beat = HeartbeatMessage {
            agent_id: status.agent_id,
            config_name: spawn.config_name.clone().unwrap_or_default(),
            project_path: spawn.dir.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default(),
            status: status.status,
            current_task: self.turns.running().map(|id| format!("input {id}")).unwrap_or_default(),
            timestamp: now.wall,
            state: Some(self.view.state),
            run_id: Some(self.spec.run_id),
            facts: Some(facts),
        };
        self.up.then(|| publish(&Subject::heartbeat(&self.spec.agent_id), &beat))
    }

    /// The agent could not even be tried to start.
    pub(crate) fn failed_to_start(&mut self, message: String, now: Now) -> Vec<Effect> {
        self.apply(Event::Changed(View::failed(message)), now)
    }

    fn connected(&mut self, now: Now, fx: &mut Vec<Effect>) {
        self.up = true;
        self.denied = None;
        self.outbox.connected(now.mono);
        let subject = Subject::status(&self.spec.agent_id);
        fx.extend(self.announced.connected().map(|status| publish(&subject, status)));
        self.tell_state(now, fx);
        fx.push(Effect::Beat);
    }

    /// The state says so, unless that says something worse: what is denied does not arrive, however often it is sent.
    fn denied(&mut self, what: String, now: Now, fx: &mut Vec<Effect>) {
        if self.denied.is_none() {
            self.denied = Some(what);
            self.tell_state(now, fx);
        }
    }

    fn due(&mut self, now: Now, fx: &mut Vec<Effect>) {
        self.outbox.due(now.mono, now.wall);
        for (input_id, asker, before) in self.turns.overdue(now.mono) {
            self.tell_queued(asker.reply, input_id, before, fx);
        }
        if now.mono >= self.heartbeat_at {
            self.heartbeat_at = now.mono + Duration::from_millis(self.spec.heartbeat_ms.max(1));
            fx.push(Effect::Beat);
        }
    }

    fn terminate(&mut self, fx: &mut Vec<Effect>) {
        // A plain stop that came before stays one.
        self.keep_desired |= self.stop_asked.is_none();
        if self.stop_asked.is_none() && !self.view.is_final() {
            self.stop_asked = Some(false);
            self.announce_shutdown(Some("the machine shuts down"), false, fx);
        }
        fx.push(Effect::Ask { ask: Ask::Stop, reply: None, changed: true });
        fx.push(Effect::Record);
    }

    fn guard_lost(&mut self, fx: &mut Vec<Effect>) {
        self.guard_lost = true;
        fx.push(Effect::Log(
            "the guard is gone; ending the agent, because nobody would clean up after it".into(),
        ));
        fx.push(Effect::Ask { ask: Ask::Kill, reply: None, changed: true });
    }

    /// Records the state and publishes it.
    fn tell_state(&mut self, now: Now, fx: &mut Vec<Effect>) {
        self.revision += 1;
        let status = self.status(now);
        fx.push(Effect::Record);
        if self.up {
            fx.push(publish(&Subject::status(&self.spec.agent_id), &status));
        }
        self.announced.decided(status);
    }

    /// Numbers a message and keeps it until the engine has it.
    fn emit(&mut self, mut message: OutputMessage, now: Now) {
        self.outbox.push(now.mono, now.wall, |seq| {
            message.seq = seq;
            serde_json::to_vec(&message).expect("a message with string keys always serialises")
        });
    }

    fn emit_event(&mut self, event: AgentEvent, input_id: Option<&str>, now: Now) {
        let frame = Frame {
            agent_id: &self.spec.agent_id,
            run_id: self.spec.run_id,
            generation: self.view.generation,
            input_id,
            timestamp: now.wall,
        };
        let message = frame.event(event, None);
        self.emit(message, now);
    }

    fn notice(&mut self, level: NoticeLevel, text: String, input_id: Option<&str>, now: Now) {
        self.emit_event(AgentEvent::Notice { level, text }, input_id, now);
    }

    /// Overrides what the unit says where the host knows better.
    fn corrected(&self, view: View) -> View {
        if self.guard_lost && view.is_final() {
            return View {
                state: AgentState::Error,
                cause: StatusCause::HostLost,
                message: Some(
                    "its guard process was killed, so the host ended it; start it again".to_owned(),
                ),
                ..view
            };
        }
        view
    }
}

fn publish(subject: &Subject, message: &impl Serialize) -> Effect {
    Effect::Publish { subject: subject.to_string(), payload: json(message) }
}

fn json(message: &impl Serialize) -> Bytes {
    serde_json::to_vec(message).expect("a message with string keys always serialises").into()
}

fn reply_json(subject: String, answer: &impl Serialize) -> Effect {
    Effect::Reply { subject, payload: json(answer) }
}

fn refused(subject: String, refusal: &ErrorReply) -> Effect {
    reply_json(subject, refusal)
}
