//! Requests that only read.

use ostler_client::Message;
use ostler_store::{EventsQuery, LogsQuery};
use ostler_wire::{ListReply, NodeInfo};

use crate::event::Query;
use crate::neighbours::refuse_unknown;
use crate::outcome::{Effect, Outcome};
use crate::state::State;

const LOGS_LIMIT: (u32, u32) = (500, 1000);
const EVENTS_LIMIT: (u32, u32) = (100, 1000);

pub(crate) fn apply(state: &State, out: &mut Outcome, query: Query, message: Message) {
    match query {
        Query::List => {
            let reply = ListReply { node: state.policy.node.clone(), agents: state.summaries() };
            out.answer(message, &reply);
        }
        Query::Info => out.effects.push(Effect::Info(Box::new(info(state)), message)),
        Query::Logs(agent, _) if !state.agents.contains_key(&agent) => {
            refuse_unknown(state, out, message, &agent);
        }
        Query::Logs(agent, request) => {
            let query = LogsQuery {
                agent,
                after: request.after.map(within_reach),
                since: request.since,
                tail: request.tail,
                limit: clamp(request.limit, LOGS_LIMIT),
            };
            out.effects.push(Effect::Logs(query, message));
        }
        Query::Events(request) => {
            let query = EventsQuery {
                after: request.after.map(within_reach),
                since: request.since,
                agent: request.agent_id,
                limit: clamp(request.limit, EVENTS_LIMIT),
            };
            out.effects.push(Effect::Events(query, message));
        }
    }
}

fn clamp(asked: Option<u32>, (default, max): (u32, u32)) -> u32 {
    asked.unwrap_or(default).clamp(1, max)
}

/// No position lies beyond SQLite's largest number.
fn within_reach(after: u64) -> u64 {
    after.min(i64::MAX as u64)
}

fn info(state: &State) -> NodeInfo {
    let policy = &state.policy;
    NodeInfo {
        node: policy.node.clone(),
        version: policy.version.clone(),
        pid: policy.pid,
        bus_url: policy.bus_url.clone(),
        started_at: policy.started_at,
        state_dir: policy.state_dir.clone(),
        agents: state.agents.len() as u32,
        agents_live: state.agents_live(),
        // Filled in when it is performed: reading the process table is not a decision.
        rss_bytes: 0,
        audit: None,
    }
}
