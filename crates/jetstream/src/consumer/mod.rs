//! One consumer: where it stands in its stream, what is out unacknowledged, and which message comes next. Who asked for
//! messages is in `pull`, who gets them unasked in `push`.

mod ack;
mod backup;
mod config;
mod deliver;
mod pedantic;
mod pending;
mod priority;
mod pull;
mod push;
mod rate;
mod replay;
mod reset;
mod sourcing;
mod state;

use std::collections::VecDeque;

use ostler_broker_proto::subject::{self, Filter};
use ostler_broker_store::{Selection, Store};
use serde::Serialize;

pub use config::{AckPolicy, ConsumerConfig, DeliverPolicy, ReplayPolicy};
pub use priority::{PriorityGroupState, PriorityPolicy};

pub(crate) use ack::{AckKind, AckSubject};
pub(crate) use deliver::Ground;
pub(crate) use priority::UnpinReason;
pub(crate) use state::{CONSUMER_PREFIX, STATE_PREFIX};

use crate::api::{ApiError, SequenceInfo};
use crate::bus::Bus;
use crate::options::Context;
use crate::stream::is_default;
use crate::time::Time;
use pending::{Pending, PendingSet};
use priority::Pin;
use pull::Waiting;
use push::Push;
use replay::Replay;

/// A consumer.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) name: Box<str>,
    pub(crate) config: ConsumerConfig,
    pub(crate) created: Time,
    /// `$JS.ACK.<stream>.<consumer>.`
    ack_prefix: Vec<u8>,
    selection: Selection,
    /// The next message of the stream to be looked at.
    next_seq: u64,
    /// It was told to begin with this one, whether it is there or not.
    begins_at: u64,
    /// Before it: the last message of each subject, when it begins with those.
    upcoming: VecDeque<u64>,
    /// The last delivery, and its message.
    delivered: Position,
    /// Everything up to here is acknowledged.
    floor: Position,
    pending: PendingSet,
    redeliver: VecDeque<u64>,
    /// Wanted messages from `next_seq` up to the stream's `counted_to`, when that is known.
    ahead: Option<u64>,
    counted_to: u64,
    waiting: VecDeque<Waiting>,
    push: Option<Push>,
    /// Messages go out with the pauses they came in.
    replay: Option<Replay>,
    /// When a pause ends.
    pause_ends: Option<i64>,
    /// The client that gets all messages.
    pin: Option<Pin>,
    /// Somebody showed interest.
    active_at: i64,
    /// The state changed since it was saved.
    pub(crate) unsaved: bool,
    /// Somebody waits for it to be saved.
    pub(crate) save_now: bool,
    saved_at: i64,
    /// Nothing is delivered before the client knows that it is there.
    pub(crate) held: bool,
    scratch: Scratch,
}

/// Buffers that are used again for every message.
#[derive(Debug, Default)]
struct Scratch {
    reply: Vec<u8>,
    headers: Vec<u8>,
}

/// A delivery and its message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) delivery: u64,
    pub(crate) seq: u64,
    pub(crate) at: Option<i64>,
}

/// A consumer as the API shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ConsumerInfo {
    /// Its stream.
    pub stream_name: String,
    /// Its name, also when the configuration has none.
    pub name: String,
    /// When it was created.
    pub created: Time,
    /// With defaults and the server's metadata.
    pub config: ConsumerConfig,
    /// The last delivery.
    pub delivered: SequenceInfo,
    /// Everything up to here is acknowledged.
    pub ack_floor: SequenceInfo,
    /// Messages that are out unacknowledged.
    pub num_ack_pending: usize,
    /// Those of them that were delivered more than once.
    pub num_redelivered: usize,
    /// Requests that wait for messages.
    pub num_waiting: usize,
    /// Messages that wait to be delivered.
    pub num_pending: u64,
    /// Somebody listens for what is pushed.
    #[serde(skip_serializing_if = "is_default")]
    pub push_bound: bool,
    /// Nothing is delivered until the configuration's `pause_until`.
    #[serde(skip_serializing_if = "is_default")]
    pub paused: bool,
    /// For so many nanoseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub pause_remaining: i64,
    /// Who gets messages before others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub priority_groups: Vec<PriorityGroupState>,
    /// When this was said.
    pub ts: Time,
}

impl Consumer {
    /// Creates a consumer where its configuration, which is complete, lets it begin.
    pub(crate) fn create(
        name: &str,
        config: ConsumerConfig,
        stream: &str,
        store: &mut Store,
        now: i64,
    ) -> Result<Self, ApiError> {
        let mut consumer = Self::bare(name, config, stream, Time::from_nanos(now), now);
        consumer.begin(store)?;
        Ok(consumer)
    }

    fn bare(name: &str, config: ConsumerConfig, stream: &str, created: Time, now: i64) -> Self {
        Self {
            name: name.into(),
            selection: config.selection(),
            push: config.pushes().then(|| Push::new(now)),
            replay: Replay::of(&config),
            pause_ends: config.pause_until.nanos().filter(|until| *until > now),
            config,
            created,
            ack_prefix: format!("$JS.ACK.{stream}.{name}.").into_bytes(),
            next_seq: 1,
            begins_at: 0,
            upcoming: VecDeque::new(),
            delivered: Position::default(),
            floor: Position::default(),
            pending: PendingSet::default(),
            redeliver: VecDeque::new(),
            ahead: None,
            counted_to: 0,
            waiting: VecDeque::new(),
            pin: None,
            active_at: now,
            unsaved: true,
            save_now: false,
            saved_at: now,
            held: false,
            scratch: Scratch::default(),
        }
    }

    fn begin(&mut self, store: &mut Store) -> Result<(), ApiError> {
        let (first, last) = (store.first_seq(), store.last_seq());
        self.next_seq = match self.config.deliver_policy {
            DeliverPolicy::All => first,
            DeliverPolicy::New => last + 1,
            DeliverPolicy::Last => self.last_wanted(store).unwrap_or(last + 1),
            DeliverPolicy::ByStartSequence => self.config.opt_start_seq.max(first),
            DeliverPolicy::ByStartTime => {
                let since = self.config.opt_start_time.nanos().unwrap_or(i64::MIN);
                let found =
                    store.first_at(since).map_err(|error| ApiError::consumer_create(error.to_string()))?;
                found.unwrap_or(last + 1)
            }
            DeliverPolicy::LastPerSubject => {
                self.upcoming = store.last_per_subject(&mut self.selection, u64::MAX).into();
                last + 1
            }
        };
        self.begins_at = self.config.opt_start_seq;
        let begin = self.upcoming.front().copied().unwrap_or(self.next_seq);
        self.delivered.seq = begin - 1;
        self.floor.seq = begin - 1;
        Ok(())
    }

    fn last_wanted(&mut self, store: &mut Store) -> Option<u64> {
        if self.selection.is_all() {
            return (store.msgs() > 0).then(|| store.last_seq());
        }
        let last = |filter: &str| {
            let mut selection = Selection::new([Filter::parse(filter).ok()?]);
            store.last_per_subject(&mut selection, u64::MAX).last().copied()
        };
        self.config.filters().filter_map(last).max()
    }

    /// Gives it another configuration, which is complete and checked.
    pub(crate) fn update(&mut self, config: ConsumerConfig, now: i64) {
        if !self.config.filters().eq(config.filters()) {
            self.selection = config.selection();
            self.ahead = None;
        }
        if self.config.deliver_subject != config.deliver_subject && config.pushes() {
            self.push = Some(Push::new(now));
        }
        self.config = config;
        self.apply_priority();
        self.active_at = now;
    }

    /// Whether it pushes to a subject that a filter matches.
    pub(crate) fn pushes_to(&self, filter: &[u8]) -> bool {
        self.config.is_push() && subject::matches(filter, self.config.deliver_subject.as_bytes())
    }

    /// Whether somebody listens for what it pushes: of the group, when it has one.
    pub(crate) fn is_bound(&self, bus: &impl Bus) -> bool {
        let (to, group) = (self.config.deliver_subject.as_bytes(), self.config.deliver_group.as_bytes());
        let listened =
            || if group.is_empty() { bus.has_interest(to) } else { bus.has_group_interest(to, group) };
        self.config.pushes() && listened()
    }

    /// Stops until a time, or goes on when that is past.
    pub(crate) fn pause(&mut self, until: Time, now: i64) {
        self.config.pause_until = until;
        self.pause_ends = until.nanos().filter(|until| *until > now);
    }

    pub(crate) fn is_paused(&self, now: i64) -> bool {
        self.config.pause_until.nanos().is_some_and(|until| until > now)
    }

    /// Messages that wait to be delivered for the first time.
    pub(crate) fn num_pending(&mut self, store: &mut Store) -> u64 {
        let last = store.last_seq();
        let ahead = match self.ahead {
            Some(ahead) if self.counted_to == last => ahead,
            Some(ahead) => {
                let from = self.next_seq.max(self.counted_to + 1);
                ahead + store.num_pending(&mut self.selection, from, false)
            }
            None => store.num_pending(&mut self.selection, self.next_seq, false),
        };
        self.ahead = Some(ahead);
        self.counted_to = last;
        ahead + self.upcoming.len() as u64
    }

    /// A message was taken out of the stream.
    pub(crate) fn on_removed(&mut self, seq: u64, now: i64) {
        if let Ok(at) = self.upcoming.binary_search(&seq) {
            self.upcoming.remove(at);
            self.unsaved = true;
        }
        if self.pending.remove(seq).is_some() {
            // What is gone is as good as acknowledged.
            self.raise_floor();
            self.floor.at = Some(now);
            self.unsaved = true;
        }
        if seq < self.next_seq || seq > self.counted_to {
            return;
        }
        self.ahead = match self.ahead {
            Some(ahead) if self.selection.is_all() => Some(ahead.saturating_sub(1)),
            // Whether it was one of those is not known any more.
            _ => None,
        };
    }

    /// Messages that wait to be delivered again. What was acknowledged meanwhile stands in the queue until it is found.
    fn num_again(&self) -> u64 {
        let waits = |seq: &&u64| self.pending.get(**seq).is_some_and(|entry| entry.queued);
        self.redeliver.iter().filter(waits).count() as u64
    }

    /// Many messages were taken out of the stream.
    pub(crate) fn on_purged(&mut self, store: &mut Store) {
        self.ahead = None;
        // What is gone is as good as acknowledged. They are asked for in order, so that what went together is passed
        // over at once.
        let (mut all, mut next) = (Selection::all(), Some(0));
        self.pending.retain(|seq| {
            if next.is_some_and(|next| next < seq) {
                next = store.next(&mut all, seq);
            }
            next == Some(seq)
        });
        self.redeliver.retain(|seq| self.pending.get(*seq).is_some());
        let first = store.first_seq();
        self.upcoming.retain(|seq| !matches!(store.get(*seq), Ok(None)));
        self.next_seq = self.next_seq.max(first);
        self.delivered.seq = self.delivered.seq.max(first - 1);
        self.raise_floor();
        self.unsaved = true;
    }

    /// Whether a message still has to be delivered or acknowledged.
    pub(crate) fn needs(&self, seq: u64, subject: &[u8]) -> bool {
        if !self.config.wants(subject) {
            return false;
        }
        seq >= self.next_seq || self.pending.get(seq).is_some() || self.upcoming.binary_search(&seq).is_ok()
    }

    /// Moves the floor up to the first message that is out.
    fn raise_floor(&mut self) {
        let (delivery, seq) = match self.pending.first() {
            Some(first) => (first.delivery.saturating_sub(1), first.seq.saturating_sub(1)),
            None => (self.delivered.delivery, self.delivered.seq),
        };
        self.floor.delivery = self.floor.delivery.max(delivery);
        self.floor.seq = self.floor.seq.max(seq);
    }

    /// When something has to be done for it.
    pub(crate) fn next_due(&self) -> Option<i64> {
        let requests = self.waiting.iter().filter_map(Waiting::next_due).min();
        let inactive = (self.config.inactive_threshold > 0)
            .then(|| self.active_at.saturating_add(self.config.inactive_threshold));
        let save = self.unsaved.then_some(self.saved_at + state::SAVE_INTERVAL);
        let push = self.push.as_ref().and_then(|push| push.next_due(&self.config));
        let (pause, pin, replay) = (self.pause_ends, self.pin_due(), self.replay_due());
        [requests, self.pending.check_at(), inactive, save, push, pause, pin, replay]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether nobody showed interest for as long as the configuration says.
    pub(crate) fn is_inactive(&self, now: i64) -> bool {
        let threshold = self.config.inactive_threshold;
        threshold > 0 && now - self.active_at >= threshold
    }

    /// What the API shows of it.
    pub(crate) fn info(
        &mut self,
        stream: &str,
        store: &mut Store,
        bound: bool,
        now: i64,
        context: &Context,
    ) -> ConsumerInfo {
        let mut config = self.config.clone();
        context.add_metadata(&mut config.metadata, self.config.required_level());
        let paused = self.is_paused(now);
        let position = |position: &Position| SequenceInfo {
            consumer_seq: position.delivery,
            stream_seq: position.seq,
            last_active: position.at.map_or(Time::NONE, Time::from_nanos),
        };
        ConsumerInfo {
            stream_name: stream.to_owned(),
            name: self.name.to_string(),
            created: self.created,
            config,
            delivered: position(&self.delivered),
            ack_floor: position(&self.floor),
            num_ack_pending: self.pending.len(),
            num_redelivered: self.pending.iter().filter(|entry| entry.count > 1).count(),
            num_waiting: self.waiting.len(),
            num_pending: self.num_pending(store),
            push_bound: bound,
            paused,
            pause_remaining: self
                .config
                .pause_until
                .nanos()
                .filter(|_| paused)
                .map_or(0, |until| until.saturating_sub(now)),
            priority_groups: self.group_states(),
            ts: Time::from_nanos(now),
        }
    }
}
