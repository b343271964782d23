//! `agent.{id}.spawn`: make an agent and start it, or start a stopped one with a new definition.

use ostler_client::Message;
use ostler_store::{AgentRow, Write};
use ostler_wire::{
    AgentId, DesiredState, ErrorCode, ErrorReply, JsonMap, SpawnReply, SpawnRequest, StatusMessage,
};

use crate::agent::{Afterwards, Agent};
use crate::outcome::Outcome;
use crate::state::{Moment, Origin, State};

pub(crate) fn apply(
    state: &mut State,
    out: &mut Outcome,
    moment: &Moment,
    id: &AgentId,
    request: SpawnRequest,
    checked: Result<(), ErrorReply>,
    message: Message,
) {
    // Nothing but the name: start it as it was. Its program is looked for again when it is launched.
    let known = state.agents.get(id).filter(|_| request == SpawnRequest::default());
    let origin = if known.is_some() { Origin::Restart } else { Origin::Spawn };
    let (request, checked) = match known {
        Some(agent) => (agent.row.spawn.clone(), Ok(())),
        None => (request, checked),
    };
    if let Err(refusal) = admissible(state, id, &request).and(checked) {
        return out.refuse(message, &refusal);
    }
    let created_at = state.agents.get(id).map_or(moment.now, |agent| agent.row.created_at);
    let row = AgentRow { agent_id: id.clone(), spawn: request, desired: DesiredState::Running, created_at };
    out.writes.push(Write::PutAgent(row.clone()));
    match state.agents.get_mut(id) {
        Some(agent) => agent.row = row,
        None => {
            state.agents.insert(id.clone(), Agent::new(row, None));
        }
    }
    let text = format!("{id} was configured");
    state.record(out, moment.now, "agent.spawned", Some(id), text, JsonMap::new());
    let agent = state.agents.get_mut(id).expect("it was inserted above");
    if agent.has_host() {
        // The last run said its last word and its host is about to go; the new one starts when it has.
        agent.afterwards = Afterwards::Start;
        agent.run.as_mut().expect("it has a host").waiting.push(message);
        return;
    }
    state.start_run(out, id, 0, origin, moment);
    // Answered when the host is heard; `LaunchFailed` or `HostGone` refuse it when that never happens.
    if let Some(run) = state.agents.get_mut(id).and_then(|agent| agent.run.as_mut()) {
        run.waiting.push(message);
    }
}

/// Whether the name is free and the request makes sense.
fn admissible(state: &State, id: &AgentId, request: &SpawnRequest) -> Result<(), ErrorReply> {
    if state.down.is_some() {
        return Err(ErrorReply::new(ErrorCode::IllegalState, "the daemon is on its way down")
            .hint("start it again with `ostler up`"));
    }
    if let Some(node) = &request.node
        && *node != state.policy.node
    {
        return Err(ErrorReply::new(
            ErrorCode::Unsupported,
            format!("node {node} does not answer here; this is node {}", state.policy.node),
        ));
    }
    let Some(agent) = state.agents.get(id) else { return Ok(()) };
    if agent.is_served() || agent.relaunch_at.is_some() {
        return Err(ErrorReply::new(
            ErrorCode::DuplicateAgent,
            format!("an agent called {id} exists already and is {}", agent.state()),
        )
        .hint(format!("choose another name, or `ostler stop {id}` first")));
    }
    if !request.replace && *request != agent.row.spawn {
        return Err(ErrorReply::new(
            ErrorCode::DuplicateAgent,
            format!("an agent called {id} exists already, is {} and was defined otherwise", agent.state()),
        )
        .hint(format!(
            "`ostler restart {id}` starts it as it was; `ostler spawn {id} --replace ...` starts it anew; `ostler rm {id}` forgets it"
        )));
    }
    if matches!(agent.afterwards, Afterwards::Remove(_)) {
        return Err(ErrorReply::new(ErrorCode::IllegalState, format!("{id} is being removed"))
            .hint("ask again when it is gone"));
    }
    Ok(())
}

/// The answer once the host was heard.
pub(crate) fn reply(status: &StatusMessage) -> SpawnReply {
    SpawnReply {
        agent_id: status.agent_id.clone(),
        run_id: status.run_id,
        state: status.state,
        host_pid: status.host_pid.unwrap_or_default(),
        pid: status.pid,
    }
}
