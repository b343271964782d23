//! Fast ingest: a row of messages, each stored as it comes, that is answered every now and then instead of each time.
//! Nothing of it is held back and nothing is undone when it ends early; what is all or nothing is in [`batch`](super::batch).
//!
//! ```text
//! <inbox>.<id>.<flow>.<gap>.<sequence>.<operation>.$FI      the reply subject says everything
//!
//! begin (0) ──► add (1) ──► ... ──► commit with a message (2), or without one (3)
//!    │             └ every `flow` messages: how far everything is as safe as the stream promises
//!    └ ping (4): how far that is, said again
//! ```
//!
//! A gap in the sequences is told at once. It ends the batch when that said `fail`, and is passed over when it said `ok`;
//! so does, and is, a message that is refused for what it asks in its headers. A batch that is not heard of for 10 s is
//! forgotten without a word, and so is every batch when the server ends: the next message of it is told so.

use std::collections::HashMap;

use super::Stream;
use super::disk_refusal;
use super::publish::{Outcome, Refusal};
use crate::api::ApiError;
use crate::bus::{Bus, Incoming, publish};
use crate::headers::PublishHeaders;
use crate::options::API_LEVEL;
use crate::time::SECOND;

/// The reply subject of a message of such a batch ends with it.
const MARK: &[u8] = b".$FI";
/// The longest name of a batch, in bytes.
const ID_MAX: usize = 64;
/// Batches of one stream under way at once.
const OPEN_MAX: usize = 1000;
/// After so long without a message a batch is forgotten.
const SILENCE: i64 = 10 * SECOND;
/// Messages between two answers, where the publisher says nothing that can be read.
const FLOW: u64 = 10;
/// And at most.
const FLOW_MAX: u64 = 500;

/// Whether a message is one of a fast batch.
pub(super) fn is_fast(reply: &[u8]) -> bool {
    reply.ends_with(MARK)
}

/// What a message does for its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Begin,
    Add,
    /// It is the last one.
    Commit,
    /// It only ends the batch.
    End,
    /// It only asks how far things are.
    Ping,
}

/// What becomes of a batch when a message is missing or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnGap {
    End,
    GoOn,
}

/// What a reply subject says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked<'a> {
    id: &'a str,
    flow: u64,
    on_gap: OnGap,
    seq: u64,
    operation: Operation,
}

impl<'a> Asked<'a> {
    fn parse(reply: &'a [u8]) -> Result<Self, ApiError> {
        let asked = std::str::from_utf8(reply).ok().and_then(Self::read);
        let asked = asked.ok_or_else(ApiError::batch_pattern_invalid)?;
        if asked.id.len() > ID_MAX {
            return Err(ApiError::fast_batch_id_invalid());
        }
        Ok(asked)
    }

    fn read(reply: &'a str) -> Option<Self> {
        let mut tokens = reply.rsplit('.').skip(1);
        let operation = match tokens.next()?.parse::<u8>().ok()? {
            0 => Operation::Begin,
            1 => Operation::Add,
            2 => Operation::Commit,
            3 => Operation::End,
            4 => Operation::Ping,
            _ => return None,
        };
        // There is always a next one.
        let seq = tokens.next()?.parse().ok().filter(|seq| (1..u64::MAX).contains(seq))?;
        let on_gap = match tokens.next()? {
            "ok" => OnGap::GoOn,
            "fail" => OnGap::End,
            _ => return None,
        };
        let flow = tokens.next()?.parse::<u64>().ok().filter(|flow| *flow > 0).unwrap_or(FLOW).min(FLOW_MAX);
        let id = tokens.next().filter(|id| !id.is_empty())?;
        let in_place = match operation {
            Operation::Begin => seq == 1,
            Operation::Add | Operation::End => seq > 1,
            Operation::Commit | Operation::Ping => true,
        };
        in_place.then_some(Self { id, flow, on_gap, seq, operation })
    }

    fn begins(&self) -> bool {
        self.seq == 1 && matches!(self.operation, Operation::Begin | Operation::Commit)
    }
}

/// A batch under way.
#[derive(Debug)]
struct FastBatch {
    /// Where its last message wanted an answer.
    reply: Box<[u8]>,
    on_gap: OnGap,
    /// The last sequence of the batch that came, or was missed.
    seen: u64,
    /// The last sequence of the stream that it filled, 0 for none.
    stored: u64,
    /// The last sequence of the batch that was answered.
    answered: u64,
    /// Messages from one answer to the next; doubles up to what the publisher asked for.
    flow: u64,
    flow_max: u64,
    heard: i64,
}

impl FastBatch {
    fn ack(&self) -> String {
        format!(r#"{{"type":"ack","seq":{},"msgs":{}}}"#, self.answered, self.flow)
    }

    /// Moves on to the last answer that is due; whether one is.
    fn answer_due(&mut self) -> bool {
        let due = self.seen - self.answered >= self.flow;
        if due {
            self.answered += (self.seen - self.answered) / self.flow * self.flow;
            self.flow = (self.flow * 2).min(self.flow_max);
        }
        due
    }
}

/// The batches under way.
#[derive(Debug, Default)]
pub(super) struct FastBatches(HashMap<Box<str>, FastBatch>);

impl FastBatches {
    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// When the next one is to be forgotten.
    pub(super) fn next_due(&self) -> Option<i64> {
        self.0.values().map(|batch| batch.heard + SILENCE).min()
    }

    /// Forgets those that were not heard of for long.
    pub(super) fn forget_silent(&mut self, now: i64) {
        self.0.retain(|_, batch| batch.heard + SILENCE > now);
    }

    /// Takes out those that filled a sequence above `kept`, and says where they want answers.
    pub(super) fn take_above(&mut self, kept: u64) -> Vec<Box<[u8]>> {
        self.0.extract_if(|_, batch| batch.stored > kept).map(|(_, batch)| batch.reply).collect()
    }

    fn open(&mut self, asked: &Asked<'_>) -> Result<FastBatch, ApiError> {
        if !asked.begins() {
            return Err(ApiError::fast_batch_unknown());
        }
        if self.0.len() >= OPEN_MAX {
            return Err(ApiError::too_many_fast_batches());
        }
        // Who comes while others are at it begins slowly.
        let flow = if self.0.is_empty() { asked.flow } else { 1 };
        Ok(FastBatch {
            reply: Box::default(),
            on_gap: asked.on_gap,
            seen: 0,
            stored: 0,
            answered: 0,
            flow,
            flow_max: asked.flow,
            heard: 0,
        })
    }
}

impl Stream {
    /// Takes a message of a fast batch.
    pub(super) fn publish_fast(
        &mut self,
        message: &Incoming<'_>,
        headers: &PublishHeaders<'_>,
        now: i64,
        bus: &mut impl Bus,
    ) {
        match self.find_fast(message, headers) {
            Ok((asked, batch)) => {
                let id = asked.id;
                if let Some(mut batch) = self.step_fast(message, headers, asked, batch, now, bus) {
                    batch.heard = now;
                    batch.reply = message.reply.into();
                    self.fast_batches.0.insert(id.into(), batch);
                }
            }
            Err(error) => self.refuse(message.reply, &error, bus),
        }
    }

    /// The batch of a message, out of its place; what is refused here does not count as come.
    fn find_fast<'a>(
        &mut self,
        message: &Incoming<'a>,
        headers: &PublishHeaders<'_>,
    ) -> Result<(Asked<'a>, FastBatch), ApiError> {
        if !self.config.allow_batched {
            return Err(ApiError::batch_disabled());
        }
        if self.config.sealed {
            return Err(ApiError::stream_sealed());
        }
        let asked = Asked::parse(message.reply)?;
        if !matches!(asked.operation, Operation::End | Operation::Ping) {
            self.check_size(message)?;
        }
        if headers.required_level.is_some_and(|level| level > u64::from(API_LEVEL)) {
            self.fast_batches.0.remove(asked.id);
            return Err(ApiError::required_level());
        }
        let batch = match self.fast_batches.0.remove(asked.id) {
            Some(batch) => batch,
            None => self.fast_batches.open(&asked)?,
        };
        Ok((asked, batch))
    }

    /// Does what a message asks for. The batch comes back unless it is over.
    fn step_fast(
        &mut self,
        message: &Incoming<'_>,
        headers: &PublishHeaders<'_>,
        asked: Asked<'_>,
        mut batch: FastBatch,
        now: i64,
        bus: &mut impl Bus,
    ) -> Option<FastBatch> {
        let reply = message.reply;
        // A ping takes no number; it says which was the last one.
        let pings = asked.operation == Operation::Ping;
        let here = if pings { asked.seq + 1 } else { asked.seq };
        let expected = batch.seen + 1;
        if here > expected || here < expected && !pings {
            let gap = format!(r#"{{"type":"gap","last_seq":{expected},"seq":{here}}}"#);
            publish(bus, reply, b"", gap.as_bytes());
            if batch.on_gap == OnGap::End || here < expected {
                self.end_fast(reply, asked.id, batch.stored, batch.seen, bus);
                return None;
            }
            batch.seen = here - 1;
        }
        match asked.operation {
            Operation::Ping => {
                batch.answer_due();
                self.answer(reply, batch.ack().as_bytes(), None, bus);
                return Some(batch);
            }
            Operation::End => {
                self.end_fast(reply, asked.id, batch.stored, batch.seen, bus);
                return None;
            }
            Operation::Begin if !self.config.no_ack => publish(bus, reply, b"", batch.ack().as_bytes()),
            Operation::Begin | Operation::Add | Operation::Commit => {}
        }
        let commits = asked.operation == Operation::Commit;
        match self.store_checked(message, headers, now, bus) {
            Ok(outcome) => {
                batch.seen = asked.seq;
                let (seq, duplicate) = match outcome {
                    Outcome::Stored(seq) | Outcome::Counted(seq, _) => (seq, false),
                    Outcome::Duplicate(seq) => (seq, true),
                };
                if !duplicate {
                    self.new_messages = true;
                    batch.stored = seq;
                }
                self.dirty = true;
                if (duplicate || !commits) && batch.answer_due() {
                    self.answer(reply, batch.ack().as_bytes(), None, bus);
                }
                if !commits {
                    return Some(batch);
                }
                let duplicate = duplicate && batch.stored == 0;
                self.acknowledge_batch(reply, seq, duplicate, (asked.id, batch.seen), bus);
                None
            }
            Err(Refusal::Request(error)) if batch.on_gap == OnGap::End && asked.seq == 1 => {
                self.refuse(reply, &error, bus);
                None
            }
            Err(Refusal::Request(error)) => {
                let text = serde_json::json!({"type": "err", "seq": asked.seq, "error": error});
                publish(bus, reply, b"", text.to_string().as_bytes());
                if batch.on_gap == OnGap::End || commits {
                    self.end_fast(reply, asked.id, batch.stored, batch.seen, bus);
                    return None;
                }
                batch.seen = asked.seq;
                Some(batch)
            }
            Err(Refusal::Disk(error)) => {
                self.write_failed(&error, bus);
                self.refuse(reply, &disk_refusal(&error), bus);
                None
            }
        }
    }

    /// Says how far a batch came.
    fn end_fast(&mut self, reply: &[u8], id: &str, stored: u64, count: u64, bus: &mut impl Bus) {
        self.acknowledge_batch(reply, stored, false, (id, count), bus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_subject_says_what_is_done_to_which_batch() {
        let asked = Asked::parse(b"_INBOX.x.u1.100.ok.7.1.$FI").unwrap();
        let expected = Asked { id: "u1", flow: 100, on_gap: OnGap::GoOn, seq: 7, operation: Operation::Add };
        assert_eq!(asked, expected);
        for reply in ["u.0.fail.1.0.$FI", "u.x.fail.1.0.$FI", "u.-1.fail.1.0.$FI"] {
            assert_eq!(Asked::parse(reply.as_bytes()).unwrap().flow, FLOW, "{reply}");
        }
        for (reply, number) in [
            ("10.fail.1.0.$FI", 10206),
            ("u.10.fail.1.5.$FI", 10206),
            ("u.10.fail.2.0.$FI", 10206),
            ("u.10.fail.1.1.$FI", 10206),
            ("u.10.fail.1.3.$FI", 10206),
            ("u.10.fail.0.4.$FI", 10206),
            ("u.10.maybe.1.0.$FI", 10206),
            (".$FI", 10206),
            (&format!("{}.10.fail.1.0.$FI", "x".repeat(65)), 10207),
        ] {
            assert_eq!(Asked::parse(reply.as_bytes()).unwrap_err().err_code, number, "{reply}");
        }
    }

    #[test]
    fn who_comes_second_is_answered_often_at_first() {
        let mut batches = FastBatches::default();
        let asked = Asked::parse(b"u.20.ok.1.0.$FI").unwrap();
        let mut batch = batches.open(&asked).unwrap();
        assert_eq!(batch.ack(), r#"{"type":"ack","seq":0,"msgs":20}"#);
        batches.0.insert("u".into(), batch);
        batch = batches.open(&asked).unwrap();
        let mut answers = Vec::new();
        for seen in 1..=60 {
            batch.seen = seen;
            if batch.answer_due() {
                answers.push((batch.answered, batch.flow));
            }
        }
        assert_eq!(answers, [(1, 2), (3, 4), (7, 8), (15, 16), (31, 20), (51, 20)]);
        batch.seen = 1000;
        assert!(batch.answer_due());
        assert_eq!(batch.answered, 991, "one answer for all that are due");
    }
}
