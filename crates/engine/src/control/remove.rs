//! `agent.{id}.remove`: forget an agent, its runs and its output.

use ostler_client::Message;
use ostler_store::Write;
use ostler_wire::{
    AgentId, AgentState, ControlReply, ErrorCode, ErrorReply, JsonMap, RemoveRequest, StopRequest, Subject,
    Timestamp,
};

use crate::agent::Afterwards;
use crate::audit;
use crate::neighbours::refuse_unknown;
use crate::outcome::{Effect, Outcome};
use crate::state::State;

pub(crate) fn apply(
    state: &mut State,
    out: &mut Outcome,
    now: Timestamp,
    id: &AgentId,
    request: RemoveRequest,
    message: Message,
) {
    if !state.agents.contains_key(id) {
        return refuse_unknown(state, out, message, id);
    }
    let Some(agent) = state.agents.get_mut(id) else { return };
    if !agent.has_host() && agent.relaunch_at.is_none() {
        return finish(state, out, id, message, now);
    }
    if agent.is_served() && !request.force {
        let refusal = ErrorReply::new(
            ErrorCode::IllegalState,
            format!("{id} is {}; only a stopped agent is removed", agent.state()),
        )
        .hint(format!("`ostler stop {id}` first, or `ostler rm --force {id}`"));
        return out.refuse(message, &refusal);
    }
    if !agent.has_host() {
        return finish(state, out, id, message, now);
    }
    if matches!(agent.afterwards, Afterwards::Remove(_)) {
        let refusal = ErrorReply::new(ErrorCode::IllegalState, format!("{id} is being removed already"));
        return out.refuse(message, &refusal.hint("whoever asked first is answered when it is gone"));
    }
    agent.afterwards = Afterwards::Remove(message);
    tick(state, out);
}

/// Asks the agents that are to be removed to end, again until they have: a host that reconnects late hears one of them.
pub(crate) fn tick(state: &State, out: &mut Outcome) {
    for agent in state.agents.values() {
        if matches!(agent.afterwards, Afterwards::Remove(_)) && agent.is_served() {
            let stop =
                StopRequest { reason: Some("the agent is removed".into()), force: true, keep_desired: false };
            out.publish(Subject::stop(agent.id()), &stop);
        }
    }
}

/// Forgets an agent that has no host.
pub(crate) fn finish(state: &mut State, out: &mut Outcome, id: &AgentId, message: Message, now: Timestamp) {
    audit::forgotten(state, out, now, id);
    state.agents.remove(id);
    out.writes.push(Write::RemoveAgent(id.clone()));
    state.record(out, now, "agent.removed", Some(id), format!("{id} was removed"), JsonMap::new());
    out.effects.push(Effect::Forget(id.clone()));
    out.answer(message, &ControlReply { agent_id: id.clone(), state: AgentState::Terminated, changed: true });
}
