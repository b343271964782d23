//! Waits until an agent is in a wanted state: by its publications, and by asking in case one was missed.

use std::time::Duration;

use ostler_wire::{AgentId, AgentState, StatusMessage, Subject};
use tokio::time::{Instant, timeout};

use crate::connect::Session;
use crate::exit::{Exit, Failure, Outcome};
use crate::lasting::{Heard, Listener};
use crate::when::span;

/// How often the node is asked while no publication tells.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

/// How long one answer of the node may take: while it is away, publications are not to wait for it.
const ASK_PATIENCE: Duration = Duration::from_secs(2);

/// What was seen of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) state: AgentState,
    pub(crate) pid: Option<u32>,
}

impl From<StatusMessage> for Seen {
    fn from(status: StatusMessage) -> Self {
        Self { state: status.state, pid: status.pid }
    }
}

/// Listens to an agent's state; open it before asking for the change.
pub(crate) struct StateWatch<'a> {
    session: &'a Session,
    agent: &'a AgentId,
    statuses: Listener,
    ask: tokio::time::Interval,
}

impl<'a> StateWatch<'a> {
    pub(crate) async fn open(session: &'a Session, agent: &'a AgentId) -> Outcome<Self> {
        let statuses = session.listen(Subject::status(agent).to_string()).await?;
        let mut ask = tokio::time::interval_at(Instant::now() + ASK_INTERVAL, ASK_INTERVAL);
        ask.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Ok(Self { session, agent, statuses, ask })
    }

    /// Waits for a sight that is `wanted`; `what` is the word for it where it does not come in time.
    ///
    /// An agent that is removed meanwhile counts as terminated.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        patience: Duration,
        wanted: impl Fn(Seen) -> bool,
    ) -> Outcome<AgentState> {
        match timeout(patience, self.wait(wanted)).await {
            Ok(state) => state,
            Err(_) => Err(self.too_late(what, patience)),
        }
    }

    /// Waits for as long as it takes until no process of the agent is left. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> Outcome<AgentState> {
        self.wait(|seen| !seen.state.is_live()).await
    }

    async fn wait(&mut self, wanted: impl Fn(Seen) -> bool) -> Outcome<AgentState> {
        loop {
            let seen = tokio::select! {
                heard = self.statuses.next() => match heard? {
                    // A query on the same subject has a reply inbox and is no publication.
                    Some(Heard::Message(message)) if message.reply.is_none() => {
                        message.json::<StatusMessage>().ok().map(Seen::from)
                    }
                    Some(_) => None,
                    None => return Err(ostler_client::Error::Closed("while waiting for the agent".into()).into()),
                },
                _ = self.ask.tick() => self.ask().await?,
            };
            if let Some(seen) = seen.filter(|seen| wanted(*seen)) {
                return Ok(seen.state);
            }
        }
    }

    /// What the node knows; nothing while the daemon is away, the agent goes on without it.
    async fn ask(&self) -> Outcome<Option<Seen>> {
        let Ok(agent) = timeout(ASK_PATIENCE, self.session.agent(self.agent)).await else { return Ok(None) };
        match agent {
            Ok(agent) => Ok(Some(Seen { state: agent.state, pid: agent.pid })),
            Err(failure) if failure.exit == Exit::UnknownAgent => {
                Ok(Some(Seen { state: AgentState::Terminated, pid: None }))
            }
            Err(failure) if failure.is_daemon_away() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    fn too_late(&self, what: &str, patience: Duration) -> Failure {
        let id = self.agent;
        Failure::new(Exit::Timeout, format!("{id} has not {what} within {}", span(patience)))
            .hint(format!("wait longer with --timeout, or end it at once with: ostler kill {id}"))
    }
}
