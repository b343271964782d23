//! Where a stream takes messages from beside its own subjects: the configuration of mirrors and sources, and what holds
//! together in it. The taking is in [`feeds`](crate::feeds).

use serde::{Deserialize, Serialize};

use super::SubjectTransform;
use super::config::is_default;
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
