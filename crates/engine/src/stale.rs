//! Missed heartbeats: three in a row make an agent degraded and raise an alert; the next one mends it.

use ostler_wire::{JsonMap, NodeHeartbeat, Severity, Subject, Timestamp};

use crate::outcome::Outcome;
use crate::state::{State, agent_alert};

/// Heartbeats that may be missed.
const MISSED_MAX: i64 = 3;

/// The longest time between two heartbeats of a node, in milliseconds: other daemons judge by it who is there, and agents
/// whose hearts beat slowly do not change that.
pub(crate) const NODE_BEAT_MS_MAX: i64 = 15_000;

/// A gap between two ticks, which come every second, that no load explains.
const GAP_MS: i128 = 10_000;

/// True when nothing was heard for three heartbeats. Pure; `last` and `now` are wall-clock times.
pub(crate) fn is_stale(last: Timestamp, now: Timestamp, heartbeat_ms: u64) -> bool {
    let silent_ms = now.as_millisecond() - last.as_millisecond();
    silent_ms > MISSED_MAX * i64::try_from(heartbeat_ms).unwrap_or(i64::MAX / MISSED_MAX)
}

pub(crate) fn tick(state: &mut State, out: &mut Outcome, now: Timestamp) {
    let heartbeat_ms = state.policy.heartbeat_ms;
    forgive_sleep(state, now);
    let stale: Vec<_> = state
        .agents
        .values_mut()
        .filter(|agent| {
            agent.is_served()
                && !agent.degraded
                && agent.last_heard.is_some_and(|last| is_stale(last, now, heartbeat_ms))
        })
        .map(|agent| {
            agent.degraded = true;
            agent.id().clone()
        })
        .collect();
    for id in stale {
        let text = format!("{id} has missed {MISSED_MAX} heartbeats");
        let action =
            format!("`ostler status {id}` shows its processes; `ostler kill {id}` ends it when it hangs");
        let alert = agent_alert(&id, now, Severity::Warning, "heartbeat_missed", text, action);
        state.alert(out, alert);
    }
    let node_beat_ms = i64::try_from(heartbeat_ms).unwrap_or(i64::MAX).min(NODE_BEAT_MS_MAX);
    if state.node_beat.is_none_or(|last| now.as_millisecond() - last.as_millisecond() >= node_beat_ms) {
        beat(state, out, now);
    }
}

/// The node's own heart beats.
pub(crate) fn beat(state: &mut State, out: &mut Outcome, now: Timestamp) {
    state.node_beat = Some(now);
    let node = state.policy.node.clone();
    let beat = NodeHeartbeat { node: node.clone(), agents_live: state.agents_live(), timestamp: now };
    out.publish(Subject::NodeHeartbeat(node), &beat);
}

/// Time that passed while nobody ticked, because the machine slept or its clock was set, is nobody's silence.
fn forgive_sleep(state: &mut State, now: Timestamp) {
    let Some(before) = state.ticked.replace(now) else { return };
    let gap = now.duration_since(before);
    if gap.as_millis() < GAP_MS {
        return;
    }
    let agents = state.agents.values_mut().filter_map(|agent| agent.last_heard.as_mut());
    for last in agents.chain(state.neighbours.last_heard_mut()) {
        *last = last.saturating_add(gap).unwrap_or(now).min(now);
    }
}

/// Takes the mark away from an agent that was heard again.
pub(crate) fn recovered(state: &mut State, out: &mut Outcome, id: &ostler_wire::AgentId, now: Timestamp) {
    let Some(agent) = state.agents.get_mut(id) else { return };
    if std::mem::take(&mut agent.degraded) {
        state.record(out, now, "agent.recovered", Some(id), format!("{id} is heard again"), JsonMap::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_begins_after_the_third_missed_beat() {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        assert!(!is_stale(at(0), at(45_000), 15_000));
        assert!(is_stale(at(0), at(45_001), 15_000));
        assert!(!is_stale(at(50_000), at(0), 15_000), "a clock that went back makes nobody stale");
    }
}
