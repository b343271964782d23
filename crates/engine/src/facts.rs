//! What hosts and machines report: states, heartbeats, output, starts and ends.

use ostler_client::Message;
use ostler_store::Write;
use ostler_wire::{
    AgentEvent, AgentId, AgentState, DesiredState, ErrorCode, ErrorReply, HeartbeatMessage, HostRecord,
    OutputAck, OutputMessage, OutputStream, RestartPolicy, RunId, STATE_CHANGES_MAX, Severity, StateChange,
    StatusCause, StatusMessage, Subject, Timestamp,
};

use crate::HostGone;
use crate::agent::{Afterwards, Phase};
use crate::audit;
use crate::control::{fallback, remove, spawn};
use crate::outcome::{Effect, Outcome};
use crate::relaunch::{self, Decision};
use crate::stale;
use crate::state::{Moment, Origin, State, agent_alert, state_details};

/// Takes a host's word for its agent's state, unless a later one is known.
pub(crate) fn status(state: &mut State, out: &mut Outcome, status: StatusMessage, now: Timestamp) {
    let id = status.agent_id.clone();
    let Some(agent) = state.agents.get_mut(&id) else {
        if !state.policy.shared_bus {
            tracing::warn!(agent = %id, "status of an unknown agent");
        }
        return;
    };
    let Some(run) = agent.run.as_mut().filter(|run| run.id == status.run_id && run.phase != Phase::Gone)
    else {
        tracing::debug!(agent = %id, run = %status.run_id, "status of another run");
        return;
    };
    let run_id = run.id;
    if status.revision > run.status.revision {
        run.status.host_pid = status.host_pid;
    }
    let newest = if status.revision >= run.status.revision { status.clone() } else { run.status.clone() };
    heard(state, out, &id, run_id, &newest, now);
    apply_status(state, out, status, now);
}

/// A host spoke: whatever waited for it is served, and a mark of silence is taken away.
fn heard(
    state: &mut State,
    out: &mut Outcome,
    id: &AgentId,
    run_id: RunId,
    status: &StatusMessage,
    now: Timestamp,
) {
    let Some(agent) = state.agents.get_mut(id) else { return };
    agent.last_heard = Some(now);
    let Some(run) = agent.run_mut(run_id).filter(|run| run.phase != Phase::Gone) else { return };
    run.phase = Phase::Heard;
    let waiting = std::mem::take(&mut run.waiting);
    serve_waiting(out, waiting, status);
    stale::recovered(state, out, id, now);
}

/// Asks hosts that have not been heard for their state: their first word may have been lost.
pub(crate) fn ask_silent(state: &State, out: &mut Outcome) {
    let silent = state.agents.values().filter(|agent| {
        agent.run.as_ref().is_some_and(|run| run.phase == Phase::Silent) && agent.is_served()
    });
    out.effects.extend(silent.map(|agent| Effect::AskStatus(agent.id().clone())));
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

/// Adopts a newer status, and before it the changes it tells of that are news: a publication may have been lost with a
/// connection, and the end of a host is heard of sooner than the last it published.
pub(crate) fn apply_status(state: &mut State, out: &mut Outcome, mut status: StatusMessage, now: Timestamp) {
    for change in std::mem::take(&mut status.changes).into_iter().take(STATE_CHANGES_MAX) {
        if change.revision < status.revision {
            adopt(state, out, at_change(&status, change), now);
        }
    }
    adopt(state, out, status, now);
}

/// The status as it was at an earlier change, as far as that is known.
fn at_change(status: &StatusMessage, change: StateChange) -> StatusMessage {
    StatusMessage {
        status: change.state.to_string(),
        message: change.message,
        timestamp: change.timestamp,
        state: change.state,
        cause: change.cause,
        generation: change.generation,
        revision: change.revision,
        exit: change.exit,
        pid: None,
        started_at: None,
        uptime_ms: None,
        ..status.clone()
    }
}

/// Takes a newer status over; an event and perhaps an alert follow when the state changed.
fn adopt(state: &mut State, out: &mut Outcome, status: StatusMessage, now: Timestamp) {
    let id = status.agent_id.clone();
    let Some(run) = state.agents.get_mut(&id).and_then(|agent| agent.run_mut(status.run_id)) else { return };
    if status.revision <= run.status.revision {
        return;
    }
    let before = std::mem::replace(&mut run.status, status.clone());
    let changed = (before.state, before.generation) != (status.state, status.generation);
    out.writes.push(Write::UpdateRun(Box::new(status.clone())));
    if status.cause == StatusCause::NotPermitted && before.cause != StatusCause::NotPermitted {
        let why =
            status.message.clone().unwrap_or_else(|| "the bus denies its host what it needs".to_owned());
        let action = "correct the permissions of the host's user; docs/guide/external-bus.md lists them";
        let alert = agent_alert(
            &id,
            now,
            Severity::Critical,
            "not_permitted",
            format!("{id}: {why}"),
            action.to_owned(),
        );
        state.alert(out, alert);
    }
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

/// Notes a heartbeat.
pub(crate) fn heartbeat(state: &mut State, out: &mut Outcome, beat: &HeartbeatMessage, now: Timestamp) {
    let id = &beat.agent_id;
    let Some(agent) = state.agents.get_mut(id) else {
        if !state.policy.shared_bus {
            tracing::warn!(agent = %id, "heartbeat of an unknown agent");
        }
        return;
    };
    let Some(run_id) = beat.run_id else { return agent.beat(beat, now) };
    let Some(status) = agent.run_mut(run_id).map(|run| run.status.clone()) else { return };
    agent.beat(beat, now);
    // Its state is asked for before anything is said about it: a beat does not tell the process ids.
    if !agent.is_heard() {
        return;
    }
    // A state told while the bus was away from us is not told again by itself.
    let is_stale = beat.state.is_some_and(|state| state != status.state);
    if is_stale || status.cause == StatusCause::NotPermitted {
        out.effects.push(Effect::AskStatus(id.clone()));
    }
    heard(state, out, id, run_id, &status, now);
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
    if let Some(event) = &output.event {
        audit::did(state, out, now, &id, event);
    }
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
    let (requested, losses) = (run.requested, run.losses);
    out.writes.push(Write::EndRun(run_id, now));
    let text = refusal.error.message.clone();
    let policy = state.agents.get(id).map_or(RestartPolicy::Never, |agent| agent.row.spawn.restart);
    if requested || policy == RestartPolicy::Never {
        state.set_status(out, id, now, (AgentState::Error, StatusCause::SpawnFailed), text.clone());
        let hint = refusal.error.hint.clone();
        let action = hint.unwrap_or_else(|| format!("`ostler restart {id}` tries again"));
        let text = format!("{id} cannot be started: {text}");
        let alert = agent_alert(id, now, Severity::Critical, "spawn_failed", text, action);
        state.alert(out, alert);
        if let Some(agent) = state.agents.get_mut(id) {
            fallback::want(out, agent, DesiredState::Stopped);
        }
    } else {
        // It ran before: what hinders it may pass, a directory that is not mounted yet, say.
        lost(state, out, id, relaunch::decide(policy, losses, 0, moment.random), now, "spawn_failed", &text);
    }
    afterwards(state, out, id, moment);
}

/// A host is gone and its process tree with it: its last words are taken, and what follows from them.
pub(crate) fn host_gone(state: &mut State, out: &mut Outcome, gone: HostGone, moment: &Moment) {
    let now = moment.now;
    let id = gone.agent_id;
    let (keep_desired, stop_asked, last_seq) = gone
        .record
        .as_ref()
        .map_or((false, false, 0), |record| (record.keep_desired, record.stop_asked, record.last_seq));
    if let Some(record) = gone.record {
        announce_rest(state, out, &record);
        apply_status(state, out, record.status, now);
    }
    for message in gone.spool {
        output(state, out, message, None, now);
    }
    tell_lost_output(state, out, &id, gone.run_id, last_seq, now);
    let Some(agent) = state.agents.get_mut(&id) else { return };
    let Some(run) = agent.run_mut(gone.run_id).filter(|run| run.phase != Phase::Gone) else { return };
    run.phase = Phase::Gone;
    let losses = run.losses;
    let lived_ms = now.as_millisecond() - run.started_at.as_millisecond();
    // A host that saw its guard die ends its agent and says so; that is no end anybody wanted, so the policy decides.
    let gave_up = run.status.state == AgentState::Error && run.status.cause == StatusCause::HostLost;
    let policy = agent.row.spawn.restart;
    let was_live = agent.state().is_live() || gave_up;
    out.writes.push(Write::EndRun(gone.run_id, now));
    refuse_waiting(state, out, &id);
    if was_live && stop_asked {
        // It was killed on its way to the end that was asked for: the end is what counts.
        let text = "stopped on request; its host was killed meanwhile".to_owned();
        state.set_status(out, &id, now, (AgentState::Terminated, StatusCause::Requested), text);
    }
    if !was_live || stop_asked {
        if !keep_desired && let Some(agent) = state.agents.get_mut(&id) {
            fallback::want(out, agent, DesiredState::Stopped);
        }
    } else {
        let decision = relaunch::decide(policy, losses, lived_ms, moment.random);
        let what = "its host vanished and its process tree was cleared";
        lost(state, out, &id, decision, now, "host_lost", what);
    }
    afterwards(state, out, &id, moment);
}

/// Publishes what the host could not: the states of its record that neither the bus nor we have heard.
fn announce_rest(state: &State, out: &mut Outcome, record: &HostRecord) {
    let id = &record.status.agent_id;
    let Some(run) = state.agents.get(id).and_then(|agent| agent.run.as_ref()) else { return };
    if run.id != record.run_id || run.phase == Phase::Gone {
        return;
    }
    let heard = record.announced.max(run.status.revision);
    let last = StatusMessage { changes: Vec::new(), ..record.status.clone() };
    let earlier = record.status.changes.iter().filter(|change| change.revision < last.revision);
    let all = earlier.map(|change| at_change(&last, change.clone())).chain([last.clone()]);
    for status in all.filter(|status| status.revision > heard) {
        out.publish(Subject::status(id), &status);
    }
}

/// Output the host had numbered and nobody has: its place in the log says so.
fn tell_lost_output(
    state: &mut State,
    out: &mut Outcome,
    id: &AgentId,
    run_id: RunId,
    last_seq: u64,
    now: Timestamp,
) {
    let Some(run) = state.agents.get_mut(id).and_then(|agent| agent.run_mut(run_id)) else { return };
    if run.phase == Phase::Gone || run.recorded >= last_seq {
        return;
    }
    let from_seq = run.recorded + 1;
    let dropped = OutputMessage {
        agent_id: id.clone(),
        run_id,
        generation: run.status.generation,
        seq: last_seq,
        stream: OutputStream::Event,
        data: None,
        data_base64: None,
        partial: false,
        event: Some(AgentEvent::Dropped { from_seq, to_seq: last_seq, bytes: 0 }),
        raw: None,
        input_id: None,
        timestamp: now,
    };
    output(state, out, dropped, None, now);
}

/// The agent is not running and was to: `what` says why, `code` names it.
fn lost(
    state: &mut State,
    out: &mut Outcome,
    id: &AgentId,
    decision: Decision,
    now: Timestamp,
    code: &str,
    what: &str,
) {
    let cause = if code == "host_lost" { StatusCause::HostLost } else { StatusCause::SpawnFailed };
    let wanted = state.agents.get(id).is_some_and(|agent| agent.row.desired == DesiredState::Running);
    let (status, text, severity) = match decision {
        Decision::After(wait_ms, losses) if wanted && state.down.is_none() => {
            if let Some(agent) = state.agents.get_mut(id) {
                let wait = jiff::SignedDuration::from_millis(i64::try_from(wait_ms).unwrap_or(i64::MAX));
                agent.relaunch_at =
                    Some(now.saturating_add(wait).expect("a signed duration never overflows saturation"));
                if let Some(run) = &mut agent.run {
                    run.losses = losses;
                }
            }
            let text = format!("{what}; it is started again in {wait_ms} ms");
            ((AgentState::Starting, cause), text, Severity::Warning)
        }
        Decision::Loop(losses) => {
            let text = format!("{what}, {losses} times in a row; it is not started again");
            ((AgentState::Error, StatusCause::CrashLoop), text, Severity::Critical)
        }
        Decision::After(..) | Decision::Leave => {
            ((AgentState::Error, cause), what.to_owned(), Severity::Critical)
        }
    };
    state.set_status(out, id, now, status, text.clone());
    if !matches!(decision, Decision::After(..))
        && let Some(agent) = state.agents.get_mut(id)
    {
        fallback::want(out, agent, DesiredState::Stopped);
    }
    let action =
        format!("the host's log is below agents/{id}/runs in the state directory; `ostler status {id}`");
    let alert = agent_alert(id, now, severity, code, format!("{id}: {text}"), action);
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
            // A request to spawn waits here; to restart was answered at once.
            let spawn_subject = Subject::spawn(id).to_string();
            let spawned = waiting.iter().any(|message| message.subject == spawn_subject);
            let origin = if spawned { Origin::Spawn } else { Origin::Restart };
            state.start_run(out, id, 0, origin, moment);
            if let Some(run) = state.agents.get_mut(id).and_then(|agent| agent.run.as_mut()) {
                run.waiting = waiting;
            }
        }
        Afterwards::Remove(message) => remove::finish(state, out, id, message, moment.now),
    }
}

/// The sizes of the logs as they were found.
pub(crate) fn log_sizes(state: &mut State, sizes: Vec<(AgentId, u64)>) {
    for (id, bytes) in sizes {
        if let Some(agent) = state.agents.get_mut(&id) {
            agent.log_bytes += bytes;
        }
    }
}
