//! What is answered, in nats-server's JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::error::ApiError;
use crate::consumer::ConsumerInfo;
use crate::stream::{External, StreamConfig, SubjectTransform, is_default};
use crate::time::Time;

/// Every answer's `type` begins with this.
const TYPE_PREFIX: &str = "io.nats.jetstream.api.v1.";

#[derive(Serialize)]
struct Typed<'a, T> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(flatten)]
    body: &'a T,
}

/// An answer that knows its `type`.
pub(crate) trait Answer: Serialize {
    /// The last part of it.
    const KIND: &'static str;
}

/// Writes an answer under another type than its own.
pub(crate) fn render<T: Serialize>(kind: &str, body: &T) -> Vec<u8> {
    let typed = Typed { kind: format!("{TYPE_PREFIX}{kind}"), body };
    // Maps with text keys and no failing serializers: there is nothing that can fail.
    serde_json::to_vec(&typed).unwrap_or_default()
}

/// Writes a refusal.
pub(crate) fn refusal(kind: &str, error: &ApiError) -> Vec<u8> {
    #[derive(Serialize)]
    struct Refused<'a> {
        error: &'a ApiError,
    }
    render(kind, &Refused { error })
}

/// The answer to `$JS.API.INFO`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AccountInfo {
    /// Bytes of all streams in memory.
    pub memory: u64,
    /// Bytes of all streams in files.
    pub storage: u64,
    /// Bytes that streams in memory may grow to.
    pub reserved_memory: u64,
    /// Bytes that streams in files may grow to.
    pub reserved_storage: u64,
    /// How many streams there are.
    pub streams: usize,
    /// How many consumers there are.
    pub consumers: usize,
    /// The name others reach this server's streams by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// What may be used.
    pub limits: AccountLimits,
    /// How often the API was used.
    pub api: ApiCounts,
}

impl Answer for AccountInfo {
    const KIND: &'static str = "account_info_response";
}

/// What all streams together may use; -1 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the fields are nats-server's")]
pub struct AccountLimits {
    pub max_memory: i64,
    pub max_storage: i64,
    pub max_streams: i64,
    pub max_consumers: i64,
    pub max_ack_pending: i64,
    pub memory_max_stream_bytes: i64,
    pub storage_max_stream_bytes: i64,
    pub max_bytes_required: bool,
}

impl Default for AccountLimits {
    fn default() -> Self {
        Self {
            max_memory: -1,
            max_storage: -1,
            max_streams: -1,
            max_consumers: -1,
            max_ack_pending: -1,
            memory_max_stream_bytes: -1,
            storage_max_stream_bytes: -1,
            max_bytes_required: false,
        }
    }
}

/// How often the API was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ApiCounts {
    /// What of nats-server's API is known here.
    pub level: u8,
    /// Requests.
    pub total: u64,
    /// Those that were refused.
    pub errors: u64,
}

/// What a stream holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StreamState {
    /// Messages.
    pub messages: u64,
    /// Their bytes, as limits count them.
    pub bytes: u64,
    /// The first message; 0 before there was one.
    pub first_seq: u64,
    /// When it was stored.
    pub first_ts: Time,
    /// The last sequence used.
    pub last_seq: u64,
    /// When it was.
    pub last_ts: Time,
    /// Different subjects.
    #[serde(skip_serializing_if = "is_default")]
    pub num_subjects: u64,
    /// The messages of each subject asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subjects: Option<BTreeMap<String, u64>>,
    /// Sequences between first and last without a message.
    #[serde(skip_serializing_if = "is_default")]
    pub num_deleted: u64,
    /// Which these are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deleted: Vec<u64>,
    /// Consumers.
    pub consumer_count: usize,
}

/// A stream as the API shows it.
#[derive(Debug, Clone, Serialize)]
pub struct StreamInfo {
    /// With defaults and the server's metadata.
    pub config: StreamConfig,
    /// When it was created.
    pub created: Time,
    /// What it holds.
    pub state: StreamState,
    /// The stream it is a copy of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<SourceInfo>,
    /// The streams it takes messages from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceInfo>,
    /// When this was said.
    pub ts: Time,
}

/// A stream that another takes from, and how far that is.
#[derive(Debug, Clone, Serialize)]
pub struct SourceInfo {
    /// Its name.
    pub name: String,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<External>,
    /// How many messages are still to be taken.
    pub lag: u64,
    /// The last message that a source gave.
    #[serde(skip_serializing_if = "is_default")]
    pub seq: u64,
    /// Nanoseconds since it was heard of, -1 when it never was.
    pub active: i64,
    /// Only what matches is taken; empty for all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filter_subject: String,
    /// Only what matches one of them is taken, under another subject.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_transforms: Vec<SubjectTransform>,
    /// Why nothing more is taken at the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Created {
    #[serde(flatten)]
    pub(crate) info: StreamInfo,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) did_create: bool,
}

/// A page of something with the info of a stream around it.
#[derive(Debug, Serialize)]
pub(crate) struct Listed<T> {
    pub(crate) total: usize,
    pub(crate) offset: usize,
    pub(crate) limit: usize,
    #[serde(flatten)]
    pub(crate) page: T,
}

/// A list under the name it has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Named<T> {
    Streams(Vec<T>),
    Consumers(Vec<T>),
}

#[derive(Debug, Serialize)]
pub(crate) struct Deleted {
    pub(crate) success: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct Reset {
    #[serde(flatten)]
    pub(crate) info: ConsumerInfo,
    pub(crate) reset_seq: u64,
}

/// Nothing is said beside that it was done.
#[derive(Debug, Serialize)]
pub(crate) struct Unpinned {}

#[derive(Debug, Serialize)]
pub(crate) struct Paused {
    pub(crate) paused: bool,
    pub(crate) pause_until: Time,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) pause_remaining: i64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Purged {
    pub(crate) success: bool,
    pub(crate) purged: u64,
}

impl Answer for Purged {
    const KIND: &'static str = "stream_purge_response";
}

#[derive(Debug, Serialize)]
pub(crate) struct MessageFound {
    pub(crate) message: StoredMessage,
}

impl Answer for MessageFound {
    const KIND: &'static str = "stream_msg_get_response";
}

#[derive(Debug, Serialize)]
pub(crate) struct StoredMessage {
    pub(crate) subject: String,
    pub(crate) seq: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) hdrs: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) data: String,
    pub(crate) time: Time,
}

/// A sequence of a consumer and of its stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SequenceInfo {
    /// The how-manieth delivery.
    pub consumer_seq: u64,
    /// Of which message.
    pub stream_seq: u64,
    /// When.
    #[serde(skip_serializing_if = "Time::is_none")]
    pub last_active: Time,
}
