//! Scheduled messages: a message whose headers say when it is to be published, and where. It stays in the stream as the
//! schedule; what it makes is stored like any message and says when the next one comes.
//!
//! What was made says in `Nats-Scheduler` and `Nats-Schedule-Next` by whom and when again. So a restart knows where it was:
//! nothing is made twice, and what was missed meanwhile is made once.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;

use ostler_broker_proto::headers::HeaderBlock;
use ostler_broker_proto::subject;
use ostler_broker_store::Selection;

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
const PURGE: &str = "purge";
/// What concerned the schedule and not what it makes.
const NOT_MADE: [&str; 6] =
    ["Nats-Schedule:", "Nats-Schedule-", "Nats-Expected-", "Nats-Msg-Id:", "Nats-TTL:", "Nats-Rollup:"];
/// At most so many are made at once.
const PER_TICK: usize = 1000;
/// When what was refused is tried again.
const RETRY: i64 = SECOND;

/// The schedules of a stream: one for each subject.
#[derive(Debug, Default)]
pub(super) struct Schedules {
    by_subject: HashMap<Box<[u8]>, (u64, i64)>,
    by_time: BTreeSet<(i64, u64, Box<[u8]>)>,
}

impl Schedules {
    /// Remembers a schedule; an earlier one on its subject is over.
    pub(super) fn insert(&mut self, subject: &[u8], seq: u64, due: i64) {
        self.remove(subject);
        self.by_subject.insert(subject.into(), (seq, due));
        self.by_time.insert((due, seq, subject.into()));
    }

    /// Something else was stored on a subject, or the schedule is over.
    pub(super) fn remove(&mut self, subject: &[u8]) {
        if let Some((subject, (seq, due))) = self.by_subject.remove_entry(subject) {
            self.by_time.remove(&(due, seq, subject));
        }
    }

    fn first_due(&self, now: i64) -> Option<(u64, Box<[u8]>)> {
        let (due, seq, subject) = self.by_time.first()?;
        (*due <= now).then(|| (*seq, subject.clone()))
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<i64> {
        self.by_time.first().map(|(due, ..)| *due)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_subject.is_empty()
    }
}

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
struct Said<'a> {
    pattern: Option<&'a str>,
    target: Option<&'a str>,
    source: Option<&'a str>,
    ttl: Option<&'a str>,
    rollup: Option<&'a str>,
    zone: Option<&'a str>,
    next: Option<&'a str>,
    scheduler: Option<&'a str>,
}

impl<'a> Said<'a> {
    fn read(headers: &'a [u8]) -> Self {
        let Ok(block) = HeaderBlock::parse(headers) else { return Self::default() };
        let value = |name: &str| block.get(name).and_then(|value| std::str::from_utf8(value).ok());
        Self {
            pattern: value(PATTERN).filter(|pattern| !pattern.is_empty()),
            target: value(TARGET),
            source: value(SOURCE).filter(|source| !source.is_empty()),
            ttl: value(TTL).filter(|ttl| !ttl.is_empty()),
            rollup: value(ROLLUP).filter(|rollup| !rollup.is_empty()),
            zone: value(ZONE),
            next: value(NEXT),
            scheduler: value(SCHEDULER),
        }
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
        if said.next.is_some() || said.scheduler.is_some() {
            return Err(ApiError::schedule_scheduler());
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

    fn is_own(&self, subject: &[u8]) -> bool {
        let own = |filter: &String| subject::matches(filter.as_bytes(), subject);
        subject::is_literal(subject) && self.config.subjects.iter().any(own)
    }

    /// Finds the schedules again after a restart.
    pub(super) fn recall_schedules(&mut self) {
        self.schedules = Schedules::default();
        if !self.config.allow_msg_schedules {
            return;
        }
        let (schedules, mut over) = (&mut self.schedules, Vec::new());
        // What cannot be read is reported where it is read; it is no schedule any more.
        let _ = self.store.scan(&mut Selection::all(), 1, |message| {
            let said = Said::read(message.headers);
            let pattern = said.pattern.and_then(|text| Pattern::parse(text, said.zone).ok());
            schedules.remove(message.subject);
            if let Some(due) = pattern.and_then(|pattern| pattern.after(message.time_ns)) {
                schedules.insert(message.subject, message.seq, due);
            }
            if let (Some(scheduler), Some(next)) = (said.scheduler, said.next)
                && let Some((seq, _)) = schedules.by_subject.get(scheduler.as_bytes()).copied()
            {
                match Time::parse(next).and_then(Time::nanos) {
                    Some(due) => schedules.insert(scheduler.as_bytes(), seq, due),
                    None if next == PURGE => {
                        schedules.remove(scheduler.as_bytes());
                        over.push(seq);
                    }
                    None => {}
                }
            }
            ControlFlow::Continue(())
        });
        for seq in over {
            self.drop_message(seq);
        }
    }

    /// Publishes what is due.
    pub(super) fn publish_scheduled(&mut self, now: i64, bus: &mut impl Bus) {
        for _ in 0..PER_TICK {
            let Some((seq, subject)) = self.schedules.first_due(now) else { return };
            match self.make_scheduled(seq, &subject, now, bus) {
                Ok(Some(next)) => self.schedules.insert(&subject, seq, next),
                Ok(None) => {
                    self.schedules.remove(&subject);
                    self.drop_message(seq);
                }
                Err(Refusal::Disk(error)) => {
                    self.write_failed(&error, bus);
                    self.schedules.insert(&subject, seq, now + RETRY);
                }
                Err(Refusal::Request(_)) => self.schedules.insert(&subject, seq, now + RETRY),
            }
        }
    }

    /// Publishes one, and says when it is due again.
    fn make_scheduled(
        &mut self,
        seq: u64,
        scheduler: &[u8],
        now: i64,
        bus: &mut impl Bus,
    ) -> Result<Option<i64>, Refusal> {
        // It was removed, or cannot be read any more.
        let Ok(Some(message)) = self.store.get(seq) else { return Ok(None) };
        let said = Said::read(message.headers);
        let pattern = said.pattern.and_then(|text| Pattern::parse(text, said.zone).ok());
        let (Some(pattern), Some(target)) = (pattern, said.target.map(str::to_owned)) else {
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
        Ok(next)
    }
}
