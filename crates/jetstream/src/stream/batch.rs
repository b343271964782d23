//! Atomic batches: messages that are kept aside until the last one comes, and are then stored all or not at all.
//!
//! ```text
//! sequence 1, 2, ...  ──► kept in memory, answered with nothing ──► commit: all are checked, then stored in one write
//!                                  │ a gap, a wrong header, 10 s of silence
//!                                  └──► gone; an advisory says so when nobody else was told
//! ```
//!
//! **On disk** a batch that a crash cut short shows itself: its last message carries no `Nats-Batch-Commit`. It is
//! always at the end of the log, because nothing else is written in between, and is taken back when the stream is
//! opened. Nothing old is removed for the new messages before all of them are written.

use std::collections::{HashMap, HashSet};

use ostler_broker_store::{Error, NewMessage};

use super::counter::Total;
use super::publish::{Refusal, Rollup, limit};
use super::{Discard, Retention, Stream, disk_refusal};
use crate::advisory::{Advisory, BatchAbandoned};
use crate::api::ApiError;
use crate::bus::{Bus, Incoming, publish};
use crate::headers::{PublishHeaders, append};
use crate::options::{API_LEVEL, Context};
use crate::time::SECOND;

/// The longest name of a batch, in bytes.
const ID_MAX: usize = 64;
/// Batches of one stream under way at once.
const OPEN_MAX: usize = 50;
/// Messages of one batch.
const MESSAGES_MAX: usize = 1000;
/// Bytes that the batches of one stream may keep in memory together.
const BYTES_MAX: usize = 128 << 20;
/// After so long without a message a batch is given up.
const SILENCE: i64 = 10 * SECOND;

/// A message that waits for the others.
#[derive(Debug)]
struct Staged {
    subject: Box<[u8]>,
    headers: Vec<u8>,
    payload: Vec<u8>,
}

/// The messages of a batch that have come, in order.
#[derive(Debug, Default)]
struct Batch {
    messages: Vec<Staged>,
    bytes: usize,
    heard: i64,
}

/// The batches under way.
#[derive(Debug, Default)]
pub(super) struct Batches(HashMap<Box<str>, Batch>);

impl Batches {
    fn bytes(&self) -> usize {
        self.0.values().map(|batch| batch.bytes).sum()
    }
}

/// What the last message of a batch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commit {
    No,
    /// It is stored too.
    WithThis,
    /// It only ends the batch.
    WithoutThis,
}

impl Commit {
    fn read(value: Option<&[u8]>) -> Result<Self, ApiError> {
        match value {
            None => Ok(Self::No),
            Some(b"1") => Ok(Self::WithThis),
            Some(b"eob") => Ok(Self::WithoutThis),
            Some(_) => Err(ApiError::batch_commit_invalid()),
        }
    }
}

impl Stream {
    /// Takes a message of a batch.
    pub(super) fn publish_batched(
        &mut self,
        message: &Incoming<'_>,
        asked: &PublishHeaders<'_>,
        id: &str,
        now: i64,
        bus: &mut impl Bus,
        context: &Context,
    ) {
        match self.stage(message, asked, id, now) {
            Ok(Commit::No) => {
                if !self.config.no_ack && !message.reply.is_empty() {
                    publish(bus, message.reply, b"", b"");
                }
            }
            Ok(commit) => self.conclude_batch(message, id, commit, now, bus),
            Err(error) => {
                let was_open = self.batches.0.remove(id).is_some();
                // Of the rest only the publisher is told.
                let reason = match error.err_code {
                    10176 => Some("incomplete"),
                    10199 => Some("large"),
                    _ => None,
                };
                if let Some(reason) = reason.filter(|_| was_open) {
                    self.abandoned(id, reason, now, bus, context);
                }
                self.refuse(message.reply, &error, bus);
            }
        }
    }

    fn stage(
        &mut self,
        message: &Incoming<'_>,
        asked: &PublishHeaders<'_>,
        id: &str,
        now: i64,
    ) -> Result<Commit, ApiError> {
        if !self.config.allow_atomic {
            return Err(ApiError::atomic_disabled());
        }
        if self.config.sealed {
            return Err(ApiError::stream_sealed());
        }
        if id.len() > ID_MAX {
            return Err(ApiError::batch_id_invalid());
        }
        let seq = asked.batch_seq.ok_or_else(ApiError::batch_sequence_missing)?;
        let commit = Commit::read(asked.batch_commit)?;
        if asked.required_level.is_some_and(|level| level > u64::from(API_LEVEL)) {
            return Err(ApiError::required_level());
        }
        if commit != Commit::WithoutThis {
            self.check_size(message)?;
        }
        if seq > MESSAGES_MAX as u64 && commit != Commit::WithoutThis {
            return Err(ApiError::batch_too_large(MESSAGES_MAX));
        }
        let come = self.batches.0.get(id).map_or(0, |batch| batch.messages.len());
        let begins = seq == 1 && come == 0 && commit != Commit::WithoutThis;
        if seq != come as u64 + 1 || (come == 0 && !begins) {
            return Err(ApiError::batch_incomplete());
        }
        if come == 0 && self.batches.0.len() >= OPEN_MAX {
            return Err(ApiError::too_many_batches());
        }
        let size = message.subject.len() + message.headers.len() + message.payload.len();
        if self.batches.bytes() + size > BYTES_MAX {
            return Err(ApiError::too_many_batches());
        }
        let batch = self.batches.0.entry(id.into()).or_default();
        batch.heard = now;
        batch.bytes += size;
        if commit != Commit::WithoutThis {
            batch.messages.push(Staged {
                subject: message.subject.into(),
                headers: message.headers.to_vec(),
                payload: message.payload.to_vec(),
            });
        } else if let Some(last) = batch.messages.last_mut() {
            append(&mut last.headers, "Nats-Batch-Commit", "1");
        }
        Ok(commit)
    }

    fn conclude_batch(
        &mut self,
        message: &Incoming<'_>,
        id: &str,
        commit: Commit,
        now: i64,
        bus: &mut impl Bus,
    ) {
        debug_assert_ne!(commit, Commit::No, "only an end ends a batch");
        let Some(batch) = self.batches.0.remove(id) else { return };
        let count = batch.messages.len();
        let stored =
            self.check_batch(batch.messages, now).and_then(|ready| self.store_batch(&ready, now, bus));
        match stored {
            Ok(seq) => {
                let id = serde_json::Value::from(id);
                self.acknowledge_with(message.reply, seq, &format!(",\"batch\":{id},\"count\":{count}"), bus);
            }
            Err(Refusal::Request(error)) => self.refuse(message.reply, &error, bus),
            Err(Refusal::Disk(error)) => {
                self.write_failed(&error, bus);
                self.refuse(message.reply, &disk_refusal(&error), bus);
            }
        }
    }

    /// Checks everything before anything is stored, each message as if those before it were.
    fn check_batch(&mut self, messages: Vec<Staged>, now: i64) -> Result<Vec<Ready>, Refusal> {
        let mut ready = Vec::with_capacity(messages.len());
        let (mut subjects, mut ids) = (HashSet::new(), HashSet::new());
        let mut totals: HashMap<Box<[u8]>, Total> = HashMap::new();
        let mut scheduled: HashMap<Box<[u8]>, bool> = HashMap::new();
        self.dedupe.forget_before(now - self.config.duplicate_window);
        for (index, staged) in messages.into_iter().enumerate() {
            let Staged { subject, mut headers, mut payload } = staged;
            let asked = PublishHeaders::read(&headers);
            let incoming = Incoming { subject: &subject, reply: b"", headers: &headers, payload: &payload };
            if asked.expected_last_id.is_some() {
                return Err(ApiError::batch_unsupported("Nats-Expected-Last-Msg-Id").into());
            }
            let counted = self.count(&incoming, &asked, totals.get(&subject))?;
            if asked.expected_stream.is_some_and(|stream| stream != self.config.name.as_bytes()) {
                return Err(ApiError::expected_stream().into());
            }
            let ttl = self.ttl(&asked)?;
            if asked.expected_subject_seq.is_some() {
                let checked = asked.expected_subject.unwrap_or(&subject);
                if subjects.contains(checked) {
                    return Err(ApiError::wrong_last_sequence_in_batch().into());
                }
            }
            self.check_expected_behind(&subject, &asked, index as u64)?;
            let in_batch = |subject: &[u8]| scheduled.get(subject).copied();
            let ended = self.check_schedule_end(&incoming, &asked, in_batch)?.map(Into::into);
            let schedule = self.check_schedule(&incoming, &asked, now)?;
            if asked.sourced {
                return Err(ApiError::source_header().into());
            }
            if let Some(id) = asked.msg_id
                && (self.dedupe.find(id).is_some() || !ids.insert(id.to_owned()))
            {
                return Err(ApiError::batch_duplicate().into());
            }
            let rollup = self.rollup(&asked)?;
            let out_of_place = match rollup {
                Rollup::None => None,
                Rollup::Subject => subjects.contains(&*subject).then_some("sub"),
                Rollup::All => (index > 0).then_some("all"),
            };
            if let Some(value) = out_of_place {
                return Err(ApiError::rollup_failed(format!("batch rollup {value} invalid")).into());
            }
            let msg_id = asked.msg_id.map(Into::into);
            let raised = self.raised_ttl(&asked, ttl);
            if let Some(counted) = counted {
                (headers, payload) = (counted.headers, counted.payload);
                totals.insert(subject.clone(), counted.total);
            }
            if let Some(seconds) = raised {
                headers = crate::headers::with_ttl(&headers, seconds);
            }
            if let Some(schedule) = &schedule {
                headers = schedule.stored_headers(&headers);
            }
            subjects.insert(subject.to_vec());
            scheduled.insert(subject.clone(), schedule.is_some());
            let expires = match ttl {
                Some(crate::headers::Ttl::After(nanos)) => Some(now.saturating_add(nanos)),
                _ => None,
            };
            let rollup = if schedule.is_some() { Rollup::Subject } else { rollup };
            let due = schedule.map(|schedule| schedule.due());
            ready.push(Ready { subject, headers, payload, expires, rollup, msg_id, due, ended });
        }
        self.check_batch_fits(&ready)?;
        Ok(ready)
    }

    /// What `discard: new` refuses one by one, for all of them.
    fn check_batch_fits(&self, ready: &[Ready]) -> Result<(), ApiError> {
        for ready in ready {
            self.check_size(&ready.incoming())?;
        }
        if self.config.discard == Discard::Old {
            return Ok(());
        }
        let config = &self.config;
        let full = |reason: &str| Err(ApiError::store_failed(format!("{reason} exceeded")));
        let rolled = ready.iter().any(|ready| ready.rollup != Rollup::None);
        let count = ready.len() as u64;
        if config.discard_new_per_subject
            && let Some(max) = limit(config.max_msgs_per_subject)
        {
            let mut on_subject: HashMap<&[u8], u64> = HashMap::new();
            for ready in ready {
                let count = on_subject
                    .entry(&ready.subject)
                    .or_insert_with(|| self.store.first_on(&ready.subject).map_or(0, |(_, count)| count));
                *count += 1;
                if *count > max && ready.rollup == Rollup::None {
                    return full("maximum messages per subject");
                }
            }
        }
        if limit(config.max_msgs).is_some_and(|max| self.store.msgs() + count > max) && !rolled {
            return full("maximum messages");
        }
        let bytes: u64 = ready.iter().map(|ready| self.counted(&ready.incoming())).sum();
        if limit(config.max_bytes).is_some_and(|max| self.store.bytes() + bytes > max) && !rolled {
            return full("maximum bytes");
        }
        Ok(())
    }

    /// Stores all, or none when the disk refuses.
    fn store_batch(&mut self, ready: &[Ready], now: i64, bus: &mut impl Bus) -> Result<u64, Refusal> {
        let first = self.store.last_seq() + 1;
        self.dirty = true;
        let mut last_on_subject = Vec::with_capacity(ready.len());
        for ready in ready {
            last_on_subject.push(self.last_for_republish(&ready.subject));
            if let Err(error) = self.store_of_batch(ready, now) {
                self.drop_part_of_batch(first);
                return Err(Refusal::of(error));
            }
        }
        // Only then may anything go for them, and be told of them.
        if let Err(error) = self.store.write_out() {
            self.drop_part_of_batch(first);
            return Err(Refusal::of(error));
        }
        for (index, (ready, last)) in ready.iter().zip(last_on_subject).enumerate() {
            let seq = first + index as u64;
            if let Some(id) = &ready.msg_id {
                self.dedupe.insert(id, seq, now);
            }
            self.roll_up(ready.rollup, &ready.subject, seq);
            self.settle_schedule(&ready.subject, seq, ready.due, ready.ended.as_deref());
            self.republish(&ready.incoming(), seq, last, now, bus);
        }
        self.last_id = ready.last().and_then(|ready| ready.msg_id.clone());
        for ready in ready {
            self.enforce_subject(&ready.subject);
        }
        self.enforce_totals();
        self.new_messages = true;
        Ok(first + ready.len() as u64 - 1)
    }

    fn store_of_batch(&mut self, ready: &Ready, now: i64) -> Result<(), Error> {
        if self.config.retention == Retention::Interest && !self.is_wanted(&ready.subject) {
            self.skipped_at = Some(now);
            return self.store.skip(self.store.last_seq() + 1);
        }
        let stored = NewMessage {
            subject: &ready.subject,
            headers: &ready.headers,
            payload: &ready.payload,
            time_ns: now,
            expires_ns: ready.expires,
        };
        self.store.append(&stored).map(drop)
    }

    /// Removes what a write on the way left of a batch that is refused.
    fn drop_part_of_batch(&mut self, first: u64) {
        for seq in first..=self.store.last_seq() {
            self.drop_message(seq);
        }
    }

    /// Takes back what a crash left of a batch.
    pub(super) fn drop_torn_batch(&mut self) -> Result<(), Error> {
        let last = self.store.last_seq();
        if !self.config.allow_atomic || last <= self.adopted {
            return Ok(());
        }
        // What cannot be read is no part of anything that goes on.
        let Ok(Some(message)) = self.store.get(last) else { return Ok(()) };
        let asked = PublishHeaders::read(message.headers);
        let (Some(id), Some(seq), None) = (asked.batch_id, asked.batch_seq, asked.batch_commit) else {
            return Ok(());
        };
        let id = id.to_owned();
        let Some(first) = (last + 1).checked_sub(seq).filter(|first| *first > 0) else { return Ok(()) };
        let begins = match self.store.get(first) {
            Ok(Some(message)) => {
                let asked = PublishHeaders::read(message.headers);
                asked.batch_id == Some(&id) && asked.batch_seq == Some(1)
            }
            _ => false,
        };
        if begins { self.store.truncate(first - 1) } else { Ok(()) }
    }

    /// Gives up batches that were not heard of for long.
    pub(super) fn give_up_batches(&mut self, now: i64, bus: &mut impl Bus, context: &Context) {
        let silent = self.batches.0.iter().filter(|(_, batch)| batch.heard + SILENCE <= now);
        for id in silent.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.batches.0.remove(&id);
            self.abandoned(&id, "timeout", now, bus, context);
        }
    }

    /// When a batch is to be given up.
    pub(super) fn next_batch_due(&self) -> Option<i64> {
        self.batches.0.values().map(|batch| batch.heard + SILENCE).min()
    }

    fn abandoned(&self, batch: &str, reason: &'static str, now: i64, bus: &mut impl Bus, context: &Context) {
        BatchAbandoned { stream: &self.config.name, batch, reason }.send(context, now, bus);
    }
}

/// A message that passed all checks.
struct Ready {
    subject: Box<[u8]>,
    headers: Vec<u8>,
    payload: Vec<u8>,
    expires: Option<i64>,
    rollup: Rollup,
    msg_id: Option<Box<str>>,
    due: Option<i64>,
    /// The subject of the schedule that ends with it.
    ended: Option<Box<[u8]>>,
}

impl Ready {
    fn incoming(&self) -> Incoming<'_> {
        Incoming { subject: &self.subject, reply: b"", headers: &self.headers, payload: &self.payload }
    }
}
