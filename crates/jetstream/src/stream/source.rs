//! Where a stream takes messages from beside its own subjects: the configuration of mirrors and sources, and what holds
//! together in it. The taking is in [`feed`](super::feed) and [`feeds`](crate::feeds).

use ostler_broker_proto::subject;
use serde::{Deserialize, Serialize};

use super::config::{StreamConfig, is_default, is_name};
use super::transform::{SubjectTransform, Transform};
use crate::api::ApiError;
use crate::time::Time;

/// A stream that messages are taken from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamSource {
    /// Its name.
    pub name: String,
    /// The first message wanted; 0 for all.
    #[serde(skip_serializing_if = "is_default")]
    pub opt_start_seq: u64,
    /// When the first message wanted was stored.
    #[serde(skip_serializing_if = "Time::is_none")]
    pub opt_start_time: Time,
    /// Only what matches; empty means all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filter_subject: String,
    /// Only what matches one of them, under the subject it makes. None means all, as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_transforms: Vec<SubjectTransform>,
    /// Where it is, when somewhere else: only this server's own domain can be named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<External>,
    /// The consumer through which it is taken, made beforehand; it says from where on and what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<StreamConsumerSource>,
}

/// A consumer of another stream, with the ack policy `flow_control`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamConsumerSource {
    /// Its name.
    pub name: String,
    /// Its deliver subject.
    pub deliver_subject: String,
}

/// Another place that a stream is in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct External {
    /// What the subjects of its API begin with.
    pub api: String,
    /// What the subjects of its deliveries begin with.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub deliver: String,
}

/// Which of the two it is: nats-server has words and numbers of their own for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FeedKind {
    Mirror,
    Source,
}

impl StreamSource {
    fn check(&self, kind: FeedKind) -> Result<(), ApiError> {
        let refuse = |mirror: (u16, &str), source: (u16, &str)| {
            let (number, text) = if kind == FeedKind::Mirror { mirror } else { source };
            Err(ApiError::new(400, number, text))
        };
        if !is_name(&self.name) {
            return refuse(
                (10142, "mirrored stream name is invalid"),
                (10141, "sourced stream name is invalid"),
            );
        }
        if let Some(consumer) = &self.consumer {
            let deliver = consumer.deliver_subject.as_bytes();
            let limited =
                self.opt_start_seq > 0 || !self.opt_start_time.is_none() || !self.filter_subject.is_empty();
            let is_literal = subject::is_filter(deliver) && !subject::has_wildcard(deliver);
            if !is_name(&consumer.name) || !is_literal || limited {
                return Err(match kind {
                    FeedKind::Mirror => ApiError::mirror_consumer_invalid(),
                    FeedKind::Source => ApiError::source_consumer_invalid(),
                });
            }
        }
        if !self.filter_subject.is_empty() {
            if !self.subject_transforms.is_empty() {
                return refuse(
                    (
                        10150,
                        "mirror with multiple subject transforms cannot also have a single subject filter",
                    ),
                    (
                        10144,
                        "source with multiple subject transforms cannot also have a single subject filter",
                    ),
                );
            }
            if !subject::is_filter(self.filter_subject.as_bytes()) {
                let of = if kind == FeedKind::Mirror { "mirror" } else { "source:" };
                let text = format!("subject filter '{}' for the {of} invalid subject", self.filter_subject);
                return Err(ApiError::stream_create(text));
            }
        }
        for (index, transform) in self.subject_transforms.iter().enumerate() {
            let src = &transform.src;
            if !src.is_empty() && !subject::is_filter(src.as_bytes()) {
                return refuse(
                    (10151, &format!("mirror transform source: invalid subject {src}")),
                    (10145, &format!("source transform source: invalid subject {src}")),
                );
            }
            let others = &self.subject_transforms[..index];
            if others.iter().any(|other| subject::overlaps(filter(src), filter(&other.src))) {
                return refuse(
                    (10152, "mirror subject filters can not overlap"),
                    (10147, "source filters can not overlap"),
                );
            }
        }
        for transform in &self.subject_transforms {
            if let Err(error) = Transform::parse(&transform.src, &transform.dest) {
                return refuse(
                    (10154, &format!("mirror transform: {error}")),
                    (10146, &format!("source transform: {error}")),
                );
            }
        }
        Ok(())
    }
}

fn filter(src: &str) -> &[u8] {
    if src.is_empty() { b">" } else { src.as_bytes() }
}

impl StreamConfig {
    /// Checks what is said of other streams, as far as it can be without looking at them.
    pub(super) fn check_origins(&self) -> Result<(), ApiError> {
        if let Some(mirror) = &self.mirror {
            let refused = [
                (!self.subjects.is_empty(), 10034, "stream mirrors can not contain subjects"),
                (!self.sources.is_empty(), 10031, "stream mirrors can not also contain other sources"),
                (self.first_seq > 0, 10143, "stream mirrors can not have first sequence configured"),
                (self.allow_msg_counter, 10173, "stream mirrors can not also calculate counters"),
                (self.allow_atomic, 10198, "stream mirrors can not also use atomic publishing"),
                (self.allow_batched, 10209, "stream mirrors can not also use batch publishing"),
                (self.allow_msg_schedules, 10186, "stream mirrors can not also schedule messages"),
            ];
            if let Some((_, number, text)) = refused.iter().find(|(wrong, ..)| *wrong) {
                return Err(ApiError::new(400, *number, *text));
            }
            if self.subject_delete_marker_ttl > 0 {
                return Err(ApiError::stream_config("subject delete markers forbidden on mirrors"));
            }
            mirror.check(FeedKind::Mirror)?;
        }
        if self.allow_msg_schedules && !self.sources.is_empty() {
            return Err(ApiError::new(400, 10187, "stream source can not also schedule messages"));
        }
        for (index, source) in self.sources.iter().enumerate() {
            source.check(FeedKind::Source)?;
            let same = |other: &StreamSource| {
                other.name == source.name
                    && other.filter_subject == source.filter_subject
                    && other.subject_transforms == source.subject_transforms
                    && other.external == source.external
                    && other.consumer == source.consumer
            };
            if self.sources[..index].iter().any(same) {
                return Err(ApiError::new(400, 10140, "duplicate source configuration detected"));
            }
        }
        Ok(())
    }

    /// The streams it takes from.
    pub(crate) fn origins(&self) -> impl Iterator<Item = &StreamSource> {
        self.mirror.iter().chain(&self.sources)
    }
}
