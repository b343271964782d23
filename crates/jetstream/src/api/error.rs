//! What the API refuses with: HTTP-like code, number and text, exactly nats-server's, since clients branch on them.

use serde::{Deserialize, Serialize};

/// A refusal, as it stands under `error` in an answer.
///
/// Shape: `{"code":404,"err_code":10059,"description":"stream not found"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{description} ({err_code})")]
pub struct ApiError {
    /// Like HTTP's status: 400 the request is wrong, 404 not there, 5xx the server cannot.
    pub code: u16,
    /// The number that names the reason.
    pub err_code: u16,
    /// The reason in words.
    pub description: String,
}

impl ApiError {
    pub(crate) fn new(code: u16, err_code: u16, description: impl Into<String>) -> Self {
        Self { code, err_code, description: description.into() }
    }
}

macro_rules! refusals {
    ($($name:ident = $code:literal $err_code:literal $text:literal;)*) => {
        impl ApiError {
            $(
                #[doc = concat!("`", $text, "`.")]
                pub fn $name() -> Self {
                    Self::new($code, $err_code, $text)
                }
            )*
        }
    };
}

refusals! {
    account_resources_exceeded = 400 10002 "resource limits exceeded for account";
    bad_request = 400 10003 "bad request";
    cluster_required = 503 10010 "JetStream clustering support required";
    consumer_name_in_use = 400 10013 "consumer name already in use";
    consumer_not_found = 404 10014 "consumer not found";
    snapshot_deliver_subject = 400 10015 "deliver subject not valid";
    consumer_name_not_in_subject = 400 10017 "consumer name in subject does not match durable name in request";
    durable_name_not_set = 400 10018 "consumer expected to be durable but a durable name was not set";
    ephemeral_with_durable = 400 10020 "consumer expected to be ephemeral but a durable name was set in request";
    insufficient_resources = 503 10023 "insufficient resources";
    maximum_consumers = 400 10026 "maximum consumers limit reached";
    maximum_streams = 400 10027 "maximum number of streams reached";
    insufficient_memory = 500 10028 "insufficient memory resources available";
    no_message_found = 404 10037 "no message found";
    not_empty_request = 400 10038 "expected an empty request payload";
    insufficient_storage = 500 10047 "insufficient storage resources available";
    message_too_large = 400 10054 "message size exceeds maximum allowed";
    stream_mismatch = 400 10056 "stream name in subject does not match request";
    stream_name_in_use = 400 10058 "stream name already in use with a different configuration";
    stream_not_found = 404 10059 "stream not found";
    expected_stream = 400 10060 "expected stream does not match";
    subjects_overlap = 400 10065 "subjects overlap with an existing stream";
    replicas_not_supported = 500 10074 "replicas > 1 not supported in non-clustered mode";
    deliver_to_wildcards = 400 10079 "consumer deliver subject has wildcards";
    push_max_waiting = 400 10080 "consumer in push mode can not set max waiting";
    deliver_cycle = 400 10081 "consumer deliver subject forms a cycle";
    small_heartbeat = 400 10083 "consumer idle heartbeat needs to be >= 100ms";
    pull_requires_ack = 400 10084 "consumer in pull mode requires explicit ack policy on workqueue stream";
    direct_requires_push = 400 10090 "consumer direct requires a push based consumer";
    direct_requires_ephemeral = 400 10091 "consumer direct requires an ephemeral consumer";
    mirror_consumer_invalid = 400 10213 "stream mirror consumer config is invalid";
    source_consumer_invalid = 400 10215 "stream source consumer config is invalid";
    flow_control_acks_wait = 400 10221 "flow control ack policy requires unset ack wait";
    flow_control_acks_deliver = 400 10222 "flow control ack policy requires unset max deliver";
    flow_control_acks_require_push = 400 10218 "flow control ack policy requires a push based consumer";
    pull_with_rate_limit = 400 10086 "consumer in pull mode can not have rate limit set";
    heartbeat_requires_push = 400 10088 "consumer idle heartbeat requires a push based consumer";
    flow_control_requires_push = 400 10089 "consumer flow control requires a push based consumer";
    stream_invalid = 500 10096 "stream not valid";
    header_too_large = 400 10097 "header size exceeds maximum allowed of 64k";
    workqueue_requires_explicit_ack = 400 10098 "workqueue stream requires explicit ack";
    workqueue_multiple_unfiltered = 400 10099 "multiple non-filtered consumers not allowed on workqueue stream";
    workqueue_not_unique = 400 10100 "filtered consumer not unique on workqueue stream";
    workqueue_deliver_all = 400 10101 "consumer must be deliver all on workqueue stream";
    bad_durable_name = 400 10103 "durable name can not contain '.', '*', '>'";
    flow_control_needs_heartbeats = 400 10108 "consumer with flow control also needs heartbeats";
    stream_sealed = 400 10109 "invalid operation on sealed stream";
    invalid_deliver_subject = 400 10112 "invalid push consumer deliver subject";
    max_bytes_required = 400 10113 "account requires a stream config to have max bytes set";
    max_deliver_backoff = 400 10116 "max deliver is required to be > length of backoff values";
    max_stream_bytes_exceeded = 400 10122 "stream max bytes exceeds account limit max stream bytes";
    consumer_replicas_exceed_stream = 400 10126 "consumer config replica count exceeds parent stream";
    consumer_name_path = 400 10127 "Consumer name can not contain path separators";
    stream_name_path = 400 10128 "Stream name can not contain path separators";
    restore_name_in_use = 400 10130 "stream name already in use, cannot restore";
    create_filter_mismatch = 400 10131 "Consumer create request did not match filtered subject from create subject";
    durable_and_name = 400 10132 "Consumer Durable and Name have to be equal if both are provided";
    replicas_negative = 400 10133 "replicas count cannot be negative";
    both_filters = 400 10136 "consumer cannot have both FilterSubject and FilterSubjects specified";
    filters_in_subject = 400 10137 "consumer with multiple subject filters cannot use subject based API";
    overlapping_filters = 400 10138 "consumer subject filters cannot overlap";
    empty_filter = 400 10139 "consumer filter in FilterSubjects cannot be empty";
    consumer_exists = 400 10148 "consumer already exists";
    consumer_does_not_exist = 400 10149 "consumer does not exist";
    priority_policy_without_group = 400 10159 "Setting PriorityPolicy requires at least one PriorityGroup to be set";
    invalid_priority_group = 400 10160 "Provided priority group does not exist for this consumer";
    empty_priority_group = 400 10161 "Group name cannot be an empty string";
    bad_priority_group = 400 10162 "Valid priority group name must match A-Z, a-z, 0-9, -_/=)+ and may not exceed 16 characters";
    wrong_last_sequence_in_batch = 400 10164 "wrong last sequence";
    ttl_invalid = 400 10165 "invalid per-message TTL";
    ttl_disabled = 400 10166 "per-message TTL is disabled";
    counters_disabled = 400 10168 "message counters is disabled";
    counter_missing = 400 10169 "message counter increment is missing";
    counter_payload = 400 10170 "message counter has payload";
    counter_invalid = 400 10171 "message counter increment is invalid";
    counter_broken = 400 10172 "message counter is broken";
    atomic_disabled = 400 10174 "atomic publish is disabled";
    batch_sequence_missing = 400 10175 "atomic publish sequence is missing";
    batch_incomplete = 400 10176 "atomic publish batch is incomplete";
    push_with_priority_groups = 400 10178 "priority groups can not be used with push consumers";
    batch_id_invalid = 400 10179 "atomic publish batch ID is invalid";
    ack_wait_negative = 400 10183 "consumer ack wait needs to be positive";
    backoff_negative = 400 10184 "consumer backoff needs to be positive";
    schedules_disabled = 400 10188 "message schedules is disabled";
    schedule_pattern = 400 10189 "message schedules pattern is invalid";
    schedule_target = 400 10190 "message schedules target is invalid";
    schedule_ttl = 400 10191 "message schedules invalid per-message TTL";
    schedule_rollup = 400 10192 "message schedules invalid rollup";
    missing_expected_sequence = 400 10193 "missing sequence for expected last sequence per subject";
    groups_without_policy = 400 10196 "consumer can not have priority groups when policy is none";
    pinned_ttl_without_policy = 400 10197 "PinnedTTL cannot be set when PriorityPolicy is none";
    batch_commit_invalid = 400 10200 "atomic publish batch commit is invalid";
    batch_duplicate = 400 10201 "atomic publish batch contains duplicate message id";
    schedule_source = 400 10203 "message schedules source is invalid";
    batch_disabled = 400 10205 "batch publish is disabled";
    batch_pattern_invalid = 400 10206 "batch publish pattern is invalid";
    fast_batch_id_invalid = 400 10207 "batch publish ID is invalid";
    fast_batch_unknown = 400 10208 "batch publish ID unknown";
}

refusals! {
    required_level = 412 10185 "JetStream minimum api level required";
    too_many_batches = 429 10210 "atomic publish too many inflight";
    too_many_fast_batches = 429 10211 "batch publish too many inflight";
    schedule_scheduler = 400 10212 "message schedules invalid scheduler";
    source_header = 400 10227 "message stream source header is not allowed";
    schedule_zone = 400 10223 "message schedules time zone is invalid";
}

impl ApiError {
    /// A message of an atomic batch asks for what cannot be had in one.
    pub fn batch_unsupported(header: &str) -> Self {
        Self::new(400, 10177, format!("atomic publish unsupported header used: {header}"))
    }

    /// An atomic batch has more messages than it may.
    pub fn batch_too_large(max: usize) -> Self {
        Self::new(400, 10199, format!("atomic publish batch is too large: {max}"))
    }

    /// The request is no JSON, or not the JSON that is wanted.
    pub fn invalid_json(reason: impl std::fmt::Display) -> Self {
        Self::new(400, 10025, format!("invalid JSON: {reason}"))
    }

    /// A consumer cannot be created or changed like this.
    pub fn consumer_create(reason: impl Into<String>) -> Self {
        Self::new(500, 10012, reason)
    }

    /// There was a message with this sequence.
    pub fn sequence_not_found(seq: u64) -> Self {
        Self::new(400, 10043, format!("sequence {seq} not found"))
    }

    /// A stream cannot be created.
    pub fn stream_create(reason: impl Into<String>) -> Self {
        Self::new(500, 10049, reason)
    }

    /// A stream cannot be deleted.
    pub fn stream_delete(reason: impl Into<String>) -> Self {
        Self::new(500, 10050, reason)
    }

    /// A stream's configuration does not hold together.
    pub fn stream_config(reason: impl Into<String>) -> Self {
        Self::new(500, 10052, reason)
    }

    /// A message cannot be deleted.
    pub fn message_delete(reason: impl Into<String>) -> Self {
        Self::new(500, 10057, reason)
    }

    /// A backup cannot be taken.
    pub fn restore_failed(reason: impl std::fmt::Display) -> Self {
        Self::new(500, 10062, format!("restore failed: {reason}"))
    }

    /// A backup cannot be made.
    pub fn snapshot_failed(reason: impl std::fmt::Display) -> Self {
        Self::new(500, 10064, format!("snapshot failed: {reason}"))
    }

    /// The last message id is another one.
    pub fn wrong_last_id(last: &str) -> Self {
        Self::new(400, 10070, format!("wrong last msg ID: {last}"))
    }

    /// The last sequence is another one.
    pub fn wrong_last_sequence(last: u64) -> Self {
        Self::new(400, 10071, format!("wrong last sequence: {last}"))
    }

    /// The store refused the message.
    pub fn store_failed(reason: impl Into<String>) -> Self {
        Self::new(503, 10077, reason)
    }

    /// The deliver policy and what is set beside it contradict each other.
    pub fn invalid_policy(reason: impl Into<String>) -> Self {
        Self::new(400, 10094, reason)
    }

    /// The sampling frequency is no number.
    pub fn invalid_sampling(reason: impl std::fmt::Display) -> Self {
        Self::new(400, 10095, format!("failed to parse consumer sampling configuration: {reason}"))
    }

    /// The name is longer than a name may be.
    pub fn consumer_name_too_long(max: usize) -> Self {
        Self::new(400, 10102, format!("consumer name is too long, maximum allowed is {max}"))
    }

    /// The description is longer than it may be.
    pub fn consumer_description_too_long(max: usize) -> Self {
        Self::new(400, 10107, format!("consumer description is too long, maximum allowed is {max}"))
    }

    /// Messages cannot be purged.
    pub fn purge_failed(reason: impl Into<String>) -> Self {
        Self::new(500, 10110, reason)
    }

    /// A roll-up cannot be made.
    pub fn rollup_failed(reason: impl Into<String>) -> Self {
        Self::new(500, 10111, reason)
    }

    /// More unacknowledged messages than the stream allows its consumers.
    pub fn max_ack_pending_excess(limit: i64) -> Self {
        Self::new(400, 10121, format!("consumer max ack pending exceeds system limit of {limit}"))
    }

    /// More messages in a request than the server allows.
    pub fn max_request_batch_excess(limit: i64) -> Self {
        Self::new(400, 10125, format!("consumer max request batch exceeds server limit of {limit}"))
    }

    /// The metadata is larger than it may be.
    pub fn consumer_metadata_too_large(limit: usize) -> Self {
        Self::new(400, 10135, format!("consumer metadata exceeds maximum size of {limit} bytes"))
    }

    /// A longer inactivity than the stream allows its consumers.
    pub fn inactive_threshold_excess(limit: &str) -> Self {
        Self::new(400, 10153, format!("consumer inactive threshold exceeds system limit of {limit}"))
    }

    /// What a subject transform is for is no filter.
    pub fn transform_source(src: &str) -> Self {
        Self::new(400, 10155, format!("stream transform source: invalid subject {src}"))
    }

    /// What a subject transform makes of it is no subject.
    pub fn transform_destination(reason: impl std::fmt::Display) -> Self {
        Self::new(400, 10156, format!("stream transform: {reason}"))
    }

    /// Something would have to be corrected, and a pedantic request forbids that.
    pub fn pedantic(reason: impl std::fmt::Display) -> Self {
        Self::new(400, 10157, format!("pedantic mode: {reason}"))
    }

    /// A consumer does not begin where it is wanted to.
    pub fn invalid_reset(reason: &str) -> Self {
        Self::new(400, 10204, format!("invalid reset: {reason}"))
    }

    /// Consumers have more than a stream would allow its consumers.
    pub fn limits_violate_consumers(names: &[&str]) -> Self {
        Self::new(500, 10069, format!("change to limits violates consumers: {}", names.join(", ")))
    }

    /// A feature that this server does not have; the text names it.
    pub fn unsupported(feature: &str) -> Self {
        Self::stream_config(format!("{feature} is not supported by this server"))
    }
}
