//! Control requests for agents whose host cannot answer: not started yet, gone, or never known.
//!
//! Hosts and engine listen on the same subjects. A host that was heard and has not said its last word answers alone;
//! the engine keeps silent then. So a request always gets exactly one answer, and never none.

use ostler_client::Message;
use ostler_store::Write;
use ostler_wire::{
    AgentId, AgentState, AgentTopic, ControlReply, DesiredState, ErrorCode, ErrorReply, StatusCause,
};

use crate::agent::{Afterwards, Agent, Phase, WAITING_MAX};
use crate::neighbours::refuse_unknown;
use crate::outcome::Outcome;
use crate::state::{Moment, Origin, State};

pub(crate) fn apply(
    state: &mut State,
    out: &mut Outcome,
    moment: &Moment,
    id: &AgentId,
    topic: &AgentTopic,
    message: Message,
) {
    if !state.agents.contains_key(id) {
        return refuse_unknown(state, out, message, id);
    }
    let Some(agent) = state.agents.get_mut(id) else { return };
    if agent.is_served() {
        return wait_for_host(out, agent, message);
    }
    match topic {
        AgentTopic::Stop | AgentTopic::Kill => stop(state, out, moment, id, message),
        AgentTopic::Restart => restart(state, out, moment, id, message),
        AgentTopic::Status => match &agent.run {
            Some(run) => out.answer(message, &run.status),
            None => out.refuse(message, &not_running(id, agent.state())),
        },
        AgentTopic::Input => out.refuse(message, &not_running(id, agent.state())),
        _ => {
            let refusal = ErrorReply::new(
                ErrorCode::IllegalState,
                format!("{id} is {}: {} needs a running agent", agent.state(), topic),
            )
            .hint(format!("`ostler restart {id}` starts it"));
            out.refuse(message, &refusal);
        }
    }
}

/// Keeps a request until the host is heard; a host that was heard has it already.
fn wait_for_host(out: &mut Outcome, agent: &mut Agent, message: Message) {
    let id = agent.id().clone();
    let Some(run) = &mut agent.run else { return };
    if run.phase == Phase::Heard {
        return;
    }
    if run.waiting.len() >= WAITING_MAX {
        let refusal = ErrorReply::new(
            ErrorCode::QueueFull,
            format!("{WAITING_MAX} requests wait already for {id} to be started"),
        )
        .hint("ask again in a moment");
        return out.refuse(message, &refusal);
    }
    run.waiting.push(message);
}

/// Nothing runs: what was about to is called off.
fn stop(state: &mut State, out: &mut Outcome, moment: &Moment, id: &AgentId, message: Message) {
    let Some(agent) = state.agents.get_mut(id) else { return };
    let waited = agent.relaunch_at.take().is_some();
    let changed = waited || matches!(agent.afterwards, Afterwards::Start);
    if matches!(agent.afterwards, Afterwards::Start) {
        agent.afterwards = Afterwards::Settle;
    }
    want(out, agent, DesiredState::Stopped);
    if waited {
        let terminated = (AgentState::Terminated, StatusCause::Requested);
        state.set_status(out, id, moment.now, terminated, "stopped on request".to_owned());
    }
    let state = state.agents.get(id).map_or(AgentState::Terminated, Agent::state);
    out.answer(message, &ControlReply { agent_id: id.clone(), state, changed });
}

fn restart(state: &mut State, out: &mut Outcome, moment: &Moment, id: &AgentId, message: Message) {
    if state.down.is_some() {
        let refusal = ErrorReply::new(ErrorCode::IllegalState, "the daemon is on its way down");
        return out.refuse(message, &refusal.hint("start it again with `ostler up`"));
    }
    let Some(agent) = state.agents.get_mut(id) else { return };
    if matches!(agent.afterwards, Afterwards::Remove(_)) {
        let refusal = ErrorReply::new(ErrorCode::IllegalState, format!("{id} is being removed"));
        return out.refuse(message, &refusal);
    }
    want(out, agent, DesiredState::Running);
    if agent.has_host() {
        agent.afterwards = Afterwards::Start;
    } else {
        state.start_run(out, id, 0, Origin::Restart, moment);
    }
    out.answer(message, &ControlReply { agent_id: id.clone(), state: AgentState::Starting, changed: true });
}

pub(crate) fn want(out: &mut Outcome, agent: &mut Agent, desired: DesiredState) {
    if agent.row.desired != desired {
        agent.row.desired = desired;
        out.writes.push(Write::SetDesired(agent.id().clone(), desired));
    }
}

fn not_running(id: &AgentId, state: AgentState) -> ErrorReply {
    ErrorReply::new(ErrorCode::NotRunning, format!("{id} is {state}: it has no running process"))
        .hint(format!("`ostler restart {id}` starts it"))
}
