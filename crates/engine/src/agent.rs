//! What the engine knows about one agent.
//!
//! ```text
//!  Phase of the last run
//!
//!   Launching ---- Launched ----> Silent ---- first Status ----> Heard
//!       |                            |                             |
//!       | LaunchFailed               | HostGone                    | HostGone
//!       v                            v                             v
//!      Gone <----------------------- Gone <---------------------- Gone
//! ```
//!
//! While a run is `Launching` or `Silent` its host cannot hear requests yet: they wait here and are sent again when
//! it is first heard. Once it is `Gone` the engine answers in its place.

use ostler_client::Message;
use ostler_store::{AgentRow, RunRow};
use ostler_wire::{
    AgentId, AgentState, AgentSummary, HeartbeatMessage, NodeId, ProcessFacts, RunId, StatusCause,
    StatusMessage, Timestamp,
};

use crate::audit::Pace;

/// Requests that may wait for a host that has not been heard yet.
pub(crate) const WAITING_MAX: usize = 64;

/// How far a run's host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its host is being started.
    Launching,
    /// Its host runs and has not been heard yet.
    Silent,
    /// Its host was heard on the bus.
    Heard,
    /// Its host is gone.
    Gone,
}

/// One incarnation.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: RunId,
    pub(crate) status: StatusMessage,
    pub(crate) phase: Phase,
    /// The output number below which nothing is missing.
    pub(crate) recorded: u64,
    /// The value of `recorded` for which the host was last told to send again.
    pub(crate) rewound: Option<u64>,
    /// Hosts lost in a row before this run.
    pub(crate) losses: u32,
    /// True when a person or program asked for this start, false when the daemon brought it back.
    pub(crate) requested: bool,
    pub(crate) started_at: Timestamp,
    /// Requests for a host that has not been heard yet.
    pub(crate) waiting: Vec<Message>,
}

impl Run {
    pub(crate) fn from_row(row: RunRow) -> Self {
        Self {
            id: row.run_id,
            phase: if row.ended_at.is_some() { Phase::Gone } else { Phase::Silent },
            status: row.status,
            recorded: row.recorded,
            rewound: None,
            losses: row.host_losses,
            requested: false,
            started_at: row.started_at,
            waiting: Vec::new(),
        }
    }
}

/// What is to be done once the present host is gone.
#[derive(Debug, Default)]
pub(crate) enum Afterwards {
    /// What its end says.
    #[default]
    Settle,
    /// Start a new run.
    Start,
    /// Forget the agent and answer.
    Remove(Message),
}

/// An agent, as wanted and as known.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) row: AgentRow,
    pub(crate) run: Option<Run>,
    pub(crate) afterwards: Afterwards,
    /// When a lost host is to be replaced.
    pub(crate) relaunch_at: Option<Timestamp>,
    /// When it was last heard of; the daemon's start for a host of an earlier daemon.
    pub(crate) last_heard: Option<Timestamp>,
    pub(crate) last_heartbeat: Option<Timestamp>,
    pub(crate) facts: Option<ProcessFacts>,
    pub(crate) degraded: bool,
    /// Bytes of recorded output.
    pub(crate) log_bytes: u64,
    /// How much of its doing the audit is told.
    pub(crate) pace: Pace,
}

impl Agent {
    pub(crate) fn new(row: AgentRow, run: Option<RunRow>) -> Self {
        Self {
            row,
            run: run.map(Run::from_row),
            afterwards: Afterwards::Settle,
            relaunch_at: None,
            last_heard: None,
            last_heartbeat: None,
            facts: None,
            degraded: false,
            log_bytes: 0,
            pace: Pace::default(),
        }
    }

    pub(crate) fn id(&self) -> &AgentId {
        &self.row.agent_id
    }

    /// The lifecycle state to show.
    pub(crate) fn state(&self) -> AgentState {
        self.run.as_ref().map_or(AgentState::Terminated, |run| run.status.state)
    }

    /// True while a host exists that holds the agent's lock.
    pub(crate) fn has_host(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.phase != Phase::Gone)
    }

    /// True while the host is responsible for requests: it exists and has not said its last word.
    pub(crate) fn is_served(&self) -> bool {
        self.has_host() && self.state().is_live()
    }

    /// True while the host answers requests itself.
    pub(crate) fn is_heard(&self) -> bool {
        self.is_served() && self.run.as_ref().is_some_and(|run| run.phase == Phase::Heard)
    }

    /// The run with this id, when it is the present one.
    pub(crate) fn run_mut(&mut self, id: RunId) -> Option<&mut Run> {
        self.run.as_mut().filter(|run| run.id == id)
    }

    /// Notes a heartbeat. Only the host's counts as life: an agent's own would hide that its host hangs.
    pub(crate) fn beat(&mut self, beat: &HeartbeatMessage, now: Timestamp) {
        if beat.run_id.is_some() {
            self.last_heard = Some(now);
            self.last_heartbeat = Some(now);
            self.facts = beat.facts.or(self.facts);
        }
        if let Some(run) = &mut self.run
            && run.status.state == AgentState::Active
            && !beat.status.is_empty()
        {
            run.status.status.clone_from(&beat.status);
        }
    }

    /// Everything in one row.
    pub(crate) fn summary(&self, node: &NodeId) -> AgentSummary {
        let spawn = &self.row.spawn;
        let status = self.run.as_ref().map(|run| &run.status);
        let live = self.state().is_live();
        AgentSummary {
            agent_id: self.row.agent_id.clone(),
            node: node.clone(),
            kind: spawn.kind,
            command: spawn.command.clone(),
            dir: spawn.dir.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default(),
            restart: spawn.restart,
            stop_grace_ms: spawn.stop_grace_ms,
            desired: self.row.desired,
            state: self.state(),
            cause: status.map_or(StatusCause::Normal, |status| status.cause),
            status: status.map_or_else(|| self.state().to_string(), |status| status.status.clone()),
            message: status.and_then(|status| status.message.clone()),
            degraded: self.degraded,
            run_id: self.run.as_ref().map(|run| run.id),
            pid: status.filter(|_| live).and_then(|status| status.pid),
            host_pid: status.filter(|_| live).and_then(|status| status.host_pid),
            started_at: status.filter(|_| live).and_then(|status| status.started_at),
            restarts: status.map_or(0, |status| status.restarts),
            exit: status.and_then(|status| status.exit),
            last_heartbeat: self.last_heartbeat,
            facts: self.facts.filter(|_| live),
            usage: status.and_then(|status| status.usage),
            session_id: status.and_then(|status| status.session_id.clone()),
        }
    }
}
