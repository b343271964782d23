//! What hosts and machines report: states, heartbeats, output, starts and ends.

use ostler_client::Message;
use ostler_store::Write;
use ostler_wire::{
    AgentEvent, AgentId, AgentState, DesiredState, ErrorCode, ErrorReply, HeartbeatMessage, OutputAck,
    OutputMessage, RunId, Severity, StatusCause, StatusMessage, Subject, Timestamp,
};

use crate::HostGone;
use crate::agent::{Afterwards, Phase};
use crate::control::{fallback, remove, spawn};
use crate::outcome::{Effect, Outcome};
use crate::relaunch::{self, Decision};
use crate::stale;
use crate::state::{Moment, State, agent_alert, state_details};

/// Takes a host's word for its agent's state, unless a later one is known.
pub(crate) fn status(state: &mut State, out: &mut Outcome, status: StatusMessage, now: Timestamp) {
    let id = status.agent_id.clone();
    let Some(agent) = state.agents.get_mut(&id) else {
        tracing::warn!(agent = %id, "status of an unknown agent");
        return;
    };
    let Some(run) = agent.run.as_mut().filter(|run| run.id == status.run_id && run.phase != Phase::Gone)
    else {
        tracing::debug!(agent = %id, run = %status.run_id, "status of another run");
        return;
    };
    let waiting = std::mem::take(&mut run.waiting);
    run.phase = Phase::Heard;
    agent.last_heard = Some(now);
    serve_waiting(out, waiting, &status);
    apply_status(state, out, status, now);
    stale::recovered(state, out, &id, now);
}

/// Answers whoever asked for the agent, now that it is known how it fares; the other requests came before the host
/// could hear them, and it answers them itself.
fn serve_waiting(out: &mut Outcome, waiting: Vec<Message>, status: &StatusMessage) {
    let spawn_subject = Subject::spawn(&status.agent_id).to_string();
    for message in waiting {
        if message.subject != spawn_subject {
            out.effects.push(Effect::Forward(message));
        } else if status.cause == StatusCause::SpawnFailed {
            let reason = status.message.clone().unwrap_or_else(|| "it could not be started".to_owned());
            let refusal =
                ErrorReply::new(ErrorCode::MissingProgram, format!("{}: {reason}", status.agent_id)).hint(
                    format!(
                        "`ostler rm {}` forgets it; correct the command and spawn it again",
                        status.agent_id
                    ),
                );
            out.refuse(message, &refusal);
        } else {
            out.answer(message, &spawn::reply(status));
        }
    }
}

/// Adopts a newer status; an event and perhaps an alert follow when the state changed.
fn apply_status(state: &mut State, out: &mut Outcome, status: StatusMessage, now: Timestamp) {
    let id = status.agent_id.clone();
    let Some(run) = state.agents.get_mut(&id).and_then(|agent| agent.run_mut(status.run_id)) else { return };
    if status.revision <= run.status.revision {
        return;
    }
    let before = std::mem::replace(&mut run.status, status.clone());
    let changed = (before.state, before.generation) != (status.state, status.generation);
    out.writes.push(Write::UpdateRun(Box::new(status.clone())));
    if !changed {
        return;
    }
    let because = status.message.as_ref().map(|text| format!(": {text}")).unwrap_or_default();
    let text = format!("{id} is {}{because}", status.state);
    let mut details = state_details(status.state, status.cause);
    details.insert("generation".into(), status.generation.into());
    if let Some(exit) = status.exit {
        details.insert("exit".into(), serde_json::json!(exit));
    }
    state.record(out, now, "agent.state", Some(&id), text, details);
    if status.state == AgentState::Error {
        let code = match status.cause {
            StatusCause::CrashLoop => "crash_loop",
            StatusCause::SpawnFailed => "spawn_failed",
            StatusCause::HostLost => "host_lost",
            _ => "agent_failed",
        };
        let action =
            format!("`ostler logs {id} --tail 20` shows its last words; `ostler restart {id}` tries again");
        let alert = agent_alert(
            &id,
            now,
            Severity::Critical,
            code,
            format!("{id} is in state error{because}"),
            action,
        );
        state.alert(out, alert);
    }
}

/// Notes a sign of life; an agent's own beat and its host's count alike.
pub(crate) fn heartbeat(state: &mut State, out: &mut Outcome, beat: &HeartbeatMessage, now: Timestamp) {
    let id = &beat.agent_id;
    let Some(agent) = state.agents.get_mut(id) else {
        tracing::warn!(agent = %id, "heartbeat of an unknown agent");
        return;
    };
    if beat.run_id.is_some() && beat.run_id != agent.run.as_ref().map(|run| run.id) {
        return;
    }
    agent.heard(beat, now);
    stale::recovered(state, out, id, now);
}

/// Records output in order, without a gap, and acknowledges what is on disk.
///
/// The host numbers from 1. What follows `recorded` is taken; what was taken before is acknowledged again; behind a
/// gap nothing is taken and the host is told, once for each gap, to send again. A `Dropped` event stands for the
/// numbers it names: its own is the last of them.
pub(crate) fn output(
    state: &mut State,
    out: &mut Outcome,
    output: OutputMessage,
    reply: Option<String>,
    now: Timestamp,
) {
    let (id, run_id) = (output.agent_id.clone(), output.run_id);
    let Some(agent) = state.agents.get_mut(&id) else { return };
    agent.last_heard = Some(now);
    let Some(run) = agent.run_mut(run_id) else {
        tracing::debug!(agent = %id, run = %run_id, "output of another run");
        return;
    };
    let first = match &output.event {
        Some(AgentEvent::Dropped { from_seq, .. }) => *from_seq,
        _ => output.seq,
    };
    let follows = first <= run.recorded + 1;
    let mut rewind = false;
    if follows && output.seq > run.recorded {
        run.recorded = output.seq;
        run.rewound = None;
        take(state, out, output, now);
    } else if !follows {
        rewind = run.rewound.replace(run.recorded) != Some(run.recorded);
        if !rewind {
            return;
        }
    }
    if let Some(reply) = reply
        && let Some(run) =
            state.agents.values().find_map(|agent| agent.run.as_ref().filter(|run| run.id == run_id))
    {
        let recorded = run.recorded;
        let rewind =
            rewind || out.acks.get(&run_id).is_some_and(|(_, ack)| ack.rewind && ack.recorded == recorded);
        out.acks.insert(run_id, (reply, OutputAck { run_id, recorded, rewind }));
    }
}

fn take(state: &mut State, out: &mut Outcome, output: OutputMessage, now: Timestamp) {
    let id = output.agent_id.clone();
    let dropped = match &output.event {
        Some(AgentEvent::Dropped { from_seq, to_seq, bytes }) => Some((*from_seq, *to_seq, *bytes)),
        _ => None,
    };
    let size = output.data.as_ref().map_or(0, String::len) + output.raw.as_ref().map_or(0, String::len) + 256;
    out.writes.push(Write::AppendOutput(Box::new(output)));
    let bytes_max = state.policy.log_bytes_max;
    if let Some(agent) = state.agents.get_mut(&id) {
        agent.log_bytes += size as u64;
        // A tenth of slack makes trimming rare; the estimate is corrected by what trimming leaves.
        if agent.log_bytes > bytes_max + bytes_max / 10 {
            out.writes.push(Write::TrimOutput { agent: id.clone(), bytes_max });
            agent.log_bytes = bytes_max;
        }
    }
    if let Some((from, to, bytes)) = dropped {
        let text = format!("{id}: output {from} to {to} ({bytes} bytes) was dropped while nobody took it");
        let action = "the bus was away for too long or the disk is full; see `ostler doctor`".to_owned();
        let alert = agent_alert(&id, now, Severity::Warning, "output_dropped", text, action);
        state.alert(out, alert);
    }
}

/// The host's process exists; it is not heard yet.
pub(crate) fn launched(state: &mut State, id: &AgentId, run_id: RunId) {
    if let Some(run) = state.agents.get_mut(id).and_then(|agent| agent.run_mut(run_id))
        && run.phase == Phase::Launching
    {
        run.phase = Phase::Silent;
    }
}

/// No host came to be: the reason goes to whoever asked and into the state.
pub(crate) fn launch_failed(
    state: &mut State,
    out: &mut Outcome,
    id: &AgentId,
    run_id: RunId,
    refusal: &ErrorReply,
    moment: &Moment,
) {
    let now = moment.now;
    let Some(run) = state.agents.get_mut(id).and_then(|agent| agent.run_mut(run_id)) else { return };
    run.phase = Phase::Gone;
    let waiting = std::mem::take(&mut run.waiting);
    for message in waiting {
        out.refuse(message, refusal);
    }
    out.writes.push(Write::EndRun(run_id, now));
    let text = refusal.error.message.clone();
    state.set_status(out, id, now, (AgentState::Error, StatusCause::SpawnFailed), text.clone());
    let action = refusal.error.hint.clone().unwrap_or_else(|| format!("`ostler restart {id}` tries again"));
    let alert = agent_alert(
        id,
        now,
        Severity::Critical,
        "spawn_failed",
        format!("{id} cannot be started: {text}"),
        action,
    );
    state.alert(out, alert);
    if let Some(agent) = state.agents.get_mut(id) {
        fallback::want(out, agent, DesiredState::Stopped);
    }
    afterwards(state, out, id, moment);
}

/// A host is gone and its process tree with it: its last words are taken, and what follows from them.
pub(crate) fn host_gone(state: &mut State, out: &mut Outcome, gone: HostGone, moment: &Moment) {
    let now = moment.now;
    let id = gone.agent_id;
    let keep_desired = gone.record.as_ref().is_some_and(|record| record.keep_desired);
    if let Some(record) = gone.record {
        apply_status(state, out, record.status, now);
    }
    for message in gone.spool {
        output(state, out, message, None, now);
    }
    let Some(agent) = state.agents.get_mut(&id) else { return };
    let Some(run) = agent.run_mut(gone.run_id).filter(|run| run.phase != Phase::Gone) else { return };
    run.phase = Phase::Gone;
    let (policy, losses, lived_ms) = (
        agent.row.spawn.restart,
        run_losses(agent),
        now.as_millisecond() - run_start(agent, now).as_millisecond(),
    );
    let was_live = agent.state().is_live();
    out.writes.push(Write::EndRun(gone.run_id, now));
    refuse_waiting(state, out, &id);
    if !was_live {
        if !keep_desired && let Some(agent) = state.agents.get_mut(&id) {
            fallback::want(out, agent, DesiredState::Stopped);
        }
    } else {
        lost(state, out, &id, relaunch::decide(policy, losses, lived_ms, moment.random), now);
    }
    afterwards(state, out, &id, moment);
}

fn run_losses(agent: &crate::agent::Agent) -> u32 {
    agent.run.as_ref().map_or(0, |run| run.losses)
}

fn run_start(agent: &crate::agent::Agent, now: Timestamp) -> Timestamp {
    agent.run.as_ref().map_or(now, |run| run.started_at)
}

/// The host vanished without a last word.
fn lost(state: &mut State, out: &mut Outcome, id: &AgentId, decision: Decision, now: Timestamp) {
    let wanted = state.agents.get(id).is_some_and(|agent| agent.row.desired == DesiredState::Running);
    let (text, severity) = match decision {
        Decision::After(wait_ms, losses) if wanted && state.down.is_none() => {
            let text = format!(
                "its host vanished and its process tree was cleared; it is started again in {wait_ms} ms"
            );
            state.set_status(out, id, now, (AgentState::Starting, StatusCause::HostLost), text.clone());
            if let Some(agent) = state.agents.get_mut(id) {
                let wait = jiff::SignedDuration::from_millis(i64::try_from(wait_ms).unwrap_or(i64::MAX));
                agent.relaunch_at =
                    Some(now.saturating_add(wait).expect("a signed duration never overflows saturation"));
                if let Some(run) = &mut agent.run {
                    run.losses = losses;
                }
            }
            (text, Severity::Warning)
        }
        Decision::Loop(losses) => {
            let text = format!("its host vanished {losses} times in a row; it is not started again");
            state.set_status(out, id, now, (AgentState::Error, StatusCause::CrashLoop), text.clone());
            if let Some(agent) = state.agents.get_mut(id) {
                fallback::want(out, agent, DesiredState::Stopped);
            }
            (text, Severity::Critical)
        }
        Decision::After(..) | Decision::Leave => {
            let text = "its host vanished and its process tree was cleared".to_owned();
            state.set_status(out, id, now, (AgentState::Error, StatusCause::HostLost), text.clone());
            if let Some(agent) = state.agents.get_mut(id)
                && decision == Decision::Leave
            {
                fallback::want(out, agent, DesiredState::Stopped);
            }
            (text, Severity::Critical)
        }
    };
    let action =
        format!("the host's log is below agents/{id}/runs in the state directory; `ostler status {id}`");
    let alert = agent_alert(id, now, severity, "host_lost", format!("{id}: {text}"), action);
    state.alert(out, alert);
}

/// Requests that waited for a host that is gone.
fn refuse_waiting(state: &mut State, out: &mut Outcome, id: &AgentId) {
    let Some(agent) = state.agents.get_mut(id) else { return };
    if matches!(agent.afterwards, Afterwards::Start) {
        return;
    }
    let waiting = agent.run.as_mut().map(|run| std::mem::take(&mut run.waiting)).unwrap_or_default();
    let refusal = ErrorReply::new(ErrorCode::NotRunning, format!("{id}'s host ended before it could answer"))
        .hint(format!("`ostler status {id}` tells why"));
    for message in waiting {
        out.refuse(message, &refusal);
    }
}

/// What was to be done once the host was gone.
fn afterwards(state: &mut State, out: &mut Outcome, id: &AgentId, moment: &Moment) {
    let Some(agent) = state.agents.get_mut(id) else { return };
    match std::mem::take(&mut agent.afterwards) {
        Afterwards::Settle => {}
        Afterwards::Start => {
            let waiting = agent.run.as_mut().map(|run| std::mem::take(&mut run.waiting)).unwrap_or_default();
            fallback::want(out, agent, DesiredState::Running);
            state.start_run(out, id, 0, moment);
            if let Some(run) = state.agents.get_mut(id).and_then(|agent| agent.run.as_mut()) {
                run.waiting = waiting;
            }
        }
        Afterwards::Remove(message) => remove::finish(state, out, id, message, moment.now),
    }
}
