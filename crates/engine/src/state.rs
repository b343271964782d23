//! The state of the engine and the few ways it is changed from everywhere.

use std::collections::BTreeMap;

use ostler_client::Message;
use ostler_store::{RunRow, Write};
use ostler_wire::{
    AgentId, AgentState, AgentSummary, AlertMessage, DashboardState, EventRecord, JsonMap, NodeId, RunId,
    Severity, StatusCause, StatusMessage, Subject, Timestamp,
};

use crate::agent::{Agent, Phase, Run};
use crate::audit::{self, Told};
use crate::control::down::Down;
use crate::neighbours::Neighbours;
use crate::outcome::{Effect, Outcome};
use crate::{About, AuditMode, AuditOptions, LaunchPlan, Limits};

/// Runs of an agent that stay in the database.
const RUNS_KEPT: u32 = 20;

/// What comes from outside the state with every event: time, chance and new ids.
#[derive(Debug)]
pub(crate) struct Moment {
    /// The time of the batch.
    pub(crate) now: Timestamp,
    /// A number in 0..1.
    pub(crate) random: f64,
    /// Makes the id of a new run.
    pub(crate) new_run: fn() -> RunId,
}

/// The limits and names the decisions rest on.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) node: NodeId,
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) bus_url: String,
    pub(crate) state_dir: String,
    pub(crate) started_at: Timestamp,
    pub(crate) heartbeat_ms: u64,
    pub(crate) log_bytes_max: u64,
    pub(crate) events_max: u64,
    /// Whether other daemons may be on the bus.
    pub(crate) shared_bus: bool,
    /// Whether what happens is told to the audit.
    pub(crate) audit: bool,
}

impl Policy {
    pub(crate) fn new(node: &NodeId, about: About, limits: Limits, audit: AuditOptions) -> Self {
        Self {
            node: node.clone(),
            version: about.version,
            pid: std::process::id(),
            bus_url: about.bus_url,
            state_dir: about.state_dir,
            started_at: about.started_at,
            heartbeat_ms: limits.heartbeat_ms,
            log_bytes_max: limits.log_bytes_max,
            events_max: limits.events_max,
            shared_bus: about.shared_bus,
            audit: audit.mode != AuditMode::Off,
        }
    }
}

/// Why a run is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// By a spawn request: its first prompt is given.
    Spawn,
    /// Somebody asked to start it again.
    Restart,
    /// The daemon brings it back: it was lost, or is wanted from before.
    Recovery,
}

/// Everything the engine knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) policy: Policy,
    pub(crate) agents: BTreeMap<AgentId, Agent>,
    /// The number of the last event.
    pub(crate) event_seq: u64,
    /// Set while the daemon is on its way down.
    pub(crate) down: Option<Down>,
    /// When the node's own heart last beat.
    pub(crate) node_beat: Option<Timestamp>,
    /// When time was last an event.
    pub(crate) ticked: Option<Timestamp>,
    /// Other daemons on the bus.
    pub(crate) neighbours: Neighbours,
}

impl State {
    pub(crate) fn new(policy: Policy, event_seq: u64) -> Self {
        Self {
            policy,
            agents: BTreeMap::new(),
            event_seq,
            down: None,
            node_beat: None,
            ticked: None,
            neighbours: Neighbours::default(),
        }
    }

    pub(crate) fn summaries(&self) -> Vec<AgentSummary> {
        self.agents.values().map(|agent| agent.summary(&self.policy.node)).collect()
    }

    pub(crate) fn agents_live(&self) -> u32 {
        self.agents.values().filter(|agent| agent.state().is_live()).count() as u32
    }

    /// True when the agent's host answers its own requests.
    pub(crate) fn is_heard(&self, id: &AgentId) -> bool {
        self.agents.get(id).is_some_and(Agent::is_heard)
    }

    /// The requests that wait for hosts that were not started yet.
    pub(crate) fn take_unlaunched(&mut self) -> Vec<Message> {
        let runs = self.agents.values_mut().filter_map(|agent| agent.run.as_mut());
        runs.filter(|run| run.phase == Phase::Launching)
            .flat_map(|run| std::mem::take(&mut run.waiting))
            .collect()
    }

    /// Records that something happened, and announces it as a numbered delta.
    pub(crate) fn record(
        &mut self,
        out: &mut Outcome,
        now: Timestamp,
        kind: &str,
        agent: Option<&AgentId>,
        text: String,
        details: JsonMap,
    ) {
        self.event_seq += 1;
        let seq = self.event_seq;
        let event = EventRecord {
            seq,
            timestamp: now,
            kind: kind.to_owned(),
            agent_id: agent.cloned(),
            text,
            details,
        };
        out.writes.push(Write::AppendEvent(event.clone()));
        if audit::tells(self, kind, agent, now) {
            let (text, details, by) = (event.text.clone(), event.details.clone(), Some("daemon".to_owned()));
            self.tell(out, now, Told { kind, agent, by, text, details });
        }
        // Trimming in steps keeps the cost of one delete away from most events.
        if seq > self.policy.events_max && seq.is_multiple_of(1000) {
            out.writes.push(Write::TrimEvents { up_to: seq - self.policy.events_max });
        }
        let node = self.policy.node.clone();
        let agent = agent.and_then(|id| self.agents.get(id)).map(|agent| Box::new(agent.summary(&node)));
        out.publish(Subject::DashboardState, &DashboardState::Delta { seq, node, event, agent });
    }

    /// Records an alert and raises it.
    pub(crate) fn alert(&mut self, out: &mut Outcome, alert: AlertMessage) {
        let mut details = JsonMap::new();
        details.insert("code".into(), alert.code.clone().into());
        details.insert("action".into(), alert.action.clone().into());
        details.insert("severity".into(), serde_json::json!(alert.severity));
        self.record(out, alert.timestamp, "alert", alert.agent_id.as_ref(), alert.text.clone(), details);
        out.publish(Subject::DashboardAlert, &alert);
    }

    /// Starts a new run of an agent: written first, launched after.
    ///
    /// The agent must have no host; its desired state is the caller's business.
    pub(crate) fn start_run(
        &mut self,
        out: &mut Outcome,
        id: &AgentId,
        losses: u32,
        origin: Origin,
        moment: &Moment,
    ) {
        let Some(agent) = self.agents.get_mut(id) else { return };
        debug_assert!(!agent.has_host(), "{id} has a host already");
        let run_id = (moment.new_run)();
        let now = moment.now;
        let status = StatusMessage {
            agent_id: id.clone(),
            status: AgentState::Starting.to_string(),
            message: None,
            timestamp: now,
            state: AgentState::Starting,
            cause: StatusCause::Normal,
            run_id,
            generation: 0,
            revision: 0,
            pid: None,
            host_pid: None,
            started_at: None,
            uptime_ms: None,
            restarts: 0,
            exit: None,
            usage: None,
            session_id: None,
            last_seq: None,
            changes: Vec::new(),
        };
        out.writes.push(Write::StartRun(RunRow {
            run_id,
            agent_id: id.clone(),
            status: status.clone(),
            recorded: 0,
            host_losses: losses,
            started_at: now,
            ended_at: None,
        }));
        out.writes.push(Write::TrimRuns(id.clone(), RUNS_KEPT));
        let spawn = agent.row.spawn.clone();
        let plan = LaunchPlan { agent_id: id.clone(), run_id, spawn, prompted: origin != Origin::Spawn };
        out.effects.push(Effect::Launch(Box::new(plan)));
        agent.run = Some(Run {
            id: run_id,
            status,
            phase: Phase::Launching,
            recorded: 0,
            rewound: None,
            losses,
            requested: origin != Origin::Recovery,
            started_at: now,
            waiting: Vec::new(),
        });
        agent.relaunch_at = None;
        agent.last_heard = Some(now);
        agent.facts = None;
        agent.degraded = false;
        self.record(out, now, "agent.launched", Some(id), format!("{id} is being started"), JsonMap::new());
    }

    /// Changes a run's status without its host: it is gone or never came.
    pub(crate) fn set_status(
        &mut self,
        out: &mut Outcome,
        id: &AgentId,
        now: Timestamp,
        (state, cause): (AgentState, StatusCause),
        text: String,
    ) {
        let Some(run) = self.agents.get_mut(id).and_then(|agent| agent.run.as_mut()) else { return };
        run.status.state = state;
        run.status.cause = cause;
        run.status.status = state.to_string();
        run.status.message = Some(text.clone());
        run.status.timestamp = now;
        run.status.revision += 1;
        run.status.pid = None;
        out.writes.push(Write::UpdateRun(Box::new(run.status.clone())));
        out.publish(Subject::status(id), &run.status.clone());
        self.record(
            out,
            now,
            "agent.state",
            Some(id),
            format!("{id} is {state}: {text}"),
            state_details(state, cause),
        );
    }
}

/// The details of an `agent.state` event.
pub(crate) fn state_details(state: AgentState, cause: StatusCause) -> JsonMap {
    let mut details = JsonMap::new();
    details.insert("state".into(), serde_json::json!(state));
    details.insert("cause".into(), serde_json::json!(cause));
    details
}

/// An alert about one agent.
pub(crate) fn agent_alert(
    agent: &AgentId,
    now: Timestamp,
    severity: Severity,
    code: &str,
    text: String,
    action: String,
) -> AlertMessage {
    AlertMessage {
        severity,
        code: code.to_owned(),
        agent_id: Some(agent.clone()),
        text,
        action,
        timestamp: now,
    }
}
