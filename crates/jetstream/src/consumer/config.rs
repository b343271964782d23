//! A consumer's configuration: its JSON, its defaults, what holds together on which stream, and what may be changed
//! later. It delivers nothing.

use std::collections::BTreeMap;

use ostler_broker_proto::subject::{self, Filter};
use ostler_broker_store::Selection;
use serde::{Deserialize, Serialize};

use super::PriorityPolicy;
use crate::api::ApiError;
use crate::stream::{
    DESCRIPTION_MAX, METADATA_MAX, NAME_MAX, Retention, SERVER_METADATA, StreamConfig, is_default, is_name,
    metadata_bytes,
};
use crate::time::{MILLISECOND, SECOND, Time, write_duration};

const ACK_WAIT: i64 = 30 * SECOND;
const MAX_ACK_PENDING: i64 = 1000;
const MAX_WAITING: i64 = 512;
const INACTIVE_THRESHOLD: i64 = 5 * SECOND;

/// Where a consumer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliverPolicy {
    /// With the first message.
    #[default]
    All,
    /// With the last message.
    Last,
    /// With what comes after it was created.
    New,
    /// With a sequence.
    ByStartSequence,
    /// With the first message at or after a time.
    ByStartTime,
    /// With the last message of each subject.
    LastPerSubject,
}

/// What an acknowledgement covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AckPolicy {
    /// There are none: delivered is done.
    #[default]
    None,
    /// The message and all before it.
    All,
    /// The message.
    Explicit,
    /// What was delivered before a request of flow control that is answered: refused.
    FlowControl,
}

/// How fast messages are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplayPolicy {
    /// As fast as the client takes them.
    #[default]
    Instant,
    /// With the pauses in which they were stored, until it has caught up.
    Original,
}

/// A consumer's configuration, with nats-server's field names. Durations are nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are nats-server's, documented at docs.nats.io")]
pub struct ConsumerConfig {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub durable_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    pub deliver_policy: DeliverPolicy,
    #[serde(skip_serializing_if = "is_default")]
    pub opt_start_seq: u64,
    #[serde(skip_serializing_if = "Time::is_none")]
    pub opt_start_time: Time,
    pub ack_policy: AckPolicy,
    #[serde(skip_serializing_if = "is_default")]
    pub ack_wait: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub max_deliver: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backoff: Vec<i64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filter_subject: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filter_subjects: Vec<String>,
    pub replay_policy: ReplayPolicy,
    #[serde(skip_serializing_if = "is_default")]
    pub rate_limit_bps: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sample_freq: String,
    #[serde(skip_serializing_if = "is_default")]
    pub max_waiting: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub max_ack_pending: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub flow_control: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub headers_only: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub max_batch: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub max_expires: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub max_bytes: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub deliver_subject: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub deliver_group: String,
    #[serde(skip_serializing_if = "is_default")]
    pub idle_heartbeat: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub inactive_threshold: i64,
    pub num_replicas: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub mem_storage: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Time::is_none")]
    pub pause_until: Time,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub priority_groups: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub priority_policy: PriorityPolicy,
    #[serde(skip_serializing_if = "is_default")]
    pub priority_timeout: i64,
    /// Refused.
    #[serde(skip_serializing_if = "is_default")]
    pub direct: bool,
}

impl ConsumerConfig {
    /// Whether messages go out as they come instead of on request.
    pub fn is_push(&self) -> bool {
        !self.deliver_subject.is_empty()
    }

    /// Whether clients get what it pushes; else streams of this server take it.
    pub(crate) fn pushes(&self) -> bool {
        self.is_push() && self.ack_policy != AckPolicy::FlowControl
    }

    /// Writes the defaults in and checks that everything holds together, on this stream.
    ///
    /// # Errors
    /// [`ApiError`] with nats-server's number and words; a feature that is not there is named.
    pub fn completed(mut self, stream: &StreamConfig) -> Result<Self, ApiError> {
        self.check_names()?;
        self.check_supported()?;
        match self.num_replicas {
            0 | 1 => {}
            ..0 => return Err(ApiError::replicas_negative()),
            _ => return Err(ApiError::replicas_not_supported()),
        }
        if self.ack_wait < 0 {
            return Err(ApiError::ack_wait_negative());
        }
        if self.backoff.iter().any(|wait| *wait < 0) {
            return Err(ApiError::backoff_negative());
        }
        self.complete_flow_control()?;
        self.complete_limits(stream)?;
        if self.max_deliver > 0 && !self.backoff.is_empty() && self.max_deliver <= self.backoff.len() as i64 {
            return Err(ApiError::max_deliver_backoff());
        }
        if self.is_push() {
            self.check_push(stream)?;
        } else {
            self.check_pull()?;
        }
        self.complete_priority()?;
        self.check_filters()?;
        self.check_start()?;
        self.sampling()?;
        if stream.retention == Retention::WorkQueue {
            if !matches!(self.ack_policy, AckPolicy::Explicit | AckPolicy::FlowControl) {
                let push = self.is_push();
                return Err(if push {
                    ApiError::workqueue_requires_explicit_ack()
                } else {
                    ApiError::pull_requires_ack()
                });
            }
            if self.deliver_policy != DeliverPolicy::All {
                return Err(ApiError::workqueue_deliver_all());
            }
        }
        self.metadata.retain(|key, _| !key.starts_with(SERVER_METADATA));
        Ok(self)
    }

    fn check_names(&self) -> Result<(), ApiError> {
        for name in [&self.durable_name, &self.name] {
            if name.len() > NAME_MAX {
                return Err(ApiError::consumer_name_too_long(NAME_MAX));
            }
            if name.contains(['/', '\\']) {
                return Err(ApiError::consumer_name_path());
            }
            if !name.is_empty() && !is_name(name) {
                return Err(ApiError::bad_durable_name());
            }
        }
        if !self.durable_name.is_empty() && !self.name.is_empty() && self.durable_name != self.name {
            return Err(ApiError::durable_and_name());
        }
        if self.description.len() > DESCRIPTION_MAX {
            return Err(ApiError::consumer_description_too_long(DESCRIPTION_MAX));
        }
        if metadata_bytes(&self.metadata) > METADATA_MAX {
            return Err(ApiError::consumer_metadata_too_large(METADATA_MAX));
        }
        Ok(())
    }

    fn check_supported(&self) -> Result<(), ApiError> {
        if self.direct && !self.is_push() {
            return Err(ApiError::direct_requires_push());
        }
        if self.direct && !self.durable_name.is_empty() {
            return Err(ApiError::direct_requires_ephemeral());
        }
        if self.ack_policy == AckPolicy::FlowControl && !self.is_push() {
            return Err(ApiError::flow_control_acks_require_push());
        }
        if self.direct {
            return Err(ApiError::consumer_create("a direct consumer is not supported by this server"));
        }
        Ok(())
    }

    /// What is acknowledged by the answers to flow control is never out too long, nor too often.
    fn complete_flow_control(&mut self) -> Result<(), ApiError> {
        if self.ack_policy != AckPolicy::FlowControl {
            return Ok(());
        }
        if self.ack_wait > 0 || !self.backoff.is_empty() {
            return Err(ApiError::flow_control_acks_wait());
        }
        if self.max_deliver > 0 {
            return Err(ApiError::flow_control_acks_deliver());
        }
        self.flow_control = true;
        if self.idle_heartbeat == 0 {
            self.idle_heartbeat = SECOND;
        }
        Ok(())
    }

    fn complete_limits(&mut self, stream: &StreamConfig) -> Result<(), ApiError> {
        let limits = &stream.consumer_limits;
        if self.max_deliver <= 0 {
            self.max_deliver = -1;
        }
        if let Some(first) = self.backoff.first() {
            self.ack_wait = *first;
        }
        if self.ack_policy != AckPolicy::None {
            if self.ack_wait == 0 && self.ack_policy != AckPolicy::FlowControl {
                self.ack_wait = ACK_WAIT;
            }
            if self.max_ack_pending == 0 {
                self.max_ack_pending =
                    if limits.max_ack_pending > 0 { limits.max_ack_pending } else { MAX_ACK_PENDING };
            }
        }
        self.max_ack_pending = self.max_ack_pending.max(-1);
        // Without a limit of its own it passes, as in nats-server.
        if limits.max_ack_pending > 0 && self.max_ack_pending > limits.max_ack_pending {
            return Err(ApiError::max_ack_pending_excess(limits.max_ack_pending));
        }
        if self.inactive_threshold <= 0 {
            let without_limit = if self.durable_name.is_empty() { INACTIVE_THRESHOLD } else { 0 };
            let limit = limits.inactive_threshold;
            self.inactive_threshold = if limit > 0 { limit } else { without_limit };
        }
        if limits.inactive_threshold > 0 && self.inactive_threshold > limits.inactive_threshold {
            return Err(ApiError::inactive_threshold_excess(&write_duration(limits.inactive_threshold)));
        }
        self.idle_heartbeat = self.idle_heartbeat.max(0);
        self.max_batch = self.max_batch.max(0);
        self.max_bytes = self.max_bytes.max(0);
        self.max_expires = self.max_expires.max(0);
        if (1..MILLISECOND).contains(&self.max_expires) {
            return Err(ApiError::new(400, 10115, "consumer max request expires needs to be >= 1ms"));
        }
        Ok(())
    }

    fn check_push(&self, stream: &StreamConfig) -> Result<(), ApiError> {
        let deliver = self.deliver_subject.as_bytes();
        if !subject::is_filter(deliver) {
            return Err(ApiError::invalid_deliver_subject());
        }
        if subject::has_wildcard(deliver) {
            return Err(ApiError::deliver_to_wildcards());
        }
        if stream.subjects.iter().any(|filter| subject::matches(filter.as_bytes(), deliver)) {
            return Err(ApiError::deliver_cycle());
        }
        if self.max_waiting != 0 {
            return Err(ApiError::push_max_waiting());
        }
        if self.idle_heartbeat != 0 && self.idle_heartbeat < 100 * MILLISECOND {
            return Err(ApiError::small_heartbeat());
        }
        if self.flow_control && self.idle_heartbeat == 0 {
            return Err(ApiError::flow_control_needs_heartbeats());
        }
        Ok(())
    }

    fn check_pull(&mut self) -> Result<(), ApiError> {
        if self.rate_limit_bps > 0 {
            return Err(ApiError::pull_with_rate_limit());
        }
        if self.idle_heartbeat != 0 {
            return Err(ApiError::heartbeat_requires_push());
        }
        if self.flow_control {
            return Err(ApiError::flow_control_requires_push());
        }
        if self.max_waiting <= 0 {
            self.max_waiting = MAX_WAITING;
        }
        Ok(())
    }

    fn check_filters(&self) -> Result<(), ApiError> {
        if !self.filter_subject.is_empty() && !self.filter_subjects.is_empty() {
            return Err(ApiError::both_filters());
        }
        for (index, filter) in self.filter_subjects.iter().enumerate() {
            if filter.is_empty() {
                return Err(ApiError::empty_filter());
            }
            let before = &self.filter_subjects[..index];
            if before.iter().any(|other| subject::overlaps(other.as_bytes(), filter.as_bytes())) {
                return Err(ApiError::overlapping_filters());
            }
        }
        if self.filters().any(|filter| !subject::is_filter(filter.as_bytes())) {
            return Err(ApiError::new(
                400,
                10093,
                "consumer filter subject is not a valid subset of the interest subjects",
            ));
        }
        Ok(())
    }

    fn check_start(&self) -> Result<(), ApiError> {
        let (seq, time) = (self.opt_start_seq > 0, !self.opt_start_time.is_none());
        let (policy, wants_seq, wants_time) = match self.deliver_policy {
            DeliverPolicy::All => ("all", false, false),
            DeliverPolicy::Last => ("last", false, false),
            DeliverPolicy::New => ("new", false, false),
            DeliverPolicy::LastPerSubject => ("last per subject", false, false),
            DeliverPolicy::ByStartSequence => ("by start sequence", true, false),
            DeliverPolicy::ByStartTime => ("by start time", false, true),
        };
        let refuse = |what: &str| {
            Err(ApiError::invalid_policy(format!(
                "consumer delivery policy is deliver {policy}, but optional {what}"
            )))
        };
        if self.deliver_policy == DeliverPolicy::LastPerSubject && self.filters().next().is_none() {
            return refuse("filter subject is not set");
        }
        match (wants_seq, seq, wants_time, time) {
            (true, false, ..) => refuse("start sequence is not set"),
            (false, true, ..) => refuse("start sequence is also set"),
            (_, _, true, false) => refuse("start time is not set"),
            (_, _, false, true) => refuse("start time is also set"),
            _ => Ok(()),
        }
    }

    /// How many acknowledgements of a hundred are reported.
    ///
    /// # Errors
    /// What stands there is no number.
    pub fn sampling(&self) -> Result<u8, ApiError> {
        if self.sample_freq.is_empty() {
            return Ok(0);
        }
        let number = self.sample_freq.trim_end_matches('%');
        match number.parse::<i64>() {
            Ok(percent) => Ok(percent.clamp(0, 100) as u8),
            Err(_) => {
                Err(ApiError::invalid_sampling(format!("strconv.Atoi: parsing {number:?}: invalid syntax")))
            }
        }
    }

    /// The filters in either of their places.
    pub fn filters(&self) -> impl Iterator<Item = &str> {
        let one = (!self.filter_subject.is_empty()).then_some(&*self.filter_subject);
        one.into_iter().chain(self.filter_subjects.iter().map(String::as_str))
    }

    /// The messages it wants.
    pub(crate) fn selection(&self) -> Selection {
        Selection::new(self.filters().filter_map(|filter| Filter::parse(filter).ok()))
    }

    /// Whether it wants messages on a subject.
    pub(crate) fn wants(&self, on: &[u8]) -> bool {
        let mut filters = self.filters().peekable();
        filters.peek().is_none() || filters.any(|filter| subject::matches(filter.as_bytes(), on))
    }

    /// Whether there may be a message that both want.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let all = |config: &Self| config.filters().next().is_none();
        all(self)
            || all(other)
            || self.filters().any(|ours| {
                other.filters().any(|theirs| subject::overlaps(ours.as_bytes(), theirs.as_bytes()))
            })
    }

    /// How long after its `count`th delivery a message is delivered again.
    pub(crate) fn wait_after(&self, count: u32) -> i64 {
        match self.backoff.len() {
            _ if self.ack_policy == AckPolicy::FlowControl => i64::MAX,
            0 => self.ack_wait,
            len => self.backoff[(count.max(1) as usize - 1).min(len - 1)],
        }
    }

    /// Checks that a consumer with this configuration may get `next`, which is complete.
    ///
    /// # Errors
    /// [`ApiError`] with nats-server's words.
    pub fn check_update(&self, next: &Self) -> Result<(), ApiError> {
        let fixed = [
            (self.deliver_policy != next.deliver_policy, "deliver policy can not be updated"),
            (self.opt_start_seq != next.opt_start_seq, "start sequence can not be updated"),
            (self.opt_start_time != next.opt_start_time, "start time can not be updated"),
            (self.ack_policy != next.ack_policy, "ack policy can not be updated"),
            (self.replay_policy != next.replay_policy, "replay policy can not be updated"),
            (self.idle_heartbeat != next.idle_heartbeat, "heart beats can not be updated"),
            (self.flow_control != next.flow_control, "flow control can not be updated"),
            (!self.is_push() && next.is_push(), "can not update pull consumer to push based"),
            (self.is_push() && !next.is_push(), "can not update push consumer to pull based"),
            (self.max_waiting != next.max_waiting, "max waiting can not be updated"),
        ];
        match fixed.iter().find(|(changed, _)| *changed) {
            Some((_, reason)) => Err(ApiError::consumer_create(*reason)),
            None => Ok(()),
        }
    }

    /// The lowest API level that knows everything that is asked for here.
    pub(crate) fn required_level(&self) -> u8 {
        if self.ack_policy == AckPolicy::FlowControl {
            return 4;
        }
        u8::from(!self.pause_until.is_none() || self.priority_policy != PriorityPolicy::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_with_the_deliveries_and_stays_at_the_last() {
        let config = ConsumerConfig { backoff: vec![1, 5, 9], ack_wait: 1, ..ConsumerConfig::default() };
        assert_eq!([1, 2, 3, 4, 9].map(|count| config.wait_after(count)), [1, 5, 9, 9, 9]);
        let config = ConsumerConfig { ack_wait: 7, ..ConsumerConfig::default() };
        assert_eq!(config.wait_after(3), 7);
    }

    #[test]
    fn consumers_overlap_when_some_message_is_wanted_by_both() {
        let with = |filters: &[&str]| ConsumerConfig {
            filter_subjects: filters.iter().map(|&filter| filter.to_owned()).collect(),
            ..ConsumerConfig::default()
        };
        assert!(with(&[]).overlaps(&with(&["a"])));
        assert!(with(&["a.*", "b"]).overlaps(&with(&["a.x"])));
        assert!(!with(&["a.*", "b"]).overlaps(&with(&["c"])));
        assert!(with(&["a.*"]).wants(b"a.b") && !with(&["a.*"]).wants(b"b"));
    }
}
