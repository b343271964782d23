//! Questions that wait for a person, and their answers.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::{AgentId, RequestId, Timestamp};

/// The agent asks whether it may stop; request on `agent.{id}.stop.request`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StopApprovalRequest {
    /// Who asks.
    pub agent_id: AgentId,
    /// Why it wants to stop.
    #[serde(default)]
    pub reason: String,
    /// What the supervisor should know.
    #[serde(default)]
    pub context: String,
    /// What it has done. A boolean is accepted and read as `"true"` or `"false"`.
    #[serde(default, deserialize_with = "text_or_bool")]
    pub work_completed: String,
}

/// The answer to a stop request; at once, and later on `agent.{id}.stop.response`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StopApprovalResponse {
    /// Whether it may.
    pub approved: bool,
    /// Why, or `pending <request id>` while a person decides.
    pub message: String,
}

/// Something waits for a person; published on `captain.approval.{request_id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ApprovalRequest {
    /// Names the question.
    pub request_id: RequestId,
    /// Who waits.
    pub agent_id: AgentId,
    /// What is asked.
    pub kind: ApprovalKind,
    /// The question, for a person.
    pub text: String,
    /// The exact action it is about.
    #[serde(default)]
    pub action: Value,
    /// SHA-256 over the canonical action, hexadecimal: a changed action is another question.
    pub digest: String,
    /// When it was asked.
    pub created_at: Timestamp,
    /// When it expires unanswered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// What a person is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ApprovalKind {
    /// May this tool run with these arguments?
    Tool,
    /// May the agent stop?
    Stop,
    /// A free question.
    Question,
}

/// The person's answer; request on `captain.approval.{request_id}.decide`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ApprovalDecision {
    /// Yes or no.
    pub approved: bool,
    /// The digest of the action that was shown; a decision about another is refused.
    pub digest: String,
    /// Who decided.
    pub by: String,
    /// Why, or the answer to a free question.
    #[serde(default)]
    pub message: String,
}

/// A decision or an announcement to all agents: `captain.decision`, `captain.broadcast`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CaptainMessage {
    /// Who says it.
    pub from: String,
    /// What.
    pub text: String,
    /// When.
    pub timestamp: Timestamp,
}

fn text_or_bool<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum TextOrBool {
        Text(String),
        Bool(bool),
    }
    Ok(match TextOrBool::deserialize(deserializer)? {
        TextOrBool::Text(text) => text,
        TextOrBool::Bool(done) => done.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_completed_may_be_a_bool() {
        let read = |json| serde_json::from_str::<StopApprovalRequest>(json).unwrap().work_completed;
        assert_eq!(read(r#"{"agent_id":"a","work_completed":true}"#), "true");
        assert_eq!(read(r#"{"agent_id":"a","work_completed":"all of it"}"#), "all of it");
        assert_eq!(read(r#"{"agent_id":"a"}"#), "");
    }
}
