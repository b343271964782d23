//! The loop's third verb: carries out what was decided, in order, once it is on disk.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ostler_client::Message;
use ostler_wire::{AgentTopic, AuditStatus, ErrorCode, ErrorReply, OutputAck, Subject};
use tokio::sync::oneshot;

use crate::audit::Courier;
use crate::event::Event;
use crate::inbound::{self, Inbound, STATUS_INBOX};
use crate::neighbours::{self, Whose};
use crate::outcome::{Effect, to_json};
use crate::run::Loop;
use crate::{Ended, Error, LaunchPlan};

/// How long an answer that another daemon may know better waits.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_secs(2);
/// Pages read at the same time; further ones wait for their turn.
pub(crate) const PAGES_MAX: usize = 8;
/// Tasks beside the loop at which a page or a spawn is refused. Fewer than reports that may wait for the loop, so that
/// every task can report and end, also when the loop only waits for them.
const TASKS_MAX: usize = 256;

impl Loop {
    pub(crate) async fn perform(&mut self, effects: Vec<Effect>) -> Result<Option<Ended>, Error> {
        let mut ended = None;
        for effect in effects {
            match effect {
                Effect::Answer { message, payload } => {
                    if let Some(reply) = &message.reply {
                        self.answer(reply, payload).await?;
                    }
                }
                Effect::AnswerLater { message, payload } => self.answer_later(message, payload),
                Effect::Publish { subject, payload } => self.publish(&subject, payload).await?,
                Effect::Forward(message) => self.forward(message).await?,
                Effect::AskStatus(agent) => {
                    let subject = Subject::Agent(agent, AgentTopic::Status).to_string();
                    sent(self.client.publish_bytes(&subject, Some(STATUS_INBOX), Bytes::new()).await)?;
                }
                Effect::Launch(plan) => self.launch(*plan),
                Effect::Forget(agent) => {
                    let node = Arc::clone(&self.node);
                    // Waited for: the name is free again when the answer, or a new launch, follows.
                    let _ = tokio::task::spawn_blocking(move || node.forget(&agent)).await;
                }
                Effect::Logs(query, message) => {
                    self.page(message, move |reader| Ok(to_json(&reader.logs(&query)?)));
                }
                Effect::Events(query, message) => {
                    self.page(message, move |reader| Ok(to_json(&reader.events(&query)?)));
                }
                Effect::Info(mut info, message) => {
                    info.rss_bytes = self.node.rss_bytes();
                    info.audit = self.audit_status().await;
                    sent(self.client.respond(&message, &info).await)?;
                }
                Effect::End(how) => ended = Some(how),
            }
        }
        Ok(ended)
    }

    /// How the audit fares: the courier's word, with where the chain stands at this moment.
    async fn audit_status(&mut self) -> Option<AuditStatus> {
        let told = self.courier.as_ref().map(Courier::status)?;
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || store.read(|reader| reader.audit_status())).await;
        // A database that cannot be read is told by everything else.
        let Ok(Ok(chain)) = read else { return Some(told) };
        Some(AuditStatus { problem: told.problem, problem_since: told.problem_since, ..chain })
    }

    pub(crate) async fn acknowledge(
        &mut self,
        acks: impl Iterator<Item = (String, OutputAck)>,
    ) -> Result<(), Error> {
        for (reply, ack) in acks {
            sent(self.client.publish_bytes(&reply, None, to_json(&ack)).await)?;
        }
        Ok(())
    }

    /// Reads a message; what the machine has to be asked about comes back as an event of our own.
    pub(crate) fn read(&mut self, message: Message) -> Option<Event> {
        match inbound::read_message(message, &self.node_id)? {
            Inbound::Event(event) => Some(event),
            Inbound::Check { agent, mut request, message } => {
                match neighbours::whose(&self.state, &mut request) {
                    Whose::Ours => {}
                    Whose::Theirs => return None,
                    Whose::Nobodys(refusal) | Whose::Unclear(refusal) => {
                        self.answer_later(message, to_json(&refusal));
                        return None;
                    }
                }
                if self.tasks.len() >= TASKS_MAX {
                    return Some(Event::Refuse { refusal: too_busy(), message });
                }
                let (node, own) = (Arc::clone(&self.node), self.own.clone());
                self.tasks.spawn(async move {
                    let check = tokio::task::spawn_blocking(move || (node.check(&request), request)).await;
                    let event = match check {
                        Ok((checked, request)) => Event::Spawn { agent, request, checked, message },
                        Err(error) => {
                            let refusal = ErrorReply::new(ErrorCode::Internal, error.to_string());
                            Event::Refuse { refusal, message }
                        }
                    };
                    // A closed queue means the engine has ended.
                    let _ = own.send(event).await;
                });
                None
            }
        }
    }

    /// Measures the logs beside the loop: it takes a pass over them, and nobody waits for it.
    pub(crate) fn measure_logs(&mut self) {
        let (store, own) = (self.store.clone(), self.own.clone());
        self.tasks.spawn(async move {
            match tokio::task::spawn_blocking(move || store.read(|reader| reader.output_sizes())).await {
                Ok(Ok(sizes)) => {
                    let _ = own.send(Event::LogSizes(sizes)).await;
                }
                Ok(Err(error)) => tracing::warn!(%error, "the logs cannot be measured"),
                Err(error) => tracing::warn!(%error, "the logs cannot be measured"),
            }
        });
    }

    fn launch(&mut self, plan: LaunchPlan) {
        let (node, own) = (Arc::clone(&self.node), self.own.clone());
        self.tasks.spawn(async move {
            let (agent, run) = (plan.agent_id.clone(), plan.run_id);
            let event = match tokio::task::spawn_blocking(move || node.launch(&plan)).await {
                Ok(Ok(())) => Event::Launched { agent, run },
                Ok(Err(refusal)) => Event::LaunchFailed { agent, run, refusal },
                Err(error) => {
                    let refusal = ErrorReply::new(ErrorCode::Internal, error.to_string());
                    Event::LaunchFailed { agent, run, refusal }
                }
            };
            // A closed queue means the engine has ended.
            let _ = own.send(event).await;
        });
    }

    /// Reads a page beside the loop and answers with it.
    fn page(
        &mut self,
        message: Message,
        read: impl FnOnce(ostler_store::Reader<'_>) -> Result<Bytes, ostler_store::Error> + Send + 'static,
    ) {
        let Some(reply) = message.reply else { return };
        if self.tasks.len() >= TASKS_MAX {
            let client = self.client.clone();
            let refusal = too_busy();
            self.tasks.spawn(async move {
                let _ = client.publish_bytes(&reply, None, to_json(&refusal)).await;
            });
            return;
        }
        let pages = Arc::clone(&self.pages);
        let (client, store) = (self.client.clone(), self.store.clone());
        self.tasks.spawn(async move {
            // Closed never: the semaphore lives as long as the loop.
            let Ok(permit) = pages.acquire_owned().await else { return };
            let (done, done_rx) = oneshot::channel();
            let reading = tokio::task::spawn_blocking(move || {
                let _ = done.send(store.read(read));
            });
            let payload = match done_rx.await {
                Ok(Ok(payload)) => payload,
                Ok(Err(error)) => to_json(&ErrorReply::new(ErrorCode::StorageFailed, error.to_string())),
                Err(_) => to_json(&ErrorReply::new(ErrorCode::Internal, "reading failed")),
            };
            let _ = reading.await;
            let _ = client.publish_bytes(&reply, None, payload).await;
            drop(permit);
        });
    }

    /// Answers beside the loop, once whoever knows better had its time.
    fn answer_later(&mut self, message: Message, payload: Bytes) {
        // When so much goes on, silence is answered by the asker's patience.
        let Some(reply) = message.reply.filter(|_| self.tasks.len() < TASKS_MAX) else { return };
        let client = self.client.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(NEIGHBOUR_PATIENCE).await;
            let _ = client.publish_bytes(&reply, None, payload).await;
        });
    }

    pub(crate) async fn publish(&mut self, subject: &Subject, payload: Bytes) -> Result<(), Error> {
        match self.client.publish_bytes(&subject.to_string(), None, payload).await {
            // Told to nobody rather than to end the daemon: whoever listens sees the gap in the numbers.
            Err(error @ ostler_client::Error::TooLarge { .. }) => {
                tracing::error!(%error, "an announcement is too large for the bus");
                Ok(())
            }
            result => sent(result),
        }
    }

    async fn forward(&mut self, message: Message) -> Result<(), Error> {
        let reply = message.reply.clone();
        match (self.client.forward(message).await, reply) {
            (Err(error @ ostler_client::Error::TooLarge { .. }), Some(reply)) => {
                let refusal = ErrorReply::new(ErrorCode::TooLarge, error.to_string())
                    .hint("ask again: its host hears it directly now");
                self.answer(&reply, to_json(&refusal)).await
            }
            (Err(error @ ostler_client::Error::TooLarge { .. }), None) => {
                tracing::warn!(%error, "a publication that waited for its host is dropped");
                Ok(())
            }
            (result, _) => sent(result),
        }
    }

    async fn answer(&mut self, reply: &str, payload: Bytes) -> Result<(), Error> {
        match self.client.publish_bytes(reply, None, payload).await {
            Err(error @ ostler_client::Error::TooLarge { .. }) => {
                let refusal =
                    ErrorReply::new(ErrorCode::TooLarge, format!("the answer does not fit the bus: {error}"));
                sent(self.client.publish_bytes(reply, None, to_json(&refusal)).await)
            }
            result => sent(result),
        }
    }
}

/// A bus that is away ends nothing: hosts send again what matters, and whoever asked gives up by itself.
fn sent(result: Result<(), ostler_client::Error>) -> Result<(), Error> {
    match result {
        Err(error @ ostler_client::Error::Away { .. }) => {
            tracing::debug!(%error, "not sent");
            Ok(())
        }
        result => Ok(result?),
    }
}

fn too_busy() -> ErrorReply {
    ErrorReply::new(ErrorCode::QueueFull, format!("{TASKS_MAX} requests are being served already"))
        .hint("ask again in a moment")
}
