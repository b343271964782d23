//! A stream's configuration: its JSON, its defaults, what holds together and what may be changed later. It decides
//! nothing about messages.

use std::collections::BTreeMap;

use ostler_broker_proto::subject;
use ostler_broker_store::Durability;
use serde::{Deserialize, Serialize};

use super::source::StreamSource;
use super::transform::{SubjectTransform, Transform};
use crate::api::ApiError;
use crate::time::{MILLISECOND, SECOND};

/// The longest name of a stream or consumer, in bytes.
pub(crate) const NAME_MAX: usize = 255;
/// The longest description, in bytes.
pub(crate) const DESCRIPTION_MAX: usize = 4096;
/// The most metadata, keys and values together, in bytes.
pub(crate) const METADATA_MAX: usize = 128 << 10;
/// The window without another setting, in nanoseconds.
const DUPLICATE_WINDOW: i64 = 120 * SECOND;
/// Metadata under which a stream says what its acknowledgements promise: `group`, `process` or `async`.
pub const DURABILITY_KEY: &str = "ostler.durability";
/// Metadata that the server adds begins with this, and does not count in comparisons.
pub(crate) const SERVER_METADATA: &str = "_nats.";

/// When messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retention {
    /// By limits only.
    #[default]
    Limits,
    /// When every consumer that wants it has acknowledged it.
    Interest,
    /// When its one consumer has acknowledged it.
    WorkQueue,
}

/// What gives way when a limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discard {
    /// The oldest messages.
    #[default]
    Old,
    /// The new message: it is refused.
    New,
}

/// Where messages are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// In files.
    #[default]
    File,
    /// In memory: a restart forgets the stream.
    Memory,
}

/// Whether messages are kept compressed. Recorded, but they are not: compression happens below, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// S2.
    S2,
}

/// nats-server's word for how soon messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PersistMode {
    /// As the server does by default.
    #[default]
    #[serde(alias = "")]
    Default,
    /// Acknowledged before they are written.
    Async,
}

/// What is published again when it was stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Republish {
    /// Which subjects; empty means all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub src: String,
    /// The subject it is published on, as in a [`SubjectTransform`].
    pub dest: String,
    /// Without the payload.
    #[serde(skip_serializing_if = "is_default")]
    pub headers_only: bool,
}

/// What the stream's consumers may ask for at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsumerLimits {
    /// The longest inactivity, in nanoseconds; 0 for no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub inactive_threshold: i64,
    /// The most unacknowledged messages; 0 for no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub max_ack_pending: i64,
}

/// A stream's configuration, with nats-server's field names in its order. Durations are nanoseconds; -1 is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are nats-server's, documented at docs.nats.io")]
pub struct StreamConfig {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<String>,
    pub retention: Retention,
    pub max_consumers: i64,
    pub max_msgs: i64,
    pub max_bytes: i64,
    pub max_age: i64,
    pub max_msgs_per_subject: i64,
    pub max_msg_size: i64,
    pub discard: Discard,
    pub storage: Storage,
    pub num_replicas: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub no_ack: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub duplicate_window: i64,
    /// Kept and without effect: there is one place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<StreamSource>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<StreamSource>,
    pub compression: Compression,
    #[serde(skip_serializing_if = "is_default")]
    pub first_seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_transform: Option<SubjectTransform>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub republish: Option<Republish>,
    pub allow_direct: bool,
    pub mirror_direct: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub discard_new_per_subject: bool,
    pub sealed: bool,
    pub deny_delete: bool,
    pub deny_purge: bool,
    pub allow_rollup_hdrs: bool,
    pub consumer_limits: ConsumerLimits,
    pub allow_msg_ttl: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub subject_delete_marker_ttl: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub allow_msg_counter: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub allow_atomic: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub allow_msg_schedules: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub persist_mode: PersistMode,
    #[serde(skip_serializing_if = "is_default")]
    pub allow_batched: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl StreamConfig {
    /// Writes the defaults in and checks that everything holds together.
    ///
    /// # Errors
    /// [`ApiError`] with nats-server's number and words; a feature that is not there is named.
    pub fn completed(mut self) -> Result<Self, ApiError> {
        self.check_name()?;
        self.check_origins()?;
        for limit in [
            &mut self.max_consumers,
            &mut self.max_msgs,
            &mut self.max_bytes,
            &mut self.max_msgs_per_subject,
            &mut self.max_msg_size,
        ] {
            if *limit <= 0 {
                *limit = -1;
            }
        }
        match self.num_replicas {
            0 => self.num_replicas = 1,
            1 => {}
            ..0 => return Err(ApiError::replicas_negative()),
            2..=5 => return Err(ApiError::replicas_not_supported()),
            _ => return Err(ApiError::stream_config("maximum replicas is 5")),
        }
        if self.subjects.is_empty() && self.origins().next().is_none() {
            self.subjects.push(self.name.clone());
        }
        self.check_times()?;
        if self.subject_delete_marker_ttl > 0 {
            // Markers carry a time to live and roll up what is before them.
            self.allow_msg_ttl = true;
            self.allow_rollup_hdrs = true;
        }
        if self.allow_msg_schedules {
            // A schedule takes the place of the one before it, and goes when it is over.
            self.allow_rollup_hdrs = true;
            self.deny_purge = false;
        }
        if self.deny_purge && self.allow_rollup_hdrs {
            return Err(ApiError::stream_config("roll-ups require the purge permission"));
        }
        if self.discard_new_per_subject {
            if self.discard != Discard::New {
                return Err(ApiError::stream_config(
                    "discard new per subject requires discard new policy to be set",
                ));
            }
            if self.max_msgs_per_subject <= 0 {
                return Err(ApiError::stream_config(
                    "discard new per subject requires max msgs per subject > 0",
                ));
            }
        }
        self.check_kinds()?;
        self.check_subjects()?;
        self.check_transforms()?;
        self.durability(Durability::Group)?;
        self.metadata.retain(|key, _| !key.starts_with(SERVER_METADATA));
        Ok(self)
    }

    fn check_name(&self) -> Result<(), ApiError> {
        if self.name.len() > NAME_MAX {
            return Err(ApiError::stream_config(format!(
                "stream name is too long, maximum allowed is {NAME_MAX}"
            )));
        }
        if self.name.contains(['/', '\\']) {
            return Err(ApiError::stream_name_path());
        }
        if !is_name(&self.name) {
            return Err(ApiError::stream_config(
                "stream name is required and can not contain '.', '*', '>', '\\', '/'",
            ));
        }
        if self.description.len() > DESCRIPTION_MAX {
            return Err(ApiError::stream_config(format!(
                "stream description is too long, maximum allowed is {DESCRIPTION_MAX}"
            )));
        }
        if metadata_bytes(&self.metadata) > METADATA_MAX {
            return Err(ApiError::stream_config(format!(
                "stream metadata exceeds maximum size of {METADATA_MAX} bytes"
            )));
        }
        Ok(())
    }

    /// What counters, batches and schedules cannot be together with.
    fn check_kinds(&self) -> Result<(), ApiError> {
        let counter = self.allow_msg_counter;
        let refused = [
            (counter && self.discard == Discard::New, "counter stream cannot use discard new"),
            (counter && self.allow_msg_ttl, "counter stream cannot use message TTLs"),
            (counter && self.retention != Retention::Limits, "counter stream can only use limits retention"),
            (
                self.allow_msg_schedules && self.discard == Discard::New,
                "message scheduling cannot use discard new",
            ),
            (
                self.allow_atomic && self.persist_mode == PersistMode::Async,
                "async persist mode is not supported with atomic batch publish",
            ),
        ];
        match refused.iter().find(|(wrong, _)| *wrong) {
            Some((_, reason)) => Err(ApiError::stream_config(*reason)),
            None => Ok(()),
        }
    }

    fn check_times(&mut self) -> Result<(), ApiError> {
        let refuse = |reason: &str| Err(ApiError::stream_config(reason));
        if self.max_age < 0 {
            return refuse("max age can not be negative");
        }
        if self.max_age > 0 && self.max_age < 100 * MILLISECOND {
            return refuse("max age needs to be >= 100ms");
        }
        if self.duplicate_window < 0 {
            return refuse("duplicates window can not be negative");
        }
        if self.duplicate_window == 0 && self.origins().next().is_some() {
            // What comes from other streams is known by its place there.
        } else if self.duplicate_window == 0 {
            let longest = if self.max_age > 0 { self.max_age } else { DUPLICATE_WINDOW };
            self.duplicate_window = longest.min(DUPLICATE_WINDOW);
        } else if self.duplicate_window < 100 * MILLISECOND {
            return refuse("duplicates window needs to be >= 100ms");
        } else if self.max_age > 0 && self.duplicate_window > self.max_age {
            return refuse("duplicates window can not be larger then max age");
        }
        match self.subject_delete_marker_ttl {
            0 => Ok(()),
            SECOND.. => Ok(()),
            _ => refuse("subject delete marker TTL must be at least 1 second"),
        }
    }

    fn check_subjects(&self) -> Result<(), ApiError> {
        for (index, filter) in self.subjects.iter().enumerate() {
            if !subject::is_filter(filter.as_bytes()) {
                return Err(ApiError::stream_config("invalid subject"));
            }
            if !self.no_ack {
                if filter == ">" {
                    return Err(ApiError::stream_config("capturing all subjects requires no-ack to be true"));
                }
                for (reserved, what) in [("$JS.>", "jetstream api"), ("$SYS.>", "system api")] {
                    // Advisories may be kept: nobody waits for an answer on them.
                    let event = subject::covers(b"$JS.EVENT.>", filter.as_bytes())
                        || subject::covers(b"$SYS.ACCOUNT.>", filter.as_bytes());
                    if subject::overlaps(reserved.as_bytes(), filter.as_bytes()) && !event {
                        return Err(ApiError::stream_config(format!(
                            "subjects that overlap with {what} require no-ack to be true"
                        )));
                    }
                }
            }
            for other in &self.subjects[..index] {
                if other == filter {
                    return Err(ApiError::stream_config("duplicate subjects detected"));
                }
                if subject::overlaps(other.as_bytes(), filter.as_bytes()) {
                    return Err(ApiError::stream_config(format!(
                        "subject {other:?} overlaps with {filter:?}"
                    )));
                }
            }
        }
        Ok(())
    }

    fn check_transforms(&mut self) -> Result<(), ApiError> {
        if let Some(transform) = &self.subject_transform {
            if !transform.src.is_empty() && !subject::is_filter(transform.src.as_bytes()) {
                return Err(ApiError::transform_source(&transform.src));
            }
            Transform::parse(&transform.src, &transform.dest).map_err(ApiError::transform_destination)?;
        }
        let Some(republish) = &mut self.republish else { return Ok(()) };
        if republish.src.is_empty() {
            republish.src.push('>');
        }
        let dest = republish.dest.as_bytes();
        if self.subjects.iter().any(|own| subject::overlaps(own.as_bytes(), dest)) {
            return Err(ApiError::stream_config(
                "stream configuration for republish destination forms a cycle",
            ));
        }
        match Transform::parse(&republish.src, &republish.dest) {
            Ok(_) if !republish.dest.is_empty() => Ok(()),
            _ => Err(ApiError::stream_config(format!(
                "stream configuration for republish with transform from '{}' to '{}' not valid",
                republish.src, republish.dest
            ))),
        }
    }

    /// What the stream's acknowledgements promise.
    ///
    /// # Errors
    /// The metadata names a class that does not exist.
    pub fn durability(&self, default: Durability) -> Result<Durability, ApiError> {
        match self.metadata.get(DURABILITY_KEY).map(String::as_str) {
            Some("group") => Ok(Durability::Group),
            Some("process") => Ok(Durability::Process),
            Some("async") => Ok(Durability::Async),
            Some(other) => Err(ApiError::stream_config(format!(
                "metadata {DURABILITY_KEY} must be group, process or async, not {other:?}"
            ))),
            None if self.persist_mode == PersistMode::Async => Ok(Durability::Async),
            None => Ok(default),
        }
    }

    /// Checks that a stream with this configuration may get `next`, which is complete, and gives it what cannot change.
    ///
    /// # Errors
    /// [`ApiError`] with nats-server's words.
    pub fn check_update(&self, next: &mut Self) -> Result<(), ApiError> {
        let refuse = |reason: &str| Err(ApiError::stream_config(reason));
        if self.name != next.name {
            return refuse("stream configuration name must match original");
        }
        if self.storage != next.storage {
            return refuse("stream configuration update can not change storage type");
        }
        if self.retention != next.retention
            && (self.retention == Retention::WorkQueue || next.retention == Retention::WorkQueue)
        {
            return refuse("stream configuration update can not change retention policy to/from workqueue");
        }
        if self.sealed && !next.sealed {
            return refuse("stream configuration update can not unseal a sealed stream");
        }
        if self.deny_delete && !next.deny_delete {
            return refuse("stream configuration update can not cancel deny message deletes");
        }
        if self.deny_purge && !next.deny_purge {
            return refuse("stream configuration update can not cancel deny purge");
        }
        if self.allow_msg_ttl && !next.allow_msg_ttl {
            return refuse("message TTL status can not be disabled");
        }
        // Without its mirror it becomes a stream of its own.
        if next.mirror.is_some() && self.mirror != next.mirror {
            return Err(ApiError::new(400, 10055, "stream mirror configuration can not be updated"));
        }
        if self.allow_msg_counter != next.allow_msg_counter {
            return refuse("stream configuration update can not change message counter setting");
        }
        if self.allow_msg_schedules && !next.allow_msg_schedules {
            return refuse("message schedules can not be disabled");
        }
        if self.persist_mode != next.persist_mode {
            return refuse("stream configuration update can not change persist mode");
        }
        if next.sealed {
            next.discard = Discard::New;
            next.deny_delete = true;
            next.deny_purge = true;
            next.allow_rollup_hdrs = false;
        }
        Ok(())
    }

    /// The lowest API level that knows everything that is asked for here.
    pub(crate) fn required_level(&self) -> u8 {
        if self.allow_batched {
            return 4;
        }
        let kinds = self.allow_msg_counter || self.allow_atomic || self.allow_msg_schedules;
        if kinds || self.persist_mode == PersistMode::Async {
            2
        } else {
            u8::from(self.allow_msg_ttl || self.subject_delete_marker_ttl > 0)
        }
    }
}

/// Whether it can stand in a subject and in a file system as one name.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(['.', '*', '>', '/', '\\'])
        && !name.contains(|c: char| c.is_whitespace() || c.is_control())
}

pub(crate) fn metadata_bytes(metadata: &BTreeMap<String, String>) -> usize {
    metadata.iter().map(|(key, value)| key.len() + value.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> String {
        let config: StreamConfig = serde_json::from_str(json).unwrap();
        config.completed().unwrap_err().description
    }

    #[test]
    fn defaults_are_written_back() {
        let config: StreamConfig = serde_json::from_str(r#"{"name":"S"}"#).unwrap();
        let config = config.completed().unwrap();
        let expected = r#"{"name":"S","subjects":["S"],"retention":"limits","max_consumers":-1,"max_msgs":-1,"max_bytes":-1,"max_age":0,"max_msgs_per_subject":-1,"max_msg_size":-1,"discard":"old","storage":"file","num_replicas":1,"duplicate_window":120000000000,"compression":"none","allow_direct":false,"mirror_direct":false,"sealed":false,"deny_delete":false,"deny_purge":false,"allow_rollup_hdrs":false,"consumer_limits":{},"allow_msg_ttl":false}"#;
        assert_eq!(serde_json::to_string(&config).unwrap(), expected);
    }

    #[test]
    fn contradictions_are_refused_in_nats_servers_words() {
        for (json, reason) in [
            (r#"{"name":"T","subjects":["t..a"]}"#, "invalid subject"),
            (r#"{"name":"T","subjects":["t.a","t.*"]}"#, r#"subject "t.a" overlaps with "t.*""#),
            (r#"{"name":"T","subjects":[">"]}"#, "capturing all subjects requires no-ack to be true"),
            (
                r#"{"name":"T","subjects":["$JS.API.foo"]}"#,
                "subjects that overlap with jetstream api require no-ack to be true",
            ),
            (r#"{"name":"T","max_age":1000}"#, "max age needs to be >= 100ms"),
            (
                r#"{"name":"T","max_age":1000000000,"duplicate_window":10000000000}"#,
                "duplicates window can not be larger then max age",
            ),
            (r#"{"name":"T","duplicate_window":1000}"#, "duplicates window needs to be >= 100ms"),
            (
                r#"{"name":"T","discard_new_per_subject":true}"#,
                "discard new per subject requires discard new policy to be set",
            ),
            (
                r#"{"name":"T","deny_purge":true,"allow_rollup_hdrs":true}"#,
                "roll-ups require the purge permission",
            ),
            (r#"{"name":"T","num_replicas":3}"#, "replicas > 1 not supported in non-clustered mode"),
            (r#"{"name":"a>b"}"#, "stream name is required and can not contain '.', '*', '>', '\\', '/'"),
            (r#"{"name":"a/b"}"#, "Stream name can not contain path separators"),
            (
                r#"{"name":"T","subject_delete_marker_ttl":1000}"#,
                "subject delete marker TTL must be at least 1 second",
            ),
            (
                r#"{"name":"T","republish":{"dest":"T"}}"#,
                "stream configuration for republish destination forms a cycle",
            ),
        ] {
            assert_eq!(refused(json), reason, "{json}");
        }
    }

    #[test]
    fn the_window_is_no_longer_than_messages_live() {
        let config: StreamConfig = serde_json::from_str(r#"{"name":"S","max_age":1000000000}"#).unwrap();
        assert_eq!(config.completed().unwrap().duplicate_window, SECOND);
    }
}
