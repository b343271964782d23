//! Start-up: what was wanted meets what is left running. Takes no input but the database and the machine.

use ostler_store::Store;
use ostler_wire::{
    AlertMessage, DashboardState, DesiredState, EventRecord, JsonMap, Severity, Subject, Timestamp,
};

use crate::agent::{Agent, Phase};
use crate::outcome::Outcome;
use crate::state::{Moment, Origin, Policy, State};
use crate::{Adoption, Node, audit, facts};

/// What the database says.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) state: State,
    /// Events that were recorded by the last daemon and not announced any more.
    pub(crate) unannounced: Vec<EventRecord>,
}

/// Reads everything; blocking.
pub(crate) fn load(store: &Store, policy: Policy) -> Result<Loaded, ostler_store::Error> {
    store.read(|reader| {
        let (event_seq, announced) = reader.event_marks()?;
        let mut state = State::new(policy, event_seq);
        for (row, run) in reader.agents()? {
            state.agents.insert(row.agent_id.clone(), Agent::new(row, run));
        }
        let query =
            ostler_store::EventsQuery { after: Some(announced), since: None, agent: None, limit: 1000 };
        let unannounced = reader.events(&query)?.events;
        Ok(Loaded { state, unannounced })
    })
}

/// Looks for the host of every run that did not end, and decides what follows; blocking.
pub(crate) fn reconcile(
    loaded: Loaded,
    damaged: &[String],
    node: &dyn Node,
    moment: &Moment,
) -> (State, Outcome) {
    let Loaded { mut state, unannounced } = loaded;
    let mut out = Outcome::default();
    let node_id = state.policy.node.clone();
    for event in unannounced {
        let delta = DashboardState::Delta { seq: event.seq, node: node_id.clone(), event, agent: None };
        out.publish(Subject::DashboardState, &delta);
    }
    let version = state.policy.version.clone();
    state.record(
        &mut out,
        moment.now,
        "daemon.started",
        None,
        format!("ostler {version} started"),
        JsonMap::new(),
    );

    audit::started(&state, &mut out, moment.now);

    for what in damaged {
        state.alert(&mut out, damage(what, moment.now));
    }
    let unended: Vec<_> = state
        .agents
        .values()
        .filter_map(|agent| {
            agent.run.as_ref().filter(|run| run.phase != Phase::Gone).map(|run| (agent.id().clone(), run.id))
        })
        .collect();
    for (id, run) in unended {
        match node.adopt(&id, run) {
            Adoption::Alive(record) => adopt(&mut state, &mut out, *record, moment),
            Adoption::Gone(gone) => facts::host_gone(&mut state, &mut out, *gone, moment),
        }
    }
    let to_start: Vec<_> = state
        .agents
        .values()
        .filter(|agent| {
            agent.row.desired == DesiredState::Running && !agent.has_host() && agent.relaunch_at.is_none()
        })
        .map(|agent| agent.id().clone())
        .collect();
    for id in to_start {
        state.start_run(&mut out, &id, 0, Origin::Recovery, moment);
    }
    facts::ask_silent(&state, &mut out);
    let snapshot =
        DashboardState::Snapshot { seq: state.event_seq, node: node_id, agents: state.summaries() };
    out.publish(Subject::DashboardState, &snapshot);
    (state, out)
}

fn damage(what: &str, now: Timestamp) -> AlertMessage {
    AlertMessage {
        severity: Severity::Critical,
        code: "stream_damaged".into(),
        agent_id: None,
        text: what.to_owned(),
        action: "stop the daemon and look with `ostler-broker check`; take the files from a backup, or run a repair"
            .into(),
        timestamp: now,
    }
}

fn adopt(state: &mut State, out: &mut Outcome, record: ostler_wire::HostRecord, moment: &Moment) {
    let id = record.status.agent_id.clone();
    // What happened while no daemon was there is told with the rest.
    facts::apply_status(state, out, record.status, moment.now);
    let Some(run) = state.agents.get_mut(&id).and_then(|agent| agent.run_mut(record.run_id)) else { return };
    run.status.host_pid = Some(record.host.pid);
    let pid = record.host.pid;
    if let Some(agent) = state.agents.get_mut(&id) {
        // It is given the time of three heartbeats to be heard, from here.
        agent.last_heard = Some(moment.now);
    }
    state.record(
        out,
        moment.now,
        "agent.adopted",
        Some(&id),
        format!("{id} goes on under host {pid}"),
        JsonMap::new(),
    );
}
