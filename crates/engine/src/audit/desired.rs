//! Brings the bucket of desired states up to what is wanted. Knows nothing of the audit, which does not wait for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use ostler_client::{Client, Error as BusError, Narrower};
use ostler_store::Store;
use ostler_wire::{AgentId, DESIRED_STREAM, DesiredAgent, NodeId, Subject};
use tokio::time::Instant;

use super::courier::{Fault, RETRY_FIRST, RETRY_LONGEST};
use super::stream;
use crate::outcome::to_json;

/// The header that makes a value of a key-value bucket a marker.
const KV_OPERATION: &str = "KV-Operation";

/// How long it must fail before somebody is told.
const PATIENCE: Duration = Duration::from_secs(5);

/// The bucket as this node has it.
#[derive(Debug)]
pub(super) struct Bucket {
    client: Client,
    store: Store,
    node: NodeId,
    /// What it has of our agents; `None` while that is not known.
    there: Option<BTreeMap<AgentId, Bytes>>,
    /// Whether it was brought up to the last wish.
    is_due: bool,
    failing: Option<Failing>,
    /// What was told last, so that it is told once.
    told: Option<String>,
}

/// Since when it fails, and when it is tried again.
#[derive(Debug)]
struct Failing {
    since: Instant,
    again_at: Instant,
    wait: Duration,
}

impl Bucket {
    pub(super) fn new(client: Client, store: Store, node: NodeId) -> Self {
        Self { client, store, node, there: None, is_due: true, failing: None, told: None }
    }

    /// Somebody wishes something else.
    pub(super) fn wish(&mut self) {
        self.is_due = true;
    }

    /// The bucket may be another one by now.
    pub(super) fn look_again(&mut self) {
        self.is_due = true;
        self.there = None;
    }

    /// When it is to be tried again, after a fault.
    pub(super) fn again_at(&self) -> Option<Instant> {
        self.failing.as_ref().map(|failing| failing.again_at)
    }

    /// Does what is due. Returns what is to be told: why the bucket does not say what is wanted.
    pub(super) async fn round(&mut self) -> Option<String> {
        if !self.is_due || self.again_at().is_some_and(|at| Instant::now() < at) {
            return None;
        }
        let problem = match self.bring_up().await {
            Ok(too_large) => {
                (self.is_due, self.failing) = (false, None);
                too_large
            }
            Err(fault) => {
                tracing::debug!(%fault, "desired states are not published");
                self.there = None;
                let now = Instant::now();
                let failing =
                    self.failing.get_or_insert(Failing { since: now, again_at: now, wait: RETRY_FIRST });
                failing.again_at = now + failing.wait;
                failing.wait = (failing.wait * 2).min(RETRY_LONGEST);
                if now - failing.since < PATIENCE {
                    return None;
                }
                Some(fault.to_string())
            }
        };
        let news = problem.clone().filter(|_| problem != self.told);
        self.told = problem;
        news
    }

    /// Writes what differs. Returns the first definition that the bus does not carry: it has no key, and the rest has.
    async fn bring_up(&mut self) -> Result<Option<String>, Fault> {
        if self.there.is_none() {
            self.client.ensure_stream(&stream::desired(), Narrower::Apply).await?;
            self.there = Some(self.look().await?);
        }
        let store = self.store.clone();
        let agents = tokio::task::spawn_blocking(move || store.read(|reader| reader.agents())).await??;
        let node = &self.node;
        let wanted: BTreeMap<AgentId, Bytes> = agents
            .into_iter()
            .map(|(row, _)| {
                let desired = DesiredAgent {
                    agent_id: row.agent_id.clone(),
                    node: node.clone(),
                    desired: row.desired,
                    spawn: row.spawn,
                    created_at: row.created_at,
                };
                (row.agent_id, to_json(&desired))
            })
            .collect();
        let Some(there) = self.there.as_mut() else { return Ok(None) };
        let mut too_large = None;
        let mut unfit = BTreeSet::new();
        for (agent, value) in &wanted {
            if there.get(agent) == Some(value) {
                continue;
            }
            let subject = Subject::Desired(node.clone(), agent.clone()).to_string();
            match self.client.store(&subject, None, &[], value.clone()).await {
                Ok(_) => drop(there.insert(agent.clone(), value.clone())),
                Err(error @ BusError::TooLarge { .. }) => {
                    unfit.insert(agent);
                    too_large.get_or_insert(error.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
        // Also what is there of a definition that is too large by now: it is not what is wanted.
        let is_gone = |agent: &&AgentId| !wanted.contains_key(*agent) || unfit.contains(*agent);
        let gone: Vec<AgentId> = there.keys().filter(is_gone).cloned().collect();
        for agent in gone {
            let subject = Subject::Desired(node.clone(), agent.clone()).to_string();
            self.client.store(&subject, None, &[(KV_OPERATION, "DEL")], Bytes::new()).await?;
            there.remove(&agent);
        }
        Ok(too_large)
    }

    /// What the bucket has of our agents.
    async fn look(&self) -> Result<BTreeMap<AgentId, Bytes>, Fault> {
        let filters = [Subject::desired_of_node(&self.node)];
        let values = match self.client.last_of_each(DESIRED_STREAM, &filters, KV_OPERATION).await {
            // Too many to be told at once: all are written anew.
            Err(BusError::Stream { err_code: 413, .. }) => Vec::new(),
            values => values?,
        };
        let live = values.into_iter().filter(|value| value.header.is_none());
        Ok(live
            .filter_map(|value| match Subject::parse(&value.subject) {
                Ok(Subject::Desired(_, agent)) => Some((agent, value.payload)),
                _ => None,
            })
            .collect())
    }
}
