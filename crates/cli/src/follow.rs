//! Recorded and live output of one agent as one stream: in order, nothing twice, nothing left out.
//!
//! Live output may arrive before it is recorded, may be sent twice after a reconnect, and may be missed while the
//! connection is away. The numbers in the messages settle it: [`Sequencer`] judges each arrival, [`Stream`] listens
//! first, then reads the recorded pages, then goes on with live output and reads pages again where a number is missing.

use std::collections::HashMap;
use std::time::Duration;

use ostler_wire::{
    AgentEvent, AgentId, LogEntry, LogsReply, LogsRequest, OutputMessage, RunId, Subject, Timestamp,
};
use tokio::time::Instant;

use crate::connect::Session;
use crate::exit::Outcome;
use crate::lasting::{Heard, Listener};

/// Entries asked for in one page.
const PAGE_ENTRIES: u32 = 1000;

/// How long missing output may take to be recorded; the host sends again within 5 s.
const GAP_PATIENCE: Duration = Duration::from_secs(6);

/// Pause between two looks for missing output.
const GAP_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What an arriving output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The next of its run.
    Next,
    /// Seen before.
    Repeated,
    /// Later than the next: `from..=to` have not been seen.
    Gap { from: u64, to: u64 },
}

/// Knows the last number seen of every run; a run that was never seen counts from 1.
#[derive(Debug, Default)]
pub(crate) struct Sequencer {
    last: HashMap<RunId, u64>,
}

impl Sequencer {
    pub(crate) fn judge(&self, output: &OutputMessage) -> Arrival {
        let last = self.last.get(&output.run_id).copied().unwrap_or(0);
        let first = first_seq(output);
        match output.seq {
            seq if seq <= last => Arrival::Repeated,
            _ if first > last + 1 => Arrival::Gap { from: last + 1, to: first - 1 },
            _ => Arrival::Next,
        }
    }

    /// Takes it as seen.
    pub(crate) fn accept(&mut self, output: &OutputMessage) {
        let last = self.last.entry(output.run_id).or_default();
        *last = output.seq.max(*last);
    }
}

/// The first number an output covers: a report of dropped output stands for all it reports and carries the last.
fn first_seq(output: &OutputMessage) -> u64 {
    match output.event {
        Some(AgentEvent::Dropped { from_seq, .. }) => from_seq.min(output.seq),
        _ => output.seq,
    }
}

/// One item of the stream.
#[derive(Debug)]
pub(crate) enum Item {
    /// The next output; the position is known for recorded ones.
    Output(Box<OutputMessage>),
    /// Outputs that did not turn up in time.
    Missing { from: u64, to: u64 },
}

/// Recorded and live output of one agent.
pub(crate) struct Stream<'a> {
    session: &'a Session,
    agent: &'a AgentId,
    live: Option<Listener>,
    /// True when the record has what was missed while the bus was away.
    behind: bool,
    sequencer: Sequencer,
    /// The last position read from the record.
    position: u64,
}

impl<'a> Stream<'a> {
    /// Prepares to read everything from the beginning; listens to nothing yet.
    pub(crate) fn new(session: &'a Session, agent: &'a AgentId) -> Self {
        Self { session, agent, live: None, behind: false, sequencer: Sequencer::default(), position: 0 }
    }

    /// Takes what is recorded so far as seen; with `before`, only when it is older than that. Call it first.
    pub(crate) async fn skip_recorded(&mut self, before: Option<Timestamp>) -> Outcome {
        let request = LogsRequest { tail: Some(1), ..LogsRequest::default() };
        let page: LogsReply = self.session.request(&Subject::logs(self.agent), &request).await?;
        let is_older = |entry: &&LogEntry| before.is_none_or(|before| entry.output.timestamp < before);
        if let Some(entry) = page.entries.last().filter(is_older) {
            self.position = entry.position;
            self.sequencer.accept(&entry.output);
        }
        Ok(())
    }

    /// Listens from this moment on; read the record afterwards, so that nothing falls between.
    pub(crate) async fn listen(&mut self) -> Outcome {
        self.live = Some(self.session.listen(Subject::output(self.agent).to_string()).await?);
        Ok(())
    }

    /// The last number seen of a run; 0 before the first.
    pub(crate) fn last_seq(&self, run: RunId) -> u64 {
        self.sequencer.last.get(&run).copied().unwrap_or(0)
    }

    /// Reads the record from `request` to its end and hands every new output to `each`, with its position.
    pub(crate) async fn history(
        &mut self,
        mut request: LogsRequest,
        mut each: impl FnMut(&LogEntry) -> Outcome,
    ) -> Outcome {
        request.limit = Some(PAGE_ENTRIES);
        loop {
            let page: LogsReply = self.session.request(&Subject::logs(self.agent), &request).await?;
            for entry in &page.entries {
                self.position = self.position.max(entry.position);
                if self.sequencer.judge(&entry.output) != Arrival::Repeated {
                    // The record is in order by itself: a jump in it is a run that began before what was asked for.
                    self.sequencer.accept(&entry.output);
                    each(entry)?;
                }
            }
            if !page.more || page.entries.is_empty() {
                return Ok(());
            }
            request.after = Some(self.position);
            request.tail = None;
        }
    }

    /// Waits for more and hands it to `each`: usually one output, after a gap or a reconnect all that was missed.
    ///
    /// Returns `false` when there will be no more. Cancel-safe in this sense: what was taken but not handed out is not
    /// accepted either, so the next arrival finds the gap and fills it.
    pub(crate) async fn more(&mut self, each: &mut impl FnMut(Item) -> Outcome) -> Outcome<bool> {
        if self.behind {
            self.catch_up(each).await?;
            self.behind = false;
            return Ok(true);
        }
        let Some(live) = &mut self.live else { return Ok(false) };
        match live.next().await? {
            None => return Ok(false),
            Some(Heard::Rejoined) => self.behind = true,
            Some(Heard::Message(message)) => {
                // Whatever else is published there is not ours to judge.
                if let Ok(output) = message.json::<OutputMessage>() {
                    self.take(output, each).await?;
                }
            }
        }
        Ok(true)
    }

    /// Takes one live output, after those before it.
    pub(crate) async fn take(
        &mut self,
        output: OutputMessage,
        each: &mut impl FnMut(Item) -> Outcome,
    ) -> Outcome {
        let deadline = Instant::now() + GAP_PATIENCE;
        loop {
            match self.sequencer.judge(&output) {
                Arrival::Repeated => return Ok(()),
                Arrival::Gap { .. } if Instant::now() < deadline => {
                    match self.read_on(each).await {
                        Err(failure) if !failure.is_daemon_away() => return Err(failure),
                        _ => {}
                    }
                    if matches!(self.sequencer.judge(&output), Arrival::Gap { .. }) {
                        tokio::time::sleep(GAP_LOOK_INTERVAL).await;
                    }
                    continue;
                }
                Arrival::Gap { from, to } => each(Item::Missing { from, to })?,
                Arrival::Next => {}
            }
            self.sequencer.accept(&output);
            return each(Item::Output(Box::new(output)));
        }
    }

    /// Reads what was recorded since the last page, once there is a daemon to tell it: its bus is there a moment before
    /// it answers.
    pub(crate) async fn catch_up(&mut self, each: &mut impl FnMut(Item) -> Outcome) -> Outcome {
        loop {
            match self.read_on(each).await {
                Err(failure) if failure.is_daemon_away() => tokio::time::sleep(GAP_LOOK_INTERVAL).await,
                done => return done,
            }
        }
    }

    async fn read_on(&mut self, each: &mut impl FnMut(Item) -> Outcome) -> Outcome {
        let request = LogsRequest { after: Some(self.position), ..LogsRequest::default() };
        self.history(request, |entry| each(Item::Output(Box::new(entry.output.clone())))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const RUN_1: &str = "01890000-0000-7000-8000-000000000001";
    const RUN_2: &str = "01890000-0000-7000-8000-000000000002";

    fn output(run: &str, seq: u64) -> OutputMessage {
        serde_json::from_value(json!({
            "agent_id": "a", "run_id": run, "seq": seq, "stream": "stdout", "data": "x",
            "timestamp": "2026-11-20T22:00:00Z",
        }))
        .unwrap()
    }

    #[test]
    fn what_was_recorded_and_arrives_again_is_repeated() {
        let mut sequencer = Sequencer::default();
        for seq in 1..=3 {
            assert_eq!(sequencer.judge(&output(RUN_1, seq)), Arrival::Next);
            sequencer.accept(&output(RUN_1, seq));
        }
        assert_eq!(sequencer.judge(&output(RUN_1, 2)), Arrival::Repeated);
        assert_eq!(sequencer.judge(&output(RUN_1, 4)), Arrival::Next);
        assert_eq!(sequencer.judge(&output(RUN_1, 7)), Arrival::Gap { from: 4, to: 6 });
    }

    #[test]
    fn every_run_counts_from_one() {
        let mut sequencer = Sequencer::default();
        sequencer.accept(&output(RUN_1, 9));
        assert_eq!(sequencer.judge(&output(RUN_2, 1)), Arrival::Next);
        assert_eq!(sequencer.judge(&output(RUN_2, 3)), Arrival::Gap { from: 1, to: 2 });
    }

    #[test]
    fn a_report_of_dropped_output_closes_its_gap() {
        let mut sequencer = Sequencer::default();
        sequencer.accept(&output(RUN_1, 2));
        let mut dropped = output(RUN_1, 9);
        dropped.event = Some(AgentEvent::Dropped { from_seq: 3, to_seq: 9, bytes: 70 });
        assert_eq!(sequencer.judge(&dropped), Arrival::Next);
        sequencer.accept(&dropped);
        assert_eq!(sequencer.judge(&output(RUN_1, 10)), Arrival::Next);
    }
}
