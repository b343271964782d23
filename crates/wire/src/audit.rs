//! What is kept for good: the entries of the audit stream, their hash chain, and the bucket of desired states.
//!
//! An entry is a message on `audit.{node}.agent.{id}` or `audit.{node}.node`, stored in the stream [`AUDIT_STREAM`].
//! Its hash is the SHA-256 of the payload as it was stored, byte for byte, in lower-case hexadecimal; it stands in the
//! header [`AUDIT_HASH_HEADER`] and, as `prev`, in the entry that follows. Who changes, removes or inserts an entry
//! breaks the chain there; whoever removes the last ones is told by the node, which knows how far its chain goes.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{AgentId, DesiredState, JsonMap, NodeId, SpawnRequest, Subject, Timestamp};

/// The stream that holds the audit entries of all nodes of a bus.
pub const AUDIT_STREAM: &str = "AUDIT";

/// Every subject of [`AUDIT_STREAM`].
pub const AUDIT_SUBJECTS: &str = "audit.>";

/// The header with an entry's own hash.
pub const AUDIT_HASH_HEADER: &str = "Ostler-Hash";

/// The `prev` of a chain's first entry.
pub const AUDIT_HASH_NONE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The key-value bucket of desired states; its keys are `{node}.{agent}`, its values [`DesiredAgent`].
pub const DESIRED_BUCKET: &str = "OSTLER_DESIRED";

/// The stream behind [`DESIRED_BUCKET`].
pub const DESIRED_STREAM: &str = "KV_OSTLER_DESIRED";

/// Every subject of [`DESIRED_STREAM`].
pub const DESIRED_SUBJECTS: &str = "$KV.OSTLER_DESIRED.>";

/// The header of a request that says who asks, as the asker tells it: `alice@box`. Nobody vouches for it; what the
/// asker may ask is what the bus permits its credential.
pub const BY_HEADER: &str = "Ostler-By";

/// One entry of the audit stream.
///
/// Shape: compact JSON, stored and hashed as it is: whoever checks it hashes the payload and never writes it anew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AuditEntry {
    /// Counts the chain's entries, from 1 without a gap.
    pub seq: u64,
    /// Names the chain: a node has one for as long as it keeps its database.
    pub chain: String,
    /// The hash of the chain's entry before this one; 64 zeros in the first.
    pub prev: String,
    /// The node it happened at.
    pub node: NodeId,
    /// When it happened, which is before it was stored.
    pub timestamp: Timestamp,
    /// What, for a program: `command.stop`, `agent.state`, `tool.use`, `alert`, …
    pub kind: String,
    /// Whom it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// Who did it: `daemon`, `agent`, or who asked as the asker tells it ([`BY_HEADER`]); absent when nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What, for a person.
    pub text: String,
    /// The details, by kind.
    #[serde(default, skip_serializing_if = "JsonMap::is_empty")]
    pub details: JsonMap,
}

/// An entry but for its details, which are skipped however deep they are.
#[derive(Deserialize)]
struct Bare {
    seq: u64,
    chain: String,
    prev: String,
    node: NodeId,
    timestamp: Timestamp,
    kind: String,
    agent_id: Option<AgentId>,
    by: Option<String>,
    text: String,
}

impl AuditEntry {
    /// Reads a stored entry. Details that cannot be read, as they are nested too deep, are replaced by
    /// `{"unreadable": reason}`: they come from outside, and must not hide the entry that has them.
    ///
    /// # Errors
    /// The payload is no entry: somebody else wrote it.
    pub fn read(payload: &[u8]) -> Result<Self, serde_json::Error> {
        let unreadable = match serde_json::from_slice(payload) {
            Ok(entry) => return Ok(entry),
            Err(error) => error,
        };
        let Bare { seq, chain, prev, node, timestamp, kind, agent_id, by, text } =
            serde_json::from_slice(payload)?;
        let details = JsonMap::from_iter([("unreadable".to_owned(), unreadable.to_string().into())]);
        Ok(Self { seq, chain, prev, node, timestamp, kind, agent_id, by, text, details })
    }

    /// Where it is published.
    pub fn subject(&self) -> Subject {
        match &self.agent_id {
            Some(agent) => Subject::AuditAgent(self.node.clone(), agent.clone()),
            None => Subject::AuditNode(self.node.clone()),
        }
    }
}

/// The SHA-256 of a payload in lower-case hexadecimal, as the chain uses it.
pub fn audit_hash(payload: &[u8]) -> String {
    let digest: [u8; 32] = Sha256::digest(payload).into();
    digest
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|nibble| char::from_digit(u32::from(nibble), 16))
        .collect()
}

/// What is wanted of an agent: the value of its key in [`DESIRED_BUCKET`]. A key without a value means: it was removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DesiredAgent {
    /// The agent.
    pub agent_id: AgentId,
    /// The node that looks after it.
    pub node: NodeId,
    /// Whether it is to run.
    pub desired: DesiredState,
    /// How it is to be run.
    pub spawn: SpawnRequest,
    /// When it was first configured.
    pub created_at: Timestamp,
}

/// How the node's audit fares: part of [`crate::NodeInfo`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct AuditStatus {
    /// The node's chain.
    pub chain: String,
    /// The number of its last entry; 0 when there is none.
    pub seq: u64,
    /// The number of the last entry that the stream acknowledged to have stored.
    pub stored: u64,
    /// That entry's hash: the stream must have it.
    pub stored_hash: String,
    /// Its number in the stream; 0 when it is not known.
    #[serde(skip_serializing_if = "is_zero")]
    pub stored_stream_seq: u64,
    /// When the stream acknowledged it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_at: Option<Timestamp>,
    /// When that stream was made, as the bus writes it; empty when it is not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stream_created: String,
    /// Things that happened while too much waited, and that no entry tells.
    pub lost: u64,
    /// Why nothing is stored at the moment; absent when all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem_since: Option<Timestamp>,
}

impl AuditStatus {
    /// Entries that wait in the node's database to be stored.
    pub fn waiting(&self) -> u64 {
        self.seq.saturating_sub(self.stored)
    }

    /// Whether the last entry that was stored, and with it all before, may have gone for the stream's limits: it is
    /// older than the stream keeps entries, or newer ones of others filled the stream.
    pub fn may_have_gone(&self, stream: &AuditStream, now: Timestamp) -> bool {
        let is_old = stream.age_ms_max > 0
            && self.stored_at.is_some_and(|at| {
                now.as_millisecond().saturating_sub(at.as_millisecond()) >= stream.age_ms_max
            });
        let is_full = stream.bytes_max > 0
            && stream.bytes.saturating_add(AUDIT_MESSAGE_BYTES_MAX) >= stream.bytes_max
            && self.stored_stream_seq > 0;
        stream.first_seq > self.stored_stream_seq && (is_old || is_full)
    }

    /// Whether the stream is another one than that of the last entry that was stored.
    pub fn is_elsewhere(&self, stream: &AuditStream) -> bool {
        self.stored > 0 && !self.stream_created.is_empty() && self.stream_created != stream.created
    }
}

/// More than an entry ever takes in the stream: a stream that has less room left is full.
const AUDIT_MESSAGE_BYTES_MAX: u64 = 64 * 1024;

/// What is known of the stream that holds the entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditStream {
    /// When it was made, as the bus writes it.
    pub created: String,
    /// The number of its first message, or of the next one where it has none.
    pub first_seq: u64,
    /// What its messages take, in bytes.
    pub bytes: u64,
    /// What they may take; 0 means that there is no limit.
    pub bytes_max: u64,
    /// How long it keeps messages, in milliseconds; 0 means for ever.
    pub age_ms_max: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(details: &str) -> String {
        format!(
            r#"{{"seq":7,"chain":"c","prev":"p","node":"box","timestamp":"2026-11-20T22:00:00Z","kind":"k","text":"t","details":{details}}}"#
        )
    }

    #[test]
    fn details_that_cannot_be_read_hide_no_entry() {
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(5000), "]".repeat(5000));
        // What a JSON library takes for its own sign.
        let sign = r#"{"a":{"$serde_json::private::RawValue":"no json","b":1}}"#;
        for details in [deep.as_str(), sign] {
            let entry = AuditEntry::read(payload(details).as_bytes()).unwrap();
            assert_eq!((entry.seq, entry.text.as_str()), (7, "t"));
            assert!(entry.details["unreadable"].is_string());
        }
        assert_eq!(AuditEntry::read(payload(r#"{"a":1}"#).as_bytes()).unwrap().details["a"], 1);
        assert!(AuditEntry::read(b"{}").is_err());
        assert!(AuditEntry::read(payload("{").as_bytes()).is_err());
    }

    #[test]
    fn entries_go_for_limits_when_they_are_old_or_the_stream_is_full() {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        let status = AuditStatus {
            stored: 5,
            stored_stream_seq: 9,
            stored_at: Some(at(1000)),
            stream_created: "t".into(),
            ..AuditStatus::default()
        };
        let emptied =
            AuditStream { created: "t".into(), first_seq: 10, bytes_max: 1 << 20, ..AuditStream::default() };
        assert!(!status.may_have_gone(&emptied, at(9000)), "nothing explains it");
        let short = AuditStream { age_ms_max: 4000, ..emptied.clone() };
        assert!(status.may_have_gone(&short, at(5000)) && !status.may_have_gone(&short, at(4999)));
        let full = AuditStream { bytes: 1 << 20, ..emptied.clone() };
        assert!(status.may_have_gone(&full, at(1000)));
        let still_there = AuditStream { first_seq: 9, ..full };
        assert!(!status.may_have_gone(&still_there, at(1000)), "older ones are still there");
        assert!(!status.is_elsewhere(&emptied));
        assert!(status.is_elsewhere(&AuditStream { created: "later".into(), ..emptied }));
    }
}
