//! What the daemon's two streams are like: the audit, from which nothing is taken out but by its limits, and the bucket
//! of desired states.

use ostler_wire::{AUDIT_STREAM, AUDIT_SUBJECTS, DESIRED_STREAM, DESIRED_SUBJECTS, JsonMap};
use serde_json::{Value, json};

use super::AuditOptions;

/// Values of a key that are kept, so that a late reader sees how it came to be.
const DESIRED_HISTORY: u32 = 8;

/// What our own bus takes as "acknowledged means on disk"; others ignore it.
const DURABILITY: (&str, &str) = ("ostler.durability", "group");

/// The stream of the audit. Replicas, storage and placement are not named: where somebody made the stream with others
/// than the server's defaults, they stay.
pub(super) fn audit(options: &AuditOptions) -> JsonMap {
    let nanos = |ms: u64| ms.saturating_mul(1_000_000).min(i64::MAX as u64);
    object(json!({
        "name": AUDIT_STREAM,
        "subjects": [AUDIT_SUBJECTS],
        "retention": "limits",
        "discard": "old",
        "max_bytes": i64::try_from(options.bytes_max).unwrap_or(i64::MAX),
        "max_age": options.age_ms_max.map_or(0, nanos),
        "deny_delete": true,
        "deny_purge": true,
        "allow_direct": true,
        "metadata": { DURABILITY.0: DURABILITY.1 },
    }))
}

/// The stream of the bucket, as a client's key-value store makes it.
pub(super) fn desired() -> JsonMap {
    object(json!({
        "name": DESIRED_STREAM,
        "subjects": [DESIRED_SUBJECTS],
        "retention": "limits",
        "discard": "new",
        "max_msgs_per_subject": DESIRED_HISTORY,
        "deny_delete": true,
        "allow_rollup_hdrs": true,
        "allow_direct": true,
        "metadata": { DURABILITY.0: DURABILITY.1 },
    }))
}

fn object(value: Value) -> JsonMap {
    match value {
        Value::Object(object) => object,
        _ => JsonMap::new(),
    }
}
