//! Scheduled messages: a message whose headers say when it is to be published, and where. It stays in the stream as the
//! schedule; what it makes is stored like any message and says when the next one comes.
//!
//! A restart knows where each was ([`agenda`](super::agenda)): nothing is made twice, and what was missed meanwhile is
//! made once. A publisher ends a schedule with a message on another subject that names it in `Nats-Scheduler` and says
//! `Nats-Schedule-Next: purge`: both happen, or neither. Nobody else may write what a schedule writes.

use ostler_broker_proto::headers::HeaderBlock;
use ostler_broker_proto::subject;

use super::Stream;
use super::cron::{Pattern, PatternError};
use super::publish::{Refusal, Rollup};
use crate::api::ApiError;
use crate::bus::{Bus, Incoming};
use crate::headers::{PublishHeaders, Ttl, append, without};
use crate::time::{SECOND, Time};

const PATTERN: &str = "Nats-Schedule";
const TARGET: &str = "Nats-Schedule-Target";
const SOURCE: &str = "Nats-Schedule-Source";
const TTL: &str = "Nats-Schedule-TTL";
const ROLLUP: &str = "Nats-Schedule-Rollup";
const ZONE: &str = "Nats-Schedule-Time-Zone";
const NEXT: &str = "Nats-Schedule-Next";
const SCHEDULER: &str = "Nats-Scheduler";
/// Instead of a time: the schedule is over.
pub(super) const PURGE: &str = "purge";
/// What concerned the schedule and not what it makes.
const NOT_MADE: [&str; 9] = [
    "Nats-Schedule:",
    "Nats-Schedule-",
    "Nats-Scheduler:",
    "Nats-Batch-",
    "Nats-Stream-Source:",
    "Nats-Expected-",
    "Nats-Msg-Id:",
    "Nats-TTL:",
    "Nats-Rollup:",
];
/// At most so many are made at once.
const PER_TICK: usize = 1000;
/// When what was refused is tried again.
const RETRY: i64 = SECOND;

/// A schedule that may be stored.
#[derive(Debug)]
pub(super) struct Schedule {
    due: i64,
    rolls_up: bool,
}

impl Schedule {
    /// When it is to be published first.
    pub(super) fn due(&self) -> i64 {
        self.due
    }

    /// Its headers as they are stored: it replaces what was on its subject.
    pub(super) fn stored_headers(&self, headers: &[u8]) -> Vec<u8> {
        let mut headers = headers.to_vec();
        if !self.rolls_up {
            append(&mut headers, "Nats-Rollup", "sub");
        }
        headers
    }
}

/// What a block says of a schedule.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Said<'a> {
    pattern: Option<&'a str>,
    target: Option<&'a str>,
    source: Option<&'a str>,
    ttl: Option<&'a str>,
    rollup: Option<&'a str>,
    zone: Option<&'a str>,
    pub(super) next: Option<&'a str>,
    pub(super) scheduler: Option<&'a str>,
}

impl<'a> Said<'a> {
    pub(super) fn read(headers: &'a [u8]) -> Self {
        let Ok(block) = HeaderBlock::parse(headers) else { return Self::default() };
        let value = |name: &str| block.get(name).and_then(|value| std::str::from_utf8(value).ok());
        Self {
            pattern: value(PATTERN).filter(|pattern| !pattern.is_empty()),
            target: value(TARGET),
            source: value(SOURCE).filter(|source| !source.is_empty()),
            ttl: value(TTL).filter(|ttl| !ttl.is_empty()),
            rollup: value(ROLLUP).filter(|rollup| !rollup.is_empty()),
            zone: value(ZONE),
            next: value(NEXT).filter(|next| !next.is_empty()),
            scheduler: value(SCHEDULER).filter(|scheduler| !scheduler.is_empty()),
        }
    }

    /// When it is to be published, if that can be read.
    pub(super) fn pattern(&self) -> Option<Pattern> {
        Pattern::parse(self.pattern?, self.zone).ok()
    }
}

impl Stream {
    /// Checks what a message says of a schedule; `None` when it is an ordinary one.
    pub(super) fn check_schedule(
        &self,
        message: &Incoming<'_>,
        asked: &PublishHeaders<'_>,
        now: i64,
    ) -> Result<Option<Schedule>, ApiError> {
        if !asked.schedule {
            return Ok(None);
        }
        let said = Said::read(message.headers);
        let Some(text) = said.pattern else { return Ok(None) };
        if !self.config.allow_msg_schedules {
            return Err(ApiError::schedules_disabled());
        }
        let pattern = Pattern::parse(text, said.zone).map_err(|error| match error {
            PatternError::Pattern => ApiError::schedule_pattern(),
            PatternError::Zone => ApiError::schedule_zone(),
        })?;
        let due = pattern.after(now).ok_or_else(ApiError::schedule_pattern)?;
        let rolled = said.rollup.is_none_or(|rollup| rollup == "sub");
        if !rolled || asked.rollup.is_some_and(|rollup| rollup != b"sub") {
            return Err(ApiError::schedule_rollup());
        }
        if let Some(ttl) = said.ttl {
            Ttl::parse(ttl.as_bytes()).map_err(|_| ApiError::schedule_ttl())?;
            if !self.config.allow_msg_ttl {
                return Err(ApiError::ttl_disabled());
            }
        }
        let target = said.target.unwrap_or("").as_bytes();
        if target == message.subject || !self.is_own(target) {
            return Err(ApiError::schedule_target());
        }
        if let Some(source) = said.source.map(str::as_bytes)
            && (source == message.subject || source == target || !self.is_own(source))
        {
            return Err(ApiError::schedule_source());
        }
        Ok(Some(Schedule { due, rolls_up: asked.rollup.is_some() }))
    }

    /// Checks what a message says of a schedule that is to end with it, and says on which subject that is. `in_batch`
    /// tells whether the message before it on a subject, when that is in the same batch, is a schedule.
    pub(super) fn check_schedule_end<'a>(
        &self,
        message: &Incoming<'a>,
        asked: &PublishHeaders<'_>,
        in_batch: impl Fn(&[u8]) -> Option<bool>,
    ) -> Result<Option<&'a [u8]>, ApiError> {
        if !asked.schedule {
            return Ok(None);
        }
        let said = Said::read(message.headers);
        let ended = match (said.scheduler.map(str::as_bytes), said.next) {
            (None, None) => return Ok(None),
            (Some(ended), Some(PURGE)) => ended,
            (Some(_), _) | (None, Some(_)) => return Err(ApiError::schedule_scheduler()),
        };
        if ended == message.subject || !subject::is_literal(ended) || !subject::is_readable(ended) {
            return Err(ApiError::schedule_scheduler());
        }
        if !self.config.allow_msg_schedules {
            return Err(ApiError::schedules_disabled());
        }
        // What is there is a schedule, or nothing is.
        let stored = || self.schedules.has(ended) || self.store.last_on(ended, u64::MAX).is_none();
        if !in_batch(ended).unwrap_or_else(stored) {
            return Err(ApiError::schedule_scheduler());
        }
        Ok(Some(ended))
    }

    /// Ends the schedule on a subject.
    pub(super) fn end_schedule(&mut self, subject: &[u8]) {
        if let Some(seq) = self.schedules.remove(subject) {
            self.drop_message(seq);
        }
    }

    fn is_own(&self, subject: &[u8]) -> bool {
        let own = |filter: &String| subject::matches(filter.as_bytes(), subject);
        subject::is_literal(subject) && self.config.subjects.iter().any(own)
    }

    /// Publishes what is due.
    pub(super) fn publish_scheduled(&mut self, now: i64, bus: &mut impl Bus) {
        let mut made_any = false;
        for _ in 0..PER_TICK {
            let Some((seq, subject)) = self.schedules.first_due(now) else { break };
            match self.make_scheduled(seq, &subject, now, bus) {
                Ok(Some((made, next))) => {
                    self.schedules.advance(&subject, seq, made, next);
                    made_any = true;
                }
                Ok(None) => self.end_schedule(&subject),
                Err(refused) => {
                    if let Refusal::Disk(error) = refused {
                        self.write_failed(&error, bus);
                    }
                    self.schedules.postpone(&subject, seq, now + RETRY);
                }
            }
        }
        if made_any {
            self.save_schedules();
        }
    }

    /// Publishes one, and says under which sequence and when it is due again, if it is.
    fn make_scheduled(
        &mut self,
        seq: u64,
        scheduler: &[u8],
        now: i64,
        bus: &mut impl Bus,
    ) -> Result<Option<(u64, i64)>, Refusal> {
        // It was removed, or cannot be read any more.
        let Ok(Some(message)) = self.store.get(seq) else { return Ok(None) };
        let said = Said::read(message.headers);
        let (Some(pattern), Some(target)) = (said.pattern(), said.target.map(str::to_owned)) else {
            return Ok(None);
        };
        let next = if pattern.repeats() { pattern.after(now) } else { None };
        let (source, ttl, rollup) =
            (said.source.map(str::to_owned), said.ttl.map(str::to_owned), said.rollup.map(str::to_owned));
        let (mut headers, mut payload) = (without(message.headers, &NOT_MADE), message.payload.to_vec());
        if let Some(last) = source.and_then(|source| self.store.last_on(source.as_bytes(), u64::MAX))
            && let Ok(Some(source)) = self.store.get(last)
        {
            (headers, payload) = (without(source.headers, &NOT_MADE), source.payload.to_vec());
        }
        append(&mut headers, SCHEDULER, String::from_utf8_lossy(scheduler));
        match next {
            Some(next) => append(&mut headers, NEXT, Time::from_nanos(next)),
            None => append(&mut headers, NEXT, PURGE),
        }
        if let Some(ttl) = &ttl {
            append(&mut headers, "Nats-TTL", ttl);
        }
        if let Some(rollup) = &rollup {
            append(&mut headers, "Nats-Rollup", rollup);
        }
        let incoming =
            Incoming { subject: target.as_bytes(), reply: b"", headers: &headers, payload: &payload };
        let ttl = ttl.and_then(|ttl| Ttl::parse(ttl.as_bytes()).ok());
        let rollup = if rollup.is_some() { Rollup::Subject } else { Rollup::None };
        let last = self.last_for_republish(incoming.subject);
        let stored = self.store_passed(&incoming, &PublishHeaders::default(), ttl, rollup, now)?;
        self.schedules.remove(incoming.subject);
        self.new_messages = true;
        self.republish(&incoming, stored, last, now, bus);
        Ok(next.map(|next| (stored, next)))
    }
}
