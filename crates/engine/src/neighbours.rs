//! Other daemons on a bus that is not ours: who they are, and whose a request is that several could answer.
//!
//! All daemons of a bus listen on `agent.*.spawn` and on the requests for agents they do not know. So a spawn request
//! names its node where there are several, and what somebody else may know better is refused only after that one had the
//! time to answer: of several answers a requester takes the first. Two daemons need not have heard each other alike, so
//! on a shared bus every such refusal waits, whoever was heard.

use std::collections::BTreeMap;

use ostler_client::{Connection, Message};
use ostler_wire::{AgentId, ErrorCode, ErrorReply, NodeId, SpawnRequest, Timestamp};

use crate::apply::unknown_agent;
use crate::outcome::Outcome;
use crate::stale;
use crate::state::State;

/// A daemon that was not heard for so long, on a bus that carries, is gone: four heartbeats, which come every
/// [`stale::NODE_BEAT_MS_MAX`] at least, whatever the agents of that daemon do.
const GONE_MS: i64 = 4 * stale::NODE_BEAT_MS_MAX;

/// Daemons kept at most; whoever may publish could make up as many as it likes.
const NEIGHBOURS_MAX: usize = 1024;

/// The other daemons, and when each was last heard.
#[derive(Debug, Default)]
pub(crate) struct Neighbours(BTreeMap<NodeId, Timestamp>);

/// Whose a spawn request is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Ours.
    Ours,
    /// Another daemon's, who answers it.
    Theirs,
    /// That of a daemon we have not heard; it is refused unless that one answers meanwhile.
    Nobodys(Box<ErrorReply>),
    /// It names nobody and several could be meant; it is refused unless somebody who heard nobody yet takes it meanwhile.
    Unclear(Box<ErrorReply>),
}

/// Another daemon was heard.
pub(crate) fn heard(state: &mut State, out: &mut Outcome, node: NodeId, now: Timestamp) {
    if state.neighbours.0.len() >= NEIGHBOURS_MAX && !state.neighbours.0.contains_key(&node) {
        return;
    }
    if state.neighbours.0.insert(node.clone(), now).is_none() {
        tracing::info!(%node, "another daemon is on this bus");
        // It is to know us as soon.
        stale::beat(state, out, now);
    }
}

/// Forgets who was not heard for long. On a bus that is away nobody can be heard, and everybody is to have the time to
/// find it again.
pub(crate) fn tick(state: &mut State, bus: Connection, now: Timestamp) {
    if bus == Connection::Down {
        state.neighbours.0.values_mut().for_each(|last| *last = now);
    }
    state.neighbours.0.retain(|_, last| now.as_millisecond() - last.as_millisecond() <= GONE_MS);
}

/// Whose a spawn request is; one that names us loses the name, which says nothing more and is no part of a definition.
pub(crate) fn whose(state: &State, request: &mut SpawnRequest) -> Whose {
    if !state.policy.shared_bus {
        return Whose::Ours;
    }
    match &request.node {
        Some(node) if *node == state.policy.node => {
            request.node = None;
            Whose::Ours
        }
        Some(node) if state.neighbours.0.contains_key(node) => Whose::Theirs,
        Some(node) => {
            let text = format!("node {node} is not on this bus; this is node {}", state.policy.node);
            Whose::Nobodys(Box::new(ErrorReply::new(ErrorCode::Unsupported, text)))
        }
        None if state.neighbours.0.is_empty() => Whose::Ours,
        None => {
            let others: Vec<&str> = state.neighbours.0.keys().map(NodeId::as_str).collect();
            let text = format!(
                "several daemons share this bus: {} and {}; the request must say whom it means",
                state.policy.node,
                others.join(", ")
            );
            let refusal = ErrorReply::new(ErrorCode::InvalidMessage, text);
            Whose::Unclear(Box::new(refusal.hint("name the node in `node`")))
        }
    }
}

/// Refuses a request for an agent we do not know; later, where somebody else may know it. Who was heard does not matter:
/// its owner may have come a moment ago.
pub(crate) fn refuse_unknown(state: &State, out: &mut Outcome, message: Message, agent: &AgentId) {
    if state.policy.shared_bus {
        out.answer_later(message, &unknown_agent(agent));
    } else {
        out.refuse(message, &unknown_agent(agent));
    }
}

impl Neighbours {
    /// When each was last heard.
    pub(crate) fn last_heard_mut(&mut self) -> impl Iterator<Item = &mut Timestamp> {
        self.0.values_mut()
    }
}
