//! `node.{node}.down`: end the daemon, with or without its agents.
//!
//! Agents are stopped with their desired state kept, so that they come back with the daemon. The requests are sent
//! again every second until each host is gone: a host that reconnects late hears one of them.

use ostler_client::Message;
use ostler_wire::{
    AgentId, DownReply, DownRequest, ErrorCode, ErrorReply, JsonMap, StopRequest, Subject, Timestamp,
};

use crate::Ended;
use crate::outcome::{Effect, Outcome};
use crate::state::State;

/// How much longer than the longest grace period we wait before the trees are killed.
const PATIENCE_MS: i64 = 5_000;
/// The grace period of an agent that does not name its own, as the hosts have it.
const GRACE_DEFAULT_MS: u64 = 10_000;

/// Requests that may wait for the end.
const ASKERS_MAX: usize = 64;

/// The way down.
#[derive(Debug)]
pub(crate) struct Down {
    /// Who waits for the answer.
    askers: Vec<Message>,
    stopping: Vec<AgentId>,
    kill_at: Timestamp,
    give_up_at: Timestamp,
}

pub(crate) fn begin(
    state: &mut State,
    out: &mut Outcome,
    now: Timestamp,
    request: DownRequest,
    message: Option<Message>,
) {
    if let Some(down) = state.down.as_mut().filter(|_| !request.keep_agents) {
        // Asked twice, done once, and all are answered.
        match message {
            Some(message) if down.askers.len() < ASKERS_MAX => down.askers.push(message),
            Some(message) => {
                let refusal = ErrorReply::new(ErrorCode::QueueFull, "the daemon is on its way down already");
                out.refuse(message, &refusal);
            }
            None => {}
        }
        return;
    }
    state.record(out, now, "daemon.stopping", None, "the daemon stops".into(), JsonMap::new());
    for agent in state.agents.values_mut() {
        agent.relaunch_at = None;
    }
    let live: Vec<AgentId> =
        state.agents.values().filter(|agent| agent.has_host()).map(|agent| agent.id().clone()).collect();
    if request.keep_agents {
        let reply = DownReply { pid: state.policy.pid, stopped: 0, kept: live.len() as u32 };
        let earlier = state.down.take().map(|down| down.askers).unwrap_or_default();
        return end(out, earlier.into_iter().chain(message), &reply);
    }
    let grace_ms = state
        .agents
        .values()
        .map(|agent| agent.row.spawn.stop_grace_ms.unwrap_or(GRACE_DEFAULT_MS))
        .max()
        .unwrap_or(0);
    let kill_ms = i64::try_from(grace_ms).unwrap_or(i64::MAX / 4).saturating_add(PATIENCE_MS);
    state.down = Some(Down {
        askers: message.into_iter().collect(),
        stopping: live,
        kill_at: later(now, kill_ms),
        give_up_at: later(now, kill_ms.saturating_add(PATIENCE_MS)),
    });
    tick(state, out, now);
}

/// Asks again whoever still runs; ends the daemon when nobody does.
pub(crate) fn tick(state: &mut State, out: &mut Outcome, now: Timestamp) {
    let Some(down) = &state.down else { return };
    let left: Vec<&AgentId> = down
        .stopping
        .iter()
        .filter(|id| state.agents.get(id).is_some_and(crate::agent::Agent::has_host))
        .collect();
    if left.is_empty() || now >= down.give_up_at {
        let kept = left.len() as u32;
        if kept > 0 {
            tracing::error!(?left, "these agents did not end; they go on without the daemon");
        }
        let reply = DownReply { pid: state.policy.pid, stopped: down.stopping.len() as u32 - kept, kept };
        let askers = state.down.as_mut().map(|down| std::mem::take(&mut down.askers)).unwrap_or_default();
        return end(out, askers.into_iter(), &reply);
    }
    let force = now >= down.kill_at;
    for id in left {
        if state.agents.get(id).is_some_and(crate::agent::Agent::is_served) {
            let stop = StopRequest { reason: Some("the daemon stops".into()), force, keep_desired: true };
            out.publish(Subject::stop(id), &stop);
        }
    }
}

fn end(out: &mut Outcome, askers: impl Iterator<Item = Message>, reply: &DownReply) {
    for message in askers {
        out.answer(message, reply);
    }
    out.effects.push(Effect::End(Ended { stopped: reply.stopped, kept: reply.kept }));
}

fn later(now: Timestamp, ms: i64) -> Timestamp {
    now.saturating_add(jiff::SignedDuration::from_millis(ms))
        .expect("a signed duration never overflows saturation")
}
