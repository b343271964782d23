//! What the demo believes: only what arrives on the bus, each wait with a deadline.

use std::time::Duration;

use ostler_client::Subscription;
use ostler_wire::{AgentId, AgentTopic, OutputMessage, StatusMessage, Subject};

use crate::connect::Session;
use crate::exit::{Exit, Failure, Outcome};

/// Longer than anything in the demo takes, backoff and a busy machine included.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// A publication of an agent's host.
#[derive(Debug)]
pub(super) enum Sight {
    Status(StatusMessage),
    Output(OutputMessage),
}

/// Listens to all agents.
pub(super) struct Witness {
    messages: Subscription,
}

impl Witness {
    pub(super) async fn listen(session: &Session) -> Outcome<Self> {
        Ok(Self { messages: session.client().subscribe("agent.>").await? })
    }

    /// Waits for a sight `wanted` picks something from; what it is called stands in the failure.
    pub(super) async fn until<T>(
        &mut self,
        what: &str,
        wanted: impl FnMut(Sight) -> Option<T>,
    ) -> Outcome<T> {
        match self.within(PATIENCE, wanted).await? {
            Some(found) => Ok(found),
            None => Err(Failure::new(
                Exit::Failed,
                format!("{what} was not seen within {} s", PATIENCE.as_secs()),
            )),
        }
    }

    /// Looks on for a while; `None` when nothing wanted came by.
    pub(super) async fn within<T>(
        &mut self,
        patience: Duration,
        mut wanted: impl FnMut(Sight) -> Option<T>,
    ) -> Outcome<Option<T>> {
        let look = async {
            while let Some(message) = self.messages.next().await {
                if let Some(found) = sight(&message).and_then(&mut wanted) {
                    return Ok(found);
                }
            }
            Err(ostler_client::Error::Closed("in the middle of the demo".into()).into())
        };
        tokio::time::timeout(patience, look).await.ok().transpose()
    }

    /// Waits for a status of one agent.
    pub(super) async fn status(
        &mut self,
        agent: &AgentId,
        what: &str,
        wanted: impl Fn(&StatusMessage) -> bool,
    ) -> Outcome<StatusMessage> {
        self.until(&format!("{agent}: {what}"), |sight| match sight {
            Sight::Status(status) if status.agent_id == *agent && wanted(&status) => Some(status),
            _ => None,
        })
        .await
    }

    /// Waits for a line of one agent.
    pub(super) async fn line(
        &mut self,
        agent: &AgentId,
        what: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Outcome<OutputMessage> {
        self.until(&format!("{agent}: {what}"), |sight| match sight {
            Sight::Output(output) if output.agent_id == *agent => {
                output.data.as_deref().is_some_and(&wanted).then_some(output)
            }
            _ => None,
        })
        .await
    }
}

/// Reads a publication; requests on the same subjects are none.
fn sight(message: &ostler_client::Message) -> Option<Sight> {
    match Subject::parse(&message.subject).ok()? {
        // Output carries a reply inbox too: the engine acknowledges it there.
        Subject::Agent(_, AgentTopic::Output) => message.json().ok().map(Sight::Output),
        Subject::Agent(_, AgentTopic::Status) if message.reply.is_none() => {
            message.json().ok().map(Sight::Status)
        }
        _ => None,
    }
}
