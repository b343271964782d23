//! Tool calls of agents, and the workers that serve them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{AgentId, JsonMap, RequestId};

/// An agent asks for a tool; request on `tools.call`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ToolCallRequest {
    /// Names the call; a deferred result comes on `tools.{request_id}.response`.
    pub request_id: RequestId,
    /// Who calls.
    pub agent_id: AgentId,
    /// Which tool.
    pub tool: String,
    /// Its arguments.
    #[serde(default)]
    pub arguments: JsonMap,
}

/// The result of a tool call, at once or deferred.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ToolCallResponse {
    /// Which call.
    pub request_id: RequestId,
    /// False when it failed; `error` says why.
    pub success: bool,
    /// What it gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// True when the result will be published later on `tools.{request_id}.response`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
}
