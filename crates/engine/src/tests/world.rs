//! The engine's state with a clock of its own, and what the stories look at.

use std::sync::atomic::{AtomicU64, Ordering};

use ostler_client::{Connection, Message};
use ostler_store::Write;
use ostler_wire::{
    AgentEvent, AgentId, AgentState, AgentTopic, AlertMessage, DashboardState, DesiredState, HostRecord,
    NodeId, OutputMessage, OutputStream, ProcessIdentity, RestartPolicy, RunId, SpawnRequest, StatusCause,
    StatusMessage, Subject, Timestamp,
};
use serde::de::DeserializeOwned;

use crate::HostGone;
use crate::event::Event;
use crate::outcome::{Effect, Outcome};
use crate::state::{Moment, Policy, State};

/// An engine's state with a clock of its own.
pub(super) struct World {
    pub(super) state: State,
    pub(super) now: Timestamp,
}

impl World {
    pub(super) fn new() -> Self {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let policy = Policy {
            node: node(),
            version: "0".into(),
            pid: 1,
            bus_url: String::new(),
            state_dir: String::new(),
            started_at: now,
            heartbeat_ms: 15_000,
            log_bytes_max: 1 << 20,
            events_max: 10_000,
            shared_bus: false,
            audit: false,
        };
        Self { state: State::new(policy, 0), now }
    }

    /// A world in which `agent` runs and was heard.
    pub(super) fn running(agent: &str, restart: RestartPolicy) -> Self {
        let mut world = Self::new();
        world.spawn(agent, SpawnRequest { restart, ..SpawnRequest::default() });
        world.status(agent, AgentState::Active, 1);
        world
    }

    pub(super) fn apply(&mut self, event: Event) -> Outcome {
        let mut out = Outcome::default();
        let moment = Moment { now: self.now, random: 1.0, new_run: next_run };
        self.state.apply(event, &moment, &mut out);
        out
    }

    pub(super) fn tick(&mut self, ms: i64) -> Outcome {
        self.tick_with(ms, Connection::Up(1))
    }

    pub(super) fn tick_without_bus(&mut self, ms: i64) -> Outcome {
        self.tick_with(ms, Connection::Down)
    }

    fn tick_with(&mut self, ms: i64, bus: Connection) -> Outcome {
        self.now = Timestamp::from_millisecond(self.now.as_millisecond() + ms).unwrap();
        self.apply(Event::Tick(bus))
    }

    pub(super) fn spawn(&mut self, agent: &str, spawn: SpawnRequest) -> Outcome {
        let message = request(&format!("agent.{agent}.spawn"));
        self.apply(Event::Spawn { agent: id(agent), request: Box::new(spawn), checked: Ok(()), message })
    }

    pub(super) fn control(&mut self, agent: &str, topic: AgentTopic) -> Outcome {
        let message = request(&Subject::Agent(id(agent), topic.clone()).to_string());
        self.apply(Event::Control { agent: id(agent), topic, message })
    }

    pub(super) fn status_of(&self, agent: &str, state: AgentState, revision: u64) -> StatusMessage {
        let mut status = self.state.agents[&id(agent)].run.as_ref().unwrap().status.clone();
        status.state = state;
        status.status = state.to_string();
        status.revision = revision;
        status.host_pid = Some(70);
        status.pid = Some(77);
        status
    }

    pub(super) fn status(&mut self, agent: &str, state: AgentState, revision: u64) -> Outcome {
        let status = self.status_of(agent, state, revision);
        self.apply(Event::Status(Box::new(status)))
    }

    pub(super) fn output(&mut self, agent: &str, seq: u64, event: Option<AgentEvent>) -> Outcome {
        let output = output_message(agent, self.run(agent), seq, event);
        self.apply(Event::Output { output: Box::new(output), reply: Some("_INBOX.ack".into()) })
    }

    pub(super) fn run(&self, agent: &str) -> RunId {
        self.state.agents[&id(agent)].run.as_ref().unwrap().id
    }

    pub(super) fn gone(&mut self, agent: &str, record: Option<HostRecord>) -> Outcome {
        let run_id = self.run(agent);
        self.apply(Event::HostGone(Box::new(HostGone {
            agent_id: id(agent),
            run_id,
            record,
            spool: Vec::new(),
        })))
    }

    /// The host says its last word and goes.
    pub(super) fn end(
        &mut self,
        agent: &str,
        state: AgentState,
        cause: StatusCause,
        keep_desired: bool,
    ) -> Outcome {
        let mut status = self.status_of(agent, state, 1000);
        status.cause = cause;
        let record = self.record(status, keep_desired);
        self.gone(agent, Some(record))
    }

    pub(super) fn record(&self, status: StatusMessage, keep_desired: bool) -> HostRecord {
        let process = ProcessIdentity { pid: 70, start_time: 1 };
        HostRecord {
            run_id: status.run_id,
            announced: status.revision,
            host: process,
            guard: process,
            agent: None,
            cgroup: None,
            status,
            last_seq: 0,
            keep_desired,
            stop_asked: false,
            updated_at: self.now,
        }
    }

    pub(super) fn desired(&self, agent: &str) -> DesiredState {
        self.state.agents[&id(agent)].row.desired
    }
}

pub(super) fn next_run() -> RunId {
    RunId::generate()
}

pub(super) fn id(text: &str) -> AgentId {
    AgentId::parse(text).unwrap()
}

pub(super) fn node() -> NodeId {
    NodeId::parse("local").unwrap()
}

pub(super) fn request(subject: &str) -> Message {
    static INBOX: AtomicU64 = AtomicU64::new(0);
    let reply = format!("_INBOX.{}", INBOX.fetch_add(1, Ordering::Relaxed));
    Message {
        subject: subject.to_owned(),
        reply: Some(reply),
        payload: Default::default(),
        forwarded: false,
        by: None,
    }
}

pub(super) fn output_message(
    agent: &str,
    run_id: RunId,
    seq: u64,
    event: Option<AgentEvent>,
) -> OutputMessage {
    OutputMessage {
        agent_id: id(agent),
        run_id,
        generation: 1,
        seq,
        stream: if event.is_some() { OutputStream::Event } else { OutputStream::Stdout },
        data: None,
        data_base64: None,
        partial: false,
        event,
        raw: None,
        input_id: None,
        timestamp: Timestamp::UNIX_EPOCH,
    }
}

pub(super) fn answers(out: &Outcome) -> Vec<&[u8]> {
    out.effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Answer { payload, .. } => Some(payload.as_ref()),
            _ => None,
        })
        .collect()
}

pub(super) fn only_answer<T: DeserializeOwned>(out: &Outcome) -> T {
    let answers = answers(out);
    assert_eq!(answers.len(), 1, "{:?}", out.effects);
    serde_json::from_slice(answers[0]).unwrap()
}

pub(super) fn published(out: &Outcome) -> Vec<String> {
    out.effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Publish { subject, .. } => Some(subject.to_string()),
            _ => None,
        })
        .filter(|subject| subject.starts_with("agent."))
        .collect()
}

pub(super) fn payloads<T: DeserializeOwned>(out: &Outcome, on: &Subject) -> Vec<T> {
    out.effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Publish { subject, payload } if subject == on => {
                Some(serde_json::from_slice(payload).unwrap())
            }
            _ => None,
        })
        .collect()
}

pub(super) fn alerts(out: &Outcome) -> Vec<AlertMessage> {
    payloads(out, &Subject::DashboardAlert)
}

pub(super) fn deltas(out: &Outcome) -> Vec<(u64, String)> {
    payloads(out, &Subject::DashboardState)
        .into_iter()
        .filter_map(|state| match state {
            DashboardState::Delta { seq, event, .. } => Some((seq, event.kind)),
            DashboardState::Snapshot { .. } => None,
        })
        .collect()
}

pub(super) fn launches(out: &Outcome) -> usize {
    out.effects.iter().filter(|effect| matches!(effect, Effect::Launch(_))).count()
}

pub(super) fn ends(out: &Outcome) -> bool {
    out.effects.iter().any(|effect| matches!(effect, Effect::End(_)))
}

pub(super) fn recorded(out: &Outcome) -> Vec<u64> {
    out.writes
        .iter()
        .filter_map(|write| match write {
            Write::AppendOutput(output) => Some(output.seq),
            _ => None,
        })
        .collect()
}

pub(super) fn ack(out: &Outcome) -> Option<(u64, bool)> {
    out.acks.values().next().map(|(_, ack)| (ack.recorded, ack.rewind))
}
