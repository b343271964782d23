//! Writing a batch, for as long as it takes: what is served while the disk refuses writes, and what waits.
//!
//! | comes meanwhile | is |
//! |---|---|
//! | a request that would write | refused with `storage_failed` |
//! | a request for a host that was heard | the host's to answer |
//! | reading | served |
//! | output, heartbeats | left: hosts keep their output and beat again |
//! | states | kept, the last of each run |
//! | starts and ends of hosts | kept, all of them |
//! | `down` without the agents | done at once; with them, when there is space |
//!
//! Whoever waits for the answer of the refused batch itself is told the same refusal: what was asked is kept and done
//! when there is space.

use std::sync::Arc;
use std::time::Duration;

use ostler_store::Write;
use ostler_wire::{
    AlertMessage, DownReply, DownRequest, ErrorCode, ErrorReply, Severity, Subject, Timestamp,
};

use crate::event::Event;
use crate::inputs::Input;
use crate::outcome::{Effect, Outcome, to_json};
use crate::run::{Loop, closed, moment};
use crate::{Ended, Error};

/// Wait between two attempts to write a batch the disk refused.
const RETRY: Duration = Duration::from_secs(1);

impl Loop {
    /// Writes a batch. `Some` when the daemon is to end instead of waiting for the disk.
    pub(crate) async fn write(&mut self, outcome: &mut Outcome) -> Result<Option<Ended>, Error> {
        let writes: Arc<[Write]> = std::mem::take(&mut outcome.writes).into();
        let mut told = false;
        loop {
            let error = match self.store.commit(Arc::clone(&writes)).await {
                Ok(()) => break,
                Err(error) if error.is_retryable() => error,
                Err(error) => return Err(error.into()),
            };
            if !told {
                told = true;
                tracing::error!(%error, "the disk refuses writes; trying again every second");
                self.publish(&Subject::DashboardAlert, to_json(&alert(&error))).await?;
                self.refuse_askers(outcome, &error).await?;
            }
            if let Some(ended) = self.serve_without_disk(&error).await? {
                return Ok(Some(ended));
            }
        }
        if told {
            tracing::info!(deferred = self.deferred.len(), "the disk takes writes again");
        }
        Ok(None)
    }

    /// Tells whoever waits for this batch that it will take a while.
    async fn refuse_askers(
        &mut self,
        outcome: &mut Outcome,
        error: &ostler_store::Error,
    ) -> Result<(), Error> {
        let refusal = ErrorReply::new(ErrorCode::StorageFailed, format!("nothing can be recorded: {error}"))
            .hint("free some disk space; what was asked is kept and done then");
        let mut refusals = Outcome::default();
        outcome.effects.retain_mut(|effect| match effect {
            Effect::Answer { message, .. } => {
                refusals.refuse(message.clone(), &refusal);
                false
            }
            _ => true,
        });
        for message in self.state.take_unlaunched() {
            refusals.refuse(message, &refusal);
        }
        self.perform(refusals.effects).await.map(drop)
    }

    /// Serves what needs no disk until it is time to try again.
    async fn serve_without_disk(&mut self, error: &ostler_store::Error) -> Result<Option<Ended>, Error> {
        let retry = tokio::time::sleep(RETRY);
        tokio::pin!(retry);
        loop {
            let input = tokio::select! {
                () = &mut retry => return Ok(None),
                input = self.inputs.select(None) => input,
            };
            let event = match input {
                Input::Closed => return Err(closed()),
                Input::Deaf(denied) => return Err(ostler_client::Error::Denied(denied).into()),
                Input::Event(event) => Some(event),
                Input::Message(message) => self.read(message),
            };
            let mut outcome = Outcome::default();
            if let Some(event) = event
                && let Some(ended) = self.take_without_disk(event, error, &mut outcome)
            {
                self.perform(outcome.effects).await?;
                return Ok(Some(ended));
            }
            self.perform(outcome.effects).await?;
            while self.tasks.try_join_next().is_some() {}
        }
    }

    fn take_without_disk(
        &mut self,
        event: Event,
        error: &ostler_store::Error,
        out: &mut Outcome,
    ) -> Option<Ended> {
        let refusal = ErrorReply::new(ErrorCode::StorageFailed, format!("nothing can be recorded: {error}"))
            .hint("free some disk space; the daemon goes on by itself");
        match event {
            Event::Output { .. }
            | Event::Heartbeat(_)
            | Event::Neighbour(_)
            | Event::Heard { .. }
            | Event::Tick(_) => {}
            Event::Query(..) | Event::Refuse { .. } => self.state.apply(event, &moment(), out),
            Event::Spawn { message, .. } | Event::Remove { message, .. } => out.refuse(message, &refusal),
            Event::Control { ref agent, .. } if self.state.is_heard(agent) => {}
            Event::Control { message, .. } => out.refuse(message, &refusal),
            Event::Down { request: DownRequest { keep_agents: true }, message } => {
                let kept = self.state.agents_live();
                if let Some(message) = message {
                    out.answer(message, &DownReply { pid: std::process::id(), stopped: 0, kept });
                }
                return Some(Ended { stopped: 0, kept });
            }
            Event::Status(status) => {
                let same = |event: &Event| matches!(event, Event::Status(old) if old.run_id == status.run_id);
                self.deferred.retain(|event| !same(event));
                self.deferred.push_back(Event::Status(status));
            }
            // Bounded by the number of runs and of people who ask to end.
            Event::Down { .. }
            | Event::Launched { .. }
            | Event::LaunchFailed { .. }
            | Event::HostGone(_)
            | Event::Audit(_)
            | Event::LogSizes(_) => self.deferred.push_back(event),
        }
        None
    }
}

fn alert(error: &ostler_store::Error) -> AlertMessage {
    AlertMessage {
        severity: Severity::Critical,
        code: "storage_failed".into(),
        agent_id: None,
        text: format!("nothing can be recorded: {error}"),
        action: "free some disk space; the daemon goes on by itself".into(),
        timestamp: Timestamp::now(),
    }
}
