//! Storing a message: the checks, in the order in which nats-server makes them (the first that fails is what the
//! publisher hears), the store, and the limits.

use ostler_broker_proto::subject;
use ostler_broker_store::{Erase, Error, NewMessage};

use super::config::{Discard, Retention};
use super::fast::is_fast;
use super::{Stream, disk_refusal};
use crate::api::ApiError;
use crate::bus::{Bus, Incoming, publish};
use crate::headers::{PublishHeaders, Ttl, append, with_ttl};
use crate::options::{API_LEVEL, Context};
use crate::time::{SECOND, Time};

/// The largest header block.
const HEADERS_MAX: usize = 64 << 10;
/// What nats-server counts for a message in a file beside its bytes.
const FILE_OVERHEAD: usize = 30;
const MEMORY_OVERHEAD: usize = 16;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Stored(u64),
    /// With the sum that is stored.
    Counted(u64, String),
    Duplicate(u64),
}

/// Why it was not stored.
pub(super) enum Refusal {
    Request(ApiError),
    Disk(Error),
}

impl Refusal {
    pub(super) fn of(error: Error) -> Self {
        if error.is_disk() {
            Self::Disk(error)
        } else {
            Self::Request(ApiError::store_failed(error.to_string()))
        }
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Request(error)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rollup {
    None,
    Subject,
    All,
}

impl Stream {
    /// Stores a message or says why not; the answer comes when it is true.
    pub(crate) fn publish(
        &mut self,
        message: &Incoming<'_>,
        now: i64,
        bus: &mut impl Bus,
        context: &Context,
    ) {
        let transformed = self.transformed(message.subject);
        let message = &Incoming { subject: transformed.as_deref().unwrap_or(message.subject), ..*message };
        let asked = PublishHeaders::read(message.headers);
        if is_fast(message.reply) {
            return self.publish_fast(message, &asked, now, bus);
        }
        if let Some(id) = asked.batch_id {
            return self.publish_batched(message, &asked, id, now, bus, context);
        }
        match self.store_checked(message, &asked, now, bus) {
            Ok(Outcome::Stored(seq)) => {
                self.new_messages = true;
                self.acknowledge(message.reply, seq, false, bus);
            }
            Ok(Outcome::Counted(seq, sum)) => {
                self.new_messages = true;
                self.acknowledge_with(message.reply, seq, &format!(",\"val\":\"{sum}\""), bus);
            }
            Ok(Outcome::Duplicate(seq)) => self.acknowledge(message.reply, seq, true, bus),
            Err(Refusal::Request(error)) => self.refuse(message.reply, &error, bus),
            Err(Refusal::Disk(error)) => {
                self.write_failed(&error, bus);
                self.refuse(message.reply, &disk_refusal(&error), bus);
            }
        }
    }

    /// The subject it is stored under, when that is another one.
    pub(super) fn transformed(&self, subject: &[u8]) -> Option<Vec<u8>> {
        self.transform.as_ref()?.apply(subject, self.store.last_seq() + 1)
    }

    /// The last message on a subject, when that is to be republished.
    pub(super) fn last_for_republish(&self, subject: &[u8]) -> u64 {
        match &self.config.republish {
            Some(_) => self.store.last_on(subject, u64::MAX).unwrap_or(0),
            None => 0,
        }
    }

    fn acknowledge(&mut self, reply: &[u8], seq: u64, duplicate: bool, bus: &mut impl Bus) {
        self.dirty = true;
        if self.config.no_ack || reply.is_empty() {
            return;
        }
        self.acks.stored(reply, seq, duplicate);
        if self.answers_at_once() {
            self.acks.release(bus);
        }
    }

    /// Acknowledges with something behind the sequence.
    pub(super) fn acknowledge_with(&mut self, reply: &[u8], seq: u64, more: &str, bus: &mut impl Bus) {
        self.dirty = true;
        if self.config.no_ack || reply.is_empty() {
            return;
        }
        self.acks.stored_with(reply, seq, more);
        if self.answers_at_once() {
            self.acks.release(bus);
        }
    }

    /// Acknowledges a batch of so many messages.
    pub(super) fn acknowledge_batch(
        &mut self,
        reply: &[u8],
        seq: u64,
        duplicate: bool,
        (id, count): (&str, u64),
        bus: &mut impl Bus,
    ) {
        self.dirty = true;
        let more = format!(",\"batch\":{},\"count\":{count}", serde_json::Value::from(id));
        if duplicate {
            self.acks.duplicate_with(reply, seq, &more);
        } else {
            self.acks.stored_with(reply, seq, &more);
        }
        if self.answers_at_once() {
            self.acks.release(bus);
        }
    }

    pub(crate) fn refuse(&mut self, reply: &[u8], error: &ApiError, bus: &mut impl Bus) {
        if !self.config.no_ack {
            self.acks.refuse_one(reply, error, bus);
        }
    }

    pub(super) fn store_checked(
        &mut self,
        message: &Incoming<'_>,
        asked: &PublishHeaders<'_>,
        now: i64,
        bus: &mut impl Bus,
    ) -> Result<Outcome, Refusal> {
        if self.config.sealed {
            return Err(ApiError::stream_sealed().into());
        }
        if asked.required_level.is_some_and(|level| level > u64::from(API_LEVEL)) {
            return Err(ApiError::required_level().into());
        }
        let counted = self.count(message, asked, None)?;
        if asked.expected_stream.is_some_and(|stream| stream != self.config.name.as_bytes()) {
            return Err(ApiError::expected_stream().into());
        }
        let ttl = self.ttl(asked)?;
        self.check_expected(message.subject, asked)?;
        let ended = self.check_schedule_end(message, asked, |_| None)?;
        let schedule = self.check_schedule(message, asked, now)?;
        // It would be believed when the stream is opened again.
        if asked.sourced {
            return Err(ApiError::source_header().into());
        }
        if let Some(id) = asked.msg_id {
            self.dedupe.forget_before(now - self.config.duplicate_window);
            if let Some(seq) = self.dedupe.find(id) {
                return Ok(Outcome::Duplicate(seq));
            }
        }
        if let Some(id) = asked.expected_last_id {
            let last = self.last_id.as_deref().unwrap_or("");
            if last != id {
                return Err(ApiError::wrong_last_id(last).into());
            }
        }
        let rollup = if schedule.is_some() { Rollup::Subject } else { self.rollup(asked)? };
        let changed = match (&counted, self.raised_ttl(asked, ttl), &schedule) {
            (Some(counted), ..) => Some(counted.headers.clone()),
            (None, Some(seconds), None) => Some(with_ttl(message.headers, seconds)),
            (None, Some(seconds), Some(schedule)) => {
                Some(schedule.stored_headers(&with_ttl(message.headers, seconds)))
            }
            (None, None, Some(schedule)) => Some(schedule.stored_headers(message.headers)),
            (None, None, None) => None,
        };
        let message = &Incoming {
            headers: changed.as_deref().unwrap_or(message.headers),
            payload: counted.as_ref().map_or(message.payload, |counted| &counted.payload),
            ..*message
        };
        let last_on_subject = self.last_for_republish(message.subject);
        let seq = self.store_passed(message, asked, ttl, rollup, now)?;
        self.settle_schedule(message.subject, seq, schedule.map(|schedule| schedule.due()), ended);
        self.republish(message, seq, last_on_subject, now, bus);
        Ok(match counted {
            Some(counted) => Outcome::Counted(seq, counted.value()),
            None => Outcome::Stored(seq),
        })
    }

    /// What was stored on a subject is its schedule now, or takes its place, and ends the one it names.
    pub(super) fn settle_schedule(
        &mut self,
        subject: &[u8],
        seq: u64,
        due: Option<i64>,
        ended: Option<&[u8]>,
    ) {
        match due {
            Some(due) => self.schedules.insert(subject, seq, due),
            None if self.schedules.is_empty() => {}
            None => drop(self.schedules.remove(subject)),
        }
        if let Some(ended) = ended {
            self.end_schedule(ended);
        }
    }

    /// The seconds that a message lives when that is not what it asked for.
    pub(super) fn raised_ttl(&self, asked: &PublishHeaders<'_>, ttl: Option<Ttl>) -> Option<i64> {
        let (Some(Ttl::After(nanos)), Some(value)) = (ttl, asked.ttl) else { return None };
        (Ttl::parse(value) != Ok(Ttl::After(nanos))).then_some(nanos / SECOND)
    }

    /// Stores what its headers do not speak against, and says under which sequence.
    pub(super) fn store_passed(
        &mut self,
        message: &Incoming<'_>,
        asked: &PublishHeaders<'_>,
        ttl: Option<Ttl>,
        rollup: Rollup,
        now: i64,
    ) -> Result<u64, Refusal> {
        self.check_size(message)?;
        if self.config.retention == Retention::Interest && !self.is_wanted(message.subject) {
            return self.skip(asked, now);
        }
        let subject_is_full = self.check_limits(message, rollup)?;
        let stored = NewMessage {
            subject: message.subject,
            headers: message.headers,
            payload: message.payload,
            time_ns: now,
            expires_ns: match ttl {
                Some(Ttl::After(nanos)) => Some(now.saturating_add(nanos)),
                _ => None,
            },
        };
        let seq = self.store.append(&stored).map_err(Refusal::of)?;
        self.remember(asked, seq, now);
        self.roll_up(rollup, message.subject, seq);
        if subject_is_full {
            self.enforce_subject(message.subject);
        }
        self.enforce_totals();
        Ok(seq)
    }

    pub(super) fn ttl(&self, asked: &PublishHeaders<'_>) -> Result<Option<Ttl>, ApiError> {
        let Some(value) = asked.ttl else { return Ok(None) };
        if !self.config.allow_msg_ttl {
            return Err(ApiError::ttl_disabled());
        }
        Ok(Some(match Ttl::parse(value)? {
            // A message that goes before its marker could not be told from one that never was.
            Ttl::After(nanos) => Ttl::After(nanos.max(self.config.subject_delete_marker_ttl)),
            Ttl::Never => Ttl::Never,
        }))
    }

    fn check_expected(&self, subject: &[u8], asked: &PublishHeaders<'_>) -> Result<(), ApiError> {
        self.check_expected_behind(subject, asked, 0)
    }

    /// As if there were so many messages more.
    pub(super) fn check_expected_behind(
        &self,
        subject: &[u8],
        asked: &PublishHeaders<'_>,
        more: u64,
    ) -> Result<(), ApiError> {
        match asked.expected_subject_seq {
            Some(expected) => {
                let subject = asked.expected_subject.unwrap_or(subject);
                let last = if subject::has_wildcard(subject) {
                    self.last_on_filter(subject)
                } else {
                    self.store.last_on(subject, u64::MAX)
                };
                let last = last.unwrap_or(0);
                if last != expected {
                    return Err(ApiError::wrong_last_sequence(last));
                }
            }
            None if asked.expected_subject.is_some() => return Err(ApiError::missing_expected_sequence()),
            None => {}
        }
        let last = self.store.last_seq() + more;
        if asked.expected_last_seq.is_some_and(|expected| expected != last) {
            return Err(ApiError::wrong_last_sequence(last));
        }
        Ok(())
    }

    pub(super) fn rollup(&self, asked: &PublishHeaders<'_>) -> Result<Rollup, ApiError> {
        let Some(value) = asked.rollup else { return Ok(Rollup::None) };
        if !self.config.allow_rollup_hdrs || self.config.deny_purge {
            return Err(ApiError::rollup_failed("rollup not permitted"));
        }
        match value {
            b"sub" => Ok(Rollup::Subject),
            b"all" => Ok(Rollup::All),
            _ => {
                let value = String::from_utf8_lossy(value);
                Err(ApiError::rollup_failed(format!("rollup value invalid: {value:?}")))
            }
        }
    }

    pub(super) fn check_size(&self, message: &Incoming<'_>) -> Result<(), ApiError> {
        let size = message.headers.len() + message.payload.len();
        if self.config.max_msg_size >= 0 && size as u64 > self.config.max_msg_size as u64 {
            return Err(ApiError::message_too_large());
        }
        if message.headers.len() >= HEADERS_MAX {
            return Err(ApiError::header_too_large());
        }
        Ok(())
    }

    /// Checks what refuses a new message, and says whether its subject has as many as it may.
    pub(super) fn check_limits(&self, message: &Incoming<'_>, rollup: Rollup) -> Result<bool, ApiError> {
        let config = &self.config;
        let on_subject = || self.store.first_on(message.subject);
        let full = match u64::try_from(config.max_msgs_per_subject) {
            Ok(max) => on_subject().filter(|&(_, count)| count >= max),
            Err(_) => None,
        };
        let size = self.counted(message);
        if let Some(max) = limit(config.max_bytes)
            && size > max
            && config.discard == Discard::New
        {
            return Err(ApiError::store_failed("maximum bytes exceeded"));
        }
        if config.discard == Discard::Old {
            return Ok(full.is_some());
        }
        if full.is_some() && config.discard_new_per_subject && rollup == Rollup::None {
            return Err(ApiError::store_failed("maximum messages per subject exceeded"));
        }
        // What goes anyway makes room: the oldest of a full subject, and whatever is rolled up.
        let makes_room = full.is_some() || rollup != Rollup::None;
        if limit(config.max_msgs).is_some_and(|max| self.store.msgs() >= max) && !makes_room {
            return Err(ApiError::store_failed("maximum messages exceeded"));
        }
        if limit(config.max_bytes).is_some_and(|max| self.store.bytes() + size > max) && !makes_room {
            return Err(ApiError::store_failed("maximum bytes exceeded"));
        }
        Ok(full.is_some())
    }

    pub(super) fn counted(&self, message: &Incoming<'_>) -> u64 {
        let bytes = message.subject.len() + message.headers.len() + message.payload.len();
        let extra = match (self.store.is_file(), message.headers.is_empty()) {
            (true, true) => FILE_OVERHEAD,
            (true, false) => FILE_OVERHEAD + 4,
            (false, _) => MEMORY_OVERHEAD,
        };
        (bytes + extra) as u64
    }

    /// Nobody wants it: it takes a number and is gone.
    fn skip(&mut self, asked: &PublishHeaders<'_>, now: i64) -> Result<u64, Refusal> {
        let seq = self.store.last_seq() + 1;
        self.store.skip(seq).map_err(Refusal::Disk)?;
        self.skipped_at = Some(now);
        self.remember(asked, seq, now);
        Ok(seq)
    }

    fn remember(&mut self, asked: &PublishHeaders<'_>, seq: u64, now: i64) {
        if let Some(id) = asked.msg_id {
            self.dedupe.insert(id, seq, now);
        }
        if asked.msg_id.is_some() || self.last_id.is_some() {
            self.last_id = asked.msg_id.map(Into::into);
        }
    }

    /// Removes a message that a limit or a rule takes.
    pub(crate) fn drop_message(&mut self, seq: u64) -> bool {
        self.dirty = true;
        // Removing reads nothing, so nothing can fail before the write.
        let now = self.now;
        let removed = self.store.remove(seq, Erase::No).unwrap_or(false);
        if removed {
            self.consumers.values_mut().for_each(|consumer| consumer.on_removed(seq, now));
        }
        removed
    }

    pub(super) fn roll_up(&mut self, rollup: Rollup, subject: &[u8], seq: u64) {
        match rollup {
            Rollup::None => {}
            Rollup::Subject => self.drop_subject_before(subject, seq),
            Rollup::All => self.drop_all_before(seq),
        }
    }

    fn drop_subject_before(&mut self, subject: &[u8], seq: u64) {
        while let Some((first, _)) = self.store.first_on(subject).filter(|&(first, _)| first < seq) {
            if !self.drop_message(first) {
                break;
            }
        }
    }

    fn drop_all_before(&mut self, seq: u64) {
        while self.store.first_seq() < seq && self.drop_message(self.store.first_seq()) {}
    }

    pub(super) fn republish(
        &self,
        message: &Incoming<'_>,
        seq: u64,
        last: u64,
        now: i64,
        bus: &mut impl Bus,
    ) {
        let Some((rule, transform)) = self.config.republish.as_ref().zip(self.republish.as_ref()) else {
            return;
        };
        let Some(dest) = transform.apply(message.subject, seq) else { return };
        let mut headers = message.headers.to_vec();
        append(&mut headers, "Nats-Stream", &self.config.name);
        append(&mut headers, "Nats-Subject", String::from_utf8_lossy(message.subject));
        append(&mut headers, "Nats-Sequence", seq);
        append(&mut headers, "Nats-Time-Stamp", Time::from_nanos(now));
        append(&mut headers, "Nats-Last-Sequence", last);
        let payload = if rule.headers_only {
            append(&mut headers, "Nats-Msg-Size", message.payload.len());
            b""
        } else {
            message.payload
        };
        publish(bus, &dest, &headers, payload);
    }
}

/// A limit that is one.
pub(crate) fn limit(value: i64) -> Option<u64> {
    u64::try_from(value).ok().filter(|value| *value > 0)
}
